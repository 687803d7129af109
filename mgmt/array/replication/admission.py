"""Whether the image at the remote array is the one that this primary wrote (sans-IO).

The primary remembers the last epoch that the remote array has acknowledged. What it finds there can be that epoch, or
the next one when it died between naming it and noting that; anything older was acknowledged and is gone.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum

from mgmt.array.replication.remote_log import Superblock


class Finding(Enum):
    """What to do with what was found."""

    BEGIN = "there is nothing of ours yet: begin with the first record"
    CONTINUE = "it is ours, and as new as it must be"
    AHEAD = "it has writes that this array lost: bring both together by the bitmaps"
    CHANGES = "the old primary's list of what it has and we do not; then begin"


class RemoteUnfit(Exception):
    """What is at the remote array must not be written over without somebody's decision; one line, with the way out."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Memory:
    """What the primary remembers."""

    name: str
    group: bytes
    generation: int
    epoch: int
    last_seq: int


def judge(found: Superblock | None, memory: Memory) -> Finding:
    """:class:`RemoteUnfit` where going on would lose or overwrite something."""
    way_out = f"`sancredit pair resync {memory.name} --full` copies everything again"
    if found is None:
        if memory.epoch:
            raise RemoteUnfit(
                f"the remote array came back with old data: it had epoch {memory.epoch}, and its journal volume "
                f"is empty now; {way_out}"
            )
        return Finding.BEGIN
    if found.group != memory.group:
        if found.group == bytes(16):
            return Finding.BEGIN
        raise RemoteUnfit(
            f"the remote journal volume is busy with another group, of array {found.primary}; delete that group, or "
            "name another journal volume"
        )
    if found.generation > memory.generation:
        raise RemoteUnfit(
            f"the remote array was taken over since: it is at generation {found.generation}, this array at "
            f"{memory.generation}; `sancredit pair swap {memory.name}` makes this array the secondary"
        )
    if found.generation < memory.generation:
        if memory.epoch:
            raise RemoteUnfit(
                f"the remote array came back with old data: generation {found.generation} instead of "
                f"{memory.generation}; {way_out}"
            )
        raise RemoteUnfit(
            f"the old primary {found.primary} was not told that it is secondary now; "
            f"`sancredit pair swap {memory.name}` does, or {way_out}"
        )
    if found.changes:
        return Finding.CHANGES
    if found.epoch < memory.epoch:
        raise RemoteUnfit(
            f"the remote array came back with old data: it is at epoch {found.epoch}, and had acknowledged epoch "
            f"{memory.epoch}; {way_out}"
        )
    return Finding.AHEAD if found.last_seq > memory.last_seq else Finding.CONTINUE
