"""Network interfaces of a site: TUN devices, addresses, MTU, kernel settings (``linux/if_tun.h``, ``rtnetlink(7)``).

Everything here acts on the network namespace of the calling thread.
"""

from __future__ import annotations

import contextlib
import ctypes
import fcntl
import ipaddress
import os
import socket
import struct
from collections.abc import Mapping, Sequence
from pathlib import Path

from tools.wan.errors import ChannelUnavailable
from tools.wan.rtnetlink import (
    NLM_F_CREATE,
    NLM_F_EXCL,
    RTM_NEWADDR,
    RTM_NEWLINK,
    Netlink,
    interface_address,
    link_settings,
    link_up,
)

INTERFACE = "wan0"
"""The name of the channel's interface in either site."""
TUN_DEVICE = Path("/dev/net/tun")
TRANSMIT_QUEUE_PACKETS = 10_000
"""Long enough that the device queue never drops before the channel's own queue does."""

_TUNSETIFF = 0x400454CA
_TUNSETOFFLOAD = 0x400454D0
_IFF_TUN = 0x0001
_IFF_NO_PI = 0x1000
_IFF_VNET_HDR = 0x4000
_TUN_F_CSUM = 1
_TUN_F_TSO4 = 2
_TUN_F_TSO6 = 4
_TUN_F_TSO_ECN = 8

_SIOCETHTOOL = 0x8946

_ETHTOOL_STSO = 0x1F
_ETHTOOL_SGSO = 0x24


def open_tun(name: str) -> int:
    """Create a TUN interface that hands over TCP super-packets with a virtio-net header; its file descriptor.

    The interface is gone when the descriptor is closed. Raises :class:`ChannelUnavailable`.
    """
    try:
        tun_fd = os.open(TUN_DEVICE, os.O_RDWR | os.O_NONBLOCK | os.O_CLOEXEC)
    except FileNotFoundError:
        raise ChannelUnavailable(
            f"there is no {TUN_DEVICE}",
            "load the kernel module (modprobe tun) or give the container --device /dev/net/tun",
        ) from None
    except OSError as error:
        fix = f"chmod 0666 {TUN_DEVICE} as root" if isinstance(error, PermissionError) else "modprobe tun"
        raise ChannelUnavailable(f"cannot open {TUN_DEVICE}: {error.strerror}", fix) from None
    try:
        flags = _IFF_TUN | _IFF_NO_PI | _IFF_VNET_HDR
        fcntl.ioctl(tun_fd, _TUNSETIFF, struct.pack("16sH22x", name.encode(), flags))
        fcntl.ioctl(tun_fd, _TUNSETOFFLOAD, _TUN_F_CSUM | _TUN_F_TSO4 | _TUN_F_TSO6 | _TUN_F_TSO_ECN)
    except OSError as error:
        os.close(tun_fd)
        raise ChannelUnavailable(
            f"cannot make the TUN interface {name}: {error.strerror}", "run it as root"
        ) from None
    return tun_fd


def bring_up(name: str) -> None:
    """Set an interface up."""
    with Netlink() as netlink:
        netlink.request(RTM_NEWLINK, link_up(socket.if_nametoindex(name)))


def configure(name: str, addresses: Sequence[ipaddress.IPv4Interface], mtu: int) -> None:
    """Give an interface its MTU, device queue and addresses, and set it up; programs send from the first address."""
    index = socket.if_nametoindex(name)
    with Netlink() as netlink:
        settings = link_settings(index, mtu=mtu, transmit_queue_packets=TRANSMIT_QUEUE_PACKETS)
        netlink.request(RTM_NEWLINK, settings)
        for address in addresses:
            netlink.request(RTM_NEWADDR, interface_address(index, address), NLM_F_CREATE | NLM_F_EXCL)


def segment_before_sending(name: str) -> None:
    """Turn segmentation offload off, so that a queueing discipline sees packets of at most one MTU."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as control:
        for command in (_ETHTOOL_STSO, _ETHTOOL_SGSO):
            value = ctypes.create_string_buffer(struct.pack("=II", command, 0))  # struct ethtool_value
            fcntl.ioctl(control, _SIOCETHTOOL, struct.pack("16sP16x", name.encode(), ctypes.addressof(value)))


def set_sysctls(settings: Mapping[str, str]) -> None:
    """Write network settings (``net.ipv4.tcp_rmem`` …) of the current namespace; raises :class:`OSError`."""
    for key, value in settings.items():
        (Path("/proc/sys") / key.replace(".", "/")).write_text(value)


def disable_ipv6() -> None:
    """Keep router solicitations off the channel; a kernel without IPv6 has none to send."""
    with contextlib.suppress(FileNotFoundError):
        set_sysctls({"net.ipv6.conf.all.disable_ipv6": "1", "net.ipv6.conf.default.disable_ipv6": "1"})
