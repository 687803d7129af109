"""``sancredit array serve``: a storage array."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import click

from mgmt.cli.credentials import server_credentials, server_options
from mgmt.cli.failures import BadValue, Failed


@click.command(
    "serve",
    epilog="Example: sancredit array serve --name east --listen http://127.0.0.1:0 --port-address 127.0.0.1 "
    "--iscsi-port 0 --volume vol0=64MiB",
)
@click.option("--config", "file", type=click.Path(path_type=Path), help="TOML file; flags go before it.")
@click.option("--name", help="Name of the array.")
@click.option("--listen", help="Control address: unix:PATH or http(s)://HOST:PORT (0: any port).")
@click.option("--port-address", metavar="IP", help="IP address of the communication interface's port.")
@click.option("--iscsi-port", type=int, help="TCP port of the iSCSI target; 0: any. Default 3260.")
@click.option("--iqn", help="iSCSI name of the target.")
@click.option("--unit", metavar="SIZE", help="Size of one memory buffer. Default 16KiB.")
@click.option("--units", type=int, help="Number of memory buffers. Default 256.")
@click.option("--pages", type=int, help="Number of unsplit pages that the pool may still split. Default 0.")
@click.option("--page", metavar="SIZE", help="Size of a page. Default 64KiB.")
@click.option("--min-free", type=int, help="Units that reservations leave free for hosts. Default 0.")
@click.option(
    "--volume",
    "volumes",
    multiple=True,
    metavar="NAME=STORE",
    help="A volume: PATH of a file or block device, PATH:SIZE (a missing file is created, sparse), or SIZE for memory. "
    "LUNs are numbered from 0.",
)
@click.option(
    "--state", metavar="DIR", help="Directory of the reservations' journal. Default: in memory only."
)
@click.option("--cache", "cache_size", metavar="SIZE", help="Cache memory for writes. Default: none.")
@click.option(
    "--chap-file",
    metavar="FILE",
    help="The secret that all arrays share, mode 0600; made if missing. Default: DIR/chap of --state, else one for "
    "this run.",
)
@click.option("--no-chap", is_flag=True, help="Let other arrays copy to this one without the secret.")
@click.option("--station", metavar="URL", help="The management station, told when the cache is short.")
@click.option("--allocation-units", type=int, help="Units that one connection of a copy allocates.")
@click.option("--extent", metavar="SIZE", help="Bytes of one write of a copy. Default 64KiB.")
@click.option(
    "--congestion", metavar="NAME", help="TCP congestion control of copies (cubic, bbr, …). Default cubic."
)
@server_options
def serve(
    file: Path | None,
    volumes: tuple[str, ...],
    no_chap: bool,
    tls_cert: Path | None,
    tls_key: Path | None,
    tls_ca: Path | None,
    token_file: Path | None,
    **flags: Any,
) -> None:
    """A storage array: an iSCSI target for hosts, remote copy, and reservations for it.

    The flags describe an array with one TCP interface; a file may list several, of TCP and of Fibre Channel, in
    [[interface]] tables. Prints one line for each address once it is ready. SIGTERM ends it: commands and copies under
    way are ended in order, and the cache is written back.
    """
    from mgmt.array.configuration import Settings, build, load, parse_volumes
    from mgmt.array.errors import CannotServe, ConfigurationError
    from mgmt.array.process import Listening
    from mgmt.array.process import serve as serve_array
    from mgmt.array.volumes import VolumeError
    from mgmt.http import AddressError, ListenError, parse_address

    try:
        chap = False if no_chap else None
        settings = Settings(**flags, chap=chap, volumes=parse_volumes(volumes))
        config = build(settings, load(file) if file is not None else None)
    except ConfigurationError as error:
        raise BadValue(str(error)) from None
    credentials = server_credentials(
        parse_address(config.listen), tls_cert=tls_cert, tls_key=tls_key, tls_ca=tls_ca, token_file=token_file
    )

    def ready(listening: Listening) -> None:
        for address in (*listening.portals, listening.control):
            sys.stdout.write(f"listening {address}\n")
        sys.stdout.flush()

    try:
        serve_array(config, ready, credentials)
    except (ConfigurationError, VolumeError, AddressError) as error:
        raise BadValue(str(error)) from None
    except (CannotServe, ListenError) as error:
        raise Failed(str(error)) from None
