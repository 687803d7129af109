"""``sancredit capture replay``."""

from __future__ import annotations

import asyncio
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from mgmt.cli.failures import BadValue, Failed, Unreachable
from mgmt.cli.options import headers_option, output_option
from mgmt.cli.output import say, show, show_one
from mgmt.columns import delay

_LATE_NS = 2_000_000
"""Beyond it a replay says what could be done about it."""

if TYPE_CHECKING:
    from iscsi_target.session.chap import Chap
    from tools.capture.replay.session import Destination

_PATHS = click.argument("files", nargs=-1, required=True, type=click.Path(path_type=Path), metavar="FILE…")


@click.command(
    epilog="\b\nExample: sancredit capture replay capture.pcapng --write\n"
    "Example: sancredit capture replay capture.pcapng --to iscsi://127.0.0.1:3260/iqn.2026-11.example:disk --speed 2"
)
@_PATHS
@click.option(
    "--port", "ports", multiple=True, type=click.IntRange(1, 65535), help="iSCSI is on this TCP port only."
)
@click.option(
    "--to",
    "to",
    metavar="iscsi://HOST:PORT/IQN[/LUN]",
    help="The target; default: one in this process, with LUNs that hold what the capture's reads found.",
)
@click.option("--chap", metavar="USER:@FILE", help="Log in with CHAP; the secret is in the file.")
@click.option("--write", is_flag=True, help="Play writes too; by default only to LUNs that are empty there.")
@click.option("--overwrite", is_flag=True, help="... also over what is on the LUN: it is lost.")
@click.option(
    "--fill", is_flag=True, help="Write to the LUN first what the capture's reads found (with --write)."
)
@click.option(
    "--lun",
    "luns",
    multiple=True,
    metavar="FROM=TO",
    help="Play what went to LUN FROM to LUN TO; others are left out.",
)
@click.option("--lba-offset", type=click.IntRange(0), default=0, help="Play so many blocks further on.")
@click.option(
    "--block", "block_bytes", type=click.IntRange(512, 4096), default=512, help="Length of a block."
)
@click.option("--speed", type=float, default=1.0, show_default=True, help="2: in half of the captured time.")
@click.option("--fast", is_flag=True, help="As fast as the captured dependencies and the queue depth let it.")
@click.option("--queue-depth", type=click.IntRange(1, 4096), help="Never more commands under way.")
@click.option("--limit", type=click.IntRange(1), help="Only the first so many commands.")
@click.option("--no-verify", is_flag=True, help="Do not compare what is read with the capture.")
@click.option(
    "--pdu-exact",
    is_flag=True,
    help="Send the initiator's PDUs themselves, numbers rewritten, to reproduce a bug (with --write and --to).",
)
@output_option
@headers_option
def replay(
    files: Sequence[Path],
    ports: tuple[int, ...],
    to: str | None,
    chap: str | None,
    write: bool,
    overwrite: bool,
    fill: bool,
    luns: tuple[str, ...],
    lba_offset: int,
    block_bytes: int,
    speed: float,
    fast: bool,
    queue_depth: int | None,
    limit: int | None,
    no_verify: bool,
    pdu_exact: bool,
    output: str,
    no_headers: bool,
) -> None:
    """Play the SCSI commands of captures to a live target, and compare answers and latencies.

    Login, sequence numbers and tags are its own. Without --write only reads and questions are played. Exit code 1:
    an answer was another than the captured one.
    """
    from tools.capture.replay.collect import collect
    from tools.capture.replay.plan import PlanConfig, PlanError
    from tools.capture.replay.session import ReplayConfig
    from tools.capture.scan import CaptureError

    destination = _destination(to)
    if (overwrite or fill or pdu_exact) and not write:
        raise BadValue("--overwrite, --fill and --pdu-exact change the LUN: give --write too")
    try:
        mapped = _luns(luns)
        with collect(files, ports=ports) as trace:
            for remark in trace.remarks[:3]:
                say(remark)
            if not mapped and destination is not None and destination.lun is not None:
                mapped = {command.lun: destination.lun for command in trace.commands}
            if pdu_exact:
                _exact(files, ports, destination, mapped, output)
                return
            config = ReplayConfig(
                plan=PlanConfig(
                    write=write,
                    luns=mapped,
                    lba_offset=lba_offset,
                    speed=None if fast else speed,
                    queue_depth=queue_depth,
                    limit=limit,
                ),
                destination=destination,
                chap=_chap(chap),
                overwrite=overwrite,
                fill=fill,
                verify=not no_verify,
                block_bytes=block_bytes,
            )
            found = _play(trace, config, paced=not fast)
    except (PlanError, CaptureError) as error:
        raise BadValue(str(error)) from None
    _show(found, output, headers=not no_headers)
    if not found["ok"]:
        raise Failed(
            f"{found['mismatches']} of {found['commands']} commands were answered otherwise than in the capture"
        )


