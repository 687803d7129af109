# SPDX-License-Identifier: Apache-2.0
"""SCSI blocks over a live link: READ(16) and WRITE(16) in FCP exchanges (SBC-4, FCP-4)."""

from __future__ import annotations

from fcsim.errors import FibreChannelError
from fcsim.fcp.initiator import CommandCompleted
from fcsim.live.shell import LiveLink

__all__ = ["CommandFailed", "LiveFcpInitiator"]

_GOOD, _CHECK_CONDITION, _UNIT_ATTENTION = 0x00, 0x02, 0x06
_TRIES = 4


class CommandFailed(FibreChannelError):
    """A SCSI command ended with another status than GOOD; ``completed`` has it, with the sense data."""

    def __init__(self, completed: CommandCompleted) -> None:
        super().__init__(f"status {completed.status:#04x}, sense {completed.sense.hex() or 'none'}")
        self.completed = completed


class LiveFcpInitiator:
    """Reads and writes blocks of one logical unit of the target at the other end."""

    def __init__(self, link: LiveLink, *, lun: bytes = bytes(8), block_bytes: int = 512) -> None:
        self._link, self._lun, self._block_bytes = link, lun, block_bytes

    async def command(
        self, cdb: bytes, *, data_out: bytes = b"", data_in_length: int = 0
    ) -> CommandCompleted:
        """A command that has to end GOOD; told of a unit attention, it is sent again. Raises CommandFailed, or
        PeerViolation when no response comes."""
        for remaining in reversed(range(_TRIES)):
            done = await self._link.command(self._lun, cdb, data_out=data_out, data_in_length=data_in_length)
            if done.status == _GOOD:
                return done
            key = done.sense[2] & 0x0F if len(done.sense) > 2 else None
            if not remaining or done.status != _CHECK_CONDITION or key != _UNIT_ATTENTION:
                raise CommandFailed(done)
        raise AssertionError("the last try either returned or raised")

    async def read(self, lba: int, blocks: int) -> bytes:
        """READ(16)."""
        done = await self.command(self._cdb(0x88, lba, blocks), data_in_length=blocks * self._block_bytes)
        return done.data_in

    async def write(self, lba: int, data: bytes) -> None:
        """WRITE(16). Raises ValueError for data that are no whole number of blocks."""
        blocks, rest = divmod(len(data), self._block_bytes)
        if rest or not blocks:
            raise ValueError(f"{len(data)} bytes are no whole number of blocks of {self._block_bytes}")
        await self.command(self._cdb(0x8A, lba, blocks), data_out=data)

    @staticmethod
    def _cdb(operation: int, lba: int, blocks: int) -> bytes:
        return bytes((operation, 0)) + lba.to_bytes(8, "big") + blocks.to_bytes(4, "big") + bytes(2)
