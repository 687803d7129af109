"""``sancredit capture export``."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import TextIO

import click

from mgmt.cli.failures import BadValue, Failed


@click.command(
    epilog="\b\nExample: sancredit capture export capture.pcapng --lun 0 --file /dev/sdx > capture.iolog\n"
    "Example: sancredit capture export capture.pcapng --format trace --out commands.jsonl"
)
@click.argument("files", nargs=-1, required=True, type=click.Path(path_type=Path), metavar="FILE…")
@click.option(
    "--port", "ports", multiple=True, type=click.IntRange(1, 65535), help="iSCSI is on this TCP port only."
)
@click.option(
    "--format",
    "form",
    type=click.Choice(["iolog", "trace"]),
    default="iolog",
    show_default=True,
    help="iolog: for fio --read_iolog; trace: one JSON object for each command.",
)
@click.option("--lun", help="Commands to this LUN only.")
@click.option("--initiator", help="Commands of this initiator only.")
@click.option("--file", "name", default="/dev/sdx", show_default=True, help="What the iolog calls the file.")
@click.option(
    "--block", "block_bytes", type=click.IntRange(512, 4096), default=512, help="Length of a block."
)
@click.option("--out", type=click.Path(path_type=Path), help="Where to write; default: standard output.")
def export(
    files: Sequence[Path],
    ports: tuple[int, ...],
    form: str,
    lun: str | None,
    initiator: str | None,
    name: str,
    block_bytes: int,
    out: Path | None,
) -> None:
    """The captured commands for other tools."""
    from tools.capture.export import Choice, ExportError, iolog, trace_lines
    from tools.capture.replay.collect import collect
    from tools.capture.scan import CaptureError

    choice = Choice(lun, initiator)
    try:
        with collect(files, ports=ports) as trace:
            lines = (
                iolog(trace, choice, file=name, block_bytes=block_bytes)
                if form == "iolog"
                else trace_lines(trace, choice)
            )
            _write(lines, out)
    except (CaptureError, ExportError) as error:
        raise BadValue(str(error)) from None


def _write(lines: Iterator[str], out: Path | None) -> None:
    """The first line is made before the file is: what cannot be exported leaves an old one alone."""
    first = next(lines)
    try:
        place: nullcontext[TextIO] | TextIO = nullcontext(sys.stdout) if out is None else out.open("w")
        with place as stream:
            stream.write(first + "\n")
            for line in lines:
                stream.write(line + "\n")
    except OSError as error:
        if out is None:
            raise  # the reader of our output has gone, or its disk is full
        raise Failed(f"cannot write {out}: {(error.strerror or str(error)).lower()}") from None
