"""``sancredit alarm ack`` and ``sancredit audit show|verify``."""

from __future__ import annotations

from urllib.parse import quote

import click

from mgmt.cli.answers import checked
from mgmt.cli.failures import FAILED
from mgmt.cli.options import headers_option, open_station, output_option, station_option
from mgmt.cli.output import show_list, show_one
from mgmt.cli.watching import watch_option, watched


@click.command(epilog="Example: sancredit alarm ack 1 --note 'on it'")
@click.argument("number", type=click.IntRange(1))
@click.option("--note", default="", help="What to say about it; at most 500 characters.")
@output_option
@station_option
def ack(number: int, note: str, output: str, station: str) -> None:
    """Say that alarm NUMBER has been seen; it stays until its cause has gone."""
    with open_station(station) as peer:
        row = peer.post(f"/api/v1/alarms/{number}/ack", {"note": note})
        checked(peer, row, number=int, state=str, kind=str, subject=str)
    show_one(row, output, f"alarm {row['number']} ({row['kind']}, {row['subject']}) is {row['state']}")


@click.command(epilog="Example: sancredit audit show --limit 20 -o wide")
@click.option(
    "--limit", type=click.IntRange(1, 1000), default=50, show_default=True, help="How many records."
)
@click.option("--after", type=click.IntRange(0), help="From the record after this number on.")
@output_option
@headers_option
@watch_option
@station_option
def show_audit(
    limit: int, after: int | None, output: str, no_headers: bool, watch: float | None, station: str
) -> int:
    """The newest records of the audit trail, the oldest of them first."""
    query = [("limit", limit), ("after", after)]
    with open_station(station) as peer:
        return watched(watch, output, lambda: show_list(peer, "audit", output, not no_headers, query=query))


@click.command(epilog="Example: sancredit audit verify")
@click.option(
    "--head", metavar="NUMBER:HASH", help="A head that was noted earlier: the trail has to go on from it."
)
@output_option
@station_option
def verify_audit(head: str | None, output: str, station: str) -> int:
    """Whether every record is as it was written and none is missing. Says the head: note it somewhere else."""
    query = "" if head is None else f"?head={quote(head, safe='')}"
    with open_station(station, 120) as peer:
        found = peer.get(f"/api/v1/audit/verify{query}")
        checked(peer, found, sound=bool, records=int, head=str, detail=str)
    if found["sound"]:
        sentence = f"the audit trail is sound: {found['records']} records, head {found['head']}"
    else:
        sentence = f"the audit trail is NOT as it was written: {found['detail']}"
    show_one(found, output, sentence)
    return 0 if found["sound"] else FAILED
