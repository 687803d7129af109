"""A target in a thread: where it is, how it ends, and what it leaves."""

from __future__ import annotations

import asyncio
import socket
import threading
from pathlib import Path

import pytest

from iscsi_target.errors import ConnectionLost
from iscsi_target.initiator import Initiator
from iscsi_target.running import LunSpec, RunningTarget, TargetStuck, serve
from iscsi_target.scsi.errors import StoreError
from iscsi_target.scsi.logical_unit import LogicalUnitConfig
from iscsi_target.scsi.stores.memory import MemoryStore
from iscsi_target.server import Portal
from iscsi_target.session.chap import Chap, Credentials
from tests.iscsi_target.faults.raw_initiator import ConnectionOver, RawInitiator


def test_it_says_where_it_is_and_serves_its_luns() -> None:
    with serve("4MiB", LunSpec("null:1GiB", LogicalUnitConfig(block_length=4096))) as target:
        assert target.url == f"iscsi://127.0.0.1:{target.port}/{target.iqn}/0"
        assert target.lun_url(1, user="a%b").startswith("iscsi://a%b@127.0.0.1:")

        async def main() -> None:
            async with await Initiator.login(target.host, target.port, target.iqn) as initiator:
                assert await initiator.report_luns() == [0, 1]
                assert await initiator.read_capacity(0) == (8192, 512)
                assert await initiator.read_capacity(1) == (262144, 4096)
                (info,) = await asyncio.to_thread(target.sessions)
                assert info.tsih == initiator.tsih
                assert len(info.connections) == 1

        asyncio.run(main())


def test_it_leaves_no_thread_and_no_socket_and_may_be_stopped_twice() -> None:
    before = set(threading.enumerate())
    target = serve("4MiB").start()
    port = target.port
    raw = RawInitiator(target.host, port, target.iqn)
    target.stop()
    target.stop()
    assert set(threading.enumerate()) <= before
    with pytest.raises(ConnectionOver):
        while True:
            raw.receive()
    raw.socket.close()
    with pytest.raises(ConnectionRefusedError), socket.create_connection(("127.0.0.1", port), timeout=5):
        pass
    with pytest.raises(RuntimeError, match="does not run"):
        target.sessions()


def test_two_targets_run_side_by_side() -> None:
    with serve("4MiB") as one, serve("4MiB") as two:
        assert one.port != two.port
        with RawInitiator(one.host, one.port, one.iqn) as raw:
            raw.ping()
            raw.receive()
        assert one.log.total >= 4
        assert two.log.total == 0


def test_a_port_that_is_taken_is_said_where_it_is_started() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        target = serve("4MiB", portals=[Portal("127.0.0.1", taken.getsockname()[1])])
        with pytest.raises(OSError, match="Address already in use"):
            target.start()
        target.stop()


def test_what_cannot_be_served_is_said_and_leaves_nothing_open(tmp_path: Path) -> None:
    with pytest.raises(StoreError, match="does not exist"):
        serve("4MiB", str(tmp_path / "nothing"))


def test_a_session_is_asked_to_log_out_or_ended() -> None:
    with serve("4MiB") as target, RawInitiator(target.host, target.port, target.iqn) as raw:
        assert target.request_logout(1, 3)
        message = raw.receive()
        assert (message.async_event, message.parameter_3) == (1, 3)  # type: ignore[union-attr]
        assert not target.request_logout(99)
        assert not target.end_session(99)
        assert target.end_session(1)
        with pytest.raises(ConnectionOver):
            raw.receive()
        assert target.sessions() == []


def test_chap_and_closed_doors() -> None:
    chap = Chap(accepted=(Credentials("alice", b"wonderland123"),))
    with serve("4MiB", chap=chap) as target:

        async def main() -> None:
            own = Chap(own=Credentials("alice", b"wonderland123"))
            async with await Initiator.login(target.host, target.port, target.iqn, chap=own) as initiator:
                await initiator.test_unit_ready(0)

        asyncio.run(main())


def test_what_a_call_raises_is_raised_where_it_was_asked_for() -> None:
    with serve("4MiB") as target:
        with pytest.raises(ZeroDivisionError):
            target.call(lambda: 1 // 0)
        asked_again = threading.Event()
        with pytest.raises(TargetStuck, match=r"does not answer in 0\.05 s"):
            target.call(lambda: asked_again.wait(20), timeout_s=0.05)
        asked_again.set()


def test_a_command_that_does_not_end_does_not_hold_up_its_owner_for_ever() -> None:
    begun, release = threading.Event(), threading.Event()

    class SlowStore(MemoryStore):
        @property
        def blocking(self) -> bool:
            return True

        def read(self, offset: int, length: int):
            begun.set()
            release.wait(20)
            return super().read(offset, length)

    target = serve(SlowStore(1 << 20), stop_timeout_s=0.3).start()
    thread = next(thread for thread in threading.enumerate() if thread.name == "iscsi-target")

    async def main() -> None:
        initiator = await Initiator.login(target.host, target.port, target.iqn)
        await initiator.test_unit_ready(0)
        reading = asyncio.ensure_future(initiator.read(0, 0, 1))
        assert await asyncio.to_thread(begun.wait, 60), (
            "a command that has come may still be ended before it begins"
        )
        with pytest.raises(TargetStuck, match=r"did not end in 0\.3 s"):
            await asyncio.to_thread(target.stop)
        with pytest.raises(ConnectionLost):
            await reading
        await initiator.abort()

    try:
        asyncio.run(main())
    finally:
        release.set()
        thread.join(20)
    assert not thread.is_alive()


def test_a_target_without_a_log_says_so() -> None:
    with serve("4MiB", log_limit=None) as target, pytest.raises(RuntimeError, match="no PDU log"):
        assert target.log


def test_a_target_is_started_once() -> None:
    with serve("4MiB") as target, pytest.raises(RuntimeError, match="started already"):
        target.start()
    assert isinstance(target, RunningTarget)
