"""Many pairs on one array at once: together as fast as one of them alone, and none of them left behind."""

from __future__ import annotations

from pathlib import Path

import pytest

from credits.targets import port_pair
from mgmt.http import PeerRefused
from tests.mgmt.array_processes import MASTER, array, configured_array, start_copy, start_requests
from tools.bench import pairs_bench

UNIT = 16384


def interfaces() -> str:
    return "".join(
        f'[[interface]]\naddress = "127.0.2.{number + 1}"\niscsi_port = 0\nunits = 16\n'
        for number in range(4)
    )


@pytest.mark.soak
def test_24_pairs_are_together_as_fast_as_one_and_none_is_left_behind() -> None:
    """The bar: 80 % of what one pair of four connections does, the slowest pair at least half of the mean."""
    assert [line for line in pairs_bench.measure() if not line.met] == []


@pytest.mark.slow
def test_24_pairs_that_start_at_once_all_get_what_is_reserved_for_them() -> None:
    """Every start changes a reservation, which the copies that run or begin already must not take amiss."""
    with pairs_bench.arrays(pairs_bench.PAIRS, 1 << 20) as both:
        over = both.copied(range(pairs_bench.PAIRS))
        assert len(over.each) == pairs_bench.PAIRS
        assert both.in_use_units() == 0


@pytest.mark.slow
def test_pairs_over_their_own_reservations_leave_each_others_alone(tmp_path: Path) -> None:
    """Paragraph 102 and claim 5: four pairs at once, each never beyond its own units."""
    with (
        array(tmp_path, "east", MASTER, "--volume", "vol0=8MiB", "--units", "64") as east,
        configured_array(tmp_path, "west", interfaces() + '[volumes]\nvol0 = "8MiB"\n') as west,
    ):
        ports = west.table("info")["ports"][:4]
        for port in ports:
            east.reserve(8 * UNIT, port_pair(MASTER, port["address"]))
        for number, port in enumerate(ports):
            requests = start_requests(
                port, 1, 2, copy_id=f"c{number}", target=port_pair(MASTER, port["address"])
            )
            assert not any(isinstance(answer, PeerRefused) for answer in start_copy(east, requests))
        while any(east.status(f"c{number}").state not in ("done", "failed") for number in range(4)):
            assert all(row["in_use_units"] <= 8 for row in east.table("reservations"))
            assert east.pool["free_units"] == 32
        assert {east.status(f"c{number}").state for number in range(4)} == {"done"}
