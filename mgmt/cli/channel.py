"""``sancredit register`` (step 801) and ``sancredit measure`` (steps 802-804)."""

from __future__ import annotations

from typing import Any

import click

from mgmt.cli.answers import checked
from mgmt.cli.options import (
    body,
    counts_options,
    headers_option,
    make_target,
    open_station,
    output_option,
    station_option,
    target_options,
    two,
)
from mgmt.cli.output import rows_of, show

_ROW = {"local_port": str, "remote_port": str}


@click.command(
    epilog="Example: sancredit register --port-pair 127.0.0.1,127.0.0.2 --sessions 2 --connections 3"
)
@target_options
@counts_options
@output_option
@headers_option
@station_option
def register(
    sessions: int | None,
    connections: int | None,
    output: str,
    no_headers: bool,
    station: str,
    **named: Any,
) -> None:
    """Put a port pair into table 108, or change its sessions and connections."""
    request = body(make_target(**named), sessions=sessions, connections_per_session=connections)
    with open_station(station) as peer:
        row = checked(peer, peer.post("/api/v1/pairs", request), **_ROW)
    show([row], "channels", output, headers=not no_headers)


@click.command(epilog="Example: sancredit unregister --port-pair 127.0.0.1,127.0.0.2")
@target_options
@output_option
@headers_option
@station_option
def unregister(output: str, no_headers: bool, station: str, **named: Any) -> None:
    """Take a port pair out of table 108; refused while anything is reserved for it. Shows the row that was."""
    with open_station(station) as peer:
        row = checked(peer, peer.post("/api/v1/pairs/remove", body(make_target(**named))), **_ROW)
    show([row], "channels", output, headers=not no_headers)


@click.command(epilog="Example: sancredit measure --port-pair 127.0.0.1,127.0.0.2")
@click.option("--port-pair", required=True, metavar="A,B", help="The local and the remote port.")
@output_option
@headers_option
@station_option
def measure(port_pair: str, output: str, no_headers: bool, station: str) -> None:
    """Measure bandwidth and delay of a registered port pair now."""
    local_port, remote_port = two("--port-pair", port_pair)
    with open_station(station, 120) as peer:
        answer = peer.post("/api/v1/channels/measure", {"local_port": local_port, "remote_port": remote_port})
    show(rows_of(answer), "channels", output, headers=not no_headers)
