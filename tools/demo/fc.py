"""``sancredit demo --transport fc``: the main job over Fibre Channel, where the buffers are BB credits.

The same procedure, tables and verdict as over TCP (:mod:`tools.demo.figure5`, :mod:`tools.demo.verdict`) on another
stage: two arrays with an emulated Fibre Channel line between them, R_RDY by R_RDY. The line is slower than the world
by a whole factor (its time scale), so that one machine can be both ends; rates and times are those of the line. The
arrays' ports measure the line themselves, by ECHO. The storm plugs hosts into the other ports of the remote array's
port group, whose logins borrow its free receive buffers.
"""

from __future__ import annotations

import contextlib
import shutil
import subprocess
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, ClassVar

from fcsim.live.capture import LINKTYPE_FC_2_WITH_FRAME_DELIMS
from fcsim.speeds import MAX_FRAME_BYTES, Speed
from fcsim.wire.codes import RCtl
from mgmt.http import Peer
from tools.capture.inflight import InFlightReport
from tools.capture.pcapng import read_file
from tools.demo.processes import Process
from tools.demo.samples import Progress
from tools.demo.settings import Settings
from tools.demo.stage import HOST_VOLUME, HOST_VOLUME_BYTES, REQUEST_TIMEOUT_S, VOLUME, Stage

PORTS = {"master": "10:00:00:00:c9:00:00:01", "remote": "10:00:00:00:c9:00:00:02"}
#: Granted to a login without a reservation, as far as so many buffers are free.
LEFT_CREDITS = 2
HOST_PORTS = 3
_FRAME_PAYLOAD = 2048
_FRAME_OVERHEAD = 4 + 24 + 4 + 4  # SOF, header, CRC, EOF
#: Frames that both ends together, in Python on one machine, carry in a second, with room.
_FRAMES_PER_SECOND = 1800
_MIB = 1 << 20


@dataclass(frozen=True, slots=True, kw_only=True)
class FcSettings(Settings):
    """The line and what is copied over it."""

    transport: ClassVar[str] = "fc"
    evidence: ClassVar[str] = "frames without R_RDY"
    speed: Speed
    distance_m: int

    @classmethod
    def of(cls, asked: Settings, speed: Speed, distance_m: int) -> FcSettings:
        """The demo's flags, on such a line: 5 microseconds for each kilometre, one way."""
        given = {one.name: getattr(asked, one.name) for one in fields(asked)}
        line = {"bandwidth_bps": speed.bytes_per_second * 8, "rtt_ns": max(1, distance_m * 10)}
        return cls(**(given | line), speed=speed, distance_m=distance_m)

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
    def unit_bytes(self) -> int:
        """A frame buffer."""
        return MAX_FRAME_BYTES

    @property
    def segment_bytes(self) -> int:
        """A credit is a whole frame."""
        return 0

    @property
    def default_image_bytes(self) -> int:
        """What was asked for, else 48 MiB."""
        return self.image_bytes or 48 * _MIB

    @property
    def judged_after_s(self) -> float:
        """A copy shorter than this is mostly its beginning and end, and says little about the line."""
        return 20 * self.rtt_ns / 1e9

    def channel_facts(self) -> dict[str, Any]:
        """The line."""
        return {"speed": self.speed.name, "distance_m": self.distance_m, "time_scale": self.time_scale}


