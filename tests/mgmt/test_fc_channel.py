"""Fibre Channel ports that measure their own link by ECHO: the ports in a process, and two arrays with a station."""

from __future__ import annotations

import asyncio
import json
import signal
import socket
import subprocess
import threading
from collections.abc import Iterator
from concurrent.futures import Future
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from credits.errors import Code, CreditError, InvalidRequest
from credits.targets import port_pair
from fcsim.errors import PeerViolation
from fcsim.live.fcp import LiveFcpInitiator, connect_as_initiator, end_config
from fcsim.live.live_end import LiveEnd
from fcsim.live.measure import plain_frame
from fcsim.live.n_port import PortLoggedIn
from fcsim.live.shell import LiveLink, connect, listen
from fcsim.port.login import Offer
from fcsim.speeds import SPEEDS
from mgmt.array.fc_port import link_address
from mgmt.cli.main import main
from mgmt.fc.channel import FcChannels, Line, Lines
from mgmt.fc.measure import LinkUnreachable, measure_at, measure_link
from mgmt.http import PeerRefused
from mgmt.messages import (
    BufferReserveRequest,
    ChannelInfoGetRequest,
    ChannelInfoGetResponse,
    ReservedBufferUpdateRequest,
)
from tests.mgmt.array_processes import ArrayProcess, command, configured_array

EAST, WEST = "10:00:00:00:c9:00:00:01", "50:06:01:60:3b:a0:11:22"
EAST_NAME, WEST_NAME = (int(wwpn.replace(":", ""), 16) for wwpn in (EAST, WEST))
AT = datetime(2026, 11, 23, tzinfo=UTC)


class Port:
    """A port with at most one link plugged in."""

    def __init__(self, line: Line | None = None) -> None:
        self._line = line

    def line(self) -> Line | None:
        return self._line


@contextmanager
def listening(path: Path, distance_m: int = 10_000, count: int = 1) -> Iterator[list[Line]]:
    """West, waiting for one link after the other on a thread of its own; those that are up."""
    up: list[Line] = []
    ready: Future[None] = Future()
    stop: list[Any] = []

    async def main() -> None:
        config = end_config("west", speed=SPEEDS["8G"], distance_m=distance_m, port_name=WEST_NAME)
        stopping = asyncio.Event()
        stop.extend((asyncio.get_running_loop(), stopping))
        async with await listen(path, config, time_scale=500) as listener:
            ready.set_result(None)

            async def serve() -> None:
                while True:
                    link = await listener.accept()
                    up[:] = [Line(link, asyncio.get_running_loop())]
                    await link.closed

            serving = asyncio.ensure_future(serve())
            await stopping.wait()
            serving.cancel()

    thread = threading.Thread(target=asyncio.run, args=(main(),))
    thread.start()
    try:
        ready.result(60)
        yield up
    finally:
        stop[0].call_soon_threadsafe(stop[1].set)
        thread.join(60)


def channels(port: Port, *, wwpn: str = EAST, lines: Lines | None = None) -> FcChannels:
    return FcChannels({wwpn: port}, lines or Lines(), link_address, lambda: AT)


def ask(link: Path | str | None, local: str = EAST, remote: str = WEST) -> ChannelInfoGetRequest:
    place = f"unix:{link}" if isinstance(link, Path) else link
    return ChannelInfoGetRequest(local_port=local, remote_port=remote, remote_link=place)


def test_a_port_without_a_link_plugs_in_measures_and_unplugs(tmp_path: Path) -> None:
    with listening(tmp_path / "link"):
        for _ in range(2):
            answer = channels(Port()).answer(ask(tmp_path / "link"))
            assert (answer.rtt_ns, answer.bandwidth_bps) == (100_000, 6_800_000_000)
            assert (answer.jitter_ns, answer.loss_ppm, answer.credit_zero_ppm) == (0, 0, 0)
            assert answer.measured_at == "2026-11-23T00:00:00.000+00:00"
            assert answer.method.startswith("ECHO over the link, 8G")


def test_a_link_that_is_up_is_measured_beside_what_it_carries_with_its_time_without_credit(
    tmp_path: Path,
) -> None:
    """At either end: where a copy has plugged it in, and where it is plugged in."""
    asked: Future[tuple[ChannelInfoGetResponse, ...]] = Future()

    async def copying(up: list[Line]) -> None:
        async with await connect(tmp_path / "link", end_config("east", port_name=EAST_NAME)) as link:
            await link.wait_for(lambda end: end.granted.transmit == {None: 16})

            def load(end: LiveEnd, now_ps: int) -> None:
                for _ in range(2000):
                    end.submit(plain_frame(bytes(2112)), now_ps)

            link.call(load)
            lines = Lines()
            lines.plugged(EAST, link)

            def both() -> tuple[ChannelInfoGetResponse, ...]:
                here = channels(Port(), lines=lines).answer(ask(None))
                there = channels(Port(up[0]), wwpn=WEST).answer(ask(None))
                return here, there

            asked.set_result(await asyncio.to_thread(both))

    with listening(tmp_path / "link") as up:
        asyncio.run(copying(up))
    here, there = asked.result()
    assert here.rtt_ns == there.rtt_ns == 100_000
    assert (there.local_port, there.remote_port) == (EAST, WEST)
    assert here.credit_zero_ppm is not None and here.credit_zero_ppm > 100_000, "16 credits for 40"
    assert there.credit_zero_ppm == 0


