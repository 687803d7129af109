"""Arrays: having one more or one less; the cache memory of one (M13, M16), and enlarging a reservation for it (M14)."""

from __future__ import annotations

from typing import Annotated, Any

from fastapi import APIRouter, Path
from fastapi.responses import JSONResponse

from mgmt.api.bodies import ArrayBody, ArrayNameBody, EnlargeBody, ThresholdBody
from mgmt.api.context import Api, plain, tagged
from mgmt.api.security.identity import By
from mgmt.api.v1.described import message_response
from mgmt.messages import (
    CacheFree,
    ReservedBufferEnlargeRequest,
    ReservedBufferUpdateResponse,
)
from mgmt.station import cache, registry
from mgmt.station.holders import holder
from mgmt.station.reservations import bring_to

Name = Annotated[str, Path(min_length=1, max_length=64)]


def add_arrays(router: APIRouter, api: Api) -> None:
    """``POST /arrays``, ``/arrays/remove``, ``/arrays/{name}/cache``, ``/enlarge``."""
    station = api.station

    @router.post("/arrays", tags=["arrays"])
    def add(body: ArrayBody, by: By) -> dict[str, Any]:
        """Have one more array, or an array at another address."""
        return registry.add(station, body.name, body.address, by=by)

    @router.post("/arrays/remove", tags=["arrays"])
    def remove(body: ArrayNameBody, by: By) -> dict[str, Any]:
        """Have one array less; its reservations stay with it."""
        return registry.remove(station, body.name, by=by)

    @router.get(
        "/arrays/{name}/cache",
        tags=["arrays"],
        response_class=JSONResponse,
        responses=message_response(CacheFree, about="The cache memory"),
    )
    def read_cache(name: Name) -> JSONResponse:
        """M13: how much of an array's cache memory 102 is free, and the threshold of its warning."""
        return JSONResponse({"array": name} | plain(cache.free(station, name)))

    @router.post(
        "/arrays/{name}/cache/threshold",
        tags=["arrays"],
        response_class=JSONResponse,
        responses=message_response(CacheFree, about="Set"),
    )
    def set_threshold(name: Name, body: ThresholdBody, by: By) -> JSONResponse:
        """M16 (paragraph 104): how little free cache is a shortage."""
        found = cache.set_threshold(station, name, body.threshold_bytes, by=by)
        return JSONResponse({"array": name} | plain(found))

    @router.post(
        "/enlarge",
        tags=["reservations"],
        response_class=JSONResponse,
        responses=message_response(ReservedBufferUpdateResponse, about="Done (M11)"),
    )
    def enlarge(body: EnlargeBody, by: By) -> JSONResponse:
        """M14 (claims 8 and 21): enlarge a reservation to a size; a smaller one is refused."""
        target = body.target.target()
        array, peer = holder(station, target, body.pair)
        answer = bring_to(
            station,
            target,
            array,
            peer,
            body.size_bytes,
            inputs={"requested_bytes": body.size_bytes},
            by=by,
            verb="enlarge",
            message=ReservedBufferEnlargeRequest(target=target, size_bytes=body.size_bytes),
        )
        return tagged({"array": array, "requested_bytes": body.size_bytes} | plain(answer))
