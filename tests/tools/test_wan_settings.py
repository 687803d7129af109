"""What a channel may be asked for, and the control protocol: no process is started here."""

from __future__ import annotations

import json
import socket

import pytest

from tools.wan.control import (
    ANSWER_LIMIT_BYTES,
    SetRequest,
    StatusRequest,
    decode_request,
    encode,
    read_line,
    request,
)
from tools.wan.errors import BadSetting, ChannelFailed
from tools.wan.settings import QUEUE_MINIMUM_BYTES, ChannelSettings

MBIT = 1_000_000
MS = 1_000_000


def test_the_default_queue_has_room_for_300_ms_and_follows_the_rate():
    settings = ChannelSettings(bandwidth_bps=100 * MBIT, rtt_ns=20 * MS)
    assert settings.links()[0].queue_bytes == 3_750_000
    assert settings.changed(bandwidth_bps=200 * MBIT).links()[0].queue_bytes == 7_500_000
    assert settings.changed(bandwidth_bps=1 * MBIT).links()[1].queue_bytes == QUEUE_MINIMUM_BYTES
    assert settings.changed(queue_bytes=1000).changed(bandwidth_bps=1).links()[0].queue_bytes == 1000


def test_the_round_trip_is_the_sum_of_both_ways():
    forward, back = ChannelSettings(bandwidth_bps=MBIT, rtt_ns=20 * MS + 1).links()
    assert forward.delay_ns + back.delay_ns == 20 * MS + 1
    assert abs(forward.delay_ns - back.delay_ns) <= 1


def test_settings_survive_the_way_to_the_holder():
    settings = ChannelSettings(
        kind="tun",
        bandwidth_bps=MBIT,
        rtt_ns=MS,
        master_addresses=("10.1.0.1/24", "10.1.0.3/24"),
        remote_addresses=("10.1.0.2/24",),
        sysctls={"net.ipv4.tcp_sack": "0"},
    )
    assert ChannelSettings.from_json(json.loads(encode(settings.to_json()))) == settings


def test_tcp_may_fill_a_long_fat_pipe():
    settings = ChannelSettings(bandwidth_bps=1000 * MBIT, rtt_ns=280 * MS)
    pipe_bytes = 1000 * MBIT // 8 * 280 // 1000
    for key in ("net.ipv4.tcp_rmem", "net.ipv4.tcp_wmem"):
        assert int(settings.tcp_sysctls()[key].split()[2]) >= 2 * pipe_bytes


@pytest.mark.parametrize(
    ("wrong", "says"),
    [
        ({"kind": "pigeon"}, "auto, netem, tun, loopback"),
        ({"bandwidth_bps": 0}, "rate is 0"),
        ({"rtt_ns": -1}, "must not be negative"),
        ({"rtt_ns": 60 * 10**9}, "delay"),
        ({"queue_bytes": 0}, "queue"),
        ({"mtu": 100}, "MTU is 100"),
        ({"master_addresses": ()}, "has 0 addresses"),
        ({"master_addresses": ("10.99.0.300/30",)}, "master site is wrong"),
        ({"master_addresses": ("10.99.0.2/30",)}, "given twice"),
        ({"remote_addresses": ("10.98.0.2/30",)}, "could not reach"),
        ({"sysctls": {"kernel.panic": "1"}}, "not a network setting"),
        ({"sysctls": {"net.../kernel.panic": "1"}}, "not a network setting"),
    ],
)
def test_a_setting_without_meaning_is_refused_by_name(wrong, says):
    with pytest.raises(BadSetting, match=says):
        ChannelSettings(**{"bandwidth_bps": MBIT, "rtt_ns": MS, **wrong})


def test_requests_are_read_into_types():
    assert decode_request(b'{"op": "status"}') == StatusRequest()
    assert decode_request(b'{"op": "set", "rtt_ns": 5}') == SetRequest(rtt_ns=5)


@pytest.mark.parametrize(
    ("line", "says"),
    [
        (b"", "not JSON"),
        (b"\xff\xfe", "not JSON"),
        (b"[" * 3000, "not JSON"),
        (b"[1]", "not a JSON object"),
        (b'{"op": "reboot"}', '"op": "status"'),
        (b'{"op": "set", "colour": 1}', "'colour' cannot be set"),
        (b'{"op": "set", "rtt_ns": "fast"}', "whole number"),
        (b'{"op": "set", "rtt_ns": true}', "whole number"),
    ],
)
def test_a_bad_request_gets_one_clear_line(line, says):
    with pytest.raises(BadSetting, match=says):
        decode_request(line)


def test_an_answer_without_end_is_cut_off():
    ours, theirs = socket.socketpair()
    with ours, theirs:
        theirs.setblocking(False)
        ours.settimeout(5)
        sent = 0
        while sent <= ANSWER_LIMIT_BYTES:
            sent += theirs.send(b"x" * 65_536)
        with pytest.raises(ChannelFailed, match="without end"):
            read_line(ours)


def test_asking_where_no_channel_is_says_so(tmp_path):
    with pytest.raises(ChannelFailed, match="no channel answers"):
        request(tmp_path / "channel.sock", {"op": "status"})
