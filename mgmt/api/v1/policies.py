"""Policies: how the size of a target's reservation is kept right."""

from __future__ import annotations

from typing import Any

from fastapi import APIRouter, Response

from mgmt.api.bodies import PolicyBody, PolicyTargetBody
from mgmt.api.context import Api
from mgmt.api.security.identity import By
from mgmt.api.v1.described import IfMatch
from mgmt.api.v1.tables import add_list
from mgmt.station import policies, updates
from mgmt.station.records import Policy


def add_policies(router: APIRouter, api: Api) -> None:
    """``/policies`` and ``/policies/remove``."""
    station = api.station

    add_list(
        router,
        api,
        "policies",
        "The policies, in the order of their targets; what If-Match takes is the version of each.",
        lambda: ([policies.row(policy) for policy in policies.listed(station)], [], None),
    )

    @router.post("/policies", tags=["policies"])
    def put(body: PolicyBody, by: By, response: Response, if_match: IfMatch = None) -> dict[str, Any]:
        """Make the policy of a target, or change it: what is not given keeps its value. What is reserved follows."""
        target = body.target.target()
        found = policies.find(station, target)
        values = body.model_dump(exclude={"target", "via"}, exclude_none=True)
        wanted = policies.changed(found or Policy(target=target), via=body.pair, **values)
        # What is not given was read just now: nobody else's change in between is overwritten.
        expected = _version(if_match) or policies.version(found)
        row = policies.row(updates.put_policy(station, wanted, by=by, expected=expected))
        response.headers["etag"] = f'"{row["version"]}"'
        return row

    @router.post("/policies/remove", tags=["policies"])
    def remove(body: PolicyTargetBody, by: By, if_match: IfMatch = None) -> dict[str, Any]:
        """Take the policy of a target away; its reservation stays as it is."""
        target = body.target.target()
        return policies.row(policies.remove(station, target, by=by, expected=_version(if_match)))


def _version(if_match: str | None) -> str | None:
    """The ``version`` of a policy that ``If-Match`` names; any text is one, and none but the right one matches."""
    return None if if_match is None or if_match.strip() == "*" else if_match.strip().strip('"')
