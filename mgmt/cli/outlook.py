"""``sancredit preview --failure`` and ``--channel``: what would happen to every reservation over a channel."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import click

from mgmt.cli.answers import checked
from mgmt.cli.failures import FAILED
from mgmt.cli.options import open_station, two
from mgmt.cli.output import say, show

_TIMEOUT_S = 60.0


def failure_request(pair: str, onto: str | None, supposed: Mapping[str, int]) -> dict[str, Any]:
    """The body that asks what the failure of a channel would do. Raises :class:`click.UsageError`."""
    if extra := sorted(set(supposed) - {"bandwidth_bps", "rtt_ns"}):
        raise click.UsageError(
            f"with --failure, --if says bandwidth and rtt of the channel that is left, not {extra[0]}"
        )
    local_port, remote_port = two("--failure", pair)
    request: dict[str, Any] = {"local_port": local_port, "remote_port": remote_port, **supposed}
    if onto is not None:
        other = two("--onto", onto)
        request["onto"] = {"local_port": other[0], "remote_port": other[1]}
    return request


def channel_request(pair: str, supposed: Mapping[str, int]) -> dict[str, Any]:
    """The body that asks what another bandwidth or delay of a channel would do. Raises :class:`click.UsageError`."""
    if not supposed:
        raise click.UsageError("--channel needs --if: how the channel might become")
    local_port, remote_port = two("--channel", pair)
    return {"channels": [{"local_port": local_port, "remote_port": remote_port, **supposed}]}


def show_outlook(station: str, output: str, path: str, request: Mapping[str, Any]) -> int:
    """Ask, and show the steps in their order and the ways out; exit code 1 where something would run short."""
    with open_station(station, _TIMEOUT_S) as peer:
        answer = peer.post(f"/api/v1/preview/{path}", dict(request))
        checked(peer, answer, text=str, steps=list, cures=list, shortages=int, silent=list)
    if output not in ("table", "wide"):
        show([answer] if output != "csv" else answer["steps"], "outlook", output)
    else:
        if answer["text"]:
            click.echo(answer["text"])
        if answer["steps"]:
            show(answer["steps"], "outlook", output)
        if answer["cures"]:
            click.echo("\nto have enough:")
            show(answer["cures"], "cures", output)
    for line in answer["silent"]:
        say(str(line))
    if answer["shortages"]:
        say(f"{answer['shortages']} of {len(answer['steps'])} reservations would run short")
    return FAILED if answer["shortages"] else 0
