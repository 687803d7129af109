# SPDX-License-Identifier: Apache-2.0
"""The SCSI commands that an initiator's users want by name, on top of one `execute` (SPC-4, SBC-3)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

from iscsi_target.errors import CommandFailed
from iscsi_target.executor import Buffer
from iscsi_target.wire.lun import lun_from_bytes

_CHECK_CONDITION = 0x02
_UNIT_ATTENTION = 0x06
_UNIT_ATTENTION_RETRIES = 4


@dataclass(frozen=True, slots=True)
class ScsiAnswer:
    """A SCSI command that ended with GOOD (or, from `execute(check=False)`, with any status)."""

    status: int
    data_in: memoryview
    sense: bytes
    overflow: bool
    underflow: bool
    residual_count: int
    """Of a bidirectional command: the residual of its Data-Out."""
    read_overflow: bool = False
    read_underflow: bool = False
    read_residual_count: int = 0
    """The residual of the Data-In of a bidirectional command."""


class ScsiCommands(Protocol):
    """Commands by name. Unit attentions are taken as news: the command is tried again, a few times."""

    async def execute(
        self,
        lun: int,
        cdb: bytes,
        *,
        data_out: Buffer = b"",
        data_in_length: int = 0,
        connection: int | None = None,
        check: bool = True,
    ) -> ScsiAnswer:
        """Run one SCSI command."""
        ...

    async def write(
        self, lun: int, lba: int, data: Buffer, *, block_bytes: int = 512, connection: int | None = None
    ) -> None:
        """WRITE(16): whole blocks from `lba` on."""
        blocks = _blocks(len(data), block_bytes)
        await self._patiently(
            lun, _range_cdb(0x8A, lba, blocks), data_out=data, data_in_length=0, connection=connection
        )

    async def read(
        self, lun: int, lba: int, blocks: int, *, block_bytes: int = 512, connection: int | None = None
    ) -> memoryview:
        """READ(16): `blocks` blocks from `lba` on."""
        answer = await self._patiently(
            lun, _range_cdb(0x88, lba, blocks), data_in_length=blocks * block_bytes, connection=connection
        )
        return answer.data_in

    async def read_capacity(self, lun: int) -> tuple[int, int]:
        """READ CAPACITY(16): number of blocks and bytes per block."""
        cdb = bytes((0x9E, 0x10, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 32, 0, 0))
        data = (await self._patiently(lun, cdb, data_in_length=32)).data_in
        return int.from_bytes(data[:8], "big") + 1, int.from_bytes(data[8:12], "big")

    async def inquiry(self, lun: int, page: int | None = None, length: int = 255) -> bytes:
        """INQUIRY: standard data, or the vital product data `page`."""
        cdb = bytes((0x12, 0 if page is None else 1, page or 0, length >> 8, length & 0xFF, 0))
        return bytes((await self._patiently(lun, cdb, data_in_length=length)).data_in)

    async def report_luns(self) -> list[int]:
        """REPORT LUNS through LUN 0."""
        cdb = bytes((0xA0, 0, 0, 0, 0, 0)) + (8 + 8 * 256).to_bytes(4, "big") + bytes(2)
        data = bytes((await self._patiently(0, cdb, data_in_length=8 + 8 * 256)).data_in)
        end = min(8 + int.from_bytes(data[:4], "big"), len(data))
        return [lun_from_bytes(data[offset : offset + 8]) for offset in range(8, end, 8)]

    async def test_unit_ready(self, lun: int) -> None:
        """TEST UNIT READY. Raises CommandFailed."""
        await self._patiently(lun, bytes(6))

    async def synchronize_cache(self, lun: int, lba: int = 0, blocks: int = 0) -> None:
        """SYNCHRONIZE CACHE(16); 0 blocks: to the end."""
        await self._patiently(lun, _range_cdb(0x91, lba, blocks))

    async def _patiently(
        self,
        lun: int,
        cdb: bytes,
        *,
        data_out: Buffer = b"",
        data_in_length: int = 0,
        connection: int | None = None,
    ) -> ScsiAnswer:
        """Execute; unit attentions are news, not failures: try again, a few times."""
        for _ in range(_UNIT_ATTENTION_RETRIES):
            answer = await self.execute(
                lun, cdb, data_out=data_out, data_in_length=data_in_length, connection=connection, check=False
            )
            if answer.status != _CHECK_CONDITION or not _is_unit_attention(answer.sense):
                break
        if answer.status:
            raise CommandFailed(answer.status, answer.sense, answer.residual_count)
        return answer


def _blocks(size: int, block_bytes: int) -> int:
    if not size or size % block_bytes:
        raise ValueError(f"{size} bytes are not whole blocks of {block_bytes}")
    return size // block_bytes


def _range_cdb(opcode: int, lba: int, blocks: int) -> bytes:
    return bytes((opcode, 0)) + lba.to_bytes(8, "big") + blocks.to_bytes(4, "big") + bytes(2)


def _is_unit_attention(sense: bytes) -> bool:
    if not sense:
        return False
    key = sense[1] if sense[0] & 0x7E == 0x72 else sense[2] if len(sense) > 2 else 0
    return key & 0x0F == _UNIT_ATTENTION
