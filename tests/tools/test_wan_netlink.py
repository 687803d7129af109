"""Our rtnetlink messages: pyroute2 reads them back, and the kernel obeys those it knows."""

from __future__ import annotations

import errno
import ipaddress
import json
import struct
import subprocess
import sys
from pathlib import Path

import pytest

from tools.wan.link import LinkSettings
from tools.wan.netem import counters_in_common, netem_options
from tools.wan.rtnetlink import (
    NetemOptions,
    QdiscCounters,
    attribute,
    attributes,
    interface_address,
    link_settings,
    netem,
    qdisc_counters,
    veth_pair,
)

MBIT = 1_000_000
MS = 1_000_000


def decoded(message_class, payload: bytes):
    """What pyroute2 makes of a payload of ours."""
    data = struct.pack("=IHHII", 16 + len(payload), 0, 0, 0, 0) + payload
    message = message_class(data)
    message.decode()
    return message


def test_pyroute2_reads_our_netem():
    pytest.importorskip("pyroute2", reason="pyroute2 is missing; to fix it: pip install 'sancredit[test]'")
    from pyroute2.netlink.rtnl.tcmsg import tcmsg

    options = NetemOptions(
        latency_ns=10 * MS,
        rate_bytes_per_s=12_500_000,
        limit_packets=2584,
        packet_overhead_bytes=-14,
        loss_ppm=250_000,
    )
    message = decoded(tcmsg, netem(3, options))
    assert (message["index"], message["parent"], message["handle"]) == (3, 0xFFFFFFFF, 0x10000)
    assert message.get_attr("TCA_KIND") == "netem"
    values = message.get_attr("TCA_OPTIONS")
    assert (values["delay"] * 64, values["limit"], values["jitter"]) == (10 * MS, 2584, 0)
    assert values["loss"] == 0xFFFFFFFF // 4  # tc-netem's share of 2**32 - 1
    rate = values.get_attr("TCA_NETEM_RATE")
    assert (rate["rate"], rate["packet_overhead"], rate["cell_size"]) == (12_500_000, -14, 0)


def test_netem_gets_rates_and_delays_that_need_64_bits():
    options = NetemOptions(
        latency_ns=600 * 10**9, rate_bytes_per_s=1 << 33, limit_packets=1, packet_overhead_bytes=0
    )
    values = attributes(netem(1, options)[20:])
    fixed, more = values[2][:24], attributes(values[2][24:])
    assert struct.unpack("=I", fixed[:4]) == (0xFFFFFFFF,)
    assert struct.unpack("=I", more[6][:4]) == (0xFFFFFFFF,)
    assert struct.unpack("=Q", more[8]) == (1 << 33,)
    assert struct.unpack("=q", more[10]) == (600 * 10**9,)


def test_pyroute2_reads_our_links_and_addresses():
    pytest.importorskip("pyroute2", reason="pyroute2 is missing; to fix it: pip install 'sancredit[test]'")
    from pyroute2.netlink.rtnl.ifaddrmsg import ifaddrmsg
    from pyroute2.netlink.rtnl.ifinfmsg import ifinfmsg

    pair = decoded(ifinfmsg, veth_pair("wan0", "wan1", 7))
    information = pair.get_attr("IFLA_LINKINFO")
    assert (pair.get_attr("IFLA_IFNAME"), information.get_attr("IFLA_INFO_KIND")) == ("wan0", "veth")
    peer = information.get_attr("IFLA_INFO_DATA").get_attr("VETH_INFO_PEER")
    assert (peer.get_attr("IFLA_IFNAME"), peer.get_attr("IFLA_NET_NS_FD")) == ("wan1", 7)

    link = decoded(ifinfmsg, link_settings(5, mtu=9000, transmit_queue_packets=77))
    assert (link["index"], link["flags"], link["change"]) == (5, 1, 1)
    assert (link.get_attr("IFLA_MTU"), link.get_attr("IFLA_TXQLEN")) == (9000, 77)

    address = decoded(ifaddrmsg, interface_address(5, ipaddress.IPv4Interface("10.9.8.7/29")))
    assert (address["index"], address["prefixlen"], address["scope"]) == (5, 29, 0)
    assert (address.get_attr("IFA_LOCAL"), address.get_attr("IFA_ADDRESS")) == ("10.9.8.7", "10.9.8.7")


def test_damaged_attributes_end_the_reading():
    good = attribute(1, "veth") + attribute(2, 7)
    assert attributes(good) == {1: b"veth\0", 2: b"\x07\0\0\0"}
    assert attributes(good[:-1]) == {1: b"veth\0"}
    assert attributes(struct.pack("=HH", 3, 1)) == {}
    assert attributes(b"\x01") == {}


def test_counters_of_other_interfaces_are_passed_over():
    header = struct.pack("=BxxxiIII", 0, 4, 0, 0xFFFFFFFF, 0)
    assert qdisc_counters(header, 5) is None


