"""The host-I/O storm: initiators that read large and drain slowly, so that their Data-In holds the free buffers.

Run as a process of its own behind the channel: ``python -m tools.demo.storm --portal HOST:PORT --iqn NAME``. It says
``reading`` once every host has logged in, reads until SIGTERM (or for ``--seconds`` at most) and ends.
"""

from __future__ import annotations

import asyncio
import contextlib
import signal
import sys
from collections.abc import Awaitable, Callable

import click

from iscsi_target.errors import IscsiError
from iscsi_target.initiator import Initiator
from iscsi_target.plain_connection import PlainConnection

READ_BYTES = 1 << 20
OUTSTANDING = 4
LOGINS_AT_ONCE = 16
RECEIVE_BUFFER_BYTES = 16 * 1024
BLOCK_BYTES = 512


async def host(number: int, portal: tuple[str, int], source: str, iqn: str, rate_bps: int) -> Initiator:
    """Log in as one host, from the address ``source``, whose socket takes at most ``rate_bps`` bits per second."""

    async def connect(address: str, port: int) -> PlainConnection:
        return await PlainConnection.open(
            address,
            port,
            source_host=source,
            receive_buffer_bytes=RECEIVE_BUFFER_BYTES,
            receive_rate_bps=rate_bps,
        )

    return await Initiator.login(
        *portal, iqn, initiator_iqn=f"iqn.2003-10.example:host{number}", connect=connect, timeout_s=600.0
    )


async def read_on(session: Initiator, lun: int, blocks: int, offset: int) -> None:
    """Keep :data:`OUTSTANDING` large reads on the way, for ever."""
    read_blocks = min(READ_BYTES // BLOCK_BYTES, blocks)
    spans = max(1, blocks // read_blocks)

    async def one(start: int) -> None:
        turn = start
        while True:
            await session.read(lun, (turn % spans) * read_blocks, read_blocks)
            turn += OUTSTANDING

    await asyncio.gather(*(one(offset + number) for number in range(OUTSTANDING)))


async def storm(
    portal: tuple[str, int],
    iqn: str,
    ready: Callable[[], None],
    *,
    source: str,
    lun: int,
    hosts: int,
    rate_bps: int,
    seconds: float,
) -> None:
    """All hosts until cancelled, or for ``seconds``. Raises :class:`IscsiError` when a host cannot log in."""
    each_bps = max(8_000, rate_bps // hosts)
    sessions = await asyncio.gather(*(host(number, portal, source, iqn, each_bps) for number in range(hosts)))
    try:
        blocks, _ = await sessions[0].read_capacity(lun)
        ready()
        work: list[Awaitable[None]] = [
            read_on(session, lun, blocks, number * OUTSTANDING) for number, session in enumerate(sessions)
        ]
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await asyncio.gather(*work)
    finally:
        # What is on its way would take minutes to drain: a host that is switched off says nothing either.
        await asyncio.gather(*(session.abort() for session in sessions))


@click.command(
    epilog="Example: python -m tools.demo.storm --portal 127.0.0.1:3260 --iqn iqn.2003-10.example:master"
)
@click.option("--portal", required=True, metavar="HOST:PORT")
@click.option("--iqn", required=True)
@click.option("--source", default="", metavar="IP", help="Address that the hosts connect from.")
@click.option("--lun", type=click.IntRange(0, 255), default=0, show_default=True)
@click.option("--hosts", type=click.IntRange(1, 256), default=8, show_default=True)
@click.option(
    "--rate", type=int, default=1_000_000, show_default=True, help="Bits per second, of all hosts together."
)
@click.option(
    "--seconds", type=float, default=600.0, show_default=True, help="The storm ends by itself then."
)
def main(portal: str, iqn: str, source: str, lun: int, hosts: int, rate: int, seconds: float) -> None:
    """Hosts that read large and drain slowly."""
    address, _, port = portal.rpartition(":")

    def ready() -> None:
        click.echo("reading")

    async def run() -> None:
        limits = {"lun": lun, "hosts": hosts, "rate_bps": rate}
        task = asyncio.ensure_future(
            storm((address, int(port)), iqn, ready, source=source, seconds=seconds, **limits)
        )
        asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, task.cancel)
        with contextlib.suppress(asyncio.CancelledError):
            await task

    try:
        asyncio.run(run())
    except (IscsiError, OSError) as error:
        click.echo(f"host storm: {error}", err=True)
        sys.exit(1)


if __name__ == "__main__":
    main()
