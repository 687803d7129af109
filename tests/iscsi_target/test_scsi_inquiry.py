# SPDX-License-Identifier: Apache-2.0
"""INQUIRY, its VPD pages, REPORT LUNS, READ CAPACITY and the reports of what is supported."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from iscsi_target.scsi.build import target_device
from iscsi_target.scsi.errors import InvalidConfiguration
from iscsi_target.scsi.logical_unit import LogicalUnitConfig, cdrom_config, derive_identity
from iscsi_target.scsi.opcode_table import OPERATIONS, dispatch_for
from iscsi_target.scsi.stores.memory import MemoryStore
from iscsi_target.scsi.stores.null import NullStore
from tests.iscsi_target.scsi_rig import TARGET, rig


def test_standard_data_are_laid_out_as_spc_4_has_it() -> None:
    data = rig().initiator().send("12 00 00 00 ff 00").data
    assert data[:8] == bytes.fromhex(
        "00 00 06 12 5b 38 10 02"
    )  # disk, SPC-4, HiSup, 96 bytes, ALUA, 3PC, MultiP
    assert data[8:36] == b"SANCREDTVIRTUAL DISK    0001"
    assert data[58:66] == bytes.fromhex("00a0 0960 0460 04c0")  # SAM-5, iSCSI, SPC-4, SBC-3
    assert len(data) == 96


def test_a_cd_rom_says_that_it_is_one() -> None:
    data = rig(cdrom_config(), store=MemoryStore(2048 * 100)).initiator().send("12 00 00 00 ff 00").data
    assert data[0] == 0x05
    assert data[1] == 0x80
    assert data[16:32] == b"VIRTUAL CD-ROM  "


def test_data_are_cut_at_the_allocation_length_without_an_error() -> None:
    host = rig().initiator()
    assert len(host.send("12 00 00 00 24 00").data) == 36
    assert host.send("12 00 00 00 00 00").data == b""


@pytest.mark.parametrize("cdb", ["12 00 80 00 ff 00", "12 01 99 00 ff 00", "12 01 ff 00 ff 00"])
def test_a_page_that_is_not_there_is_an_invalid_field_that_is_pointed_at(cdb: str) -> None:
    answer = rig().initiator().send(cdb)
    assert (answer.status, answer.sense) == (2, (5, 0x24, 0x00))
    assert answer.result.sense[15:18] == bytes.fromhex("c0 00 02")


def test_supported_pages_are_listed_in_order_and_all_of_them_answer() -> None:
    host = rig().initiator()
    listed = host.send("12 01 00 00 ff 00").data
    assert listed == bytes.fromhex("00 00 00 07 00 80 83 86 b0 b1 b2")
    for page in listed[4:]:
        data = host.send(bytes((0x12, 1, page, 0, 0xFF, 0))).data
        assert data[:2] == bytes((0, page))
        assert len(data) == 4 + int.from_bytes(data[2:4], "big")


def test_serial_number_and_naa_stay_the_same_and_differ_between_luns() -> None:
    stores = {0: MemoryStore(4096), 1: MemoryStore(4096)}
    host = rig(stores=dict(stores)).initiator()
    serials = [host.send("12 01 80 00 ff 00", lun=lun).data[4:] for lun in (0, 1)]
    assert serials == [derive_identity(TARGET, lun).serial.encode() for lun in (0, 1)]
    assert serials[0] != serials[1]
    naa = host.send("12 01 83 00 ff 00").data[4:16]
    assert naa[:4] == bytes.fromhex("01 03 00 08")  # binary, of the logical unit, NAA, 8 bytes
    assert naa[4] >> 4 == 3  # locally assigned


def test_device_identification_names_port_group_and_target() -> None:
    data = rig(target_ports=(1, 7)).initiator(target_port=7).send("12 01 83 00 ff 00").data
    descriptors, position = [], 4
    while position < len(data):
        length = data[position + 3]
        descriptors.append((data[position + 1] & 0x3F, data[position + 4 : position + 4 + length]))
        position += 4 + length
    found = dict(descriptors)
    assert found[0x14] == bytes.fromhex("00 00 00 07")  # relative target port
    assert found[0x15] == bytes.fromhex("00 00 00 07")  # target port group
    assert found[0x18].rstrip(b"\0") == f"{TARGET},t,0x0007".encode()
    assert found[0x28].rstrip(b"\0") == TARGET.encode()


def test_block_limits_hold_the_limits_that_are_enforced() -> None:
    data = rig().initiator().send("12 01 b0 00 ff 00").data
    assert len(data) == 64
    assert data[5] == 255  # COMPARE AND WRITE
    assert int.from_bytes(data[8:12], "big") == 32768  # 16 MiB
    assert int.from_bytes(data[24:28], "big") == 256  # UNMAP descriptors
    assert int.from_bytes(data[28:32], "big") == 8  # UNMAP granularity, 4 KiB
    assert int.from_bytes(data[36:44], "big") == 32768  # WRITE SAME


def test_a_unit_that_is_not_thin_says_so_everywhere_and_has_no_unmap() -> None:
    host = rig(store=NullStore(1 << 20)).initiator()
    assert host.send("9e 10" + "00" * 11 + "20 00 00").data[14] == 0x00
    assert host.send("12 01 b2 00 ff 00").data[5:7] == b"\0\0"
    assert host.send("12 01 b0 00 ff 00").data[20:28] == bytes(8)
    assert host.send("42 00 00 00 00 00 00 00 00 00").sense == (5, 0x20, 0x00)
    assert rig().initiator().send("9e 10" + "00" * 11 + "20 00 00").data[14] == 0xC0


@pytest.mark.parametrize(
    ("size", "ten", "sixteen"),
    [
        (1 << 20, "000007ff 00000200", "00000000000007ff 00000200 00 03"),
        (4 << 40, "ffffffff 00000200", "00000001ffffffff 00000200 00 03"),
    ],
)
def test_capacity_is_that_of_the_store(size: int, ten: str, sixteen: str) -> None:
    host = rig(store=NullStore(size)).initiator()
    assert host.send("25 00 00 00 00 00 00 00 00 00").data == bytes.fromhex(ten)
    data = host.send("9e 10" + "00" * 11 + "20 00 00").data
    assert len(data) == 32
    assert data[:14] == bytes.fromhex(sixteen)


def test_a_store_that_ends_within_a_block_is_refused_with_what_to_do(tmp_path: Path) -> None:
    """Its tail would not be served, and nobody would be told."""
    with pytest.raises(InvalidConfiguration, match="take 512 or 1024 bytes"):
        rig(store=MemoryStore(1000))
    with pytest.raises(InvalidConfiguration, match="4096-byte block: take 4096 or 8192 bytes"):
        rig(LogicalUnitConfig(block_length=4096), store=MemoryStore(4608))
    disk = tmp_path / "my disk"
    disk.write_bytes(bytes(5_000_000))
    with pytest.raises(InvalidConfiguration, match=r"truncate -s 5000192 '.*/my disk'") as refused:
        target_device(TARGET, [str(disk)])
    assert "\n" not in str(refused.value)
    with pytest.raises(InvalidConfiguration, match="a copy"):
        target_device(TARGET, [str(disk)], LogicalUnitConfig(read_only=True))
    subprocess.run(["truncate", "-s", "5000192", disk], check=True, timeout=10)
    target_device(TARGET, [str(disk)]).close()


@pytest.mark.parametrize(
    ("config", "at_least"), [(LogicalUnitConfig(), 60), (cdrom_config(), 18)], ids=["disk", "cd-rom"]
)
def test_every_command_that_is_reported_is_there_and_describes_its_cdb(
    config: LogicalUnitConfig, at_least: int
) -> None:
    host = rig(config, store=MemoryStore(1 << 20)).initiator()
    data = host.send("a3 0c 00 00 00 00 00 00 ff ff 00 00").data
    descriptors = [data[at : at + 8] for at in range(4, len(data), 8)]
    assert int.from_bytes(data[:4], "big") == len(data) - 4
    assert len(descriptors) >= at_least
    for descriptor in descriptors:
        code, action, has_action = descriptor[0], descriptor[2:4], descriptor[5] & 1
        one = host.send(
            bytes((0xA3, 0x0C, 2 if has_action else 1, code)) + action + bytes.fromhex("0000ffff0000")
        ).data
        assert one[1] & 7 == 3
        assert one[2:4] == descriptor[6:8]
        assert one[4] == code
        assert len(one) == 4 + int.from_bytes(one[2:4], "big")


def test_commands_are_reported_with_their_timeouts_when_asked() -> None:
    data = rig().initiator().send("a3 0c 80 00 00 00 00 00 ff ff 00 00").data
    assert (len(data) - 4) % 20 == 0
    assert data[4 + 5] & 2
    assert data[12:14] == bytes.fromhex("000a")


@pytest.mark.parametrize(
    ("cdb", "status", "support"),
    [
        ("a3 0c 01 28 00 00 00 00 00 ff 00 00", 0, 3),  # READ (10), by opcode
        ("a3 0c 01 ee 00 00 00 00 00 ff 00 00", 0, 1),  # nothing, by opcode
        ("a3 0c 02 9e 00 10 00 00 00 ff 00 00", 0, 3),  # READ CAPACITY (16), by service action
        ("a3 0c 02 9e 00 1f 00 00 00 ff 00 00", 0, 1),  # no such service action
        ("a3 0c 03 28 00 00 00 00 00 ff 00 00", 0, 3),  # either way
        ("a3 0c 01 9e 00 00 00 00 00 ff 00 00", 2, None),  # has service actions: not by opcode alone
        ("a3 0c 02 28 00 00 00 00 00 ff 00 00", 2, None),  # has none: not by service action
        ("a3 0c 04 28 00 00 00 00 00 ff 00 00", 2, None),
    ],
)
def test_one_command_is_reported_as_the_reporting_options_say(
    cdb: str, status: int, support: int | None
) -> None:
    answer = rig().initiator().send(cdb)
    assert answer.status == status
    if support is not None:
        assert answer.data[1] & 7 == support


def test_task_management_functions_are_reported() -> None:
    host = rig().initiator()
    assert host.send("a3 0d 00 00 00 00 00 00 00 04 00 00").data == bytes.fromhex("de 07 00 00")
    assert len(host.send("a3 0d 80 00 00 00 00 00 00 ff 00 00").data) == 16
    assert host.send("a3 0d 00 00 00 00 00 00 00 03 00 00").sense == (5, 0x24, 0x00)


def test_two_rows_for_one_command_are_refused_when_the_table_is_built() -> None:
    with pytest.raises(ValueError, match="is taken"):
        dispatch_for(rig().unit(), (*OPERATIONS, OPERATIONS[0]))


@pytest.mark.parametrize(
    ("fields", "says"),
    [
        ({"block_length": 513}, "block length"),
        ({"physical_block_exponent": 16}, "exponent"),
        ({"vendor": "far too long"}, "vendor"),
        ({"product": "Größe"}, "product"),
        ({"revision": ""}, "revision"),
    ],
)
def test_a_configuration_without_meaning_is_refused(fields: dict[str, int | str], says: str) -> None:
    with pytest.raises(InvalidConfiguration, match=says):
        LogicalUnitConfig(**fields)  # type: ignore[arg-type]
