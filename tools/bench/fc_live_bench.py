"""``python -m tools.bench fc-live``: frames per second of wall time through a live Fibre Channel link.

Two processes, one at each end of a Unix socket; frames of full size (2112 bytes), every one with its own R_RDY. Twice:
in real time (scale 1), where the machine is the limit and not the link, and at the scale at which a full 32G link is
the target and a tenth: there the link has to stay exact in link time.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import subprocess
import sys
import tempfile
import time
from functools import partial
from pathlib import Path

from fcsim.live.live_end import EndConfig, LiveEnd
from fcsim.live.measure import frame_cost_ns, plain_frame
from fcsim.live.n_port import NPortConfig
from fcsim.live.shell import LiveLink, connect, listen
from fcsim.port.login import Offer
from fcsim.speeds import SPEEDS

TARGET_FRAMES_PER_SECOND = 20_000
#: Frames of full size that a 32G link carries in a second.
_FULL = 10**12 // SPEEDS["32G"].frame_ps(2112)
PACED_SCALE = _FULL * 10 // (TARGET_FRAMES_PER_SECOND * 11)
_CREDIT = 2048
_AT_A_TIME = 200


def config(port_name: int) -> EndConfig:
    """One end; no frame is dropped for waiting and no credit is called lost: the link is late all the time."""
    n_port = NPortConfig(port_name, port_name, Offer(_CREDIT, bb_sc_n=8), wants_targets=False)
    return EndConfig(
        f"end {port_name}",
        n_port,
        SPEEDS["32G"],
        10_000,
        hold_ps=None,
        credit_loss_ps=None,
        queue_limit=1_000_000,
    )


def _logged_in(link: LiveLink) -> bool:
    (channel,) = link.end.statistics().channels
    return channel.transmit_bb_credit == _CREDIT


async def receive(path: Path, time_scale: int) -> None:
    """The far end, in the child: listens until the link ends."""
    listener = await listen(path, config(1), time_scale=time_scale)
    sys.stdout.write("ready\n")
    sys.stdout.flush()
    link = await listener.accept()
    await link.closed
    await listener.close()
    sys.stdout.write(json.dumps({"displaced": link.end.lateness.displaced, "state": str(link)}) + "\n")


def _backlog_below(limit: int, end: LiveEnd) -> bool:
    (channel,) = end.statistics().channels
    return channel.waiting_frames < limit


def _submit(record: bytes, count: int, end: LiveEnd, now_ps: int) -> None:
    for _ in range(count):
        end.submit(record, now_ps)


async def send(path: Path, frames: int) -> tuple[float, int, str]:
    """Seconds until the last R_RDY of so many frames was here, records displaced, and how the link fared."""
    link = await connect(path, config(2))
    await link.wait_for(lambda _: _logged_in(link))
    record = plain_frame(bytes(2112))
    before = link.end.statistics().r_rdys_received
    began = time.perf_counter()
    for start in range(0, frames, _AT_A_TIME):
        count = min(_AT_A_TIME, frames - start)
        await link.wait_for(partial(_backlog_below, _AT_A_TIME))
        link.call(partial(_submit, record, count))
    await link.wait_for(lambda end: end.statistics().r_rdys_received - before >= frames)
    seconds = time.perf_counter() - began
    text = str(link)
    await link.close()
    return seconds, link.end.lateness.displaced, text


def run(frames: int, time_scale: int) -> tuple[float, int, tuple[str, str]]:
    """Frames per second, records displaced at either end, and what the ends say."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "link"
        command = [sys.executable, "-m", "tools.bench.fc_live_bench", "--receive", str(path)]
        command += ["--time-scale", str(time_scale)]
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as child:
            assert child.stdout is not None
            try:
                if child.stdout.readline() != "ready\n":
                    raise SystemExit("the far end did not start")
                seconds, displaced, text = asyncio.run(send(path, frames))
                answer = json.loads(child.stdout.readline())
            finally:
                child.terminate()
    return frames / seconds, displaced + answer["displaced"], (text, answer["state"])


def main(words: list[str]) -> int:
    """Exit status 1 when the target is missed."""
    parser = argparse.ArgumentParser(prog="python -m tools.bench fc-live", description=__doc__)
    parser.add_argument("--frames", type=int, default=60_000)
    parser.add_argument("--receive", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--time-scale", type=int, default=1, help=argparse.SUPPRESS)
    options = parser.parse_args(words)
    if options.receive is not None:
        asyncio.run(receive(options.receive, options.time_scale))
        return 0
    missed = 0
    for time_scale in (1, PACED_SCALE):
        rate, displaced, texts = run(options.frames, time_scale)
        good = rate >= TARGET_FRAMES_PER_SECOND
        missed += not good
        sys.stdout.write(
            f"time scale {time_scale}: {rate:,.0f} frames/s (target {TARGET_FRAMES_PER_SECOND:,}): "
            f"{'ok' if good else 'MISSED'}; {displaced} records displaced in link time\n"
        )
        sys.stdout.write("".join(f"  {text}\n" for text in texts))
    sys.stdout.write(
        f"one frame, both ends in one process, without sockets: {frame_cost_ns() / 1000:.1f} µs\n"
    )
    return int(missed > 0)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
