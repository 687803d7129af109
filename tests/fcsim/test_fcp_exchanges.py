"""FCP exchanges between our two ends, with a real device server behind the target, and frames as Linux sends them."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fcsim.errors import CreditMisuse
from fcsim.fcp.executor import FcpCommand, FcpResult
from fcsim.fcp.initiator import CommandCompleted, ExchangeFailed, FcpInitiator
from fcsim.fcp.sequences import data_frames
from fcsim.fcp.target import ExchangeDropped, FcpTarget, FcpTargetLimits
from fcsim.wire.bls import BaAcc, decode_bls
from fcsim.wire.codes import RCtl
from fcsim.wire.fcp import TaskManagementFlags
from fcsim.wire.frame import Frame, decode_frame, encode_frame
from iscsi_target.executor import ResetKind, ScsiCommand
from iscsi_target.scsi.logical_unit import LogicalUnit, derive_identity
from iscsi_target.scsi.stores.memory import MemoryStore
from iscsi_target.scsi.target_device import TargetDevice

HERE, THERE = 0x010200, 0x010300
LUN_0 = bytes(8)
BLOCK = 512


class Disk:
    """The device server of the iSCSI target behind FCP: one more proof that neither knows the other's transport."""

    def __init__(self) -> None:
        self.device = TargetDevice("disk", {0: LogicalUnit(MemoryStore(1 << 20), derive_identity("disk", 0))})
        self.device.i_t_nexus_established("wwpn", "wwpn", 1)
        self.executed: list[bytes] = []

    def _command(self, command: FcpCommand) -> ScsiCommand:
        lun = int.from_bytes(command.lun[:2], "big")
        return ScsiCommand(
            "wwpn",
            "wwpn",
            1,
            lun,
            command.cdb,
            command.data_out,
            command.read,
            command.write,
            command.data_length,
        )

    def data_out_length(self, command: FcpCommand) -> int:
        return self.device.data_out_length(self._command(command))

    def execute(self, command: FcpCommand) -> FcpResult:
        self.executed.append(command.cdb)
        result = self.device.execute(self._command(command))
        return FcpResult(
            result.status, b"".join(map(bytes, result.data_in)), result.sense, result.transfer_length
        )

    def reset(self, initiator: int, lun: bytes | None) -> bool:
        number = None if lun is None else int.from_bytes(lun[:2], "big")
        kind = ResetKind.TARGET_WARM_RESET if lun is None else ResetKind.LOGICAL_UNIT_RESET
        return self.device.reset(kind, number, "wwpn", 1)


class Pair:
    """An initiator and a target; every frame crosses as bytes, unless `lose` says otherwise."""

    def __init__(self, limits: FcpTargetLimits | None = None, *, max_payload: int = 2048) -> None:
        self.disk = Disk()
        self.initiator = FcpInitiator(HERE, THERE, max_payload=max_payload)
        self.target = FcpTarget(THERE, self.disk, limits)
        self.target.log_in(HERE, max_payload)
        self.lose: Callable[[Frame], bool] = lambda _: False
        self.crossed: list[Frame] = []
        self.run(self.initiator.command(LUN_0, b"\0" * 6, 0))  # the unit attention of a new nexus

    def carry(self, now_ps: int = 0) -> None:
        moved = True
        while moved:
            moved = False
            for source, sink in ((self.initiator, self.target), (self.target, self.initiator)):
                for frame in source.frames():
                    moved = True
                    self.crossed.append(frame)
                    if not self.lose(frame):
                        sink.receive(decode_frame(encode_frame(frame)), now_ps)

    def run(self, ox_id: int) -> CommandCompleted | ExchangeFailed:
        self.carry()
        (event,) = self.initiator.events()
        assert event.ox_id == ox_id
        return event

    def good(self, cdb: bytes, **data: object) -> CommandCompleted:
        event = self.run(self.initiator.command(LUN_0, cdb, 0, **data))  # type: ignore[arg-type]
        assert isinstance(event, CommandCompleted)
        return event


def write_10(lba: int, blocks: int) -> bytes:
    return bytes((0x2A, 0)) + lba.to_bytes(4, "big") + b"\0" + blocks.to_bytes(2, "big") + b"\0"


