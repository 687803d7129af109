"""Buffer-to-buffer credit, both ends of it (FC-FS, buffer-to-buffer flow control; spec J.1, J.2).

The sender of frames holds a count, the receiver holds the buffers. BB_Credit is what the receiver granted at
login, BB_Credit_CNT the frames for which no R_RDY has come back: ``available = BB_Credit - BB_Credit_CNT``.
"""

from __future__ import annotations

from fcsim.errors import CreditMisuse, PeerViolation

#: 16 bits at FLOGI and PLOGI, 32 at ELP; more than this many frame buffers no port has.
BB_CREDIT_LIMIT = 65_535


class TransmitCredit:
    """The sender's side of a link, or of one virtual channel.

    ``bb_credit`` frames may be outstanding. ``ceiling`` is the sender's own, lower limit (a reservation, spec J.2):
    it may change at any time and never exceeds what was granted. With ``alternate`` (alternate BB_Credit
    management, FC-FS) ``bb_credit`` frames may go before any R_RDY, as many R_RDYs are then discarded,
    and every further one is one more frame: with a login value of 0 the receiver's R_RDYs come first.
    """

    __slots__ = ("_alternate", "_discard", "bb_credit", "bb_credit_cnt", "ceiling", "excess_r_rdy")

    def __init__(self, bb_credit: int, *, ceiling: int | None = None, alternate: bool = False) -> None:
        if not 0 <= bb_credit <= BB_CREDIT_LIMIT:
            raise CreditMisuse(f"BB_Credit is 0 to {BB_CREDIT_LIMIT}, not {bb_credit}")
        self._alternate = alternate
        self._discard = bb_credit if alternate else 0
        self.bb_credit = bb_credit
        self.bb_credit_cnt = 0
        self.excess_r_rdy = 0
        """R_RDYs that came while nothing was outstanding; they add nothing (spec J.2)."""
        self.ceiling = bb_credit
        if ceiling is not None:
            self.set_ceiling(ceiling)

    @property
    def available(self) -> int:
        """Frames that may be sent now."""
        limit = self.bb_credit if self._alternate else min(self.bb_credit, self.ceiling)
        return max(limit - self.bb_credit_cnt, 0)

    def set_ceiling(self, ceiling: int) -> None:
        """The sender's own limit. Raises CreditMisuse beyond the granted value: that takes a new login."""
        if not 0 <= ceiling <= self.bb_credit:
            raise CreditMisuse(f"the ceiling is 0 to the granted {self.bb_credit}, not {ceiling}")
        self.ceiling = ceiling

    def take(self) -> None:
        """One frame leaves. Raises CreditMisuse when there is no credit."""
        if not self.available:
            raise CreditMisuse("no credit: the frame has to wait for an R_RDY")
        self.bb_credit_cnt += 1

    def give(self, count: int = 1) -> int:
        """``count`` R_RDYs came; returns how many freed a credit. More than are outstanding add nothing."""
        if self._discard:
            discarded = min(self._discard, count)
            self._discard -= discarded
            count -= discarded
        if self._alternate:
            room = BB_CREDIT_LIMIT - (self.bb_credit - self.bb_credit_cnt)
            freed = min(count, room)
        else:
            freed = min(count, self.bb_credit_cnt)
        self.bb_credit_cnt -= freed
        self.excess_r_rdy += count - freed
        return freed

    def reset(self) -> None:
        """A link reset restores the login value (FC-FS, link reset)."""
        self.bb_credit_cnt = 0
        self._discard = self.bb_credit if self._alternate else 0


class ReceiveBuffer:
    """One occupied receive buffer: a token that gives back its R_RDY exactly once."""

    __slots__ = ("_owner", "vc")

    def __init__(self, owner: ReceiveBuffers, vc: int | None) -> None:
        self._owner: ReceiveBuffers | None = owner
        self.vc = vc

    @property
    def occupied(self) -> bool:
        """False once it is released, or taken away by a link reset."""
        return self._owner is not None and self in self._owner.occupied

    def release(self) -> bool:
        """The buffer is free. True: an R_RDY is due; False: a link reset has given the credit back already.

        Raises CreditMisuse the second time.
        """
        owner, self._owner = self._owner, None
        if owner is None:
            raise CreditMisuse("this receive buffer was released before: one frame, one R_RDY")
        return owner.released(self)


class ReceiveBuffers:
    """The receiver's side: ``bb_credit`` buffers, granted at login."""

    __slots__ = ("bb_credit", "occupied", "vc")

    def __init__(self, bb_credit: int, vc: int | None = None) -> None:
        if not 0 <= bb_credit <= BB_CREDIT_LIMIT:
            raise CreditMisuse(f"BB_Credit is 0 to {BB_CREDIT_LIMIT}, not {bb_credit}")
        self.bb_credit = bb_credit
        self.vc = vc
        self.occupied: set[ReceiveBuffer] = set()

    @property
    def remaining(self) -> int:
        """Buffers that no frame occupies."""
        return self.bb_credit - len(self.occupied)

    def occupy(self) -> ReceiveBuffer:
        """A frame arrived. Raises PeerViolation when the peer sent more than it was granted."""
        if not self.remaining:
            raise PeerViolation(f"a frame beyond the {self.bb_credit} credits that were granted")
        buffer = ReceiveBuffer(self, self.vc)
        self.occupied.add(buffer)
        return buffer

    def released(self, buffer: ReceiveBuffer) -> bool:
        """Whether ``buffer`` was still counted; called by :meth:`ReceiveBuffer.release`."""
        if buffer not in self.occupied:
            return False
        self.occupied.remove(buffer)
        return True

    def reset(self) -> None:
        """A link reset: every buffer counts as free, and what occupied one owes no R_RDY any more."""
        self.occupied.clear()


class EndToEndCredit:
    """EE_Credit of one pair of N_Ports, classes 1, 2 and F (FC-FS, end-to-end flow control; switches take no part).

    ACK_1 answers one data frame; ACK_0 answers a whole sequence and uses no end-to-end credit.
    """

    __slots__ = ("ack_0", "ee_credit", "ee_credit_cnt", "excess_acks")

    def __init__(self, ee_credit: int, *, ack_0: bool = False) -> None:
        if not 0 <= ee_credit <= BB_CREDIT_LIMIT:
            raise CreditMisuse(f"EE_Credit is 0 to {BB_CREDIT_LIMIT}, not {ee_credit}")
        self.ee_credit = ee_credit
        self.ack_0 = ack_0
        self.ee_credit_cnt = 0
        self.excess_acks = 0

    @property
    def available(self) -> int | None:
        """Data frames that may be sent now; None: any number (ACK_0)."""
        return None if self.ack_0 else self.ee_credit - self.ee_credit_cnt

    def take(self) -> None:
        """One data frame leaves. Raises CreditMisuse when there is no credit."""
        if self.ack_0:
            return
        if self.ee_credit_cnt >= self.ee_credit:
            raise CreditMisuse("no end-to-end credit: the frame has to wait for an ACK_1")
        self.ee_credit_cnt += 1

    def ack_1(self) -> None:
        """An ACK_1 came; one for which no frame is outstanding adds nothing."""
        if self.ee_credit_cnt:
            self.ee_credit_cnt -= 1
        else:
            self.excess_acks += 1

    def reset(self) -> None:
        """Logout, or a new login: nothing is outstanding."""
        self.ee_credit_cnt = 0
