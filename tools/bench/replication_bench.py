"""Remote copy's bars: ``python -m tools.bench replication [-o json] [--only NAME]… [--plot FILE.png]``.

Two arrays as real processes at the two ends of a real channel (network namespaces); hosts at the master site.

- ``async``: latency of a host's 4 KiB writes at half the rate the array does alone, with an asynchronous pair over that
  without one; in turns.
- ``sync``: median latency of a synchronous write over the sum of a local one and of the channel's round trip, measured
  by NOP-Out in the same run before and after: an emulator on a busy machine is slower than it is told to be. At
  several round trips.
- ``resync``: every byte written over the channel after an outage of ``--outage`` seconds in which it lost every packet
  and the journal overflowed, metadata included, over the bytes that changed in it.
- ``bitmap``: size and time to start of an initial copy of a sparse volume of 1 TiB.

``--plot`` draws what happens when a host writes faster than the channel takes (embodiment 5): with the reservation and
without, the fill of the journal and the host's latency.
"""

from __future__ import annotations

import contextlib
import subprocess
import sys
import tempfile
import threading
import time
import uuid
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from credits.targets import port_pair
from mgmt.http import Peer
from mgmt.messages import (
    BufferReserveRequest,
    GroupStatus,
    PairCreateRequest,
    PairRequest,
    VolumeDigest,
    VolumeDigestRequest,
)
from mgmt.pair_messages import PairMember, RemoteEnd
from tools.bench.measured import Measured, command_line, write
from tools.demo.processes import Cast
from tools.wan.channel import Channel

GROUP = "bench"
MIB = 1 << 20
_SITES = ("master", "remote")
_ALL = 1_000_000
"""Packets of a million: the channel is broken."""
_RTTS_MS = (1, 5, 20, 50)


@dataclass(slots=True)
class Stage:
    """Both arrays, and how to reach them."""

    channel: Channel
    peers: dict[str, Peer]

    def port(self, site: str) -> dict[str, Any]:
        """The array's port."""
        return dict(self.peers[site].get("/v1/info")["ports"][0])

    def tell(self, site: str, verb: str) -> GroupStatus:
        """A wish about the group."""
        answer = self.peers[site].send(PairRequest(group=GROUP, verb=verb), timeout_s=90)
        assert isinstance(answer, GroupStatus)
        return answer

    def until(self, reached: Callable[[GroupStatus], bool], seconds: float = 120) -> GroupStatus:
        """Poll the master."""
        deadline = time.monotonic() + seconds
        while not reached(status := self.tell("master", "status")):
            if time.monotonic() > deadline:
                raise RuntimeError(f"the pair does not get there: {status}")
            time.sleep(0.02)
        return status

    def create(self, mode: str, *, sessions: int = 1, connections: int = 2) -> None:
        """The group, and wait until it is paired."""
        group_id = uuid.uuid4().hex
        for here, there, role in (("remote", "master", "S-VOL"), ("master", "remote", "P-VOL")):
            port = self.port(there)
            self.peers[here].send(
                PairCreateRequest(
                    group=GROUP,
                    group_id=group_id,
                    role=role,
                    mode=mode,
                    fence="never",
                    members=(PairMember(volume="vol0", remote_lun=0),),
                    remote=RemoteEnd(
                        host=port["address"], port_number=port["iscsi_port"], iqn=port["copy_iqn"]
                    ),
                    local_port=self.port(here)["address"],
                    journal="jnl",
                    remote_journal_lun=1,
                    sessions=sessions,
                    connections_per_session=connections,
                ),
                timeout_s=60,
            )
        self.until(paired)

    def digest(self, site: str) -> str:
        """SHA-256 of the volume, by its array."""
        answer = self.peers[site].send(VolumeDigestRequest(volume="vol0"), timeout_s=60)
        assert isinstance(answer, VolumeDigest)
        return answer.sha256

    def delete(self) -> None:
        """Dissolve it at both ends."""
        for site in _SITES:
            self.tell(site, "delete")

    def start_load(self, *flags: str, array: str = "master") -> subprocess.Popen[bytes]:
        """A host at the master site, of this array."""
        port = self.port(array)
        command = [sys.executable, "-m", "tools.bench.replication_load", *flags]
        command += ["--portal", f"{port['address']}:{port['iscsi_port']}", "--iqn", port["iqn"]]
        process: subprocess.Popen[bytes] = self.channel.popen("master", command, stdout=subprocess.PIPE)
        return process

    def load(self, *flags: str, array: str = "master") -> list[tuple[int, int]]:
        """(due, latency) in ns of a host's writes."""
        out, _ = self.start_load(*flags, array=array).communicate(timeout=120)
        return [(int(due), int(latency)) for due, latency in (line.split() for line in out.splitlines())]