def read_10(lba: int, blocks: int) -> bytes:
    return bytes((0x28, 0)) + lba.to_bytes(4, "big") + b"\0" + blocks.to_bytes(2, "big") + b"\0"


@given(
    st.integers(0, 1000),
    st.integers(1, 400),
    st.sampled_from([128, 256, 1444, 2048, 2112]),
    st.sampled_from([512, 4096, 65536]),
)
def test_what_is_written_is_read_whatever_the_frame_and_burst_sizes(
    lba: int, blocks: int, max_payload: int, burst: int
) -> None:
    pair = Pair(FcpTargetLimits(burst_bytes=burst), max_payload=max_payload)
    data = bytes(n * 7 & 0xFF for n in range(blocks * BLOCK))
    assert pair.good(write_10(lba, blocks), data_out=data).status == 0
    read = pair.good(read_10(lba, blocks), data_in_length=len(data))
    assert (read.status, read.data_in == data, read.residual) == (0, True, 0)
    assert max(len(frame.payload) for frame in pair.crossed) <= max_payload
    assert pair.initiator.outstanding == pair.target.outstanding == 0


def test_frame_control_is_what_linux_and_real_targets_send() -> None:
    """fcoe-linux-vn2vn.pcap: FCP_CMND 290000, FCP_DATA from the target 880008, FCP_RSP 980000."""
    pair = Pair()
    pair.crossed.clear()
    pair.good(read_10(0, 1), data_in_length=BLOCK)
    assert [(frame.header.r_ctl, frame.header.f_ctl) for frame in pair.crossed] == [
        (RCtl.UNSOLICITED_COMMAND, 0x290000),
        (RCtl.SOLICITED_DATA, 0x880008),
        (RCtl.COMMAND_STATUS, 0x980000),
    ]
    assert pair.crossed[0].header.rx_id == 0xFFFF
    assert pair.crossed[1].header.rx_id != 0xFFFF


def test_every_burst_is_asked_for_and_frames_carry_their_offset() -> None:
    pair = Pair(FcpTargetLimits(burst_bytes=4096))
    pair.crossed.clear()
    pair.good(write_10(0, 20), data_out=bytes(20 * BLOCK))
    kinds = [frame.header.r_ctl for frame in pair.crossed]
    assert kinds.count(RCtl.DATA_DESCRIPTOR) == 3
    offsets = [frame.header.parameter for frame in pair.crossed if frame.header.r_ctl == RCtl.SOLICITED_DATA]
    assert offsets == [0, 2048, 4096, 6144, 8192]


def test_check_condition_brings_its_sense_and_residuals_are_told() -> None:
    pair = Pair()
    failed = pair.good(read_10(10**6, 1), data_in_length=BLOCK)
    assert (failed.status, failed.sense[2] & 0xF, failed.sense[12]) == (2, 5, 0x21)
    assert failed.residual == -BLOCK
    under = pair.good(bytes((0x12, 0, 0, 0, 36, 0)), data_in_length=100)
    assert (len(under.data_in), under.residual) == (36, -64)
    over = pair.good(read_10(0, 2), data_in_length=BLOCK)
    assert (len(over.data_in), over.residual) == (BLOCK, BLOCK)


def test_a_lost_data_frame_fails_the_exchange_and_aborts_it() -> None:
    pair = Pair()
    seen = []

    def lose(frame: Frame) -> bool:
        seen.append(frame)
        return frame.header.r_ctl == RCtl.SOLICITED_DATA and frame.header.seq_cnt == 1

    pair.lose = lose
    event = pair.run(pair.initiator.command(LUN_0, read_10(0, 16), 0, data_in_length=16 * BLOCK))
    assert isinstance(event, ExchangeFailed)
    assert "a frame was lost" in event.reason
    answers = [frame for frame in seen if frame.header.r_ctl == RCtl.BA_ACC]
    assert decode_bls(RCtl.BA_ACC, answers[0].payload) == BaAcc(
        aborted_ox_id=event.ox_id, aborted_rx_id=answers[0].header.rx_id
    )


def test_a_lost_last_data_frame_is_noticed_too() -> None:
    pair = Pair()
    pair.lose = lambda frame: frame.header.r_ctl == RCtl.SOLICITED_DATA and frame.header.seq_cnt == 3
    event = pair.run(pair.initiator.command(LUN_0, read_10(0, 16), 0, data_in_length=16 * BLOCK))
    assert isinstance(event, ExchangeFailed)
    assert "6144 of 8192 bytes" in event.reason


