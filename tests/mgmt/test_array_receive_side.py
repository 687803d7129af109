"""The receive side of a reservation: Data-Out accepted and not yet written never exceeds it."""

from __future__ import annotations

import asyncio
import os
import threading

import pytest

from credits.config import PoolConfig, UnitKind
from credits.durable import DurablePool
from credits.targets import port_pair
from iscsi_target.buffers import ConnectionInfo
from iscsi_target.executor import Buffer
from iscsi_target.initiator import Initiator
from iscsi_target.scsi.logical_unit import LogicalUnit, derive_identity
from iscsi_target.scsi.stores.memory import MemoryStore
from iscsi_target.scsi.target_device import TargetDevice
from iscsi_target.server import Portal, Target, TargetServer
from mgmt.array.receive_buffers import MARGIN_BYTES, ReceiveReservations

HERE, THERE = "127.0.0.1", "127.0.0.2"
UNIT = 4096
KIB = 1024
IQN = "iqn.2026-11.example:receiver"


def pool(units: int = 1024) -> DurablePool:
    return DurablePool.open(None, PoolConfig(name="p", kind=UnitKind.TCP, unit_bytes=UNIT, total_units=units))


def reserved(units: int) -> tuple[DurablePool, ReceiveReservations]:
    area = pool()
    area.reserve(port_pair(HERE, THERE), units * UNIT, request_id="r", now_ns=0)
    return area, ReceiveReservations(area)


def peer(port: int, host: str = THERE) -> ConnectionInfo:
    return ConnectionInfo(HERE, 3260, host, port)


def test_a_pair_without_a_reservation_is_not_bounded() -> None:
    _, subject = reserved(100)
    assert subject.room(peer(1, "127.0.0.9")) is None
    assert subject.window_bytes(peer(1, "127.0.0.9")) is None
    assert subject.hold(peer(1, "127.0.0.9"), 10**9, 0) is False


def test_what_is_held_is_in_use_in_the_pool_and_goes_back() -> None:
    area, subject = reserved(100)
    subject.hold(peer(1), 10 * UNIT + 1, 0)
    subject.hold(peer(2), UNIT, 0)
    assert area.statistics().in_use_units == 12
    assert subject.hold(peer(1), UNIT, 0) is True
    assert area.statistics().in_use_units == 2
    subject.hold(peer(1), 0, 0)
    subject.hold(peer(2), 0, 0)
    statistics = area.statistics()
    assert (statistics.in_use_units, statistics.reserved_idle_units) == (0, 100)
    area.audit()


def test_the_room_ends_before_the_margin_which_one_connection_at_a_time_may_use() -> None:
    _, subject = reserved(100)
    size, margin = 100 * UNIT, min(MARGIN_BYTES, 50 * UNIT) + UNIT
    assert subject.room(peer(1)) == size - margin
    subject.hold(peer(1), size - margin, 0)
    assert subject.room(peer(1)) == margin
    assert subject.room(peer(2)) == 0
    subject.hold(peer(1), size - 100, 0)
    assert subject.room(peer(1)) == UNIT, "what has begun to come may come whole"
    subject.hold(peer(1), size, size - 100)
    assert subject.room(peer(1)) == 0, "what is being written will make room"
    subject.hold(peer(1), 0, 0)
    assert subject.room(peer(2)) == size - margin


