"""What crosses a link between frames, by meaning (FC-FS, ordered sets; the words themselves are the wire's)."""

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
    """Primitive signals of buffer-to-buffer state change (FC-FS, BB_Credit recovery)."""

    BB_SCS = "a boundary of frames sent"
    BB_SCR = "a boundary of R_RDYs sent"


@dataclass(frozen=True, slots=True)
class Ready:
    """``count`` R_RDYs, or VC_RDYs of virtual channel ``vc``: so many receive buffers are free again."""

    count: int = 1
    vc: int | None = None


Signal = Sequence | Mark | Ready
"""Everything but a frame."""
