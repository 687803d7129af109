# SPDX-License-Identifier: Apache-2.0
"""One line of the PDU log."""

from __future__ import annotations

import struct
from typing import Any, NamedTuple

from iscsi_target.faults.matching import Direction, opcode_name
from iscsi_target.wire.codec import CODECS
from iscsi_target.wire.lun import MAX_LUN
from iscsi_target.wire.opcodes import Opcode

_word_at = struct.Struct(">I").unpack_from
_FINAL, _STATUS_PRESENT = 0x80, 0x01
NUMBERS = (
    "target_transfer_tag",
    "cmd_sn",
    "stat_sn",
    "exp_stat_sn",
    "exp_cmd_sn",
    "max_cmd_sn",
    "data_sn",
    "r2t_sn",
    "exp_data_sn",
    "buffer_offset",
    "desired_data_transfer_length",
    "expected_data_transfer_length",
    "residual_count",
)
"""Header fields that a record shows, where its PDU has them."""


class PduRecord(NamedTuple):
    """A PDU as it came from the wire, or as it went to it, with what rules made of it; or one that was meant to go."""

    number: int
    """1, 2, 3 … in the log's order."""
    time_ns: int
    """Monotonic clock."""
    direction: Direction
    connection: int
    """The connections of a target are numbered from 1 in the order of their coming."""
    tsih: int
    """0 before the login is complete."""
    cid: int
    initiator_name: str
    header: bytes
    """The 48 bytes of the basic header segment."""
    data_bytes: int
    """Length of the data segment."""
    lun: int | None
    """Of the PDU's task, where it belongs to one."""
    cdb: bytes
    """Of the PDU's task, where it belongs to one."""
    rules: tuple[str, ...] = ()
    """Rules that fired on it."""
    fate: str = ""
    """What the rules made of it ("dropped", "delayed 20ms"); empty: it passed as it was."""
    on_wire: bool = True
    """False for a PDU that the target would have sent, had no rule kept it."""

    @property
    def opcode(self) -> int:
        """The opcode without the I bit."""
        return self.header[0] & 0x3F

    @property
    def kind(self) -> str:
        """The opcode's name: ``data-in``."""
        return opcode_name(self.opcode)

    @property
    def immediate(self) -> bool:
        """The I bit of a request."""
        return self.direction is Direction.TO_TARGET and bool(self.header[0] & 0x40)

    @property
    def final(self) -> bool:
        """The F bit."""
        return bool(self.header[1] & _FINAL)

    @property
    def initiator_task_tag(self) -> int:
        """The Initiator Task Tag."""
        return int(_word_at(self.header, 16)[0])

    @property
    def status(self) -> int | None:
        """The SCSI status that this PDU brings; None when it brings none."""
        if self.opcode == Opcode.SCSI_RESPONSE or (
            self.opcode == Opcode.DATA_IN and self.header[1] & _STATUS_PRESENT
        ):
            return self.header[3]
        return None

    def field(self, name: str) -> int | None:
        """An integer field of the header by its name in :mod:`iscsi_target.wire`; None: this PDU has no such field."""
        codec = CODECS.get(self.opcode)
        if codec is None or name not in codec.bits:
            return None
        return int(codec.unpack(self.header, 0)[codec.names.index(name)])

    def as_dict(self) -> dict[str, Any]:
        """For JSON: every field that the PDU has."""
        values: dict[str, Any] = {
            "number": self.number,
            "time_ns": self.time_ns,
            "direction": self.direction.value,
            "connection": self.connection,
            "session": self.tsih,
            "cid": self.cid,
            "initiator": self.initiator_name,
            "pdu": self.kind,
            "opcode": self.opcode,
            "immediate": self.immediate,
            "final": self.final,
            "initiator_task_tag": self.initiator_task_tag,
            "data_bytes": self.data_bytes,
            "lun": self.lun,
            "cdb": self.cdb.hex(),
        }
        for name in NUMBERS:
            value = self.field(name)
            if value is not None:
                values[name] = value
        values["status"] = self.status
        values["rules"] = list(self.rules)
        values["fate"] = self.fate
        values["on_wire"] = self.on_wire
        return values

    def as_line(self, start_ns: int = 0) -> str:
        """For people: one line, the time in milliseconds since `start_ns`."""
        arrow = "-->" if self.direction is Direction.TO_TARGET else "<--"
        said = [
            f"{(self.time_ns - start_ns) / 1e6:10.3f} ms  session {self.tsih} connection {self.connection} {arrow}",
            f"{self.kind:<15}",
            f"itt {self.initiator_task_tag:08x}",
        ]
        if self.lun is not None:
            said.append(f"lun {self.lun if self.lun <= MAX_LUN else hex(self.lun)}")
        if self.cdb and self.opcode == Opcode.SCSI_COMMAND:
            said.append(f"cdb {self.cdb.hex()}")
        for name in ("cmd_sn", "stat_sn", "data_sn", "r2t_sn", "exp_cmd_sn", "max_cmd_sn", "buffer_offset"):
            value = self.field(name)
            if value is not None:
                said.append(f"{name} {value}")
        if self.data_bytes:
            said.append(f"data {self.data_bytes} B")
        if self.status is not None:
            said.append(f"status {self.status:02x}h")
        if self.rules:
            said.append(f"[{', '.join(self.rules)}: {self.fate}]")
        return " ".join(said)
