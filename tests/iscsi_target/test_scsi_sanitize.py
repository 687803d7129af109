# SPDX-License-Identifier: Apache-2.0
"""SANITIZE."""

from __future__ import annotations

import dataclasses
import struct
import threading
import time
from pathlib import Path

import pytest

from iscsi_target.executor import ScsiCommand, ScsiResult
from iscsi_target.scsi.build import target_device
from iscsi_target.scsi.errors import StoreError
from iscsi_target.scsi.logical_unit import LogicalUnitConfig
from iscsi_target.scsi.stores.memory import MemoryStore
from iscsi_target.scsi.target_device import TargetDevice
from tests.iscsi_target.scsi_rig import BLOCK, TARGET, Answer, Initiator, Rig, rig

OVERWRITE, BLOCK_ERASE, CRYPTO_ERASE, EXIT_FAILURE = 1, 2, 3, 0x1F
IN_PROGRESS = (2, 0x04, 0x1B)
FAILED = (3, 0x31, 0x03)


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
        (b"\x0f", 31, True, b"\x0f" * BLOCK),
    ],
)
@pytest.mark.parametrize("size", [BLOCK, (2 << 20) + 7 * BLOCK])
def test_an_overwrite_leaves_its_pattern_in_every_block(
    pattern: bytes, count: int, invert: bool, expected: bytes, size: int
) -> None:
    lab, host = _filled(size=size)
    assert _sanitize(host, OVERWRITE, _overwrite(pattern, count=count, invert=invert)).status == 0
    data = bytes(lab.unit().store.read(0, size)[0])
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
            assert self.go_on.wait(90)
        super().discard(offset, length)


def test_while_it_runs_in_the_background_other_commands_are_refused_with_the_progress() -> None:
    store = _HeldStore(2 << 20)
    lab = rig(store=store)
    host, other = lab.initiator(), lab.initiator()
    assert _sanitize(host, BLOCK_ERASE, immed=True).status == 0
    assert store.reached.wait(90)
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
    told = host.send("03 00 00 00 ff 00").data  # REQUEST SENSE tells the progress too
    assert (told[2], told[12], told[13], told[15:18]) == (2, 0x04, 0x1B, bytes.fromhex("80 8000"))
    running = lab.unit().sanitize
    assert running is not None
    store.go_on.set()
    assert running.wait(90)
    assert host.send("00" * 6).status == 0


def test_closing_the_unit_stops_a_sanitize_that_runs() -> None:
    lab = rig(LogicalUnitConfig(sanitize_bytes_per_s=1 << 20), store=MemoryStore(1 << 30))
    host = lab.initiator()
    assert _sanitize(host, BLOCK_ERASE, immed=True).status == 0
    running = lab.unit().sanitize
    assert running is not None
    assert running.running
    lab.device.close()
    assert running.wait(0)


def test_an_interrupted_sanitize_fails_its_command_and_leaves_the_unit_in_failure() -> None:
    lab = rig(LogicalUnitConfig(sanitize_bytes_per_s=1 << 20), store=MemoryStore(1 << 30))
    host, other = lab.initiator(), lab.initiator()
    answers: list[Answer] = []
    thread = threading.Thread(target=lambda: answers.append(_sanitize(host, BLOCK_ERASE)))
    thread.start()
    while lab.unit().sanitize is None:
        time.sleep(0.001)
    lab.device.interrupt()
    thread.join()
    assert answers[0].sense == FAILED
    assert other.send("00" * 6).sense == FAILED


def _fail(*_: object) -> None:
    raise StoreError("the disk is gone")


