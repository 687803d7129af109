"""The document's figure 5, step by step, through the management station; once without and once with the reservation.

Both runs use the same arrays, pool, storm, flags and calls: :meth:`Figure5.run` differs in nothing but whether steps
809-812 were taken before it.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from credits.quantities import format_size
from mgmt.http import PeerRefused
from tools.capture.inflight import InFlightReport
from tools.demo.narration import Narrator
from tools.demo.processes import ProcessFailed
from tools.demo.samples import PoolSample, PoolWatch, Progress
from tools.demo.settings import DOCUMENT, Settings
from tools.demo.stage import VOLUME, Stage

#: The policies that the demo offers (those of the station that need nothing but the channel), in words.
_FORMULAS = {
    DOCUMENT: "bandwidth x delay x sessions x connections",
    "document-pair": "bandwidth x delay",
    "exact": "1.2 x bandwidth x delay",
}
_PATIENCE_S = 3.0
"""How long a start that is refused altogether is asked for again."""
_RETRY_S = 0.25
_BASELINE_S = 8.0
"""How long a copy that came up only in part, and starves, is watched."""
_STARVING_SHARE = 0.30
_STALL_S = 60.0
"""A copy that acknowledges nothing for so long is given up."""
_POLL_S = 0.1
GROUPS = ["disks", "disks"]
"""The volume groups that the demo's volumes are in, at both sites."""
OPEN_NAMES = {
    "application": "remote-copy",
    "volume_pair": f"{VOLUME},{VOLUME}",
    "volume_group_pair": ",".join(GROUPS),
}
"""Names of the kinds that are reserved for without ports (paragraph 102); the copy matches each of them."""
_ENDED = ("done", "failed", "stopped")


class CopyFailed(Exception):
    """The copy with the reservation did not finish; the text is the array's own line."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """What one run showed.

    ``refusal`` is the array's line where the start was refused, ``connections`` how many came up. ``status`` is the
    array's last word on the copy (``None`` when refused). ``flight`` comes from the packet capture, ``None`` where
    packets cannot be captured; ``capture`` says how many packets were kept and lost, or why there are none. Times are
    the channel's, which is ``time_scale`` times slower than the world.
    """

    copy_id: str
    storm_left_free_units: int
    connections: int
    refusal: str
    status: dict[str, Any] | None
    seconds: float
    flight: InFlightReport | None
    capture: dict[str, Any]
    pool: tuple[PoolSample, ...]
    pool_started_ns: int
    conservation_ok: bool
    tables: dict[str, list[dict[str, Any]]]
    time_scale: int = 1

    @property
    def goodput_bps(self) -> int:
        """Volume bits per second: the array's figure for a finished copy over a channel of real time; else what was
        acknowledged in the channel's own time."""
        if self.status is None or self.seconds <= 0:
            return 0
        if self.status["state"] == "done" and self.time_scale == 1:
            return int(self.status["goodput_bps"])
        return int(self.status["acknowledged_bytes"] * 8 / self.seconds)


