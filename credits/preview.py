"""What would happen if: the same code, run on a copy, and the difference (never a second set of rules)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from credits.errors import InvalidRequest, Refused
from credits.results import PoolStatistics
from credits.tables import ReservationRow
from credits.verbs import Request, Result

if TYPE_CHECKING:
    from credits.pool import Pool


@dataclass(frozen=True, slots=True, kw_only=True)
class Preview:
    """The difference that some requests would make.

    ``outcomes`` has the answer or the refusal of each request, in order. ``changed`` pairs each row of table 101
    that differs as it is and as it would be; ``None`` for a row that is not there.
    """

    outcomes: tuple[Result | Refused | InvalidRequest, ...]
    before: PoolStatistics
    after: PoolStatistics
    changed: tuple[tuple[ReservationRow | None, ReservationRow | None], ...]


def preview(twin: Pool, requests: Sequence[Request], now_ns: int) -> Preview:
    """Carry ``requests`` out on ``twin``, a copy of a pool (:meth:`credits.pool.Pool.twin`), and compare."""
    before, rows_before = twin.statistics(), {row.target: row for row in twin.reservation_table()}
    outcomes: list[Result | Refused | InvalidRequest] = []
    for request in requests:
        try:
            outcomes.append(twin.carry_out_now(request, now_ns))
        except (Refused, InvalidRequest) as refusal:
            outcomes.append(refusal)
    rows_after = {row.target: row for row in twin.reservation_table()}
    changed = tuple(
        (rows_before.get(target), rows_after.get(target))
        for target in dict.fromkeys((*rows_before, *rows_after))
        if rows_before.get(target) != rows_after.get(target)
    )
    return Preview(outcomes=tuple(outcomes), before=before, after=twin.statistics(), changed=changed)
