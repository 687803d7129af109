# SPDX-License-Identifier: Apache-2.0
"""SANITIZE."""

from __future__ import annotations

import struct
import threading
import time

import pytest

from iscsi_target.scsi.errors import StoreError
from iscsi_target.scsi.logical_unit import LogicalUnitConfig
from iscsi_target.scsi.stores.memory import MemoryStore
from tests.iscsi_target.scsi_rig import BLOCK, Answer, Initiator, Rig, rig

OVERWRITE, BLOCK_ERASE, CRYPTO_ERASE, EXIT_FAILURE = 1, 2, 3, 0x1F
IN_PROGRESS = (2, 0x04, 0x1B)


def _sanitize(host: Initiator, action: int, data: bytes = b"", *, immed: bool = False) -> Answer:
    return host.send(struct.pack(">BB5xHB", 0x48, immed << 7 | action, len(data), 0), data)


def _overwrite(pattern: bytes, *, count: int = 1, invert: bool = False) -> bytes:
    return struct.pack(">BxH", invert << 7 | count, len(pattern)) + pattern


def _filled(config: LogicalUnitConfig | None = None, size: int = 3 << 20) -> tuple[Rig, Initiator]:
    lab = rig(config, store=MemoryStore(size))
    lab.unit().store.write(0, b"s" * size)
    return lab, lab.initiator()


@pytest.mark.parametrize("action", [BLOCK_ERASE, CRYPTO_ERASE])
def test_an_erase_leaves_zeros_and_nothing_mapped(action: int) -> None:
    lab, host = _filled()
    assert _sanitize(host, action).status == 0
    assert not any(bytes(lab.unit().store.read(0, 3 << 20)[0]))
    assert [extent.mapped for extent in lab.unit().store.extents(0, 3 << 20)] == [False]
    assert host.send("00" * 6).status == 0


