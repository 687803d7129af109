"""Channel information: registering a pair (step 801), measuring it (802-804), hearing of a change (1201)."""

from __future__ import annotations

from dataclasses import asdict, replace
from datetime import UTC, datetime
from typing import Any

from credits.errors import Code, InvalidRequest, Refused
from credits.targets import Target, TargetKind, port_pair
from mgmt.http import PeerRefused, PeerUnreachable, ProblemError
from mgmt.messages import ChannelChangeNotify, ChannelInfoGetRequest, ChannelInfoGetResponse
from mgmt.station.context import Station, canonical_pair, canonical_port
from mgmt.station.store import Channel

#: Most concurrent sessions of a pair, and most connections of a session (section F of the specification).
COUNT_LIMIT = 65535
#: A local and a remote port: the channel that a target without ports of its own goes over.
Pair = tuple[str, str]
_RATE_LIMIT_BPS = 10**15
_RTT_LIMIT_NS = 10**12


def register(
    station: Station,
    target: Target,
    *,
    sessions: int | None = None,
    connections_per_session: int | None = None,
) -> Channel:
    """Step 801: the row of table 108 for ``target``, made or brought to the new counts.

    A connection's row has one session and one connection (embodiment 4). Measured values are kept. Raises
    :class:`InvalidRequest`.
    """
    local_port, remote_port = pair_of(target)
    if local_port == remote_port:
        raise InvalidRequest(Code.INVALID_TARGET, f"the two ports of a pair differ; both are {local_port}")
    for name, count in (("sessions", sessions), ("connections", connections_per_session)):
        if count is not None and not 1 <= count <= COUNT_LIMIT:
            raise InvalidRequest(Code.INVALID_SIZE, f"{name} is from 1 to {COUNT_LIMIT}, not {count}")
    with station.store.exclusive():
        row = station.store.channel(local_port, remote_port, target.remote_port_number)
        if row is None:
            row = Channel(
                local_port=local_port,
                remote_port=remote_port,
                remote_port_number=target.remote_port_number,
                sessions=1,
                connections_per_session=1,
            )
            row = _with_values_of_its_pair(station, row)
        elif sessions is None and connections_per_session is None:
            return row
        row = replace(
            row,
            sessions=sessions or row.sessions,
            connections_per_session=connections_per_session or row.connections_per_session,
        )
        station.store.put_channel(row)
    return row


def unregister(station: Station, target: Target) -> Channel:
    """Take the row of ``target`` out of table 108, as cancelling does (708); the row that was.

    Raises :class:`ProblemError` where there is none, and :class:`Refused` (BUSY) while anything is reserved for it or
    an array that may have reserved for it does not answer.
    """
    local_port, remote_port = pair_of(target)
    key = (local_port, remote_port, target.remote_port_number)
    row = station.store.channel(*key)
    if row is None:
        raise not_registered(local_port, remote_port)
    gathered = station.arrays.gather("/v1/reservations")
    held = [found for found in gathered.rows if row_key(found.get("target")) == key]
    if held or gathered.down:
        why = (
            f"array {held[0]['array']} holds a reservation for it"
            if held
            else f"array {gathered.down[0].array}, which may hold a reservation for it, does not answer"
        )
        raise Refused(Code.BUSY, f"the row of {local_port},{remote_port} stays in table 108: {why}")
    station.store.remove_channel(row)
    return row


def row_key(plain: Any) -> tuple[Any, Any, Any] | None:
    """The key in table 108 of a target in a row that an array sent, or ``None`` where it is no target."""
    if not isinstance(plain, dict):
        return None
    return plain.get("local_port"), plain.get("remote_port"), plain.get("remote_port_number")


def not_registered(local_port: str, remote_port: str) -> ProblemError:
    """The pair is not in table 108."""
    return ProblemError(
        "NOT_REGISTERED",
        f"the pair {local_port},{remote_port} is not in table 108: register it first (`sancredit register`)",
        status=404,
        title="Not in table 108",
    )


def over(target: Target, via: Pair | None) -> Target:
    """The target in whose row of table 108 the channel of ``target`` is: itself, or the pair ``via`` that it goes over.

    The open kinds (paragraph 102) name no ports, and a connection may be named by its buffer ID alone. Raises
    :class:`InvalidRequest` where ``via`` is another pair than the target's own.
    """
    if via is None:
        return target
    local_port, remote_port = canonical_pair(*via)
    if target.local_port is None:
        if target.kind is TargetKind.CONNECTION:
            return replace(target, local_port=local_port, remote_port=remote_port)
        return port_pair(local_port, remote_port)
    if (target.local_port, target.remote_port) != (local_port, remote_port):
        raise InvalidRequest(
            Code.INVALID_TARGET, f"{target} does not go over the port pair {local_port},{remote_port}"
        )
    return target


def pair_of(target: Target) -> tuple[str, str]:
    """The port pair in ``target``. Raises :class:`InvalidRequest` where it has none."""
    if target.local_port is None or target.remote_port is None:
        raise InvalidRequest(
            Code.INVALID_TARGET,
            f"table 108 is kept by port pair: name the pair of {target} (--port-pair A,B)",
        )
    return target.local_port, target.remote_port


def counts(channel: Channel, target: Target) -> tuple[int, int]:
    """Sessions and connections per session of ``target``: one and one for a connection (embodiment 4)."""
    if target.kind is TargetKind.CONNECTION:
        return 1, 1
    return channel.sessions, channel.connections_per_session


