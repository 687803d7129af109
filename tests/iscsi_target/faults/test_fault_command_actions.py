"""Actions on SCSI commands: chosen answers, medium errors, latency and rate, through a whole target."""

from __future__ import annotations

import asyncio
import time

import pytest

from iscsi_target.errors import CommandFailed
from iscsi_target.faults import (
    Answer,
    Fixed,
    Latency,
    MediumAccess,
    MediumError,
    Rate,
    Sense,
    busy,
    queue_full,
)
from iscsi_target.initiator import Initiator
from iscsi_target.running import RunningTarget, serve
from iscsi_target.scsi.sense import SenseKey
from iscsi_target.scsi.status import Status

MS = 1_000_000


async def failure(initiator: Initiator, lba: int = 0, blocks: int = 1, lun: int = 0) -> CommandFailed:
    with pytest.raises(CommandFailed) as failed:
        await initiator.read(lun, lba, blocks)
    return failed.value


@pytest.mark.parametrize(
    ("action", "status"),
    [
        (busy(), 0x08),
        (queue_full(), 0x28),
        (Answer(Status.RESERVATION_CONFLICT), 0x18),
        (Answer(Status.TASK_ABORTED), 0x40),
    ],
)
def test_a_command_ends_with_the_chosen_status(target: RunningTarget, session, action, status: int) -> None:
    async def use(initiator: Initiator) -> None:
        rule = target.faults.add(action, command="read", nth=1)
        assert (await failure(initiator)).status == status
        assert len(await initiator.read(0, 0, 1)) == 512
        assert (rule.matched, rule.fired) == (2, 1)

    session(use)
    assert target.log.count(status=status) == 1


def test_a_command_ends_with_chosen_sense_data(target: RunningTarget, session) -> None:
    async def use(initiator: Initiator) -> None:
        target.faults.add(
            Sense(SenseKey.HARDWARE_ERROR, 0x44, 0x01, information=0x1234), command="write", count=1
        )
        with pytest.raises(CommandFailed) as failed:
            await initiator.write(0, 0, b"n" * 512)
        sense = failed.value.sense
        assert (failed.value.status, sense[0], sense[2], sense[12], sense[13]) == (2, 0xF0, 4, 0x44, 1)
        assert int.from_bytes(sense[3:7], "big") == 0x1234
        assert bytes(await initiator.read(0, 0, 1)) == bytes(512)

    session(use)


def test_a_command_may_be_executed_although_it_is_said_to_have_failed(target: RunningTarget, session) -> None:
    """The lost write that was none: what a host must find out by reading."""

    async def use(initiator: Initiator) -> None:
        target.faults.add(Sense(SenseKey.ABORTED_COMMAND, 0x47, 0x05, execute=True), command="write", count=1)
        with pytest.raises(CommandFailed):
            await initiator.write(0, 0, b"w" * 512)
        assert bytes(await initiator.read(0, 0, 1)) == b"w" * 512

    session(use)


def test_rules_are_for_one_lun_or_command_or_cdb(target: RunningTarget, session) -> None:
    async def use(initiator: Initiator) -> None:
        with target.faults.add(busy(), lun=1):
            await initiator.test_unit_ready(0)
            with pytest.raises(CommandFailed):
                await initiator.test_unit_ready(1)
        with target.faults.add(busy(), command="test unit ready"):
            await initiator.read(1, 0, 1)
            with pytest.raises(CommandFailed):
                await initiator.test_unit_ready(0)
        with target.faults.add(busy(), cdb="88 ?? 00000000 0000000?"):
            await failure(initiator, lba=0x0A)
            await initiator.read(0, 0x10, 1)
        with target.faults.add(busy(), initiator="iqn.*:somebody-else"):
            await initiator.read(0, 0, 1)

    session(use)


def test_a_bad_block_fails_every_read_of_it_and_names_itself(target: RunningTarget, session) -> None:
    async def use(initiator: Initiator) -> None:
        target.faults.add(MediumError(lba=100, blocks=2), lun=0)
        for lba, blocks, first in ((100, 1, 100), (90, 20, 100), (101, 5, 101)):
            failed = await failure(initiator, lba, blocks)
            assert (failed.sense[2] & 0xF, failed.sense[12], failed.sense[13]) == (3, 0x11, 0)
            assert int.from_bytes(failed.sense[3:7], "big") == first
        await initiator.read(0, 90, 10)
        await initiator.read(0, 102, 10)
        await initiator.read(1, 100, 1)
        await initiator.write(0, 100, bytes(512))
        await failure(initiator, 100)

    session(use)


def test_a_bad_block_is_good_again_once_it_is_rewritten(target: RunningTarget, session) -> None:
    async def use(initiator: Initiator) -> None:
        rule = target.faults.add(MediumError(lba=8, blocks=8, until_rewritten=True))
        await failure(initiator, 8, 8)
        await initiator.write(0, 10, b"g" * 1024)
        assert bytes(await initiator.read(0, 10, 2)) == b"g" * 1024
        await failure(initiator, 8, 8)
        await initiator.write(0, 8, b"h" * 4096)
        assert bytes(await initiator.read(0, 8, 8)) == b"h" * 4096
        await failure(initiator, 8, 8, lun=1)
        assert rule.fired == 3

    session(use)


def test_a_block_may_refuse_to_be_written(target: RunningTarget, session) -> None:
    async def use(initiator: Initiator) -> None:
        target.faults.add(MediumError(lba=4, access=MediumAccess.WRITE))
        await initiator.read(0, 0, 8)
        with pytest.raises(CommandFailed) as failed:
            await initiator.write(0, 0, bytes(4096))
        sense = failed.value.sense
        assert (sense[2] & 0xF, sense[12], int.from_bytes(sense[3:7], "big")) == (3, 0x0C, 4)

    session(use)


