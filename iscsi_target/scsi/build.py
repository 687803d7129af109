# SPDX-License-Identifier: Apache-2.0
"""From descriptions to a target device, in one call."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path

from iscsi_target.scsi.logical_unit import LogicalUnit, LogicalUnitConfig, derive_identity
from iscsi_target.scsi.reservation_file import ReservationFile
from iscsi_target.scsi.sanitize_file import SanitizeFile
from iscsi_target.scsi.stores.description import open_store
from iscsi_target.scsi.target_device import TargetDevice


def target_device(
    target_name: str,
    luns: Sequence[str],
    config: LogicalUnitConfig | None = None,
    *,
    direct: bool = False,
    target_ports: Sequence[int] = (1,),
    reservations: Path | None = None,
) -> TargetDevice:
    """A target with LUNs 0, 1, … from descriptions ("64MiB", "null:1GiB", "snapshot:PATH", a path).

    All have one configuration. `target_ports` are the portal group tags. `reservations` is a directory in which each
    unit keeps its persistent reservations and a SANITIZE that is not done through a power loss; without it APTPL is
    refused. Raises StoreError or InvalidConfiguration, with everything closed that was open by then.
    """
    config = config or LogicalUnitConfig()
    with ExitStack() as opened:
        units = {}
        for lun, description in enumerate(luns):
            store = open_store(description, read_only=config.read_only, direct=direct)
            opened.callback(store.close)
            identity = derive_identity(target_name, lun)
            memory = (
                None if reservations is None else ReservationFile(reservations / f"{identity.serial}.json")
            )
            sanitizing = (
                None
                if reservations is None
                else SanitizeFile(reservations / f"{identity.serial}.sanitize.json")
            )
            units[lun] = LogicalUnit(
                store, identity, config, reservation_memory=memory, sanitize_memory=sanitizing
            )
        device = TargetDevice(target_name, units, target_ports=target_ports)
        opened.pop_all()
    return device
