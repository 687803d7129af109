"""Two arrays and a manager on a network that loses, doubles, delays and reorders; all three crash.

The manager reserves both ends of a pair or neither: hold, hold, confirm, confirm, with a log of its decisions.
Whatever happens in between, after the network has healed: both ends agree, nothing is spent twice, nothing is
left behind, and every retry got the first answer.
"""

from __future__ import annotations

import heapq
import random
import sqlite3
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from credits import Code, DurablePool, PoolConfig, Refused, Target, UnitKind, port_pair
from credits.journal import connect_journal

SIDES = ("master", "remote")
TTL, RETRY = 400, 40
CONFIG = PoolConfig(
    name="site", kind=UnitKind.TCP, unit_bytes=1, total_units=100, unsplit_pages=4, page_bytes=5
)


def connect_unsynced(path: Path) -> sqlite3.Connection:
    """A crash of the process, not of the machine, is simulated here: syncing would only cost time."""
    connection = connect_journal(path)
    connection.execute("PRAGMA synchronous = OFF")
    return connection


@dataclass
class Array:
    """One array: answers requests out of its pool; a crash loses all but the journal."""

    path: Path
    answers: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.pool = DurablePool.open(self.path, CONFIG, connect=connect_unsynced)

    def crash(self) -> None:
        self.pool.close()
        self.pool = DurablePool.open(self.path, CONFIG, connect=connect_unsynced)
        # What lives in memory may be answered anew: holds, and refusals.
        durable = ("confirm", "release", "undo")
        self.answers = {
            key: answer
            for key, answer in self.answers.items()
            if key.split(".")[1] in durable and not isinstance(answer, Code)
        }

    def handle(self, verb: str, arguments: dict[str, Any], request_id: str, now: int) -> Any:
        try:
            answer = getattr(self.pool, verb)(**arguments, request_id=request_id, now_ns=now)
        except Refused as refusal:
            answer = refusal.code
        assert self.answers.setdefault(request_id, answer) == answer, "a retry gets the first answer"
        self.pool.audit()
        return answer


@dataclass
class Job:
    """One transaction of the manager; ``decision`` and ``hold_ids`` are its log and survive a crash."""

    name: str
    target: Target
    size: int
    decision: str = "hold"
    hold_ids: dict[str, int] = field(default_factory=dict)
    tries: int = 0
    seen: dict[str, Any] = field(default_factory=dict)

    def wanted(self) -> list[tuple[str, str, str, dict[str, Any]]]:
        """The requests still to be answered: (step, side, verb, arguments)."""
        todo: list[tuple[str, str, str, dict[str, Any]]] = []
        for side in SIDES:
            if self.decision == "hold":
                arguments = {"target": self.target, "requested_bytes": self.size, "ttl_ns": TTL}
                todo.append(("hold", side, "hold", arguments))
            elif self.decision == "abort" and side in self.hold_ids:
                todo.append(("void", side, "void_hold", {"hold_id": self.hold_ids[side]}))
            elif self.decision in ("commit", "undo", "release"):
                todo.append(("confirm", side, "confirm_hold", {"hold_id": self.hold_ids[side]}))
                confirmed = self.seen.get(f"confirm.{side}")
                if self.decision != "commit" and confirmed is not None and not isinstance(confirmed, Code):
                    # The epoch matters: a late duplicate must not release what another job reserved since.
                    arguments = {"target": self.target, "epoch": confirmed.epoch}
                    todo.append((self.decision, side, "release", arguments))
        return [entry for entry in todo if f"{entry[0]}.{entry[1]}" not in self.seen]

    def step(self) -> None:
        """Decide, when everything asked in this phase has been answered."""
        if self.wanted():
            return
        if self.decision == "hold":
            answers = {side: self.seen[f"hold.{side}"] for side in SIDES}
            granted = {side: answer for side, answer in answers.items() if not isinstance(answer, Code)}
            self.hold_ids = {side: answer.hold_id for side, answer in granted.items()}
            self.decision = "commit" if len(granted) == 2 else "abort"
        elif self.decision == "commit":
            refused = any(isinstance(self.seen[f"confirm.{side}"], Code) for side in SIDES)
            self.decision = "undo" if refused else "reserved"
        elif self.decision in ("abort", "undo", "release"):
            self.decision = "gone"


