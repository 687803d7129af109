"""Both ends of a pair, or neither (GAP-26): a station between two real arrays, one of which fails at any moment."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from credits.errors import Code, InvalidRequest
from credits.targets import port_pair, port_pair_number
from mgmt.http import Peer, PeerRefused, PeerUnreachable
from mgmt.messages import BufferHoldRequest, HoldConfirmRequest, Message, ReservationReleaseRequest
from mgmt.station.arrays import Arrays
from mgmt.station.both_ends import reserve_both_ends
from mgmt.station.context import Station
from mgmt.station.open_ends import Settler, settle
from mgmt.station.store import open_store
from tests.mgmt.array_processes import MASTER, PAIR, REMOTE, ArrayProcess, array

pytestmark = pytest.mark.slow

UNIT = 16384
MIRRORED = port_pair(REMOTE, MASTER)
Moment = Callable[[Message], None]


class Crash(Exception):
    """The station ends here; nothing of it goes on."""


class Wire(Peer):
    """The station's client of one array, with something that happens before or after a message travels."""

    before: Moment = staticmethod(lambda message: None)
    after: Moment = staticmethod(lambda message: None)

    def send(self, message: Message, *arguments: Any, **keywords: Any) -> Message:
        self.before(message)
        answer = super().send(message, *arguments, **keywords)
        self.after(message)
        return answer


class Place:
    """Two arrays that can be killed and brought back, and a station."""

    def __init__(self, directory: Path, stack: ExitStack) -> None:
        self._directory = directory
        self._stack = stack
        self.arrays: dict[str, ArrayProcess] = {}
        for name in ("master", "remote"):
            self.bring_up(name)
        self.wires: dict[str, Wire] = {}
        self.station = self.open_station()

    def bring_up(self, name: str) -> None:
        address = {"master": MASTER, "remote": REMOTE}[name]
        (self._directory / f"{name}.sock").unlink(missing_ok=True)
        made = array(self._directory, name, address, "--units", "100", "--state", str(self._directory / name))
        self.arrays[name] = self._stack.enter_context(made)

    def kill(self, name: str) -> None:
        self.arrays[name].process.kill()
        self.arrays[name].process.wait(60)

    def open_station(self) -> Station:
        self.wires = {
            name: Wire(f"unix:{self._directory}/{name}.sock", 60.0, name=f"array {name}", retries=0)
            for name in self.arrays
        }
        return Station(
            store=open_store(self._directory / "station"),
            arrays=Arrays(self.wires),
            probes=(),
            utc_now=lambda: datetime(2026, 1, 1, tzinfo=UTC),
        )

    def restart_station(self) -> None:
        self.station.close()
        self.station = self.open_station()

    def units(self) -> dict[str, list[int]]:
        """Reserved by each array's table 101; nothing may be set aside besides."""
        found = {}
        for name, process in self.arrays.items():
            found[name] = [row["reserved_units"] for row in process.table("reservations")]
            assert process.pool["reserved_idle_units"] == sum(found[name])
        return found


@contextmanager
def places(directory: Path) -> Iterator[Place]:
    with ExitStack() as stack:
        place = Place(directory, stack)
        try:
            yield place
        finally:
            place.station.close()


@pytest.fixture
def place(tmp_path: Path) -> Iterator[Place]:
    with places(tmp_path) as made:
        yield made


def reserve(place: Place, units: int) -> tuple[int, int]:
    done = reserve_both_ends(place.station, PAIR, size_bytes=units * UNIT)
    return done.local.answer.reserved_units, done.remote.answer.reserved_units


def at(kind: type, do: Callable[[], object]) -> Moment:
    """``do`` once, at the first message of ``kind``."""
    left = [do]

    def moment(message: Message) -> None:
        if isinstance(message, kind) and left:
            left.pop()()

    return moment


NEITHER: dict[str, list[int]] = {"master": [], "remote": []}


def test_both_ends_are_reserved_each_for_its_own_direction(place: Place) -> None:
    assert reserve(place, 40) == (40, 40)
    assert place.units() == {"master": [40], "remote": [40]}
    (row,) = place.arrays["remote"].table("reservations")
    assert (row["target"]["local_port"], row["target"]["remote_port"]) == (REMOTE, MASTER)
    assert reserve(place, 30) == (30, 30), "again: both are brought to the new size"
    assert place.units() == {"master": [30], "remote": [30]}
    assert place.station.store.open_ends() == []


def test_a_refusal_of_the_far_end_leaves_both_as_they_were(place: Place) -> None:
    place.arrays["remote"].reserve(70 * UNIT, port_pair(REMOTE, "192.0.2.9"))
    with pytest.raises(PeerRefused, match=r"array remote: .* nothing has changed at either end") as refusal:
        reserve(place, 40)
    assert refusal.value.code == Code.NO_MEMORY
    assert refusal.value.shortage is not None and refusal.value.shortage.free_units == 30
    assert place.units() == {"master": [], "remote": [70]}


def test_a_refusal_of_the_near_end_leaves_both_as_they_were(place: Place) -> None:
    place.arrays["master"].reserve(70 * UNIT, port_pair(MASTER, "192.0.2.9"))
    with pytest.raises(PeerRefused, match="array master"):
        reserve(place, 40)
    assert place.units() == {"master": [70], "remote": []}


@pytest.mark.parametrize("name", ["master", "remote"])
def test_an_array_that_is_down_from_the_start_leaves_the_other_untouched(place: Place, name: str) -> None:
    place.kill(name)
    with pytest.raises(PeerUnreachable, match=f"array {name}"):
        reserve(place, 40)
    place.bring_up(name)
    assert place.units() == NEITHER


