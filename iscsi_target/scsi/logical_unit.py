# SPDX-License-Identifier: Apache-2.0
"""One logical unit: its identity, its store, and every piece of state that commands change.

Nothing here knows a CDB. All of one unit's state hangs on the object; the device server and the families of
commands work on it.
"""

from __future__ import annotations

import hashlib
import shlex
import threading
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from enum import Enum, IntEnum
from typing import Protocol

from iscsi_target.executor import ScsiCommand
from iscsi_target.scsi.errors import InvalidConfiguration, check
from iscsi_target.scsi.mode_pages import ModeParameters, cdrom_pages, disk_pages
from iscsi_target.scsi.range_lock import RangeLocks
from iscsi_target.scsi.reservation_file import ReservationMemory
from iscsi_target.scsi.reservations import Outcome, Reservations
from iscsi_target.scsi.sanitize_file import SanitizeMemory
from iscsi_target.scsi.sense import Condition, SenseData
from iscsi_target.scsi.stores.store import BackingStore
from iscsi_target.scsi.unit_attention import Nexus, UnitAttentions

MAX_TRANSFER_BYTES = 16 << 20
"""Most bytes one command moves: MAXIMUM TRANSFER LENGTH of the block limits page, in bytes."""


class DeviceType(IntEnum):
    """PERIPHERAL DEVICE TYPE (SPC-4 table 147)."""

    DISK = 0x00
    CDROM = 0x05


class Medium(Enum):
    """What START STOP UNIT left of the medium (SBC-3 5.25). A virtual disk has nothing to spin down, so it stays
    ready when stopped."""

    READY = "ready"
    EJECTED = "ejected"


@dataclass(frozen=True, slots=True)
class LogicalUnitConfig:
    """How a logical unit presents itself.

    `physical_block_exponent`: 2**n logical blocks are one physical block (READ CAPACITY (16)); it is the optimal
    granularity of writes and unmaps. `sanitize_bytes_per_s` paces SANITIZE to that of a real
    device; None: unpaced. `strict_write_same`: WRITE SAME with UNMAP and a block that is not zeros writes that block
    (SBC-3) instead of unmapping (as tgt and LIO do). A CD-ROM is always removable, read-only and has 2048-byte blocks.
    """

    block_length: int = 512
    physical_block_exponent: int = 3
    device_type: DeviceType = DeviceType.DISK
    removable: bool = False
    read_only: bool = False
    write_cache: bool = True
    sanitize_bytes_per_s: int | None = None
    strict_write_same: bool = False
    vendor: str = "SANCREDT"
    product: str = "VIRTUAL DISK"
    revision: str = "0001"

    def __post_init__(self) -> None:
        if self.block_length not in (512, 1024, 2048, 4096):
            raise InvalidConfiguration(
                f"block length {self.block_length} is not 512, 1024, 2048 or 4096 bytes"
            )
        if not 0 <= self.physical_block_exponent <= 15:
            raise InvalidConfiguration(
                f"physical block exponent {self.physical_block_exponent} is not 0 to 15"
            )
        for name, width in (("vendor", 8), ("product", 16), ("revision", 4)):
            text: str = getattr(self, name)
            if not text.isascii() or not text.isprintable() or not 1 <= len(text) <= width:
                raise InvalidConfiguration(f"{name} {text!r} is not 1 to {width} printable ASCII characters")


def cdrom_config(*, product: str = "VIRTUAL CD-ROM") -> LogicalUnitConfig:
    """The one configuration a CD-ROM drive has."""
    return LogicalUnitConfig(
        block_length=2048,
        physical_block_exponent=0,
        device_type=DeviceType.CDROM,
        removable=True,
        read_only=True,
        write_cache=False,
        product=product,
    )


@dataclass(frozen=True, slots=True)
class Identity:
    """Names of a logical unit, the same on every start (SPC-4 7.8.6).

    `serial` is 16 hex digits; `naa` is an NAA IEEE Registered Extended-free, locally assigned (NAA = 3h)
    designator of 8 bytes.
    """

    serial: str
    naa: bytes


def derive_identity(target_name: str, lun: int) -> Identity:
    """Serial number and NAA from the target's iSCSI name and the LUN."""
    digest = hashlib.sha256(f"{target_name}\n{lun}".encode()).digest()
    return Identity(serial=digest[:8].hex(), naa=bytes((0x30 | digest[8] & 0x0F,)) + digest[9:16])


