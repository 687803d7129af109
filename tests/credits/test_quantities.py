"""Quantities are exact in both directions, and bad ones get one clear line."""

from __future__ import annotations

from collections.abc import Callable
from decimal import Decimal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from credits.quantities import (
    LIMIT,
    format_delay,
    format_distance,
    format_rate,
    format_size,
    parse_delay,
    parse_distance,
    parse_rate,
    parse_size,
)

PAIRS = [
    (parse_size, format_size),
    (parse_rate, format_rate),
    (parse_delay, format_delay),
    (parse_distance, format_distance),
]


@pytest.mark.parametrize(
    ("parse", "text", "value"),
    [
        (parse_size, "123", 123),
        (parse_size, "64MiB", 64 * 1024**2),
        (parse_size, "64MB", 64_000_000),
        (parse_size, "0.5MiB", 524_288),
        (parse_size, "2.1M", 2_100_000),
        (parse_size, "1 GiB", 1024**3),
        (parse_size, " 3kB ", 3000),
        (parse_size, "0", 0),
        (parse_rate, "100Mbit", 100_000_000),
        (parse_rate, "1.5Gbit/s", 1_500_000_000),
        (parse_rate, "45Mbps", 45_000_000),
        (parse_rate, "9600", 9600),
        (parse_delay, "20ms", 20_000_000),
        (parse_delay, "2.8us", 2800),
        (parse_delay, "2.8µs", 2800),
        (parse_delay, "1s", 10**9),
        (parse_distance, "10km", 10_000),
        (parse_distance, "0.5km", 500),
        (parse_distance, "300m", 300),
    ],
)
def test_quantities_are_read(parse: Callable[[str], int], text: str, value: int) -> None:
    assert parse(text) == value


@pytest.mark.parametrize(
    ("value", "format_", "text"),
    [
        (0, format_size, "0B"),
        (67_108_864, format_size, "64MiB"),
        (350_000, format_size, "350kB"),
        (2_100_000, format_size, "2.1MB"),
        (12_800, format_size, "12.8kB"),
        (2_101_249, format_size, "2101249B"),
        (1_500_000_000, format_rate, "1.5Gbit"),
        (2800, format_delay, "2.8us"),
        (20_000_000, format_delay, "20ms"),
        (500, format_distance, "500m"),
        (10_000, format_distance, "10km"),
    ],
)
def test_quantities_are_written_shortest(value: int, format_: Callable[[int], str], text: str) -> None:
    assert format_(value) == text


@pytest.mark.parametrize(("parse", "format_"), PAIRS)
@given(value=st.one_of(st.integers(0, LIMIT), st.integers(0, 10**6).map(lambda n: n * 1000)))
def test_what_is_written_is_read_back(
    parse: Callable[[str], int], format_: Callable[[int], str], value: int
) -> None:
    assert parse(format_(value)) == value


@given(
    number=st.decimals(0, 10**6, places=6),
    unit=st.sampled_from([("KiB", 1024), ("MiB", 1024**2), ("kB", 1000), ("GB", 10**9)]),
)
def test_decimal_fractions_are_exact_or_refused(number: Decimal, unit: tuple[str, int]) -> None:
    exact = number * unit[1]
    if exact == exact.to_integral_value():
        assert parse_size(f"{number:f}{unit[0]}") == int(exact)
    else:
        with pytest.raises(ValueError, match="whole number of bytes"):
            parse_size(f"{number:f}{unit[0]}")


@pytest.mark.parametrize("parse", [pair[0] for pair in PAIRS])
@pytest.mark.parametrize(
    "text",
    [
        "",
        "x",
        "-1",
        "1e3",
        "1..2",
        ".5",
        "1.",
        "1,5",
        "0x10",
        "5 parsecs",
        "٣",
        "nan",
        "1" * 41,
        "1\n2",
        "MiB",
    ],
)
def test_what_is_no_quantity_gets_one_clear_line(parse: Callable[[str], int], text: str) -> None:
    with pytest.raises(ValueError) as failure:
        parse(text)
    assert "\n" not in str(failure.value)
    assert len(str(failure.value)) < 200


@pytest.mark.parametrize(
    ("parse", "text", "line"),
    [
        (parse_delay, "20", "the unit of a delay is one of ns us ms s"),
        (parse_distance, "10", "the unit of a distance is one of m km"),
        (parse_size, "10Mbit", "the unit of a size is one of B kB MB GB TB KiB MiB GiB TiB"),
        (parse_rate, "10MiB", "the unit of a rate is one of bit kbit Mbit Gbit Tbit"),
        (parse_size, "0.3B", "not a whole number of bytes"),
        (parse_size, "9999999999GiB", "more than the largest size"),
    ],
)
def test_the_line_says_what_would_do(parse: Callable[[str], int], text: str, line: str) -> None:
    with pytest.raises(ValueError, match=line):
        parse(text)


@given(st.text(max_size=60))
def test_any_text_is_a_size_or_a_value_error(text: str) -> None:
    try:
        assert 0 <= parse_size(text) <= LIMIT
    except ValueError as failure:
        assert str(failure)


def test_a_negative_number_is_not_written() -> None:
    with pytest.raises(ValueError, match="negative"):
        format_size(-1)