class Figure5:
    """One procedure on one stage."""

    def __init__(self, stage: Stage, settings: Settings, narrator: Narrator, directory: Path) -> None:
        self._stage = stage
        self._settings = settings
        self._say = narrator
        self._directory = directory
        self._progress: list[Progress] = []
        self._pair = {"local_port": stage.master_port, "remote_port": stage.remote_port}
        self._target: dict[str, Any] = {"kind": settings.target}
        if settings.target in OPEN_NAMES:
            self._target["name"] = OPEN_NAMES[settings.target]
        else:
            self._target |= self._pair
        if settings.target == "port_pair_number":
            self._target["remote_port_number"] = stage.copy_port

    @property
    def _request(self) -> dict[str, Any]:
        """What every request names: the target, and the port pair it goes over where it has none of its own."""
        if self._settings.target in OPEN_NAMES:
            return {"target": self._target, "via": self._pair}
        return {"target": self._target}

    def prepare(self) -> dict[str, Any]:
        """Steps 801-808; the recommendation."""
        settings, station = self._settings, self._stage.station
        pair = self._request | {
            "sessions": settings.sessions,
            "connections_per_session": settings.connections,
        }
        station.post("/api/v1/pairs", pair)
        self._say.step(
            "801",
            f"{named(self._target)} {self._stage.master_port} - {self._stage.remote_port} registered: "
            f"{settings.sessions} sessions x {settings.connections} connections",
        )
        (channel,) = station.post("/api/v1/channels/measure", self._pair)["items"]
        self._say.step(
            "802-804",
            f"channel measured by the devices at both sites: {channel['bandwidth_bps'] / 1e6:.2f} Mbit/s, "
            f"{channel['rtt_ns'] / 1e6:.2f} ms",
        )
        (advice,) = station.post("/api/v1/recommend", pair | {"policy": settings.policy})["items"]
        available = advice["available_units"]
        self._say.step(
            "805-807", f"available in the master array: {available} units, {size(advice['available_bytes'])}"
        )
        self._say.step(
            "808",
            f"recommended: {_FORMULAS[settings.policy]} = {advice['bytes']:,} bytes, "
            f"{units(advice['units'])} of {size(advice['unit_bytes'])}",
        )
        return dict(advice) | {"channel": channel}

    def reserve(self, advice: dict[str, Any]) -> dict[str, Any]:
        """Steps 809-812, with the recommended size."""
        body = self._request
        connections = self._settings.sessions * self._settings.connections
        if self._settings.policy != DOCUMENT:
            body["size_bytes"] = advice["bytes"]
        elif self._settings.target == "connection" and connections > 1:
            # The recommendation is for one connection (embodiment 4); here all of the copy's share the ID.
            body["size_bytes"] = advice["bytes"] * connections
            self._say.remark(f"one buffer ID for {connections} connections: {connections} times that")
        answer = self._stage.reserve(body)
        buffer_id = answer.get("buffer_id")
        if buffer_id is not None:
            self._target["buffer_id"] = buffer_id  # the connections of the copy share it (paragraph 95)
        self._say.step(
            "809-812",
            f"reserved: {units(answer['reserved_units'])}, {size(answer['reserved_bytes'])}, on the journal"
            + ("" if buffer_id is None else f"; buffer ID {buffer_id}"),
        )
        return answer

    def run(self, name: str, total_bytes: int) -> Outcome:
        """The storm, then steps 813-815, watched and captured."""
        stage = self._stage
        self._progress = []
        with PoolWatch(stage.readers()) as watch:
            storm = stage.start_storm()
            try:
                left = stage.wait_until_starved()
                held = "used up the free buffers" if not left else f"left {left} units free"
                self._say.step("storm", f"{stage.storm} have {held}")
                capture_path = self._directory / f"{name}.pcapng"
                with stage.capture(capture_path) as capture:
                    refusal, connections, status, seconds, tables = self._copy(total_bytes)
                watch.look()
            finally:
                stage.stop_storm(storm)
        flight = None if "error" in capture else stage.flight(capture_path, self._progress)
        seconds /= self._settings.time_scale
        if self._settings.time_scale > 1 and flight is not None and flight.goodput_bps:
            # Frames carry the time of their line; a busy machine comes later with it.
            seconds = flight.acknowledged_bytes * 8 / flight.goodput_bps
        return Outcome(
            copy_id=status["copy_id"] if status is not None else "",
            storm_left_free_units=left,
            connections=connections,
            refusal=refusal,
            status=status,
            seconds=seconds,
            flight=flight,
            capture=capture,
            pool=tuple(watch.of(stage.starved)),
            pool_started_ns=watch.started_ns,
            conservation_ok=watch.conservation_ok,
            tables=tables or self._tables(),
            time_scale=self._settings.time_scale,
        )

    def _copy(self, total_bytes: int) -> tuple[str, int, dict[str, Any] | None, float, Any]:
        settings = self._settings
        wanted = settings.sessions * settings.connections
        body = self._request | {
            "volume": VOLUME,
            "volume_groups": GROUPS,
            "sessions": settings.sessions,
            "connections_per_session": settings.connections,
        }
        answer, refusal = self._start(body)
        if answer is None:
            return refusal, 0, None, 0.0, None
        up = len(answer["connections"])
        self._say.step("813-814", f"{wanted} start requests, one for each connection: {up} came up")
        refusal = "" if not answer["refusals"] else str(answer["refusals"][0].get("detail", ""))
        if refusal:
            self._say.remark(refusal)
        status, seconds, tables = self._follow(answer["copy_id"], total_bytes, whole=up == wanted)
        return refusal, up, status, seconds, tables

    def _start(self, body: dict[str, Any]) -> tuple[dict[str, Any] | None, str]:
        """The answer to the start requests; asked again for a while where every one is refused."""
        attempts, began_at = 0, time.monotonic()
        while True:
            attempts += 1
            try:
                return dict(self._stage.station.post("/api/v1/copies", body)), ""
            except PeerRefused as refused:
                if time.monotonic() - began_at < _PATIENCE_S:
                    self._stage.cast.check()
                    time.sleep(_RETRY_S)
                    continue
                wanted = self._settings.sessions * self._settings.connections
                self._say.step(
                    "813-814",
                    f"{wanted} start requests, {attempts} times in {_PATIENCE_S:.0f} s: all refused",
                )
                self._say.remark(str(refused))
                return None, str(refused)

    def _follow(self, copy_id: str, total_bytes: int, *, whole: bool) -> tuple[dict[str, Any], float, Any]:
        """Watch the copy to its end; one that came up only in part and starves is stopped after a while."""
        station = self._stage.station
        started_at = moved_at = time.monotonic()
        acknowledged = 0
        tables = None
        with self._say.progress(total_bytes) as progress:
            while True:
                status = dict(station.get(f"/api/v1/copies/{copy_id}"))
                now = time.monotonic()
                goodput_bps = status["goodput_bps"] * self._settings.time_scale
                progress.at(status["acknowledged_bytes"], goodput_bps)
                self._progress.append(_progress(status))
                if status["acknowledged_bytes"] > acknowledged:
                    acknowledged, moved_at = status["acknowledged_bytes"], now
                if tables is None and status["acknowledged_bytes"] * 2 > total_bytes:
                    tables = self._tables()
                if status["state"] in _ENDED:
                    break
                starving = goodput_bps < _STARVING_SHARE * self._settings.payload_limit_bps
                given_up = not whole and starving and now - started_at > _BASELINE_S
                if given_up or now - moved_at > _STALL_S:
                    status = dict(station.post(f"/api/v1/copies/{copy_id}/stop", {}))
                    break
                self._stage.cast.check()
                time.sleep(_POLL_S)
        seconds = status["seconds"] or time.monotonic() - started_at
        self._say.step("815", f"copy {status['state']}: {size(status['acknowledged_bytes'])} acknowledged")
        if status["error"]:
            self._say.remark(status["error"])
        return status, float(seconds), tables

    def verify(self, copy_id: str) -> dict[str, Any]:
        """SHA-256 of both volumes, computed by each array from its own disk."""
        answer = dict(self._stage.station.post(f"/api/v1/copies/{copy_id}/verify", {}))
        word = "equal" if answer["sha256_match"] else "DIFFERENT"
        self._say.step("verify", f"SHA-256 of both disks: {word} ({answer['remote']['sha256'][:16]}…)")
        return answer

    def _tables(self) -> dict[str, list[dict[str, Any]]]:
        names = ("reservations", "channels", "allocations", "pools")
        return {name: self._stage.station.get(f"/api/v1/{name}")["items"] for name in names}


def _progress(status: dict[str, Any]) -> Progress:
    return Progress(
        copy_id=status["copy_id"],
        at_ns=time.time_ns(),
        in_flight_bytes=status["in_flight_bytes"],
        acknowledged_bytes=status["acknowledged_bytes"],
    )


def named(target: dict[str, Any]) -> str:
    """The kind of a target, and its name where it is of the open kinds."""
    kind = str(target["kind"]).replace("_", " ")
    return f"{kind} {target['name']} over" if "name" in target else kind


def units(count: int) -> str:
    """A number of units in words."""
    return "1 unit" if count == 1 else f"{count} units"


def size(value_bytes: int) -> str:
    """A size for people: exact where that is short, else in MiB."""
    exact = format_size(value_bytes)
    return exact if len(exact) <= 9 else f"{value_bytes / (1 << 20):.2f} MiB"


__all__ = ["CopyFailed", "Figure5", "Outcome", "ProcessFailed", "size", "units"]
