"""``sancredit copy start|status|stop|verify|pause|resume``."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from typing import Any
from urllib.parse import quote, urlencode

import click

from mgmt.cli.answers import checked
from mgmt.cli.failures import FAILED
from mgmt.cli.options import (
    body,
    counts_options,
    headers_option,
    make_target,
    open_station,
    output_option,
    port_options,
    station_option,
    two,
)
from mgmt.cli.output import rows_of, say, show_list, show_one
from mgmt.cli.pair import act, group_path
from mgmt.cli.progress import Progress, progress
from mgmt.cli.watching import watch_option, watched
from mgmt.columns import percent, rate, size
from mgmt.http import Peer

_START_TIMEOUT_S = 60.0
_DIGEST_TIMEOUT_S = 660.0
_POLL_S = 0.5
_NOT_FOUND = 404
_STATUS = {
    "copy_id": str,
    "state": str,
    "total_bytes": int,
    "acknowledged_bytes": int,
    "goodput_bps": int,
    "in_flight_bytes": int,
    "reserved_bytes": int,
}


@click.command(epilog="Example: sancredit copy start --port-pair 127.0.0.1,127.0.0.2 --volume vol0 --wait")
@port_options
@counts_options
@click.option("--volume", required=True, help="The volume to copy.")
@click.option("--remote-volume", help="The volume that receives it; the same name unless told.")
@click.option(
    "--application",
    metavar="NAME",
    help="The application that copies, where buffers are reserved for one; remote-copy unless told.",
)
@click.option(
    "--volume-group-pair",
    metavar="A,B",
    help="The groups that the volumes are in, where they are reserved for.",
)
@click.option("--wait", is_flag=True, help="Wait until the copy has ended; progress on stderr.")
@output_option
@station_option
def start(
    sessions: int | None,
    connections: int | None,
    volume: str,
    remote_volume: str | None,
    application: str | None,
    volume_group_pair: str | None,
    wait: bool,
    output: str,
    station: str,
    **named: Any,
) -> int:
    """Start a remote copy: one request for each connection of each session of the pair.

    The most specific reservation that it matches serves it: connection, volume pair, volume-group pair, application,
    port pair with its number, port pair; without any, the free buffers.
    """
    groups = None if volume_group_pair is None else list(two("--volume-group-pair", volume_group_pair))
    request = body(
        make_target(**named),
        sessions=sessions,
        connections_per_session=connections,
        volume=volume,
        remote_volume=remote_volume,
        application=application,
        volume_groups=groups,
    )
    with open_station(station, _START_TIMEOUT_S) as peer:
        answer = peer.post("/api/v1/copies", request)
        checked(peer, answer, copy_id=str, connections=list, refusals=list)
        up, refusals = len(answer["connections"]), answer["refusals"]
        for refusal in refusals[:1]:
            say(
                f"{len(refusals)} of {up + len(refusals)} connections were refused: {_detail(refusal)}; the copy "
                f"runs on {up}; `sancredit copy stop {answer['copy_id']}` stops it"
            )
        if wait:
            status = _wait(peer, answer["copy_id"])
            show_one(status, output, _sentence(status))
            return 0 if status["state"] == "done" else FAILED
    show_one(answer, output, f"started {answer['copy_id']}: {up} connections")
    return FAILED if refusals else 0


@click.command(epilog="Example: sancredit copy status")
@click.argument("copy_id", required=False)
@output_option
@headers_option
@watch_option
@station_option
def status(copy_id: str | None, output: str, no_headers: bool, watch: float | None, station: str) -> int:
    """How far the copy COPY_ID is; without COPY_ID, all copies."""
    with open_station(station) as peer:

        def once() -> int:
            if copy_id is None:
                return show_list(peer, "copies", output, not no_headers)
            found = checked(peer, peer.get(_path(copy_id)), **_STATUS)
            show_one(found, output, _sentence(found))
            return 0

        return watched(watch, output, once)


@click.command(epilog="Example: sancredit copy stop copy-0123456789ab")
@click.argument("copy_id")
@output_option
@station_option
def stop(copy_id: str, output: str, station: str) -> None:
    """Stop the copy COPY_ID; its units return to the list they came from."""
    with open_station(station) as peer:
        found = checked(peer, peer.post(_path(copy_id) + "/stop", {}), **_STATUS)
    show_one(found, output, _sentence(found))


@click.command(epilog="Example: sancredit copy verify copy-0123456789ab")
@click.argument("copy_id")
@output_option
@station_option
def verify(copy_id: str, output: str, station: str) -> int:
    """Compare the volumes of the copy or consistency group COPY_ID by SHA-256, each computed by its own array.

    Of a group piece by piece, with the progress on stderr; only checksums travel.
    """
    from mgmt.http import PeerRefused

    with open_station(station, _DIGEST_TIMEOUT_S) as peer:
        try:
            found = peer.post(_path(copy_id) + "/verify", {})
        except PeerRefused as refusal:
            if refusal.status != _NOT_FOUND:
                raise
            rows = rows_of(peer.get(group_path(copy_id)))
            if not rows:
                raise
            with progress() as line:
                return _compare(peer, copy_id, rows, output, line)
        checked(peer, found, local=dict, remote=dict, sha256_match=bool)
        local, remote = (
            checked(peer, found[end], sha256=str, length_bytes=int) for end in ("local", "remote")
        )
    equal = found["sha256_match"]
    sentence = f"equal: SHA-256 {local['sha256']} of {local['length_bytes']} bytes on both disks"
    if not equal:
        sentence = (
            f"different: SHA-256 {local['sha256']} of {local['length_bytes']} bytes here, "
            f"{remote['sha256']} of {remote['length_bytes']} bytes there"
        )
    show_one(found, output, sentence)
    return 0 if equal else FAILED


def _compare(peer: Peer, group: str, rows: Sequence[Mapping[str, Any]], output: str, line: Progress) -> int:
    """Every volume of a group, with progress."""
    results, different = [], 0
    for row in [row for row in rows if row.get("role") == "P-VOL"]:
        offset, total, pieces = 0, int(row["total_bytes"]), []
        while offset < total:
            asked = urlencode({"volume": row["volume"], "offset_bytes": offset})
            part = peer.get(f"{group_path(group, 'compare')}?{asked}")
            checked(peer, part, compared_bytes=int, total_bytes=int, different=list)
            if part["compared_bytes"] <= 0:
                break
            pieces += part["different"]
            offset, total = offset + part["compared_bytes"], part["total_bytes"]
            line.show(offset / total, f"{row['volume']}: {percent(offset / total)} of {size(total)}")
        line.end()
        different += len(pieces)
        results.append({"volume": row["volume"], "compared_bytes": offset, "different_offsets_bytes": pieces})
    said = ", ".join(f"{result['volume']} {size(result['compared_bytes'])}" for result in results)
    sentence = f"{group}: equal by SHA-256: {said}"
    if different:
        at = [
            f"{result['volume']} at {offset}"
            for result in results
            for offset in result["different_offsets_bytes"]
        ]
        sentence = (
            f"{group}: {different} pieces of 1 MiB differ: {', '.join(at[:8])}{' ...' if len(at) > 8 else ''}"
        )
    show_one({"group": group, "equal": not different, "volumes": results}, output, sentence)
    return FAILED if different else 0


@click.command(epilog="Example: sancredit copy pause db")
@click.argument("group")
@output_option
@station_option
def pause(group: str, output: str, station: str) -> None:
    """Pause the copying of the consistency group GROUP (PSUS); what is still to be copied stays noted."""
    act(group, "split", output, station)


@click.command(epilog="Example: sancredit copy resume db")
@click.argument("group")
@output_option
@station_option
def resume(group: str, output: str, station: str) -> None:
    """Go on with a copy that was paused: only what is still to be copied, or has changed since, is."""
    act(group, "resync", output, station)


def _detail(refusal: object) -> object:
    return refusal.get("detail") if isinstance(refusal, Mapping) else refusal


def _path(copy_id: str) -> str:
    return f"/api/v1/copies/{quote(copy_id, safe='')}"


def _wait(peer: Peer, copy_id: str) -> dict[str, Any]:
    from mgmt.array.replication.job import State

    final = {state.value for state in State if state.final}
    with progress() as line:
        while True:
            found = checked(peer, peer.get(_path(copy_id)), **_STATUS)
            total = found["total_bytes"]
            line.show(found["acknowledged_bytes"] / total if total else None, _sentence(found))
            if found["state"] in final:
                return found
            time.sleep(_POLL_S)


def _sentence(found: Mapping[str, Any]) -> str:
    total = found["total_bytes"]
    share = percent(found["acknowledged_bytes"] / total) if total else "-"
    sentence = (
        f"{found['copy_id']}: {found['state']}, {share} of {size(total)}, {rate(found['goodput_bps'])}/s, "
        f"{size(found['in_flight_bytes'])} in flight of {size(found['reserved_bytes'])} reserved"
    )
    return f"{sentence}: {found['error']}" if found.get("error") else sentence
