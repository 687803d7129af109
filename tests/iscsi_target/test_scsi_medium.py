# SPDX-License-Identifier: Apache-2.0
"""Readiness, unit attentions, removable media, REQUEST SENSE."""

from __future__ import annotations

import pytest

from iscsi_target.executor import ResetKind
from iscsi_target.scsi.logical_unit import LogicalUnitConfig, cdrom_config
from iscsi_target.scsi.sense import Condition
from iscsi_target.scsi.stores.memory import MemoryStore
from iscsi_target.scsi.unit_attention import MAX_PENDING, Nexus, UnitAttentions
from tests.iscsi_target.scsi_rig import Initiator, rig

TEST_UNIT_READY = "00 00 00 00 00 00"
EJECT, LOAD = "1b 00 00 00 02 00", "1b 00 00 00 03 00"
PREVENT, ALLOW = "1e 00 00 00 01 00", "1e 00 00 00 00 00"
NO_MEDIUM = (2, 0x3A, 0x02)


def _removable() -> tuple[Initiator, Initiator]:
    lab = rig(LogicalUnitConfig(removable=True))
    return lab.initiator(), lab.initiator()


def test_a_new_nexus_is_told_once_that_the_power_came_on() -> None:
    lab = rig()
    host = Initiator(
        lab.device, "iqn.2026-11.org.example:new", "iqn.2026-11.org.example:new,i,0x000000000009"
    )
    lab.device.i_t_nexus_established(host.name, host.port, host.target_port)
    assert host.send("12 00 00 00 ff 00").status == 0  # INQUIRY and REPORT LUNS neither tell nor clear it
    assert host.send("a0 00 00 00 00 00 00 00 00 ff 00 00").status == 0
    assert host.send(TEST_UNIT_READY).sense == (6, 0x29, 0x00)
    assert host.send(TEST_UNIT_READY).status == 0


def test_request_sense_gives_the_unit_attention_as_data_and_clears_it() -> None:
    lab = rig()
    host = lab.initiator()
    lab.device.reset(ResetKind.LOGICAL_UNIT_RESET, 0, host.port, 1)
    answer = host.send("03 00 00 00 ff 00")
    assert (answer.status, answer.data[2] & 0xF, answer.data[12:14]) == (0, 6, bytes.fromhex("2903"))
    assert host.send("03 00 00 00 ff 00").data[2] == 0
    assert host.send("03 01 00 00 ff 00").data == bytes.fromhex("72 00 00 00 00 00 00 00")


def test_a_unit_attention_keeps_a_command_from_running() -> None:
    lab = rig()
    host = lab.initiator()
    lab.device.reset(ResetKind.LOGICAL_UNIT_RESET, 0, host.port, 1)
    assert host.send("2a 00 00 00 00 00 00 00 01 00", b"x" * 512).sense == (6, 0x29, 0x03)
    assert host.send("28 00 00 00 00 00 00 00 01 00").data == bytes(512)


def test_a_reset_clears_what_waits_and_the_queue_is_bounded() -> None:
    attentions, nexus = UnitAttentions(), Nexus("host", 1)
    for condition in Condition:
        if condition.key == 6 and "RESET" not in condition.name:
            attentions.establish(nexus, condition)
            attentions.establish(nexus, condition)
    assert len(attentions.pending[nexus]) == MAX_PENDING
    assert len(set(attentions.pending[nexus])) == len(attentions.pending[nexus])
    attentions.establish(nexus, Condition.BUS_DEVICE_RESET_FUNCTION_OCCURRED)
    assert attentions.take(nexus) is Condition.BUS_DEVICE_RESET_FUNCTION_OCCURRED
    assert attentions.take(nexus) is None
    assert attentions.pending == {}


@pytest.mark.parametrize("kind", [ResetKind.LOGICAL_UNIT_RESET, ResetKind.TARGET_WARM_RESET])
def test_every_nexus_hears_of_a_reset(kind: ResetKind) -> None:
    lab = rig()
    one, two = lab.initiator(), lab.initiator()
    assert lab.device.reset(kind, 0, one.port, 1)
    for host in (one, two):
        assert host.send(TEST_UNIT_READY).sense == (6, 0x29, 0x03)


