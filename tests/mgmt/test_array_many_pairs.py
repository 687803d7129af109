"""Many pairs on one array at once: together as fast as one of them alone, and none of them left behind."""

from __future__ import annotations

import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from credits.targets import port_pair
from mgmt.http import PeerRefused
from mgmt.messages import CopyStatus
from tests.mgmt.array_processes import (
    MASTER,
    ArrayProcess,
    array,
    configured_array,
    start_copy,
    start_requests,
)

PAIRS, CONNECTIONS = 24, 4
UNIT = 16384
#: For each connection: a whole extent.
UNITS = 4 * CONNECTIONS
SHARE_BYTES = 8 << 20


def interfaces() -> str:
    return "".join(
        f'[[interface]]\naddress = "127.0.2.{number + 1}"\niscsi_port = 0\nunits = 16\n'
        for number in range(PAIRS)
    )


def copied(east: ArrayProcess, west: ArrayProcess, volumes: Sequence[int]) -> tuple[float, list[CopyStatus]]:
    """Copy these volumes at once, each over a pair of its own; bytes per second together, and what became of each."""
    ports = west.table("info")["ports"]
    luns = {volume["name"]: volume["lun"] for volume in west.table("info")["volumes"]}

    def start(number: int) -> None:
        pair = port_pair(MASTER, ports[number % PAIRS]["address"])
        east.reserve(UNITS * UNIT, pair)
        requests = start_requests(
            ports[number % PAIRS],
            1,
            CONNECTIONS,
            copy_id=f"c{number}",
            target=pair,
            volume=f"vol{number}",
            remote_lun=luns[f"vol{number}"],
        )
        answers = start_copy(east, requests)
        assert not any(isinstance(answer, PeerRefused) for answer in answers), answers

    began = time.monotonic()
    with ThreadPoolExecutor(len(volumes)) as starting:
        list(starting.map(start, volumes))
    over = [east.wait_until_over(f"c{number}") for number in volumes]
    seconds = time.monotonic() - began
    assert {status.state for status in over} == {"done"}, over
    return sum(status.total_bytes for status in over) / seconds, over


@pytest.mark.soak
def test_24_pairs_are_together_as_fast_as_one_and_none_is_left_behind(tmp_path: Path) -> None:
    """The bar: 80 % of what one pair of four connections does, the slowest pair at least half of the mean."""
    small = "".join(f'[[volume]]\nname = "vol{number}"\nstore = "{SHARE_BYTES}"\n' for number in range(PAIRS))
    volumes = small + f'[[volume]]\nname = "vol{PAIRS}"\nstore = "{PAIRS * SHARE_BYTES}"\n'
    settings = f'port_address = "{MASTER}"\niscsi_port = 0\nunits = {(PAIRS + 1) * UNITS}\n'
    with (
        configured_array(tmp_path, "east", settings + volumes) as east,
        configured_array(tmp_path, "west", interfaces() + volumes) as west,
    ):
        alone, _ = copied(east, west, [PAIRS])
        together, over = copied(east, west, range(PAIRS))
        rates = [status.goodput_bps for status in over]
        assert min(rates) >= sum(rates) / len(rates) / 2, rates
        assert together >= 0.8 * alone, (together, alone)
        assert east.pool["in_use_units"] == 0


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
