"""Every command that changes a medium goes through the pair, or is refused: the doors of volumes that belong to one.

The commands come from the device server's own table, so one that is added there without an example here fails.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from iscsi_target.executor import Buffer, LogicalUnits, ScsiCommand, ScsiResult
from iscsi_target.scsi.logical_unit import DeviceType
from iscsi_target.scsi.opcode_table import OPERATIONS
from iscsi_target.scsi.operation import Traits
from iscsi_target.scsi.sanitize_job import SanitizeFailure
from iscsi_target.scsi.stores.memory import MemoryStore
from iscsi_target.scsi.stores.store import BackingStore
from mgmt.array.portals import Devices
from mgmt.array.replication.group import GroupSettings
from mgmt.array.replication.group_record import GroupFiles, GroupRecord
from mgmt.array.replication.guard import changes
from mgmt.array.replication.link_set import LinkSet
from mgmt.array.replication.pair_control import record_of
from mgmt.array.replication.pair_errors import PairRefused
from mgmt.array.replication.pairs import Identity, Pairs, PairVolume
from mgmt.array.replication.replicated_store import ReplicatedStore
from mgmt.array.volumes import Volume, Volumes
from mgmt.pair_messages import PairCreateRequest, PairMember, RemoteEnd

BLOCK, SIZE = 512, 64 * 1024
HOST = "iqn.2026-11.org.example:host"
NEW = bytes(range(256)) * 2
WRITE_PROTECTED, GOOD, CHECK_CONDITION = (0x07, 0x27), 0x00, 0x02


@dataclass
class Witness:
    """A lane that carries everything out and remembers what it was shown."""

    seen: list[tuple[int, int]] = field(default_factory=list)

    def write(self, store: BackingStore, offset: int, data: Buffer, *, durable: bool) -> None:
        self.seen.append((offset, len(data)))
        store.write(offset, data, durable=durable)

    def discard(self, store: BackingStore, offset: int, length: int) -> None:
        self.seen.append((offset, length))
        store.discard(offset, length)

    def flush(self, store: BackingStore) -> None:
        store.flush()


class Bench:
    """Two volumes behind their doors; ``witness`` stands in the way of the first one's changes."""

    def __init__(self) -> None:
        self.disks = [MemoryStore(SIZE), MemoryStore(SIZE)]
        for number, disk in enumerate(self.disks):
            disk.write(0, bytes((number + 1,)) * SIZE)
        self.stores = [ReplicatedStore(disk) for disk in self.disks]
        self.devices = Devices(
            "iqn.2026-11.org.example:array",
            Volumes([Volume(f"vol{lun}", lun, store, store) for lun, store in enumerate(self.stores)]),
        )
        self.witness = Witness()
        self.stores[0].attach(self.witness)
        self.hosts = self.devices.guards.for_hosts(self.devices.hosts)
        for lun in (0, 1):
            self.send(bytes(6), b"", lun)  # the unit attention after power-on

    def send(
        self, cdb: bytes, data: bytes, lun: int = 0, units: LogicalUnits | None = None
    ) -> tuple[int, tuple[int, int] | None]:
        """The status, and sense key and additional sense code."""
        command = ScsiCommand(
            HOST, f"{HOST},i,0x000000000001", 1, lun, cdb, data, not data, bool(data), len(data) or SIZE
        )
        result = (units or self.hosts).execute(command)
        assert isinstance(result, ScsiResult)
        sense = bytes(result.sense)
        return result.status, (sense[2] & 0xF, sense[12]) if sense else None

    def image(self, lun: int = 0) -> bytes:
        return b"".join(self.disks[lun].read(0, SIZE))

    def cscd(self, lun: int) -> bytes:
        designator = bytes((1, 3, 0, 8)) + self.devices.units[lun].identity.naa
        return struct.pack(">BBxx24sx3s", 0xE4, 0, designator, BLOCK.to_bytes(3, "big"))

    def copy(self, source: int, destination: int) -> tuple[bytes, bytes]:
        """EXTENDED COPY of block 2 of one unit to block 3 of another: CDB and parameter list."""
        targets = self.cscd(source) + self.cscd(destination)
        segment = struct.pack(">BBHHHxxHQQ", 0x02, 0, 24, 0, 1, 1, 2, 3)
        data = struct.pack(">BBH4xII", 1, 0, len(targets), len(segment), 0) + targets + segment
        return struct.pack(">BB8xIxB", 0x83, 0, len(data), 0), data


