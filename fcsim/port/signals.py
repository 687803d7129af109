"""What crosses a link between frames, by meaning (FC-FS-5 clause 5.3; the words themselves are the wire's)."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum


class Sequence(Enum):
    """Primitive sequences and the idle word: sent until the other side answers, known after three in a row."""

    IDLE = "IDLE"
    NOS = "Not Operational"
    OLS = "Offline"
    LR = "Link Reset"
    LRR = "Link Reset Response"


class Mark(Enum):
    """Primitive signals of buffer-to-buffer state change (FC-FS-5 19.4.9, FC-FS-2 18.5.11)."""

    BB_SCS = "a boundary of frames sent"
    BB_SCR = "a boundary of R_RDYs sent"


@dataclass(frozen=True, slots=True)
class Ready:
    """``count`` R_RDYs, or VC_RDYs of virtual channel ``vc``: so many receive buffers are free again."""

    count: int = 1
    vc: int | None = None


Signal = Sequence | Mark | Ready
"""Everything but a frame."""
