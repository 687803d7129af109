"""A buffer ID shared by several connections through the whole system: M5 to M8, and the command line (paragraph 95)."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from credits.errors import Code
from credits.sharing import Sharing
from credits.targets import connection, new_connection, port_pair
from mgmt.http import Peer, PeerRefused
from mgmt.messages import BufferReserveRequest, BufferReserveResponse
from tests.mgmt.array_processes import MASTER, REMOTE, array, command, start_copy, start_requests

pytestmark = pytest.mark.slow

UNIT = 4096
POOL = ("--unit", "4KiB", "--units", "100")


def test_connections_that_share_a_buffer_id_each_get_their_minimum_and_run_a_copy(tmp_path: Path) -> None:
    image = tmp_path / "a.img"
    image.write_bytes(bytes(range(256)) * 65536)
    with (
        array(tmp_path, "east", MASTER, *POOL, "--volume", f"vol0={image}") as east,
        array(tmp_path, "west", REMOTE, "--volume", "vol0=16MiB") as west,
    ):
        made = east.peer.send(
            BufferReserveRequest(
                target=new_connection(MASTER, REMOTE),
                requested_bytes=40 * UNIT,
                sharing=Sharing(connections=3, minimum_bytes=10 * UNIT),
            )
        )
        assert isinstance(made, BufferReserveResponse) and made.buffer_id is not None
        target = connection(made.buffer_id)
        requests = start_requests(west.port, 1, 3, target=port_pair(MASTER, REMOTE), buffer_id=made.buffer_id)
        answers = start_copy(east, requests)
        assert not any(isinstance(answer, PeerRefused) for answer in answers), answers
        shares = [answer.allocated_units for answer in answers if not isinstance(answer, PeerRefused)]
        assert sum(shares) <= 40 and min(shares) >= 10
        assert east.wait_until_over().state == "done"
        assert east.digest() == west.digest()
        (row,) = east.table("reservations")
        assert (row["target"]["buffer_id"], row["in_use_units"]) == (target.buffer_id, 0)
        assert (row["sharing"]["connections"], row["sharing"]["minimum_bytes"]) == (3, 10 * UNIT)


def test_minima_that_do_not_fit_and_kinds_that_are_not_shared_are_refused(tmp_path: Path) -> None:
    with array(tmp_path, "east", MASTER, *POOL) as east:
        for target, least in ((new_connection(MASTER, REMOTE), 21), (port_pair(MASTER, REMOTE), 1)):
            request = BufferReserveRequest(
                target=target,
                requested_bytes=40 * UNIT,
                sharing=Sharing(connections=2, minimum_bytes=least * UNIT),
            )
            with pytest.raises(PeerRefused) as refusal:
                east.peer.send(request)
            assert refusal.value.code in (Code.INVALID_SIZE, Code.INVALID_TARGET)
        assert east.pool["free_units"] == 100


def test_the_command_line_reserves_a_shared_buffer_id(tmp_path: Path) -> None:
    station = f"unix:{tmp_path / 'station.sock'}"
    with array(tmp_path, "east", MASTER, *POOL) as east, array(tmp_path, "west", REMOTE) as west:
        served = subprocess.Popen(
            command(
                *("station", "serve", "--listen", station, "--state", str(tmp_path / "station")),
                *("--array", f"east={east.peer.address}", "--array", f"west={west.peer.address}"),
            ),
            stdout=subprocess.PIPE,
            text=True,
        )
        assert served.stdout is not None
        try:
            while not served.stdout.readline().startswith("listening"):
                assert served.poll() is None
            reserve = command(
                *("reserve", "--port-pair", f"{MASTER},{REMOTE}", "--connection", "--size", "40KiB"),
                *("--share", "2:8KiB", "--station", station),
            )
            done = subprocess.run(reserve, capture_output=True, text=True, timeout=110, check=False)
            assert done.returncode == 0, done.stderr
            with Peer(f"unix:{tmp_path / 'east.sock'}", 60.0) as peer:
                (row,) = peer.get("/v1/reservations")
            assert row["sharing"] == {"connections": 2, "minimum_bytes": 8192}
            wrong = subprocess.run(
                command(
                    "reserve",
                    "--port-pair",
                    f"{MASTER},{REMOTE}",
                    "--connection",
                    "--share",
                    "two",
                    "--station",
                    station,
                ),
                capture_output=True,
                text=True,
                timeout=110,
                check=False,
            )
            assert wrong.returncode == 2 and "N:SIZE" in wrong.stderr
        finally:
            served.terminate()
            served.wait(60)
            served.stdout.close()
