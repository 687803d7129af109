"""A consistency group as it was asked for and as it stands, kept in one small file of the array's state directory."""

from __future__ import annotations

import json
import re
import uuid
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, fields, replace
from enum import StrEnum
from pathlib import Path
from typing import Any

from iscsi_target.scsi.durable_file import read_json, remove_file, replace_file
from mgmt.array.replication.pair_state import PairState, Role

_FORMAT = 1
_FILE_LIMIT_BYTES = 1 << 20


class Mode(StrEnum):
    """When a host's write is answered."""

    SYNC = "sync"
    """When the secondary has it too."""
    ASYNC = "async"
    """When it is in the cache; the journal keeps the order."""


class Fence(StrEnum):
    """What a synchronous pair does with a write that the secondary cannot have."""

    NEVER = "never"
    """Answer it all the same; the pair is PSUE from then on."""
    DATA = "data"
    """Refuse it: what was answered is always at both ends."""


class RecordError(Exception):
    """A group's file cannot be read or written; one line."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RemotePlace:
    """The other array's iSCSI target, or its end of a Fibre Channel link (``fc``)."""

    host: str
    port: int
    iqn: str
    fc: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class PairRecord:
    """One pair of a group: its volume here, the logical unit there, its state."""

    volume: str
    remote_lun: int
    state: PairState
    once_paired: bool = False
    """The secondary has had everything since the last split."""


@dataclass(frozen=True, slots=True, kw_only=True)
class GroupRecord:
    """One consistency group at one array.

    ``journal`` is the volume here that takes
    the other's journal while this array is secondary (None: there is none); ``remote_journal_lun`` the one there.
    ``priority``: 0 is slowed last. ``self_applying``: the remote array applies an epoch itself when it is named.
    """

    name: str
    group: str
    generation: int
    role: Role
    mode: Mode
    fence: Fence
    remote: RemotePlace | None
    local_port: str
    journal: str | None
    remote_journal_lun: int
    sessions: int
    connections_per_session: int
    priority: int
    self_applying: bool
    pairs: tuple[PairRecord, ...]
    error: str = ""
    held: bool = False
    """Not tried again by itself: what is wrong wants somebody's decision."""
    full: bool = False
    """Whatever the remote array has is to be overwritten: the next connection begins anew."""

    @property
    def group_id(self) -> bytes:
        """The 16 bytes that name the group in the metadata record."""
        return uuid.UUID(self.group).bytes

    def pair(self, volume: str) -> PairRecord | None:
        """The pair of a volume here."""
        return next((pair for pair in self.pairs if pair.volume == volume), None)

    def with_states(self, states: Mapping[str, PairState], error: str | None = None) -> GroupRecord:
        """The same with other states, by volume."""
        pairs = tuple(replace(pair, state=states.get(pair.volume, pair.state)) for pair in self.pairs)
        return replace(self, pairs=pairs, error=self.error if error is None else error)


def _from_plain(kind: type, plain: Mapping[str, Any]) -> dict[str, Any]:
    known = {field.name for field in fields(kind)}
    if unknown := sorted(set(plain) - known):
        raise ValueError(f"it has an unknown field {unknown[0]!r}")
    return dict(plain)


def _record(plain: Mapping[str, Any]) -> GroupRecord:
    found = _from_plain(GroupRecord, plain)
    found["role"], found["mode"], found["fence"] = (
        Role(found["role"]),
        Mode(found["mode"]),
        Fence(found["fence"]),
    )
    if found["remote"] is not None:
        found["remote"] = RemotePlace(**_from_plain(RemotePlace, found["remote"]))
    pairs = [_from_plain(PairRecord, pair) for pair in found["pairs"]]
    found["pairs"] = tuple(PairRecord(**(pair | {"state": PairState(pair["state"])})) for pair in pairs)
    return GroupRecord(**found)


class GroupFiles:
    """The groups' files in a directory: ``NAME.group`` the record, ``NAME.journal``, ``NAME.N.bitmap`` beside it."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory

    def load(self) -> list[GroupRecord]:
        """Every group, by name. :class:`RecordError`."""
        records = []
        try:
            self.directory.mkdir(parents=True, exist_ok=True)
            for path in sorted(self.directory.glob("*.group")):
                document = read_json(path, _FILE_LIMIT_BYTES, _FORMAT)
                if document is not None:
                    records.append(_record(document["group"]))
        except (OSError, ValueError, LookupError, RecursionError, TypeError) as error:
            raise RecordError(
                f"cannot read the pairs in {self.directory}: {error}; move the file away"
            ) from None
        return records

    def save(self, record: GroupRecord) -> None:
        """Durable and whole when this returns. :class:`RecordError`."""
        text = json.dumps({"format": _FORMAT, "group": asdict(record)}, indent=1)
        try:
            replace_file(self.directory / f"{record.name}.group", text)
        except OSError as error:
            raise RecordError(f"cannot write the pairs in {self.directory}: {error.strerror}") from None

    def journal(self, name: str) -> Path:
        """Where the group's journal is."""
        return self.directory / f"{name}.journal"

    def bitmap(self, name: str, volume: str) -> Path:
        """Where the bitmap of one of its volumes is."""
        return self.directory / f"{name}.{volume.encode().hex()}.bitmap"

    def _bitmaps(self, name: str) -> Iterator[Path]:
        """What :meth:`bitmap` has named for any volume; not those of another group whose name begins like this one."""
        pattern = re.compile(re.escape(name) + r"\.[0-9a-f]+\.bitmap(\.announced)?")
        return (path for path in self.directory.iterdir() if pattern.fullmatch(path.name))

    def remove(self, name: str) -> None:
        """The group is dissolved: its record first, so that nothing half gone is ever found."""
        try:
            remove_file(self.directory / f"{name}.group")
            for path in (self.journal(name), *self._bitmaps(name)):
                remove_file(path)
        except OSError as error:
            raise RecordError(f"cannot remove group {name}: {error.strerror}") from None
