"""Sizing policies against published worked numbers (never against our own code)."""

from __future__ import annotations

from fractions import Fraction
from math import ceil
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from credits.sizing import (
    POLICIES,
    Inputs,
    applicable,
    bandwidth_delay_bytes,
    is_short,
    predetermined_units,
    recommend,
)

MBIT, GBIT, MS, US = 10**6, 10**9, 10**6, 10**3


@pytest.mark.parametrize(
    ("bandwidth_bps", "rtt_ns", "sessions", "connections", "size_bytes", "units"),
    [
        # Row 407 of table 108 with a delay of 280 ms, and to the letter; then the second row.
        (10 * MBIT, 280 * MS, 2, 3, 2_100_000, 1026),
        (10 * MBIT, 2800, 2, 3, 21, 6),
        (45 * MBIT, 1200, 1, 4, 27, 4),
        (45 * MBIT, 120 * MS, 1, 4, 2_700_000, 1319),
        (45 * MBIT, 200 * MS, 1, 4, 4_500_000, 2198),
        (10 * MBIT, 140 * MS, 2, 3, 1_050_000, 513),
        # Plain bandwidth × delay.
        (GBIT, 40 * MS, 1, 1, 5_000_000, 2442),
        (10 * GBIT, 80 * MS, 1, 1, 100_000_000, 48829),
        (155_520_000, 20 * MS, 1, 1, 388_800, 190),
    ],
)
def test_the_documents_formula(
    bandwidth_bps: int, rtt_ns: int, sessions: int, connections: int, size_bytes: int, units: int
) -> None:
    size = recommend(
        "document",
        unit_bytes=2048,
        bandwidth_bps=bandwidth_bps,
        rtt_ns=rtt_ns,
        sessions=sessions,
        connections=connections,
    )
    assert (size.bytes, size.units) == (size_bytes, units)


@pytest.mark.parametrize(
    ("unit_bytes", "size_bytes", "units"),
    [(2148, 2_100_000, 978), (2112, 2_100_000, 995), (2148, 4_500_000, 2095), (2112, 4_500_000, 2131)],
)
def test_sizes_in_frames(unit_bytes: int, size_bytes: int, units: int) -> None:
    bits = size_bytes * 8
    assert recommend("document", unit_bytes=unit_bytes, bandwidth_bps=bits, rtt_ns=10**9).units == units


def test_the_bandwidth_of_a_pair_is_not_multiplied() -> None:
    channel = {"bandwidth_bps": 10 * MBIT, "rtt_ns": 280 * MS, "sessions": 2, "connections": 3}
    assert recommend("document-pair", unit_bytes=2048, **channel).bytes == 350_000


def test_headroom_is_a_fifth_unless_said_otherwise() -> None:
    channel = {"bandwidth_bps": GBIT, "rtt_ns": 40 * MS}
    assert recommend("exact", unit_bytes=2048, **channel).bytes == 6_000_000
    assert recommend("exact", unit_bytes=2048, headroom_percent=100, **channel).bytes == 5_000_000


@pytest.mark.parametrize(
    ("bandwidth_bps", "rtt_ns", "size_bytes"),
    [
        (GBIT, 40 * MS, 4_691_596),
        (MBIT, 1 * MS, 14 * 1024),
        (10 * GBIT, 80 * MS, 32 * 1024**2),
    ],
)
def test_cisco_mds(bandwidth_bps: int, rtt_ns: int, size_bytes: int) -> None:
    size = recommend("cisco-mds", unit_bytes=2048, bandwidth_bps=bandwidth_bps, rtt_ns=rtt_ns)
    assert size.bytes == size_bytes


@pytest.mark.parametrize(
    ("rtt_ms", "paths", "size_bytes"), [(40, 1, 5_000_000), (80, 1, 7 * 1024**2), (80, 2, 10_000_000)]
)
def test_netapp(rtt_ms: int, paths: int, size_bytes: int) -> None:
    size = recommend("netapp", unit_bytes=2048, bandwidth_bps=GBIT, rtt_ns=rtt_ms * MS, paths=paths)
    assert size.bytes == size_bytes


@pytest.mark.parametrize(
    ("distance_km", "speed_gbit", "qos", "amount"),
    [
        (50, 1, False, 31),
        (50, 2, False, 56),
        (50, 4, False, 106),
        (50, 8, False, 206),
        (50, 10, False, 256),
        (50, 16, False, 406),
        (100, 8, False, 406),
        (498, 2, False, 504),
        (100, 2, True, 120),
    ],
)
def test_brocade_rule(distance_km: int, speed_gbit: int, qos: bool, amount: int) -> None:
    size = recommend("fos", unit_bytes=2148, distance_m=distance_km * 1000, speed_gbit=speed_gbit, qos=qos)
    assert (size.units, size.bytes) == (amount, amount * 2148)


def test_brocade_rule_by_average_frame() -> None:
    size = recommend(
        "fos-average-frame",
        unit_bytes=2148,
        distance_m=100_000,
        data_rate_bps=8_500_000_000,
        payload_bytes=1024,
    )
    assert size.units == 828
    assert {term.name: term.value for term in size.terms}["desired_km"] == 207


SPEEDS = {1: 106_250_000, 2: 212_500_000, 4: 425 * MBIT, 8: 850 * MBIT, 16: 1700 * MBIT, 32: 3400 * MBIT}