class SanitizeState(Protocol):
    """What admission and closing need to know of a sanitize operation that runs, or that failed."""

    @property
    def running(self) -> bool:
        """Whether it goes on."""
        ...

    def sense(self) -> SenseData:
        """NOT READY, SANITIZE IN PROGRESS, with the progress; MEDIUM ERROR, SANITIZE COMMAND FAILED when it failed."""
        ...

    def wait(self, timeout_s: float) -> bool:
        """Wait for its end; False when it still runs."""
        ...

    def stop(self) -> None:
        """End it soon; its medium stays partly sanitized."""
        ...

    def abandon(self, command: ScsiCommand) -> None:
        """Do not keep `command` waiting for the end, if that is the command that began it."""
        ...


@dataclass(slots=True)
class CopyResults:
    """Results of EXTENDED COPY by nexus and list identifier, for RECEIVE COPY RESULTS; the oldest go first."""

    segments: dict[tuple[Nexus, int], CopyResult] = field(default_factory=dict)

    def remember(self, nexus: Nexus, list_identifier: int, result: CopyResult) -> None:
        """Keep a result."""
        self.segments.pop((nexus, list_identifier), None)
        self.segments[nexus, list_identifier] = result
        while len(self.segments) > MAX_COPY_RESULTS:
            del self.segments[next(iter(self.segments))]

    def forget(self, nexus: Nexus) -> None:
        """The nexus is gone."""
        for key in [key for key in self.segments if key[0] == nexus]:
            del self.segments[key]


@dataclass(frozen=True, slots=True)
class CopyResult:
    """How one EXTENDED COPY ended."""

    segments_processed: int
    transfer_bytes: int
    failed: bool


MAX_COPY_RESULTS = 64
"""Bound of one logical unit."""


