# SPDX-License-Identifier: Apache-2.0
"""A store that keeps nothing: for measuring everything but the medium."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from iscsi_target.executor import Buffer
from iscsi_target.scsi.errors import InvalidConfiguration, StoreError
from iscsi_target.scsi.stores.store import Extent, Space, inside

_ZEROS = memoryview(bytes(1 << 20))


class NullStore:
    """Reads are zeros, writes are accepted and forgotten."""

    def __init__(self, size_bytes: int) -> None:
        if size_bytes <= 0:
            raise InvalidConfiguration(f"a null store needs a size above 0, not {size_bytes}")
        self._size_bytes = size_bytes

    @property
    def size_bytes(self) -> int:
        return self._size_bytes

    @property
    def blocking(self) -> bool:
        return False

    @property
    def read_only(self) -> bool:
        return False

    @property
    def thin(self) -> bool:
        return False

    @property
    def anchors(self) -> bool:
        return False

    @property
    def granularity_bytes(self) -> int:
        return 4096

    def read(self, offset: int, length: int) -> Sequence[Buffer]:
        inside(self._size_bytes, offset, length)
        whole, rest = divmod(length, len(_ZEROS))
        buffers = [_ZEROS] * whole
        if rest:
            buffers.append(_ZEROS[:rest])
        return tuple(buffers)

    def write(self, offset: int, data: Buffer, *, durable: bool = False) -> None:
        inside(self._size_bytes, offset, len(data))

    def flush(self) -> None:
        """Nothing is kept."""

    def discard(self, offset: int, length: int) -> None:
        inside(self._size_bytes, offset, length)

    def anchor(self, offset: int, length: int) -> None:
        raise StoreError("a null store has no space to reserve")

    def space(self) -> Space | None:
        return None

    def extents(self, offset: int, length: int) -> Iterator[Extent]:
        """All mapped: a store that gives nothing back is fully provisioned (SBC-3 4.7.2)."""
        inside(self._size_bytes, offset, length)
        if length:
            yield Extent(offset, length, True)

    def close(self) -> None:
        """Nothing to let go."""
