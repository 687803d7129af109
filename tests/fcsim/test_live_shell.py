"""A live link over real sockets: both ends in one loop, in two processes, and peers that are no ends of a link."""

from __future__ import annotations

import asyncio
import json
import shutil
import subprocess
import sys
import time
from collections.abc import Awaitable, Callable
from functools import partial
from pathlib import Path

import pytest

from fcsim.errors import CreditMisuse, MalformedFrame, PeerViolation
from fcsim.live import shell
from fcsim.live.capture import LinkCapture
from fcsim.live.fcp import CommandFailed, LiveFcpInitiator
from fcsim.live.live_end import EndConfig, LiveEnd
from fcsim.live.measure import plain_frame
from fcsim.live.n_port import NPortConfig
from fcsim.live.shell import LiveLink, connect, listen
from fcsim.port.link_state import LinkState
from fcsim.port.login import Offer
from fcsim.speeds import SPEEDS
from iscsi_target.trace.pcapng import PcapngWriter
from tests.fcsim.test_fcp_exchanges import Disk

PATIENCE_S = 60


def config(name: str, port_name: int, *, wants_targets: bool = False, credit: int = 16) -> EndConfig:
    n_port = NPortConfig(port_name, port_name, Offer(credit, bb_sc_n=6), wants_targets=wants_targets)
    return EndConfig(name, n_port, SPEEDS["32G"], 2_000)


async def linked(
    body: Callable[[LiveLink, LiveLink], Awaitable[None]],
    *,
    names: tuple[int, int] = (0x20, 0x10),
    target: Callable[..., LiveEnd] = LiveEnd,
    initiator: Callable[..., LiveEnd] = LiveEnd,
) -> None:
    """Run `body` on the initiator's and the target's link."""
    async with asyncio.timeout(PATIENCE_S):
        listener = await listen(
            ("127.0.0.1", 0), config("target", names[0]), partial(target, executor=Disk()), time_scale=300
        )
        here = await connect(listener.address, config("host", names[1], wants_targets=True), initiator)
        there = await listener.accept()
        try:
            await here.wait_logged_in()
            await body(here, there)
        finally:
            await here.close()
            await listener.close()


@pytest.mark.parametrize("names", [(0x20, 0x10), (0x10, 0x20)])
def test_blocks_written_over_a_live_link_are_read_back(names: tuple[int, int]) -> None:
    async def body(here: LiveLink, there: LiveLink) -> None:
        disk = LiveFcpInitiator(here)
        data = bytes(range(256)) * 128
        await disk.write(5, data)
        assert await disk.read(5, 64) == data
        parts = await asyncio.gather(*(disk.read(5 + number, 1) for number in range(20)))
        assert b"".join(parts) == data[: 20 * 512]
        with pytest.raises(CommandFailed, match="0x02"):
            await disk.read(10**9, 1)
        for link in (here, there):
            assert link.end.statistics().discards == 0
            (channel,) = link.end.statistics().channels
            assert channel.excess_r_rdy == 0
        assert "300 times slower" in str(here)

    asyncio.run(linked(body, names=names))


def test_credits_are_reserved_while_the_link_runs_and_no_further_than_granted() -> None:
    async def body(here: LiveLink, there: LiveLink) -> None:
        held = []
        there.end._deliver = lambda arrived, moment: held.append(arrived)
        with pytest.raises(CreditMisuse):
            here.call(lambda end, now_ps: end.reserve({"copy": 17}, now_ps))
        here.call(lambda end, now_ps: end.reserve({"copy": 8}, now_ps))
        record = plain_frame(b"copy")
        here.call(lambda end, now_ps: [end.submit(record, now_ps, share="copy") for _ in range(30)])  # type: ignore[func-returns-value]
        await there.wait_for(lambda end: len(held) == 8)
        there.call(lambda end, now_ps: [end.release(arrived, now_ps) for arrived in held[:3]])  # type: ignore[func-returns-value]
        await there.wait_for(lambda end: len(held) == 11)
        assert here.end.statistics().channels[0].waiting_frames == 19

    asyncio.run(linked(body))


def test_a_closed_socket_is_loss_of_signal_and_ends_every_command() -> None:
    async def body(here: LiveLink, there: LiveLink) -> None:
        reading = asyncio.ensure_future(here.command(bytes(8), b"\x88" + bytes(15), data_in_length=512))
        await asyncio.sleep(0)
        await there.close()
        with pytest.raises(PeerViolation):
            await reading
        await here.closed
        assert here.end.statistics().state is LinkState.LF2

    asyncio.run(linked(body))


