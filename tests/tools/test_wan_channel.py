"""Channels with real processes and real TCP in them."""

from __future__ import annotations

import contextlib
import json
import os
import select
import signal
import socket
import stat
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tools.wan import channel as channel_module
from tools.wan.channel import Channel
from tools.wan.control import request
from tools.wan.errors import BadSetting, ChannelFailed, ChannelUnavailable

pytestmark = [pytest.mark.slow, pytest.mark.timeout(300)]

MBIT = 1_000_000
MS = 1_000_000
SLEEPER = [sys.executable, "-c", "import time; print('up', flush=True); time.sleep(600)"]


def open_or_skip(kind: str = "tun", **wanted) -> Channel:
    wanted = {"bandwidth_bps": 100 * MBIT, "rtt_ns": 20 * MS, **wanted}
    try:
        return Channel.open(kind, **wanted)
    except ChannelUnavailable as unavailable:
        pytest.skip(f"no {kind} channel on this machine: {unavailable.reason}; to fix it: {unavailable.fix}")


@contextlib.contextmanager
def running(channel: Channel, site: str, argv: list[str], **more) -> Iterator[subprocess.Popen]:
    """A program inside a site; killed at the end, so that a failing test does not wait for it."""
    child = channel.popen(site, argv, **more)
    with child:
        try:
            yield child
        finally:
            child.kill()


@pytest.fixture(params=["tun", "netem"])
def emulated(request, tmp_path):
    """An emulated channel of 100 Mbit/s and 20 ms, by either means."""
    with open_or_skip(request.param, directory=tmp_path) as channel:
        yield channel


def transfer(channel: Channel, seconds: float) -> tuple[dict, dict]:
    """A bulk transfer from the master site to the remote one: what receiver and sender say.

    However late a busy machine makes packets, from before the first to after the last none was faster than the channel.
    """
    began = time.monotonic()
    bulk = [sys.executable, "-m", "tools.wan.bulk"]
    pipe = {"stdout": subprocess.PIPE, "text": True}
    with running(channel, "remote", [*bulk, "receive", channel.remote_address, "0"], **pipe) as receiver:
        port = receiver.stdout.readline().split()[1]
        address = [channel.remote_address, port]
        with running(
            channel, "master", [*bulk, "send", *address, "--seconds", str(seconds)], **pipe
        ) as sender:
            sent, _ = sender.communicate(timeout=60)
        output, _ = receiver.communicate(timeout=60)
    received = json.loads(output)
    assert received["bytes"] * 8 <= channel.payload_limit_bps() * (time.monotonic() - began)
    return received, json.loads(sent)


def output_inside(channel: Channel, site: str, argv: list[str]) -> str:
    with running(channel, site, argv, stdout=subprocess.PIPE, text=True) as child:
        output, _ = child.communicate(timeout=60)
        assert child.returncode == 0
    return output


def is_gone(pidfd: int, within_s: float) -> bool:
    """Whether a process has ended, waiting for it; a pidfd is readable from then on."""
    return bool(select.select([pidfd], [], [], within_s)[0])


#: A busy machine takes time from sender, emulator and receiver: one of so many transfers has to be undisturbed.
ATTEMPTS = 12


def test_tcp_fills_the_channel_and_sees_its_delay(emulated):
    best, quickest_ns = 0.0, 1 << 62
    for _attempt in range(ATTEMPTS):
        received, sent = transfer(emulated, seconds=2.5)
        assert received["bytes"] == sent["bytes"]
        assert sent["min_rtt_ns"] >= 20 * MS, "packets may come late, never early"
        best = max(best, received["goodput_bps"] / emulated.payload_limit_bps())
        quickest_ns = min(quickest_ns, sent["min_rtt_ns"])
        if best >= 0.95 and quickest_ns < 25 * MS:
            break
    assert best >= 0.95
    assert quickest_ns < 25 * MS
    counted = emulated.status()["directions"]["master_to_remote"]
    assert counted["delivered_bytes"] > received["bytes"]


def test_rate_and_delay_change_while_it_runs(emulated):
    status = emulated.set(bandwidth_bps=20 * MBIT, rtt_ns=50 * MS)
    assert (status["bandwidth_bps"], status["rtt_ns"]) == (20 * MBIT, 50 * MS)
    for _attempt in range(ATTEMPTS):
        received, sent = transfer(emulated, seconds=1.5)
        assert sent["min_rtt_ns"] >= 50 * MS
        share = received["steady_bps"] / emulated.payload_limit_bps()
        if 0.5 <= share <= 1.1:
            break
    assert 0.5 <= share <= 1.1


