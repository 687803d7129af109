"""A load by our own initiator that checks every byte it reads, whatever happens to its connections.

A block holds its own number and how often it was written, over and over. No two commands under way touch one block,
so a read has to give exactly the last generation; a command that failed in a way that may be tried again is.
"""

from __future__ import annotations

import asyncio
import random
import struct
from collections import Counter
from collections.abc import Awaitable, Callable
from contextlib import suppress
from dataclasses import dataclass, field
from typing import TypeVar

from iscsi_target.errors import CommandFailed, ConnectionLost, IscsiError, TaskAborted
from iscsi_target.initiator import Initiator, Reconnection
from iscsi_target.session.parameters import Parameters

INITIATOR_PREFIX = "iqn.2026-11.example.soak"
_T = TypeVar("_T")
_STAMP = struct.Struct("<QQ")
_BLOCK_BYTES = 16 * 1024
_BUSY, _TASK_SET_FULL, _CHECK_CONDITION = 0x08, 0x28, 0x02
_UNIT_ATTENTION, _ABORTED_COMMAND = 0x06, 0x0B
_TRIES = 200
_COMMAND_S = 3.0


class SoakFailed(Exception):
    """A command failed for good."""


@dataclass(slots=True)
class Tally:
    """What became of the commands."""

    commands: int = 0
    wrong: int = 0
    retries: Counter[str] = field(default_factory=Counter)
    first_wrong: str = ""


class VerifiedLoad:
    """``sessions`` sessions with ``depth`` commands each, half of them writes, on one LUN, until `stop`."""

    def __init__(
        self, host: str, port: int, iqn: str, lun: int, *, sessions: int, depth: int, seed: int
    ) -> None:
        self.tally = Tally()
        self._where = (host, port, iqn)
        self._lun = lun
        self._sessions = sessions
        self._depth = depth
        self._chance = random.Random(seed)
        self._generations: list[int] = []
        self._busy: set[int] = set()
        self._stopping = False

    def stop(self) -> None:
        """Let the commands under way be the last."""
        self._stopping = True

    async def run(self) -> None:
        """Load until `stop`. Raises :class:`SoakFailed` for a command that failed for good."""
        sessions: list[Initiator] = []
        try:
            for number in range(self._sessions):
                sessions.append(await self._log_in(number))
            blocks, block_length = await self._persist(lambda: sessions[0].read_capacity(self._lun))
            self._generations = [0] * (blocks * block_length // _BLOCK_BYTES)
            async with asyncio.TaskGroup() as group:
                for session in sessions:
                    for _ in range(self._depth):
                        group.create_task(self._work(session))
            await self._read_all(sessions[0])
        finally:
            for session in sessions:
                with suppress(IscsiError, TimeoutError):
                    await session.logout()

    async def _log_in(self, number: int) -> Initiator:
        """Level 2 with both digests; small PDUs, and every other session without immediate data, so that there are
        Data-In sequences and R2Ts to lose."""
        parameters = Parameters(
            error_recovery_level=2,
            header_digest=("CRC32C",),
            data_digest=("CRC32C",),
            max_recv_data_segment_length=4096,
            immediate_data=number % 2 == 0,
            initial_r2t=number % 2 == 1,
            first_burst_length=8192,
            default_time2wait=0,
        )
        host, port, iqn = self._where
        return await Initiator.login(
            host,
            port,
            iqn,
            initiator_iqn=f"{INITIATOR_PREFIX}:{number}",
            parameters=parameters,
            timeout_s=_COMMAND_S,
            reconnection=Reconnection(sessions=True, attempts=20, longest_delay_s=1.0),
        )

    async def _work(self, session: Initiator) -> None:
        while not self._stopping:
            block = self._free_block()
            try:
                if self._chance.random() < 0.5:
                    await self._write(session, block)
                else:
                    await self._read(session, block)
            finally:
                self._busy.discard(block)

    def _free_block(self) -> int:
        while True:
            block = self._chance.randrange(len(self._generations))
            if block not in self._busy:
                self._busy.add(block)
                return block

    async def _write(self, session: Initiator, block: int) -> None:
        generation = self._generations[block] + 1
        data, lba = _stamped(block, generation), block * (_BLOCK_BYTES // 512)
        await self._persist(lambda: session.write(self._lun, lba, data))
        self._generations[block] = generation

    async def _read(self, session: Initiator, block: int) -> None:
        lba, blocks = block * (_BLOCK_BYTES // 512), _BLOCK_BYTES // 512
        data = await self._persist(lambda: session.read(self._lun, lba, blocks))
        expected = _stamped(block, self._generations[block])
        if data != expected:
            self.tally.wrong += 1
            if not self.tally.first_wrong:
                at = next(at for at in range(_BLOCK_BYTES) if data[at] != expected[at])
                found, wanted = bytes(data[at & -16 :][:16]).hex(), expected[at & -16 :][:16].hex()
                self.tally.first_wrong = f"block {block}, byte {at}: {found}, not {wanted}"

    async def _read_all(self, session: Initiator) -> None:
        """Every block once more, at the end."""
        for block in range(len(self._generations)):
            await self._read(session, block)

    async def _persist(self, work: Callable[[], Awaitable[_T]]) -> _T:
        """Run a command until it has succeeded. Raises :class:`SoakFailed`."""
        reason = ""
        for _ in range(_TRIES):
            try:
                done = await work()
            except CommandFailed as failed:
                if not _passing(failed):
                    raise SoakFailed(f"a command failed for good: {failed}") from failed
                reason = f"status {failed.status:#04x}"
                await asyncio.sleep(0.001)
            except (TaskAborted, ConnectionLost, TimeoutError) as error:
                reason = type(error).__name__
                await asyncio.sleep(0.01)
            else:
                self.tally.commands += 1
                return done
            self.tally.retries[reason] += 1
        raise SoakFailed(f"a command failed {_TRIES} times, at last by {reason}")


def _stamped(block: int, generation: int) -> bytes:
    if not generation:
        return bytes(_BLOCK_BYTES)
    return _STAMP.pack(block, generation) * (_BLOCK_BYTES // _STAMP.size)


def _passing(failed: CommandFailed) -> bool:
    """Whether the same command may succeed at another time."""
    if failed.status in (_BUSY, _TASK_SET_FULL):
        return True
    sense = failed.sense
    if failed.status != _CHECK_CONDITION or len(sense) < 3:
        return False
    key = sense[1] if sense[0] & 0x7E == 0x72 else sense[2]
    return key & 0x0F in (_UNIT_ATTENTION, _ABORTED_COMMAND)
