"""The little of ``rtnetlink(7)`` that a channel needs: links, addresses, the netem queueing discipline.

Our own, although pyroute2 is a well-kept library, for two reasons: pyroute2 0.9.7 cannot set netem's rate (the option
also ends in the request as a malformed ``TCA_RATE``), and the channel shall work with any Python on the machine.
The tests hold our messages against pyroute2's decoder.

A message is a fixed header per type and attributes, each ``u16 length, u16 type, value``, padded to 4 bytes.
"""

from __future__ import annotations

import ipaddress
import os
import socket
import struct
from collections.abc import Iterator
from dataclasses import dataclass

RTM_NEWLINK = 16
RTM_DELLINK = 17
RTM_NEWADDR = 20
RTM_NEWQDISC = 36
RTM_GETQDISC = 38

NLM_F_REQUEST = 0x1
NLM_F_ACK = 0x4
NLM_F_DUMP = 0x300
NLM_F_EXCL = 0x200
NLM_F_CREATE = 0x400

_NLMSG_ERROR = 2
_NLMSG_DONE = 3
_NLA_F_NESTED = 0x8000
_NLA_TYPE_MASK = 0x3FFF
_SOL_NETLINK = 270
_NETLINK_EXT_ACK = 11
_NLMSGERR_ATTR_MSG = 1
_NLM_F_CAPPED = 0x100
_NLM_F_ACK_TLVS = 0x200

_IFLA_IFNAME, _IFLA_MTU, _IFLA_TXQLEN, _IFLA_LINKINFO, _IFLA_NET_NS_FD = 3, 4, 13, 18, 28
_IFLA_INFO_KIND, _IFLA_INFO_DATA, _VETH_INFO_PEER = 1, 2, 1
_IFA_ADDRESS, _IFA_LOCAL = 1, 2
_IFF_UP = 1
_TCA_KIND, _TCA_OPTIONS, _TCA_STATS2 = 1, 2, 7
_TCA_STATS_BASIC, _TCA_STATS_QUEUE = 1, 3
_TCA_NETEM_RATE, _TCA_NETEM_RATE64, _TCA_NETEM_LATENCY64 = 6, 8, 10
_TC_H_ROOT = 0xFFFF_FFFF
_HANDLE = 0x1_0000  # 1:

_MESSAGE = struct.Struct("=IHHII")  # length, type, flags, sequence, port
_ATTRIBUTE = struct.Struct("=HH")
_LINK = struct.Struct("=BxHiII")  # struct ifinfomsg: family, type, index, flags, change
_ADDRESS = struct.Struct("=BBBBI")  # struct ifaddrmsg: family, prefix length, flags, scope, index
_TRAFFIC = struct.Struct("=BxxxiIII")  # struct tcmsg: family, index, handle, parent, info
_NETEM = struct.Struct("=IIIIII")  # struct tc_netem_qopt: latency, limit, loss, gap, duplicate, jitter
_NETEM_RATE = struct.Struct("=IiIi")  # struct tc_netem_rate: rate, packet overhead, cell size, cell overhead
_TICK_NS = 64  # PSCHED_SHIFT
_U32 = (1 << 32) - 1
_RECEIVE_BYTES = 1 << 17


def attribute(kind: int, value: bytes | int | str, *, nested: bool = False) -> bytes:
    """One attribute: an int as u32, a str with its terminating zero."""
    if isinstance(value, int):
        value = struct.pack("=I", value)
    elif isinstance(value, str):
        value = value.encode() + b"\0"
    length = _ATTRIBUTE.size + len(value)
    flag = _NLA_F_NESTED if nested else 0
    return _ATTRIBUTE.pack(length, kind | flag) + value + bytes(-length % 4)


def attributes(data: bytes) -> dict[int, bytes]:
    """The attributes in ``data`` by type; stops at the first that is malformed."""
    found: dict[int, bytes] = {}
    offset = 0
    while offset + _ATTRIBUTE.size <= len(data):
        length, kind = _ATTRIBUTE.unpack_from(data, offset)
        if length < _ATTRIBUTE.size or offset + length > len(data):
            break
        found[kind & _NLA_TYPE_MASK] = data[offset + _ATTRIBUTE.size : offset + length]
        offset += length + -length % 4
    return found


def link_settings(index: int, *, mtu: int, transmit_queue_packets: int) -> bytes:
    """RTM_NEWLINK payload: MTU, device queue, up."""
    values = attribute(_IFLA_MTU, mtu) + attribute(_IFLA_TXQLEN, transmit_queue_packets)
    return _LINK.pack(socket.AF_UNSPEC, 0, index, _IFF_UP, _IFF_UP) + values


def link_only(index: int) -> bytes:
    """RTM_DELLINK payload."""
    return _LINK.pack(socket.AF_UNSPEC, 0, index, 0, 0)


def link_up(index: int) -> bytes:
    """RTM_NEWLINK payload: up."""
    return _LINK.pack(socket.AF_UNSPEC, 0, index, _IFF_UP, _IFF_UP)


def veth_pair(name: str, peer_name: str, peer_namespace_fd: int) -> bytes:
    """RTM_NEWLINK payload: a veth pair with the other end in another namespace."""
    peer = _LINK.pack(socket.AF_UNSPEC, 0, 0, 0, 0)
    peer += attribute(_IFLA_IFNAME, peer_name) + attribute(_IFLA_NET_NS_FD, peer_namespace_fd)
    data = attribute(_VETH_INFO_PEER, peer, nested=True)
    information = attribute(_IFLA_INFO_KIND, "veth") + attribute(_IFLA_INFO_DATA, data, nested=True)
    header = _LINK.pack(socket.AF_UNSPEC, 0, 0, 0, 0)
    return header + attribute(_IFLA_IFNAME, name) + attribute(_IFLA_LINKINFO, information, nested=True)


