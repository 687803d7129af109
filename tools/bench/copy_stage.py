"""Two storage arrays at the two ends of a real channel, for benchmarks of remote copy: with or without a host storm,
with or without a management station and measuring devices.

Arrays, storm, station and devices are processes of their own; volumes are memory, so that no disk is measured.
"""

from __future__ import annotations

import contextlib
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from credits.targets import Target, port_pair
from mgmt.http import Peer
from mgmt.messages import (
    CopyStartRequest,
    CopyStatus,
    CopyStatusRequest,
    CopyStopRequest,
    ReservedBufferUpdateRequest,
    ReservedBufferUpdateResponse,
)
from tools.demo.processes import Cast, Process
from tools.wan.channel import Channel

MIB = 1 << 20
SITES = ("master", "remote")
VOLUME, HOST_VOLUME = "vol0", "hosts"
HOST_VOLUME_BYTES = 64 * MIB
_STARVED_WAIT_S = 20.0


@dataclass(frozen=True, slots=True, kw_only=True)
class StageConfig:
    """The channel, and the arrays at its ends. ``congestion``: TCP_CONGESTION of copies; ``stationed``: with a
    management station and measuring devices that watch the channel."""

    bandwidth_bps: int
    rtt_ns: int
    volume_bytes: int
    units: int
    unit_bytes: int = 16 * 1024
    congestion: str = "cubic"
    stationed: bool = False

    @property
    def pipe_bytes(self) -> int:
        """Bandwidth times delay."""
        return self.bandwidth_bps * self.rtt_ns // 8_000_000_000


@dataclass(frozen=True, slots=True)
class Moment:
    """How far a copy was, and when (monotonic)."""

    at_ns: int
    acknowledged_bytes: int


