"""``sancredit demo --transport fc``: the main job over Fibre Channel, where the buffers are BB credits.

Two arrays as real processes, an emulated Fibre Channel line between them, R_RDY by R_RDY. The line is slower than the
world by a whole factor (its time scale), so that one machine can be both ends; rates and times are those of the line.
The other initiators of the remote port group have borrowed its free receive buffers, so that without a reservation a
login is granted what is left: :data:`LEFT_CREDITS`. With the reservation it is granted what the distance needs.
"""

from __future__ import annotations

import contextlib
import subprocess
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

from credits.targets import port_pair
from fcsim.speeds import MAX_FRAME_BYTES, Speed, credits_needed
from mgmt.http import Peer, PeerRefused
from mgmt.messages import BufferReserveRequest, BufferReserveResponse, CopyStartRequest
from tools.demo import image as images
from tools.demo.narration import Narrator
from tools.demo.processes import Cast

MASTER, REMOTE = "10:00:00:00:c9:00:00:01", "10:00:00:00:c9:00:00:02"
LEFT_CREDITS = 2
BAR, BASELINE_BAR = 0.90, 0.30
_VOLUME = "vol0"
_FRAME_PAYLOAD = 2048
_PAIRS = {"master": port_pair(MASTER, REMOTE), "remote": port_pair(REMOTE, MASTER)}
#: Frames that both ends together, in Python on one machine, carry in a second, with room.
_FRAMES_PER_SECOND = 1800
_ENDED = ("done", "failed", "stopped")
_PATIENCE_S = 120.0
_BASELINE_S = 6.0


