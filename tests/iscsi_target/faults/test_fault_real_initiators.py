"""Faults that are legal on the wire, against initiators that know nothing of our code: libiscsi's tools and QEMU."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Iterator

import pytest

from iscsi_target.faults import (
    Async,
    Close,
    Delay,
    Drop,
    Fixed,
    Latency,
    MediumError,
    Rate,
    Redirect,
    Reject,
    Sense,
    Uniform,
    Window,
    busy,
    queue_full,
)
from iscsi_target.running import RunningTarget, serve
from iscsi_target.scsi.sense import SenseKey
from iscsi_target.wire.opcodes import AsyncEvent, RejectReason

pytestmark = pytest.mark.slow
MS = 1_000_000
WRITE_AND_VERIFY = ("-c", "write -P 0x5a 1M 1M", "-c", "read -P 0x5a 1M 1M", "-c", "flush")


@pytest.fixture
def target() -> Iterator[RunningTarget]:
    with serve("64MiB", seed=11) as running:
        yield running


def tool(name: str, package: str) -> str:
    path = shutil.which(name)
    if path is None:
        pytest.skip(f"{name} is missing: apt-get install {package}")
    return path


def call(*argv: str, timeout_s: float = 60) -> tuple[int, str]:
    done = subprocess.run(
        argv, capture_output=True, text=True, timeout=timeout_s, env=os.environ, check=False
    )
    return done.returncode, done.stdout + done.stderr


def inquiry(target: RunningTarget) -> str:
    return call(tool("iscsi-inq", "libiscsi-bin"), target.url)[1]


def qemu_io(target: RunningTarget, *commands: str) -> tuple[int, str]:
    if "iscsi" not in call(tool("qemu-img", "qemu-utils"), "--help")[1]:
        pytest.skip("qemu has no iscsi driver: apt-get install qemu-block-extra")
    return call(tool("qemu-io", "qemu-utils"), "-f", "raw", *commands, target.url)


def test_qemu_waits_for_late_answers(target: RunningTarget) -> None:
    rule = target.faults.add(Delay(Uniform(MS, 5 * MS)), direction="to-initiator", probability=0.5)
    code, said = qemu_io(target, *WRITE_AND_VERIFY)
    assert (code, "failed" in said) == (0, False), said
    assert rule.fired > 0


def test_qemu_works_with_latency_and_a_rate(target: RunningTarget) -> None:
    latency = target.faults.add(Latency(Fixed(3 * MS)), command="write")
    rate = target.faults.add(Rate(bytes_per_s=20 << 20), command="read")
    code, said = qemu_io(target, *WRITE_AND_VERIFY)
    assert (code, "failed" in said) == (0, False), said
    assert latency.fired > 0
    assert rate.fired > 0


@pytest.mark.parametrize("action", [busy(), queue_full()], ids=["busy", "queue full"])
def test_qemu_tries_again_where_the_target_is_busy(target: RunningTarget, action) -> None:
    rule = target.faults.add(action, command="write", count=2)
    code, said = qemu_io(target, *WRITE_AND_VERIFY)
    assert (code, "failed" in said) == (0, False), said
    assert rule.fired == 2
    assert target.log.count(opcode="scsi-response", rule=rule.name) == 0
    assert target.log.count(status=action.status) == 2


def test_qemu_reports_a_bad_block_and_reads_around_it(target: RunningTarget) -> None:
    target.faults.add(MediumError(lba=4096, blocks=1, until_rewritten=True))
    code, said = qemu_io(target, "-c", "read 2M 4k", "-c", "read 1M 4k")
    assert "read failed: " in said
    assert said.count("read 4096/4096") == 1
    code, said = qemu_io(target, "-c", "write -P 7 2M 4k", "-c", "read -P 7 2M 4k")
    assert (code, "failed" in said) == (0, False), said


def test_qemu_reports_chosen_sense_data(target: RunningTarget) -> None:
    target.faults.add(Sense(SenseKey.HARDWARE_ERROR, 0x44), command="read")
    _, said = qemu_io(target, "-c", "read 0 4k")
    assert "read failed: Input/output error" in said


@pytest.mark.parametrize("how", ["close", "reset"])
def test_qemu_logs_in_again_where_the_connection_ended(target: RunningTarget, how) -> None:
    rule = target.faults.add(Close(how), opcode="scsi-command", command="write", nth=1)
    code, said = qemu_io(target, *WRITE_AND_VERIFY)
    assert (code, "failed" in said) == (0, False), said
    assert rule.fired == 1
    assert target.log.count(opcode="login-request") >= 2


def test_libiscsi_follows_a_redirection() -> None:
    with serve("64MiB") as here, serve("64MiB") as there:
        rule = here.faults.add(Redirect(f"{there.host}:{there.port},1"))
        assert "DIRECT_ACCESS" in inquiry(here)
        assert rule.fired >= 1
        assert here.log.count(opcode="scsi-command") == 0
        assert there.log.count(opcode="scsi-command", command="inquiry") >= 1


@pytest.mark.parametrize("commands", [1, 3])
def test_libiscsi_keeps_within_a_narrow_window(target: RunningTarget, commands: int) -> None:
    target.faults.add(Window(commands))
    code, said = call(
        tool("iscsi-perf", "libiscsi-bin"),
        "-i",
        "iqn.2026-11.example:perf",
        "-m",
        "32",
        "-b",
        "8",
        "-t",
        "1",
        target.url,
    )
    assert code == 0, said
    target.faults.clear()
    outstanding = most = 0
    for record in target.log:
        if record.kind == "scsi-command":
            outstanding += 1
        elif record.status is not None:
            outstanding -= 1
        most = max(most, outstanding)
    assert target.log.count(command="read", opcode="scsi-command") > 10
    assert 0 < most <= commands


def test_libiscsi_takes_async_messages_as_news(target: RunningTarget) -> None:
    rule = target.faults.add(Async(AsyncEvent.SCSI_EVENT), opcode="scsi-command", command="inquiry", count=1)
    assert "DIRECT_ACCESS" in inquiry(target)
    assert rule.fired == 1
    target.log.expect(opcode="async-message", count=1)


def test_libiscsi_reports_a_rejected_command(target: RunningTarget) -> None:
    target.faults.add(Reject(RejectReason.COMMAND_NOT_SUPPORTED), opcode="scsi-command", command="inquiry")
    assert "DIRECT_ACCESS" not in inquiry(target)
    target.log.expect(opcode="reject")


def test_qemu_survives_a_lost_answer_by_its_own_ping_or_time_out(target: RunningTarget) -> None:
    """libiscsi has no error recovery above level 0: it logs in again when nothing is heard."""
    target.faults.add(Close("reset"), opcode="nop-out", count=1)
    rule = target.faults.add(Drop(), opcode="scsi-response", command="write", nth=1)
    target.faults.add(Close("reset"), opcode="scsi-command", command="write", skip=1, count=1)
    code, said = qemu_io(target, "-c", "aio_write -P 1 0 4k", "-c", "aio_write -P 2 8k 4k", "-c", "aio_flush")
    assert code == 0, said
    assert rule.fired == 1
    code, said = qemu_io(target, "-c", "read -P 1 0 4k", "-c", "read -P 2 8k 4k")
    assert "failed" not in said


def test_libiscsis_own_suite_passes_under_latency_and_late_pdus(target: RunningTarget) -> None:
    target.faults.add(Latency(Uniform(0, 2 * MS)), probability=0.5)
    target.faults.add(
        Delay(Uniform(0, 2 * MS)), direction="to-initiator", opcode=["data-in", "scsi-response"], per="task"
    )
    suite = tool("iscsi-test-cu", "libiscsi-bin")
    code, said = call(suite, "-d", "-t", "SCSI.Read10", target.url)
    summary = next(line for line in said.splitlines() if line.split()[:1] == ["tests"])
    _, _, ran, passed, failed, _ = summary.split()
    assert (int(ran) == int(passed) > 0, failed) == (True, "0"), said
    assert code == 0
