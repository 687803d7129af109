"""Rows of a capture that pass a filter, as they are listed."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tools.capture.fields import Seen
from tools.capture.filters import Filter
from tools.capture.rows import Row, RowKind
from tools.capture.scan import Scan
from tools.capture.sessions import endpoint
from tools.capture.words import Describer

if TYPE_CHECKING:
    from tools.capture.live import LiveSource

ISCSI_KINDS = (RowKind.ISCSI,)
FC_KINDS = (RowKind.FC, RowKind.FIP, RowKind.ORDERED_SET)


class Listing:
    """Goes through a capture row by row. ``scan``: for its remarks, when it is over."""

    def __init__(
        self,
        paths: Sequence[Path | str],
        kinds: Sequence[RowKind],
        *,
        ports: Sequence[int] = (),
        keep_all: bool = False,
        live: LiveSource | None = None,
    ) -> None:
        self.scan = Scan(paths, ports=ports, keep_all=keep_all, live=live)
        self.describer = Describer()
        self._kinds = frozenset(int(kind) for kind in kinds)
        self._ends: dict[int, tuple[str, str]] = {}

    def seen(self) -> Iterator[tuple[int, Seen]]:
        """Every row of these kinds with its number, from 1 on."""
        number = 0
        first_ns = None
        for part in self.scan.parts():
            for row in part.rows():
                first_ns = row.time_ns if first_ns is None else first_ns
                if row.kind in self._kinds:
                    number += 1
                    source, destination = self._ends_of(row)
                    yield number, Seen(row, first_ns, part.whole(row), source, destination)

    def _ends_of(self, row: Row) -> tuple[str, str]:
        ends = self._ends.get(row.flow) if row.kind == RowKind.ISCSI else None
        if ends is None:
            scanner = self.scan.scanner
            if row.kind in (RowKind.FIP, RowKind.ORDERED_SET):
                name = scanner.names[row.interface] if row.interface < len(scanner.names) else ""
                return name or f"interface {row.interface}", ""
            if row.kind == RowKind.FC:
                return _fc_id(row.header[5:8]), _fc_id(row.header[1:4])
            pair = scanner.flows[row.flow >> 1]
            toward_target = pair[0] if pair[0].role == 1 or pair[1].role == 2 else pair[1]
            one = toward_target.peer if row.flow & 1 else toward_target
            ends = self._ends[row.flow] = endpoint(one), endpoint(one.peer)
        return ends

    def rows(self, passes: Filter, limit: int | None = None) -> Iterator[dict[str, Any]]:
        """The rows that pass, as the listing shows them."""
        told = 0
        for number, seen in self.seen():
            if not passes(seen):
                self.describer.remember(seen)
                continue
            row = seen.row
            yield {
                "number": number,
                "packet": row.packet,
                "time_ns": row.time_ns,
                "relative_ns": row.time_ns - seen.first_ns,
                "source": seen.source,
                "destination": seen.destination,
                "length_bytes": row.length_bytes,
                "kind": RowKind(row.kind).name.lower(),
                "flow": row.flow >> 1,
                "offset": row.offset if row.offset >= 0 else None,
                "text": self.describer.line(seen),
            }
            told += 1
            if limit is not None and told >= limit:
                return

    def full(self, wanted: int) -> list[tuple[str, str]] | None:
        """Every field of the row of this number; None: there is none."""
        for number, seen in self.seen():
            if number == wanted:
                return list(self.describer.full(seen, number))
            self.describer.remember(seen)
        return None

    def exchange(self, wanted: int) -> tuple[list[tuple[int, bool, str]], tuple[str, str], str]:
        """The exchange that the row of this number belongs to: its steps in order (time, whether toward the target,
        text), its two ends, its name. At most :data:`EXCHANGE_STEPS`; empty where the row has none."""
        recent: dict[tuple[int, ...], list[tuple[int, bool, str]]] = {}
        found: tuple[int, ...] | None = None
        ends = ("", "")
        for number, seen in self.seen():
            key, begins, is_end, forward = _exchange_of(seen.row)
            if key is None:
                continue
            if begins:
                if key == found:
                    break
                recent[key] = []
                if len(recent) > EXCHANGES_HELD:
                    del recent[next(iter(recent))]
            steps = recent.setdefault(key, [])
            if len(steps) < EXCHANGE_STEPS:
                steps.append((seen.row.time_ns, forward, self.describer.line(seen)))
            if number == wanted:
                found = key
                ends = (seen.source, seen.destination) if forward else (seen.destination, seen.source)
            if is_end and key == found:
                break
        if found is None:
            return [], ends, ""
        return recent[found], ends, f"exchange of line {wanted}"


EXCHANGE_STEPS = 200
EXCHANGES_HELD = 4096


def _exchange_of(row: Row) -> tuple[tuple[int, ...] | None, bool, bool, bool]:
    """Key of a row's exchange (None: it has none), whether it begins it, ends it, goes toward the target."""
    header = row.header
    if row.kind == RowKind.ISCSI:
        opcode = header[0] & 0x3F
        tag = int.from_bytes(header[16:20], "big")
        key = (row.flow >> 1, tag) if tag != 0xFFFFFFFF else None
        ends = opcode in (0x20, 0x21, 0x22, 0x24, 0x26) or (opcode == 0x25 and bool(header[1] & 1))
        return key, opcode in (0x00, 0x01, 0x02, 0x04, 0x06), ends, opcode < 0x20
    if row.kind == RowKind.FC:
        responder = bool(header[9] & 0x80)
        key = (row.flow ^ responder, int.from_bytes(header[16:18], "big"))
        last = bool(header[9] & 0x10) and header[8] == 0x08 and header[0] == 0x07
        return key, not responder and bool(header[9] & 0x20), last, not responder
    return None, False, False, True


def _fc_id(octets: bytes) -> str:
    return ".".join(f"{octet:02x}" for octet in octets)
