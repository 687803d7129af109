"""Targets in a thread of the test's own process: what they are made of, and how they end."""

from __future__ import annotations

import asyncio
import socket
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from iscsi_target.errors import CommandFailed, ConnectionLost, LoginFailed
from iscsi_target.faults import Close, Drop, FaultError, Latency, Rule
from iscsi_target.faults.distributions import Fixed
from iscsi_target.session.chap import Chap, Credentials
from iscsi_target.session.node import Portal
from iscsi_target.session.parameters import Parameters
from tools.capture.pcapng import read_file
from tools.harness.errors import HarnessError, Hung
from tools.harness.factory import TargetFactory
from tools.harness.loop_thread import LoopThread


@pytest.fixture
def factory(tmp_path: Path) -> Iterator[TargetFactory]:
    made = TargetFactory(
        node_id="tests/test_x.py::test_x[a/b c]",
        seed=3,
        run_seed=1,
        timeout_s=60,
        artifacts=str(tmp_path / "kept"),
        temporary=lambda: tmp_path,
        root=tmp_path,
    )
    yield made
    made.stop()


def test_a_stopped_target_leaves_no_thread_port_or_file(factory: TargetFactory, tmp_path: Path) -> None:
    before = set(threading.enumerate())
    target = factory()
    assert target.initiator().read(0, 8) == bytes(4096)
    port = target.port
    factory.stop()
    assert {thread.name for thread in set(threading.enumerate()) - before} == set()
    assert list(tmp_path.iterdir()) == []
    with socket.socket() as probe:
        assert probe.connect_ex(("127.0.0.1", port)) != 0
    target.stop()  # again: nothing happens


def test_the_description_of_a_target_is_carried_out(factory: TargetFactory, tmp_path: Path) -> None:
    disk = tmp_path / "disk"
    disk.write_bytes(b"d" * 4096)
    chap = Chap(accepted=(Credentials("user", b"a long enough secret"),))
    parameters = Parameters(max_burst_length=65536, first_burst_length=4096, error_recovery_level=1)
    target = factory(luns=(str(disk), "1MiB"), iqn="iqn.2026-11.example:x", chap=chap, parameters=parameters)
    with pytest.raises(LoginFailed):
        target.initiator()
    session = target.initiator(chap=Chap(own=Credentials("user", b"a long enough secret")))
    assert session.agreed.max_burst_length == 65536
    assert session.read(7) == b"d" * 512
    session.write(0, b"e" * 512)
    assert disk.read_bytes()[:513] == b"e" * 512 + b"d"
    assert target.url(1) == f"iscsi://127.0.0.1:{target.port}/iqn.2026-11.example:x/1"


def test_rules_come_as_values_as_tables_and_from_a_file(factory: TargetFactory, tmp_path: Path) -> None:
    file = tmp_path / "rules.toml"
    file.write_text('[[rule]]\nname = "a"\naction = "busy"\ncommand = "read-16"\n')
    by_file = factory(rules=file)
    assert [status.rule.name for status in by_file.faults.statuses()] == ["a"]
    with pytest.raises(CommandFailed):
        by_file.initiator().read(0)
    mixed = factory(rules=[Rule(name="b", action=Drop()), {"name": "c", "action": "busy"}])
    assert [status.rule.name for status in mixed.faults.statuses()] == ["b", "c"]
    with pytest.raises(FaultError):
        factory(rules=[{"name": "d", "action": "no such"}])


def test_a_command_that_gets_no_answer_ends_with_a_timeout_and_the_session_lives(
    factory: TargetFactory,
) -> None:
    target = factory()
    session = target.initiator()
    session.test_unit_ready()
    read = bytes.fromhex("8800 0000000000000000 00000001 0000")  # READ(16) of block 0
    with target.faults.add(Latency(Fixed(600_000_000_000)), command="read-16"), pytest.raises(TimeoutError):
        session.execute(read, data_in_length=512, timeout_s=0.2)
    assert session.read(0) == bytes(512)


