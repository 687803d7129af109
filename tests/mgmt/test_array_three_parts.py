"""Claim 13: information acquisition 210, buffer control 215 and remote copy 103 are three parts.

Each is imported and used alone, in a process that has none of the others, with stubs in their place; and together they
do what claim 1 says, on the pool of either kind.
"""

from __future__ import annotations

import asyncio
import subprocess
import sys
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from credits.allocation import Allocation
from credits.config import PoolConfig, UnitKind
from credits.durable import DurablePool
from credits.errors import Code, Refused
from credits.results import PoolStatistics, ReserveResult
from credits.targets import Target, port_pair
from mgmt.array.buffer_control import BufferControl
from mgmt.array.description import CopyConfig
from mgmt.array.information import InformationAcquisition
from mgmt.array.interface import CommunicationInterface
from mgmt.array.replication.remote_copy import RemoteCopy
from mgmt.array.volumes import Volume, Volumes
from mgmt.messages import (
    BufferReserveRequest,
    CopyStartRequest,
    InterfaceInfoGetRequest,
    ReservedBufferUpdateRequest,
)
from tests.mgmt.test_replication_engine import Remote, Transport
from tests.mgmt.test_replication_engine import Volume as Disk

P1 = port_pair("211.19.1.20", "133.185.12.20")
P2 = port_pair("211.19.3.85", "172.83.1.21")
PARTS = {
    "mgmt.array.information": (
        "mgmt.array.buffer_control",
        "mgmt.array.replication",
        "iscsi_target",
        "fcsim",
    ),
    "mgmt.array.buffer_control": (
        "mgmt.array.information",
        "mgmt.array.replication",
        "iscsi_target",
        "fcsim",
    ),
    "mgmt.array.replication.remote_copy": ("mgmt.array.information", "mgmt.array.buffer_control", "fcsim"),
}


@pytest.mark.parametrize(("part", "others"), PARTS.items())
def test_each_part_is_imported_without_the_others(part: str, others: tuple[str, ...]) -> None:
    code = f"import sys, {part}\nprint([name for name in sys.modules if name.startswith({others!r})])"
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=110, check=True
    )
    assert done.stdout.strip() == "[]"


# --- each alone --------------------------------------------------------------------------------------------


class StubArea:
    """Numbers in place of a memory area 100, and a list of what it was asked to do."""

    config = PoolConfig(name="stub", kind=UnitKind.TCP, unit_bytes=2048, total_units=100, min_free_units=10)

    def __init__(self) -> None:
        self.asked: list[tuple[str, Any]] = []

    def statistics(self) -> PoolStatistics:
        return PoolStatistics(
            name="stub",
            kind=UnitKind.TCP,
            unit_bytes=2048,
            total_units=100,
            free_units=70,
            reserved_idle_units=30,
            in_use_units=0,
            draining_units=0,
            expandable_units=4,
            revision=9,
        )

    def reservation_table(self) -> tuple[Any, ...]:
        return ()

    def allocation_table(self) -> tuple[Any, ...]:
        return ()

    def reserve(self, target: Target, requested_bytes: int, **more: Any) -> ReserveResult:
        self.asked.append(("reserve", (target, requested_bytes, more["request_id"], more["now_ns"])))
        if requested_bytes > 70 * 2048:
            raise Refused(Code.NO_MEMORY, "no memory")
        return ReserveResult(
            target=target,
            reserved_units=40,
            reserved_bytes=40 * 2048,
            requested_bytes=requested_bytes,
            previous_units=0,
            pending_shrink_units=0,
            replaced=False,
            revision=10,
        )


def test_information_acquisition_alone_reads_and_changes_nothing() -> None:
    area = StubArea()
    answer = InformationAcquisition(area).information(InterfaceInfoGetRequest(target=P1))
    assert (answer.available_units, answer.available_bytes) == (60, 60 * 2048), "less what stays free"
    assert (answer.expandable_units, answer.revision) == (4, 9)
    assert area.asked == []


def test_buffer_control_alone_turns_messages_into_verbs_and_refusals_through() -> None:
    area = StubArea()
    control = BufferControl(area, lambda: 77)  # type: ignore[arg-type]
    answer = control.reserve(BufferReserveRequest(target=P1, requested_bytes=40 * 2048), "r1")
    assert (answer.reserved_units, answer.revision) == (40, 10)
    assert area.asked == [("reserve", (P1, 40 * 2048, "r1", 77))]
    with pytest.raises(Refused):
        control.reserve(BufferReserveRequest(target=P1, requested_bytes=71 * 2048), "r2")


def test_buffer_control_alone_asks_the_protocol_before_the_area() -> None:
    area = StubArea()

    def never(target: Target, units: int) -> None:
        raise Refused(Code.RELOGIN_REQUIRED, f"{units} units for {target}")

    control = BufferControl(area, lambda: 0, check=never)  # type: ignore[arg-type]
    with pytest.raises(Refused, match="40 units"):
        control.update(ReservedBufferUpdateRequest(target=P1, recommended_bytes=40 * 2048), "u")
    assert area.asked == []


