# SPDX-License-Identifier: Apache-2.0
"""Where the session layer and the device server act on each other's tasks: abandoned commands, preempted nexuses."""

from __future__ import annotations

import asyncio
import struct
import threading
from typing import Any

import pytest

from iscsi_target.errors import CommandFailed, ConnectionLost, TaskAborted
from iscsi_target.executor import ScsiCommand, ScsiResult
from iscsi_target.initiator import Initiator
from iscsi_target.scsi.logical_unit import LogicalUnit, derive_identity
from iscsi_target.scsi.stores.memory import MemoryStore
from iscsi_target.scsi.target_device import LunMap, TargetDevice
from iscsi_target.server import Target, TargetServer
from iscsi_target.session.node import TargetNode
from iscsi_target.wire.lun import lun_to_bytes
from iscsi_target.wire.opcodes import TaskFunction
from iscsi_target.wire.requests import TaskManagementRequest
from iscsi_target.wire.responses import ScsiResponse, TaskManagementResponse
from tests.iscsi_target.imaginary_wire import (
    BLOCK,
    HOST,
    TARGET,
    Conversation,
    RamDisk,
    hold,
    make_node,
    read_16,
)

TUR = bytes(6)
REGISTER, RESERVE, PREEMPT, PREEMPT_AND_ABORT = 0, 1, 4, 5


@pytest.mark.parametrize(
    "function",
    [
        TaskFunction.ABORT_TASK,
        TaskFunction.ABORT_TASK_SET,
        TaskFunction.LOGICAL_UNIT_RESET,
        TaskFunction.TARGET_WARM_RESET,
    ],
)
def test_the_device_server_learns_that_nobody_waits_for_a_command_it_runs(function: TaskFunction) -> None:
    disk = RamDisk()
    conversation = Conversation(make_node(disk))
    conversation.log_in()
    conversation.send(conversation.command(TUR, tag=1), conversation.command(TUR, tag=2), execute=False)
    task = conversation.target.ready.popleft()
    hold(task)
    fields: dict[str, Any] = {"referenced_task_tag": 1} if function == TaskFunction.ABORT_TASK else {}
    request = TaskManagementRequest(
        immediate=True,
        function=function,
        lun=lun_to_bytes(0),
        initiator_task_tag=9,
        cmd_sn=conversation.cmd_sn,
        exp_stat_sn=0,
        **fields,
    )
    conversation.send(request, execute=False)
    assert disk.abandoned == [TUR.ljust(16, b"\0")], "once, and not for the task that was only waiting"
    conversation.node.sessions[conversation.tsih].complete(task, ScsiResult(0x40))
    assert [type(pdu) for pdu in conversation.answers() if not isinstance(pdu, ScsiResponse)] == [
        TaskManagementResponse
    ]


def test_a_lost_session_abandons_the_commands_that_run() -> None:
    disk = RamDisk()
    conversation = Conversation(make_node(disk))
    conversation.log_in()
    conversation.send(conversation.command(TUR, tag=1), execute=False)
    hold(conversation.target.ready.popleft())
    conversation.target.eof("the cable is cut")
    assert disk.abandoned == [TUR.ljust(16, b"\0")]


# -- PREEMPT AND ABORT, SPC-4 5.13.11.2.6 ---------------------------------------------------------------------------


def _node(*, mapped: bool) -> TargetNode:
    units = {
        lun: LogicalUnit(MemoryStore(1 << 20), derive_identity(TARGET, lun))
        for lun in ((5, 6) if mapped else (0, 1))
    }
    maps = {HOST: LunMap({0: 5, 1: 6})} if mapped else None
    return make_node(TargetDevice(TARGET, units, lun_maps=maps))  # type: ignore[arg-type]


def _reserve_out(host: Conversation, action: int, key: int, new_key: int = 0, *, kind: int = 0) -> int:
    cdb = struct.pack(">BBB2xIB", 0x5F, action, kind, 24, 0)
    command = host.command(
        cdb,
        tag=0x100 + host.cmd_sn,
        write=True,
        expected_data_transfer_length=24,
        data=struct.pack(">QQ8x", key, new_key),
    )
    (answer,) = [pdu for pdu in host.send(command) if isinstance(pdu, ScsiResponse)]
    return answer.status


def _logged_in(node: TargetNode, isid: int) -> Conversation:
    host = Conversation(node, isid=bytes((0x80, 0, 0, 0, 0, isid)), seed=isid)
    host.log_in()
    for lun in (0, 1):
        host.send(host.command(TUR, tag=1 + lun, lun=lun_to_bytes(lun)))  # takes the unit attention
    return host


