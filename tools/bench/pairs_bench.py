"""Many pairs on one array at once: ``python -m tools.bench pairs [--pairs 24] [-o json]``.

Two arrays as processes, on loopback. First one port pair with four connections copies alone; then 24 pairs with four
connections each copy as much together; in turns, medians count. Every pair has a reservation of its own, an extent for
each connection. Together they have to reach 80 % of the one, and the slowest at least half of their mean.
"""

from __future__ import annotations

import contextlib
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from credits.targets import port_pair
from mgmt.http import Peer
from mgmt.messages import (
    BufferReserveRequest,
    CopyStartRequest,
    CopyStatus,
    CopyStatusRequest,
)
from tools.bench.measured import Measured, command_line, report
from tools.demo.processes import Cast, ProcessFailed

PAIRS, CONNECTIONS = 24, 4
MIB = 1 << 20
UNIT_BYTES = 16 * 1024
#: For each connection: a whole extent.
UNITS = 4 * CONNECTIONS
MASTER = "127.0.0.1"
_SLOWEST, _TOGETHER = 0.5, 0.8
_PATIENCE_S = 120.0


@dataclass(frozen=True, slots=True)
class Outcome:
    """Bytes per second of all pairs together, and of each from its first byte to its last; what it cost both arrays."""

    together: float
    each: tuple[float, ...]
    cpu_s_per_gib: float


class Arrays:
    """Both arrays: the remote one has a port for each pair, both a small volume for each and a large one."""

    def __init__(self, directory: Path, cast: Cast, pairs: int, share_bytes: int) -> None:
        self._pairs = pairs
        self._turn = 0
        stores = [share_bytes] * pairs + [pairs * share_bytes]
        volumes = "".join(
            f'[[volume]]\nname = "vol{number}"\nstore = "{size}"\n' for number, size in enumerate(stores)
        )
        master = f'port_address = "{MASTER}"\niscsi_port = 0\nunits = {(pairs + 1) * UNITS}\n'
        remote = "".join(
            f'[[interface]]\naddress = "127.0.2.{number + 1}"\niscsi_port = 0\nunits = 16\n'
            for number in range(pairs)
        )
        self.peers = {}
        self._pids = []
        for name, settings, lines in (("master", master, 2), ("remote", remote, pairs + 1)):
            file = directory / f"{name}.toml"
            file.write_text(settings + volumes)
            control = f"unix:{directory / name}.sock"
            arguments = ["mgmt.cli", "array", "serve", "--name", name, "--listen", control]
            arguments += ["--config", str(file), "--chap-file", str(directory / "chap")]
            array = cast.start(f"{name} array", subprocess.Popen, arguments, ready_lines=lines)
            self._pids.append(array.popen.pid)
            self.peers[name] = Peer(control, 60.0)
        info = self.peers["remote"].get("/v1/info")
        self._ports = info["ports"]
        self._luns = {volume["name"]: volume["lun"] for volume in info["volumes"]}

    def copied(self, volumes: Sequence[int]) -> Outcome:
        """Copy these volumes at once, each over a pair of its own. Raises :class:`RuntimeError` for one that fails."""
        began, cpu_s = time.monotonic(), self._cpu_s()
        self._turn += 1
        with ThreadPoolExecutor(len(volumes)) as starting:
            list(starting.map(self._start, volumes))
        over = [self._wait(self._copy_id(number), began) for number in volumes]
        seconds = time.monotonic() - began
        moved = sum(status.total_bytes for status in over)
        return Outcome(
            moved / seconds,
            tuple(status.goodput_bps / 8 for status in over),
            (self._cpu_s() - cpu_s) / moved * 2**30,
        )

    def _cpu_s(self) -> float:
        """Processor time of both arrays, in seconds."""
        ticks = 0
        for pid in self._pids:
            fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
            ticks += int(fields[11]) + int(fields[12])
        return ticks / os.sysconf("SC_CLK_TCK")

    def in_use_units(self) -> int:
        """Units of the master array that have not come back."""
        return int(self.peers["master"].get("/v1/pools")[0]["in_use_units"])

    def _start(self, number: int) -> None:
        port = self._ports[number % self._pairs]
        pair = port_pair(MASTER, port["address"])
        master = self.peers["master"]
        master.send(BufferReserveRequest(target=pair, requested_bytes=UNITS * UNIT_BYTES))
        requests = [
            CopyStartRequest(
                copy_id=self._copy_id(number),
                target=pair,
                volume=f"vol{number}",
                remote_host=port["address"],
                remote_port_number=port["iscsi_port"],
                remote_iqn=port["copy_iqn"],
                remote_lun=self._luns[f"vol{number}"],
                sessions=1,
                connections_per_session=CONNECTIONS,
                session=0,
                connection=connection,
            )
            for connection in range(CONNECTIONS)
        ]
        with ThreadPoolExecutor(CONNECTIONS) as senders:
            list(senders.map(master.send, requests))

    def _copy_id(self, number: int) -> str:
        return f"c{self._turn}-{number}"

    def _wait(self, copy_id: str, began: float) -> CopyStatus:
        while True:
            status = self.peers["master"].send(CopyStatusRequest(copy_id=copy_id))
            assert isinstance(status, CopyStatus)
            if status.state == "done":
                return status
            if status.state in ("failed", "stopped") or time.monotonic() - began > _PATIENCE_S:
                raise RuntimeError(f"copy {copy_id} is {status.state}: {status.error}")
            time.sleep(0.05)