def test_a_lost_connection_is_told_and_another_session_can_be_made(factory: TargetFactory) -> None:
    target = factory(parameters=Parameters(error_recovery_level=0))
    session = target.initiator()
    session.test_unit_ready()
    with (
        target.faults.add(Close("reset"), opcode="scsi-command"),
        pytest.raises(ConnectionLost),
    ):
        session.read(0)
    assert session.lost is not None
    session.logout()
    assert target.initiator().read(0) == bytes(512)


def test_sessions_of_an_asyncio_test_and_of_the_harness_live_side_by_side(factory: TargetFactory) -> None:
    target = factory()
    blocking = target.initiator()

    async def body() -> bytes:
        async with await target.login() as session:
            await session.write(0, 3, b"a" * 512)
            assert len(await asyncio.to_thread(target.sessions)) == 2
            return bytes(await session.read(0, 3, 1))

    assert asyncio.run(body()) == blocking.read(3) == b"a" * 512
    assert target.statistics().targets[0].sessions == 1


def test_an_option_that_there_is_not_is_named_with_those_there_are(factory: TargetFactory) -> None:
    with pytest.raises(HarnessError, match=r"a target has no option 'lun'; there are luns, iqn, "):
        factory(lun="1MiB")


def test_a_portal_that_is_taken_is_an_error_and_leaves_nothing(factory: TargetFactory) -> None:
    before = set(threading.enumerate())
    with socket.create_server(("127.0.0.1", 0)) as taken, pytest.raises(HarnessError, match="cannot listen"):
        factory(portals=(Portal("127.0.0.1", taken.getsockname()[1]),))
    assert set(threading.enumerate()) <= before


def test_a_slow_command_is_not_waited_for_when_the_target_stops(factory: TargetFactory) -> None:
    target = factory()
    session = target.initiator()
    session.test_unit_ready()
    target.faults.add(Latency(Fixed(600_000_000_000)), command="read-16")
    future = session.submit(lambda asyncio_session: asyncio_session.read(0, 0, 1))
    target.log.wait_for(command="read-16")
    factory.stop()
    assert future.exception(timeout=60) is not None


def test_artefacts_are_written_twice_without_harm(factory: TargetFactory, tmp_path: Path) -> None:
    target = factory()
    target.initiator().read(0)
    said = factory.keep_artifacts("call")
    target.initiator().write(0, b"z" * 512)
    factory.keep_artifacts("teardown")
    (directory,) = (tmp_path / "kept").iterdir()
    assert directory.name.startswith("tests_test_x.py_test_x[a_b_c]-") and f"logs: {directory}" in said
    assert 'pytest --rootdir=. "tests/test_x.py::test_x[a/b c]" --target-seed=1' in said.replace("'", '"')
    assert b"z" * 512 not in b"".join(packet.data for packet in read_file(directory / "target-1.pcapng"))
    assert "write-16" not in (directory / "report-call.txt").read_text()
    assert {path.name for path in directory.iterdir()} >= {"report-call.txt", "report-teardown.txt"}


def test_a_capture_can_be_left_out(factory: TargetFactory, tmp_path: Path) -> None:
    factory(capture=False).initiator().read(0)
    factory.keep_artifacts("call")
    assert list(tmp_path.rglob("*.pcapng")) == []
    assert len(list(tmp_path.rglob("target-1.jsonl"))) == 1


def test_a_loop_that_stands_still_is_shown_with_its_stack() -> None:
    loop, stands, go_on = LoopThread("stuck"), threading.Event(), threading.Event()

    async def stand_still() -> None:
        stands.set()
        go_on.wait(100)

    future = loop.submit(stand_still())
    assert stands.wait(60)
    try:
        with pytest.raises(
            Hung, match=r"the call: no end within 0.1 s; the thread stuck is at(.|\n)*in stand_still"
        ):
            loop.wait(future, 0.1, "the call")
        with pytest.raises(Hung, match=r"the loop does not end within 0.1 s"):
            loop.stop(0.1)
    finally:
        go_on.set()
        loop.stop(60)
    assert "is gone" in loop.stack()
