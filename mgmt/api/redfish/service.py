"""The routes of ``/redfish/v1`` (read only), over the same lists that ``/api/v1`` has."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping
from typing import Any

from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from mgmt.api.redfish.fabrics import Fabrics
from mgmt.api.redfish.shapes import Resource, error, link, resource
from mgmt.api.redfish.storage import Storages
from mgmt.station import channels, sizes
from mgmt.station.context import Station

REDFISH_VERSION = "1.15.0"
_METADATA = """<?xml version="1.0" encoding="UTF-8"?>
<edmx:Edmx xmlns:edmx="http://docs.oasis-open.org/odata/ns/edmx" Version="4.0">
{references}
<edmx:DataServices><Schema xmlns="http://docs.oasis-open.org/odata/ns/edm" Namespace="Service">
<EntityContainer Name="Service" Extends="ServiceRoot.v1_15_0.ServiceContainer"/></Schema></edmx:DataServices>
</edmx:Edmx>
"""
_SCHEMAS = (
    *("ServiceRoot", "FabricCollection", "Fabric", "EndpointCollection", "Endpoint", "ConnectionCollection"),
    *("Connection", "StorageCollection", "Storage", "StorageControllerCollection", "StorageController"),
    *("PortCollection", "Port", "PortMetrics"),
)

Read = Callable[[Station, Mapping[str, str]], Resource | None]


def redfish_routes(station: Station) -> list[Route]:
    """The routes, each of them with and without a slash at its end where clients differ."""
    routes = [
        Route("/redfish", _fixed({"v1": "/redfish/v1/"})),
        Route("/redfish/v1/odata", _fixed(_odata())),
        Route("/redfish/v1/$metadata", _metadata),
        Route("/redfish/v1", _endpoint(station, _root)),
        Route("/redfish/v1/", _endpoint(station, _root)),
    ]
    for where, read in _READS.items():
        routes.append(Route(f"/redfish/v1/{where}", _endpoint(station, read)))
    routes.append(Route("/redfish/v1/{rest:path}", _missing))
    return routes


def _storages(station: Station) -> Storages:
    return Storages(
        station.inventory.table("arrays").rows,
        station.inventory.table("ports").rows,
        station.inventory.table("pools").rows,
    )


def _fabrics(station: Station, *, pairs: bool = False) -> Fabrics:
    table_108 = [channels.row(station, channel) for channel in station.store.channels()]
    found = sizes.pairs(station).rows if pairs else ()
    return Fabrics(station.inventory.table("ports").rows, table_108, found)


#: Path below the root → how its resource is read.
_READS: Mapping[str, Read] = {
    "Fabrics": lambda station, at: _fabrics(station).all(),
    "Fabrics/{f}": lambda station, at: _fabrics(station).fabric(at["f"]),
    "Fabrics/{f}/Endpoints": lambda station, at: _fabrics(station).endpoints(at["f"]),
    "Fabrics/{f}/Endpoints/{e}": lambda station, at: _fabrics(station).endpoint(at["f"], at["e"]),
    "Fabrics/{f}/Connections": lambda station, at: _fabrics(station).connections(at["f"]),
    "Fabrics/{f}/Connections/{c}": lambda station, at: _fabrics(station, pairs=True).connection(
        at["f"], at["c"]
    ),
    "Storage": lambda station, at: _storages(station).all(),
    "Storage/{a}": lambda station, at: _storages(station).array(at["a"]),
    "Storage/{a}/Controllers": lambda station, at: _storages(station).controllers(at["a"]),
    "Storage/{a}/Controllers/{i}": lambda station, at: _storages(station).controller(at["a"], at["i"]),
    "Storage/{a}/Controllers/{i}/Ports": lambda station, at: _storages(station).ports(at["a"], at["i"]),
    "Storage/{a}/Controllers/{i}/Ports/{p}": lambda station, at: _storages(station).port(
        at["a"], at["i"], at["p"]
    ),
    "Storage/{a}/Controllers/{i}/Ports/{p}/Metrics": lambda station, at: _storages(station).metrics(
        at["a"], at["i"], at["p"]
    ),
}


def _root(_station: Station, _at: Mapping[str, str]) -> Resource:
    features = ("ExcerptQuery", "FilterQuery", "OnlyMemberQuery", "SelectQuery")
    expand = dict.fromkeys(("ExpandAll", "Levels", "Links", "NoLinks"), False)
    return resource(
        "ServiceRoot.v1_15_0",
        (),
        "sancredit management station",
        RedfishVersion=REDFISH_VERSION,
        Product="sancredit",
        Fabrics=link("Fabrics"),
        Storage=link("Storage"),
        Links={},
        ProtocolFeaturesSupported={**dict.fromkeys(features, False), "ExpandQuery": expand},
    )


def _odata() -> dict[str, Any]:
    entries = [
        ("Service", "/redfish/v1/"),
        ("Fabrics", "/redfish/v1/Fabrics"),
        ("Storage", "/redfish/v1/Storage"),
    ]
    return {
        "@odata.context": "/redfish/v1/$metadata",
        "value": [{"name": name, "kind": "Singleton", "url": url} for name, url in entries],
    }


def _fixed(value: Mapping[str, Any]) -> Callable[[Request], Any]:
    async def endpoint(request: Request) -> Response:
        return _answer(request, dict(value))

    return endpoint


def _endpoint(station: Station, read: Read) -> Callable[[Request], Any]:
    async def endpoint(request: Request) -> Response:
        for name in request.query_params:
            if name.startswith("$"):  # DSP0266 section 7.3: what is not supported is said to be so
                return _answer(request, error(f"the query parameter {name:.40} is not supported"), 501)
        found = await run_in_threadpool(read, station, request.path_params)
        return await _missing(request) if found is None else _answer(request, found)

    return endpoint


async def _missing(request: Request) -> Response:
    return _answer(
        request,
        error(f"the resource at {request.url.path:.200} was not found", "Base.1.8.ResourceMissingAtURI"),
        404,
    )


async def _metadata(_request: Request) -> Response:
    references = "\n".join(
        f'<edmx:Reference Uri="http://redfish.dmtf.org/schemas/v1/{schema}_v1.xml">'
        f'<edmx:Include Namespace="{schema}"/></edmx:Reference>'
        for schema in _SCHEMAS
    )
    text = _METADATA.format(references=references)
    return Response(text, media_type="application/xml", headers={"odata-version": "4.0"})


def _answer(request: Request, value: Mapping[str, Any], status: int = 200) -> Response:
    body = json.dumps(value, ensure_ascii=False).encode()
    headers = {"odata-version": "4.0", "allow": "GET, HEAD", "cache-control": "no-cache"}
    if status == 200:
        tag = headers["etag"] = f'"{hashlib.blake2b(body, digest_size=12).hexdigest()}"'
        if request.headers.get("if-none-match") == tag:
            return Response(status_code=304, headers=headers)
    return Response(body, status_code=status, media_type="application/json", headers=headers)
