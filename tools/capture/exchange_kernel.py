# cython: boundscheck=True, wraparound=False, cdivision=False, initializedcheck=False, annotation_typing=False
# cython: infer_types=True, language_level=3
"""Commands and what answered them: each SCSI command of iSCSI and FCP with its times, sizes and end.

An exchange is found by connection and initiator task tag, or by (originator, responder, OX_ID). Its times are those at
which a PDU or frame was there as a whole, but data begin with their first byte. On the way, the rules of
:mod:`tools.capture.rules` are checked that need no more than what is remembered here.

Compiled by Cython where a compiler is at hand (types in the .pxd beside), plain Python where not; the same code.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from tools.capture import exchanges, rows
from tools.capture.fcp_kernel import FcpTasks
from tools.capture.rules import Rule
from tools.capture.task_kernel import Connection, Task

COMPILED = not __file__.endswith(".py")

# Typed copies: a module's own constants would be looked up by name in compiled code.
ROW_WORDS, ROW_BYTES, HEADER_AT = rows.ROW_WORDS, rows.ROW_BYTES, rows.HEADER_AT
ISCSI, FC = int(rows.RowKind.ISCSI), int(rows.RowKind.FC)
AFTER_GAP, PEER_WAITS = int(rows.Note.AFTER_GAP), int(rows.Note.PEER_WAITS)

CMD_SN_ORDER, CMD_SN_WINDOW, EXP_STAT_SN = (
    int(Rule.CMD_SN_ORDER),
    int(Rule.CMD_SN_WINDOW),
    int(Rule.EXP_STAT_SN),
)
TASK_TAG_IN_USE, IMMEDIATE_DATA = int(Rule.TASK_TAG_IN_USE), int(Rule.IMMEDIATE_DATA)
FIRST_BURST, UNSOLICITED_DATA = int(Rule.FIRST_BURST), int(Rule.UNSOLICITED_DATA)
DATA_OUT_SN, DATA_OUT_OFFSET = int(Rule.DATA_OUT_SN), int(Rule.DATA_OUT_OFFSET)
DATA_OUT_BEYOND, DATA_SEGMENT_LENGTH = int(Rule.DATA_OUT_BEYOND), int(Rule.DATA_SEGMENT_LENGTH)
STAT_SN, MAX_CMD_SN, DATA_IN_SN = int(Rule.STAT_SN), int(Rule.MAX_CMD_SN), int(Rule.DATA_IN_SN)
DATA_IN_OFFSET, DATA_IN_BEYOND = int(Rule.DATA_IN_OFFSET), int(Rule.DATA_IN_BEYOND)
R2T_SN, R2T_LENGTH, R2T_BEYOND = int(Rule.R2T_SN), int(Rule.R2T_LENGTH), int(Rule.R2T_BEYOND)
R2T_OUTSTANDING, UNKNOWN_TASK = int(Rule.R2T_OUTSTANDING), int(Rule.UNKNOWN_TASK)
MISSING_DATA, EXP_DATA_SN = int(Rule.MISSING_DATA), int(Rule.EXP_DATA_SN)

READ, WRITE = int(exchanges.Flag.READ), int(exchanges.Flag.WRITE)
MANAGEMENT = int(exchanges.Flag.MANAGEMENT)
MASK, HALF, HIGH_LIMIT = 0xFFFFFFFF, 0x80000000, 0x7FFFFFFF


def u16(data: Sequence[int], at: int) -> int:
    """Two bytes, big-endian."""
    high = data[at]
    return high << 8 | data[at + 1]


def u32(data: Sequence[int], at: int) -> int:
    """Four bytes, big-endian."""
    b0, b1, b2, b3 = data[at], data[at + 1], data[at + 2], data[at + 3]
    return b0 << 24 | b1 << 16 | b2 << 8 | b3


class Matcher(FcpTasks):
    """Takes the parts of a table in order. ``listener.login(connection, opcode, packet, pdu)`` is told of each
    login PDU that was kept."""

    def __init__(self, listener: Any) -> None:
        FcpTasks.__init__(self)
        self.listener = listener

    def receive(self, part: Any) -> int:
        """The next part of the table."""
        words = part.words
        self.kept = part.kept
        octets = memoryview(words).cast("B")
        self._rows(words, octets, part.count)
        return 0

    def _rows(self, words: Any, octets: Any, count: int) -> int:
        for number in range(count):
            at = number * ROW_WORDS
            kind = words[at + 4] >> 32 & 0xFF
            self.now = words[at]
            self.packet = words[at + 3] & MASK
            if kind == ISCSI:
                self._pdu(octets, number * ROW_BYTES + HEADER_AT, words, at)
            elif kind == FC:
                self.fibre(octets, number * ROW_BYTES + HEADER_AT, words, at)
        return 0

    # --- iSCSI ---

    def _pdu(self, octets: Any, at: int, words: Any, row: int) -> int:
        flow = words[row + 3] >> 33
        opcode = octets[at] & 0x3F
        connection = self.connection(flow)
        notes = words[row + 4] >> 56
        if notes & AFTER_GAP:
            if opcode >= 0x20:
                connection.stat_sn = -1
            else:
                connection.cmd_sn = -1
            connection.gap = 1
            connection.gaps += 1
        connection.peer_waits = notes & PEER_WAITS
        key = flow << 32 | u32(octets, at + 16)
        if opcode >= 0x20:
            self._numbers(connection, octets, at, opcode)
        if opcode == 0x01:
            self._command(connection, octets, at, words, row, key)
            return 0
        if opcode == 0x25 or opcode == 0x21:
            found = self.tasks.get(key)
            if found is None:
                if connection.agreed and not connection.gap and connection.peer_waits == 0:
                    self.violation(connection, UNKNOWN_TASK)
                elif opcode == 0x21 or octets[at + 1] & 1:
                    connection.unmatched += 1
                return 0
            task: Task = found
            if task.gaps != connection.gaps:
                task.cut = 1
            if opcode == 0x25:
                self._data_in(connection, task, octets, at, words[row + 1])
                if octets[at + 1] & 1 == 0:
                    return 0
                del self.tasks[key]
                self._residual(task, octets[at + 1])
                self.close(task, octets[at + 3], 0)
                return 0
            del self.tasks[key]
            if task.flags & MANAGEMENT:
                return 0
            if not task.first:
                task.first = self.now
            if task.open_r2ts and not (octets[at + 3] or octets[at + 2] or task.cut or notes & PEER_WAITS):
                self.violation(connection, MISSING_DATA)
            self._exp_data_sn(connection, task, octets[at + 2], u32(octets, at + 36))
            self._residual(task, octets[at + 1])
            self.close(task, octets[at + 3], octets[at + 2])
        elif opcode == 0x05:
            self._data_out(connection, octets, at, words[row + 1], key)
        elif opcode == 0x31:
            self._r2t(connection, octets, at, key)
        elif opcode == 0x02:
            self._cmd_sn(connection, octets, at)
            lun_word = u32(octets, at + 8) | (u32(octets, at + 12) & HIGH_LIMIT) << 32
            task = Task(self.nexus(flow * 2, octets, at + 8, lun_word, 0), u32(octets, at + 16))
            task.flags = MANAGEMENT
            task.function = octets[at + 1] & 0x7F
            task.referenced = u32(octets, at + 20)
            task.start = self.now
            nexus = task.nexus
            nexus.management[task.function] = nexus.management.get(task.function, 0) + 1
            self.tasks[key] = task
        elif opcode == 0x22:
            self._managed(key, flow, octets[at + 2])
        elif opcode == 0x00 or opcode == 0x04 or opcode == 0x06:
            self._cmd_sn(connection, octets, at)
        elif opcode == 0x03:
            connection.cmd_sn = u32(octets, at + 24)
            connection.stat_sn = -1
            connection.gap = 0
            self._login(connection, opcode, words[row + 5] >> 32)
        elif opcode == 0x23:
            self._login(connection, opcode, words[row + 5] >> 32)
        return 0

    def _login(self, connection: Connection, opcode: int, kept: int) -> int:
        """A login PDU: what it agrees on is the listener's matter."""
        if kept:
            self.listener.login(connection, opcode, self.packet, self.kept[kept - 1])
        return 0

    def _exp_data_sn(self, connection: Connection, task: Task, response: int, said: int) -> int:
        """ExpDataSN of a response, RFC 7143 section 11.4.8: how many Data-In PDUs and R2Ts there were; 0 without any
        Data-In and where the command was not completed."""
        if task.cut or (said == 0 and (response or task.data_sn == 0)):
            return 0
        if response or said != task.data_sn + task.r2ts:
            self.violation(connection, EXP_DATA_SN)
        return 0

    def _residual(self, task: Task, flags: int) -> int:
        nexus = task.nexus
        if flags & 0x02:
            nexus.underflows += 1
        if flags & 0x04:
            nexus.overflows += 1
        return 0

    def _cmd_sn(self, connection: Connection, octets: Any, at: int) -> int:
        """CmdSN and ExpStatSN of a request."""
        cmd_sn = u32(octets, at + 24)
        immediate = octets[at] & 0x40
        if (
            connection.cmd_sn >= 0
            and connection.shared == 0
            and cmd_sn != connection.cmd_sn
            and not connection.gap
        ):
            self.violation(connection, CMD_SN_ORDER)
        if immediate == 0:
            connection.cmd_sn = (cmd_sn + 1) & MASK
            if connection.max_cmd_sn >= 0:
                free = (connection.max_cmd_sn - cmd_sn) & MASK
                if free >= HALF:
                    self.violation(connection, CMD_SN_WINDOW)
                    free = 0
                connection.window_samples += 1
                if free == 0:
                    connection.window_zero += 1
                if connection.window_free_min < 0 or free < connection.window_free_min:
                    connection.window_free_min = free
                used = (cmd_sn + 1 - connection.exp_cmd_sn) & MASK
                if used < HALF:
                    connection.window_sum += used
                    connection.window_used = max(connection.window_used, used)
        beyond = (u32(octets, at + 28) - connection.stat_sn - 1) & MASK < HALF
        if beyond and connection.stat_sn >= 0 and not connection.gap and connection.peer_waits == 0:
            self.violation(connection, EXP_STAT_SN)
        return 0

    def _numbers(self, connection: Connection, octets: Any, at: int, opcode: int) -> int:
        """StatSN, ExpCmdSN and MaxCmdSN of a response."""
        stat_sn = u32(octets, at + 24)
        exp_cmd_sn = u32(octets, at + 28)
        max_cmd_sn = u32(octets, at + 32)
        if opcode == 0x25:
            bears = octets[at + 1] & 1
        elif opcode == 0x31:
            bears = 0
        elif opcode == 0x20:
            bears = 1 if u32(octets, at + 16) != MASK else 0
        else:
            bears = 1
        if bears:
            if connection.stat_sn >= 0 and stat_sn != connection.stat_sn:
                self.violation(connection, STAT_SN)
            connection.stat_sn = (stat_sn + 1) & MASK
        if (max_cmd_sn + 1 - exp_cmd_sn) & MASK >= HALF:
            self.violation(connection, MAX_CMD_SN)
            return 0
        if connection.max_cmd_sn < 0 or (max_cmd_sn - connection.max_cmd_sn) & MASK < HALF:
            connection.max_cmd_sn = max_cmd_sn
        if connection.exp_cmd_sn < 0 or (exp_cmd_sn - connection.exp_cmd_sn) & MASK < HALF:
            connection.exp_cmd_sn = exp_cmd_sn
        size = max_cmd_sn + 1 - exp_cmd_sn & MASK
        connection.window_max = max(connection.window_max, size)
        return 0

    def _command(self, connection: Connection, octets: Any, at: int, words: Any, row: int, key: int) -> int:
        """SCSI Command, RFC 7143 section 11.3."""
        self._cmd_sn(connection, octets, at)
        lun_word = u32(octets, at + 8) | (u32(octets, at + 12) & HIGH_LIMIT) << 32
        nexus = self.nexus(connection.flow * 2, octets, at + 8, lun_word, 0)
        old = self.tasks.get(key)
        if old is not None:
            if not connection.gap:
                self.violation(connection, TASK_TAG_IN_USE)
            del self.tasks[key]
            self.drop(old)
        task = Task(nexus, u32(octets, at + 16))
        flags = octets[at + 1]
        task.flags = (READ if flags & 0x40 else 0) | (WRITE if flags & 0x20 else 0)
        task.start = self.now
        task.begin = words[row + 1]
        task.lun_word = lun_word
        task.edtl = u32(octets, at + 20)
        task.packet = self.packet
        task.gaps = connection.gaps
        task.cdb0 = (u32(octets, at + 32) & HIGH_LIMIT) << 32 | u32(octets, at + 36)
        if octets[at + 32] & 0x80:
            task.cdb0 = task.cdb0 - HALF * 2 * HALF
        task.cdb1 = (u32(octets, at + 40) & HIGH_LIMIT) << 32 | u32(octets, at + 44)
        if octets[at + 40] & 0x80:
            task.cdb1 = task.cdb1 - HALF * 2 * HALF
        length = u32(octets, at + 4) & 0xFFFFFF
        task.bytes_out = task.out_offset = length
        if flags & 0x20:
            nexus.unsolicited += length
            task.unsolicited_end = connection.first_burst if connection.first_burst else MASK
            if flags & 0x80:
                task.burst_tag = -1
        if connection.agreed and length:
            if connection.immediate == 0:
                self.violation(connection, IMMEDIATE_DATA)
            if connection.first_burst and length > connection.first_burst:
                self.violation(connection, FIRST_BURST)
            if connection.target_segment and length > connection.target_segment:
                self.violation(connection, DATA_SEGMENT_LENGTH)
        self.open(key, task)
        return 0

    def _data_in(self, connection: Connection, task: Task, octets: Any, at: int, begin: int) -> int:
        """SCSI Data-In, RFC 7143 section 11.7."""
        length = u32(octets, at + 4) & 0xFFFFFF
        if not task.first:
            task.first = begin
        offset = u32(octets, at + 40)
        if connection.initiator_segment and length > connection.initiator_segment:
            self.violation(connection, DATA_SEGMENT_LENGTH)
        if not task.cut:
            if u32(octets, at + 36) != task.data_sn + task.r2ts:
                self.violation(connection, DATA_IN_SN)
            if length and offset != task.in_offset and connection.data_in_order:
                self.violation(connection, DATA_IN_OFFSET)
            if offset + length > task.edtl and task.flags & WRITE == 0:
                self.violation(connection, DATA_IN_BEYOND)
        task.data_sn += 1
        if length:
            task.in_offset = offset + length
        task.bytes_in += length
        return 0

    def _data_out(self, connection: Connection, octets: Any, at: int, begin: int, key: int) -> int:
        """SCSI Data-Out, RFC 7143 section 11.7."""
        found = self.tasks.get(key)
        if found is None:
            if connection.agreed and not connection.gap:
                self.violation(connection, UNKNOWN_TASK)
            return 0
        task: Task = found
        length = u32(octets, at + 4) & 0xFFFFFF
        tag = u32(octets, at + 20)
        offset = u32(octets, at + 40)
        if task.gaps != connection.gaps:
            task.cut = 1
        if connection.target_segment and length > connection.target_segment:
            self.violation(connection, DATA_SEGMENT_LENGTH)
        if tag == MASK:
            nexus = task.nexus
            nexus.unsolicited += length
            if connection.agreed and connection.initial_r2t == 1:
                self.violation(connection, UNSOLICITED_DATA)
            if offset + length > task.unsolicited_end:
                self.violation(connection, FIRST_BURST)
        else:
            if task.ready and not task.data:
                task.data = begin
            if tag != task.burst_tag:
                task.burst_tag = tag
                task.out_sn = 0
            elif not task.cut and offset != task.out_offset:
                self.violation(connection, DATA_OUT_OFFSET)
            if task.burst_end and offset + length > task.burst_end and not task.cut:
                self.violation(connection, DATA_OUT_BEYOND)
        if not task.cut and u32(octets, at + 36) != task.out_sn:
            self.violation(connection, DATA_OUT_SN)
        task.out_sn = u32(octets, at + 36) + 1
        task.out_offset = offset + length
        task.bytes_out += length
        if octets[at + 1] & 0x80:
            task.out_sn = 0
            if tag != MASK and task.open_r2ts > 0:
                task.open_r2ts -= 1
        return 0

    def _r2t(self, connection: Connection, octets: Any, at: int, key: int) -> int:
        """Ready To Transfer, RFC 7143 section 11.8."""
        found = self.tasks.get(key)
        if found is None:
            if connection.agreed and not connection.gap:
                self.violation(connection, UNKNOWN_TASK)
            return 0
        task: Task = found
        if task.gaps != connection.gaps:
            task.cut = 1
        if not task.ready:
            task.ready = self.now
        if not task.first:
            task.first = self.now
        offset = u32(octets, at + 40)
        length = u32(octets, at + 44)
        if not task.cut and u32(octets, at + 36) != task.r2ts + task.data_sn:
            self.violation(connection, R2T_SN)
        if length == 0 or (connection.max_burst and length > connection.max_burst):
            self.violation(connection, R2T_LENGTH)
        if offset + length > task.edtl:
            self.violation(connection, R2T_BEYOND)
        task.r2ts += 1
        task.open_r2ts += 1
        if connection.outstanding_r2t > 0 and task.open_r2ts > connection.outstanding_r2t and not task.cut:
            self.violation(connection, R2T_OUTSTANDING)
        task.burst_end = max(task.burst_end, offset + length)
        return 0

    def _managed(self, key: int, flow: int, response: int) -> int:
        """A task management function was answered: what it ended has no answer to come (RFC 7143 section 11.6)."""
        found = self.tasks.pop(key, None)
        if found is None:
            return 0
        task: Task = found
        if response or task.flags & MANAGEMENT == 0:
            return 0
        if task.function == 1:
            self._abort(flow << 32 | task.referenced)
        elif task.function in (2, 4, 5, 6, 7):
            for other_key, one in list(self.tasks.items()):
                if other_key >> 32 == flow and (task.function >= 6 or one.nexus is task.nexus):
                    self._abort(other_key)
        return 0

    def _abort(self, key: int) -> int:
        found = self.tasks.get(key)
        if found is not None and found.flags & MANAGEMENT == 0:
            task: Task = found
            nexus = task.nexus
            del self.tasks[key]
            self.drop(task)
            nexus.unanswered -= 1
            nexus.aborted += 1
        return 0