def test_a_clear_task_set_is_told_to_the_others_only() -> None:
    lab = rig()
    one, two = lab.initiator(), lab.initiator()
    assert lab.device.reset(ResetKind.CLEAR_TASK_SET, 0, one.port, 1)
    assert one.send(TEST_UNIT_READY).status == 0
    assert two.send(TEST_UNIT_READY).sense == (6, 0x2F, 0x00)


def test_a_reset_of_a_lun_that_is_not_there_says_so() -> None:
    lab = rig()
    host = lab.initiator()
    assert not lab.device.reset(ResetKind.LOGICAL_UNIT_RESET, 5, host.port, 1)


def test_an_ejected_medium_is_missing_until_it_is_loaded() -> None:
    one, two = _removable()
    assert one.send(EJECT).status == 0
    for cdb in (
        TEST_UNIT_READY,
        "28 00 00 00 00 00 00 00 01 00",
        "25" + "00" * 9,
        "35" + "00" * 9,
        "9e 12 00 00 00 00 00 00 00 00 00 00 00 18 00 00",
        "2f" + "00" * 9,
    ):
        assert one.send(cdb).sense == NO_MEDIUM
    written = one.send("2a 00 00 00 00 00 00 00 01 00", b"x" * 512)
    assert (written.sense, written.asked_bytes) == (NO_MEDIUM, 0)
    assert one.send("12 00 00 00 ff 00").status == 0
    assert one.send("03 00 00 00 ff 00").data[12] == 0x3A
    assert one.send(LOAD).status == 0
    assert one.send(TEST_UNIT_READY).status == 0
    assert two.send(TEST_UNIT_READY).sense == (6, 0x28, 0x00)


def test_a_medium_stays_while_anyone_prevents_its_removal() -> None:
    one, two = _removable()
    assert one.send(PREVENT).status == 0
    assert two.send(PREVENT).status == 0
    for host in (one, two):
        assert host.send(EJECT).sense == (5, 0x53, 0x02)
    one.send(ALLOW)
    assert one.send(EJECT).sense == (5, 0x53, 0x02)
    two.log_out()
    assert one.send(EJECT).status == 0


def test_a_reset_allows_removal() -> None:
    lab = rig(LogicalUnitConfig(removable=True))
    host = lab.initiator()
    host.send(PREVENT)
    lab.device.reset(ResetKind.LOGICAL_UNIT_RESET, 0, host.port, 1)
    host.send(TEST_UNIT_READY)
    assert host.send(EJECT).status == 0


def test_stopping_flushes_and_leaves_a_virtual_disk_ready(monkeypatch: pytest.MonkeyPatch) -> None:
    store = MemoryStore(1 << 20)
    flushed: list[bool] = []
    monkeypatch.setattr(store, "flush", lambda: flushed.append(True))
    host = rig(store=store).initiator()
    assert host.send("1b 00 00 00 00 00").status == 0
    assert flushed == [True]
    assert host.send("1b 00 00 00 04 00").status == 0  # NO_FLUSH
    assert flushed == [True]
    assert host.send(TEST_UNIT_READY).status == 0


def test_power_conditions_do_not_eject() -> None:
    host, _ = _removable()
    for condition in range(1, 16):
        assert host.send(bytes((0x1B, 1, 0, 0, condition << 4 | 2, 0))).status == 0
        assert host.send(TEST_UNIT_READY).status == 0


def test_what_cannot_be_removed_cannot_be_ejected() -> None:
    assert rig().initiator().send(EJECT).sense == (5, 0x24, 0x00)


def test_a_cd_rom_can_be_ejected() -> None:
    host = rig(cdrom_config(), store=MemoryStore(1 << 20)).initiator()
    assert host.send(EJECT).status == 0
    assert host.send(TEST_UNIT_READY).sense == NO_MEDIUM
