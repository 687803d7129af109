"""The SCSI commands of a capture with their data, in the order in which they were sent.

Data go to a temporary file, so that a capture of any size can be played; what is held in memory is a record of some
hundred bytes for each command, and the data of the commands under way.
"""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import BinaryIO, cast

from tools.capture.analysis import analyse
from tools.capture.exchanges import Exchange, Flag
from tools.capture.pdu_parts import parts_of
from tools.capture.rows import Note, Part, Row, RowKind
from tools.capture.scan import Scan
from tools.capture.sessions import Sessions, Unwatched, lun_text

_COMMAND, _DATA_OUT, _RESPONSE, _DATA_IN = 0x01, 0x05, 0x21, 0x25
_LOGIN_REQUEST, _LOGIN_RESPONSE = 0x03, 0x23
#: Data of one command beyond this are not collected; the command is then one whose data were not captured.
LONGEST_DATA_BYTES = 32 << 20
#: Commands under way beyond this: the oldest is given up, as one without an answer.
MOST_UNDER_WAY = 65_536


@dataclass(frozen=True, slots=True)
class Piece:
    """Data of a command in the :class:`Trace`'s file."""

    offset: int
    length: int


@dataclass(slots=True)
class CapturedCommand:
    """One command as it was captured. Times are UTC nanoseconds; ``end_ns`` 0 and ``status`` None: no status came.

    ``nexus`` is the number of initiator and target in :attr:`Trace.nexuses`. ``data_in`` and ``data_out`` are None
    where the capture does not hold all of them.
    """

    nexus: int
    lun: str
    cdb: bytes
    attr: int
    edtl: int
    reads: bool
    writes: bool
    start_ns: int
    packet: int
    end_ns: int = 0
    status: int | None = None
    data_in: Piece | None = None
    data_out: Piece | None = None
    data_in_bytes: int = 0
    sense_key: int = 0


@dataclass(slots=True)
class _UnderWay:
    command: CapturedCommand
    incoming: bytearray = field(default_factory=bytearray)
    outgoing: bytearray = field(default_factory=bytearray)
    whole: bool = True


@dataclass(slots=True)
class Trace:
    """What a capture has to play. Close it: its data lie in a temporary file."""

    commands: list[CapturedCommand]
    nexuses: list[tuple[str, str]]
    remarks: list[str]
    data: BinaryIO

    def read(self, piece: Piece) -> bytes:
        """The data of a command."""
        self.data.seek(piece.offset)
        return self.data.read(piece.length)

    def close(self) -> None:
        """Remove the data."""
        self.data.close()

    def __enter__(self) -> Trace:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


class _Collector:
    """Puts the PDUs of iSCSI connections together to commands."""

    def __init__(self, data: BinaryIO) -> None:
        self._data = data
        self._end = 0
        self._under_way: dict[tuple[int, int], _UnderWay] = {}
        self.commands: list[CapturedCommand] = []
        self.flows: list[int] = []
        self.logins = Sessions()
        self._connections: dict[int, Unwatched] = {}

    def receive(self, part: Part) -> None:
        for row in part.rows():
            if row.kind != RowKind.ISCSI:
                continue
            opcode = row.header[0] & 0x3F
            key = (row.flow >> 1, int.from_bytes(row.header[16:20], "big"))
            pdu = part.whole(row)
            if opcode == _COMMAND:
                self._begin(row, key, pdu)
            elif opcode in (_DATA_OUT, _DATA_IN):
                self._data_came(row, key, pdu, opcode)
            elif opcode == _RESPONSE:
                if (known := self._under_way.pop(key, None)) is not None:
                    known.command.sense_key = _sense_key(_segment(row, pdu, _length(row)))
                    self._end_command(known, row, row.header[3])
            elif opcode in (_LOGIN_REQUEST, _LOGIN_RESPONSE) and pdu is not None:
                connection = self._connections.setdefault(row.flow >> 1, Unwatched(row.flow >> 1))
                self.logins.login(connection, opcode, row.packet, pdu)

    def end(self) -> None:
        """Commands that never got a status keep what was seen of them."""
        for known in self._under_way.values():
            self._keep(known)
        self._under_way.clear()

    def _begin(self, row: Row, key: tuple[int, int], pdu: bytes | None) -> None:
        header = row.header
        command = CapturedCommand(
            nexus=0,
            lun=lun_text(header[8:16]),
            cdb=header[32:48],
            attr=header[1] & 7,
            edtl=int.from_bytes(header[20:24], "big"),
            reads=bool(header[1] & 0x40),
            writes=bool(header[1] & 0x20),
            start_ns=row.time_ns,
            packet=row.packet,
        )
        self.commands.append(command)
        self.flows.append(row.flow >> 1)
        if (repeated := self._under_way.pop(key, None)) is not None:
            self._keep(repeated)
        known = self._under_way[key] = _UnderWay(command, whole=command.edtl <= LONGEST_DATA_BYTES)
        while len(self._under_way) > MOST_UNDER_WAY:
            self._keep(self._under_way.pop(next(iter(self._under_way))))
        length = _length(row)
        if length:
            self._store(known, known.outgoing, 0, _segment(row, pdu, length), length)

    def _data_came(self, row: Row, key: tuple[int, int], pdu: bytes | None, opcode: int) -> None:
        known = self._under_way.get(key)
        if known is None:
            return
        header = row.header
        length, offset = _length(row), int.from_bytes(header[40:44], "big")
        if opcode == _DATA_OUT:
            self._store(known, known.outgoing, offset, _segment(row, pdu, length), length)
            return
        self._store(known, known.incoming, offset, _segment(row, pdu, length), length)
        known.command.data_in_bytes += length
        if header[1] & 0x01:  # S: the status came with the data
            del self._under_way[key]
            self._end_command(known, row, header[3])

    def _store(
        self, known: _UnderWay, into: bytearray, offset: int, segment: bytes | None, length: int
    ) -> None:
        end = offset + length
        if segment is None or end > LONGEST_DATA_BYTES:
            known.whole = False
            return
        if len(into) < end:
            into.extend(bytes(end - len(into)))
        into[offset:end] = segment

    def _end_command(self, known: _UnderWay, row: Row, status: int) -> None:
        known.command.end_ns, known.command.status = row.time_ns, status
        self._keep(known)

    def _keep(self, known: _UnderWay) -> None:
        command = known.command
        if not known.whole:
            return
        if command.writes and len(known.outgoing) == command.edtl:
            command.data_out = self._append(known.outgoing)
        if command.reads and known.incoming and len(known.incoming) == command.data_in_bytes:
            command.data_in = self._append(known.incoming)

    def _append(self, data: bytearray) -> Piece:
        piece = Piece(self._end, len(data))
        self._data.write(data)
        self._end += len(data)
        return piece


