"""Available size (steps 805-807) and recommended size (808, figure 6)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from credits.errors import Code, InvalidRequest
from credits.sizing import Inputs, Recommendation, bandwidth_delay_bytes
from credits.targets import Target
from mgmt import sizing
from mgmt.http import Peer, PeerRefused, PeerUnreachable, ProblemError
from mgmt.messages import InterfaceInfoGetRequest, InterfaceInfoGetResponse, to_plain
from mgmt.station.arrays import Gathered, Site
from mgmt.station.channels import Pair, counts, is_stale, measure, over, pair_of, register, row_key
from mgmt.station.context import Station
from mgmt.station.holders import with_pair
from mgmt.station.store import Channel


@dataclass(frozen=True, slots=True, kw_only=True)
class Advice:
    """What screen 701 shows: the recommended size beside what is available, all sizes in units and bytes."""

    target: Target
    recommendations: tuple[Recommendation, ...]
    interface: InterfaceInfoGetResponse
    channel: Channel
    stale: bool

    @property
    def recommendation(self) -> Recommendation:
        """The recommendation of the policy that was named, or of the first of all."""
        return self.recommendations[0]

    def short_units(self, recommendation: Recommendation) -> int:
        """Units by which the growth that is wanted exceeds what is free; 0 when there is enough (INC-3, INC-4)."""
        wanted = recommendation.units - self.interface.reserved_units
        return max(0, wanted - self.interface.available_units)


def available(site: Site, target: Target) -> InterfaceInfoGetResponse:
    """Steps 805-807: M3 to the array; its M4."""
    address = site.port.get("address")
    return interface_of(site.peer, target, address if isinstance(address, str) else None)


def interface_of(peer: Peer, target: Target, via: str | None = None) -> InterfaceInfoGetResponse:
    """Steps 1202-1204: M3 to an array that is known; its M4. ``via``: its port, for a target without one."""
    answer = peer.send(InterfaceInfoGetRequest(target=target, via=via))
    if not isinstance(answer, InterfaceInfoGetResponse) or answer.unit_bytes <= 0:
        raise PeerUnreachable(peer.who, "its answer is no interface information")
    return answer


def advise(
    station: Station,
    target: Target,
    *,
    via: Pair | None = None,
    sessions: int | None = None,
    connections_per_session: int | None = None,
    remeasure: bool = False,
    policy: str = sizing.DOCUMENT,
) -> Advice:
    """Steps 801-808: register, measure where needed, ask what is available, compute.

    A measurement is made unless the row's values are fresh, or always with ``remeasure``; when it fails, values younger
    than the limit serve, marked stale (GAP-11). A target of the open kinds is sized for the channel ``via``, and a
    buffer ID for that of the pair that table 1500 has for it.
    """
    channel = register(
        station,
        over(with_pair(station, target) if via is None else target, via),
        sessions=sessions,
        connections_per_session=connections_per_session,
    )
    site = station.arrays.with_port(channel.local_port)
    channel = _fresh(station, channel, remeasure)
    return _advice(station, target, channel, available(site, target), policy)


def _advice(
    station: Station, target: Target, channel: Channel, interface: InterfaceInfoGetResponse, policy: str
) -> Advice:
    """Step 808 on what is known."""
    return Advice(
        target=target,
        recommendations=computed(channel, target, interface.unit_bytes, policy),
        interface=interface,
        channel=channel,
        stale=is_stale(station, channel),
    )


def computed(
    channel: Channel, target: Target, unit_bytes: int, policy: str = sizing.DOCUMENT
) -> tuple[Recommendation, ...]:
    """Steps 901-903: the recommended sizes of ``target`` for a channel. Raises :class:`InvalidRequest`."""
    sessions, connections = counts(channel, target)
    inputs = Inputs(
        unit_bytes=unit_bytes,
        bandwidth_bps=channel.bandwidth_bps,
        rtt_ns=channel.rtt_ns,
        sessions=sessions,
        connections=connections,
    )
    try:
        return tuple(sizing.recommendations(policy, inputs))
    except ValueError as error:
        raise InvalidRequest(Code.INVALID_SIZE, str(error)) from error


def suppose(
    station: Station,
    target: Target,
    *,
    via: Pair | None = None,
    bandwidth_bps: int | None = None,
    rtt_ns: int | None = None,
    sessions: int | None = None,
    connections_per_session: int | None = None,
) -> Advice:
    """Step 808 for a channel as it would be: the values given instead of those of table 108, which stays as it is.

    Nothing is registered and nothing is measured. Raises :class:`ProblemError` when a value is neither given nor known.
    """
    local_port, remote_port = pair_of(over(target, via))
    known = station.store.channel(local_port, remote_port, target.remote_port_number)
    row = known or Channel(
        local_port=local_port, remote_port=remote_port, sessions=1, connections_per_session=1
    )
    row = replace(
        row,
        bandwidth_bps=bandwidth_bps or row.bandwidth_bps,
        rtt_ns=rtt_ns or row.rtt_ns,
        sessions=sessions or row.sessions,
        connections_per_session=connections_per_session or row.connections_per_session,
    )
    if row.bandwidth_bps is None or row.rtt_ns is None:
        raise ProblemError(
            "NOT_MEASURED",
            f"the channel {local_port},{remote_port} has not been measured: measure it, or give bandwidth and rtt",
            status=409,
            title="No usable channel information",
        )
    if bandwidth_bps is not None and rtt_ns is not None:
        row = replace(row, measured_at=None, failed=False)  # nothing of it was measured
    interface = available(station.arrays.with_port(local_port), target)
    return _advice(station, target, row, interface, sizing.DOCUMENT)


def _fresh(station: Station, channel: Channel, remeasure: bool) -> Channel:
    """The row with values that may be used. Never computes with nothing (GAP-11)."""
    age_s = channel.age_s(station.utc_now())
    usable = age_s is not None and age_s <= station.stale_after_s
    fresh = age_s is not None and age_s <= station.fresh_s and not channel.failed
    if fresh and not remeasure:
        return channel
    try:
        rows = measure(station, channel.local_port, channel.remote_port)
    except (PeerRefused, PeerUnreachable, ProblemError) as error:
        if usable:
            return station.store.channel(*pair_of_row(channel)) or channel
        what = "has not been measured" if age_s is None else "was last measured too long ago"
        raise ProblemError(
            "NOT_MEASURED",
            f"the channel {channel.local_port},{channel.remote_port} {what}, and cannot be now: {error}",
            status=409,
            title="No usable channel information",
        ) from error
    return next((row for row in rows if row.remote_port_number == channel.remote_port_number), channel)


def pair_of_row(channel: Channel) -> tuple[str, str, int | None]:
    """The key of a row of table 108."""
    return channel.local_port, channel.remote_port, channel.remote_port_number


def rows(advice: Advice) -> list[dict[str, Any]]:
    """The JSON objects of ``recommend`` with a target, one for each policy."""
    interface = advice.interface
    return [
        sizing.row(recommendation)
        | {
            "target": to_plain(advice.target),
            "available_units": interface.available_units,
            "available_bytes": interface.available_bytes,
            "expandable_units": interface.expandable_units,
            "reserved_units": interface.reserved_units,
            "allocated_units": interface.allocated_units,
            "short_units": advice.short_units(recommendation),
            "measured_at": advice.channel.measured_at,
            "stale": advice.stale,
        }
        for recommendation in advice.recommendations
    ]


def pairs(station: Station) -> Gathered:
    """One row for each registered pair: where it is, what is recommended, what is reserved."""
    reservations = station.inventory.table("reservations")
    arrays = {row["address"]: row for row in station.inventory.table("ports").rows if "address" in row}
    held_by: dict[Any, int] = {}
    for held in reservations.rows:
        key = row_key(held.get("target"))
        held_by[key] = held_by.get(key, 0) + _bytes(held)
    rows = []
    for channel in station.store.channels():
        local, remote = arrays.get(channel.local_port, {}), arrays.get(channel.remote_port, {})
        rows.append(
            {
                "local_port": channel.local_port,
                "remote_port": channel.remote_port,
                "remote_port_number": channel.remote_port_number,
                "array": local.get("array"),
                "remote_array": remote.get("array"),
                "sessions": channel.sessions,
                "connections_per_session": channel.connections_per_session,
                "recommended_bytes": _recommended_bytes(channel),
                "reserved_bytes": held_by.get(pair_of_row(channel), 0),
                "stale": is_stale(station, channel),
            }
        )
    return Gathered(rows, list(reservations.down))


def _bytes(held: Mapping[str, Any]) -> int:
    """The size of a reservation in a row that an array sent; 0 where it says none."""
    value = held.get("reserved_bytes")
    return value if type(value) is int else 0


def _recommended_bytes(channel: Channel) -> int | None:
    if channel.bandwidth_bps is None or channel.rtt_ns is None:
        return None
    times = channel.sessions * channel.connections_per_session
    return bandwidth_delay_bytes(channel.bandwidth_bps, channel.rtt_ns, times)