def test_tcp_gets_everything_through_a_channel_that_loses_packets():
    with open_or_skip(loss_ppm=20_000, loss_seed=1) as channel:
        received, sent = transfer(channel, seconds=0.5)
        assert received["bytes"] == sent["bytes"]
        status = channel.status()
        assert status["loss_ppm"] == 20_000
        lost = {name: way["lost_packets"] for name, way in status["directions"].items()}
        assert lost["master_to_remote"] > 0
        assert channel.set(loss_ppm=0)["loss_ppm"] == 0
        with pytest.raises(BadSetting, match="the loss is"):
            channel.set(loss_ppm=1_000_001)


def test_a_running_transfer_follows_a_change_of_rate():
    """Counted at the channel's end: TCP hands out what it holds back after a loss faster than it arrives.

    What a busy machine makes late comes all at once later on: one span of several has to be as long as the bytes in it.
    """
    spans: list[float] = []
    wanted = 10 * MBIT

    def sample() -> tuple[int, int]:
        counted = channel.status()["directions"]["master_to_remote"]
        return time.monotonic_ns(), counted["delivered_bytes"]

    def right() -> bool:
        return any(0.5 < share < 1.3 for share in spans)

    def slow_down() -> None:
        while sample()[1] < 1_000_000:  # the test's own time-out bounds it
            time.sleep(0.01)
        channel.set(bandwidth_bps=wanted)
        time.sleep(0.1)  # what was travelling arrives as fast as it left
        while not right() and len(spans) < ATTEMPTS:
            (start_ns, start), _, (end_ns, end) = sample(), time.sleep(0.4), sample()
            spans.append((end - start) * 8 * 10**9 / (end_ns - start_ns) / wanted)

    with open_or_skip() as channel:
        bulk = [sys.executable, "-m", "tools.wan.bulk"]
        pipe = {"stdout": subprocess.PIPE, "text": True}
        with running(channel, "remote", [*bulk, "receive", channel.remote_address, "0"], **pipe) as receiver:
            port = receiver.stdout.readline().split()[1]
            endless = [*bulk, "send", channel.remote_address, port, "--seconds", "600"]
            with running(channel, "master", endless):
                slow_down()
    assert right(), spans


def test_the_control_socket_is_private_answers_and_goes_with_the_channel(tmp_path):
    path = tmp_path / "channel.sock"
    with open_or_skip(directory=tmp_path) as channel:
        assert channel.control_path == path
        assert stat.S_IMODE(path.stat().st_mode) == 0o600
        assert request(path, {"op": "status"})["bandwidth_bps"] == 100 * MBIT
        assert request(path, {"op": "set", "rtt_ns": 8 * MS})["rtt_ns"] == 8 * MS
        with pytest.raises(BadSetting, match="rate"):
            request(path, {"op": "set", "bandwidth_bps": 0})
        assert channel.status()["bandwidth_bps"] == 100 * MBIT  # a refusal changes nothing
    assert list(tmp_path.iterdir()) == []
    with pytest.raises(ChannelFailed):
        request(path, {"op": "status"})


def test_a_control_socket_that_is_taken_is_refused_and_left_alone(tmp_path):
    with open_or_skip(directory=tmp_path) as first:
        with pytest.raises(BadSetting, match="Address already in use"):
            Channel.open("tun", bandwidth_bps=MBIT, rtt_ns=MS, directory=tmp_path)
        assert request(tmp_path / "channel.sock", {"op": "status"}) == first.status() | {
            "cpu_ns": pytest.approx(first.status()["cpu_ns"], rel=10)
        }


def test_whatever_comes_to_the_control_socket_the_channel_goes_on(tmp_path):
    path = str(tmp_path / "channel.sock")
    with open_or_skip(directory=tmp_path) as channel, contextlib.ExitStack() as stack:
        clients = [stack.enter_context(socket.socket(socket.AF_UNIX)) for _ in range(20)]
        for client in clients:
            client.settimeout(30)
            client.connect(path)
        for client in clients[8:]:  # more than it serves are turned away
            assert client.recv(1) == b""
        first, second, third = clients[:3]
        first.sendall(b'\n\xff\xfe\n{"op": "sta')
        second.sendall(b"x" * 5000)
        third.sendall(b'{"op": "status"}\n' * 3)
        assert b"not JSON" in first.recv(1000)
        assert second.recv(1000) == b""  # a line without end
        answers = b""
        while answers.count(b"\n") < 3:
            answers += third.recv(100_000)
        first.sendall(b'tus"}\n')
        assert channel.status()["kind"] == "tun"


