"""``sancredit lio``: a target description on the Linux kernel's target."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from mgmt.cli.failures import FAILED, BadValue, Failed
from mgmt.cli.options import headers_option, output_option
from mgmt.cli.output import say, show, show_one

if TYPE_CHECKING:
    from iscsi_target.lio.apply import Driver
    from iscsi_target.lio.model import Description
    from iscsi_target.lio.plan import Plan, Step
    from mgmt.metrics.kernel import KernelCollector

F = TypeVar("F", bound=Callable[..., Any])
_FILE = click.Path(path_type=Path, dir_okay=False)


def _places(command: F) -> F:
    """Where the record is, and where configfs is."""
    command = click.option(
        "--state",
        type=_FILE,
        default=Path("/run/sancredit/lio.json"),
        show_default=True,
        help="What sancredit has made, written down.",
    )(command)
    return click.option(
        "--configfs",
        type=click.Path(path_type=Path),
        default=Path("/sys/kernel/config/target"),
        hidden=True,
        help="Where the kernel's target is configured.",
    )(command)


def _bold(command: F) -> F:
    command = click.option("--prune", is_flag=True, help="Remove what others have put into our targets.")(
        command
    )
    return click.option("--adopt", is_flag=True, help="Take over what others have made and the file names.")(
        command
    )


def _driver(state: Path, configfs: Path) -> Driver:
    from iscsi_target.lio.apply import Driver

    return Driver(state=state, root=configfs)


def _described(path: Path) -> Description:
    if path.suffix == ".json":
        from iscsi_target.lio import saveconfig

        return saveconfig.load(path)
    from mgmt.cli.target import read_secret
    from mgmt.target.kernel import describe

    return describe(path, read_secret)


def _rows(steps: tuple[Step, ...]) -> list[dict[str, Any]]:
    return [
        {"step": type(step).__name__.lower(), "kind": step.key.kind.name.lower(), "what": str(step)}
        for step in steps
    ]


def _remark(found: Plan) -> None:
    for key in found.conflicts:
        say(f"{key} would have to change, and was not made by sancredit: --adopt takes it over")
    for key in found.foreign:
        say(f"{key} is of others, within ours: it stays; --prune removes it")
    for key in found.kept:
        say(f"{key} stays: others stand on it")


@click.command(epilog="Example: sancredit lio plan target.toml")
@click.argument("description", type=_FILE)
@_bold
@_places
@output_option
@headers_option
def plan(
    description: Path, adopt: bool, prune: bool, state: Path, configfs: Path, output: str, no_headers: bool
) -> int:
    """The steps that `apply` would take; nothing is changed.

    DESCRIPTION is a file as for `sancredit target serve --config`, or a saveconfig.json of targetcli.
    """
    from iscsi_target.lio.apply import Options

    found = _driver(state, configfs).plan(_described(description), Options(adopt=adopt, prune=prune))
    show(_rows(found.steps), "lio-steps", output, headers=not no_headers)
    _remark(found)
    return FAILED if found.conflicts else 0


@click.command(epilog="Example: sancredit lio apply target.toml")
@click.argument("description", type=_FILE)
@_bold
@_places
@click.option("-v", "--verbose", is_flag=True, help="Say every step.")
def apply(description: Path, adopt: bool, prune: bool, state: Path, configfs: Path, verbose: bool) -> None:
    """Lead the kernel's target to a description: all of it, or nothing is changed. A second time does nothing."""
    from iscsi_target.lio.apply import Options

    driver = _driver(state, configfs)
    found = driver.apply(
        _described(description),
        Options(adopt=adopt, prune=prune),
        lambda step: say(str(step)) if verbose else None,
    )
    _remark(found)
    say(_counted(found))


def _counted(found: Plan) -> str:
    return f"{len(found.steps)} steps done" if found.steps else "nothing to do"


@click.command(epilog="Example: sancredit lio clear")
@_places
@click.option("-v", "--verbose", is_flag=True, help="Say every step.")
def clear(state: Path, configfs: Path, verbose: bool) -> int:
    """Remove from the kernel's target what sancredit has made, and nothing else."""
    found = _driver(state, configfs).clear(lambda step: say(str(step)) if verbose else None)
    _remark(found)
    say(_counted(found))
    return FAILED if found.kept else 0


