# SPDX-License-Identifier: Apache-2.0
"""Persistent reservations and RESERVE/RELEASE: the access matrix of SPC-4 and SBC-3, and every service action."""

from __future__ import annotations

import struct
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from iscsi_target.executor import ResetKind
from iscsi_target.scsi.errors import CheckCondition, StatusOnly, StoreError
from iscsi_target.scsi.reservation_file import ReservationFile
from iscsi_target.scsi.reservations import (
    MAX_REGISTRATIONS,
    Access,
    Reservations,
    ReservationState,
    ReservationType,
)
from iscsi_target.scsi.unit_attention import Nexus
from tests.iscsi_target.scsi_rig import Answer, Initiator, Rig, rig

CONFLICT = 0x18
REGISTER, RESERVE, RELEASE, CLEAR, PREEMPT, PREEMPT_AND_ABORT, REGISTER_IGNORE, MOVE = range(8)
WE, EA, WERO, EARO, WEAR, EAAR = 1, 3, 5, 6, 7, 8
RELEASED, PREEMPTED, REGISTRATIONS_PREEMPTED = (6, 0x2A, 0x04), (6, 0x2A, 0x03), (6, 0x2A, 0x05)


def _out(
    host: Initiator,
    action: int,
    key: int = 0,
    new_key: int = 0,
    *,
    kind: int = 0,
    scope: int = 0,
    flags: int = 0,
    more: bytes = b"",
) -> Answer:
    data = struct.pack(">QQ4xB3x", key, new_key, flags) + more
    return host.send(struct.pack(">BBB2xIB", 0x5F, action, scope << 4 | kind, len(data), 0), data)


def _in(host: Initiator, action: int, allocation_length: int = 1024) -> bytes:
    answer = host.send(struct.pack(">BB5xHB", 0x5E, action, allocation_length, 0))
    assert answer.status == 0
    return answer.data


def _keys(host: Initiator) -> list[int]:
    data = _in(host, 0)
    assert int.from_bytes(data[4:8], "big") == len(data) - 8
    return [int.from_bytes(data[at : at + 8], "big") for at in range(8, len(data), 8)]


def _held(host: Initiator) -> tuple[int, int] | None:
    """(key, type) of the reservation."""
    data = _in(host, 1)
    return (int.from_bytes(data[8:16], "big"), data[21]) if len(data) > 8 else None


def _generation(host: Initiator) -> int:
    return int.from_bytes(_in(host, 0)[:4], "big")


def _registered(lab: Rig, *keys: int) -> list[Initiator]:
    hosts = [lab.initiator() for _ in keys]
    for host, key in zip(hosts, keys, strict=True):
        assert _out(host, REGISTER, 0, key).status == 0
    return hosts


def _attention(host: Initiator) -> tuple[int, int, int]:
    return host.send("00 00 00 00 00 00").sense


# -- the matrix -----------------------------------------------------------------------------------------------------

