"""Cache shortage (embodiment 5): an array whose cache runs low gets more communication buffers for its copies.

Push (paragraph 104): the array asks with M12 as its free cache reaches the threshold. Pull (claim 21): the station asks
with M13 and acts when less than the threshold is free. Both run steps 802 to 808 for the copies that are running, and
send M14 where more is recommended than reserved; each once, until the cache is well above the threshold (GAP-21).
"""

from __future__ import annotations

import logging
import uuid
from functools import partial
from typing import TYPE_CHECKING

from credits.errors import CreditError, InvalidRequest
from credits.targets import Target
from mgmt.http import Peer, PeerError, PeerRefused, PeerUnreachable, ProblemError
from mgmt.messages import (
    BufferControlAutomationRequest,
    BufferControlAutomationResponse,
    CacheFree,
    CacheFreeQuery,
    CacheThresholdSetRequest,
    ReservedBufferEnlargeRequest,
)
from mgmt.station import alarms, events, policies, trail
from mgmt.station.canonical_json import target_in
from mgmt.station.changes import under_way
from mgmt.station.context import canonical
from mgmt.station.database import StationStoreError, Transaction
from mgmt.station.events import STATION
from mgmt.station.records import AlarmKind, Cause, Severity, Sizing, Stage
from mgmt.station.reservations import bring_to, inputs_of
from mgmt.station.sizes import Advice, advise
from mgmt.station.turns import on_cache

if TYPE_CHECKING:
    from mgmt.station.context import Station

_log = logging.getLogger(__name__)

#: What the audit trail calls M16.
THRESHOLD = "cache-threshold"
#: How often the station asks for the free cache.
WATCH_S = 5.0
#: An array asks for this many targets at most before the others wait for the next round.
_TARGETS = 64
#: A cache is well again when so much more than the threshold is free, in percent.
_AGAIN_PERCENT = 105


def automate(station: Station, request: BufferControlAutomationRequest) -> BufferControlAutomationResponse:
    """M12: whether the reservation of the target is enlarged, and to what; M14 follows on another thread.

    Raises :class:`InvalidRequest` for an array that is not the station's, and what sizing raises.
    """
    station.arrays[request.array]  # raises for an array that is not the station's
    target = canonical(request.target)
    _raise(station, request.array, request.free_bytes, request.threshold_bytes)
    advice = _advice(station, target)
    recommended = request.reserved_bytes if advice is None else advice.recommendation.reserve_bytes
    enlarges = advice is not None and _is_short(advice)
    if enlarges and advice is not None:
        station.arrays.later(partial(_enlarge, station, request.array, target, advice))
    return BufferControlAutomationResponse(
        target=request.target, recommended_bytes=recommended, enlarges=enlarges
    )


def free(station: Station, array: str) -> CacheFree:
    """M13: the cache memory of an array. Raises :class:`InvalidRequest` for an unknown array or one without a cache."""
    return _cache_of(station.arrays[array], CacheFreeQuery())


def set_threshold(station: Station, array: str, threshold_bytes: int, *, by: str) -> CacheFree:
    """M16 (paragraph 104): how little free cache is a shortage. In the audit trail before and after it is sent."""
    peer = station.arrays[array]
    with station.turns.take(f"the cache of array {array}", on_cache(array)):
        return _set_threshold(station, array, peer, threshold_bytes, by)


def _set_threshold(station: Station, array: str, peer: Peer, threshold_bytes: int, by: str) -> CacheFree:
    before = _cache_of(peer, CacheFreeQuery())
    request_id = uuid.uuid4().hex
    record = partial(
        trail.append,
        station=station,
        verb=THRESHOLD,
        subject=f"cache of array {array}",
        by=by,
        array=array,
        request_id=request_id,
        inputs={"threshold_bytes": threshold_bytes},
        before={"threshold_bytes": before.threshold_bytes},
    )
    with station.attempts.work_on(under_way(array, request_id)):
        asked = station.store.database.write(lambda t: record(t, stage=Stage.ASKED))
        try:
            after = _cache_of(peer, CacheThresholdSetRequest(threshold_bytes=threshold_bytes), request_id)
        except (PeerRefused, PeerUnreachable) as error:
            stage, detail = Stage.REFUSED if isinstance(error, PeerRefused) else Stage.UNKNOWN, str(error)
            station.store.database.write(lambda t: record(t, stage=stage, of=asked.number, detail=detail))
            raise

        def conclude(transaction: Transaction) -> None:
            values = {"threshold_bytes": after.threshold_bytes}
            record(transaction, stage=Stage.DONE, of=asked.number, after=values)
            text = f"the cache of array {array} warns at {after.threshold_bytes} bytes"
            subject = f"cache of array {array}"
            events.note(transaction, station, "threshold-set", subject, text, array=array, by=by)

        station.store.database.write(conclude)
    return after


