# SPDX-License-Identifier: Apache-2.0
"""The PDU log of a target: bounded, and made to assert on.

>>> log.task(log.first(command="write-10").initiator_task_tag).r2ts
1
>>> log.expect(opcode="r2t", count=1)
>>> log.expect_order({"opcode": "scsi-command"}, {"opcode": "r2t"}, {"opcode": "scsi-response"})
"""

from __future__ import annotations

import json
import threading
import time
from collections import OrderedDict, deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from iscsi_target.faults.matching import Direction, commands_named, parse_opcode
from iscsi_target.trace.pdu_record import PduRecord
from iscsi_target.wire.opcodes import Opcode

DEFAULT_LIMIT = 10_000
_RECENT = 32
_RECENT_CONNECTIONS = 1024
_SHOWN = 40


class TaskRecords:
    """All that is in the log of one SCSI task: from its SCSI Command up to the next one with the same task tag on the
    same connection."""

    def __init__(self, records: Sequence[PduRecord]) -> None:
        self.records = tuple(records)

    def _count(self, opcode: Opcode) -> int:
        return sum(record.opcode == opcode and record.on_wire for record in self.records)

    @property
    def command(self) -> PduRecord:
        """The SCSI Command."""
        return self.records[0]

    @property
    def r2ts(self) -> int:
        """R2Ts sent."""
        return self._count(Opcode.R2T)

    @property
    def data_ins(self) -> int:
        """Data-In PDUs sent."""
        return self._count(Opcode.DATA_IN)

    @property
    def data_outs(self) -> int:
        """Data-Out PDUs received."""
        return self._count(Opcode.DATA_OUT)

    @property
    def status(self) -> int | None:
        """The SCSI status that went to the initiator; None: none did (yet)."""
        return next(
            (
                record.status
                for record in reversed(self.records)
                if record.on_wire and record.status is not None
            ),
            None,
        )

    @property
    def duration_ns(self) -> int | None:
        """From the command to the status; None: it has none yet."""
        for record in reversed(self.records):
            if record.status is not None and record.on_wire:
                return record.time_ns - self.command.time_ns
        return None

    @property
    def rules(self) -> tuple[str, ...]:
        """Rules that fired on the task's PDUs, in order."""
        return tuple(name for record in self.records for name in record.rules)


class Selection:
    """Which records somebody asks for; the keywords of :meth:`PduLog.records`."""

    def __init__(
        self,
        *,
        direction: Direction | str | None = None,
        opcode: int | str | None = None,
        lun: int | None = None,
        command: str | None = None,
        task_tag: int | None = None,
        session: int | None = None,
        connection: int | None = None,
        initiator: str | None = None,
        status: int | None = None,
        rule: str | None = None,
        on_wire: bool | None = None,
        after: int = 0,
        where: Callable[[PduRecord], bool] | None = None,
    ) -> None:
        """`after`: records with a larger number only. Raises FaultError for an unknown PDU or command name."""
        tests: list[Callable[[PduRecord], bool]] = []
        if after:
            tests.append(lambda record: record.number > after)
        if direction is not None:
            wanted_direction = Direction(direction)
            tests.append(lambda record: record.direction is wanted_direction)
        if opcode is not None:
            wanted = parse_opcode(opcode)
            tests.append(lambda record: record.opcode == wanted)
        if command is not None:
            codes = commands_named(command)
            tests.append(lambda record: _is_command(record.cdb, codes))
        plain: tuple[tuple[str, object], ...] = (
            ("lun", lun),
            ("initiator_task_tag", task_tag),
            ("tsih", session),
            ("connection", connection),
            ("initiator_name", initiator),
            ("status", status),
            ("on_wire", on_wire),
        )
        tests += [_equal(name, value) for name, value in plain if value is not None]
        if rule is not None:
            tests.append(lambda record: rule in record.rules)
        if where is not None:
            tests.append(where)
        self._tests = tests

    def holds(self, record: PduRecord) -> bool:
        """Whether the record is one of those asked for."""
        return all(test(record) for test in self._tests)


def _equal(name: str, value: object) -> Callable[[PduRecord], bool]:
    return lambda record: bool(getattr(record, name) == value)


