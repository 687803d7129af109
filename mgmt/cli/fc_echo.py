# SPDX-License-Identifier: Apache-2.0
"""``sancredit fc link echo``: the round trip of an emulated link by ECHO."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

import click

from mgmt.cli.failures import Failed, Unreachable
from mgmt.cli.fc_link import parse_address
from mgmt.cli.options import headers_option, output_option
from mgmt.cli.output import show, show_one

if TYPE_CHECKING:
    from mgmt.fc.measure import LinkMeasured


@click.command(epilog="Example: sancredit fc link echo /tmp/link --count 3")
@click.argument("address", metavar="PATH|HOST:PORT")
@click.option("--count", type=click.IntRange(1, 10_000), default=5, show_default=True, help="ECHOs to send.")
@click.option(
    "--payload",
    type=click.IntRange(0, 2108),
    default=0,
    show_default=True,
    help="Bytes in an ECHO; a multiple of 4.",
)
@click.option(
    "--timeout",
    "patience_s",
    type=click.FloatRange(0.1, 3600),
    default=60.0,
    show_default=True,
    help="Seconds in all.",
)
@output_option
@headers_option
def echo(address: str, count: int, payload: int, patience_s: float, output: str, no_headers: bool) -> None:
    """Measure the round trip of a link by ECHO (FC-LS), in the link's own time, one ECHO after the other.

    It plugs in as the other end, so nobody else may be plugged in. The time to send a frame, and what it waits for
    credit and line, are told apart from the line's own round trip: 10 µs for each km."""
    from fcsim.errors import FibreChannelError
    from mgmt.fc.measure import LinkUnreachable, measure_at

    where = parse_address(address)
    if payload % 4:
        raise click.UsageError(f"the bytes of an ECHO are a multiple of 4, not {payload}")
    try:
        measured = asyncio.run(
            measure_at(where, name="echo", echoes=count, payload_bytes=payload, patience_s=patience_s)
        )
    except LinkUnreachable as error:
        raise Unreachable(str(error)) from error
    except FibreChannelError as error:
        raise Failed(str(error)) from error
    rows = [
        {"echo": number, "round_trip_ps": round_trip_ps, "waited_ps": waited_ps}
        for number, (round_trip_ps, waited_ps) in enumerate(
            zip(measured.round_trips_ps, measured.waited_ps, strict=True), 1
        )
    ]
    if output in ("json", "yaml"):
        show_one(_summary(measured, count) | {"echoes": rows}, output, "")
        return
    show(rows, "fc-echo", output, headers=not no_headers)
    if output != "csv":
        click.echo(f"\n{_sentence(measured, count)}")


def _summary(measured: LinkMeasured, count: int) -> dict[str, Any]:
    return {
        "speed": measured.speed,
        "bandwidth_bps": measured.bandwidth_bps,
        "rtt_ps": measured.rtt_ps,
        "rtt_ns": measured.rtt_ns,
        "jitter_ns": measured.jitter_ns,
        "sent": count,
        "lost": measured.lost,
        "bb_credit": measured.bb_credit,
        "credit_zero_transitions": measured.credit_zero_transitions,
        "credit_zero_time_ps": measured.credit_zero_ps,
        "credit_zero_ppm": measured.credit_zero_ppm,
    }


def _sentence(measured: LinkMeasured, count: int) -> str:
    return (
        f"{measured.speed}, round trip {measured.rtt_ps / 1_000_000:.3f} \N{MICRO SIGN}s "
        f"({measured.rtt_ps / 10_000_000:.3f} km); {count} sent, {measured.lost} lost; "
        f"BB_Credit {measured.bb_credit}, at zero for {measured.credit_zero_ppm / 10_000:.2f} % of the time"
    )
