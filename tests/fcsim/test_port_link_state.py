"""The port state machine: links come up, reset and fail as the standard's table says."""

from __future__ import annotations

import pytest

from fcsim.port.link_state import TRANSITIONS, TRANSMITS, LinkState, Trouble, Wish, after
from fcsim.port.signals import Sequence

PUBLISHED = [
    # state, IDLE, OLS, NOS, LR, LRR: "." stays (FC-FS-5 table 22, as an open implementation quotes it)
    ("AC", "AC", "OL2", "LF1", "LR2", "AC"),
    ("LR1", "LR1", "OL2", "LF1", "LR2", "LR3"),
    ("LR2", "AC", "OL2", "LF1", "LR2", "LR3"),
    ("LR3", "AC", "OL2", "LF1", "LR2", "LR3"),
    ("LF1", "LF1", "OL2", "LF1", "LR2", "LF1"),
    ("LF2", "LF2", "OL2", "LF1", "LF2", "LF2"),
    ("OL1", "OL1", "OL2", "LF1", "LR2", "OL1"),
    ("OL2", "OL2", "OL2", "LF1", "LR2", "LR3"),
    ("OL3", "OL2", "OL2", "LF1", "LF2", "LF2"),
]


@pytest.mark.parametrize("row", PUBLISHED, ids=lambda row: row[0])
def test_every_sequence_leads_where_the_published_table_says(row: tuple[str, ...]) -> None:
    state = LinkState[row[0]]
    sequences = (Sequence.IDLE, Sequence.OLS, Sequence.NOS, Sequence.LR, Sequence.LRR)
    assert [after(state, sequence).name for sequence in sequences] == list(row[1:])


def exchange(one: LinkState, other: LinkState, *, rounds: int = 20) -> tuple[LinkState, LinkState]:
    """Two sides that hear what the other transmits, until nothing changes."""
    for _ in range(rounds):
        before = one, other
        one, other = after(one, TRANSMITS[other]), after(other, TRANSMITS[one])
        if (one, other) == before:
            break
    return one, other


@pytest.mark.parametrize("one", LinkState)
@pytest.mark.parametrize("other", LinkState)
def test_two_sides_come_up_from_whatever_states_they_are_in(one: LinkState, other: LinkState) -> None:
    """All but pairs in which nobody ever says a word that moves the other; a time-out then sends NOS."""
    reached = exchange(one, other)
    if reached != (LinkState.AC, LinkState.AC):
        reached = exchange(after(reached[0], Trouble.TIME_OUT), after(reached[1], Trouble.TIME_OUT))
    assert reached == (LinkState.AC, LinkState.AC)


def test_lost_light_is_a_link_failure_and_an_unanswered_reset_too() -> None:
    assert after(LinkState.AC, Trouble.LOSS_OF_SIGNAL) is LinkState.LF2
    assert after(after(LinkState.AC, Wish.RESET), Trouble.TIME_OUT) is LinkState.LF2


def test_every_state_says_something_and_can_be_left() -> None:
    assert set(TRANSMITS) == set(LinkState)
    for state in LinkState:
        assert any(target is not state for (source, _), target in TRANSITIONS.items() if source is state)
