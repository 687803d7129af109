"""Buffer-to-buffer credit recovery with BB_SC_N (FC-FS, BB_Credit recovery; worked examples in FOS' admin guide).

Every 2^N frames the sender of frames marks the boundary with BB_SCs, every 2^N R_RDYs their sender marks it with
BB_SCr. Who receives the mark knows from its own count, modulo 2^N, how many were lost. 2^N lost in one window, or a
multiple of it, look like none: that takes a link reset.
"""

from __future__ import annotations

from fcsim.errors import CreditMisuse

BB_SC_N_LIMIT = 15


def negotiated(mine: int, peers: int) -> int:
    """BB_SC_N of a link: the larger of the two, 0 (off) when either side has none."""
    for value in (mine, peers):
        if not 0 <= value <= BB_SC_N_LIMIT:
            raise CreditMisuse(f"BB_SC_N is 0 to {BB_SC_N_LIMIT}, not {value}")
    return max(mine, peers) if mine and peers else 0


class CreditRecovery:
    """The four counters of one port; ``bb_sc_n`` 0 switches recovery off."""

    __slots__ = (
        "_window",
        "bb_frm_n",
        "bb_rdy_n",
        "bb_sc_n",
        "frames_recovered",
        "frames_sent",
        "r_rdys_recovered",
        "r_rdys_sent",
    )

    def __init__(self, bb_sc_n: int) -> None:
        if not 0 <= bb_sc_n <= BB_SC_N_LIMIT:
            raise CreditMisuse(f"BB_SC_N is 0 to {BB_SC_N_LIMIT}, not {bb_sc_n}")
        self.bb_sc_n = bb_sc_n
        self._window = 1 << bb_sc_n if bb_sc_n else 0
        self.frames_recovered = 0
        """Credits of lost frames that we gave back with extra R_RDYs."""
        self.r_rdys_recovered = 0
        """Credits of lost R_RDYs that we took back."""
        self.reset()

    def reset(self) -> None:
        """A link reset, or a new login, clears the counters; the totals of what was recovered stay."""
        self.frames_sent = self.r_rdys_sent = 0
        self.bb_frm_n = self.bb_rdy_n = 0

    def frame_sent(self) -> bool:
        """Count a frame that leaves; True: a BB_SCs is due after it."""
        if not self._window:
            return False
        self.frames_sent += 1
        if self.frames_sent < self._window:
            return False
        self.frames_sent = 0
        return True

    def r_rdy_sent(self) -> bool:
        """Count an R_RDY that leaves; True: a BB_SCr is due after it."""
        if not self._window:
            return False
        self.r_rdys_sent += 1
        if self.r_rdys_sent < self._window:
            return False
        self.r_rdys_sent = 0
        return True

    def frame_received(self) -> None:
        """Count a frame that arrived, BB_FRM_N."""
        if self._window:
            self.bb_frm_n = (self.bb_frm_n + 1) % self._window

    def r_rdy_received(self, count: int = 1) -> None:
        """Count R_RDYs that arrived, BB_RDY_N."""
        if self._window:
            self.bb_rdy_n = (self.bb_rdy_n + count) % self._window

    def bb_scs_received(self) -> int:
        """A boundary of frames: so many were lost, as many extra R_RDYs are due. 0 while recovery is off."""
        if not self._window:
            return 0
        lost = (self._window - self.bb_frm_n) % self._window
        self.bb_frm_n = 0
        self.frames_recovered += lost
        return lost

    def bb_scr_received(self) -> int:
        """A boundary of R_RDYs: so many were lost, as many credits come back. 0 while recovery is off."""
        if not self._window:
            return 0
        lost = (self._window - self.bb_rdy_n) % self._window
        self.bb_rdy_n = 0
        self.r_rdys_recovered += lost
        return lost
