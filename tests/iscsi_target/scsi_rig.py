# SPDX-License-Identifier: Apache-2.0
"""A target device with initiators at it, without iSCSI: what the tests of the SCSI layer drive."""

from __future__ import annotations

from dataclasses import dataclass, field

from iscsi_target.executor import Buffer, ScsiCommand, ScsiResult
from iscsi_target.scsi.logical_unit import LogicalUnit, LogicalUnitConfig, derive_identity
from iscsi_target.scsi.reservation_file import ReservationMemory
from iscsi_target.scsi.stores.memory import MemoryStore
from iscsi_target.scsi.stores.store import BackingStore
from iscsi_target.scsi.target_device import LunMap, TargetDevice

TARGET = "iqn.2026-11.org.example:target"
BLOCK = 512


@dataclass(frozen=True, slots=True)
class Answer:
    """One command's result, with its Data-In joined and its fixed-format sense taken apart."""

    result: ScsiResult
    asked_bytes: int

    @property
    def status(self) -> int:
        return int(self.result.status)

    @property
    def data(self) -> bytes:
        return b"".join(bytes(buffer) for buffer in self.result.data_in)

    @property
    def sense(self) -> tuple[int, int, int]:
        """(sense key, ASC, ASCQ) of fixed-format sense data; (0, 0, 0) without."""
        raw = self.result.sense
        return (raw[2] & 0xF, raw[12], raw[13]) if raw else (0, 0, 0)


@dataclass(slots=True)
class Initiator:
    """An initiator port at one target port; it behaves as the session layer does."""

    device: TargetDevice
    name: str
    port: str
    target_port: int = 1

    def send(
        self, cdb: bytes | str, data: Buffer = b"", *, lun: int = 0, expected_length: int | None = None
    ) -> Answer:
        """Run one CDB (bytes, or hex as the standards print it); the expected length is what is asked for."""
        raw = bytes.fromhex(cdb) if isinstance(cdb, str) else cdb
        raw = raw.ljust(16, b"\0")
        write = bool(len(data))
        expected = expected_length if expected_length is not None else (len(data) if write else 1 << 24)
        before = ScsiCommand(
            self.name, self.port, self.target_port, lun, raw, b"", not write, write, expected
        )
        asked = self.device.data_out_length(before)
        brought = memoryview(data)[: min(asked, expected)] if write else b""
        command = ScsiCommand(
            self.name, self.port, self.target_port, lun, raw, brought, not write, write, expected
        )
        return Answer(self.device.execute(command), asked)

    def log_in(self) -> Initiator:
        """Establish the nexus and take the unit attention it brings on every LUN."""
        self.device.i_t_nexus_established(self.name, self.port, self.target_port)
        for lun in self.device.luns_for(self.name):
            self.send("00 00 00 00 00 00", lun=lun)
        return self

    def log_out(self) -> None:
        """Lose the nexus."""
        self.device.i_t_nexus_loss(self.port, self.target_port)


@dataclass(slots=True)
class Rig:
    """A target device and how to get initiators at it."""

    device: TargetDevice
    made: int = field(default=0)

    def initiator(self, name: str | None = None, *, target_port: int = 1) -> Initiator:
        """Another initiator port, logged in, without pending unit attentions."""
        self.made += 1
        name = name or f"iqn.2026-11.org.example:host{self.made}"
        return Initiator(self.device, name, f"{name},i,0x{self.made:012x}", target_port).log_in()

    def unit(self, lun: int = 0) -> LogicalUnit:
        return self.device.units[lun]


def rig(
    config: LogicalUnitConfig | None = None,
    *,
    store: BackingStore | None = None,
    stores: dict[int, BackingStore] | None = None,
    lun_maps: dict[str, LunMap] | None = None,
    masked: bool = False,
    target_ports: tuple[int, ...] = (1,),
    reservation_memory: ReservationMemory | None = None,
) -> Rig:
    """A rig with one 1 MiB memory LUN, or what is given."""
    if stores is None:
        stores = {0: store or MemoryStore(1 << 20)}
    units = {
        lun: LogicalUnit(
            each,
            derive_identity(TARGET, lun),
            config,
            reservation_memory=reservation_memory if lun == 0 else None,
        )
        for lun, each in stores.items()
    }
    return Rig(TargetDevice(TARGET, units, lun_maps=lun_maps, masked=masked, target_ports=target_ports))
