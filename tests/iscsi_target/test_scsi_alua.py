# SPDX-License-Identifier: Apache-2.0
"""Asymmetric logical unit access: states per target port group, and what works in which."""

from __future__ import annotations

import struct

import pytest

from iscsi_target.scsi.alua import AccessState
from tests.iscsi_target.scsi_rig import Answer, Initiator, rig

REPORT = "a3 0a 00 00 00 00 00 00 00 ff 00 00"
READ = "28 00 00 00 00 00 00 00 01 00"


def _set(host: Initiator, *states: tuple[int, int]) -> Answer:
    data = bytes(4) + b"".join(struct.pack(">BxH", state, group) for group, state in states)
    return host.send(struct.pack(">BB4xIxB", 0xA4, 0x0A, len(data), 0), data)


def test_every_portal_group_is_reported_with_its_port_and_state() -> None:
    host = rig(target_ports=(1, 2)).initiator()
    supported = "8f"  # transitioning, unavailable, standby, active/non-optimized, active/optimized
    assert host.send(REPORT).data == bytes.fromhex(
        f"00000018  00 {supported} 0001 00 00 00 01 0000 0001  00 {supported} 0002 00 00 00 01 0000 0002"
    )
    assert host.send("a3 2a 00 00 00 00 00 00 00 ff 00 00").data[:8] == bytes.fromhex("0000001c 10 00 00 00")
    assert host.send("a3 4a 00 00 00 00 00 00 00 ff 00 00").sense == (5, 0x24, 0x00)


def test_a_state_is_set_for_all_and_told_to_the_others() -> None:
    lab = rig(target_ports=(1, 2))
    one, two = lab.initiator(), lab.initiator(target_port=2)
    assert _set(one, (2, 1)).status == 0
    assert two.send("00" * 6).sense == (6, 0x2A, 0x06)
    assert two.send(REPORT).data[12 + 4] == 1
    assert two.send(READ).status == 0  # active/non-optimized works
    assert _set(one, (2, 1)).status == 0
    assert two.send("00" * 6).status == 0  # nothing changed, nothing is told


@pytest.mark.parametrize(
    ("state", "sense", "mode_sense_works"), [(2, (2, 0x04, 0x0B), True), (3, (2, 0x04, 0x0C), False)]
)
def test_a_port_that_is_not_active_serves_only_what_the_standard_lets_through(
    state: int, sense: tuple[int, int, int], mode_sense_works: bool
) -> None:
    lab = rig(target_ports=(1, 2))
    one, two = lab.initiator(), lab.initiator(target_port=2)
    _set(one, (2, state))
    two.send("00" * 6)
    assert two.send("00" * 6).sense == sense
    assert two.send(READ).sense == sense
    assert two.send("2a 00 00 00 00 00 00 00 01 00", bytes(512)).sense == sense
    assert (two.send("1a 00 3f 00 ff 00").status == 0) is mode_sense_works
    for cdb in (REPORT, "12 00 00 00 ff 00", "a0 00 00 00 00 00 00 00 00 ff 00 00", "03 00 00 00 ff 00"):
        assert two.send(cdb).status == 0
    assert one.send(READ).status == 0
    assert _set(two, (2, 0)).status == 0
    assert two.send(READ).status == 0


def test_a_port_in_transition_serves_little_and_sets_no_states() -> None:
    """SPC-4 5.15.2.5. Whoever runs the target begins a transition, and ends it: an implicit change, told to all."""
    lab = rig(target_ports=(1, 2))
    one, two = lab.initiator(), lab.initiator(target_port=2)
    lab.unit().set_port_states({2: AccessState.TRANSITIONING})
    for each in (one, two):
        assert each.send("03 00 00 00 ff 00").data[2:14:10] == bytes((6, 0x2A)), "both are told"
    for cdb in ("00" * 6, READ, "1a 00 3f 00 ff 00"):
        assert two.send(cdb).sense == (2, 0x04, 0x0A)
        assert one.send(cdb).status == 0
    assert _set(two, (2, 0)).sense == (2, 0x04, 0x0A)
    groups = two.send(REPORT).data
    assert (groups[16] & 0xF, groups[16 + 5]) == (0xF, 2), "transitioning, altered implicitly"
    lab.unit().set_port_states({2: AccessState.ACTIVE_OPTIMIZED})
    two.send("03 00 00 00 ff 00")
    assert two.send(READ).status == 0
    assert _set(two, (2, 1)).status == 0
    assert two.send(REPORT).data[16 + 5] == 1, "altered by command"


@pytest.mark.parametrize(
    ("states", "sense"),
    [
        (((1, 1), (9, 1)), (5, 0x26, 0x00)),  # no such group
        (((1, 1), (2, 0xE)), (5, 0x26, 0x00)),  # offline is not for this command to set
        (((1, 1), (2, 0xF)), (5, 0x26, 0x00)),
    ],
)
def test_a_wrong_descriptor_changes_no_state(
    states: tuple[tuple[int, int], ...], sense: tuple[int, int, int]
) -> None:
    lab = rig(target_ports=(1, 2))
    assert _set(lab.initiator(), *states).sense == sense
    assert lab.unit().port_states == {}


def test_lists_of_the_wrong_length_are_refused_and_an_empty_one_is_fine() -> None:
    host = rig().initiator()
    assert host.send("a4 0a 00 00 00 00 00 00 00 07 00 00", bytes(7)).sense == (5, 0x1A, 0x00)
    assert host.send("a4 0a 00 00 00 00 00 00 20 00 00 00", bytes(8192)).sense == (5, 0x1A, 0x00)
    assert host.send("a4 0a 00 00 00 00 00 00 00 00 00 00").status == 0
