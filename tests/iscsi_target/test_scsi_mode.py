# SPDX-License-Identifier: Apache-2.0
"""MODE SENSE and MODE SELECT."""

from __future__ import annotations

import pytest

from iscsi_target.scsi.logical_unit import LogicalUnitConfig, cdrom_config
from iscsi_target.scsi.stores.memory import MemoryStore
from tests.iscsi_target.scsi_rig import Initiator, rig

CACHING = "08 12 {wce} 00 00 00 00 00 00 00 00 00 00 00 00 00 00 00 00 00"
CONTROL = "0a 0a {flags} 10 {swp} 00 00 00 00 00 00 00"


def _select(host: Initiator, *pages: str) -> tuple[int, tuple[int, int, int]]:
    """MODE SELECT (6) without a block descriptor."""
    data = bytes(4) + bytes.fromhex("".join(pages))
    answer = host.send(bytes((0x15, 0x10, 0, 0, len(data), 0)), data)
    return answer.status, answer.sense


def test_the_short_header_and_block_descriptor_are_those_of_sbc_3() -> None:
    data = rig().initiator().send("1a 00 08 00 ff 00").data
    # length, medium type, DPOFUA, block descriptor length; 2048 blocks of 512 bytes
    assert data[:12] == bytes.fromhex("1f 00 10 08  00000800 00 000200")
    assert data[12:] == bytes.fromhex(CACHING.format(wce="04"))


def test_the_long_header_has_a_long_block_descriptor_when_asked() -> None:
    data = rig().initiator().send("5a 10 08 00 00 00 00 00 ff 00").data
    assert data[:8] == bytes.fromhex("002a 00 10 01 00 0010")
    assert data[8:24] == bytes.fromhex("0000000000000800 00000000 00000200")


def test_without_block_descriptor_there_is_none() -> None:
    assert rig().initiator().send("1a 08 08 00 ff 00").data[:4] == bytes.fromhex("17 00 10 00")


def test_all_pages_come_in_order_and_subpages_only_when_asked() -> None:
    host = rig().initiator()

    def pages(cdb: str) -> list[tuple[int, int]]:
        data, found, at = host.send(cdb).data, [], 4
        while at < len(data):
            subpage = data[at] & 0x40
            found.append((data[at] & 0x3F, data[at + 1] if subpage else 0))
            at += 4 + int.from_bytes(data[at + 2 : at + 4], "big") if subpage else 2 + data[at + 1]
        assert at == len(data)
        return found

    assert pages("1a 08 3f 00 ff 00") == [(1, 0), (8, 0), (0xA, 0), (0x1C, 0)]
    assert pages("1a 08 3f ff ff 00") == [(1, 0), (8, 0), (0xA, 0), (0xA, 1), (0x1C, 0)]
    assert pages("1a 08 0a ff ff 00") == [(0xA, 0), (0xA, 1)]
    assert pages("1a 08 0a 01 ff 00") == [(0xA, 1)]


def test_changeable_values_are_a_mask() -> None:
    host = rig().initiator()
    assert host.send("1a 08 48 00 ff 00").data[4:] == bytes.fromhex(CACHING.format(wce="04"))
    assert host.send("1a 08 4a 00 ff 00").data[4:] == bytes.fromhex("0a 0a 04 00 08 00 00 00 00 00 00 00")


@pytest.mark.parametrize(
    ("cdb", "sense"),
    [
        ("1a 08 c8 00 ff 00", (5, 0x39, 0x00)),  # saved values
        ("1a 08 05 00 ff 00", (5, 0x24, 0x00)),  # no such page
        ("1a 08 08 01 ff 00", (5, 0x24, 0x00)),  # no such subpage
        ("1a 08 3f 01 ff 00", (5, 0x24, 0x00)),
    ],
)
def test_what_is_not_there_is_refused(cdb: str, sense: tuple[int, int, int]) -> None:
    assert rig().initiator().send(cdb).sense == sense


def test_the_write_cache_can_be_switched_and_the_others_hear_of_it() -> None:
    lab = rig()
    one, two = lab.initiator(), lab.initiator()
    assert _select(one, CACHING.format(wce="00")) == (0, (0, 0, 0))
    assert not lab.unit().mode.wce
    assert one.send("00" * 6).status == 0
    assert two.send("00" * 6).sense == (6, 0x2A, 0x01)
    assert two.send("00" * 6).status == 0
    assert one.send("1a 08 08 00 ff 00").data[6] == 0x00
    assert one.send("1a 08 88 00 ff 00").data[6] == 0x04  # the default stays


def test_without_a_write_cache_every_write_is_durable(monkeypatch: pytest.MonkeyPatch) -> None:
    store = MemoryStore(1 << 20)
    seen: list[bool] = []
    write = store.write

    def watched(offset: int, data: bytes, *, durable: bool = False) -> None:
        seen.append(durable)
        write(offset, data, durable=durable)

    monkeypatch.setattr(store, "write", watched)
    host = rig(store=store).initiator()
    host.send("2a 00 00 00 00 00 00 00 01 00", b"x" * 512)
    host.send("2a 08 00 00 00 00 00 00 01 00", b"x" * 512)
    _select(host, CACHING.format(wce="00"))
    host.send("2a 00 00 00 00 00 00 00 01 00", b"x" * 512)
    assert seen == [False, True, True]


