"""What hosts were told is written survives SIGKILL of either array, of both, and of the channel, also while recovering.

Hosts write numbered, checksummed blocks all the time. After every kill the volumes' files are read as they are, and
judged: the primary has everything that was acknowledged; the remote image (its journal applied) is a point in time; a
synchronous one with fence DATA has everything too.
"""

from __future__ import annotations

import random
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from iscsi_target.scsi.stores.memory import MemoryStore
from mgmt.array.replication import secondary
from mgmt.messages import GroupStatus
from mgmt.pair_messages import RemoteEnd
from tests.mgmt.replication_hosts import BLOCK, Channel, Hosts, Ledger
from tests.mgmt.replication_processes import MIB, REMOTE, Site, create, free_port, two_sites

SLOTS = 96
SIZE = MIB
KINDS = ("channel",) * 5 + ("east",) * 2 + ("west",) * 2 + ("both",)


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
    return status.state == "PAIR" and status.rpo_bytes == 0 and status.rpo_ns == 0


class Rounds:
    """The loop: one kill a round, a look at what is left, and on before everything has healed."""

    def __init__(
        self, east: Site, west: Site, channel: Channel, ledger: Ledger, mode: str, seed: int
    ) -> None:
        self.east, self.west, self.channel, self.ledger, self.mode = east, west, channel, ledger, mode
        self.rng = random.Random(seed)
        self.judged = self.consistent = 0

    def play(self, rounds: int) -> None:
        for _ in range(rounds):
            self.one(self.rng.choice(KINDS))
            time.sleep(
                self.rng.choice((0.0, 0.02, 0.1, 0.3))
            )  # how far the recovery gets before the next kill

    def one(self, kind: str) -> None:
        if kind == "channel":
            self.channel.cut()
            return
        sites = [site for site in (self.east, self.west) if kind in (site.name, "both")]
        before = time.monotonic()
        for site in sites:
            site.kill()
        if self.west in sites:
            self.judge_remote(before)
        if self.east in sites:
            self.ledger.check_complete(self.east.image().read_bytes()[: SLOTS * BLOCK], before)
        with ThreadPoolExecutor(2) as pool:
            list(pool.map(lambda site: site.up(), sites))

    def judge_remote(self, before: float) -> None:
        image, consistent = remote_image(self.west)
        self.judged += 1
        if not consistent:
            return
        self.consistent += 1
        missing = self.ledger.check_order(image)
        if self.mode == "sync":
            self.ledger.check_complete(image, before)
        assert missing >= 0


def survive(tmp_path: Path, mode: str, rounds: int, seed: int) -> None:
    with two_sites(tmp_path, SIZE) as (east, west):
        place = (west.address, int(west.array.port["iscsi_port"]))
        entry = (REMOTE, free_port())
        with Channel(entry, place) as channel:
            fence = "data" if mode == "sync" else "never"
            through = RemoteEnd(host=entry[0], port_number=entry[1], iqn=west.array.port["copy_iqn"])
            create(east, west, mode, fence=fence, primary={"remote": through})
            east.wait_for(paired)
            port = east.array.port
            ledger = Ledger(SLOTS)
            loop = Rounds(east, west, channel, ledger, mode, seed)
            with Hosts((port["address"], port["iscsi_port"], port["iqn"]), ledger, seed=seed):
                loop.play(rounds)
                east.wait_for(lambda status: status.state == "PAIR", 60)
            east.wait_for(paired, 60)
            assert east.array.digest() == west.array.digest()
            ledger.check_complete(west.image().read_bytes()[: SLOTS * BLOCK], time.monotonic())
            west.tell("takeover")
            assert west.status().state == "SSWS"
            ledger.check_complete(west.image().read_bytes()[: SLOTS * BLOCK], time.monotonic())
            assert ledger.acknowledged > rounds
            assert loop.consistent >= loop.judged * 0.8, (loop.consistent, loop.judged)


@pytest.mark.slow
@pytest.mark.timeout(240)
@pytest.mark.parametrize(("mode", "rounds"), [("async", 60), ("sync", 40)])
def test_acknowledged_writes_survive_random_kills(tmp_path: Path, mode: str, rounds: int) -> None:
    survive(tmp_path, mode, rounds, seed=20261122)


@pytest.mark.soak
@pytest.mark.timeout(3600)
@pytest.mark.parametrize(("mode", "rounds"), [("async", 600), ("sync", 400)])
def test_acknowledged_writes_survive_a_thousand_kills(tmp_path: Path, mode: str, rounds: int) -> None:
    survive(tmp_path, mode, rounds, seed=int(time.time()))