READS = [
    "28 00 00 00 00 00 00 00 01 00",
    "2f 00 00 00 00 00 00 00 01 00",
    "1a 00 3f 00 ff 00",
    "34" + "00" * 9,
]
WRITES = {
    "2a 00 00 00 00 00 00 00 01 00": 512,
    "41 00 00 00 00 00 00 00 01 00": 512,
    "89 00 00 00 00 00 00 00 00 00 00 00 00 01 00 00": 1024,
    "42 00 00 00 00 00 00 00 08 00": 8,
    "35" + "00" * 9: 0,
    "1b 00 00 00 00 00": 0,
    "1e 00 00 00 01 00": 0,
    "15 10 00 00 00 00": 0,
    "48 02" + "00" * 8: 0,
}
ALWAYS = [
    "12 00 00 00 ff 00",
    "a0 00 00 00 00 00 00 00 00 ff 00 00",
    "03 00 00 00 ff 00",
    "00" * 6,
    "25" + "00" * 9,
    "1b 00 00 00 01 00",
    "1e 00 00 00 00 00",
    "5e 01 00 00 00 00 00 00 ff 00",
    "a3 0a 00 00 00 00 00 00 00 ff 00 00",
]
# (type, who asks) → whether reads and writes conflict: SPC-4 tables 66 and 67, SBC-3 table 15.
MATRIX = {
    (WE, "unregistered"): (False, True),
    (WE, "registered"): (False, True),
    (WE, "holder"): (False, False),
    (EA, "unregistered"): (True, True),
    (EA, "registered"): (True, True),
    (EA, "holder"): (False, False),
    (WERO, "unregistered"): (False, True),
    (WERO, "registered"): (False, False),
    (WERO, "holder"): (False, False),
    (EARO, "unregistered"): (True, True),
    (EARO, "registered"): (False, False),
    (EARO, "holder"): (False, False),
    (WEAR, "unregistered"): (False, True),
    (WEAR, "registered"): (False, False),
    (WEAR, "holder"): (False, False),
    (EAAR, "unregistered"): (True, True),
    (EAAR, "registered"): (False, False),
    (EAAR, "holder"): (False, False),
}


@pytest.mark.parametrize(("kind", "who"), MATRIX)
def test_each_type_lets_each_nexus_do_what_the_matrix_says(kind: int, who: str) -> None:
    lab = rig()
    holder, registered = _registered(lab, 0xAA, 0xBB)
    assert _out(holder, RESERVE, 0xAA, kind=kind).status == 0
    host = {"holder": holder, "registered": registered, "unregistered": lab.initiator()}[who]
    reads_conflict, writes_conflict = MATRIX[kind, who]
    for cdb in READS:
        assert (host.send(cdb).status == CONFLICT) is reads_conflict, cdb
    for cdb, size in WRITES.items():
        assert (host.send(cdb, bytes(size)).status == CONFLICT) is writes_conflict, cdb
    for cdb in ALWAYS:
        assert host.send(cdb).status == 0, cdb


def test_the_matrix_has_every_type_and_the_machine_agrees_with_it() -> None:
    assert {kind for kind, _ in MATRIX} == {int(kind) for kind in ReservationType}
    for (kind, who), expected in MATRIX.items():
        state = Reservations()
        holder, other = Nexus("holder", 1), Nexus("other", 1)
        state.register(holder, 0, 1, aptpl=False)
        if who == "registered":
            state.register(other, 0, 2, aptpl=False)
        state.reserve(holder, 1, ReservationType(kind))
        asks = holder if who == "holder" else other
        for access, conflicts in zip((Access.READ, Access.WRITE), expected, strict=True):
            assert state.conflicts(asks, access, despite_reserve=False) is conflicts


# -- PERSISTENT RESERVE OUT -------------------------------------------------------------------------------------------


def test_registering_takes_the_right_key() -> None:
    lab = rig()
    (host,) = _registered(lab, 0xAA)
    other = lab.initiator()
    assert _out(other, REGISTER, 0xAA, 0xBB).status == CONFLICT  # unregistered, with a key
    assert _out(host, REGISTER, 0, 0xBB).status == CONFLICT  # registered, without its key
    assert _out(host, REGISTER, 0xAA, 0xCC).status == 0
    assert _keys(host) == [0xCC]
    assert _out(host, REGISTER_IGNORE, 0x55, 0xDD).status == 0
    assert _keys(host) == [0xDD]
    assert _out(other, REGISTER_IGNORE, 0, 0).status == 0
    assert _out(host, REGISTER, 0xDD, 0).status == 0
    assert _keys(host) == []