def test_an_interface_that_is_deleted_inside_stops_the_traffic_only():
    delete = (
        "import socket; from tools.wan.rtnetlink import *\n"
        "with Netlink() as netlink: netlink.request(RTM_DELLINK, link_only(socket.if_nametoindex('wan0')))"
    )
    with open_or_skip() as channel:
        output_inside(channel, "remote", [sys.executable, "-c", delete])
        busy = channel.status()["cpu_ns"]
        time.sleep(0.3)
        assert channel.status()["cpu_ns"] - busy < 0.15 * 10**9  # it does not spin
        assert output_inside(channel, "master", ["echo", "still here"]) == "still here\n"


def test_a_directory_with_a_long_name_is_no_obstacle(tmp_path):
    deep = tmp_path / ("d" * 120)
    deep.mkdir()
    with open_or_skip(directory=deep):
        assert request(deep / "channel.sock", {"op": "status"})["kind"] == "tun"


def test_a_site_sees_its_addresses_and_nothing_of_the_machine():
    addresses = {
        "master_addresses": ("10.77.0.1/24", "10.77.0.3/24"),
        "remote_addresses": ("10.77.0.2/24", "10.77.0.4/24"),
    }
    bind = "import socket, sys; [socket.create_server((address, 0)).close() for address in sys.argv[1:]]"
    with open_or_skip(**addresses) as channel:
        assert channel.master_addresses == ("10.77.0.1", "10.77.0.3")
        for site, own in (("master", channel.master_addresses), ("remote", channel.remote_addresses)):
            output_inside(channel, site, [sys.executable, "-c", bind, *own, "127.0.0.1"])
            lines = output_inside(channel, site, ["cat", "/proc/net/dev"]).splitlines()[2:]
            assert {line.split(":")[0].strip() for line in lines} >= {"lo", "wan0"}
            assert not any(line.strip().startswith(("eth", "en")) for line in lines)
        setting = output_inside(channel, "remote", ["cat", "/proc/sys/net/ipv4/tcp_no_metrics_save"])
        assert setting.strip() == "1"


def test_a_program_inside_is_an_ordinary_child():
    with open_or_skip() as channel:
        code = "import os, signal, sys; print(os.getpid(), signal.getsignal(signal.SIGINT).__name__); sys.exit(7)"
        with running(
            channel, "remote", [sys.executable, "-c", code], stdout=subprocess.PIPE, text=True
        ) as child:
            output, _ = child.communicate(timeout=60)
        assert output.split() == [str(child.pid), "default_int_handler"]
        assert child.returncode == 7
        # Python ignores SIGPIPE; a program that is started must not.
        ignored = output_inside(channel, "remote", ["grep", "SigIgn", "/proc/self/status"])
        assert int(ignored.split()[1], 16) & (1 << (signal.SIGPIPE - 1)) == 0


def test_channel_and_child_outlive_the_threads_that_started_them():
    """The kernel ties a child to its parent's thread (PR_SET_PDEATHSIG); here it must be tied to the process."""
    found: list = []

    def run(action) -> None:
        thread = threading.Thread(target=lambda: found.append(action()))
        thread.start()
        thread.join()

    def started() -> subprocess.Popen:
        child = found[0].popen("master", SLEEPER, stdout=subprocess.PIPE)
        child.stdout.readline()  # by now it has asked to die with its parent
        return child

    open_or_skip().close()
    run(open_or_skip)
    with found[0] as channel:
        run(started)
        with found[1] as child:
            time.sleep(0.3)
            alive = child.poll() is None
            child.kill()
        assert alive
        assert channel.status()["kind"] == "tun"


@pytest.mark.parametrize(
    ("site", "argv", "more", "error"),
    [
        ("moon", ["true"], {}, BadSetting),
        ("master", "true", {}, BadSetting),
        ("master", [], {}, BadSetting),
        ("master", ["true"], {"shell": True}, BadSetting),
        ("master", ["no-such-program"], {}, FileNotFoundError),
    ],
)
def test_popen_refuses_what_it_cannot_do(site, argv, more, error):
    with (
        Channel.open("loopback", bandwidth_bps=MBIT, rtt_ns=MS) as channel,
        pytest.raises(error),
    ):
        channel.popen(site, argv, **more)


def test_loopback_is_honest_about_what_it_is():
    with Channel.open("loopback", bandwidth_bps=MBIT, rtt_ns=MS) as channel:
        assert (channel.kind, channel.interface) == ("loopback", "lo")
        assert "no rate" in channel.note
        assert channel.master_address != channel.remote_address
        assert channel.status()["directions"] == {}
        with pytest.raises(ChannelUnavailable):
            channel.set(rtt_ns=5)
        assert output_inside(channel, "remote", ["echo", "here"]) == "here\n"


def test_auto_says_how_the_channel_is_made():
    with Channel.open(bandwidth_bps=MBIT, rtt_ns=MS) as channel:
        assert channel.kind in ("netem", "tun", "loopback")
        assert channel.note


