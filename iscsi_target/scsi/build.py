# SPDX-License-Identifier: Apache-2.0
"""From descriptions to a target device, in one call."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack

from iscsi_target.scsi.logical_unit import LogicalUnit, LogicalUnitConfig, derive_identity
from iscsi_target.scsi.stores.description import open_store
from iscsi_target.scsi.target_device import TargetDevice


def target_device(
    target_name: str, luns: Sequence[str], config: LogicalUnitConfig | None = None
) -> TargetDevice:
    """A target with LUNs 0, 1, … from descriptions ("64MiB", "null:1GiB", a path), all with one configuration.

    Raises StoreError or InvalidConfiguration, with everything closed that was open by then.
    """
    config = config or LogicalUnitConfig()
    with ExitStack() as opened:
        units = {}
        for lun, description in enumerate(luns):
            store = open_store(description, read_only=config.read_only)
            opened.callback(store.close)
            units[lun] = LogicalUnit(store, derive_identity(target_name, lun), config)
        device = TargetDevice(target_name, units)
        opened.pop_all()
    return device
