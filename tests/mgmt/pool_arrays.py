"""Arrays for tests of the station: the product's own pools and messages on a real socket, without disks and hosts."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse
from starlette.routing import Route

from credits.config import PoolConfig, UnitKind
from credits.durable import DurablePool
from credits.errors import Code, InvalidRequest
from mgmt.array import tables
from mgmt.array.interface import CommunicationInterface
from mgmt.http import Peer, ServerThread, exception_handlers, message_endpoint
from mgmt.messages import (
    BadMessage,
    BufferHoldRequest,
    BufferReserveRequest,
    CacheFree,
    CacheFreeQuery,
    CacheThresholdSetRequest,
    Envelope,
    HoldConfirmRequest,
    HoldVoidRequest,
    InterfaceInfoGetRequest,
    Message,
    ReservationPreviewRequest,
    ReservationReleaseRequest,
    ReservedBufferEnlargeRequest,
    ReservedBufferUpdateRequest,
)
from mgmt.station.arrays import Arrays
from mgmt.station.context import Station
from mgmt.station.store import Store
from tests.mgmt.station_stand_ins import PATIENCE_S, Clock, StandInProbe

LOCAL, REMOTE = "192.0.2.1", "192.0.2.2"
SECOND, SECOND_REMOTE = "192.0.2.11", "192.0.2.12"
UNIT = 1000


class PoolArray:
    """One array: a pool of its own with the product's interface before it."""

    def __init__(self, name: str, ports: tuple[str, ...], units: int) -> None:
        self.name, self.ports = name, ports
        config = PoolConfig(name="if0", kind=UnitKind.TCP, unit_bytes=UNIT, total_units=units)
        self.pool = DurablePool.open(None, config)
        self.interface = CommunicationInterface("if0", self.pool, time.monotonic_ns)
        self.cache = CacheFree(size_bytes=1000, free_bytes=1000, threshold_bytes=0)
        self.credit_zero: dict[str, float] = {}
        self.before: Callable[[Message], object] = lambda message: None
        self.seen: list[Message] = []

    def app(self) -> Starlette:
        reads: dict[str, Callable[[], Any]] = {
            "info": self.info,
            "pools": lambda: tables.pools(self.name, [self.interface], self.credit_zero),
            "reservations": lambda: tables.reservations(self.name, [self.interface]),
            "allocations": lambda: tables.allocations(self.name, [self.interface]),
            "buffer-ids": lambda: tables.buffer_ids(self.name, [self.interface]),
            "copies": list,
        }

        async def table(request: Request) -> JSONResponse:
            return JSONResponse(reads[request.path_params["name"]]())

        routes = [
            Route("/messages", message_endpoint(self.handle), methods=["POST"]),
            Route("/v1/{name}", table),
        ]
        return Starlette(routes=routes, exception_handlers=exception_handlers())

    def info(self) -> dict[str, Any]:
        ports = [
            {"address": port, "interface": "if0", "iscsi_port": 1, "iqn": "iqn.x"} for port in self.ports
        ]
        return {"name": self.name, "ports": ports, "volumes": []}

    def handle(self, envelope: Envelope) -> Message:
        message, request_id = envelope.message, envelope.request_id
        self.seen.append(message)
        self.before(message)
        match message:
            case InterfaceInfoGetRequest():
                return self.interface.information(message)
            case BufferReserveRequest():
                return self.interface.reserve(message, request_id)
            case BufferHoldRequest():
                return self.interface.hold(message, request_id)
            case HoldConfirmRequest():
                return self.interface.confirm(message, request_id)
            case HoldVoidRequest():
                return self.interface.void(message, request_id)
            case ReservedBufferUpdateRequest():
                return self.interface.update(message, request_id)
            case ReservedBufferEnlargeRequest():
                return self.interface.enlarge(message, request_id)
            case ReservationPreviewRequest():
                return self.interface.preview(message)
            case ReservationReleaseRequest():
                return self.interface.release(message, request_id)
            case CacheFreeQuery():
                return self.cache
            case CacheThresholdSetRequest():
                if message.threshold_bytes >= self.cache.size_bytes:
                    raise InvalidRequest(Code.INVALID_SIZE, "the cache is smaller")
                self.cache = replace(self.cache, threshold_bytes=message.threshold_bytes)
                return self.cache
            case _:
                raise BadMessage("not here")

    def reserved(self) -> dict[str, int]:
        """Units by target, as table 101 has them."""
        rows = self.pool.reservation_table()
        return {str(row.target): row.reserved_units for row in rows if row.state != "released"}

    def messages(self, kind: type) -> list[Any]:
        return [message for message in self.seen if isinstance(message, kind)]


class Yard:
    """A station between two such arrays, M and R, with two ports each."""

    def __init__(self, directory: Path, open_it: Callable[[], Store], units: int) -> None:
        self.directory, self.open_it = directory, open_it
        self.master = PoolArray("M", (LOCAL, SECOND), units)
        self.remote = PoolArray("R", (REMOTE, SECOND_REMOTE), units)
        self.probe, self.clock = StandInProbe(), Clock()
        self.servers: dict[str, ServerThread] = {}
        for name in ("M", "R", "probe"):
            self.up(name)
        self.station = self.open_station()

    def open_station(self) -> Station:
        return Station(
            store=self.open_it(),
            arrays=Arrays(
                {name: Peer(self.address(name), PATIENCE_S, name=f"array {name}", retries=0) for name in "MR"}
            ),
            probes=(Peer(self.address("probe"), PATIENCE_S, retries=0, name="the measuring device"),),
            utc_now=self.clock,
        )

    def restart(self) -> Station:
        self.station.close()
        self.station = self.open_station()
        return self.station

    def address(self, name: str) -> str:
        return f"unix:{self.directory}/{name}.sock"

    def up(self, name: str) -> None:
        app = {"M": self.master.app, "R": self.remote.app, "probe": self.probe.app}[name]()
        self.servers[name] = ServerThread(app, self.address(name)).start()

    def down(self, name: str) -> None:
        self.servers.pop(name).stop()

    def close(self) -> None:
        self.station.close()
        with ThreadPoolExecutor(3) as pool:
            list(pool.map(self.down, list(self.servers)))
        for array in (self.master, self.remote):
            array.pool.close()


@contextmanager
def yard(directory: Path, open_it: Callable[[], Store], units: int = 3000) -> Iterator[Yard]:
    """A :class:`Yard` until the block ends."""
    with ExitStack() as stack:
        made = Yard(directory, open_it, units)
        stack.callback(made.close)
        yield made
