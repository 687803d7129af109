"""``sancredit station serve``: the management station."""

from __future__ import annotations

import gc
import os
import sys
import threading
from pathlib import Path
from typing import TYPE_CHECKING

import click

from mgmt.cli.credentials import peer_credentials, peer_options, server_tls, tls_options
from mgmt.cli.failures import BadValue
from mgmt.cli.options import DEFAULT_STATION
from mgmt.cli.store import default_state, store_of, store_options

if TYPE_CHECKING:
    from mgmt.api.security.gate import Security
    from mgmt.http.address import Address


@click.command(epilog="Example: sancredit station serve --listen http://127.0.0.1:0 --state ./station")
@click.option(
    "--listen",
    default=DEFAULT_STATION,
    show_default=True,
    help="http://HOST:PORT (0: any) or unix:PATH; https://HOST:PORT with a certificate.",
)
@click.option(
    "--state",
    type=click.Path(path_type=Path, file_okay=False),
    help="Directory of table 108; ~/.local/state/sancredit/station unless told.",
)
@store_options
@click.option(
    "--array", "arrays", multiple=True, metavar="NAME=ADDRESS", help="A storage array; repeat for each."
)
@click.option(
    "--probe", "probes", multiple=True, metavar="ADDRESS", help="A measuring device; repeat for each."
)
@tls_options
@click.option("--require-token", is_flag=True, help="Ask for tokens on this machine's own addresses too.")
@click.option(
    "--notify-key",
    "notify_keys",
    multiple=True,
    type=click.Path(path_type=Path, dir_okay=False),
    help="Take only notifications (M9) signed with the key in this file; repeat for each device.",
)
@peer_options
def serve(
    listen: str,
    state: Path | None,
    store: str | None,
    store_password_file: Path | None,
    arrays: tuple[str, ...],
    probes: tuple[str, ...],
    tls_cert: Path | None,
    tls_key: Path | None,
    tls_ca: Path | None,
    require_token: bool,
    notify_keys: tuple[Path, ...],
    peer_ca: Path | None,
    peer_cert: Path | None,
    peer_key: Path | None,
    peer_token: str | None,
) -> None:
    """Run the management station until SIGTERM or Ctrl-C. Prints one line once it is ready.

    On loopback and Unix sockets it asks for no password. Any other address takes TLS, and asks for a token (`sancredit
    station token`) or a client certificate.
    """
    from mgmt.api.app import make_app
    from mgmt.http import parse_address
    from mgmt.http import serve as serve_http
    from mgmt.http.address import masked
    from mgmt.station.assembly import assemble
    from mgmt.station.watch import Keeper
    from mgmt.web.pages import add_pages

    state = state or default_state()
    tls = server_tls(tls_cert, tls_key, tls_ca, mutual=False)
    security = _security(parse_address(listen), state, notify_keys, tls is not None or require_token)
    named = {}
    for text in arrays:
        name, sign, address = text.partition("=")
        if not sign or not name or not name.isprintable() or len(name) > 64 or name in named:
            raise click.UsageError(
                f"--array is NAME=ADDRESS with a name of its own, not {masked(text)!r:.120}"
            )
        named[name] = parse_address(address)
    credentials = peer_credentials(peer_ca, peer_cert, peer_key, peer_token)
    url, password = store_of(store, store_password_file)
    station = assemble(
        None if url is not None else state,
        named,
        [parse_address(text) for text in probes],
        store_url=url,
        store_password=password,
        credentials=credentials,
    )

    calm_collector()

    def ready(address: Address) -> None:
        sys.stdout.write(f"listening {address}\n")
        sys.stdout.flush()

    try:
        with Keeper(station):
            serve_http(make_app(station, security=security, faces=(add_pages,)), listen, ready, tls=tls)
    finally:
        station.close()
    _leave()


def calm_collector() -> None:
    """Have the cyclic garbage collector look through everything a hundred times less often than it would.

    A station keeps what hundreds of arrays say: going through all of it holds every request up for as long (measured:
    0.1 to 0.8 s with 10,000 reservations), to find next to nothing, since rows have no cycles.
    """
    gc.freeze()
    gc.set_threshold(20_000, 20, 100)


def _leave() -> None:
    """End the process now, with exit code 0, even if threads still wait for an array that does not answer.

    Everything is closed and durable here; without this the interpreter would wait for those threads' time-outs.
    """
    others = [thread for thread in threading.enumerate() if thread is not threading.main_thread()]
    if any(not thread.daemon for thread in others):
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(0)


def _security(listen: Address, state: Path, notify_keys: tuple[Path, ...], tokens: bool) -> Security:
    """What the station demands at ``listen``."""
    from mgmt.api.security.gate import Security
    from mgmt.api.security.tokens import FILE_NAME, TokenFile
    from mgmt.http.signing import KeyFileError, read_key

    try:
        keys = {key.name: key for key in map(read_key, notify_keys)}
    except KeyFileError as error:
        raise BadValue(str(error)) from None
    if tokens or not listen.is_loopback:
        return Security.remote(TokenFile(state / FILE_NAME), keys)
    return Security(keys=keys)
