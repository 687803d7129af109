"""What the demo was asked to do, and the sizes that follow from it."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

UNIT_BYTES = 16 * 1024
_MIB = 1 << 20
_START_UP_ROUND_TRIPS = 60
DOCUMENT = "document"
#: How the demo can size the reservation, as on its command line.
POLICIES = (DOCUMENT, "document-pair", "exact")
#: What the demo can reserve for, as on its command line.
TARGETS = (
    "port-pair",
    "port-pair-number",
    "connection",
    "application",
    "volume-pair",
    "volume-group-pair",
)


@dataclass(frozen=True, slots=True)
class Settings:
    """The demo's flags, in base units."""

    bandwidth_bps: int
    rtt_ns: int
    sessions: int
    connections: int
    target: str = "port_pair"
    policy: str = DOCUMENT
    channel: str = "auto"
    image: Path | None = None
    image_bytes: int | None = None
    report: Path | None = None
    keep: bool = False
    mtu: int = 1500

    #: Which protocol carries the copy.
    transport: ClassVar[str] = "tcp"
    #: What stands between the copy and its buffers, in the words of the verdict.
    evidence: ClassVar[str] = "packets"

    @property
    def time_scale(self) -> int:
        """The channel is so many times slower than the world; its figures are told in its own time."""
        return 1

    @property
    def unit_bytes(self) -> int:
        """One buffer of the communication memory."""
        return UNIT_BYTES

    @property
    def segment_bytes(self) -> int:
        """What may be seen in flight beyond the reservation: it is cut where a segment ends."""
        return self.mtu - 52

    def channel_facts(self) -> dict[str, Any]:
        """What the verdict says of the channel beyond bandwidth and delay."""
        return {}

    @property
    def payload_limit_bps(self) -> int:
        """What TCP over IPv4 with timestamps can carry: rate x (MTU - 52) / MTU."""
        return self.bandwidth_bps * (self.mtu - 52) // self.mtu

    @property
    def expected_reservation_bytes(self) -> int:
        """The document's formula on the set values (step 903), rounded up; only to size the pool."""
        bits_ns = self.bandwidth_bps * self.rtt_ns * self.sessions * self.connections
        return -(-bits_ns // 8_000_000_000)

    @property
    def pool_units(self) -> int:
        """Units of each interface's communication memory: room for the reservation, and a part for hosts."""
        reservation = -(-self.expected_reservation_bytes // self.unit_bytes)
        return max(256, reservation + max(160, reservation // 4))

    @property
    def default_image_bytes(self) -> int:
        """What was asked for, else 64 MiB, or less on a channel that takes long for it (slow start included)."""
        if self.image_bytes is not None:
            return self.image_bytes
        worthwhile_ns = 6_000_000_000 + _START_UP_ROUND_TRIPS * self.rtt_ns
        worthwhile = self.bandwidth_bps * worthwhile_ns // 8_000_000_000
        return max(4 * _MIB, min(64 * _MIB, worthwhile // _MIB * _MIB))

    @property
    def judged_after_s(self) -> float:
        """A copy shorter than this is mostly slow start, and says little about the channel."""
        return max(1.5, 100 * self.rtt_ns / 1e9)

    @property
    def storm_hosts(self) -> int:
        """How many hosts storm: each holds up to about a MiB of Data-In, together they want twice the pool."""
        return max(8, min(100, 2 * self.pool_units * UNIT_BYTES // _MIB))

    @property
    def storm_rate_bps(self) -> int:
        """How fast all storm hosts together drain what they asked for: one hundredth of the channel."""
        return max(80_000, self.bandwidth_bps // 100)
