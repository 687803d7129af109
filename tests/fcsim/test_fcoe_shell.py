"""FCoE over a real interface: two of our endpoints at the two ends of a veth pair, in a namespace of their own."""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from fcsim.fcoe.fcf import Fcf, FcfConfig
from fcsim.fcoe.shell import FcoeEndpoint, InterfaceUnusable
from fcsim.live.n_port import NPortConfig
from fcsim.port.login import Offer
from tests.fcsim.test_fcp_exchanges import Disk

ROOT = Path(__file__).resolve().parents[2]
HOST, STORAGE = bytes.fromhex("020000000001"), bytes.fromhex("020000000002")
HOST_NAMES = NPortConfig(0x31, 0x41, Offer(16), wants_targets=True)
STORAGE_NAMES = NPortConfig(0x32, 0x42, Offer(16))

CHILD = """
import asyncio, json, sys
from pathlib import Path
from fcsim.fcoe.enode import Enode, EnodeConfig
from fcsim.fcoe.fcf import Fcf, FcfConfig
from fcsim.fcoe.shell import FcoeEndpoint
from fcsim.fcoe.vn2vn import Vn2vnConfig, Vn2vnPort
from fcsim.fcp.initiator import CommandCompleted
from iscsi_target.trace.pcapng import LINKTYPE_ETHERNET, PcapngWriter
from tests.fcsim.test_fcoe_shell import HOST, HOST_NAMES, STORAGE, STORAGE_NAMES
from tests.fcsim.test_fcp_exchanges import LUN_0, Disk, read_10, write_10

async def main(mode, path):
    now_ps = FcoeEndpoint.now_ps()
    if mode == "fabric":
        storage = Fcf(FcfConfig(STORAGE, 1, 2, 3, STORAGE_NAMES), Disk(), now_ps=now_ps)
        host = Enode(EnodeConfig(HOST, HOST_NAMES), now_ps=now_ps)
    else:
        storage = Vn2vnPort(Vn2vnConfig(STORAGE, STORAGE_NAMES, 2, quiet=True), Disk(), now_ps=now_ps)
        host = Vn2vnPort(Vn2vnConfig(HOST, HOST_NAMES, 1), now_ps=now_ps)
    with open(path, "wb") as stream:
        writer = PcapngWriter(stream)
        writer.add_interface(LINKTYPE_ETHERNET, name="veth0")
        seen = lambda now_ps, data, sent: writer.write(now_ps // 1000, data)
        ends = FcoeEndpoint("veth0", host, seen=seen), FcoeEndpoint("veth1", storage)
        for end in ends:
            end.start()
        here = ends[0]
        async def until(condition):
            while not condition():
                here.changed.clear()
                await here.changed.wait()
        async def command(cdb, **data):
            (initiator,) = host.n_port.initiators.values()
            here.events.clear()
            initiator.command(LUN_0, cdb, here.now_ps(), **data)
            host.handle_timer(here.now_ps())
            here.pump()
            await until(lambda: any(isinstance(event, CommandCompleted) for event in here.events))
            return next(event for event in here.events if isinstance(event, CommandCompleted))
        async with asyncio.timeout(40):
            await until(lambda: host.n_port.initiators)
            await command(bytes(6))
            data = bytes(range(256)) * 200
            written = await command(write_10(3, 100), data_out=data)
            got = await command(read_10(3, 100), data_in_length=len(data))
        for end in ends:
            end.close()
    told = {"status": written.status, "same": got.data_in == data, "ignored": host.ignored + storage.ignored}
    print(json.dumps(told))

asyncio.run(main(*sys.argv[1:]))
"""


def needs_a_namespace() -> None:
    if os.geteuid() != 0:
        pytest.skip("packet sockets and a veth pair need root")
    for program in ("unshare", "ip"):
        if shutil.which(program) is None:
            pytest.skip(f"{program} is not installed")
    made = subprocess.run(
        ["unshare", "--net", "ip", "link", "add", "veth0", "type", "veth", "peer", "name", "veth1"],
        capture_output=True,
        text=True,
        check=False,
        timeout=30,
    )
    if made.returncode:
        pytest.skip(f"no veth pair in a namespace of its own: {made.stderr.strip()}")


