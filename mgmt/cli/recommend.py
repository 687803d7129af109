"""``sancredit recommend``: how much to reserve, with every term explained."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import click

from credits.sizing import NS_PER_METRE_ROUND_TRIP, POLICIES, Inputs
from mgmt import sizing
from mgmt.cli.answers import checked
from mgmt.cli.captured import captured_inputs
from mgmt.cli.options import (
    DELAY,
    DISTANCE,
    RATE,
    SIZE,
    body,
    counts_options,
    headers_option,
    make_target,
    open_station,
    output_option,
    station_option,
    target_options,
)
from mgmt.cli.output import say, show, show_one

#: What a row of the station's answer has besides what any recommendation has.
_ROW = {
    "policy": str,
    "units": int,
    "reserved_units": int,
    "available_units": int,
    "short_units": int,
    "expandable_units": int,
    "terms": dict,
}


@click.command(
    epilog="Example: sancredit recommend --bandwidth 100Mbit --rtt 20ms --sessions 2 --connections 3 -o json"
)
@target_options
@counts_options
@click.option("--bandwidth", type=RATE, help="Compute with this bandwidth, without a station.")
@click.option("--rtt", type=DELAY, help="Compute with this round-trip time, without a station.")
@click.option("--distance", type=DISTANCE, help="Compute for a Fibre Channel link of this length, one way.")
@click.option("--speed", help="Speed of that link: 1G … 128G.")
@click.option(
    "--payload",
    type=click.IntRange(0, 2112),
    help="Average payload of its frames in bytes; 2112 unless told.",
)
@click.option(
    "--capture",
    "captures",
    multiple=True,
    type=click.Path(dir_okay=False, path_type=Path),
    metavar="FILE",
    help="Compute with what this capture shows: rate, round trip, sessions, frames (may be repeated).",
)
@click.option("--unit-size", type=SIZE, help="Unit size when computing without a station; 16KiB unless told.")
@click.option(
    "--policy",
    type=click.Choice([*POLICIES, sizing.ALL]),
    default=sizing.DOCUMENT,
    show_default=True,
    help="The rule; all: every rule that has its inputs, side by side.",
)
@click.option("--explain", is_flag=True, help="Show every term of the sum.")
@click.option("--remeasure", is_flag=True, help="Measure the channel first, even if its values are fresh.")
@output_option
@headers_option
@station_option
def recommend(
    sessions: int | None,
    connections: int | None,
    bandwidth: int | None,
    rtt: int | None,
    distance: int | None,
    speed: str | None,
    payload: int | None,
    captures: tuple[Path, ...],
    unit_size: int | None,
    policy: str,
    explain: bool,
    remeasure: bool,
    output: str,
    no_headers: bool,
    station: str,
    **named: Any,
) -> None:
    """The recommended size for a target, from what the station has measured; or from --bandwidth and --rtt,
    or --speed and --distance, alone."""
    needs_link = policy != sizing.ALL and POLICIES[policy].in_credits and not captures
    if needs_link and (speed is None or distance is None):
        raise click.UsageError(
            f"the policy {policy} is for a Fibre Channel link: it needs --speed and --distance"
        )
    given = (bandwidth, rtt, distance, speed, payload, unit_size)
    measured: Mapping[str, Any] = {}
    if captures:
        if any(named.values()) or any(value is not None for value in given[:-1]):
            raise click.UsageError("give a capture, a target or the values themselves, not several of them")
        inputs, measured = captured_inputs(captures, unit_size)
        inputs = replace(
            inputs, sessions=sessions or inputs.sessions, connections=connections or inputs.connections
        )
        try:
            rows = [sizing.row(found) for found in sizing.recommendations(policy, inputs)]
        except ValueError as error:
            raise click.UsageError(str(error)) from error
    elif any(value is not None for value in given):
        if any(named.values()):
            raise click.UsageError("give a target (the station's values) or the values themselves, not both")
        if speed is not None or distance is not None or payload is not None:
            if speed is None or distance is None or bandwidth is not None or rtt is not None:
                raise click.UsageError(
                    "a Fibre Channel link has --speed and --distance, not --bandwidth and --rtt"
                )
            inputs = _link(speed, distance, payload, unit_size)
        elif bandwidth is None or rtt is None:
            raise click.UsageError("without a target both --bandwidth and --rtt are needed")
        else:
            inputs = Inputs(
                unit_bytes=unit_size or sizing.DEFAULT_UNIT_BYTES, bandwidth_bps=bandwidth, rtt_ns=rtt
            )
        inputs = replace(inputs, sessions=sessions or 1, connections=connections or 1)
        try:
            rows = [sizing.row(found) for found in sizing.recommendations(policy, inputs)]
        except ValueError as error:
            raise click.UsageError(str(error)) from error
    else:
        request = body(
            make_target(**named),
            sessions=sessions,
            connections_per_session=connections,
            policy=policy,
            remeasure=remeasure,
        )
        with open_station(station, 120) as peer:
            found = checked(peer, peer.post("/api/v1/recommend", request), items=list)["items"]
            rows = [checked(peer, row, **_ROW) for row in found or [None]]
    if output in ("table", "wide", "csv") or policy == sizing.ALL:
        show(rows, "recommend", output, headers=not no_headers)
    else:
        show_one(rows[0], output, "")
    if explain and output in ("table", "wide"):
        _explain(rows, output, headers=not no_headers)
        if measured:
            click.echo("\nmeasured in the capture:")
            terms = [
                {"term": name, "value": value, "meaning": about} for name, (value, about) in measured.items()
            ]
            show(terms, "terms", output, headers=not no_headers)
    _warn(rows)


def _link(speed: str, distance_m: int, payload: int | None, unit_size: int | None) -> Inputs:
    """A Fibre Channel link: its decoded rate, its round trip, frames as units, and what vendors' rules need."""
    from fcsim.speeds import MAX_DISTANCE_M, MAX_FRAME_BYTES, MAX_PAYLOAD_BYTES, parse_speed

    if not 0 < distance_m <= MAX_DISTANCE_M:
        raise click.UsageError(f"--distance is more than 0 and at most {MAX_DISTANCE_M // 1000} km")
    try:
        known = parse_speed(speed)
    except ValueError as error:
        raise click.UsageError(str(error)) from error
    return Inputs(
        unit_bytes=unit_size or MAX_FRAME_BYTES,
        bandwidth_bps=8 * known.bytes_per_second,
        rtt_ns=distance_m * NS_PER_METRE_ROUND_TRIP,
        distance_m=distance_m,
        speed_gbit=known.nominal_gbit,
        data_rate_bps=known.fos_data_rate_bps,
        bytes_per_second=known.bytes_per_second,
        payload_bytes=MAX_PAYLOAD_BYTES if payload is None else payload,
    )


def _explain(rows: Sequence[Mapping[str, Any]], output: str, *, headers: bool) -> None:
    for row in rows:
        click.echo(f"\n{row['policy']}:")
        meanings = row.get("explanations") or {}
        terms = [
            {"term": name, "value": value, "meaning": meanings.get(name)}
            for name, value in (row.get("terms") or {}).items()
        ]
        show(terms, "terms", output, headers=headers)


def _warn(rows: Sequence[Mapping[str, Any]]) -> None:
    """Step 906: the warning does not stop anything."""
    for row in rows:
        if row.get("short_units"):
            say(
                f"buffer shortage: {row['policy']} recommends {row['units']} units, {row['reserved_units']} are "
                f"reserved and {row['available_units']} available (short by {row['short_units']}; "
                f"{row['expandable_units']} more could be split from pages)"
            )
        if row.get("stale"):
            say("the measured values are stale: the last measurement failed or is too long ago")
            return
