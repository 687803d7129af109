"""The messages of the management station, turned into calls (spec D), and the tables to read.

Messages are handled on worker threads of the control server: what waits for the journal or a disk waits there,
and what belongs to the data loop is handed over to it.
"""

from __future__ import annotations

import asyncio
import threading
from collections import OrderedDict
from collections.abc import Callable, Coroutine
from concurrent.futures import Future
from typing import TYPE_CHECKING, Any, TypeVar

from credits.errors import Code, InvalidRequest
from iscsi_target.scsi.errors import StoreError as DiskError
from mgmt.array import tables
from mgmt.array.configuration import ArrayConfig
from mgmt.array.interface import CommunicationInterface
from mgmt.array.replication.history import CopyHistory
from mgmt.array.replication.remote_copy import NoSuchCopy, RemoteCopy
from mgmt.array.volumes import Volumes
from mgmt.http import ProblemError
from mgmt.messages import (
    BadMessage,
    BufferHoldRequest,
    BufferReserveRequest,
    CopyStartRequest,
    CopyStatus,
    CopyStatusRequest,
    CopyStopRequest,
    Envelope,
    HoldConfirmRequest,
    HoldVoidRequest,
    InterfaceInfoGetRequest,
    Message,
    ReservationPreviewRequest,
    ReservationReleaseRequest,
    ReservedBufferUpdateRequest,
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
    """The array's management agent."""

    def __init__(
        self,
        config: ArrayConfig,
        interface: CommunicationInterface,
        volumes: Volumes,
        remote_copy: RemoteCopy,
        data_loop: asyncio.AbstractEventLoop,
        iscsi_port: int,
        history: CopyHistory | None = None,
    ) -> None:
        self._history = history or CopyHistory(None)
        self._config = config
        self._interface = interface
        self._volumes = volumes
        self._remote_copy = remote_copy
        self._data_loop = data_loop
        self._iscsi_port = iscsi_port
        self._started = _Once(_ANSWERS_LIMIT)

    def handle(self, envelope: Envelope) -> Message:
        """The answer to one message; blocks.

        Raises :class:`CreditError`, :class:`BadMessage` and :class:`ProblemError`, which become problems.
        """
        message = envelope.message
        match message:
            case InterfaceInfoGetRequest():
                return self._interface.information(message)
            case BufferReserveRequest():
                return self._changed(self._interface.reserve(message, envelope.request_id))
            case BufferHoldRequest():
                return self._interface.hold(message, envelope.request_id)
            case HoldConfirmRequest():
                return self._changed(self._interface.confirm(message, envelope.request_id))
            case HoldVoidRequest():
                return self._interface.void(message, envelope.request_id)
            case ReservedBufferUpdateRequest():
                return self._changed(self._interface.update(message, envelope.request_id))
            case ReservationPreviewRequest():
                return self._interface.preview(message)
            case ReservationReleaseRequest():
                return self._interface.release(message, envelope.request_id)
            case CopyStartRequest():
                start = self._remote_copy.start
                return self._started.answer(envelope, lambda: self._kept(self._on_data_loop(start(message))))
            case CopyStopRequest():
                return self._of_a_copy(self._remote_copy.stop(message.copy_id))
            case CopyStatusRequest():
                return self._of_a_copy(self._status(message.copy_id))
            case VolumeDigestRequest():
                return self._digest(message.volume)
            case _:
                raise BadMessage(f"an array does not answer {type(message).__name__}")

    def app(self) -> ASGIApp:
        """The control API: ``POST /messages`` and ``GET /v1/…``."""
        from starlette.applications import Starlette
        from starlette.concurrency import run_in_threadpool
        from starlette.requests import Request
        from starlette.responses import JSONResponse
        from starlette.routing import Route

        from mgmt.http import exception_handlers, message_endpoint

        def table(path: str, read: Callable[[], Any]) -> Route:
            async def endpoint(_request: Request) -> JSONResponse:
                return JSONResponse(await run_in_threadpool(read))

            return Route(path, endpoint, methods=["GET"])

        name, interface = self._config.name, self._interface
        routes = [
            Route("/messages", message_endpoint(self.handle), methods=["POST"]),
            table("/v1/info", self.info),
            table("/v1/pools", lambda: tables.pools(name, interface)),
            table("/v1/reservations", lambda: tables.reservations(name, interface)),
            table("/v1/allocations", lambda: tables.allocations(name, interface)),
            table("/v1/buffer-ids", lambda: tables.buffer_ids(name, interface)),
            table("/v1/copies", lambda: tables.copies(name, self._on_data_loop(self._copies()))),
        ]
        return Starlette(routes=routes, exception_handlers=exception_handlers())

    def info(self) -> dict[str, Any]:
        """What the array is: its port, where its iSCSI target listens, its volumes."""
        port = {
            "address": self._config.port_address,
            "interface": self._interface.name,
            "iscsi_port": self._iscsi_port,
            "iqn": self._config.iqn,
        }
        volumes = [
            {"name": volume.name, "lun": volume.lun, "size_bytes": volume.size_bytes}
            for volume in self._volumes
        ]
        return {"name": self._config.name, "ports": [port], "volumes": volumes}

    def _changed(self, answer: T) -> T:
        """Tell the copies that run over the reservation; they follow while the answer travels."""
        self._data_loop.call_soon_threadsafe(self._remote_copy.reservations_changed)
        return answer

    def _kept(self, answer: T) -> T:
        """A copy's start is answered when the copy is in the history."""
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