def test_the_generation_counts_what_the_standard_says_and_nothing_else() -> None:
    lab = rig()
    one, two = _registered(lab, 1, 2)
    assert _generation(one) == 2
    _out(one, RESERVE, 1, kind=WE)
    _out(one, RELEASE, 1, kind=WE)
    assert _generation(one) == 2
    _out(one, PREEMPT, 1, 2, kind=WE)
    assert _generation(one) == 3
    _out(two, CLEAR, 2)  # conflicts: no longer registered
    assert _generation(one) == 3
    _out(one, CLEAR, 1)
    assert _generation(one) == 4


def test_a_reservation_is_made_by_a_registrant_and_taken_again_only_as_it_is() -> None:
    lab = rig()
    one, two = _registered(lab, 1, 2)
    stranger = lab.initiator()
    assert _out(stranger, RESERVE, 0, kind=WE).status == CONFLICT
    assert _out(one, RESERVE, 99, kind=WE).status == CONFLICT
    assert _out(one, RESERVE, 1, kind=WE).status == 0
    assert _held(two) == (1, WE)
    assert _out(one, RESERVE, 1, kind=WE).status == 0
    assert _out(one, RESERVE, 1, kind=EA).status == CONFLICT
    assert _out(two, RESERVE, 2, kind=WE).status == CONFLICT


def test_scope_and_type_are_checked() -> None:
    (host,) = _registered(rig(), 1)
    for kind, scope in ((0, 0), (2, 0), (4, 0), (9, 0), (WE, 1)):
        assert _out(host, RESERVE, 1, kind=kind, scope=scope).sense == (5, 0x24, 0x00)


def test_all_registrants_hold_an_all_registrants_reservation() -> None:
    lab = rig()
    one, two = _registered(lab, 1, 2)
    _out(one, RESERVE, 1, kind=WEAR)
    assert _held(one) == (0, WEAR)
    assert _out(two, RESERVE, 2, kind=WEAR).status == 0
    assert _out(one, REGISTER, 1, 0).status == 0
    assert _held(two) == (0, WEAR)
    assert _out(two, REGISTER, 2, 0).status == 0
    assert _held(two) is None


@pytest.mark.parametrize(
    ("kind", "told"), [(WE, False), (EA, False), (WERO, True), (EARO, True), (WEAR, True)]
)
def test_a_release_is_told_to_those_it_concerns(kind: int, told: bool) -> None:
    lab = rig()
    one, two = _registered(lab, 1, 2)
    stranger = lab.initiator()
    _out(one, RESERVE, 1, kind=kind)
    assert _out(one, RELEASE, 1, kind=EAAR).sense == (5, 0x26, 0x04)
    assert _out(one, RELEASE, 1, kind=kind).status == 0
    assert _held(one) is None
    assert _attention(one) == (0, 0, 0)
    assert _attention(two) == (RELEASED if told else (0, 0, 0))
    assert _attention(stranger) == (0, 0, 0)


def test_a_release_by_another_than_the_holder_changes_nothing() -> None:
    lab = rig()
    one, two = _registered(lab, 1, 2)
    _out(one, RESERVE, 1, kind=WE)
    assert _out(two, RELEASE, 2, kind=WE).status == 0
    assert _held(one) == (1, WE)
    assert _out(lab.initiator(), RELEASE, 1, kind=WE).status == CONFLICT


def test_a_holder_that_unregisters_gives_its_reservation_up() -> None:
    lab = rig()
    one, two = _registered(lab, 1, 2)
    _out(one, RESERVE, 1, kind=WERO)
    _out(one, REGISTER, 1, 0)
    assert _attention(two) == RELEASED
    assert _held(two) is None


def test_clear_removes_everything_and_tells_the_others() -> None:
    lab = rig()
    one, two = _registered(lab, 1, 2)
    _out(one, RESERVE, 1, kind=EA)
    assert _out(two, CLEAR, 2).status == 0
    assert _attention(one) == PREEMPTED
    assert (_keys(one), _held(one)) == ([], None)
    assert _attention(two) == (0, 0, 0)


