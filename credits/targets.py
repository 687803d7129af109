"""Reservation targets: who a reservation is for (spec C.7, paragraphs 29, 66, 81, 102).

A target is a small frozen value, usable as a dictionary key. The core knows none of their meanings: it only
compares them, and walks a request's claims in :data:`PRECEDENCE` order (most specific first, GAP-24).
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from enum import StrEnum


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


@dataclass(frozen=True, slots=True)
class Target:
    """One reservation target.

    ``local_port`` and ``remote_port`` are addresses (IP text for TCP, 16 hex digits of a WWPN for FC).
    ``remote_port_number`` is the TCP port number at the remote site, or the FC-4 TYPE (embodiment 3).
    ``buffer_id`` names a connection's reservation (embodiment 4); its port pair is recorded with it but does
    not take part in finding it, so that one ID may serve connections of several port pairs (paragraph 95).
    ``name`` is the application, or the two volumes or volume groups, of the open kinds (paragraph 102).
    Build targets with the functions below; they say which fields belong to which kind.
    """

    kind: TargetKind
    local_port: str | None = None
    remote_port: str | None = None
    remote_port_number: int | None = None
    buffer_id: int | None = None
    name: str | None = None


def port_pair(local_port: str, remote_port: str) -> Target:
    """A pair of port addresses (embodiment 1)."""
    return Target(TargetKind.PORT_PAIR, local_port, remote_port)


def port_pair_number(local_port: str, remote_port: str, remote_port_number: int) -> Target:
    """A port pair together with the port number at the remote site (embodiment 3)."""
    return Target(TargetKind.PORT_PAIR_NUMBER, local_port, remote_port, remote_port_number)


def connection(buffer_id: int) -> Target:
    """The connection, or connections, that hold ``buffer_id`` (embodiment 4)."""
    return Target(TargetKind.CONNECTION, buffer_id=buffer_id)


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
    return tuple(sorted(claims, key=lambda target: PRECEDENCE.index(target.kind)))
