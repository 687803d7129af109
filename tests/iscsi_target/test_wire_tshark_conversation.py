"""A third opinion on a whole conversation: two real ends say everything there is to say, tshark reads along."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from iscsi_target.session.parameters import Parameters
from iscsi_target.wire.codec import CODECS, REQUESTS, RESPONSES, Pdu, decode_pdu, encode_pdu
from iscsi_target.wire.lun import lun_to_bytes
from iscsi_target.wire.opcodes import AsyncEvent, LogoutReason, Opcode, TaskFunction
from iscsi_target.wire.requests import LogoutRequest, NopOut, SnackRequest, TaskManagementRequest, TextRequest
from iscsi_target.wire.responses import DataIn, ScsiResponse
from iscsi_target.wire.text import encode_text
from tests.iscsi_target.imaginary_wire import BLOCK, Pair2Ends, make_node, read_16, write_16
from tests.iscsi_target.test_wire_tshark import capture, read_by_tshark, tshark_name, value_of

pytestmark = pytest.mark.slow

PARAMETERS = Parameters(
    error_recovery_level=1,
    immediate_data=True,
    initial_r2t=False,
    max_recv_data_segment_length=1024,
    max_burst_length=4096,
    first_burst_length=2048,
)


class EveryPdu(Pair2Ends):
    """Keeps each PDU; loses the one Data-In that it is told to."""

    lose_data_sn: int | None = None

    def __init__(self) -> None:
        super().__init__(make_node(parameters=PARAMETERS), parameters=PARAMETERS)
        self.said: list[tuple[bool, Pdu]] = []

    def _pieces(self, data: bytes, *, up: bool) -> list[bytes]:
        pieces = []
        while data:
            size = 48 + data[4] * 4 + (int.from_bytes(data[5:8], "big") + 3 & ~3)
            piece, data = data[:size], data[size:]
            self.said.append((up, decode_pdu(piece)))
            if piece[0] == Opcode.DATA_IN and int.from_bytes(piece[36:40], "big") == self.lose_data_sn:
                self.lose_data_sn = None
            else:
                pieces.append(piece)
        return pieces

    def converse(self) -> None:
        """Everything there is to say, in the order in which one would."""
        self.connect()
        initiator, target = self.links[0]
        self.submit(write_16(0, 16), data_out=bytes(range(256)) * 32)
        self.transfer()
        self.lose_data_sn = 1
        self.submit(read_16(0, 16), data_in=16 * BLOCK)
        self.transfer()
        self.submit(read_16(1 << 40, 1), data_in=BLOCK)  # ends with sense data and a residual
        self.transfer()
        initiator.request(NopOut, data=b"are you there?")
        target.ping()
        initiator.request(TextRequest, data=encode_text([("SendTargets", "")]))
        for function in (
            TaskFunction.LOGICAL_UNIT_RESET,
            TaskFunction.ABORT_TASK,
            TaskFunction.TASK_REASSIGN,
        ):
            initiator.request(
                TaskManagementRequest,
                immediate=True,
                function=function,
                lun=lun_to_bytes(0),
                referenced_task_tag=0x777,
                ref_cmd_sn=0x1234,
                exp_data_sn=3,
            )
        target.send_async(AsyncEvent.LOGOUT_REQUESTED, parameters=(0, 0, 10))
        self.transfer()
        wrong = SnackRequest(type_=0, initiator_task_tag=0x999, exp_stat_sn=0, beg_run=7, run_length=1)
        target.receive(b"".join(self._pieces(encode_pdu(wrong), up=True)), 0)  # is rejected
        self.transfer()
        initiator.request(LogoutRequest, reason=LogoutReason.CLOSE_SESSION, cid=0)
        self.transfer()


# Fields that tshark shows in some PDUs of a kind only: those that have a meaning there.
DEPENDS = {
    "stat_sn": "status_present",
    "status": "status_present",
    "residual_count": "underflow",
    "bidirectional_read_residual_count": "bidirectional_read_underflow",
}


NEVER_SHOWN = {
    ("DataOut", "immediate"),
    ("LoginRequest", "immediate"),
    ("SnackRequest", "immediate"),
    ("TaskManagementRequest", "exp_data_sn"),
}
"""tshark has no field for these."""

OF_FUNCTIONS = {"ref_cmd_sn": TaskFunction.ABORT_TASK, "exp_data_sn": TaskFunction.TASK_REASSIGN}


def has_a_meaning(pdu: Pdu, name: str) -> bool:
    """Whether this field of this PDU says anything, so that tshark has to show it."""
    if name == "nsg":
        return bool(getattr(pdu, "transit", False))
    if isinstance(pdu, TaskManagementRequest) and name in OF_FUNCTIONS:
        return pdu.function == OF_FUNCTIONS[name]
    if isinstance(pdu, DataIn) and name == "target_transfer_tag":
        return pdu.acknowledge
    if name == "total_ahs_length" or (isinstance(pdu, ScsiResponse) and name == "residual_count"):
        return True
    condition = DEPENDS.get(name)
    return condition is None or not hasattr(pdu, condition) or bool(getattr(pdu, condition))


def test_tshark_reads_a_conversation_of_every_pdu_as_we_do(tmp_path: Path) -> None:
    ends = EveryPdu()
    ends.converse()
    assert {type(pdu) for up, pdu in ends.said if up} == set(REQUESTS)
    assert {type(pdu) for up, pdu in ends.said if not up} == set(RESPONSES)
    path = tmp_path / "conversation.pcap"
    capture(path, [(up, encode_pdu(pdu)) for up, pdu in ends.said])
    frames = read_by_tshark(path, "iscsi.bogus_pdu_filter:FALSE")
    compared: set[tuple[str, str]] = set()
    unseen: list[tuple[str, str]] = []
    for (_, pdu), frame in zip(ends.said, frames, strict=True):
        kind = type(pdu).__name__
        assert value_of(frame["iscsi.opcode"]) == pdu.OPCODE
        assert value_of(frame.get("iscsi.datasegmentlength", "0")) == len(pdu.data)
        for name in CODECS[pdu.OPCODE].names:
            theirs, ours = tshark_name(pdu, name), getattr(pdu, name, None)
            if theirs is None or ours is None:
                continue
            if theirs not in frame:
                if has_a_meaning(pdu, name):
                    unseen.append((kind, name))
                continue
            expected = int.from_bytes(ours, "big") if isinstance(ours, bytes) else int(ours)
            assert value_of(frame[theirs]) == expected, (kind, name)
            compared.add((kind, name))
    assert set(unseen) == NEVER_SHOWN
    every: set[tuple[str, Any]] = {
        (kind.__name__, name)
        for kind in (*REQUESTS, *RESPONSES)
        for name in CODECS[kind.OPCODE].names
        if any(tshark_name(pdu, name) for _, pdu in ends.said if type(pdu) is kind)
        and any(hasattr(pdu, name) for _, pdu in ends.said if type(pdu) is kind)
    }
    assert every - compared == NEVER_SHOWN, "fields that were never compared"
