# SPDX-License-Identifier: Apache-2.0
"""The measuring device of a Fibre Channel link: its round trip by ECHO, and how long it was without credit.

A Fibre Channel port measures its own link (step 803): bandwidth is what the speed of the line carries, the round trip
is timed by the transmitter and the receiver in link time, so that frames in front of an ECHO do not count.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass

from fcsim.errors import ExchangeLost, FibreChannelError, MalformedFrame, PeerViolation
from fcsim.live.fcp import end_config
from fcsim.live.live_end import LOGIN_CREDIT
from fcsim.live.shell import Address, LiveLink, connect

__all__ = ["ECHOES", "LinkMeasured", "LinkUnreachable", "measure_at", "measure_link"]

ECHOES = 5
_BITS = 8


class LinkUnreachable(FibreChannelError):
    """Nobody answers at the other end of the link; the text says where and why."""


@dataclass(frozen=True, slots=True)
class LinkMeasured:
    """One link. Round trips and waits in picoseconds of link time, in the order of the ECHOs that came back.

    ``bandwidth_bps`` is the speed of the line after its coding. Credit-zero time and ``wait_ps`` (frames waited and
    there was no credit) are those of this end's transmitter since the login, ``seen_ps`` ago.
    """

    speed: str
    bandwidth_bps: int
    round_trips_ps: tuple[int, ...]
    waited_ps: tuple[int, ...]
    lost: int
    bb_credit: int
    credit_zero_transitions: int
    credit_zero_ps: int
    wait_ps: int
    seen_ps: int

    @property
    def rtt_ps(self) -> int:
        """The line's round trip: the shortest that was measured."""
        return min(self.round_trips_ps)

    @property
    def rtt_ns(self) -> int:
        """The same in nanoseconds, rounded; 1 for a line that is shorter than any."""
        return max((self.rtt_ps + 500) // 1000, 1)

    @property
    def jitter_ns(self) -> int:
        """The mean difference of neighbouring round trips (IPDV, RFC 3393)."""
        pairs = list(zip(self.round_trips_ps, self.round_trips_ps[1:], strict=False))
        return sum(abs(after - before) for before, after in pairs) // (1000 * len(pairs)) if pairs else 0

    @property
    def loss_ppm(self) -> int:
        """ECHOs that did not come back, of a million."""
        return self.lost * 1_000_000 // (self.lost + len(self.round_trips_ps))

    @property
    def credit_zero_ppm(self) -> int:
        """Credit-zero time, of a million parts of the time since the login."""
        return self.credit_zero_ps * 1_000_000 // self.seen_ps if self.seen_ps else 0


async def measure_link(link: LiveLink, echoes: int = ECHOES, payload_bytes: int = 0) -> LinkMeasured:
    """Measure a link that is up, beside whatever it carries.

    Raises ExchangeLost when no ECHO came back, PeerViolation when the link ends.
    """
    measured, lost, reason = [], 0, ""
    for _ in range(echoes):
        try:
            measured.append(await link.echo(payload_bytes))
        except ExchangeLost as error:
            lost, reason = lost + 1, str(error)
    if not measured:
        raise ExchangeLost(f"none of {echoes} ECHOs came back: {reason}")
    end = link.end
    (channel,) = end.statistics().channels
    return LinkMeasured(
        end.config.speed.name,
        end.config.speed.bytes_per_second * _BITS,
        tuple(one.round_trip_ps for one in measured),
        tuple(one.waited_ps for one in measured),
        lost,
        channel.transmit_bb_credit,
        channel.zero_transitions,
        channel.zero_ps,
        channel.tx_wait_ps,
        end.now_ps,
    )


async def measure_at(
    address: Address,
    *,
    name: str = "measure",
    port_name: int | None = None,
    echoes: int = ECHOES,
    payload_bytes: int = 0,
    patience_s: float = 30.0,
) -> LinkMeasured:
    """Plug into a link that nobody else is plugged into, log in, measure, and unplug.

    Raises LinkUnreachable where nobody listens or the line is taken, and what :func:`measure_link` does.
    """
    where = ":".join(map(str, address)) if isinstance(address, tuple) else str(address)
    try:
        async with (
            asyncio.timeout(patience_s),
            await connect(address, end_config(name, port_name=port_name)) as link,
        ):
            await link.wait_for(lambda end: end.granted is not LOGIN_CREDIT)
            return await measure_link(link, echoes, payload_bytes)
    except ExchangeLost:
        raise
    except TimeoutError:
        raise LinkUnreachable(f"{where}: nothing came within {patience_s:g} s") from None
    except OSError as error:
        why = (error.strerror or str(error)).lower()
        raise LinkUnreachable(f"{where}: {why}: nobody listens") from None
    except MalformedFrame as error:
        raise LinkUnreachable(f"{where}: {error}; is another end plugged in?") from None
    except PeerViolation as error:
        raise LinkUnreachable(f"{where}: {error}") from None
