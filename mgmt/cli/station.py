"""``sancredit station serve``: the management station."""

from __future__ import annotations

import os
import sys
import threading
from pathlib import Path

import click

from mgmt.cli.options import DEFAULT_STATION


@click.command(epilog="Example: sancredit station serve --listen http://127.0.0.1:0 --state ./station")
@click.option(
    "--listen", default=DEFAULT_STATION, show_default=True, help="http://HOST:PORT (0: any) or unix:PATH."
)
@click.option(
    "--state",
    type=click.Path(path_type=Path, file_okay=False),
    help="Directory of table 108; ~/.local/state/sancredit/station unless told.",
)
@click.option(
    "--array", "arrays", multiple=True, metavar="NAME=ADDRESS", help="A storage array; repeat for each."
)
@click.option(
    "--probe", "probes", multiple=True, metavar="ADDRESS", help="A measuring device; repeat for each."
)
def serve(listen: str, state: Path | None, arrays: tuple[str, ...], probes: tuple[str, ...]) -> None:
    """Run the management station until SIGTERM or Ctrl-C. Prints one line once it is ready."""
    from mgmt.http import Address, parse_address
    from mgmt.http import serve as serve_http
    from mgmt.http.address import masked
    from mgmt.station.api import make_app
    from mgmt.station.assembly import assemble
    from mgmt.station.both_ends import Settler

    parse_address(listen)
    named = {}
    for text in arrays:
        name, sign, address = text.partition("=")
        if not sign or not name or not name.isprintable() or len(name) > 64 or name in named:
            raise click.UsageError(
                f"--array is NAME=ADDRESS with a name of its own, not {masked(text)!r:.120}"
            )
        named[name] = parse_address(address)
    station = assemble(state or _default_state(), named, [parse_address(text) for text in probes])

    def ready(address: Address) -> None:
        sys.stdout.write(f"listening {address}\n")
        sys.stdout.flush()

    try:
        with Settler(station):
            serve_http(make_app(station), listen, ready)
    finally:
        station.close()
    _leave()


def _leave() -> None:
    """End the process now, with exit code 0, even if threads still wait for an array that does not answer.

    Everything is closed and durable here; without this the interpreter would wait for those threads' time-outs.
    """
    others = [thread for thread in threading.enumerate() if thread is not threading.main_thread()]
    if any(not thread.daemon for thread in others):
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(0)


def _default_state() -> Path:
    base = os.environ.get("XDG_STATE_HOME") or "~/.local/state"
    return Path(base).expanduser() / "sancredit" / "station"