def test_the_queue_in_bytes_becomes_packets_that_wait_and_packets_that_travel():
    link = LinkSettings(rate_bps=100 * MBIT, delay_ns=10 * MS, queue_bytes=3_750_000)
    options = netem_options(link, 1500)
    assert options.rate_bytes_per_s == 12_500_000
    assert options.latency_ns == 10 * MS
    assert options.limit_packets == 2500 + 84  # 125000 bytes travel
    assert options.packet_overhead_bytes == -14  # the rate counts IP bytes, not Ethernet's
    small = LinkSettings(rate_bps=MBIT, delay_ns=0, queue_bytes=1500)
    assert netem_options(small, 1500).limit_packets == 1000


def test_netems_counters_get_the_channels_names():
    counters = QdiscCounters("netem", 10, 15_140, dropped_packets=2, held_packets=3, held_bytes=4542)
    assert counters_in_common(counters) == {
        "received_packets": 15,
        "dropped_packets": 2,
        "delivered_packets": 10,
        "delivered_bytes": 15_140,
        "held_packets": 3,
        "held_bytes": 4542,
    }


LIVE = """
import ctypes, fcntl, ipaddress, json, socket, struct, sys
from tools.wan.errors import ChannelUnavailable
from tools.wan.interfaces import configure, segment_before_sending
from tools.wan.rtnetlink import *
from tools.wan.rtnetlink import NLM_F_CREATE, NLM_F_EXCL
from tools.wan.sites import make_namespaces
try:
    namespaces = make_namespaces()
except ChannelUnavailable as unavailable:
    sys.exit(f"skip: {unavailable}")
namespaces.enter("master")
with Netlink() as netlink:
    try:
        netlink.request(RTM_NEWLINK, veth_pair("wan0", "wan0", namespaces.remote_fd), NLM_F_CREATE | NLM_F_EXCL)
    except OSError as error:
        sys.exit(f"skip: no veth: {error}")
    told = {}
    for number, site in enumerate(("master", "remote"), 1):
        namespaces.enter(site)
        segment_before_sending("wan0")
        configure("wan0", [ipaddress.IPv4Interface(f"10.5.0.{number}/24")], 1400)
    receiver = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    receiver.bind(("10.5.0.2", 0))
    receiver.settimeout(10)
    namespaces.enter("master")
    control = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    for name, command in (("tso", 0x1E), ("gso", 0x23)):
        value = ctypes.create_string_buffer(struct.pack("=II", command, 9))
        fcntl.ioctl(control, 0x8946, struct.pack("16sP16x", b"wan0", ctypes.addressof(value)))
        told[name] = struct.unpack("=II", value.raw[:8])[1]
    index = socket.if_nametoindex("wan0")
    bucket = struct.pack("=BBHhHI", 0, 1, 0, 0, 0, 10**7) + bytes(12) + struct.pack("=III", 10**6, 10**8, 0)
    rates = attribute(1, bucket) + attribute(2, bytes(1024))
    traffic = struct.pack("=BxxxiIII", 0, index, 0x10000, 0xFFFFFFFF, 0)
    try:
        netlink.request(36, traffic + attribute(1, "tbf") + attribute(2, rates), NLM_F_CREATE | NLM_F_EXCL)
    except OSError as error:
        told["tbf"] = str(error)
    control.sendto(bytes(100), receiver.getsockname())
    told["received"] = len(receiver.recv(1000))
    found = [qdisc_counters(answer, index) for answer in netlink.dump(RTM_GETQDISC, qdisc_query(index))]
    told["counters"] = [[one.kind, one.sent_packets, one.sent_bytes] for one in found if one is not None]
    try:
        netlink.request(RTM_NEWLINK, veth_pair("wan0", "wan0", namespaces.remote_fd), NLM_F_CREATE | NLM_F_EXCL)
    except OSError as error:
        told["again"] = error.errno
    netlink.request(RTM_DELLINK, link_only(index))
told["left"] = [name for _, name in socket.if_nameindex()]
print(json.dumps(told))
"""


@pytest.mark.slow
def test_the_kernel_makes_the_pair_counts_what_it_queues_and_takes_the_pair_back():
    done = subprocess.run(
        [sys.executable, "-c", LIVE],
        cwd=Path(__file__).parents[2],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    if done.stderr.startswith("skip: "):
        pytest.skip(done.stderr.removeprefix("skip: ").strip())
    assert done.returncode == 0, done.stderr
    told = json.loads(done.stdout)
    assert (told["tso"], told["gso"]) == (0, 0)
    assert told["received"] == 100
    if "tbf" in told:
        assert told["tbf"]  # a kernel without tbf: nothing to count
    else:
        ((kind, packets, sent_bytes),) = told["counters"]
        assert kind == "tbf"
        assert packets >= 1
        assert sent_bytes >= 142
    assert told["again"] == errno.EEXIST
    assert "wan0" not in told["left"]
