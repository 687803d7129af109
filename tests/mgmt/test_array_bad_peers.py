"""Peers of an array that lie, stall, flood, repeat, or are not who they should be: bounded cost, one clear line."""

from __future__ import annotations

import asyncio
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from credits.errors import Code
from iscsi_target.errors import ConnectionLost, IscsiError
from iscsi_target.faults.actions import Drop
from iscsi_target.initiator import Initiator
from iscsi_target.running import serve
from mgmt.http import PeerRefused
from mgmt.messages import BufferReserveRequest, CopyStatus, CopyStopRequest
from tests.iscsi_target.test_initiator_tgtd import IQN as TGTD
from tests.iscsi_target.test_initiator_tgtd import tgtd as tgtd  # a fixture
from tests.mgmt.array_processes import (
    MASTER,
    PAIR,
    REMOTE,
    ArrayProcess,
    array,
    served,
    start_copy,
    start_requests,
)

pytestmark = pytest.mark.slow

UNIT = 4096
POOL = ("--unit", "4KiB", "--units", "100", "--volume", "vol0=4MiB")


@contextmanager
def master(tmp_path: Path, *flags: str) -> Iterator[ArrayProcess]:
    with array(tmp_path, "east", MASTER, *POOL, *flags) as east:
        east.reserve(40 * UNIT)
        yield east
        assert east.pool["reserved_idle_units"] == 40, "every unit is back where it came from"
        assert east.pool["free_units"] == 60


def refusals(
    east: ArrayProcess, port: dict[str, Any], copy_id: str = "c1", connections: int = 2
) -> list[PeerRefused]:
    answers = start_copy(east, start_requests(port, 1, connections, copy_id=copy_id))
    assert all(isinstance(answer, PeerRefused) for answer in answers), answers
    return [answer for answer in answers if isinstance(answer, PeerRefused)]


@contextmanager
def silent_listener() -> Iterator[dict[str, Any]]:
    """Takes connections, and never says anything."""
    with socket.create_server((REMOTE, 0)) as listener:
        kept: list[socket.socket] = []

        def take() -> None:
            while True:
                try:
                    kept.append(listener.accept()[0])
                except OSError:
                    return

        taking = threading.Thread(target=take)
        taking.start()
        try:
            port = listener.getsockname()[1]
            yield {"address": REMOTE, "iscsi_port": port, "copy_iqn": "iqn.2026-11.example:nobody:copy"}
        finally:
            listener.shutdown(socket.SHUT_RDWR)
            taking.join()
            for one in kept:
                one.close()


def test_a_remote_that_takes_connections_and_says_nothing_is_given_up(tmp_path: Path) -> None:
    with master(tmp_path) as east, silent_listener() as port:
        found = refusals(east, port)  # bounded by the test's own time-out
        assert {refusal.code for refusal in found} == {Code.UNREACHABLE}
        assert east.wait_until_over().state == "failed"


def test_a_remote_that_answers_no_write_does_not_keep_the_copy_from_being_stopped(tmp_path: Path) -> None:
    with master(tmp_path, "--no-chap") as east, serve("4MiB", portals=portals()) as target:
        target.faults.add(Drop(), direction="to-initiator", opcode="scsi-response", skip=3)
        port = {"address": REMOTE, "iscsi_port": target.port, "copy_iqn": target.iqn}
        answers = start_copy(east, start_requests(port, 1, 1))
        assert not any(isinstance(answer, PeerRefused) for answer in answers), answers
        east.wait_for(lambda status: status.state == "copying")
        answer = east.peer.send(CopyStopRequest(copy_id="c1"))
        assert isinstance(answer, CopyStatus) and answer.state == "stopped"


def test_an_array_with_another_secret_is_not_written_to_and_does_not_get_the_data(tmp_path: Path) -> None:
    with master(tmp_path) as east:
        (tmp_path / "other").mkdir()
        port = ("--port-address", REMOTE, "--iscsi-port", "0", "--volume", "vol0=4MiB")
        with served(tmp_path / "other", "west", *port) as west:
            found = refusals(east, west.port)
            assert {refusal.code for refusal in found} == {Code.UNREACHABLE}
            assert any("authentication" in str(refusal).lower() for refusal in found), found
        with served(tmp_path / "other", "west", *port, "--no-chap") as west:
            found = refusals(east, west.port, "c2")
            assert {refusal.code for refusal in found} == {Code.UNREACHABLE}, (
                f"who does not prove itself gets nothing: {found}"
            )


def test_no_copy_is_written_through_a_name_that_asks_for_no_secret(tmp_path: Path) -> None:
    """The name for hosts is open to hosts; an array neither writes a copy through it nor trusts who answers there."""
    with master(tmp_path) as east, array(tmp_path, "west", REMOTE, "--volume", "vol0=4MiB") as west:
        before = west.digest()
        found = refusals(east, west.port | {"copy_iqn": west.port["iqn"]})
        assert {refusal.code for refusal in found} == {Code.UNREACHABLE}
        assert any("--no-chap" in str(refusal) for refusal in found), found
        assert west.digest() == before


def test_another_makers_target_is_refused_in_one_line_that_says_what_to_do(tmp_path: Path, tgtd: int) -> None:
    """tgtd knows no secret of ours: a copy to it wants --no-chap, and says so."""
    with master(tmp_path) as east:
        (refusal,) = refusals(east, {"address": MASTER, "iscsi_port": tgtd, "copy_iqn": TGTD}, connections=1)
        assert refusal.code == Code.UNREACHABLE
        for text in (str(refusal), east.wait_until_over().error):
            assert "start this array with --no-chap" in text
            assert "\n" not in text


def test_a_host_that_does_not_know_the_secret_does_not_reach_the_target_of_the_arrays(tmp_path: Path) -> None:
    async def log_in(port: dict[str, Any]) -> None:
        initiator = await Initiator.login(
            port["address"], port["iscsi_port"], port["copy_iqn"], initiator_iqn="iqn.2026-11.example:host"
        )
        await initiator.logout()

    with array(tmp_path, "east", MASTER, *POOL) as east, pytest.raises((IscsiError, ConnectionLost)):
        asyncio.run(log_in(east.port))


def test_a_flood_of_start_requests_is_bounded_and_the_reservation_untouched(tmp_path: Path) -> None:
    with master(tmp_path) as east, silent_listener() as port:
        requests = [
            request
            for number in range(70)
            for request in start_requests(port, 1, 2, copy_id=f"c{number}")[:1]
        ]
        answers = start_copy(east, requests)
        codes = {answer.code for answer in answers if isinstance(answer, PeerRefused)}
        assert codes <= {Code.UNREACHABLE, Code.BUSY, Code.OVER_RESERVATION, "TIMEOUT"}, codes
        assert Code.BUSY in codes, "64 copies are enough"
        for number in range(64):
            try:
                east.peer.send(CopyStopRequest(copy_id=f"c{number}"))
            except PeerRefused as refusal:
                assert refusal.code == "NOT_FOUND"


def test_a_request_that_is_repeated_and_one_that_reuses_an_id_change_nothing_more(tmp_path: Path) -> None:
    with array(tmp_path, "east", MASTER, *POOL) as east:
        for _ in range(50):
            assert east.reserve(10 * UNIT, request_id="again") == 10
        with pytest.raises(PeerRefused):
            east.peer.send(BufferReserveRequest(target=PAIR, requested_bytes=20 * UNIT), "again")
        assert (east.pool["free_units"], east.pool["reserved_idle_units"]) == (90, 10)


def portals() -> Any:
    from iscsi_target.server import Portal

    return (Portal(REMOTE, 0),)
