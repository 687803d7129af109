"""An allocation: the buffers in use 34 of one holder, a chain of memory buffers or a number of credits."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

from credits.units import Runs

if TYPE_CHECKING:
    from credits.source import Source
    from credits.targets import Target


class Allocation:
    """Units that one holder has in use, until they are freed to the list they came from (GAP-4).

    ``units`` and ``runs`` shrink as parts are freed and grow with :meth:`credits.area.MemoryArea.grow`; a freed
    allocation has none. ``holder`` names the connection; ``claims`` are the targets it asked with.
    """

    __slots__ = ("claims", "holder", "runs", "source", "units")

    def __init__(self, source: Source, claims: Sequence[Target], holder: str, runs: Runs, units: int) -> None:
        self.source = source
        self.claims = claims
        self.holder = holder
        self.runs = runs
        self.units = units

    @property
    def bytes(self) -> int:
        """Size of the units together, in bytes."""
        return self.units * self.source.config.unit_bytes

    @property
    def address(self) -> int:
        """Address of the chain's head (column "buffer address" of table 109), 0 when nothing is held."""
        return self.source.config.address(self.runs[0][0]) if self.runs else 0

    @property
    def target(self) -> Target | None:
        """The reservation that serves this allocation; ``None`` when it stands in the free pool."""
        return self.source.target

    def chain(self) -> Iterator[tuple[int, int]]:
        """Each memory buffer's address and its chain part: the next buffer's address, 0 at the end (¶23)."""
        address = self.source.config.address
        here = 0
        for first, count in self.runs:
            for unit in range(first, first + count):
                following = address(unit)
                if here:
                    yield here, following
                here = following
        if here:
            yield here, 0

    def __repr__(self) -> str:
        return f"<Allocation of {self.units} units from {self.target or 'the free list'} to {self.holder!r}>"
