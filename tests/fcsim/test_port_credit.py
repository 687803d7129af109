"""Buffer-to-buffer and end-to-end credit: counts that cannot be talked up, buffers that come back exactly once."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fcsim.errors import CreditMisuse, PeerViolation
from fcsim.port.credit import EndToEndCredit, ReceiveBuffers, TransmitCredit


def test_a_sender_stops_at_its_credit_and_goes_on_with_each_r_rdy() -> None:
    """Claim 11: exactly 8 frames, then stall; k R_RDYs let exactly k more go; after all the count is 8 again."""
    credit = TransmitCredit(8)
    for _ in range(8):
        credit.take()
    with pytest.raises(CreditMisuse):
        credit.take()
    assert credit.give(3) == 3
    assert credit.available == 3
    for _ in range(3):
        credit.take()
    assert credit.available == 0
    credit.give(8)
    assert (credit.bb_credit_cnt, credit.available) == (0, 8)


def test_an_r_rdy_too_many_does_not_raise_the_limit() -> None:
    credit = TransmitCredit(2)
    assert credit.give(5) == 0
    assert (credit.available, credit.excess_r_rdy) == (2, 5)


def test_the_ceiling_limits_at_once_and_never_exceeds_the_grant() -> None:
    credit = TransmitCredit(10)
    for _ in range(6):
        credit.take()
    credit.set_ceiling(4)
    assert credit.available == 0
    credit.give(3)
    assert credit.available == 1
    with pytest.raises(CreditMisuse, match="granted 10, not 11"):
        credit.set_ceiling(11)


def test_alternate_credit_of_zero_waits_for_r_rdys_first() -> None:
    credit = TransmitCredit(0, alternate=True)
    assert credit.available == 0
    credit.give(3)
    assert credit.available == 3
    credit.take()
    assert credit.available == 2


def test_alternate_credit_discards_as_many_r_rdys_as_it_began_with() -> None:
    credit = TransmitCredit(2, alternate=True)
    credit.take()
    credit.take()
    credit.give(4)
    assert credit.available == 2


def test_a_link_reset_restores_the_login_value() -> None:
    credit = TransmitCredit(4)
    for _ in range(4):
        credit.take()
    credit.reset()
    assert credit.available == 4


def test_a_receive_buffer_is_returned_exactly_once() -> None:
    buffers = ReceiveBuffers(2)
    first = buffers.occupy()
    assert first.release()
    with pytest.raises(CreditMisuse, match="released before"):
        first.release()
    assert buffers.remaining == 2


def test_a_frame_beyond_the_grant_is_the_peers_violation() -> None:
    buffers = ReceiveBuffers(1)
    buffers.occupy()
    with pytest.raises(PeerViolation, match="beyond the 1 credits"):
        buffers.occupy()


def test_a_buffer_from_before_a_link_reset_owes_no_r_rdy() -> None:
    buffers = ReceiveBuffers(1)
    old = buffers.occupy()
    buffers.reset()
    new = buffers.occupy()
    assert not old.release()
    assert new.release()


def test_ack_1_gives_end_to_end_credit_back_and_ack_0_needs_none() -> None:
    credit = EndToEndCredit(2)
    credit.take()
    credit.take()
    with pytest.raises(CreditMisuse):
        credit.take()
    credit.ack_1()
    assert credit.available == 1
    for _ in range(3):
        credit.ack_1()
    assert (credit.available, credit.excess_acks) == (2, 2)
    free = EndToEndCredit(0, ack_0=True)
    free.take()
    assert free.available is None


@given(st.integers(1, 20), st.lists(st.sampled_from(["frame", "r_rdy", "lost frame", "lost r_rdy", "reset"])))
def test_credit_is_conserved_under_every_fault(bb_credit: int, steps: list[str]) -> None:
    """granted = in flight or held + returned and available + lost, after every step."""
    credit, buffers, held, lost = TransmitCredit(bb_credit), ReceiveBuffers(bb_credit), [], 0
    for step in steps:
        match step:
            case "frame" | "lost frame" if credit.available:
                credit.take()
                if step == "frame":
                    held.append(buffers.occupy())
                else:
                    lost += 1
            case "r_rdy" | "lost r_rdy" if held:
                assert held.pop().release()
                if step == "r_rdy":
                    credit.give()
                else:
                    lost += 1
            case "reset":
                credit.reset()
                buffers.reset()
                held, lost = [], 0
        assert credit.available + len(held) + lost == bb_credit
        assert buffers.remaining + len(held) == bb_credit
