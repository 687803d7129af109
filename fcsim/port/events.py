"""What happened at a port, in the past tense."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum
from typing import Generic, TypeVar

from fcsim.port.credit import ReceiveBuffer
from fcsim.port.link_state import LinkState

F = TypeVar("F")


class Discard(Enum):
    """Why a frame was dropped."""

    HOLD_TIME = "it waited longer than the hold time (class 3 discard)"
    LINK_DOWN = "the link is not active"
    LINK_RESET = "a link reset emptied the queue"
    OVERRUN = "it came without credit"
    BAD_CRC = "its CRC was wrong; its buffer is free again"
    QUEUE_FULL = "more frames wait than the port may hold"


@dataclass(frozen=True, slots=True)
class FrameArrived(Generic[F]):
    """A frame occupies a receive buffer until ``buffer.release()`` through :meth:`Port.release`."""

    frame: F
    buffer: ReceiveBuffer


@dataclass(frozen=True, slots=True)
class FrameDiscarded(Generic[F]):
    """A frame is gone."""

    frame: F
    reason: Discard


@dataclass(frozen=True, slots=True)
class LinkChanged:
    """The link went from one state to another."""

    before: LinkState
    after: LinkState


@dataclass(frozen=True, slots=True)
class CreditLost:
    """No credit of ``vc`` came back for ``waited_ps``: the port resets the link."""

    vc: int | None
    waited_ps: int


@dataclass(frozen=True, slots=True)
class CreditRecovered:
    """BB_SC recovery brought back the credits of so many lost frames or lost R_RDYs."""

    frames: int = 0
    r_rdys: int = 0


@dataclass(frozen=True, slots=True)
class PeerViolated:
    """The peer broke a rule; the text says which."""

    text: str


Event = FrameArrived[F] | FrameDiscarded[F] | LinkChanged | CreditLost | CreditRecovered | PeerViolated
