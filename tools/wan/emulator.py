"""The channel through two TUN interfaces: the shell around two :class:`tools.wan.link.Link`.

One process and one thread move the packets of both directions; two threads are slower (GIL), two processes no faster.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from dataclasses import asdict
from random import Random
from typing import Any, Protocol

from tools.wan.control import DIRECTIONS, HoldRequest
from tools.wan.interfaces import INTERFACE, configure, open_tun
from tools.wan.link import Link
from tools.wan.loop import Loop
from tools.wan.settings import ChannelSettings
from tools.wan.sites import SITES, Namespaces
from tools.wan.vnet import PACKET_LIMIT_BYTES, wire_size

READS_PER_TURN = 32
"""Packets taken from one interface before the other one and the timer get their turn."""


class Backend(Protocol):
    """What moves the packets: :class:`TunEmulator` or :class:`tools.wan.netem.NetemLink`."""

    def attach(self, loop: Loop) -> None: ...

    def turn(self, now: int) -> int | None: ...

    def set(self, settings: ChannelSettings) -> None: ...

    def hold(self, wanted: HoldRequest) -> None: ...

    def counters(self) -> dict[str, dict[str, Any]]: ...


class TunEmulator:
    """Both directions of the channel, each from the TUN interface of one site to that of the other."""

    def __init__(self, namespaces: Namespaces, settings: ChannelSettings) -> None:
        """Make the interfaces and set them up; raises :class:`tools.wan.errors.ChannelUnavailable`."""
        self._tuns: list[int] = []
        for site in SITES:
            namespaces.enter(site)
            self._tuns.append(open_tun(INTERFACE))
            configure(INTERFACE, settings.interfaces(site), settings.mtu)
        self._links = [
            Link(link, Random(f"{settings.loss_seed} {direction}"))
            for link, direction in zip(settings.links(), DIRECTIONS, strict=True)
        ]
        self._write_errors = [0, 0]

    def attach(self, loop: Loop) -> None:
        """Have the loop read both interfaces."""
        for tun, link in zip(self._tuns, self._links, strict=True):
            loop.watch(tun, self._reader(tun, link, loop))

    @staticmethod
    def _reader(tun: int, link: Link, loop: Loop) -> Callable[[], None]:
        read, receive, clock = os.read, link.receive, time.monotonic_ns

        def take() -> None:
            for _ in range(READS_PER_TURN):
                try:
                    packet = read(tun, PACKET_LIMIT_BYTES)
                except BlockingIOError:
                    return
                except (
                    OSError
                ):  # somebody inside has deleted the interface: nothing comes from there any more
                    loop.forget(tun)
                    return
                segments, size_bytes = wire_size(packet)
                receive(packet, size_bytes, segments, clock())

        return take

    def turn(self, now: int) -> int | None:
        """Deliver what has arrived by ``now``; the next moment at which something will have."""
        deadline: int | None = None
        for number, link in enumerate(self._links):
            due = link.next_deadline()
            if due is None:
                continue
            if due <= now:
                other = self._tuns[1 - number]
                for packet in link.packets_due(now):
                    try:
                        os.write(other, packet)
                    except (
                        OSError
                    ):  # the site's owner set the interface down, or the kernel refuses the packet
                        self._write_errors[number] += 1
                due = link.next_deadline()
            if due is not None and (deadline is None or due < deadline):
                deadline = due
        return deadline

    def set(self, settings: ChannelSettings) -> None:
        """Change rate, delay, queue and loss from now on."""
        now = time.monotonic_ns()
        for link, wanted in zip(self._links, settings.links(), strict=True):
            link.set(wanted, now)

    def hold(self, wanted: HoldRequest) -> None:
        """Hold a direction, let some of it pass, or all again."""
        link = self._links[DIRECTIONS.index(wanted.direction)]
        if wanted.packets:
            link.let_pass(wanted.packets)
        else:
            link.hold(wanted.held)

    def counters(self) -> dict[str, dict[str, Any]]:
        """Per direction, :class:`tools.wan.link.LinkStatistics` and ``write_errors``."""
        now = time.monotonic_ns()
        return {
            name: {**asdict(link.statistics(now)), "write_errors": errors}
            for name, link, errors in zip(DIRECTIONS, self._links, self._write_errors, strict=True)
        }
