# SPDX-License-Identifier: Apache-2.0
"""What a rule looks at: the PDU, its connection and session, the SCSI command it belongs to; and when it fires."""

from __future__ import annotations

import enum
import re
from dataclasses import dataclass
from fnmatch import fnmatchcase
from functools import cache
from typing import Protocol

from iscsi_target.faults.errors import FaultError
from iscsi_target.scsi.opcode_table import OPERATIONS
from iscsi_target.wire.opcodes import Opcode


class Direction(enum.Enum):
    """Which way a PDU goes."""

    TO_TARGET = "to-target"
    TO_INITIATOR = "to-initiator"


class Scope(enum.Enum):
    """What a rule's nth, every, skip and count are counted in, and what its chance is drawn for, each on its own."""

    RULE = "rule"
    """Everything that matches, together."""
    SESSION = "session"
    CONNECTION = "connection"
    LUN = "lun"
    TASK = "task"


class Subject(Protocol):
    """A PDU or a SCSI command, as far as a rule can tell one from another. None: not known, or has none."""

    @property
    def direction(self) -> Direction: ...
    @property
    def opcode(self) -> int: ...
    @property
    def lun(self) -> int | None: ...
    @property
    def cdb(self) -> bytes: ...
    @property
    def initiator_task_tag(self) -> int: ...
    @property
    def initiator_name(self) -> str: ...
    @property
    def target_name(self) -> str: ...
    @property
    def tsih(self) -> int: ...
    @property
    def cid(self) -> int: ...
    @property
    def connection(self) -> int: ...


@dataclass(frozen=True, slots=True)
class CdbPattern:
    """A CDB whose first bytes are `value` under `mask`."""

    value: bytes
    mask: bytes

    def __post_init__(self) -> None:
        if not 0 < len(self.value) == len(self.mask) <= 260:
            raise FaultError("a CDB pattern has 1 to 260 bytes, and as many of mask")

    def matches(self, cdb: bytes) -> bool:
        """Whether the CDB begins so."""
        if len(cdb) < len(self.value):
            return False
        return all(a & m == b & m for a, b, m in zip(cdb, self.value, self.mask, strict=False))


_HEX_DIGIT = re.compile(r"[0-9A-Fa-f?]")


def parse_cdb(text: object) -> CdbPattern:
    """``"28 ?? 0000 00?0"``: hexadecimal digits, ``?`` for any digit; a CDB that begins so matches. Raises
    FaultError."""
    digits = re.sub(r"\s", "", text) if isinstance(text, str) else ""
    if not digits or len(digits) % 2 or not all(_HEX_DIGIT.match(digit) for digit in digits):
        raise FaultError(
            f'a CDB is whole bytes of hexadecimal digits, ? for any, such as "28 ??", not {text!r:.80}'
        )
    value = bytes.fromhex(digits.replace("?", "0"))
    mask = bytes.fromhex("".join("0" if digit == "?" else "f" for digit in digits))
    return CdbPattern(value, mask)


def format_cdb(pattern: CdbPattern) -> str:
    """As :func:`parse_cdb` reads it (masks of whole digits, which are all it makes)."""
    digits = "".join(
        digit if bit != "0" else "?"
        for digit, bit in zip(pattern.value.hex(), pattern.mask.hex(), strict=True)
    )
    return " ".join(digits[at : at + 2] for at in range(0, len(digits), 2))


def _plain(name: str) -> str:
    return re.sub(r"[^a-z0-9]", "", name.lower())


@cache
def _commands() -> dict[str, tuple[tuple[int, int | None], ...]]:
    """(opcode, service action) by plain name, with and without the CDB length: "read10" and "read"."""
    found: dict[str, set[tuple[int, int | None]]] = {}
    for operation in OPERATIONS:
        one = (operation.opcode, operation.service_action)
        family = re.sub(r"\s*\(\d+\)$", "", operation.name)
        for name in (operation.name, family, family.partition(",")[0]):
            found.setdefault(_plain(name), set()).add(one)
    return {name: tuple(sorted(codes, key=str)) for name, codes in found.items()}


def commands_named(name: str) -> tuple[tuple[int, int | None], ...]:
    """(opcode, service action or None) of a command's name: ``READ (10)``, ``read-10``, or ``read`` for all lengths.

    Raises FaultError for a name the device server does not know.
    """
    codes = _commands().get(_plain(name))
    if codes is None:
        raise FaultError(
            f"there is no command {name!r:.60}; a command is named as in the SCSI standards: READ (10)"
        )
    return codes


