"""What hosts were told is written survives SIGKILL of either array, of the station and of the channel, also during
recovery.

Hosts write numbered, checksummed blocks all the time; somebody at the station splits and resynchronises the group, or
has its buffers reserved and released. A round kills one to all four processes. After every death of an array the
volumes' files are read as they are, and judged: the primary has everything that was acknowledged; the remote image (its
journal applied) is a point in time, and has everything that the primary had reported to be there (RPO); a synchronous
one with fence DATA has everything that was acknowledged at all.
"""

from __future__ import annotations

import contextlib
import random
import threading
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from math import inf
from pathlib import Path
from typing import Protocol, Self

import pytest

from iscsi_target.scsi.stores.memory import MemoryStore
from mgmt.array.replication import secondary
from mgmt.http import Peer, PeerRefused, PeerUnreachable
from mgmt.messages import GroupStatus
from mgmt.pair_messages import RemoteEnd
from tests.mgmt.array_processes import MASTER, REMOTE
from tests.mgmt.replication_hosts import BLOCK, Hosts, Ledger
from tests.mgmt.replication_processes import GROUP, MIB, Site, create, free_port, two_sites
from tests.mgmt.warm_processes import Nursery, WarmProcess

SLOTS = 96
TARGET = {"kind": "port_pair", "local_port": MASTER, "remote_port": REMOTE}
SIZE = MIB
#: How many of the four die in a round.
DEATHS = (1, 1, 1, 1, 2, 2, 3, 4)
#: Of the rounds, those in which something is killed again while it comes back.
AGAIN = 0.4


def memory(data: bytes) -> MemoryStore:
    store = MemoryStore(len(data))
    store.write(0, data)
    return store


def remote_image(west: Site) -> tuple[bytes, bool]:
    """What a takeover would find in the files of a remote array that is dead; whether it says it is a point in time."""
    volume, journal = memory(west.image().read_bytes()), memory(west.image("jnl").read_bytes())
    found = secondary.read_superblock(journal)
    if found is None:
        return b"".join(volume.read(0, SIZE)), False
    secondary.apply(journal, [volume], found)
    return bytes(b"".join(volume.read(0, SIZE))), found.consistent


def paired(status: GroupStatus) -> bool:
    return status.state == "PAIR" and status.rpo_bytes == 0 and status.rpo_ns == 0 and status.consistent


def decided(east: Site, status: GroupStatus) -> GroupStatus:
    """The status; where the group waits for somebody's word, it has it now."""
    if status.state == "PSUS" or status.held:
        with contextlib.suppress(PeerRefused):  # it has recovered meanwhile
            return east.tell("resync")
    return status


class Victim(Protocol):
    """A process that is killed and comes back."""

    name: str

    def up(self) -> object: ...

    def kill(self) -> None: ...

    def stumble(self, seconds: float) -> None:
        """Come back, and be killed in the middle of it."""
        ...


@dataclass
class Fork:
    """The station, or the channel."""

    name: str
    nursery: Nursery
    words: list[str]
    process: WarmProcess | None = field(default=None)

    def up(self) -> None:
        """Until it listens."""
        self.process = self.nursery.start(self.words)
        assert self.process.stdout is not None
        while not (line := self.process.stdout.readline()).startswith("listening"):
            assert line, f"the {self.name} did not start"

    def kill(self) -> None:
        """SIGKILL, and wait until it is gone."""
        if self.process is not None:
            self.process.kill()
            self.process.wait()
            assert self.process.stdout is not None
            self.process.stdout.close()
            self.process = None

    def stumble(self, seconds: float) -> None:
        """Come back, and be killed in the middle of it."""
        self.process = self.nursery.start(self.words)
        time.sleep(seconds)
        self.kill()