def test_a_command_without_an_answer_times_out() -> None:
    pair = Pair()
    pair.lose = lambda frame: True
    pair.initiator.command(LUN_0, read_10(0, 1), 5, data_in_length=BLOCK)
    pair.carry()
    due = pair.initiator.next_deadline()
    assert due == 5 + 10**13
    pair.initiator.handle_timer(due)
    (event,) = pair.initiator.events()
    assert isinstance(event, ExchangeFailed)
    assert pair.initiator.next_deadline() is None


def test_data_out_that_never_comes_ends_the_targets_exchange() -> None:
    pair = Pair()
    pair.lose = lambda frame: frame.header.r_ctl == RCtl.SOLICITED_DATA
    pair.initiator.command(LUN_0, write_10(0, 1), 0, data_out=bytes(BLOCK))
    pair.carry()
    assert pair.target.outstanding == 1
    pair.target.handle_timer(pair.target.next_deadline() or 0)
    assert [type(event) for event in pair.target.events()] == [ExchangeDropped]
    assert pair.target.outstanding == 0


def test_a_flood_of_commands_is_answered_task_set_full() -> None:
    pair = Pair(FcpTargetLimits(exchanges=3))
    pair.lose = lambda frame: frame.header.r_ctl == RCtl.SOLICITED_DATA
    for number in range(5):
        pair.initiator.command(LUN_0, write_10(number, 1), 0, data_out=bytes(BLOCK))
    pair.carry()
    statuses = [event.status for event in pair.initiator.events() if isinstance(event, CommandCompleted)]
    assert statuses == [0x28, 0x28]
    assert pair.target.outstanding == 3


def test_task_management_ends_what_waits_and_says_so() -> None:
    pair = Pair()
    pair.lose = lambda frame: frame.header.r_ctl == RCtl.SOLICITED_DATA
    pair.initiator.command(LUN_0, write_10(0, 1), 0, data_out=bytes(BLOCK))
    pair.carry()
    event = pair.run(pair.initiator.task_management(LUN_0, TaskManagementFlags.LOGICAL_UNIT_RESET, 0))
    assert isinstance(event, CommandCompleted)
    assert event.response_code == 0
    assert pair.target.outstanding == 0
    missing = pair.run(
        pair.initiator.task_management(b"\0\7" + bytes(6), TaskManagementFlags.LOGICAL_UNIT_RESET, 0)
    )
    assert isinstance(missing, CommandCompleted)
    assert missing.response_code == 9


def test_frames_of_a_stranger_are_ignored() -> None:
    pair = Pair()
    stranger = FcpInitiator(0x99, THERE)
    stranger.command(LUN_0, read_10(0, 1), 0, data_in_length=BLOCK)
    for frame in stranger.frames():
        pair.target.receive(frame, 0)
    assert list(pair.target.frames()) == []


def test_data_beyond_what_was_asked_for_is_refused_and_nothing_is_written() -> None:
    pair = Pair()
    executed = len(pair.disk.executed)
    ox_id = pair.initiator.command(LUN_0, write_10(0, 1), 0, data_out=bytes(BLOCK))
    for frame in pair.initiator.frames():
        pair.target.receive(frame, 0)
    (ready,) = pair.target.frames()

    for frame in data_frames(
        bytes(2 * BLOCK),
        relative_offset=0,
        max_payload=2048,
        from_responder=False,
        addresses=(HERE, THERE),
        ids=(ox_id, ready.header.rx_id),
        seq_id=9,
    ):
        pair.target.receive(frame, 0)
    event = pair.run(ox_id)
    assert isinstance(event, CommandCompleted)
    assert event.response_code == 1
    assert len(pair.disk.executed) == executed


def test_an_initiator_keeps_to_its_number_of_exchanges() -> None:
    initiator = FcpInitiator(HERE, THERE, exchanges=2)
    initiator.command(LUN_0, bytes(6), 0)
    initiator.command(LUN_0, bytes(6), 0)
    with pytest.raises(CreditMisuse, match="2 exchanges"):
        initiator.command(LUN_0, bytes(6), 0)