@pytest.mark.parametrize(
    ("distance_km", "speed", "payload", "amount"),
    [
        (100, 2, 2112, 98),
        (100, 2, 32, 2310),
        (100, 4, 2112, 196),
        (100, 4, 32, 4620),
        # 10 km and 2048 to 32 bytes; the published 86 at 64 bytes does not follow from any rounding.
        *(
            (10, 1, payload, n)
            for payload, n in ((2048, 6), (1024, 10), (512, 19), (256, 34), (128, 57), (32, 116))
        ),
        *((10, 2, payload, n) for payload, n in ((2048, 11), (1024, 20), (32, 231))),
        *((10, 4, payload, n) for payload, n in ((2048, 21), (1024, 40))),
    ],
)
def test_exact_fibre_channel_credits(distance_km: int, speed: int, payload: int, amount: int) -> None:
    size = recommend(
        "fc-exact",
        unit_bytes=2148,
        distance_m=distance_km * 1000,
        bytes_per_second=SPEEDS[speed],
        payload_bytes=payload,
    )
    assert size.units == amount
    assert {term.name: term.value for term in size.terms}["credits_gapless"] == amount + 1


@pytest.mark.parametrize(("speed", "amount"), [(1, 30), (2, 60), (4, 120), (8, 239), (16, 478), (32, 955)])
def test_brocade_spreadsheet_of_24_km_and_855_byte_frames(speed: int, amount: int) -> None:
    size = recommend(
        "fc-exact",
        unit_bytes=2148,
        distance_m=24_000,
        bytes_per_second=SPEEDS[speed],
        payload_bytes=819,
        overhead_bytes=36,
    )
    assert size.units == amount


def test_every_connection_has_a_unit_and_the_policys_own_figure_stays() -> None:
    small = recommend(
        "document", unit_bytes=2048, bandwidth_bps=10 * MBIT, rtt_ns=2800, sessions=2, connections=3
    )
    assert (small.bytes, small.units, small.reserve_bytes) == (21, 6, 6 * 2048)
    assert {term.name: term.value for term in small.terms}["minimum"] == 6
    ordinary = recommend(
        "document", unit_bytes=2048, bandwidth_bps=10 * MBIT, rtt_ns=280 * MS, sessions=2, connections=3
    )
    assert ordinary.reserve_bytes == ordinary.bytes == 2_100_000
    assert "minimum" not in {term.name for term in ordinary.terms}


@given(bps=st.integers(1, 10**13), ns=st.integers(1, 10**12), times=st.integers(1, 1000))
def test_the_product_is_rounded_up_once_and_exactly(bps: int, ns: int, times: int) -> None:
    assert bandwidth_delay_bytes(bps, ns, times) == ceil(Fraction(bps * ns * times, 8 * 10**9))


@pytest.mark.parametrize("policy", sorted(POLICIES))
def test_every_policy_explains_its_terms_and_ends_with_what_it_recommends(policy: str) -> None:
    size = recommend(
        policy,
        unit_bytes=2048,
        bandwidth_bps=GBIT,
        rtt_ns=10 * MS,
        distance_m=10_000,
        speed_gbit=8,
        data_rate_bps=8_500_000_000,
        bytes_per_second=850_000_000,
    )
    assert all(term.explanation for term in size.terms)
    assert size.terms
    assert size.units in {term.value for term in size.terms} or size.bytes == size.terms[-1].value
    assert size.units >= 1


def test_only_policies_that_have_what_they_need_are_applicable() -> None:
    tcp = applicable(Inputs(unit_bytes=1, bandwidth_bps=1, rtt_ns=1))
    assert tcp == ("document", "document-pair", "exact", "cisco-mds", "netapp")
    assert applicable(Inputs(unit_bytes=1, distance_m=1, speed_gbit=1)) == ("fos",)


@pytest.mark.parametrize(
    ("arguments", "line"),
    [
        ({"policy": "guess"}, "no sizing policy is called 'guess'; there are document,"),
        ({"rtt_ns": None}, "needs rtt_ns"),
        ({"rtt_ns": 0}, "rtt_ns is a whole number from 1"),
        ({"bandwidth_bps": -1}, "bandwidth_bps is a whole number from 1"),
        ({"bandwidth_bps": 1.5}, "bandwidth_bps is a whole number from 1"),
        ({"sessions": 0}, "sessions is a whole number from 1"),
        ({"unit_bytes": 0}, "unit_bytes is a whole number from 1"),
        ({"headroom_percent": 99}, "headroom_percent is a whole number from 100"),
    ],
)
def test_a_recommendation_is_never_computed_from_nonsense(arguments: dict[str, Any], line: str) -> None:
    sound: dict[str, Any] = {"policy": "document", "unit_bytes": 2048, "bandwidth_bps": 1, "rtt_ns": 1}
    with pytest.raises(ValueError, match=line):
        recommend(**{**sound, **arguments})


def test_equality_is_no_shortage() -> None:
    assert [is_short(needed, 70) for needed in (69, 70, 71)] == [False, False, True]


def test_each_connection_gets_an_even_share() -> None:
    assert predetermined_units(1026, 2, 3) == 171
    assert predetermined_units(1, 2, 3) == 1
