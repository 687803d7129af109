# SPDX-License-Identifier: Apache-2.0
"""Text negotiation (RFC 7143 sections 6.2 and 6.3), the same engine for both ends.

The rules are the rows of :data:`iscsi_target.session.keys.KEYS`; the engine only interprets them.
"""

from __future__ import annotations

import enum
import re
from collections.abc import Iterable
from dataclasses import fields
from typing import Any

from iscsi_target.errors import NegotiationError
from iscsi_target.session.keys import KEYS, Key, Rule, Sender, When
from iscsi_target.session.parameters import FIELDS, Agreed, Parameters
from iscsi_target.wire.text import Pair

_NUMBER = re.compile(r"(?:0[xX][0-9a-fA-F]{1,16}|[0-9]{1,20})\Z")
_REFUSALS = ("Irrelevant", "Reject", "NotUnderstood")
_REPEATABLE = frozenset(("InitiatorName", "InitiatorAlias", "SessionType", "TargetName"))
_TEXT_LIMIT_BYTES = 255


class Role(enum.Enum):
    """Which end we are."""

    INITIATOR = "initiator"
    TARGET = "target"


class Negotiation:
    """The operational negotiation of one connection's login, and of MaxRecvDataSegmentLength later on.

    `receive` takes the pairs of one whole text and returns the answers. `declared` holds the texts the peer stated
    (InitiatorName, TargetName, ...). `agreed` is the outcome so far.
    """

    def __init__(
        self, role: Role, wishes: Parameters, *, leading: bool = True, discovery: bool = False
    ) -> None:
        self._peer = Sender.TARGET if role is Role.INITIATOR else Sender.INITIATOR
        self._wishes = wishes
        self._leading = leading
        self.discovery = discovery
        self._offered: set[str] = set()
        self._settled: set[str] = set()
        self._results: dict[str, Any] = {}
        self._peer_segment_length = 8192
        self._segment_length_declared = False
        self.declared: dict[str, str] = {}

    @property
    def segment_length_received(self) -> bool:
        """The peer has declared a MaxRecvDataSegmentLength."""
        return "MaxRecvDataSegmentLength" in self._settled

    def start_phase(self) -> None:
        """A new negotiation sequence: keys that may be negotiated again (full-feature phase) may come once more."""
        self._settled.clear()

    def offer(self) -> list[Pair]:
        """The initiator's opening: every key whose wish is worth a word."""
        pairs: list[Pair] = []
        for name, field in FIELDS.items():
            row = KEYS[name]
            if (row.leading_only and not self._leading) or (self.discovery and not row.discovery):
                continue
            if row.rule is Rule.DECLARED_NUMBER:
                pairs += self.declare()
                continue
            self._offered.add(name)
            pairs.append((name, _spell(getattr(self._wishes, field))))
        return pairs

    def declare(self) -> list[Pair]:
        """Our MaxRecvDataSegmentLength, once."""
        if self._segment_length_declared:
            return []
        self._segment_length_declared = True
        return [("MaxRecvDataSegmentLength", str(self._wishes.max_recv_data_segment_length))]

    def receive(self, pairs: Iterable[Pair], phase: When) -> list[Pair]:
        """Take the pairs of one text and return the answers.

        Raises :class:`~iscsi_target.errors.NegotiationError` for what the standard calls a negotiation failure:
        a key sent twice, a declared value that is illegal, an answer that is not among what was offered. Who the
        peer is and what it wants (InitiatorName, SessionType, TargetName, InitiatorAlias) may be stated again in a
        later text, word by word: libiscsi does so in its operational stage, and nothing changes by it.
        """
        answers: list[Pair] = []
        stated_before = dict(self.declared)
        for name, value in pairs:
            row = KEYS.get(name)
            if row is None:
                if value != "NotUnderstood":
                    answers.append((name, "NotUnderstood"))
                continue
            if name in self._settled:
                if name in _REPEATABLE and stated_before.pop(name, None) == value:
                    continue
                raise NegotiationError(f"{name} was sent twice in one negotiation")
            self._settled.add(name)
            if name in self._offered:
                self._offered.discard(name)
                self._take_answer(row, value)
                continue
            answer = self._answer(row, value, phase)
            if answer is not None:
                answers.append((name, answer))
        return answers

    def agreed(self) -> Agreed:
        """The outcome: results where there are some, the standard's defaults elsewhere."""
        known = {field.name for field in fields(Agreed)}
        values = {FIELDS[name]: value for name, value in self._results.items() if FIELDS[name] in known}
        values["max_send_data_segment_length"] = self._peer_segment_length
        if self._segment_length_declared:
            values["max_recv_data_segment_length"] = self._wishes.max_recv_data_segment_length
        outcome = Agreed(**values)
        if outcome.first_burst_length > outcome.max_burst_length:
            values["first_burst_length"] = outcome.max_burst_length
            outcome = Agreed(**values)
        return outcome

    def _answer(self, row: Key, value: str, phase: When) -> str | None:
        if row.rule is Rule.OBSOLETE:
            return str(row.default)
        if row.rule is Rule.DECLARED_TEXT:
            if not row.sender & self._peer or not row.when & phase:
                raise NegotiationError(f"{row.name} may not be sent by this side now")
            if not row.name.startswith("CHAP_") and len(value.encode()) > _TEXT_LIMIT_BYTES:
                raise NegotiationError(f"the value of {row.name} is longer than {_TEXT_LIMIT_BYTES} bytes")
            if row.choices and value not in row.choices:
                raise NegotiationError(f"{row.name}={value[:32]!r} is none of {', '.join(row.choices)}")
            self.declared[row.name] = value
            return None
        if not row.when & phase:
            if phase is When.FULL_FEATURE:
                return "Reject"
            raise NegotiationError(f"{row.name} may not be sent in this stage")
        if row.rule is Rule.DECLARED_NUMBER:
            number = _number(value)
            if number is None or not row.lowest <= number <= row.highest:
                raise NegotiationError(
                    f"{row.name}={value[:32]!r} is not between {row.lowest} and {row.highest}"
                )
            self._peer_segment_length = number
            declaration = self.declare()
            return declaration[0][1] if declaration else None
        if (self.discovery and not row.discovery) or (row.leading_only and not self._leading):
            return "Irrelevant"
        return self._negotiate(row, value)

    def _negotiate(self, row: Key, value: str) -> str:
        wish = getattr(self._wishes, FIELDS[row.name])
        if row.rule is Rule.LIST:
            chosen = next((choice for choice in value.split(",") if choice in wish), None)
            if chosen is None:
                return "Reject"
            self._results[row.name] = chosen
            return chosen
        if row.rule in (Rule.OR, Rule.AND):
            if value not in ("Yes", "No"):
                return "Reject"
            offered = value == "Yes"
            result: bool | int = (offered or wish) if row.rule is Rule.OR else (offered and wish)
        else:
            number = _number(value)
            if number is None or not row.lowest <= number <= row.highest:
                return "Reject"
            result = min(number, wish) if row.rule is Rule.MINIMUM else max(number, wish)
        self._results[row.name] = result
        return _spell(result)

    def _take_answer(self, row: Key, value: str) -> None:
        if value in _REFUSALS:
            if value == "Reject" and row.rule is Rule.LIST:
                raise NegotiationError(f"the peer takes none of the values offered for {row.name}")
            return
        wish = getattr(self._wishes, FIELDS[row.name])
        result: Any
        if row.rule is Rule.LIST:
            legal, result = value in wish, value
        elif row.rule in (Rule.OR, Rule.AND):
            result = value == "Yes"
            fixed = wish if row.rule is Rule.OR else not wish
            legal = value in ("Yes", "No") and (not fixed or result is wish)
        else:
            result = _number(value)
            legal = result is not None and row.lowest <= result <= row.highest
            legal = legal and (result <= wish if row.rule is Rule.MINIMUM else result >= wish)
        if not legal:
            raise NegotiationError(f"{row.name}={value[:32]!r} is no legal answer to {_spell(wish)}")
        self._results[row.name] = result


def _number(value: str) -> int | None:
    if not _NUMBER.match(value):
        return None
    return int(value, 16) if value[:2] in ("0x", "0X") else int(value)


def _spell(value: Any) -> str:
    if isinstance(value, bool):
        return "Yes" if value else "No"
    if isinstance(value, tuple):
        return ",".join(value)
    return str(value)
