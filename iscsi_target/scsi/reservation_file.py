# SPDX-License-Identifier: Apache-2.0
"""Where persistent reservations survive a power loss (APTPL, SPC-4 5.12.5): a small shell around one JSON file."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, Protocol

from iscsi_target.scsi.durable_file import read_json, replace_file
from iscsi_target.scsi.errors import StoreError
from iscsi_target.scsi.reservations import MAX_REGISTRATIONS, Reservation, ReservationState, ReservationType
from iscsi_target.scsi.unit_attention import Nexus

_FORMAT = 1
_MAX_FILE_BYTES = 1 << 20


class ReservationMemory(Protocol):
    """Remembers the reservations of one logical unit."""

    def load(self) -> ReservationState | None:
        """What was saved last, or None."""
        ...

    def save(self, state: ReservationState) -> None:
        """Durable when this returns; StoreError when it cannot be."""
        ...


class ReservationFile:
    """One JSON file, replaced as a whole: written beside, synced, renamed, and its directory synced."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def load(self) -> ReservationState | None:
        """Read the file; StoreError when it is damaged or of a newer format, so that no reservation is lost unseen."""
        try:
            document = read_json(self.path, _MAX_FILE_BYTES, _FORMAT)
            return None if document is None else _decode(document)
        except OSError as error:
            raise StoreError(f"cannot read reservations from {self.path}: {error.strerror}") from None
        except (ValueError, LookupError, TypeError, RecursionError) as error:
            raise StoreError(f"{self.path} holds no reservations this version can read: {error}") from None

    def save(self, state: ReservationState) -> None:
        """Replace the file."""
        try:
            replace_file(self.path, json.dumps(_encode(state)))
        except OSError as error:
            raise StoreError(f"cannot save reservations to {self.path}: {error.strerror}") from None


def _encode(state: ReservationState) -> dict[str, object]:
    held = state.reservation
    return {
        "format": _FORMAT,
        "registrations": [
            {"initiator_port": nexus.initiator_port, "target_port": nexus.target_port, "key": f"{key:016x}"}
            for nexus, key in state.registrations
        ],
        "reservation": None
        if held is None
        else {"type": int(held.kind), "holder": None if held.holder is None else list(held.holder)},
    }


def _decode(document: dict[str, Any]) -> ReservationState:
    registrations = tuple(
        (Nexus(str(row["initiator_port"]), int(row["target_port"])), int(row["key"], 16))
        for row in document["registrations"]
    )
    if len(registrations) > MAX_REGISTRATIONS:
        raise ValueError("too many registrations")
    held = document["reservation"]
    reservation = None
    if held is not None:
        holder = held["holder"]
        reservation = Reservation(
            ReservationType(held["type"]), None if holder is None else Nexus(str(holder[0]), int(holder[1]))
        )
    return ReservationState(registrations, reservation, aptpl=True)
