# SPDX-License-Identifier: Apache-2.0
"""``sancredit fc link``: an emulated Fibre Channel link between two processes."""

from __future__ import annotations

import asyncio
import contextlib
import signal
import sys
import time
from collections.abc import Callable, Iterator
from ipaddress import ip_address
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from mgmt.cli.failures import BadValue, Failed, Unreachable
from mgmt.cli.options import DISTANCE, SIZE, headers_option, output_option
from mgmt.cli.output import say, show, show_one

if TYPE_CHECKING:
    from fcsim.live.capture import LinkCapture
    from fcsim.live.live_end import EndConfig, Lose
    from fcsim.live.shell import Address, LiveLink
    from mgmt.fc.load import Load, Run

F = TypeVar("F", bound=Callable[..., Any])
_PATH = click.Path(dir_okay=False, path_type=Path)


def end_options(command: F) -> F:
    """What both ends of a link are told."""
    for option in reversed(
        (
            click.option(
                "--credits",
                "bb_credit",
                type=click.IntRange(1, 65535),
                default=16,
                show_default=True,
                help="BB_Credit that this end grants the other: its receive buffers.",
            ),
            click.option(
                "--payload",
                type=click.IntRange(256, 2112),
                default=2112,
                show_default=True,
                help="Largest data field that this end takes, in bytes; a multiple of 4.",
            ),
            click.option(
                "--bb-sc-n",
                type=click.IntRange(0, 15),
                default=0,
                show_default=True,
                help="log2 of the frames between BB_SCs: recovery of lost credits; 0: none.",
            ),
            click.option("--name", help="Name of this end; its port name is made from it."),
            click.option("--capture", type=_PATH, metavar="FILE.pcapng", help="Capture what this end sees."),
            click.option(
                "--primitives", is_flag=True, help="With --capture: R_RDY and other ordered sets too."
            ),
            click.option(
                "--lose-frames",
                type=click.FloatRange(0, 1),
                default=0.0,
                metavar="SHARE",
                help="Lose this share of the frames that this end sends.",
            ),
            click.option(
                "--lose-r-rdys",
                type=click.FloatRange(0, 1),
                default=0.0,
                metavar="SHARE",
                help="Lose this share of the R_RDYs that this end sends.",
            ),
            click.option(
                "--seed", type=int, default=0, show_default=True, help="Seed of chance and contents."
            ),
        )
    ):
        command = option(command)
    return command


def load_options(command: F) -> F:
    """What a load writes and reads."""
    for option in reversed(
        (
            click.option(
                "--write", "write_bytes", type=SIZE, default="8MiB", show_default=True, help="Bytes to write."
            ),
            click.option(
                "--read",
                "read_bytes",
                type=SIZE,
                default="8MiB",
                show_default=True,
                help="Bytes to read back.",
            ),
            click.option(
                "--command",
                "command_bytes",
                type=SIZE,
                default="64KiB",
                show_default=True,
                help="Bytes a command.",
            ),
            click.option(
                "--depth",
                type=click.IntRange(1, 256),
                default=8,
                show_default=True,
                help="Commands at the same time.",
            ),
        )
    ):
        command = option(command)
    return command


@click.command(
    epilog="Example: sancredit fc link serve /tmp/link --speed 8G --distance 100km --credits 197 --lun 64MiB"
)
@click.argument("address", metavar="PATH|HOST:PORT")
@click.option("--speed", default="8G", show_default=True, help="Speed of the link: 1G … 128G.")
@click.option(
    "--distance", type=DISTANCE, default="0m", help="Length of the link, one way: 100km. Default: 0m."
)
@click.option(
    "--time-scale",
    type=click.IntRange(1, 10**9),
    help="Link time runs so many times slower than the wall's clock; default: measured.",
)
@click.option(
    "--lun",
    "luns",
    multiple=True,
    metavar="SIZE|PATH",
    help="A LUN; repeat for more, numbered from 0; 64MiB unless told.",
)
@click.option("--once", is_flag=True, help="End when the first link has ended.")
@end_options
def serve(
    address: str,
    speed: str,
    distance: int,
    time_scale: int | None,
    luns: tuple[str, ...],
    once: bool,
    **end: Any,
) -> None:
    """One end of an emulated point-to-point link: it decides speed, distance and time scale, and is an FCP target.

    Prints one line once it listens, and one for each link that has ended. Ends with SIGTERM or Ctrl-C."""
    from fcsim.speeds import MAX_DISTANCE_M, parse_speed
    from iscsi_target.scsi.build import target_device
    from iscsi_target.scsi.errors import InvalidConfiguration, StoreError

    where = parse_address(address)
    try:
        known = parse_speed(speed)
    except ValueError as error:
        raise click.UsageError(str(error)) from error
    if distance > MAX_DISTANCE_M:
        raise click.UsageError(f"a distance is from 0 to {MAX_DISTANCE_M} m, not {distance}")
    try:
        device = target_device("fc-link", luns or ("64MiB",))
    except (StoreError, InvalidConfiguration) as error:
        raise BadValue(str(error)) from error
    with contextlib.closing(device), _captured(end, "target") as capture:
        config = _config(end, "target", speed=known, distance_m=distance)
        asyncio.run(_serve(where, config, device, capture, _losing(end), time_scale, once))