class Chores(threading.Thread):
    """Something that is done again and again until the block ends, whoever is dead at the moment."""

    def __init__(self, name: str, pause_s: float, peer: Peer) -> None:
        super().__init__(name=name, daemon=True)
        self._peer = peer
        self._pause_s = pause_s
        self._ending = threading.Event()
        self.done = 0
        self.failure: BaseException | None = None

    def chore(self) -> None:
        """Once. PeerRefused and PeerUnreachable are expected."""
        raise NotImplementedError

    def run(self) -> None:
        try:
            while not self._ending.wait(self._pause_s):
                with contextlib.suppress(PeerRefused, PeerUnreachable):
                    self.chore()
                    self.done += 1
        except Exception as error:  # noqa: BLE001 - raised where the block ends
            self.failure = error

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ending.set()
        self.join(120)
        assert not self.is_alive(), f"{self.name} is still waiting for an answer"
        self._peer.close()
        if self.failure is not None:
            raise self.failure


class Reports(Chores):
    """What the primary says about the remote image: everything acknowledged before ``until`` is in it."""

    def __init__(self, east: Site) -> None:
        super().__init__("reports", 0.01, Peer(f"unix:{east.directory / 'east.sock'}", 5.0))
        self.until = 0.0

    def chore(self) -> None:
        asked = time.monotonic()
        (row,) = self._peer.get("/v1/pairs")
        if row["rpo_ns"] is not None:
            self.until = max(self.until, asked - row["rpo_ns"] / 1e9)


class Operator(Chores):
    """Somebody at the station."""

    def __init__(self, station: str, mode: str, seed: int) -> None:
        super().__init__("operator", 0.05, Peer(station, 30.0))
        self._rng = random.Random(seed)
        self._splits = (
            mode == "async"
        )  # a synchronous pair that is split promises nothing about the remote end

    def chore(self) -> None:
        match self._rng.randrange(4):
            case 0 if self._splits:
                self._peer.post(f"/api/v1/groups/{GROUP}/split", {})
                self._peer.post(f"/api/v1/groups/{GROUP}/resync", {})
            case 0 | 1:
                self._peer.post(f"/api/v1/groups/{GROUP}/resync", {})
            case 2:
                size = self._rng.randrange(1, 64) * 16384
                self._peer.post("/api/v1/reserve-both-ends", {"target": TARGET, "size_bytes": size})
            case _:
                self._peer.post("/api/v1/release", {"target": TARGET, "drain": True})


class Rounds:
    """The loop: some deaths a round, a look at what is left, and on before everything has healed."""

    def __init__(
        self,
        east: Site,
        west: Site,
        others: list[Fork],
        ledger: Ledger,
        reports: Reports,
        mode: str,
        seed: int,
    ) -> None:
        self.east, self.west, self.ledger, self.reports, self.mode = east, west, ledger, reports, mode
        self.victims: list[Victim] = [east, west, *others]
        self.rng = random.Random(seed)
        self.judged = self.consistent = 0
        self.died: Counter[str] = Counter()

    def play(self, rounds: int) -> None:
        for number in range(rounds):
            if number % 50 == 0:
                print(f"{self.mode}: round {number} of {rounds}", flush=True)
            self.one()
            time.sleep(self.rng.choice((0.0, 0.02, 0.1, 0.2)))  # how far the recovery gets before the next

    def one(self) -> None:
        dead = self.rng.sample(self.victims, self.rng.choice(DEATHS))
        for victim in dead:
            until, reported = time.monotonic(), self.reports.until
            victim.kill()
            self.buried(victim, until, reported)
            time.sleep(self.rng.choice((0.0, 0.0, 0.005, 0.02)))
        self.rng.shuffle(dead)
        for victim in dead:
            if self.rng.random() < AGAIN:
                reported = self.reports.until
                victim.stumble(self.rng.uniform(0.0, 0.15))
                self.buried(victim, time.monotonic(), reported, again=True)
            victim.up()

    def buried(self, victim: Victim, until: float, reported: float, *, again: bool = False) -> None:
        self.died[f"{victim.name} again" if again else victim.name] += 1
        if victim is self.west:
            self.judge_remote(reported)
        elif victim is self.east:
            self.ledger.check_complete(self.east.image().read_bytes()[: SLOTS * BLOCK], until)

    def judge_remote(self, reported: float) -> None:
        image, consistent = remote_image(self.west)
        self.judged += 1
        if not consistent:
            return
        self.consistent += 1
        self.ledger.check_order(image)
        self.ledger.check_complete(image, inf if self.mode == "sync" else reported)


