"""``sancredit capture simulate``."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import click

from mgmt.cli.failures import BadValue, Failed
from mgmt.cli.options import headers_option, output_option
from mgmt.cli.output import show, show_one
from mgmt.tables import draw

_PATHS = click.argument("files", nargs=-1, required=True, type=click.Path(path_type=Path), metavar="FILE…")


@click.command(
    epilog="\b\nExample: sancredit capture simulate capture.pcapng --fabric examples/fabric-scsi.toml\n"
    "Example: sancredit capture simulate fabric.pcapng --fabric examples/fabric-distance.toml --captured distance=10km"
)
@_PATHS
@click.option(
    "--fabric",
    "scenario",
    required=True,
    type=click.Path(dir_okay=False, path_type=Path),
    metavar="SCENARIO.toml",
    help="The fabric, as fc simulate has it.",
)
@click.option(
    "--from",
    "source",
    metavar="HOST",
    help="The scenario's host that sends the commands; default: of its first load.",
)
@click.option("--to", metavar="HOST", help="... and the one that answers them.")
@click.option(
    "--port", "ports", multiple=True, type=click.IntRange(1, 65535), help="iSCSI is on this TCP port only."
)
@click.option("--initiator", help="Commands of this initiator only.")
@click.option("--limit", type=click.IntRange(1), help="Only the first so many commands.")
@click.option(
    "--speed", type=float, default=1.0, show_default=True, help="2: they arrive in half of the time."
)
@click.option(
    "--wait", is_flag=True, help="A command waits for those that had ended before it: no more are under way."
)
@click.option(
    "--captured",
    help="What the capture cannot tell of its own channel: distance=10km, or rtt=1ms,bandwidth=10Gbit.",
)
@click.option("--seed", type=click.IntRange(0, 2**31 - 1), help="Another seed than the scenario's.")
@output_option
@headers_option
def simulate(
    files: Sequence[Path],
    scenario: Path,
    source: str | None,
    to: str | None,
    ports: tuple[int, ...],
    initiator: str | None,
    limit: int | None,
    speed: float,
    wait: bool,
    captured: str | None,
    seed: int | None,
    output: str,
    no_headers: bool,
) -> None:
    """The captured commands at the captured times in a simulated fabric: predicted beside measured completion times.

    They take the place of what the two hosts do in the scenario; the scenario's other loads go on beside them. The
    target takes the time that the captured one took, without the captured round trip.
    """
    from fcsim.errors import InvalidScenario
    from fcsim.fabric.scenario_file import load_scenario
    from tools.capture.fabric_replay.load import LoadConfig, LoadError, read_load
    from tools.capture.fabric_replay.run import choose_pair, replay_into
    from tools.capture.scan import CaptureError
    from tools.capture.whatif.cli import captured_pairs

    try:
        fabric = load_scenario(scenario)
        pair = choose_pair(fabric, source, to)
        config = LoadConfig(
            initiator=initiator, limit=limit, speed=speed, wait=wait, captured=captured_pairs(captured)
        )
        load = read_load(files, config, ports=ports)
        found = replay_into(fabric, pair, load, seed=seed, progress=_progress())
    except (InvalidScenario, LoadError, CaptureError) as error:
        raise BadValue(str(error)) from None
    _show(found, output, headers=not no_headers)
    if found["unanswered"] == found["commands"]:
        raise Failed("not one of the commands was answered in this fabric")


def _show(found: dict[str, Any], output: str, *, headers: bool) -> None:
    from fcsim.fabric.results import findings

    if output not in ("table", "wide", "csv"):
        show_one(found, output, "")
        return
    show(found["flows"], "capture-simulate", output, headers=headers)
    if output == "csv":
        return
    bad = findings(found["fabric"])
    if bad:
        click.echo("\n" + draw("fc-findings", bad, wide=output == "wide", headers=headers))
    click.echo(f"\n{found['commands']} commands from {found['from']} to {found['to']}", nl=False)
    click.echo(f", {found['unanswered']} without an answer" if found["unanswered"] else "")
    for reason, count in found["skipped"].items():
        click.echo(f"left out: {count} {reason}")


def _progress() -> Callable[[int, int], None]:
    """Says on a terminal's stderr how far it is, five times a second; where the run ends nobody knows before."""
    said_at = time.monotonic()

    def progress(done_ns: int, _: int) -> None:
        nonlocal said_at
        if sys.stderr.isatty() and time.monotonic() - said_at > 0.2:
            said_at = time.monotonic()
            sys.stderr.write(f"\r{done_ns / 1e6:.1f} ms simulated \r")
            sys.stderr.flush()

    return progress