@pytest.mark.parametrize("action", [PREEMPT, PREEMPT_AND_ABORT])
def test_preempting_the_holder_takes_its_reservation(action: int) -> None:
    lab = rig()
    one, two, three = _registered(lab, 1, 2, 3)
    _out(one, RESERVE, 1, kind=WERO)
    assert _out(two, action, 2, 1, kind=EARO).status == 0
    assert _held(two) == (2, EARO)
    assert _keys(two) == [2, 3]
    assert _attention(one) == REGISTRATIONS_PREEMPTED
    assert _attention(three) == RELEASED  # the type changed
    assert one.send("2a 00 00 00 00 00 00 00 01 00", bytes(512)).status == CONFLICT


def test_preempting_a_registrant_leaves_the_reservation() -> None:
    lab = rig()
    one, two, three = _registered(lab, 1, 2, 3)
    _out(one, RESERVE, 1, kind=WE)
    assert _out(two, PREEMPT, 2, 3, kind=EA).status == 0
    assert (_keys(one), _held(one)) == ([1, 2], (1, WE))
    assert _attention(three) == REGISTRATIONS_PREEMPTED
    assert _out(two, PREEMPT, 2, 99, kind=EA).status == CONFLICT
    assert _out(two, PREEMPT, 2, 0, kind=EA).sense == (5, 0x26, 0x00)


def test_preempting_oneself_changes_the_type() -> None:
    lab = rig()
    one, two = _registered(lab, 1, 2)
    _out(one, RESERVE, 1, kind=WERO)
    assert _out(one, PREEMPT, 1, 1, kind=EARO).status == 0
    assert (_keys(one), _held(one)) == ([1, 2], (1, EARO))
    assert _attention(two) == RELEASED


def test_key_0_preempts_all_registrants() -> None:
    lab = rig()
    one, two, three = _registered(lab, 1, 2, 3)
    _out(one, RESERVE, 1, kind=EAAR)
    assert _out(two, PREEMPT, 2, 0, kind=WE).status == 0
    assert (_keys(two), _held(two)) == ([2], (2, WE))
    assert _attention(one) == _attention(three) == REGISTRATIONS_PREEMPTED


def _transport_id(name: str, *, port: bool) -> bytes:
    """An iSCSI TransportID as SPC-4 7.6.4.6 lays it out."""
    raw = name.encode() + b"\0"
    raw += bytes(-len(raw) % 4)
    return bytes((0x45 if port else 0x05, 0)) + len(raw).to_bytes(2, "big") + raw


def test_a_reservation_moves_to_another_nexus() -> None:
    lab = rig(target_ports=(1, 2))
    (one,) = _registered(lab, 1)
    two = lab.initiator(target_port=2)
    _out(one, RESERVE, 1, kind=WE)
    identifier = _transport_id(two.port, port=True)

    def move(key: int, new_key: int, port: int, unregister: int) -> Answer:
        data = struct.pack(">QQxBHI", key, new_key, unregister << 1, port, len(identifier)) + identifier
        return one.send(struct.pack(">BBB2xIB", 0x5F, MOVE, WE, len(data), 0), data)

    assert move(9, 2, 2, 0).status == CONFLICT
    assert move(1, 0, 2, 0).sense == (5, 0x26, 0x00)
    assert move(1, 2, 7, 0).sense == (5, 0x26, 0x00)  # no such target port
    assert move(1, 2, 2, 1).status == 0
    assert (_keys(two), _held(two)) == ([2], (2, WE))
    assert two.send("2a 00 00 00 00 00 00 00 01 00", bytes(512)).status == 0
    assert one.send("2a 00 00 00 00 00 00 00 01 00", bytes(512)).status == CONFLICT


