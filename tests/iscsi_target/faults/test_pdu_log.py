"""The PDU log: what it says of a session, and what it says when an expectation does not hold."""

from __future__ import annotations

import json
import threading
from pathlib import Path

import pytest

from iscsi_target.faults import Drop, FaultError
from iscsi_target.faults.matching import Direction
from iscsi_target.running import RunningTarget, serve
from iscsi_target.trace.pdu_log import PduLog
from iscsi_target.wire.requests import DataOut
from iscsi_target.wire.responses import R2T
from tests.iscsi_target.faults.raw_initiator import INITIATOR, RawInitiator


def solicited_write(raw: RawInitiator) -> int:
    """A write by R2T; its task tag."""
    tag = raw.write(b"w" * 1024, immediate_data=False)
    r2t = raw.receive()
    assert isinstance(r2t, R2T)
    for number in range(2):
        raw.send(
            DataOut(
                final=number == 1,
                initiator_task_tag=tag,
                target_transfer_tag=r2t.target_transfer_tag,
                exp_stat_sn=0,
                data_sn=number,
                buffer_offset=512 * number,
                data=b"w" * 512,
            )
        )
    raw.receive()
    return tag


def test_exactly_one_r2t_for_this_task(target: RunningTarget, raw: RawInitiator) -> None:
    tag = solicited_write(raw)
    task = target.log.task(tag)
    assert (task.r2ts, task.data_outs, task.data_ins, task.status) == (1, 2, 0, 0)
    assert (task.duration_ns or 0) > 0
    assert task.command.cdb[0] == 0x2A
    assert [record.kind for record in task.records] == [
        "scsi-command",
        "r2t",
        "data-out",
        "data-out",
        "scsi-response",
    ]
    assert {record.lun for record in task.records} == {0}
    target.log.expect(opcode="r2t", task_tag=tag, count=1)
    target.log.expect_order(
        {"opcode": "scsi-command", "command": "write"},
        {"opcode": "r2t"},
        {"opcode": "data-out"},
        {"opcode": "scsi-response", "status": 0},
    )


def test_a_task_tag_that_is_used_again_is_another_task(target: RunningTarget, raw: RawInitiator) -> None:
    for _ in range(3):
        raw.tag = 100
        raw.read()
        raw.receive()
    assert len(target.log.tasks(command="read")) == 3
    assert target.log.task(101).data_ins == 1


def test_an_expectation_that_does_not_hold_shows_what_there_is(
    target: RunningTarget, raw: RawInitiator
) -> None:
    target.faults.add(Drop(), opcode="nop-in", name="quiet")
    raw.ping(b"x", immediate=True)
    target.log.wait_for(opcode="nop-in")
    with pytest.raises(AssertionError) as wrong:
        target.log.expect(opcode="nop-in", count=2)
    text = str(wrong.value)
    assert "1 PDUs where 2 are expected (opcode='nop-in')" in text
    assert "[quiet: dropped]" in text
    with pytest.raises(AssertionError, match="step 2 of 2 does not follow"):
        target.log.expect_order({"opcode": "nop-in"}, {"opcode": "login-request"})
    with pytest.raises(AssertionError, match="there is no such task"):
        target.log.task(command="write")
    with pytest.raises(AssertionError, match="there is no such PDU"):
        target.log.first(opcode="r2t")
    target.log.expect(opcode="nop-in", on_wire=False, at_least=1, at_most=1)
    target.log.expect_none(opcode="nop-in", on_wire=True)


def test_an_unknown_word_is_no_silent_nothing(target: RunningTarget) -> None:
    with pytest.raises(FaultError, match="there is no PDU 'r3t'"):
        target.log.count(opcode="r3t")
    with pytest.raises(TypeError):
        target.log.count(opcod="r2t")
    with pytest.raises(ValueError, match="up"):
        target.log.count(direction="up")


def test_waiting_ends_when_it_comes_or_when_the_time_is_up(target: RunningTarget, raw: RawInitiator) -> None:
    timer = threading.Timer(0.05, raw.ping)
    timer.start()
    assert target.log.wait_for(1, opcode="nop-out", timeout_s=20)[0].direction is Direction.TO_TARGET
    timer.join()
    with pytest.raises(AssertionError, match="0 PDUs where at least 1"):
        target.log.wait_for(opcode="logout-request", timeout_s=0.01)


def test_json_lines_say_every_number(target: RunningTarget, raw: RawInitiator, tmp_path: Path) -> None:
    solicited_write(raw)
    path = tmp_path / "log.jsonl"
    assert target.log.write_json_lines(path) == len(target.log)
    rows = [json.loads(line) for line in path.read_text().splitlines()]
    assert [row["number"] for row in rows] == list(range(1, len(rows) + 1))
    (r2t,) = (row for row in rows if row["pdu"] == "r2t")
    assert (r2t["r2t_sn"], r2t["desired_data_transfer_length"], r2t["lun"]) == (0, 1024, 0)
    assert (r2t["initiator"], r2t["session"], r2t["cdb"][:2]) == (INITIATOR, 1, "2a")
    (command,) = (row for row in rows if row["pdu"] == "scsi-command" and row["cdb"].startswith("2a"))
    assert command["cmd_sn"] == 2
    assert command["direction"] == "to-target"
    (last,) = (row for row in rows if row["pdu"] == "scsi-response" and row["cdb"].startswith("2a"))
    assert last["status"] == 0


def test_the_log_is_bounded_and_keeps_the_last_pdus_of_every_connection() -> None:
    with serve("4MiB", log_limit=10) as target:
        with RawInitiator(target.host, target.port, target.iqn) as quiet:
            quiet.ping(b"quiet")
            quiet.receive()
            with RawInitiator(target.host, target.port, target.iqn, log_in=False) as busy:
                busy.login(InitiatorName="iqn.2026-11.example:busy")
                for _ in range(30):
                    busy.ping()
                    busy.receive()
        assert len(target.log) == 10
        assert target.log.total == 4 + 2 + 60
        recent = target.log.recent(20)
        assert [record.kind for record in recent[1]] == [
            "login-request",
            "login-response",
            "nop-out",
            "nop-in",
        ]
        assert len(recent[2]) == 20
        assert "connection 1, session 1" in target.log.describe()
        target.log.clear()
        assert list(target.log) == []


def test_connections_that_come_and_go_leave_no_growing_trace() -> None:
    log = PduLog(5)
    for connection in range(2000):
        log.append(0, Direction.TO_TARGET, connection, 0, 0, "", bytes(48), 0, None, b"", (), "", True)
    assert len(log.recent()) == 1024
    assert len(log) == 5
