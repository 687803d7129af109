"""The communication interface: messages about its buffers, and host Data-In charged to the same pool."""

from __future__ import annotations

import pytest

from credits.config import PoolConfig, UnitKind
from credits.durable import DurablePool
from credits.errors import Code, CreditError, Refused
from credits.targets import Target, connection, new_connection, port_pair, port_pair_number
from iscsi_target.buffers import ConnectionInfo, Grant
from mgmt.array import tables
from mgmt.array.host_buffers import HostBuffers
from mgmt.array.interface import CommunicationInterface
from mgmt.messages import (
    BufferReserveRequest,
    InterfaceInfoGetRequest,
    ReservationReleaseRequest,
    ReservedBufferUpdateRequest,
)

PAIR = port_pair("211.19.1.20", "133.185.12.20")
OTHER = port_pair("211.19.3.85", "172.83.1.21")
UNIT = 2048


def interface(total_units: int = 100, min_free_units: int = 0) -> CommunicationInterface:
    config = PoolConfig(
        name="tcp0",
        kind=UnitKind.TCP,
        unit_bytes=UNIT,
        total_units=total_units,
        min_free_units=min_free_units,
    )
    return CommunicationInterface("tcp0", DurablePool.open(None, config), lambda: 5)


def reserve(subject: CommunicationInterface, target: Target, units: int, request_id: str = "r") -> int:
    request = BufferReserveRequest(target=target, requested_bytes=units * UNIT)
    return subject.reserve(request, request_id).reserved_units


def test_information_is_that_of_claim_1() -> None:
    subject = interface()
    assert subject.information(InterfaceInfoGetRequest(target=PAIR)).available_units == 100
    assert reserve(subject, PAIR, 40) == 40
    answer = subject.information(InterfaceInfoGetRequest(target=PAIR))
    assert (answer.available_units, answer.available_bytes) == (60, 60 * UNIT)
    assert (answer.reserved_units, answer.allocated_units, answer.unit_bytes) == (40, 0, UNIT)


def test_information_counts_what_the_target_has_in_use_and_nobody_else() -> None:
    subject = interface()
    reserve(subject, PAIR, 40)
    subject.allocate((PAIR,), 10, holder="copy", at_most=False)
    subject.allocate((OTHER,), 5, holder="copy", at_most=False)
    assert subject.information(InterfaceInfoGetRequest(target=PAIR)).allocated_units == 10
    assert subject.information(InterfaceInfoGetRequest(target=OTHER)).allocated_units == 5


def test_what_must_stay_free_is_not_available() -> None:
    answer = interface(min_free_units=30).information(InterfaceInfoGetRequest(target=PAIR))
    assert answer.available_units == 70


def test_a_retried_reserve_gets_the_first_answer() -> None:
    subject = interface()
    request = BufferReserveRequest(target=PAIR, requested_bytes=40 * UNIT)
    first = subject.reserve(request, "same")
    assert subject.reserve(request, "same") == first
    assert subject.pool.statistics().free_units == 60


def test_a_connection_gets_a_buffer_id_and_a_row_in_table_1500() -> None:
    subject = interface()
    request = BufferReserveRequest(target=new_connection("a", "b"), requested_bytes=UNIT)
    assert subject.reserve(request, "r").buffer_id == 10000
    assert tables.buffer_ids("east", [subject]) == [
        {"array": "east", "local_port": "a", "remote_port": "b", "buffer_id": 10000}
    ]


def test_who_names_no_buffer_id_gets_the_lowest_idle_one_of_the_pair() -> None:
    subject = interface()
    for number, pair in enumerate((("a", "b"), ("a", "b"), ("c", "d"))):
        reserve(subject, new_connection(*pair), 4, f"r{number}")
    assert subject.idle_buffer_id("a", "b") == 10000
    subject.allocate((connection(10000),), 1, holder="copy", at_most=False)
    assert subject.idle_buffer_id("a", "b") == 10001
    assert subject.idle_buffer_id("x", "y") is None


def test_an_update_grows_from_free_and_a_refusal_carries_the_numbers() -> None:
    subject = interface()
    reserve(subject, PAIR, 40)
    grown = subject.update(ReservedBufferUpdateRequest(target=PAIR, recommended_bytes=55 * UNIT), "u1")
    assert (grown.reserved_units, grown.previous_units) == (55, 40)
    with pytest.raises(Refused) as refusal:
        subject.update(ReservedBufferUpdateRequest(target=PAIR, recommended_bytes=101 * UNIT), "u2")
    assert refusal.value.code is Code.NO_MEMORY
    assert refusal.value.shortage is not None
    assert refusal.value.shortage.grantable_units == 45
    assert subject.pool.statistics().free_units == 45


def test_an_update_of_a_pair_names_the_connections_whose_reservations_it_changed() -> None:
    subject = interface()
    issued = [
        subject.reserve(
            BufferReserveRequest(
                target=new_connection("211.19.1.20", "133.185.12.20"), requested_bytes=5 * UNIT
            ),
            f"c{n}",
        ).buffer_id
        for n in range(2)
    ]
    done = subject.update(ReservedBufferUpdateRequest(target=PAIR, recommended_bytes=7 * UNIT), "u")
    assert done.buffer_ids == tuple(issued)
    assert (done.previous_units, done.reserved_units) == (10, 14)
    reserve(subject, PAIR, 3)
    assert (
        subject.update(ReservedBufferUpdateRequest(target=PAIR, recommended_bytes=UNIT), "p").buffer_ids == ()
    )


