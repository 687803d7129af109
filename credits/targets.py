"""Reservation targets: who a reservation is for (spec C.7, paragraphs 29, 66, 81, 102).

A target is a small frozen value, usable as a dictionary key. The core knows none of their meanings: it only
compares them, and of a request's claims the most specific kind that has a reservation serves it (GAP-24).
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from enum import StrEnum

from credits.errors import Code, InvalidRequest

#: The longest address or name, in characters.
NAME_LIMIT = 255
#: Buffer IDs and remote port numbers stay inside these bounds (table 1500; TCP port or FC-4 TYPE).
BUFFER_ID_LIMIT = 2**31 - 1
PORT_NUMBER_LIMIT = 65535


class TargetKind(StrEnum):
    """The kinds of target, spelled as on the command line and in JSON."""

    CONNECTION = "connection"
    VOLUME_PAIR = "volume_pair"
    VOLUME_GROUP_PAIR = "volume_group_pair"
    APPLICATION = "application"
    PORT_PAIR_NUMBER = "port_pair_number"
    PORT_PAIR = "port_pair"


#: The most specific kind first: the first of a request's claims that has a reservation serves it.
PRECEDENCE: tuple[TargetKind, ...] = tuple(TargetKind)

#: Position of each kind in :data:`PRECEDENCE`; lower is more specific.
RANK: dict[TargetKind, int] = {kind: rank for rank, kind in enumerate(PRECEDENCE)}


class _Keyed:
    """Gives :class:`Target` a slot that is not one of its fields, so that it neither compares nor travels."""

    __slots__ = ("key",)

    #: Canonical text, equal exactly when two targets name the same reservation; hashing a text is cheap.
    key: str


@dataclass(frozen=True, slots=True, eq=False)
class Target(_Keyed):
    """One reservation target.

    ``local_port`` and ``remote_port`` are addresses (IP text for TCP, 16 hex digits of a WWPN for FC).
    ``remote_port_number`` is the TCP port number at the remote site, or the FC-4 TYPE (embodiment 3).
    ``buffer_id`` names a connection's reservation (embodiment 4); its port pair is recorded with it but does
    not take part in finding it, so that one ID may serve connections of several port pairs (paragraph 95).
    ``name`` is the application, or the two volumes or volume groups, of the open kinds (paragraph 102).
    Two targets are equal when they name the same reservation, so a connection equals its bare buffer ID.
    Build targets with the functions below; they say which fields belong to which kind.
    """

    kind: TargetKind
    local_port: str | None = None
    remote_port: str | None = None
    remote_port_number: int | None = None
    buffer_id: int | None = None
    name: str | None = None

    def __post_init__(self) -> None:
        if self.kind is TargetKind.CONNECTION and self.buffer_id is not None:
            key = f"{self.kind}\0\0\0\0{self.buffer_id}\0"
        else:
            number = "" if self.remote_port_number is None else self.remote_port_number
            key = f"{self.kind}\0{self.local_port or ''}\0{self.remote_port or ''}\0{number}\0\0{self.name or ''}"
        object.__setattr__(self, "key", key)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Target) and self.key == other.key

    def __hash__(self) -> int:
        return hash(self.key)

    def __reduce__(self) -> tuple[object, ...]:
        return Target, (
            self.kind,
            self.local_port,
            self.remote_port,
            self.remote_port_number,
            self.buffer_id,
            self.name,
        )

    def __str__(self) -> str:
        pair = f"{self.local_port}->{self.remote_port}"
        match self.kind:
            case TargetKind.PORT_PAIR:
                return f"port pair {pair}"
            case TargetKind.PORT_PAIR_NUMBER:
                return f"port pair {pair} number {self.remote_port_number}"
            case TargetKind.CONNECTION if self.buffer_id is None:
                return f"a new connection of {pair}"
            case TargetKind.CONNECTION:
                return f"buffer ID {self.buffer_id}"
            case _:
                return f"{self.kind.value.replace('_', ' ')} {self.name}"


def port_pair(local_port: str, remote_port: str) -> Target:
    """A pair of port addresses (embodiment 1)."""
    return Target(TargetKind.PORT_PAIR, local_port, remote_port)


def port_pair_number(local_port: str, remote_port: str, remote_port_number: int) -> Target:
    """A port pair together with the port number at the remote site (embodiment 3)."""
    return Target(TargetKind.PORT_PAIR_NUMBER, local_port, remote_port, remote_port_number)


def connection(buffer_id: int) -> Target:
    """The connection, or connections, that hold ``buffer_id`` (embodiment 4)."""
    return Target(TargetKind.CONNECTION, buffer_id=buffer_id)


def new_connection(local_port: str, remote_port: str) -> Target:
    """A connection of the port pair that has no buffer ID yet: reserving for it issues one (step 1007)."""
    return Target(TargetKind.CONNECTION, local_port, remote_port)


def application(name: str) -> Target:
    """An application by name (paragraph 102)."""
    return Target(TargetKind.APPLICATION, name=name)


def volume_pair(local_volume: str, remote_volume: str) -> Target:
    """A pair of logical volumes (paragraph 102)."""
    return Target(TargetKind.VOLUME_PAIR, name=f"{local_volume},{remote_volume}")


def volume_group_pair(local_group: str, remote_group: str) -> Target:
    """A pair of volume groups (paragraph 102)."""
    return Target(TargetKind.VOLUME_GROUP_PAIR, name=f"{local_group},{remote_group}")


def by_precedence(claims: Iterable[Target]) -> tuple[Target, ...]:
    """The claims of one request, most specific kind first (GAP-24)."""
    return tuple(sorted(claims, key=lambda target: RANK[target.kind]))


#: The fields each kind has; the others must be absent. ``CONNECTION`` may also carry its port pair.
_FIELDS: dict[TargetKind, frozenset[str]] = {
    TargetKind.CONNECTION: frozenset({"buffer_id"}),
    TargetKind.VOLUME_PAIR: frozenset({"name"}),
    TargetKind.VOLUME_GROUP_PAIR: frozenset({"name"}),
    TargetKind.APPLICATION: frozenset({"name"}),
    TargetKind.PORT_PAIR_NUMBER: frozenset({"local_port", "remote_port", "remote_port_number"}),
    TargetKind.PORT_PAIR: frozenset({"local_port", "remote_port"}),
}


def check_target(target: Target) -> None:
    """Raise :class:`InvalidRequest` (INVALID_TARGET) unless ``target`` is a well-formed one of its kind.

    A connection either has a buffer ID, or a port pair for which a new ID is wanted, or both.
    """
    if not isinstance(target, Target) or not isinstance(target.kind, TargetKind):
        raise InvalidRequest(Code.INVALID_TARGET, f"not a reservation target: {target!r:.80}")
    present = {name for name in ("local_port", "remote_port", "name") if getattr(target, name) is not None}
    for name in present:
        _check_text(name, getattr(target, name))
    for name, limit in (("remote_port_number", PORT_NUMBER_LIMIT), ("buffer_id", BUFFER_ID_LIMIT)):
        value = getattr(target, name)
        if value is not None:
            present.add(name)
            if type(value) is not int or not 0 <= value <= limit:
                raise InvalidRequest(
                    Code.INVALID_TARGET, f"{name} is a whole number from 0 to {limit}, not {value!r:.40}"
                )
    wanted = _FIELDS[target.kind]
    if target.kind is TargetKind.CONNECTION:
        pair = {"local_port", "remote_port"}
        well_formed = present in ({"buffer_id"}, pair, pair | {"buffer_id"})
    else:
        well_formed = present == wanted
    if not well_formed:
        raise InvalidRequest(
            Code.INVALID_TARGET,
            f"a {target.kind.value} target has {', '.join(sorted(wanted))}; "
            f"this one has {', '.join(sorted(present)) or 'nothing'}",
        )


def _check_text(name: str, value: object) -> None:
    if not isinstance(value, str) or not 1 <= len(value) <= NAME_LIMIT or not value.isprintable():
        raise InvalidRequest(
            Code.INVALID_TARGET,
            f"{name} is a printable text of 1 to {NAME_LIMIT} characters, not {value!r:.40}",
        )
