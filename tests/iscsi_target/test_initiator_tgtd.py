"""Our initiator against somebody else's target: tgtd."""

from __future__ import annotations

import asyncio
import os
import shutil
import signal
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from iscsi_target.discovery import discover, discover_at
from iscsi_target.errors import LoginFailed
from iscsi_target.initiator import Initiator
from iscsi_target.session.chap import Chap, Credentials
from iscsi_target.session.parameters import Parameters
from iscsi_target.wire.opcodes import TaskFunction
from tools.ports import free_port

pytestmark = pytest.mark.slow

IQN = "iqn.2026-11.example:tgtd"
BLOCK = 512


@pytest.fixture
def tgtd(tmp_path: Path) -> Iterator[int]:
    """A tgtd with one 16 MiB LUN; yields its port. LUN 0 is tgtd's controller, the disk is LUN 1."""
    daemon, admin = shutil.which("tgtd"), shutil.which("tgtadm")
    if daemon is None or admin is None:
        pytest.skip("tgtd is missing: apt-get install tgt")
    if os.geteuid() != 0:
        pytest.skip("tgtd runs as root only")
    port, control = free_port(), str(1_000 + os.getpid() % 30_000)  # a short in tgtd
    (tmp_path / "disk").write_bytes(bytes(16 << 20))
    environment = os.environ | {
        "TGT_IPC_SOCKET": str(tmp_path / "socket")
    }  # else it stays behind in /var/run
    process = subprocess.Popen(
        [daemon, "-f", "-C", control, "--iscsi", f"portal=127.0.0.1:{port}"],
        env=environment,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )

    def tell(*words: str) -> int:
        argv = [admin, "-C", control, "--lld", "iscsi", *words]
        return subprocess.run(argv, capture_output=True, timeout=60, env=environment).returncode

    try:
        deadline = time.monotonic() + 60
        while tell("--mode", "target", "--op", "new", "--tid", "1", "-T", IQN):
            assert process.poll() is None, f"tgtd ended with {process.returncode}"
            assert time.monotonic() < deadline, "tgtd does not answer"
            time.sleep(0.05)
        lun = ("--mode", "logicalunit", "--op", "new", "--tid", "1", "--lun", "1")
        assert tell(*lun, "-b", str(tmp_path / "disk")) == 0
        assert tell("--mode", "target", "--op", "bind", "--tid", "1", "-I", "ALL") == 0
        for key in ("HeaderDigest", "DataDigest"):
            assert (
                tell("--mode", "target", "--op", "update", "--tid", "1", "-n", key, "-v", "CRC32C,None") == 0
            )
        yield port
    finally:
        process.send_signal(signal.SIGKILL)
        process.wait(60)


@pytest.mark.parametrize("digest", ["None", "CRC32C"])
@pytest.mark.parametrize(("immediate", "initial_r2t"), [(True, False), (False, True)])
def test_our_initiator_works_against_tgtd(tgtd: int, digest: str, immediate: bool, initial_r2t: bool) -> None:
    async def body() -> None:
        assert [target.name for target in await discover("127.0.0.1", tgtd)] == [IQN]
        parameters = Parameters(
            header_digest=(digest,), data_digest=(digest,), immediate_data=immediate, initial_r2t=initial_r2t
        )
        async with await Initiator.login("127.0.0.1", tgtd, IQN, parameters=parameters) as session:
            assert session.agreed.header_digest == digest
            assert await session.report_luns() == [0, 1]
            assert await session.read_capacity(1) == (32768, BLOCK)
            data = os.urandom(4 << 20)
            async with asyncio.TaskGroup() as group:
                for lba in range(0, 8192, 1024):
                    group.create_task(session.write(1, lba, data[lba * BLOCK : (lba + 1024) * BLOCK]))
            assert await session.read(1, 0, 8192) == data
            await session.synchronize_cache(1)
            assert await session.nop(b"ping") == b"ping"

    asyncio.run(asyncio.wait_for(body(), 90))


def test_tgtd_refuses_what_it_should_and_we_say_so(tgtd: int) -> None:
    async def body() -> None:
        with pytest.raises(LoginFailed, match="0x0203"):
            await Initiator.login("127.0.0.1", tgtd, IQN + "x")
        chap = Chap(own=Credentials("nobody", b"no secret at all"), algorithms=(5,))
        with pytest.raises(LoginFailed):
            await Initiator.login("127.0.0.1", tgtd, IQN, chap=chap)

    asyncio.run(asyncio.wait_for(body(), 90))


def test_resets_and_discovery_at_several_portals_with_tgtd(tgtd: int) -> None:
    async def body() -> None:
        async with await Initiator.login("127.0.0.1", tgtd, IQN) as session:
            data = os.urandom(256 * BLOCK)
            await session.write(1, 0, data)
            assert await session.task_management(TaskFunction.LOGICAL_UNIT_RESET, 1) == 0
            assert await session.read(1, 0, 256) == data
            (found,) = await discover_at([("127.0.0.1", tgtd)] * 2)
            assert found.portals[0].port == tgtd

    asyncio.run(asyncio.wait_for(body(), 90))
