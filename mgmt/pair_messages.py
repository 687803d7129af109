"""The messages about pairs and consistency groups, from the station to an array and back (beyond M1-M17).

A group is made with one request to each array, the secondary first; afterwards each array is told what concerns its
end.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class PairMember:
    """One pair of a group: the volume at the array that is asked, and its logical unit at the other one."""

    volume: str
    remote_lun: int


@dataclass(frozen=True, slots=True, kw_only=True)
class RemoteEnd:
    """Where the other array takes copies. ``link``: its end of a Fibre Channel line, for a copy over one."""

    host: str
    port_number: int
    iqn: str
    link: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class PairCreateRequest:
    """Make a consistency group at one array.

    ``role`` is ``P-VOL`` or ``S-VOL``; ``group_id`` 32 hex digits, the same at both ends. ``journal`` is the volume
    here that takes the other's journal while this array is secondary, ``remote_journal_lun`` the one there.
    ``mode``: ``sync`` or ``async``; ``fence``: ``never`` or ``data``. ``priority`` 0 is slowed down last.
    ``self_applying``: the other array is one of ours, and applies epochs itself.

    """

    group: str
    group_id: str
    role: str
    mode: str
    fence: str
    members: tuple[PairMember, ...]
    remote: RemoteEnd
    local_port: str
    remote_journal_lun: int
    sessions: int
    connections_per_session: int
    journal: str | None = None
    priority: int = 0
    self_applying: bool = True
    overwrite: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class PairRequest:
    """A wish about a group: ``split``, ``resync``, ``delete``, ``takeover``, ``demote``, ``promote``, ``status``.

    ``full`` goes with resync, ``force`` with takeover, ``remote`` with promote.
    """

    group: str
    verb: str
    full: bool = False
    force: bool = False
    remote: RemoteEnd | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class PairStatus:
    """One pair as one array sees it; ``dirty_bytes`` is what its bitmap says is still to be copied."""

    volume: str
    remote_lun: int
    state: str
    total_bytes: int
    dirty_bytes: int


@dataclass(frozen=True, slots=True, kw_only=True)
class GroupStatus:
    """A group as one array sees it.

    ``rpo_bytes`` and ``rpo_ns``: what hosts were told is written and the remote image lacks, and how old that image is
    (absent where nobody knows: while copying or suspended). ``epoch`` and ``last_seq`` name the point in time of the
    remote image; ``consistent`` whether the S-VOLs are one. ``error`` is one line, or empty; ``held``: the pair does
    not come back by itself, somebody has to decide.
    """

    group: str
    group_id: str
    role: str
    mode: str
    fence: str
    state: str
    pairs: tuple[PairStatus, ...]
    generation: int
    epoch: int
    last_seq: int
    newest_seq: int
    consistent: bool
    connections: int
    wanted_connections: int
    reserved_bytes: int
    in_flight_bytes: int
    journal_bytes: int
    journal_capacity_bytes: int
    rpo_bytes: int
    sent_bytes: int
    resynced_bytes: int
    local_port: str
    remote_port: str
    delay_ns: int = 0
    rpo_ns: int | None = None
    held: bool = False
    error: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class VolumeChecksumsRequest:
    """SHA-256 of consecutive pieces of a volume, from ``offset_bytes`` on; at most 256 pieces are answered."""

    volume: str
    offset_bytes: int
    piece_bytes: int
    pieces: int


@dataclass(frozen=True, slots=True, kw_only=True)
class VolumeChecksums:
    """The checksums (hex), fewer than asked for at the end of the volume of ``total_bytes``."""

    volume: str
    offset_bytes: int
    piece_bytes: int
    total_bytes: int
    checksums: tuple[str, ...]


__all__ = [
    "GroupStatus",
    "PairCreateRequest",
    "PairMember",
    "PairRequest",
    "PairStatus",
    "RemoteEnd",
    "VolumeChecksums",
    "VolumeChecksumsRequest",
]
