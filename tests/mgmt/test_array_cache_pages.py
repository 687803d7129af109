"""The core of the cache memory: which page goes when, what may be evicted, and the watermarks."""

from __future__ import annotations

import pytest
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from mgmt.array.cache.pages import (
    AGE_NS,
    ALL_SECTORS,
    PAGE_BYTES,
    CachePages,
    Destage,
    Key,
    Level,
    WatermarkCrossed,
)

FULL = ALL_SECTORS


def pages(slots: int = 10, high: int = 70, low: int = 30) -> CachePages:
    return CachePages(slots, high_percent=high, low_percent=low)


def write(subject: CachePages, key: Key, now_ns: int = 0, sectors: int = FULL) -> None:
    assert subject.claim(key) is not None
    subject.written(key, sectors, now_ns)


def test_a_page_is_left_alone_until_it_is_old_while_there_is_room() -> None:
    subject = pages()
    write(subject, (0, 0), now_ns=5)
    assert subject.next_destage(5 + AGE_NS - 1) is None
    assert subject.next_destage(5 + AGE_NS) == Destage((0, 0), 0, FULL)


def test_from_the_high_watermark_to_the_low_one_pages_go_at_once_oldest_first() -> None:
    subject = pages()
    for number in range(7):
        write(subject, (0, number), now_ns=number)
    assert subject.events() == [WatermarkCrossed(Level.HIGH, 7 * PAGE_BYTES, 10 * PAGE_BYTES)]
    gone = []
    while (destage := subject.next_destage(10)) is not None:
        gone.append(destage.key[1])
        subject.destaged(destage, 10)
    assert gone == [0, 1, 2, 3]
    assert subject.events() == [WatermarkCrossed(Level.LOW, 3 * PAGE_BYTES, 10 * PAGE_BYTES)]
    write(subject, (0, 8), now_ns=20)
    assert subject.next_destage(20) is None


def test_without_a_clean_page_there_is_no_room_and_a_page_that_was_written_back_makes_some() -> None:
    subject = pages(2, high=100)
    write(subject, (0, 0))
    write(subject, (0, 1))
    assert subject.claim((0, 2)) is None
    assert subject.claim((0, 1)) is not None, "a page that is here needs no room"
    subject.written((0, 1), 1, 0)
    destage = subject.next_destage(0, at_once=True)
    assert destage is not None and destage.key == (0, 0)
    assert subject.claim((0, 2)) is None, "on its way is not yet there"
    subject.destaged(destage, 0)
    assert subject.claim((0, 2)) == (destage.slot, True)


def test_the_clean_page_that_was_used_longest_ago_is_evicted() -> None:
    subject = pages(2)
    for number in (0, 1):
        write(subject, (0, number))
        destage = subject.next_destage(AGE_NS)
        assert destage is not None
        subject.destaged(destage, 0)
    assert subject.look_up((0, 0)) is not None
    subject.release((0, 0))
    write(subject, (0, 2))
    assert subject.look_up((0, 1)) is None
    assert subject.look_up((0, 0)) is not None


def test_what_is_written_while_a_page_is_on_its_way_goes_again() -> None:
    subject = pages()
    write(subject, (0, 0), sectors=0b11)
    destage = subject.next_destage(AGE_NS)
    assert destage is not None
    assert subject.claim((0, 0)) is not None
    assert subject.written((0, 0), 0b110, 7) == 0b111, "the disk has none of them for certain"
    assert subject.destaged(destage, 8) == 0b110
    again = subject.next_destage(7 + AGE_NS)
    assert again is not None and again.sectors == 0b110


def test_a_page_whose_disk_fails_is_dirty_as_before() -> None:
    subject = pages()
    write(subject, (0, 0), sectors=0b11)
    destage = subject.next_destage(AGE_NS)
    assert destage is not None
    assert subject.destaged(destage, 9, failed=True) == 0b11
    assert subject.is_dirty(0, 9)
    assert subject.statistics().written_back_bytes == 0


def test_what_was_discarded_is_neither_read_nor_written_back() -> None:
    subject = pages()
    write(subject, (0, 0), sectors=0b111)
    assert subject.forget((0, 0), 0b010) == (0, 0b101)
    assert subject.look_up((0, 0)) == (0, 0b101)
    subject.release((0, 0))
    assert subject.forget((0, 0), FULL) == (0, 0)
    assert subject.look_up((0, 0)) is None
    assert not subject.holds(0)
    assert subject.statistics().free_bytes == 10 * PAGE_BYTES


