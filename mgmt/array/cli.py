"""``sancredit array serve``: a storage array."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import click

from mgmt.cli.failures import BadValue, Failed


@click.command(
    "serve",
    epilog="Example: sancredit array serve --name east --listen http://127.0.0.1:0 --port-address 127.0.0.1 "
    "--iscsi-port 0 --volume vol0=/tmp/east.img:64MiB",
)
@click.option("--config", "file", type=click.Path(path_type=Path), help="TOML file; flags go before it.")
@click.option("--name", help="Name of the array.")
@click.option("--listen", help="Control address: unix:PATH or http://HOST:PORT (0: any port).")
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
    metavar="NAME=PATH[:SIZE]",
    help="A volume in a file; LUNs are numbered from 0. With SIZE a missing file is created, sparse.",
)
@click.option(
    "--state", metavar="DIR", help="Directory of the reservations' journal. Default: in memory only."
)
@click.option("--allocation-units", type=int, help="Units that one connection of a copy allocates.")
@click.option("--extent", metavar="SIZE", help="Bytes of one write of a copy. Default 64KiB.")
def serve(file: Path | None, volumes: tuple[str, ...], **flags: Any) -> None:
    """A storage array: an iSCSI target for hosts, remote copy, and reservations for it.

    Prints one line for each address once it is ready.
    """
    from mgmt.array.configuration import ConfigurationError, Settings, build, load, parse_volumes
    from mgmt.array.process import CannotServe, Listening, host_port
    from mgmt.array.process import serve as serve_array
    from mgmt.array.volumes import VolumeError
    from mgmt.http import AddressError, ListenError

    try:
        settings = Settings(**flags, volumes=parse_volumes(volumes))
        config = build(settings, load(file) if file is not None else None)
    except ConfigurationError as error:
        raise BadValue(str(error)) from None

    def ready(listening: Listening) -> None:
        portal = host_port(config.port_address, listening.iscsi_port)
        sys.stdout.write(f"listening iscsi://{portal}/{config.iqn}\nlistening {listening.control}\n")
        sys.stdout.flush()

    try:
        serve_array(config, ready)
    except (ConfigurationError, VolumeError, AddressError) as error:
        raise BadValue(str(error)) from None
    except (CannotServe, ListenError) as error:
        raise Failed(str(error)) from None