def test_others_can_be_registered_along_and_on_all_ports() -> None:
    lab = rig(target_ports=(1, 2))
    one, two = lab.initiator(), lab.initiator()
    by_port, by_name = (
        _transport_id("iqn.x:absent,i,0x000000000001", port=True),
        _transport_id(two.name, port=False),
    )
    both = by_port + by_name
    answer = _out(one, REGISTER, 0, 7, flags=0x0C, more=len(both).to_bytes(4, "big") + both)
    assert answer.status == 0
    assert set(lab.unit().reservations.registrations) == {
        Nexus(initiator, port)
        for initiator in (one.port, two.port, "iqn.x:absent,i,0x000000000001")
        for port in (1, 2)
    }


@pytest.mark.parametrize(
    "identifier",
    [
        b"\x46" + _transport_id("iqn.x:absent,i,0x000000000001", port=True)[1:],  # another protocol
        b"\x85" + _transport_id("iqn.x:absent,i,0x000000000001", port=True)[1:],  # another format
        _transport_id("iqn.x:absent-but-no-port", port=True),
        _transport_id("iqn.2026-11.org.example:unknown", port=False),  # names nobody who is here
        bytes((0x45, 0, 0, 20)) + b"\xff" * 19 + b"\0",
        b"\x45\0\0\x40short",
    ],
)
def test_a_transport_id_that_names_nobody_registers_nobody(identifier: bytes) -> None:
    lab = rig()
    host = lab.initiator()
    answer = _out(host, REGISTER, 0, 7, flags=0x08, more=len(identifier).to_bytes(4, "big") + identifier)
    assert answer.sense == (5, 0x26, 0x00)
    assert lab.unit().reservations.registrations == {}


def test_parameter_lists_of_the_wrong_length_are_refused() -> None:
    host = rig().initiator()
    for length in (0, 23, 25, 9000):
        answer = host.send(struct.pack(">BB3xIB", 0x5F, REGISTER, length, 0), bytes(length))
        assert answer.sense == (5, 0x1A, 0x00), length


def test_registrations_are_bounded() -> None:
    state = Reservations()
    for index in range(MAX_REGISTRATIONS):
        state.register(Nexus(f"host{index}", 1), 0, 1, aptpl=False)
    with pytest.raises(CheckCondition):
        state.register(Nexus("one more", 1), 0, 1, aptpl=False)
    assert len(state.registrations) == MAX_REGISTRATIONS


# -- PERSISTENT RESERVE IN --------------------------------------------------------------------------------------------


def test_capabilities_are_reported_as_they_are(tmp_path: Path) -> None:
    assert _in(rig().initiator(), 2) == bytes.fromhex("0008 0c 80 ea01 0000")
    durable = rig(reservation_memory=ReservationFile(tmp_path / "reservations"))
    assert _in(durable.initiator(), 2) == bytes.fromhex("0008 0d 80 ea01 0000")


def test_full_status_names_every_registrant() -> None:
    lab = rig(target_ports=(1, 2))
    (one,) = _registered(lab, 0xAA)
    two = lab.initiator(target_port=2)
    _out(two, REGISTER, 0, 0xBB)
    _out(one, RESERVE, 0xAA, kind=WE)
    data = _in(one, 3)
    first = data[8:]
    assert first[:8] == (0xAA).to_bytes(8, "big")
    assert first[12:14] == bytes((0x01, WE))  # R_HOLDER
    assert first[18:20] == bytes((0, 1))
    length = int.from_bytes(first[20:24], "big")
    assert first[24 : 24 + length] == _transport_id(one.port, port=True)
    second = first[24 + length :]
    assert second[:8] == (0xBB).to_bytes(8, "big")
    assert second[12:14] == bytes(2)
    assert second[18:20] == bytes((0, 2))


def test_keys_are_cut_at_the_allocation_length_and_their_length_is_not() -> None:
    lab = rig()
    one, _ = _registered(lab, 1, 2)
    assert _in(one, 0, 12) == bytes.fromhex("00000002 00000010 00000000")


