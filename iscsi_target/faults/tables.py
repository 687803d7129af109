# SPDX-License-Identifier: Apache-2.0
"""Rules as tables: what TOML files hold, what JSON carries, and what `RuleSet.add` takes as keywords.

One row per key below says how it is read and written; reading and writing both work from these rows. A rule is one flat
table: what it matches, when it fires, the action's name, and the action's own keys.

::

    [[rule]]
    name = "third-r2t-is-lost"
    direction = "to-initiator"
    opcode = "r2t"
    nth = 3
    action = "drop"
"""

from __future__ import annotations

import tomllib
from collections.abc import Callable, Iterable, Mapping
from dataclasses import MISSING, dataclass, fields
from enum import Enum
from pathlib import Path
from typing import Any

from iscsi_target.faults.actions import (
    Action,
    Answer,
    Async,
    Close,
    Corrupt,
    Delay,
    Drop,
    Duplicate,
    Latency,
    MediumAccess,
    MediumError,
    Part,
    Rate,
    Redirect,
    Reject,
    Renumber,
    Reorder,
    Sense,
    Truncate,
    Window,
)
from iscsi_target.faults.distributions import describe_distribution, parse_distribution
from iscsi_target.faults.errors import FaultError
from iscsi_target.faults.matching import (
    Direction,
    Match,
    Scope,
    Trigger,
    commands_named,
    format_cdb,
    opcode_name,
    parse_cdb,
    parse_opcode,
)
from iscsi_target.faults.quantities import format_time, parse_bytes, parse_time
from iscsi_target.faults.rules import Rule
from iscsi_target.scsi.sense import SenseKey
from iscsi_target.scsi.status import Status
from iscsi_target.wire.codec import CODECS
from iscsi_target.wire.opcodes import AsyncEvent, RejectReason

LARGEST_FILE_BYTES = 1 << 20


@dataclass(frozen=True, slots=True)
class _Key:
    """How one value is read (FaultError when it cannot be) and written; `field` is its name in the dataclass."""

    read: Callable[[Any], Any]
    write: Callable[[Any], Any] = lambda value: value
    field: str = ""


def _integer(value: object) -> int:
    if not isinstance(value, int) or isinstance(value, bool):
        raise FaultError(f"a whole number is expected, not {value!r:.40}")
    return value


def _number(value: object) -> float:
    if not isinstance(value, int | float) or isinstance(value, bool):
        raise FaultError(f"a number is expected, not {value!r:.40}")
    return value


def _truth(value: object) -> bool:
    if not isinstance(value, bool):
        raise FaultError(f"true or false is expected, not {value!r:.40}")
    return value


def _text(value: object) -> str:
    if not isinstance(value, str):
        raise FaultError(f"text is expected, not {value!r:.40}")
    return value


def _integers(value: object) -> tuple[int, ...]:
    if not isinstance(value, list | tuple):
        raise FaultError(f"a list of whole numbers is expected, not {value!r:.40}")
    return tuple(_integer(item) for item in value)


def _set_of(read: Callable[[Any], Any]) -> Callable[[Any], frozenset[Any]]:
    """One value, or a list of them."""
    return lambda value: frozenset(
        read(item) for item in (value if isinstance(value, list | tuple) else (value,))
    )


def _one_or_list(write: Callable[[Any], Any]) -> Callable[[Any], Any]:
    def written(values: frozenset[Any]) -> Any:
        items = sorted(write(value) for value in values)
        return items[0] if len(items) == 1 else items

    return written


def _command(value: object) -> str:
    name = _text(value)
    commands_named(name)
    return name


def _spelled(item: Enum) -> str:
    name = item.value if isinstance(item.value, str) else item.name
    return name.lower().replace("_", "-")


def _one_of(kind: type[Enum]) -> _Key:
    """A member of an enumeration by its name in lower case with hyphens (or, of an IntEnum, its number)."""
    by_name = {_spelled(item): item for item in kind}

    def read(value: object) -> Enum:
        if isinstance(value, kind):
            return value
        found = (
            by_name.get(value.lower().replace("_", "-").replace(" ", "-")) if isinstance(value, str) else None
        )
        if found is None and isinstance(value, int) and not isinstance(value, bool):
            found = next((item for item in kind if item.value == value), None)
        if found is None:
            raise FaultError(f"there is no {value!r:.40}; there are {', '.join(by_name)}")
        return found

    return _Key(read, _spelled)


def _field_name(value: object) -> str:
    name = _text(value)
    if not any(name in codec.bits for codec in CODECS.values()):
        known = sorted(
            {field for codec in CODECS.values() for field, bits in codec.bits.items() if bits >= 16}
        )
        raise FaultError(f"no PDU has the number {name!r:.40}; there are {', '.join(known)}")
    return name


def _close_how(value: object) -> str:
    if value not in ("close", "half-close", "reset"):
        raise FaultError(f"a connection ends by close, half-close or reset, not {value!r:.40}")
    return _text(value)


