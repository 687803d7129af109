# cython: boundscheck=True, wraparound=False, cdivision=False, initializedcheck=False, annotation_typing=False
# cython: infer_types=True, language_level=3
"""Commands under way, what is counted for each initiator, target and LUN, and exchanges that are over.

Compiled by Cython where a compiler is at hand (types in the .pxd beside), plain Python where not; the same code.
"""

from __future__ import annotations

from array import array
from typing import Any

from tools.capture import exchanges
from tools.capture.rules import Rule

COMPILED = 0 if __file__.endswith(".py") else 1

# Typed copies: a module's own constants would be looked up by name in compiled code.
EXCHANGE_WORDS, EXCHANGES_PER_BLOCK = exchanges.EXCHANGE_WORDS, exchanges.EXCHANGES_PER_BLOCK
READ, WRITE = int(exchanges.Flag.READ), int(exchanges.Flag.WRITE)
MANAGEMENT = int(exchanges.Flag.MANAGEMENT)
RULE_COUNT = len(Rule)
HIGH_LIMIT = 0x7FFFFFFF
OPEN_LIMIT = 1 << 18
"""Commands without an answer that are remembered; of more the oldest is given up."""


class Nexus:
    """One initiator, target and LUN on one connection or pair of addresses: what is counted for it.

    ``flow`` has the direction from the initiator in its last bit, as rows have it. ``statuses``: answers by status.
    """

    def __init__(self, number: int, flow: int, lun: bytes, fibre: int) -> None:
        self.number = number
        self.flow = flow
        self.lun = lun
        self.fibre = fibre
        self.statuses: dict[int, int] = {}
        self.management: dict[int, int] = {}
        self.commands = self.reads = self.writes = self.others = self.bytes_in = self.bytes_out = 0
        self.lun_word = 0
        self.outstanding = self.outstanding_max = self.busy_ns = self.depth_ns = self.changed_ns = 0
        self.first_ns = self.last_ns = self.unanswered = self.aborted = self.r2ts = self.underflows = 0
        self.overflows = self.unsolicited = self.failures = 0


class Task:
    """A command that has no answer yet."""

    def __init__(self, nexus: Nexus, tag: int) -> None:
        self.nexus = nexus
        self.tag = tag
        if COMPILED:
            return  # the fields of a compiled object are zero
        self.start = self.begin = self.first = self.ready = self.data = self.lun_word = 0
        self.cdb0 = self.cdb1 = self.edtl = self.bytes_in = self.bytes_out = self.packet = self.flags = 0
        self.depth = self.r2ts = self.data_sn = self.in_offset = self.out_offset = self.out_sn = 0
        self.burst_end = self.burst_tag = self.open_r2ts = self.seq_id = self.seq_cnt = self.function = 0
        self.referenced = self.cut = self.unsolicited_end = self.gaps = 0


class Connection:
    """What is agreed on one connection, and the numbers that must come next. 0 or -1: not known."""

    def __init__(self, flow: int) -> None:
        self.flow = flow
        self.cmd_sn = self.stat_sn = self.max_cmd_sn = self.exp_cmd_sn = -1
        self.initiator_segment = self.target_segment = self.max_burst = self.first_burst = 0
        self.immediate = self.initial_r2t = self.outstanding_r2t = -1
        self.data_in_order = 1
        self.agreed = self.window_max = self.window_zero = self.window_used = self.window_samples = 0
        self.window_sum = self.shared = self.gap = self.gaps = self.unmatched = 0
        self.peer_waits = 0
        self.window_free_min = -1
        self.rules = array("q", bytes(8 * RULE_COUNT))
        self.first_packets = array("q", bytes(8 * RULE_COUNT))