def test_a_closed_channel_can_be_closed_again_and_says_that_it_is_closed():
    channel = Channel.open("loopback", bandwidth_bps=MBIT, rtt_ns=MS)
    channel.close()
    channel.close()
    with pytest.raises(ChannelFailed, match="closed"):
        channel.popen("master", ["true"])


def test_a_dead_holder_is_reported():
    with open_or_skip() as channel:
        holder = channel._holding.process
        holder.kill()
        with pytest.raises(ChannelFailed, match="gone"):
            channel.status()
        with pytest.raises(ChannelFailed):
            channel.set(rtt_ns=5)


@pytest.mark.parametrize("holder_is_killed", [False, True])
def test_close_ends_what_ignores_sigterm_and_what_a_child_has_forked(monkeypatch, holder_is_killed):
    monkeypatch.setattr(channel_module, "TERM_GRACE_S", 0.2)
    stubborn = (
        "import os, signal, time\n"
        "signal.signal(signal.SIGTERM, signal.SIG_IGN)\n"
        "child = os.fork()\n"
        "if child: print(child, flush=True)\n"
        "else: os.setsid()\n"
        "time.sleep(600)\n"
    )
    with open_or_skip() as channel:
        inside = [sys.executable, "-c", stubborn]
        with running(channel, "remote", inside, stdout=subprocess.PIPE, text=True) as child:
            grandchild = os.pidfd_open(int(child.stdout.readline()))
            try:
                if holder_is_killed:
                    channel._holding.process.kill()
                channel.close()
                assert child.returncode == -signal.SIGKILL
                assert is_gone(grandchild, within_s=30)
            finally:
                os.close(grandchild)


def test_sigterm_ends_the_holder_in_order(tmp_path):
    with open_or_skip(directory=tmp_path) as channel:
        holder = channel._holding.process
        with running(channel, "remote", SLEEPER, stdout=subprocess.PIPE) as child:
            child.stdout.readline()
            holder.terminate()
            assert child.wait(30) == -signal.SIGKILL
        assert holder.wait(30) == 0
        assert list(tmp_path.iterdir()) == []


def test_an_exception_leaves_nothing_behind(tmp_path):
    with (
        contextlib.suppress(ZeroDivisionError),
        open_or_skip(directory=tmp_path) as channel,
        running(channel, "master", SLEEPER, stdout=subprocess.PIPE) as child,
    ):
        child.stdout.readline()
        holder = channel._holding.process
        channel.close()
        raise ZeroDivisionError
    assert child.returncode == -signal.SIGTERM
    assert holder.returncode == 0
    assert list(tmp_path.iterdir()) == []


PARENT = """
import subprocess, sys
from pathlib import Path
from tools.wan.channel import Channel

sleeper = [sys.executable, "-c",
    "import os, time; child = os.fork(); print(child, flush=True) if child else os.setsid(); time.sleep(600)"]
with Channel.open("tun", bandwidth_bps=10**8, rtt_ns=10**7, directory=Path(sys.argv[1])) as channel:
    pids = [channel._holding.process.pid]
    for site in ("master", "remote"):
        child = channel.popen(site, sleeper, stdout=subprocess.PIPE, text=True)
        pids += [child.pid, int(child.stdout.readline())]
    print(*pids, flush=True)
    sys.stdin.read()
"""


@pytest.mark.parametrize("last_signal", [signal.SIGKILL, signal.SIGTERM, signal.SIGINT])
def test_nothing_outlives_a_parent_that_is_killed(tmp_path, last_signal):
    open_or_skip().close()
    parent = subprocess.Popen(
        [sys.executable, "-c", PARENT, str(tmp_path)],
        cwd=Path(__file__).parents[2],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
        start_new_session=True,
    )
    with parent:
        pids = [int(word) for word in parent.stdout.readline().split()]
        assert (
            len(pids) == 5
        )  # the holder, and in each site a child and its own child, which left its session
        pidfds = [os.pidfd_open(pid) for pid in pids]
        try:
            assert (tmp_path / "channel.sock").exists()
            assert not any(is_gone(pidfd, within_s=0) for pidfd in pidfds)
            if last_signal is signal.SIGINT:
                os.killpg(parent.pid, last_signal)  # a Ctrl-C goes to everyone at the terminal
            else:
                parent.send_signal(last_signal)
            parent.wait(30)
            deadline = time.monotonic() + 30
            left = [
                pid
                for pid, pidfd in zip(pids, pidfds, strict=True)
                if not is_gone(pidfd, within_s=max(0.0, deadline - time.monotonic()))
            ]
        finally:
            for pidfd in pidfds:
                os.close(pidfd)
    assert left == []
    assert list(tmp_path.iterdir()) == []
