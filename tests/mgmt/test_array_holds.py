"""Holds and leases on an array: they end when their time has run out, and with the process (GAP-10, GAP-26)."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

import pytest

from credits.config import PoolConfig, UnitKind
from credits.durable import DurablePool
from credits.errors import Code, InvalidRequest, Refused
from credits.targets import Target, port_pair
from mgmt.array.interface import CommunicationInterface
from mgmt.http import PeerRefused
from mgmt.messages import (
    BufferHoldRequest,
    BufferHoldResponse,
    BufferReserveRequest,
    BufferReserveResponse,
    HoldConfirmRequest,
    HoldVoidRequest,
    HoldVoidResponse,
)
from tests.mgmt.array_processes import MASTER, PAIR, ArrayProcess, array

UNIT = 16384
SECOND = 10**9
OTHER = port_pair("192.0.2.1", "192.0.2.2")


# --- the interface alone ------------------------------------------------------------------------------------


class Clock:
    def __init__(self) -> None:
        self.now_ns = 0

    def __call__(self) -> int:
        return self.now_ns


def interface(state: Path | None, run: str, clock: Clock) -> CommunicationInterface:
    config = PoolConfig(name="tcp0", kind=UnitKind.TCP, unit_bytes=UNIT, total_units=100)
    return CommunicationInterface("tcp0", DurablePool.open(state, config), clock, run=run)


def hold_request(units: int, target: Target = PAIR, ttl_ns: int = 30 * SECOND) -> BufferHoldRequest:
    return BufferHoldRequest(target=target, requested_bytes=units * UNIT, ttl_ns=ttl_ns)


def test_a_hold_becomes_the_reservation_once_however_often_it_is_confirmed() -> None:
    subject = interface(None, "run", Clock())
    held = subject.hold(hold_request(40), "h")
    assert subject.hold(hold_request(40), "h") == held
    assert subject.pool.statistics().free_units == 60 and subject.pool.reservation_table() == ()
    made = subject.confirm(HoldConfirmRequest(hold=held.hold), "c")
    assert subject.confirm(HoldConfirmRequest(hold=held.hold), "c") == made
    assert (made.reserved_units, made.previous_units, made.replaced) == (40, 0, False)
    with pytest.raises(Refused) as refusal:
        subject.void(HoldVoidRequest(hold=held.hold), "v")
    assert refusal.value.code is Code.STALE
    assert subject.pool.statistics().free_units == 60


def test_a_voided_hold_gives_everything_back_and_cannot_be_confirmed() -> None:
    subject = interface(None, "run", Clock())
    held = subject.hold(hold_request(40), "h")
    gone = subject.void(HoldVoidRequest(hold=held.hold), "v")
    assert subject.void(HoldVoidRequest(hold=held.hold), "v") == gone
    assert subject.pool.statistics().free_units == 100
    with pytest.raises(Refused) as refusal:
        subject.confirm(HoldConfirmRequest(hold=held.hold), "c")
    assert refusal.value.code is Code.STALE


def test_a_hold_tells_what_it_would_replace() -> None:
    subject = interface(None, "run", Clock())
    subject.reserve(BufferReserveRequest(target=PAIR, requested_bytes=10 * UNIT - 1), "r")
    held = subject.hold(hold_request(40), "h")
    assert (held.previous_units, held.previous_bytes, held.reserved_units) == (10, 10 * UNIT - 1, 40)


def test_a_name_of_an_earlier_run_never_means_a_hold_of_this_one() -> None:
    clock = Clock()
    old = interface(None, "earlier", clock).hold(hold_request(40), "h1")
    subject = interface(None, "later", clock)
    new = subject.hold(hold_request(7, OTHER), "h2")
    assert old.hold.split("-")[1] == new.hold.split("-")[1], "the pool counts from the same number again"
    with pytest.raises(Refused) as refusal:
        subject.void(HoldVoidRequest(hold=old.hold), "v")
    assert refusal.value.code is Code.STALE
    with pytest.raises(Refused) as refusal:
        subject.confirm(HoldConfirmRequest(hold=old.hold), "c")
    assert refusal.value.code is Code.BUSY
    assert subject.pool.reservation_table() == ()
    clock.now_ns += 31 * SECOND
    with pytest.raises(Refused) as refusal:
        subject.confirm(HoldConfirmRequest(hold=old.hold), "c")
    assert refusal.value.code is Code.STALE


def test_a_confirmation_is_known_again_after_a_restart(tmp_path: Path) -> None:
    before = interface(tmp_path, "earlier", Clock())
    held = before.hold(hold_request(40), "h")
    made = before.confirm(HoldConfirmRequest(hold=held.hold), "c")
    before.pool.close()
    subject = interface(tmp_path, "later", Clock())
    assert subject.confirm(HoldConfirmRequest(hold=held.hold), "c") == made
    assert subject.pool.statistics().free_units == 60
    subject.pool.close()


@pytest.mark.parametrize("name", ["", "-", "5", "run-", "run-x", "run--5", "run-²", "run-" + "9" * 40])
def test_what_names_no_hold_is_a_bad_message(name: str) -> None:
    subject = interface(None, "run", Clock())
    for ask in (
        lambda: subject.confirm(HoldConfirmRequest(hold=name), "c"),
        lambda: subject.void(HoldVoidRequest(hold=name), "v"),
    ):
        with pytest.raises((InvalidRequest, Refused)) as refusal:
            ask()
        assert refusal.value.code in (Code.BAD_MESSAGE, Code.STALE)
    assert subject.pool.statistics().free_units == 100


# --- a process ----------------------------------------------------------------------------------------------


def hold(east: ArrayProcess, units: int, ttl_ns: int = 30 * SECOND) -> str:
    answer = east.peer.send(hold_request(units, ttl_ns=ttl_ns))
    assert isinstance(answer, BufferHoldResponse)
    return answer.hold


def wait_until(reached: Callable[[], bool]) -> None:
    """The test's own time-out bounds it."""
    while not reached():
        time.sleep(0.02)