def _cache_of(
    peer: Peer, request: CacheFreeQuery | CacheThresholdSetRequest, request_id: str = ""
) -> CacheFree:
    answer = peer.send(request, request_id or None)
    if not isinstance(answer, CacheFree):
        raise PeerUnreachable(peer.who, "its answer says nothing of a cache")
    return answer


def watch(station: Station) -> None:
    """M13 to every array; M14 for the running copies of one whose cache has just fallen below its threshold."""
    names = station.arrays.names()
    calls = [partial(station.arrays[name].send, CacheFreeQuery()) for name in names]
    for name, answer in zip(names, station.arrays.concurrently(calls), strict=True):
        if not isinstance(answer, CacheFree) or answer.threshold_bytes <= 0:
            continue  # it is down, has no cache that it watches, or is of another version
        if answer.free_bytes < answer.threshold_bytes:
            if name not in station.low_caches:
                station.low_caches.add(name)
                _raise(station, name, answer.free_bytes, answer.threshold_bytes)
                enlarge_running(station, name)
        elif answer.free_bytes * 100 >= answer.threshold_bytes * _AGAIN_PERCENT:
            station.low_caches.discard(name)
            subject = f"cache of array {name}"
            if alarms.find(station, AlarmKind.CACHE_LOW, subject) is not None:
                clear = partial(
                    alarms.clear_alarm, station=station, kind=AlarmKind.CACHE_LOW, subject=subject
                )
                station.store.database.write(clear)


def enlarge_running(station: Station, array: str) -> int:
    """Enlarge what is in use on an array and has less than recommended; how many were."""
    rows = station.arrays.ask([array], "/v1/reservations").get(array)
    done = 0
    for row in rows[:_TARGETS] if isinstance(rows, list) else ():
        target, used = target_in(row.get("target")), row.get("in_use_units")
        if target is None or type(used) is not int or used <= 0:
            continue
        try:
            advice = _advice(station, target)
            if advice is not None and _is_short(advice):
                done += _enlarge(station, array, target, advice)
        except (CreditError, PeerError, ProblemError) as error:
            _log.info("the cache of array %s is low, and %s stays as it is: %s", array, target, error)
    return done


def _advice(station: Station, target: Target) -> Advice | None:
    """Steps 802-808; ``None`` where the size is set by hand, or there is no channel to size for."""
    policy = policies.find(station, target)
    if policy is not None and policy.sizing is Sizing.MANUAL:
        return None
    via = None if policy is None or target.local_port is not None else policy.via
    try:
        return advise(station, target, via=via)
    except InvalidRequest:
        return None  # an open kind that nobody said the pair of


def _is_short(advice: Advice) -> bool:
    return advice.recommendation.units > advice.interface.reserved_units


def _enlarge(station: Station, array: str, target: Target, advice: Advice) -> bool:
    """M14, one at a time for each target."""
    size = advice.recommendation.reserve_bytes
    with station.attempts.work_on(f"enlarge {array} {target.key}") as mine:
        if not mine:
            return False
        try:
            bring_to(
                station,
                target,
                array,
                station.arrays[array],
                size,
                inputs=inputs_of(size, advice),
                by=STATION,
                cause=Cause.CACHE,
                verb="enlarge",
                message=ReservedBufferEnlargeRequest(target=target, size_bytes=size),
                resizes=True,
            )
        except PeerRefused as refusal:
            text = f"the cache of array {array} is low, and it cannot enlarge its reservation: {refusal}"
            cause = alarms.Cause(
                kind=AlarmKind.SHORTAGE, subject=str(target), text=text, array=array, target=target
            )
            station.store.database.write(lambda t: alarms.raise_alarm(t, station, cause))
            return False
        except (PeerUnreachable, CreditError, StationStoreError) as error:
            _log.warning("the cache of array %s is low, and %s stays as it is: %s", array, target, error)
            return False
    return True


def _raise(station: Station, array: str, free_bytes: int, threshold_bytes: int) -> None:
    cause = alarms.Cause(
        kind=AlarmKind.CACHE_LOW,
        subject=f"cache of array {array}",
        text=f"{free_bytes} bytes are free, the threshold is {threshold_bytes}",
        severity=Severity.WARNING,
        array=array,
    )
    station.store.database.write(lambda t: alarms.raise_alarm(t, station, cause))
