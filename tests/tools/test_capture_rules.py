"""Rules: for each a capture that breaks it, and the same capture put right; both forms of the kernels see the same."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from fcsim.wire.codes import FCtl, FcType, RCtl
from fcsim.wire.fcp import FcpCmnd, FcpData, FcpRsp, FcpXferRdy, encode_fcp
from fcsim.wire.frame import Frame, FrameHeader, VirtualFabricTaggingHeader, encode_frame
from iscsi_target.wire.codec import encode_pdu
from iscsi_target.wire.requests import DataOut
from iscsi_target.wire.responses import DataIn, ScsiResponse
from mgmt.cli.main import make_cli
from tests.tools import capture_packets as made
from tests.tools.capture_packets import T0, Packet
from tests.tools.capture_talk import KEYS, Talk, broken, data_out, r2t, write_command
from tests.tools.test_capture_exchanges import assert_twins_agree
from tools.capture.analysis import Analysis, analyse
from tools.capture.flows import flow_rows
from tools.capture.rules import RULES, Rule

NO_TAG = 0xFFFFFFFF
HOST, DISK = 0x010100, 0x010200
LAST = FCtl.END_SEQUENCE


# --- iSCSI ---


def data_in(
    offset: int = 0, length: int = 512, data_sn: int = 0, *, last: bool = True, stat_sn: int = 2
) -> bytes:
    """Data-In of command 1."""
    return encode_pdu(
        DataIn(
            final=last,
            status_present=last,
            initiator_task_tag=1,
            stat_sn=stat_sn if last else 0,
            exp_cmd_sn=2,
            max_cmd_sn=33,
            data_sn=data_sn,
            buffer_offset=offset,
            data=bytes(length),
        )
    )


def answer(number: int = 1, *, exp_data_sn: int = 0, stat_sn: int | None = None, response: int = 0) -> bytes:
    return encode_pdu(
        ScsiResponse(
            initiator_task_tag=number,
            stat_sn=number + 1 if stat_sn is None else stat_sn,
            exp_cmd_sn=number + 1,
            max_cmd_sn=number + 32,
            response=response,
            exp_data_sn=exp_data_sn,
        )
    )


def unsolicited(offset: int, length: int) -> bytes:
    return encode_pdu(
        DataOut(
            final=True,
            initiator_task_tag=1,
            target_transfer_tag=NO_TAG,
            exp_stat_sn=1,
            data_sn=0,
            buffer_offset=offset,
            data=bytes(length),
        )
    )


def talk(rule: Rule, wrong: bool) -> Talk:
    """A conversation that breaks one rule, or keeps it by a hair."""
    at = Talk()
    match rule:
        case Rule.CMD_SN_ORDER:
            at.out(made.read_command(1))
            at.out(write_command(2, 512, cmd_sn=3 if wrong else 2))
        case Rule.CMD_SN_WINDOW:
            at = Talk()
            for number in range(1, 34 if wrong else 33):
                at.out(write_command(number, 512, exp_stat_sn=2))
        case Rule.EXP_STAT_SN:
            at.out(write_command(1, 512, exp_stat_sn=9 if wrong else 2))
        case Rule.TASK_TAG_IN_USE:
            at.out(made.read_command(1))
            if not wrong:
                at.back(made.read_answer(1, bytes(512)))
            at.out(write_command(1, 512, cmd_sn=2))
        case Rule.IMMEDIATE_DATA:
            at = Talk(KEYS | {"ImmediateData": "No" if wrong else "Yes"})
            at.out(write_command(1, 512, bytes(512)))
        case Rule.FIRST_BURST:
            at = Talk(KEYS | {"ImmediateData": "Yes", "InitialR2T": "No"})
            at.out(write_command(1, 8192, bytes(2048), final=False))
            at.out(unsolicited(2048, 2560 if wrong else 2048))
        case Rule.UNSOLICITED_DATA:
            at = Talk(KEYS | {"InitialR2T": "Yes" if wrong else "No"})
            at.out(write_command(1, 512, final=False))
            at.out(unsolicited(0, 512))
        case Rule.DATA_OUT_SN | Rule.DATA_OUT_OFFSET | Rule.DATA_OUT_BEYOND | Rule.MISSING_DATA:
            at.out(write_command(1, 1024))
            at.back(r2t(1, 0, 1024))
            if rule is Rule.MISSING_DATA and wrong:
                at.back(answer())
                return at
            hole = rule is Rule.DATA_OUT_OFFSET and wrong
            beyond = rule is Rule.DATA_OUT_BEYOND and wrong
            at.out(data_out(1, 0, bytes(512), final=False))
            sn = 4 if rule is Rule.DATA_OUT_SN and wrong else 1
            at.out(data_out(1, 256 if hole else 512, bytes(1024 if beyond else 512), data_sn=sn))
            at.back(answer())
        case Rule.DATA_SEGMENT_LENGTH:
            at.out(made.read_command(1, 8704))
            if wrong:
                at.back(data_in(0, 8704))
            else:
                at.back(data_in(0, 8192, last=False))
                at.back(data_in(8192, 512, 1))
        case Rule.STAT_SN:
            at.out(made.read_command(1))
            at.back(answer(stat_sn=5 if wrong else 2))
        case Rule.MAX_CMD_SN:
            at.out(made.read_command(1))
            at.back(made.read_answer(1, bytes(512), max_cmd_sn=0 if wrong else 1))
        case Rule.DATA_IN_SN | Rule.DATA_IN_OFFSET | Rule.DATA_IN_BEYOND:
            at.out(made.read_command(1, 1024))
            at.back(data_in(0, 512, last=False))
            sn = 3 if rule is Rule.DATA_IN_SN and wrong else 1
            hole = rule is Rule.DATA_IN_OFFSET and wrong
            length = 1024 if rule is Rule.DATA_IN_BEYOND and wrong else 512
            at.back(data_in(256 if hole else 512, length, sn))
        case Rule.R2T_SN:
            at.out(write_command(1, 1024))
            at.back(r2t(1, 0, 1024, r2t_sn=2 if wrong else 0))
        case Rule.R2T_LENGTH:
            at.out(write_command(1, 65536))
            at.back(r2t(1, 0, 16385 if wrong else 16384))
        case Rule.R2T_BEYOND:
            at.out(write_command(1, 1024))
            at.back(r2t(1, 512, 513 if wrong else 512))
        case Rule.R2T_OUTSTANDING:
            at = Talk(KEYS | {"MaxOutstandingR2T": "1" if wrong else "2"})
            at.out(write_command(1, 1024))
            at.back(r2t(1, 0, 512))
            at.back(r2t(1, 512, 512, r2t_sn=1))
        case Rule.UNKNOWN_TASK:
            at.out(made.read_command(1))
            at.back(answer(2 if wrong else 1, stat_sn=2))
        case Rule.EXP_DATA_SN:
            at.out(made.read_command(1, 1024))
            at.back(data_in(0, 512, last=False))
            at.back(data_in(512, 512, 1, last=False))
            at.back(answer(exp_data_sn=1 if wrong else 2))
    return at


@pytest.mark.parametrize(
    "rule", [rule for rule in Rule if RULES[rule][1].startswith("RFC 7143 ")], ids=lambda rule: rule.name
)
def test_a_rule_of_iscsi_is_found_broken_where_it_is_and_nowhere_else(tmp_path: Path, rule: Rule) -> None:
    with talk(rule, True).analysis(tmp_path / "wrong") as analysis:
        assert broken(analysis) == {rule}
        (one,) = analysis.violations()
        assert (one.count, one.packet > 2, one.clause) == (1, True, RULES[rule][1])
    with talk(rule, False).analysis(tmp_path / "right") as analysis:
        assert broken(analysis) == set()
    assert_twins_agree(tmp_path / "wrong")


@pytest.mark.parametrize(
    ("length", "parts", "said", "response", "wrong"),
    [
        (512, 1, 0, 0, True),  # there was one
        (512, 1, 1, 1, True),  # the command was not completed: 0
        (512, 1, 0, 1, False),
        (0, 0, 0, 0, False),
        (0, 0, 1, 0, True),
    ],
)
def test_what_an_exp_data_sn_may_be(
    tmp_path: Path, length: int, parts: int, said: int, response: int, wrong: bool
) -> None:
    at = Talk()
    at.out(made.read_command(1, length))
    for _ in range(parts):
        at.back(data_in(0, length, last=False))
    at.back(answer(exp_data_sn=said, response=response))
    with at.analysis(tmp_path / "a") as analysis:
        assert broken(analysis) == ({Rule.EXP_DATA_SN} if wrong else set())


@pytest.mark.parametrize("said", [0, 1])
def test_a_target_may_count_its_r2ts_in_exp_data_sn_or_not(tmp_path: Path, said: int) -> None:
    at = Talk()
    at.out(write_command(1, 512))
    at.back(r2t(1, 0, 512))
    at.out(data_out(1, 0, bytes(512)))
    at.back(answer(exp_data_sn=said))
    with at.analysis(tmp_path / "a") as analysis:
        assert broken(analysis) == set()


def test_what_the_capture_lost_breaks_no_rule(tmp_path: Path) -> None:
    """Of three Data-In PDUs the second is lost; the answer of another command comes before the third."""
    at = Talk()
    at.out(made.read_command(1, 1536))
    at.out(made.read_command(2))
    at.back(data_in(0, 512, last=False))
    at.back(data_in(512, 512, 1, last=False))
    lost = at.packets.pop()
    assert len(lost.data) > 512
    at.back(made.read_answer(2, bytes(512)))
    at.back(data_in(1024, 512, 2, last=False))
    for _ in range(10):  # what came too early is given up for good only after some more
        at.back(encode_pdu(_nop()))
    at.back(answer(exp_data_sn=3, stat_sn=4))
    with at.analysis(tmp_path / "a") as analysis:
        assert not broken(analysis) & {
            Rule.DATA_IN_SN,
            Rule.DATA_IN_OFFSET,
            Rule.EXP_DATA_SN,
            Rule.UNKNOWN_TASK,
        }


def _nop() -> Any:
    from iscsi_target.wire.responses import NopIn

    return NopIn(
        initiator_task_tag=NO_TAG, target_transfer_tag=NO_TAG, stat_sn=4, exp_cmd_sn=3, max_cmd_sn=34
    )


# --- Fibre Channel ---


def frame(
    r_ctl: int, payload: bytes, *, back: bool = False, f_ctl: int = 0, type_: int = FcType.FCP, **more: Any
) -> Frame:
    d_id, s_id = (HOST, DISK) if back else (DISK, HOST)
    f_ctl |= FCtl.EXCHANGE_RESPONDER if back else 0
    values: dict[str, Any] = {"ox_id": 7, "rx_id": 0xFFFF} | more
    header = FrameHeader(r_ctl=r_ctl, d_id=d_id, s_id=s_id, type_=type_, f_ctl=f_ctl, **values)
    return Frame(header=header, payload=payload)


def command(length: int = 1024, *, write: bool = False, **more: Any) -> Frame:
    cdb = bytes((0x2A if write else 0x28, 0, 0, 0, 0, 8, 0, 0, length // 512, 0)).ljust(16, b"\0")
    return frame(
        RCtl.UNSOLICITED_COMMAND,
        encode_fcp(FcpCmnd(lun=bytes(8), wrdata=write, rddata=not write, cdb=cdb, fcp_dl=length)),
        **more,
    )


def data(
    offset: int, length: int = 512, *, back: bool = True, seq_cnt: int = 0, f_ctl: int = 0, **more: Any
) -> Frame:
    return frame(
        RCtl.SOLICITED_DATA,
        encode_fcp(FcpData(data=bytes(length))),
        back=back,
        f_ctl=f_ctl | FCtl.RELATIVE_OFFSET_PRESENT,
        parameter=offset,
        seq_cnt=seq_cnt,
        seq_id=3,
        **more,
    )


def ready(offset: int, length: int) -> Frame:
    return frame(RCtl.DATA_DESCRIPTOR, encode_fcp(FcpXferRdy(data_ro=offset, burst_len=length)), back=True)


def status(*, ox_id: int = 7, **more: Any) -> Frame:
    return frame(RCtl.COMMAND_STATUS, encode_fcp(FcpRsp(scsi_status=0, **more)), back=True, ox_id=ox_id)


def login(code: int = 0x03) -> Frame:
    """A PLOGI (or another ELS by its code), as far as the checks look at it."""
    return frame(RCtl.ELS_REQUEST, bytes((code, 0, 0, 0)).ljust(116, b"\0"), type_=FcType.ELS, ox_id=0x99)


def abort(r_ctl: int, *, back: bool = False) -> Frame:
    return frame(r_ctl, bytes(12), type_=FcType.BLS, back=back)


def frames(rule: Rule, wrong: bool) -> list[Frame]:
    """Frames that break one rule, or keep it by a hair."""
    read = [command(), data(0), data(512, seq_cnt=1, f_ctl=LAST), status()]
    match rule:
        case Rule.SEQ_CNT:
            read[2] = data(512, seq_cnt=2 if wrong else 1)
        case Rule.RELATIVE_OFFSET:
            read[2] = data(1024 - 256 if wrong else 512, 256 if wrong else 512, seq_cnt=1)
            if wrong:
                read[3] = status(residual_underrun=True, residual=256)
        case Rule.XFER_RDY_BEYOND:
            end = 1536 if wrong else 1024
            return [command(write=True), ready(512, end - 512)]
        case Rule.UNKNOWN_EXCHANGE:
            return [login(), *read[:3], status(ox_id=8 if wrong else 7)]
        case Rule.EXCHANGE_IN_USE:
            return [command(), *([] if wrong else [status(residual_underrun=True, residual=1024)]), command()]
        case Rule.FCP_DATA_BEYOND:
            read[2] = data(512, 1024 if wrong else 512, seq_cnt=1)
        case Rule.FCP_RESIDUAL:
            return [command(), data(0), status() if wrong else status(residual_underrun=True, residual=512)]
    return read


def analysed(path: Path, found: Sequence[Frame]) -> Analysis:
    packets = [Packet(T0 + 1000 * number, encode_frame(one)) for number, one in enumerate(found)]
    path.write_bytes(made.pcap(packets, link_type=224))
    return analyse([path])


FIBRE_RULES = [rule for rule in Rule if rule >= Rule.SEQ_CNT]


@pytest.mark.parametrize("rule", FIBRE_RULES, ids=lambda rule: rule.name)
def test_a_rule_of_fibre_channel_is_found_broken_where_it_is_and_nowhere_else(
    tmp_path: Path, rule: Rule
) -> None:
    with analysed(tmp_path / "wrong", frames(rule, True)) as analysis:
        assert broken(analysis) == {rule}
        (one,) = analysis.violations()
        assert one.count == 1
        assert one.clause.startswith(("FC-FS, ", "FCP-4, "))
    with analysed(tmp_path / "right", frames(rule, False)) as analysis:
        assert broken(analysis) == set()
        assert analysis.matcher.total >= (rule is not Rule.XFER_RDY_BEYOND)
    assert_twins_agree(tmp_path / "wrong")


def test_every_rule_has_a_conversation_and_a_clause() -> None:
    assert {rule for rule in Rule if RULES[rule][1].startswith("RFC 7143 ")} | set(FIBRE_RULES) == set(Rule)


def test_data_beyond_what_a_transfer_ready_asked_for_are_found(tmp_path: Path) -> None:
    writing = [
        command(write=True),
        ready(0, 512),
        data(0, back=False),
        data(512, back=False, seq_cnt=1),
        status(),
    ]
    with analysed(tmp_path / "a", writing) as analysis:
        assert broken(analysis) == {Rule.FCP_DATA_BEYOND}
    writing[3:3] = [ready(512, 512)]
    with analysed(tmp_path / "b", writing) as analysis:
        assert broken(analysis) == set()


def test_a_sequence_that_has_ended_may_leave_its_number_to_the_next(tmp_path: Path) -> None:
    reading = [command(), data(0, f_ctl=LAST), data(512, f_ctl=LAST), status()]
    with analysed(tmp_path / "a", reading) as analysis:
        assert broken(analysis) == set()


def test_an_aborted_exchange_is_counted_and_its_number_is_free(tmp_path: Path) -> None:
    with analysed(
        tmp_path / "a", [login(), command(), abort(0x81), abort(0x84, back=True), command(), data(0)]
    ) as analysis:
        (row,) = flow_rows(analysis)
        assert broken(analysis) == set()
    assert (row["aborted"], row["unanswered"]) == (1, 1)
    assert_twins_agree(tmp_path / "a")


@pytest.mark.parametrize("code", [0x03, 0x05, 0x20, 0x21])
def test_a_login_or_logout_ends_what_was_under_way(tmp_path: Path, code: int) -> None:
    with analysed(tmp_path / "a", [command(), login(code), command(), data(0)]) as analysis:
        (row,) = flow_rows(analysis)
        assert broken(analysis) == set()
    assert row["unanswered"] == 2


def test_an_answer_to_a_command_from_before_the_capture_is_no_violation_and_is_told(tmp_path: Path) -> None:
    path = tmp_path / "a"
    with analysed(path, [status(), command(), data(0), data(512, seq_cnt=1), status()]) as analysis:
        assert broken(analysis) == set()
    done = CliRunner().invoke(make_cli(), ["capture", "flows", str(path)])
    assert done.exit_code == 0
    assert "1 answer to a command that the capture does not have" in done.stderr


def test_extended_headers_are_no_data(tmp_path: Path) -> None:
    tagged = [
        Frame(header=one.header, payload=one.payload, extended=(VirtualFabricTaggingHeader(vf_id=5),))
        for one in frames(Rule.SEQ_CNT, False)
    ]
    with analysed(tmp_path / "a", tagged) as analysis:
        (found,) = analysis.store.exchanges()
        assert (found.bytes_in, broken(analysis)) == (1024, set())


def test_an_acknowledgement_of_what_the_capture_lost_breaks_no_rule(tmp_path: Path) -> None:
    at = Talk()
    at.out(made.read_command(1))
    at.out(made.read_command(2))
    at.back(made.read_answer(1, bytes(512)))
    at.packets.pop()
    at.back(made.read_answer(2, bytes(512)))  # waits for the one before it
    at.out(write_command(3, 512, exp_stat_sn=4))
    with at.analysis(tmp_path / "a") as analysis:
        assert broken(analysis) == set()
    assert_twins_agree(tmp_path / "a")