@pytest.mark.parametrize("action", range(4, 32))
def test_service_actions_that_do_not_exist_are_invalid_fields(action: int) -> None:
    host = rig().initiator()
    assert host.send(bytes((0x5E, action))).sense == (5, 0x24, 0x00)


# -- what ends a reservation, and what does not -----------------------------------------------------------------------


def test_persistent_reservations_survive_logout_and_reset() -> None:
    lab = rig()
    one, two = _registered(lab, 1, 2)
    _out(one, RESERVE, 1, kind=WE)
    lab.device.reset(ResetKind.LOGICAL_UNIT_RESET, 0, two.port, 1)
    one.log_out()
    _attention(two)
    assert _held(two) == (1, WE)
    one.log_in()
    assert one.send("2a 00 00 00 00 00 00 00 01 00", bytes(512)).status == 0


def test_aptpl_survives_a_power_loss_and_only_then(tmp_path: Path) -> None:
    memory = ReservationFile(tmp_path / "reservations")
    lab = rig(reservation_memory=memory)
    one = lab.initiator("iqn.2026-11.org.example:one")
    assert _out(one, REGISTER, 0, 1, flags=0x01).status == 0
    _out(one, RESERVE, 1, kind=WE)
    again = rig(reservation_memory=memory)
    other = again.initiator("iqn.2026-11.org.example:other")
    assert (_keys(other), _held(other)) == ([1], (1, WE))
    assert _generation(other) == 0
    assert other.send("2a 00 00 00 00 00 00 00 01 00", bytes(512)).status == CONFLICT
    same = again.initiator("iqn.2026-11.org.example:one")
    same.port = one.port
    assert _out(same, REGISTER, 1, 3, flags=0x00).status == 0
    assert _keys(rig(reservation_memory=memory).initiator()) == []


def test_aptpl_without_a_place_to_keep_it_is_refused() -> None:
    assert _out(rig().initiator(), REGISTER, 0, 1, flags=0x01).sense == (5, 0x26, 0x00)


def test_a_reservation_that_cannot_be_kept_is_not_made(tmp_path: Path) -> None:
    memory = ReservationFile(tmp_path / "gone" / "reservations")
    lab = rig(reservation_memory=memory)
    host = lab.initiator()
    assert _out(host, REGISTER, 0, 1, flags=0x01).sense == (5, 0x55, 0x04)
    assert (_keys(host), _generation(host)) == ([], 0)


@pytest.mark.parametrize(
    "content",
    ["", "{}", '{"format": 2}', '{"format": 1, "registrations": [{}], "reservation": null}', "[" * 2000],
)
def test_a_damaged_file_is_refused_and_kept(tmp_path: Path, content: str) -> None:
    path = tmp_path / "reservations"
    path.write_text(content)
    with pytest.raises(StoreError, match="holds no reservations"):
        ReservationFile(path).load()
    assert path.read_text() == content


def test_what_is_saved_is_what_is_loaded(tmp_path: Path) -> None:
    state = Reservations()
    state.register(Nexus("ürgel,i,0x000000000001", 2), 0, (1 << 64) - 1, aptpl=True)
    state.reserve(Nexus("ürgel,i,0x000000000001", 2), (1 << 64) - 1, ReservationType.WRITE_EXCLUSIVE)
    memory = ReservationFile(tmp_path / "reservations")
    assert memory.load() is None
    memory.save(state.state())
    loaded = memory.load()
    assert loaded == ReservationState(state.state().registrations, state.reservation, aptpl=True)
    assert [path.name for path in tmp_path.iterdir()] == ["reservations"]


# -- RESERVE (6) and RELEASE (6) -------------------------------------------------------------------------------------

RESERVE_6, RELEASE_6 = "16 00 00 00 00 00", "17 00 00 00 00 00"


