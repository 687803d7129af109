"""Pairs between two arrays as real processes: the verbs, what is refused, and what goes wrong with disks and wires."""

from __future__ import annotations

import asyncio
import os
import resource
import shutil
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from iscsi_target.errors import CommandFailed
from iscsi_target.initiator import Initiator
from mgmt.http import Peer, PeerRefused, ProblemError
from mgmt.messages import GroupStatus, PairRequest
from mgmt.pair_messages import PairMember, RemoteEnd
from mgmt.station import groups
from mgmt.station.arrays import Arrays
from tests.mgmt.array_processes import MASTER, REMOTE, Start, array
from tests.mgmt.replication_hosts import Channel
from tests.mgmt.replication_processes import GROUP, MIB, Site, create, free_port, two_sites
from tests.mgmt.warm_processes import Nursery

pytestmark = [pytest.mark.slow, pytest.mark.timeout(400)]

SIZE = 8 * MIB


@pytest.fixture(scope="module")
def warm() -> Iterator[Start]:
    """Starts arrays in milliseconds."""
    with Nursery() as nursery:
        yield nursery.start


def host(site: Site, work: Callable[[Initiator], Any]) -> Any:
    """One host's session at the array."""

    async def run() -> Any:
        port = site.array.port
        async with await Initiator.login(port["address"], port["iscsi_port"], port["iqn"]) as session:
            return await work(session)

    return asyncio.run(run())