@click.command(epilog="Example: sancredit lio status -o json")
@click.option("--description", type=_FILE, help="Compare with this file instead of what was applied last.")
@click.option("--sessions", is_flag=True, help="The sessions, instead of the targets.")
@_places
@output_option
@headers_option
def status(
    description: Path | None, sessions: bool, state: Path, configfs: Path, output: str, no_headers: bool
) -> int:
    """The kernel's targets and their sessions, and how far they have drifted from what was applied (exit code 1)."""
    from iscsi_target.lio.counters import read_sessions, read_targets

    if sessions:
        show(read_sessions(configfs), "target-sessions", output, headers=not no_headers)
    else:
        show(read_targets(configfs), "lio-targets", output, headers=not no_headers)
    wanted = None if description is None else _described(description)
    found = _driver(state, configfs).drift(wanted)
    if found is None:
        return 0
    for step in found.steps:
        say(f"drift: to be as described it takes: {step}")
    _remark(found)
    return FAILED if found.steps or found.foreign or found.conflicts else 0


@click.command(epilog="Example: sancredit lio metrics --listen 127.0.0.1:9101")
@click.option(
    "--listen",
    metavar="HOST:PORT",
    help="Serve /metrics there until SIGTERM or Ctrl-C (port 0: any); nobody is asked for a password.",
)
@_places
def metrics(listen: str | None, state: Path, configfs: Path) -> None:
    """The counters of the kernel's target in Prometheus' text format, under the names that the emulator's have.

    Without --listen they are written once. `sancredit lio status` has them as a table."""
    from prometheus_client import CollectorRegistry, generate_latest

    from mgmt.metrics.kernel import KernelCollector

    collector = KernelCollector(configfs)
    if listen is not None:
        _serve_metrics(collector, listen)
        return
    if not configfs.is_dir():
        raise Failed(f"{configfs} is not there: no LIO runs here; sancredit lio apply starts it")
    registry = CollectorRegistry(auto_describe=False)
    registry.register(collector)
    click.echo(generate_latest(registry).decode(), nl=False)


def _serve_metrics(collector: KernelCollector, listen: str) -> None:
    import signal
    from dataclasses import replace

    from mgmt.metrics.server import MetricsServer
    from mgmt.target.configuration import parse_portal

    where = parse_portal(listen, "--listen")
    try:
        server = MetricsServer(where.host, where.port, collector)
    except OSError as error:
        raise Failed(f"cannot serve metrics at {where.spelled()}: {(error.strerror or '').lower()}") from None
    ends = (signal.SIGTERM, signal.SIGINT)
    before = signal.pthread_sigmask(signal.SIG_BLOCK, ends)  # in the server's thread too, which inherits it
    try:
        server.start()
        click.echo(f"metrics http://{replace(where, port=server.address[1]).spelled()}/metrics")
        signal.sigwait(ends)
        server.stop()
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


@click.command(name="import", epilog="Example: sancredit lio import /etc/target/saveconfig.json")
@click.argument("saved", type=_FILE, default=Path("/etc/target/saveconfig.json"))
@output_option
def import_(saved: Path, output: str) -> None:
    """Look through a saveconfig.json of targetcli: what is in it, and whether `apply` would take it."""
    from iscsi_target.lio import saveconfig
    from iscsi_target.lio.model import check

    description = saveconfig.load(saved)
    check(description)
    answer = {
        "backstores": len(description.backstores),
        "targets": len(description.targets),
        "luns": sum(len(group.luns) for target in description.targets for group in target.groups),
        "acls": sum(len(group.acls) for target in description.targets for group in target.groups),
    }
    sentence = ", ".join(f"{count} {name}" for name, count in answer.items())
    show_one(answer, output, f"{saved}: {sentence}; sancredit lio apply {saved} makes them")


@click.command(epilog="Example: sancredit lio export saveconfig.json")
@click.argument("file", type=_FILE, required=False)
@click.option("--from", "source", type=_FILE, help="Write this description, and not what the kernel has now.")
@_places
def export(file: Path | None, source: Path | None, state: Path, configfs: Path) -> None:
    """Write a saveconfig.json for targetcli: what the kernel has now, or a description."""
    from iscsi_target.lio import saveconfig
    from iscsi_target.lio.configfs import read
    from iscsi_target.lio.present import description_of

    if source is not None:
        description = _described(source)
    elif not configfs.is_dir():
        raise BadValue(f"{configfs} is not there: no LIO runs here; --from FILE writes a description")
    else:
        description = description_of(read(configfs))
    if file is None:
        click.echo(saveconfig.dumps(description), nl=False)
    else:
        saveconfig.save(description, file)