@contextlib.contextmanager
def arrays(pairs: int, share_bytes: int) -> Iterator[Arrays]:
    """Both arrays until the block ends."""
    with contextlib.ExitStack() as ending:
        directory = Path(ending.enter_context(tempfile.TemporaryDirectory(prefix="sancredit-", dir="/tmp")))
        cast = Cast(directory)
        ending.callback(cast.stop_all)
        running = Arrays(directory, cast, pairs, share_bytes)
        for peer in running.peers.values():
            ending.callback(peer.close)
        yield running


def measure(pairs: int = PAIRS, share_bytes: int = 32 * MIB, turns: int = 3) -> list[Measured]:
    """The one, then all, so many times."""
    ones: list[Outcome] = []
    alls: list[Outcome] = []
    with arrays(pairs, share_bytes) as running:
        for _ in range(turns):
            ones.append(running.copied([pairs]))
            alls.append(running.copied(range(pairs)))
        if left := running.in_use_units():
            raise RuntimeError(f"{left} units did not come back")
    alone, together = (statistics.median(one.together for one in some) for some in (ones, alls))
    costs = [statistics.median(one.cpu_s_per_gib for one in some) for some in (ones, alls)]
    ratio = together / alone
    slowest = min(min(one.each) * len(one.each) / sum(one.each) for one in alls)
    return [
        Measured(name="1 pair x 4", value=alone / MIB, unit="MiB/s", bar="", met=True),
        Measured(name="1 pair x 4, CPU", value=costs[0], unit="s/GiB", bar="", met=True),
        Measured(name=f"{pairs} pairs x 4", value=together / MIB, unit="MiB/s", bar="", met=True),
        Measured(name=f"{pairs} pairs x 4, CPU", value=costs[1], unit="s/GiB", bar="", met=True),
        Measured(
            name=f"{pairs} pairs / 1 pair",
            value=ratio,
            unit="",
            bar=f">= {_TOGETHER}",
            met=ratio >= _TOGETHER,
        ),
        Measured(
            name="slowest / mean", value=slowest, unit="", bar=f">= {_SLOWEST}", met=slowest >= _SLOWEST
        ),
    ]


def main(arguments: Sequence[str] | None = None) -> int:
    """Exit status 1 when a bar is missed."""
    parser = command_line("pairs", __doc__)
    parser.add_argument("--pairs", type=int, default=PAIRS, choices=range(2, 201), metavar="N")
    parser.add_argument("--share", type=int, default=32, help="MiB of each pair.")
    options = parser.parse_args(arguments)
    return report(
        lambda: measure(options.pairs, options.share * MIB),
        options.output,
        decimals=3,
        failures=(ProcessFailed, RuntimeError),
    )


if __name__ == "__main__":
    sys.exit(main())