@pytest.mark.parametrize("command", [64 * KIB, MARGIN_BYTES])
def test_a_command_that_fits_half_of_the_reservation_comes_whole_within_it_whatever_the_others_hold(
    command: int,
) -> None:
    """Half of it, and nothing more, was too little: a command has a header."""
    _, subject = reserved(2 * command // UNIT)
    for number in range(5):
        room = subject.room(peer(number))
        subject.hold(peer(number), room if number == 4 else (room or 0) // 5, 0)  # type: ignore[arg-type]
    last = subject.room(peer(9))
    assert last is not None and last >= command + 48
    assert sum(subject.held_bytes().values()) + last <= 2 * command


def test_the_margin_changes_hands_only_when_nothing_in_it_lacks_a_part() -> None:
    """Else two commands might lack a part each, and one would have to go on beyond the reservation."""
    _, subject = reserved(32)
    size, margin, command = 32 * UNIT, 17 * UNIT, 16 * UNIT
    assert subject.room(peer(1)) == size - margin
    subject.hold(peer(1), UNIT, 0)
    subject.hold(peer(2), size - UNIT, UNIT)  # one whole, and more of the next than fits beside the margin
    assert subject.room(peer(2)) == 0, "what is being written will make room"
    subject.hold(peer(2), size - 2 * UNIT, 0)
    assert subject.room(peer(1)) == 0, "the other's command lies in the margin"
    assert subject.room(peer(2)) == UNIT
    subject.hold(peer(2), size - UNIT, size - UNIT)
    assert subject.room(peer(2)) == 0, "somebody waits"
    subject.hold(peer(2), 0, 0)
    assert subject.room(peer(1)) == size - margin - UNIT
    assert sum(subject.held_bytes().values()) + margin >= UNIT + command


def test_the_lane_reads_one_command_where_others_wait_and_as_much_as_there_is_where_nobody_does() -> None:
    _, subject = reserved(100)
    subject.hold(peer(1), 60 * UNIT, 10 * UNIT)
    assert subject.room(peer(1)) == 40 * UNIT, "nobody waits"
    assert subject.room(peer(2)) == 0
    assert subject.room(peer(1)) == 0
    subject.hold(peer(1), 50 * UNIT, 0)
    assert subject.room(peer(1)) == 50 * UNIT, "its next command lies in the margin"


def test_a_connection_that_is_gone_does_not_keep_the_margin() -> None:
    _, subject = reserved(100)
    subject.hold(peer(1), 99 * UNIT, 0)
    subject.hold(peer(2), UNIT, 0)
    assert subject.room(peer(1)) == UNIT
    assert subject.room(peer(2)) == 0
    subject.hold(peer(1), 0, 0)
    subject.hold(peer(2), 100 * UNIT, 0)
    assert subject.room(peer(2)) == UNIT


def test_a_new_size_holds_from_the_next_read() -> None:
    area, subject = reserved(100)
    area.update(port_pair(HERE, THERE), 10 * UNIT, request_id="u", now_ns=0)
    subject.reservations_changed()
    assert subject.window_bytes(peer(1)) == 10 * UNIT
    assert subject.room(peer(1)) == 4 * UNIT
    area.release(port_pair(HERE, THERE), request_id="x", now_ns=0)
    subject.reservations_changed()
    assert subject.room(peer(1)) is None


class SlowDisk(MemoryStore):
    """Waits with every write until it may go."""

    def __init__(self, size_bytes: int) -> None:
        super().__init__(size_bytes)
        self.go = threading.Event()

    @property
    def blocking(self) -> bool:
        return True

    def write(self, offset: int, data: Buffer, *, durable: bool = False) -> None:
        self.go.wait(100)
        super().write(offset, data, durable=durable)


@pytest.mark.parametrize("units", [32, 128])
def test_writers_of_several_connections_to_a_disk_that_stands_still_are_held_at_the_reservation(
    units: int,
) -> None:
    """32 units of 4 KiB are two commands of 64 KiB; six connections write sixteen each."""

    async def body() -> None:
        area = pool()
        area.reserve(port_pair(HERE, HERE), units * UNIT, request_id="r", now_ns=0)
        received = ReceiveReservations(area)
        disk = SlowDisk(16 << 20)
        device = TargetDevice(IQN, {0: LogicalUnit(disk, derive_identity(IQN, 0))})
        server = TargetServer(
            [Target(name=IQN, logical_units=device)], [Portal(HERE, 0)], receive_buffers=received
        )
        await server.start()
        data = os.urandom(64 * KIB)
        most = 0

        async def write(number: int) -> None:
            initiator = await Initiator.login(
                HERE, server.portals[0].port, IQN, initiator_iqn=f"iqn.2026-11.example:{number}"
            )
            writes = (initiator.write(0, (number * 16 + at) * 128, data) for at in range(16))
            await asyncio.gather(*writes)
            await initiator.logout()

        writing = [asyncio.create_task(write(number)) for number in range(6)]
        try:
            still = 0
            while still < 50:  # turns of the loop in which nothing more was taken in
                before = sum(received.held_bytes().values())
                await asyncio.sleep(0.005)
                held = sum(received.held_bytes().values())
                most = max(most, held)
                still = still + 1 if held == before and held else 0
            assert most <= units * UNIT
            assert area.statistics().in_use_units <= units
            assert most >= units * UNIT // 2, "it is used"
            disk.go.set()
            await asyncio.gather(*writing)
        finally:
            disk.go.set()
            for task in writing:
                task.cancel()
            await asyncio.gather(*writing, return_exceptions=True)
            await server.stop()
        for at in range(96):
            assert b"".join(map(bytes, disk.read(at * 64 * KIB, 64 * KIB))) == data
        assert area.statistics().in_use_units == 0
        area.audit()

    asyncio.run(asyncio.wait_for(body(), 110))
