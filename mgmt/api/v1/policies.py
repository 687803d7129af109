"""Policies: how the size of a target's reservation is kept right."""

from __future__ import annotations

from typing import Any

from fastapi import APIRouter

from mgmt.api.bodies import PolicyBody, PolicyTargetBody
from mgmt.api.context import Api
from mgmt.api.security.identity import By
from mgmt.station import policies
from mgmt.station.records import Policy


def add_policies(router: APIRouter, api: Api) -> None:
    """``/policies`` and ``/policies/remove``."""
    station = api.station

    @router.get("/policies", tags=["policies"])
    def get_policies() -> dict[str, Any]:
        """All policies, in the order of their targets."""
        return {
            "items": [policies.row(policy) for policy in policies.listed(station)],
            "down": [],
            "next": None,
        }

    @router.post("/policies", tags=["policies"])
    def put(body: PolicyBody, by: By) -> dict[str, Any]:
        """Make the policy of a target, or change it: what is not given keeps its value."""
        target = body.target.target()
        before = policies.find(station, target) or Policy(target=target)
        values = body.model_dump(exclude={"target", "via"}, exclude_none=True)
        return policies.row(policies.put(station, policies.changed(before, via=body.pair, **values), by=by))

    @router.post("/policies/remove", tags=["policies"])
    def remove(body: PolicyTargetBody, by: By) -> dict[str, Any]:
        """Take the policy of a target away; its reservation stays as it is."""
        return policies.row(policies.remove(station, body.target.target(), by=by))
