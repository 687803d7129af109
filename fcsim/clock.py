"""The exact clock of simulations: one tick is 1/1122 of a nanosecond.

In this unit a byte takes a whole number of ticks at every Fibre Channel speed (10,560 at 1G, 330 at 32G, 85 at 128G),
and so does a nanosecond and a metre of fibre. So nothing is ever rounded and nothing drifts: after 10^9 frames the
clock is exact. 2^63 ticks are 95 days.
"""

from __future__ import annotations

from fcsim.speeds import PROPAGATION_PS_PER_METRE, Speed

TICKS_PER_NS = 1122
TICKS_PER_SECOND = TICKS_PER_NS * 10**9
TICKS_PER_METRE = PROPAGATION_PS_PER_METRE * TICKS_PER_NS // 1000
#: Simulated time ends here, so that sums of a few times still fit 64 bits.
LAST_TICK = 2**62


def ticks_per_byte(speed: Speed) -> int:
    """Ticks that one decoded byte takes on the line; exact."""
    ticks, rest = divmod(TICKS_PER_SECOND, speed.bytes_per_second)
    if rest:
        raise ValueError(f"a byte at {speed.name} is no whole number of ticks")
    return ticks


def ticks_of_ps(ps: int) -> int:
    """The tick at or before a moment in picoseconds."""
    return ps * TICKS_PER_NS // 1000


def ps_of_ticks(ticks: int) -> int:
    """Picoseconds of a moment in ticks, rounded down."""
    return ticks * 1000 // TICKS_PER_NS
