"""``sancredit fc``: Fibre Channel without a station."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from mgmt.cli.options import DISTANCE, headers_option, output_option
from mgmt.cli.output import show, show_one

if TYPE_CHECKING:
    from fcsim.speeds import CreditNeed

_MEANINGS = {
    "exact": "the published formula: frames that fit into the round trip",
    "gapless": "with the frame that is being sent: the sender never pauses",
    "fos": "Brocade: km x speed / 2 + 6",
    "fos_le": "Brocade's LE mode, made for 10 km",
    "fos_average_frame": "Brocade, for the average frame size",
    "qlogic": "QLogic and McDATA: 0.6 per km and Gbit, rounded up",
    "given": "as you said",
}


@click.command(epilog="Example: sancredit fc credits --speed 8G --distance 50km --payload 1024 --credits 40")
@click.option("--speed", required=True, help="Speed of the link: 1G … 128G.")
@click.option("--distance", type=DISTANCE, required=True, help="Length of the link, one way: 50km, 300m.")
@click.option(
    "--payload",
    type=click.IntRange(0, 2112),
    default=2112,
    show_default=True,
    help="Average payload of a frame in bytes; small frames need more credits.",
)
@click.option(
    "--credits", "given", type=click.IntRange(1, 65535), help="Also say what this many credits give."
)
@output_option
@headers_option
def credits(
    speed: str, distance: int, payload: int, given: int | None, output: str, no_headers: bool
) -> None:
    """How many buffer-to-buffer credits a link needs, by the exact formula and by vendors' rules, and the payload
    that each of these numbers lets through: 5 µs per km each way, 36 bytes around a payload, 24 of idles."""
    from fcsim.speeds import credits_needed, parse_speed, throughput_bytes_per_second

    try:
        known = parse_speed(speed)
        need = credits_needed(known, distance, payload)
    except ValueError as error:
        raise click.UsageError(str(error)) from error
    if output not in ("table", "wide", "csv"):
        answer = _answer(need)
        if given is not None:
            through = throughput_bytes_per_second(known, given, distance, payload)
            answer |= {"given_credits": given, "payload_bytes_per_second": through}
        show_one(answer, output, "")
        return
    counts = {"exact": need.credits, "gapless": need.credits_gapless, **need.rules}
    if given is not None:
        counts["given"] = given
    line = throughput_bytes_per_second(known, 65_535, 0, payload)
    rows: list[dict[str, Any]] = []
    for rule, count in counts.items():
        through = throughput_bytes_per_second(known, count, distance, payload)
        rows.append(
            {
                "rule": rule.replace("_", " "),
                "credits": count,
                "payload_bytes_per_second": through,
                "share": through / line if line else 0.0,
                "meaning": _MEANINGS.get(rule),
            }
        )
    show(rows, "fc-credits", output, headers=not no_headers)


def _answer(need: CreditNeed) -> dict[str, Any]:
    return {
        "speed": need.speed.name,
        "distance_m": need.distance_m,
        "payload_bytes": need.payload_bytes,
        "frame_bytes": need.frame_bytes,
        "credits": need.credits,
        "credits_gapless": need.credits_gapless,
        "rules": dict(need.rules),
    }
