"""What the station looks after by itself: health of arrays and channels, leases, what is unsettled, old rows."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

from credits.errors import CreditError, Refused
from mgmt.http import PeerError, PeerRefused, PeerUnreachable, ProblemError
from mgmt.messages import BufferReserveRequest
from mgmt.station import alarms, cache, events, history, lifecycle, policies, reconcile, trail, updates
from mgmt.station.alarms import Cause
from mgmt.station.channels import is_stale, name_of
from mgmt.station.database import StationStoreError, Transaction
from mgmt.station.inventory import round_s
from mgmt.station.open_ends import Settler
from mgmt.station.records import AlarmKind, Holding, HoldingState, Severity
from mgmt.station.turns import on_target

if TYPE_CHECKING:
    from mgmt.station.context import Station

_log = logging.getLogger(__name__)

#: Of a pool hardly anything is free below this share (GAP-14).
_LOW_PERCENT = 10
#: A port that has waited for credits for more than this share of the time is starved.
STARVED_PERCENT = 5
#: Failures that a job may have: each is said, and the job comes again.
_FAILURES = (CreditError, PeerError, ProblemError, StationStoreError)


@dataclass(frozen=True, slots=True)
class Job:
    """Something that is done again and again."""

    name: str
    every_s: float
    do: Callable[[Station], object]


def check_arrays(station: Station) -> None:
    """Alarms for arrays that are down, and for pools that are short or have fewer units than they should."""
    causes = [
        Cause(
            kind=AlarmKind.ARRAY_DOWN,
            subject=f"array {row['array']}",
            text=f"it does not answer: {row['detail']}",
            severity=Severity.CRITICAL,
            array=row["array"],
        )
        for row in station.inventory.table("arrays").rows
        if row["state"] == "down"
    ]
    for row in station.inventory.table("pools").rows:
        causes += _pool_causes(row)
    alarms.bring_to(station, (AlarmKind.ARRAY_DOWN, AlarmKind.DEGRADED, AlarmKind.CREDIT_STARVATION), causes)
    _check_low_pools(station)


def _pool_causes(row: dict[str, object]) -> list[Cause]:
    array, interface = str(row.get("array")), str(row.get("interface"))
    found = []
    degraded = row.get("degraded_units")
    if type(degraded) is int and degraded > 0:
        text = f"{degraded} units of its reservations have no memory: the pool is smaller than it was"
        subject = f"interface {interface} of array {array}"
        found.append(
            Cause(
                kind=AlarmKind.DEGRADED, subject=subject, text=text, severity=Severity.CRITICAL, array=array
            )
        )
    starved = row.get("credit_zero_percent")
    if isinstance(starved, int | float) and starved > STARVED_PERCENT:
        subject = f"interface {interface} of array {array}"
        text = f"it had no credit to send with for more than {STARVED_PERCENT} % of the time"
        found.append(Cause(kind=AlarmKind.CREDIT_STARVATION, subject=subject, text=text, array=array))
    return found


def _check_low_pools(station: Station) -> None:
    """Shortage alarms of whole pools; those of targets are raised and cleared where they are sized."""
    causes = []
    for row in station.inventory.table("pools").rows:
        numbers = [row.get(name) for name in ("free_units", "expandable_units", "total_units")]
        if not all(type(number) is int for number in numbers):
            continue
        free, expandable, total = (int(number or 0) for number in numbers)
        if total and (free + expandable) * 100 < _LOW_PERCENT * total:
            array = str(row.get("array"))
            causes.append(
                Cause(
                    kind=AlarmKind.LOW_POOL,
                    subject=f"interface {row.get('interface')} of array {array}",
                    text=f"less than {_LOW_PERCENT} % of its units are free: hosts may have to wait",
                    array=array,
                )
            )
    alarms.bring_to(station, (AlarmKind.LOW_POOL,), causes)


def check_channels(station: Station) -> None:
    """Alarms for channels whose values are stale, where something is sized by them."""
    causes = [
        Cause(
            kind=AlarmKind.STALE_CHANNEL,
            subject=name_of(row),
            text="its values could not be renewed" if row.failed else "its values are too old",
        )
        for row in station.store.channels()
        if row.measured_at is not None and is_stale(station, row)
    ]
    alarms.bring_to(station, (AlarmKind.STALE_CHANNEL,), causes)


def renew_leases(station: Station) -> int:
    """Make reservations with a lease again when a third of it has passed: they lapse without this station (GAP-10).

    A renewal changes nothing, so it leaves no record. Returns how many were renewed.
    """
    now = station.utc_now().timestamp()
    leased = {p.target.key: p.lease_s for p in policies.listed(station) if p.lease_s is not None}
    kept: dict[str, float] = {}
    due: list[tuple[str, Holding, int]] = []
    for holding in lifecycle.listed(station) if leased else ():
        lease_s = leased.get(holding.target.key)
        if (
            lease_s is None
            or holding.state is not HoldingState.RESERVED
            or holding.target.buffer_id is not None
        ):
            continue
        key = f"{holding.array}/{holding.target.key}"
        kept[key] = station.renewed.get(key, 0.0)
        if now - kept[key] >= lease_s / 3:
            due.append((key, holding, lease_s))
    calls = [partial(_renew, station, holding, lease_s) for _, holding, lease_s in due]
    renewed = 0
    for (key, holding, _), answer in zip(due, station.arrays.concurrently(calls), strict=True):
        if isinstance(answer, PeerRefused | PeerUnreachable):
            _log.warning(
                "the lease of %s on array %s is not renewed: %s", holding.target, holding.array, answer
            )
        elif answer:
            kept[key] = now
            renewed += 1
    station.renewed.clear()
    station.renewed.update(kept)
    return renewed


def _renew(station: Station, holding: Holding, lease_s: int) -> bool:
    """Whether it is renewed; not what is being changed now or has been since it was read, which the next round sees."""
    array, target = holding.array, holding.target
    try:
        with station.turns.take(f"{target} on array {array}", on_target(array, target), wait_s=0.0):
            with station.store.database.read() as connection:
                if lifecycle.find(connection, array, target) != holding:
                    return False
            request = BufferReserveRequest(
                target=target, requested_bytes=holding.requested_bytes, lease_ns=lease_s * 10**9
            )
            station.arrays[array].send(request)
    except Refused:
        return False
    return True


def thin(station: Station) -> None:
    """Bring old rows together, and forget what is beyond the limits."""

    def change(transaction: Transaction) -> None:
        history.thin(transaction, station)
        events.thin(transaction)
        trail.thin(transaction)
        alarms.thin(transaction)
        lifecycle.thin(transaction)

    station.store.database.write(change)


JOBS: tuple[Job, ...] = (
    Job("settling changes", 2.0, reconcile.settle_trail),
    Job("arrays", 5.0, check_arrays),
    Job("channels", 5.0, check_channels),
    Job("resizing", updates.AGAIN_S, updates.look_again),
    Job("caches", cache.WATCH_S, cache.watch),
    Job("leases", 1.0, renew_leases),
    Job("old rows", 60.0, thin),
)


class Keeper:
    """The station's threads: figure 9 as channels change, open ends, the rounds over the arrays, and :data:`JOBS`."""

    def __init__(self, station: Station, jobs: tuple[Job, ...] = JOBS) -> None:
        self._station = station
        self._jobs = jobs
        self._ending = threading.Event()
        self._stack = ExitStack()
        self._threads = [
            threading.Thread(target=self._work, name="keeper"),
            threading.Thread(target=self._go_round, name="rounds"),
        ]

    def __enter__(self) -> Keeper:
        self._stack.enter_context(Settler(self._station))
        self._stack.enter_context(updates.Updater(self._station))
        for row in self._station.store.channels():
            # What changed while no station ran, or just before it ended: figure 9 is due.
            self._station.due.add(row.local_port, row.remote_port)
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        """Ends the threads; one that waits for an array just now is left to its time-out."""
        self._ending.set()
        for thread in self._threads:
            thread.join(2.0)
        self._stack.close()

    def _work(self) -> None:
        due = dict.fromkeys((job.name for job in self._jobs), 0.0)
        while not self._ending.is_set():
            for job in self._jobs:
                if time.monotonic() >= due[job.name] and not self._ending.is_set():
                    self._try(job.name, job.do)
                    due[job.name] = time.monotonic() + job.every_s
            self._ending.wait(max(0.05, min(due.values()) - time.monotonic()))

    def _go_round(self) -> None:
        """Ask one array after the other, all of them in one round; at the start all at once, for who asks then."""
        self._try("the first round", lambda station: station.inventory.warm())
        while not self._ending.is_set():
            names = self._station.arrays.names()
            pause_s = round_s(len(names)) / max(1, len(names))
            for name in names:
                self._try("the round", partial(visit, array=name))
                if self._ending.wait(pause_s):
                    return
            if not names:
                self._ending.wait(1.0)

    def _try(self, name: str, do: Callable[[Station], object]) -> None:
        try:
            do(self._station)
        except _FAILURES as error:
            if not self._ending.is_set():  # else it was interrupted
                _log.warning("%s: %s", name, error)
        except RuntimeError:
            if not self._ending.is_set():  # else its connections were closed under it
                raise


def visit(station: Station, array: str) -> None:
    """Ask an array what it has, and bring what the station knows of its reservations to that."""
    before = station.inventory.health(array)[0]
    station.inventory.renew(array)
    up, _, detail = station.inventory.health(array)
    if up is not before and before is not None:
        text = f"array {array} answers again" if up else f"array {array} does not answer: {detail}"
        kind, severity = ("array-up", Severity.INFO) if up else ("array-down", Severity.WARNING)

        def change(transaction: Transaction) -> None:
            events.note(transaction, station, kind, f"array {array}", text, severity=severity, array=array)

        station.store.database.write(change)
    kept = station.inventory.said(array, "reservations")
    if kept is not None:
        reconcile.compare(station, array, *kept)
