"""What a pool is made of: its unit, its size, and what it can still be given (spec C.1, GAP-7, GAP-14)."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

from credits.errors import Code, InvalidRequest

#: A unit number must fit the 32-bit cells of :class:`credits.units.UnitMap`.
UNIT_LIMIT = 2**30
UNIT_BYTES_LIMIT = 2**30
DEFAULT_BASE_ADDRESS = 0x10000000
DEFAULT_FIRST_BUFFER_ID = 10000


class UnitKind(StrEnum):
    """The reservable unit: a TCP memory buffer, or a Fibre Channel buffer-to-buffer credit (paragraph 24)."""

    TCP = "tcp"
    FC = "fc"


@dataclass(frozen=True, slots=True, kw_only=True)
class PoolConfig:
    """One communication memory area 100, or the buffer pool of an FC port group.

    ``unit_bytes``: data part of a memory buffer, or the largest frame one credit stands for.
    ``total_units``: the units that exist from the start.
    ``unsplit_pages``: supply for expansion (step 1003): pages of ``page_bytes`` (TCP), or blocks of
    ``block_units`` credits that the port group can lend (FC). A page gives ``page_bytes // unit_bytes`` units.
    ``min_free_units``: floor below which no reservation takes the free list (GAP-14).
    ``base_address``: address of the first unit's data part; 0 is kept for "none" (GAP-27).
    ``buffer_id_seeds``: the first buffer IDs to issue; then the largest of them, or ``first_buffer_id``, is
    counted on from. IDs are never reused.
    ``strict_document``: the document's literal readings where our decisions (spec section I) deviate: an update
    whose growth equals the free units is refused (INC-2), an update splits no pages (INC-6), table 101 shows
    only what stands in list 33 (INC-9), and a pair-wide update is applied record by record (INC-17).

    Raises :class:`InvalidRequest` where the numbers make no pool.
    """

    name: str
    kind: UnitKind
    unit_bytes: int
    total_units: int
    unsplit_pages: int = 0
    page_bytes: int | None = None
    block_units: int | None = None
    min_free_units: int = 0
    base_address: int = DEFAULT_BASE_ADDRESS
    buffer_id_seeds: tuple[int, ...] = ()
    first_buffer_id: int = DEFAULT_FIRST_BUFFER_ID
    strict_document: bool = False

    def __post_init__(self) -> None:
        if not self.name or not self.name.isprintable() or len(self.name) > 100 or "/" in self.name:
            raise InvalidRequest(Code.INVALID_SIZE, f"{self.name!r:.40} cannot name a pool")
        _check_range("unit_bytes", self.unit_bytes, 1, UNIT_BYTES_LIMIT)
        _check_range("total_units", self.total_units, 1, UNIT_LIMIT)
        _check_range("unsplit_pages", self.unsplit_pages, 0, UNIT_LIMIT)
        _check_range("min_free_units", self.min_free_units, 0, self.total_units)
        _check_range("base_address", self.base_address, 1, 2**62)
        _check_range("first_buffer_id", self.first_buffer_id, 1, 2**31 - 1)
        for seed in self.buffer_id_seeds:
            _check_range("a buffer_id_seed", seed, 1, 2**31 - 1)
        if len(set(self.buffer_id_seeds)) != len(self.buffer_id_seeds):
            raise InvalidRequest(Code.INVALID_SIZE, "buffer_id_seeds contains an ID twice")
        if self.page_bytes is not None:
            _check_range("page_bytes", self.page_bytes, self.unit_bytes, 2**40)
        if self.block_units is not None:
            _check_range("block_units", self.block_units, 1, UNIT_LIMIT)
        if self.unsplit_pages and (self.block_units if self.kind is UnitKind.FC else self.page_bytes) is None:
            wanted = "block_units" if self.kind is UnitKind.FC else "page_bytes"
            raise InvalidRequest(
                Code.INVALID_SIZE, f"unsplit_pages of a {self.kind.value} pool needs {wanted}"
            )
        _check_range("total_units with every page split", self.ceiling_units, 1, UNIT_LIMIT)

    @property
    def units_per_page(self) -> int:
        """Units that one unsplit page, or one lendable block, becomes; the tail of a page is wasted."""
        if self.kind is UnitKind.FC:
            return self.block_units or 1
        return self.page_bytes // self.unit_bytes if self.page_bytes else 1

    @property
    def ceiling_units(self) -> int:
        """Units of the pool when every unsplit page has been split."""
        return self.total_units + self.unsplit_pages * self.units_per_page

    def address(self, unit: int) -> int:
        """Address of a unit's data part: the units of a page stand side by side, pages follow each other."""
        if self.kind is UnitKind.FC or self.page_bytes is None:
            return self.base_address + unit * self.unit_bytes
        page, slot = divmod(unit, self.page_bytes // self.unit_bytes)
        return self.base_address + page * self.page_bytes + slot * self.unit_bytes

    def units_for(self, size_bytes: int) -> int:
        """``ceil(size / unit)``, so at least 1 when there is anything to hold (GAP-2)."""
        return -(-size_bytes // self.unit_bytes)


def _check_range(name: str, value: int, low: int, high: int) -> None:
    if type(value) is not int or not low <= value <= high:
        raise InvalidRequest(
            Code.INVALID_SIZE, f"{name} is a whole number from {low} to {high}, not {value!r:.40}"
        )