@contextlib.contextmanager
def running(*forks: Fork) -> Iterator[None]:
    try:
        for fork in forks:
            fork.up()
        yield
    finally:
        for fork in forks:
            fork.kill()


def release_what_is_in_use(station: str, channel: Fork, east: Site) -> None:
    """As the operator may have done last: the pair's connections keep their units as long as they live."""
    with contextlib.closing(Peer(station, 30.0)) as peer:
        channel.kill()
        east.wait_for(lambda status: status.connections == 0)
        peer.post("/api/v1/reserve-both-ends", {"target": TARGET, "size_bytes": 32 * 16384})
        channel.up()
        east.wait_for(lambda status: status.state == "PAIR" and status.connections == 2)
        peer.post("/api/v1/release", {"target": TARGET, "drain": True})
    assert east.array.pool["draining_units"] > 0


def survive(tmp_path: Path, mode: str, rounds: int, seed: int) -> None:
    with Nursery() as nursery, two_sites(tmp_path, SIZE, start=nursery.start) as (east, west):
        entry = (REMOTE, free_port())
        towards = (west.address, str(west.array.port["iscsi_port"]))
        channel = Fork("channel", nursery, ["channel", entry[0], str(entry[1]), *towards])
        listen = f"unix:{tmp_path / 'station.sock'}"
        words = ["sancredit", "station", "serve", "--listen", listen, "--state", str(tmp_path / "station")]
        for site in (east, west):
            words += ["--array", f"{site.name}=unix:{tmp_path / f'{site.name}.sock'}"]
        station = Fork("station", nursery, words)
        with running(channel, station):
            through = RemoteEnd(host=entry[0], port_number=entry[1], iqn=west.array.port["copy_iqn"])
            create(east, west, mode, fence="data" if mode == "sync" else "never", primary={"remote": through})
            east.wait_for(paired)
            port = east.array.port
            ledger = Ledger(SLOTS)
            with Hosts((port["address"], port["iscsi_port"], port["iqn"]), ledger, seed=seed):
                with Reports(east) as reports, Operator(listen, mode, seed) as operator:
                    loop = Rounds(east, west, [channel, station], ledger, reports, mode, seed)
                    loop.play(rounds)
                east.wait_for(lambda status: decided(east, status).state == "PAIR")
            east.wait_for(paired)
            assert east.array.digest() == west.array.digest()
            ledger.check_complete(west.image().read_bytes()[: SLOTS * BLOCK], inf)
            release_what_is_in_use(listen, channel, east)
            west.tell("takeover")
            assert west.status().state == "SSWS"
            ledger.check_complete(west.image().read_bytes()[: SLOTS * BLOCK], inf)
            channel.kill()
            for site in (east, west):  # the pair's connections go, and so do the units they kept
                site.wait_for(lambda _, site=site: site.array.pool["draining_units"] == 0)  # type: ignore[misc]
            print(f"{mode}: {sum(loop.died.values())} deaths {dict(loop.died)}, {ledger.acknowledged} writes")
            print(
                f"{loop.consistent} of {loop.judged} images; {reports.done} reports, {operator.done} wishes"
            )
            assert ledger.acknowledged > rounds
            assert reports.done > rounds and operator.done > rounds / 10
            assert loop.consistent >= loop.judged * 0.6, (loop.consistent, loop.judged)
            assert min(
                loop.died[name] for victim in loop.victims for name in (victim.name, f"{victim.name} again")
            )


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.parametrize(("mode", "rounds"), [("async", 60), ("sync", 40)])
def test_acknowledged_writes_survive_random_kills(tmp_path: Path, mode: str, rounds: int) -> None:
    survive(tmp_path, mode, rounds, seed=20261122)


@pytest.mark.soak
@pytest.mark.timeout(4 * 3600)
@pytest.mark.parametrize(("mode", "rounds"), [("async", 600), ("sync", 400)])
def test_acknowledged_writes_survive_a_thousand_kills(tmp_path: Path, mode: str, rounds: int) -> None:
    survive(tmp_path, mode, rounds, seed=int(time.time()))