def _play(trace: Any, config: Any, *, paced: bool) -> dict[str, Any]:
    import uvloop

    from iscsi_target.errors import CommandFailed, ConnectionLost, LoginFailed
    from tools.capture.replay.play import ReplayFailed
    from tools.capture.replay.session import replay as play
    from tools.capture.replay.verdict import report

    try:
        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            done = runner.run(play(trace, config, _progress()))
    except (ConnectionLost, LoginFailed) as error:
        raise Unreachable(f"cannot log in to the target: {error}") from None
    except (ReplayFailed, CommandFailed) as error:
        raise Failed(str(error)) from None
    found = report(done.outcomes, trace.nexuses, done.plan.skipped, paced=paced)
    return found | {"priority": done.priority or None}


def _progress() -> Callable[[int, int], None]:
    """Says on a terminal's stderr how far it is, five times a second."""
    said_at = time.monotonic()

    def progress(ended: int, total: int) -> None:
        nonlocal said_at
        if sys.stderr.isatty() and (ended == total or time.monotonic() - said_at > 0.2):
            said_at = time.monotonic()
            sys.stderr.write(f"\r{ended} of {total} commands" + ("\n" if ended == total else ""))
            sys.stderr.flush()

    return progress


def _show(found: dict[str, Any], output: str, *, headers: bool) -> None:
    if output not in ("table", "wide", "csv"):
        show_one(found, output, "")
        return
    show(found["flows"], "capture-replay", output, headers=headers)
    if output == "csv":
        return
    took = f"{found['seconds']:.3f} s, captured {found['captured_seconds']:.3f} s"
    click.echo(f"\n{found['commands']} commands in {took}; data of {found['compared']} compared")
    for reason, count in found["skipped"].items():
        click.echo(f"not played: {count} {reason}")
    for one in found["first_mismatches"]:
        click.echo(f"packet {one['packet']}, CDB {one['cdb']}: {one['what']}")
    late = [row["late_ns"]["p99"] for row in found["flows"] if row["late_ns"]]
    if late:
        click.echo(f"started {delay(max(late))} late at most (99 of 100), at {found['priority']}")
        if max(late) > _LATE_NS and "ordinary" in found["priority"]:
            say("other load kept the replay waiting; as root (CAP_SYS_NICE) it goes before others")
    click.echo("verdict: " + ("as captured" if found["ok"] else f"{found['mismatches']} differ"))


def _destination(text: str | None) -> Destination | None:
    from tools.capture.replay.plan import PlanError
    from tools.capture.replay.session import parse_destination

    try:
        return None if text is None else parse_destination(text)
    except PlanError as error:
        raise BadValue(str(error)) from None


def _luns(texts: Sequence[str]) -> dict[str, int]:
    mapped: dict[str, int] = {}
    for text in texts:
        source, equals, target = text.partition("=")
        if not (source and equals and target.isdigit() and int(target) < 16384):
            raise BadValue(f"--lun {text!r:.40}: write FROM=TO, such as 0=1")
        mapped[source] = int(target)
    return mapped


def _chap(text: str | None) -> Chap | None:
    if text is None:
        return None
    from iscsi_target.session.chap import Chap, Credentials
    from mgmt.cli.target import read_secret

    user, colon, rest = text.partition(":")
    if not (user and colon and rest.startswith("@")):
        raise BadValue("--chap takes USER:@FILE: a secret is never an argument")
    return Chap(own=Credentials(user, read_secret(Path(rest[1:]))))


def _exact(
    files: Sequence[Path],
    ports: tuple[int, ...],
    destination: Destination | None,
    luns: dict[str, int],
    output: str,
) -> None:
    """Exit code 1 when anything was answered otherwise."""
    import uvloop

    from iscsi_target.errors import ConnectionLost
    from tools.capture.replay.exact import ExactReplay, captured_connection

    if destination is None:
        raise BadValue("--pdu-exact is for a target under test: give --to")
    player = ExactReplay(captured_connection(files, ports=ports), destination.iqn, luns=luns)
    try:
        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            done = runner.run(player.run(destination.host, destination.port))
    except ConnectionLost as error:
        raise Unreachable(f"cannot reach the target: {error}") from None
    plain = {
        "ok": done.ok,
        "pdus": done.total,
        "sent": done.sent,
        "answers": done.received,
        "ended": done.ended,
        "differences": [{"tag": f"{one.tag:#010x}", "what": one.what} for one in done.differences],
    }
    if output in ("table", "wide", "csv"):
        click.echo(f"{done.sent} of {done.total} PDUs sent, {done.received} answers")
        for one in done.differences[:20]:
            click.echo(f"task {one.tag:#010x}: {one.what}")
    else:
        show_one(plain, output, "")
    if done.ended:
        raise Failed(done.ended)
    if done.differences:
        raise Failed(f"{len(done.differences)} tasks ended otherwise than in the capture")
