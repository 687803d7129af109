"""How much to reserve: sizing policies as functions of plain integers, each term explained.

Base units only: bit/s, nanoseconds, bytes, metres; integer arithmetic throughout, rounding up. A policy is
chosen by name from :data:`POLICIES`; all answer with a :class:`Recommendation`. Vendor rules are reproduced as
published, including where they are too small; speeds and codings are handed in by the caller.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

BITS_TIMES_NS = 8 * 10**9
INPUT_LIMIT = 2**62
NS_PER_METRE_ROUND_TRIP = 10
#: Start of frame, header, CRC and end of frame: what a frame has around its payload; and six idles.
FRAME_AND_IDLE_BYTES = 36 + 24
FULL_PAYLOAD_BYTES = 2112
FOS_REFERENCE_RATE_BPS = 2_125_000_000
DEFAULT_HEADROOM_PERCENT = 120


@dataclass(frozen=True, slots=True)
class Term:
    """One factor or step of a recommendation, in base units."""

    name: str
    value: int
    explanation: str


@dataclass(frozen=True, slots=True)
class Recommendation:
    """What a policy recommends: ``units = ceil(bytes / unit_bytes)`` (GAP-2), and how it came about.

    A policy for TCP recommends at least one unit for each connection (term ``minimum``): with fewer some of them could
    never send. ``bytes`` stays the policy's own figure; :attr:`reserve_bytes` is what to ask for.
    """

    policy: str
    bytes: int
    units: int
    unit_bytes: int
    terms: tuple[Term, ...]

    @property
    def reserve_bytes(self) -> int:
        """The size to reserve: ``bytes``, or that of ``units`` where those are more."""
        enough = ceil_div(self.bytes, self.unit_bytes) >= self.units
        return self.bytes if enough else self.units * self.unit_bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class Inputs:
    """What policies work from; each needs only some of it.

    ``bandwidth_bps`` and ``rtt_ns`` describe the channel between a pair; ``sessions`` and ``connections`` (per
    session) the copy. For Fibre Channel: ``distance_m`` one way, ``speed_gbit`` the nominal speed (8 for 8GFC),
    ``data_rate_bps`` the rate a vendor's formula wants, ``bytes_per_second`` the decoded rate, ``payload_bytes``
    of an average frame, ``overhead_bytes`` around it. ``paths`` above 1 means multipath.
    """

    unit_bytes: int
    bandwidth_bps: int | None = None
    rtt_ns: int | None = None
    sessions: int = 1
    connections: int = 1
    headroom_percent: int = DEFAULT_HEADROOM_PERCENT
    paths: int = 1
    distance_m: int | None = None
    speed_gbit: int | None = None
    data_rate_bps: int | None = None
    bytes_per_second: int | None = None
    payload_bytes: int = FULL_PAYLOAD_BYTES
    overhead_bytes: int = FRAME_AND_IDLE_BYTES
    qos: bool = False


@dataclass(frozen=True, slots=True)
class Policy:
    """A named rule: what it needs, one line about it, and the rule, which gives bytes or credits and terms."""

    needs: tuple[str, ...]
    about: str
    in_credits: bool
    rule: Callable[[Inputs], tuple[int, list[Term]]]


def ceil_div(numerator: int, denominator: int) -> int:
    """``ceil(numerator / denominator)`` in integers."""
    return -(-numerator // denominator)


def bandwidth_delay_bytes(bandwidth_bps: int, rtt_ns: int, times: int = 1) -> int:
    """``ceil(bandwidth × delay × times / 8e9)`` bytes (GAP-1): what is under way on the channel at any moment."""
    return ceil_div(bandwidth_bps * rtt_ns * times, BITS_TIMES_NS)


def loop_credits(loop_ns: int, bytes_per_second: int, frame_bytes: int) -> int:
    """Credits that keep a line busy until the first of them is back: frames that fit into the loop, rounded up."""
    return ceil_div(loop_ns * bytes_per_second, frame_bytes * 10**9)


def is_short(needed: int, available: int) -> bool:
    """The one shortage predicate of steps 905, 1002, 1308 (INC-3): equality is enough (INC-2)."""
    return needed > available


def predetermined_units(reserved_units: int, sessions: int, connections: int) -> int:
    """The predetermined number of units per allocation: an even share for each connection (GAP-16)."""
    return ceil_div(reserved_units, sessions * connections)


def recommend(
    policy: str,
    *,
    unit_bytes: int,
    bandwidth_bps: int | None = None,
    rtt_ns: int | None = None,
    sessions: int = 1,
    connections: int = 1,
    headroom_percent: int = DEFAULT_HEADROOM_PERCENT,
    paths: int = 1,
    distance_m: int | None = None,
    speed_gbit: int | None = None,
    data_rate_bps: int | None = None,
    bytes_per_second: int | None = None,
    payload_bytes: int = FULL_PAYLOAD_BYTES,
    overhead_bytes: int = FRAME_AND_IDLE_BYTES,
    qos: bool = False,
) -> Recommendation:
    """The size that ``policy`` (a key of :data:`POLICIES`) recommends; arguments as in :class:`Inputs`.

    Raises :class:`ValueError`: unknown policy, an input it needs is missing, or a number out of range.
    """
    return recommend_from(
        policy,
        Inputs(
            unit_bytes=unit_bytes,
            bandwidth_bps=bandwidth_bps,
            rtt_ns=rtt_ns,
            sessions=sessions,
            connections=connections,
            headroom_percent=headroom_percent,
            paths=paths,
            distance_m=distance_m,
            speed_gbit=speed_gbit,
            data_rate_bps=data_rate_bps,
            bytes_per_second=bytes_per_second,
            payload_bytes=payload_bytes,
            overhead_bytes=overhead_bytes,
            qos=qos,
        ),
    )


def recommend_from(policy: str, inputs: Inputs) -> Recommendation:
    """:func:`recommend` for inputs that are kept together."""
    chosen = POLICIES.get(policy)
    if chosen is None:
        raise ValueError(f"no sizing policy is called {policy!r}; there are {', '.join(POLICIES)}")
    missing = [name for name in chosen.needs if getattr(inputs, name) is None]
    if missing:
        raise ValueError(f"the policy {policy} needs {', '.join(missing)}")
    for name, low in _LOWEST.items():
        value = getattr(inputs, name)
        if value is not None and (type(value) is not int or not low <= value <= INPUT_LIMIT):
            raise ValueError(f"{name} is a whole number from {low}, not {value!r:.40}")
    amount, terms = chosen.rule(inputs)
    if chosen.in_credits:
        return Recommendation(policy, amount * inputs.unit_bytes, amount, inputs.unit_bytes, tuple(terms))
    minimum = inputs.sessions * inputs.connections
    units = ceil_div(amount, inputs.unit_bytes)
    if units < minimum:
        units = minimum
        terms.append(Term("minimum", minimum, "units at least: one for each connection of each session"))
    return Recommendation(policy, amount, units, inputs.unit_bytes, tuple(terms))


def applicable(inputs: Inputs) -> tuple[str, ...]:
    """The policies that have what they need in ``inputs``, in table order (``--policy all``)."""
    return tuple(
        name
        for name, policy in POLICIES.items()
        if all(getattr(inputs, need) is not None for need in policy.needs)
    )


_LOWEST: Mapping[str, int] = {
    "unit_bytes": 1,
    "bandwidth_bps": 1,
    "rtt_ns": 1,
    "sessions": 1,
    "connections": 1,
    "headroom_percent": 100,
    "paths": 1,
    "distance_m": 0,
    "speed_gbit": 1,
    "data_rate_bps": 1,
    "bytes_per_second": 1,
    "payload_bytes": 0,
    "overhead_bytes": 1,
}


def _channel(inputs: Inputs) -> tuple[int, int, list[Term]]:
    bandwidth_bps, rtt_ns = inputs.bandwidth_bps or 0, inputs.rtt_ns or 0
    terms = [
        Term("bandwidth_bps", bandwidth_bps, "bandwidth of the channel (403)"),
        Term("rtt_ns", rtt_ns, "delay, from sending to acknowledgement (404)"),
    ]
    return bandwidth_bps, rtt_ns, terms


def _document(inputs: Inputs) -> tuple[int, list[Term]]:
    bandwidth_bps, rtt_ns, terms = _channel(inputs)
    terms += [
        Term("sessions", inputs.sessions, "remote-copy sessions at the same time (405)"),
        Term("connections_per_session", inputs.connections, "TCP connections of each session (406)"),
    ]
    size = bandwidth_delay_bytes(bandwidth_bps, rtt_ns, inputs.sessions * inputs.connections)
    terms.append(
        Term("bytes", size, "bandwidth × delay × connections × sessions / 8e9, rounded up (step 903)")
    )
    return size, terms


def _document_pair(inputs: Inputs) -> tuple[int, list[Term]]:
    bandwidth_bps, rtt_ns, terms = _channel(inputs)
    size = bandwidth_delay_bytes(bandwidth_bps, rtt_ns)
    terms.append(
        Term("bytes", size, "bandwidth × delay / 8e9: the bandwidth is the pair's, shared by its connections")
    )
    return size, terms


def _exact(inputs: Inputs) -> tuple[int, list[Term]]:
    bandwidth_bps, rtt_ns, terms = _channel(inputs)
    product = bandwidth_delay_bytes(bandwidth_bps, rtt_ns)
    size = ceil_div(bandwidth_bps * rtt_ns * inputs.headroom_percent, 100 * BITS_TIMES_NS)
    terms += [
        Term("bandwidth_delay_bytes", product, "what is under way on the channel at any moment"),
        Term(
            "headroom_percent",
            inputs.headroom_percent,
            "exactly 100 % leaves 5 to 12 % of the channel unused: acknowledgements are noticed late",
        ),
        Term("bytes", size, "bandwidth × delay × headroom"),
    ]
    return size, terms


def _cisco_mds(inputs: Inputs) -> tuple[int, list[Term]]:
    bandwidth_bps, rtt_ns, terms = _channel(inputs)
    window = ceil_div(bandwidth_bps * rtt_ns * 15, 16 * BITS_TIMES_NS) + 4096
    size = min(max(window, 14 * 1024), 32 * 1024**2)
    terms += [
        Term("window_bytes", window, "maximum window size: bandwidth × round trip × 0.9375 + 4 KiB"),
        Term("bytes", size, "kept within 14 KiB and 32 MiB"),
    ]
    return size, terms


def _netapp(inputs: Inputs) -> tuple[int, list[Term]]:
    bandwidth_bps, rtt_ns, terms = _channel(inputs)
    window = bandwidth_delay_bytes(bandwidth_bps, rtt_ns)
    ceiling = (14 if inputs.paths > 1 else 7) * 1024**2
    terms += [
        Term("window_bytes", window, "round trip × available bandwidth"),
        Term("ceiling_bytes", ceiling, "largest window: 7 MiB on a single path, 14 MiB on several"),
        Term("bytes", min(window, ceiling), "the smaller of the two"),
    ]
    return min(window, ceiling), terms


def _fos(inputs: Inputs) -> tuple[int, list[Term]]:
    distance_m, speed_gbit = inputs.distance_m or 0, inputs.speed_gbit or 0
    data = ceil_div(distance_m * speed_gbit, 2000)
    spare = 6 + (14 if inputs.qos else 0)
    terms = [
        Term("distance_m", distance_m, "length of the link, one way"),
        Term("speed_gbit", speed_gbit, "nominal speed"),
        Term("data_credits", data, "km × Gbit/s / 2, for full frames"),
        Term("other_credits", spare, "6 for the non-data virtual channels, 14 more with QoS"),
        Term("credits", data + spare, "the sum"),
    ]
    return data + spare, terms


def _fos_average_frame(inputs: Inputs) -> tuple[int, list[Term]]:
    distance_m, rate = inputs.distance_m or 0, inputs.data_rate_bps or 0
    payload = max(inputs.payload_bytes, 1)
    desired_km = ceil_div(distance_m * FULL_PAYLOAD_BYTES, 1000 * payload)
    amount = ceil_div(desired_km * rate, FOS_REFERENCE_RATE_BPS)
    terms = [
        Term("distance_m", distance_m, "length of the link, one way"),
        Term("payload_bytes", payload, "average payload of a frame"),
        Term("desired_km", desired_km, "km × 2112 / average payload, rounded up"),
        Term("data_rate_bps", rate, "data rate as the formula's table has it"),
        Term("credits", amount, "desired distance × data rate / 2.125 Gbit/s (too small above 16G)"),
    ]
    return amount, terms


def _fc_exact(inputs: Inputs) -> tuple[int, list[Term]]:
    distance_m, rate = inputs.distance_m or 0, inputs.bytes_per_second or 0
    rtt_ns = distance_m * NS_PER_METRE_ROUND_TRIP
    frame = inputs.payload_bytes + inputs.overhead_bytes
    amount = loop_credits(rtt_ns, rate, frame)
    terms = [
        Term("rtt_ns", rtt_ns, "5 ns per metre each way"),
        Term("bytes_per_second", rate, "decoded byte rate of the link"),
        Term("frame_bytes", frame, "payload with frame delimiters, header, CRC and idles"),
        Term("credits", amount, "frames that fit into the round trip, rounded up"),
        Term("credits_gapless", amount + 1, "one more, for the frame that is being sent"),
    ]
    return amount, terms


_TCP_NEEDS = ("bandwidth_bps", "rtt_ns")

#: Every policy by name.
POLICIES: Mapping[str, Policy] = {
    "document": Policy(
        _TCP_NEEDS, "the document's formula, bandwidth of one connection (¶45)", False, _document
    ),
    "document-pair": Policy(
        _TCP_NEEDS, "the document's formula, bandwidth of the pair (INC-10)", False, _document_pair
    ),
    "exact": Policy(_TCP_NEEDS, "bandwidth × delay with headroom", False, _exact),
    "cisco-mds": Policy(_TCP_NEEDS, "Cisco MDS FCIP and iSCSI TCP window", False, _cisco_mds),
    "netapp": Policy(_TCP_NEEDS, "NetApp SnapMirror window", False, _netapp),
    "fos": Policy(("distance_m", "speed_gbit"), "Brocade FOS rule for long distance", True, _fos),
    "fos-average-frame": Policy(
        ("distance_m", "data_rate_bps"), "Brocade FOS rule by average frame size", True, _fos_average_frame
    ),
    "fc-exact": Policy(
        ("distance_m", "bytes_per_second"), "round trip × decoded byte rate / frame", True, _fc_exact
    ),
}
