# SPDX-License-Identifier: Apache-2.0
"""Rules, and the set of them that a running target works by. Changed at any time, from any thread: a change holds from
one PDU or command to the next, never in the midst of one.

Chance is seeded: every rule draws from a generator of its own, made of the set's seed, the rule's name and its
scope, so that the same traffic meets the same faults again, whatever other rules there are.
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, field, replace
from random import Random
from types import TracebackType

from iscsi_target.faults.actions import COMMAND_ACTIONS, WIRE_ACTIONS, Action, Redirect, Reject, Window
from iscsi_target.faults.bad_blocks import BadBlocks
from iscsi_target.faults.errors import FaultError, UnknownRule
from iscsi_target.faults.matching import Direction, Match, Scope, Subject, Trigger, opcode_name
from iscsi_target.wire.opcodes import Opcode

MAX_RULES = 1000
MAX_SCOPES = 10_000
"""Scopes of one rule that are counted; the ones not met for longest are forgotten."""
_NAME_LIMIT = 64


@dataclass(frozen=True, slots=True, kw_only=True)
class Rule:
    """Where `match` holds and `trigger` says so, `action` is done. Names are unique in a set."""

    name: str
    action: Action
    match: Match = field(default_factory=Match)
    trigger: Trigger = field(default_factory=Trigger)
    enabled: bool = True

    def __post_init__(self) -> None:
        if (
            not 0 < len(self.name) <= _NAME_LIMIT
            or not self.name.isprintable()
            or self.name != self.name.strip()
        ):
            raise FaultError(
                f"a rule has a name of 1 to {_NAME_LIMIT} printable characters, not {self.name!r:.80}"
            )
        if not isinstance(self.action, (*WIRE_ACTIONS, *COMMAND_ACTIONS)):
            raise FaultError(f"{self.action!r:.80} is no action")
        self._check_reach()

    def _check_reach(self) -> None:
        """Raises FaultError for a rule that can never fire: its action is not for what it looks at."""
        match = self.match
        if self.on_commands:
            wanted, opcode, what = Direction.TO_TARGET, Opcode.SCSI_COMMAND, "is on SCSI commands"
        elif isinstance(self.action, Redirect):
            wanted, opcode, what = Direction.TO_TARGET, Opcode.LOGIN_REQUEST, "answers Login Requests"
        elif isinstance(self.action, Reject):
            wanted, opcode, what = Direction.TO_TARGET, None, "answers what the initiator sends"
        elif isinstance(self.action, Window):
            wanted, opcode, what = Direction.TO_INITIATOR, None, "is in what the target sends"
        else:
            return
        if match.direction not in (None, wanted):
            raise FaultError(f"this action {what}: its direction is {wanted.value}")
        if opcode is not None and match.opcodes and opcode not in match.opcodes:
            raise FaultError(f"this action {what}: no other opcode than {opcode_name(opcode)} can be meant")

    @property
    def on_commands(self) -> bool:
        """Whether the action is one on SCSI commands, and not on PDUs."""
        return isinstance(self.action, COMMAND_ACTIONS)


@dataclass(frozen=True, slots=True)
class RuleStatus:
    """A rule and what became of it so far."""

    rule: Rule
    matched: int
    fired: int


class _Count:
    """One scope of one rule."""

    __slots__ = ("fired", "matched", "random")

    def __init__(self, seed: str) -> None:
        self.matched = 0
        self.fired = 0
        self.random = Random(seed)


class ActiveRule:
    """A rule in a set, with its counters and what its action keeps, by LUN: the blocks that are (still) bad, and when a
    rate lets the next command have its turn."""

    __slots__ = ("_counts", "_seed", "bad_blocks", "fired", "free_ns", "matched", "rule")

    def __init__(self, rule: Rule, seed: int) -> None:
        self.rule = rule
        self.matched = 0
        self.fired = 0
        self.bad_blocks: dict[int, BadBlocks] = {}
        self.free_ns: dict[int, int] = {}
        self._seed = seed
        self._counts: OrderedDict[object, _Count] = OrderedDict()

    def fires(self, subject: Subject) -> Random | None:
        """Count the subject, which matches; the generator to draw from when the rule fires, else None."""
        trigger = self.rule.trigger
        key = _scope_key(trigger.per, subject)
        count = self._counts.get(key)
        if count is None:
            count = self._counts[key] = _Count(f"{self._seed}/{self.rule.name}/{key}")
            if len(self._counts) > MAX_SCOPES:
                self._counts.popitem(last=False)
        elif trigger.per is not Scope.RULE:
            self._counts.move_to_end(key)
        self.matched += 1
        count.matched += 1
        if not trigger.eligible(count.matched, count.fired):
            return None
        if trigger.probability < 1 and count.random.random() >= trigger.probability:
            return None
        count.fired += 1
        self.fired += 1
        return count.random


def _scope_key(per: Scope, subject: Subject) -> object:
    match per:
        case Scope.RULE:
            return ()
        case Scope.SESSION:
            return (subject.initiator_name, subject.tsih)
        case Scope.CONNECTION:
            return subject.connection
        case Scope.LUN:
            return subject.lun
        case Scope.TASK:
            return (subject.initiator_name, subject.tsih, subject.initiator_task_tag)


class InstalledRule:
    """A rule in a set, as who added it sees it. As a context manager it removes the rule at the end."""

    def __init__(self, rules: RuleSet, active: ActiveRule) -> None:
        self._rules = rules
        self._active = active
        self.name = active.rule.name

    @property
    def status(self) -> RuleStatus:
        """The rule with its counters, as they are or were when it was removed."""
        return _status(self._active)

    @property
    def matched(self) -> int:
        """How often the rule matched."""
        return self.status.matched

    @property
    def fired(self) -> int:
        """How often the rule fired."""
        return self.status.fired

    def remove(self) -> None:
        """Take the rule out of the set; nothing happens when it is gone already."""
        with suppress(UnknownRule):
            self._rules.remove(self.name)

    def disable(self) -> None:
        """Let the rule rest. Raises UnknownRule."""
        self._rules.enable(self.name, False)

    def enable(self) -> None:
        """Let the rule work again. Raises UnknownRule."""
        self._rules.enable(self.name)

    def __enter__(self) -> InstalledRule:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.remove()


class RuleSet:
    """The rules of a running target. All methods may be called from any thread.

    `on_pdus` and `on_commands` are replaced as a whole at every change: who works by them takes them once per PDU or
    command. `changed` is called after every change, from the thread that made it.
    """

    def __init__(self, rules: Iterable[Rule] = (), *, seed: int = 0) -> None:
        self.seed = seed
        self.lock = threading.Lock()
        """Held while a rule's counters change, too."""
        self._rules: dict[str, ActiveRule] = {}
        self.on_pdus: tuple[ActiveRule, ...] = ()
        self.on_commands: tuple[ActiveRule, ...] = ()
        self.changed: Callable[[], None] = _nothing
        self.add_all(rules)

    def add(self, rule: Rule | Action, /, *, name: str = "", **keys: object) -> InstalledRule:
        """Add a rule, or an action with the other keys of a rule's table (:mod:`iscsi_target.faults.tables`):

        >>> rules.add(Drop(), direction="to-initiator", opcode="r2t", nth=3)

        Without a name the rule gets one. Raises FaultError: a key or value is wrong, the name is taken, too many rules.
        """
        if not isinstance(rule, Rule):
            from iscsi_target.faults.tables import rule_of

            rule = rule_of(rule, name=name or self._free_name(rule), **keys)
        elif name or keys:
            raise FaultError("a whole rule is added as it is")
        return self.add_all((rule,))[0]

    def add_table(self, table: Mapping[str, object], *, replace_rule: bool = False) -> InstalledRule:
        """Add the rule that a table of TOML or JSON describes. Raises FaultError."""
        from iscsi_target.faults.tables import rule_from_table

        rule = rule_from_table(table)
        return self.add_all((rule,), replace_rules=replace_rule)[0]

    def add_all(self, rules: Iterable[Rule], *, replace_rules: bool = False) -> list[InstalledRule]:
        """Add rules, all or none. Raises FaultError."""
        added = [ActiveRule(rule, self.seed) for rule in rules]
        with self.lock:
            after = dict(self._rules)
            for active in added:
                name = active.rule.name
                if name in after and not (replace_rules and name in self._rules):
                    raise FaultError(f"there is a rule {name!r} already")
                after[name] = active
            if len(after) > MAX_RULES:
                raise FaultError(f"there are at most {MAX_RULES} rules")
            self._publish(after)
        self.changed()
        return [InstalledRule(self, active) for active in added]

    def remove(self, name: str) -> RuleStatus:
        """Remove a rule; how it stood at the end. Raises UnknownRule."""
        with self.lock:
            active = self._find(name)
            self._publish({other: rule for other, rule in self._rules.items() if other != name})
            status = _status(active)
        self.changed()
        return status

    def clear(self) -> int:
        """Remove every rule; how many there were."""
        with self.lock:
            count = len(self._rules)
            self._publish({})
        self.changed()
        return count

    def enable(self, name: str, enabled: bool = True) -> None:
        """Let a rule work, or rest; its counters go on. Raises UnknownRule."""
        with self.lock:
            active = self._find(name)
            active.rule = replace(active.rule, enabled=enabled)
            self._publish(self._rules)
        self.changed()

    def status(self, name: str) -> RuleStatus:
        """A rule with its counters. Raises UnknownRule."""
        with self.lock:
            return _status(self._find(name))

    def statuses(self) -> list[RuleStatus]:
        """Every rule with its counters, in the order in which they are tried."""
        with self.lock:
            return [_status(active) for active in self._rules.values()]

    def __iter__(self) -> Iterator[Rule]:
        return iter([status.rule for status in self.statuses()])

    def __len__(self) -> int:
        return len(self._rules)

    def firing(
        self, rules: tuple[ActiveRule, ...], subject: Subject, applies: Callable[[ActiveRule, Subject], bool]
    ) -> list[tuple[ActiveRule, Random]]:
        """Those of `rules` that fire on the subject, in order, each with what it draws from. A rule that matches where
        its action has nothing to act on (`applies`) does not count."""
        fired = []
        for active in rules:
            if active.rule.match.matches(subject) and applies(active, subject):
                with self.lock:
                    random = active.fires(subject)
                if random is not None:
                    fired.append((active, random))
        return fired

    def _free_name(self, action: object) -> str:
        kind = type(action).__name__.lower()
        number = 1
        while f"{kind}-{number}" in self._rules:
            number += 1
        return f"{kind}-{number}"

    def _find(self, name: str) -> ActiveRule:
        active = self._rules.get(name)
        if active is None:
            there = ", ".join(list(self._rules)[:20]) or "none"
            raise UnknownRule(f"there is no rule {name!r:.80}; there are: {there}")
        return active

    def _publish(self, rules: dict[str, ActiveRule]) -> None:
        self._rules = rules
        enabled = [active for active in rules.values() if active.rule.enabled]
        self.on_pdus = tuple(active for active in enabled if not active.rule.on_commands)
        self.on_commands = tuple(active for active in enabled if active.rule.on_commands)


def _status(active: ActiveRule) -> RuleStatus:
    return RuleStatus(active.rule, active.matched, active.fired)


def _nothing() -> None:
    """Nobody wants to hear of changes."""
