"""The fifth embodiment with a pair: its journal fills the cache, reservation and windows grow, nothing is lost."""

from __future__ import annotations

import asyncio
import os
import signal
from datetime import UTC, datetime
from pathlib import Path

import pytest

from iscsi_target.initiator import Initiator
from mgmt.http import Peer
from mgmt.messages import ChannelChangeNotify
from mgmt.pair_messages import RemoteEnd
from tests.mgmt.array_processes import MASTER, REMOTE, served
from tests.mgmt.replication_processes import MIB, Site, create, free_port
from tests.mgmt.test_replication_pairs import paired
from tests.mgmt.test_replication_survival import Fork, running
from tests.mgmt.warm_processes import Nursery

pytestmark = [pytest.mark.slow, pytest.mark.timeout(300)]

SMALL = 4 * 16384
RECOMMENDED = 2 * 100_000_000 * 20_000_000 // 8_000_000_000
"""100 Mbit/s times 20 ms, for each of two connections."""


class CachedSite(Site):
    """An array with a cache of 4 MiB, which tells the station when half of it is used."""

    def up(self) -> object:  # type: ignore[override]
        file = self.directory / "cached.toml"
        station = f'station = "unix:{self.directory / "station.sock"}"\n'
        file.write_text(station + '[cache]\nsize = "4MiB"\nwarning = "2MiB"\n')
        words = [*self._arguments(), "--config", str(file)]
        self.process = self.stack.enter_context(served(self.directory, self.name, *words, start=self.start))
        return self.process


async def write(port: dict[str, object], pieces: int) -> None:
    """Distinct blocks of 64 KiB, one after the other."""
    place = str(port["address"]), int(str(port["iscsi_port"])), str(port["iqn"])
    async with await Initiator.login(*place, timeout_s=60.0) as session:
        for number in range(pieces):
            await session.write(0, number * 128, os.urandom(65536))


def test_a_cache_that_runs_low_under_a_pair_makes_its_reservation_and_windows_grow(tmp_path: Path) -> None:
    with Nursery() as nursery:
        flags = ("--iscsi-port", str(free_port()), "--units", "256")
        east = CachedSite(tmp_path, "east", MASTER, 8 * MIB, arguments=flags, start=nursery.start)
        west = Site(tmp_path, "west", REMOTE, 8 * MIB, arguments=("--iscsi-port", "0"), start=nursery.start)
        listen = f"unix:{tmp_path / 'station.sock'}"
        words = ["sancredit", "station", "serve", "--listen", listen, "--state", str(tmp_path / "station")]
        for name in ("east", "west"):
            words += ["--array", f"{name}=unix:{tmp_path / f'{name}.sock'}"]
        try:
            east.up()
            west.up()
            entry = (REMOTE, free_port())
            towards = (west.address, str(west.array.port["iscsi_port"]))
            channel = Fork("channel", nursery, ["channel", entry[0], str(entry[1]), *towards])
            through = RemoteEnd(host=entry[0], port_number=entry[1], iqn=west.array.port["copy_iqn"])
            with running(channel, Fork("station", nursery, words)), Peer(listen, 60.0) as station:
                target = {"kind": "port_pair", "local_port": MASTER, "remote_port": REMOTE}
                station.post("/api/v1/pairs", {"target": target, "sessions": 1, "connections_per_session": 2})
                station.send(
                    ChannelChangeNotify(
                        local_port=MASTER,
                        remote_port=REMOTE,
                        bandwidth_bps=100_000_000,
                        rtt_ns=20_000_000,
                        measured_at=datetime.now(UTC).isoformat(),
                        sequence=1,
                    )
                )
                # Not by the station: what it was told to reserve by hand it would leave as it is.
                assert east.array.reserve(SMALL) == SMALL // 16384
                create(east, west, primary={"remote": through})
                before = east.wait_for(paired)
                assert before.reserved_bytes == SMALL
                held = east.array.pool["in_use_units"]
                assert held <= 4

                assert channel.process is not None
                channel.process.send_signal(signal.SIGSTOP)  # the channel takes nothing, and stays up
                try:
                    asyncio.run(write(east.array.port, 40))
                    status = east.wait_for(lambda status: status.reserved_bytes > SMALL)
                finally:
                    channel.process.send_signal(signal.SIGCONT)
                assert status.reserved_bytes >= RECOMMENDED
                east.wait_for(lambda _: east.array.pool["in_use_units"] > held)  # the connections' windows
                east.wait_for(paired)
                assert east.array.digest() == west.array.digest(), "nothing was dropped"
        finally:
            east.end()
            west.end()
