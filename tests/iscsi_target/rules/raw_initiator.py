"""A raw initiator: a blocking TCP socket and PDUs made by hand from the construct descriptions.

It sends whatever a test tells it, also what no initiator may send, and checks of everything that comes back what holds
for every PDU of a target: digests, the order of StatSN, a command window that never goes back.
"""

from __future__ import annotations

import socket
from dataclasses import dataclass
from typing import Any, TypeVar

from iscsi_target.session.serial import before
from iscsi_target.wire.codec import Pdu, decode_pdu, encode_pdu
from iscsi_target.wire.digest import digest
from iscsi_target.wire.lun import lun_to_bytes
from iscsi_target.wire.opcodes import RESERVED_TAG, Stage
from iscsi_target.wire.requests import (
    DataOut,
    LoginRequest,
    LogoutRequest,
    NopOut,
    ScsiCommandPdu,
    SnackRequest,
    TaskManagementRequest,
    TextRequest,
)
from iscsi_target.wire.responses import R2T, DataIn, LoginResponse, NopIn, ScsiResponse
from iscsi_target.wire.text import Pair, decode_text, encode_text

TARGET = "iqn.2026-11.example:target"
HOST = "iqn.2026-11.example:host"
ISID = bytes.fromhex("800001020304")
BLOCK = 512
CHECK_CONDITION = 2
TIMEOUT_S = 60

TEST_UNIT_READY = bytes(6)
INQUIRY = bytes((0x12, 0, 0, 0, 36, 0))
VERIFY_10 = bytes((0x2F, 0, 0, 0, 0, 0, 0, 0, 1, 0))

Kind = TypeVar("Kind", bound=Pdu)


def read_10(lba: int, blocks: int) -> bytes:
    return bytes((0x28, 0)) + lba.to_bytes(4, "big") + bytes(1) + blocks.to_bytes(2, "big") + bytes(1)


def write_10(lba: int, blocks: int) -> bytes:
    return bytes((0x2A, 0)) + lba.to_bytes(4, "big") + bytes(1) + blocks.to_bytes(2, "big") + bytes(1)


def pattern(size_bytes: int, seed: int = 1) -> bytes:
    """Bytes in which a wrong offset shows."""
    return bytes((seed + i * 7 + (i >> 8) * 13) & 0xFF for i in range(size_bytes))


@dataclass
class SharedSession:
    """What the connections of one session share."""

    tsih: int = 0
    cmd_sn: int = 1
    task_tag: int = 0x1000


@dataclass(frozen=True)
class Done:
    """How a SCSI command ended."""

    status: int
    data: bytes
    sense: bytes
    response: DataIn | ScsiResponse

    @property
    def sense_code(self) -> tuple[int, int]:
        """Sense key; ASC and ASCQ as one number."""
        return self.sense[2] & 0xF, self.sense[12] << 8 | self.sense[13]


