# SPDX-License-Identifier: Apache-2.0
"""What a rule may do. Three kinds, by where they act:

* on the **bytes** of one PDU or of the connection (:data:`WireAction`): drop, duplicate, delay, reorder, truncate,
  corrupt, renumber, window, redirect, close;
* in the **protocol core**, which numbers its answer itself (also :data:`WireAction`): reject, async message;
* on a **SCSI command** on its way to the logical unit (:data:`CommandAction`): status, sense, busy, queue full, medium
  error, latency, rate.

Every action is a frozen value: it can be compared, written to TOML and JSON and read back
(:mod:`iscsi_target.faults.tables`).
"""

from __future__ import annotations

import enum
from dataclasses import dataclass, field

from iscsi_target.faults.distributions import Distribution, Fixed
from iscsi_target.faults.errors import FaultError
from iscsi_target.scsi.sense import SenseKey
from iscsi_target.scsi.status import Status
from iscsi_target.wire.opcodes import AsyncEvent, RejectReason
from iscsi_target.wire_filter import Closing

_MS = 1_000_000
_SECOND = 1_000_000_000


def _check(holds: bool, text: str) -> None:
    if not holds:
        raise FaultError(text)


@dataclass(frozen=True, slots=True)
class Drop:
    """The PDU does not go on."""


@dataclass(frozen=True, slots=True)
class Duplicate:
    """The PDU goes on, and `copies` more of it at once behind it."""

    copies: int = 1

    def __post_init__(self) -> None:
        _check(1 <= self.copies <= 1000, "copies is 1 to 1000")


@dataclass(frozen=True, slots=True)
class Delay:
    """The PDU goes on later. What follows in its direction waits behind it, as on a slow path; with `overtake` it does
    not, so that the order of the PDUs changes."""

    delay: Distribution
    overtake: bool = False


@dataclass(frozen=True, slots=True)
class Reorder:
    """The PDU goes on behind the next `behind` PDUs of its direction, or after `within_ns` if they do not come."""

    behind: int = 1
    within_ns: int = _SECOND

    def __post_init__(self) -> None:
        _check(1 <= self.behind <= 1000, "behind is 1 to 1000")
        _check(0 < self.within_ns <= 3600 * _SECOND, "within is more than 0 and at most an hour")


@dataclass(frozen=True, slots=True)
class Truncate:
    """Only the first `keep_bytes` bytes go on: of the data segment, with DataSegmentLength and digests to match, or
    with ``adjust=False`` of the whole PDU, so that what follows is taken for its rest."""

    keep_bytes: int = 0
    adjust: bool = True

    def __post_init__(self) -> None:
        _check(0 <= self.keep_bytes < 1 << 24, "keep_bytes is 0 to 16777215")


class Part(enum.Enum):
    """Parts of a PDU on the wire (RFC 7143 section 11.1)."""

    HEADER = "header"
    """Basic and additional header segments."""
    DATA = "data"
    """The data segment, without padding."""
    HEADER_DIGEST = "header-digest"
    DATA_DIGEST = "data-digest"


@dataclass(frozen=True, slots=True)
class Corrupt:
    """Flip `bits` of a part (bit 0 is the most significant of its first byte), or without them `random_bits` bits drawn
    anew each time. `recompute`: the digest is made to match, so that only the wrong content can be noticed."""

    part: Part = Part.DATA
    bits: tuple[int, ...] = ()
    random_bits: int = 1
    recompute: bool = False

    def __post_init__(self) -> None:
        _check(
            len(self.bits) <= 4096 and all(0 <= bit < 1 << 27 for bit in self.bits), "bits are 0 to 134217727"
        )
        _check(1 <= self.random_bits <= 4096, "random_bits is 1 to 4096")
        digest = self.part in (Part.HEADER_DIGEST, Part.DATA_DIGEST)
        _check(not (self.recompute and digest), "a corrupted digest cannot be recomputed")


@dataclass(frozen=True, slots=True)
class Renumber:
    """A wrong number: set the integer `field` of the header (``stat_sn``, ``data_sn``, ``cmd_sn``, ``exp_cmd_sn``,
    ``max_cmd_sn``, ``exp_stat_sn``, ``initiator_task_tag``, ``target_transfer_tag``, ``buffer_offset``, …; for an R2T
    its R2TSN is ``r2t_sn``) to `value`, or move it by `add`, modulo its width. The header digest is made to match."""

    field: str
    add: int = 0
    value: int | None = None

    def __post_init__(self) -> None:
        _check(bool(self.add) != (self.value is not None), "exactly one of add (not 0) and value is given")


@dataclass(frozen=True, slots=True)
class Window:
    """Let the initiator see a command window of `commands` at most: MaxCmdSN becomes at most ExpCmdSN + commands - 1 in
    what the target sends (0: closed). An initiator never takes MaxCmdSN back (RFC 7143 section 4.2.2.1), so a rule
    that is to shrink the window is there before the login."""

    commands: int = 0

    def __post_init__(self) -> None:
        _check(0 <= self.commands < 1 << 31, "commands is 0 to 2147483647")


@dataclass(frozen=True, slots=True)
class Redirect:
    """Answer a Login Request with "target moved" (status 0101h, or 0102h when `permanent`) and this TargetAddress
    (``HOST:PORT[,TPGT]``), and end the connection (RFC 7143 section 11.13.5)."""

    address: str
    permanent: bool = False

    def __post_init__(self) -> None:
        _check(
            self.address.isascii() and self.address.isprintable() and 0 < len(self.address) <= 255,
            "address is HOST:PORT[,TPGT]",
        )