def _examples(bench: Bench) -> dict[str, tuple[bytes, bytes]]:
    """A command of each kind that changes block 3 of LUN 0."""
    ten = struct.pack(">BxIxHx", 0, 3, 1)
    twelve = struct.pack(">BxII2x", 0, 3, 1)
    sixteen = struct.pack(">BxQIxx", 0, 3, 1)
    unmap = struct.pack(">HHxxxxQIxxxx", 22, 16, 3, 1)
    overwrite = struct.pack(">BxH4s", 1, 4, b"wipe")
    return {
        "WRITE (6)": (bytes((0x0A, 0, 0, 3, 1, 0)), NEW),
        "WRITE (10)": (b"\x2a" + ten[1:], NEW),
        "WRITE (12)": (b"\xaa" + twelve[1:], NEW),
        "WRITE (16)": (b"\x8a" + sixteen[1:], NEW),
        "WRITE AND VERIFY (10)": (b"\x2e" + ten[1:], NEW),
        "WRITE AND VERIFY (12)": (b"\xae" + twelve[1:], NEW),
        "WRITE AND VERIFY (16)": (b"\x8e" + sixteen[1:], NEW),
        "COMPARE AND WRITE": (struct.pack(">BxQ3xBxx", 0x89, 3, 1), b"\x01" * BLOCK + NEW),
        "ORWRITE (16)": (b"\x8b" + sixteen[1:], NEW),
        "WRITE ATOMIC (16)": (struct.pack(">BxQHHxx", 0x9C, 3, 0, 1), NEW),
        "UNMAP": (struct.pack(">B6xHx", 0x42, len(unmap)), unmap),
        "WRITE SAME (10)": (b"\x41" + ten[1:], NEW),
        "WRITE SAME (16)": (b"\x93" + sixteen[1:], NEW),
        "EXTENDED COPY (LID1)": bench.copy(1, 0),
        "SANITIZE, OVERWRITE": (struct.pack(">BB5xHx", 0x48, 0x01, len(overwrite)), overwrite),
        "SANITIZE, BLOCK ERASE": (bytes((0x48, 0x02)) + bytes(8), b""),
        "SANITIZE, CRYPTOGRAPHIC ERASE": (bytes((0x48, 0x03)) + bytes(8), b""),
    }


def _changing() -> Iterator[str]:
    """What the device server can do to the medium of a disk; EXIT FAILURE MODE ends a refusal and moves no byte."""
    for operation in OPERATIONS:
        writes = Traits.WRITES in operation.traits or operation.name.startswith("EXTENDED COPY")
        if writes and DeviceType.DISK in operation.device_types and "EXIT FAILURE" not in operation.name:
            yield operation.name