@pytest.mark.parametrize("mode", ["fabric", "vn2vn"])
def test_two_endpoints_on_a_veth_pair_carry_fcp_and_tshark_reads_it(mode: str, tmp_path: Path) -> None:
    needs_a_namespace()
    capture = tmp_path / "fcoe.pcapng"
    run = in_a_namespace(CHILD, mode, str(capture))
    assert run.returncode == 0, run.stderr
    assert json.loads(run.stdout) == {"status": 0, "same": True, "ignored": 0}
    if shutil.which("tshark") is None:
        pytest.skip("tshark is not installed: what was captured stays unread")
    fields = ["-e", "_ws.col.Protocol", "-e", "_ws.malformed", "-e", "fcoe.crc.status"]
    told = subprocess.run(
        ["tshark", "-r", str(capture), "-T", "fields", *fields],
        capture_output=True,
        text=True,
        check=True,
        timeout=60,
    )
    lines = [line.split("\t") for line in told.stdout.splitlines()]
    kinds = {line[0] for line in lines}
    assert {"FIP", "FC ELS", "FCP"} <= kinds
    assert ("dNS" in kinds) == (mode == "fabric")
    assert not any(line[1] for line in lines)


BURST = """
import asyncio, json, random, socket
from fcsim.fcoe import shell
from fcsim.fcoe.commands import FcoeCommands
from fcsim.fcoe.ethernet import ethernet_fcoe
from fcsim.fcoe.vn2vn import Vn2vnConfig, Vn2vnPort
from fcsim.fcp.sequences import data_frames
from fcsim.live.fcp import LiveFcpInitiator
from tests.fcsim.test_fcp_exchanges import Disk
from tests.fcsim.test_fcoe_shell import HOST, HOST_NAMES, STORAGE, STORAGE_NAMES

shell.RECEIVE_FRAMES = 64  # a buffer that one burst of 64 KiB would fill
PIECE = 64 << 10

async def main():
    now_ps = shell.FcoeEndpoint.now_ps()
    storage = Vn2vnPort(Vn2vnConfig(STORAGE, STORAGE_NAMES, 2, quiet=True), Disk(), now_ps=now_ps)
    host = Vn2vnPort(Vn2vnConfig(HOST, HOST_NAMES, 1), now_ps=now_ps)
    here, there = shell.FcoeEndpoint("veth0", host), shell.FcoeEndpoint("veth1", storage)
    disk = LiveFcpInitiator(FcoeCommands(here, host.n_port))
    for end in (here, there):
        end.start()
    pieces = [random.Random(number).randbytes(PIECE) for number in range(16)]

    async def all_pieces():
        await asyncio.gather(*(disk.write(number * PIECE // 512, piece) for number, piece in enumerate(pieces)))
        read = await asyncio.gather(*(disk.read(number * PIECE // 512, PIECE // 512) for number in range(16)))
        return read == pieces

    told = {"room_bytes": there.room_bytes}
    async with asyncio.timeout(50):
        told["same"] = await all_pieces()
        told["dropped"] = here.dropped() + there.dropped()
        # A burst that nobody asked for, in one go: frames of no exchange, and half of them of a stranger's.
        with socket.socket(socket.AF_PACKET, socket.SOCK_RAW, 0) as raw:
            raw.bind(("veth0", 0x8906))
            (frame,) = data_frames(bytes(1024), relative_offset=0, max_payload=1024, from_responder=False,
                                   addresses=(1, 2), ids=(0x1234, 0x4321), seq_id=1)
            for source in (host.mac_address, bytes(6)):
                data = ethernet_fcoe(frame, storage.mac_address, source)
                for _ in range(1000):
                    raw.send(data)
        told["burst_dropped"] = there.dropped() > 0
        told["same_after"] = await all_pieces()
        told["outstanding"] = storage.n_port.target.outstanding
    for end in (here, there):
        end.close()
    print(json.dumps(told))

asyncio.run(main())
"""


def in_a_namespace(*arguments: str) -> subprocess.CompletedProcess[str]:
    script = (
        "ip link add veth0 type veth peer name veth1 && ip link set veth0 mtu 2500 up && "
        'ip link set veth1 mtu 2500 up && exec "$@"'
    )
    command = ["unshare", "--net", "sh", "-c", script, "sh", sys.executable, "-c", *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=False, timeout=60, cwd=ROOT)


def test_many_large_writes_at_once_lose_no_frame_in_a_small_buffer_and_a_burst_harms_nothing() -> None:
    needs_a_namespace()
    run = in_a_namespace(BURST)
    assert run.returncode == 0, run.stderr
    assert json.loads(run.stdout) == {
        "room_bytes": 32 << 10,
        "same": True,
        "dropped": 0,
        "burst_dropped": True,
        "same_after": True,
        "outstanding": 0,
    }


def test_an_interface_that_is_not_there_is_one_clear_line() -> None:
    async def main() -> None:
        names = NPortConfig(1, 2, Offer(16))
        endpoint = FcoeEndpoint("nothing0", Fcf(FcfConfig(bytes(6), 1, 2, 3, names), Disk()))
        with pytest.raises(InterfaceUnusable, match="nothing0"):
            endpoint.start()

    asyncio.run(main())
