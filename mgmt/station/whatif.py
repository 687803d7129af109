"""What would happen to the reservations if channels became other than they are, or failed: nothing is changed.

The same survey, sizes and plan as figure 9's (:mod:`mgmt.station.updates`, :mod:`mgmt.station.resize`), with supposed
values in place of those of table 108; so what is foretold is what would be done. What is set by hand, or has no policy,
would not be resized: it is listed with what it would lack.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from credits.errors import Code, InvalidRequest
from credits.targets import Target
from mgmt.http import ProblemError
from mgmt.plain import to_plain
from mgmt.station.canonical_json import target_in
from mgmt.station.channels import name_of, not_registered
from mgmt.station.context import canonical_pair
from mgmt.station.records import Policy, Sizing
from mgmt.station.resize import Action, Step, Wish, plan
from mgmt.station.store import Channel
from mgmt.station.updates import survey

if TYPE_CHECKING:
    from mgmt.station.context import Station

Pair = tuple[str, str]
#: Channels supposed to be other at once.
SUPPOSED_LIMIT = 1000
#: Ways out that are named for one array.
_CURES = 8


@dataclass(frozen=True, slots=True, kw_only=True)
class Supposed:
    """A channel as it might become; what is not given stays."""

    local_port: str
    remote_port: str
    bandwidth_bps: int | None = None
    rtt_ns: int | None = None
    sessions: int | None = None
    connections_per_session: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Cure:
    """One way out of a shortage: how many units it would bring on an array."""

    array: str
    units: int
    text: str
    command: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Outlook:
    """What would be done, in order; what would run short is in it as ``short``, ``partial`` or ``fixed``."""

    channels: tuple[str, ...]
    steps: tuple[Step, ...]
    cures: tuple[Cure, ...]
    silent: tuple[str, ...]
    text: str

    @property
    def shortages(self) -> tuple[Step, ...]:
        """What would lack units, in the order in which it would."""
        return tuple(step for step in self.steps if step.short_units)


def channel_change(station: Station, supposed: Sequence[Supposed]) -> Outlook:
    """What would happen if these channels became so. Raises :class:`ProblemError` for one that is not registered."""
    if len(supposed) > SUPPOSED_LIMIT:
        raise InvalidRequest(
            Code.INVALID_SIZE, f"at most {SUPPOSED_LIMIT} channels at once, not {len(supposed)}"
        )
    rows = [row for change in supposed for row in _rows(station, change)]
    return _outlook(station, rows, (), "")


def channel_failure(
    station: Station,
    local_port: str,
    remote_port: str,
    *,
    onto: Pair | None = None,
    bandwidth_bps: int | None = None,
    rtt_ns: int | None = None,
) -> Outlook:
    """What would happen if the channel of a pair failed and its sessions went over another.

    That other is ``onto``, or the registered pair between the same two arrays that has the most bandwidth; with
    ``bandwidth_bps`` and ``rtt_ns`` as it would be under the load. Its sessions are then those of both. Raises
    :class:`ProblemError` for a pair that is not registered.
    """
    failed = canonical_pair(local_port, remote_port)
    failing = station.store.rows_of(*failed)
    if not failing:
        raise not_registered(*failed)
    target = None if onto is None else canonical_pair(*onto)
    if target == failed:
        raise InvalidRequest(Code.INVALID_TARGET, "the sessions of a channel that fails go over another one")
    taking = station.store.rows_of(*target) if target is not None else _alternative(station, failed)
    if not taking and target is not None:
        raise not_registered(*target)
    if not taking:
        text = (
            f"no other channel between the two arrays is registered: the copies over {failed[0]},{failed[1]} stop, "
            "and its reservations stay idle until it is back"
        )
        return Outlook(channels=(), steps=(), cures=(), silent=(), text=text)
    moved = max(row.sessions for row in failing)
    supposed = Supposed(
        local_port=taking[0].local_port,
        remote_port=taking[0].remote_port,
        bandwidth_bps=bandwidth_bps,
        rtt_ns=rtt_ns,
    )
    rows = [replace(row, sessions=row.sessions + moved) for row in _rows(station, supposed)]
    noun = "the session" if moved == 1 else f"the {moved} sessions"
    text = f"{noun} of {failed[0]},{failed[1]} would go over {supposed.local_port},{supposed.remote_port}"
    return _outlook(station, rows, (failed,), text)


def row(outlook: Outlook) -> dict[str, Any]:
    """The JSON object of an outlook."""
    return {
        "text": outlook.text,
        "channels": list(outlook.channels),
        "steps": [step_row(step, number) for number, step in enumerate(outlook.steps, 1)],
        "shortages": len(outlook.shortages),
        "cures": [to_plain(cure) for cure in outlook.cures],
        "silent": list(outlook.silent),
    }


def step_row(step: Step, number: int) -> dict[str, Any]:
    """The JSON object of one step."""
    wish = step.wish
    return {
        "order": number,
        "array": wish.array,
        "target": to_plain(wish.target),
        "action": step.action.value,
        "sizing": wish.policy.sizing.value,
        "reserved_units": wish.reserved_units,
        "wanted_units": wish.wanted_units,
        "units": step.units,
        "short_units": step.short_units,
        "free_units": step.free_units,
        "unit_bytes": wish.unit_bytes,
        "recommended_bytes": wish.recommended_bytes,
    }


def _rows(station: Station, supposed: Supposed) -> list[Channel]:
    pair = canonical_pair(supposed.local_port, supposed.remote_port)
    rows = station.store.rows_of(*pair)
    if not rows:
        raise not_registered(*pair)
    changed = [
        replace(
            row,
            bandwidth_bps=supposed.bandwidth_bps or row.bandwidth_bps,
            rtt_ns=supposed.rtt_ns or row.rtt_ns,
            sessions=supposed.sessions or row.sessions,
            connections_per_session=supposed.connections_per_session or row.connections_per_session,
        )
        for row in rows
    ]
    if any(row.bandwidth_bps is None or row.rtt_ns is None for row in changed):
        raise ProblemError(
            "NOT_MEASURED",
            f"the channel {pair[0]},{pair[1]} has not been measured: measure it, or give bandwidth and rtt",
            status=409,
            title="No usable channel information",
        )
    return changed


def _alternative(station: Station, failed: Pair) -> list[Channel]:
    """The rows of the widest other channel between the arrays of a pair."""
    owners = {row.get("address"): row.get("array") for row in station.inventory.table("ports").rows}
    ends = (owners.get(failed[0]), owners.get(failed[1]))
    others: dict[Pair, int] = {}
    for channel in station.store.channels():
        pair = (channel.local_port, channel.remote_port)
        if pair != failed and (owners.get(pair[0]), owners.get(pair[1])) == ends and None not in ends:
            others[pair] = max(others.get(pair, 0), channel.bandwidth_bps or 0)
    if not others:
        return []
    best = max(others, key=lambda pair: (others[pair], pair))
    return station.store.rows_of(*best)


def _outlook(station: Station, rows: Sequence[Channel], failed: Sequence[Pair], text: str) -> Outlook:
    wishes: list[Wish] = []
    free: dict[str, int] = {}
    silent: list[str] = []
    for pair in dict.fromkeys((row.local_port, row.remote_port) for row in rows):
        of_pair = [row for row in rows if (row.local_port, row.remote_port) == pair]
        found = survey(station, *pair, of_pair, also=_without_policy(station, pair))
        wishes += found.wishes
        free |= found.free_units
        silent += found.silent
    steps = plan(wishes, free)
    return Outlook(
        channels=tuple(dict.fromkeys(name_of(row) for row in rows)),
        steps=steps,
        cures=_cures(station, steps, failed),
        silent=tuple(silent),
        text=text,
    )


def _without_policy(station: Station, pair: Pair) -> list[Policy]:
    """The reservations over a pair as if each had a policy of its own: set by hand to what it has."""
    found = []
    for row in station.inventory.table("reservations").rows:
        target = target_in(row.get("target"))
        size = row.get("reserved_bytes")
        if target is None or (target.local_port, target.remote_port) != pair or type(size) is not int:
            continue
        found.append(Policy(target=target, sizing=Sizing.MANUAL, size_bytes=max(1, size)))
    return found


def _cures(station: Station, steps: Sequence[Step], failed: Sequence[Pair]) -> tuple[Cure, ...]:
    """For each array that is short, what would bring units: the most first, then adding what is missing."""
    lacking: dict[str, int] = {}
    for step in steps:
        if step.short_units:
            lacking[step.wish.array] = lacking.get(step.wish.array, 0) + step.short_units
    if not lacking:
        return ()
    wanted = {step.wish.target.key: step.wish.wanted_units for step in steps}
    cures: dict[str, list[Cure]] = {array: [] for array in lacking}
    table = station.inventory.table("reservations")
    for row in table.rows:
        array, target = str(row.get("array")), target_in(row.get("target"))
        if array in lacking and target is not None:
            cures[array] += _cure(array, target, row, wanted, failed)
    for step in steps:
        if step.action is Action.FIXED and step.short_units and step.free_units >= step.short_units:
            wish = step.wish
            command = f"sancredit policy set {_flags(wish.target)} --automatic"
            text = f"{wish.target} is set by hand: make it automatic, there is room for it"
            cures[wish.array].append(
                Cure(array=wish.array, units=step.short_units, text=text, command=command)
            )
    found: list[Cure] = []
    for array, missing in lacking.items():
        best = sorted(cures[array], key=lambda cure: (-cure.units, cure.text))[:_CURES]
        found += best
        text = f"add {missing} units to the pool of array {array}"
        found.append(Cure(array=array, units=missing, text=text))
    return tuple(found)


def _cure(
    array: str, target: Target, row: Mapping[str, Any], wanted: Mapping[str, int], failed: Sequence[Pair]
) -> list[Cure]:
    has, idle = row.get("reserved_units"), row.get("idle_units")
    if type(has) is not int or type(idle) is not int:
        return []
    if (target.local_port, target.remote_port) in failed and has:
        text = f"release {target}, whose channel has failed: {has} units"
        return [
            Cure(array=array, units=has, text=text, command=f"sancredit release {_flags(target)} --drain")
        ]
    spare = has - wanted.get(target.key, has)
    if spare > 0:
        size = wanted[target.key] * (
            row["reserved_bytes"] // has if type(row.get("reserved_bytes")) is int else 0
        )
        text = f"shrink {target} to what its channel calls for: {spare} units"
        return [
            Cure(
                array=array,
                units=spare,
                text=text,
                command=f"sancredit update {_flags(target)} --size {size}",
            )
        ]
    if target.key not in wanted and row.get("in_use_units") == 0 and idle > 0:
        text = f"release {target}, which nobody uses now: {idle} units"
        return [Cure(array=array, units=idle, text=text, command=f"sancredit release {_flags(target)}")]
    return []


def _flags(target: Target) -> str:
    """The options that name a target."""
    if target.buffer_id is not None:
        return f"--buffer-id {target.buffer_id}"
    if target.name is not None:
        return f"--{target.kind.value.replace('_', '-')} {target.name}"
    number = "" if target.remote_port_number is None else f" --remote-port {target.remote_port_number}"
    return f"--port-pair {target.local_port},{target.remote_port}{number}"
