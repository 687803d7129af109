# cython: boundscheck=True, wraparound=False, cdivision=False, initializedcheck=False, annotation_typing=False
# cython: infer_types=True
# SPDX-License-Identifier: Apache-2.0
"""The fast path of one connection: READ and WRITE that one PDU brings and one PDU answers (RFC 7143 section 4.2).

`take` goes through what a read brought and keeps every such command, in order; `run` executes them and makes the
answers: Data-In with status (section 11.7.3), or a SCSI Response. In between the shell asks for the right to send the
Data-In. A command that is anything else (any flag, residual, error, other LUN, out of order, too long) stays where it
is: the general path serves it, and says what is wrong with it. Commands taken and not run go the general way too.

Compiled by Cython where a compiler is at hand (types in the .pxd beside), plain Python where not; both are the same
code. Sans-IO.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from crc32c import crc32c

from iscsi_target.executor import Buffer
from iscsi_target.wire.codec import CODECS
from iscsi_target.wire.opcodes import BHS_BYTES, RESERVED_TAG, Opcode
from iscsi_target.wire.partial import partial_format
from iscsi_target.wire.responses import DataIn, ScsiResponse

if TYPE_CHECKING:
    from iscsi_target.fast_units import FastCdbs
    from iscsi_target.session.counters import Traffic
    from iscsi_target.session.task import Task

COMPILED = not __file__.endswith(".py")
"""Whether this is the compiled form."""

_MASK = 0xFFFFFFFF
_HALF = 0x80000000
_SCSI_COMMAND = int(Opcode.SCSI_COMMAND)
_CDB_AT = 32
_FLAGS = 0x80 | 0x40 | 0x20 | 0x06
"""F, R, W, and of ATTR what makes it neither UNTAGGED nor SIMPLE (section 11.3.1)."""
_READ_FLAGS = 0x80 | 0x40
_WRITE_FLAGS = 0x80 | 0x20
_BHS = BHS_BYTES
_UNWRITTEN = b"\0"

_NUMBERS = ("stat_sn", "exp_cmd_sn", "max_cmd_sn")
_data_in = struct.Struct(
    ">"
    + partial_format(
        DataIn,
        ("byte_0", "flags"),
        ("total_ahs_length", "data_segment_length"),
        "lun",
        "initiator_task_tag",
        "target_transfer_tag",
        *_NUMBERS,
    )
).pack
_response = struct.Struct(
    ">" + partial_format(ScsiResponse, ("byte_0", "flags"), "initiator_task_tag", *_NUMBERS)
).pack
_pack_crc = struct.Struct("<I").pack
_RESIDUE = crc32c(_pack_crc(crc32c(b"")))
"""The CRC32C of anything that ends with its own digest (section 13.1, appendix A.4)."""


def _first_two(header: bytes) -> int:
    return header[0] << 8 | header[1]


_DATA_IN_HEAD = _first_two(
    CODECS[Opcode.DATA_IN].header(
        DataIn(
            final=True,
            status_present=True,
            initiator_task_tag=0,
            exp_cmd_sn=0,
            max_cmd_sn=0,
            data_sn=0,
            buffer_offset=0,
        )
    )
)
_RESPONSE_HEAD = _first_two(
    CODECS[Opcode.SCSI_RESPONSE].header(
        ScsiResponse(initiator_task_tag=0, stat_sn=0, exp_cmd_sn=0, max_cmd_sn=0, status=0, response=0)
    )
)


class FastDisk:
    """A logical unit whose medium never waits, as the fast path sees it.

    `look` is asked once for every batch how many blocks may be (read, written) now by anybody, from LBA 0 on: none
    while anything stands in the way that a command has to be told of. `memory` is all of the medium as one view; None:
    `read` is called, which gives buffers that hold the bytes. So it is where ``find(b"\\0", first, after)`` does not
    say -1: there granules of `granule_bytes` were never written. `write` stores at an offset in bytes.
    """

    __slots__ = ("block_length", "find", "granule_bytes", "look", "max_blocks", "memory", "read", "write")

    def __init__(
        self,
        look: Callable[[], tuple[int, int]],
        memory: memoryview | None,
        find: Callable[[bytes, int, int], int] | None,
        granule_bytes: int,
        read: Callable[[int, int], Sequence[Buffer]],
        write: Callable[[int, Buffer], None],
        block_length: int,
        max_blocks: int,
    ) -> None:
        self.look = look
        self.memory = memory
        self.find = find
        self.granule_bytes = granule_bytes
        self.read = read
        self.write = write
        self.block_length = block_length
        self.max_blocks = max_blocks


class FastUnit:
    """One LUN in one batch: its disk, its counters, and how many blocks may be read and written."""

    __slots__ = ("disk", "lun", "readable", "traffic", "writable")

    def __init__(self, lun: int, disk: FastDisk, traffic: Traffic) -> None:
        self.lun = lun
        self.disk = disk
        self.traffic = traffic
        self.readable, self.writable = disk.look()


Taken = tuple[FastUnit, int, int, int, memoryview | None, Buffer, int]
"""Unit, initiator task tag, offset and length on the medium, Data-Out (None: a READ), where the PDU lies."""


class FastPath:
    """The commands of one connection on the fast path.

    `find` gives the disk and the counters of a LUN field, or None. `read_limit` is the longest Data-In that is one PDU,
    `write_limit` the longest immediate data that may come, in bytes.
    """

    __slots__ = (
        "_data_digest",
        "_find",
        "_header_digest",
        "_reads",
        "_units",
        "_write_limit",
        "_writes",
        "data_in_bytes",
        "exp_cmd_sn",
        "failures",
        "max_cmd_sn",
        "output_bytes",
        "read_limit",
        "stat_sn",
        "taken",
    )

    def __init__(
        self,
        cdbs: FastCdbs,
        find: Callable[[int], tuple[FastDisk, Traffic] | None],
        read_limit: int,
        write_limit: int,
        header_digest: bool,
        data_digest: bool,
    ) -> None:
        self._reads = cdbs.reads
        self._writes = cdbs.writes
        self._find = find
        self.read_limit = read_limit
        self._write_limit = write_limit
        self._header_digest = header_digest
        self._data_digest = data_digest
        self._units: dict[int, FastUnit | None] = {}
        self.taken: list[Taken] = []
        """Commands that wait for `run`, in CmdSN order."""
        self.data_in_bytes = 0
        """Their Data-In."""
        self.exp_cmd_sn = 0
        """ExpCmdSN after `take`."""
        self.stat_sn = 0
        """The next StatSN, after `run`."""
        self.max_cmd_sn = 0
        """MaxCmdSN, after `run`."""
        self.output_bytes = 0
        """Bytes that the last `run` made."""
        self.failures = 0
        """How often a medium failed here, and the command went the general way."""

    def take(
        self, source: Buffer, start: int, end: int, tasks: dict[int, Task], exp_cmd_sn: int, max_cmd_sn: int
    ) -> int:
        """Take the commands that lie whole in ``source[start:end]``, up to the first that is not for the fast path;
        returns where that begins. `tasks` are those of the session, by task tag.

        `source` must not change before `run`.
        """
        octets = source
        view = memoryview(source)
        taken = self.taken
        overhead = _BHS + 4 if self._header_digest else _BHS
        lun, unit = -1, None
        readable = writable = block_length = max_blocks = 0
        while end - start >= overhead and octets[start] == _SCSI_COMMAND:
            flags = octets[start + 1] & _FLAGS
            if flags == _READ_FLAGS:
                unpack = self._reads[octets[start + _CDB_AT]]
            elif flags == _WRITE_FLAGS:
                unpack = self._writes[octets[start + _CDB_AT]]
            else:
                break
            if unpack is None:
                break
            _, lengths, its_lun, tag, expected, cmd_sn, cdb_flags, lba, blocks, control = unpack(
                source, start
            )
            if its_lun != lun or unit is None:
                lun = its_lun
                unit = self._unit(lun)
                if unit is None:
                    break
                readable, writable = unit.readable, unit.writable
                block_length, max_blocks = unit.disk.block_length, unit.disk.max_blocks
            if (
                cmd_sn != exp_cmd_sn
                or cdb_flags
                or control
                or not 0 < blocks <= max_blocks
                or lba < 0
                or expected != blocks * block_length
                or (max_cmd_sn - cmd_sn) & _MASK >= _HALF
                or tag in tasks
            ):
                break
            data_start = start + overhead
            if flags == _READ_FLAGS:
                if lengths or lba > readable - blocks or expected > self.read_limit:
                    break
                after, data = data_start, None
            else:
                after = data_start + expected
                if self._data_digest:
                    after += 4
                if (
                    lengths != expected
                    or lba > writable - blocks
                    or expected > self._write_limit
                    or after > end
                ):
                    break
                data = view[data_start : data_start + expected]
                if self._data_digest and crc32c(view[data_start:after]) != _RESIDUE:
                    break
            if self._header_digest and crc32c(view[start:data_start]) != _RESIDUE:
                break
            if data is None:
                self.data_in_bytes += expected
            taken.append((unit, tag, lba * block_length, expected, data, source, start))
            exp_cmd_sn = (exp_cmd_sn + 1) & _MASK
            start = after
        self.exp_cmd_sn = exp_cmd_sn
        return start

    def _unit(self, lun: int) -> FastUnit | None:
        units = self._units
        if not self.taken:
            units.clear()  # a new batch: what stood in the way may have gone, and the other way round
        unit = units.get(lun)
        if unit is None:
            found = self._find(lun)
            if found is not None:
                unit = units[lun] = FastUnit(lun, found[0], found[1])
        return unit

    def run(
        self, output: list[Buffer], stat_sn: int, exp_cmd_sn: int, max_cmd_sn: int, limit_bytes: int
    ) -> list[tuple[Traffic, int]]:
        """Execute what was taken, in order, up to the first READ that would exceed `limit_bytes` of Data-In; what was
        not executed stays in `taken`. The answers are appended to `output`.

        Returns the counters of the commands, with how many of them each counted.
        """
        answered: list[tuple[Traffic, int]] = []
        if not self.taken:
            return answered
        unit = self.taken[0][0]
        disk = unit.disk
        memory, find, granule_bytes = disk.memory, disk.find, disk.granule_bytes
        reads = writes = read_bytes = written_bytes = done = output_bytes = all_read_bytes = 0
        header_digest, data_digest = self._header_digest, self._data_digest
        pieces: Sequence[Buffer]
        try:
            for its_unit, tag, offset, length, data, _, _ in self.taken:
                if its_unit is not unit:
                    _count(answered, unit.traffic, reads, writes, read_bytes, written_bytes)
                    reads = writes = read_bytes = written_bytes = 0
                    unit = its_unit
                    disk = unit.disk
                    memory, find, granule_bytes = disk.memory, disk.find, disk.granule_bytes
                next_max_cmd_sn = (max_cmd_sn + 1) & _MASK
                if data is None:
                    if length > limit_bytes:
                        break
                    if (
                        memory is not None
                        and find is not None
                        and find(
                            _UNWRITTEN, offset // granule_bytes, (offset + length - 1) // granule_bytes + 1
                        )
                        < 0
                    ):
                        pieces = (memory[offset : offset + length],)
                    else:
                        pieces = disk.read(offset, length)
                    header = _data_in(
                        _DATA_IN_HEAD,
                        length,
                        unit.lun,
                        tag,
                        RESERVED_TAG,
                        stat_sn,
                        exp_cmd_sn,
                        next_max_cmd_sn,
                    )
                    limit_bytes -= length
                    reads += 1
                    read_bytes += length
                    all_read_bytes += length
                    if header_digest:
                        header += _pack_crc(crc32c(header))
                    output.append(header)
                    output += pieces
                    output_bytes += len(header) + length
                    if data_digest:
                        crc = 0
                        for piece in pieces:
                            crc = crc32c(piece, crc)
                        output.append(_pack_crc(crc))
                        output_bytes += 4
                else:
                    disk.write(offset, data)
                    header = _response(_RESPONSE_HEAD, tag, stat_sn, exp_cmd_sn, next_max_cmd_sn)
                    writes += 1
                    written_bytes += length
                    if header_digest:
                        header += _pack_crc(crc32c(header))
                    output.append(header)
                    output_bytes += len(header)
                max_cmd_sn = next_max_cmd_sn
                stat_sn = (stat_sn + 1) & _MASK
                done += 1
        except Exception:  # noqa: BLE001 - the general path executes this command again, and can tell what is wrong
            self.failures += 1
        _count(answered, unit.traffic, reads, writes, read_bytes, written_bytes)
        del self.taken[:done]
        self.data_in_bytes -= all_read_bytes
        self.stat_sn = stat_sn
        self.max_cmd_sn = max_cmd_sn
        self.output_bytes = output_bytes
        return answered

    def give_up(self) -> list[tuple[Buffer, int]]:
        """Hand back the commands that were not run: where each of their PDUs begins, in order."""
        places = [(source, start) for _, _, _, _, _, source, start in self.taken]
        self.taken.clear()
        self.data_in_bytes = 0
        return places


def _count(
    answered: list[tuple[Traffic, int]],
    traffic: Traffic,
    reads: int,
    writes: int,
    read_bytes: int,
    written_bytes: int,
) -> None:
    if reads or writes:
        traffic.reads += reads
        traffic.writes += writes
        traffic.read_bytes += read_bytes
        traffic.written_bytes += written_bytes
        answered.append((traffic, reads + writes))
