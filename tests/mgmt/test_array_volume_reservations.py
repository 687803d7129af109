"""Reservations of volume pairs and of pairs of volume groups (paragraph 102) serve exactly the copies of these."""

from __future__ import annotations

from pathlib import Path

import pytest

from credits.errors import Code
from credits.targets import Target, volume_group_pair, volume_pair
from mgmt.http import PeerRefused
from mgmt.messages import CopyStartResponse, CopyStopRequest
from tests.mgmt.array_processes import MASTER, REMOTE, ArrayProcess, array, start_copy, start_requests

pytestmark = pytest.mark.slow

UNIT = 16384
VOLUMES = tuple(flag for number in range(3) for flag in ("--volume", f"vol{number}=4MiB"))


def started(east: ArrayProcess, west: ArrayProcess, number: int, *claims: Target) -> list[int]:
    """Start a copy of volume ``number``; the units that its two connections were allocated."""
    requests = start_requests(
        west.port, 1, 2, copy_id=f"c{number}", volume=f"vol{number}", remote_lun=number, claims=claims
    )
    answers = start_copy(east, requests)
    assert all(isinstance(answer, CopyStartResponse) for answer in answers), answers
    return sorted(answer.allocated_units for answer in answers if isinstance(answer, CopyStartResponse))


def drawn_on(east: ArrayProcess) -> dict[str, set[str]]:
    """The copies that hold units now, by the name of the reservation that these came from; "" is the free list."""
    found: dict[str, set[str]] = {}
    for row in east.table("allocations"):
        name = row["target"]["name"] if row["reserved"] else ""
        for holder in row["holders"]:
            found.setdefault(name, set()).add(holder["name"].split()[1])
    return found


def test_each_volume_pair_is_served_by_its_own_reservation_and_by_no_other(tmp_path: Path) -> None:
    with (
        array(tmp_path, "east", MASTER, *VOLUMES) as east,
        array(tmp_path, "west", REMOTE, *VOLUMES) as west,
    ):
        pairs = [volume_pair(f"vol{number}", f"vol{number}") for number in range(3)]
        for number, units in enumerate((6, 10)):
            east.reserve(units * UNIT, pairs[number], f"r{number}")
        free = east.pool["free_units"]
        assert started(east, west, 0, pairs[0]) == [3, 3]
        assert started(east, west, 1, pairs[1]) == [5, 5]
        assert started(east, west, 2, pairs[2]) == [16, 16], (
            "nothing is reserved for it: the free list serves it"
        )
        allowed = {"vol0,vol0": {"c0"}, "vol1,vol1": {"c1"}, "": {"c2"}}
        while any(east.status(f"c{number}").state == "copying" for number in range(3)):
            for name, copies in drawn_on(east).items():
                assert copies <= allowed[name]
        for number in range(3):
            assert east.wait_until_over(f"c{number}").state == "done"
        assert (east.pool["free_units"], east.pool["reserved_idle_units"]) == (free, 16)


def test_a_claim_of_another_volumes_pair_is_refused(tmp_path: Path) -> None:
    with (
        array(tmp_path, "east", MASTER, *VOLUMES) as east,
        array(tmp_path, "west", REMOTE, *VOLUMES) as west,
    ):
        east.reserve(6 * UNIT, volume_pair("vol0", "vol0"))
        requests = start_requests(
            west.port, 1, 1, volume="vol1", remote_lun=1, claims=(volume_pair("vol0", "vol0"),)
        )
        (answer,) = start_copy(east, requests)
        assert isinstance(answer, PeerRefused)
        assert answer.code == Code.INVALID_TARGET
        assert "vol1" in str(answer)
        assert east.pool["reserved_idle_units"] == 6


def test_the_reservation_of_a_group_serves_the_copies_of_its_volumes_together_and_no_other(
    tmp_path: Path,
) -> None:
    group, other = volume_group_pair("g", "h"), volume_group_pair("x", "y")
    with (
        array(tmp_path, "east", MASTER, *VOLUMES, "--allocation-units", "4") as east,
        array(tmp_path, "west", REMOTE, *VOLUMES) as west,
    ):
        east.reserve(16 * UNIT, group)
        free = east.pool["free_units"]
        for number, claim in enumerate((group, group, other)):
            assert started(east, west, number, claim) == [4, 4]
        allowed = {"g,h": {"c0", "c1"}, "": {"c2"}}
        while any(east.status(f"c{number}").state == "copying" for number in range(3)):
            for name, copies in drawn_on(east).items():
                assert copies <= allowed[name]
        for number in range(3):
            assert east.wait_until_over(f"c{number}").state == "done"
        assert (east.pool["free_units"], east.pool["reserved_idle_units"]) == (free, 16)


def test_copies_that_draw_on_one_reservation_share_it_and_get_it_back(tmp_path: Path) -> None:
    """Two volumes of a group: the second copy finds half of what the first had, and all of it when that is over."""
    group, unit = volume_group_pair("g", "h"), 4096
    volumes = tuple(
        flag for number in range(2) for flag in ("--volume", f"vol{number}=4GiB")
    )  # never over by themselves
    with (
        array(tmp_path, "east", MASTER, *volumes, "--unit", "4KiB", "--units", "64") as east,
        array(tmp_path, "west", REMOTE, *volumes) as west,
    ):
        east.reserve(8 * unit, group)

        def held(number: int) -> int:
            (row,) = (row for row in east.table("copies") if row["copy_id"] == f"c{number}")
            return sum(int(link["limit_bytes"]) for link in row["links"]) // unit

        def until(number: int, units: int) -> None:
            while held(number) != units:
                assert east.status(f"c{number}").state == "copying"
                assert east.pool["free_units"] == 56

        assert started(east, west, 0, group) == [4, 4]
        assert started(east, west, 1, group) == [2, 2]
        until(0, 4)
        east.peer.send(CopyStopRequest(copy_id="c0"))
        until(1, 8)
        east.peer.send(CopyStopRequest(copy_id="c1"))
        assert east.pool["reserved_idle_units"] == 8
