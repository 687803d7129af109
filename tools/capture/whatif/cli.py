"""``sancredit capture whatif``."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import click

from mgmt.cli.failures import BadValue, Failed
from mgmt.cli.options import headers_option, output_option
from mgmt.cli.output import say, show, show_one
from mgmt.columns import delay, rate, size

_PATHS = click.argument("files", nargs=-1, required=True, type=click.Path(path_type=Path), metavar="FILE…")


@click.command(
    epilog="\b\nExample: sancredit capture whatif capture.pcapng --rtt 80ms\n"
    "Example: sancredit capture whatif capture.pcapng --buffer 64KiB,256KiB,1MiB\n"
    "Example: sancredit capture whatif fabric.pcapng --speed 8G --distance 100km --credits 8,32,128"
)
@_PATHS
@click.option(
    "--port", "ports", multiple=True, type=click.IntRange(1, 65535), help="iSCSI is on this TCP port only."
)
@click.option("--buffer", "buffers", help="TCP: bytes in flight at most; several with commas sweep.")
@click.option("--bandwidth", "bandwidths", help="TCP: of the channel, such as 100Mbit; several sweep.")
@click.option("--rtt", "rtts", help="TCP: round-trip time, such as 20ms; several sweep.")
@click.option("--credits", "credits_", help="FC: BB_Credit; several sweep.")
@click.option("--distance", "distances", help="FC: such as 100km; several sweep.")
@click.option("--speed", "speeds", help="FC: 1G to 128G; several sweep.")
@click.option("--payload", "payloads", help="FC: payload of a frame in bytes; several sweep.")
@click.option(
    "--captured", help="What the capture cannot tell of its own channel: speed=8G,distance=10km,credits=8 …"
)
@output_option
@headers_option
def whatif(
    files: Sequence[Path],
    ports: tuple[int, ...],
    buffers: str | None,
    bandwidths: str | None,
    rtts: str | None,
    credits_: str | None,
    distances: str | None,
    speeds: str | None,
    payloads: str | None,
    captured: str | None,
    output: str,
    no_headers: bool,
) -> None:
    """The captured commands at the captured times, over a channel with other credits, buffers, length or speed.

    The first row is the captured channel itself: how far its prediction is from what was captured says how far the
    others are to be trusted. With several values of one setting the last line says from which on more brings nothing.
    """
    from fcsim.errors import InvalidScenario
    from tools.capture.scan import CaptureError
    from tools.capture.whatif.setting import SettingError, predictions

    wanted = {
        "buffer": buffers,
        "bandwidth": bandwidths,
        "rtt": rtts,
        "credits": credits_,
        "distance": distances,
        "speed": speeds,
        "payload": payloads,
    }
    try:
        found = predictions(
            files,
            {name: text.split(",") for name, text in wanted.items() if text is not None},
            captured=captured_pairs(captured),
            ports=ports,
        )
    except (CaptureError, SettingError, InvalidScenario) as error:
        raise BadValue(str(error)) from None
    for remark in found["remarks"]:
        say(remark)
    if not found["flows"]:
        raise Failed("the capture has no SCSI commands with an answer")
    if output not in ("table", "wide"):
        if output == "csv":
            show(
                [row for flow in found["flows"] for row in flow["rows"]],
                "capture-whatif",
                output,
                headers=not no_headers,
            )
        else:
            show_one(found, output, "")
        return
    for flow in found["flows"]:
        click.echo(
            f"{flow['initiator']} to {flow['target']}: {flow['commands']} commands, captured channel {_said(flow)}"
        )
        show(flow["rows"], "capture-whatif", output, headers=not no_headers)
        if flow["knee"] is not None:
            click.echo(f"beyond {flow['sweep']} {flow['knee']} more brings less than 2 %")


def _said(flow: dict[str, Any]) -> str:
    channel = flow["captured"]
    if channel["kind"] == "tcp":
        flight = size(channel["buffer_bytes"])
        return f"{rate(channel['bandwidth_bps'])}, {delay(channel['rtt_ns'])}, {flight} in flight"
    return f"{channel['speed']}, {channel['distance_m']} m, {channel['bb_credit']} credits"


def captured_pairs(text: str | None) -> dict[str, str]:
    """``--captured NAME=VALUE,…``. Raises :class:`~mgmt.cli.failures.BadValue`."""
    found = {}
    for pair in (text or "").split(","):
        if pair:
            name, equals, value = pair.partition("=")
            if not equals:
                raise BadValue(f"--captured {pair!r:.40}: write NAME=VALUE")
            found[name.strip()] = value.strip()
    return found