@dataclass(frozen=True, slots=True)
class FcSettings:
    """The line and what is copied over it."""

    speed: Speed
    distance_m: int
    sessions: int
    connections: int
    image: Path | None = None
    image_bytes: int | None = None
    report: Path | None = None

    @property
    def rtt_ns(self) -> int:
        """There and back, 5 microseconds for each kilometre."""
        return self.distance_m * 10

    @property
    def payload_limit_bps(self) -> int:
        """What frames of 2048 bytes of data carry at line rate."""
        return _FRAME_PAYLOAD * 8 * 10**12 // self.speed.frame_ps(_FRAME_PAYLOAD)

    @property
    def time_scale(self) -> int:
        """So many times slower than the world."""
        frames = 10**12 // self.speed.frame_ps(_FRAME_PAYLOAD)
        return max(1, -(-frames // _FRAMES_PER_SECOND))

    @property
    def recommended_credits(self) -> int:
        """What keeps the line full: its length in frames, and the one that is being sent; one part in five more."""
        needed = credits_needed(self.speed, self.distance_m, _FRAME_PAYLOAD).credits_gapless
        return needed + -(-needed // 5)

    @property
    def size_bytes(self) -> int:
        """What was asked for, else 48 MiB."""
        return self.image_bytes or 48 << 20


@dataclass(slots=True)
class FcRun:
    """One copy: what the login granted, how it went, what was seen meanwhile. Rates are the line's."""

    granted_credits: int = 0
    connections: int = 0
    goodput_bps: int = 0
    seconds: float = 0.0
    acknowledged_bytes: int = 0
    state: str = ""
    error: str = ""
    max_in_flight_bytes: int = 0
    samples: int = 0
    conservation_ok: bool = True
    tables: dict[str, list[dict[str, Any]]] = field(default_factory=dict)


class FcDemo:
    """The stage and the story."""

    def __init__(self, settings: FcSettings, directory: Path, say: Narrator) -> None:
        self._settings = settings
        self._directory = directory
        self._say = say
        self._cast = Cast(directory)
        self.peers: dict[str, Peer] = {}

    @contextlib.contextmanager
    def stage(self, image: images.Image) -> Iterator[None]:
        """Both arrays, until the block ends."""
        try:
            self._array("remote", REMOTE, self._directory / "remote.img", image.volume_bytes, link=True)
            self._array("master", MASTER, self._directory / "master.img", image.volume_bytes, link=False)
            yield
        finally:
            for peer in self.peers.values():
                peer.close()
            self._cast.stop_all()

    def _array(self, name: str, wwpn: str, volume: Path, size_bytes: int, *, link: bool) -> None:
        settings = self._settings
        socket = self._directory / f"{name}.sock"
        lines = [
            f'name = "{name}"',
            f'listen = "unix:{socket}"',
            f'state = "{self._directory / name}"',
            "[[interface]]",
            'kind = "fc"',
            f'address = "{wwpn}"',
            f'speed = "{settings.speed.name}"',
            f'distance = "{settings.distance_m}m"',
            f"credits = {settings.recommended_credits * 2 + 64}",
            f"unreserved = {LEFT_CREDITS}",
            f"time_scale = {settings.time_scale}",
            f'link = "unix:{self._directory / "line.sock"}"' if link else "",
            "" if link else f'capture = "{self._directory / "copy.pcapng"}"',
            "[[volume]]",
            f'name = "{_VOLUME}"',
            f'store = "{volume}:{size_bytes}"',
        ]
        config = self._directory / f"{name}.toml"
        config.write_text("\n".join(line for line in lines if line) + "\n")
        ready = 2 if link else 1
        self._cast.start(
            name, subprocess.Popen, ["mgmt.cli", "array", "serve", "--config", str(config)], ready_lines=ready
        )
        self.peers[name] = Peer(f"unix:{socket}", 30.0, name=f"array {name}")

    def reserve(self) -> int:
        """Steps 809-812 at both ends of the line; the units."""
        units = self._settings.recommended_credits
        for name, peer in self.peers.items():
            answer = peer.send(
                BufferReserveRequest(target=_PAIRS[name], requested_bytes=units * MAX_FRAME_BYTES)
            )
            assert isinstance(answer, BufferReserveResponse)
            self._say.step("809-812", f"{answer.reserved_units} credits reserved at the {name} array's port")
        return units

    def run(self, copy_id: str, *, limit_s: float | None = None) -> FcRun:
        """Steps 813-815: one request for each connection of each session; then watch."""
        settings, master = self._settings, self.peers["master"]
        link = next(str(row["link"]) for row in self.peers["remote"].get("/v1/info")["ports"])
        requests = [
            CopyStartRequest(
                copy_id=copy_id,
                target=_PAIRS["master"],
                volume=_VOLUME,
                remote_host=REMOTE,
                remote_port_number=1,
                remote_iqn=REMOTE,
                remote_lun=0,
                remote_link=link,
                sessions=settings.sessions,
                connections_per_session=settings.connections,
                session=session,
                connection=connection,
            )
            for session in range(settings.sessions)
            for connection in range(settings.connections)
        ]
        self._say.step("813", f"{len(requests)} requests for copy {copy_id}")
        with ThreadPoolExecutor(len(requests)) as pool:
            answers = list(pool.map(partial(_send, master), requests))
        run = FcRun(connections=sum(not isinstance(answer, PeerRefused) for answer in answers))
        refusals = [answer for answer in answers if isinstance(answer, PeerRefused)]
        if not run.connections:
            run.error = str(refusals[0])
            return run
        self._watch(run, copy_id, limit_s)
        return run

    def _watch(self, run: FcRun, copy_id: str, limit_s: float | None) -> None:
        began = time.monotonic()
        with self._say.progress(self._settings.size_bytes) as progress:
            while True:
                (row,) = [row for row in self.peers["master"].get("/v1/copies") if row["copy_id"] == copy_id]
                self._sample(run, row)
                if row["state"] in _ENDED:
                    break
                late = time.monotonic() - began > (limit_s or _PATIENCE_S)
                if late:
                    self._stop(copy_id)
                    (row,) = [
                        one for one in self.peers["master"].get("/v1/copies") if one["copy_id"] == copy_id
                    ]
                    break
                progress.at(row["acknowledged_bytes"], self._line_bps(row))
                time.sleep(0.05)
        run.state, run.error = row["state"], row.get("error", "")
        run.acknowledged_bytes = row["acknowledged_bytes"]
        run.max_in_flight_bytes = max(run.max_in_flight_bytes, row.get("max_in_flight_bytes") or 0)
        run.seconds = row["seconds"] / self._settings.time_scale
        run.goodput_bps = int(run.acknowledged_bytes * 8 / run.seconds) if run.seconds else 0

    def _line_bps(self, row: dict[str, Any]) -> int:
        return int(row["goodput_bps"] * self._settings.time_scale)

    def _stop(self, copy_id: str) -> None:
        from mgmt.messages import CopyStopRequest

        self.peers["master"].send(CopyStopRequest(copy_id=copy_id))

    def _sample(self, run: FcRun, row: dict[str, Any]) -> None:
        pools = [pool for peer in self.peers.values() for pool in peer.get("/v1/pools")]
        run.samples += 1
        for pool in pools:
            parts = ("free_units", "reserved_idle_units", "in_use_units", "draining_units")
            run.conservation_ok &= sum(pool[part] for part in parts) == pool["total_units"]
        if row["state"] == "copying":
            run.tables = {"pools": pools}
            for name in ("reservations", "allocations"):
                run.tables[name] = [one for peer in self.peers.values() for one in peer.get(f"/v1/{name}")]
            (port,) = self.peers["remote"].get("/v1/info")["ports"]
            run.granted_credits = max(run.granted_credits, port.get("rx_bb_credit", 0))

    def digests(self) -> tuple[str, str]:
        """SHA-256 of both volumes, each by its own array."""
        from mgmt.messages import VolumeDigest, VolumeDigestRequest

        found = []
        for name in ("master", "remote"):
            answer = self.peers[name].send(VolumeDigestRequest(volume=_VOLUME), timeout_s=120)
            assert isinstance(answer, VolumeDigest)
            found.append(answer.sha256)
        return found[0], found[1]


def _send(peer: Peer, request: CopyStartRequest) -> object:
    try:
        return peer.send(request, f"{request.copy_id}/{request.session}/{request.connection}", timeout_s=60)
    except PeerRefused as refusal:
        return refusal


@dataclass(frozen=True, slots=True, kw_only=True)
class FcVerdict:
    """What the two runs prove; the same claims as over TCP."""

    settings: FcSettings
    reserved_units: int
    baseline: FcRun
    reserved: FcRun
    sha256_match: bool

    def _share(self, run: FcRun) -> float:
        return run.goodput_bps / self.settings.payload_limit_bps

    @property
    def reserved_bytes(self) -> int:
        """What the pair has reserved at the receiving port."""
        return self.reserved_units * MAX_FRAME_BYTES

    def claims(self) -> list[tuple[str, bool, str]]:
        """(claim, whether it holds, the figures)."""
        limit = self.settings.payload_limit_bps / 1e6
        return [
            (
                "without a reservation the storm starves the copy",
                self.baseline.connections == 0 or self._share(self.baseline) < BASELINE_BAR,
                f"{self.baseline.goodput_bps / 1e6:.1f} Mbit/s on {self.baseline.granted_credits} credits: "
                f"{self._share(self.baseline):.1%} of the line",
            ),
            (
                f"with it the copy gets at least {BAR:.0%} of the line",
                self._share(self.reserved) >= BAR,
                f"{self.reserved.goodput_bps / 1e6:.1f} of {limit:.1f} Mbit/s payload: "
                f"{self._share(self.reserved):.1%}, in {self.reserved.seconds:.3f} s of the line's time",
            ),
            (
                "bytes in flight never exceed the reservation (frames without R_RDY)",
                0 < self.reserved.max_in_flight_bytes <= self.reserved_bytes,
                f"{self.reserved.max_in_flight_bytes:,} of {self.reserved_bytes:,} bytes",
            ),
            (
                "free + reserved idle + in use + draining = total, in every sample",
                self.baseline.conservation_ok and self.reserved.conservation_ok,
                f"{self.baseline.samples + self.reserved.samples} samples of each array",
            ),
            ("SHA-256 of the remote disk equals the image's", self.sha256_match, ""),
        ]

    @property
    def passed(self) -> bool:
        """Nothing failed."""
        return all(holds for _, holds, _ in self.claims())

    def as_json(self) -> dict[str, Any]:
        """The object of ``sancredit demo -o json``."""
        settings = self.settings
        return {
            "transport": "fc",
            "channel": {
                "kind": "fc-live",
                "note": f"{settings.speed.name}, {settings.distance_m} m, {settings.time_scale} times slower",
                "bandwidth_bps": settings.speed.bytes_per_second * 8,
                "rtt_ns": settings.rtt_ns,
                "payload_limit_bps": settings.payload_limit_bps,
                "distance_m": settings.distance_m,
                "time_scale": settings.time_scale,
            },
            "sessions": settings.sessions,
            "connections_per_session": settings.connections,
            "recommended_bytes": settings.recommended_credits * MAX_FRAME_BYTES,
            "reserved_bytes": self.reserved_bytes,
            "reserved_units": self.reserved_units,
            "baseline": self._run(self.baseline) | {"refused": self.baseline.connections == 0},
            "reserved": self._run(self.reserved)
            | {"sha256_match": self.sha256_match, "max_in_flight_bytes": self.reserved.max_in_flight_bytes},
            "conservation_ok": self.baseline.conservation_ok and self.reserved.conservation_ok,
            "claims": [
                {"claim": claim, "holds": holds, "figures": figures}
                for claim, holds, figures in self.claims()
            ],
            "passed": self.passed,
        }

    def _run(self, run: FcRun) -> dict[str, Any]:
        return {
            "connections": run.connections,
            "granted_credits": run.granted_credits,
            "goodput_bps": run.goodput_bps,
            "channel_utilisation": round(self._share(run), 4),
            "seconds": run.seconds,
            "acknowledged_bytes": run.acknowledged_bytes,
        }


def play(settings: FcSettings, directory: Path, say: Narrator) -> FcVerdict:
    """The whole story. Raises ProcessFailed, ImageError, PeerRefused."""
    say.act("The stage")
    volume = directory / "master.img"
    if settings.image is not None:
        image = images.from_file(settings.image, volume)
    else:
        image = images.make(volume, settings.size_bytes)
    say.remark(f"image: {image.size_bytes:,} bytes, {image.description}")
    demo = FcDemo(settings, directory, say)
    with demo.stage(image):
        say.remark(
            f"line: {settings.speed.name}, {settings.distance_m / 1000:g} km, round trip {settings.rtt_ns / 1e6:g} ms, "
            f"{settings.time_scale} times slower than the world"
        )
        say.act("Without a reservation")
        baseline = demo.run("baseline", limit_s=_BASELINE_S)
        say.remark(f"{baseline.granted_credits} credits, {baseline.goodput_bps / 1e6:.1f} Mbit/s")
        say.act("With the reservation: same line, arrays and code path")
        say.step(
            "801-808", f"{settings.recommended_credits} credits keep {settings.distance_m / 1000:g} km full"
        )
        units = demo.reserve()
        reserved = demo.run("copy")
        say.remark(f"{reserved.granted_credits} credits, {reserved.goodput_bps / 1e6:.1f} Mbit/s")
        here, there = demo.digests()
        on_disk = images.digest(directory / "remote.img", image.size_bytes)
        return FcVerdict(
            settings=settings,
            reserved_units=units,
            baseline=baseline,
            reserved=reserved,
            sha256_match=here == there and on_disk == image.sha256 and reserved.state == "done",
        )