@pytest.mark.parametrize(
    ("pattern", "count", "invert", "expected"),
    [
        (b"\xaa" * BLOCK, 1, False, b"\xaa" * BLOCK),
        (b"\x12\x34\x56", 1, False, (b"\x12\x34\x56" * 171)[:BLOCK]),
        (b"\x0f", 2, True, b"\xf0" * BLOCK),
        (b"\x0f", 3, True, b"\x0f" * BLOCK),
    ],
)
def test_an_overwrite_leaves_its_pattern_in_every_block(
    pattern: bytes, count: int, invert: bool, expected: bytes
) -> None:
    lab, host = _filled(size=(2 << 20) + 7 * BLOCK)
    assert _sanitize(host, OVERWRITE, _overwrite(pattern, count=count, invert=invert)).status == 0
    data = bytes(lab.unit().store.read(0, (2 << 20) + 7 * BLOCK)[0])
    assert data == expected * (len(data) // BLOCK)


@pytest.mark.parametrize(
    "data",
    [
        b"",
        bytes(4),
        bytes(BLOCK + 5),
        _overwrite(b"x", count=0),
        struct.pack(">BxH", 1, 0) + b"x",
        struct.pack(">BxH", 1, 9) + b"x",
        struct.pack(">BxH", 0x21, 1) + b"x",
    ],
)
def test_an_overwrite_without_meaning_changes_nothing(data: bytes) -> None:
    lab, host = _filled()
    assert _sanitize(host, OVERWRITE, data).sense[0] == 5
    assert bytes(lab.unit().store.read(0, 1)[0]) == b"s"


@pytest.mark.parametrize("action", [OVERWRITE, BLOCK_ERASE, CRYPTO_ERASE])
@pytest.mark.parametrize(("byte", "bits"), [(1, 0x40), (2, 1), (3, 1), (4, 1), (5, 1), (6, 1)])
def test_reserved_fields_are_checked_before_anything_is_destroyed(action: int, byte: int, bits: int) -> None:
    lab, host = _filled()
    data = _overwrite(b"x") if action == OVERWRITE else b""
    cdb = bytearray(struct.pack(">BB5xHB", 0x48, action, len(data), 0))
    cdb[byte] |= bits
    answer = host.send(bytes(cdb), data)
    assert answer.sense == (5, 0x24, 0x00)
    assert int.from_bytes(answer.result.sense[16:18], "big") == byte
    assert bytes(lab.unit().store.read(0, 1)[0]) == b"s"


def test_an_erase_takes_no_parameters_and_unknown_actions_are_refused() -> None:
    _, host = _filled()
    assert host.send("48 02 00 00 00 00 00 00 08 00", bytes(8)).sense == (5, 0x24, 0x00)
    for action in (0, 4, 0x1E):
        assert _sanitize(host, action).sense == (5, 0x24, 0x00)
    assert _sanitize(host, EXIT_FAILURE).status == 0


def test_a_write_protected_unit_is_not_sanitized() -> None:
    _, host = _filled(LogicalUnitConfig(read_only=True))
    for action, data in ((OVERWRITE, _overwrite(b"x")), (BLOCK_ERASE, b""), (CRYPTO_ERASE, b"")):
        assert _sanitize(host, action, data).sense == (7, 0x27, 0x00)


class _HeldStore(MemoryStore):
    """A store that lets a discard wait until the test says so."""

    def __init__(self, size_bytes: int) -> None:
        super().__init__(size_bytes)
        self.reached = threading.Event()
        self.go_on = threading.Event()

    def discard(self, offset: int, length: int) -> None:
        if offset >= 1 << 20:
            self.reached.set()
            assert self.go_on.wait(30)
        super().discard(offset, length)


def test_while_it_runs_in_the_background_other_commands_are_refused_with_the_progress() -> None:
    store = _HeldStore(2 << 20)
    lab = rig(store=store)
    host, other = lab.initiator(), lab.initiator()
    assert _sanitize(host, BLOCK_ERASE, immed=True).status == 0
    assert store.reached.wait(30)
    for each in (host, other):
        answer = each.send("00" * 6)
        assert answer.sense == IN_PROGRESS
        assert answer.result.sense[15:18] == bytes.fromhex("80 8000")  # half of it is done
    assert other.send("2a 00 00 00 00 00 00 00 01 00", bytes(BLOCK)).sense == IN_PROGRESS
    assert _sanitize(other, BLOCK_ERASE).sense == IN_PROGRESS
    assert host.send("12 00 00 00 ff 00").status == 0
    lab.unit().reset()  # a reset does not end it
    host.send("03 00 00 00 ff 00")
    assert host.send("00" * 6).sense == IN_PROGRESS
    running = lab.unit().sanitize
    assert running is not None
    store.go_on.set()
    assert running.wait(30)
    assert host.send("00" * 6).status == 0


def test_closing_the_unit_stops_a_sanitize_that_runs() -> None:
    lab = rig(LogicalUnitConfig(sanitize_bytes_per_s=1 << 20), store=MemoryStore(1 << 30))
    host = lab.initiator()
    assert _sanitize(host, BLOCK_ERASE, immed=True).status == 0
    lab.device.close()
    assert lab.unit().sanitize is None


def test_an_interrupted_sanitize_fails_its_command_and_the_unit_works_on() -> None:
    lab = rig(LogicalUnitConfig(sanitize_bytes_per_s=1 << 20), store=MemoryStore(1 << 30))
    host, other = lab.initiator(), lab.initiator()
    answers: list[Answer] = []
    thread = threading.Thread(target=lambda: answers.append(_sanitize(host, BLOCK_ERASE)))
    thread.start()
    while lab.unit().sanitize is None:
        time.sleep(0.001)
    lab.device.interrupt()
    thread.join()
    assert answers[0].sense == (3, 0x31, 0x03)
    assert other.send("00" * 6).status == 0


def test_a_medium_that_fails_fails_the_sanitize(monkeypatch: pytest.MonkeyPatch) -> None:
    lab, host = _filled()

    def fail(*_: object) -> None:
        raise StoreError("the disk is gone")

    monkeypatch.setattr(lab.unit().store, "discard", fail)
    assert _sanitize(host, BLOCK_ERASE).sense == (3, 0x31, 0x03)
    assert host.send("00" * 6).status == 0