def _tail(store: BackingStore, block_length: int) -> str:
    """Why a store that ends within a block is refused, and what to do about it: its tail would not be served."""
    size = store.size_bytes
    whole = -(-size // block_length) * block_length
    said = f"{size} bytes are no multiple of the {block_length}-byte block"
    path = getattr(store, "path", None)
    if path is None:
        return f"{said}: take {whole - block_length} or {whole} bytes"
    if store.read_only:
        return f"{path}: {said}; serve a copy that `truncate -s {whole}` filled up with zeros"
    return f"{path}: {said}; fill it up with zeros: truncate -s {whole} {shlex.quote(str(path))}"


class LogicalUnit:
    """One logical unit. Thread rules: `lock` guards the state, the store guards itself."""

    def __init__(
        self,
        store: BackingStore,
        identity: Identity,
        config: LogicalUnitConfig | None = None,
        *,
        reservation_memory: ReservationMemory | None = None,
        sanitize_memory: SanitizeMemory | None = None,
    ) -> None:
        """`reservation_memory` makes APTPL possible: what it remembers is in force again from here on.

        `sanitize_memory` makes a sanitize operation outlive the process; the target device resumes it.
        """
        config = config or LogicalUnitConfig()
        self.config = config
        self.identity = identity
        self.store = store
        self.block_length = config.block_length
        self.blocks = store.size_bytes // config.block_length
        if self.blocks == 0:
            raise InvalidConfiguration(
                f"{store.size_bytes} bytes hold no block of {config.block_length} bytes: nothing to export"
            )
        if store.size_bytes % config.block_length:
            raise InvalidConfiguration(_tail(store, config.block_length))
        self.max_transfer_blocks = MAX_TRANSFER_BYTES // config.block_length
        self.read_only = config.read_only or store.read_only
        self.thin = store.thin
        self.counts_space = store.thin and store.space() is not None
        """Whether the space it takes can be told, for the log page of logical block provisioning."""
        self.mode = ModeParameters(
            cdrom_pages()
            if config.device_type is DeviceType.CDROM
            else disk_pages(write_cache=config.write_cache)
        )
        self.attentions = UnitAttentions()
        self.nexuses: dict[Nexus, str] = {}
        """Nexuses with a session now, and the initiator name of each."""
        self.medium = Medium.READY
        self.sanitize_memory = sanitize_memory
        self.sanitize: SanitizeState | None = None
        """The sanitize operation that runs now, or the failed one that keeps the medium from being used."""
        self.port_states: dict[int, int] = {}
        """Asymmetric access state by target port group; a group that is not here is active/optimized."""
        self.implicit_port_states: set[int] = set()
        """The groups whose state was not set by a command."""
        self.copies = CopyResults()
        self.preventing: set[Nexus] = set()
        self.reservations = Reservations()
        self.reservation_memory = reservation_memory
        remembered = reservation_memory.load() if reservation_memory is not None else None
        if remembered is not None:
            self.reservations.restore(remembered)
        self.lock = threading.RLock()
        self.ranges = RangeLocks(threaded=store.blocking)

    def extent(self, lba: int, blocks: int) -> tuple[int, int]:
        """(offset, length) in bytes of a range of blocks, or LOGICAL BLOCK ADDRESS OUT OF RANGE (SBC-3 4.24)."""
        if lba + blocks > self.blocks:
            raise check(
                Condition.LOGICAL_BLOCK_ADDRESS_OUT_OF_RANGE, information=max(lba, min(self.blocks, 1 << 64))
            )
        return lba * self.block_length, blocks * self.block_length

    @property
    def write_protect(self) -> Condition | None:
        """Why the unit may not be written, or None (SBC-3 4.12)."""
        if self.read_only:
            return Condition.WRITE_PROTECTED
        if self.mode.swp:
            return Condition.SOFTWARE_WRITE_PROTECTED
        return None

    def attention(self, condition: Condition, nexuses: Iterable[Nexus], *, but: Nexus | None = None) -> None:
        """Establish a unit attention for these nexuses, except `but`."""
        for nexus in nexuses:
            if nexus != but:
                self.attentions.establish(nexus, condition)

    def set_port_states(self, states: Mapping[int, int], *, by: Nexus | None = None) -> None:
        """Set asymmetric access states (SPC-4 table 297) of target port groups, and tell every nexus but `by`.

        `by` is the nexus whose command it is; None: whoever runs the target (an implicit change).
        """
        with self.lock:
            changed = any(self.port_states.get(group, 0) != state for group, state in states.items())
            self.port_states.update(states)
            (self.implicit_port_states.update if by is None else self.implicit_port_states.difference_update)(
                states
            )
            if changed:
                self.attention(Condition.ASYMMETRIC_ACCESS_STATE_CHANGED, self.nexuses, but=by)

    def apply(self, outcome: Outcome) -> None:
        """Establish the unit attentions of a reservation change, for those nexuses that have a session."""
        for condition, nexuses in outcome.attentions:
            self.attention(condition, (nexus for nexus in nexuses if nexus in self.nexuses))

    def add_nexus(self, nexus: Nexus, initiator_name: str) -> None:
        """A session began: POWER ON, RESET, OR BUS DEVICE RESET OCCURRED waits for it (SAM-5 5.14, 6.3.1).

        It is the most general of the codes for a power on (SPC-4 table 56), and the one that initiators expect.
        """
        with self.lock:
            self.nexuses[nexus] = initiator_name
            self.attentions.establish(nexus, Condition.POWER_ON_RESET_OR_BUS_DEVICE_RESET_OCCURRED)

    def lose_nexus(self, nexus: Nexus) -> None:
        """I_T nexus loss (SAM-5 6.3.4)."""
        with self.lock:
            self.nexuses.pop(nexus, None)
            self.attentions.forget(nexus)
            self.preventing.discard(nexus)
            self.reservations.lose_nexus(nexus)
            self.copies.forget(nexus)

    def reset(self) -> None:
        """Logical unit reset condition (SAM-5 6.3.3)."""
        with self.lock:
            self.preventing.clear()
            self.reservations.reset()
            self.mode.reset()
            self.attention(Condition.BUS_DEVICE_RESET_FUNCTION_OCCURRED, self.nexuses)

    def abandon(self, command: ScsiCommand) -> None:
        """Nobody waits any more for the answer to a command that runs: a SANITIZE goes on without it (SBC-3 4.11.1)."""
        running = self.sanitize
        if running is not None:
            running.abandon(command)

    def interrupt(self) -> None:
        """End a sanitize operation that runs."""
        running = self.sanitize
        if running is not None:
            running.stop()

    def close(self) -> None:
        """Stop what runs and close the store."""
        self.interrupt()
        self.store.close()