def test_a_link_to_somebody_else_is_not_the_one_that_was_asked_for(tmp_path: Path) -> None:
    async def plugged(up: list[Line]) -> None:
        async with await connect(tmp_path / "link", end_config("other", port_name=EAST_NAME + 5)) as link:
            await link.wait_for(lambda end: bool(end.n_port.logged_in))
            lines = Lines()
            lines.plugged(EAST, link)
            with pytest.raises(CreditError, match="is not plugged in at") as refused:
                await asyncio.to_thread(channels(Port(up[0]), wwpn=WEST).answer, ask(None))
            assert refused.value.code == Code.UNREACHABLE
            with pytest.raises(CreditError, match="could not be measured") as busy:
                await asyncio.to_thread(channels(Port()).answer, ask(tmp_path / "link"))
            assert "\n" not in str(busy.value) and "plugged in" in str(busy.value)

    with listening(tmp_path / "link") as up:
        asyncio.run(plugged(up))


@pytest.mark.parametrize(
    ("request_", "code", "text"),
    [
        (ask("unix:/nonexistent/link"), Code.UNREACHABLE, "nobody listens"),
        (ask("somewhere"), Code.INVALID_TARGET, "is no place for a link"),
        (ask("192.0.2.1:5"), Code.INVALID_TARGET, "is no place for a link"),
        (ask(None), Code.UNREACHABLE, "where it listens is not known"),
        (ask(None, local="1.1.1.1", remote="2.2.2.2"), Code.INVALID_TARGET, "neither port"),
    ],
)
def test_what_cannot_be_measured_is_one_line(request_: ChannelInfoGetRequest, code: Code, text: str) -> None:
    with pytest.raises(CreditError, match=text) as refused:
        channels(Port()).answer(request_)
    assert refused.value.code == code and "\n" not in str(refused.value)
    assert isinstance(refused.value, InvalidRequest) == (code is Code.INVALID_TARGET)