@pytest.mark.parametrize("name", list(_changing()))
def test_what_changes_a_medium_is_shown_to_the_pair_and_kept_out_by_a_shut_door(name: str) -> None:
    bench = Bench()
    cdb, data = _examples(bench)[name]
    assert changes(cdb)
    before = bench.image()

    bench.devices.guards.hosts[0].shut()
    assert bench.send(cdb, data) == (CHECK_CONDITION, WRITE_PROTECTED)
    assert bench.image() == before and not bench.witness.seen

    bench.devices.guards.hosts[0].open()
    assert bench.send(cdb, data) == (GOOD, None)
    after = bench.image()
    changed = {block for block in range(SIZE // BLOCK) if _block(before, block) != _block(after, block)}
    seen = {
        block
        for offset, length in bench.witness.seen
        for block in range(offset // BLOCK, (offset + length) // BLOCK)
    }
    assert 3 in changed, "the example changes nothing"
    assert changed <= seen, "the pair was not shown everything"


def _block(image: bytes, number: int) -> bytes:
    return image[number * BLOCK : (number + 1) * BLOCK]


@pytest.mark.parametrize("sent_to", [0, 1])
def test_a_copy_by_the_target_goes_by_the_door_of_what_it_writes_to(sent_to: int) -> None:
    """An S-VOL is not changed by EXTENDED COPY sent to another unit; as a source it may be read through any."""
    bench = Bench()
    bench.devices.guards.hosts[0].shut()
    before = bench.image()
    assert bench.send(*bench.copy(1, 0), lun=sent_to) == (CHECK_CONDITION, WRITE_PROTECTED)
    assert bench.image() == before
    assert bench.send(*bench.copy(0, 1), lun=sent_to) == (GOOD, None)
    assert _block(bench.image(1), 3) == _block(before, 2)


def test_the_same_holds_for_what_other_arrays_send() -> None:
    bench = Bench()
    arrays = bench.devices.guards.for_arrays(bench.devices.arrays)
    bench.send(bytes(6), b"", units=arrays)
    bench.devices.guards.partners[0].shut()
    for cdb, data in _examples(bench).values():
        assert bench.send(cdb, data, units=arrays) == (CHECK_CONDITION, WRITE_PROTECTED)
    assert not bench.witness.seen


@pytest.mark.parametrize("name", [name for name in _changing() if name.startswith("SANITIZE")])
def test_a_volume_of_a_pair_is_not_sanitized(name: str) -> None:
    """It would go on when its command has ended, and be there when the roles have changed."""
    bench = Bench()
    bench.devices.guards.hosts[0].paired = True
    assert bench.send(*_examples(bench)[name]) == (CHECK_CONDITION, WRITE_PROTECTED)
    assert bench.send(*_examples(bench)["WRITE (16)"]) == (GOOD, None)
    assert bench.image()[3 * BLOCK : 4 * BLOCK] == NEW


def test_reads_come_through_a_shut_door() -> None:
    bench = Bench()
    bench.devices.guards.hosts[0].shut()
    assert bench.send(struct.pack(">BxQIxx", 0x88, 3, 1), b"") == (GOOD, None)
    assert bench.send(struct.pack(">BxQIxx", 0x91, 0, 0), b"") == (GOOD, None)


class ReadOnlyStore(MemoryStore):
    """A medium that cannot be written."""

    read_only = True


@pytest.fixture
def pairs(tmp_path: Path) -> Iterator[tuple[Bench, Pairs]]:
    """The pairs of an array with two volumes and one that can only be read; there are none yet."""
    bench = Bench()
    stores = [*bench.stores, ReplicatedStore(ReadOnlyStore(SIZE))]
    volumes = {f"vol{lun}": PairVolume(f"vol{lun}", lun, store) for lun, store in enumerate(stores)}

    def no_links(record: GroupRecord) -> LinkSet:
        raise AssertionError("nothing is connected for a pair that is refused")

    identity = Identity(name="array", copy_iqn="iqn.2026-11.org.example:array:copy")
    made = Pairs(identity, volumes, GroupFiles(tmp_path), GroupSettings(), no_links, bench.devices.guards)
    yield bench, made
    made.close_files()


def wish(volume: str = "vol0", iqn: str = "iqn.2026-11.org.example:other:copy") -> GroupRecord:
    return record_of(
        PairCreateRequest(
            group="g1",
            group_id="ab" * 16,
            role="P-VOL",
            mode="async",
            fence="never",
            members=(PairMember(volume=volume, remote_lun=0),),
            remote=RemoteEnd(host="127.0.0.2", port_number=3260, iqn=iqn),
            local_port="127.0.0.1",
            remote_journal_lun=1,
            sessions=1,
            connections_per_session=1,
        )
    )


def test_no_pair_is_made_of_a_volume_that_is_being_sanitized(pairs: tuple[Bench, Pairs]) -> None:
    bench, made = pairs
    made.check_new(wish())
    bench.devices.units[0].sanitize = SanitizeFailure(unrestricted=True)
    with pytest.raises(PairRefused, match="volume vol0 is busy: it is being sanitized"):
        made.check_new(wish())


def test_no_pair_is_made_of_a_volume_that_can_only_be_read(pairs: tuple[Bench, Pairs]) -> None:
    with pytest.raises(PairRefused, match="volume vol2 can only be read"):
        pairs[1].check_new(wish("vol2"))


def test_an_array_is_not_its_own_remote_array(pairs: tuple[Bench, Pairs]) -> None:
    with pytest.raises(PairRefused, match="both ends of the pair would be this array"):
        pairs[1].check_new(wish(iqn="iqn.2026-11.org.example:array:copy"))
