"""``sancredit target serve``: the embedded iSCSI target."""

from __future__ import annotations

import asyncio
import gc
import os
import re
import signal
import stat
import sys
from collections.abc import Sequence
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import click

from mgmt.cli.access import FORM, access_list
from mgmt.cli.failures import BadValue
from mgmt.cli.options import SIZE

if TYPE_CHECKING:
    from iscsi_target.session.chap import Chap
    from iscsi_target.session.node import Portal
    from mgmt.target.configuration import ServeConfig, TargetConfig
    from mgmt.target.process import TargetProcess

_LARGEST_SECRET_BYTES = 255
_SHORT_SECRET_BYTES = 12
"""96 bits: what a secret has to have at least (RFC 7143 section 9.2.1)."""
_COLLECT_AFTER = 50_000
"""Objects between two looks for garbage that refers to itself, of which the data path makes none."""
_EXISTING = click.Path(path_type=Path, dir_okay=False)


@click.command(
    epilog="\b\nExample: sancredit target serve --portal 127.0.0.1:0 --lun 64MiB\n"
    "Example: sancredit target serve --config examples/target.toml --control /tmp/target.sock"
)
@click.option("--config", type=_EXISTING, help="A TOML file; the flags below go before what it says.")
@click.option(
    "--portal",
    "portals",
    multiple=True,
    metavar="HOST:PORT",
    help="Where to listen (port 0: any); repeat for more. 127.0.0.1:3260 unless told.",
)
@click.option("--iqn", help="iSCSI name of the target; iqn.2003-10.example.sancredit:target unless told.")
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
@click.option(
    "--allow",
    "rules",
    multiple=True,
    metavar="RULE",
    help="Who may log in, and what it sees: "
    + FORM
    + ". Repeat for more rules: the first that fits counts, and who"
    " fits none is refused. Without any, everybody may do everything.",
)
@click.option("--hide", is_flag=True, help="Tell whom no --allow admits that the target is not there.")
@click.option(
    "--buffers",
    type=SIZE,
    metavar="SIZE",
    help="Communication memory: the Data-In of all sessions that may be unacknowledged at a time; 256MiB unless told.",
)
@click.option("--faults", type=_EXISTING, help="Fault rules, in TOML; they come after those of --config.")
@click.option(
    "--hook",
    "hooks",
    type=_EXISTING,
    multiple=True,
    help="A Python file with hook(pdu, context); it runs with the target's rights. Repeat for more.",
)
@click.option(
    "--seed", type=int, help="Seed of the faults' chance: the same traffic meets the same faults again."
)
@click.option(
    "--capture", type=_EXISTING, help="Write every session to a pcapng file, for its owner's eyes only."
)
@click.option(
    "--control",
    metavar="PATH|ADDRESS",
    help="Serve the control API: a Unix socket (mode 0600), or http://HOST:PORT on loopback with --token.",
)
@click.option(
    "--token",
    type=_EXISTING,
    help="The control API wants the token in this file (mode 0600; made if missing).",
)
@click.option(
    "--metrics",
    metavar="HOST:PORT",
    help="Serve /metrics for Prometheus there (port 0: any); nobody is asked for a password.",
)
def serve(
    config: Path | None,
    portals: tuple[str, ...],
    iqn: str | None,
    luns: tuple[str, ...],
    users: tuple[str, ...],
    rules: tuple[str, ...],
    hide: bool,
    buffers: int | None,
    faults: Path | None,
    hooks: tuple[Path, ...],
    seed: int | None,
    capture: Path | None,
    control: str | None,
    token: Path | None,
    metrics: str | None,
) -> None:
    """Serve LUNs over iSCSI until SIGTERM or Ctrl-C.

    Prints one line for each portal and LUN once it is ready, and one each for the control API and the metrics.
    """
    from iscsi_target.trace.capture import CaptureConfig
    from mgmt.target.configuration import ServeConfig, load
    from mgmt.target.process import TargetProcess

    settings = ServeConfig() if config is None else load(config, read_secret)
    if portals:
        settings = replace(settings, portals=tuple(_portal(text) for text in portals))
    if iqn is not None or luns or users or rules or hide:
        changed = _changed(settings.targets, iqn, luns, _chap(users), rules, hide=hide)
        settings = replace(settings, targets=(changed,))
    if buffers is not None:
        settings = replace(settings, buffer_bytes=buffers)
    if faults is not None:
        settings = _with_faults(settings, faults)
    if capture is not None:
        settings = replace(settings, capture=CaptureConfig(path=capture))
    if control is not None:
        settings = replace(settings, control=control_address(control))
    if token is not None:
        settings = replace(settings, control_token=token)
    if metrics is not None:
        settings = replace(settings, metrics=_portal(metrics, "--metrics"))
    settings = replace(settings, hooks=hooks, seed=settings.seed if seed is None else seed)
    import uvloop

    with (
        closing(TargetProcess(settings)) as process,
        asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner,
    ):
        runner.run(_serve(process))


