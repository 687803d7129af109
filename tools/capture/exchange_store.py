"""Exchanges kept while a capture is scanned: in memory, and beyond a bound in a file that nobody else sees."""

from __future__ import annotations

import os
import tempfile
from array import array
from collections.abc import Iterator
from typing import Any, BinaryIO

from tools.capture.exchanges import EXCHANGE_BYTES, Exchange, exchanges_of

MEMORY_LIMIT_BYTES = 64 << 20


class ExchangeStore:
    """Blocks of exchanges in the order they came. A context manager: leaving it gives memory and file back."""

    def __init__(self, memory_limit_bytes: int = MEMORY_LIMIT_BYTES) -> None:
        self._limit = memory_limit_bytes
        self._blocks: list[tuple[Any, int]] = []
        self._held = 0
        self._file: BinaryIO | None = None
        self._filed: list[int] = []
        self.count = 0

    def add(self, block: Any, count: int) -> None:
        """Keep a block of the matcher. Raises :class:`OSError` when the disk is full."""
        self.count += count
        if self._held < self._limit:
            self._blocks.append((block, count))
            self._held += len(block) * 8
            return
        if self._file is None:
            # Memory may be what the usual folder for temporary files is made of.
            folder = os.environ.get("TMPDIR") or "/var/tmp"
            self._file = tempfile.TemporaryFile(dir=folder if os.path.isdir(folder) else None)  # noqa: PTH112, SIM115
        self._file.write(memoryview(block).cast("B")[: count * EXCHANGE_BYTES])
        self._filed.append(count)

    def blocks(self) -> Iterator[tuple[Any, int]]:
        """Every block with its number of exchanges."""
        yield from self._blocks
        if self._file is not None:
            self._file.seek(0)
            for count in self._filed:
                block = array("q")
                block.frombytes(self._file.read(count * EXCHANGE_BYTES))
                yield block, count

    def exchanges(self) -> Iterator[Exchange]:
        """Every exchange, in the order of their ends."""
        for block, count in self.blocks():
            yield from exchanges_of(block, count)

    def close(self) -> None:
        """Give memory and file back."""
        self._blocks.clear()
        if self._file is not None:
            self._file.close()
            self._file = None

    def __enter__(self) -> ExchangeStore:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
