"""``sancredit target faults|sessions|log|capture``: a running target through its control API."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from mgmt.cli.failures import BadValue
from mgmt.cli.options import SIZE, headers_option, output_option
from mgmt.cli.output import rows_of, show, show_one
from mgmt.cli.target import control_address

if TYPE_CHECKING:
    from mgmt.http import Peer

F = TypeVar("F", bound=Callable[..., Any])
_FOLLOW_S = 0.2
_FILE = click.Path(path_type=Path, dir_okay=False)


def _example(*commands: str) -> str:
    """Examples, and what has to be there for them."""
    return (
        "\b\nIt asks a running target: sancredit target serve --lun 64MiB --control /tmp/target.sock\n"
        + "\n".join(f"Example: {command}" for command in commands)
    )


def control_option(command: F) -> F:
    """``--control`` and ``--token``, also from the environment."""
    command = click.option(
        "--token",
        envvar="SANCREDIT_TARGET_TOKEN_FILE",
        type=_FILE,
        help="File with the target's token, where it wants one; also SANCREDIT_TARGET_TOKEN_FILE.",
    )(command)
    return click.option(
        "--control",
        envvar="SANCREDIT_TARGET",
        required=True,
        metavar="PATH|ADDRESS",
        help="The target's control API: its Unix socket or http://HOST:PORT; also SANCREDIT_TARGET.",
    )(command)


def list_command(path: str, layout: str, about: str, example: str) -> click.Command:
    """A command that shows a table of the target, once or again and again."""

    @click.command(help=about, epilog=_example(example))
    @control_option
    @output_option
    @headers_option
    @click.option(
        "--watch",
        is_flag=False,
        flag_value=2.0,
        type=click.FloatRange(0.1, 86400),
        metavar="[SECONDS]",
        help="Show it again and again, every 2 seconds unless told.",
    )
    def command(control: str, token: Path | None, output: str, no_headers: bool, watch: float | None) -> None:
        with _target(control, token) as target, suppress(KeyboardInterrupt):
            while True:
                show(rows_of(target.get(path)), layout, output, headers=not no_headers)
                if watch is None:
                    return
                time.sleep(watch)
                if sys.stdout.isatty():
                    click.clear()

    return command


@contextmanager
def _target(control: str, token: Path | None) -> Iterator[Peer]:
    from mgmt.http.client import Peer

    shown = None
    if token is not None:
        from mgmt.target.token import read_token

        shown = read_token(token)
    with Peer(control_address(control), name="the target", token=shown) as peer:
        yield peer


list_faults = list_command(
    "/faults",
    "target-faults",
    "The rules in the order in which they are tried, and how often each matched and fired.",
    "sancredit target faults list --control /tmp/target.sock -o wide",
)


@click.command(
    epilog=_example(
        "sancredit target faults add --control /tmp/target.sock examples/faults.toml",
        "sancredit target faults add --control /tmp/target.sock --rule "
        """'{name = "slow", action = "latency", delay = "20ms", command = "read"}'""",
    )
)
@click.argument("files", nargs=-1, type=_FILE)
@click.option("--rule", "rules", multiple=True, metavar="TABLE", help="One rule as an inline table of TOML.")
@click.option("--replace", is_flag=True, help="Rules of the same name are replaced.")
@control_option
def add_faults(
    files: tuple[Path, ...], rules: tuple[str, ...], replace: bool, control: str, token: Path | None
) -> None:
    """Add the rules of TOML files, or written here: all of them, or none."""
    from iscsi_target.faults import FaultError, load_rules, rule_to_table

    try:
        tables = [rule_to_table(rule) for path in files for rule in load_rules(path).rules]
    except FaultError as error:
        raise BadValue(str(error)) from error
    tables += [_inline(text) for text in rules]
    if not tables:
        raise click.UsageError("name a file of rules, or give --rule")
    with _target(control, token) as target:
        added = target.post("/faults", {"rules": tables, "replace": replace})["added"]
    click.echo(f"added {', '.join(added)}")


def _inline(text: str) -> dict[str, Any]:
    import tomllib

    try:
        table = tomllib.loads(f"rule = {text}")["rule"]
    except tomllib.TOMLDecodeError as error:
        raise click.UsageError(
            f"--rule is an inline table of TOML, {{name = …, action = …}}: {error}"
        ) from error
    if not isinstance(table, dict):
        raise click.UsageError("--rule is an inline table of TOML: {name = …, action = …}")
    return table


def _for_each(names: tuple[str, ...], control: str, token: Path | None, path: str, **values: object) -> None:
    with _target(control, token) as target:
        for name in names:
            row = target.post(path, {"name": name, **values})
            click.echo(f"{name}: matched {row['matched']}, fired {row['fired']}")


@click.command(epilog=_example("sancredit target faults remove --control /tmp/target.sock slow"))
@click.argument("names", nargs=-1, required=True)
@control_option
def remove_faults(names: tuple[str, ...], control: str, token: Path | None) -> None:
    """Remove rules by name; says how often each matched and fired."""
    _for_each(names, control, token, "/faults/remove")


@click.command(epilog=_example("sancredit target faults clear --control /tmp/target.sock"))
@control_option
def clear_faults(control: str, token: Path | None) -> None:
    """Remove every rule."""
    with _target(control, token) as target:
        click.echo(f"removed {target.post('/faults/clear', {})['removed']}")


@click.command(epilog=_example("sancredit target faults enable --control /tmp/target.sock slow"))
@click.argument("names", nargs=-1, required=True)
@control_option
def enable_faults(names: tuple[str, ...], control: str, token: Path | None) -> None:
    """Let rules work again; their counters go on."""
    _for_each(names, control, token, "/faults/enable", enabled=True)


@click.command(epilog=_example("sancredit target faults disable --control /tmp/target.sock slow"))
@click.argument("names", nargs=-1, required=True)
@control_option
def disable_faults(names: tuple[str, ...], control: str, token: Path | None) -> None:
    """Let rules rest; their counters stay."""
    _for_each(names, control, token, "/faults/enable", enabled=False)


list_sessions = list_command(
    "/sessions",
    "target-sessions",
    "The sessions there are.",
    "sancredit target sessions list --control /tmp/target.sock -o wide",
)


@click.command(epilog=_example("sancredit target sessions end --control /tmp/target.sock 1"))
@click.argument("session", type=int)
@control_option
def end_session(session: int, control: str, token: Path | None) -> None:
    """End a session at once: its connections are closed."""
    with _target(control, token) as target:
        target.post("/sessions/end", {"session": session})


@click.command(epilog=_example("sancredit target sessions logout --control /tmp/target.sock 1 --time 5"))
@click.argument("session", type=int)
@click.option(
    "--time", "time_s", type=click.IntRange(0, 0xFFFF), default=10, show_default=True, help="Seconds."
)
@control_option
def logout(session: int, time_s: int, control: str, token: Path | None) -> None:
    """Ask the initiator of a session to log out (asynchronous message, event 1)."""
    with _target(control, token) as target:
        target.post("/sessions/logout", {"session": session, "time_s": time_s})


@click.command(
    epilog=_example("sancredit target sessions async --control /tmp/target.sock 1 --event scsi-event")
)
@click.argument("session", type=int)
@click.option(
    "--event", required=True, help="scsi-event, logout-requested, connection-dropped, …, or its number."
)
@click.option("--lun", type=click.IntRange(0, 0x3FFF), default=0, help="LUN of a SCSI event.")
@control_option
def send_async(session: int, event: str, lun: int, control: str, token: Path | None) -> None:
    """Send an asynchronous message to a session; the target then does what it said."""
    value = int(event) if event.isascii() and event.isdigit() else event
    with _target(control, token) as target:
        target.post("/sessions/async", {"session": session, "event": value, "lun": lun})


@click.command(epilog=_example("sancredit target log --control /tmp/target.sock --count 50 --opcode r2t"))
@click.option("--count", type=click.IntRange(1, 1000), default=20, show_default=True, help="How many PDUs.")
@click.option("--opcode", help="Only this PDU: data-in, r2t, …")
@click.option("--command", help="Only PDUs of tasks of this SCSI command: read, write-10, …")
@click.option("--rule", help="Only PDUs that this fault rule fired on.")
@click.option("--session", type=int, help="Only PDUs of this session.")
@click.option("-f", "--follow", is_flag=True, help="Go on with those that come, until Ctrl-C.")
@control_option
@click.option("-o", "--output", type=click.Choice(("lines", "json")), default="lines", show_default=True)
def log(
    count: int,
    opcode: str | None,
    command: str | None,
    rule: str | None,
    session: int | None,
    follow: bool,
    control: str,
    token: Path | None,
    output: str,
) -> None:
    """The last PDUs: one JSON object on each line, or all as one list."""
    from urllib.parse import urlencode

    asked: dict[str, Any] = {
        "count": count,
        "opcode": opcode,
        "command": command,
        "rule": rule,
        "session": session,
    }
    if follow and output == "json":
        raise click.UsageError("a list that never ends is no JSON: --follow goes with lines")
    with _target(control, token) as target, suppress(KeyboardInterrupt):
        while True:
            query = urlencode({key: value for key, value in asked.items() if value is not None})
            rows = rows_of(target.get(f"/log?{query}"))
            if output == "json":
                click.echo(json.dumps(rows, indent=2))
            for row in rows if output == "lines" else ():
                click.echo(json.dumps(row))
            if not follow:
                return
            if rows:
                asked |= {"after": rows[-1]["number"], "count": 1000}
            time.sleep(_FOLLOW_S)


list_captures = list_command(
    "/captures",
    "target-captures",
    "The captures under way.",
    "sancredit target capture list --control /tmp/target.sock",
)


@click.command(
    epilog=_example("sancredit target capture start --control /tmp/target.sock /tmp/target.pcapng")
)
@click.argument("file", type=_FILE)
@click.option("--session", type=int, help="Only this session.")
@click.option("--initiator", help="Only initiators of this name; * and ? as in a shell.")
@click.option("--snap", type=SIZE, help="Keep so much of each packet, headers included.")
@click.option("--rotate", type=SIZE, help="Begin another file beyond this size.")
@click.option("--files", type=click.IntRange(1), help="Keep the latest so many files.")
@control_option
def start_capture(
    file: Path,
    session: int | None,
    initiator: str | None,
    snap: int | None,
    rotate: int | None,
    files: int | None,
    control: str,
    token: Path | None,
) -> None:
    """Begin a capture into a new pcapng file, written by the target."""
    asked = {
        "path": str(file.absolute()),
        "session": session,
        "initiator": initiator,
        "snap_bytes": snap,
        "rotate_bytes": rotate,
        "files": files,
    }
    with _target(control, token) as target:
        target.post("/captures/start", {key: value for key, value in asked.items() if value is not None})


@click.command(epilog=_example("sancredit target capture stop --control /tmp/target.sock /tmp/target.pcapng"))
@click.argument("file", type=_FILE)
@control_option
@output_option
def stop_capture(file: Path, control: str, token: Path | None, output: str) -> None:
    """End a capture; its file is complete afterwards."""
    with _target(control, token) as target:
        row = target.post("/captures/stop", {"path": str(file.absolute())})
    show_one(row, output, f"{row['file']}: {row['packets']} packets")
