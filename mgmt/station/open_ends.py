"""Ends of pairs that unfinished attempts have left: each is brought back, at once or as soon as its array answers."""

from __future__ import annotations

import logging
import threading
from collections.abc import Sequence

from credits.errors import Code, InvalidRequest, Refused
from credits.targets import Target, port_pair
from mgmt.http import Peer, PeerRefused, PeerUnreachable
from mgmt.messages import (
    BufferHoldRequest,
    BufferHoldResponse,
    BufferReserveResponse,
    HoldConfirmRequest,
    HoldVoidRequest,
    ReservationReleaseRequest,
    ReservedBufferUpdateRequest,
)
from mgmt.station import alarms, events, trail
from mgmt.station.context import Station
from mgmt.station.database import StationStoreError, Transaction
from mgmt.station.records import AlarmKind, Cause, Record, Severity, Stage
from mgmt.station.store import OpenEnd
from mgmt.station.turns import on_each, on_target

_log = logging.getLogger(__name__)

#: A hold outlives the longest wait for the other array's answers; what is not confirmed by then is gone.
HOLD_NS = 30 * 10**9
#: How often the settler looks for ends that an array which was down has left open.
SETTLE_S = 2.0
#: What the audit trail calls reserving at both ends.
VERB = "reserve-both-ends"


def confirm(station: Station, end: OpenEnd) -> BufferReserveResponse:
    """Turn the hold of an end into the reservation; again under the same ID, so that the answer is the same."""
    peer = station.arrays[end.array]
    answer = peer.send(HoldConfirmRequest(hold=end.hold), _confirm_id(end))
    if not isinstance(answer, BufferReserveResponse):
        raise PeerUnreachable(peer.who, "its answer is no reservation")
    return answer


def _confirm_id(end: OpenEnd) -> str:
    """One for each end, whoever asks: by it an array knows a confirmation again, even after a restart."""
    return f"{end.attempt}-confirm-{end.number}"


def hold_request(target: Target, size_bytes: int, lease_ns: int | None) -> BufferHoldRequest:
    """What holds one end; the same in each attempt to hold it."""
    return BufferHoldRequest(target=target, requested_bytes=size_bytes, ttl_ns=HOLD_NS, lease_ns=lease_ns)


def hold_id(attempt: str, number: int) -> str:
    """One for each end: an array answers the same request again as it did the first time."""
    return f"{attempt}-hold-{number}"


def void_holds(station: Station, record: Record) -> bool:
    """Void what an attempt may hold that ended before its ends were written down; whether that is certain now.

    Each end is asked for its hold under the same ID as then: the answer names the hold, or makes one, which is voided
    either way; a refusal says that there is none.
    """
    target = record.target
    assert target is not None and target.local_port is not None and target.remote_port is not None
    size, lease_ns = record.inputs.get("requested_bytes"), record.inputs.get("lease_ns")
    certain = True
    for number, end in enumerate((target, port_pair(target.remote_port, target.local_port))):
        if type(size) is not int:
            return True
        try:
            site = station.arrays.with_port(str(end.local_port))
            with station.turns.take(str(end), on_target(site.array, end)):
                held = site.peer.send(hold_request(end, size, lease_ns), hold_id(record.request_id, number))
                if isinstance(held, BufferHoldResponse):
                    site.peer.send(HoldVoidRequest(hold=held.hold), f"{record.request_id}-void-{number}")
        except (PeerRefused, InvalidRequest) as refusal:
            _log.info("nothing is held for %s: %s", end, refusal)
        except Refused as busy:
            _log.info("what is held for %s is voided later: %s", end, busy)
            certain = False
        except PeerUnreachable as error:
            _log.info("what is held for %s ends later: %s", end, error)
            certain = False
    return certain


def settle(station: Station) -> int:
    """Bring back what unfinished attempts have left, as far as the arrays answer; how many ends remain open.

    An end that remains open gets an alarm, which is over when it is back.
    """
    for attempt in {end.attempt for end in station.store.open_ends()}:
        with station.attempts.work_on(attempt) as mine:
            if not mine:
                continue
            # Read again: it may have been finished since.
            ends = [end for end in station.store.open_ends() if end.attempt == attempt]
            claims = on_each((end.array, port_pair(end.local_port, end.remote_port)) for end in ends)
            try:
                with station.turns.take("what an attempt has left open", claims):
                    settle_ends(station, ends)
            except Refused as busy:
                _log.info("%s", busy)
    left = station.store.open_ends()
    alarms.bring_to(
        station,
        (AlarmKind.OPEN_END,),
        [_cause(end) for end in left if end.attempt not in station.attempts.under_way()],
    )
    return len(left)


