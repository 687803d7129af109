"""``sancredit capture anonymise``."""

from __future__ import annotations

import os
import secrets
from collections.abc import Sequence
from pathlib import Path

import click

from mgmt.cli.failures import BadValue, Failed
from mgmt.cli.output import say

_SHORTEST_KEY_BYTES = 16


@click.command(epilog="Example: sancredit capture anonymise capture.pcapng --out shown.pcapng")
@click.argument("files", nargs=-1, required=True, type=click.Path(path_type=Path), metavar="FILE…")
@click.option(
    "--out", required=True, type=click.Path(path_type=Path), help="Where to write; nothing is overwritten."
)
@click.option(
    "--port", "ports", multiple=True, type=click.IntRange(1, 65535), help="iSCSI is on this TCP port only."
)
@click.option(
    "--key",
    "key_file",
    type=click.Path(path_type=Path),
    help="The same key gives the same tokens in another capture; default: a new one that nobody keeps.",
)
def anonymise(files: Sequence[Path], out: Path, ports: tuple[int, ...], key_file: Path | None) -> None:
    """A capture to show: other names and addresses, no data; times, headers and CDBs stay.

    It is made anew from PDUs and frames, so that nothing else is in it.
    """
    from tools.capture.anonymise import anonymise as write_anew
    from tools.capture.scan import CaptureError

    key = secrets.token_bytes(32) if key_file is None else _key(key_file)
    try:
        descriptor = os.open(out, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    except FileExistsError:
        raise Failed(f"{out} is there already") from None
    except OSError as error:
        raise Failed(f"cannot write {out}: {(error.strerror or str(error)).lower()}") from None
    try:
        with os.fdopen(descriptor, "wb", buffering=1 << 20) as stream:
            done = write_anew(files, stream, key, ports=ports)
    except CaptureError as error:
        out.unlink(missing_ok=True)
        raise BadValue(str(error)) from None
    except BaseException:
        out.unlink(missing_ok=True)
        raise
    left = (
        f"; {done.left_out} left out (cut, or neither iSCSI nor Fibre Channel frames)"
        if done.left_out
        else ""
    )
    say(f"{done.pdus} PDUs and {done.frames} frames of {done.parties} parties in {out}{left}")


def _key(path: Path) -> bytes:
    try:
        key = path.read_bytes()[:4096].strip()
    except OSError as error:
        raise BadValue(f"cannot read the key in {path}: {(error.strerror or str(error)).lower()}") from None
    if len(key) < _SHORTEST_KEY_BYTES:
        raise BadValue(f"the key in {path} has fewer than {_SHORTEST_KEY_BYTES} bytes")
    return key
