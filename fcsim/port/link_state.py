"""The port state machine of a link: initialisation, reset, failure, offline (FC-FS-5 table 22).

A table ``(state, input) -> state``; where it has no row the state stays. Rows for primitive sequences are the
published table's; those of :class:`Wish` and :class:`Trouble` are FC-FS's link reset,
offline and link failure protocols.
"""

from __future__ import annotations

from collections.abc import Mapping
from enum import Enum

from fcsim.port.signals import Sequence


class LinkState(Enum):
    """The states, spelled as the standard does."""

    AC = "Active"
    LR1 = "LR Transmit"
    LR2 = "LR Receive"
    LR3 = "LRR Receive"
    LF1 = "NOS Receive"
    LF2 = "NOS Transmit"
    OL1 = "OLS Transmit"
    OL2 = "OLS Receive"
    OL3 = "Wait for OLS"


class Wish(Enum):
    """What this side wants."""

    RESET = "link reset"
    OFFLINE = "go offline: OLS until the other side answers with LR"


class Trouble(Enum):
    """What befalls the link."""

    LOSS_OF_SIGNAL = "loss of signal, or of synchronisation for longer than R_T_TOV"
    TIME_OUT = "no answer within R_T_TOV"


Input = Sequence | Wish | Trouble

TRANSMITS: Mapping[LinkState, Sequence] = {
    LinkState.AC: Sequence.IDLE,
    LinkState.LR1: Sequence.LR,
    LinkState.LR2: Sequence.LRR,
    LinkState.LR3: Sequence.IDLE,
    LinkState.LF1: Sequence.OLS,
    LinkState.LF2: Sequence.NOS,
    LinkState.OL1: Sequence.OLS,
    LinkState.OL2: Sequence.LR,
    LinkState.OL3: Sequence.NOS,
}
"""What a port sends for as long as it is in a state."""

#: Sequences count after so many words in a row.
RECOGNISED_AFTER_WORDS = 3
#: Idles that go before the first frame of the active state.
IDLES_ON_ACTIVE = 6
R_T_TOV_PS = 100_000_000_000
"""Receiver-transmitter time-out, 100 ms: the patience for an answer to LR, NOS and OLS."""


def _rows() -> dict[tuple[LinkState, Input], LinkState]:
    rows: dict[tuple[LinkState, Input], LinkState] = {}
    offline = (LinkState.OL1, LinkState.OL2, LinkState.OL3)
    for state in LinkState:
        rows[state, Sequence.OLS] = LinkState.OL2
        rows[state, Sequence.NOS] = LinkState.LF1
        failed = state in (LinkState.OL3, LinkState.LF2)
        rows[state, Sequence.LR] = LinkState.LF2 if failed else LinkState.LR2
        if state not in (LinkState.LF1, LinkState.LF2, LinkState.OL1, LinkState.AC):
            rows[state, Sequence.LRR] = LinkState.LF2 if state is LinkState.OL3 else LinkState.LR3
        rows[state, Trouble.LOSS_OF_SIGNAL] = LinkState.OL3 if state in offline else LinkState.LF2
        rows[state, Wish.OFFLINE] = LinkState.OL1
    rows[LinkState.LR2, Sequence.IDLE] = LinkState.AC
    rows[LinkState.LR3, Sequence.IDLE] = LinkState.AC
    rows[LinkState.OL3, Sequence.IDLE] = LinkState.OL2
    rows[LinkState.AC, Wish.RESET] = LinkState.LR1
    for waiting in (LinkState.LR1, LinkState.LR2, LinkState.LR3, LinkState.LF1, LinkState.OL2):
        rows[waiting, Trouble.TIME_OUT] = LinkState.LF2
    return rows


TRANSITIONS: Mapping[tuple[LinkState, Input], LinkState] = _rows()


def after(state: LinkState, happened: Input) -> LinkState:
    """The state after an input; the same one where the table has no row."""
    return TRANSITIONS.get((state, happened), state)


def waits_for_answer(state: LinkState) -> bool:
    """True in the states that R_T_TOV bounds."""
    return (state, Trouble.TIME_OUT) in TRANSITIONS
