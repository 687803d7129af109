"""An initiator of a few lines on a blocking socket: it sends what it is told and shows every PDU as it comes."""

from __future__ import annotations

import socket
from typing import Any

from iscsi_target.errors import IscsiError
from iscsi_target.wire.codec import Pdu, decode_pdu, encode_pdu
from iscsi_target.wire.digest import digest
from iscsi_target.wire.framing import Frame, Framer
from iscsi_target.wire.opcodes import Opcode
from iscsi_target.wire.requests import LoginRequest, NopOut, ScsiCommandPdu
from iscsi_target.wire.text import encode_text

INITIATOR = "iqn.2026-11.example:raw"


class ConnectionOver(Exception):
    """The target closed the connection (`reset`: with RST)."""

    def __init__(self, reset: bool) -> None:
        super().__init__("reset" if reset else "closed")
        self.reset = reset


class RawInitiator:
    """Logs in with the constructor, unless told otherwise. `cmd_sn` is the next CmdSN."""

    def __init__(self, host: str, port: int, iqn: str, *, log_in: bool = True, **keys: str) -> None:
        self.iqn = iqn
        self.socket = socket.create_connection((host, port), timeout=60)
        self.framer = Framer(1 << 20)
        self.frames: list[Frame] = []
        self.cmd_sn = 1
        self.tag = 1
        self.window = (0, 0)
        if log_in:
            answer = self.login(**keys)
            assert answer.status_class == 0, answer  # type: ignore[union-attr]

    def __enter__(self) -> RawInitiator:
        return self

    def __exit__(self, *_: object) -> None:
        self.socket.close()

    def login(self, **keys: str) -> Pdu:
        pairs = {"InitiatorName": INITIATOR, "TargetName": self.iqn, "SessionType": "Normal", **keys}
        self.send(
            LoginRequest(
                transit=True,
                csg=1,
                nsg=3,
                isid=b"\x80\0\0\0\0\1",
                initiator_task_tag=1,
                cmd_sn=1,
                data=encode_text(list(pairs.items())),
            )
        )
        answer = self.receive()
        self.framer.header_digest = keys.get("HeaderDigest") == "CRC32C"
        self.framer.data_digest = keys.get("DataDigest") == "CRC32C"
        return answer

    def send(self, pdu: Any) -> None:
        raw = encode_pdu(pdu)
        parts = [raw[:48], raw[48:]]
        if self.framer.header_digest:
            parts[0] += digest(parts[0])
        if self.framer.data_digest and parts[1]:
            parts[1] += digest(parts[1])
        self.socket.sendall(b"".join(parts))

    def frame(self) -> Frame:
        """The next PDU as it is on the wire."""
        while not self.frames:
            try:
                chunk = self.socket.recv(1 << 18)
            except ConnectionResetError:
                raise ConnectionOver(True) from None
            if not chunk:
                raise ConnectionOver(False)
            self.frames += self.framer.receive(chunk)
        return self.frames.pop(0)

    def receive(self) -> Pdu:
        pdu = decode_pdu(self.frame().whole())
        if pdu.OPCODE not in (Opcode.LOGIN_RESPONSE,):
            self.window = (pdu.exp_cmd_sn, pdu.max_cmd_sn)  # type: ignore[union-attr]
        return pdu

    def ping(self, data: bytes = b"hello", *, immediate: bool = False) -> NopOut:
        """Send a NOP-Out; it is returned, its answer is not waited for."""
        self.tag += 1
        pdu = NopOut(
            initiator_task_tag=self.tag, cmd_sn=self.cmd_sn, exp_stat_sn=0, data=data, immediate=immediate
        )
        self.cmd_sn += not immediate
        self.send(pdu)
        return pdu

    def command(self, cdb: bytes, **fields: Any) -> int:
        """Send a SCSI Command; its task tag."""
        self.tag += 1
        self.send(
            ScsiCommandPdu(
                initiator_task_tag=self.tag,
                cmd_sn=self.cmd_sn,
                exp_stat_sn=0,
                cdb=cdb.ljust(16, b"\0"),
                **fields,
            )
        )
        self.cmd_sn += 1
        return self.tag

    def read(self, lba: int = 0, blocks: int = 8) -> int:
        cdb = bytes((0x28, 0)) + lba.to_bytes(4, "big") + b"\0" + blocks.to_bytes(2, "big") + b"\0"
        return self.command(cdb, read=True, expected_data_transfer_length=blocks * 512)

    def write(self, data: bytes, lba: int = 0, *, immediate_data: bool = True) -> int:
        cdb = (
            bytes((0x2A, 0)) + lba.to_bytes(4, "big") + b"\0" + (len(data) // 512).to_bytes(2, "big") + b"\0"
        )
        return self.command(
            cdb, write=True, expected_data_transfer_length=len(data), data=data if immediate_data else b""
        )

    def clear_attention(self) -> None:
        """TEST UNIT READY takes the unit attention of a new nexus."""
        self.command(bytes(6))
        self.receive()


__all__ = ["INITIATOR", "ConnectionOver", "IscsiError", "RawInitiator"]
