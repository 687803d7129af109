"""BB_SC_N: what was lost in a window comes back, except a whole window of it."""

from __future__ import annotations

import pytest

from fcsim.errors import CreditMisuse
from fcsim.port.recovery import CreditRecovery, negotiated


def window_of_frames(n: int, lost: int) -> int:
    """Send one window of frames, lose some, and deliver the BB_SCs; returns what the receiver gives back."""
    sender, receiver = CreditRecovery(n), CreditRecovery(n)
    for number in range(1 << n):
        boundary = sender.frame_sent()
        assert boundary == (number == (1 << n) - 1)
        if number >= lost:
            receiver.frame_received()
    return receiver.bb_scs_received()


def test_three_of_256_frames_lost_are_three_extra_r_rdys() -> None:
    """The reference's worked example: N=8, BB_FRM_N = 253 at BB_SCs."""
    assert window_of_frames(8, 3) == 3


def test_two_of_256_r_rdys_lost_are_two_credits() -> None:
    """The reference's worked example: N=8, BB_RDY_N = 254 at BB_SCr."""
    sender, receiver = CreditRecovery(8), CreditRecovery(8)
    for number in range(256):
        assert sender.r_rdy_sent() == (number == 255)
        if number >= 2:
            receiver.r_rdy_received()
    assert receiver.bb_rdy_n == 254
    assert receiver.bb_scr_received() == 2
    assert receiver.r_rdys_recovered == 2


def test_a_whole_window_lost_is_not_seen() -> None:
    assert window_of_frames(8, 256) == 0


def test_nothing_lost_is_nothing_recovered() -> None:
    assert window_of_frames(8, 0) == 0


@pytest.mark.parametrize("n", range(1, 11))
def test_every_loss_short_of_a_window_is_recovered(n: int) -> None:
    for lost in range(min(1 << n, 40)):
        assert window_of_frames(n, lost) == lost


def test_n_zero_is_off() -> None:
    recovery = CreditRecovery(0)
    assert not any(recovery.frame_sent() for _ in range(1000))
    assert recovery.bb_scs_received() == recovery.bb_scr_received() == 0


def test_peers_with_different_n_use_the_larger_and_none_switches_it_off() -> None:
    assert negotiated(8, 4) == negotiated(4, 8) == 8
    assert negotiated(8, 0) == negotiated(0, 8) == 0


def test_a_link_reset_clears_the_counters_and_keeps_the_totals() -> None:
    recovery = CreditRecovery(2)
    recovery.frame_received()
    assert recovery.bb_scs_received() == 3
    recovery.frame_received()
    recovery.reset()
    assert (recovery.bb_frm_n, recovery.frames_recovered) == (0, 3)


@pytest.mark.parametrize("value", [-1, 16])
def test_bb_sc_n_is_four_bits(value: int) -> None:
    with pytest.raises(CreditMisuse, match="0 to 15"):
        CreditRecovery(value)
