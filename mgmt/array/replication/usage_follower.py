"""Connections of a copy that keep as many units as they use, inside their reservation (paragraphs 8 and 51, GAP-17).

The conventional technique that the document builds on, at work inside a reservation: each connection's average usage is
judged period by period; above the upper rate its allocation grows, below the lower rate it shrinks, from one unit up to
the reservation. What one gives back the others may take.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Mapping
from dataclasses import replace

from credits.errors import Refused
from credits.targets import Target
from credits.usage import UsagePolicy, UsageRateController
from mgmt.array.replication.job import Slot
from mgmt.array.replication.transport import CopyLink, LinkLost

_log = logging.getLogger(__name__)

#: Looks at the usage in one period.
_LOOKS = 8


class UsageFollower:
    """Follows the links of one copy until it is cancelled; lives on the data loop.

    ``links`` are those that are up; ``reserved_units`` the size of a target's reservation. Links whose units came from
    the free list are left alone.
    """

    def __init__(
        self,
        policy: UsagePolicy,
        links: Callable[[], Mapping[Slot, CopyLink]],
        reserved_units: Callable[[Target], int],
        clock: Callable[[], int],
    ) -> None:
        self._policy = policy
        self._links = links
        self._reserved_units = reserved_units
        self._clock = clock
        self._controllers: dict[Slot, UsageRateController] = {}

    async def run(self) -> None:
        """Look, and resize what is due, again and again."""
        while True:
            await asyncio.sleep(self._policy.period_ns / _LOOKS / 1e9)
            due = self.look()
            # Those that shrink first: the others may grow by what they give back.
            for slot in sorted(due, key=lambda one: due[one] - self._units(one)):
                await self._resize(slot, due[slot])

    def look(self) -> dict[Slot, int]:
        """Tell the controllers what is in use now; the sizes that they want changed, in units."""
        now_ns, links = self._clock(), self._links()
        for gone in self._controllers.keys() - links.keys():
            del self._controllers[gone]
        due = {}
        for slot, link in links.items():
            target = link.allocation.target
            most = 0 if target is None else self._reserved_units(target)
            if not most:
                continue
            controller = self._controllers.get(slot)
            if controller is None or controller.policy.max_units != most:
                policy = replace(self._policy, max_units=most, min_units=min(self._policy.min_units, most))
                controller = self._controllers[slot] = UsageRateController(
                    policy, link.allocation.units, now_ns
                )
            held = link.allocation
            unit_bytes = held.bytes // held.units
            controller.receive(-(-link.traffic().in_flight_bytes // unit_bytes), now_ns)
            if now_ns >= controller.next_deadline():
                controller.size_units = link.allocation.units  # others may have resized it meanwhile
                wanted = controller.handle_timer(now_ns)
                if wanted != link.allocation.units:
                    due[slot] = wanted
        return due

    def _units(self, slot: Slot) -> int:
        link = self._links().get(slot)
        return 0 if link is None else link.allocation.units

    async def _resize(self, slot: Slot, units: int) -> None:
        link = self._links().get(slot)
        if link is None:
            return
        try:
            await link.resize(units)
        except Refused as refusal:  # as far as the reservation has units that nobody else holds
            rest = refusal.shortage.grantable_units if refusal.shortage else 0
            if rest > 0:
                await self._resize(slot, link.allocation.units + rest)
        except LinkLost as lost:
            _log.debug("%s: %s", slot, lost)