class Tasks:
    """What the matching of commands and answers stands on; gives exchanges in blocks of ``EXCHANGES_PER_BLOCK``."""

    def __init__(self) -> None:
        self.tasks: dict[int, Task] = {}
        self.nexuses: list[Nexus] = []
        self.by_lun: dict[tuple[int, bytes], Nexus] = {}
        self.connections: dict[int, Connection] = {}
        self.blocks: list[Any] = []
        self.now = self.packet = self.count = self.total = self.given_up = 0
        self.last_flow = -1
        self.last_connection = Connection(-1)
        self.last_nexus: Nexus | None = None
        self._new_block()

    def _new_block(self) -> None:
        self.block = array("q", bytes(8 * EXCHANGE_WORDS * EXCHANGES_PER_BLOCK))
        self.words = self.block
        self.count = 0

    def take(self) -> list[tuple[Any, int]]:
        """Blocks that are full, each with its number of exchanges; they are forgotten here."""
        done, self.blocks = self.blocks, []
        return done

    def end(self, last_ns: int) -> None:
        """The capture is over: what has no answer is counted."""
        for task in self.tasks.values():
            nexus = task.nexus
            if task.flags & MANAGEMENT == 0:
                nexus.unanswered += 1
        for nexus in self.nexuses:
            if nexus.outstanding:
                self.depth(nexus, last_ns)
        if self.count:
            self.blocks.append((self.block, self.count))
            self._new_block()

    def connection(self, flow: int) -> Connection:
        """What is known of a connection (its number without direction)."""
        if flow == self.last_flow:
            return self.last_connection
        found = self.connections.get(flow)
        if found is None:
            found = self.connections[flow] = Connection(flow)
        self.last_flow = flow
        self.last_connection = found
        return found

    def nexus(self, flow: int, octets: Any, at: int, lun_word: int, fibre: int) -> Nexus:
        last = self.last_nexus
        if last is not None and last.flow == flow and last.lun_word == lun_word:
            return last
        lun = bytes(octets[at : at + 8])
        key = (flow, lun)
        found = self.by_lun.get(key)
        if found is None:
            found = Nexus(len(self.nexuses), flow, lun, fibre)
            found.lun_word = lun_word
            found.first_ns = self.now
            self.by_lun[key] = found
            self.nexuses.append(found)
        self.last_nexus = found
        return found

    def violation(self, connection: Connection, rule: int) -> int:
        """The current row breaks a rule."""
        if connection.rules[rule] == 0:
            connection.first_packets[rule] = self.packet
        connection.rules[rule] += 1
        return 0

    def depth(self, nexus: Nexus, now: int) -> int:
        """Outstanding commands are about to change: book the time since they last did."""
        if nexus.outstanding > 0 and now > nexus.changed_ns:
            nexus.busy_ns += now - nexus.changed_ns
            nexus.depth_ns += (now - nexus.changed_ns) * nexus.outstanding
        nexus.changed_ns = max(nexus.changed_ns, now)
        return 0

    def open(self, key: int, task: Task) -> int:
        """A command begins."""
        nexus = task.nexus
        if len(self.tasks) >= OPEN_LIMIT:
            oldest = next(iter(self.tasks))
            gone = self.tasks.pop(oldest)
            self.drop(gone)
            self.given_up += 1
        self.tasks[key] = task
        if task.flags & MANAGEMENT == 0:
            self.depth(nexus, self.now)
            nexus.outstanding += 1
            task.depth = nexus.outstanding
            nexus.outstanding_max = max(nexus.outstanding_max, nexus.outstanding)
        return 0

    def drop(self, task: Task) -> int:
        """A command ends without an answer."""
        nexus = task.nexus
        if task.flags & MANAGEMENT == 0:
            self.depth(nexus, self.now)
            nexus.outstanding -= 1
            nexus.unanswered += 1
        return 0

    def close(self, task: Task, status: int, response: int) -> int:
        """A command was answered."""
        nexus = task.nexus
        self.depth(nexus, self.now)
        nexus.outstanding -= 1
        nexus.commands += 1
        if task.flags & READ:
            nexus.reads += 1
        elif task.flags & WRITE:
            nexus.writes += 1
        else:
            nexus.others += 1
        nexus.bytes_in += task.bytes_in
        nexus.bytes_out += task.bytes_out
        nexus.r2ts += task.r2ts
        nexus.last_ns = max(nexus.last_ns, self.now)
        if status or response:
            if response:
                nexus.failures += 1
            else:
                nexus.statuses[status] = nexus.statuses.get(status, 0) + 1
        if self.count == EXCHANGES_PER_BLOCK:
            self.blocks.append((self.block, self.count))
            self._new_block()
        words = self.words
        at = self.count * EXCHANGE_WORDS
        self.count += 1
        self.total += 1
        words[at] = task.start
        words[at + 1] = task.begin
        words[at + 2] = task.first if task.first else self.now
        words[at + 3] = self.now
        words[at + 4] = task.ready
        words[at + 5] = task.data
        words[at + 6] = task.lun_word
        words[at + 7] = task.cdb0
        words[at + 8] = task.cdb1
        words[at + 9] = task.tag | (task.bytes_in if task.bytes_in < HIGH_LIMIT else HIGH_LIMIT) << 32
        words[at + 10] = task.edtl | (task.bytes_out if task.bytes_out < HIGH_LIMIT else HIGH_LIMIT) << 32
        words[at + 11] = task.packet | (self.packet & HIGH_LIMIT) << 32
        words[at + 12] = nexus.number | status << 32 | response << 40 | task.flags << 48
        words[at + 13] = task.depth | (task.r2ts & HIGH_LIMIT) << 32
        words[at + 14] = nexus.flow
        return 0