class CopyStage:
    """What stands; made by :func:`copy_stage`."""

    def __init__(self, config: StageConfig, directory: Path, channel: Channel, cast: Cast) -> None:
        self.config = config
        self.directory = directory
        self.channel = channel
        self.cast = cast
        self.peers: dict[str, Peer] = {}
        self.target: Target = port_pair(channel.master_address, channel.remote_address)

    @property
    def limit_bps(self) -> int:
        """What TCP can carry at the channel's present rate."""
        return self.channel.payload_limit_bps()

    def address(self, name: str) -> str:
        """Of a control socket."""
        return f"unix:{self.directory / name}.sock"

    def spawn_in(self, site: str) -> Callable[..., subprocess.Popen[bytes]]:
        """How to start a program at a site."""

        def spawn(argv: list[str], **keywords: Any) -> subprocess.Popen[bytes]:
            process: subprocess.Popen[bytes] = self.channel.popen(site, argv, **keywords)
            return process

        return spawn

    def port(self, site: str) -> dict[str, Any]:
        """The array's port."""
        return dict(self.peers[site].get("/v1/info")["ports"][0])

    def lun(self, site: str, volume: str) -> int:
        """The LUN of a volume."""
        volumes = self.peers[site].get("/v1/info")["volumes"]
        return int(next(one["lun"] for one in volumes if one["name"] == volume))

    # -- the copy -----------------------------------------------------------------------------------------------

    def reserve(self, size_bytes: int) -> int:
        """Reserve for the port pair at the master array, or bring that to another size; the bytes that it became."""
        answer = self.peers["master"].send(
            ReservedBufferUpdateRequest(target=self.target, recommended_bytes=size_bytes)
        )
        assert isinstance(answer, ReservedBufferUpdateResponse)
        return answer.reserved_bytes

    def start_copy(self, copy_id: str, sessions: int, connections: int) -> None:
        """One M7 for each connection of each session, all at once, as a station sends them."""
        port = self.port("remote")
        requests = [
            CopyStartRequest(
                copy_id=copy_id,
                target=self.target,
                volume=VOLUME,
                remote_host=port["address"],
                remote_port_number=port["iscsi_port"],
                remote_iqn=port["copy_iqn"],
                remote_lun=self.lun("remote", VOLUME),
                sessions=sessions,
                connections_per_session=connections,
                session=session,
                connection=connection,
            )
            for session in range(sessions)
            for connection in range(connections)
        ]
        with ThreadPoolExecutor(len(requests)) as senders:
            list(senders.map(self.peers["master"].send, requests))

    def status(self, copy_id: str) -> CopyStatus:
        """How far it is."""
        answer = self.peers["master"].send(CopyStatusRequest(copy_id=copy_id))
        assert isinstance(answer, CopyStatus)
        return answer

    def watch_copy(self, copy_id: str, seconds: float, every_s: float = 0.1) -> list[Moment]:
        """Look at a copy for so long from its first acknowledged byte on, or until it is over.

        Raises :class:`RuntimeError` for one that fails.
        """
        moments: list[Moment] = []
        while not moments or time.monotonic_ns() - moments[0].at_ns < seconds * 1e9:
            status = self.status(copy_id)
            if status.state == "failed":
                raise RuntimeError(f"the copy failed: {status.error}")
            if status.acknowledged_bytes:
                moments.append(Moment(time.monotonic_ns(), status.acknowledged_bytes))
            if status.state == "done":
                break
            time.sleep(every_s)
        return moments

    def stop_copy(self, copy_id: str) -> None:
        """End it; its units are back when this returns."""
        self.peers["master"].send(CopyStopRequest(copy_id=copy_id), timeout_s=60.0)

    # -- company ------------------------------------------------------------------------------------------------

    @contextlib.contextmanager
    def storm(self, hosts: int = 16) -> Iterator[None]:
        """Hosts behind the same channel read large from the master array and drain slowly: no unit stays free.

        Raises :class:`RuntimeError` where some do.
        """
        port = self.port("master")
        arguments = ["tools.demo.storm", "--portal", f"{port['address']}:{port['iscsi_port']}"]
        arguments += ["--iqn", str(port["iqn"]), "--lun", str(self.lun("master", HOST_VOLUME))]
        arguments += ["--rate", str(max(80_000, self.config.bandwidth_bps // 100)), "--hosts", str(hosts)]
        arguments += ["--source", self.channel.remote_addresses[-1]]
        storm = self.cast.start("host storm", self.spawn_in("remote"), arguments)
        try:
            deadline = time.monotonic() + _STARVED_WAIT_S
            while self.peers["master"].get("/v1/pools")[0]["free_units"]:
                if time.monotonic() > deadline:
                    raise RuntimeError("the host storm leaves units free")
                time.sleep(0.05)
            yield
        finally:
            self.cast.stop(storm)

    def start_array(self, site: str, *extra: str) -> None:
        """``sancredit array serve`` at a site."""
        config = self.config
        address = self.channel.master_address if site == "master" else self.channel.remote_address
        arguments = ["mgmt.cli", "array", "serve", "--name", site, "--listen", self.address(site)]
        arguments += ["--port-address", address, "--iscsi-port", "0", "--congestion", config.congestion]
        arguments += ["--unit", str(config.unit_bytes), "--units", str(config.units)]
        arguments += ["--volume", f"{VOLUME}={config.volume_bytes}"]
        arguments += ["--volume", f"{HOST_VOLUME}={HOST_VOLUME_BYTES}"]
        arguments += ["--chap-file", str(self.directory / "chap"), *extra]
        self.cast.start(f"{site} array", self.spawn_in(site), arguments, ready_lines=2)
        self.peers[site] = Peer(self.address(site), 60.0)

    def start_station(self, *extra: str) -> Peer:
        """A station, and measuring devices at both sites that watch the channel and the master's copies (M9)."""
        serve = ["mgmt.cli", "probe", "serve", "--listen"]
        far: Process = self.cast.start(
            "remote device",
            self.spawn_in("remote"),
            [*serve, self.address("far"), "--address", self.channel.remote_address],
            ready_lines=2,
        )
        device = next(line.split("udp://")[1] for line in far.ready if "udp://" in line)
        station = ["mgmt.cli", "station", "serve", "--listen", self.address("station")]
        station += ["--state", str(self.directory / "station"), "--probe", self.address("near"), *extra]
        for site in SITES:
            station += ["--array", f"{site}={self.address(site)}"]
        self.cast.start("station", self.spawn_in("master"), station)
        near = [*serve, self.address("near"), "--address", self.channel.master_address, "--peer", device]
        near += ["--station", self.address("station"), "--array", self.address("master")]
        self.cast.start("master device", self.spawn_in("master"), near, ready_lines=2)
        self.peers["station"] = Peer(self.address("station"), 60.0)
        return self.peers["station"]


def steady_bps(moments: list[Moment]) -> float:
    """The rate of the second half: without slow start."""
    half_ns = (moments[0].at_ns + moments[-1].at_ns) // 2
    return rate_bps([moment for moment in moments if moment.at_ns >= half_ns])


def rate_bps(moments: list[Moment]) -> float:
    """Bits per second from the first moment to the last."""
    first, last = moments[0], moments[-1]
    if last.at_ns <= first.at_ns:
        raise RuntimeError("the copy was over before it could be measured: take a larger volume")
    return (last.acknowledged_bytes - first.acknowledged_bytes) * 8e9 / (last.at_ns - first.at_ns)


@contextlib.contextmanager
def copy_stage(config: StageConfig, kind: str = "auto") -> Iterator[CopyStage]:
    """Channel and arrays until the block ends. Raises what :meth:`Channel.open` and :meth:`Cast.start` do."""
    with contextlib.ExitStack() as ending:
        directory = Path(ending.enter_context(tempfile.TemporaryDirectory(prefix="sancredit-", dir="/tmp")))
        channel = ending.enter_context(
            Channel.open(
                kind,
                bandwidth_bps=config.bandwidth_bps,
                rtt_ns=config.rtt_ns,
                master_addresses=("10.99.0.1/29",),
                remote_addresses=("10.99.0.2/29", "10.99.0.3/29"),
                directory=directory,
            )
        )
        stage = CopyStage(config, directory, channel, Cast(directory))
        ending.callback(stage.cast.stop_all)
        for site in SITES:
            stage.start_array(site)
            ending.callback(stage.peers[site].close)
        if config.stationed:
            ending.callback(stage.start_station().close)
        yield stage