async def _serve(
    where: Address,
    config: EndConfig,
    device: Any,
    capture: LinkCapture | None,
    lose: Lose | None,
    time_scale: int | None,
    once: bool,
) -> None:
    from fcsim.errors import MalformedFrame
    from fcsim.live.fcp import listen_as_target
    from mgmt.fc.executor import LogicalUnitsExecutor

    executor = LogicalUnitsExecutor(device)
    listener = await listen_as_target(
        where, executor, config, time_scale=time_scale, capture=capture, lose=lose
    )

    async def accept() -> None:
        while True:
            try:
                link = await listener.accept()
            except MalformedFrame as error:
                say(str(error))
                continue
            await link.closed
            executor.forget()
            _write(f"{link}{f'; {link.error}' if link.error else ''}")
            if once:
                return

    async with listener:
        told = listener.address if isinstance(where, Path) else ":".join(map(str, listener.address[:2]))
        _write(
            f"listening fc-link://{told} {config.speed.name} {config.distance_m} m, BB_Credit "
            f"{config.n_port.offer.bb_credit}, link time {listener.time_scale} times slower"
        )
        await until_stopped(accept())
    if isinstance(where, Path):
        where.unlink(missing_ok=True)


@click.command(
    epilog="Example: sancredit fc link load /tmp/link --credits 64 --reserve 150 --write 4MiB --read 4MiB"
)
@click.argument("address", metavar="PATH|HOST:PORT")
@click.option(
    "--reserve",
    type=click.IntRange(1, 65535),
    metavar="CREDITS",
    help="Reserve so many of the credits that the other end grants for FCP.",
)
@click.option(
    "--style",
    type=click.Choice(["fos", "nxos"]),
    help="Print this end's port as Brocade's or Cisco's switches do, instead.",
)
@load_options
@end_options
@output_option
@headers_option
def load(
    address: str,
    reserve: int | None,
    style: str | None,
    write_bytes: int,
    read_bytes: int,
    command_bytes: int,
    depth: int,
    output: str,
    no_headers: bool,
    **end: Any,
) -> None:
    """The other end: an FCP initiator that writes blocks, reads them back and compares them.

    Times and rates are the link's own; whether they are exact is said below the table."""
    from fcsim.speeds import MAX_PAYLOAD_BYTES, throughput_bytes_per_second
    from mgmt.fc.load import Load

    asked = Load(write_bytes, read_bytes, command_bytes, depth, end["seed"])
    with _captured(end, "initiator") as capture:
        config = _config(end, "initiator", wants_targets=True)
        link, runs = asyncio.run(_load(parse_address(address), config, capture, _losing(end), reserve, asked))
    line = throughput_bytes_per_second(link.end.config.speed, 65_535, 0, MAX_PAYLOAD_BYTES)
    rows = run_rows(runs, line)
    told = _link_row(link)
    if style is not None:
        from fcsim.fabric import switch_views

        click.echo(getattr(switch_views, style)([told]), nl=False)
        return
    if output in ("json", "yaml"):
        show_one({**told, "runs": rows}, output, "")
        return
    show(rows, "fc-load", output, headers=not no_headers)
    if output != "csv":
        click.echo(f"\n{_sentence(told)}\n{link}")


async def _load(
    where: Address,
    config: EndConfig,
    capture: LinkCapture | None,
    lose: Lose | None,
    reserve: int | None,
    asked: Load,
) -> tuple[LiveLink, list[Run]]:
    from fcsim.errors import CreditMisuse, FibreChannelError
    from fcsim.live.fcp import CommandFailed, connect_as_initiator
    from fcsim.wire.codes import FcType
    from mgmt.fc.load import LoadMismatch, patience_ps, run_load

    try:
        link = await connect_as_initiator(
            where,
            config,
            capture=capture,
            lose=lose,
            share_of=lambda frame: "fcp" if frame.header.type_ == FcType.FCP else None,
        )
    except TimeoutError as error:
        raise Unreachable(f"{where}: nothing came within the time allowed") from error
    except OSError as error:
        raise Unreachable(f"{where}: {(error.strerror or str(error)).lower()}: nobody listens") from error
    except FibreChannelError as error:
        raise Failed(str(error)) from error
    async with link:
        try:
            if reserve is not None:
                link.call(lambda end, now_ps: end.reserve({"fcp": reserve}, now_ps))
            end = link.end
            credits = min(reserve or 65_535, *end.granted.transmit.values(), *end.granted.receive.values())
            for initiator in end.n_port.initiators.values():
                initiator.timeout_ps = patience_ps(end.config.speed, end.config.distance_m, credits, asked)
            runs = await run_load(link, asked, lambda: link.now_ps)
        except ValueError as error:
            raise BadValue(str(error)) from error
        except CreditMisuse as error:
            granted = sum(link.end.granted.transmit.values())
            raise Failed(
                f"{error}; reserve {granted} at most, or start the other end with --credits {reserve or granted}"
            ) from error
        except (CommandFailed, LoadMismatch, FibreChannelError) as error:
            raise Failed(str(error)) from error
    return link, runs


