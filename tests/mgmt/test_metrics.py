"""/metrics: what the counters say, as Prometheus reads it."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import subprocess
import sys
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Callable, Iterator
from dataclasses import replace

import pytest
from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.openmetrics.parser import text_string_to_metric_families as open_metrics
from prometheus_client.parser import text_string_to_metric_families

from credits.config import UnitKind
from credits.results import PoolStatistics
from iscsi_target.errors import CommandFailed
from iscsi_target.initiator import Initiator
from iscsi_target.session.counters import (
    LATENCY_BUCKETS,
    LunStatistics,
    ServerStatistics,
    SessionStatistics,
    TargetStatistics,
    TrafficStatistics,
)
from mgmt.cli.main import main
from mgmt.metrics.collector import SESSIONS_LISTED, FaultCount, TargetCollector, TargetSnapshot
from mgmt.metrics.server import MetricsServer, taken_on

TARGET = "iqn.2026-11.example:t"
INITIATOR = 'iqn.2026-11.example:"quoted"\\host\n'


def traffic(reads: int = 3) -> TrafficStatistics:
    buckets = [0] * LATENCY_BUCKETS
    buckets[0], buckets[7], buckets[-1] = 1, reads, 2
    return TrafficStatistics(
        read_commands=reads,
        write_commands=2,
        other_commands=1,
        read_bytes=reads * 4096,
        written_bytes=1024,
        errors=1,
        latency_buckets=tuple(buckets),
        latency_sum_ns=5_000_000_000,
    )


def session(tsih: int, reads: int = 3) -> SessionStatistics:
    return SessionStatistics(
        tsih=tsih,
        initiator_name=INITIATOR,
        target_name=TARGET,
        connections=2,
        traffic=traffic(reads),
        luns=(LunStatistics(0, traffic(reads)),),
        outstanding=5,
        window=123,
        window_limit=128,
        ignored_pdus=4,
        unsent_data_in_bytes=77,
        held_buffer_bytes=88,
    )


def snapshot(*sessions: SessionStatistics) -> TargetSnapshot:
    luns = (LunStatistics(0, traffic()), LunStatistics(None, traffic(9)))
    target = TargetStatistics(TARGET, len(sessions), traffic() + traffic(9), luns)
    return TargetSnapshot(
        ServerStatistics((target,), sessions, 6, 1, 2, 65536),
        (FaultCount("slow reads", "delay", 8),),
        PoolStatistics(
            name="p",
            kind=UnitKind.TCP,
            unit_bytes=16384,
            total_units=10,
            free_units=6,
            reserved_idle_units=1,
            in_use_units=2,
            draining_units=1,
            expandable_units=0,
            revision=0,
        ),
    )


Samples = dict[tuple[str, tuple[tuple[str, str], ...]], float]


def samples(text: str, parse: Callable[..., object] = text_string_to_metric_families) -> Samples:
    """Every sample by name and sorted labels; the parser refuses what is not valid, and no sample comes twice."""
    found: Samples = {}
    for family in parse(text):  # type: ignore[attr-defined]
        for sample in family.samples:
            key = (sample.name, tuple(sorted(sample.labels.items())))
            assert key not in found
            found[key] = sample.value
    return found


def exposed(look: TargetSnapshot) -> Samples:
    registry = CollectorRegistry(auto_describe=False)
    registry.register(TargetCollector(lambda: look))
    return samples(generate_latest(registry).decode())


def value(found: Samples, name: str, **labels: str) -> float:
    return found[f"sancredit_{name}", tuple(sorted(labels.items()))]


def test_every_figure_of_the_read_models_is_exported() -> None:
    found = exposed(snapshot(session(7)))
    lun = {"target": TARGET, "lun": "0"}
    assert value(found, "iscsi_lun_commands_total", **lun, kind="read") == 3
    assert value(found, "iscsi_lun_commands_total", **lun, kind="write") == 2
    assert value(found, "iscsi_lun_commands_total", **lun, kind="other") == 1
    assert value(found, "iscsi_lun_bytes_total", **lun, direction="read") == 3 * 4096
    assert value(found, "iscsi_lun_bytes_total", **lun, direction="written") == 1024
    assert value(found, "iscsi_lun_errors_total", **lun) == 1
    assert value(found, "iscsi_lun_commands_total", target=TARGET, lun="none", kind="read") == 9
    assert value(found, "iscsi_target_commands_total", target=TARGET, kind="read") == 12
    assert value(found, "iscsi_target_sessions", target=TARGET) == 1
    key = {"target": TARGET, "initiator": INITIATOR, "tsih": "7"}
    assert value(found, "iscsi_session_commands_total", **key, kind="read") == 3
    assert value(found, "iscsi_session_window_used_commands", **key) == 5
    assert value(found, "iscsi_session_window_limit_commands", **key) == 128
    assert value(found, "iscsi_session_outstanding_commands", **key) == 5
    assert value(found, "iscsi_session_unsent_data_in_bytes", **key) == 77
    assert value(found, "iscsi_session_held_buffer_bytes", **key) == 88
    assert value(found, "iscsi_session_connections", **key) == 2
    assert value(found, "iscsi_session_ignored_pdus_total", **key) == 4
    assert value(found, "iscsi_connections") == 6
    assert value(found, "iscsi_connections_waiting_for_buffers") == 1
    assert value(found, "iscsi_connections_holding_buffers") == 2
    assert value(found, "iscsi_held_buffer_bytes") == 65536
    assert value(found, "iscsi_faults_fired_total", rule="slow reads", action="delay") == 8
    states = ("free", "reserved_idle", "in_use", "draining")
    assert [value(found, "pool_bytes", pool="p", state=state) // 16384 for state in states] == [6, 1, 2, 1]


@pytest.mark.parametrize(
    ("name", "labels"),
    [
        ("iscsi_lun_latency_seconds", {"target": TARGET, "lun": "0"}),
        ("iscsi_target_latency_seconds", {"target": TARGET}),
        ("iscsi_session_latency_seconds", {"target": TARGET, "initiator": INITIATOR, "tsih": "7"}),
    ],
)
def test_latency_histograms_are_cumulative_and_complete(name: str, labels: dict[str, str]) -> None:
    found = exposed(snapshot(session(7)))
    buckets = sorted(
        (float(dict(key)["le"]), count)
        for (sample, key), count in found.items()
        if sample == f"sancredit_{name}_bucket" and labels.items() <= dict(key).items()
    )
    counts = [count for _, count in buckets]
    assert len(buckets) >= 8 and counts == sorted(counts)
    assert buckets[-1][0] == float("inf")
    assert counts[-1] == value(found, f"{name}_count", **labels)
    # 1 answer below 1 µs, the reads below 2**7 µs, 2 beyond every bound
    assert buckets[0] == (1e-06, 2 if "target_" in name else 1)
    assert counts[-1] - counts[-2] == (4 if "target_" in name else 2)
    bound = next(limit for limit, _ in buckets if limit >= 128e-6)
    assert dict(buckets)[bound] == counts[-2]
    assert value(found, f"{name}_sum", **labels) == (10 if "target_" in name else 5)


def test_sessions_beyond_the_limit_are_counted_and_not_listed() -> None:
    many = [session(tsih, reads=tsih) for tsih in range(1, SESSIONS_LISTED + 6)]
    found = exposed(snapshot(*many))
    listed = {
        dict(key)["tsih"] for (name, key) in found if name == "sancredit_iscsi_session_outstanding_commands"
    }
    assert listed == {str(tsih) for tsih in range(6, SESSIONS_LISTED + 6)}  # the busiest
    assert value(found, "iscsi_sessions_not_listed") == 5


def test_a_target_without_pool_and_rules_has_no_such_samples() -> None:
    found = exposed(replace(snapshot(), pool=None, faults=()))
    assert not any(name.startswith(("sancredit_pool", "sancredit_iscsi_faults")) for name, _ in found)
    assert value(found, "iscsi_sessions_not_listed") == 0


def get(address: tuple[str, int], path: str = "/metrics", accept: str = "") -> str:
    request = urllib.request.Request(f"http://{address[0]}:{address[1]}{path}", headers={"Accept": accept})
    with urllib.request.urlopen(request, timeout=10) as answer:
        text: str = answer.read().decode()
    return text


@contextlib.asynccontextmanager
async def serving(look: Callable[[], TargetSnapshot]):
    server = MetricsServer("127.0.0.1", 0, TargetCollector(taken_on(asyncio.get_running_loop(), look)))
    server.start()
    try:
        yield server.address
    finally:
        await asyncio.to_thread(server.stop)


def test_a_scrape_takes_its_snapshot_on_the_loop() -> None:
    async def body() -> None:
        loop = asyncio.get_running_loop()

        def look() -> TargetSnapshot:
            assert asyncio.get_running_loop() is loop
            return snapshot(session(7))

        async with serving(look) as address:
            found = samples(await asyncio.to_thread(get, address))
            assert value(found, "iscsi_target_sessions", target=TARGET) == 1
            assert found["process_resident_memory_bytes", ()] > 0
            text = await asyncio.to_thread(get, address, accept="application/openmetrics-text; version=1.0.0")
            assert value(samples(text, open_metrics), "iscsi_target_sessions", target=TARGET) == 1

    asyncio.run(asyncio.wait_for(body(), 30))


def test_anything_else_is_not_there_and_a_failing_snapshot_is_an_error() -> None:
    async def body() -> None:
        def look() -> TargetSnapshot:
            raise RuntimeError("no snapshot today")

        async with serving(look) as address:
            for path, code in (("/", 404), ("/metrics/", 404), ("/metrics", 500)):
                with pytest.raises(urllib.error.HTTPError) as refused:
                    await asyncio.to_thread(get, address, path)
                assert refused.value.code == code
                refused.value.close()

    asyncio.run(asyncio.wait_for(body(), 30))


def test_a_silent_client_is_cut_off_and_does_not_keep_the_others_out(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("mgmt.metrics.server._REQUEST_S", 0.3)

    async def body() -> None:
        async with serving(lambda: snapshot()) as address:
            with socket.create_connection(address, timeout=10) as silent:
                silent.sendall(b"GET /metr")
                assert "sancredit_iscsi_connections 6.0" in await asyncio.to_thread(get, address)
                assert silent.recv(100) == b""

    asyncio.run(asyncio.wait_for(body(), 30))


IQN = "iqn.2003-10.example:metered"


@pytest.fixture
def metered() -> Iterator[tuple[int, tuple[str, int]]]:
    """``sancredit target serve --metrics``: the ports of the target and of /metrics."""
    command = [sys.executable, "-m", "mgmt.cli", "target", "serve", "--portal", "127.0.0.1:0", "--iqn", IQN]
    command += ["--lun", "1MiB", "--lun", "2MiB", "--buffers", "8MiB", "--metrics", "127.0.0.1:0"]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    try:
        assert process.stdout is not None
        lines = [process.stdout.readline() for _ in range(3)]
        url = urllib.parse.urlsplit(lines[2].split()[1])
        assert lines[2].startswith("metrics ") and url.path == "/metrics"
        yield int(lines[0].split("/")[2].rpartition(":")[2]), (str(url.hostname), int(url.port or 0))
        process.terminate()
        assert process.communicate(timeout=20)[1] == ""
        assert process.returncode == 0
    finally:
        process.kill()
        process.communicate()


def test_a_served_target_counts_what_a_session_did(metered: tuple[int, tuple[str, int]]) -> None:
    port, address = metered

    async def body() -> Samples:
        async with await Initiator.login("127.0.0.1", port, IQN) as session:
            await session.test_unit_ready(1)  # takes the unit attention
            await session.write(1, 0, bytes(4096))
            for _ in range(3):
                await session.read(1, 0, 8)
            with pytest.raises(CommandFailed):
                await session.read(0, 1 << 40, 1)
            return samples(await asyncio.to_thread(get, address))

    found = asyncio.run(asyncio.wait_for(body(), 30))
    one = {"target": IQN, "lun": "1"}
    assert value(found, "iscsi_lun_commands_total", **one, kind="read") == 3
    assert value(found, "iscsi_lun_bytes_total", **one, direction="read") == 3 * 4096
    assert value(found, "iscsi_lun_bytes_total", **one, direction="written") == 4096
    assert value(found, "iscsi_lun_errors_total", target=IQN, lun="0") >= 1
    assert value(found, "iscsi_lun_latency_seconds_count", **one) >= 4
    assert value(found, "iscsi_target_sessions", target=IQN) == 1
    (key,) = [key for name, key in found if name == "sancredit_iscsi_session_window_used_commands"]
    session = {name: text for name, text in key if name != "le"}
    assert value(found, "iscsi_session_window_limit_commands", **session) > 0
    assert value(found, "iscsi_session_outstanding_commands", **session) == 0
    states = ("free", "reserved_idle", "in_use", "draining")
    assert sum(value(found, "pool_bytes", pool="target", state=state) for state in states) == 8 << 20


@pytest.mark.parametrize(
    ("options", "code", "says"),
    [
        (["--metrics", "nowhere"], 2, "--metrics is HOST:PORT"),
        (["--buffers", "1KiB"], 2, "--buffers is 1MiB to 16GiB"),
        (["--buffers", "much"], 2, "much"),
    ],
)
def test_bad_values_of_the_new_options_get_one_line(
    options: list[str], code: int, says: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["target", "serve", "--portal", "127.0.0.1:0", *options]) == code
    told = capsys.readouterr()
    assert says in told.err and told.err.count("\n") == 1 and told.out == ""


def test_a_metrics_port_that_is_taken_is_said(capsys: pytest.CaptureFixture[str]) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        where = f"127.0.0.1:{taken.getsockname()[1]}"
        assert main(["target", "serve", "--portal", "127.0.0.1:0", "--metrics", where]) == 1
    assert capsys.readouterr().err == f"sancredit: cannot serve metrics at {where}: address already in use\n"