class RawInitiator:
    """One connection. `in_order`: check that StatSN goes up by one with each status (not so after a SNACK)."""

    def __init__(
        self,
        address: tuple[str, int],
        *,
        isid: bytes = ISID,
        cid: int = 0,
        session: SharedSession | None = None,
        name: str = HOST,
    ) -> None:
        self.isid, self.cid, self.name = isid, cid, name
        self.session = session or SharedSession()
        self.exp_stat_sn = 0
        self.exp_cmd_sn = self.max_cmd_sn = self.session.cmd_sn
        self.in_order = True
        self.header_digest = self.data_digest = False
        self.keys: dict[str, str] = {}
        """What the target said in the login."""
        self._window_known = False
        self._received = b""
        self._socket = socket.create_connection(address, TIMEOUT_S)

    def close(self) -> None:
        """Close the TCP connection without a word."""
        self._socket.close()

    # -- requests -----------------------------------------------------------------------------------------------

    def next_cmd_sn(self) -> int:
        """Number one command."""
        self.session.cmd_sn = (self.session.cmd_sn + 1) & 0xFFFFFFFF
        return (self.session.cmd_sn - 1) & 0xFFFFFFFF

    def new_tag(self) -> int:
        """An Initiator Task Tag that was not used before."""
        self.session.task_tag += 1
        return self.session.task_tag

    def _numbered(self, fields: dict[str, Any]) -> dict[str, Any]:
        fields.setdefault("initiator_task_tag", self.new_tag())
        fields.setdefault("exp_stat_sn", self.exp_stat_sn)
        if "cmd_sn" not in fields:
            fields["cmd_sn"] = self.session.cmd_sn if fields.get("immediate") else self.next_cmd_sn()
        return fields

    def command(
        self, cdb: bytes, *, read: int | None = None, write: int | None = None, **fields: Any
    ) -> ScsiCommandPdu:
        """A SCSI Command; `read` or `write` is its Expected Data Transfer Length."""
        if read is not None or write is not None:
            fields.setdefault("expected_data_transfer_length", read if read is not None else write)
        fields.setdefault("lun", lun_to_bytes(0))
        return ScsiCommandPdu(
            cdb=cdb.ljust(16, b"\0"),
            read=read is not None,
            write=write is not None,
            **self._numbered(fields),
        )

    def read(self, lba: int, blocks: int, **fields: Any) -> ScsiCommandPdu:
        return self.command(read_10(lba, blocks), read=blocks * BLOCK, **fields)

    def write(self, lba: int, blocks: int, **fields: Any) -> ScsiCommandPdu:
        return self.command(write_10(lba, blocks), write=blocks * BLOCK, **fields)

    def data_out(self, answers: R2T | ScsiCommandPdu, data: bytes, **fields: Any) -> DataOut:
        """Data-Out for an R2T, or unsolicited for a command; one final PDU unless `fields` say otherwise."""
        values: dict[str, Any] = {
            "final": True,
            "lun": answers.lun,
            "initiator_task_tag": answers.initiator_task_tag,
            "target_transfer_tag": answers.target_transfer_tag if isinstance(answers, R2T) else RESERVED_TAG,
            "exp_stat_sn": self.exp_stat_sn,
            "data_sn": 0,
            "buffer_offset": answers.buffer_offset if isinstance(answers, R2T) else 0,
            "data": data,
        }
        return DataOut(**(values | fields))

    def nop(self, data: bytes = b"", **fields: Any) -> NopOut:
        return NopOut(data=data, **self._numbered(fields))

    def text(self, *pairs: Pair, **fields: Any) -> TextRequest:
        fields.setdefault("data", encode_text(pairs))
        return TextRequest(**self._numbered(fields))

    def task_management(self, function: int, **fields: Any) -> TaskManagementRequest:
        fields.setdefault("immediate", True)
        fields.setdefault("lun", lun_to_bytes(0))
        return TaskManagementRequest(function=function, **self._numbered(fields))

    def logout(self, reason: int = 0, **fields: Any) -> LogoutRequest:
        fields.setdefault("cid", self.cid)
        return LogoutRequest(reason=reason, **self._numbered(fields))

    def snack(
        self, type_: int, tag: int = RESERVED_TAG, begin: int = 0, run: int = 0, **more: Any
    ) -> SnackRequest:
        more.setdefault("exp_stat_sn", self.exp_stat_sn)
        more.setdefault("lun", lun_to_bytes(0))
        return SnackRequest(type_=type_, initiator_task_tag=tag, beg_run=begin, run_length=run, **more)

    def login_request(self, *pairs: Pair, **fields: Any) -> LoginRequest:
        """A Login Request of the operational stage that asks for full-feature phase."""
        values: dict[str, Any] = {
            "transit": True,
            "csg": Stage.LOGIN_OPERATIONAL_NEGOTIATION,
            "nsg": Stage.FULL_FEATURE_PHASE,
            "isid": self.isid,
            "tsih": self.session.tsih,
            "initiator_task_tag": 7,
            "cid": self.cid,
            "cmd_sn": self.session.cmd_sn,
            "exp_stat_sn": self.exp_stat_sn,
            "data": encode_text(pairs),
        }
        return LoginRequest(**(values | fields))

    # -- bytes --------------------------------------------------------------------------------------------------

    def encode(self, pdu: Pdu, *, spoil: str = "") -> bytes:
        """The PDU with the digests agreed on; `spoil` ("header" or "data") makes one of them wrong."""
        whole = encode_pdu(pdu)
        header, data = whole[: 48 + len(pdu.ahs)], whole[48 + len(pdu.ahs) :]
        if self.header_digest:
            header += _digest(header, wrong=spoil == "header")
        if self.data_digest and data:
            data += _digest(data, wrong=spoil == "data")
        return header + data

    def send(self, *pdus: Pdu, spoil: str = "") -> None:
        """Send PDUs in one write."""
        self.send_bytes(b"".join(self.encode(pdu, spoil=spoil) for pdu in pdus))

    def send_bytes(self, data: bytes) -> None:
        self._socket.sendall(data)

    def _take(self, size_bytes: int) -> bytes:
        while len(self._received) < size_bytes:
            chunk = self._socket.recv(1 << 18)
            if not chunk:
                raise EOFError(f"the target closed the connection, {len(self._received)} bytes were there")
            self._received += chunk
        taken, self._received = self._received[:size_bytes], self._received[size_bytes:]
        return taken

    def receive(self) -> Pdu:
        """The next PDU. Raises EOFError when the target closes, TimeoutError when nothing comes."""
        header = self._take(48)
        header += self._take(header[4] * 4)
        if self.header_digest:
            assert self._take(4) == digest(header), "the target's header digest is wrong"
        size = int.from_bytes(header[5:8], "big")
        data = self._take(size + 3 & ~3)
        if self.data_digest and size:
            assert self._take(4) == digest(data), "the target's data digest is wrong"
        pdu = decode_pdu(header + data)
        self._check_numbers(pdu)
        return pdu

    def _check_numbers(self, pdu: Any) -> None:
        bears_status = not isinstance(pdu, R2T)
        if isinstance(pdu, DataIn):
            bears_status = pdu.status_present
        elif isinstance(pdu, NopIn):
            bears_status = pdu.initiator_task_tag != RESERVED_TAG
        if bears_status:
            if self.in_order:
                assert pdu.stat_sn == self.exp_stat_sn, f"StatSN {pdu.stat_sn}, not {self.exp_stat_sn}: {pdu}"
            self.exp_stat_sn = (pdu.stat_sn + 1) & 0xFFFFFFFF
        if self._window_known:
            assert not before(pdu.exp_cmd_sn, self.exp_cmd_sn), f"ExpCmdSN went back: {pdu}"
            assert not before(pdu.max_cmd_sn, self.max_cmd_sn), f"MaxCmdSN went back: {pdu}"
        self.exp_cmd_sn, self.max_cmd_sn = pdu.exp_cmd_sn, pdu.max_cmd_sn

    def expect(self, kind: type[Kind], **fields: Any) -> Kind:
        """The next PDU, which has to be a `kind` with these fields."""
        pdu = self.receive()
        assert isinstance(pdu, kind), f"a {kind.__name__} was expected, this came: {pdu}"
        found = {name: getattr(pdu, name) for name in fields}
        assert found == fields, f"in {pdu}"
        return pdu

    def expect_closed(self) -> None:
        """Nothing more comes and the target closes the connection."""
        try:
            rest = self._received or self._socket.recv(1 << 16)
        except ConnectionResetError:
            return
        assert rest == b"", f"the connection was to be closed, this came: {rest[:64].hex()}"

    # -- conversations ------------------------------------------------------------------------------------------

    def log_in(self, *, discovery: bool = False, **keys: str) -> LoginResponse:
        """Log in with one request, `keys` offered; the standard's defaults hold for what is not offered."""
        pairs: list[Pair] = [("InitiatorName", self.name)]
        pairs += [("SessionType", "Discovery")] if discovery else [("TargetName", TARGET)]
        self.send(self.login_request(*pairs, *keys.items()))
        response = self.expect(LoginResponse, status_class=0, status_detail=0, transit=True)
        self.entered(response)
        return response

    def try_log_in(self, **keys: str) -> int:
        """Log in with one request; returns Status-Class and Status-Detail as one number."""
        pairs = [("InitiatorName", self.name), ("TargetName", TARGET), *keys.items()]
        self.send(self.login_request(*pairs))
        response = self.expect(LoginResponse)
        if not response.status_class:
            self.entered(response)
        return response.status_class << 8 | response.status_detail

    def entered(self, response: LoginResponse) -> None:
        """Full-feature phase begins after this response."""
        self.keys.update(decode_text(response.data))
        self.session.tsih = response.tsih
        self.header_digest = self.keys.get("HeaderDigest") == "CRC32C"
        self.data_digest = self.keys.get("DataDigest") == "CRC32C"
        self._window_known = True

    def take_unit_attention(self) -> None:
        """The first command of a nexus is answered with a unit attention; have that over."""
        self.run(self.command(TEST_UNIT_READY))

    def run(self, command: ScsiCommandPdu, data: bytes = b"") -> Done:
        """Send a command and carry it to its end; `data` is all of its Data-Out, what is solicited is sent."""
        self.send(command)
        return self.finish(command, data)

    def finish(self, command: ScsiCommandPdu, data: bytes = b"") -> Done:
        """Carry a command that was sent to its end."""
        received = b""
        while True:
            pdu = self.receive()
            assert isinstance(pdu, R2T | DataIn | ScsiResponse), f"for a SCSI command came: {pdu}"
            assert pdu.initiator_task_tag == command.initiator_task_tag
            if isinstance(pdu, R2T):
                end = pdu.buffer_offset + pdu.desired_data_transfer_length
                self.send(*self.burst(pdu, data[pdu.buffer_offset : end]))
            elif isinstance(pdu, DataIn):
                assert pdu.buffer_offset == len(received)
                received += pdu.data
                if pdu.status_present:
                    return Done(pdu.status, received, b"", pdu)
            else:
                size = int.from_bytes(pdu.data[:2], "big")
                return Done(pdu.status, received, pdu.data[2 : 2 + size], pdu)

    def burst(self, r2t: R2T, data: bytes) -> list[DataOut]:
        """The Data-Out PDUs that answer an R2T."""
        limit = int(self.keys.get("MaxRecvDataSegmentLength", "8192"))
        return [
            self.data_out(
                r2t,
                data[offset : offset + limit],
                data_sn=number,
                buffer_offset=r2t.buffer_offset + offset,
                final=offset + limit >= len(data),
            )
            for number, offset in enumerate(range(0, len(data), limit))
        ]

    def gather(self, command: ScsiCommandPdu) -> list[DataIn]:
        """All Data-In PDUs of a read that ends well, in the order in which they come."""
        pdus: list[DataIn] = []
        while True:
            pdu = self.receive()
            assert isinstance(pdu, DataIn | ScsiResponse), f"for a read came: {pdu}"
            assert (pdu.initiator_task_tag, pdu.status) == (command.initiator_task_tag, 0)
            if isinstance(pdu, DataIn):
                pdus.append(pdu)
            if isinstance(pdu, ScsiResponse) or pdu.status_present:
                return pdus

    def expect_check_condition(self, command: ScsiCommandPdu, key: int, code: int) -> ScsiResponse:
        """The command ends with CHECK CONDITION, this sense key, and this ASC and ASCQ."""
        response = self.expect(
            ScsiResponse, initiator_task_tag=command.initiator_task_tag, response=0, status=CHECK_CONDITION
        )
        assert Done(2, b"", response.data[2:], response).sense_code == (key, code)
        return response

    def assert_alive(self) -> None:
        """The session goes on: the very next PDU is the answer to a ping, and the next command is executed."""
        ping = self.nop(b"still alive?", immediate=True)
        self.send(ping)
        self.expect(NopIn, initiator_task_tag=ping.initiator_task_tag, data=ping.data)
        done = self.run(self.command(INQUIRY, read=36))
        assert (done.status, len(done.data)) == (0, 36)

    def medium(self, lba: int, blocks: int) -> bytes:
        """What the medium holds."""
        done = self.run(self.read(lba, blocks))
        assert done.status == 0
        return done.data


def _digest(buffer: bytes, *, wrong: bool) -> bytes:
    right = digest(buffer)
    return bytes((right[0] ^ 1,)) + right[1:] if wrong else right
