"""``sancredit demo``: the command, its output, its exit code."""

from __future__ import annotations

import contextlib
import json
import shutil
import signal
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Any

import click

from credits.quantities import format_delay, format_rate
from mgmt.cli.failures import BadValue, Failed
from mgmt.cli.options import DELAY, RATE, SIZE
from tools.demo.settings import DOCUMENT, POLICIES, TARGETS

if TYPE_CHECKING:
    from tools.demo.image import Image
    from tools.demo.settings import Settings
    from tools.demo.stage import Stage

_LONGEST_DIRECTORY = 80
"""A Unix socket's path has at most 107 bytes, and the longest name in the directory needs about 20 of them."""


@click.command(epilog="Example: sancredit demo --bandwidth 50Mbit --rtt 40ms --report /tmp/report")
@click.option("--transport", type=click.Choice(["tcp", "fc"]), default="tcp", show_default=True)
@click.option("--speed", default="1G", show_default=True, help="Of the line, with --transport fc.")
@click.option("--distance", default="500km", show_default=True, help="Of the line, with --transport fc.")
@click.option(
    "--image", type=click.Path(path_type=Path), help="Copy this file. Default: a new ext4 file system."
)
@click.option(
    "--bandwidth",
    type=RATE,
    default="100Mbit",
    show_default=True,
    help="Of the channel.",
)
@click.option("--rtt", type=DELAY, default="20ms", show_default=True, help="Of the channel.")
@click.option("--sessions", type=click.IntRange(1, 16), default=2, show_default=True)
@click.option(
    "--connections", type=click.IntRange(1, 16), default=3, show_default=True, help="Of each session."
)
@click.option(
    "--target",
    type=click.Choice(TARGETS),
    default="port-pair",
    show_default=True,
    help="What the buffers are reserved for.",
)
@click.option(
    "--policy",
    type=click.Choice(POLICIES),
    default=DOCUMENT,
    show_default=True,
    help="How the reservation is sized.",
)
@click.option(
    "--size",
    type=SIZE,
    help="Of the default image. Default: 64 MiB, less on slow channels.",
)
@click.option(
    "--channel",
    type=click.Choice(["auto", "netem", "tun", "loopback"]),
    default="auto",
    show_default=True,
    help="How the channel is made.",
)
@click.option(
    "--report", type=click.Path(path_type=Path, file_okay=False), help="Write plots, captures, JSON here."
)
@click.option("--keep", is_flag=True, help="Leave everything running at the end, until Ctrl-C.")
@click.option("-o", "--output", type=click.Choice(["table", "json"]), default="table", show_default=True)
def demo(
    transport: str,
    speed: str,
    distance: str,
    image: Path | None,
    bandwidth: int,
    rtt: int,
    sessions: int,
    connections: int,
    target: str,
    policy: str,
    size: int | None,
    channel: str,
    report: Path | None,
    keep: bool,
    output: str,
) -> None:
    """Copy a disk image between two arrays over a long channel, under a storm of host I/O.

    First without a reservation, then with the recommended one. Arrays, station, measuring devices and hosts are
    processes of their own; the channel has the bandwidth and delay that are set; TCP is the kernel's.
    """
    from tools.demo.image import ImageError, check_source
    from tools.demo.settings import Settings

    settings = Settings(
        bandwidth_bps=bandwidth,
        rtt_ns=rtt,
        sessions=sessions,
        connections=connections,
        target=target.replace("-", "_"),
        policy=policy,
        channel=channel,
        image=image,
        image_bytes=size,
        report=report,
        keep=keep,
    )
    try:
        if image is not None:
            check_source(image)
        if report is not None:
            report.mkdir(parents=True, exist_ok=True)
            probe = report / ".sancredit"
            probe.touch()
            probe.unlink()
    except ImageError as error:
        raise BadValue(str(error)) from None
    except OSError as error:
        raise BadValue(f"report directory {report}: {error.strerror}") from None
    if transport == "fc":
        settings = _over_fc(settings, speed, distance)
    if not _perform(settings, output):
        sys.exit(1)


def _perform(settings: Settings, output: str) -> bool:
    from mgmt.http import PeerRefused, PeerUnreachable
    from tools.demo.figure5 import CopyFailed
    from tools.demo.image import ImageError
    from tools.demo.processes import ProcessFailed
    from tools.wan.errors import BadSetting, ChannelFailed, ChannelUnavailable

    try:
        with _until_told_to_stop(), _directory() as directory:
            return _play(settings, output, directory)
    except (ImageError, BadSetting) as error:
        raise BadValue(str(error)) from None
    except (ChannelFailed, ChannelUnavailable, CopyFailed, ProcessFailed, PeerRefused) as error:
        raise Failed(str(error)) from None
    except PeerUnreachable as error:
        raise Failed(f"{error}; a process of the demo has gone") from None
    except OSError as error:
        raise Failed(f"{error.filename or 'demo'}: {error.strerror}") from None


def _over_fc(settings: Settings, speed: str, distance: str) -> Settings:
    from credits.quantities import parse_distance
    from fcsim.speeds import parse_speed
    from tools.demo.fc import FcSettings

    if settings.target != "port_pair":
        raise BadValue(
            "--target: a Fibre Channel login grants credits to a port pair, so only that is reserved for"
        )
    try:
        return FcSettings.of(settings, parse_speed(speed), parse_distance(distance))
    except ValueError as error:
        raise BadValue(str(error)) from None


def _stage(settings: Settings, directory: Path, image: Image) -> Stage:
    from tools.demo.fc import FcSettings, FcStage
    from tools.demo.stage import Stage

    kind = FcStage if isinstance(settings, FcSettings) else Stage
    return kind(settings, directory, image)