def _length(row: Row) -> int:
    return int.from_bytes(row.header[5:8], "big")


def _sense_key(data: bytes | None) -> int:
    """The sense key of a response's data segment (RFC 7143 section 11.4.7; SPC-4 4.5.2, 4.5.3); 0: none is there."""
    if data is None or len(data) < 5:
        return 0
    descriptors = data[2] & 0x7E == 0x72
    return data[3] & 0x0F if descriptors else data[4] & 0x0F


def _segment(row: Row, pdu: bytes | None, length: int) -> bytes | None:
    """The data segment of a PDU; None where the capture does not hold all of it."""
    if pdu is None or row.notes & Note.CUT:
        return None
    start = parts_of(row.header, row.notes).data
    data = pdu[start : start + length]
    return data if len(data) == length else None


def collect(paths: Sequence[Path | str], *, ports: Sequence[int] = ()) -> Trace:
    """The commands of captures: those of iSCSI with their data, or, where there are none, FCP's without.

    Raises :class:`~tools.capture.scan.CaptureError`.
    """
    data = cast(BinaryIO, tempfile.TemporaryFile(prefix="sancredit-replay-"))  # noqa: SIM115 - closed by the trace
    try:
        scan = Scan(paths, ports=ports, keep_all=True)
        collector = _Collector(data)
        for part in scan.parts():
            collector.receive(part)
        collector.end()
        remarks = [f"packet {packet}: {what}" for packet, _, what in scan.scanner.remarks]
        if not collector.commands:
            return _of_exchanges(paths, data, remarks)
        names: dict[tuple[str, str], int] = {}
        for command, flow in zip(collector.commands, collector.flows, strict=True):
            name = collector.logins.names(flow, scan.scanner.flows[flow])
            command.nexus = names.setdefault(name, len(names))
    except BaseException:
        data.close()
        raise
    order = sorted(collector.commands, key=lambda command: (command.start_ns, command.packet))
    return Trace(order, list(names), remarks, data)


def _of_exchanges(paths: Sequence[Path | str], data: BinaryIO, remarks: list[str]) -> Trace:
    """Commands of FCP, whose data are not collected."""
    names: dict[tuple[str, str], int] = {}
    commands = []
    with analyse(paths) as analysis:
        for exchange in analysis.store.exchanges():
            if exchange.flags & Flag.MANAGEMENT:
                continue
            name = analysis.name_of(analysis.matcher.nexuses[exchange.nexus])
            number = names.setdefault((name.initiator, name.target), len(names))
            commands.append(_command_of(exchange, number, name.lun))
    commands.sort(key=lambda command: (command.start_ns, command.packet))
    return Trace(commands, list(names), remarks, data)


def _command_of(exchange: Exchange, nexus: int, lun: str) -> CapturedCommand:
    ended = bool(exchange.end_ns)
    return CapturedCommand(
        nexus=nexus,
        lun=lun,
        cdb=exchange.cdb,
        attr=1,
        edtl=exchange.edtl,
        reads=bool(exchange.flags & Flag.READ),
        writes=bool(exchange.flags & Flag.WRITE),
        start_ns=exchange.start_ns,
        packet=exchange.packet,
        end_ns=exchange.end_ns,
        status=exchange.status if ended else None,
        data_in_bytes=exchange.bytes_in,
    )
