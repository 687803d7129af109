"""Channel information: registering a pair (step 801), measuring it (802-804), hearing of a change (1201)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, replace
from datetime import UTC, datetime
from typing import Any

from credits.errors import Code, InvalidRequest, Refused
from credits.targets import Target, TargetKind, port_pair, port_pair_number
from mgmt.http import PeerRefused, PeerUnreachable, ProblemError
from mgmt.messages import ChannelChangeNotify, ChannelInfoGetRequest, ChannelInfoGetResponse
from mgmt.station import events, history, trail
from mgmt.station.context import LOCAL_USER, Station, canonical_pair, canonical_port, is_wwpn
from mgmt.station.database import Transaction
from mgmt.station.fc_links import ask_ports
from mgmt.station.records import Cause, Severity, Stage
from mgmt.station.store import Channel

#: Most concurrent sessions of a pair, and most connections of a session (section F of the specification).
COUNT_LIMIT = 65535
#: A local and a remote port: the channel that a target without ports of its own goes over.
Pair = tuple[str, str]
_RATE_LIMIT_BPS = 10**15
_RTT_LIMIT_NS = 10**12
_MILLION = 10**6


def register(
    station: Station,
    target: Target,
    *,
    sessions: int | None = None,
    connections_per_session: int | None = None,
    by: str = LOCAL_USER,
    cause: Cause = Cause.USER,
    inputs: Mapping[str, Any] | None = None,
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
        before = row = station.store.channel(local_port, remote_port, target.remote_port_number)
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
        if row != before:
            station.store.put_channels(
                [row], lambda t: _note_register(t, station, before, row, by, cause, inputs)
            )
            station.due.add(local_port, remote_port)
    return row


def _note_register(
    transaction: Transaction,
    station: Station,
    before: Channel | None,
    after: Channel | None,
    by: str,
    cause: Cause,
    inputs: Mapping[str, Any] | None,
) -> None:
    row = after or before
    assert row is not None
    pair = name_of(row)
    trail.append(
        transaction,
        station,
        "register" if after is not None else "unregister",
        Stage.DONE,
        pair,
        by=by,
        cause=cause,
        inputs=inputs,
        before=_counts_of(before),
        after=_counts_of(after),
    )
    if after is None:
        text = f"{pair} is not in table 108 any more"
    else:
        text = f"{pair} has {after.sessions} sessions of {after.connections_per_session} connections"
    events.note(
        transaction, station, "registered" if after is not None else "unregistered", pair, text, by=by
    )


def _counts_of(row: Channel | None) -> dict[str, Any] | None:
    if row is None:
        return None
    return {"sessions": row.sessions, "connections_per_session": row.connections_per_session}


def name_of(row: Channel) -> str:
    """A row of table 108 in words: ``channel A,B`` or ``channel A,B number N``."""
    number = "" if row.remote_port_number is None else f" number {row.remote_port_number}"
    return f"channel {row.local_port},{row.remote_port}{number}"


def target_named(name: str) -> Target:
    """The target of a row of table 108 in the words of :func:`name_of`. Raises :class:`InvalidRequest`."""
    pair, _, number = name.removeprefix("channel ").partition(" number ")
    local_port, _, remote_port = pair.partition(",")
    canonical_pair(local_port, remote_port)
    if number.isascii() and number.isdigit():
        return port_pair_number(local_port, remote_port, int(number))
    return port_pair(local_port, remote_port)


def unregister(
    station: Station,
    target: Target,
    *,
    by: str = LOCAL_USER,
    cause: Cause = Cause.USER,
    inputs: Mapping[str, Any] | None = None,
) -> Channel:
    """Take the row of ``target`` out of table 108, as cancelling does (708); the row that was.

    Raises :class:`ProblemError` where there is none, and :class:`Refused` (BUSY) while anything is reserved for it or
    an array that may have reserved for it does not answer.
    """
    local_port, remote_port = pair_of(target)
    key = (local_port, remote_port, target.remote_port_number)
    if station.store.channel(*key) is None:
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
    with station.store.exclusive():
        row = station.store.channel(*key)  # as it is by now
        if row is None:
            raise not_registered(local_port, remote_port)
        station.store.remove_channel(row, lambda t: _note_register(t, station, row, None, by, cause, inputs))
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
    for other in station.store.rows_of(row.local_port, row.remote_port):
        if other.measured_at is not None:
            return replace(
                row,
                bandwidth_bps=other.bandwidth_bps,
                rtt_ns=other.rtt_ns,
                jitter_ns=other.jitter_ns,
                loss_ppm=other.loss_ppm,
                credit_zero_ppm=other.credit_zero_ppm,
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
    if not station.store.rows_of(local_port, remote_port):
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
        jitter_ns=_told(answer.jitter_ns, _RTT_LIMIT_NS),
        loss_ppm=_told(answer.loss_ppm, _MILLION),
        credit_zero_ppm=_told(answer.credit_zero_ppm, _MILLION),
        measured_at=answer.measured_at,
        method=answer.method[:255],
        failed=False,
    )


def _change(station: Station, local_port: str, remote_port: str, **values: Any) -> list[Channel]:
    """Set ``values`` in every row that the pair has now; a measurement takes seconds, in which rows may change."""
    with station.store.exclusive():
        before = station.store.rows_of(local_port, remote_port)
        rows = [replace(row, **values) for row in before]

        def also(transaction: Transaction) -> None:
            if not values["failed"]:
                history.note(transaction, station, rows[0])
            elif not all(row.failed for row in before):
                text = "it could not be measured: its values are stale"
                events.note(
                    transaction,
                    station,
                    "channel-stale",
                    f"channel {local_port},{remote_port}",
                    text,
                    severity=Severity.WARNING,
                )

        if rows:
            station.store.put_channels(rows, also)
            if not values["failed"]:
                station.due.add(local_port, remote_port)
    return rows


def _ask(station: Station, local_port: str, remote_port: str) -> ChannelInfoGetResponse:
    failure: PeerRefused | PeerUnreachable | ProblemError = ProblemError(
        Code.UNREACHABLE,
        "this station has no measuring device: start it with --probe ADDRESS, or give the size by hand",
        status=502,
        title="No measuring device",
    )
    if is_wwpn(local_port):
        found = ask_ports(station, local_port, remote_port)
        if isinstance(found, ChannelInfoGetResponse) and _sound(found.bandwidth_bps, found.rtt_ns):
            return replace(found, measured_at=_utc(found.measured_at, station.utc_now()))
        if isinstance(found, PeerRefused | PeerUnreachable):
            failure = found
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


def _told(value: int | None, limit: int) -> int | None:
    """A figure for people, or ``None`` where it makes no sense: no measurement is refused for it."""
    return value if value is not None and 0 <= value <= limit else None


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

    A notification older than the newest one is dropped (GAP-12). Returns the rows that changed. Figure 9 then runs by
    itself for what has an automatic policy (:mod:`mgmt.station.updates`); it is due before this returns.
    """
    if not _sound(notice.bandwidth_bps, notice.rtt_ns):
        raise InvalidRequest(Code.INVALID_SIZE, "bandwidth and delay of a channel are positive")
    changed: list[Channel] = []
    local_port, remote_port = canonical_port(notice.local_port), canonical_port(notice.remote_port)
    with station.store.exclusive():
        before = station.store.rows_of(local_port, remote_port)
        for row in before:
            if notice.sequence <= row.sequence:
                continue
            new = replace(
                row,
                bandwidth_bps=notice.bandwidth_bps,
                rtt_ns=notice.rtt_ns,
                jitter_ns=_told(notice.jitter_ns, _RTT_LIMIT_NS),
                loss_ppm=_told(notice.loss_ppm, _MILLION),
                credit_zero_ppm=None,
                measured_at=_utc(notice.measured_at, station.utc_now()),
                method="notified",
                failed=False,
                sequence=notice.sequence,
            )
            changed.append(new)

        def also(transaction: Transaction) -> None:
            history.note(transaction, station, changed[0])
            if _far_from(before[0], changed[0]):
                text = f"bandwidth {notice.bandwidth_bps} bit/s, round trip {notice.rtt_ns} ns"
                events.note(
                    transaction, station, "channel-changed", f"channel {local_port},{remote_port}", text
                )

        if changed:
            station.store.put_channels(changed, also)
            station.due.add(local_port, remote_port)
    return changed


def _far_from(before: Channel, after: Channel) -> bool:
    """Whether the values differ by 10 % and more: smaller changes are no news (GAP-12)."""
    pairs = ((before.bandwidth_bps, after.bandwidth_bps), (before.rtt_ns, after.rtt_ns))
    return any(old is None or new is None or abs(new - old) * 10 >= old for old, new in pairs)


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