class Simulation:
    def __init__(self, seed: int, path: Path) -> None:
        self.random = random.Random(seed)
        self.arrays = {side: Array(path / f"{side}.sqlite") for side in SIDES}
        self.now = 0
        self.queue: list[tuple[int, int, Callable[[], None]]] = []
        self.sent = 0
        self.lossy = True
        self.jobs: list[Job] = []
        self.outcomes: dict[str, int] = {}

    def later(self, delay: int, action: Callable[[], None]) -> None:
        self.sent += 1
        heapq.heappush(self.queue, (self.now + delay, self.sent, action))

    def transmit(self, action: Callable[[], None]) -> None:
        """The network: lose, double, delay (which reorders)."""
        copies = self.random.choices((0, 1, 2), (25, 60, 15))[0] if self.lossy else 1
        for _ in range(copies):
            self.later(self.random.choice((1, 5, 20, 300)) if self.lossy else 1, action)

    def ask(self, job: Job) -> None:
        """Send whatever this job still wants, and look again later."""
        job.step()
        for step, side, verb, arguments in job.wanted():
            tries = job.tries if step in ("release", "undo") else 0
            request_id = f"{job.name}.{step}.{side}.{tries}"

            def arrive(
                step: str = step,
                side: str = side,
                verb: str = verb,
                tries: int = tries,
                request_id: str = request_id,
                arguments: dict[str, Any] = arguments,
            ) -> None:
                answer = self.arrays[side].handle(verb, arguments, request_id, self.now)
                self.transmit(lambda: self.hear(job, step, side, tries, answer))

            self.transmit(arrive)
        if job.decision not in ("reserved", "gone"):
            self.later(RETRY, lambda: self.ask(job))

    def hear(self, job: Job, step: str, side: str, tries: int, answer: Any) -> None:
        if answer is Code.BUSY and step in ("release", "undo"):
            # A late duplicate of a hold stands in the way until its time runs out. The refusal is this request's
            # answer for good, so trying again takes a new request ID.
            job.tries = max(job.tries, tries + 1)
            return
        phase = {"confirm": ("commit", "undo", "release"), "void": ("abort",)}.get(step, (step,))
        if job.decision in phase:
            job.seen.setdefault(f"{step}.{side}", answer)

    def disturb(self) -> None:
        """Crashes, leases of holds running out, and new work."""
        chance = self.random.random()
        if chance < 0.12:
            self.arrays[self.random.choice(SIDES)].crash()
        elif chance < 0.2:
            for job in self.jobs:
                job.seen.clear()  # the manager restarts with its log alone
        for array in self.arrays.values():
            array.pool.expire(self.now)
        busy = {job.target: job for job in self.jobs if job.decision != "gone"}
        target = port_pair("l", f"r{self.random.randrange(5)}")
        known = busy.get(target)
        if known is None:
            self.start(target)
        elif known.decision == "reserved" and self.random.random() < 0.5:
            known.decision = "release"
            self.ask(known)

    def start(self, target: Target) -> None:
        job = Job(f"job{len(self.jobs)}", target, self.random.randint(5, 60))
        self.jobs.append(job)
        self.ask(job)

    def run(self, until: int) -> None:
        while self.queue and self.queue[0][0] <= until:
            self.now, _, action = heapq.heappop(self.queue)
            action()
        self.now = until


@pytest.mark.parametrize("seed", range(25))
def test_both_ends_or_neither_whatever_the_network_does(seed: int, tmp_path: Path) -> None:
    world = Simulation(seed, tmp_path)
    for moment in range(1, 40):
        world.run(moment * 60)
        world.disturb()
    world.lossy = False
    world.run(world.now + 10 * TTL)
    for array in world.arrays.values():
        array.pool.expire(world.now)
    expected = {job.target: job.size for job in world.jobs if job.decision == "reserved"}
    assert {job.decision for job in world.jobs} <= {"reserved", "gone"}, "every transaction came to an end"
    for side, array in world.arrays.items():
        found = {row.target: row.reserved_units for row in array.pool.reservation_table()}
        assert found == expected, side
        statistics = array.pool.statistics()
        assert statistics.conserved
        assert statistics.held_units == 0
        assert statistics.reserved_idle_units == sum(expected.values())
        array.pool.audit()
        array.pool.close()
    assert len(world.jobs) > 3
