# SPDX-License-Identifier: Apache-2.0
"""``sancredit fc fcoe``: Fibre Channel over Ethernet on a network interface, to real peers."""

from __future__ import annotations

import asyncio
import contextlib
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from mgmt.cli.failures import BadValue, Failed, Unreachable
from mgmt.cli.fc_link import load_options, run_rows, until_stopped
from mgmt.cli.options import headers_option, output_option
from mgmt.cli.output import say, show, show_one

if TYPE_CHECKING:
    from fcsim.fcoe.shell import EthernetCore
    from fcsim.live.n_port import NPort, NPortConfig
    from mgmt.fc.load import Load, Run

F = TypeVar("F", bound=Callable[..., Any])
Seen = Callable[[int, bytes, bool], None]
_PATH = click.Path(dir_okay=False, path_type=Path)
_LOCAL_MAC = 0x02
_FCOE_OVERHEAD_BYTES = 46
"""FCoE header, FC header, CRC, EOF and what follows it, inside the Ethernet payload."""


def _port_options(command: F) -> F:
    for option in reversed(
        (
            click.option(
                "--mode",
                type=click.Choice(["vn2vn", "fabric"]),
                default="vn2vn",
                show_default=True,
                help="vn2vn: ports among themselves. fabric: a forwarder with a name server, and its ENodes.",
            ),
            click.option(
                "--payload",
                type=click.IntRange(256, 2112),
                help="Largest data field, in bytes; default: what the interface's MTU has room for, at most 2112.",
            ),
            click.option("--name", help="Name of this end; its MAC address and port name are made from it."),
            click.option("--capture", type=_PATH, metavar="FILE.pcapng", help="Capture what this end sees."),
        )
    ):
        command = option(command)
    return command


@click.command(epilog="Example: sancredit fc fcoe serve eth1 --mode vn2vn --lun 64MiB")
@click.argument("interface")
@click.option(
    "--lun",
    "luns",
    multiple=True,
    metavar="SIZE|PATH",
    help="A LUN; repeat for more, numbered from 0; 64MiB unless told.",
)
@_port_options
def serve(
    interface: str,
    luns: tuple[str, ...],
    mode: str,
    payload: int | None,
    name: str | None,
    capture: Path | None,
) -> None:
    """An FCP target on an Ethernet interface: as a VN2VN port, or behind a forwarder (FCF) with its name server.

    Needs CAP_NET_RAW. A Linux initiator: echo eth1 > /sys/module/libfcoe/parameters/create_vn2vn (or create).
    Prints one line once it is ready; ends with SIGTERM or Ctrl-C."""
    from iscsi_target.scsi.build import target_device
    from iscsi_target.scsi.errors import InvalidConfiguration, StoreError

    try:
        device = target_device("fcoe", luns or ("64MiB",))
    except (StoreError, InvalidConfiguration) as error:
        raise BadValue(str(error)) from error
    with contextlib.closing(device), _captured(capture, interface) as seen:
        asyncio.run(_serve(interface, mode, name or "target", payload, device, seen))


async def _serve(
    interface: str, mode: str, name: str, payload: int | None, device: Any, seen: Seen | None
) -> None:
    from fcsim.errors import FibreChannelError
    from fcsim.fcoe.fcf import Fcf, FcfConfig
    from fcsim.fcoe.shell import FcoeEndpoint
    from fcsim.fcoe.vn2vn import Vn2vnConfig, Vn2vnPort
    from mgmt.fc.executor import LogicalUnitsExecutor

    names = _n_port(name, _data_field(interface, payload))
    executor, now_ps = LogicalUnitsExecutor(device), FcoeEndpoint.now_ps()
    core: EthernetCore
    if mode == "fabric":
        fabric = names.port_name ^ 0xFF0000
        config = FcfConfig(_mac(name), fabric, fabric, fabric ^ 0x010000, names)
        core = Fcf(config, executor, now_ps=now_ps)
    else:
        core = Vn2vnPort(Vn2vnConfig(_mac(name), names, _vn_id(names), quiet=True), executor, now_ps=now_ps)
    endpoint = FcoeEndpoint(interface, core, seen=seen)
    endpoint.on_event = lambda event: _write(str(event))
    try:
        endpoint.start()
    except FibreChannelError as error:
        raise Failed(str(error)) from error
    try:
        _write(
            f"listening fcoe://{interface} {mode} {_mac(name).hex(':')}, data field "
            f"{names.offer.receive_data_field_bytes} bytes"
        )
        await until_stopped(asyncio.Event().wait())
    finally:
        if isinstance(core, Vn2vnPort):
            core.log_out()
            endpoint.pump()
        endpoint.close()
        if dropped := endpoint.dropped():
            _write(f"{dropped} frames found the receive buffer full and were lost")