@dataclass(frozen=True, slots=True)
class Close:
    """End the connection: ``close`` (FIN), ``half-close`` (FIN in the target's direction only; what the initiator still
    sends is served, without an answer) or ``reset`` (RST). The PDU itself goes nowhere, unless `pass_first`."""

    how: Closing = "close"
    pass_first: bool = False

    def __post_init__(self) -> None:
        _check(self.how in ("close", "half-close", "reset"), "how is close, half-close or reset")


@dataclass(frozen=True, slots=True)
class Reject:
    """The target does not take the PDU and answers with Reject (RFC 7143 section 11.17), numbered by the core. The
    CmdSN of a numbered PDU counts as used, except for a data digest error (section 7.8)."""

    reason: RejectReason = RejectReason.PROTOCOL_ERROR


@dataclass(frozen=True, slots=True)
class Async:
    """The PDU goes on, and the target sends an Asynchronous Message (RFC 7143 section 11.9), numbered by the core.

    `parameters` are Parameter1 to 3; without them they say what the event means (the CID, DefaultTime2Wait and Retain,
    10 s for a logout). A SCSI event carries sense data (`sense_key`, `asc`, `ascq`) and the LUN of the PDU. After
    "connection dropped", "session dropped" and "tasks terminated" the target does what it said.
    """

    event: AsyncEvent = AsyncEvent.LOGOUT_REQUESTED
    parameters: tuple[int, int, int] | None = None
    sense_key: SenseKey = SenseKey.UNIT_ATTENTION
    asc: int = 0x3F
    ascq: int = 0x0E

    def __post_init__(self) -> None:
        given = self.parameters or (0, 0, 0)
        _check(
            len(given) == 3 and all(0 <= item <= 0xFFFF for item in given),
            "parameters are three of 0 to 65535",
        )
        _check(0 <= self.asc <= 0xFF and 0 <= self.ascq <= 0xFF, "asc and ascq are 0 to 255")


@dataclass(frozen=True, slots=True)
class Answer:
    """The command ends with this status. `execute`: after the logical unit ran it, instead of in its place."""

    status: Status = Status.BUSY
    execute: bool = False

    def __post_init__(self) -> None:
        _check(self.status is not Status.CHECK_CONDITION, "CHECK CONDITION comes with sense data: use sense")


@dataclass(frozen=True, slots=True)
class Sense:
    """The command ends with CHECK CONDITION and this sense data, fixed format. `information`: its INFORMATION field.
    `execute`: after the logical unit ran it, instead of in its place."""

    key: SenseKey
    asc: int
    ascq: int = 0
    information: int | None = None
    execute: bool = False

    def __post_init__(self) -> None:
        _check(0 <= self.asc <= 0xFF and 0 <= self.ascq <= 0xFF, "asc and ascq are 0 to 255")


class MediumAccess(enum.Enum):
    """Which commands a medium error meets."""

    READ = "read"
    WRITE = "write"
    BOTH = "both"


@dataclass(frozen=True, slots=True)
class MediumError:
    """Blocks that cannot be read or written: MEDIUM ERROR, unrecovered read error (11h/00h) or write error (0Ch/00h),
    with the first such LBA in the INFORMATION field. `until_rewritten`: a block can be read again once it has been
    written."""

    lba: int
    blocks: int = 1
    access: MediumAccess = MediumAccess.READ
    until_rewritten: bool = False

    def __post_init__(self) -> None:
        _check(0 <= self.lba < 1 << 64, "lba is 0 to 2**64 - 1")
        _check(1 <= self.blocks <= 1 << 64, "blocks is at least 1")
        writes = self.access is not MediumAccess.READ
        _check(
            not (self.until_rewritten and writes),
            "what cannot be written cannot be rewritten: access is read",
        )


@dataclass(frozen=True, slots=True)
class Latency:
    """The command runs, and its answer is given this much later."""

    delay: Distribution = field(default_factory=lambda: Fixed(_MS))


@dataclass(frozen=True, slots=True)
class Rate:
    """Commands take their turn, one after the other, at this rate and no faster: bytes per second, commands per second,
    or both."""

    bytes_per_s: int | None = None
    iops: float | None = None

    def __post_init__(self) -> None:
        _check(self.bytes_per_s is not None or self.iops is not None, "a rate has bytes_per_s or iops")
        _check(self.bytes_per_s is None or self.bytes_per_s > 0, "bytes_per_s is more than 0")
        _check(self.iops is None or self.iops > 0, "iops is more than 0")


WireAction = (
    Drop
    | Duplicate
    | Delay
    | Reorder
    | Truncate
    | Corrupt
    | Renumber
    | Window
    | Redirect
    | Close
    | Reject
    | Async
)
CommandAction = Answer | Sense | MediumError | Latency | Rate
Action = WireAction | CommandAction

WIRE_ACTIONS = (
    Drop,
    Duplicate,
    Delay,
    Reorder,
    Truncate,
    Corrupt,
    Renumber,
    Window,
    Redirect,
    Close,
    Reject,
    Async,
)
COMMAND_ACTIONS = (Answer, Sense, MediumError, Latency, Rate)


def busy() -> Answer:
    """The command ends with BUSY."""
    return Answer(Status.BUSY)


def queue_full() -> Answer:
    """The command ends with TASK SET FULL."""
    return Answer(Status.TASK_SET_FULL)