async def _serve(process: TargetProcess) -> None:
    stop = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    await process.serve(stop, _ready)


def _ready(lines: list[str]) -> None:
    # What the start made stays: a collection while a command waits need not look at it, nor come often.
    gc.freeze()
    gc.set_threshold(_COLLECT_AFTER, 20, 20)
    sys.stdout.write("".join(f"{line}\n" for line in lines))
    sys.stdout.flush()


def _changed(
    targets: Sequence[TargetConfig],
    iqn: str | None,
    luns: Sequence[str],
    chap: Chap | None,
    rules: Sequence[str],
    *,
    hide: bool,
) -> TargetConfig:
    """The one target, as the flags want it."""
    from mgmt.target.configuration import LunConfig

    if len(targets) != 1:
        raise click.UsageError(
            "--iqn, --lun, --chap and --allow are for one target, and the file describes more"
        )
    target = targets[0]
    if iqn is not None:
        target = replace(target, iqn=iqn)
    if luns:
        target = replace(target, luns=tuple(LunConfig(number, text) for number, text in enumerate(luns)))
    if chap is not None:
        target = replace(target, chap=chap)
    users = [known.name for known in target.chap.accepted] if target.chap is not None else []
    numbers = [lun.number for lun in target.luns]
    access = access_list(rules, hidden=hide, luns=numbers, users=users)
    return target if access is None else replace(target, access=access)


def _with_faults(settings: ServeConfig, path: Path) -> ServeConfig:
    from iscsi_target.faults import FaultError, load_rules

    try:
        file = load_rules(path)
    except FaultError as error:
        raise BadValue(str(error)) from error
    seed = settings.seed if file.seed is None else file.seed
    return replace(settings, rules=(*settings.rules, *file.rules), seed=seed)


def control_address(text: str) -> str:
    """``--control``: a path is that of a Unix socket. Raises click.UsageError for what looks like a port."""
    if re.fullmatch(r"[^/]*:\d{1,5}", text) and not text.startswith("unix:"):
        raise click.UsageError(
            f"--control {text}: write http://{text} for a TCP port, ./{text} for a socket's file"
        )
    return text if text.startswith(("unix:", "http://", "https://")) else f"unix:{text}"


def _portal(text: str, option: str = "--portal") -> Portal:
    from mgmt.target.configuration import parse_portal
    from mgmt.target.table import ConfigurationError

    try:
        return parse_portal(text, option)
    except ConfigurationError as error:
        raise click.UsageError(str(error)) from error


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
        accepted.append(Credentials(user, read_secret(Path(file))))
    return Chap(accepted=tuple(accepted)) if accepted else None


def read_secret(path: Path) -> bytes:
    """The secret in a file that only its owner can read. Raises BadValue; a short one gets a warning."""
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