@pytest.mark.parametrize("mapped", [False, True])
@pytest.mark.parametrize("action", [PREEMPT, PREEMPT_AND_ABORT])
def test_the_preempted_nexus_loses_its_tasks_at_the_unit_and_no_others(action: int, mapped: bool) -> None:
    node = _node(mapped=mapped)
    holder, rival, bystander = (_logged_in(node, isid) for isid in (1, 2, 3))
    assert _reserve_out(holder, REGISTER, 0, 1) == 0
    assert _reserve_out(rival, REGISTER, 0, 2) == 0
    assert _reserve_out(holder, RESERVE, 1, kind=3) == 0
    holder.send(holder.command(TUR, tag=1), holder.command(TUR, tag=2, lun=lun_to_bytes(1)), execute=False)
    bystander.send(bystander.command(TUR, tag=1), execute=False)
    assert _reserve_out(rival, action, 2, 1, kind=3) == 0
    answered = [pdu.initiator_task_tag for pdu in holder.answers() if isinstance(pdu, ScsiResponse)]
    assert answered == ([2] if action == PREEMPT_AND_ABORT else [1, 2])
    assert len([pdu for pdu in bystander.answers() if isinstance(pdu, ScsiResponse)]) == 1
    holder.assert_alive()
    (answer,) = holder.send(holder.command(TUR, tag=3))
    assert isinstance(answer, ScsiResponse)
    assert answer.max_cmd_sn - answer.exp_cmd_sn == 127, "an aborted task gives its place in the window back"


# -- over sockets and threads ---------------------------------------------------------------------------------------


class _HeldStore(MemoryStore):
    """A store that lets a discard wait until the test says so."""

    def __init__(self, size_bytes: int) -> None:
        super().__init__(size_bytes)
        self.reached = threading.Event()
        self.go_on = threading.Event()

    def discard(self, offset: int, length: int) -> None:
        self.reached.set()
        assert self.go_on.wait(90)
        super().discard(offset, length)


SANITIZE_BLOCK_ERASE = bytes((0x48, 0x02)) + bytes(14)


@pytest.mark.parametrize("lost", [False, True])
def test_a_sanitize_outlives_the_reset_and_the_session_that_ended_its_command(lost: bool) -> None:
    """SBC-3 4.11.1: the reset is answered while the operation goes on, and no thread is kept waiting for its end."""
    store = _HeldStore(2 << 20)
    device = TargetDevice(TARGET, {0: LogicalUnit(store, derive_identity(TARGET, 0))})

    async def body() -> None:
        async with TargetServer([Target(name=TARGET, logical_units=device)], threads=1) as server:
            port = server.portals[0].port
            async with await Initiator.login("127.0.0.1", port, TARGET) as host:
                await host.execute(0, TUR, check=False)  # takes the unit attention
                running = asyncio.ensure_future(host.execute(0, SANITIZE_BLOCK_ERASE, timeout_s=90))
                await asyncio.to_thread(store.reached.wait, 30)
                if lost:
                    await host.abort()
                else:
                    assert await host.task_management(TaskFunction.LOGICAL_UNIT_RESET) == 0
                with pytest.raises((TaskAborted, ConnectionLost)):
                    await running
                async with await Initiator.login("127.0.0.1", port, TARGET, isid=bytes(6)) as other:
                    await other.execute(0, TUR, check=False)
                    with pytest.raises(CommandFailed) as refused:
                        await other.test_unit_ready(0)
                    assert refused.value.sense[2] & 0xF == 2, "NOT READY"
                    assert refused.value.sense[12:14] == bytes((0x04, 0x1B)), "SANITIZE IN PROGRESS"
                    store.go_on.set()
                    sanitizing = device.units[0].sanitize
                    assert sanitizing is None or await asyncio.to_thread(sanitizing.wait, 30)
                    await other.test_unit_ready(0)

    asyncio.run(asyncio.wait_for(body(), 100))
    device.close()


def test_a_task_that_is_aborted_before_a_thread_took_it_never_begins() -> None:
    gate, began = threading.Event(), threading.Event()
    disk = RamDisk(threads=True)
    execute = disk.execute

    def held(command: ScsiCommand) -> ScsiResult:
        began.set()
        assert gate.wait(90)
        return execute(command)

    disk.execute = held  # type: ignore[method-assign]

    async def body() -> None:
        async with (
            TargetServer([Target(name=TARGET, logical_units=disk)], threads=1) as server,
            await Initiator.login("127.0.0.1", server.portals[0].port, TARGET) as host,
        ):
            first = asyncio.ensure_future(host.execute(0, TUR, timeout_s=90))
            await asyncio.to_thread(began.wait, 30)
            second = asyncio.ensure_future(host.execute(0, read_16(0, 1), data_in_length=BLOCK, timeout_s=90))
            await host.nop(b"both are there")
            reset = asyncio.ensure_future(host.task_management(TaskFunction.LOGICAL_UNIT_RESET))
            await asyncio.sleep(0)
            await host.nop(b"and the reset too")
            gate.set()
            assert await reset == 0
            for each in (first, second):
                with pytest.raises(TaskAborted):
                    await each
            assert [cdb[0] for cdb in disk.executed] == [0x00], "the second one never ran"
            assert await host.nop(b"alive") == b"alive"

    asyncio.run(asyncio.wait_for(body(), 100))
