"""Reserving at both ends of a pair, or at neither (GAP-26): hold here, hold there, then confirm both.

A hold cannot be refused for want of units when it is confirmed, and ends by itself. What remains is an array or a
station that fails in between; so before the first confirmation the ends are written down, and unless both are known to
be confirmed, each is brought back to what it was: at once where its array answers, else by the :class:`Settler` as
soon as it does, also after a restart of the station.
"""

from __future__ import annotations

import logging
import threading
import uuid
from collections.abc import Sequence
from dataclasses import dataclass

from credits.errors import Code, InvalidRequest
from credits.targets import Target, TargetKind, port_pair
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
from mgmt.station.arrays import Site
from mgmt.station.context import Station
from mgmt.station.reservations import Reserved, check_size
from mgmt.station.sizes import Advice, advise
from mgmt.station.store import OpenEnd, StationStoreError

_log = logging.getLogger(__name__)

#: A hold outlives the longest wait for the other array's answers; what is not confirmed by then is gone.
HOLD_NS = 30 * 10**9
#: How often the settler looks for ends that an array which was down has left open.
SETTLE_S = 2.0


@dataclass(frozen=True, slots=True, kw_only=True)
class BothReserved:
    """What both arrays granted: ``local`` for the pair, ``remote`` for the pair the other way round."""

    local: Reserved
    remote: Reserved
    advice: Advice | None


def reserve_both_ends(
    station: Station,
    target: Target,
    *,
    size_bytes: int | None = None,
    sessions: int | None = None,
    connections_per_session: int | None = None,
    lease_ns: int | None = None,
) -> BothReserved:
    """Reserve ``size_bytes`` (or the recommended size) for a port pair, and for its mirror image on the other array.

    The remote array reserves for what it sends back over the same channel, by the same messages. Raises what the
    failing end says; both are then as they were, or are so as soon as an array that does not answer does.
    """
    if target.kind is not TargetKind.PORT_PAIR or target.local_port is None or target.remote_port is None:
        raise InvalidRequest(Code.INVALID_TARGET, f"both ends are reserved for a port pair, not for {target}")
    advice = None
    if size_bytes is None:
        advice = advise(station, target, sessions=sessions, connections_per_session=connections_per_session)
        size_bytes = advice.recommendation.reserve_bytes
    check_size(size_bytes)
    attempt = uuid.uuid4().hex
    mirrored = port_pair(target.remote_port, target.local_port)
    with station.attempts.work_on(attempt):
        ends = _hold_both(station, attempt, (target, mirrored), size_bytes, lease_ns)
        answers = _confirm_both(station, ends)
    local, remote = (
        Reserved(array=end.array, requested_bytes=size_bytes, answer=answer, advice=None)
        for end, answer in zip(ends, answers, strict=True)
    )
    return BothReserved(local=local, remote=remote, advice=advice)


def _hold_both(
    station: Station, attempt: str, targets: Sequence[Target], size_bytes: int, lease_ns: int | None
) -> list[OpenEnd]:
    """The holds, written down; or neither."""
    sites = [station.arrays.with_port(str(target.local_port)) for target in targets]
    ends: list[OpenEnd] = []
    try:
        for site, target in zip(sites, targets, strict=True):
            request = BufferHoldRequest(
                target=target, requested_bytes=size_bytes, ttl_ns=HOLD_NS, lease_ns=lease_ns
            )
            ends.append(_hold(site, attempt, len(ends), request))
        station.store.put_ends(ends)
    except (PeerRefused, PeerUnreachable, InvalidRequest, StationStoreError):
        for end in ends:
            if not _undo(station, end):
                _log.warning("the hold of array %s ends by itself", end.array)
        raise
    return ends


def _hold(site: Site, attempt: str, number: int, request: BufferHoldRequest) -> OpenEnd:
    try:
        answer = site.peer.send(request, f"{attempt}-hold-{number}")
    except PeerRefused as refusal:
        raise _neither(refusal, site.array) from refusal
    if not isinstance(answer, BufferHoldResponse):
        raise PeerUnreachable(site.peer.who, "its answer is no hold")
    return OpenEnd(
        attempt=attempt,
        number=number,
        array=site.array,
        hold=answer.hold,
        local_port=str(request.target.local_port),
        remote_port=str(request.target.remote_port),
        previous_bytes=answer.previous_bytes,
    )


def _confirm_both(station: Station, ends: Sequence[OpenEnd]) -> list[BufferReserveResponse]:
    """Both reservations in the order of ``ends``; or neither.

    The far end goes first: it is the likelier one to be out of reach, and then nothing here has changed yet.
    """
    answers: list[BufferReserveResponse] = []
    for end in reversed(ends):
        try:
            answers.insert(0, _confirm(station, end))
        except (PeerRefused, PeerUnreachable) as error:
            _settle(station, ends)
            if isinstance(error, PeerRefused):
                raise _neither(error, end.array) from error
            detail = (
                f"{error.detail}; neither end keeps a reservation: what array {end.array} may have confirmed"
            )
            raise PeerUnreachable(error.who, f"{detail} is undone as soon as it answers") from error
    try:
        station.store.remove_ends(ends)
    except StationStoreError:
        _settle(station, ends)
        raise
    return answers


def _confirm(station: Station, end: OpenEnd) -> BufferReserveResponse:
    peer = station.arrays[end.array]
    answer = peer.send(HoldConfirmRequest(hold=end.hold), _confirm_id(end))
    if not isinstance(answer, BufferReserveResponse):
        raise PeerUnreachable(peer.who, "its answer is no reservation")
    return answer


def _confirm_id(end: OpenEnd) -> str:
    """One for each end, whoever asks: by it an array knows a confirmation again, even after a restart."""
    return f"{end.attempt}-confirm-{end.number}"


def _neither(refusal: PeerRefused, array: str) -> PeerRefused:
    detail = f"array {array}: {refusal}; nothing has changed at either end"
    return PeerRefused(refusal.code, refusal.title, detail, refusal.problem | {"detail": detail})


# -- bringing an end back ------------------------------------------------------------------------------------


def settle(station: Station) -> int:
    """Bring back what unfinished attempts have left, as far as the arrays answer; how many ends remain open."""
    for attempt in {end.attempt for end in station.store.open_ends()}:
        with station.attempts.work_on(attempt) as mine:
            if mine:  # read again: it may have been finished since
                _settle(station, [end for end in station.store.open_ends() if end.attempt == attempt])
    return len(station.store.open_ends())


def _settle(station: Station, ends: Sequence[OpenEnd]) -> None:
    undone = [end for end in ends if _undo(station, end)]
    try:
        station.store.remove_ends(undone)
    except StationStoreError as error:
        _log.warning("%s; it is tried again", error)


def _undo(station: Station, end: OpenEnd) -> bool:
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
            _give_back(peer, end, _confirm(station, end))
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
                _log.warning("%s", error)
            except RuntimeError:
                if not self._ending.is_set():  # else its connections were closed under it
                    raise
            if self._ending.wait(self._interval_s):
                return
