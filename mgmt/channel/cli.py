"""``sancredit probe serve``: a measuring device."""

from __future__ import annotations

import sys
from ipaddress import ip_address

import click

from mgmt.channel.serve import PeerDevice, PeerDeviceError, parse_peer
from mgmt.cli.failures import BadValue, Failed


@click.command(
    "serve",
    epilog="Example: sancredit probe serve --listen http://127.0.0.1:0 --address 127.0.0.1",
)
@click.option("--listen", required=True, help="Control address: unix:PATH or http://HOST:PORT (0: any port).")
@click.option("--address", required=True, help="IP address that probes leave from and arrive at.")
@click.option("--port", type=click.IntRange(0, 65535), default=0, help="UDP port of the responder; 0: any.")
@click.option(
    "--peer",
    "peers",
    multiple=True,
    metavar="[REMOTE-PORT=]IP:PORT",
    help="The device at a remote site. It answers for the port of the same address, or for REMOTE-PORT.",
)
def serve(listen: str, address: str, port: int, peers: tuple[str, ...]) -> None:
    """A measuring device: responds to probes, and measures a channel when asked (M1).

    Prints one line for each address once it is ready.
    """
    from mgmt.channel.endpoint import ResponderThread, udp_socket
    from mgmt.channel.serve import ChannelManager
    from mgmt.http import AddressError, ListenError
    from mgmt.http import serve as serve_http

    devices = _peers(peers)
    try:
        address = str(ip_address(address))
    except ValueError as error:
        raise BadValue(str(error)) from None
    host = f"[{address}]" if ":" in address else address
    try:
        sock = udp_socket(address, port)
    except OSError as error:
        raise Failed(f"cannot listen on udp://{host}:{port}: {str(error.strerror).lower()}") from None
    udp_port = sock.getsockname()[1]
    responder = ResponderThread(sock)

    def ready(control: object) -> None:
        sys.stdout.write(f"listening udp://{host}:{udp_port}\nlistening {control}\n")
        sys.stdout.flush()

    try:
        serve_http(ChannelManager(address, devices).app(), listen, ready)
    except AddressError as error:
        raise BadValue(str(error)) from None
    except ListenError as error:
        raise Failed(str(error)) from None
    finally:
        responder.close()


def _peers(texts: tuple[str, ...]) -> dict[str, PeerDevice]:
    try:
        devices = [parse_peer(text) for text in texts]
    except PeerDeviceError as error:
        raise BadValue(str(error)) from None
    return {device.remote_port: device for device in devices}