@pytest.mark.slow
def test_a_hold_is_voided_when_its_time_has_passed_though_nobody_asks(tmp_path: Path) -> None:
    with array(tmp_path, "east", MASTER) as east:
        while True:
            began_ns = time.monotonic_ns()
            name = hold(east, 40, ttl_ns=SECOND // 2)
            held = east.pool["free_units"]
            in_time = time.monotonic_ns() - began_ns < SECOND // 2
            wait_until(lambda: east.pool["free_units"] == 256)
            if in_time:  # on a busy machine it may have been over before it was looked at
                break
        assert held == 216
        with pytest.raises(PeerRefused) as refusal:
            east.peer.send(HoldConfirmRequest(hold=name))
        assert refusal.value.code == Code.STALE
        assert east.table("reservations") == []


@pytest.mark.slow
def test_a_hold_that_was_never_confirmed_is_gone_after_a_kill_and_a_confirmed_one_is_not(
    tmp_path: Path,
) -> None:
    state = ("--state", str(tmp_path / "state"))
    with array(tmp_path, "east", MASTER, *state) as east:
        confirmed = hold(east, 30)
        made = east.peer.send(HoldConfirmRequest(hold=confirmed), "c")
        assert isinstance(made, BufferReserveResponse)
        open_still = east.peer.send(hold_request(5, OTHER))
        assert isinstance(open_still, BufferHoldResponse)
        assert east.pool["free_units"] == 221
        east.process.kill()
        east.process.wait(60)
    with array(tmp_path, "east", MASTER, *state) as east:
        assert east.pool["free_units"] == 226
        assert [row["reserved_units"] for row in east.table("reservations")] == [30]
        assert east.peer.send(HoldConfirmRequest(hold=confirmed), "c") == made
        with pytest.raises(PeerRefused) as refusal:
            east.peer.send(HoldConfirmRequest(hold=open_still.hold), "c2")
        assert refusal.value.code == Code.STALE
        assert east.pool["free_units"] == 226


@pytest.mark.slow
def test_a_held_target_is_busy_for_everybody_else(tmp_path: Path) -> None:
    with array(tmp_path, "east", MASTER) as east:
        name = hold(east, 40)
        with pytest.raises(PeerRefused) as refusal:
            east.reserve(UNIT)
        assert refusal.value.code == Code.BUSY
        assert isinstance(east.peer.send(HoldVoidRequest(hold=name)), HoldVoidResponse)
        assert east.reserve(UNIT) == 1


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_a_lease_lapses_by_itself_and_starts_afresh_after_a_restart(tmp_path: Path) -> None:
    """On a busy machine a lease may be over before it was looked at: then once more, with a longer one."""
    assert any(lease_was_seen(tmp_path / str(lease_s), lease_s * SECOND) for lease_s in (2, 15, 60))


def lease_was_seen(directory: Path, lease_ns: int) -> bool:
    """Whether it was looked at within the lease's time, at both ends of the restart; if so, it has to be right."""
    directory.mkdir()
    state = ("--state", str(directory / "state"))
    leased = BufferReserveRequest(target=PAIR, requested_bytes=40 * UNIT, lease_ns=lease_ns)
    with array(directory, "east", MASTER, *state) as east:
        began_ns = time.monotonic_ns()
        east.peer.send(leased)
        east.reserve(5 * UNIT, OTHER)
        reserved = east.pool["free_units"]
        east.process.kill()
        east.process.wait(60)
        in_time = time.monotonic_ns() - began_ns < lease_ns
    began_ns = time.monotonic_ns()
    with array(directory, "east", MASTER, *state) as east:
        again = east.pool["free_units"]
        if not in_time or time.monotonic_ns() - began_ns >= lease_ns:
            return False
        assert (reserved, again) == (211, 211)
        wait_until(lambda: east.pool["free_units"] == 251)
        assert [row["reserved_units"] for row in east.table("reservations")] == [5]
    return True
