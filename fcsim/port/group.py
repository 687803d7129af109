"""A port group's frame buffers as a pool of the shared core: reserved at the receiving side, granted at login.

A credit is a receive buffer at the neighbour and, at the sender, the right to one more frame (spec J.1). So the
reservation stands in the receiver's :class:`credits.Pool`, the login carries the sum to the sender as BB_Credit, and
the sender divides it (:meth:`fcsim.port.port.Port.reserve`). Until the next login the sum cannot grow.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from credits import (
    Allocation,
    Code,
    DurablePool,
    InvalidRequest,
    Pool,
    Refused,
    ReleaseResult,
    ReserveResult,
    Target,
    TargetKind,
    UnitKind,
    UpdateResult,
)

#: What an F_Port offers without being asked (FOS portCfgFPortBuffers).
DEFAULT_CREDITS = 8

Pair = tuple[str, str]


@dataclass(frozen=True, slots=True)
class LinkCredits:
    """What the last login of a link granted the remote port, in credits."""

    local_port: str
    remote_port: str
    bb_credit: int
    """The value that goes into FLOGI, PLOGI or ELP."""
    unreserved: int
    """Of them, for frames without a reservation."""
    shares: Mapping[Target, int]
    """The reservations as they are now, cut where the grant does not cover them yet."""
    relogin_required: bool
    """A reservation has grown, or another unreserved part was wanted, beyond what the login granted."""


class PortGroup:
    """One port group (one ASIC's buffer pool), receiving side. Ports are named by WWPN.

    Raises what the pool raises, and :class:`credits.Refused` with RELOGIN_REQUIRED for growth beyond a login.
    """

    def __init__(self, pool: Pool | DurablePool) -> None:
        if pool.config.kind is not UnitKind.FC:
            raise InvalidRequest(Code.INVALID_SIZE, f"{pool.config.name} is no pool of credits")
        self.pool = pool
        self._logins: dict[Pair, tuple[int, Allocation | None]] = {}

    def log_in(self, local_port: str, remote_port: str, unreserved: int = DEFAULT_CREDITS) -> LinkCredits:
        """A login, or a new one: sets ``unreserved`` buffers aside and grants them together with all reservations
        of the pair; 0 where it has reservations and nothing else is to be sent. A refusal (NO_MEMORY) leaves the login
        before it as it was."""
        pair = local_port, remote_port
        reserved = sum(self._reserved(pair).values())
        if not unreserved and not reserved:
            raise Refused(
                Code.NO_MEMORY, f"{remote_port} has no reservation: its login needs an unreserved credit"
            )
        allocation = self._logins[pair][1] if pair in self._logins else None
        held = 0 if allocation is None else allocation.units
        if allocation is None:
            if unreserved:
                holder = f"login of {remote_port} at {local_port}"
                allocation = self.pool.allocate((), unreserved, holder=holder)
        elif not unreserved:
            self.pool.free(allocation)
            allocation = None
        elif unreserved > held:
            self.pool.grow(allocation, unreserved - held)
        elif unreserved < held:
            self.pool.free(allocation, held - unreserved)
        self._logins[pair] = unreserved + reserved, allocation
        return self.link(local_port, remote_port)

    def log_out(self, local_port: str, remote_port: str) -> None:
        """The link is gone; its reservations stay for the next login."""
        login = self._logins.pop((local_port, remote_port), None)
        if login is not None and login[1] is not None:
            self.pool.free(login[1])

    def link(self, local_port: str, remote_port: str) -> LinkCredits:
        """The credits of a link. Raises :class:`credits.Refused` (NOT_RESERVED) when nobody is logged in."""
        pair = local_port, remote_port
        if pair not in self._logins:
            raise Refused(Code.NOT_RESERVED, f"{remote_port} is not logged in at {local_port}")
        granted, allocation = self._logins[pair]
        unreserved = 0 if allocation is None else allocation.units
        wanted = self._reserved(pair)
        left, shares = granted - unreserved, {}
        for target, credits in wanted.items():
            shares[target] = min(credits, left)
            left -= shares[target]
        short = sum(wanted.values()) + unreserved > granted
        return LinkCredits(local_port, remote_port, granted, unreserved, shares, short)

    def reserve(
        self, target: Target, credits: int, *, request_id: str, now_ns: int, relogin: bool = False
    ) -> ReserveResult:
        """Reserve credits of the pool for a port pair, a pair and FC-4 TYPE or virtual channel, or one login.

        On a link that is up the sum may not exceed what its login granted, unless the caller is ready to log in
        again (``relogin``): the shares then grow with the next :meth:`log_in`.
        """
        if not relogin:
            self.check_granted(target, credits)
        return self.pool.reserve(
            target, credits * self.pool.config.unit_bytes, request_id=request_id, now_ns=now_ns
        )

    def update(
        self, target: Target, credits: int, *, request_id: str, now_ns: int, relogin: bool = False
    ) -> UpdateResult:
        """Bring a reservation to a new number of credits, within the grant or with a new login to come."""
        if not relogin:
            self.check_granted(target, credits)
        return self.pool.update(
            target, credits * self.pool.config.unit_bytes, request_id=request_id, now_ns=now_ns
        )

    def release(self, target: Target, *, request_id: str, now_ns: int) -> ReleaseResult:
        """Give a reservation up."""
        return self.pool.release(target, request_id=request_id, now_ns=now_ns)

    def check_granted(self, target: Target, credits: int) -> None:
        """Raises :class:`credits.Refused` (RELOGIN_REQUIRED) where so many credits for ``target`` are beyond what the
        login of its link has granted; a pair that nobody is logged in for may have what the pool has."""
        issued = {row.buffer_id: (row.local_port, row.remote_port) for row in self.pool.buffer_id_table()}
        pair = self._pair_of(target, issued)
        if pair is None or pair not in self._logins:
            return
        granted, allocation = self._logins[pair]
        reserved = self._reserved(pair)
        others = sum(units for other, units in reserved.items() if other != target)
        others += 0 if allocation is None else allocation.units
        if others + credits > granted:
            raise Refused(
                Code.RELOGIN_REQUIRED,
                f"{credits} credits and the {others} of others are more than the {granted} that {pair[1]} was granted "
                "at its login; ask again with a new login (--relogin)",
            )

    # -- inside -------------------------------------------------------------------------------------------------

    def _reserved(self, pair: Pair) -> dict[Target, int]:
        issued = {row.buffer_id: (row.local_port, row.remote_port) for row in self.pool.buffer_id_table()}
        return {
            row.target: row.reserved_units
            for row in self.pool.reservation_table()
            if row.reserved_units and self._pair_of(row.target, issued) == pair
        }

    def _pair_of(self, target: Target, issued: Mapping[int, Pair]) -> Pair | None:
        if target.local_port is not None and target.remote_port is not None:
            return target.local_port, target.remote_port
        if target.kind is TargetKind.CONNECTION and target.buffer_id is not None:
            return issued.get(target.buffer_id)
        return None