def paired(status: GroupStatus) -> bool:
    """Everything is at the other end."""
    return status.state == "PAIR" and status.rpo_bytes == 0 and status.rpo_ns == 0


@contextlib.contextmanager
def stage(bandwidth_bps: int, rtt_ns: int, size_bytes: int, *, units: int = 1024) -> Iterator[Stage]:
    """The two sites."""
    with contextlib.ExitStack() as ending:
        directory = Path(ending.enter_context(tempfile.TemporaryDirectory(prefix="sancredit-", dir="/tmp")))
        channel = ending.enter_context(
            Channel.open(
                "auto",
                bandwidth_bps=bandwidth_bps,
                rtt_ns=rtt_ns,
                mtu=1500,
                master_addresses=("10.99.0.1/29",),
                remote_addresses=("10.99.0.2/29",),
                directory=directory,
            )
        )
        cast = Cast(directory)
        ending.callback(cast.stop_all)
        peers = {}
        for site, address in zip(_SITES, (channel.master_address, channel.remote_address), strict=True):
            control = f"unix:{directory / f'{site}.sock'}"
            arguments = ["mgmt.cli", "array", "serve", "--name", site, "--listen", control]
            arguments += ["--port-address", address, "--iscsi-port", "0", "--units", str(units)]
            arguments += ["--volume", f"vol0={directory / f'{site}.img'}:{size_bytes}"]
            arguments += ["--volume", f"jnl={directory / f'{site}.jnl'}:{32 * MIB}"]
            arguments += ["--state", str(directory / site), "--chap-file", str(directory / "chap")]

            def spawn(argv: list[str], site: str = site, **keywords: Any) -> subprocess.Popen[bytes]:
                process: subprocess.Popen[bytes] = channel.popen(site, argv, **keywords)
                return process

            cast.start(f"{site} array", spawn, arguments, ready_lines=2, timeout_s=60)
            peers[site] = ending.enter_context(contextlib.closing(Peer(control, 60.0)))
        yield Stage(channel, peers)


def _quantile(values: Sequence[int], share: float) -> float:
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(len(ordered) * share))] / 1e6


def measure_async() -> list[Measured]:
    """Host latency with a pair over that without one."""
    plain: list[int] = []
    copied: list[int] = []
    with stage(1_000_000_000, 10_000_000, 32 * MIB) as there:
        alone = there.load("--seconds", "3")
        rate = len(alone) / 3 / 2
        flags = ("--rate", str(rate), "--seconds", "5")
        for _ in range(3):
            plain += [latency for _, latency in there.load(*flags)]
            there.create("async")
            copied += [latency for _, latency in there.load(*flags)]
            there.until(paired)
            there.delete()
    medians = _quantile(plain, 0.5), _quantile(copied, 0.5)
    tails = _quantile(plain, 0.99), _quantile(copied, 0.99)
    median, tail = medians[1] / medians[0], tails[1] / tails[0]
    return [
        Measured(name="async rate", value=rate, unit="/s", bar="", met=True),
        Measured(name="async median without", value=medians[0], unit="ms", bar="", met=True),
        Measured(name="async median with / without", value=median, unit="x", bar="<= 1.2", met=median <= 1.2),
        Measured(name="async p99 without", value=tails[0], unit="ms", bar="", met=True),
        Measured(name="async p99 with / without", value=tail, unit="x", bar="<= 2", met=tail <= 2),
    ]


