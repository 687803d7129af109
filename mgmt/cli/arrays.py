"""``sancredit array add|remove``: which arrays a running station has."""

from __future__ import annotations

import click

from mgmt.cli.answers import checked
from mgmt.cli.options import open_station, output_option, station_option
from mgmt.cli.output import show, show_one


@click.command("add", epilog="Example: sancredit array add east unix:/tmp/east.sock")
@click.argument("name")
@click.argument("address")
@output_option
@station_option
def add(name: str, address: str, output: str, station: str) -> None:
    """Have the station manage the array NAME at ADDRESS from now on, or find it there."""
    with open_station(station) as peer:
        row = peer.post("/api/v1/arrays", {"name": name, "address": address})
        checked(peer, row, array=str, state=str)
    show([row], "arrays", output)


@click.command("remove", epilog="Example: sancredit array remove east")
@click.argument("name")
@output_option
@station_option
def remove(name: str, output: str, station: str) -> None:
    """Have the station manage the array NAME no more; its reservations stay with it."""
    with open_station(station) as peer:
        row = checked(peer, peer.post("/api/v1/arrays/remove", {"name": name}), array=str, address=str)
    show_one(row, output, f"array {row['array']} at {row['address']} is not of this station any more")
