"""The channel through the kernel: a veth pair between the two sites, netem at both ends.

netem (``tc-netem(8)``) delays and serialises what leaves an interface. Its rate counts the Ethernet header too, so that
is taken off again (``packet_overhead``), and segmentation offload is off, so that it sees single packets. Its limit
is in packets and covers those that travel as well as those that wait, see :func:`netem_options`.
Needs a kernel with ``sch_netem`` and ``veth``.
"""

from __future__ import annotations

import errno
import socket
from typing import Any

from tools.wan.control import HoldRequest
from tools.wan.errors import ChannelUnavailable
from tools.wan.interfaces import INTERFACE, configure, segment_before_sending
from tools.wan.link import NS_PER_S, LinkSettings
from tools.wan.loop import Loop
from tools.wan.rtnetlink import (
    NLM_F_CREATE,
    NLM_F_EXCL,
    RTM_DELLINK,
    RTM_GETQDISC,
    RTM_NEWLINK,
    RTM_NEWQDISC,
    NetemOptions,
    Netlink,
    QdiscCounters,
    link_only,
    netem,
    qdisc_counters,
    qdisc_query,
    veth_pair,
)
from tools.wan.settings import ChannelSettings
from tools.wan.sites import SITES, Namespaces

ETHERNET_HEADER_BYTES = 14
MINIMUM_LIMIT_PACKETS = 1000
NETEM_FIX = "modprobe sch_netem (Ubuntu: package linux-modules-extra), or use kind tun"


def netem_options(link: LinkSettings, mtu: int) -> NetemOptions:
    """One direction in netem's terms.

    The queue in bytes becomes full-size packets, those that wait and those that travel at the full rate; never
    fewer than 1000, so that small packets are not dropped early.
    """
    travelling_bytes = link.rate_bps * link.delay_ns // (8 * NS_PER_S)
    return NetemOptions(
        latency_ns=link.delay_ns,
        rate_bytes_per_s=max(1, link.rate_bps // 8),
        limit_packets=max(MINIMUM_LIMIT_PACKETS, -(-(link.queue_bytes + travelling_bytes) // mtu)),
        packet_overhead_bytes=link.overhead_bytes - ETHERNET_HEADER_BYTES,
        loss_ppm=link.loss_ppm,
    )


def counters_in_common(counters: QdiscCounters) -> dict[str, Any]:
    """netem's counters under the names of :class:`tools.wan.link.LinkStatistics`.

    Bytes are those of Ethernet frames; netem does not count the bytes of drops, nor tell waiting from travelling, nor
    packets that it lost from those that its queue had no room for.
    """
    return {
        "received_packets": counters.sent_packets + counters.dropped_packets + counters.held_packets,
        "dropped_packets": counters.dropped_packets,
        "delivered_packets": counters.sent_packets,
        "delivered_bytes": counters.sent_bytes,
        "held_packets": counters.held_packets,
        "held_bytes": counters.held_bytes,
    }


class NetemLink:
    """Both directions; each end's netem acts on what its site sends."""

    def __init__(self, namespaces: Namespaces, settings: ChannelSettings) -> None:
        """Make the veth pair and its netems; raises :class:`ChannelUnavailable` and leaves no interface behind."""
        self._mtu = settings.mtu
        self._netlinks: list[Netlink] = []
        self._indexes: list[int] = []
        try:
            self._make(namespaces, settings)
        except BaseException:
            self._unmake(namespaces)
            raise

    def _make(self, namespaces: Namespaces, settings: ChannelSettings) -> None:
        for site in SITES:
            namespaces.enter(site)
            self._netlinks.append(Netlink())
        namespaces.enter("master")
        try:
            pair = veth_pair(INTERFACE, INTERFACE, namespaces.remote_fd)
            self._netlinks[0].request(RTM_NEWLINK, pair, NLM_F_CREATE | NLM_F_EXCL)
        except OSError as error:
            raise ChannelUnavailable(
                f"cannot make a veth pair: {error.strerror}", "modprobe veth, or use kind tun"
            ) from None
        for site in SITES:
            namespaces.enter(site)
            self._indexes.append(socket.if_nametoindex(INTERFACE))
        try:
            self._apply(settings, NLM_F_CREATE | NLM_F_EXCL)
        except OSError as error:
            if error.errno == errno.ENOENT:
                raise ChannelUnavailable("this kernel has no netem", NETEM_FIX) from None
            raise ChannelUnavailable(f"cannot set netem up: {error.strerror}", NETEM_FIX) from None
        for site in SITES:
            namespaces.enter(site)
            segment_before_sending(INTERFACE)
            configure(INTERFACE, settings.interfaces(site), settings.mtu)

    def _unmake(self, namespaces: Namespaces) -> None:
        if self._indexes:
            namespaces.enter("master")
            self._netlinks[0].request(RTM_DELLINK, link_only(self._indexes[0]))  # the other end goes with it
        for netlink in self._netlinks:
            netlink.close()

    def _apply(self, settings: ChannelSettings, flags: int) -> None:
        for netlink, index, link in zip(self._netlinks, self._indexes, settings.links(), strict=True):
            netlink.request(RTM_NEWQDISC, netem(index, netem_options(link, self._mtu)), flags)

    def attach(self, loop: Loop) -> None:
        """Nothing to read: the kernel moves the packets."""

    def turn(self, now: int) -> int | None:
        """Nothing is ever due here."""
        return None

    def set(self, settings: ChannelSettings) -> None:
        """Change rate, delay, limit and loss; packets inside keep the times that netem gave them.

        Raises :class:`ChannelUnavailable` with the kernel's words.
        """
        try:
            self._apply(settings, 0)
        except OSError as error:
            raise ChannelUnavailable(f"netem refuses the change: {error.strerror}") from None

    def hold(self, wanted: HoldRequest) -> None:
        """The kernel's emulator keeps nothing inside. Raises :class:`ChannelUnavailable`."""
        raise ChannelUnavailable(f"netem cannot hold {wanted.direction}", "use a channel of kind tun")

    def counters(self) -> dict[str, dict[str, Any]]:
        """Per direction, what netem counts."""
        counted: dict[str, dict[str, Any]] = {}
        names = ("master_to_remote", "remote_to_master")
        for name, netlink, index in zip(names, self._netlinks, self._indexes, strict=True):
            for answer in netlink.dump(RTM_GETQDISC, qdisc_query(index)):
                counters = qdisc_counters(answer, index)
                if counters is not None:
                    counted[name] = counters_in_common(counters)
        return counted