class StubBuffers:
    """An interface that gives what it is asked for, and remembers it."""

    def __init__(self) -> None:
        config = PoolConfig(name="p", kind=UnitKind.TCP, unit_bytes=16, total_units=100)
        self.pool = DurablePool.open(None, config)
        self.claims: list[Sequence[Target]] = []

    def allocate(self, claims: Sequence[Target], units: int, *, holder: str, at_most: bool) -> Allocation:
        self.claims.append(claims)
        return self.pool.allocate((), units, holder=holder, at_most=at_most)

    def reserved_units(self, claims: Sequence[Target]) -> int:
        return 8

    def reserved_bytes(self, claims: Sequence[Target]) -> int:
        return 128

    def idle_buffer_id(self, local_port: str, remote_port: str) -> int | None:
        return None


def requests(target: Target = P1) -> list[CopyStartRequest]:
    return [
        CopyStartRequest(
            copy_id="c1",
            target=target,
            volume="vol0",
            remote_host="133.185.12.20",
            remote_port_number=3260,
            remote_iqn="iqn.2026-11.example:west",
            remote_lun=0,
            sessions=1,
            connections_per_session=2,
            session=0,
            connection=number,
        )
        for number in range(2)
    ]


async def copied(buffers: Any, pool: DurablePool, remote: Remote) -> RemoteCopy:
    """Run a copy with both connections to its end."""
    disk: Any = Disk()
    with ThreadPoolExecutor(1) as readers:
        copy = RemoteCopy(
            local_port="211.19.1.20",
            buffers=buffers,
            volumes=Volumes([Volume("vol0", 0, disk, disk)]),
            transport=lambda _: Transport(pool, remote),
            config=CopyConfig(extent_bytes=64),
            executor=readers,
        )
        await asyncio.gather(*(copy.start(request) for request in requests()))
        while copy.status("c1").state not in ("done", "failed"):
            await asyncio.sleep(0)
        await copy.close()
    return copy


def test_remote_copy_alone_asks_for_buffers_and_copies_with_what_it_gets() -> None:
    buffers, remote = StubBuffers(), Remote()
    copy = asyncio.run(copied(buffers, buffers.pool, remote))
    assert copy.status("c1").state == "done"
    assert bytes(remote.disk) == Disk().data
    assert len(buffers.claims) == 2 and all(P1 in claims for claims in buffers.claims)


# --- the assembly: claim 1 ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "config",
    [
        PoolConfig(name="tcp0", kind=UnitKind.TCP, unit_bytes=2048, total_units=100),
        PoolConfig(name="fc0", kind=UnitKind.FC, unit_bytes=2148, total_units=100),
    ],
    ids=["tcp", "fc"],
)
def test_the_three_together_do_what_claim_1_says(config: PoolConfig) -> None:
    """Query, reserve, hosts take all the rest, the copy obtains its buffers from the reservation and runs."""
    pool = DurablePool.open(None, config)
    interface = CommunicationInterface(config.name, pool, lambda: 0)
    seen = []

    def counted() -> int:
        statistics = pool.statistics()
        assert statistics.conserved and statistics.total_units == 100
        seen.append(statistics.free_units)
        return statistics.free_units

    assert interface.information(InterfaceInfoGetRequest(target=P1)).available_units == 100
    interface.reserve(BufferReserveRequest(target=P1, requested_bytes=40 * config.unit_bytes), "r")
    assert interface.information(InterfaceInfoGetRequest(target=P1)).available_units == counted() == 60
    hosts = [interface.allocate((P2,), 1, holder=f"host {number}", at_most=False) for number in range(60)]
    assert counted() == 0
    with pytest.raises(Refused):
        interface.allocate((P2,), 1, holder="host 61", at_most=False)
    remote = Remote()
    copy = asyncio.run(copied(interface, pool, remote))
    assert copy.status("c1").state == "done" and bytes(remote.disk) == Disk().data
    assert counted() == 0
    for allocation in hosts:
        pool.free(allocation)
    assert counted() == 60
    assert pool.statistics().reserved_idle_units == 40


def test_without_the_reservation_the_start_is_refused() -> None:
    """The control run of claim 1."""
    pool = DurablePool.open(
        None, PoolConfig(name="tcp0", kind=UnitKind.TCP, unit_bytes=2048, total_units=100)
    )
    interface = CommunicationInterface("tcp0", pool, lambda: 0)
    interface.allocate((P2,), 100, holder="hosts", at_most=False)
    with pytest.raises(Refused) as refusal:
        asyncio.run(copied(interface, pool, Remote()))
    assert refusal.value.code == Code.NO_MEMORY
