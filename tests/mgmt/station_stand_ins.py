"""Stand-ins, for tests of the station alone: an array and a measuring device that answer as they are told.

They are not the product's: tests of the whole use real arrays and devices (``test_cli_flow``).
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse
from starlette.routing import Route

from credits.errors import Code, Refused, Shortage
from mgmt.http import Peer, ServerThread, exception_handlers, message_endpoint
from mgmt.messages import (
    BadMessage,
    BufferReserveRequest,
    BufferReserveResponse,
    ChannelInfoGetRequest,
    ChannelInfoGetResponse,
    CopyStartRequest,
    CopyStartResponse,
    Envelope,
    InterfaceInfoGetRequest,
    InterfaceInfoGetResponse,
    Message,
    VolumeDigest,
    VolumeDigestRequest,
)
from mgmt.station.arrays import Arrays
from mgmt.station.context import Station
from mgmt.station.store import open_store

LOCAL, REMOTE = "211.19.1.20", "133.185.12.20"
UNIT = 2048
#: How long the station of a test waits for an answer: a busy machine is no array that is down.
PATIENCE_S = 60.0


class StandInArray:
    """Answers M3, M5 and M7 from two numbers; remembers every envelope."""

    def __init__(self, name: str, port: str, volumes: tuple[str, ...] = ("vol0",)) -> None:
        self.name, self.port, self.volumes = name, port, volumes
        self.size_bytes = 4096
        self.free_units, self.reserved_units = 2000, 0
        self.seen: list[Envelope] = []
        self.refuse: Callable[[Message], bool] = lambda message: False
        self.answer_instead: Message | None = None
        self.gather: threading.Barrier | None = None
        self.rows: dict[str, Any] = {}

    def app(self) -> Starlette:
        async def table(request: Request) -> JSONResponse:
            name = request.path_params["name"]
            return JSONResponse(self.info() if name == "info" else self.rows.get(name, []))

        routes = [
            Route("/messages", message_endpoint(self.handle), methods=["POST"]),
            Route("/v1/{name}", table),
        ]
        return Starlette(routes=routes, exception_handlers=exception_handlers())

    def info(self) -> dict[str, Any]:
        port = {"address": self.port, "iscsi_port": 3260, "iqn": f"iqn.2003-10.example:{self.name}"}
        volumes = [
            {"name": name, "lun": lun, "size_bytes": self.size_bytes} for lun, name in enumerate(self.volumes)
        ]
        return {"name": self.name, "ports": [port], "volumes": volumes}

    def handle(self, envelope: Envelope) -> Message:
        self.seen.append(envelope)
        message = envelope.message
        if self.gather is not None and isinstance(message, CopyStartRequest):
            self.gather.wait(PATIENCE_S)
        if self.refuse(message):
            raise Refused(Code.NO_MEMORY, "no memory", Shortage(9, self.free_units, 0, self.free_units))
        if self.answer_instead is not None:
            return self.answer_instead
        match message:
            case InterfaceInfoGetRequest():
                return InterfaceInfoGetResponse(
                    unit_bytes=UNIT,
                    available_bytes=self.free_units * UNIT,
                    available_units=self.free_units,
                    expandable_units=0,
                    allocated_units=0,
                    reserved_units=self.reserved_units,
                    revision=1,
                )
            case BufferReserveRequest():
                before, self.reserved_units = self.reserved_units, -(-message.requested_bytes // UNIT)
                return BufferReserveResponse(
                    target=message.target,
                    reserved_units=self.reserved_units,
                    reserved_bytes=self.reserved_units * UNIT,
                    previous_units=before,
                    pending_shrink_units=0,
                    replaced=before > 0,
                    revision=2,
                )
            case CopyStartRequest():
                return CopyStartResponse(
                    copy_id=message.copy_id,
                    session=message.session,
                    connection=message.connection,
                    buffer_address=1,
                    allocated_units=1,
                    allocated_bytes=UNIT,
                )
            case VolumeDigestRequest():
                return VolumeDigest(volume=message.volume, sha256=self.name, length_bytes=4096)
            case _:
                raise BadMessage("not here")

    def messages(self, kind: type) -> list[Any]:
        return [envelope.message for envelope in self.seen if isinstance(envelope.message, kind)]


class StandInProbe:
    """Answers M1 with what it is told."""

    def __init__(self) -> None:
        self.bandwidth_bps, self.rtt_ns = 10_000_000, 280_000_000
        self.measured_at = "2026-01-01T12:00:00+00:00"
        self.jitter_ns: int | None = None
        self.loss_ppm: int | None = None
        self.asked = 0
        self.meanwhile: Callable[[], object] = lambda: None

    def app(self) -> Starlette:
        route = Route("/messages", message_endpoint(self.handle), methods=["POST"])
        return Starlette(routes=[route], exception_handlers=exception_handlers())

    def handle(self, envelope: Envelope) -> Message:
        request = envelope.message
        assert isinstance(request, ChannelInfoGetRequest)
        self.asked += 1
        self.meanwhile()
        return ChannelInfoGetResponse(
            local_port=request.local_port,
            remote_port=request.remote_port,
            bandwidth_bps=self.bandwidth_bps,
            rtt_ns=self.rtt_ns,
            jitter_ns=self.jitter_ns,
            loss_ppm=self.loss_ppm,
            measured_at=self.measured_at,
            method="stand-in",
        )


class Clock:
    """UTC that moves when told."""

    def __init__(self) -> None:
        self.now = datetime(2026, 1, 1, 12, 0, tzinfo=UTC)

    def __call__(self) -> datetime:
        return self.now

    def advance(self, seconds: float) -> None:
        self.now += timedelta(seconds=seconds)


class Site:
    """A station between two stand-in arrays, with a stand-in device."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.master, self.remote = StandInArray("M", LOCAL), StandInArray("R", REMOTE)
        self.probe, self.clock = StandInProbe(), Clock()
        self.servers: dict[str, ServerThread] = {}
        self.station = self.open_station()

    def address(self, name: str) -> str:
        return f"unix:{self.directory}/{name}.sock"

    def open_station(self) -> Station:
        """Another station on the same state, as after a restart; the caller closes the first."""
        return Station(
            store=open_store(self.directory / "state"),
            arrays=Arrays(
                {name: Peer(self.address(name), PATIENCE_S, name=f"array {name}", retries=0) for name in "MR"}
            ),
            probes=(Peer(self.address("probe"), PATIENCE_S, retries=0, name="the measuring device"),),
            utc_now=self.clock,
        )

    def up(self, name: str) -> None:
        app = {"M": self.master.app, "R": self.remote.app, "probe": self.probe.app}[name]()
        self.servers[name] = ServerThread(app, self.address(name)).start()

    def down(self, name: str) -> None:
        self.servers.pop(name).stop()


@contextmanager
def site(directory: Path) -> Iterator[Site]:
    """A :class:`Site` with everything up, until the block ends."""
    made = Site(directory)
    try:
        for name in ("M", "R", "probe"):
            made.up(name)
        yield made
    finally:
        made.station.close()
        with ThreadPoolExecutor(3) as pool:
            list(pool.map(made.down, list(made.servers)))
