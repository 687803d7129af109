"""Synchronous writes: what hosts' threads hand to the data loop, and wait for while they write the volume here."""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections.abc import Awaitable, Callable
from functools import partial

from iscsi_target.executor import Buffer
from iscsi_target.scsi.errors import StoreError
from mgmt.array.replication.group_record import RecordError
from mgmt.array.replication.lanes import Suspended
from mgmt.array.replication.link_set import LinkSet
from mgmt.array.replication.transport import LinkLost, RemoteRefused


class _Command:
    """One command on its way: begun by a host's thread, carried out on the data loop, waited for by that thread."""

    __slots__ = ("_ended", "_error", "_task", "_work")

    def __init__(self, work: Callable[[], Awaitable[None]]) -> None:
        self._work = work
        self._ended = threading.Lock()
        self._ended.acquire()
        self._error: BaseException | None = None
        self._task: asyncio.Task[None] | None = None

    def start(self) -> None:
        """On the data loop."""
        self._task = asyncio.get_running_loop().create_task(self._run())

    async def _run(self) -> None:
        try:
            await self._work()
        except asyncio.CancelledError:
            self._error = LinkLost("the array ends")
            raise
        except Exception as error:  # noqa: BLE001 - raised by the thread that waits
            self._error = error
        finally:
            self._ended.release()

    def cancel(self) -> None:
        """On the data loop, after :meth:`start`."""
        if self._task is not None:
            self._task.cancel()

    def wait(self, timeout_s: float) -> None:
        """On the host's thread. TimeoutError, and what the work raised."""
        if not self._ended.acquire(timeout=timeout_s):
            raise TimeoutError
        if self._error is not None:
            raise self._error


class SyncWrites:
    """The engine's side of synchronous writes (:class:`~.lanes.SyncChannel`).

    ``links`` and ``lun`` are asked on the data loop, ``links`` may raise LinkLost; ``suspend`` is told why a command
    has no answer before the host has one, RecordError where it cannot be written down. ``checkpoint`` is called on
    the data loop ``checkpoint_s`` after a write: its blocks are still set.
    """

    def __init__(
        self,
        links: Callable[[], LinkSet],
        lun: Callable[[int], int],
        suspend: Callable[[str], None],
        checkpoint: Callable[[], None],
        *,
        timeout_s: float,
        checkpoint_s: float,
    ) -> None:
        self._links = links
        self._lun = lun
        self._suspend = suspend
        self._checkpoint = checkpoint
        self._timeout_s = timeout_s
        self._checkpoint_s = checkpoint_s
        self._checkpoint_due = False
        self._loop: asyncio.AbstractEventLoop | None = None

    def start(self) -> None:
        """On the data loop, before the first command."""
        self._loop = asyncio.get_running_loop()

    def replicate(
        self, index: int, offset: int, data: Buffer | None, length: int, *, durable: bool
    ) -> Callable[[], None]:
        """Send one write; see :class:`~.lanes.SyncChannel`."""
        return self._begin(partial(self._write, index, offset, data, length, durable))

    def flush_remote(self, index: int) -> Callable[[], None]:
        """Have the secondary flush."""
        return self._begin(partial(self._flush, index))

    def _begin(self, work: Callable[[], Awaitable[None]]) -> Callable[[], None]:
        assert self._loop is not None
        command = _Command(work)
        self._loop.call_soon_threadsafe(command.start)
        return partial(self._wait, self._loop, command)

    def _wait(self, loop: asyncio.AbstractEventLoop, command: _Command) -> None:
        try:
            command.wait(self._timeout_s + 1)
        except (LinkLost, RemoteRefused, TimeoutError) as error:
            with contextlib.suppress(RuntimeError):  # the loop has ended, and what it had to do with it
                loop.call_soon_threadsafe(command.cancel)
            reason = str(error) or f"no answer within {self._timeout_s:g} s"
            try:
                self._suspend(reason)
            except RecordError as unwritten:
                raise StoreError(str(unwritten)) from None
            raise Suspended(reason) from None

    async def _write(self, index: int, offset: int, data: Buffer | None, length: int, durable: bool) -> None:
        links, lun = self._links(), self._lun(index)
        if data is None:
            await links.zero(lun, offset, length)
        else:
            await links.write(lun, offset, (data,), durable=durable)
        if not self._checkpoint_due:
            self._checkpoint_due = True
            asyncio.get_running_loop().call_later(self._checkpoint_s, self._due)

    def _due(self) -> None:
        self._checkpoint_due = False
        self._checkpoint()

    async def _flush(self, index: int) -> None:
        await self._links().flush((self._lun(index),))
