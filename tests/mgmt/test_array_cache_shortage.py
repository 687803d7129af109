"""Embodiment 5 at the array: a copy whose cache runs short asks the station (M12), and is asked (M13, M14, M16)."""

from __future__ import annotations

import asyncio
import os
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from starlette.applications import Starlette
from starlette.routing import Route

from credits.errors import Code
from credits.targets import port_pair
from iscsi_target.initiator import Initiator
from mgmt.array.cache.shortage import ShortageWatch
from mgmt.http import PeerRefused, ServerThread, exception_handlers, message_endpoint
from mgmt.messages import (
    BufferControlAutomationRequest,
    BufferControlAutomationResponse,
    CacheFree,
    CacheFreeQuery,
    CacheThresholdSetRequest,
    CopyStopRequest,
    Envelope,
    Message,
    ReservedBufferEnlargeRequest,
    ReservedBufferUpdateResponse,
)
from tests.mgmt.array_processes import (
    MASTER,
    PAIR,
    REMOTE,
    ArrayProcess,
    array,
    configured_array,
    start_copy,
    start_requests,
)

MIB = 1 << 20
OTHER = port_pair("a", "b")
#: Of a cache of 4 MiB: half a MiB that has not gone to its disk is a shortage. A page goes after a second, and a busy
#: machine may need as long to write much more.
WARNING = 7 * MIB // 2


# --- when to ask -------------------------------------------------------------------------------------------


def test_at_the_threshold_each_target_is_asked_for_once() -> None:
    watch = ShortageWatch(64 * MIB, 8 * MIB)
    assert watch.observe(9 * MIB, [PAIR]) == []
    assert watch.observe(8 * MIB, [PAIR]) == [PAIR], "push: at the threshold or below (paragraph 104)"
    assert watch.observe(7 * MIB, [PAIR, OTHER]) == [OTHER]
    assert watch.observe(0, [PAIR, OTHER]) == []


def test_it_is_armed_again_well_above_the_threshold_only() -> None:
    watch = ShortageWatch(100 * MIB, 8 * MIB)
    assert watch.observe(8 * MIB, [PAIR]) == [PAIR]
    assert watch.observe(13 * MIB - 1, [PAIR]) == []
    assert watch.observe(8 * MIB, [PAIR]) == []
    assert watch.observe(13 * MIB, [PAIR]) == []
    assert watch.observe(8 * MIB, [PAIR]) == [PAIR]


def test_what_the_station_did_not_hear_is_said_again_and_a_new_threshold_starts_afresh() -> None:
    watch = ShortageWatch(64 * MIB, 8 * MIB)
    assert watch.observe(MIB, [PAIR]) == [PAIR]
    watch.not_heard(PAIR)
    assert watch.observe(MIB, [PAIR]) == [PAIR]
    watch.set_threshold(9 * MIB)
    assert watch.observe(MIB, [PAIR]) == [PAIR]
    watch.set_threshold(0)
    assert watch.observe(0, [PAIR]) == []


# --- a running array ---------------------------------------------------------------------------------------


class StubStation:
    """Hears M12 and answers that it enlarges nothing."""

    def __init__(self) -> None:
        self.heard: list[BufferControlAutomationRequest] = []
        self.rang = threading.Event()

    def handle(self, envelope: Envelope) -> Message:
        message = envelope.message
        assert isinstance(message, BufferControlAutomationRequest)
        self.heard.append(message)
        self.rang.set()
        return BufferControlAutomationResponse(
            target=message.target, recommended_bytes=message.reserved_bytes, enlarges=False
        )


@contextmanager
def stub_station(path: Path) -> Iterator[StubStation]:
    station = StubStation()
    routes = [Route("/messages", message_endpoint(station.handle), methods=["POST"])]
    server = ServerThread(Starlette(routes=routes, exception_handlers=exception_handlers()), f"unix:{path}")
    server.start()
    try:
        yield station
    finally:
        server.stop()


