"""The messages of the management station, turned into calls (spec D), and the tables to read.

Messages are handled on worker threads of the control server: what waits for the journal or a disk waits there,
and what belongs to the data loop is handed over to it.
"""

from __future__ import annotations

import asyncio
import threading
from collections import OrderedDict
from collections.abc import Callable, Coroutine, Mapping
from concurrent.futures import Future
from typing import TYPE_CHECKING, Any, TypeVar

from credits.errors import Code, InvalidRequest
from credits.targets import Target, check_target
from iscsi_target.scsi.errors import StoreError as DiskError
from mgmt.array import tables
from mgmt.array.cache.memory import CacheMemory
from mgmt.array.cache.watch import CacheWatch
from mgmt.array.interface import CommunicationInterface
from mgmt.array.interfaces import Interfaces
from mgmt.array.replication.assembly import ArrayPairs
from mgmt.array.replication.history import CopyHistory
from mgmt.array.replication.remote_copy import NoSuchCopy, RemoteCopy
from mgmt.array.volumes import Volumes
from mgmt.http import ProblemError
from mgmt.messages import (
    BadMessage,
    BufferHoldRequest,
    BufferReserveRequest,
    CacheFree,
    CacheFreeQuery,
    CacheThresholdSetRequest,
    ChannelInfoGetRequest,
    ChannelInfoGetResponse,
    CopyStartRequest,
    CopyStatus,
    CopyStatusRequest,
    CopyStopRequest,
    Envelope,
    HoldConfirmRequest,
    HoldVoidRequest,
    InterfaceInfoGetRequest,
    Message,
    PairCreateRequest,
    PairRequest,
    ReservationPreviewRequest,
    ReservationReleaseRequest,
    ReservedBufferEnlargeRequest,
    ReservedBufferUpdateRequest,
    VolumeChecksumsRequest,
    VolumeDigest,
    VolumeDigestRequest,
)

if TYPE_CHECKING:
    from starlette.types import ASGIApp

T = TypeVar("T")

#: So many answers to start requests are remembered for retries (GAP-5).
_ANSWERS_LIMIT = 2048
#: A start request or a stop takes at most this long on the data loop; both are bounded there by less.
_DATA_LOOP_TIMEOUT_S = 30.0