def interface_address(index: int, address: ipaddress.IPv4Interface) -> bytes:
    """RTM_NEWADDR payload."""
    header = _ADDRESS.pack(socket.AF_INET, address.network.prefixlen, 0, 0, index)
    return header + attribute(_IFA_LOCAL, address.packed) + attribute(_IFA_ADDRESS, address.packed)


@dataclass(frozen=True, slots=True, kw_only=True)
class NetemOptions:
    """What netem does to the packets that leave an interface (``linux/pkt_sched.h``)."""

    latency_ns: int
    rate_bytes_per_s: int
    limit_packets: int
    packet_overhead_bytes: int
    loss_ppm: int = 0


def netem(index: int, options: NetemOptions) -> bytes:
    """RTM_NEWQDISC payload: netem as the root discipline of an interface."""
    loss = options.loss_ppm * _U32 // 1_000_000  # a share of 2**32 - 1
    fixed = _NETEM.pack(min(options.latency_ns // _TICK_NS, _U32), options.limit_packets, loss, 0, 0, 0)
    rate = _NETEM_RATE.pack(min(options.rate_bytes_per_s, _U32), options.packet_overhead_bytes, 0, 0)
    values = attribute(_TCA_NETEM_RATE, rate)
    values += attribute(_TCA_NETEM_RATE64, struct.pack("=Q", options.rate_bytes_per_s))
    values += attribute(_TCA_NETEM_LATENCY64, struct.pack("=q", options.latency_ns))
    header = _TRAFFIC.pack(socket.AF_UNSPEC, index, _HANDLE, _TC_H_ROOT, 0)
    return header + attribute(_TCA_KIND, "netem") + attribute(_TCA_OPTIONS, fixed + values)


def qdisc_query(index: int) -> bytes:
    """RTM_GETQDISC payload."""
    return _TRAFFIC.pack(socket.AF_UNSPEC, index, 0, 0, 0)


@dataclass(frozen=True, slots=True)
class QdiscCounters:
    """What a queueing discipline has counted: sent packets and bytes, dropped packets, and what it holds."""

    kind: str
    sent_packets: int
    sent_bytes: int
    dropped_packets: int
    held_packets: int
    held_bytes: int


def qdisc_counters(payload: bytes, index: int) -> QdiscCounters | None:
    """The counters in one RTM_NEWQDISC answer; None where it is about another interface or not the root."""
    _family, found_index, _handle, parent, _info = _TRAFFIC.unpack_from(payload)
    if found_index != index or parent != _TC_H_ROOT:
        return None
    values = attributes(payload[_TRAFFIC.size :])
    statistics = attributes(values[_TCA_STATS2])
    sent_bytes, sent_packets = struct.unpack_from("=QI", statistics[_TCA_STATS_BASIC])
    held_packets, held_bytes, dropped = struct.unpack_from("=III", statistics[_TCA_STATS_QUEUE])
    kind = values[_TCA_KIND].rstrip(b"\0").decode()
    return QdiscCounters(kind, sent_packets, sent_bytes, dropped, held_packets, held_bytes)


class Netlink:
    """A socket to the kernel; it stays in the network namespace in which it was made."""

    def __init__(self) -> None:
        self._socket = socket.socket(
            socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC, socket.NETLINK_ROUTE
        )
        self._socket.setsockopt(_SOL_NETLINK, _NETLINK_EXT_ACK, 1)
        self._socket.bind((0, 0))
        self._sequence = 0

    def close(self) -> None:
        """Close the socket."""
        self._socket.close()

    def __enter__(self) -> Netlink:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def request(self, kind: int, payload: bytes, flags: int = 0) -> None:
        """Ask for a change and wait for the acknowledgement; raises :class:`OSError` with the kernel's words."""
        self._send(kind, payload, flags | NLM_F_ACK)
        for _kind, _payload in self._answers():
            pass

    def dump(self, kind: int, payload: bytes) -> list[bytes]:
        """Payloads of all answers to a dump request."""
        self._send(kind, payload, NLM_F_DUMP)
        return [answer for _kind, answer in self._answers()]

    def _send(self, kind: int, payload: bytes, flags: int) -> None:
        self._sequence += 1
        length = _MESSAGE.size + len(payload)
        self._socket.send(_MESSAGE.pack(length, kind, flags | NLM_F_REQUEST, self._sequence, 0) + payload)

    def _answers(self) -> Iterator[tuple[int, bytes]]:
        while True:
            data = self._socket.recv(_RECEIVE_BYTES)
            offset = 0
            while offset + _MESSAGE.size <= len(data):
                length, kind, flags, _sequence, _port = _MESSAGE.unpack_from(data, offset)
                payload = data[offset + _MESSAGE.size : offset + length]
                offset += length + -length % 4
                if kind == _NLMSG_DONE:
                    return
                if kind == _NLMSG_ERROR:
                    _raise_error(payload, flags)
                    return
                yield kind, payload


def _raise_error(payload: bytes, flags: int) -> None:
    """Raise what an NLMSG_ERROR says; number 0 is the acknowledgement."""
    number = -struct.unpack_from("=i", payload)[0]
    if number == 0:
        return
    text = os.strerror(number)
    if flags & _NLM_F_ACK_TLVS:
        (request_length,) = struct.unpack_from("=I", payload, 4)
        start = 4 + (_MESSAGE.size if flags & _NLM_F_CAPPED else request_length + -request_length % 4)
        said = attributes(payload[start:]).get(_NLMSGERR_ATTR_MSG)
        if said:
            text = said.rstrip(b"\0").decode(errors="replace")
    raise OSError(number, text)
