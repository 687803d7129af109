# SPDX-License-Identifier: Apache-2.0
"""What every backing store promises; `tests/iscsi_target/test_scsi_stores.py` holds all of them to it.

Offsets and lengths are bytes. The device server keeps them inside the store and whole logical blocks; a store
raises :class:`~iscsi_target.scsi.errors.StoreError` when the medium fails, and ValueError outside its size.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from mmap import mmap
from typing import NamedTuple, Protocol, runtime_checkable

from iscsi_target.executor import Buffer


class Extent(NamedTuple):
    """A run of bytes that is mapped (holds data, or nobody knows) or not (reads as zeros, takes no space), or
    anchored: not mapped, but its space is reserved (SBC-3 4.7.3.2)."""

    offset: int
    length: int
    mapped: bool
    anchored: bool = False


class Space(NamedTuple):
    """What a store takes and what it could still take, in bytes; the latter is an estimate, and shared with others."""

    used_bytes: int
    available_bytes: int


class BackingStore(Protocol):
    """Bytes that can be read, written, flushed and discarded.

    Thread-safe for calls on ranges that do not overlap; the logical unit orders those that do. What `read` returns
    may be a view of the store itself and then shows later writes.
    """

    @property
    def size_bytes(self) -> int:
        """Capacity."""
        ...

    @property
    def blocking(self) -> bool:
        """True when a call may wait for a device: the caller then uses a thread."""
        ...

    @property
    def read_only(self) -> bool:
        """True when the store cannot be written at all."""
        ...

    @property
    def thin(self) -> bool:
        """True when `discard` gives space back."""
        ...

    @property
    def anchors(self) -> bool:
        """True when `anchor` reserves space and `extents` tells what is anchored."""
        ...

    @property
    def granularity_bytes(self) -> int:
        """The unit in which space is given back; a power of two."""
        ...

    def read(self, offset: int, length: int) -> Sequence[Buffer]:
        """The bytes at `offset`, in one or more buffers."""
        ...

    def write(self, offset: int, data: Buffer, *, durable: bool = False) -> None:
        """Write `data`; with `durable` it is on the medium when this returns (FUA)."""
        ...

    def flush(self) -> None:
        """Everything written so far is on the medium when this returns."""
        ...

    def discard(self, offset: int, length: int) -> None:
        """The bytes read as zeros from now on; whole granules also give their space back, where `thin`."""
        ...

    def anchor(self, offset: int, length: int) -> None:
        """The bytes read as zeros from now on; whole granules are anchored: writing to them cannot fail for want of
        space. Only where `anchors`; raises StoreError with `full` when there is not enough."""
        ...

    def space(self) -> Space | None:
        """What it takes and could take; None where nobody knows. Quick."""
        ...

    def extents(self, offset: int, length: int) -> Iterator[Extent]:
        """The range as extents of different kind by turns, in order and without gaps."""
        ...

    def close(self) -> None:
        """Let go of files and memory. Buffers that `read` gave stay valid. Closing twice is fine."""
        ...


@runtime_checkable
class DirectStore(Protocol):
    """A store that is memory, to be read without a call."""

    @property
    def memory(self) -> memoryview:
        """All of the store, as it changes. To be read only: it is written through `write`, which keeps books."""
        ...

    @property
    def marks(self) -> mmap:
        """A byte for each granule; zero: nothing was written there, and to look at it would take memory for it."""
        ...

    @property
    def granularity_bytes(self) -> int:
        """The length of a granule."""
        ...


def inside(size_bytes: int, offset: int, length: int) -> None:
    """Raise ValueError unless [offset, offset + length) lies inside a store of `size_bytes`."""
    if offset < 0 or length < 0 or offset + length > size_bytes:
        raise ValueError(f"bytes {offset}+{length} are outside a store of {size_bytes} bytes")


def merged(extents: Iterator[Extent]) -> Iterator[Extent]:
    """Join neighbours of the same kind, so that extents alternate."""
    held: Extent | None = None
    for extent in extents:
        if held is None:
            held = extent
        elif held[2:] == extent[2:]:
            held = held._replace(length=held.length + extent.length)
        else:
            yield held
            held = extent
    if held is not None:
        yield held