def measure_sync() -> list[Measured]:
    """A synchronous write is the round trip and the local write."""
    results = []
    for rtt_ms in _RTTS_MS:
        with stage(1_000_000_000, rtt_ms * 1_000_000, 8 * MIB) as there:
            flags = ("--seconds", "3", "--size", str(8 * MIB))
            local = _quantile([latency for _, latency in there.load(*flags)], 0.5)
            pings = there.load("--seconds", "2", "--nop", array="remote")
            there.create("sync")
            remote = _quantile([latency for _, latency in there.load(*flags)], 0.5)
            pings += there.load("--seconds", "2", "--nop", array="remote")
        round_trip = _quantile([latency for _, latency in pings], 0.5)
        ratio = remote / (round_trip + local)
        results += [
            Measured(name=f"sync at {rtt_ms} ms: local write", value=local, unit="ms", bar="", met=True),
            Measured(name=f"sync at {rtt_ms} ms: NOP", value=round_trip, unit="ms", bar="", met=True),
            Measured(name=f"sync at {rtt_ms} ms: write", value=remote, unit="ms", bar="", met=True),
            Measured(
                name=f"sync at {rtt_ms} ms: write / (NOP + local)",
                value=ratio,
                unit="x",
                bar="<= 1.2",
                met=ratio <= 1.2,
            ),
        ]
    return results


def measure_resync(outage_s: float) -> list[Measured]:
    """What crosses the channel after an outage: every packet is lost meanwhile, in both directions."""
    size = 64 * MIB
    with stage(100_000_000, 20_000_000, size) as there:
        there.create("async")
        there.channel.set(loss_ppm=_ALL)
        load = there.start_load("--rate", "250", "--seconds", str(outage_s), "--size", str(size))
        out, _ = load.communicate(timeout=outage_s + 60)
        broken = there.tell("master", "status")
        changed = broken.pairs[0].dirty_bytes
        there.channel.set(loss_ppm=0)
        began = time.monotonic()
        after = there.until(paired)
        seconds = time.monotonic() - began
        moved, sent = after.resynced_bytes - broken.resynced_bytes, after.sent_bytes - broken.sent_bytes
        digests = [there.digest(site) for site in _SITES]
    ratio = sent / changed if changed else float("inf")
    met = broken.state == "PSUE" and 0 < moved <= sent and ratio <= 1.1 and digests[0] == digests[1]
    return [
        Measured(name="resync writes in the outage", value=out.count(b"\n"), unit="", bar="", met=True),
        Measured(name="resync changed", value=changed / MIB, unit="MiB", bar="", met=True),
        Measured(name="resync took", value=seconds, unit="s", bar="", met=True),
        Measured(
            name=f"resync after {outage_s:g} s: all sent / changed",
            value=ratio,
            unit="x",
            bar="<= 1.1",
            met=met,
        ),
    ]


def measure_bitmap() -> list[Measured]:
    """1 TiB, sparse."""
    from mgmt.array.replication.bitmap import ChangeBitmap

    with tempfile.TemporaryDirectory() as directory:
        path = Path(directory) / "bitmap"
        began = time.perf_counter()
        bitmap = ChangeBitmap(path, 1 << 40)
        bitmap.mark_all()
        first = bitmap.next_run(0, 64)
        seconds = time.perf_counter() - began
        size = path.stat().st_size / MIB
        bitmap.close()
    assert first == (0, 64)
    return [
        Measured(name="bitmap of 1 TiB", value=size, unit="MiB", bar="<= 32", met=size <= 32),
        Measured(name="start of a copy of 1 TiB", value=seconds, unit="s", bar="<= 1", met=seconds <= 1),
    ]