def test_latency_is_given_to_each_command_on_its_own(target: RunningTarget, session) -> None:
    async def use(initiator: Initiator) -> None:
        target.faults.add(Latency(Fixed(60 * MS)), command="read")
        await asyncio.gather(*(initiator.read(0, 0, 1) for _ in range(8)))

    session(use)
    tasks = target.log.tasks(command="read")
    assert len(tasks) == 8
    assert all((task.duration_ns or 0) >= 60 * MS for task in tasks)


def test_the_latency_of_one_command_does_not_add_to_that_of_another(target: RunningTarget, session) -> None:
    hour_ns = 3600 * 1000 * MS

    async def use(initiator: Initiator) -> None:
        target.faults.add(Latency(Fixed(hour_ns)), command="read")
        reads = [asyncio.ensure_future(initiator.read(0, 0, 1)) for _ in range(8)]
        due: list[int] = []
        while len(due) < 8:
            await asyncio.sleep(0.002)
            due = target.call(lambda: [entry[0] for entry in target.server._deferred])
        assert max(due) <= time.monotonic_ns() + hour_ns
        for read in reads:
            read.cancel()
        await asyncio.gather(*reads, return_exceptions=True)

    session(use)


def test_a_rate_lets_commands_have_their_turn_one_after_the_other(target: RunningTarget, session) -> None:
    async def use(initiator: Initiator) -> None:
        target.faults.add(Rate(iops=50), command="read", lun=0)
        await asyncio.gather(*(initiator.read(0, 0, 1) for _ in range(5)))

    session(use)
    ends = sorted(task.command.time_ns + (task.duration_ns or 0) for task in target.log.tasks(command="read"))
    begun = min(task.command.time_ns for task in target.log.tasks(command="read"))
    assert [end - begun >= (number + 1) * 20 * MS for number, end in enumerate(ends)] == [True] * 5


def test_a_rate_counts_bytes_of_reads_and_writes(target: RunningTarget, session) -> None:
    async def use(initiator: Initiator) -> None:
        target.faults.add(Rate(bytes_per_s=1 << 20))
        await initiator.write(0, 0, bytes(64 << 10))
        await initiator.read(0, 0, 128)

    session(use)
    (write,), (read,) = target.log.tasks(command="write"), target.log.tasks(command="read")
    assert (write.duration_ns or 0) >= 62 * MS
    assert (read.duration_ns or 0) >= 62 * MS


def test_a_late_command_can_be_aborted_at_once(target: RunningTarget, session) -> None:
    async def use(initiator: Initiator) -> None:
        target.faults.add(Latency(Fixed(3600 * 1000 * MS)), command="read")
        with pytest.raises(TimeoutError):
            await initiator.execute(
                0, bytes((0x28, 0, 0, 0, 0, 0, 0, 0, 1, 0)), data_in_length=512, timeout_s=0.1
            )
        await asyncio.wait_for(initiator.test_unit_ready(0), 60)

    session(use)
    target.log.wait_for(opcode="task-management-response")


def test_delays_of_a_target_that_stops_do_not_keep_it(session) -> None:
    with serve("4MiB") as target:
        target.faults.add(Latency(Fixed(3600 * 1000 * MS)))

        async def use() -> None:
            initiator = await Initiator.login(target.host, target.port, target.iqn)
            task = asyncio.ensure_future(initiator.read(0, 0, 1))
            await asyncio.to_thread(target.log.wait_for, opcode="scsi-command")
            task.cancel()
            await initiator.abort()

        asyncio.run(use())


def test_faults_meet_commands_that_run_in_threads_too(tmp_path) -> None:
    disk = tmp_path / "disk"
    disk.write_bytes(bytes(1 << 20))
    with serve(str(disk)) as target:

        async def use() -> None:
            async with await Initiator.login(target.host, target.port, target.iqn) as initiator:
                await initiator.test_unit_ready(0)
                target.faults.add(Latency(Fixed(30 * MS)), command="read")
                target.faults.add(MediumError(7))
                await initiator.write(0, 0, b"f" * 4096)
                assert (await failure(initiator, 0, 8)).sense[12] == 0x11
                assert bytes(await initiator.read(0, 0, 4)) == b"f" * 2048

        asyncio.run(use())
        assert (target.log.tasks(command="read")[-1].duration_ns or 0) >= 30 * MS


def test_a_rule_on_commands_may_be_for_a_session_a_connection_or_a_task(
    target: RunningTarget, session
) -> None:
    async def use(initiator: Initiator) -> None:
        await initiator.add_connection(1)
        with target.faults.add(busy(), cid=1, session=initiator.tsih) as rule:
            assert (await initiator.execute(0, bytes(6), connection=0, check=False)).status == 0
            assert (await initiator.execute(0, bytes(6), connection=1, check=False)).status == 8
        assert rule.fired == 1
        with target.faults.add(busy(), session=initiator.tsih + 1):
            assert (await initiator.execute(0, bytes(6), check=False)).status == 0
        with target.faults.add(busy(), per="connection", nth=1):
            statuses = [
                (await initiator.execute(0, bytes(6), connection=cid, check=False)).status
                for cid in (0, 0, 1, 1)
            ]
            assert statuses == [8, 0, 8, 0]

    session(use, max_connections=2)


def test_without_rules_for_commands_the_fast_path_of_the_disk_is_offered(target: RunningTarget) -> None:
    units = target.targets[0].logical_units
    assert units.fast_disk("iqn.any", 0) is not None  # type: ignore[attr-defined]
    with target.faults.add(busy(), command="read"):
        assert units.fast_disk("iqn.any", 0) is None  # type: ignore[attr-defined]