_DISTRIBUTION = _Key(parse_distribution, describe_distribution)
_INT, _BOOL, _TEXT = _Key(_integer), _Key(_truth), _Key(_text)

_MATCH: Mapping[str, _Key] = {
    "direction": _one_of(Direction),
    "opcode": _Key(_set_of(parse_opcode), _one_or_list(opcode_name), "opcodes"),
    "lun": _Key(_set_of(_integer), _one_or_list(int), "luns"),
    "command": _Key(_set_of(_command), _one_or_list(str), "commands"),
    "cdb": _Key(parse_cdb, format_cdb),
    "initiator": _TEXT,
    "target": _TEXT,
    "session": _INT,
    "cid": _INT,
    "task_tag": _Key(_integer, field="initiator_task_tag"),
}
_TRIGGER: Mapping[str, _Key] = {
    "nth": _INT,
    "every": _INT,
    "skip": _INT,
    "count": _INT,
    "probability": _Key(_number),
    "per": _one_of(Scope),
}
_SENSE = {"sense_key": _one_of(SenseKey), "asc": _INT, "ascq": _INT}
_ACTIONS: Mapping[str, tuple[type[Any], Mapping[str, _Key], Mapping[str, Any]]] = {
    "drop": (Drop, {}, {}),
    "duplicate": (Duplicate, {"copies": _INT}, {}),
    "delay": (Delay, {"delay": _DISTRIBUTION, "overtake": _BOOL}, {}),
    "reorder": (Reorder, {"behind": _INT, "within": _Key(parse_time, format_time, "within_ns")}, {}),
    "truncate": (Truncate, {"keep_bytes": _INT, "adjust": _BOOL}, {}),
    "corrupt": (
        Corrupt,
        {"part": _one_of(Part), "bits": _Key(_integers, list), "random_bits": _INT, "recompute": _BOOL},
        {},
    ),
    "renumber": (Renumber, {"field": _Key(_field_name), "add": _INT, "value": _INT}, {}),
    "window": (Window, {"commands": _INT}, {}),
    "redirect": (Redirect, {"address": _TEXT, "permanent": _BOOL}, {}),
    "close": (Close, {"how": _Key(_close_how), "pass_first": _BOOL}, {}),
    "reject": (Reject, {"reason": _one_of(RejectReason)}, {}),
    "async": (Async, {"event": _one_of(AsyncEvent), "parameters": _Key(_integers, list), **_SENSE}, {}),
    "busy": (Answer, {"execute": _BOOL}, {"status": Status.BUSY}),
    "queue-full": (Answer, {"execute": _BOOL}, {"status": Status.TASK_SET_FULL}),
    "status": (Answer, {"status": _one_of(Status), "execute": _BOOL}, {}),
    "sense": (Sense, {**_SENSE, "information": _INT, "execute": _BOOL}, {}),
    "medium-error": (
        MediumError,
        {"lba": _INT, "blocks": _INT, "access": _one_of(MediumAccess), "until_rewritten": _BOOL},
        {},
    ),
    "latency": (Latency, {"delay": _DISTRIBUTION}, {}),
    "rate": (Rate, {"bytes_per_s": _Key(parse_bytes), "iops": _Key(_number)}, {}),
}
ACTION_NAMES = tuple(_ACTIONS)
_OWN = ("name", "enabled", "action")


def _field(key: str, how: _Key, kind: type[Any]) -> str:
    """The dataclass's name for a key."""
    if how.field:
        return how.field
    return "key" if key == "sense_key" and kind is Sense else key


def rule_from_table(table: Mapping[str, object], *, where: str = "") -> Rule:
    """The rule that a table describes. Raises FaultError; `where` goes before its text."""
    name = table.get("name")
    if where and isinstance(name, str):
        where = f"{where} {name!r:.70}"
    try:
        return _rule_from_table(table)
    except FaultError as error:
        raise FaultError(f"{where}: {error}" if where else str(error)) from None


def _rule_from_table(table: Mapping[str, object]) -> Rule:
    if "name" not in table or "action" not in table:
        raise FaultError(f"a rule has a {'name' if 'name' not in table else 'action'}")
    action_name = _text(table["action"])
    if action_name not in _ACTIONS:
        raise FaultError(f"action: there is no {action_name!r:.40}; there are {', '.join(_ACTIONS)}")
    kind, keys, fixed = _ACTIONS[action_name]
    known = (*_OWN, *_MATCH, *_TRIGGER, *keys)
    for key in table:
        if key not in known:
            raise FaultError(
                f"{key!r:.60} is no key of a rule with action {action_name!r}; there are {', '.join(known)}"
            )
    values: dict[str, Any] = {**fixed, **_read(table, keys, kind)}
    missing = [
        next((key for key, how in keys.items() if _field(key, how, kind) == entry.name), entry.name)
        for entry in fields(kind)
        if entry.default is MISSING and entry.default_factory is MISSING and entry.name not in values
    ]
    if missing:
        raise FaultError(f"action {action_name!r} needs {', '.join(missing)}")
    return Rule(
        name=_text(table["name"]),
        action=kind(**values),
        match=Match(**_read(table, _MATCH, Match)),
        trigger=Trigger(**_read(table, _TRIGGER, Trigger)),
        enabled=_truth(table.get("enabled", True)),
    )