async def write(port: dict[str, Any], lun: int, data: bytes, lba: int = 0) -> None:
    initiator = await Initiator.login(
        port["address"], port["iscsi_port"], port["iqn"], initiator_iqn="iqn.2026-11.example:host"
    )
    try:
        for offset in range(0, len(data), 65536):
            await initiator.write(lun, lba + offset // 512, data[offset : offset + 65536])
    finally:
        await initiator.logout()


def cached(tmp_path: Path, more: str = "") -> str:
    return f"""
station = "unix:{tmp_path / "station.sock"}"
port_address = "{MASTER}"
iscsi_port = 0
unit = "2048B"
units = 100
{more}
[[volume]]
name = "vol0"
store = "4GiB"
[[volume]]
name = "hosts"
store = "8MiB"
[cache]
size = "4MiB"
warning = "{WARNING}B"
high_percent = 100
low_percent = 99
"""


def free(running: ArrayProcess) -> CacheFree:
    answer = running.peer.send(CacheFreeQuery())
    assert isinstance(answer, CacheFree)
    return answer


@pytest.mark.slow
def test_a_copy_under_way_makes_a_short_cache_ask_the_station_once(tmp_path: Path) -> None:
    """Paragraph 104: 103 collects the free size; at the threshold M12 names the pair and its reserved size."""
    with (
        stub_station(tmp_path / "station.sock") as station,
        configured_array(tmp_path, "east", cached(tmp_path)) as east,
        array(tmp_path, "west", REMOTE, "--volume", "vol0=4GiB") as west,
    ):
        east.reserve(2 * 2048)
        assert not any(
            isinstance(answer, PeerRefused) for answer in start_copy(east, start_requests(west.port, 1, 1))
        )
        assert free(east).free_bytes == 4 * MIB and not station.heard, "not short yet"
        while not station.rang.is_set():  # the test's own time-out bounds it
            asyncio.run(write(east.port, 1, os.urandom(MIB)))
        east.wait_for(lambda status: status.acknowledged_bytes > 0 or status.state != "copying")
        message = station.heard[0]
        assert (message.array, message.target, message.reserved_bytes) == ("east", PAIR, 2 * 2048)
        assert message.free_bytes <= WARNING == message.threshold_bytes
        east.peer.send(CopyStopRequest(copy_id="c1"))


@pytest.mark.slow
def test_without_a_copy_a_short_cache_asks_nobody_and_the_station_may_ask_and_enlarge(tmp_path: Path) -> None:
    """Claims 8 and 21: the free size on request, and units from the free list to the reservation, never back."""
    with (
        stub_station(tmp_path / "station.sock") as station,
        configured_array(tmp_path, "east", cached(tmp_path)) as east,
    ):
        assert free(east) == CacheFree(size_bytes=4 * MIB, free_bytes=4 * MIB, threshold_bytes=WARNING)
        while (
            free(east).free_bytes > WARNING
        ):  # pages go to their disks after a second: on a slow machine again
            asyncio.run(write(east.port, 1, os.urandom(MIB)))
        (row,) = east.table("cache")
        assert row["dirty_bytes"] + row["free_bytes"] == 4 * MIB and row["failing"] == {}
        east.reserve(40 * 2048)
        enlarged = east.peer.send(ReservedBufferEnlargeRequest(target=PAIR, size_bytes=50 * 2048))
        assert isinstance(enlarged, ReservedBufferUpdateResponse)
        assert (enlarged.previous_units, enlarged.reserved_units, east.pool["free_units"]) == (40, 50, 50)
        with pytest.raises(PeerRefused) as refusal:
            east.peer.send(ReservedBufferEnlargeRequest(target=PAIR, size_bytes=45 * 2048))
        assert refusal.value.code == Code.INVALID_SIZE
        assert east.pool["free_units"] == 50
        answer = east.peer.send(CacheThresholdSetRequest(threshold_bytes=2 * MIB))
        assert isinstance(answer, CacheFree) and answer.threshold_bytes == 2 * MIB
        with pytest.raises(PeerRefused, match="from 0 to"):
            east.peer.send(CacheThresholdSetRequest(threshold_bytes=4 * MIB))
        assert station.heard == []


@pytest.mark.slow
def test_an_array_without_a_cache_says_so(tmp_path: Path) -> None:
    with array(tmp_path, "east", MASTER) as east:
        assert east.table("cache") == []
        with pytest.raises(PeerRefused, match="has no cache memory"):
            free(east)


@pytest.mark.slow
def test_what_a_host_was_told_is_written_survives_a_kill_of_the_array(tmp_path: Path) -> None:
    image = tmp_path / "a.img"
    arguments = ("--volume", f"vol0={image}:4MiB", "--state", str(tmp_path / "state"), "--cache", "8MiB")
    with array(tmp_path, "east", MASTER, *arguments) as east:
        written_back = True
        while written_back:  # after a second: on a slow machine try again
            data = os.urandom(3 * MIB)
            asyncio.run(write(east.port, 0, data, lba=64))
            written_back = image.read_bytes()[32768 : 32768 + len(data)] == data
        east.process.send_signal(signal.SIGKILL)
        east.process.wait(60)
    with array(tmp_path, "east", MASTER, *arguments) as east:
        assert image.read_bytes() == bytes(32768) + data + bytes(4 * MIB - 32768 - len(data))
        asyncio.run(write(east.port, 0, b"z" * 65536))
        east.process.send_signal(signal.SIGTERM)
        assert east.process.wait(60) == 0
    assert image.read_bytes()[:65536] == b"z" * 65536, "a clean end writes back"
    assert not (tmp_path / "state" / "cache").exists()


@pytest.mark.slow
def test_a_cache_that_holds_a_volume_which_is_gone_keeps_the_array_down(tmp_path: Path) -> None:
    state = ("--state", str(tmp_path / "state"), "--cache", "8MiB")
    with array(tmp_path, "east", MASTER, "--volume", f"vol0={tmp_path / 'a.img'}:4MiB", *state) as east:
        asyncio.run(write(east.port, 0, os.urandom(65536)))
        east.process.send_signal(signal.SIGKILL)
        east.process.wait(60)
    with (
        pytest.raises(AssertionError, match="did not start"),
        array(tmp_path, "east", MASTER, "--volume", f"vol1={tmp_path / 'a.img'}", *state),
    ):
        pass
    with array(tmp_path, "east", MASTER, "--volume", f"vol0={tmp_path / 'a.img'}", *state):
        pass
