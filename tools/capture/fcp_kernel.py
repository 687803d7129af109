# cython: boundscheck=True, wraparound=False, cdivision=False, initializedcheck=False, annotation_typing=False
# cython: infer_types=True, language_level=3
"""SCSI commands of Fibre Channel and what answered them: FCP-4, and what ends an exchange otherwise.

An exchange is found by (originator, responder, OX_ID). Of the rules of :mod:`tools.capture.rules`, those that need the
whole conversation (an answer to nothing) hold from the ports' login on.

Compiled by Cython where a compiler is at hand (types in the .pxd beside), plain Python where not; the same code.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from tools.capture import exchanges, rows
from tools.capture.rules import Rule
from tools.capture.task_kernel import Connection, Task, Tasks

COMPILED = not __file__.endswith(".py")

# Typed copies: a module's own constants would be looked up by name in compiled code.
FC_PAYLOAD_AT = rows.FC_PAYLOAD_AT
SEQ_CNT, RELATIVE_OFFSET = int(Rule.SEQ_CNT), int(Rule.RELATIVE_OFFSET)
XFER_RDY_BEYOND, UNKNOWN_EXCHANGE = int(Rule.XFER_RDY_BEYOND), int(Rule.UNKNOWN_EXCHANGE)
EXCHANGE_IN_USE, FCP_DATA_BEYOND = int(Rule.EXCHANGE_IN_USE), int(Rule.FCP_DATA_BEYOND)
FCP_RESIDUAL = int(Rule.FCP_RESIDUAL)

READ, WRITE = int(exchanges.Flag.READ), int(exchanges.Flag.WRITE)
FIBRE, MANAGEMENT = int(exchanges.Flag.FIBRE), int(exchanges.Flag.MANAGEMENT)
MASK, HALF, HIGH_LIMIT = 0xFFFFFFFF, 0x80000000, 0x7FFFFFFF
FCP, ELS, BLS = 0x08, 0x01, 0x00
DATA, DATA_SOLICITED, XFER_RDY, COMMAND, RESPONSE = 0x04, 0x01, 0x05, 0x06, 0x07
ABTS, BA_ACC, ELS_REQUEST = 0x81, 0x84, 0x22
PLOGI, LOGO, PRLI, PRLO = 0x03, 0x05, 0x20, 0x21
KEY = 1 << 62
"""Apart from the keys of iSCSI tasks."""


def u16(data: Sequence[int], at: int) -> int:
    """Two bytes, big-endian."""
    high = data[at]
    return high << 8 | data[at + 1]


def u32(data: Sequence[int], at: int) -> int:
    """Four bytes, big-endian."""
    b0, b1, b2, b3 = data[at], data[at + 1], data[at + 2], data[at + 3]
    return b0 << 24 | b1 << 16 | b2 << 8 | b3


class FcpTasks(Tasks):
    """Takes the rows of Fibre Channel frames."""

    def fibre(self, octets: Any, at: int, words: Any, row: int) -> int:
        """One frame."""
        kind = octets[at + 8]
        if kind == FCP:
            return self._fcp(octets, at, words, row)
        if kind == BLS and octets[at] in (ABTS, BA_ACC):
            return self._aborted(octets, at, words[row + 3] >> 32)
        if kind == ELS and octets[at] == ELS_REQUEST:
            return self._login_or_out(octets[at + FC_PAYLOAD_AT], words[row + 3] >> 33)
        return 0

    def _fcp(self, octets: Any, at: int, words: Any, row: int) -> int:
        """One frame of SCSI-FCP (FCP-4)."""
        r_ctl = octets[at]
        flow = words[row + 3] >> 32
        responder = octets[at + 9] & 0x80
        origin = flow ^ 1 if responder else flow
        ox_id = u16(octets, at + 16)
        key = KEY | origin << 16 | ox_id
        payload = at + FC_PAYLOAD_AT
        if r_ctl == COMMAND:
            self._fcp_command(octets, at, words, row, key, flow)
            return 0
        found = self.tasks.get(key)
        connection = self.connection(flow >> 1)
        if found is None:
            if r_ctl in (RESPONSE, XFER_RDY, DATA_SOLICITED, DATA):
                if connection.agreed:
                    self.violation(connection, UNKNOWN_EXCHANGE)
                elif r_ctl == RESPONSE:
                    connection.unmatched += 1
            return 0
        task: Task = found
        if r_ctl in (DATA_SOLICITED, DATA):
            length = (words[row + 4] & MASK) - (words[row + 5] >> 28 & 15) * 8
            self._fcp_data(connection, task, octets, at, length)
        elif r_ctl == XFER_RDY:
            if not task.ready:
                task.ready = self.now
            if not task.first:
                task.first = self.now
            task.r2ts += 1
            task.out_offset = u32(octets, payload)
            task.burst_end = task.out_offset + u32(octets, payload + 4)
            if task.burst_end > task.edtl:
                self.violation(connection, XFER_RDY_BEYOND)
        elif r_ctl == RESPONSE:
            del self.tasks[key]
            if task.flags & MANAGEMENT:
                return 0
            if not task.first:
                task.first = self.now
            flags = octets[payload + 10]
            nexus = task.nexus
            if flags & 0x08:
                nexus.underflows += 1
            if flags & 0x04:
                nexus.overflows += 1
            moved = task.bytes_in if task.flags & READ else task.bytes_out
            if (
                flags & 0x0C == 0
                and octets[payload + 11] == 0
                and task.cut == 0
                and (moved or task.r2ts)
                and moved < task.edtl
                and task.edtl != MASK
                and task.flags & (READ | WRITE) != READ | WRITE
            ):
                self.violation(connection, FCP_RESIDUAL)
            self.close(task, octets[payload + 11], 0)
        return 0

    def _fcp_data(self, connection: Connection, task: Task, octets: Any, at: int, size: int) -> int:
        """FCP_DATA (FCP-4). ``size``: of the frame from SOF to EOF without extended headers."""
        df_ctl = octets[at + 13]
        length = size - 36 - (octets[at + 11] & 3)
        if df_ctl:
            length -= (df_ctl & 0x40) >> 3
            length -= (df_ctl & 0x20) >> 1
            length -= df_ctl & 0x10 and 32
            length -= 8 << (df_ctl & 3) if df_ctl & 3 else 0
        length = max(length, 0)
        self._sequence(connection, task, octets, at)
        placed = octets[at + 11] & 8
        offset = u32(octets, at + 20)
        if octets[at + 9] & 0x80:
            if not task.first:
                task.first = self.now
            if placed and offset != task.in_offset:
                self.violation(connection, RELATIVE_OFFSET)
            if placed == 0:
                offset = task.in_offset
            if offset + length > task.edtl:
                self.violation(connection, FCP_DATA_BEYOND)
            task.in_offset = offset + length
            task.bytes_in += length
        else:
            if task.ready and not task.data:
                task.data = self.now
            if placed and offset != task.out_offset:
                self.violation(connection, RELATIVE_OFFSET)
            if placed == 0:
                offset = task.out_offset
            if offset + length > (task.burst_end if task.r2ts else task.edtl):
                self.violation(connection, FCP_DATA_BEYOND)
            task.out_offset = offset + length
            task.bytes_out += length
        return 0

    def _sequence(self, connection: Connection, task: Task, octets: Any, at: int) -> int:
        """SEQ_CNT goes on by one within a sequence (FC-FS); its last frame says so."""
        seq_id = octets[at + 12]
        count = u16(octets, at + 14)
        if task.seq_id == seq_id + 1 and count != task.seq_cnt:
            self.violation(connection, SEQ_CNT)
            task.cut = 1
        task.seq_id = 0 if octets[at + 9] & 0x08 else seq_id + 1
        task.seq_cnt = (count + 1) & 0xFFFF
        return 0

    def _fcp_command(self, octets: Any, at: int, words: Any, row: int, key: int, flow: int) -> int:
        """FCP_CMND (FCP-4)."""
        payload = at + FC_PAYLOAD_AT
        lun_word = u32(octets, payload) | (u32(octets, payload + 4) & HIGH_LIMIT) << 32
        nexus = self.nexus(flow, octets, payload, lun_word, 1)
        old = self.tasks.get(key)
        if old is not None:
            former: Task = old
            if former.cut == 0:
                self.violation(self.connection(flow >> 1), EXCHANGE_IN_USE)
            del self.tasks[key]
            self.drop(former)
        task = Task(nexus, u16(octets, at + 16) << 16 | u16(octets, at + 18))
        management = octets[payload + 10]
        direction = octets[payload + 11]
        task.flags = FIBRE | (READ if direction & 2 else 0) | (WRITE if direction & 1 else 0)
        if management:
            task.flags |= MANAGEMENT
            nexus.management[management] = nexus.management.get(management, 0) + 1
        task.start = task.begin = self.now
        task.lun_word = lun_word
        task.packet = self.packet
        task.cdb0 = (u32(octets, payload + 12) & HIGH_LIMIT) << 32 | u32(octets, payload + 16)
        if octets[payload + 12] & 0x80:
            task.cdb0 = task.cdb0 - HALF * 2 * HALF
        task.cdb1 = (u32(octets, payload + 20) & HIGH_LIMIT) << 32 | u32(octets, payload + 24)
        if octets[payload + 20] & 0x80:
            task.cdb1 = task.cdb1 - HALF * 2 * HALF
        if direction >> 2 == 0:
            task.edtl = u32(octets, payload + 28)
        else:
            task.edtl = MASK  # beyond the part of the header that a row has
        self.open(key, task)
        return 0

    # --- what ends exchanges without an answer ---

    def _aborted(self, octets: Any, at: int, flow: int) -> int:
        """ABTS and its acceptance (FC-FS, basic link services)."""
        origin = flow ^ 1 if octets[at + 9] & 0x80 else flow
        key = KEY | origin << 16 | u16(octets, at + 16)
        found = self.tasks.get(key)
        if found is None:
            return 0
        task: Task = found
        task.cut = 1  # what it lacks from now on is nobody's fault
        if octets[at] == BA_ACC:
            del self.tasks[key]
            self.drop(task)
            if task.flags & MANAGEMENT == 0:
                nexus = task.nexus
                nexus.unanswered -= 1
                nexus.aborted += 1
        return 0

    def _login_or_out(self, command: int, flow: int) -> int:
        """A login between two ports ends what was under way between them (FC-LS); from then on all is known."""
        if command not in (PLOGI, LOGO, PRLI, PRLO):
            return 0
        for key, one in list(self.tasks.items()):
            if key >> 62 and (key - KEY) >> 17 == flow:
                del self.tasks[key]
                self.drop(one)
        if command in (PLOGI, PRLI):
            connection = self.connection(flow)
            connection.agreed = 1
        return 0