def test_an_end_that_says_nothing_is_waited_for_a_bounded_time(tmp_path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as silent:
        silent.bind(str(tmp_path / "link"))
        silent.listen()
        with pytest.raises(LinkUnreachable, match=r"nothing came within 0\.2 s"):
            asyncio.run(measure_at(tmp_path / "link", patience_s=0.2))


def test_a_link_that_is_unplugged_while_it_is_measured_is_told(tmp_path: Path) -> None:
    async def main(up: list[Line]) -> None:
        link: LiveLink = await connect(tmp_path / "link", end_config("east", port_name=EAST_NAME))
        await link.wait_for(lambda end: bool(end.n_port.logged_in))
        measuring = asyncio.ensure_future(measure_link(link, 1000))
        await asyncio.sleep(0)
        await link.close()
        with pytest.raises(PeerViolation) as ended:
            await measuring
        assert "\n" not in str(ended.value)

    with listening(tmp_path / "link") as up:
        asyncio.run(main(up))


# -- two arrays, a station, and the command line -------------------------------------------------------------------


def fibre(wwpn: str, more: str = "") -> str:
    return f"""
[[interface]]
kind = "fc"
name = "fc0"
address = "{wwpn}"
speed = "8G"
distance = "100km"
credits = 600
unreserved = 4
time_scale = 200
{more}
[[volume]]
name = "vol0"
store = "1MiB"
"""


@contextmanager
def station_of(directory: Path, **arrays: ArrayProcess) -> Iterator[str]:
    address = f"unix:{directory / 'station.sock'}"
    known = [word for name, one in arrays.items() for word in ("--array", f"{name}={one.peer.address}")]
    served = subprocess.Popen(
        command("station", "serve", "--listen", address, "--state", str(directory / "station"), *known),
        stdout=subprocess.PIPE,
        text=True,
    )
    assert served.stdout is not None
    try:
        while not served.stdout.readline().startswith("listening"):
            assert served.poll() is None
        yield address
    finally:
        served.terminate()
        served.wait(60)
        served.stdout.close()


@pytest.mark.slow
def test_a_station_sizes_a_fibre_channel_pair_by_the_round_trip_that_its_ports_measured(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Claims 15 and 24 on Fibre Channel, from outside: M1 to M2, table 108, figure 6, and the recommended size."""

    def ran(*words: str, fails: int = 0) -> Any:
        assert main([*words, "--station", station]) == fails
        said = capsys.readouterr()
        return said.err if fails else json.loads(said.out)

    link = tmp_path / "link"
    pair = ("--port-pair", f"{EAST},{WEST}")
    with (
        configured_array(tmp_path, "east", fibre(EAST)) as east,
        configured_array(tmp_path, "west", fibre(WEST, f'link = "unix:{link}"')) as west,
        station_of(tmp_path, east=east, west=west) as station,
    ):
        ran("register", *pair, "-o", "json")
        (row,) = ran("get", "channels", "-o", "json")
        assert row["rtt_ns"] is None
        ran("measure", *pair, "-o", "json")
        (row,) = ran("get", "channels", "-o", "json")
        assert (row["rtt_ns"], row["bandwidth_bps"], row["stale"]) == (1_000_000, 6_800_000_000, False)
        assert row["method"].startswith("ECHO over the link, 8G")
        assert row["credit_zero_ppm"] == 0
        # 850 MB/s for 1 ms, in frames of 2148 bytes: enough for a sender that never pauses.
        advice = ran("recommend", *pair, "-o", "json")
        assert (advice["bytes"], advice["units"]) == (850_000, 396)
        reserved = ran("reserve", *pair, "--size", "auto", "-o", "json")
        assert "396" in json.dumps(reserved)

        async def plugged_in() -> Any:
            """East's port is busy with a link to west: west is the one that can see it."""
            async with await connect(link, end_config("east", port_name=EAST_NAME)) as up:
                await up.wait_for(
                    lambda end: end.granted.transmit == {None: 400} or end.granted.transmit == {None: 4}
                )
                return await asyncio.to_thread(ran, "measure", *pair, "-o", "json")

        asyncio.run(plugged_in())
        (row,) = ran("get", "channels", "-o", "json")
        assert (row["rtt_ns"], row["stale"]) == (1_000_000, False)
        west.process.send_signal(signal.SIGTERM)
        west.process.wait(60)
        told = ran("measure", *pair, fails=3)
        assert len(told.strip().splitlines()) == 1
        (row,) = ran("get", "channels", "-o", "json")
        assert (row["rtt_ns"], row["stale"]) == (1_000_000, True), "the old value stays, marked (GAP-11)"


@pytest.mark.slow
def test_a_reservation_beyond_the_login_is_refused_and_granted_by_a_new_login_when_that_is_asked_for(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """RELOGIN_REQUIRED, then M5 and M10 with ``relogin``: the link that is up is granted what is reserved."""

    def ran(*words: str, fails: int = 0) -> str:
        named = ["--port-pair", f"{WEST},{EAST}", "--station", station]
        assert main([*words, *named]) == fails
        return capsys.readouterr().err

    link, pair = tmp_path / "link", port_pair(WEST, EAST)

    async def body(west: ArrayProcess) -> None:
        async def send(request: BufferReserveRequest | ReservedBufferUpdateRequest) -> Any:
            return await asyncio.to_thread(west.peer.send, request)

        config = end_config("east", port_name=EAST_NAME, wants_targets=True)
        async with asyncio.timeout(60), await connect_as_initiator(link, config) as up:
            disk = LiveFcpInitiator(up)
            await disk.write(0, bytes(range(256)) * 2)
            assert up.end.granted.transmit == {None: 4}
            with pytest.raises(PeerRefused) as refusal:
                await send(BufferReserveRequest(target=pair, requested_bytes=20 * 2148))
            assert refusal.value.code == Code.RELOGIN_REQUIRED
            assert west.pool["reserved_idle_units"] == 0
            await send(BufferReserveRequest(target=pair, requested_bytes=20 * 2148, relogin=True))
            await up.wait_for(lambda end: end.granted.transmit == {None: 24})
            words = ("update", "--size", str(30 * 2148))
            refused = await asyncio.to_thread(ran, *words, fails=1)
            assert refused.count("\n") == 1
            assert "--relogin" in refused
            assert west.pool["reserved_idle_units"] == 20, "nothing has changed"
            await asyncio.to_thread(ran, *words, "--relogin")
            await up.wait_for(lambda end: end.granted.transmit == {None: 34})
            await asyncio.to_thread(ran, "reserve", "--size", str(50 * 2148), "--relogin")
            await up.wait_for(lambda end: end.granted.transmit == {None: 54})
            await up.wait_logged_in()
            assert await disk.read(0, 1) == bytes(range(256)) * 2
            # Within the grant nothing is done to the link; and the other end's own new login gets it too.
            await send(ReservedBufferUpdateRequest(target=pair, recommended_bytes=40 * 2148, relogin=True))
            logins = sum(isinstance(event, PortLoggedIn) for event in up.events)
            assert logins == 4
            await up.log_in_again(Offer(16))
            assert up.end.granted.transmit == {None: 44}
            (port,) = (await asyncio.to_thread(west.table, "info"))["ports"]
            assert (port["rx_bb_credit"], port["relogin_required"]) == (44, False)

    with (
        configured_array(tmp_path, "west", fibre(WEST, f'link = "unix:{link}"')) as west,
        station_of(tmp_path, west=west) as station,
    ):
        asyncio.run(body(west))
