"""Figure 9 by itself: a channel has changed (1201), so the reservations that go over it are brought to size.

:func:`run_pair` is steps 1202 to 1208 for each target with a policy that goes over the pair; an :class:`Updater` runs
it for each pair that :func:`mgmt.station.channels.take_notice` or a measurement has made due.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from credits.errors import Code, CreditError, InvalidRequest, Refused
from credits.sizing import ceil_div
from mgmt.http import PeerError, PeerRefused, ProblemError
from mgmt.messages import InterfaceInfoGetResponse
from mgmt.station import alarms, policies
from mgmt.station.channels import is_stale
from mgmt.station.context import Station
from mgmt.station.database import StationStoreError, Transaction
from mgmt.station.events import STATION
from mgmt.station.holders import holder
from mgmt.station.records import AlarmKind, Cause, Policy, Severity, Sizing
from mgmt.station.reservations import bring_to
from mgmt.station.resize import Action, Step, Wish, plan
from mgmt.station.sizes import computed, interface_of
from mgmt.station.store import Channel

_log = logging.getLogger(__name__)

#: How often shrinks that wait, and targets that are short, are looked at again.
AGAIN_S = 5.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Survey:
    """What is known before deciding: the wishes over a channel, the room of each pool, and who did not answer."""

    wishes: tuple[Wish, ...]
    free_units: dict[str, int]
    silent: tuple[str, ...]


def survey(
    station: Station,
    local_port: str,
    remote_port: str,
    rows: Sequence[Channel],
    *,
    also: Sequence[Policy] = (),
) -> Survey:
    """Steps 1202 to 1205 for each target that goes over the pair, with the values of ``rows`` instead of table 108's.

    Targets without a reservation are left out: a policy reserves nothing by itself. ``also`` stands for targets that
    have no policy.
    """
    wishes: list[Wish] = []
    free: dict[str, int] = {}
    silent: list[str] = []
    known = policies.over_channel(station, local_port, remote_port)
    having = {policy.target for policy in known}
    for policy in [*known, *(policy for policy in also if policy.target not in having)]:
        channel = _row_for(policy, rows)
        if channel is None or channel.bandwidth_bps is None or channel.rtt_ns is None:
            continue
        try:
            array, pool, interface = _interface(station, policy)
        except InvalidRequest:
            continue  # nothing is reserved for it
        except PeerError as error:
            silent.append(str(error))
            continue
        if interface.reserved_units == 0:
            continue
        (recommended,) = computed(channel, policy.target, interface.unit_bytes)
        wishes.append(
            Wish(
                target=policy.target,
                array=array,
                pool=pool,
                policy=policy,
                unit_bytes=interface.unit_bytes,
                reserved_units=interface.reserved_units,
                recommended_bytes=recommended.reserve_bytes,
            )
        )
        free[pool] = interface.available_units + interface.expandable_units
    return Survey(wishes=tuple(wishes), free_units=free, silent=tuple(silent))


def run_pair(
    station: Station,
    local_port: str,
    remote_port: str,
    *,
    by: str = STATION,
    cause: Cause = Cause.CHANNEL,
    sample: bool = True,
) -> tuple[Step, ...]:
    """Figure 9 for a pair: what was decided, in its order. A target that is short gets an alarm (GAP-13).

    Values that are too old or could not be renewed change nothing (GAP-11). ``sample`` is false when nothing was
    measured and it is only looked at again.
    """
    rows = [row for row in station.store.rows_of(local_port, remote_port) if not is_stale(station, row)]
    found = survey(station, local_port, remote_port, rows)
    for line in found.silent:
        _log.info("figure 9 of %s,%s: %s", local_port, remote_port, line)
    now_s = station.utc_now().timestamp()
    done = []
    for planned in plan(found.wishes, found.free_units):
        step = planned
        if station.memory.due(step, now_s, sample=sample):
            step = _make(station, step, by=by, cause=cause)
            station.memory.acted(step.wish.target, now_s)
        done.append(step)
        _tell(station, step)
    return tuple(done)


def _make(station: Station, step: Step, *, by: str, cause: Cause) -> Step:
    """Steps 1206 to 1208. A refusal leaves the reservation as it is (GAP-13): somebody else was faster."""
    wish = step.wish
    try:
        bring_to(
            station,
            wish.target,
            wish.array,
            station.arrays[wish.array],
            step.size_bytes,
            inputs={
                "requested_bytes": step.size_bytes,
                "recommended_bytes": wish.recommended_bytes,
                "unit_bytes": wish.unit_bytes,
                "action": step.action.value,
            },
            by=by,
            cause=cause,
            resizes=True,
        )
    except PeerRefused as refusal:
        short = step.units - wish.reserved_units
        if refusal.shortage is not None:
            short = max(1, short - refusal.shortage.grantable_units)
        return replace(step, action=Action.SHORT, units=wish.reserved_units, short_units=short)
    except (PeerError, CreditError) as error:
        _log.info("%s is updated later, if it is still to be: %s", wish.target, error)
    return step


def put_policy(
    station: Station,
    policy: Policy,
    *,
    by: str,
    cause: Cause = Cause.USER,
    inputs: Mapping[str, Any] | None = None,
    expected: str | None = None,
) -> Policy:
    """Let ``policy`` be that of its target, as :func:`mgmt.station.policies.put`; what is reserved follows at once.

    A size set by hand is asked for here and now; what is refused or not answered is an alarm, and the policy stays.
    An automatic one is looked at by the :class:`Updater`, which waits for no samples then.
    """
    put = policies.put(station, policy, by=by, cause=cause, inputs=inputs, expected=expected)
    if put.sizing is Sizing.MANUAL:
        _bring_by_hand(station, put, by=by)
    elif (pair := policies.channel_of(put)) is not None:
        station.memory.wish_now(put.target)
        station.due.add(*pair)
    return put


def _bring_by_hand(station: Station, policy: Policy, *, by: str) -> None:
    assert policy.size_bytes is not None
    target, size_bytes = policy.target, policy.size_bytes
    array = None
    try:
        array, _, interface = _interface(station, policy)
        if interface.reserved_units in (0, max(1, ceil_div(size_bytes, interface.unit_bytes))):
            return
        bring_to(
            station,
            target,
            array,
            station.arrays[array],
            size_bytes,
            inputs={"requested_bytes": size_bytes, "unit_bytes": interface.unit_bytes},
            by=by,
            cause=Cause.POLICY,
            resizes=True,
        )
    except InvalidRequest as error:
        _log.info("nothing is resized for the policy of %s: %s", target, error)
    except (PeerError, ProblemError, Refused) as error:
        if isinstance(error, Refused) and error.code is Code.NOT_RESERVED:
            return  # released meanwhile
        alarm = alarms.Cause(
            kind=AlarmKind.SHORTAGE,
            subject=str(target),
            text=f"its policy asks for {size_bytes} bytes, and it stays as it is: {error}",
            severity=Severity.WARNING,
            array=array,
            target=target,
        )
        station.store.database.write(lambda t: alarms.raise_alarm(t, station, alarm))


def _tell(station: Station, step: Step) -> None:
    """Raise or clear the alarm of a target; nothing is written where it is as it should be."""
    target = step.wish.target
    subject = str(target)
    if step.short_units:
        text = (
            f"it has {step.units} units and its channel calls for {step.wish.wanted_units}: short by "
            f"{step.short_units} on array {step.wish.array}, which has {step.free_units} free"
        )
        cause = alarms.Cause(
            kind=AlarmKind.SHORTAGE,
            subject=subject,
            text=text,
            severity=Severity.WARNING,
            array=step.wish.array,
            target=target,
        )
        known = alarms.find(station, AlarmKind.SHORTAGE, subject)
        if known is None or known.text != text:
            station.store.database.write(lambda t: alarms.raise_alarm(t, station, cause))
    elif alarms.find(station, AlarmKind.SHORTAGE, subject) is not None:

        def clear(transaction: Transaction) -> None:
            alarms.clear_alarm(transaction, station, AlarmKind.SHORTAGE, subject)

        station.store.database.write(clear)


def _row_for(policy: Policy, rows: Sequence[Channel]) -> Channel | None:
    number = policy.target.remote_port_number
    plain = next((row for row in rows if row.remote_port_number is None), None)
    return next((row for row in rows if row.remote_port_number == number), plain)


def _interface(station: Station, policy: Policy) -> tuple[str, str, InterfaceInfoGetResponse]:
    """Array, pool and M4 of what a policy is for."""
    target = policy.target
    port = target.local_port or (policy.via[0] if policy.via is not None else None)
    if port is not None:
        site = station.arrays.with_port(port)
        pool = f"{site.array}/{site.port.get('interface', '')}"
        return site.array, pool, interface_of(site.peer, target, port)
    array, peer = holder(station, target)
    return array, array, interface_of(peer, target)


def look_again(station: Station) -> None:
    """Pairs with a target that waits for its shrink, or is short: perhaps there is room now, or time enough passed."""
    pairs = set()
    targets = [alarm.target for alarm in alarms.listed(station, kind=AlarmKind.SHORTAGE)]
    waiting = set(station.memory.shrinking)
    if waiting:
        targets += [policy.target for policy in policies.listed(station) if policy.target.key in waiting]
    for target in targets:
        policy = None if target is None else policies.find(station, target)
        pair = None if policy is None else policies.channel_of(policy)
        if pair is not None:
            pairs.add(pair)
    for local_port, remote_port in sorted(pairs):
        run_pair(station, local_port, remote_port, sample=False)


class Updater:
    """A thread that runs figure 9 for each pair that is due, as soon as it is."""

    def __init__(self, station: Station) -> None:
        self._station = station
        self._ending = threading.Event()
        self._thread = threading.Thread(target=self._run, name="updater")

    def __enter__(self) -> Updater:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        """Ends the thread; one that waits for an array just now is left to its time-out."""
        self._ending.set()
        self._thread.join(2.0)

    def _run(self) -> None:
        while not self._ending.is_set():
            pair = self._station.due.take(0.2)
            if pair is None:
                continue
            try:
                run_pair(self._station, *pair)
            except (CreditError, PeerError, ProblemError, StationStoreError) as error:
                if not self._ending.is_set():
                    _log.warning("figure 9 of %s,%s: %s", *pair, error)
            except RuntimeError:
                if not self._ending.is_set():  # else its connections were closed under it
                    raise
