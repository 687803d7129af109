"""``sancredit pair …``: pairs and consistency groups."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any
from urllib.parse import quote

import click

from mgmt.cli.answers import checked
from mgmt.cli.failures import FAILED
from mgmt.cli.options import headers_option, open_station, output_option, station_option, two
from mgmt.cli.output import rows_of, say, show, show_list, show_one
from mgmt.cli.progress import progress
from mgmt.columns import delay, percent, size
from mgmt.http import Peer

_POLL_S = 0.3
_WAIT_HELP = "Wait until the group is PAIR; progress on stderr."
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
@click.option("--wait", is_flag=True, help=_WAIT_HELP)
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
    wait: bool,
    output: str,
    station: str,
) -> int:
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
        if wait:
            return until_paired(peer, group, output)
    if output == "table":
        say(f"group {group} is made; its initial copy has begun")
    show(rows, "groups", output)
    return 0


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


def act(group: str, verb: str, output: str, station: str, *, wait: bool = False, **body: Any) -> int:
    """Carry one verb out, and say how the group stands; with ``wait`` when it is PAIR. The exit code."""
    with open_station(station, _TIMEOUT_S) as peer:
        found = checked(peer, peer.post(group_path(group, verb), body), **_STATUS)
        if wait:
            return until_paired(peer, group, output)
    show_one(found, output, sentence(found))
    return 0


def until_paired(peer: Peer, group: str, output: str) -> int:
    """Follow a group's copy to PAIR, with progress on stderr; 1 where it comes to something else first."""
    with progress() as line:
        while True:
            rows = [row for row in rows_of(peer.get(group_path(group))) if row.get("role") == "P-VOL"]
            for row in rows:
                checked(peer, row, **_STATUS, total_bytes=int, dirty_bytes=int, held=bool)
            total = sum(row["total_bytes"] for row in rows)
            left = sum(row["dirty_bytes"] for row in rows if row["state"] != "PAIR")
            states = sorted({row["state"] for row in rows})
            if states == ["PAIR"]:
                line.end()
                show_one(rows[0], output, sentence(rows[0]))
                return 0
            why = next((row["error"] for row in rows if row.get("error")), "")
            if not rows or not {"COPY", "PAIR", "PSUE"} >= set(states) or any(row["held"] for row in rows):
                line.end()
                say(f"group {group} does not become PAIR: {why or ', '.join(states) or 'it is gone'}")
                return FAILED
            done = 1 - left / total if total else 1.0
            said = f"{group}: {', '.join(states)}, {percent(done)} of {size(total)} the same"
            line.show(done, f"{said}; {why}" if why else said)
            time.sleep(_POLL_S)


@dataclass(frozen=True, slots=True)
class Verb:
    """One wish about a group: what it does, the flag that goes with it, and whether a copy follows it."""

    name: str
    about: str
    flag: str | None = None
    flag_help: str = ""
    copies: bool = False


SPLIT, RESYNC, TAKEOVER, SWAP, DELETE = VERBS = (
    Verb("split", "PSUS: the secondary gets what is written until now; later changes are noted."),
    Verb(
        "resync",
        "COPY of what has changed, then PAIR.",
        "full",
        "Copy everything, whatever the remote array holds.",
        copies=True,
    ),
    Verb(
        "takeover",
        "SSWS: the hosts of the remote array write from here on; the old primary is kept out.",
        "force",
        "Also from an image that is no point in time.",
    ),
    Verb(
        "swap",
        "Change the direction: from PAIR, or after a takeover; only what has changed is copied.",
        copies=True,
    ),
    Verb(
        "delete",
        "SMPL: dissolve the group; the volumes stay as they are.",
        "force",
        "Also when only one of the arrays answers.",
    ),
)


def command_of(verb: Verb) -> click.Command:
    """The command line of a verb."""

    def run(group: str, output: str, station: str, **given: bool) -> int:
        return act(group, verb.name, output, station, **given)

    parameters: list[click.Parameter] = [click.Argument(["group"])]
    if verb.flag is not None:
        parameters.append(click.Option([f"--{verb.flag}"], is_flag=True, help=verb.flag_help))
    if verb.copies:
        parameters.append(click.Option(["--wait"], is_flag=True, help=_WAIT_HELP))
    command = click.Command(
        verb.name,
        callback=run,
        params=parameters,
        help=verb.about,
        epilog=f"Example: sancredit pair {verb.name} db",
    )
    return station_option(output_option(command))


split, resync, takeover, swap, delete = (command_of(verb) for verb in VERBS)
