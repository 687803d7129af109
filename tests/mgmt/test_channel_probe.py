"""The measuring device as it runs: real UDP on loopback, real processes, real messages."""

from __future__ import annotations

import random
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path

import pytest

from credits.errors import Code, CreditError
from mgmt.channel.dispersion import NotMeasurable
from mgmt.channel.endpoint import ResponderThread, measure, udp_socket
from mgmt.channel.measurement import Measured, MeasurementConfig
from mgmt.channel.serve import ChannelManager, PeerDevice, PeerDeviceError, parse_peer
from mgmt.http import Peer, PeerRefused
from mgmt.messages import (
    BadMessage,
    ChannelInfoGetRequest,
    ChannelInfoGetResponse,
    CopyStatusRequest,
    Envelope,
)

NOON = datetime(2026, 1, 1, 12, tzinfo=UTC)
QUICK = MeasurementConfig(echoes=2, echo_wait_ns=50_000_000, limit_ns=200_000_000)


@contextmanager
def responder() -> Iterator[tuple[str, int]]:
    sock = udp_socket("127.0.0.1")
    thread = ResponderThread(sock)
    try:
        yield sock.getsockname()
    finally:
        thread.close()


@contextmanager
def probe(*arguments: str, lines: int = 2) -> Iterator[tuple[subprocess.Popen[str], list[str]]]:
    """``sancredit probe serve`` as a process, and its ready lines."""
    code = "from mgmt.channel.cli import serve; serve()"
    process = subprocess.Popen(
        [sys.executable, "-c", code, *arguments], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    assert process.stderr is not None
    try:
        yield process, [process.stdout.readline().strip() for _ in range(lines)]
    finally:
        if process.poll() is None:
            process.send_signal(signal.SIGTERM)
        process.wait(60)
        process.stdout.close()
        process.stderr.close()


def ask(remote_port: str = "127.0.0.1") -> ChannelInfoGetRequest:
    return ChannelInfoGetRequest(local_port="127.0.0.1", remote_port=remote_port)


def test_loopback_is_measured_and_reported_as_limited_by_the_sender() -> None:
    with responder() as peer:
        measured = measure("127.0.0.1", peer)
    assert measured.bandwidth_bps > 0
    assert measured.rtt_ns > 0


def test_a_device_that_never_answers_is_not_measurable() -> None:
    with udp_socket("127.0.0.1") as silent, pytest.raises(NotMeasurable, match="nothing came back"):
        measure("127.0.0.1", silent.getsockname(), QUICK)


def test_a_responder_survives_strangers() -> None:
    with responder() as peer, udp_socket("127.0.0.1") as stranger:
        stranger.sendto(b"", peer)
        stranger.sendto(random.Random(1).randbytes(1400), peer)
        assert measure("127.0.0.1", peer).rtt_ns > 0


def manager(measurer: object) -> ChannelManager:
    peers = {"10.0.0.2": PeerDevice("10.0.0.2", "192.0.2.7", 5005)}
    return ChannelManager("10.0.0.1", peers, measurer=measurer, utc_now=lambda: NOON)  # type: ignore[arg-type]


def test_m1_is_answered_with_what_was_measured_and_how() -> None:
    asked: list[object] = []

    def measurer(address: str, peer: tuple[str, int]) -> Measured:
        asked.append((address, peer))
        return Measured(10**8, 20_000_000, sender_limited=False, jitter_ns=400_000, loss_ppm=50)

    answer = manager(measurer).handle(Envelope("1", ask("10.0.0.2")))
    assert asked == [("10.0.0.1", ("192.0.2.7", 5005))]
    assert answer == ChannelInfoGetResponse(
        local_port="127.0.0.1",
        remote_port="10.0.0.2",
        bandwidth_bps=10**8,
        rtt_ns=20_000_000,
        measured_at="2026-01-01T12:00:00.000+00:00",
        method="UDP packet trains and STAMP, 10.0.0.1 to 192.0.2.7",
        jitter_ns=400_000,
        loss_ppm=50,
    )


def test_a_lower_bound_is_called_one() -> None:
    answer = manager(lambda *_: Measured(10**8, 1, sender_limited=True)).handle(
        Envelope("1", ask("10.0.0.2"))
    )
    assert isinstance(answer, ChannelInfoGetResponse)
    assert answer.method.startswith("at least")


@pytest.mark.parametrize("measured", [Measured(0, 5, False), Measured(5, 0, False), Measured(5, -1, False)])
def test_an_impossible_measurement_is_an_error_and_no_answer(measured: Measured) -> None:
    with pytest.raises(CreditError) as refusal:
        manager(lambda *_: measured).handle(Envelope("1", ask("10.0.0.2")))
    assert refusal.value.code is Code.UNREACHABLE


def test_a_port_without_a_device_is_an_invalid_target() -> None:
    with pytest.raises(CreditError, match=r"known: 10\.0\.0\.2") as refusal:
        manager(lambda *_: Measured(1, 1, False)).handle(Envelope("1", ask("10.0.0.3")))
    assert refusal.value.code is Code.INVALID_TARGET


def test_a_measuring_device_answers_m1_only() -> None:
    with pytest.raises(BadMessage, match="CopyStatusRequest"):
        manager(lambda *_: Measured(1, 1, False)).handle(Envelope("1", CopyStatusRequest(copy_id="c")))


@pytest.mark.parametrize(
    ("text", "device"),
    [
        ("10.0.0.2:5005", PeerDevice("10.0.0.2", "10.0.0.2", 5005)),
        ("10.0.0.2=192.0.2.7:5005", PeerDevice("10.0.0.2", "192.0.2.7", 5005)),
        ("[fe80::1]:5005", PeerDevice("fe80::1", "fe80::1", 5005)),
    ],
)
def test_a_peer_device_is_read(text: str, device: PeerDevice) -> None:
    assert parse_peer(text) == device


@pytest.mark.parametrize(
    "text", ["", "10.0.0.2", "10.0.0.2:0", "10.0.0.2:70000", "host:5", "x=10.0.0.2:5", "=:1"]
)
def test_what_is_no_peer_device_is_refused(text: str) -> None:
    with pytest.raises(PeerDeviceError):
        parse_peer(text)


@pytest.mark.slow
def test_two_probe_processes_measure_the_channel_between_them_and_leave_nothing_behind(
    tmp_path: Path,
) -> None:
    near, far = tmp_path / "near.sock", tmp_path / "far.sock"
    with probe("--listen", f"unix:{far}", "--address", "127.0.0.1") as (_, far_ready):
        assert far_ready[1] == f"listening unix:{far}"
        device = far_ready[0].removeprefix("listening udp://")
        with probe("--listen", f"unix:{near}", "--address", "127.0.0.1", "--peer", device) as (process, _):
            with Peer(f"unix:{near}", 60.0) as client:
                answer = client.send(ask())
                assert isinstance(answer, ChannelInfoGetResponse)
                assert answer.bandwidth_bps > 0
                with pytest.raises(PeerRefused) as refusal:
                    client.send(ask("127.0.0.77"))
                assert refusal.value.code == Code.INVALID_TARGET
            process.send_signal(signal.SIGTERM)
            assert process.wait(60) == 0
    assert list(tmp_path.iterdir()) == []


@pytest.mark.slow
@pytest.mark.parametrize(
    ("arguments", "exit_code", "text"),
    [
        (["--address", "nonsense"], 2, "nonsense"),
        (
            ["--address", "192.0.2.1"],
            1,
            "cannot listen on udp://192.0.2.1:0: cannot assign requested address",
        ),
        (["--address", "127.0.0.1", "--peer", "nowhere"], 2, "is not a peer device"),
        (["--address", "127.0.0.1", "--listen", "tcp"], 2, "is not an address"),
        (["--address", "127.0.0.1", "--array", "unix:/a"], 2, "give --station too"),
        (["--address", "127.0.0.1", "--key", "/nonexistent/a.key"], 2, "cannot read the key"),
        (["--address", "127.0.0.1", "--station", "tcp"], 2, "is not an address"),
    ],
)
def test_bad_input_gets_one_line_and_its_exit_code(
    tmp_path: Path, arguments: list[str], exit_code: int, text: str
) -> None:
    listen = ["--listen", f"unix:{tmp_path / 'p.sock'}"]
    with probe(*listen, *arguments, lines=0) as (process, _):
        _, errors = process.communicate(timeout=110)
        assert process.returncode == exit_code
        assert text in errors
        assert len(errors.strip().splitlines()) == 1
