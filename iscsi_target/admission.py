# SPDX-License-Identifier: Apache-2.0
"""Who may connect at all: the limits that hold before a byte was read."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from iscsi_target.session.limits import Limits


@dataclass(frozen=True, slots=True)
class OpenConnection:
    """What counts of a connection that is there."""

    peer_host: str
    logging_in: bool


def refusal(limits: Limits, peer_host: str, there: Iterable[OpenConnection]) -> str | None:
    """Why a connection from `peer_host` is refused, with the limit it would break; None: it is welcome."""
    total = logging_in = same = same_logging_in = 0
    for connection in there:
        total += 1
        logging_in += connection.logging_in
        if connection.peer_host == peer_host:
            same += 1
            same_logging_in += connection.logging_in
    for count, limit, words in (
        (total, limits.connections, "connections are open"),
        (logging_in, limits.login_connections, "connections have not finished their login"),
        (same, limits.connections_per_address, "connections are open from this address"),
        (
            same_logging_in,
            limits.login_connections_per_address,
            "connections from this address have not finished their login",
        ),
    ):
        if count >= limit:
            return f"{count} {words}, no more than {limit} may"
    return None
