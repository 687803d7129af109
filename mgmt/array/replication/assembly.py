"""Remote copy's pairs put together with an array: stores, doors, connections, the cache it keeps its journals in."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from iscsi_target.scsi.errors import StoreError
from mgmt.array.cache.memory import CacheMemory
from mgmt.array.errors import CannotServe
from mgmt.array.replication.bitmap import BitmapError
from mgmt.array.replication.group import GroupSettings
from mgmt.array.replication.group_record import GroupFiles, RecordError
from mgmt.array.replication.guard import Guards
from mgmt.array.replication.journal import JournalError
from mgmt.array.replication.pair_control import PairControl
from mgmt.array.replication.pair_errors import NoSuchGroup, PairRefused
from mgmt.array.replication.pair_links import MakeTransport, PairLinks
from mgmt.array.replication.pair_rows import group_rows
from mgmt.array.replication.pairs import Identity, Pairs, PairVolume
from mgmt.array.replication.remote_copy import CopyBuffers
from mgmt.array.replication.replicated_store import ReplicatedStore
from mgmt.array.replication.verify import PIECE_LIMIT_BYTES, PIECES_LIMIT, checksums
from mgmt.array.volumes import Volumes
from mgmt.http import ProblemError
from mgmt.pair_messages import (
    GroupStatus,
    PairCreateRequest,
    PairRequest,
    VolumeChecksums,
    VolumeChecksumsRequest,
)
from mgmt.plain import BadMessage

if TYPE_CHECKING:
    from mgmt.messages import Message

T = TypeVar("T")

#: A split waits for what is on its way; everything is bounded by less.
_VERB_TIMEOUT_S = 60.0


def replicated(volumes: Volumes) -> Volumes:
    """The same volumes, each with remote copy in the way of its changes."""
    return Volumes([replace(volume, store=ReplicatedStore(volume.store)) for volume in volumes])


def load_pairs(
    identity: Identity,
    volumes: Volumes,
    guards: Guards,
    directory: Path,
    buffers: Callable[[], CopyBuffers],
    transport: MakeTransport,
    allocation_units: int | None,
    settings: GroupSettings | None = None,
    cache: CacheMemory | None = None,
) -> ArrayPairs:
    """The pairs of earlier runs, recovered; blocking, before hosts are served. :class:`CannotServe`."""
    links = PairLinks(buffers, transport, allocation_units)
    known = {
        volume.name: PairVolume(volume.name, volume.lun, volume.store)
        for volume in volumes
        if isinstance(volume.store, ReplicatedStore)
    }
    pairs = Pairs(
        identity,
        known,
        GroupFiles(directory),
        settings or GroupSettings(),
        links,
        guards,
        cache=cache,
        cache_fill=lambda: 0.0 if cache is None else _fill(cache),
        reserved_units=lambda target: buffers().reserved_units((target,)),
    )
    try:
        pairs.load()
    except (RecordError, BitmapError, JournalError, StoreError, PairRefused) as error:
        raise CannotServe(str(error)) from None
    return ArrayPairs(pairs, PairControl(pairs, links.reserved_bytes), volumes, identity.name)


def _fill(cache: CacheMemory) -> float:
    statistics = cache.statistics()
    return 1 - statistics.free_bytes / statistics.size_bytes


class ArrayPairs:
    """The pairs of an array, and what its control API asks of them: ``handle`` and ``rows`` on any of its threads."""

    def __init__(self, pairs: Pairs, control: PairControl, volumes: Volumes, array: str) -> None:
        self._pairs = pairs
        self._control = control
        self._volumes = volumes
        self._array = array
        self._loop: asyncio.AbstractEventLoop | None = None

    def handle(self, message: PairCreateRequest | PairRequest | VolumeChecksumsRequest) -> Message:
        """The answer to a message about pairs; blocks. BadMessage, ProblemError."""
        if isinstance(message, VolumeChecksumsRequest):
            return self._checksums(message)
        control = self._control
        work = (
            control.create(message) if isinstance(message, PairCreateRequest) else control.carry_out(message)
        )
        try:
            return self._on_loop(work)
        except PairRefused as error:
            raise ProblemError(
                f"PAIR_{error.code}", str(error), status=409, title="Not with this pair"
            ) from None
        except NoSuchGroup as error:
            raise ProblemError("NOT_FOUND", str(error), status=404, title="No such group") from None
        except (RecordError, BitmapError, JournalError, StoreError) as error:
            raise ProblemError("DISK", str(error), status=500, title="The disk failed") from None

    def rows(self) -> list[dict[str, Any]]:
        """One row for each pair."""

        async def statuses() -> list[GroupStatus]:
            return self._control.statuses()

        return [row for status in self._on_loop(statuses()) for row in group_rows(self._array, status)]

    def _on_loop(self, work: Coroutine[Any, Any, T]) -> T:
        assert self._loop is not None
        try:
            return asyncio.run_coroutine_threadsafe(work, self._loop).result(_VERB_TIMEOUT_S)
        except TimeoutError:
            text = f"no answer within {_VERB_TIMEOUT_S:g} s; ask for the group's status"
            raise ProblemError("TIMEOUT", text, status=504, title="Too slow") from None

    def _checksums(self, request: VolumeChecksumsRequest) -> VolumeChecksums:
        volume = self._volumes.get(request.volume)
        if volume is None:
            raise ProblemError(
                "NOT_FOUND",
                f"there is no volume {request.volume!r:.80} here; there are: {self._volumes.names()}",
                status=404,
                title="No such volume",
            )
        if not 1 <= request.piece_bytes <= PIECE_LIMIT_BYTES or not 1 <= request.pieces <= PIECES_LIMIT:
            raise BadMessage(f"1 to {PIECES_LIMIT} pieces of 1 to {PIECE_LIMIT_BYTES} bytes are answered")
        try:
            sums = checksums(volume.store, request.offset_bytes, request.piece_bytes, request.pieces)
        except StoreError as error:
            raise ProblemError("DISK", str(error), status=500, title="The disk failed") from None
        return VolumeChecksums(
            volume=request.volume,
            offset_bytes=request.offset_bytes,
            piece_bytes=request.piece_bytes,
            total_bytes=volume.size_bytes,
            checksums=sums,
        )

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """The engines, until the block ends; then every unit is back."""
        self._loop = asyncio.get_running_loop()
        self._pairs.start()
        try:
            yield
        finally:
            await self._pairs.close()

    async def reservations_changed(self) -> None:
        """A reservation was updated: the connections follow (paragraph 97)."""
        await self._pairs.reservations_changed()

    def close_files(self) -> None:
        """When no host writes any more."""
        self._pairs.close_files()