def test_switching_the_write_cache_off_flushes_it(monkeypatch: pytest.MonkeyPatch) -> None:
    store = MemoryStore(1 << 20)
    flushed: list[bool] = []
    monkeypatch.setattr(store, "flush", lambda: flushed.append(True))
    host = rig(store=store).initiator()
    _select(host, CACHING.format(wce="04"))
    assert flushed == []
    _select(host, CACHING.format(wce="00"))
    _select(host, CACHING.format(wce="00"))
    assert flushed == [True]


def test_software_write_protect_stops_writes_and_shows_in_the_header() -> None:
    lab = rig()
    host = lab.initiator()
    assert _select(host, CONTROL.format(flags="00", swp="08"))[0] == 0
    assert host.send("1a 08 0a 00 ff 00").data[2] & 0x80
    answer = host.send("2a 00 00 00 00 00 00 00 01 00", b"x" * 512)
    assert (answer.sense, answer.asked_bytes) == ((7, 0x27, 0x02), 0)
    assert _select(host, CONTROL.format(flags="00", swp="00"))[0] == 0
    assert host.send("2a 00 00 00 00 00 00 00 01 00", b"x" * 512).status == 0


def test_d_sense_selects_descriptor_format() -> None:
    host = rig().initiator()
    _select(host, CONTROL.format(flags="04", swp="00"))
    assert host.send("ee" + "00" * 5).result.sense == bytes.fromhex("72 05 20 00 00 00 00 00")


@pytest.mark.parametrize(
    ("pages", "sense", "pointer"),
    [
        ((CACHING.format(wce="05"),), (5, 0x26, 0x00), 6),  # RCD may not change
        (("08 11" + "00" * 17,), (5, 0x26, 0x00), 5),  # page length
        (("05 02 00 00",), (5, 0x26, 0x00), 4),  # no such page
        ((CACHING.format(wce="00"), CONTROL.format(flags="02", swp="00")), (5, 0x26, 0x00), 26),
        ((CACHING.format(wce="00")[:-6],), (5, 0x1A, 0x00), None),  # cut short
    ],
)
def test_a_wrong_list_is_refused_whole_and_changes_nothing(
    pages: tuple[str, ...], sense: tuple[int, int, int], pointer: int | None
) -> None:
    lab = rig()
    host = lab.initiator()
    before = host.send("1a 08 3f ff ff 00").data
    data = bytes(4) + bytes.fromhex("".join(pages))
    answer = host.send(bytes((0x15, 0x10, 0, 0, len(data), 0)), data)
    assert answer.sense == sense
    if pointer is not None:
        assert answer.result.sense[15] & 0xC0 == 0x80  # in the parameter list
        assert int.from_bytes(answer.result.sense[16:18], "big") == pointer
    assert host.send("1a 08 3f ff ff 00").data == before


def test_what_mode_sense_gave_mode_select_takes_back() -> None:
    host = rig().initiator()
    for sense, select in (
        ("1a 00 3f ff ff 00", "15 10 00 00 {:02x} 00"),
        ("5a 00 3f ff 00 00 00 00 ff 00", ""),
    ):
        data = bytearray(host.send(sense).data)
        if select:
            data[0] = 0
            assert host.send(select.format(len(data)), data).status == 0
        else:
            data[0:2] = bytes(2)
            assert host.send("55 10 00 00 00 00 00" + f"{len(data):04x}" + "00", data).status == 0


def test_page_format_and_save_pages_are_checked() -> None:
    host = rig().initiator()
    data = bytes(4) + bytes.fromhex(CACHING.format(wce="00"))
    assert host.send(bytes((0x15, 0x00, 0, 0, len(data), 0)), data).sense == (5, 0x24, 0x00)
    assert host.send(bytes((0x15, 0x11, 0, 0, len(data), 0)), data).sense == (5, 0x24, 0x00)
    assert host.send("15 10 00 00 00 00").status == 0  # nothing to select is no error


def test_a_reset_restores_the_defaults() -> None:
    lab = rig()
    host = lab.initiator()
    _select(host, CACHING.format(wce="00"))
    lab.unit().reset()
    assert lab.unit().mode.wce


def test_a_unit_made_read_only_says_so_and_a_cd_rom_has_its_capabilities() -> None:
    assert rig(LogicalUnitConfig(read_only=True)).initiator().send("1a 08 0a 00 ff 00").data[2] & 0x80
    drive = rig(cdrom_config(), store=MemoryStore(1 << 20)).initiator()
    assert drive.send("5a 08 2a 00 00 00 00 00 ff 00").data[8:10] == bytes.fromhex("2a 14")
    assert drive.send("5a 08 08 00 00 00 00 00 ff 00").sense == (5, 0x24, 0x00)
