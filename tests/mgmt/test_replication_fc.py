"""Pairs over Fibre Channel: the same states and the same engine on a live link, bounded by its credits."""

from __future__ import annotations

import asyncio
import contextlib
import os
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from credits.targets import port_pair
from iscsi_target.initiator import Initiator
from mgmt.messages import GroupStatus, PairRequest
from mgmt.station import groups
from tests.mgmt.array_processes import MASTER, REMOTE, ArrayProcess, served
from tests.mgmt.replication_processes import GROUP, MIB
from tests.mgmt.test_replication_pairs import Desk, paired
from tests.mgmt.warm_processes import Nursery

pytestmark = [pytest.mark.slow, pytest.mark.timeout(400)]

PORTS = {"east": "10:00:00:00:c9:00:00:01", "west": "10:00:00:00:c9:00:00:02"}
FRAME, RESERVED, UNRESERVED = 2148, 24, 2


class FcSite:
    """An array with a TCP port for hosts and an FC port for the other array."""

    def __init__(self, directory: Path, name: str, address: str, nursery: Nursery) -> None:
        self.directory, self.name = directory, name
        self._nursery = nursery
        self._file = directory / f"{name}.toml"
        self._file.write_text(
            f"""
state = "{directory / name}"
[[interface]]
address = "{address}"
iscsi_port = 0
[[interface]]
kind = "fc"
name = "fc0"
address = "{PORTS[name]}"
link = "unix:{directory / name}.link"
speed = "1G"
distance = "20km"
credits = 100
unreserved = {UNRESERVED}
time_scale = 30
[[volume]]
name = "vol0"
store = "{directory / name}.img:1MiB"
[[volume]]
name = "jnl"
store = "{directory / name}.jnl:8MiB"
"""
        )
        self._stack = contextlib.ExitStack()
        self.array: ArrayProcess

    def up(self) -> None:
        """Started, also after it was killed."""
        running = served(self.directory, self.name, "--config", str(self._file), start=self._nursery.start)
        self.array = self._stack.enter_context(running)

    def kill(self) -> None:
        """SIGKILL."""
        self.array.process.kill()
        self.array.process.wait()

    def end(self) -> None:
        self._stack.close()

    def status(self) -> GroupStatus:
        answer = self.array.peer.send(PairRequest(group=GROUP, verb="status"), timeout_s=60)
        assert isinstance(answer, GroupStatus)
        return answer

    def wait_for(self, reached: Callable[[GroupStatus], bool]) -> GroupStatus:
        deadline = time.monotonic() + 120
        while not reached(status := self.status()):
            assert status.in_flight_bytes <= (RESERVED + UNRESERVED) * FRAME
            assert time.monotonic() < deadline, status
            time.sleep(0.02)
        return status

    def port(self, name: str) -> dict[str, Any]:
        rows: list[dict[str, Any]] = self.array.table("info")["ports"]
        return next(row for row in rows if row["kind"] == name)

    def write(self, *offsets: int) -> None:
        """A host's 4 KiB each."""

        async def run() -> None:
            port = self.port("tcp")
            async with await Initiator.login(port["address"], port["iscsi_port"], port["iqn"]) as session:
                for offset in offsets:
                    await session.write(0, offset // 512, os.urandom(4096))

        asyncio.run(run())


@pytest.fixture
def sites(tmp_path: Path) -> Iterator[tuple[FcSite, FcSite]]:
    with Nursery() as nursery:
        east = FcSite(tmp_path, "east", MASTER, nursery)
        west = FcSite(tmp_path, "west", REMOTE, nursery)
        try:
            for site in (west, east):
                site.up()
            yield east, west
        finally:
            for site in (east, west):
                site.end()


@pytest.mark.parametrize("mode", ["async", "sync"])
def test_a_pair_over_fibre_channel_goes_through_its_states_on_its_credits(
    sites: tuple[FcSite, FcSite], mode: str
) -> None:
    east, west = sites
    for site, other in ((east, west), (west, east)):
        pair = port_pair(PORTS[site.name], PORTS[other.name])
        assert site.array.reserve(RESERVED * FRAME, pair) == RESERVED
    east.write(*range(0, MIB, 65536))
    with Desk(east, west) as desk:  # type: ignore[arg-type]
        groups.create(
            desk,  # type: ignore[arg-type]
            groups.GroupWish(
                group=GROUP,
                ports=(PORTS["east"], PORTS["west"]),
                volumes=[("vol0", "vol0")],
                journal=("jnl", "jnl"),
                mode=mode,
                connections_per_session=2,
            ),
        )
        assert east.status().state in ("COPY", "PAIR")
        status = east.wait_for(paired)
        assert (status.connections, status.reserved_bytes) == (2, RESERVED * FRAME)
        assert west.port("fc")["rx_bb_credit"] == RESERVED + UNRESERVED
        assert east.array.digest() == west.array.digest()

        east.write(0, 8192, 512 * 1024)
        east.wait_for(paired)
        assert east.array.digest() == west.array.digest()

        desk.wish("split")
        assert (east.status().state, west.status().state) == ("PSUS", "PSUS")
        before = east.status().resynced_bytes
        east.write(*range(65536, 65536 + 8 * 4096, 4096))
        assert east.array.digest() != west.array.digest()
        desk.wish("resync")
        assert east.wait_for(paired).resynced_bytes - before == 8 * 4096
        assert east.array.digest() == west.array.digest()

        west.kill()
        assert east.wait_for(lambda status: status.state == "PSUE").error
        east.write(0)
        west.up()
        east.wait_for(paired)
        assert east.array.digest() == west.array.digest()

        desk.wish("swap")  # the line is now called from the other end
        west.wait_for(paired)
        west.write(4096, 900 * 1024)
        status = west.wait_for(paired)
        assert (status.role, status.resynced_bytes) == ("P-VOL", 0)
        assert east.array.digest() == west.array.digest()
