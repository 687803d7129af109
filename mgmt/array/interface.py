"""A communication interface 208: its pool 100, information acquisition 210 and buffer control 215 (spec B).

The pool is thread-safe: reserving, which waits for the journal, is done on control threads; the data loop
allocates and frees.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from credits.allocation import Allocation
from credits.config import UnitKind
from credits.durable import DurablePool
from credits.targets import Target
from mgmt.array.buffer_control import BufferControl, Check
from mgmt.array.information import InformationAcquisition


class CommunicationInterface:
    """One interface: ``acquisition`` (210), ``control`` (215) and the units that remote copy allocates.

    ``clock`` is the pool's monotonic clock in nanoseconds; ``run`` tells this run of the array from its earlier ones;
    ``check`` is the protocol's say in the size of a reservation. ``address`` is its port's: an IP address, or a WWPN.
    """

    def __init__(
        self,
        name: str,
        pool: DurablePool,
        clock: Callable[[], int],
        *,
        run: str | None = None,
        address: str = "",
        check: Check | None = None,
    ) -> None:
        self.name = name
        self.pool = pool
        self.address = address
        self.acquisition = InformationAcquisition(pool)
        if check is None:
            self.control = BufferControl(pool, clock, run=run)
        else:
            self.control = BufferControl(pool, clock, run=run, check=check)
        self.information = self.acquisition.information
        self.reserved_units = self.acquisition.reserved_units
        self.reserve = self.control.reserve
        self.hold = self.control.hold
        self.confirm = self.control.confirm
        self.void = self.control.void
        self.update = self.control.update
        self.enlarge = self.control.enlarge
        self.preview = self.control.preview
        self.release = self.control.release

    @property
    def kind(self) -> UnitKind:
        """What a unit is."""
        return self.pool.config.kind

    @property
    def unit_bytes(self) -> int:
        """Size of a memory buffer, or of a frame."""
        return self.pool.config.unit_bytes

    # -- what remote copy asks for ---------------------------------------------------------------------------

    def allocate(self, claims: Sequence[Target], units: int, *, holder: str, at_most: bool) -> Allocation:
        """M8 (step 814; figure 8)."""
        return self.pool.allocate(claims, units, holder=holder, at_most=at_most)

    def reserved_bytes(self, claims: Sequence[Target]) -> int:
        """Bytes of the reservation that would serve ``claims``; 0 when there is none."""
        return self.reserved_units(claims) * self.unit_bytes

    def idle_buffer_id(self, local_port: str, remote_port: str) -> int | None:
        """The lowest buffer ID of the port pair without a live allocation, for who names none (INC-15)."""
        used = {row.target.buffer_id for row in self.pool.allocation_table() if row.target is not None}
        of_the_pair = (
            row.buffer_id
            for row in self.pool.buffer_id_table()
            if (row.local_port, row.remote_port) == (local_port, remote_port)
        )
        return min((buffer_id for buffer_id in of_the_pair if buffer_id not in used), default=None)
