"""``sancredit probe serve``: a measuring device."""

from __future__ import annotations

import sys
from dataclasses import replace
from ipaddress import ip_address
from pathlib import Path
from typing import TYPE_CHECKING

import click

from mgmt.channel.serve import ChannelManager, PeerDevice, PeerDeviceError, parse_peer
from mgmt.cli.credentials import peer_credentials, peer_options, server_credentials, server_options
from mgmt.cli.failures import BadValue, Failed

if TYPE_CHECKING:
    from mgmt.channel.watch import Watching
    from mgmt.http.credentials import ClientCredentials
    from mgmt.http.signing import SigningKey

_FILE = click.Path(path_type=Path, dir_okay=False)


@click.command(
    "serve",
    epilog="\b\nExample: sancredit probe serve --listen http://127.0.0.1:0 --address 127.0.0.1\n"
    "Example: sancredit probe serve --listen unix:/run/sancredit/probe.sock --address 10.0.0.1 --peer 10.0.0.2:862 "
    "--station unix:/run/sancredit/station.sock --array unix:/run/sancredit/array.sock",
)
@click.option(
    "--listen", required=True, help="Control address: unix:PATH or http(s)://HOST:PORT (0: any port)."
)
@click.option("--address", required=True, help="IP address that probes leave from and arrive at.")
@click.option("--port", type=click.IntRange(0, 65535), default=0, help="UDP port of the responder; 0: any.")
@click.option(
    "--peer",
    "peers",
    multiple=True,
    metavar="[REMOTE-PORT=]IP:PORT",
    help="The device at a remote site. It answers for the port of the same address, or for REMOTE-PORT.",
)
@click.option(
    "--station",
    help="Watch the channels to all peers, and tell this station when one has changed (M9).",
)
@click.option(
    "--local-port",
    help="The array's port that watched channels begin at, where that is not --address.",
)
@click.option(
    "--array",
    "arrays",
    multiple=True,
    help="An array of this site: how fast its copies get on is how much a busy channel carries.",
)
@click.option(
    "--key",
    "key_file",
    type=_FILE,
    help="The key of both devices, in a file: probes in STAMP's authenticated mode, notifications signed.",
)
@click.option(
    "--trains-every",
    type=click.FloatRange(1, 86400),
    default=30,
    show_default=True,
    help="Seconds between packet trains over a watched channel that no copy uses.",
)
@peer_options
@server_options
def serve(
    listen: str,
    address: str,
    port: int,
    peers: tuple[str, ...],
    station: str | None,
    local_port: str | None,
    arrays: tuple[str, ...],
    key_file: Path | None,
    trains_every: float,
    peer_ca: Path | None,
    peer_cert: Path | None,
    peer_key: Path | None,
    peer_token: str | None,
    tls_cert: Path | None,
    tls_key: Path | None,
    tls_ca: Path | None,
    token_file: Path | None,
) -> None:
    """A measuring device: responds to probes, measures a channel when asked (M1), and watches it with --station (M9).

    Probes are STAMP (RFC 8762) and packet trains on one UDP port. Prints one line for each address once it is ready.
    """
    from mgmt.channel.endpoint import ResponderThread, udp_socket
    from mgmt.http import AddressError, ListenError, parse_address
    from mgmt.http import serve as serve_http

    if station is None and (arrays or local_port is not None):
        raise BadValue("--array and --local-port are about what a station is told: give --station too")
    devices, key = _peers(peers), _key(key_file)
    try:
        control = parse_address(listen)
    except AddressError as error:
        raise BadValue(str(error)) from None
    credentials = server_credentials(
        control, tls_cert=tls_cert, tls_key=tls_key, tls_ca=tls_ca, token_file=token_file
    )
    try:
        address = str(ip_address(address))
        local_port = address if local_port is None else str(ip_address(local_port))
    except ValueError as error:
        raise BadValue(str(error)) from None
    host = f"[{address}]" if ":" in address else address
    try:
        sock = udp_socket(address, port)
    except OSError as error:
        raise Failed(f"cannot listen on udp://{host}:{port}: {str(error.strerror).lower()}") from None
    udp_port = sock.getsockname()[1]
    secret = None if key is None else key.secret
    manager = ChannelManager(address, devices, key=secret)
    responder = ResponderThread(sock, secret)
    watching = None

    def ready(listening: object) -> None:
        sys.stdout.write(f"listening udp://{host}:{udp_port}\nlistening {listening}\n")
        sys.stdout.flush()

    try:
        if station is not None:
            shown = peer_credentials(peer_ca, peer_cert, peer_key, peer_token)
            watching = _watching(
                manager, address, local_port, devices, station, arrays, key, shown, trains_every
            )
        app = credentials.guard(manager.app())
        serve_http(app, listen, ready, tls=credentials.tls)
    except AddressError as error:
        raise BadValue(str(error)) from None
    except ListenError as error:
        raise Failed(str(error)) from None
    finally:
        if watching is not None:
            watching.close()
        responder.close()


def _key(file: Path | None) -> SigningKey | None:
    from mgmt.http.signing import KeyFileError, read_key

    try:
        return None if file is None else read_key(file)
    except KeyFileError as error:
        raise BadValue(str(error)) from None


def _watching(
    manager: ChannelManager,
    address: str,
    local_port: str,
    devices: dict[str, PeerDevice],
    station: str,
    arrays: tuple[str, ...],
    key: SigningKey | None,
    shown: ClientCredentials,
    trains_every_s: float,
) -> Watching:
    from mgmt.channel.watch import ChannelWatch, WatchConfig, Watching
    from mgmt.http import Peer
    from mgmt.http.tls import TlsError

    try:
        told = Peer(station, 5.0, retries=0, name="the station", credentials=replace(shown, key=key))
        asked = [Peer(array, 2.0, retries=0, name="the array", credentials=shown) for array in arrays]
    except TlsError as error:
        raise BadValue(str(error)) from None
    secret = None if key is None else key.secret
    channels = [
        ChannelWatch(address, local_port, device.remote_port, (device.host, device.port), secret)
        for device in devices.values()
    ]
    return Watching(
        channels,
        station=told,
        arrays=asked,
        measure=lambda remote_port: manager.measure(devices[remote_port]),
        config=WatchConfig(trains_every_s=trains_every_s),
    )


def _peers(texts: tuple[str, ...]) -> dict[str, PeerDevice]:
    try:
        devices = [parse_peer(text) for text in texts]
    except PeerDeviceError as error:
        raise BadValue(str(error)) from None
    return {device.remote_port: device for device in devices}
