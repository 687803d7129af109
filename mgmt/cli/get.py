"""``sancredit get …``: the tables."""

from __future__ import annotations

import sys
import time

import click

from mgmt.cli.options import headers_option, open_station, output_option, station_option
from mgmt.cli.output import show_list
from mgmt.layouts import LAYOUTS

_SHORTEST_WATCH_S = 0.1


def _command(name: str) -> click.Command:
    @click.command(name, help=f"{LAYOUTS[name].title}.", epilog=f"Example: sancredit get {name} -o wide")
    @output_option
    @headers_option
    @click.option(
        "--watch",
        is_flag=False,
        flag_value=2.0,
        type=click.FloatRange(_SHORTEST_WATCH_S, 86400),
        metavar="[SECONDS]",
        help="Show it again and again, every 2 seconds unless told.",
    )
    @station_option
    def command(output: str, no_headers: bool, watch: float | None, station: str) -> int:
        with open_station(station) as peer:
            code = show_list(peer, name, output, not no_headers)
            try:
                while watch is not None:
                    time.sleep(watch)
                    _separate(output)
                    code = show_list(peer, name, output, not no_headers)
            except KeyboardInterrupt:
                return code
        return code

    return command


def _separate(output: str) -> None:
    """Between two showings: a clear screen on a terminal, an empty line in a file of tables."""
    if sys.stdout.isatty():
        click.clear()
    elif output in ("table", "wide"):
        click.echo()


get_arrays = _command("arrays")
get_ports = _command("ports")
get_pools = _command("pools")
get_channels = _command("channels")
get_reservations = _command("reservations")
get_allocations = _command("allocations")
get_buffer_ids = _command("buffer-ids")
get_pairs = _command("pairs")
get_copies = _command("copies")
