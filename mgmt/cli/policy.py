"""``sancredit policy show|set|remove`` and ``sancredit undo``."""

from __future__ import annotations

from typing import Any

import click

from mgmt.cli.answers import checked
from mgmt.cli.options import (
    DELAY,
    SIZE,
    body,
    headers_option,
    make_target,
    open_station,
    output_option,
    station_option,
    target_options,
)
from mgmt.cli.output import show, show_list, show_one
from mgmt.cli.watching import watch_option, watched

_SECOND_NS = 10**9
_SECONDS = {"min_interval": "min_interval_s", "shrink_after": "shrink_after_s", "lease": "lease_s"}


@click.command("show", epilog="Example: sancredit policy show -o wide")
@output_option
@headers_option
@watch_option
@station_option
def show_policies(output: str, no_headers: bool, watch: float | None, station: str) -> int:
    """Each target's policy: automatic or manual, floor and ceiling, and the rules of resizing."""
    with open_station(station) as peer:
        return watched(watch, output, lambda: show_list(peer, "policies", output, not no_headers))


@click.command(
    "set", epilog="Example: sancredit policy set --port-pair 127.0.0.1,127.0.0.2 --automatic --floor 1MiB"
)
@target_options
@click.option("--automatic", is_flag=True, help="The size follows the channel (704).")
@click.option(
    "--size", "size_bytes", type=SIZE, help="The size is this one (705), whatever the channel does."
)
@click.option("--floor", "min_bytes", type=SIZE, help="An automatic size is never smaller.")
@click.option("--ceiling", "max_bytes", type=SIZE, help="An automatic size is never larger.")
@click.option(
    "--min-change",
    "min_change_percent",
    type=click.IntRange(0, 1000),
    help="Smaller changes, in percent, are not made; 10 unless told.",
)
@click.option("--min-interval", type=DELAY, help="Between two shrinks at least; 5s unless told.")
@click.option(
    "--shrink-samples",
    type=click.IntRange(1, 1000),
    help="So many samples in a row call for a shrink before it is made; 3 unless told.",
)
@click.option("--shrink-after", type=DELAY, help="Or it has been called for so long; 60s unless told.")
@click.option(
    "--lease", type=DELAY, help="The reservation lapses without the station, which renews it; 30s at least."
)
@click.option("--partial/--no-partial", "allow_partial", default=None, help="Grow as far as there is room.")
@click.option("--priority", type=click.IntRange(0, 1000), help="Lower goes first; 100 unless told.")
@output_option
@station_option
def set_policy(automatic: bool, output: str, station: str, **values: Any) -> None:
    """Make a target's policy, or change what is given of it. What is reserved for it follows at once."""
    if automatic and values["size_bytes"] is not None:
        raise click.UsageError("a size is either --automatic or --size, not both")
    named = {name: values.pop(name) for name in list(values) if name in _TARGET_OPTIONS}
    for option, field in _SECONDS.items():
        value = values.pop(option)
        if value is not None and value % _SECOND_NS:
            raise click.UsageError(f"--{option.replace('_', '-')} is in whole seconds")
        values[field] = None if value is None else value // _SECOND_NS
    sizing = "automatic" if automatic else "manual" if values["size_bytes"] is not None else None
    with open_station(station) as peer:
        row = peer.post("/api/v1/policies", body(make_target(**named), sizing=sizing, **values))
        checked(peer, row, target=dict, sizing=str)
    show([row], "policies", output)


_TARGET_OPTIONS = (
    "port_pair",
    "remote_port",
    "connection",
    "buffer_id",
    "application",
    "volume_pair",
    "volume_group_pair",
)


@click.command("remove", epilog="Example: sancredit policy remove --port-pair 127.0.0.1,127.0.0.2")
@target_options
@output_option
@station_option
def remove_policy(output: str, station: str, **named: Any) -> None:
    """Take a target's policy away: its reservation stays as it is, whatever the channel does."""
    wanted = make_target(**named)
    with open_station(station) as peer:
        row = checked(peer, peer.post("/api/v1/policies/remove", body(wanted)), target=dict, sizing=str)
    show_one(row, output, f"{wanted.target} has no policy any more; it was {row['sizing']}")


@click.command(epilog="Example: sancredit undo")
@click.argument("number", type=click.IntRange(1), required=False)
@output_option
@station_option
def undo(number: int | None, output: str, station: str) -> None:
    """Undo the last change, or that with NUMBER in `sancredit audit show`, unless something has changed since."""
    with open_station(station) as peer:
        answer = peer.post("/api/v1/undo", {} if number is None else {"number": number})
        checked(peer, answer, undone=dict, texts=list)
        record = checked(peer, answer["undone"], number=int, verb=str)
    lines = [f"undone: change {record['number']} ({record['verb']})", *map(str, answer["texts"])]
    show_one(answer, output, "\n".join(lines))