def test_a_release_is_busy_while_units_are_in_use_and_drains_when_told() -> None:
    subject = interface()
    reserve(subject, PAIR, 40)
    subject.allocate((PAIR,), 10, holder="copy", at_most=False)
    with pytest.raises(CreditError) as refusal:
        subject.release(ReservationReleaseRequest(target=PAIR), "x1")
    assert refusal.value.code is Code.BUSY
    answer = subject.release(ReservationReleaseRequest(target=PAIR, drain=True), "x2")
    assert (answer.released_units, answer.draining_units) == (30, 10)


def test_the_most_specific_reservation_of_the_claims_is_the_one_that_counts() -> None:
    subject = interface()
    reserve(subject, PAIR, 40, "r1")
    numbered = port_pair_number("211.19.1.20", "133.185.12.20", 25)
    reserve(subject, numbered, 20, "r2")
    assert subject.reserved_units((PAIR, numbered)) == 20
    assert subject.reserved_units((PAIR,)) == 40
    assert subject.reserved_units((OTHER, connection(7))) == 0


def test_the_tables_have_the_shapes_that_others_rely_on() -> None:
    subject = interface()
    reserve(subject, PAIR, 40)
    subject.allocate((PAIR,), 10, holder="copy", at_most=False)
    (pool,) = tables.pools("east", [subject], {})
    assert pool == {
        "array": "east",
        "interface": "tcp0",
        "kind": "tcp",
        "unit_bytes": UNIT,
        "total_units": 100,
        "free_units": 60,
        "reserved_idle_units": 30,
        "in_use_units": 10,
        "draining_units": 0,
        "expandable_units": 0,
        "held_units": 0,
        "degraded_units": 0,
        "credit_zero_percent": None,
        "revision": pool["revision"],
    }
    target = {"kind": "port_pair", "local_port": "211.19.1.20", "remote_port": "133.185.12.20"}
    (reservation,) = tables.reservations("east", [subject])
    wanted = {
        "array": "east",
        "interface": "tcp0",
        "target": target,
        "reserved_units": 40,
        "in_use_units": 10,
    }
    assert wanted.items() <= reservation.items()
    assert {"buffer_address", "reserved_bytes", "requested_bytes", "state"} <= reservation.keys()
    (allocation,) = tables.allocations("east", [subject])
    wanted = {"array": "east", "interface": "tcp0", "target": target, "allocated_bytes": 10 * UNIT}
    assert wanted.items() <= allocation.items()


# --- host Data-In -----------------------------------------------------------------------------------------------


def host(
    peer_host: str = "10.0.0.9", peer_port: int = 40000, name: str = "iqn.2026-11.example:host"
) -> ConnectionInfo:
    return ConnectionInfo("211.19.1.20", 3260, peer_host, peer_port, name)


def test_data_in_is_charged_in_whole_units_and_comes_back() -> None:
    subject = interface()
    buffers = HostBuffers(subject.pool)
    grant = buffers.acquire(host(), 2 * UNIT + 1)
    assert grant is not None
    assert (grant.size_bytes, grant.units) == (2 * UNIT + 1, 3)
    assert subject.pool.statistics().in_use_units == 3
    buffers.release(host(), grant)
    assert subject.pool.statistics().free_units == 100


def test_hosts_use_the_free_list_up_and_never_the_reservation_of_another_pair() -> None:
    subject = interface()
    reserve(subject, PAIR, 40)
    buffers = HostBuffers(subject.pool)
    assert buffers.acquire(host(), 60 * UNIT) is not None
    assert buffers.acquire(host(), 1) is None
    statistics = subject.pool.statistics()
    assert (statistics.free_units, statistics.reserved_idle_units) == (0, 40)


def test_a_host_whose_own_port_pair_is_reserved_is_served_from_it() -> None:
    subject = interface()
    reserve(subject, port_pair("211.19.1.20", "10.0.0.9"), 10)
    buffers = HostBuffers(subject.pool)
    assert buffers.acquire(host(), 10 * UNIT) is not None
    assert subject.pool.statistics().free_units == 90
    assert buffers.acquire(host(), 1) is None, "a used-up reservation never spills into the free list"


def test_a_refusal_of_a_reservation_names_the_hosts_that_hold_the_units() -> None:
    subject = interface()
    buffers = HostBuffers(subject.pool)
    assert buffers.acquire(host(), 90 * UNIT) is not None
    with pytest.raises(Refused) as refusal:
        reserve(subject, PAIR, 40)
    assert refusal.value.shortage is not None
    (holder,) = refusal.value.shortage.holders
    assert (holder.name, holder.units) == ("host 10.0.0.9:40000 iqn.2026-11.example:host", 90)


def test_a_grant_that_was_not_made_here_is_not_freed_here() -> None:
    subject = interface()
    HostBuffers(subject.pool).release(host(), Grant(UNIT))
    assert subject.pool.statistics().free_units == 100


def test_an_update_of_what_is_not_reserved_reserves_it_and_a_repeat_gets_the_same_answer() -> None:
    """Steps 1301 to 1303, seen as M11; a repeated request gets the same answer."""
    subject = interface()
    request = ReservedBufferUpdateRequest(target=PAIR, recommended_bytes=8 * UNIT)
    for _ in range(2):
        answer = subject.update(request, "m10")
        assert (answer.previous_units, answer.reserved_units, answer.buffer_ids) == (0, 8, ())
    assert [row.reserved_units for row in subject.pool.reservation_table()] == [8]
