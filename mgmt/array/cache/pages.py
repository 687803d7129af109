"""What is where in the cache memory, what goes to its disk next, and the watermarks. Sans-IO; time is an argument.

A page is a run of 128 sectors of 512 bytes of one volume, aligned to its own size. Two masks say which of its sectors
the cache has (*valid*) and which of them the disk has not (*dirty*). A page without dirty sectors is evicted when room
is wanted, the one that was used longest ago first.
"""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass
from enum import StrEnum

SECTOR_BYTES = 512
SECTORS = 128
PAGE_BYTES = SECTOR_BYTES * SECTORS
ALL_SECTORS = (1 << SECTORS) - 1
#: A dirty page is written back after so long though there is room enough.
AGE_NS = 1_000_000_000

Key = tuple[int, int]
"""Number of the volume, number of the page in it."""


class Level(StrEnum):
    """Where the dirty part of the cache is."""

    LOW = "low"
    """Write-back takes its time: pages go when they are old."""
    HIGH = "high"
    """The high watermark was reached: pages go as fast as the disks take them, until the low one is."""


class Crossing(StrEnum):
    """What may happen to the level."""

    ROSE = "dirty pages reached the high watermark"
    FELL = "dirty pages fell to the low watermark"


#: A missing row changes nothing.
LEVELS = {(Level.LOW, Crossing.ROSE): Level.HIGH, (Level.HIGH, Crossing.FELL): Level.LOW}


@dataclass(frozen=True, slots=True)
class WatermarkCrossed:
    """The level changed; ``dirty_bytes`` of ``size_bytes`` are to be written back."""

    level: Level
    dirty_bytes: int
    size_bytes: int


@dataclass(frozen=True, slots=True)
class CacheStatistics:
    """One moment of the cache, in bytes. What is not free: dirty pages, pages just being written, and charges."""

    size_bytes: int
    free_bytes: int
    dirty_bytes: int
    charged_bytes: int
    clean_bytes: int
    level: Level
    written_back_bytes: int
    """Since the start."""


@dataclass(frozen=True, slots=True)
class Destage:
    """A page that is on its way to its disk, and the sectors that go."""

    key: Key
    slot: int
    sectors: int


class _Page:
    __slots__ = ("dirty", "dirty_since_ns", "going", "slot", "users", "valid")

    def __init__(self, slot: int) -> None:
        self.slot = slot
        self.valid = 0
        self.dirty = 0
        self.going = 0
        self.users = 0
        self.dirty_since_ns = 0

    @property
    def idle(self) -> bool:
        return not (self.dirty or self.going or self.users)