def test_a_reserved_unit_lets_only_a_few_commands_of_others_through() -> None:
    lab = rig()
    one, two = lab.initiator(), lab.initiator()
    assert one.send(RESERVE_6).status == one.send(RESERVE_6).status == 0
    for cdb in (RESERVE_6, "00" * 6, "28 00 00 00 00 00 00 00 01 00", "1a 00 3f 00 ff 00", "5e" + "00" * 9):
        assert two.send(cdb).status == CONFLICT, cdb
    for cdb in ("12 00 00 00 ff 00", "03 00 00 00 ff 00", RELEASE_6):
        assert two.send(cdb).status == 0, cdb
    assert one.send("2a 00 00 00 00 00 00 00 01 00", bytes(512)).status == 0
    assert one.send(RELEASE_6).status == 0
    assert two.send(RESERVE_6).status == 0


@pytest.mark.parametrize("how", ["logout", "reset"])
def test_a_logout_or_reset_releases_a_reserved_unit(how: str) -> None:
    lab = rig()
    one, two = lab.initiator(), lab.initiator()
    one.send(RESERVE_6)
    if how == "logout":
        one.log_out()
    else:
        lab.device.reset(ResetKind.LOGICAL_UNIT_RESET, 0, two.port, 1)
        _attention(two)
    assert two.send(RESERVE_6).status == 0


def test_the_two_methods_exclude_each_other() -> None:
    lab = rig()
    (one,) = _registered(lab, 1)
    two = lab.initiator()
    assert one.send(RESERVE_6).status == two.send(RESERVE_6).status == CONFLICT
    assert two.send(RELEASE_6).status == CONFLICT
    _out(one, REGISTER, 1, 0)
    assert two.send(RESERVE_6).status == 0
    assert _out(one, REGISTER, 0, 1).status == CONFLICT


def test_a_conflict_goes_before_a_unit_attention() -> None:
    lab = rig()
    one, two = _registered(lab, 1, 2)
    _out(one, RESERVE, 1, kind=WE)
    _out(one, PREEMPT, 1, 2, kind=WE)
    assert two.send("2a 00 00 00 00 00 00 00 01 00", bytes(512)).status == CONFLICT
    assert _attention(two) == REGISTRATIONS_PREEMPTED


# -- whatever happens ------------------------------------------------------------------------------------------------

_NEXUSES = [Nexus(f"host{index}", 1) for index in range(3)]
_STEP = st.tuples(
    st.sampled_from(
        ("register", "ignore", "reserve", "release", "clear", "preempt", "move", "reserve_6", "release_6")
    ),
    st.sampled_from(_NEXUSES),
    st.integers(0, 3),
    st.integers(0, 3),
    st.sampled_from(list(ReservationType)),
)


@settings(max_examples=200, deadline=None)
@given(steps=st.lists(_STEP, max_size=30))
def test_a_refused_step_changes_nothing_and_a_holder_is_always_registered(
    steps: list[tuple[str, Nexus, int, int, ReservationType]],
) -> None:
    state = Reservations()
    for what, nexus, key, new_key, kind in steps:
        before = (state.state(), state.reserved_by)
        try:
            match what:
                case "register" | "ignore":
                    state.register(nexus, key, new_key, aptpl=False, ignore=what == "ignore")
                case "reserve":
                    state.reserve(nexus, key, kind)
                case "release":
                    state.release(nexus, key, kind)
                case "clear":
                    state.clear(nexus, key)
                case "preempt":
                    state.preempt(nexus, key, new_key, kind)
                case "move":
                    state.move(
                        nexus, key, new_key, _NEXUSES[key % 3], unregister=bool(new_key % 2), aptpl=False
                    )
                case "reserve_6":
                    state.reserve_unit(nexus)
                case "release_6":
                    state.release_unit(nexus)
        except (CheckCondition, StatusOnly):
            assert (state.state(), state.reserved_by) == before
        held = state.reservation
        if held is not None:
            assert state.registrations
            assert held.holder is None or held.holder in state.registrations
            assert held.kind.all_registrants is (held.holder is None)
        assert all(state.registrations.values())
