"""The demo's two sites with everything in them: channel, arrays, measuring devices, station, storm, capture."""

from __future__ import annotations

import contextlib
import json
import subprocess
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, ClassVar, Self

from mgmt.http import Peer
from tools.capture.inflight import InFlightReport, analyse
from tools.capture.pcapng import read_file
from tools.capture.sniff import sniff_command
from tools.demo.image import Image
from tools.demo.processes import Cast, Process, ProcessFailed
from tools.demo.samples import ArrayReaders, Progress
from tools.demo.settings import UNIT_BYTES, Settings
from tools.wan.channel import Channel

VOLUME = "volume"
HOST_VOLUME = "hosts"
HOST_VOLUME_BYTES = 256 << 20
_SITES = ("master", "remote")
REQUEST_TIMEOUT_S = 120.0
_DRAIN_TIMEOUT_S = 15.0


class Stage:
    """Sets up on entering, ends everything on leaving, whatever happened in between.

    ``master_port`` and ``remote_port`` are the port pair; ``copy_port`` is the TCP port of the remote array's iSCSI
    target, by which the copy's packets are known; ``station_address`` is for other commands while it stands.
    """

    def __init__(self, settings: Settings, directory: Path, image: Image) -> None:
        self._settings = settings
        self._directory = directory
        self._image = image
        self._ending = contextlib.ExitStack()
        self.cast = Cast(directory)
        self.station_address = f"unix:{directory / 'station.sock'}"

    def __enter__(self) -> Self:
        with contextlib.ExitStack() as ending:
            self._lay_channel(ending)
            self.peers = {site: self._start_array(site) for site in _SITES}
            for peer in self.peers.values():
                ending.callback(peer.close)
            probes = self._start_probes()
            self._start_station(probes)
            self.station = Peer(self.station_address, REQUEST_TIMEOUT_S)
            ending.callback(self.station.close)
            self.portals = {site: self._portal(site) for site in _SITES}
            self.copy_port = self._copy_port()
            self._ending = ending.pop_all()
        return self

    def _lay_channel(self, ending: contextlib.ExitStack) -> None:
        settings = self._settings
        self.channel = ending.enter_context(
            Channel.open(
                settings.channel,
                bandwidth_bps=settings.bandwidth_bps,
                rtt_ns=settings.rtt_ns,
                mtu=settings.mtu,
                master_addresses=("10.99.0.1/29",),
                remote_addresses=("10.99.0.2/29", "10.99.0.3/29"),
                directory=self._directory,
            )
        )
        ending.callback(self.cast.stop_all)
        self.master_port = self.channel.master_address
        self.remote_port = self.channel.remote_address
        # Remote hosts (7) have an address of their own: connections of the port pair draw on its reservation.
        self.host_address = "127.0.0.3" if self.channel.kind == "loopback" else "10.99.0.3"

    def _copy_port(self) -> int:
        return int(self.portals["remote"]["iscsi_port"])

    @property
    def channel_kind(self) -> str:
        """What carries the copy, in a word."""
        return str(self.channel.kind)

    @property
    def channel_note(self) -> str:
        """The same in a sentence."""
        return str(self.channel.note)

    def __exit__(self, *_: object) -> None:
        self._ending.close()

    # -- the cast --------------------------------------------------------------------------------------------

    def _spawn_in(self, site: str) -> Callable[..., subprocess.Popen[bytes]]:
        def spawn(arguments: list[str], **keywords: Any) -> subprocess.Popen[bytes]:
            process: subprocess.Popen[bytes] = self.channel.popen(site, arguments, **keywords)
            return process

        return spawn

    def _start_array(self, site: str) -> Peer:
        volume = self._image.path if site == "master" else self._directory / "remote.img"
        size = f":{self._image.volume_bytes}" if site == "remote" else ""
        control = f"unix:{self._directory / f'{site}.sock'}"
        address = self.master_port if site == "master" else self.remote_port
        arguments = ["mgmt.cli", "array", "serve", "--name", site, "--listen", control]
        arguments += ["--port-address", address, "--iscsi-port", "0", "--iqn", f"iqn.2003-10.example:{site}"]
        arguments += ["--unit", str(UNIT_BYTES), "--units", str(self._settings.pool_units)]
        arguments += ["--volume", f"{VOLUME}={volume}{size}"]
        # The hosts' own volume, sparse: what they read does not depend on the image that is copied.
        hosts = self._directory / f"{site}-hosts.img"
        arguments += ["--volume", f"{HOST_VOLUME}={hosts}:{HOST_VOLUME_BYTES}"]
        arguments += ["--state", str(self._directory / f"{site}.state")]
        arguments += ["--chap-file", str(self._directory / "arrays.chap")]  # the first array makes it
        self.cast.start(f"{site} array", self._spawn_in(site), arguments, ready_lines=2)
        return Peer(control, REQUEST_TIMEOUT_S)

    def _start_probes(self) -> list[str]:
        """The measuring devices; where the station asks them."""
        start = ["mgmt.cli", "probe", "serve", "--listen"]
        remote = self.cast.start(
            "remote measuring device",
            self._spawn_in("remote"),
            [*start, f"unix:{self._directory / 'probe5.sock'}", "--address", self.remote_port],
            ready_lines=2,
        )
        (udp,) = (line.split("udp://")[1] for line in remote.ready if "udp://" in line)
        arguments = [*start, self._probe_address, "--address", self.master_port, "--peer", udp]
        self.cast.start("master measuring device", self._spawn_in("master"), arguments, ready_lines=2)
        return [self._probe_address]

    @property
    def _probe_address(self) -> str:
        return f"unix:{self._directory / 'probe4.sock'}"

    def _start_station(self, probes: list[str]) -> None:
        arguments = ["mgmt.cli", "station", "serve", "--listen", self.station_address]
        arguments += ["--state", str(self._directory / "station.state")]
        for probe in probes:
            arguments += ["--probe", probe]
        for site, peer in self.peers.items():
            arguments += ["--array", f"{site}={peer.address}"]
        # It needs no network, only the Unix sockets; inside the site it ends with the channel at the latest.
        self.cast.start("station", self._spawn_in("master"), arguments)

    def _portal(self, site: str) -> dict[str, Any]:
        (port,) = self.peers[site].get("/v1/info")["ports"]
        return dict(port)

    def readers(self) -> dict[str, ArrayReaders]:
        """How the watch looks at each array: at the array itself, not through the station."""

        def table(peer: Peer, path: str) -> Callable[[], list[dict[str, Any]]]:
            return lambda: list(peer.get(path))

        return {
            site: ArrayReaders(table(peer, "/v1/pools"), table(peer, "/v1/reservations"))
            for site, peer in self.peers.items()
        }

    # -- what comes and goes ---------------------------------------------------------------------------------

    starved: ClassVar[str] = "master"
    """The array whose free buffers the storm uses up."""
    storm: ClassVar[str] = "hosts that read large and drain slowly"
    """Who does it."""

    def reserve(self, body: dict[str, Any]) -> dict[str, Any]:
        """Steps 809-812 for a target: the answer of the array that sends."""
        return dict(self.station.post("/api/v1/reserve", body))

    def flight(self, path: Path, progress: Sequence[Progress]) -> InFlightReport | None:
        """What was in flight in a run, from the packets in its capture; None where there was no copy."""
        return analyse(
            read_file(path),
            lambda flow: flow.destination_port == self.copy_port and flow.destination == self.remote_port,
        )

    def free_units(self) -> int:
        """Units on the starved array's free list now."""
        (pool,) = self.peers[self.starved].get("/v1/pools")
        return int(pool["free_units"])

    def start_storm(self) -> Process:
        """Hosts behind the same channel begin to read from the master array, and drain slowly."""
        portal = self.portals["master"]
        arguments = ["tools.demo.storm", "--portal", f"{portal['address']}:{portal['iscsi_port']}"]
        arguments += ["--iqn", str(portal["iqn"]), "--rate", str(self._settings.storm_rate_bps)]
        arguments += ["--source", self.host_address, "--hosts", str(self._settings.storm_hosts)]
        volumes = self.peers["master"].get("/v1/info")["volumes"]
        (lun,) = (volume["lun"] for volume in volumes if volume["name"] == HOST_VOLUME)
        arguments += ["--lun", str(lun)]
        return self.cast.start("host storm", self._spawn_in("remote"), arguments)

    def wait_until_starved(self, timeout_s: float = 60.0) -> int:
        """Wait until the storm has used up the free buffers; the units that were still free at the end."""
        deadline = time.monotonic() + timeout_s
        free = self.free_units()
        while free and time.monotonic() < deadline:
            self.cast.check()
            time.sleep(0.05)
            free = self.free_units()
        return free

    def stop_storm(self, storm: Process) -> None:
        """End the hosts and wait until what they held has come back to the free list."""
        self.cast.stop(storm)
        deadline = time.monotonic() + _DRAIN_TIMEOUT_S
        while self.peers[self.starved].get("/v1/pools")[0]["in_use_units"]:
            if time.monotonic() > deadline:
                raise ProcessFailed("units of hosts that are gone did not come back to the free list")
            time.sleep(0.05)

    @contextlib.contextmanager
    def capture(self, path: Path) -> Any:
        """Capture the channel's interface at the master site into ``path`` (pcapng, headers).

        Yields a dictionary that holds ``packets`` and ``dropped`` afterwards, or ``error`` where packets cannot
        be captured here.
        """
        outcome: dict[str, Any] = {}
        command = sniff_command(self.channel.interface, path)
        try:
            process = self.cast.start("packet capture", self._spawn_in("master"), command[2:])
        except ProcessFailed as failure:
            outcome["error"] = str(failure)
            yield outcome
            return
        try:
            yield outcome
        finally:
            time.sleep(
                0.05 + 2 * self._settings.rtt_ns / 1e9
            )  # the last acknowledgements are still on their way
            process.popen.terminate()
            try:
                last_words, _ = process.popen.communicate(timeout=10)
                outcome |= json.loads(last_words.splitlines()[-1])
            except (subprocess.TimeoutExpired, ValueError, IndexError) as error:
                outcome["error"] = f"the capture did not end in order: {error}"
            self.cast.stop(process)
