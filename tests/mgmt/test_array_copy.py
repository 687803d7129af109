"""Two arrays as real processes: what a reservation is for (claims 1 and 4), and what happens when things break."""

from __future__ import annotations

import asyncio
import itertools
import os
import signal
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from credits.errors import Code
from credits.targets import Target, new_connection, port_pair_number, volume_pair
from iscsi_target.initiator import Initiator
from iscsi_target.plain_connection import PlainConnection
from mgmt.http import PeerRefused
from mgmt.messages import (
    BufferReserveRequest,
    CopyStartResponse,
    CopyStatus,
    CopyStatusRequest,
    CopyStopRequest,
    ReservationReleaseRequest,
    ReservedBufferUpdateRequest,
)
from tests.mgmt.array_processes import (
    MASTER,
    PAIR,
    REMOTE,
    ArrayProcess,
    array,
    start_copy,
    start_requests,
)

pytestmark = pytest.mark.slow

MIB = 1 << 20
UNIT = 16384
IMAGE_BYTES = 8 * MIB
HOST = "127.0.0.3"


@contextmanager
def pair_of_arrays(
    directory: Path, *master_arguments: str, size_bytes: int = IMAGE_BYTES, random: bool = True
) -> Iterator[tuple[ArrayProcess, ArrayProcess]]:
    """A master array with an image and a remote array with an empty volume of the same size."""
    image = directory / "master.img"
    with image.open("wb") as file:
        if random:
            file.write(os.urandom(size_bytes))
        file.truncate(size_bytes)
    master_volume = ("--volume", f"vol0={image}", *master_arguments)
    remote_volume = ("--volume", f"vol0={directory / 'remote.img'}:{size_bytes}", "--units", "64")
    with (
        array(directory, "master", MASTER, *master_volume) as master,
        array(directory, "remote", REMOTE, *remote_volume) as remote,
    ):
        yield master, remote