def _read(table: Mapping[str, object], keys: Mapping[str, _Key], kind: type[Any]) -> dict[str, Any]:
    values = {}
    for key, how in keys.items():
        if key in table:
            try:
                values[_field(key, how, kind)] = how.read(table[key])
            except FaultError as error:
                raise FaultError(f"{key}: {error}") from None
    return values


def rule_of(action: Action, /, *, name: str, **keys: object) -> Rule:
    """A rule with a ready-made action; `keys` are the keys of a table that match and trigger. Raises FaultError."""
    known = ("enabled", *_MATCH, *_TRIGGER)
    for key in keys:
        if key not in known:
            raise FaultError(f"{key!r:.60} is no key of a rule; there are {', '.join(known)}")
    given: Any = action
    return Rule(
        name=name,
        action=given,
        match=Match(**_read(keys, _MATCH, Match)),
        trigger=Trigger(**_read(keys, _TRIGGER, Trigger)),
        enabled=_truth(keys.get("enabled", True)),
    )


def rule_to_table(rule: Rule) -> dict[str, Any]:
    """The table that :func:`rule_from_table` makes an equal rule of; values of JSON. What is left at its default is
    left out."""
    table: dict[str, Any] = {"name": rule.name}
    if not rule.enabled:
        table["enabled"] = False
    _write(table, _MATCH, rule.match)
    _write(table, _TRIGGER, rule.trigger)
    for name, (kind, keys, fixed) in _ACTIONS.items():
        if type(rule.action) is kind and all(
            getattr(rule.action, key) == value for key, value in fixed.items()
        ):
            table["action"] = name
            _write(table, keys, rule.action)
            return table
    raise FaultError(f"{rule.action!r:.80} has no name")


def _write(table: dict[str, Any], keys: Mapping[str, _Key], of: Any) -> None:
    defaults = {
        entry.name: entry.default if entry.default is not MISSING else None
        for entry in fields(of)
        if entry.default is not MISSING
    }
    for key, how in keys.items():
        name = _field(key, how, type(of))
        value = getattr(of, name)
        if value is not None and (name not in defaults or value != defaults[name]) and value != frozenset():
            table[key] = how.write(value)


@dataclass(frozen=True, slots=True)
class RuleFile:
    """What a rules file says."""

    rules: tuple[Rule, ...]
    seed: int | None = None


def rules_from_document(document: Mapping[str, object], *, where: str) -> RuleFile:
    """The rules of a parsed TOML document: ``seed = N`` and ``[[rule]]`` tables. Raises FaultError naming `where`."""
    for key in document:
        if key not in ("seed", "rule"):
            raise FaultError(f"{where}: {key!r:.60} is no key of a rules file; there are seed and [[rule]]")
    seed = document.get("seed")
    if seed is not None and (not isinstance(seed, int) or isinstance(seed, bool)):
        raise FaultError(f"{where}: seed: a whole number is expected, not {seed!r:.40}")
    return RuleFile(tuple(_rules(document.get("rule", ()), where)), seed)


def _rules(tables: object, where: str) -> Iterable[Rule]:
    if not isinstance(tables, list | tuple) or not all(isinstance(table, Mapping) for table in tables):
        raise FaultError(f"{where}: rules are tables: [[rule]]")
    seen: set[str] = set()
    for number, table in enumerate(tables, 1):
        rule = rule_from_table({"name": f"rule-{number}", **table}, where=f"{where}: rule {number}")
        if rule.name in seen:
            raise FaultError(f"{where}: rule {number} {rule.name!r}: the name is taken")
        seen.add(rule.name)
        yield rule


def load_rules(path: Path) -> RuleFile:
    """The rules of a TOML file; FaultError names the file, the rule and the key in one line."""
    try:
        with path.open("rb") as file:
            data = file.read(LARGEST_FILE_BYTES + 1)
    except OSError as error:
        raise FaultError(f"cannot read {path}: {(error.strerror or str(error)).lower()}") from None
    if len(data) > LARGEST_FILE_BYTES:
        raise FaultError(f"{path} is longer than {LARGEST_FILE_BYTES} bytes")
    try:
        document = tomllib.loads(data.decode())
    except (UnicodeDecodeError, tomllib.TOMLDecodeError, RecursionError) as error:
        raise FaultError(f"{path} is not TOML: {error}") from None
    return rules_from_document(document, where=str(path))