def test_a_machine_that_stands_still_for_longer_than_a_peer_may_be_silent_leaves_the_link_exact(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """What this end did not run for was no silence of its peer's."""
    monkeypatch.setattr(shell, "SILENCE_S", 0.02)

    async def body(here: LiveLink, there: LiveLink) -> None:
        disk = LiveFcpInitiator(here)
        for _ in range(12):
            reading = asyncio.ensure_future(disk.read(0, 64))
            enough = here.end.statistics().frames_received + 3  # in the midst of the data
            await here.wait_for(lambda end, enough=enough: end.statistics().frames_received >= enough)  # type: ignore[misc]
            time.sleep(0.1)  # nobody runs
            await reading
        assert here.end.lateness.exact and there.end.lateness.exact, str(here)

    asyncio.run(linked(body))


@pytest.mark.parametrize(
    ("data", "text"),
    [
        (b"GET / HTTP/1.1\r\n\r\n", "no end of a live link"),
        (b"FC-LIVE\n" + b"\2\0" + bytes(40), "version 512"),
        (b"", "closed before its greeting|connection broke"),
    ],
)
def test_a_stranger_gets_one_clear_error_and_the_door(data: bytes, text: str) -> None:
    async def main() -> None:
        async with asyncio.timeout(PATIENCE_S):
            listener = await listen(("127.0.0.1", 0), config("target", 1), time_scale=10)
            _, writer = await asyncio.open_connection(*listener.address)
            writer.write(data)
            if not data:
                writer.close()
            with pytest.raises(MalformedFrame, match=text):
                await listener.accept()
            writer.close()
            await listener.close()

    asyncio.run(main())


def test_records_that_break_the_rules_end_the_link_with_one_line() -> None:
    async def body(here: LiveLink, there: LiveLink) -> None:
        assert here._transport is not None
        here._transport.write(bytes(8) + b"\0\7" + bytes(7))
        await there.closed
        assert there.error is not None and "7 bytes" in there.error

    asyncio.run(linked(body))


@pytest.mark.skipif(shutil.which("tshark") is None, reason="tshark is not installed")
def test_a_capture_of_the_link_is_read_by_tshark(tmp_path: Path) -> None:
    path = tmp_path / "link.pcapng"
    with path.open("wb") as stream:
        capture = LinkCapture(PcapngWriter(stream), "host", epoch_ns=10**18)

        async def body(here: LiveLink, there: LiveLink) -> None:
            assert len(await LiveFcpInitiator(here).read(0, 8)) == 4096

        asyncio.run(linked(body, initiator=partial(LiveEnd, capture=capture)))
    command = ["tshark", "-r", str(path), "-T", "fields", "-e", "_ws.col.Protocol", "-e", "_ws.malformed"]
    told = subprocess.run(command, capture_output=True, text=True, check=True, timeout=60)
    lines = [line.split("\t") for line in told.stdout.splitlines()]
    assert len(lines) >= 10
    assert not any(line[1] for line in lines if len(line) > 1)
    assert {line[0] for line in lines} >= {"FCP", "FC ELS"}


CHILD = """
import asyncio, json, sys
from functools import partial
from pathlib import Path
from fcsim.live.live_end import LiveEnd
from fcsim.live.shell import listen
from tests.fcsim.test_fcp_exchanges import Disk
from tests.fcsim.test_live_shell import config

async def main():
    make_end = partial(LiveEnd, executor=Disk())
    listener = await listen(Path(sys.argv[1]), config("target", 0x20), make_end, time_scale=300)
    print("ready", flush=True)
    link = await listener.accept()
    await link.closed
    await listener.close()
    print(json.dumps({"frames": link.end.statistics().frames_received, "error": link.error}), flush=True)

asyncio.run(main())
"""


@pytest.mark.slow
def test_two_processes_carry_fcp_over_a_unix_socket(tmp_path: Path) -> None:
    path = tmp_path / "link"
    root = Path(__file__).resolve().parents[2]
    with subprocess.Popen(
        [sys.executable, "-c", CHILD, str(path)], stdout=subprocess.PIPE, text=True, cwd=root
    ) as child:
        assert child.stdout is not None
        try:
            assert child.stdout.readline() == "ready\n"

            async def main() -> int:
                async with asyncio.timeout(PATIENCE_S):
                    link = await connect(path, config("host", 0x10, wants_targets=True))
                    await link.wait_logged_in()
                    disk = LiveFcpInitiator(link)
                    data = bytes(range(256)) * 256
                    await disk.write(0, data)
                    assert await disk.read(0, 128) == data
                    sent = link.end.statistics().frames_sent
                    await link.close()
                    return sent

            sent = asyncio.run(main())
            assert json.loads(child.stdout.readline()) == {"frames": sent, "error": None}
        finally:
            child.terminate()
