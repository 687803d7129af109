"""The read models that the control API serves, as JSON-ready rows (shapes of design/cli.md)."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import asdict
from typing import Any

from mgmt.array.interface import CommunicationInterface
from mgmt.array.replication.engine import Progress
from mgmt.copy_rows import copy_row
from mgmt.messages import CopyStatus, to_plain

Row = dict[str, Any]


def pools(array: str, interface: CommunicationInterface) -> list[Row]:
    """One row: the interface's pool, all of it in units; ``held_units`` are those reserved idle that are in holds."""
    statistics = interface.pool.statistics()
    return [
        {
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
            "revision": statistics.revision,
        }
    ]


def reservations(array: str, interface: CommunicationInterface) -> list[Row]:
    """Table 101."""
    return [_row(array, interface, row) for row in interface.pool.reservation_table()]


def allocations(array: str, interface: CommunicationInterface) -> list[Row]:
    """Table 109."""
    return [_row(array, interface, row) for row in interface.pool.allocation_table()]


def buffer_ids(array: str, interface: CommunicationInterface) -> list[Row]:
    """Table 1500."""
    return [{"array": array} | to_plain(row) for row in interface.pool.buffer_id_table()]


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
    plain: Row = {"array": array, "interface": interface.name, "target": None} | to_plain(row)
    return plain