def plot(path: Path) -> None:
    """A host that writes faster than the channel takes, with and without the reservation."""
    import matplotlib as mpl

    mpl.use("Agg")
    from matplotlib import pyplot

    figure, rows = pyplot.subplots(2, 1, sharex=True, figsize=(9, 6))
    for label, reserve in (("without a reservation", False), ("with the recommended reservation", True)):
        fills, loads = _shortage(reserve)
        rows[0].plot([at for at, _ in fills], [fill * 100 for _, fill in fills], label=label)
        rows[1].plot([at for at, _ in loads], [ms for _, ms in loads], ".", markersize=2, label=label)
    rows[0].set_ylabel("journal in the cache, % full")
    rows[0].axhline(60, linestyle="--", linewidth=0.8, color="grey", label="hosts begin to be slowed down")
    rows[0].set_ylim(0, 105)
    rows[0].set_title(
        "An asynchronous pair whose host writes 6 MB/s over 100 Mbit/s and 40 ms (embodiment 5)"
    )
    rows[1].set_yscale("log")
    rows[1].set_ylabel("latency of the host's writes, ms")
    rows[1].set_xlabel("seconds")
    for axis in rows:
        axis.legend()
        axis.grid(visible=True, alpha=0.3)
    figure.tight_layout()
    figure.savefig(path, dpi=110)


def _shortage(reserve: bool) -> tuple[list[tuple[float, float]], list[tuple[float, float]]]:
    with stage(100_000_000, 40_000_000, 64 * MIB, units=128) as there:
        if reserve:
            local, remote = there.port("master")["address"], there.port("remote")["address"]
            there.peers["master"].send(
                BufferReserveRequest(target=port_pair(local, remote), requested_bytes=MIB)
            )
        else:  # hosts have borrowed the buffers: what is left is one unit for each connection
            there.peers["master"].send(
                BufferReserveRequest(target=port_pair("10.99.0.1", "10.99.0.6"), requested_bytes=126 * 16384)
            )
        there.create("async")
        began_ns = time.monotonic_ns()
        fills: list[tuple[float, float]] = []
        ended = threading.Event()

        def watch() -> None:
            while not ended.wait(0.1):
                status = there.tell("master", "status")
                at = (time.monotonic_ns() - began_ns) / 1e9
                fills.append((at, status.journal_bytes / status.journal_capacity_bytes))

        watcher = threading.Thread(target=watch)
        watcher.start()
        try:
            flags = ("--rate", "370", "--block", "16384", "--depth", "4", "--seconds", "20")
            loads = there.load(*flags, "--size", str(64 * MIB))
            time.sleep(3)
        finally:
            ended.set()
            watcher.join()
    return fills, [((due - began_ns) / 1e9, latency / 1e6) for due, latency in loads]


def main(arguments: Sequence[str] | None = None) -> int:
    """Exit status 1 when a bar is missed."""
    parser = command_line("replication", __doc__)
    names = ("async", "sync", "resync", "bitmap")
    parser.add_argument("--only", action="append", choices=names)
    parser.add_argument("--outage", type=float, default=60.0, help="Seconds of the outage; 40 and more.")
    parser.add_argument("--plot", type=Path)
    options = parser.parse_args(arguments)
    if options.plot is not None:
        plot(options.plot)
        return 0
    measures: dict[str, Callable[[], list[Measured]]] = {
        "async": measure_async,
        "sync": measure_sync,
        "resync": lambda: measure_resync(options.outage),
        "bitmap": measure_bitmap,
    }
    results = [line for name in options.only or names for line in measures[name]()]
    return write(results, options.output, decimals=3)


if __name__ == "__main__":
    sys.exit(main())
