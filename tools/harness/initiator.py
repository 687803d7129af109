"""The initiator for tests that block: :class:`iscsi_target.initiator.Initiator` behind ordinary calls."""

from __future__ import annotations

import asyncio
import concurrent.futures
from collections.abc import Awaitable, Callable, Coroutine, Sequence
from typing import Any, TypeVar

from iscsi_target.executor import Buffer
from iscsi_target.initiator import Initiator
from iscsi_target.scsi_commands import ScsiAnswer
from iscsi_target.session.initiator_events import AsyncReceived
from iscsi_target.session.parameters import Agreed
from tools.harness.loop_thread import LoopThread

T = TypeVar("T")
_GRACE_S = 2.0
"""What the harness waits beyond the time that the initiator itself gives a command."""


class BlockingInitiator:
    """One logged-in session. Lengths are in blocks for :meth:`read`, in whole blocks of bytes for :meth:`write`.

    Every call raises what :class:`~iscsi_target.initiator.Initiator` raises (CommandFailed, ConnectionLost,
    TaskAborted, TimeoutError), and :class:`~tools.harness.errors.Hung` when nothing comes at all.

    >>> initiator.write(8, b"x" * 512)
    >>> initiator.read(8, 1)[:1]
    b'x'
    """

    def __init__(
        self, loop: LoopThread, session: Initiator, timeout_s: float, block_bytes: int = 512
    ) -> None:
        self._loop = loop
        self._timeout_s = timeout_s
        self.session = session
        """The asyncio initiator, for :meth:`call` and :meth:`submit`; it lives on the harness's own loop."""
        self.block_bytes = block_bytes

    @classmethod
    def login(
        cls, loop: LoopThread, host: str, port: int, target_iqn: str, *, timeout_s: float, **options: Any
    ) -> BlockingInitiator:
        """Log in; ``options`` are those of :meth:`iscsi_target.initiator.Initiator.login`."""
        work = Initiator.login(host, port, target_iqn, timeout_s=timeout_s, **options)
        session = loop.call(work, timeout_s + _GRACE_S, f"the login to {target_iqn}")
        return cls(loop, session, timeout_s)

    # -- any coroutine ------------------------------------------------------------------------------------------

    def call(self, work: Callable[[Initiator], Coroutine[Any, Any, T]]) -> T:
        """Run ``work(session)`` to its end: ``initiator.call(lambda session: session.nop(b"x"))``."""
        return self._call(work)

    def _call(self, work: Callable[[Initiator], Coroutine[Any, Any, T]]) -> T:
        return self._loop.call(work(self.session), self._timeout_s + _GRACE_S, "a call of the initiator")

    def submit(self, work: Callable[[Initiator], Coroutine[Any, Any, T]]) -> concurrent.futures.Future[T]:
        """Start ``work(session)`` and do not wait: ``.result(timeout)`` of what this returns does."""
        return self._loop.submit(work(self.session))

    def together(self, *works: Callable[[Initiator], Awaitable[T]]) -> list[T]:
        """Run several at the same time; their results in order, or the first exception."""

        async def gather() -> list[T]:
            return list(await asyncio.gather(*[work(self.session) for work in works]))

        return self._loop.call(gather(), self._timeout_s + _GRACE_S, f"{len(works)} calls of the initiator")

    # -- commands -----------------------------------------------------------------------------------------------

    def read(self, lba: int, blocks: int = 1, *, lun: int = 0) -> bytes:
        """READ(16)."""
        data = self._call(lambda session: session.read(lun, lba, blocks, block_bytes=self.block_bytes))
        return bytes(data)

    def write(self, lba: int, data: Buffer, *, lun: int = 0) -> None:
        """WRITE(16)."""
        self._call(lambda session: session.write(lun, lba, data, block_bytes=self.block_bytes))

    def execute(
        self,
        cdb: bytes,
        *,
        lun: int = 0,
        data_out: Buffer = b"",
        data_in_length: int = 0,
        check: bool = True,
        timeout_s: float | None = None,
    ) -> ScsiAnswer:
        """Any CDB, once: a unit attention is an answer here, and not tried again. ``check``: raise for a status other
        than GOOD."""
        return self._call(
            lambda session: session.execute(
                lun, cdb, data_out=data_out, data_in_length=data_in_length, check=check, timeout_s=timeout_s
            )
        )

    def capacity(self, *, lun: int = 0) -> tuple[int, int]:
        """READ CAPACITY(16): number of blocks, bytes per block."""
        return self._call(lambda session: session.read_capacity(lun))

    def inquiry(self, page: int | None = None, *, lun: int = 0) -> bytes:
        """INQUIRY: standard data, or a page of vital product data."""
        return self._call(lambda session: session.inquiry(lun, page))

    def report_luns(self) -> Sequence[int]:
        """REPORT LUNS."""
        return self._call(lambda session: session.report_luns())

    def test_unit_ready(self, *, lun: int = 0) -> None:
        """TEST UNIT READY."""
        self._call(lambda session: session.test_unit_ready(lun))

    def synchronize_cache(self, *, lun: int = 0) -> None:
        """SYNCHRONIZE CACHE(16) of the whole LUN."""
        self._call(lambda session: session.synchronize_cache(lun))

    def nop(self, data: bytes = b"") -> bytes:
        """NOP-Out ping; the echo."""
        return self._call(lambda session: session.nop(data))

    def task_management(self, function: int, *, lun: int = 0, **referenced: int) -> int:
        """A task management function; the response code."""
        return self._call(lambda session: session.task_management(function, lun, **referenced))

    # -- the session --------------------------------------------------------------------------------------------

    @property
    def agreed(self) -> Agreed:
        """What was negotiated."""
        return self.session.agreed

    @property
    def tsih(self) -> int:
        """The target's handle of the session."""
        return self.session.tsih

    @property
    def lost(self) -> str | None:
        """Why the session is gone; None while it lives."""
        return self.session.lost

    @property
    def async_messages(self) -> list[AsyncReceived]:
        """Asynchronous messages received."""
        return list(self.session.async_messages)

    def logout(self) -> None:
        """End the session in order; safe to call again."""
        self._loop.call(self.session.logout(), self._timeout_s + _GRACE_S, "the logout")

    def abort(self) -> None:
        """Drop the connections without a word."""
        self._loop.call(self.session.abort(), self._timeout_s + _GRACE_S, "the initiator's abort")
