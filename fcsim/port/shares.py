"""A sender's credits divided among those who reserved them (spec J.1: what a port-pair reservation is in class 3).

R_RDY does not say which frame it answers. A receiver frees its buffers in the order of the frames as a rule, so the
oldest outstanding frame is the one that is taken to be answered; where that is wrong the shares drift by as much, their
sum never does, and they are right again whenever nothing is outstanding.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Hashable, Mapping

from fcsim.errors import CreditMisuse
from fcsim.port.credit import TransmitCredit


class CreditShares:
    """Who may use which of the credits of one :class:`TransmitCredit`; ``None`` is everybody without a reservation.

    A share may shrink below what it has outstanding: it then waits until enough R_RDYs came.
    """

    __slots__ = ("_credit", "_order", "_outstanding", "_reserved")

    def __init__(self, credit: TransmitCredit) -> None:
        self._credit = credit
        self._reserved: dict[Hashable, int] = {}
        self._outstanding: dict[Hashable, int] = {}
        self._order: deque[Hashable] = deque()

    @property
    def reserved(self) -> Mapping[Hashable, int]:
        """The reserved shares, in credits."""
        return dict(self._reserved)

    def reserve(self, reserved: Mapping[Hashable, int]) -> None:
        """Divide anew. Raises CreditMisuse, and changes nothing, when the shares exceed what was granted."""
        total = sum(reserved.values())
        if any(share < 0 for share in reserved.values()) or total > self._credit.bb_credit:
            raise CreditMisuse(
                f"shares of {total} credits, {self._credit.bb_credit} are granted: a new login is due"
            )
        self._reserved = {who: share for who, share in reserved.items() if who is not None}

    def whose(self, who: Hashable) -> Hashable:
        """The share that ``who`` draws on: its own, or everybody's."""
        return who if who in self._reserved else None

    def outstanding(self, who: Hashable = None) -> int:
        """Frames of a share that no R_RDY has answered yet."""
        return self._outstanding.get(self.whose(who), 0)

    def available(self, who: Hashable = None) -> int:
        """Frames of ``who`` that may be sent now."""
        share = self.whose(who)
        limit = self._reserved[share] if share is not None else self._rest
        return max(min(limit - self._outstanding.get(share, 0), self._credit.available), 0)

    @property
    def _rest(self) -> int:
        if not self._reserved:
            return self._credit.available + self._outstanding.get(None, 0)
        return min(self._credit.bb_credit, self._credit.ceiling) - sum(self._reserved.values())

    def take(self, who: Hashable = None) -> None:
        """One frame of ``who`` leaves. Raises CreditMisuse when its share is used up."""
        if not self.available(who):
            raise CreditMisuse("no credit in this share: the frame has to wait for an R_RDY")
        share = self.whose(who)
        self._credit.take()
        self._outstanding[share] = self._outstanding.get(share, 0) + 1
        self._order.append(share)

    def give(self, count: int = 1) -> int:
        """``count`` R_RDYs came; returns how many freed a credit."""
        freed = self._credit.give(count)
        for _ in range(min(freed, len(self._order))):
            share = self._order.popleft()
            self._outstanding[share] -= 1
            if not self._outstanding[share]:
                del self._outstanding[share]
        return freed

    def reset(self) -> None:
        """A link reset: nothing is outstanding, the shares stay."""
        self._credit.reset()
        self._outstanding.clear()
        self._order.clear()
