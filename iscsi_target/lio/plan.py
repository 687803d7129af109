# SPDX-License-Identifier: Apache-2.0
"""Wanted and present, as tables of nodes, to the ordered steps between them. Pure.

What a description does not say stays as it is; what it does not name stays too, unless it is ours. A node that is made
of something else than wanted is removed and made again, with all that stands on it.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass

from iscsi_target.lio.nodes import DEFAULT_ALUA_GROUP, SECRET, Key, Kind, Made, Node, Nodes


@dataclass(frozen=True, slots=True)
class Make:
    """Make a node, with its settings, except for the one that puts a portal group to work."""

    node: Node

    @property
    def key(self) -> Key:
        return self.node.key

    def __str__(self) -> str:
        said = [f"{name} {value}" for name, value in self.node.made_of.items() if value is not None]
        said += [f"{_short(name)}={_shown(name, value)}" for name, value in self.node.settings.items()]
        return f"make {self.key}" + (f" ({', '.join(said)})" if said else "")


@dataclass(frozen=True, slots=True)
class Change:
    """Change one setting. `old` None: it is not known before."""

    key: Key
    name: str
    old: str | None
    new: str

    def __str__(self) -> str:
        before = "" if self.old is None else f" (was {_shown(self.name, self.old)})"
        return f"set {_short(self.name)} of {self.key} to {_shown(self.name, self.new)}{before}"


@dataclass(frozen=True, slots=True)
class Remove:
    """Remove a node that has no children any more. `loses`: blocks go with it that nobody can bring back."""

    key: Key
    loses: bool = False

    def __str__(self) -> str:
        return f"remove {self.key}" + (" (its contents are lost)" if self.loses else "")


Step = Make | Change | Remove


@dataclass(frozen=True, slots=True)
class Plan:
    """What to do. `conflicts`: present things of others that would have to change; `foreign`: things of others
    within ours, which stay."""

    steps: tuple[Step, ...]
    conflicts: tuple[Key, ...] = ()
    foreign: tuple[Key, ...] = ()
    kept: tuple[Key, ...] = ()
    """What is ours, should go, and stays, because something of others stands on it."""


def _short(name: str) -> str:
    return name.rpartition("/")[2]


def _shown(name: str, value: str) -> str:
    return ("***" if value else "none") if name in SECRET else value or "''"


def plan(
    wanted: Nodes, present: Nodes, ours: Collection[Key] = (), *, adopt: bool = False, prune: bool = False
) -> Plan:
    """Steps that lead from `present` to `wanted`.

    `ours`: the nodes that earlier runs made. `adopt`: others' nodes may be changed; `prune`: what stands within ours
    and is not wanted goes, whoever made it. Time is linear in the number of nodes.
    """
    owned = set(ours)
    users = _users(present)
    unmade = {
        key
        for key, node in wanted.items()
        if key in present and not _same(node.made_of, present[key].made_of)
    }
    rebuilt = _with_users(unmade, users)
    unwanted = [key for key in present if key not in wanted and _removable(key)]
    going = {key for key in unwanted if key in owned}
    foreign = [key for key in unwanted if key not in owned and _within(key, wanted, owned)]
    if prune:
        going = _with_users(going | set(foreign), users)
        foreign = []
    going -= rebuilt
    blocked = {key for key in going if any(user not in going and user not in rebuilt for user in users[key])}
    kept = _blocked(blocked, users, going)
    going -= kept
    conflicts = [] if adopt else [key for key in rebuilt if key not in owned]
    early, late = _in_time(going, wanted, present)
    steps: list[Step] = _switched_off(wanted, present)
    steps += [_removal(key) for key in _downwards(rebuilt | early)]
    for key, node in wanted.items():
        if key not in present or key in rebuilt:
            steps.append(Make(node))
            continue
        changes = list(_changes(node, present[key]))
        if (
            changes
            and key not in owned
            and not adopt
            and key.kind is not Kind.DISCOVERY
            and not _default(key)
        ):
            conflicts.append(key)
        steps += [change for change in changes if change.name != "enable"]
    steps.sort(key=_rank)
    steps += [_removal(key) for key in _downwards(late)]
    steps += _switched_on(wanted, present, rebuilt)
    return Plan(tuple(steps), tuple(conflicts), tuple(foreign), _sorted(kept))


def clear(present: Nodes, ours: Collection[Key]) -> Plan:
    """Steps that remove what is ours; what others have put on top of it keeps it there."""
    users = _users(present)
    going = {key for key in ours if key in present and _removable(key)}
    blocked = {key for key in going if any(user not in going for user in users[key])}
    kept = _blocked(blocked, users, going)
    going -= kept
    steps: list[Step] = [
        Change(key, "enable", "1", "0")
        for key in going
        if key.kind is Kind.GROUP and present[key].settings.get("enable") == "1"
    ]
    steps += [_removal(key) for key in _downwards(going)]
    return Plan(tuple(steps), kept=_sorted(kept))


def _sorted(keys: Iterable[Key]) -> tuple[Key, ...]:
    return tuple(sorted(keys, key=lambda key: (key.kind.value, key.path)))


def _same(wanted: Mapping[str, Made], present: Mapping[str, Made]) -> bool:
    return all(value is None or present.get(name) == value for name, value in wanted.items())


def _changes(wanted: Node, present: Node) -> Iterable[Change]:
    for name, value in wanted.settings.items():
        old = present.settings.get(name)
        if old != value:
            yield Change(wanted.key, name, old, value)


def _users(present: Nodes) -> dict[Key, list[Key]]:
    """Which nodes stand on which: children, and what points there."""
    users: dict[Key, list[Key]] = defaultdict(list)
    for key, node in present.items():
        parent = key.parent
        if parent is not None and _removable(key):
            users[parent].append(key)
        for link in node.links:
            users[link].append(key)
    return users


def _with_users(keys: set[Key], users: Mapping[Key, list[Key]]) -> set[Key]:
    found, waiting = set(keys), list(keys)
    while waiting:
        for user in users.get(waiting.pop(), ()):
            if user not in found:
                found.add(user)
                waiting.append(user)
    return found


def _blocked(blocked: set[Key], users: Mapping[Key, list[Key]], going: set[Key]) -> set[Key]:
    """Nodes that have to stay because something stays that stands on them, directly or not."""
    below: dict[Key, list[Key]] = defaultdict(list)
    for key in going:
        for user in users.get(key, ()):
            below[user].append(key)
    return _with_users(blocked, below) & going if blocked else set()


def _removable(key: Key) -> bool:
    return key.kind is not Kind.DISCOVERY and not _default(key)


def _default(key: Key) -> bool:
    """The kernel's own ALUA group comes and goes with its backstore."""
    return key.kind is Kind.ALUA_GROUP and key.path[-1] == DEFAULT_ALUA_GROUP


