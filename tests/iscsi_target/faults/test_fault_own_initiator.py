"""Our initiator meets every action on PDUs: it gets over it, or says what happened, and never takes wrong data for
right."""

from __future__ import annotations

import asyncio

import pytest

from iscsi_target.errors import IscsiError, LoginFailed
from iscsi_target.faults import (
    Async,
    Close,
    Corrupt,
    Delay,
    Drop,
    Duplicate,
    Fixed,
    Part,
    Redirect,
    Reject,
    Renumber,
    Reorder,
    Truncate,
    Window,
)
from iscsi_target.initiator import Initiator
from iscsi_target.running import RunningTarget, serve
from iscsi_target.session.parameters import Parameters
from iscsi_target.wire.opcodes import AsyncEvent

MS = 1_000_000
DATA = bytes(range(256)) * 256
BLOCKS = len(DATA) // 512
ACTIONS = {
    "drop": Drop(),
    "duplicate": Duplicate(),
    "delay": Delay(Fixed(5 * MS)),
    "delay, overtaken": Delay(Fixed(20 * MS), overtake=True),
    "reorder": Reorder(behind=1, within_ns=50 * MS),
    "truncate": Truncate(100),
    "truncate the stream": Truncate(60, adjust=False),
    "corrupt the header": Corrupt(Part.HEADER),
    "corrupt the data": Corrupt(Part.DATA),
    "corrupt the header digest": Corrupt(Part.HEADER_DIGEST),
    "corrupt the data digest": Corrupt(Part.DATA_DIGEST),
    "wrong data_sn": Renumber("data_sn", add=3),
    "wrong stat_sn": Renumber("stat_sn", add=3),
    "wrong exp_cmd_sn": Renumber("exp_cmd_sn", add=-3),
    "wrong task tag": Renumber("initiator_task_tag", add=0x1000),
    "wrong offset": Renumber("buffer_offset", add=512),
    "window": Window(1),
    "close": Close("close"),
    "half-close": Close("half-close"),
    "reset": Close("reset"),
    "async": Async(AsyncEvent.SCSI_EVENT),
}


HARMLESS = ("delay", "window", "async")
"""What an initiator need not even notice."""


@pytest.mark.parametrize("level", [0, 1, 2])
@pytest.mark.parametrize("name", ACTIONS)
def test_no_action_on_data_in_makes_wrong_data_look_right(name: str, level: int) -> None:
    harmless = name in HARMLESS or (name == "duplicate" and level > 0)
    with serve("4MiB", seed=3, log_limit=None) as target:

        async def main() -> list[str]:
            initiator = await Initiator.login(
                target.host,
                target.port,
                target.iqn,
                timeout_s=60,
                parameters=Parameters(
                    error_recovery_level=level,
                    header_digest=("CRC32C",),
                    data_digest=("CRC32C",),
                    max_recv_data_segment_length=16384,
                    default_time2wait=0,
                ),
            )
            try:
                return await reads(initiator)
            finally:
                target.faults.clear()
                await initiator.abort()

        async def reads(initiator: Initiator) -> list[str]:
            await initiator.write(0, 0, DATA)
            rule = target.faults.add(
                ACTIONS[name], opcode="data-in", command="read", skip=1, every=3, count=2
            )
            ends = []
            for _ in range(3):
                cdb = bytes((0x28, 0, 0, 0, 0, 0, 0, 0, BLOCKS, 0))
                try:
                    answer = await initiator.execute(
                        0, cdb, data_in_length=len(DATA), timeout_s=60 if harmless else 0.7
                    )
                except (IscsiError, TimeoutError) as error:
                    ends.append(type(error).__name__)
                    continue
                assert not (answer.underflow or answer.overflow)
                assert bytes(answer.data_in) == DATA
                ends.append("good")
            assert rule.fired > 0
            return ends

        ends = asyncio.run(main())
    if harmless:
        assert ends == ["good"] * 3
    assert len(ends) == 3


def test_a_redirection_is_followed_or_said() -> None:
    with serve("4MiB") as here, serve("4MiB") as there:
        here.faults.add(Redirect(f"{there.host}:{there.port},1"))

        async def main() -> None:
            try:
                initiator = await Initiator.login(here.host, here.port, here.iqn)
            except LoginFailed as error:
                assert error.status == 0x0101
                return
            await initiator.test_unit_ready(0)
            await initiator.logout()

        asyncio.run(main())
        assert here.log.count(opcode="scsi-command") == 0
        assert there.log.total == 0 or there.log.count(command="test unit ready", status=0) == 1


def test_a_rejected_write_changes_nothing(target: RunningTarget, session) -> None:
    async def use(initiator: Initiator) -> None:
        with (
            target.faults.add(Reject(), opcode="scsi-command", command="write", nth=1),
            pytest.raises(IscsiError),
        ):
            await initiator.write(0, 0, b"n" * 512)
        assert bytes(await initiator.read(0, 0, 1)) == bytes(512)

    session(use)
