"""Published credit numbers: FOS 7.0 and a distance spreadsheet, by the same arithmetic and by simulation."""

from __future__ import annotations

from array import array
from fractions import Fraction
from math import ceil

import pytest

from fcsim.clock import TICKS_PER_METRE, TICKS_PER_SECOND
from fcsim.engine.link import LinkRun, LinkScenario
from fcsim.speeds import SPEEDS, credits_needed


def test_a_millisecond_at_1g_holds_106250_bytes() -> None:
    assert SPEEDS["1G"].bytes_per_second // 1000 == 106_250


def test_a_round_trip_of_100_km_takes_a_millisecond() -> None:
    assert 2 * 100_000 * TICKS_PER_METRE == TICKS_PER_SECOND // 1000


@pytest.mark.parametrize(
    ("name", "credits"), [("1G", 30), ("2G", 60), ("4G", 120), ("8G", 239), ("16G", 478), ("32G", 955)]
)
def test_24_km_of_855_byte_frames_take_so_many_credits(name: str, credits: int) -> None:
    """The spreadsheet counts frames without idles in the round trip."""
    round_trip = Fraction(2 * 24_000 * TICKS_PER_METRE, TICKS_PER_SECOND)
    assert ceil(round_trip * SPEEDS[name].bytes_per_second / 855) == credits


@pytest.mark.parametrize(
    ("name", "payload", "credits"),
    [
        *(
            ("1G", payload, n)
            for payload, n in ((2048, 6), (1024, 10), (512, 19), (256, 34), (128, 57), (32, 116))
        ),
        *(("2G", payload, n) for payload, n in ((2048, 11), (1024, 20), (32, 231))),
        *(("4G", payload, n) for payload, n in ((2048, 21), (1024, 40))),
    ],
)
def test_10_km_take_so_many_credits_by_payload(name: str, payload: int, credits: int) -> None:
    assert credits_needed(SPEEDS[name], 10_000, payload).credits == credits


@pytest.mark.parametrize(
    ("name", "payload"), [("2G", 2112), ("4G", 2112), ("2G", 1024), ("8G", 2112), ("32G", 512)]
)
def test_a_simulated_link_never_stalls_with_the_gapless_credits_and_does_with_one_less(
    name: str, payload: int
) -> None:
    def stalls(credits: int) -> int:
        run = LinkRun(LinkScenario(SPEEDS[name], 100_000, credits, r_rdy_bytes=0))
        count = 4 * credits + 100
        run.send_block(array("q", bytes(8 * count)), array("q", (payload,)) * count)
        return run.totals().stalls

    enough = credits_needed(SPEEDS[name], 100_000, payload).credits_gapless
    assert stalls(enough) == 0
    assert stalls(enough - 1) > 0