class CachePages:
    """The pages of a cache of ``slots`` slots; ``high`` and ``low`` are watermarks in percent of them."""

    def __init__(self, slots: int, *, high_percent: int, low_percent: int) -> None:
        if slots < 1 or not 0 <= low_percent < high_percent <= 100:
            raise ValueError("a cache has a slot at least, and 0 <= low < high <= 100 percent")
        self._slots = slots
        self._high = max(1, slots * high_percent // 100)
        self._low = slots * low_percent // 100
        self._pages: dict[Key, _Page] = {}
        self._of_volume: dict[int, int] = {}
        self._clean: OrderedDict[Key, None] = OrderedDict()
        self._dirty: dict[Key, None] = {}
        self._going = 0
        self._unused = list(range(slots - 1, -1, -1))
        self._charges: dict[str, int] = {}
        self._charged_bytes = 0
        self._written_back = 0
        self._events: list[WatermarkCrossed] = []
        self.level = Level.LOW

    # -- hosts --------------------------------------------------------------------------------------------------

    def claim(self, key: Key) -> tuple[int, bool] | None:
        """The slot of a page that is about to be written, kept until :meth:`written`, and whether it is new to the
        page; ``None`` while there is none."""
        page = self._pages.get(key)
        fresh = page is None
        if page is None:
            slot = self._room()
            if slot is None:
                return None
            page = self._pages[key] = _Page(slot)
            self._of_volume[key[0]] = self._of_volume.get(key[0], 0) + 1
        elif page.idle:
            self._clean.pop(key, None)
        page.users += 1
        return page.slot, fresh

    def written(self, key: Key, sectors: int, now_ns: int) -> int:
        """These sectors of a claimed page are in its slot; all that are dirty now."""
        page = self._pages[key]
        page.users -= 1
        if not page.dirty:
            page.dirty_since_ns = now_ns
            if not page.going:
                self._dirty[key] = None
        page.valid |= sectors
        page.dirty |= sectors
        self._look_at_level()
        return page.dirty | page.going

    def holds(self, volume: int) -> bool:
        """Whether anything of the volume is in the cache."""
        return bool(self._of_volume.get(volume))

    def look_up(self, key: Key) -> tuple[int, int] | None:
        """Slot and valid sectors of a page, kept until :meth:`release`; ``None`` where the cache has nothing of it."""
        page = self._pages.get(key)
        if page is None or not page.valid:
            return None
        if page.idle:
            self._clean.pop(key, None)
        page.users += 1
        return page.slot, page.valid

    def release(self, key: Key) -> None:
        """A page that was looked up, or claimed and not written, is not needed any more."""
        page = self._pages[key]
        page.users -= 1
        self._settle(key, page)

    def is_going(self, key: Key) -> bool:
        """Whether the page is on its way to its disk just now."""
        page = self._pages.get(key)
        return page is not None and bool(page.going)

    def forget(self, key: Key, sectors: int) -> tuple[int, int] | None:
        """The disk's sectors hold from now on (they are discarded there): the slot, and what of it is still dirty;
        ``None``: nothing was here. Not while the page :meth:`is_going`."""
        page = self._pages.get(key)
        if page is None:
            return None
        slot = page.slot
        page.valid &= ~sectors
        if page.dirty:
            page.dirty &= ~sectors
            if not page.dirty:
                self._dirty.pop(key, None)
        self._settle(key, page)
        self._look_at_level()
        return slot, page.dirty

    # -- write-back ---------------------------------------------------------------------------------------------

    def next_destage(
        self, now_ns: int, *, volume: int | None = None, at_once: bool = False
    ) -> Destage | None:
        """The page that goes next: with the level high or ``at_once`` the oldest, else the oldest if it is old.

        Of a ``volume`` only one that was dirty by ``now_ns``.
        """
        for key in self._dirty:
            if volume is not None and key[0] != volume:
                continue
            page = self._pages[key]
            if volume is not None and page.dirty_since_ns > now_ns:
                continue
            if not (at_once or self.level is Level.HIGH) and now_ns - page.dirty_since_ns < AGE_NS:
                return None
            del self._dirty[key]
            page.going, page.dirty = page.dirty, 0
            self._going += 1
            return Destage(key, page.slot, page.going)
        return None

    def destaged(self, destage: Destage, now_ns: int, *, failed: bool = False) -> int:
        """The sectors are on their disk, or are not: what is dirty now."""
        page = self._pages[destage.key]
        page.going = 0
        self._going -= 1
        if failed:
            if not page.dirty:
                page.dirty_since_ns = now_ns
            page.dirty |= destage.sectors & page.valid
        else:
            self._written_back += destage.sectors.bit_count() * SECTOR_BYTES
        if page.dirty:
            self._dirty.setdefault(destage.key)
        dirty = page.dirty
        self._settle(destage.key, page)
        self._look_at_level()
        return dirty

    def is_dirty(self, volume: int, by_ns: int) -> bool:
        """Whether the disk of a volume lacks anything that was in the cache by then."""
        return any(
            key[0] == volume and (page.going or (page.dirty and page.dirty_since_ns <= by_ns))
            for key, page in self._pages.items()
        )

    @property
    def dirty_pages(self) -> int:
        """Pages that their disks lack, or that are on their way."""
        return len(self._dirty) + self._going

    # -- what others charge ---------------------------------------------------------------------------------

    def charge(self, holder: str, size_bytes: int) -> bool:
        """Take ``size_bytes`` of the cache for something else (a side file); False, and nothing, when there is not so
        much."""
        if size_bytes < 0:
            raise ValueError("a charge is not negative")
        charged = self._charged_bytes + size_bytes
        while len(self._pages) + _pages_of(charged) > self._slots:
            if not self._evict():
                return False
        self._charged_bytes = charged
        self._charges[holder] = self._charges.get(holder, 0) + size_bytes
        return True

    def discharge(self, holder: str, size_bytes: int) -> None:
        """Give back what was charged. Raises ValueError for more than that."""
        held = self._charges.get(holder, 0)
        if not 0 <= size_bytes <= held:
            raise ValueError(f"{holder} holds {held} bytes of the cache, not {size_bytes}")
        self._charged_bytes -= size_bytes
        if held == size_bytes:
            self._charges.pop(holder, None)
        else:
            self._charges[holder] = held - size_bytes

    # -- looking at it ------------------------------------------------------------------------------------------

    def events(self) -> list[WatermarkCrossed]:
        """What has happened since the last call."""
        events, self._events = self._events, []
        return events

    def statistics(self) -> CacheStatistics:
        """A snapshot; clean pages are free, as they may be evicted."""
        charged = self._charged_bytes
        return CacheStatistics(
            size_bytes=self._slots * PAGE_BYTES,
            free_bytes=(len(self._clean) + len(self._unused)) * PAGE_BYTES - charged,
            dirty_bytes=self.dirty_pages * PAGE_BYTES,
            charged_bytes=charged,
            clean_bytes=len(self._clean) * PAGE_BYTES,
            level=self.level,
            written_back_bytes=self._written_back,
        )

    def fill_percent(self) -> int:
        """How much of the cache cannot be had for writing."""
        return 100 * (self.dirty_pages + _pages_of(self._charged_bytes)) // self._slots

    # -- inside -------------------------------------------------------------------------------------------------

    def _room(self) -> int | None:
        if len(self._pages) + _pages_of(self._charged_bytes) >= self._slots and not self._evict():
            return None
        return self._unused.pop()

    def _evict(self) -> bool:
        if not self._clean:
            return False
        key, _ = self._clean.popitem(last=False)
        self._drop(key)
        return True

    def _drop(self, key: Key) -> None:
        self._unused.append(self._pages.pop(key).slot)
        left = self._of_volume[key[0]] - 1
        if left:
            self._of_volume[key[0]] = left
        else:
            del self._of_volume[key[0]]

    def _settle(self, key: Key, page: _Page) -> None:
        if not page.idle:
            return
        self._clean.pop(key, None)
        if page.valid:
            self._clean[key] = None
        else:
            self._drop(key)

    def _look_at_level(self) -> None:
        dirty = self.dirty_pages
        if dirty >= self._high:
            self._cross(Crossing.ROSE)
        elif dirty <= self._low:
            self._cross(Crossing.FELL)

    def _cross(self, crossing: Crossing) -> None:
        level = LEVELS.get((self.level, crossing), self.level)
        if level is not self.level:
            self.level = level
            size = self._slots * PAGE_BYTES
            self._events.append(WatermarkCrossed(level, self.dirty_pages * PAGE_BYTES, size))


def _pages_of(size_bytes: int) -> int:
    return -(-size_bytes // PAGE_BYTES)
