"""Fibre Channel speeds and credit formulas against published numbers."""

from __future__ import annotations

from fractions import Fraction
from math import ceil

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fcsim.speeds import (
    MAX_FRAME_BYTES,
    SPEEDS,
    credits_needed,
    parse_speed,
    throughput_bytes_per_second,
)


@pytest.mark.parametrize(
    ("name", "bytes_per_second"),
    [
        ("1G", 106_250_000),
        ("2G", 212_500_000),
        ("4G", 425_000_000),
        ("8G", 850_000_000),
        ("10G", 1_275_000_000),
        ("16G", 1_700_000_000),
        ("32G", 3_400_000_000),
        ("64G", 6_800_000_000),
        ("128G", 13_200_000_000),
    ],
)
def test_decoded_rates_follow_from_line_and_coding(name: str, bytes_per_second: int) -> None:
    speed = SPEEDS[name]
    decoded, coded = speed.coding.value
    assert speed.bytes_per_second == bytes_per_second
    assert Fraction(speed.symbols_per_second * speed.bits_per_symbol * decoded, coded * 8) == bytes_per_second


@pytest.mark.parametrize(
    ("name", "bare_ns", "with_idles_ns"),
    [
        ("1G", 20216.5, 20442.4),
        ("2G", 10108.2, 10221.2),
        ("4G", 5054.1, 5110.6),
        ("8G", 2527.1, 2555.3),
        ("10G", 1684.7, 1703.5),
        ("16G", 1263.5, 1277.6),
        ("32G", 631.8, 638.8),
        ("64G", 315.9, 319.4),
        ("128G", 162.7, 164.5),
    ],
)
def test_full_frames_take_so_long(name: str, bare_ns: float, with_idles_ns: float) -> None:
    assert SPEEDS[name].frame_ps(2112, idle_bytes=0) / 1000 == pytest.approx(bare_ns, abs=0.06)
    assert SPEEDS[name].frame_ps(2112) / 1000 == pytest.approx(with_idles_ns, abs=0.06)


def test_a_full_frame_has_2148_bytes() -> None:
    assert MAX_FRAME_BYTES == 2148
    assert credits_needed(SPEEDS["8G"], 0).frame_bytes == 2148
    assert credits_needed(SPEEDS["8G"], 0, 0).frame_bytes == 36


@pytest.mark.parametrize(
    ("name", "km", "payload", "amount"),
    [
        # FOS Administrator's Guide 7.0: a 100 km link needs 98 to 2310 credits at 2G, 196 to 4620 at 4G.
        ("2G", 100, 2112, 98),
        ("2G", 100, 32, 2310),
        ("4G", 100, 2112, 196),
        ("4G", 100, 32, 4620),
        ("1G", 10, 2048, 6),
        ("1G", 10, 32, 116),
        ("2G", 10, 1024, 20),
        ("4G", 10, 1024, 40),
        ("8G", 0, 2112, 0),
    ],
)
def test_credits_for_a_distance(name: str, km: int, payload: int, amount: int) -> None:
    need = credits_needed(SPEEDS[name], km * 1000, payload)
    assert (need.credits, need.credits_gapless) == (amount, amount + 1)


@pytest.mark.parametrize(
    ("name", "per_km"),
    [
        ("1G", 0.489),
        ("8G", 3.91),
        ("10G", 5.87),
        ("16G", 7.83),
        ("32G", 15.65),
        ("64G", 31.31),
        ("128G", 60.77),
    ],
)
def test_credits_per_kilometre(name: str, per_km: float) -> None:
    assert credits_needed(SPEEDS[name], 10_000_000).credits / 10_000 == pytest.approx(per_km, abs=0.006)


@pytest.mark.parametrize(
    ("name", "fos", "le"),
    [("1G", 31, 5), ("2G", 56, 10), ("4G", 106, 20), ("8G", 206, 40), ("10G", 256, 50), ("16G", 406, 80)],
)
def test_brocade_rules(name: str, fos: int, le: int) -> None:
    assert credits_needed(SPEEDS[name], 50_000).rules["fos"] == fos
    assert credits_needed(SPEEDS[name], 10_000).rules["fos_le"] == le


def test_brocade_rule_by_average_frame_falls_short_at_32g() -> None:
    assert credits_needed(SPEEDS["8G"], 100_000, 1024).rules["fos_average_frame"] == 828
    need = credits_needed(SPEEDS["32G"], 100_000)
    assert need.rules["fos_average_frame"] == 1320
    assert need.credits == 1566
    assert "fos_average_frame" not in credits_needed(SPEEDS["64G"], 1000).rules


@pytest.mark.parametrize(("name", "km"), [("1G", 130), ("2G", 65)])
def test_qlogic_rule(name: str, km: int) -> None:
    assert credits_needed(SPEEDS[name], km * 1000).rules["qlogic"] == 78


@pytest.mark.parametrize(
    ("name", "bb_credit", "km", "mbyte_per_second"),
    [
        ("1G", 8, 10, 103.3),
        ("2G", 8, 50, 33.1),
        ("4G", 16, 10, 321.5),
        ("4G", 60, 10, 413.3),
        ("8G", 16, 50, 67.2),
        ("8G", 20, 10, 411.9),
        ("8G", 8, 2, 749.1),
        ("8G", 99, 2, 826.5),
        ("1G", 48, 180, 55.7),
        ("1G", 0, 1, 0.0),
    ],
)
def test_throughput_falls_off_with_distance(
    name: str, bb_credit: int, km: int, mbyte_per_second: float
) -> None:
    rate = throughput_bytes_per_second(SPEEDS[name], bb_credit, km * 1000)
    assert rate / 10**6 == pytest.approx(mbyte_per_second, abs=0.06)


@given(st.sampled_from(sorted(SPEEDS)), st.integers(1, 10**6), st.integers(4, 2112))
def test_gapless_credits_are_enough_and_one_less_is_not(name: str, distance_m: int, payload: int) -> None:
    speed = SPEEDS[name]
    need = credits_needed(speed, distance_m, payload)
    exact = Fraction(10 * distance_m * speed.bytes_per_second, (payload + 60) * 10**9)
    assert need.credits == ceil(exact)
    full = speed.bytes_per_second * payload // (payload + 60)
    assert throughput_bytes_per_second(speed, need.credits_gapless, distance_m, payload) == full
    if need.credits == exact + 1:
        assert throughput_bytes_per_second(speed, need.credits, distance_m, payload) <= full
    elif need.credits < exact + 1 - Fraction(1, 100):
        assert throughput_bytes_per_second(speed, need.credits, distance_m, payload) < full


@pytest.mark.parametrize("text", ["8G", "8g", " 8GFC ", "8gfc"])
def test_speeds_are_read_by_name(text: str) -> None:
    assert parse_speed(text) is SPEEDS["8G"]


@pytest.mark.parametrize("text", ["", "8", "3G", "fast", "8GB"])
def test_what_is_no_speed_gets_one_clear_line(text: str) -> None:
    with pytest.raises(ValueError, match="there are 1G, 2G, 4G, 8G, 10G, 16G, 32G, 64G, 128G"):
        parse_speed(text)


@pytest.mark.parametrize(("distance_m", "payload"), [(-1, 2112), (20_000_001, 2112), (1, -1), (1, 2113)])
def test_what_is_out_of_range_is_refused(distance_m: int, payload: int) -> None:
    with pytest.raises(ValueError, match="is from 0 to"):
        credits_needed(SPEEDS["8G"], distance_m, payload)
    with pytest.raises(ValueError, match="is from 0 to"):
        throughput_bytes_per_second(SPEEDS["8G"], 1, distance_m, payload)