def _cause(end: OpenEnd) -> alarms.Cause:
    return alarms.Cause(
        kind=AlarmKind.OPEN_END,
        subject=f"end of {end.local_port}->{end.remote_port} on array {end.array}",
        text=f"array {end.array} may still hold what the other end refused; it is brought back to "
        f"{end.previous_bytes} bytes as soon as the array answers",
        severity=Severity.CRITICAL,
        array=end.array,
        target=port_pair(end.local_port, end.remote_port),
    )


def settle_ends(station: Station, ends: Sequence[OpenEnd], why: str = "the station ended in between") -> None:
    """Bring the ends of an attempt back as far as their arrays answer; what is back is forgotten."""
    undone = [end for end in ends if undo_end(station, end)]

    def change(transaction: Transaction) -> None:
        station.store.finish_ends(transaction, undone)
        if len(undone) < len(ends):
            return
        attempt = ends[0].attempt
        number = trail.asked_number(transaction, attempt)
        if number is None:
            return
        target = port_pair(ends[0].local_port, ends[0].remote_port)
        trail.append(
            transaction,
            station,
            VERB,
            Stage.SETTLED,
            str(target),
            of=number,
            cause=Cause.RECONCILIATION,
            target=target,
            request_id=attempt,
            detail=f"{why}; neither end keeps a reservation",
        )
        text = f"neither end of {target} keeps what was asked for: {why}"
        events.note(transaction, station, "settled", str(target), text, severity=Severity.WARNING)

    if not undone:
        return
    try:
        station.store.database.write(change)
    except StationStoreError as error:
        _log.warning("%s; it is tried again", error)


def undo_end(station: Station, end: OpenEnd) -> bool:
    """Whether it is certain now that the end is as it was, or in the hands of another manager.

    Voided first: from then on the hold cannot be confirmed. Then asked for its confirmation under the same ID as
    before: the answer is the first one where it was confirmed, else STALE.
    """
    try:
        peer = station.arrays[end.array]
        try:
            peer.send(HoldVoidRequest(hold=end.hold), f"{end.attempt}-void-{end.number}")
        except PeerRefused as refusal:
            if refusal.code != Code.STALE:
                raise
            _give_back(peer, end, confirm(station, end))
    except PeerRefused as refusal:
        if refusal.code in (Code.STALE, Code.NOT_RESERVED):
            return True
        _log.warning("array %s cannot bring its end back yet: %s", end.array, refusal)
        return False
    except (PeerUnreachable, InvalidRequest) as error:
        _log.info("array %s brings its end back later: %s", end.array, error)
        return False
    return True


def _give_back(peer: Peer, end: OpenEnd, made: BufferReserveResponse) -> None:
    """Undo what was confirmed, unless another manager has changed it since: the epoch tells (GAP-10)."""
    target = port_pair(end.local_port, end.remote_port)
    if end.previous_bytes:
        peer.send(
            ReservedBufferUpdateRequest(target=target, recommended_bytes=end.previous_bytes, epoch=made.epoch)
        )
    else:
        peer.send(ReservationReleaseRequest(target=target, drain=True, epoch=made.epoch))


class Settler:
    """A thread that settles what unfinished attempts have left, from the start on."""

    def __init__(self, station: Station, interval_s: float = SETTLE_S) -> None:
        self._station = station
        self._interval_s = interval_s
        self._ending = threading.Event()
        self._thread = threading.Thread(target=self._run, name="settler")

    def __enter__(self) -> Settler:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        """Ends the thread; one that waits for an array just now is left to its time-out."""
        self._ending.set()
        self._thread.join(self._interval_s)

    def _run(self) -> None:
        while True:
            try:
                settle(self._station)
            except StationStoreError as error:
                if not self._ending.is_set():
                    _log.warning("%s", error)
            except RuntimeError:
                if not self._ending.is_set():  # else its connections were closed under it
                    raise
            if self._ending.wait(self._interval_s):
                return