# -- shared with `fc fcoe` --------------------------------------------------------------------------------------


async def until_stopped(work: Any) -> None:
    """Run a coroutine until it ends, or SIGTERM or Ctrl-C comes."""
    task = asyncio.ensure_future(work)
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, task.cancel)
    with contextlib.suppress(asyncio.CancelledError):
        await task


def run_rows(runs: list[Run], line_bytes_per_second: int | None) -> list[dict[str, Any]]:
    """The rows of the table ``fc-load``."""
    return [
        {
            "direction": run.direction,
            "payload_bytes": run.payload_bytes,
            "commands": run.commands,
            "time_ps": run.time_ps,
            "payload_bytes_per_second": run.bytes_per_second,
            "share": run.bytes_per_second / line_bytes_per_second if line_bytes_per_second else None,
        }
        for run in runs
    ]


def parse_address(text: str) -> Address:
    """A Unix socket's path, or HOST:PORT of this machine. Raises click.UsageError."""
    host, colon, port = text.rpartition(":")
    if "/" in text or not colon:
        return Path(text)
    host = host.removeprefix("[").removesuffix("]")
    try:
        local = host == "localhost" or ip_address(host).is_loopback
    except ValueError:
        local = False
    if not local or not port.isascii() or not port.isdigit() or int(port) > 65535:
        raise click.UsageError(
            f"{text!r:.80} is no address of a link: a Unix socket's path, or HOST:PORT on loopback, since both ends "
            "need the same clock"
        )
    return host, int(port)


def _config(end: dict[str, Any], name: str, **more: Any) -> EndConfig:
    from fcsim.live.fcp import end_config

    if end["payload"] % 4:
        raise click.UsageError(f"a data field is a multiple of 4 bytes, not {end['payload']}")
    return end_config(
        end["name"] or name,
        bb_credit=end["bb_credit"],
        bb_sc_n=end["bb_sc_n"],
        payload_bytes=end["payload"],
        **more,
    )


def _losing(end: dict[str, Any]) -> Lose | None:
    """The faults that were asked for; None: none."""
    import random

    from fcsim.wire.ordered_sets import ORDERED_SET_BYTES, R_RDY

    frames, r_rdys, word = end["lose_frames"], end["lose_r_rdys"], R_RDY.encode()
    if not frames and not r_rdys:
        return None
    # Apart, so that the seed decides which frames are lost, however many R_RDYs go in between.
    of_frames, of_r_rdys = random.Random(end["seed"]), random.Random(f"R_RDY {end['seed']}")

    def lose(record: bytes, _moment_ps: int) -> bool:
        if len(record) > ORDERED_SET_BYTES:
            return bool(of_frames.random() < frames)
        return record == word and bool(of_r_rdys.random() < r_rdys)

    return lose


@contextlib.contextmanager
def _captured(end: dict[str, Any], name: str) -> Iterator[LinkCapture | None]:
    if end["capture"] is None:
        if end["primitives"]:
            raise click.UsageError("--primitives goes with --capture FILE.pcapng")
        yield None
        return
    from fcsim.live.capture import LinkCapture
    from iscsi_target.trace.pcapng import PcapngWriter

    with end["capture"].open("wb") as stream:
        yield LinkCapture(
            PcapngWriter(stream),
            end["name"] or name,
            epoch_ns=time.time_ns(),
            primitives=end["primitives"],
        )


def _link_row(link: LiveLink) -> dict[str, Any]:
    from fcsim.live.port_row import port_row

    lateness = link.end.lateness
    about = {
        "time_scale": link.clock.time_scale,
        "exact": lateness.exact,
        "displaced_records": lateness.displaced,
        "late_records": lateness.late,
    }
    return about | port_row(link.end)


def _sentence(told: dict[str, Any]) -> str:
    zero_ms = told["credit_zero_time_ps"] / 1e9
    return (
        f"{told['tx_frames']} frames sent with BB_Credit {told['bb_credit']}, "
        f"at zero {told['credit_zero_transitions']} times for {zero_ms:.3f} ms; {told['rx_frames']} received; "
        f"{told['recovered_credits']} credits recovered, {told['link_resets']} link resets"
    )


def _write(line: str) -> None:
    sys.stdout.write(f"{line}\n")
    sys.stdout.flush()
