"""The read models that the control API serves, as JSON-ready rows (shapes of design/cli.md)."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import asdict
from typing import Any

from mgmt.array.cache.memory import CacheMemory
from mgmt.array.interface import CommunicationInterface
from mgmt.array.replication.engine import Progress
from mgmt.copy_rows import copy_row
from mgmt.messages import CopyStatus, to_plain

Row = dict[str, Any]


def pools(
    array: str, interfaces: Iterable[CommunicationInterface], credit_zero: Mapping[str, float]
) -> list[Row]:
    """A row for each interface's pool, all of it in units; ``held_units`` are those reserved idle that are in holds.

    ``credit_zero`` has, by FC interface with a link, the share of time without a credit to send with.
    """
    return [_pool(array, interface, credit_zero.get(interface.name)) for interface in interfaces]


def _pool(array: str, interface: CommunicationInterface, credit_zero: float | None) -> Row:
    statistics = interface.pool.statistics()
    return {
        "array": array,
        "interface": interface.name,
        "kind": statistics.kind.value,
        "unit_bytes": statistics.unit_bytes,
        "total_units": statistics.total_units,
        "free_units": statistics.free_units,
        "reserved_idle_units": statistics.reserved_idle_units,
        "in_use_units": statistics.in_use_units,
        "draining_units": statistics.draining_units,
        "expandable_units": statistics.expandable_units,
        "held_units": statistics.held_units,
        "degraded_units": statistics.degraded_units,
        "credit_zero_percent": None if credit_zero is None else round(100 * credit_zero, 1),
        "revision": statistics.revision,
    }


def reservations(array: str, interfaces: Iterable[CommunicationInterface]) -> list[Row]:
    """Table 101."""
    return [_row(array, one, row) for one in interfaces for row in one.pool.reservation_table()]


def allocations(array: str, interfaces: Iterable[CommunicationInterface]) -> list[Row]:
    """Table 109."""
    return [_row(array, one, row) for one in interfaces for row in one.pool.allocation_table()]


def buffer_ids(array: str, interfaces: Iterable[CommunicationInterface]) -> list[Row]:
    """Table 1500."""
    return [{"array": array} | to_plain(row) for one in interfaces for row in one.pool.buffer_id_table()]


def cache(array: str, memory: CacheMemory | None) -> list[Row]:
    """The cache memory 102, where there is one; ``failing`` the disks that take nothing of it, and why."""
    if memory is None:
        return []
    return [{"array": array} | asdict(memory.statistics()) | {"failing": memory.failing()}]


def copies(array: str, known: Iterable[tuple[CopyStatus, Progress | None]]) -> list[Row]:
    """Remote copies; those of earlier runs of the array have no links."""
    return [_copy(array, status, progress) for status, progress in known]


def _copy(array: str, status: CopyStatus, progress: Progress | None) -> Row:
    links = () if progress is None else progress.links
    return copy_row(array, status) | {
        "max_in_flight_bytes": None if progress is None else progress.max_in_flight_bytes,
        "links": [
            {"session": slot.session, "connection": slot.connection} | asdict(traffic)
            for slot, traffic in links
        ],
    }


def _row(array: str, interface: CommunicationInterface, row: Any) -> Row:
    plain: Row = {"array": array, "interface": interface.name, "kind": interface.kind.value, "target": None}
    return plain | dict(to_plain(row))