def _within(key: Key, wanted: Nodes, owned: Collection[Key]) -> bool:
    """Whether something that is not ours stands within something wanted."""
    parent = key.parent
    while parent is not None:
        if parent in wanted and parent in owned:
            return True
        parent = parent.parent
    return False


def _in_time(going: set[Key], wanted: Nodes, present: Nodes) -> tuple[set[Key], set[Key]]:
    """What goes before anything is made, because a device can be claimed once; and what goes last."""
    devices = {node.made_of.get("device") for key, node in wanted.items() if key not in present} - {None}
    claimed = {
        key
        for key in going
        if key.kind is Kind.BACKSTORE and present[key].made_of.get("device") in devices and devices
    }
    if not claimed:
        return set(), going
    early = _with_users(claimed, _users({key: present[key] for key in going})) & going
    return early, going - early


def _downwards(keys: Iterable[Key]) -> list[Key]:
    """Children before parents, users before what they use."""
    return sorted(keys, key=lambda key: (-key.kind.value, key.path))


def _removal(key: Key) -> Remove:
    return Remove(key, loses=key.kind is Kind.BACKSTORE and key.path[0] == "ramdisk")


def _rank(step: Step) -> tuple[int, int]:
    """Removals of the rebuilt and the switching off come first; then by kind, parents first (the sort is stable)."""
    if isinstance(step, Remove):
        return 1, 0
    if isinstance(step, Change) and step.name == "enable":
        return 0, 0
    return 2, step.key.kind.value


def _switched_off(wanted: Nodes, present: Nodes) -> list[Step]:
    return [
        Change(key, "enable", "1", "0")
        for key, node in wanted.items()
        if key.kind is Kind.GROUP
        and node.settings.get("enable") == "0"
        and key in present
        and present[key].settings.get("enable") == "1"
    ]


def _switched_on(wanted: Nodes, present: Nodes, rebuilt: Collection[Key]) -> list[Step]:
    """Portal groups go to work last, when all that they offer is there."""
    found: list[Step] = []
    for key, node in wanted.items():
        if key.kind is not Kind.GROUP or node.settings.get("enable") != "1":
            continue
        now = present[key].settings.get("enable") if key in present and key not in rebuilt else None
        if now != "1":
            found.append(Change(key, "enable", now, "1"))
    return found