def _play(settings: Settings, output: str, directory: Path) -> bool:
    from tools.demo import image as images
    from tools.demo.figure5 import CopyFailed, Figure5
    from tools.demo.narration import Narrator
    from tools.demo.verdict import Verdict

    say = Narrator()
    volume = directory / "master.img"
    if settings.image is not None:
        image = images.from_file(settings.image, volume)
    else:
        image = images.make(volume, settings.default_image_bytes)
    say.act("The stage")
    say.remark(f"image: {image.size_bytes:,} bytes, {image.description}")
    with _stage(settings, directory, image) as stage:
        say.remark(
            f"channel: {format_rate(settings.bandwidth_bps)}, {format_delay(settings.rtt_ns)}; {stage.channel_note}"
        )
        say.remark(
            f"each array: {settings.pool_units} units of communication memory, its own process, state and disk"
        )
        procedure = Figure5(stage, settings, say, directory)

        say.act("Without a reservation")
        advice = procedure.prepare()
        baseline = procedure.run("baseline", image.volume_bytes)

        say.act("With the reservation: same storm, pool, code path and flags")
        reservation = procedure.reserve(advice)
        reserved = procedure.run("copy", image.volume_bytes)
        if reserved.status is None or reserved.status["state"] != "done":
            error = reserved.refusal or (reserved.status or {}).get("error") or "it did not finish"
            raise CopyFailed(f"the copy with the reservation failed: {error}")
        proof = procedure.verify(reserved.copy_id)
        on_disk = images.digest(directory / "remote.img", image.size_bytes)
        say.remark(f"the image itself: {image.sha256}; on the remote disk: {on_disk}")
        verdict = Verdict(
            settings=settings,
            channel=advice["channel"] | {"kind": stage.channel_kind, "note": stage.channel_note},
            recommendation=advice,
            reservation=reservation,
            baseline=baseline,
            reserved=reserved,
            sha256_match=bool(proof["sha256_match"]) and on_disk == image.sha256,
        )
        if settings.report is not None:
            _write_report(settings.report, verdict, directory, say)
        _show(verdict, output)
        if settings.keep:
            _stay(stage, say)
    return verdict.passed


def _show(verdict: Any, output: str) -> None:
    if output == "json":
        click.echo(json.dumps(verdict.as_json(), indent=2))
        return
    _tables(verdict.reserved.tables, ("reservations", "channels", "allocations", "pools"))
    _claims([(claim.holds, claim.name, claim.figures) for claim in verdict.claims()])


def _tables(tables: Any, names: tuple[str, ...]) -> None:
    from mgmt.layouts import LAYOUTS
    from mgmt.tables import draw

    click.echo("\nThe tables, half-way through the copy")
    for name in names:
        click.echo(f"\n{LAYOUTS[name].title}\n{draw(name, tables.get(name, []), style='simple')}")


def _claims(claims: list[tuple[bool | None, str, str]]) -> None:
    from tabulate import tabulate

    words = {True: "yes", False: "NO", None: "not judged"}
    rows = [(words[holds], name, figures) for holds, name, figures in claims]
    click.echo(f"\nVerdict\n{tabulate(rows, headers=('holds', 'claim', 'figures'), tablefmt='simple')}")


def _write_report(report: Path, verdict: Any, directory: Path, say: Any) -> None:
    from tools.demo.report import Run, write_plots

    (report / "demo.json").write_text(json.dumps(verdict.as_json(), indent=2) + "\n")
    for name in ("baseline", "copy"):
        capture = directory / f"{name}.pcapng"
        if capture.exists():
            shutil.copyfile(capture, report / capture.name)
    runs = [
        Run.of("without a reservation", verdict.baseline, 0),
        Run.of("with the recommended reservation", verdict.reserved, verdict.reservation["reserved_bytes"]),
    ]
    try:
        write_plots(report / "demo.png", runs, verdict.settings.payload_limit_bps)
    except ImportError:
        say.remark("no plots: matplotlib is missing (pip install 'sancredit[plot]')")
    say.act(f"Report: {report}/demo.json, demo.png, copy.pcapng, baseline.pcapng")


def _stay(stage: Any, say: Any) -> None:
    say.act("Everything keeps running until Ctrl-C. Look at it from another terminal:")
    for table in ("pools", "reservations", "channels", "copies"):
        say.remark(f"sancredit get {table} --station {stage.station_address}")
    with contextlib.suppress(KeyboardInterrupt):  # the way out that was offered, hence no failure
        while True:
            stage.cast.check()
            time.sleep(0.5)


@contextlib.contextmanager
def _directory() -> Iterator[Path]:
    """A directory of the demo's own, gone at the end, by a path short enough for the Unix sockets in it."""
    with contextlib.ExitStack() as ending:
        path = Path(ending.enter_context(tempfile.TemporaryDirectory(prefix="sancredit-")))
        if len(str(path)) > _LONGEST_DIRECTORY:
            short = ending.enter_context(tempfile.TemporaryDirectory(prefix="sancredit-", dir="/tmp"))
            link = Path(short) / "d"
            link.symlink_to(path)
            path = link
        yield path


@contextlib.contextmanager
def _until_told_to_stop() -> Iterator[None]:
    """SIGTERM ends the demo as Ctrl-C does, in order, with the exit status that shells expect of it."""

    def stop(number: int, frame: FrameType | None) -> None:
        click.echo("sancredit: told to stop; ending what the demo started", err=True)
        sys.exit(128 + number)

    before = signal.signal(signal.SIGTERM, stop)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)