def test_after_a_failed_sanitize_nobody_gets_at_the_medium_until_another_one_succeeds(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """SBC-3 4.11.4, with AUSE = 0: restricted; EXIT FAILURE MODE does not help."""
    lab, host = _filled()
    with monkeypatch.context() as patched:
        patched.setattr(lab.unit().store, "discard", _fail)
        assert _sanitize(host, BLOCK_ERASE).sense == FAILED
    other = lab.initiator()
    for each in (host, other):
        assert each.send("00" * 6).sense == FAILED
        assert each.send("28 00 00 00 00 00 00 00 01 00").sense == FAILED
        assert each.send("12 00 00 00 ff 00").status == 0
    told = host.send("03 00 00 00 ff 00").data
    assert (told[2], told[12], told[13]) == FAILED
    assert _sanitize(host, EXIT_FAILURE).sense == (5, 0x24, 0x00)
    lab.unit().reset()
    host.send("03 00 00 00 ff 00")
    assert host.send("00" * 6).sense == FAILED
    assert _sanitize(host, BLOCK_ERASE).status == 0
    assert host.send("00" * 6).status == 0


def test_a_failed_sanitize_that_allowed_an_unrestricted_exit_can_be_left(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    lab, host = _filled()
    with monkeypatch.context() as patched:
        patched.setattr(lab.unit().store, "discard", _fail)
        assert host.send(struct.pack(">BB5xHB", 0x48, 0x20 | BLOCK_ERASE, 0, 0)).sense == FAILED
    assert host.send("00" * 6).sense == FAILED
    assert _sanitize(host, EXIT_FAILURE).status == 0
    assert host.send("00" * 6).status == 0
    assert bytes(lab.unit().store.read(0, 1)[0]) == b"s"


def test_a_sanitize_goes_on_when_its_command_is_abandoned() -> None:
    """SBC-3 4.11.1: the operation outlives the command, task management and resets."""
    store = _HeldStore(2 << 20)
    lab = rig(store=store)
    host = lab.initiator()
    command = ScsiCommand(
        host.name, host.port, 1, 0, struct.pack(">BB14x", 0x48, BLOCK_ERASE), b"", False, False, 0
    )
    results: list[ScsiResult] = []
    thread = threading.Thread(target=lambda: results.append(lab.device.execute(command)))
    thread.start()
    assert store.reached.wait(90)
    lab.device.abandon(dataclasses.replace(command))  # another command: nothing happens to ours
    assert not results
    lab.device.abandon(command)
    thread.join(90)
    assert [result.status for result in results] == [0x40]
    assert host.send("00" * 6).sense == IN_PROGRESS
    running = lab.unit().sanitize
    assert running is not None
    store.go_on.set()
    assert running.wait(90)
    assert host.send("00" * 6).status == 0


# -- a power loss in the middle (SBC-3 4.11.1) ------------------------------------------------------------------------


def _device(folder: Path, config: LogicalUnitConfig | None = None) -> TargetDevice:
    return target_device(TARGET, [str(folder / "disk")], config, reservations=folder)


def _command(cdb: bytes, data: bytes = b"") -> ScsiCommand:
    name = "iqn.2026-11.org.example:host"
    return ScsiCommand(
        name, f"{name},i,0x1", 1, 0, cdb.ljust(16, b"\0"), data, not data, bool(data), len(data)
    )


def _ask(device: TargetDevice, cdb: bytes, data: bytes = b"") -> tuple[int, int, int, int]:
    """Status, sense key, ASC, ASCQ."""
    result = device.execute(_command(cdb, data))
    sense = result.sense or bytes(18)
    return result.status, sense[2] & 0xF, sense[12], sense[13]


@pytest.mark.parametrize(
    ("action", "data", "left"),
    [(BLOCK_ERASE, b"", b"\0"), (OVERWRITE, _overwrite(b"\x0f", count=2, invert=True), b"\xf0")],
)
def test_a_sanitize_that_a_power_loss_interrupts_is_resumed(
    tmp_path: Path, action: int, data: bytes, left: bytes
) -> None:
    size = 4 << 20
    (tmp_path / "disk").write_bytes(b"s" * size)
    device = _device(tmp_path, LogicalUnitConfig(sanitize_bytes_per_s=1 << 20))
    cdb = struct.pack(">BB5xHB", 0x48, 0x80 | action, len(data), 0)
    assert _ask(device, cdb, data)[0] == 0
    device.close()
    assert (tmp_path / "disk").read_bytes()[-1:] == b"s", "it was not done"
    again = _device(tmp_path)
    running = again.units[0].sanitize
    assert running is None or running.wait(90)
    assert _ask(again, bytes(6))[0] == 0
    assert bytes(again.units[0].store.read(0, size)[0]) == left * size
    again.close()
    assert not list(tmp_path.glob("*.sanitize.json"))
    third = _device(tmp_path)
    assert third.units[0].sanitize is None
    third.close()


def test_leaving_the_failure_mode_leaves_it_for_good(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "disk").write_bytes(b"s" * (1 << 20))
    device = _device(tmp_path)
    with monkeypatch.context() as patched:
        patched.setattr(device.units[0].store, "discard", _fail)
        assert _ask(device, bytes((0x48, 0x20 | BLOCK_ERASE)))[1:] == FAILED
    assert list(tmp_path.glob("*.sanitize.json"))
    assert _ask(device, bytes((0x48, EXIT_FAILURE)))[0] == 0
    device.close()
    again = _device(tmp_path)
    assert again.units[0].sanitize is None
    assert _ask(again, bytes(6))[0] == 0
    again.close()


def test_a_sanitize_that_cannot_be_written_down_does_not_begin(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "disk").write_bytes(b"s" * (1 << 20))
    device = _device(tmp_path)
    monkeypatch.setattr(device.units[0].sanitize_memory, "save", _fail)
    assert _ask(device, bytes((0x48, BLOCK_ERASE)))[1:] == FAILED
    assert _ask(device, bytes(6))[0] == 0
    assert bytes(device.units[0].store.read(0, 1)[0]) == b"s"
    device.close()


@pytest.mark.parametrize(
    "text",
    [
        "",
        "[]",
        '{"format": 2}',
        '{"format": 1, "pattern": "xx", "passes": 1, "invert": false, "unrestricted": false}',
        '{"format": 1, "pattern": "00", "passes": 0, "invert": false, "unrestricted": false}',
        '{"format": 1, "pattern": "00"}',
        " " * 70_000,
    ],
)
def test_a_damaged_record_of_a_sanitize_is_refused_in_one_line(tmp_path: Path, text: str) -> None:
    """Else a medium that should be clean could be read."""
    (tmp_path / "disk").write_bytes(b"s" * (1 << 20))
    device = _device(tmp_path)
    serial = device.units[0].identity.serial
    device.close()
    (tmp_path / f"{serial}.sanitize.json").write_text(text)
    with pytest.raises(StoreError, match="no sanitize operation") as refused:
        _device(tmp_path)
    assert "\n" not in str(refused.value)
