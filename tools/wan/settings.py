"""What a channel is asked to be: one frozen dataclass, checked once, handed as JSON to the process that holds it."""

from __future__ import annotations

import dataclasses
import ipaddress
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from tools.wan.errors import BadSetting
from tools.wan.link import HELD_LIMIT_BYTES, NS_PER_S, LinkSettings

KINDS = ("auto", "netem", "tun", "loopback")
QUEUE_NS = 300_000_000
"""How much waiting the default queue has room for: 300 ms at the channel's rate."""
QUEUE_MINIMUM_BYTES = 256 * 1024
"""The least default queue: a few TCP super-packets of 64 KiB, which a TUN channel drops as a whole."""
_TCP_BUFFER_MINIMUM_BYTES = 32 << 20
_TCP_BUFFER_LIMIT_BYTES = 1 << 30
_SETTABLE_PREFIX = "net."


def default_queue_bytes(bandwidth_bps: int) -> int:
    """300 ms at the rate, and never less than a few super-packets."""
    wanted = bandwidth_bps * QUEUE_NS // (8 * NS_PER_S)
    return min(HELD_LIMIT_BYTES, max(QUEUE_MINIMUM_BYTES, wanted))


def _interfaces(site: str, addresses: tuple[str, ...]) -> list[ipaddress.IPv4Interface]:
    if not 1 <= len(addresses) <= 64:
        raise BadSetting(f"the {site} site has {len(addresses)} addresses, but must have 1 to 64")
    try:
        return [ipaddress.IPv4Interface(address) for address in addresses]
    except ValueError as error:
        raise BadSetting(f"an address of the {site} site is wrong: {error}") from None


@dataclass(frozen=True, slots=True, kw_only=True)
class ChannelSettings:
    """A channel between two sites; both directions are alike.

    ``bandwidth_bps`` counts bits of IP packets, plus ``overhead_bytes`` for each; so the TCP payload limit over IPv4
    with timestamps is ``bandwidth_bps * (mtu - 52) / mtu``. ``rtt_ns`` is split in two one-way delays.
    ``loss_ppm`` of a million packets are lost in each direction, those that ``loss_seed`` chooses (netem: the kernel).
    ``queue_bytes`` per direction; None means :func:`default_queue_bytes` at whatever the rate is.
    Addresses are ``a.b.c.d/length``, in one subnet; a site sends from its first. ``sysctls`` are written in both sites
    after the defaults of :meth:`tcp_sysctls`. Raises :class:`BadSetting`.
    """

    kind: str = "auto"
    bandwidth_bps: int
    rtt_ns: int
    queue_bytes: int | None = None
    mtu: int = 1500
    overhead_bytes: int = 0
    loss_ppm: int = 0
    loss_seed: int = 0
    master_addresses: tuple[str, ...] = ("10.99.0.1/30",)
    remote_addresses: tuple[str, ...] = ("10.99.0.2/30",)
    sysctls: Mapping[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.kind not in KINDS:
            raise BadSetting(f"the kind of channel is {self.kind!r}, but must be one of {', '.join(KINDS)}")
        if not 576 <= self.mtu <= 65_000:
            raise BadSetting(f"the MTU is {self.mtu}, but must be 576 to 65000")
        if self.rtt_ns < 0:
            raise BadSetting(f"the round-trip time is {self.rtt_ns} ns, but must not be negative")
        for key in self.sysctls:
            if not key.startswith(_SETTABLE_PREFIX) or "/" in key or ".." in key:
                raise BadSetting(f"{key!r} is not a network setting (net.…)")
        self.links()
        master, remote = self.interfaces("master"), self.interfaces("remote")
        addresses = [interface.ip for interface in (*master, *remote)]
        if len(set(addresses)) < len(addresses):
            raise BadSetting("the same address is given twice")
        for ours, theirs in ((master, remote), (remote, master)):
            for interface in ours:
                if not any(interface.ip in other.network for other in theirs):
                    raise BadSetting(
                        f"{interface} is in no subnet of the other site, which could not reach it"
                    )

    def links(self) -> tuple[LinkSettings, LinkSettings]:
        """The settings of the directions: master to remote, remote to master."""
        queue_bytes = self.queue_bytes
        if queue_bytes is None:
            queue_bytes = default_queue_bytes(self.bandwidth_bps)
        forward_ns = self.rtt_ns // 2
        forward, back = (
            LinkSettings(
                rate_bps=self.bandwidth_bps,
                delay_ns=delay_ns,
                queue_bytes=queue_bytes,
                overhead_bytes=self.overhead_bytes,
                loss_ppm=self.loss_ppm,
            )
            for delay_ns in (forward_ns, self.rtt_ns - forward_ns)
        )
        return forward, back

    def interfaces(self, site: str) -> list[ipaddress.IPv4Interface]:
        """The addresses of a site."""
        return _interfaces(site, self.master_addresses if site == "master" else self.remote_addresses)

    def changed(
        self,
        *,
        bandwidth_bps: int | None = None,
        rtt_ns: int | None = None,
        queue_bytes: int | None = None,
        loss_ppm: int | None = None,
    ) -> ChannelSettings:
        """The same channel with another rate, round-trip time, queue or loss; None leaves one as it is."""
        wanted = {
            "bandwidth_bps": bandwidth_bps,
            "rtt_ns": rtt_ns,
            "queue_bytes": queue_bytes,
            "loss_ppm": loss_ppm,
        }
        given = {key: value for key, value in wanted.items() if value is not None}
        return dataclasses.replace(self, **given)  # type: ignore[arg-type]

    def tcp_sysctls(self) -> dict[str, str]:
        """Settings of both sites: TCP may fill pipe and queue, and a connection learns nothing from the last."""
        link, _ = self.links()
        pipe_bytes = self.bandwidth_bps * self.rtt_ns // (8 * NS_PER_S) + link.queue_bytes
        # The receive buffer also pays for kernel overhead: its window is about half of it (tcp_adv_win_scale 1).
        limit = min(_TCP_BUFFER_LIMIT_BYTES, max(_TCP_BUFFER_MINIMUM_BYTES, 4 * pipe_bytes))
        return {
            "net.ipv4.tcp_rmem": f"4096 131072 {limit}",
            "net.ipv4.tcp_wmem": f"4096 16384 {limit}",
            "net.ipv4.tcp_no_metrics_save": "1",
            **self.sysctls,
        }

    def to_json(self) -> dict[str, Any]:
        """As a JSON object."""
        return {**dataclasses.asdict(self), "sysctls": dict(self.sysctls)}

    @classmethod
    def from_json(cls, message: Mapping[str, Any]) -> ChannelSettings:
        """From :meth:`to_json`'s object."""
        lists = {key: tuple(message[key]) for key in ("master_addresses", "remote_addresses")}
        return cls(**{**message, **lists})