@pytest.mark.parametrize("name", ["master", "remote"])
def test_an_array_killed_before_its_hold_leaves_nothing(place: Place, name: str) -> None:
    place.wires[name].before = at(BufferHoldRequest, lambda: place.kill(name))
    with pytest.raises(PeerUnreachable):
        reserve(place, 40)
    place.bring_up(name)
    assert place.units() == NEITHER
    assert place.station.store.open_ends() == []


@pytest.mark.parametrize("before", [0, 10])
@pytest.mark.parametrize("name", ["master", "remote"])
def test_an_array_killed_between_hold_and_confirm_leaves_both_as_they_were(
    place: Place, name: str, before: int
) -> None:
    if before:
        reserve(place, before)
    as_it_was = place.units()
    place.wires[name].before = at(HoldConfirmRequest, lambda: place.kill(name))
    with pytest.raises(PeerUnreachable, match="neither end keeps a reservation"):
        reserve(place, 40)
    other = {"master": "remote", "remote": "master"}[name]
    assert [row["reserved_units"] for row in place.arrays[other].table("reservations")] == as_it_was[other]
    assert [end.array for end in place.station.store.open_ends()] == [name]
    place.bring_up(name)
    assert settle(place.station) == 0
    assert place.units() == as_it_was
    assert reserve(place, 20) == (20, 20)


@pytest.mark.parametrize("before", [0, 10])
@pytest.mark.parametrize("name", ["master", "remote"])
def test_a_confirmation_whose_answer_was_lost_is_undone_when_the_array_is_back(
    place: Place, name: str, before: int
) -> None:
    if before:
        reserve(place, before)
    as_it_was = place.units()

    def lose_the_answer() -> None:
        place.kill(name)
        raise PeerUnreachable(place.wires[name].who, "the connection broke")

    place.wires[name].after = at(HoldConfirmRequest, lose_the_answer)
    with pytest.raises(PeerUnreachable):
        reserve(place, 40)
    assert settle(place.station) == 1, "the array is down"
    place.bring_up(name)
    assert [row["reserved_units"] for row in place.arrays[name].table("reservations")] == [40]
    assert settle(place.station) == 0
    assert place.units() == as_it_was


@pytest.mark.parametrize("before", [0, 60])
@pytest.mark.parametrize("name", ["master", "remote"])
def test_a_station_that_ends_between_the_confirmations_undoes_them_when_it_is_back(
    place: Place, name: str, before: int
) -> None:
    if before:
        reserve(place, before)
    as_it_was = place.units()

    def crash() -> None:
        raise Crash

    place.wires[name].before = at(HoldConfirmRequest, crash)
    with pytest.raises(Crash):
        reserve(place, 40)
    place.restart_station()
    assert settle(place.station) == 0
    assert place.units() == as_it_was


def test_the_settler_brings_back_what_an_array_that_was_down_has_left(place: Place) -> None:
    place.wires["remote"].before = at(HoldConfirmRequest, lambda: place.kill("remote"))
    with Settler(place.station, interval_s=0.05):
        with pytest.raises(PeerUnreachable):
            reserve(place, 40)
        place.bring_up("remote")
        while place.station.store.open_ends():
            time.sleep(0.02)
    assert place.units() == NEITHER


@pytest.mark.parametrize("before", [0, 10])
def test_nothing_is_undone_that_another_manager_has_made_since(place: Place, before: int) -> None:
    if before:
        reserve(place, before)

    def lose_the_answer() -> None:
        place.kill("remote")
        raise PeerUnreachable(place.wires["remote"].who, "the connection broke")

    place.wires["remote"].after = at(HoldConfirmRequest, lose_the_answer)
    with pytest.raises(PeerUnreachable):
        reserve(place, 40)
    place.bring_up("remote")
    place.arrays["remote"].reserve(25 * UNIT, MIRRORED)
    assert settle(place.station) == 0
    assert place.units() == {"master": [before] if before else [], "remote": [25]}


def test_an_attempt_under_way_is_not_settled_by_somebody_else(place: Place) -> None:
    left: list[int] = []
    place.wires["master"].before = at(HoldConfirmRequest, lambda: left.append(settle(place.station)))
    assert reserve(place, 40) == (40, 40)
    assert left == [2]
    assert place.units() == {"master": [40], "remote": [40]}


def test_an_end_that_cannot_be_brought_back_yet_stays_written_down(place: Place) -> None:
    """Shrunk from 60 to 10 units and taken by another in between: 60 are not to be had again for now."""
    reserve(place, 60)

    def take_the_rest() -> None:
        place.arrays["remote"].reserve(70 * UNIT, port_pair(REMOTE, "192.0.2.9"))
        place.kill("master")

    place.wires["master"].before = at(HoldConfirmRequest, take_the_rest)
    with pytest.raises(PeerUnreachable):
        reserve(place, 10)
    place.bring_up("master")
    assert settle(place.station) == 1
    place.arrays["remote"].peer.send(ReservationReleaseRequest(target=port_pair(REMOTE, "192.0.2.9")))
    assert settle(place.station) == 0
    assert place.units() == {"master": [60], "remote": [60]}


def test_only_a_port_pair_has_two_ends(place: Place) -> None:
    with pytest.raises(InvalidRequest, match="for a port pair"):
        reserve_both_ends(place.station, port_pair_number(MASTER, REMOTE, 25), size_bytes=UNIT)
    with pytest.raises(InvalidRequest, match="no array has the port"):
        reserve_both_ends(place.station, port_pair(MASTER, "192.0.2.9"), size_bytes=UNIT)
    assert place.units() == NEITHER