def opcode_name(opcode: int) -> str:
    """``data-in`` for 25h."""
    try:
        return Opcode(opcode).name.lower().replace("_", "-")
    except ValueError:
        return f"opcode-{opcode:02x}"


def parse_opcode(text: object) -> int:
    """``data-in``, ``Data-In`` or ``0x25``; FaultError for what is none."""
    if isinstance(text, int) and not isinstance(text, bool) and 0 <= text <= 0x3F:
        return int(text)
    if isinstance(text, str):
        plain = _plain(text)
        for opcode in Opcode:
            if _plain(opcode.name) == plain:
                return opcode
        if re.fullmatch(r"0x[0-9a-f]{1,2}", text.lower()) and int(text, 16) <= 0x3F:
            return int(text, 16)
    names = ", ".join(opcode_name(opcode) for opcode in Opcode)
    raise FaultError(f"there is no PDU {text!r:.40}; there are {names}")


@dataclass(frozen=True, slots=True, kw_only=True)
class Match:
    """What has to hold for a rule to look at a PDU or command; what is empty or None holds always."""

    direction: Direction | None = None
    opcodes: frozenset[int] = frozenset()
    luns: frozenset[int] = frozenset()
    commands: frozenset[str] = frozenset()
    """Names of SCSI commands: the PDU belongs to a task of such a command."""
    cdb: CdbPattern | None = None
    """The PDU belongs to a task with such a CDB."""
    initiator: str = ""
    """The initiator's iSCSI name; * and ? as in a shell."""
    target: str = ""
    """The target's iSCSI name; * and ? as in a shell."""
    session: int | None = None
    """The TSIH."""
    cid: int | None = None
    initiator_task_tag: int | None = None

    def __post_init__(self) -> None:
        for name in self.commands:
            commands_named(name)

    @property
    def of_commands(self) -> bool:
        """Whether only what belongs to a SCSI command can match."""
        return bool(self.luns or self.commands or self.cdb)

    def matches(self, subject: Subject) -> bool:
        """Whether the subject is one that the rule looks at."""
        return (
            (self.direction is None or subject.direction is self.direction)
            and (not self.opcodes or subject.opcode in self.opcodes)
            and (not self.luns or subject.lun in self.luns)
            and (not self.commands or self._is_command(subject.cdb))
            and (self.cdb is None or self.cdb.matches(subject.cdb))
            and (not self.initiator or fnmatchcase(subject.initiator_name, self.initiator))
            and (not self.target or fnmatchcase(subject.target_name, self.target))
            and (self.session is None or subject.tsih == self.session)
            and (self.cid is None or subject.cid == self.cid)
            and (self.initiator_task_tag is None or subject.initiator_task_tag == self.initiator_task_tag)
        )

    def _is_command(self, cdb: bytes) -> bool:
        if len(cdb) < 2:
            return False
        for name in self.commands:
            for opcode, service_action in commands_named(name):
                if cdb[0] == opcode and service_action in (None, cdb[1] & 0x1F):
                    return True
        return False


@dataclass(frozen=True, slots=True, kw_only=True)
class Trigger:
    """Which of the matches fire. They are numbered from 1 in each scope (`per`)."""

    nth: int | None = None
    """Only this one."""
    every: int | None = None
    """Each so many-th: 3 fires at 3, 6, 9 …"""
    skip: int = 0
    """Not the first so many."""
    count: int | None = None
    """At most so often."""
    probability: float = 1.0
    per: Scope = Scope.RULE

    def __post_init__(self) -> None:
        for name in ("nth", "every", "count"):
            value = getattr(self, name)
            if value is not None and not 0 < value < 1 << 63:
                raise FaultError(f"{name} is at least 1")
        if not 0 <= self.skip < 1 << 63:
            raise FaultError("skip is at least 0")
        if not 0 <= self.probability <= 1:
            raise FaultError("probability is 0 to 1")

    def eligible(self, number: int, fired: int) -> bool:
        """Whether match `number` of its scope may fire, when `fired` did before it; chance apart."""
        return (
            number > self.skip
            and (self.nth is None or number == self.nth)
            and (self.every is None or number % self.every == 0)
            and (self.count is None or fired < self.count)
        )
