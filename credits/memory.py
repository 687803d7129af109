"""Real memory behind the units of a TCP pool: the data parts of memory buffers, one mapping for all.

Pages are mapped, but cost nothing until touched; the mapping covers the pool's ceiling, so expansion never
moves what is in use.
"""

from __future__ import annotations

import itertools
import mmap

from credits.allocation import Allocation
from credits.config import PoolConfig
from credits.errors import StoreError

_NUMBER_BYTES = 6
_REMEMBERED_OWNERS = 65536


class UnitMemory:
    """Memory for the data parts of a pool's units.

    Addresses are the pool's: ``config.base_address`` plus the offset in the mapping. Not thread-safe; each
    allocation's slices are used by its holder alone.

    A unit may only carry data over from one target to another cleared (GAP-23). Clearing is done when the owner
    changes and not on every allocation: units that come back to the same reservation are not touched.
    Raises :class:`StoreError` where the memory cannot be mapped.
    """

    def __init__(self, config: PoolConfig) -> None:
        self._config = config
        self._length = config.address(config.ceiling_units - 1) + config.unit_bytes - config.base_address
        try:
            self._mapping = mmap.mmap(-1, self._length)
        except (OSError, ValueError, OverflowError) as error:
            raise StoreError(
                f"cannot map {self._length} bytes of memory for {config.name}: {error}"
            ) from error
        self._view = memoryview(self._mapping)
        self._owners: dict[str, bytes] = {}
        self._numbers = itertools.count(1)
        #: Number of the owner whose data may still stand in each unit; 0 for units that are clean.
        self._last_owner = bytearray(_NUMBER_BYTES * config.ceiling_units)

    def close(self) -> None:
        """Give the memory back; slices handed out must be gone (:class:`BufferError` otherwise)."""
        self._view.release()
        self._mapping.close()

    def slices(self, allocation: Allocation) -> list[memoryview]:
        """The memory of an allocation, chain order, neighbours joined; cleared where another owner's data stood."""
        target = allocation.target
        owner = self._owner_number(target.key if target else f"\0{allocation.holder}")
        result = []
        for first, count in allocation.runs:
            self._clear_foreign(first, count, owner)
            result += self._slices_of_run(first, count)
        return result

    def _owner_number(self, key: str) -> bytes:
        number = self._owners.get(key)
        if number is None:
            if len(self._owners) >= _REMEMBERED_OWNERS:
                self._owners.clear()  # whoever comes back gets a new number, and clean units
            number = self._owners[key] = next(self._numbers).to_bytes(_NUMBER_BYTES, "little")
        return number

    def _clear_foreign(self, first: int, count: int, owner: bytes) -> None:
        owners = self._last_owner
        start, end = first * _NUMBER_BYTES, (first + count) * _NUMBER_BYTES
        if owners[start:end] == owner * count:
            return
        unit_bytes = self._config.unit_bytes
        clean = bytes(_NUMBER_BYTES)
        for unit in range(first, first + count):
            last = owners[unit * _NUMBER_BYTES : (unit + 1) * _NUMBER_BYTES]
            if last not in (owner, clean):
                offset = self._config.address(unit) - self._config.base_address
                self._view[offset : offset + unit_bytes] = bytes(unit_bytes)
        owners[start:end] = owner * count

    def _slices_of_run(self, first: int, count: int) -> list[memoryview]:
        config = self._config
        unit_bytes = config.unit_bytes
        per_page = config.page_bytes // unit_bytes if config.page_bytes else 0
        wasted = config.page_bytes - per_page * unit_bytes if config.page_bytes else 0
        result = []
        while count:
            together = min(count, per_page - first % per_page) if wasted else count
            start = config.address(first) - config.base_address
            result.append(self._view[start : start + together * unit_bytes])
            first += together
            count -= together
        return result
