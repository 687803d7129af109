"""Policies: how the size of a target's reservation is kept right."""

from __future__ import annotations

from typing import Any

from fastapi import APIRouter, Response

from credits.errors import Code
from mgmt.api.bodies import PolicyBody, PolicyTargetBody
from mgmt.api.context import Api
from mgmt.api.security.identity import By
from mgmt.api.v1.described import IfMatch
from mgmt.api.v1.tables import add_list
from mgmt.http import ProblemError
from mgmt.station import policies, updates
from mgmt.station.context import Station
from mgmt.station.records import Policy

#: How often a change that names no version is put over what others have changed meanwhile.
_TRIES = 8


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
        expected = _version(if_match)
        for left in reversed(range(_TRIES)):
            try:
                row = policies.row(_changed(station, body, by, expected))
                break
            except ProblemError as error:
                # Who named no version did not ask for this one: what is given is put over the other change.
                if error.code != Code.STALE or expected is not None or not left:
                    raise
        response.headers["etag"] = f'"{row["version"]}"'
        return row

    @router.post("/policies/remove", tags=["policies"])
    def remove(body: PolicyTargetBody, by: By, if_match: IfMatch = None) -> dict[str, Any]:
        """Take the policy of a target away; its reservation stays as it is."""
        target = body.target.target()
        return policies.row(policies.remove(station, target, by=by, expected=_version(if_match)))


def _changed(station: Station, body: PolicyBody, by: str, expected: str | None) -> Policy:
    """What is given over what there is; what is not given was read just now, and nobody's change is overwritten."""
    target = body.target.target()
    found = policies.find(station, target)
    values = body.model_dump(exclude={"target", "via"}, exclude_none=True)
    wanted = policies.changed(found or Policy(target=target), via=body.pair, **values)
    return updates.put_policy(station, wanted, by=by, expected=expected or policies.version(found))


def _version(if_match: str | None) -> str | None:
    """The ``version`` of a policy that ``If-Match`` names; any text is one, and none but the right one matches."""
    return None if if_match is None or if_match.strip() == "*" else if_match.strip().strip('"')