class FcStage(Stage):
    """The two arrays, the line, the station and the hosts."""

    starved: ClassVar[str] = "remote"
    storm: ClassVar[str] = "hosts at the other ports of the remote array's port group"
    _settings: FcSettings

    def _lay_channel(self, ending: contextlib.ExitStack) -> None:
        ending.callback(self.cast.stop_all)
        self.master_port, self.remote_port = PORTS["master"], PORTS["remote"]

    @property
    def channel_kind(self) -> str:
        """An emulated line in real processes."""
        return "fc-live"

    @property
    def channel_note(self) -> str:
        """Its length, and how slow it is."""
        settings = self._settings
        line = f"{settings.speed.name}, {settings.distance_m / 1000:g} km"
        return f"{line}, {settings.time_scale} times slower than the world"

    def _copy_port(self) -> int:
        return 1  # Fibre Channel ports have none; messages want one

    def _spawn_in(self, site: str) -> Callable[..., subprocess.Popen[bytes]]:
        return subprocess.Popen

    @property
    def _line(self) -> Path:
        return self._directory / "line.sock"

    @property
    def _capture(self) -> Path:
        return self._directory / "line.pcapng"

    def _start_array(self, site: str) -> Peer:
        settings = self._settings
        remote = site == "remote"
        control = f"unix:{self._directory / f'{site}.sock'}"
        volume = self._directory / "remote.img" if remote else self._image.path
        lines = [
            f'name = "{site}"',
            f'listen = "{control}"',
            f'state = "{self._directory / f"{site}.state"}"',
            f'chap_file = "{self._directory / "arrays.chap"}"',
            "[[interface]]",
            'kind = "fc"',
            f'address = "{PORTS[site]}"',
            f'speed = "{settings.speed.name}"',
            f'distance = "{settings.distance_m}m"',
            f"credits = {settings.pool_units}",
            f"unreserved = {LEFT_CREDITS}",
            f"time_scale = {settings.time_scale}",
            f'link = "unix:{self._line}"' if remote else f'capture = "{self._capture}"',
            *((f"host_ports = {HOST_PORTS}", f"host_credits = {settings.pool_units}") if remote else ()),
            "[[volume]]",
            f'name = "{VOLUME}"',
            f'store = "{volume}:{self._image.volume_bytes}"',
            "[[volume]]",
            f'name = "{HOST_VOLUME}"',
            f'store = "{self._directory / f"{site}-hosts.img"}:{HOST_VOLUME_BYTES}"',
        ]
        config = self._directory / f"{site}.toml"
        config.write_text("\n".join(lines) + "\n")
        arguments = ["mgmt.cli", "array", "serve", "--config", str(config)]
        ready = 2 if remote else 1
        self.cast.start(f"{site} array", self._spawn_in(site), arguments, ready_lines=ready)
        return Peer(control, REQUEST_TIMEOUT_S)

    def _start_probes(self) -> list[str]:
        """None: the ports measure their line themselves."""
        return []

    def reserve(self, body: dict[str, Any]) -> dict[str, Any]:
        """Steps 809-812 at both ends: the receiver's credits, and the sender's share of them."""
        if self._settings.target != "port_pair":
            return super().reserve(body)
        answer = self.station.post("/api/v1/reserve-both-ends", body)
        return dict(answer["local"])

    def start_storm(self) -> Process:
        """Hosts plug into the other ports of the remote array's port group, and write now and then."""
        arguments = ["tools.demo.fc_storm", "--lun", str(self._host_lun())]
        for number in range(1, HOST_PORTS + 1):
            arguments += ["--link", f"{self._line}.{number}"]
        return self.cast.start("host storm", self._spawn_in("remote"), arguments)

    def _host_lun(self) -> int:
        volumes = self.peers["remote"].get("/v1/info")["volumes"]
        return next(int(volume["lun"]) for volume in volumes if volume["name"] == HOST_VOLUME)

    @contextlib.contextmanager
    def capture(self, path: Path) -> Iterator[dict[str, Any]]:
        """What crosses the line, as the master array's port sees it; each copy begins a new file."""
        self._capture.unlink(missing_ok=True)
        outcome: dict[str, Any] = {}
        yield outcome
        if self._capture.exists() and self._capture.stat().st_size:
            shutil.copyfile(self._capture, path)
            outcome |= {"packets": sum(1 for _ in read_file(path)), "dropped": 0}
        else:
            outcome["error"] = "nothing crossed the line"

    def flight(self, path: Path, progress: Sequence[Progress]) -> InFlightReport | None:
        """Frames without R_RDY as the sender's port counts them, every one; the capture has no primitives."""
        if not progress:
            return None
        first, last = progress[0], progress[-1]
        carried, line_ns = _carried(path, self._settings.time_scale)
        rows = self.peers["master"].get("/v1/copies")
        (row,) = [one for one in rows if one["copy_id"] == last.copy_id]
        return InFlightReport(
            flows=(),
            max_in_flight_bytes=int(row["max_in_flight_bytes"]),
            max_in_flight_ns=None,
            acknowledged_bytes=last.acknowledged_bytes,
            first_data_ns=first.at_ns,
            last_acknowledgement_ns=last.at_ns,
            goodput_bps=last.acknowledged_bytes * 8e9 / line_ns if line_ns else None,
            series=tuple((one.at_ns - first.at_ns, one.in_flight_bytes) for one in progress),
            acknowledged_series=carried,
        )


def _carried(path: Path, time_scale: int) -> tuple[tuple[tuple[int, int], ...], int]:
    """(nanoseconds of the world since the first, data bytes that have crossed the line) for every FCP_DATA frame, and
    the line's nanoseconds from the first of them to the last frame of all, which answers for the last bytes.

    The array hears of whole commands only, and the commands of all connections end together.
    """
    points: list[tuple[int, int]] = []
    first_ns, last_ns, total, initiator = None, 0, 0, b""
    for packet in read_file(path):
        if packet.link_type != LINKTYPE_FC_2_WITH_FRAME_DELIMS:
            continue
        last_ns, r_ctl, s_id = packet.time_ns, packet.data[4], packet.data[9:12]
        if r_ctl == RCtl.UNSOLICITED_COMMAND:
            initiator = s_id
        elif r_ctl == RCtl.SOLICITED_DATA and s_id == initiator:
            first_ns = packet.time_ns if first_ns is None else first_ns
            total += len(packet.data) - _FRAME_OVERHEAD
            points.append(((packet.time_ns - first_ns) * time_scale, total))
    return tuple(points), 0 if first_ns is None else last_ns - first_ns
