"""``sancredit target serve``: the embedded iSCSI target."""

from __future__ import annotations

import asyncio
import os
import signal
import stat
import sys
from collections.abc import Sequence
from contextlib import ExitStack, closing
from pathlib import Path
from typing import TYPE_CHECKING

import click

from mgmt.cli.failures import BadValue

if TYPE_CHECKING:
    from iscsi_target.scsi.stores.store import BackingStore
    from iscsi_target.scsi.target_device import TargetDevice
    from iscsi_target.server import Portal, Target
    from iscsi_target.session.chap import Chap

DEFAULT_IQN = "iqn.2003-10.example.sancredit:target"
_LARGEST_SECRET_BYTES = 255
_SHORT_SECRET_BYTES = 12
"""96 bits: what a secret has to have at least (RFC 7143 section 9.2.1)."""


@click.command(epilog="Example: sancredit target serve --portal 127.0.0.1:0 --lun 64MiB")
@click.option(
    "--portal",
    "portals",
    multiple=True,
    metavar="HOST:PORT",
    help="Where to listen (port 0: any); repeat for more. 127.0.0.1:3260 unless told.",
)
@click.option("--iqn", default=DEFAULT_IQN, show_default=True, help="iSCSI name of the target.")
@click.option(
    "--lun",
    "luns",
    multiple=True,
    metavar="SIZE|PATH",
    help="A LUN: thin memory of a size, or a file or block device; repeat for more, numbered from 0.",
)
@click.option(
    "--chap",
    "users",
    multiple=True,
    metavar="USER:@FILE",
    help="Initiators log in by CHAP as USER with the secret in FILE; repeat for more users.",
)
def serve(portals: tuple[str, ...], iqn: str, luns: tuple[str, ...], users: tuple[str, ...]) -> None:
    """Serve LUNs over iSCSI until SIGTERM or Ctrl-C.

    Prints one line for each portal and LUN once it is ready.
    """
    from iscsi_target.scsi.errors import InvalidConfiguration, StoreError
    from iscsi_target.server import Target

    where = [_portal(text) for text in portals or ("127.0.0.1:3260",)]
    chap = _chap(users)
    try:
        device = _device(iqn, luns or ("64MiB",))
    except (InvalidConfiguration, StoreError) as error:
        raise BadValue(str(error)) from error
    with closing(device):
        try:
            target = Target(name=iqn, logical_units=device, chap=chap)
        except ValueError as error:
            raise BadValue(str(error)) from error
        import uvloop

        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            runner.run(_serve(target, device, where))


async def _serve(target: Target, device: TargetDevice, portals: Sequence[Portal]) -> None:
    from iscsi_target.server import TargetServer

    stop = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    server = TargetServer([target], portals)
    try:
        await server.start()
    except OSError as error:
        reason = (error.strerror or str(error)).lower()
        raise click.ClickException(f"cannot listen on iscsi://{error.filename}: {reason}") from error
    try:
        for portal in server.portals:
            for lun in device.units:
                sys.stdout.write(f"listening iscsi://{portal.spelled()}/{target.name}/{lun}\n")
        sys.stdout.flush()
        await stop.wait()
    finally:
        device.interrupt()  # a SANITIZE may run for hours, and stopping waits for what runs
        await server.stop()


def _portal(text: str) -> Portal:
    from iscsi_target.server import Portal

    host, colon, port = text.rpartition(":")
    host = host.removeprefix("[").removesuffix("]")
    if not colon or not host or not port.isascii() or not port.isdigit() or int(port) > 65535:
        raise click.UsageError(f"--portal is HOST:PORT with a port from 0 to 65535, not {text!r:.120}")
    return Portal(host, int(port))


def _store(text: str) -> BackingStore:
    """The store of one ``--lun``; a file that may only be read is served read-only."""
    from iscsi_target.scsi.stores.description import open_store

    path = Path(text)
    read_only = path.exists() and not os.access(path, os.W_OK)
    return open_store(text, read_only=read_only)


def _device(iqn: str, luns: Sequence[str]) -> TargetDevice:
    """The LUNs from 0 on; nothing stays open when one of them cannot be served."""
    from iscsi_target.scsi.logical_unit import LogicalUnit, LogicalUnitConfig, derive_identity
    from iscsi_target.scsi.target_device import TargetDevice

    with ExitStack() as opened:
        units = {}
        for lun, text in enumerate(luns):
            store = _store(text)
            opened.callback(store.close)
            units[lun] = LogicalUnit(
                store, derive_identity(iqn, lun), LogicalUnitConfig(read_only=store.read_only)
            )
        device = TargetDevice(iqn, units)
        opened.pop_all()
    return device


def _chap(users: Sequence[str]) -> Chap | None:
    """The users of ``--chap``; a secret is read from its file, never from the command line."""
    from iscsi_target.session.chap import Chap, Credentials

    accepted = []
    for text in users:
        user, sign, file = text.partition(":@")
        if not user or not sign or not file:
            raise click.UsageError(
                "--chap is USER:@FILE: the secret is read from FILE, never from the command line"
            )
        accepted.append(Credentials(user, _secret(Path(file))))
    return Chap(accepted=tuple(accepted)) if accepted else None


def _secret(path: Path) -> bytes:
    try:
        with path.open("rb") as file:
            if stat.S_IMODE(os.fstat(file.fileno()).st_mode) & 0o077:
                raise BadValue(f"others can read the secret in {path}: chmod 600 {path}")
            secret = file.read(_LARGEST_SECRET_BYTES + 1).rstrip(b"\r\n")
    except OSError as error:
        raise BadValue(f"cannot read the secret in {path}: {(error.strerror or '').lower()}") from error
    if not 1 <= len(secret) <= _LARGEST_SECRET_BYTES:
        raise BadValue(f"the secret in {path} has {len(secret)} bytes, not 1 to {_LARGEST_SECRET_BYTES}")
    if len(secret) < _SHORT_SECRET_BYTES:
        click.echo(
            f"warning: the secret in {path} has {len(secret)} bytes: whoever records a login can find it out by trial;"
            f" use {_SHORT_SECRET_BYTES} random bytes or more (RFC 7143 section 9.2.1)",
            err=True,
        )
    return secret