def write(site: Site, offset: int, data: bytes, lun: int = 0) -> None:
    host(site, lambda session: session.write(lun, offset // 512, data))


def paired(status: GroupStatus) -> bool:
    return status.state == "PAIR" and status.rpo_bytes == 0 and status.rpo_ns == 0 and status.consistent


def settled(status: GroupStatus) -> bool:
    """Paired, and a checkpoint has noted that the secondary has everything on its disk."""
    return paired(status) and not any(pair.dirty_bytes for pair in status.pairs)


class Desk:
    """The station's use cases on these arrays, without a station around them."""

    def __init__(self, *sites: Site) -> None:
        self.arrays = Arrays(
            {site.name: Peer(f"unix:{site.directory / f'{site.name}.sock'}", 60.0) for site in sites}
        )

    def __enter__(self) -> Desk:
        return self

    def __exit__(self, *_: object) -> None:
        self.arrays.close()

    def wish(self, verb: str, **fields: bool) -> GroupStatus:
        return groups.wish(self, GROUP, verb, **fields)  # type: ignore[arg-type]

    def different(self, volume: str = "vol0") -> list[int]:
        """Offsets of the pieces that differ."""
        found: list[int] = []
        offset = 0
        while True:
            part = groups.compare(self, GROUP, volume, offset)  # type: ignore[arg-type]
            found += part.different
            offset += part.compared_bytes
            if offset >= part.total_bytes:
                return found


@pytest.mark.parametrize("mode", ["async", "sync"])
def test_a_pair_is_split_resynchronised_swapped_taken_over_and_swapped_back(
    tmp_path: Path, mode: str, warm: Start
) -> None:
    with two_sites(tmp_path, SIZE, ("vol0", "vol1"), start=warm) as (east, west), Desk(east, west) as desk:
        write(east, 0, os.urandom(MIB))
        write(east, 4096, os.urandom(4096), lun=1)
        made = groups.create(
            desk,  # type: ignore[arg-type]
            groups.GroupWish(
                group=GROUP,
                ports=(MASTER, REMOTE),
                volumes=[("vol0", "vol0"), ("vol1", "vol1")],
                journal=("jnl", "jnl"),
                mode=mode,
                sessions=2,
                connections_per_session=2,
            ),
        )
        assert {(row["array"], row["role"]) for row in made} == {("east", "P-VOL"), ("west", "S-VOL")}
        status = east.wait_for(paired)
        assert (status.connections, status.consistent) == (4, True)
        assert desk.different() == desk.different("vol1") == []
        assert west.status().state == "PAIR"

        # hosts may not write to an S-VOL, nor to the journals
        for site, lun in ((west, 0), (west, 2), (east, 2)):
            with pytest.raises(CommandFailed, match=r"CHECK CONDITION|0x02"):
                write(site, 0, bytes(512), lun)

        # split: what is written afterwards is noted, and only that is copied by the resync
        desk.wish("split")
        assert (east.status().state, west.status().state) == ("PSUS", "PSUS")
        changed = 96
        for number in range(changed):
            write(east, (number * 3 % 1024) * 4096 + MIB, os.urandom(4096))
        assert east.status().rpo_bytes == changed * 4096
        assert desk.different()
        before = east.status().resynced_bytes
        desk.wish("resync")
        east.wait_for(paired)
        assert east.status().resynced_bytes - before <= 1.1 * changed * 4096
        assert desk.different() == []

        # a planned swap: nothing is copied, the roles change
        desk.wish("swap")
        status = west.wait_for(paired)
        assert (status.role, east.status().role) == ("P-VOL", "S-VOL")
        assert status.resynced_bytes == 0
        with pytest.raises(CommandFailed):
            write(east, 0, bytes(512))
        write(west, 5 * MIB, os.urandom(8192))
        west.wait_for(paired)
        assert desk.different() == []

        # takeover after the primary died: it is kept out, and both ends' changes come together on the way back
        west.kill()
        assert east.tell("takeover").state == "SSWS"
        write(east, 6 * MIB, os.urandom(8192))
        west.up()
        write(west, 7 * MIB, os.urandom(4096))  # the old primary's hosts, who do not know
        status = west.wait_for(lambda status: "taken over" in status.error)
        assert status.state == "PSUE" and "pair swap g1" in status.error
        written = east.array.digest()
        desk.wish("swap")
        status = east.wait_for(paired)
        assert status.role == "P-VOL"
        assert east.array.digest() == west.array.digest() == written
        assert status.resynced_bytes <= 64 * 1024

        desk.wish("delete")
        assert not east.array.table("pairs") and not west.array.table("pairs")
        write(west, 0, bytes(512))


def test_a_copy_is_paused_and_resumed_where_it_was(tmp_path: Path, warm: Start) -> None:
    with two_sites(tmp_path, 64 * MIB, start=warm) as (east, west):
        east.image().write_bytes(os.urandom(64 * MIB))
        create(east, west)
        east.wait_for(lambda status: status.resynced_bytes > 0)
        east.tell("split")
        paused = east.status()
        assert paused.state == "PSUS"
        left = paused.pairs[0].dirty_bytes
        if left:  # a quick machine may be done before it can be paused
            with pytest.raises(PeerRefused, match="no point in time"):
                west.tell("takeover")
        east.tell("resync")
        status = east.wait_for(paired)
        assert status.resynced_bytes - paused.resynced_bytes <= left + MIB
        assert east.array.digest() == west.array.digest()


@pytest.fixture(scope="module")
def quarrel(tmp_path_factory: pytest.TempPathFactory, warm: Start) -> Iterator[tuple[Site, Site]]:
    """Two arrays with a group between them, and a volume of another size at west."""
    directory = tmp_path_factory.mktemp("quarrel")
    extra = (
        "--volume",
        f"small={directory / 'small.img'}:{MIB}",
        "--volume",
        f"tiny={directory / 'tiny.img'}:65536",
    )
    with two_sites(directory, 4 * MIB, ("vol0", "vol1"), extra, start=warm) as (east, west):
        create_one(east, west)
        east.wait_for(paired)
        yield east, west


def create_one(east: Site, west: Site, **changes: Any) -> None:
    members = {"members": (PairMember(volume="vol0", remote_lun=0),), "remote_journal_lun": 2}
    create(east, west, **(members | changes))


@pytest.mark.parametrize(
    ("changes", "text"),
    [
        ({"group": "g2"}, "volume vol0 is busy: it is the P-VOL of group g1; a volume is in one pair only"),
        ({}, "there is a group g1 here already"),
        (
            {"group": "g2", "members": (PairMember(volume="vol1", remote_lun=1),)},
            "volume jnl is busy: it is the journal of group g1",
        ),
        (
            {"group": "g2", "members": (PairMember(volume="vol9", remote_lun=0),)},
            "there is no volume 'vol9' here",
        ),
        (
            {"group": "g2", "members": (PairMember(volume="vol1", remote_lun=3),), "journal": None},
            "the volumes differ in size: vol1 has 4194304 bytes, LUN 3 of the remote array has 1048576",
        ),
        (
            {"group": "g2", "members": (PairMember(volume="vol1", remote_lun=1),), "journal": "tiny"},
            "journal volume tiny has 65536 bytes, at least 4194304 are needed",
        ),
        (
            {
                "group": "g2",
                "members": (PairMember(volume="vol1", remote_lun=1),),
                "journal": None,
                "remote_journal_lun": 4,
            },
            "the remote journal volume has 65536 bytes, at least 4194304 are needed",
        ),
        ({"group": "g2", "members": (PairMember(volume="vol1", remote_lun=2),)}, "LUNs are different"),
        ({"group": "no such name"}, "cannot name a group"),
        ({"group": "g2", "mode": "eventually"}, "'eventually' is not a valid Mode"),
        ({"group": "g2", "fence": "data"}, "fence data is for synchronous groups"),
        ({"group": "g2", "sessions": 20, "connections_per_session": 20}, "at most 256 connections"),
    ],
    ids=lambda value: value if isinstance(value, str) else None,
)
def test_a_group_that_cannot_be_is_refused_with_one_line(
    quarrel: tuple[Site, Site], changes: dict[str, Any], text: str
) -> None:
    east, west = quarrel
    east.wait_for(paired)
    before = east.array.table("pairs"), west.array.table("pairs")
    from mgmt.messages import PairCreateRequest

    fields: dict[str, Any] = {
        "group": GROUP,
        "group_id": "0" * 32,
        "role": "P-VOL",
        "mode": "async",
        "fence": "never",
        "members": (PairMember(volume="vol0", remote_lun=0),),
        "remote": west.place(),
        "local_port": east.address,
        "journal": "jnl",
        "remote_journal_lun": 2,
        "sessions": 1,
        "connections_per_session": 1,
    }
    with pytest.raises(PeerRefused) as refused:
        east.array.peer.send(PairCreateRequest(**(fields | changes)), timeout_s=60)
    assert text in refused.value.detail
    assert "\n" not in refused.value.detail
    same = ("group", "state", "role", "volume")
    after = east.array.table("pairs"), west.array.table("pairs")
    assert [[[row[key] for key in same] for row in rows] for rows in before] == [
        [[row[key] for key in same] for row in rows] for rows in after
    ]


def test_a_loop_of_pairs_is_refused(quarrel: tuple[Site, Site]) -> None:
    east, west = quarrel
    with Desk(east, west) as desk:
        wish = groups.GroupWish(
            group="back", ports=(REMOTE, MASTER), volumes=[("vol0", "vol1")], journal=("jnl", "jnl")
        )
        with pytest.raises(PeerRefused, match="busy: it is the journal of group g1"):
            groups.create(desk, wish)  # type: ignore[arg-type]
        own = groups.GroupWish(
            group="own", ports=(MASTER, MASTER), volumes=[("vol0", "vol1")], journal=("jnl", "jnl")
        )
        with pytest.raises(ProblemError, match="a pair has two arrays"):
            groups.create(desk, own)  # type: ignore[arg-type]
    assert [row["group"] for row in west.array.table("pairs")] == [GROUP]


@pytest.mark.parametrize(
    ("end", "verb", "text"),
    [
        ("east", "resync", "the pair is PAIR (P-VOL), which does not fit resync"),
        ("east", "takeover", "has its primary here: there is nothing to take over"),
        ("west", "split", "has its primary at the other array"),
        ("west", "resync", "has its primary at the other array"),
        ("east", "promote", "promote says where"),
        ("east", "dance", "there is no wish 'dance'"),
    ],
)
def test_a_verb_in_the_wrong_state_is_refused_and_changes_nothing(
    quarrel: tuple[Site, Site], end: str, verb: str, text: str
) -> None:
    site = quarrel[0] if end == "east" else quarrel[1]
    quarrel[0].wait_for(paired)
    before = site.status().state
    with pytest.raises(PeerRefused) as refused:
        site.tell(verb)
    assert text in refused.value.detail
    assert site.status().state == before == "PAIR"


def test_an_unknown_group_is_not_found(quarrel: tuple[Site, Site]) -> None:
    with pytest.raises(PeerRefused, match="there is no group 'g9' here") as refused:
        quarrel[0].array.peer.send(PairRequest(group="g9", verb="status"))
    assert refused.value.status == 404


@pytest.mark.parametrize("mode", ["async", "sync"])
def test_a_remote_array_that_comes_back_with_old_data_is_refused_and_explained(
    tmp_path: Path, mode: str, warm: Start
) -> None:
    with two_sites(tmp_path, 4 * MIB, start=warm) as (east, west):
        create(east, west, mode)
        east.wait_for(paired)
        write(east, 0, os.urandom(8192))
        east.wait_for(settled)
        west.kill()
        for name in ("vol0", "jnl"):
            shutil.copyfile(west.image(name), tmp_path / f"old.{name}")
        west.up()
        east.wait_for(paired)
        write(east, 4096, os.urandom(8192))
        east.wait_for(settled)
        west.kill()
        for name in ("vol0", "jnl"):
            shutil.copyfile(tmp_path / f"old.{name}", west.image(name))
        west.up()
        status = east.wait_for(lambda status: "old data" in status.error)
        assert status.state == "PSUE"
        assert status.held, "it is not tried again without somebody's decision"
        assert "had acknowledged epoch" in status.error and "--full" in status.error
        assert "\n" not in status.error
        write(east, 8192, os.urandom(4096))  # hosts go on
        assert (east.status().state, east.status().held) == ("PSUE", True)
        east.tell("resync", full=True)
        east.wait_for(paired)
        assert east.array.digest() == west.array.digest()


def test_a_full_remote_disk_suspends_the_pair_with_one_line_and_hosts_go_on(
    tmp_path: Path, warm: Start
) -> None:
    with two_sites(tmp_path, 4 * MIB, start=warm) as (east, west):
        create(east, west)
        east.wait_for(paired)
        resource.prlimit(west.array.process.pid, resource.RLIMIT_FSIZE, (65536, resource.RLIM_INFINITY))
        write(east, MIB, os.urandom(65536))
        status = east.wait_for(lambda status: status.state == "PSUE")
        assert "refused a WRITE" in status.error and "\n" not in status.error
        assert status.held, "it is not tried again without somebody's decision"
        write(east, 2 * MIB, os.urandom(4096))
        resource.prlimit(
            west.array.process.pid, resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY)
        )
        east.tell("resync")
        east.wait_for(paired)
        assert east.array.digest() == west.array.digest()


@pytest.mark.parametrize("mode", ["async", "sync"])
def test_a_bit_that_flips_on_the_wire_is_found_by_the_digests_and_sent_again(
    tmp_path: Path, mode: str, warm: Start
) -> None:
    with two_sites(tmp_path, 4 * MIB, start=warm) as (east, west):
        place, entry = (west.address, int(west.array.port["iscsi_port"])), (REMOTE, free_port())
        with Channel(entry, place) as channel:
            through = RemoteEnd(host=entry[0], port_number=entry[1], iqn=west.array.port["copy_iqn"])
            create(east, west, mode, primary={"remote": through})
            east.wait_for(paired)
            for number in range(4):
                channel.flip_at = channel.passed + 20_000
                write(east, number * 65536, os.urandom(65536))
                deadline = time.monotonic() + 120
                while channel.flip_at is not None and time.monotonic() < deadline:
                    time.sleep(0.01)
                assert channel.flip_at is None, "the bit was not flipped"
                east.wait_for(paired)
            assert east.array.digest() == west.array.digest()


def test_what_hosts_write_while_the_channel_is_cut_is_in_the_journal_and_nothing_is_copied_again(
    tmp_path: Path, warm: Start
) -> None:
    with two_sites(tmp_path, 4 * MIB, start=warm) as (east, west):
        place, entry = (west.address, int(west.array.port["iscsi_port"])), (REMOTE, free_port())
        with Channel(entry, place) as channel:
            through = RemoteEnd(host=entry[0], port_number=entry[1], iqn=west.array.port["copy_iqn"])
            create(east, west, primary={"remote": through})
            before = east.wait_for(paired)
            channel.cut(stays=True)
            east.wait_for(lambda status: status.state == "PSUE")
            write(east, MIB, os.urandom(4096))
            assert east.status().rpo_bytes == 4096
            channel.mend()
            assert east.wait_for(paired).resynced_bytes == before.resynced_bytes
            assert east.array.digest() == west.array.digest()


def test_a_journal_that_overflows_hands_over_to_the_bitmap_and_nothing_is_lost(
    tmp_path: Path, warm: Start
) -> None:
    with two_sites(tmp_path, 64 * MIB, start=warm) as (east, west):
        create(east, west)
        east.wait_for(paired)
        west.kill()
        data = os.urandom(MIB)

        async def much(session: Initiator) -> None:
            for number in range(48):
                await session.write(0, number * MIB // 512, data)

        host(east, much)
        status = east.status()
        assert status.state == "PSUE"
        assert status.pairs[0].dirty_bytes >= 16 * MIB
        assert status.journal_bytes <= status.journal_capacity_bytes
        west.up()
        east.wait_for(paired)
        assert east.array.digest() == west.array.digest()


@pytest.fixture
def tgtd(tmp_path: Path) -> Iterator[tuple[int, Path]]:
    """A tgtd with a 4 MiB disk as LUN 1 and a journal as LUN 2; yields its port and the disk's file."""
    daemon, admin = (shutil.which(name, path="/usr/sbin:/sbin:/usr/bin:/bin") for name in ("tgtd", "tgtadm"))
    if daemon is None or admin is None:
        pytest.skip("tgtd is missing: apt-get install tgt")
    if os.geteuid() != 0:
        pytest.skip("tgtd runs as root only")
    port, control = free_port(), str(1_000 + os.getpid() % 30_000)
    environment = os.environ | {"TGT_IPC_SOCKET": str(tmp_path / "tgtd.socket")}
    quiet = subprocess.DEVNULL
    process = subprocess.Popen(
        [daemon, "-f", "-C", control, "--iscsi", f"portal=127.0.0.1:{port}"],
        env=environment,
        stdout=quiet,
        stderr=quiet,
    )

    def tell(*words: str) -> int:
        argv = [admin, "-C", control, "--lld", "iscsi", *words]
        return subprocess.run(argv, env=environment, capture_output=True, timeout=10, check=False).returncode

    try:
        deadline = time.monotonic() + 120
        while tell("--mode", "target", "--op", "new", "--tid", "1", "-T", "iqn.2026-11.example:tgtd"):
            assert process.poll() is None and time.monotonic() < deadline, "tgtd does not answer"
            time.sleep(0.05)
        for lun, size in ((1, 4 * MIB), (2, 8 * MIB)):
            disk = tmp_path / f"tgtd.{lun}"
            with disk.open("wb") as file:
                file.truncate(size)
            words = ("--mode", "logicalunit", "--op", "new", "--tid", "1", "--lun", str(lun), "-b", str(disk))
            assert not tell(*words)
        assert not tell("--mode", "target", "--op", "bind", "--tid", "1", "-I", "ALL")
        for key in ("HeaderDigest", "DataDigest"):
            assert not tell(
                "--mode", "target", "--op", "update", "--tid", "1", "-n", key, "-v", "CRC32C,None"
            )
        yield port, tmp_path / "tgtd.1"
    finally:
        process.send_signal(signal.SIGKILL)
        process.wait(10)


@pytest.mark.parametrize("mode", ["async", "sync"])
def test_tgtd_as_the_remote_array_has_every_byte(tmp_path: Path, tgtd: tuple[int, Path], mode: str) -> None:
    port, disk = tgtd
    arguments = ("--iscsi-port", str(free_port()), "--no-chap")  # tgtd does not know the secret of our arrays
    east = Site(tmp_path, "east", MASTER, 4 * MIB, arguments=arguments)
    east.up()
    try:
        write(east, 0, os.urandom(2 * MIB))
        remote = RemoteEnd(host="127.0.0.1", port_number=port, iqn="iqn.2026-11.example:tgtd")
        fields = {"members": (PairMember(volume="vol0", remote_lun=1),), "remote_journal_lun": 2}
        create_primary(east, remote, mode=mode, sessions=2, **fields)
        east.wait_for(paired)
        for number in range(40):
            write(east, (number * 37 % 500) * 8192, os.urandom(8192))
        east.kill()
        east.up()
        write(east, 3 * MIB, os.urandom(8192))
        east.wait_for(paired)
        assert disk.read_bytes() == east.image().read_bytes()
        assert east.status().connections == 2
    finally:
        east.end()


def create_primary(east: Site, remote: RemoteEnd, **changes: Any) -> None:
    """A group whose remote array is nobody of ours."""
    from mgmt.messages import PairCreateRequest

    fields: dict[str, Any] = {
        "group": GROUP,
        "group_id": "ab" * 16,
        "role": "P-VOL",
        "fence": "never",
        "remote": remote,
        "local_port": east.address,
        "sessions": 1,
        "connections_per_session": 1,
        "self_applying": False,
    }
    east.array.peer.send(PairCreateRequest(**(fields | changes)), timeout_s=60)


def test_an_array_without_a_state_directory_has_no_pairs_and_says_why(tmp_path: Path) -> None:
    with (
        array(tmp_path, "east", MASTER) as east,
        pytest.raises(PeerRefused, match="start it with --state DIR"),
    ):
        east.peer.send(PairRequest(group=GROUP, verb="status"))