def _is_command(cdb: bytes, codes: Sequence[tuple[int, int | None]]) -> bool:
    return len(cdb) > 1 and any(
        cdb[0] == opcode and action in (None, cdb[1] & 0x1F) for opcode, action in codes
    )


class PduLog:
    """The latest `limit` PDUs of a target, and the latest few of every connection. Thread-safe.

    Every selecting method takes the keywords of :class:`Selection`: direction, opcode, lun, command, task_tag, session,
    connection, initiator, status, rule, on_wire, after, where.
    """

    def __init__(self, limit: int = DEFAULT_LIMIT) -> None:
        self.limit = limit
        self._records: deque[PduRecord] = deque(maxlen=limit)
        self._recent: OrderedDict[int, deque[PduRecord]] = OrderedDict()
        self._changed = threading.Condition()
        self._waiting = 0
        self.total = 0
        """PDUs ever logged."""

    # -- writing ------------------------------------------------------------------------------------------------

    def append(
        self,
        time_ns: int,
        direction: Direction,
        connection: int,
        tsih: int,
        cid: int,
        initiator_name: str,
        header: bytes,
        data_bytes: int,
        lun: int | None,
        cdb: bytes,
        rules: tuple[str, ...],
        fate: str,
        on_wire: bool,
    ) -> None:
        """Log one PDU (the fields of :class:`~iscsi_target.trace.pdu_record.PduRecord`)."""
        with self._changed:
            self.total += 1
            record = PduRecord(
                self.total,
                time_ns,
                direction,
                connection,
                tsih,
                cid,
                initiator_name,
                header,
                data_bytes,
                lun,
                cdb,
                rules,
                fate,
                on_wire,
            )
            self._records.append(record)
            recent = self._recent.get(connection)
            if recent is None:
                recent = self._recent[connection] = deque(maxlen=_RECENT)
                if len(self._recent) > _RECENT_CONNECTIONS:
                    self._recent.popitem(last=False)
            recent.append(record)
            if self._waiting:
                self._changed.notify_all()

    def clear(self) -> None:
        """Forget all records; numbering goes on."""
        with self._changed:
            self._records.clear()
            self._recent.clear()

    # -- reading ------------------------------------------------------------------------------------------------

    def __iter__(self) -> Iterator[PduRecord]:
        return iter(self.records())

    def __len__(self) -> int:
        return len(self._records)

    def records(self, **selection: Any) -> list[PduRecord]:
        """The records selected, oldest first."""
        chosen = Selection(**selection)
        with self._changed:
            records = list(self._records)
        return [record for record in records if chosen.holds(record)]

    def count(self, **selection: Any) -> int:
        """How many there are."""
        return len(self.records(**selection))

    def first(self, **selection: Any) -> PduRecord:
        """The first one selected. Raises AssertionError: there is none."""
        records = self.records(**selection)
        if not records:
            raise AssertionError(self._complaint("there is no such PDU", selection))
        return records[0]

    def last(self, **selection: Any) -> PduRecord:
        """The last one selected. Raises AssertionError: there is none."""
        records = self.records(**selection)
        if not records:
            raise AssertionError(self._complaint("there is no such PDU", selection))
        return records[-1]

    def tasks(self, **selection: Any) -> list[TaskRecords]:
        """The SCSI tasks whose SCSI Command is selected, each with all of its PDUs."""
        with self._changed:
            records = list(self._records)
        chosen = Selection(**{**selection, "opcode": Opcode.SCSI_COMMAND})
        grouped: dict[tuple[int, int], list[PduRecord]] = {}
        tasks = []
        for record in records:
            key = (record.connection, record.initiator_task_tag)
            if record.opcode == Opcode.SCSI_COMMAND:
                grouped[key] = [record]
                if chosen.holds(record):
                    tasks.append(grouped[key])
            elif key in grouped and record.cdb:
                grouped[key].append(record)
        return [TaskRecords(task) for task in tasks]

    def task(self, task_tag: int | None = None, **selection: Any) -> TaskRecords:
        """The latest task with that Initiator Task Tag, or selected otherwise. Raises AssertionError: there is none."""
        if task_tag is not None:
            selection["task_tag"] = task_tag
        tasks = self.tasks(**selection)
        if not tasks:
            raise AssertionError(self._complaint("there is no such task", selection))
        return tasks[-1]

    def recent(self, count: int = 20) -> dict[int, list[PduRecord]]:
        """By connection: its last PDUs, at most `count` (and at most 32), also of connections that are gone."""
        with self._changed:
            return {connection: list(records)[-count:] for connection, records in self._recent.items()}

    # -- asserting ----------------------------------------------------------------------------------------------

    def expect(
        self,
        *,
        count: int | None = None,
        at_least: int | None = None,
        at_most: int | None = None,
        timeout_s: float = 0.0,
        **selection: Any,
    ) -> list[PduRecord]:
        """The records selected; AssertionError, with what there is, when they are not `count`, or not within the bounds
        (without any: at least one). `timeout_s`: wait so long for enough of them first."""
        if count is not None:
            at_least = at_most = count
        elif at_least is None and at_most is None:
            at_least = 1
        low = at_least or 0
        found = self._wait(low, timeout_s, selection)
        if len(found) < low or (at_most is not None and len(found) > at_most):
            wanted = (
                f"{low}"
                if at_most == low
                else f"at least {low}"
                if at_most is None
                else f"{low} to {at_most}"
            )
            raise AssertionError(self._complaint(f"{len(found)} PDUs where {wanted} are expected", selection))
        return found

    def expect_none(self, **selection: Any) -> None:
        """AssertionError when there is one."""
        self.expect(count=0, **selection)

    def expect_order(self, *selections: Mapping[str, Any]) -> list[PduRecord]:
        """The first PDU of each selection that comes after that of the one before; AssertionError: the order is not
        there."""
        found: list[PduRecord] = []
        for step, selection in enumerate(selections, 1):
            chosen = Selection(**selection)
            after = found[-1].number if found else 0
            with self._changed:
                records = list(self._records)
            record = next((item for item in records if item.number > after and chosen.holds(item)), None)
            if record is None:
                raise AssertionError(
                    self._complaint(f"step {step} of {len(selections)} does not follow", selection)
                )
            found.append(record)
        return found

    def wait_for(self, count: int = 1, *, timeout_s: float = 30.0, **selection: Any) -> list[PduRecord]:
        """Wait until `count` PDUs are there, and return them; AssertionError after `timeout_s`."""
        return self.expect(at_least=count, timeout_s=timeout_s, **selection)

    def _wait(self, count: int, timeout_s: float, selection: Mapping[str, Any]) -> list[PduRecord]:
        deadline = time.monotonic() + timeout_s
        chosen = Selection(**selection)
        with self._changed:
            self._waiting += 1
            try:
                while True:
                    found = [record for record in self._records if chosen.holds(record)]
                    left = deadline - time.monotonic()
                    if len(found) >= count or left <= 0:
                        return found
                    self._changed.wait(left)
            finally:
                self._waiting -= 1

    def _complaint(self, text: str, selection: Mapping[str, Any]) -> str:
        asked = ", ".join(f"{name}={value!r}" for name, value in selection.items()) or "anything"
        with self._changed:
            records = list(self._records)[-_SHOWN:]
        start = records[0].time_ns if records else 0
        lines = [f"{text} ({asked}); the last {len(records)} PDUs of {self.total}:"]
        lines += [f"  {record.as_line(start)}" for record in records]
        return "\n".join(lines)

    # -- exporting ----------------------------------------------------------------------------------------------

    def json_lines(self, **selection: Any) -> Iterator[str]:
        """One JSON object per record selected."""
        for record in self.records(**selection):
            yield json.dumps(record.as_dict())

    def write_json_lines(self, path: Path, **selection: Any) -> int:
        """Write :meth:`json_lines` to a file; how many lines."""
        count = 0
        with path.open("w", encoding="utf-8") as file:
            for line in self.json_lines(**selection):
                file.write(line + "\n")
                count += 1
        return count

    def describe(self, count: int = 20) -> str:
        """The last PDUs of every connection for people, as failure artefacts show them."""
        lines = []
        for connection, records in self.recent(count).items():
            last = records[-1]
            lines.append(
                f"connection {connection}, session {last.tsih}, {last.initiator_name or 'not logged in'}:"
            )
            lines += [f"  {record.as_line(records[0].time_ns)}" for record in records]
        return "\n".join(lines)


__all__ = ["DEFAULT_LIMIT", "PduLog", "Selection", "TaskRecords"]