def test_a_flush_asks_only_for_its_volume_and_for_what_was_there_when_it_began() -> None:
    subject = pages()
    write(subject, (0, 0), now_ns=1)
    write(subject, (1, 0), now_ns=2)
    write(subject, (1, 1), now_ns=9)
    destage = subject.next_destage(5, volume=1, at_once=True)
    assert destage is not None and destage.key == (1, 0)
    subject.destaged(destage, 5)
    assert subject.next_destage(5, volume=1, at_once=True) is None
    assert not subject.is_dirty(1, 5) and subject.is_dirty(1, 9) and subject.is_dirty(0, 5)


def test_charges_take_room_from_clean_pages_and_never_from_dirty_ones() -> None:
    subject = pages(4)
    write(subject, (0, 0))
    write(subject, (0, 1))
    destage = subject.next_destage(AGE_NS)
    assert destage is not None
    subject.destaged(destage, 0)
    assert subject.charge("side file", 3 * PAGE_BYTES)
    assert not subject.charge("side file", PAGE_BYTES)
    statistics = subject.statistics()
    assert (statistics.free_bytes, statistics.dirty_bytes) == (0, PAGE_BYTES)
    with pytest.raises(ValueError, match="holds"):
        subject.discharge("side file", 3 * PAGE_BYTES + 1)
    subject.discharge("side file", 3 * PAGE_BYTES)
    assert subject.statistics().free_bytes == 3 * PAGE_BYTES


@pytest.mark.parametrize(("slots", "high", "low"), [(0, 70, 30), (1, 30, 30), (1, 101, 30), (1, 70, -1)])
def test_a_cache_that_cannot_be_is_refused(slots: int, high: int, low: int) -> None:
    with pytest.raises(ValueError, match="a cache has"):
        pages(slots, high, low)


KEYS = st.tuples(st.integers(0, 1), st.integers(0, 5))
SECTORS = st.integers(1, 0b1111)


class CacheMachine(RuleBasedStateMachine):
    """Against a model that knows only which bits each disk lacks: nothing acknowledged is ever lost."""

    def __init__(self) -> None:
        super().__init__()
        self.subject = pages(4)
        self.lacking: dict[Key, int] = {}
        self.going: list[Destage] = []
        self.now_ns = 0

    @rule(key=KEYS, sectors=SECTORS)
    def write(self, key: Key, sectors: int) -> None:
        self.now_ns += 1
        if self.subject.claim(key) is None:
            return
        dirty = self.subject.written(key, sectors, self.now_ns)
        self.lacking[key] = self.lacking.get(key, 0) | sectors
        assert dirty & self.lacking[key] == self.lacking[key]

    @rule(at_once=st.booleans(), later_ns=st.sampled_from([0, AGE_NS]))
    def begin(self, at_once: bool, later_ns: int) -> None:
        self.now_ns += later_ns
        destage = self.subject.next_destage(self.now_ns, at_once=at_once)
        if destage is not None:
            self.going.append(destage)
            self.lacking[destage.key] &= ~destage.sectors

    @precondition(lambda self: self.going)
    @rule(failed=st.booleans(), which=st.integers(0, 9))
    def end(self, failed: bool, which: int) -> None:
        destage = self.going.pop(which % len(self.going))
        if failed:
            self.lacking[destage.key] |= destage.sectors
        assert self.subject.destaged(destage, self.now_ns, failed=failed) == self.lacking[destage.key]

    @rule(key=KEYS, sectors=SECTORS)
    def discard(self, key: Key, sectors: int) -> None:
        if self.subject.is_going(key):
            return
        left = self.subject.forget(key, sectors)
        if left is not None:
            self.lacking[key] = self.lacking.get(key, 0) & ~sectors
            assert left[1] == self.lacking[key]

    @rule(size_bytes=st.integers(0, 2 * PAGE_BYTES))
    def charge_and_give_back(self, size_bytes: int) -> None:
        if self.subject.charge("x", size_bytes):
            self.subject.discharge("x", size_bytes)

    @rule(key=KEYS)
    def read(self, key: Key) -> None:
        held = self.subject.look_up(key)
        lacking = self.lacking.get(key, 0)
        if held is None:
            assert not lacking, "the disk lacks sectors that nobody has"
            return
        assert held[1] & lacking == lacking
        self.subject.release(key)

    @invariant()
    def every_slot_is_somewhere(self) -> None:
        statistics = self.subject.statistics()
        assert statistics.free_bytes + statistics.dirty_bytes == statistics.size_bytes
        lacking = {key for key, bits in self.lacking.items() if bits} | {one.key for one in self.going}
        assert statistics.dirty_bytes == len(lacking) * PAGE_BYTES


TestCacheMachine = CacheMachine.TestCase
