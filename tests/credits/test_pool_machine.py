"""Every verb in every order, against a tiny model; the law and "a refusal changes nothing" after each step."""

from __future__ import annotations

import sqlite3
import tempfile
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

from credits import (
    Allocation,
    Code,
    CreditError,
    DurablePool,
    Pool,
    PoolConfig,
    Refused,
    Target,
    UnitKind,
    application,
    by_precedence,
    connection,
    new_connection,
    port_pair,
    port_pair_number,
    volume_group_pair,
    volume_pair,
)
from credits.journal import connect_journal
from credits.verbs import Reserve

PER_PAGE = 3
PAIR = ("a", "b")
NAMED = (
    port_pair(*PAIR),
    port_pair("c", "d"),
    port_pair_number(*PAIR, 25),
    application("copy"),
    volume_pair("v1", "v2"),
    volume_group_pair("g1", "g2"),
)
SIZES = st.integers(1, 20)


@dataclass
class Reserved:
    """A reservation of the model; ``held`` units were taken for it by an open hold of ``hold_size``."""

    size: int
    used: int = 0
    pending: int = 0

    @property
    def idle(self) -> int:
        return self.size + self.pending - self.used


@dataclass
class Model:
    """What the pool should be: about thirty lines of arithmetic, no lists, no runs."""

    total: int
    pages: int
    floor: int
    reserved: dict[str, Reserved] = field(default_factory=dict)
    leaving: list[Reserved] = field(default_factory=list)
    unreserved_use: int = 0
    set_aside: int = 0

    @property
    def free(self) -> int:
        taken = sum(r.used + r.idle for r in self.reserved.values()) + sum(r.used for r in self.leaving)
        return self.total - taken - self.unreserved_use - self.set_aside

    def split(self, short: int) -> None:
        if short > 0:
            pages = -(-short // PER_PAGE)
            self.pages -= pages
            self.total += pages * PER_PAGE

    def resize(self, sizes: dict[str, int], *, may_split: bool = True) -> bool:
        """All the sizes or none; True when it was done."""
        gives = asked = 0
        for key, size in sizes.items():
            old = self.reserved.get(key, Reserved(0))
            gives += min(max(0, old.size - size), old.idle)
            asked += max(0, size - old.size - old.pending)
        supply = gives + max(0, self.free - self.floor)
        if asked > supply + (self.pages * PER_PAGE if may_split else 0):
            return False
        self.split(asked - supply)
        for key, size in sizes.items():
            old = self.reserved.setdefault(key, Reserved(0))
            old.size, old.pending = size, max(0, old.used - size)
        return True

    def use(self, source: Reserved | None, units: int) -> bool:
        if source is not None:
            if units > source.idle or source in self.leaving:
                return False
            source.used += units
        else:
            if units > self.free + self.pages * PER_PAGE:
                return False
            self.split(units - self.free)
            self.unreserved_use += units
        return True

    def give_back(self, source: Reserved | None, units: int) -> None:
        if source is None:
            self.unreserved_use -= units
        else:
            source.used -= units
            source.pending -= min(source.pending, units)


@dataclass
class Live:
    allocation: Allocation
    source: Reserved | None


class PoolMachine(RuleBasedStateMachine):
    kind: UnitKind
    durable = False

    @initialize(
        total=st.integers(1, 60),
        pages=st.integers(0, 5),
        data=st.data(),
        seeds=st.lists(st.integers(1, 9), unique=True),
        kinds=st.integers(1, len(NAMED)),
    )
    def open(self, total: int, pages: int, data: st.DataObject, seeds: list[int], kinds: int) -> None:
        floor = data.draw(st.integers(0, min(total, 5)))
        shape = {"block_units": PER_PAGE} if self.kind is UnitKind.FC else {"page_bytes": 10 * PER_PAGE + 7}
        self.config = PoolConfig(
            name="machine",
            kind=self.kind,
            unit_bytes=10,
            total_units=total,
            unsplit_pages=pages,
            min_free_units=floor,
            buffer_id_seeds=tuple(seeds),
            first_buffer_id=20,
            **shape,
        )
        self.directory = tempfile.TemporaryDirectory() if self.durable else None
        self.pool: Pool | DurablePool = Pool(self.config) if not self.durable else self.opened()
        self.model = Model(total, pages, floor)
        self.named = NAMED[:kinds]
        self.targets: list[Target] = list(self.named)
        self.live: list[Live] = []
        self.holds: dict[int, tuple[str, int, Reserved, int]] = {}
        self.ids_issued: set[int] = set()
        self.requests = 0
        self.now = 0

    # -- helpers

    def opened(self) -> DurablePool:
        assert self.directory is not None
        path = Path(self.directory.name) / "machine.sqlite"
        return DurablePool.open(path, self.config, connect=connect_unsynced)

    def teardown(self) -> None:
        if hasattr(self, "pool") and isinstance(self.pool, DurablePool):
            self.pool.close()
            assert self.directory is not None
            self.directory.cleanup()

    def once(self) -> dict[str, Any]:
        self.requests += 1
        return {"request_id": f"r{self.requests}", "now_ns": self.now}

    def look(self) -> object:
        pool = self.pool
        return pool.statistics(), pool.reservation_table(), pool.allocation_table(), pool.buffer_id_table()

    def attempt(self, expected: bool, verb: Any, *arguments: Any, **keywords: Any) -> Any:
        """Do it; if it is to be refused, everything visible must be as before."""
        before = self.look()
        try:
            result = verb(*arguments, **keywords)
        except CreditError as refusal:
            assert self.look() == before, "a refusal changes nothing"
            assert not expected, f"should have been granted: {refusal}"
            return refusal
        assert expected, f"should have been refused, got {result}"
        return result

    def held(self, *keys: str) -> bool:
        return any(key in keys for key, *_ in self.holds.values())

    def drawn(self, data: st.DataObject) -> Target:
        return data.draw(st.sampled_from(self.targets))

    # -- reservations

    @rule(data=st.data(), units=SIZES, may_split=st.booleans(), odd=st.integers(0, 9))
    def reserve(self, data: st.DataObject, units: int, may_split: bool, odd: int) -> None:
        target = self.drawn(data)
        size = units * 10 - odd
        if target.buffer_id is not None:
            refused = self.attempt(False, self.pool.reserve, target, size, **self.once())
            assert refused.code is Code.INVALID_TARGET
            return
        fits = not self.held(target.key) and self.model.resize({target.key: units}, may_split=may_split)
        previous = self.pool.reservation_table()
        result = self.attempt(fits, self.pool.reserve, target, size, allow_expansion=may_split, **self.once())
        if fits:
            assert (result.reserved_units, result.requested_bytes) == (units, size)
            assert result.replaced is any(
                row.target == target and row.state != "released" for row in previous
            )

    @rule(units=SIZES)
    def reserve_for_a_new_connection(self, units: int) -> None:
        model = self.model
        fits = model.resize({"new": units})
        result = self.attempt(fits, self.pool.reserve, new_connection(*PAIR), units * 10, **self.once())
        if fits:
            assert result.buffer_id not in self.ids_issued, "buffer IDs are never reused"
            self.ids_issued.add(result.buffer_id)
            model.reserved[result.target.key] = model.reserved.pop("new")
            self.targets.append(connection(result.buffer_id))

    @rule(data=st.data(), units=SIZES, enlarge=st.booleans())
    def update(self, data: st.DataObject, units: int, enlarge: bool) -> None:
        target, model = self.drawn(data), self.model
        keys = [target.key] if target.key in model.reserved else []
        if not keys and target == NAMED[0]:
            ids = [t.key for t in self.targets if t.buffer_id is not None]
            keys = [key for key in ids if key in model.reserved]
        wanted = keys or [target.key]
        fits = not self.held(*wanted)
        if target.buffer_id is not None or enlarge:
            fits = fits and bool(keys)
        if enlarge:
            fits = fits and all(model.reserved[key].size <= units for key in keys)
        fits = fits and model.resize(dict.fromkeys(wanted, units))
        verb = self.pool.enlarge if enlarge else self.pool.update
        result = self.attempt(fits, verb, target, units * 10, **self.once())
        if fits:
            assert result.reserved_units == units * len(wanted)
            assert result.pending_shrink_units == sum(model.reserved[key].pending for key in wanted)

    @rule(data=st.data(), sizes=st.lists(SIZES, min_size=1, max_size=4))
    def update_several(self, data: st.DataObject, sizes: list[int]) -> None:
        chosen = data.draw(st.lists(st.sampled_from(self.targets), min_size=len(sizes), max_size=len(sizes)))
        keys = [target.key for target in chosen]
        fits = (
            len(set(keys)) == len(keys)
            and all(key in self.model.reserved for key in keys)
            and not self.held(*keys)
            and self.model.resize(dict(zip(keys, sizes, strict=True)))
        )
        wanted = [(target, size * 10) for target, size in zip(chosen, sizes, strict=True)]
        self.attempt(fits, self.pool.update_several, wanted, **self.once())

    @rule(data=st.data(), drain=st.booleans())
    def release(self, data: st.DataObject, drain: bool) -> None:
        target, model = self.drawn(data), self.model
        found = model.reserved.get(target.key)
        fits = found is not None and not self.held(target.key) and (drain or not found.used)
        result = self.attempt(fits, self.pool.release, target, drain=drain, **self.once())
        if fits and found is not None:
            assert (result.released_units, result.draining_units) == (found.idle, found.used)
            del model.reserved[target.key]
            found.size, found.pending = 0, found.used
            model.leaving.append(found)

    @rule(data=st.data(), stale=st.integers(1, 3))
    def update_on_a_stale_revision(self, data: st.DataObject, stale: int) -> None:
        target = self.drawn(data)
        revision = self.pool.statistics().revision - stale
        refused = self.attempt(False, self.pool.update, target, 10, expected_revision=revision, **self.once())
        assert refused.code is Code.STALE

    @rule(data=st.data(), units=SIZES)
    def repeat_a_request(self, data: st.DataObject, units: int) -> None:
        target = data.draw(st.sampled_from(self.named))
        once = self.once()
        if self.held(target.key) or not self.model.resize({target.key: units}):
            first = self.attempt(False, self.pool.reserve, target, units * 10, **once)
            again = self.attempt(False, self.pool.reserve, target, units * 10, **once)
            assert (again.code, str(again)) == (first.code, str(first))
        else:
            first = self.pool.reserve(target, units * 10, **once)
            before = self.look()
            assert self.pool.reserve(target, units * 10, **once) == first
            assert self.look() == before

    # -- holds

    @rule(data=st.data(), units=SIZES)
    def hold(self, data: st.DataObject, units: int) -> None:
        target, model = data.draw(st.sampled_from(self.named)), self.model
        old = model.reserved.get(target.key)
        trial = replace(model, reserved={key: replace(r) for key, r in model.reserved.items()})
        fits = not self.held(target.key) and trial.resize({target.key: units})
        result = self.attempt(fits, self.pool.hold, target, units * 10, ttl_ns=50, **self.once())
        if not fits:
            return
        if old is None:
            old = Reserved(0)
        # Only units that the model can name are compared while a hold stands, so end it in the next step.
        before, after = old.size, units
        if after >= before:
            self.end_hold(
                result.hold_id, target.key, units, data.draw(st.sampled_from(["confirm", "void", "expire"]))
            )
        else:
            self.end_hold(result.hold_id, target.key, units, data.draw(st.sampled_from(["confirm", "void"])))

    def end_hold(self, hold_id: int, key: str, units: int, how: str) -> None:
        self.pool.audit()
        assert self.pool.statistics().conserved
        if how == "confirm":
            assert self.model.resize({key: units})
            assert self.pool.confirm_hold(hold_id, **self.once()).reserved_units == units
        elif how == "void":
            self.pool.void_hold(hold_id, **self.once())
        else:
            self.now += 50
            assert len(self.pool.expire(self.now)) == 1
        for verb in (self.pool.confirm_hold, self.pool.void_hold):
            assert self.attempt(False, verb, hold_id, **self.once()).code is Code.STALE

    # -- the data path

    @rule(data=st.data(), units=st.integers(1, 30), at_most=st.booleans())
    def allocate(self, data: st.DataObject, units: int, at_most: bool) -> None:
        claims = data.draw(st.lists(st.sampled_from(self.targets), max_size=3))
        model = self.model
        served = next((t.key for t in by_precedence(claims) if t.key in model.reserved), None)
        source = model.reserved[served] if served else None
        if at_most:
            units = min(units, source.idle if source else model.free + model.pages * PER_PAGE)
        fits = units > 0 and model.use(source, units)
        asked = units if units else 1
        result = self.attempt(fits, self.pool.allocate, claims, asked, holder="h", at_most=at_most)
        if fits:
            assert result.units == sum(count for _, count in result.runs) == units
            assert (result.target.key if result.target else None) == served
            self.live.append(Live(result, source))
        else:
            assert isinstance(result, Refused)
            assert result.code is (Code.OVER_RESERVATION if served else Code.NO_MEMORY)
            assert result.shortage is not None
            most = result.shortage.grantable_units
            assert most < asked
            assert most == (source.idle if source else model.free + model.pages * PER_PAGE)

    @precondition(lambda self: self.live)
    @rule(data=st.data(), units=st.integers(1, 20))
    def grow(self, data: st.DataObject, units: int) -> None:
        live = data.draw(st.sampled_from(self.live))
        fits = self.model.use(live.source, units)
        self.attempt(fits, self.pool.grow, live.allocation, units)

    @precondition(lambda self: self.live)
    @rule(data=st.data(), all_of_it=st.booleans())
    def free(self, data: st.DataObject, all_of_it: bool) -> None:
        live = data.draw(st.sampled_from(self.live))
        units = live.allocation.units if all_of_it else data.draw(st.integers(1, live.allocation.units))
        self.model.give_back(live.source, units)
        self.pool.free(live.allocation, units)
        if not live.allocation.units:
            self.live.remove(live)
            refused = self.attempt(False, self.pool.free, live.allocation)
            assert refused.code is Code.INVALID_SIZE

    @rule(data=st.data(), units=SIZES)
    def preview(self, data: st.DataObject, units: int) -> None:
        target = data.draw(st.sampled_from(self.named))
        before = self.look()
        request = Reserve(target=target, requested_bytes=units * 10)
        seen = self.pool.preview([request], now_ns=self.now)
        would_fit = not isinstance(seen.outcomes[0], CreditError)
        assert self.look() == before
        assert seen.before == self.pool.statistics()
        assert seen.after.conserved
        trial = replace(self.model, reserved={key: replace(r) for key, r in self.model.reserved.items()})
        assert would_fit is trial.resize({target.key: units})

    @precondition(lambda self: self.durable)
    @rule()
    def restart(self) -> None:
        """Reservations stand again, allocations and holds are gone, pages are split as far as promised."""
        assert isinstance(self.pool, DurablePool)
        self.pool.close()
        self.pool = self.opened()
        self.live.clear()
        model = self.model
        for reserved in model.reserved.values():
            reserved.used = reserved.pending = 0
        model.leaving.clear()
        model.unreserved_use = 0
        model.total, model.pages = self.config.total_units, self.config.unsplit_pages
        model.split(sum(reserved.size for reserved in model.reserved.values()) - model.total)

    # -- what must always hold

    @invariant()
    def agrees_with_the_model(self) -> None:
        if not hasattr(self, "pool"):
            return
        self.pool.audit()
        statistics, model = self.pool.statistics(), self.model
        assert statistics.conserved
        assert statistics.total_units == model.total
        assert statistics.free_units == model.free
        assert statistics.expandable_units == model.pages * PER_PAGE
        pending = [r.pending for r in (*model.reserved.values(), *model.leaving)]
        assert statistics.draining_units == sum(pending)
        assert statistics.reserved_idle_units == sum(r.idle for r in model.reserved.values())
        rows = {row.target.key: row for row in self.pool.reservation_table() if row.state != "released"}
        assert rows.keys() == model.reserved.keys()
        for key, reserved in model.reserved.items():
            row = rows[key]
            assert (row.reserved_units, row.idle_units, row.in_use_units, row.pending_shrink_units) == (
                reserved.size,
                reserved.idle,
                reserved.used,
                reserved.pending,
            )
        used = sum(row.allocated_units for row in self.pool.allocation_table())
        assert used == sum(live.allocation.units for live in self.live)
        assert used == statistics.in_use_units + statistics.draining_units


def connect_unsynced(path: Path) -> sqlite3.Connection:
    """Only the process restarts here, not the machine: syncing would only cost time."""
    connection = connect_journal(path)
    connection.execute("PRAGMA synchronous = OFF")
    return connection


@pytest.mark.parametrize(("in_journal", "examples"), [(False, 120), (True, 40)], ids=["memory", "journal"])
@pytest.mark.parametrize("unit_kind", list(UnitKind))
def test_every_order_of_verbs_agrees_with_the_model(
    unit_kind: UnitKind, in_journal: bool, examples: int
) -> None:
    class Machine(PoolMachine):
        kind = unit_kind
        durable = in_journal

    run_state_machine_as_test(
        Machine,
        settings=settings(
            max_examples=examples,
            stateful_step_count=40,
            deadline=None,
            suppress_health_check=[HealthCheck.too_slow],
            print_blob=True,
        ),
    )


class OpenHoldsMachine(RuleBasedStateMachine):
    """Holds that stay open while everything else goes on: what they promise is kept, what they leave is whole."""

    @initialize(total=st.integers(10, 60), pages=st.integers(0, 3))
    def open(self, total: int, pages: int) -> None:
        self.pool = Pool(
            PoolConfig(
                name="holds",
                kind=UnitKind.TCP,
                unit_bytes=10,
                total_units=total,
                unsplit_pages=pages,
                page_bytes=30,
            )
        )
        self.holds: dict[int, tuple[Target, int]] = {}
        self.promised: dict[Target, int] = {}
        self.live: list[Allocation] = []
        self.requests = 0

    def once(self) -> dict[str, Any]:
        self.requests += 1
        return {"request_id": f"r{self.requests}", "now_ns": 0}

    @rule(wanted=st.sampled_from(NAMED[:2]), units=SIZES)
    def hold(self, wanted: Target, units: int) -> None:
        try:
            held = self.pool.hold(wanted, units * 10, ttl_ns=10, **self.once())
        except Refused:
            return
        assert wanted not in [other for other, _ in self.holds.values()]
        self.holds[held.hold_id] = wanted, units

    @precondition(lambda self: self.holds)
    @rule(data=st.data(), confirm=st.booleans())
    def end_a_hold(self, data: st.DataObject, confirm: bool) -> None:
        hold_id = data.draw(st.sampled_from(sorted(self.holds)))
        target, units = self.holds.pop(hold_id)
        if confirm:
            assert self.pool.confirm_hold(hold_id, **self.once()).reserved_units == units
            self.promised[target] = units
        else:
            self.pool.void_hold(hold_id, **self.once())

    @rule(wanted=st.sampled_from(NAMED[:2]), units=SIZES)
    def update(self, wanted: Target, units: int) -> None:
        try:
            self.pool.update(wanted, units * 10, **self.once())
        except Refused:
            return
        self.promised[wanted] = units

    @rule(wanted=st.sampled_from(NAMED[:2]), drain=st.booleans())
    def release(self, wanted: Target, drain: bool) -> None:
        try:
            self.pool.release(wanted, drain=drain, **self.once())
        except Refused:
            return
        del self.promised[wanted]

    @rule(claims=st.lists(st.sampled_from(NAMED[:2]), min_size=1, max_size=2), units=SIZES)
    def allocate(self, claims: list[Target], units: int) -> None:
        allocation = self.pool.try_allocate(claims, units, "h", True)
        if allocation is not None:
            self.live.append(allocation)

    @precondition(lambda self: self.live)
    @rule(data=st.data())
    def free(self, data: st.DataObject) -> None:
        allocation = data.draw(st.sampled_from(self.live))
        self.pool.free(allocation, data.draw(st.integers(1, allocation.units)))
        if not allocation.units:
            self.live.remove(allocation)

    @invariant()
    def every_promise_is_backed(self) -> None:
        if not hasattr(self, "pool"):
            return
        self.pool.audit()
        assert self.pool.statistics().conserved
        held = [target for target, _ in self.holds.values()]
        for row in self.pool.reservation_table():
            if row.state != "released":
                assert row.reserved_units == self.promised[row.target]
                if row.target not in held:
                    assert row.backed_units == row.reserved_units

    def teardown(self) -> None:
        if hasattr(self, "pool"):
            for hold_id in list(self.holds):
                self.pool.void_hold(hold_id, **self.once())
            for allocation in self.live:
                self.pool.free(allocation)
            self.every_promise_is_backed()
            statistics = self.pool.statistics()
            assert statistics.held_units == statistics.in_use_units == statistics.draining_units == 0
            assert statistics.reserved_idle_units == sum(self.promised.values())


def test_holds_that_stay_open_keep_what_they_promise() -> None:
    run_state_machine_as_test(
        OpenHoldsMachine,
        settings=settings(
            max_examples=150,
            stateful_step_count=40,
            deadline=None,
            suppress_health_check=[HealthCheck.too_slow],
            print_blob=True,
        ),
    )