class Storm(threading.Thread):
    """Hosts that read large from the master array and then do not take what comes, until :meth:`end`."""

    def __init__(self, port: dict[str, Any], hosts: int) -> None:
        super().__init__(name="storm")
        self._port = port
        self._hosts = hosts
        self._ended: asyncio.Event | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._reading = threading.Event()

    def __enter__(self) -> Storm:
        self.start()
        assert self._reading.wait(60)
        return self

    def __exit__(self, *_: object) -> None:
        assert self._loop is not None
        assert self._ended is not None
        self._loop.call_soon_threadsafe(self._ended.set)
        self.join(60)
        assert not self.is_alive()

    def run(self) -> None:
        asyncio.run(self._storm())

    async def _storm(self) -> None:
        self._loop, self._ended = asyncio.get_running_loop(), asyncio.Event()
        hosts = [await self._host() for _ in range(self._hosts)]
        reads = [asyncio.create_task(host.read(0, 0, 2 * MIB // 512)) for host in hosts]
        self._reading.set()
        await self._ended.wait()
        for host in hosts:
            await host.abort()
        await asyncio.gather(*reads, return_exceptions=True)

    async def _host(self) -> Initiator:
        gate = asyncio.Event()
        gate.set()

        async def connect(host: str, port: int) -> StallingConnection:
            stream = await PlainConnection.open(host, port, receive_buffer_bytes=4096, source_host=HOST)
            return StallingConnection(stream, gate)

        session = await Initiator.login(
            self._port["address"], self._port["iscsi_port"], self._port["iqn"], connect=connect
        )
        gate.clear()
        return session


class StallingConnection:
    """A connection that reads nothing while its gate is closed."""

    def __init__(self, stream: PlainConnection, gate: asyncio.Event) -> None:
        self._stream = stream
        self._gate = gate
        self.write = stream.write
        self.close = stream.close
        self.abort = stream.abort

    async def read(self) -> bytes:
        await self._gate.wait()
        return await self._stream.read()


def until(true: Callable[[], bool]) -> None:
    """Poll; the test's own time-out bounds it."""
    while not true():
        time.sleep(0.005)


def all_up(answers: list[CopyStartResponse | PeerRefused]) -> list[CopyStartResponse]:
    assert all(isinstance(answer, CopyStartResponse) for answer in answers), answers
    return [answer for answer in answers if isinstance(answer, CopyStartResponse)]


def test_without_a_reservation_a_storm_of_hosts_keeps_the_copy_from_starting(tmp_path: Path) -> None:
    with pair_of_arrays(tmp_path, "--units", "64") as (master, remote):
        with Storm(master.port, hosts=8):
            until(lambda: master.pool["free_units"] == 0)
            answers = start_copy(master, start_requests(remote.port))
            for answer in answers:
                assert isinstance(answer, PeerRefused)
                assert answer.code == Code.NO_MEMORY
                assert answer.shortage is not None
                assert answer.shortage.free_units == 0
                assert answer.shortage.holders
            status = master.wait_until_over()
            assert status.state == "failed"
            assert status.error.startswith("0 of 6 connections started: no memory")
            assert status.acknowledged_bytes == 0
        until(lambda: master.pool["free_units"] == 64)


def test_with_a_reservation_the_same_storm_does_not_hinder_the_copy(tmp_path: Path) -> None:
    with pair_of_arrays(tmp_path, "--units", "64") as (master, remote):
        assert master.reserve(30 * UNIT) == 30
        with Storm(master.port, hosts=8):
            until(lambda: master.pool["free_units"] == 0)
            answers = all_up(start_copy(master, start_requests(remote.port)))
            assert sum(answer.allocated_units for answer in answers) == 30
            most_in_use = 0
            while (status := master.status()).state not in ("done", "failed", "stopped"):
                (reservation,) = master.table("reservations")
                most_in_use = max(most_in_use, reservation["in_use_units"])
                assert master.pool["free_units"] == 0
            assert status.state == "done", status.error
            assert most_in_use <= 30
            (copy,) = master.table("copies")
            assert 0 < copy["max_in_flight_bytes"] <= 30 * UNIT
            pool = master.pool
            assert (pool["free_units"], pool["reserved_idle_units"]) == (0, 30)
        assert master.digest() == remote.digest()
        until(lambda: master.pool["free_units"] == 34)


def test_a_copy_without_a_storm_needs_no_reservation_and_returns_its_units_to_the_free_list(
    tmp_path: Path,
) -> None:
    with pair_of_arrays(tmp_path) as (master, remote):
        answers = all_up(start_copy(master, start_requests(remote.port)))
        assert {answer.allocated_units for answer in answers} == {16}
        status = master.wait_until_over()
        assert (status.state, status.error, status.connections) == ("done", "", 6)
        assert status.copied_bytes == status.acknowledged_bytes == status.total_bytes == IMAGE_BYTES
        assert status.goodput_bps > 0
        assert status.seconds > 0
        assert master.digest() == remote.digest()
        assert master.pool["free_units"] == 256


def test_a_small_reservation_is_shared_by_every_connection(tmp_path: Path) -> None:
    with pair_of_arrays(tmp_path) as (master, remote):
        master.reserve(8 * UNIT)
        answers = all_up(start_copy(master, start_requests(remote.port)))
        assert sorted(answer.allocated_units for answer in answers) == [1, 1, 1, 1, 2, 2]
        assert master.wait_until_over().state == "done"
        assert master.digest() == remote.digest()


def test_more_connections_than_reserved_units_is_a_partial_start_that_is_reported(tmp_path: Path) -> None:
    with pair_of_arrays(tmp_path) as (master, remote):
        master.reserve(4 * UNIT)
        answers = start_copy(master, start_requests(remote.port))
        refused = [answer for answer in answers if isinstance(answer, PeerRefused)]
        assert [refusal.code for refusal in refused] == [Code.OVER_RESERVATION] * 2
        status = master.wait_until_over()
        assert (status.state, status.connections) == ("done", 4)
        assert status.error.startswith("4 of 6 connections started: beyond the reservation")
        assert master.digest() == remote.digest()


def test_the_predetermined_number_can_be_set(tmp_path: Path) -> None:
    with pair_of_arrays(tmp_path, "--allocation-units", "5") as (master, remote):
        master.reserve(40 * UNIT)
        answers = all_up(start_copy(master, start_requests(remote.port)))
        assert {answer.allocated_units for answer in answers} == {5}
        assert master.wait_until_over().state == "done"


@pytest.mark.parametrize(
    ("reserved", "asked"),
    [
        (port_pair_number(MASTER, REMOTE, 0), PAIR),  # 0 stands for the remote array's real port number
        (volume_pair("vol0", "vol0"), volume_pair("vol0", "vol0")),
        (new_connection(MASTER, REMOTE), new_connection(MASTER, REMOTE)),
        (PAIR, new_connection(MASTER, REMOTE)),
    ],
    ids=str,
)
def test_a_copy_lives_on_the_most_specific_reservation_that_fits(
    tmp_path: Path, reserved: Target, asked: Target
) -> None:
    with pair_of_arrays(tmp_path, size_bytes=MIB) as (master, remote):
        if reserved.remote_port_number is not None:
            reserved = replace(reserved, remote_port_number=remote.port["iscsi_port"])
        if reserved != PAIR:
            master.reserve(3 * UNIT, PAIR)
        master.reserve(6 * UNIT, reserved)
        answers = all_up(start_copy(master, start_requests(remote.port, 1, 1, target=asked)))
        assert [answer.allocated_units for answer in answers] == [6]
        assert master.wait_until_over().state == "done"
        assert master.digest() == remote.digest()


def test_a_retried_start_request_gets_the_first_answer_and_takes_nothing_more(tmp_path: Path) -> None:
    with pair_of_arrays(tmp_path) as (master, remote):
        master.reserve(12 * UNIT)
        (request,) = start_requests(remote.port, sessions=1, connections=1)
        first = master.peer.send(request, "key")
        assert master.peer.send(request, "key") == first
        assert master.wait_until_over().state == "done"
        assert master.peer.send(request, "key") == first
        with pytest.raises(PeerRefused) as refusal:
            master.peer.send(request, "another key")
        assert refusal.value.code == Code.BAD_MESSAGE
        with pytest.raises(PeerRefused, match="something else"):
            master.peer.send(start_requests(remote.port)[0], "key")


def test_a_remote_array_that_is_killed_fails_the_copy_and_the_reservation_stays(tmp_path: Path) -> None:
    with pair_of_arrays(tmp_path, size_bytes=1024 * MIB, random=False) as (master, remote):
        master.reserve(30 * UNIT)
        port = remote.port
        all_up(start_copy(master, start_requests(port)))
        master.wait_for(lambda status: status.acknowledged_bytes > 0)
        remote.process.send_signal(signal.SIGKILL)
        status = master.wait_until_over()
        assert status.state == "failed"
        assert "was lost" in status.error
        assert f"iscsi://{REMOTE}:{port['iscsi_port']}/{port['iqn']}" in status.error
        assert "start the copy again" in status.error
        assert "\n" not in status.error
        assert 0 < status.acknowledged_bytes < status.total_bytes
        pool = master.pool
        assert (pool["in_use_units"], pool["reserved_idle_units"]) == (0, 30)


def test_a_copy_can_be_stopped_and_its_units_go_back_to_the_reservation(tmp_path: Path) -> None:
    with pair_of_arrays(tmp_path, size_bytes=1024 * MIB, random=False) as (master, remote):
        master.reserve(30 * UNIT)
        all_up(start_copy(master, start_requests(remote.port)))
        with pytest.raises(PeerRefused) as refusal:
            master.peer.send(ReservationReleaseRequest(target=PAIR))
        assert refusal.value.code == Code.BUSY
        status = master.peer.send(CopyStopRequest(copy_id="c1"))
        assert isinstance(status, CopyStatus)
        assert (status.state, status.error) == ("stopped", "")
        assert master.pool["reserved_idle_units"] == 30
        master.peer.send(ReservationReleaseRequest(target=PAIR))
        assert master.pool["free_units"] == 256


def test_a_running_copy_follows_its_reservation_up_and_down(tmp_path: Path) -> None:
    with pair_of_arrays(tmp_path, size_bytes=1024 * MIB, random=False) as (master, remote):
        master.reserve(30 * UNIT)
        all_up(start_copy(master, start_requests(remote.port)))
        for units in (12, 60, 18):
            update = ReservedBufferUpdateRequest(target=PAIR, recommended_bytes=units * UNIT)
            master.peer.send(update)
            until(lambda: master.pool["draining_units"] == master.pool["reserved_idle_units"] == 0)
            assert (master.pool["in_use_units"], master.pool["free_units"]) == (units, 256 - units)
            before = master.status().acknowledged_bytes
            assert master.wait_for(lambda status: status.acknowledged_bytes > before).state == "copying"  # noqa: B023
        assert master.peer.send(CopyStopRequest(copy_id="c1"))
        assert master.pool["reserved_idle_units"] == 18


def test_a_copy_that_was_resized_on_its_way_is_still_equal(tmp_path: Path) -> None:
    with pair_of_arrays(tmp_path, size_bytes=32 * MIB) as (master, remote):
        master.reserve(30 * UNIT)
        all_up(start_copy(master, start_requests(remote.port)))
        sizes = itertools.cycle((7, 40, 6, 23))
        while master.status().state == "copying":
            update = ReservedBufferUpdateRequest(target=PAIR, recommended_bytes=next(sizes) * UNIT)
            master.peer.send(update)
            time.sleep(0.01)
        assert master.wait_until_over().state == "done"
        assert master.digest() == remote.digest()
        assert master.pool["in_use_units"] == 0


def test_an_array_that_is_told_to_end_in_the_middle_of_a_copy_ends_cleanly(tmp_path: Path) -> None:
    with pair_of_arrays(tmp_path, size_bytes=1024 * MIB, random=False) as (master, remote):
        all_up(start_copy(master, start_requests(remote.port)))
        master.process.send_signal(signal.SIGTERM)
        assert master.process.wait(60) == 0
        assert not (tmp_path / "master.sock").exists()
        until(lambda: remote.pool["free_units"] == 64)


def test_copies_are_still_known_after_the_array_was_killed(tmp_path: Path) -> None:
    again = ("--volume", f"vol0={tmp_path / 'master.img'}", "--state", str(tmp_path / "state"))
    with pair_of_arrays(tmp_path, *again[2:], size_bytes=MIB) as (master, remote):
        all_up(start_copy(master, start_requests(remote.port)))
        assert master.wait_until_over().state == "done"
    os.truncate(tmp_path / "master.img", 1024 * MIB)
    os.truncate(tmp_path / "remote.img", 1024 * MIB)
    remote_volume = ("--volume", f"vol0={tmp_path / 'remote.img'}", "--units", "64")
    with array(tmp_path, "remote", REMOTE, *remote_volume) as remote:
        with array(tmp_path, "master", MASTER, *again) as master:
            all_up(start_copy(master, start_requests(remote.port, copy_id="c2")))
            master.wait_for(lambda status: status.acknowledged_bytes > 0, "c2")
            master.process.send_signal(signal.SIGKILL)
            master.process.wait(60)
        with array(tmp_path, "master", MASTER, *again) as master:
            done, interrupted = master.table("copies")
            assert (done["copy_id"], done["state"], done["progress"]) == ("c1", "done", 1.0)
            assert (interrupted["copy_id"], interrupted["state"]) == ("c2", "failed")
            assert interrupted["error"].startswith(f"interrupted at {interrupted['acknowledged_bytes']} of ")
            assert (interrupted["in_flight_bytes"], interrupted["reserved_bytes"]) == (0, 0)
            assert master.status("c2").state == "failed"
            refused = start_copy(master, start_requests(remote.port, 1, 1, copy_id="c2"))[0]
            assert isinstance(refused, PeerRefused) and "take a new name" in refused.detail


def test_a_remote_array_that_is_not_there_is_unreachable_and_the_units_are_back(tmp_path: Path) -> None:
    with pair_of_arrays(tmp_path) as (master, remote), socket.socket() as nobody:
        nobody.bind((REMOTE, 0))  # bound, but nobody listens
        master.reserve(30 * UNIT)
        port = remote.port | {"iscsi_port": nobody.getsockname()[1]}
        answers = start_copy(master, start_requests(port))
        assert {getattr(answer, "code", None) for answer in answers} == {Code.UNREACHABLE}
        status = master.wait_until_over()
        assert status.state == "failed"
        assert f"cannot connect to {REMOTE}" in status.error
        assert master.pool["reserved_idle_units"] == 30


def test_a_remote_disk_that_is_full_fails_the_copy_with_one_line(tmp_path: Path) -> None:
    image = tmp_path / "master.img"
    image.write_bytes(os.urandom(4 * MIB))
    small_disk = ("--volume", f"vol0={tmp_path / 'remote.img'}:{4 * MIB}")
    with (
        array(tmp_path, "master", MASTER, "--volume", f"vol0={image}") as master,
        array(tmp_path, "remote", REMOTE, *small_disk) as remote,
    ):
        # From here on the remote process may not write beyond the first MiB of any file.
        import resource

        resource.prlimit(remote.process.pid, resource.RLIMIT_FSIZE, (MIB, MIB))
        all_up(start_copy(master, start_requests(remote.port)))
        status = master.wait_until_over()
        assert status.state == "failed"
        assert f"iscsi://{REMOTE}:" in status.error
        assert "refused" in status.error
        assert "\n" not in status.error
        assert master.pool["free_units"] == 256
        assert remote.pool["free_units"] == 256, "the remote array still answers"


def test_start_requests_that_cannot_be_are_refused_and_nothing_is_held(tmp_path: Path) -> None:
    cases: list[tuple[dict[str, Any], Code, str]] = [
        ({"volume": "vol9"}, Code.INVALID_TARGET, "there are: vol0"),
        ({"remote_lun": 5}, Code.UNREACHABLE, "refused"),
        ({"remote_iqn": "iqn.2026-11.example:nobody"}, Code.UNREACHABLE, "not found"),
        ({"remote_lun": -1}, Code.BAD_MESSAGE, "remote_lun"),
        ({"remote_port_number": 0}, Code.BAD_MESSAGE, "remote_port_number"),
        ({"sessions": 0}, Code.BAD_MESSAGE, "at least one"),
        ({"sessions": 1000}, Code.BAD_MESSAGE, "at most 256"),
        ({"session": 7}, Code.BAD_MESSAGE, "outside"),
        ({"copy_id": ""}, Code.BAD_MESSAGE, "copy_id"),
    ]
    with pair_of_arrays(tmp_path, size_bytes=MIB) as (master, remote):
        (sound,) = start_requests(remote.port, sessions=1, connections=1)
        for number, (changes, code, text) in enumerate(cases):
            request = replace(sound, **({"copy_id": f"c{number}"} | changes))
            with pytest.raises(PeerRefused) as refusal:
                master.peer.send(request)
            assert refusal.value.code == code, changes
            assert text in str(refusal.value), changes
            assert master.pool["free_units"] == 256


def test_a_smaller_remote_volume_is_refused_before_any_data(tmp_path: Path) -> None:
    image = tmp_path / "master.img"
    image.write_bytes(os.urandom(2 * MIB))
    with (
        array(tmp_path, "master", MASTER, "--volume", f"vol0={image}") as master,
        array(tmp_path, "remote", REMOTE, "--volume", f"vol0={tmp_path / 'remote.img'}:{MIB}") as remote,
    ):
        answers = start_copy(master, start_requests(remote.port))
        assert all(isinstance(answer, PeerRefused) for answer in answers)
        assert "the volume has 2097152" in master.wait_until_over().error
        assert master.pool["free_units"] == 256


def test_an_unknown_copy_is_not_found(tmp_path: Path) -> None:
    with (
        array(tmp_path, "master", MASTER) as master,
        pytest.raises(PeerRefused, match="there is no copy 'c9' here") as refusal,
    ):
        master.peer.send(CopyStatusRequest(copy_id="c9"))
    assert refusal.value.status == 404


def test_a_retried_reserve_over_the_wire_gets_the_first_answer(tmp_path: Path) -> None:
    with array(tmp_path, "master", MASTER) as master:
        request = BufferReserveRequest(target=PAIR, requested_bytes=5 * UNIT)
        assert master.peer.send(request, "same") == master.peer.send(request, "same")
        assert master.pool["free_units"] == 251
