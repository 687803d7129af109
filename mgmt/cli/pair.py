"""``sancredit pair …``: pairs and consistency groups."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, TypeVar
from urllib.parse import quote

import click

from mgmt.cli.answers import checked
from mgmt.cli.options import headers_option, open_station, output_option, station_option, two
from mgmt.cli.output import rows_of, say, show, show_list, show_one
from mgmt.columns import delay, size

F = TypeVar("F", bound=Callable[..., Any])

_TIMEOUT_S = 80.0
_STATUS = {"group": str, "state": str, "role": str, "mode": str, "rpo_bytes": int}


def group_path(group: str, verb: str = "") -> str:
    """Where the station has a group."""
    return f"/api/v1/groups/{quote(group, safe='')}" + (f"/{verb}" if verb else "")


def sentence(found: Mapping[str, Any]) -> str:
    """A group's status for people."""
    rpo = found.get("rpo_ns")
    behind = "" if found["role"] != "P-VOL" else f", {size(found['rpo_bytes'])} behind"
    if rpo is not None and behind:
        behind += f" ({delay(rpo)})"
    text = f"{found['group']}: {found['state']} ({found['role']}, {found['mode']}){behind}"
    return f"{text}: {found['error']}" if found.get("error") else text


def _split_or_same(option: str, text: str) -> tuple[str, str]:
    """``A,B``, or ``A`` for the same name at both ends."""
    return two(option, text) if "," in text else (text, text)


@click.command(
    epilog="Example: sancredit pair create db --port-pair 127.0.0.1,127.0.0.2 --volume vol0 --journal jnl --mode async"
)
@click.argument("group")
@click.option("--port-pair", required=True, metavar="A,B", help="The local and the remote port.")
@click.option(
    "--volume",
    "volumes",
    multiple=True,
    required=True,
    metavar="A[,B]",
    help="A volume, and the one that receives it (the same name unless told); again for each pair of the group.",
)
@click.option(
    "--journal", required=True, metavar="A[,B]", help="The journal volumes of both arrays, 4 MiB or more."
)
@click.option("--mode", type=click.Choice(["sync", "async"]), default="async", show_default=True)
@click.option(
    "--fence",
    type=click.Choice(["never", "data"]),
    default="never",
    show_default=True,
    help="With --mode sync: data refuses writes that the remote array cannot have.",
)
@click.option("--sessions", type=click.IntRange(1, 256), default=1, show_default=True)
@click.option(
    "--connections", type=click.IntRange(1, 256), default=1, show_default=True, help="Of each session."
)
@click.option(
    "--priority",
    type=click.IntRange(0, 255),
    default=0,
    help="0 is slowed down last.",
)
@click.option(
    "--overwrite", is_flag=True, help="Whatever the remote volumes hold, also another group's image."
)
@output_option
@station_option
def create(
    group: str,
    port_pair: str,
    volumes: tuple[str, ...],
    journal: str,
    mode: str,
    fence: str,
    sessions: int,
    connections: int,
    priority: int,
    overwrite: bool,
    output: str,
    station: str,
) -> None:
    """Make the consistency group GROUP of one or more pairs, and begin the initial copy."""
    body = {
        "group": group,
        "ports": list(two("--port-pair", port_pair)),
        "volumes": [list(_split_or_same("--volume", volume)) for volume in volumes],
        "journal": list(_split_or_same("--journal", journal)),
        "mode": mode,
        "fence": fence,
        "sessions": sessions,
        "connections_per_session": connections,
        "priority": priority,
        "overwrite": overwrite,
    }
    with open_station(station, _TIMEOUT_S) as peer:
        answer = peer.post("/api/v1/groups", body)
        rows = rows_of(answer)
    if output == "table":
        say(f"group {group} is made; its initial copy has begun")
    show(rows, "groups", output)


@click.command(epilog="Example: sancredit pair status")
@click.argument("group", required=False)
@output_option
@headers_option
@station_option
def status(group: str | None, output: str, no_headers: bool, station: str) -> int:
    """Every pair at each of its ends, of the group GROUP or of all."""
    with open_station(station) as peer:
        if group is None:
            return show_list(peer, "groups", output, not no_headers)
        rows = rows_of(peer.get(group_path(group)))
        if not rows:
            say(f"no array that answers has a group {group!r}")
            return 1
        show(rows, "groups", output, headers=not no_headers)
    return 0


def act(group: str, verb: str, output: str, station: str, **body: Any) -> None:
    """Carry one verb out, and say how the group stands."""
    with open_station(station, _TIMEOUT_S) as peer:
        found = checked(peer, peer.post(group_path(group, verb), body), **_STATUS)
    show_one(found, output, sentence(found))


@click.command(epilog="Example: sancredit pair split db")
@click.argument("group")
@output_option
@station_option
def split(group: str, output: str, station: str) -> None:
    """PSUS: the secondary gets what is written until now; later changes are noted."""
    act(group, "split", output, station)


@click.command(epilog="Example: sancredit pair resync db")
@click.argument("group")
@click.option("--full", is_flag=True, help="Copy everything, whatever the remote array holds.")
@output_option
@station_option
def resync(group: str, full: bool, output: str, station: str) -> None:
    """COPY of what has changed, then PAIR."""
    act(group, "resync", output, station, full=full)


@click.command(epilog="Example: sancredit pair takeover db")
@click.argument("group")
@click.option("--force", is_flag=True, help="Also from an image that is no point in time.")
@output_option
@station_option
def takeover(group: str, force: bool, output: str, station: str) -> None:
    """SSWS: the hosts of the remote array write from here on; the old primary is kept out."""
    act(group, "takeover", output, station, force=force)


@click.command(epilog="Example: sancredit pair swap db")
@click.argument("group")
@output_option
@station_option
def swap(group: str, output: str, station: str) -> None:
    """Change the direction: from PAIR, or after a takeover; only what has changed is copied."""
    act(group, "swap", output, station)


@click.command(epilog="Example: sancredit pair delete db")
@click.argument("group")
@click.option("--force", is_flag=True, help="Also when only one of the arrays answers.")
@output_option
@station_option
def delete(group: str, force: bool, output: str, station: str) -> None:
    """SMPL: dissolve the group; the volumes stay as they are."""
    act(group, "delete", output, station, force=force)