def _with_values_of_its_pair(station: Station, row: Channel) -> Channel:
    """A new row of a pair that has been measured for another port number has its bandwidth and delay at once."""
    for other in station.store.channels():
        same_pair = (other.local_port, other.remote_port) == (row.local_port, row.remote_port)
        if same_pair and other.measured_at is not None:
            return replace(
                row,
                bandwidth_bps=other.bandwidth_bps,
                rtt_ns=other.rtt_ns,
                measured_at=other.measured_at,
                method=other.method,
                failed=other.failed,
                sequence=other.sequence,
            )
    return row


def measure(station: Station, local_port: str, remote_port: str) -> list[Channel]:
    """Steps 802-804: ask the measuring devices for the pair, and set every row of the pair.

    Returns the rows. Raises :class:`PeerUnreachable` or :class:`PeerRefused` when no device measures the pair: the
    old values stay, marked stale (GAP-11); :class:`ProblemError` when the pair is not registered.
    """
    local_port, remote_port = canonical_pair(local_port, remote_port)
    if not _rows_of(station, local_port, remote_port):
        raise not_registered(local_port, remote_port)
    try:
        answer = _ask(station, local_port, remote_port)
    except (PeerRefused, PeerUnreachable, ProblemError):
        _change(station, local_port, remote_port, failed=True)
        raise
    return _change(
        station,
        local_port,
        remote_port,
        bandwidth_bps=answer.bandwidth_bps,
        rtt_ns=answer.rtt_ns,
        measured_at=answer.measured_at,
        method=answer.method[:255],
        failed=False,
    )


def _change(station: Station, local_port: str, remote_port: str, **values: Any) -> list[Channel]:
    """Set ``values`` in every row that the pair has now; a measurement takes seconds, in which rows may change."""
    with station.store.exclusive():
        rows = [replace(row, **values) for row in _rows_of(station, local_port, remote_port)]
        for row in rows:
            station.store.put_channel(row)
    return rows


def _rows_of(station: Station, local_port: str, remote_port: str) -> list[Channel]:
    pair = (local_port, remote_port)
    return [row for row in station.store.channels() if (row.local_port, row.remote_port) == pair]


def _ask(station: Station, local_port: str, remote_port: str) -> ChannelInfoGetResponse:
    failure: PeerRefused | PeerUnreachable | ProblemError = ProblemError(
        Code.UNREACHABLE,
        "this station has no measuring device: start it with --probe ADDRESS, or give the size by hand",
        status=502,
        title="No measuring device",
    )
    for probe in station.probes:
        try:
            answer = probe.send(ChannelInfoGetRequest(local_port=local_port, remote_port=remote_port))
        except (PeerRefused, PeerUnreachable) as error:
            failure = error
            continue
        if isinstance(answer, ChannelInfoGetResponse) and _sound(answer.bandwidth_bps, answer.rtt_ns):
            return replace(answer, measured_at=_utc(answer.measured_at, station.utc_now()))
        failure = PeerUnreachable(probe.who, "its measurement makes no sense")
    raise failure


def _sound(bandwidth_bps: int, rtt_ns: int) -> bool:
    """A measured 0 or negative value is rejected (GAP-11), and so is what no channel on earth has."""
    return 0 < bandwidth_bps <= _RATE_LIMIT_BPS and 0 < rtt_ns <= _RTT_LIMIT_NS


def _utc(text: str, now: datetime) -> str:
    """The device's time of measurement in UTC; the station's where it is none, or lies in the future."""
    try:
        at = datetime.fromisoformat(text)
    except ValueError:
        at = now
    at = at.replace(tzinfo=UTC) if at.tzinfo is None else at.astimezone(UTC)
    return min(at, now).isoformat(timespec="milliseconds")


def take_notice(station: Station, notice: ChannelChangeNotify) -> list[Channel]:
    """Step 1201 (M9): the pair's channel has changed; every row of the pair takes the new values over.

    A notification older than the newest one is dropped (GAP-12). Returns the rows that changed.
    """
    if not _sound(notice.bandwidth_bps, notice.rtt_ns):
        raise InvalidRequest(Code.INVALID_SIZE, "bandwidth and delay of a channel are positive")
    changed = []
    with station.store.exclusive():
        for row in _rows_of(station, canonical_port(notice.local_port), canonical_port(notice.remote_port)):
            if notice.sequence <= row.sequence:
                continue
            new = replace(
                row,
                bandwidth_bps=notice.bandwidth_bps,
                rtt_ns=notice.rtt_ns,
                measured_at=_utc(notice.measured_at, station.utc_now()),
                method="notified",
                failed=False,
                sequence=notice.sequence,
            )
            station.store.put_channel(new)
            changed.append(new)
    return changed


def is_stale(station: Station, channel: Channel) -> bool:
    """Whether the row's values are too old, or the last attempt to renew them failed."""
    age_s = channel.age_s(station.utc_now())
    return channel.failed or (age_s is not None and age_s > station.stale_after_s)


def row(station: Station, channel: Channel) -> dict[str, Any]:
    """One row of ``get channels``."""
    plain = asdict(channel)
    plain["stale"] = is_stale(station, channel)
    for name in ("failed", "sequence"):
        del plain[name]
    if channel.remote_port_number is None:
        del plain["remote_port_number"]
    return plain