@click.command(epilog="Example: sancredit fc fcoe load eth1 --mode vn2vn --write 4MiB --read 4MiB")
@click.argument("interface")
@click.option(
    "--timeout",
    "patience_s",
    type=click.FloatRange(1, 3600),
    default=30.0,
    show_default=True,
    help="Seconds in all.",
)
@click.option("--seed", type=int, default=0, show_default=True, help="Seed of the contents.")
@load_options
@_port_options
@output_option
@headers_option
def load(
    interface: str,
    patience_s: float,
    seed: int,
    write_bytes: int,
    read_bytes: int,
    command_bytes: int,
    depth: int,
    mode: str,
    payload: int | None,
    name: str | None,
    capture: Path | None,
    output: str,
    no_headers: bool,
) -> None:
    """An FCP initiator on an Ethernet interface: it writes blocks of the first target it finds, reads them back and
    compares them. Needs CAP_NET_RAW."""
    from mgmt.fc.load import Load

    asked = Load(write_bytes, read_bytes, command_bytes, depth, seed)
    with _captured(capture, interface) as seen:
        runs, dropped = asyncio.run(
            _load(interface, mode, name or "initiator", payload, asked, patience_s, seen)
        )
    rows = run_rows(runs, None)
    if output in ("json", "yaml"):
        answer = {"interface": interface, "mode": mode, "dropped_frames": dropped, "runs": rows}
        show_one(answer, output, "")
        return
    show(rows, "fc-load", output, headers=not no_headers)
    if dropped:
        say(
            f"{dropped} frames found the receive buffer full and were lost; what they belonged to was done again"
        )


async def _load(
    interface: str,
    mode: str,
    name: str,
    payload: int | None,
    asked: Load,
    patience_s: float,
    seen: Seen | None,
) -> tuple[list[Run], int]:
    from fcsim.errors import FibreChannelError
    from fcsim.fcoe.commands import FcoeCommands
    from fcsim.fcoe.enode import Enode, EnodeConfig
    from fcsim.fcoe.shell import FcoeEndpoint
    from fcsim.fcoe.vn2vn import Vn2vnConfig, Vn2vnPort
    from mgmt.fc.load import LoadMismatch, run_load

    names = _n_port(name, _data_field(interface, payload), wants_targets=True)
    now_ps = FcoeEndpoint.now_ps()
    core: Any
    if mode == "fabric":
        core = Enode(EnodeConfig(_mac(name), names), now_ps=now_ps)
    else:
        core = Vn2vnPort(Vn2vnConfig(_mac(name), names, _vn_id(names)), now_ps=now_ps)
    n_port: NPort = core.n_port
    endpoint = FcoeEndpoint(interface, core, seen=seen)
    commands = FcoeCommands(endpoint, n_port)
    try:
        endpoint.start()
        async with asyncio.timeout(patience_s):
            await commands.wait_for_target()
            runs = await run_load(commands, asked, endpoint.now_ps)
        return runs, endpoint.dropped()
    except ValueError as error:
        raise BadValue(str(error)) from error
    except TimeoutError as error:
        what = "the load took longer" if n_port.initiators else "no target was found"
        raise Unreachable(f"{interface}: {what} within {patience_s:g} s") from error
    except (LoadMismatch, FibreChannelError) as error:
        raise Failed(str(error)) from error
    finally:
        if isinstance(core, Vn2vnPort):
            core.log_out()
            endpoint.pump()
        endpoint.close()


def _n_port(name: str, payload_bytes: int, *, wants_targets: bool = False) -> NPortConfig:
    from fcsim.live.fcp import end_config

    return end_config(name, payload_bytes=payload_bytes, wants_targets=wants_targets).n_port


def _mac(name: str) -> bytes:
    """A locally administered MAC address that a name always gives."""
    from fcsim.live.fcp import port_name_of

    octets = bytearray(port_name_of(name).to_bytes(8, "big")[2:])
    octets[0] = octets[0] & 0xFC | _LOCAL_MAC
    return bytes(octets)


def _vn_id(names: NPortConfig) -> int:
    """The N_Port_ID that a VN2VN port tries first: from its port name, 1 to FFFEh."""
    return names.port_name % 0xFFFE + 1


def _data_field(interface: str, payload: int | None) -> int:
    """The data field that was asked for, or that the interface's MTU has room for."""
    if payload is not None:
        if payload % 4:
            raise click.UsageError(f"a data field is a multiple of 4 bytes, not {payload}")
        return payload
    try:
        mtu = int(Path(f"/sys/class/net/{interface}/mtu").read_text())
    except (OSError, ValueError):
        return 2112  # the interface is not there: opening it says so
    room = min(mtu - _FCOE_OVERHEAD_BYTES, 2112) // 4 * 4
    if room < 256:
        raise BadValue(f"{interface}: an MTU of {mtu} bytes has no room for a data field of 256")
    return room


@contextlib.contextmanager
def _captured(path: Path | None, interface: str) -> Iterator[Seen | None]:
    if path is None:
        yield None
        return
    from iscsi_target.trace.pcapng import LINKTYPE_ETHERNET, PcapngWriter

    with path.open("wb") as stream:
        writer = PcapngWriter(stream)
        number = writer.add_interface(LINKTYPE_ETHERNET, name=interface)
        epoch_ns = time.time_ns() - time.monotonic_ns()
        yield lambda now_ps, data, _sent: writer.write(epoch_ns + now_ps // 1000, data, interface=number)


def _write(line: str) -> None:
    sys.stdout.write(f"{line}\n")
    sys.stdout.flush()