class Control:
    """The array's management agent.

    ``ports`` gives the rows of its ports; ``on_change`` is called on the data loop when a reservation has changed.
    ``cache`` and ``watch`` are there where it has a cache memory, ``measure`` (M1) where it has Fibre Channel ports.
    ``log_in_again`` has the links of Fibre Channel ports log in anew where a reservation has outgrown its grant.
    ``credit_zero`` gives, by FC interface with a link, the share of time without a credit to send with; it may block.
    """

    def __init__(
        self,
        name: str,
        interfaces: Interfaces,
        volumes: Volumes,
        remote_copy: RemoteCopy,
        data_loop: asyncio.AbstractEventLoop,
        ports: Callable[[], list[dict[str, Any]]],
        on_change: Callable[[], None],
        history: CopyHistory | None = None,
        cache: CacheMemory | None = None,
        watch: CacheWatch | None = None,
        pairs: ArrayPairs | None = None,
        measure: Callable[[ChannelInfoGetRequest], ChannelInfoGetResponse] | None = None,
        credit_zero: Callable[[], Mapping[str, float]] = dict,
        log_in_again: Callable[[Target], None] = lambda _target: None,
    ) -> None:
        self._history = history or CopyHistory(None)
        self._name = name
        self._interfaces = interfaces
        self._volumes = volumes
        self._remote_copy = remote_copy
        self._data_loop = data_loop
        self._ports = ports
        self._on_change = on_change
        self._cache = cache
        self._watch = watch
        self._pairs = pairs
        self._measure = measure
        self._log_in_again = log_in_again
        self._credit_zero = credit_zero
        self._started = _Once(_ANSWERS_LIMIT)

    def handle(self, envelope: Envelope) -> Message:
        """The answer to one message; blocks.

        Raises :class:`CreditError`, :class:`BadMessage` and :class:`ProblemError`, which become problems.
        """
        message, request_id = envelope.message, envelope.request_id
        match message:
            case InterfaceInfoGetRequest():
                return self._serving(message.target, message.via).information(message)
            case BufferReserveRequest():
                reserved = self._serving(message.target, message.via).reserve(message, request_id)
                return self._granted_anew(message, self._changed(reserved))
            case BufferHoldRequest():
                return self._serving(message.target).hold(message, request_id)
            case HoldConfirmRequest():
                return self._changed(self._interfaces.of_hold(message.hold).confirm(message, request_id))
            case HoldVoidRequest():
                return self._interfaces.of_hold(message.hold).void(message, request_id)
            case ReservedBufferUpdateRequest():
                updated = self._serving(message.target).update(message, request_id)
                return self._granted_anew(message, self._changed(updated))
            case ReservedBufferEnlargeRequest():
                return self._changed(self._serving(message.target).enlarge(message, request_id))
            case ReservationPreviewRequest():
                return self._serving(message.target, message.via).preview(message)
            case ReservationReleaseRequest():
                return self._changed(self._serving(message.target).release(message, request_id))
            case CacheFreeQuery():
                return self._cache_free()
            case CacheThresholdSetRequest():
                return self._set_threshold(message.threshold_bytes)
            case CopyStartRequest():
                start = self._remote_copy.start
                return self._started.answer(
                    envelope, lambda: self._kept(message.copy_id, self._on_data_loop(start(message)))
                )
            case CopyStopRequest():
                return self._of_a_copy(self._remote_copy.stop(message.copy_id))
            case CopyStatusRequest():
                return self._of_a_copy(self._status(message.copy_id))
            case VolumeDigestRequest():
                return self._digest(message.volume)
            case ChannelInfoGetRequest() if self._measure is not None:
                return self._measure(message)
            case PairCreateRequest() | PairRequest() | VolumeChecksumsRequest():
                return self._with_pairs().handle(message)
            case _:
                raise BadMessage(f"an array does not answer {type(message).__name__}")

    def app(self) -> ASGIApp:
        """The control API: ``POST /messages`` and ``GET /v1/…``."""
        from starlette.applications import Starlette
        from starlette.concurrency import run_in_threadpool
        from starlette.requests import Request
        from starlette.responses import JSONResponse, Response
        from starlette.routing import Route

        from mgmt.array.metrics import ArraySnapshot, exposition
        from mgmt.http import exception_handlers, message_endpoint

        def table(path: str, read: Callable[[], Any]) -> Route:
            async def endpoint(_request: Request) -> JSONResponse:
                return JSONResponse(await run_in_threadpool(read))

            return Route(path, endpoint, methods=["GET"])

        name, interfaces = self._name, self._interfaces

        def pools() -> list[tables.Row]:
            return tables.pools(name, interfaces, self._credit_zero())

        def cache() -> list[tables.Row]:
            return tables.cache(name, self._cache)

        def copies() -> list[tables.Row]:
            return tables.copies(name, self._on_data_loop(self._copies()))

        scrape = exposition(lambda: ArraySnapshot(pools(), copies(), cache()))

        async def metrics(request: Request) -> Response:
            text, content_type = await run_in_threadpool(scrape, request.headers.get("accept", ""))
            return Response(text, headers={"content-type": content_type})

        routes = [
            Route("/messages", message_endpoint(self.handle), methods=["POST"]),
            table("/v1/info", self.info),
            table("/v1/pools", pools),
            table("/v1/reservations", lambda: tables.reservations(name, interfaces)),
            table("/v1/allocations", lambda: tables.allocations(name, interfaces)),
            table("/v1/buffer-ids", lambda: tables.buffer_ids(name, interfaces)),
            table("/v1/cache", cache),
            table("/v1/pairs", lambda: [] if self._pairs is None else self._pairs.rows()),
            table("/v1/copies", copies),
            Route("/metrics", metrics, methods=["GET"]),
        ]
        return Starlette(routes=routes, exception_handlers=exception_handlers())

    def info(self) -> dict[str, Any]:
        """What the array is: its ports, where its iSCSI target listens, its volumes."""
        volumes = [
            {"name": volume.name, "lun": volume.lun, "size_bytes": volume.size_bytes}
            for volume in self._volumes
        ]
        return {"name": self._name, "ports": self._ports(), "volumes": volumes}

    def _serving(self, target: Target, via: str | None = None) -> CommunicationInterface:
        check_target(target)
        return self._interfaces.serving(target, via)

    def _cache_free(self) -> CacheFree:
        """M13."""
        if self._cache is None or self._watch is None:
            raise InvalidRequest(Code.INVALID_TARGET, f"array {self._name} has no cache memory")
        statistics = self._cache.statistics()
        return CacheFree(
            size_bytes=statistics.size_bytes,
            free_bytes=statistics.free_bytes,
            threshold_bytes=self._watch.threshold_bytes,
        )

    def _set_threshold(self, threshold_bytes: int) -> CacheFree:
        """M16."""
        free = self._cache_free()
        if not 0 <= threshold_bytes < free.size_bytes:
            raise InvalidRequest(
                Code.INVALID_SIZE,
                f"a threshold is from 0 to {free.size_bytes - 1} bytes of this cache, not {threshold_bytes}",
            )
        assert self._watch is not None
        self._watch.set_threshold(threshold_bytes)
        return self._cache_free()

    def _changed(self, answer: T) -> T:
        """Tell those who work with the reservation; they follow while the answer travels."""
        self._data_loop.call_soon_threadsafe(self._on_change)
        if self._pairs is not None:
            asyncio.run_coroutine_threadsafe(self._pairs.reservations_changed(), self._data_loop)
        return answer

    def _granted_anew(self, request: BufferReserveRequest | ReservedBufferUpdateRequest, answer: T) -> T:
        """Where it was asked for, have the link's login catch up with the reservation."""
        if request.relogin:
            self._log_in_again(request.target)
        return answer

    def _with_pairs(self) -> ArrayPairs:
        if self._pairs is None:
            raise ProblemError(
                "NO_STATE",
                f"array {self._name} keeps no state, and pairs need one: start it with --state DIR",
                status=409,
                title="No pairs here",
            )
        return self._pairs

    def _kept(self, copy_id: str, answer: T) -> T:
        """A copy's start is answered when the copy is in the history."""
        if not self._history.knows(copy_id):
            self._history.save(self._on_data_loop(self._statuses()))
        return answer

    async def _statuses(self) -> list[CopyStatus]:
        return self._remote_copy.statuses()

    async def _status(self, copy_id: str) -> Message:
        return self._remote_copy.status(copy_id)

    async def _copies(self) -> Any:
        return self._remote_copy.progress()

    def _of_a_copy(self, coroutine: Coroutine[Any, Any, Message]) -> Message:
        try:
            return self._on_data_loop(coroutine)
        except NoSuchCopy as error:
            raise ProblemError("NOT_FOUND", str(error), status=404, title="No such copy") from None

    def _on_data_loop(self, coroutine: Coroutine[Any, Any, T]) -> T:
        handed_over = asyncio.run_coroutine_threadsafe(coroutine, self._data_loop)
        try:
            return handed_over.result(_DATA_LOOP_TIMEOUT_S)
        except TimeoutError:
            text = f"no answer within {_DATA_LOOP_TIMEOUT_S:g} s; ask for the copy's status"
            raise ProblemError("TIMEOUT", text, status=504, title="Too slow") from None

    def _digest(self, name: str) -> VolumeDigest:
        volume = self._volumes.get(name)
        if volume is None:
            raise InvalidRequest(
                Code.INVALID_TARGET,
                f"there is no volume {name!r:.80} here; there are: {self._volumes.names()}",
            )
        try:
            sha256 = volume.digest()
        except DiskError as error:
            raise ProblemError("DISK", str(error), status=500, title="The disk failed") from None
        return VolumeDigest(volume=name, sha256=sha256, length_bytes=volume.size_bytes)


class _Once:
    """Carries each request out once; a retry, also one that comes while the first is under way, gets its answer."""

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._lock = threading.Lock()
        self._answers: OrderedDict[str, tuple[Message, Future[Message]]] = OrderedDict()

    def answer(self, envelope: Envelope, carry_out: Callable[[], Message]) -> Message:
        """The answer, or what ``carry_out`` raised; :class:`BadMessage` for an ID used for something else."""
        with self._lock:
            known = self._answers.get(envelope.request_id)
            if known is None:
                future: Future[Message] = Future()
                self._answers[envelope.request_id] = envelope.message, future
                while len(self._answers) > self._limit:
                    self._answers.popitem(last=False)
        if known is not None:
            if known[0] != envelope.message:
                raise BadMessage(f"request_id {envelope.request_id!r} was used before, for something else")
            return known[1].result()
        try:
            future.set_result(carry_out())
        except BaseException as error:
            future.set_exception(error)
            raise
        return future.result()
