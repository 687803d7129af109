"""The tables about who may use a station."""

from __future__ import annotations

from collections.abc import Mapping

from mgmt.columns import Column, Layout, at

ACCESS_LAYOUTS: Mapping[str, Layout] = {
    "tokens": Layout(
        "Tokens",
        (
            Column("NAME", at("name")),
            Column("ROLE", at("role")),
            Column("STATE", at("state")),
            Column("EXPIRES", at("expires_at")),
            Column("CREATED", at("created_at"), wide=True),
            Column("OLD ONE UNTIL", at("previous_until"), wide=True),
        ),
        ("name", "role", "state", "created_at", "expires_at", "previous_until"),
    ),
}
