"""The host-I/O storm on Fibre Channel: hosts whose logins borrow the free receive buffers of a port group.

``python -m tools.demo.fc_storm --link PATH [--link PATH]…``, one host for each link. It says ``reading`` once every
host that is let in has logged in, writes a little over each until SIGTERM (or for ``--seconds`` at most), and ends.
"""

from __future__ import annotations

import asyncio
import contextlib
import signal
import sys
from pathlib import Path

import click

from fcsim.errors import FibreChannelError
from fcsim.live.fcp import LiveFcpInitiator, connect_as_initiator, end_config
from iscsi_target.wire.lun import lun_to_bytes

BLOCKS = 4
_PAUSE_S = 0.5
_RETRY_S = 0.2


async def host(number: int, link: Path, lun: int, tried: asyncio.Event) -> None:
    """One host for ever: log in, write and read a little, keep what it was granted; turned away, try again."""
    block = 0
    while True:
        with contextlib.suppress(FibreChannelError, OSError, TimeoutError):
            mine = end_config(f"host{number}", wants_targets=True)
            async with await connect_as_initiator(link, mine) as line:
                disk = LiveFcpInitiator(line, lun=lun_to_bytes(lun))
                while not line.closed.done():
                    await disk.write(block, bytes(BLOCKS * 512))
                    tried.set()
                    block = (block + BLOCKS) % 4096
                    await asyncio.sleep(_PAUSE_S)
        tried.set()
        await asyncio.sleep(_RETRY_S)


@click.command(epilog="Example: python -m tools.demo.fc_storm --link /tmp/line.1")
@click.option("--link", "links", multiple=True, required=True, type=click.Path(path_type=Path))
@click.option("--lun", type=click.IntRange(0, 16383), default=0, show_default=True)
@click.option(
    "--seconds", type=float, default=600.0, show_default=True, help="The storm ends by itself then."
)
def main(links: tuple[Path, ...], lun: int, seconds: float) -> None:
    """Hosts that hold the credits of their logins."""

    async def run() -> None:
        tried = [asyncio.Event() for _ in links]
        hosts = [
            asyncio.create_task(host(number, link, lun, tried[number])) for number, link in enumerate(links)
        ]
        loop = asyncio.get_running_loop()
        stop = asyncio.Event()
        loop.add_signal_handler(signal.SIGTERM, stop.set)
        for one in tried:
            await one.wait()
        click.echo("reading")
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await stop.wait()
        for task in hosts:
            task.cancel()
        await asyncio.gather(*hosts, return_exceptions=True)

    asyncio.run(run())


if __name__ == "__main__":
    sys.exit(main())
