"""``sancredit lab``: the kernel's own stacks in a virtual machine."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from mgmt.cli.failures import UNREACHABLE, BadValue, Failed
from mgmt.cli.options import output_option
from mgmt.cli.output import say, show_one
from tools.lab import machine as machines
from tools.lab.errors import LabError, LabFailed, LabUnavailable
from tools.lab.machine import DEFAULT_NAME, Machine, Settings


class _NotReached(click.ClickException):
    exit_code = UNREACHABLE


def _name(_context: click.Context, _parameter: click.Parameter, value: str) -> str:
    try:
        return machines.check_name(value)
    except ValueError as error:
        raise click.BadParameter(str(error)) from None


_NAME = click.option("--name", default=DEFAULT_NAME, show_default=True, callback=_name, help="Of the guest.")


def _running(name: str) -> Machine:
    machine = machines.running(name)
    if machine is None:
        other = "" if name == DEFAULT_NAME else f" --name {name}"
        raise _NotReached(f"no guest called {name} runs here; start it with `sancredit lab up{other}`")
    return machine


@click.command(epilog="Example: sancredit lab up --forward 3260")
@_NAME
@click.option("--memory", type=click.IntRange(256, 65536), default=1024, show_default=True, help="MiB.")
@click.option("--processors", type=click.IntRange(1, 64), default=2, show_default=True)
@click.option(
    "--forward",
    "ports",
    type=click.IntRange(1, 65535),
    multiple=True,
    help="Lead a port of 127.0.0.1 to this TCP port of the guest; repeat for more.",
)
@click.option("--rebuild", is_flag=True, help="Build the image anew, from the packages that Debian has now.")
@output_option
def up(name: str, memory: int, processors: int, ports: tuple[int, ...], rebuild: bool, output: str) -> None:
    """Boot the guest; build it first, from Debian's packages, where the cache lacks it.

    The guest has LIO, open-iscsi, dm-multipath, FCoE and netem. It reaches this machine's 127.0.0.1 as 10.0.2.2.
    """
    try:
        machine = machines.up(
            name, Settings(memory_mib=memory, processors=processors), say=say, rebuild=rebuild
        )
        forwarded = {str(port): machine.forward(port) for port in ports}
    except LabUnavailable as error:
        raise Failed(str(error)) from None
    except LabError as error:
        raise Failed(str(error)) from None
    answer: dict[str, Any] = {
        "name": name,
        "pid": machine.pid,
        "accelerator": machine.accelerator,
        "boot_ns": int(machine.boot_s * 1e9),
        "console": str(machine.console),
        "forwarded": forwarded,
    }
    lines = [f"{name} is up ({machine.accelerator}, {machine.boot_s:g} s)"]
    lines += [f"127.0.0.1:{port} leads to its port {inner}" for inner, port in forwarded.items()]
    show_one(answer, output, "\n".join(lines))


@click.command(
    context_settings={"ignore_unknown_options": True, "allow_interspersed_args": False},
    epilog="Example: sancredit lab run -- targetcli ls\n"
    "Example: sancredit lab run --put target.toml:/tmp/target.toml -- cat /tmp/target.toml",
)
@_NAME
@click.option("--timeout", type=click.IntRange(1, 86400), default=600, show_default=True, help="Seconds.")
@click.option("--put", "puts", multiple=True, metavar="HERE:THERE", help="Copy a file into the guest before.")
@click.option(
    "--get", "gets", multiple=True, metavar="THERE:HERE", help="Copy a file out of the guest after."
)
@click.argument("command", nargs=-1, type=click.UNPROCESSED)
def run(
    name: str, timeout: int, puts: tuple[str, ...], gets: tuple[str, ...], command: tuple[str, ...]
) -> int:
    """Run a shell command in the guest; its output and its exit status (124: killed at the end of its time)."""
    machine = _running(name)
    if not command and not puts and not gets:
        raise click.UsageError("say what to run: sancredit lab run -- COMMAND")
    status = 0
    for text in puts:
        here, there = _pair(text, "--put")
        if not Path(here).is_file():
            raise BadValue(f"--put {here}: there is no such file")
        _done(lambda here=here, there=there: machine.agent.put(Path(here), there))
    if command:
        outcome = _done(lambda: machine.agent.run(" ".join(command), timeout_s=timeout))
        click.echo(outcome.output, nl=False)
        status = outcome.status & 0xFF
    for text in gets:
        there, here = _pair(text, "--get")
        _done(lambda here=here, there=there: machine.agent.get_file(there, Path(here)))
    return status


def _pair(text: str, option: str) -> tuple[str, str]:
    first, colon, second = text.partition(":")
    if not colon or not first or not second:
        raise click.UsageError(f"{option} is two paths with a colon between them, not {text!r:.120}")
    return first, second


def _done(action: Any) -> Any:
    try:
        return action()
    except LabFailed as error:
        raise Failed(str(error)) from None


@click.command(epilog="Example: sancredit lab down")
@_NAME
def down(name: str) -> None:
    """Switch the guest off; what it wrote is gone, the image stays in the cache."""
    _running(name).down()
    say(f"{name} is down")
