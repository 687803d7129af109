# SPDX-License-Identifier: Apache-2.0
"""What an access list shows of a target device: the LUN maps that go with its rules."""

from __future__ import annotations

from collections.abc import Iterable

from iscsi_target.scsi.target_device import LunMap
from iscsi_target.session.access import AccessList


def lun_maps(access: AccessList, luns: Iterable[int]) -> dict[str, LunMap]:
    """The `lun_maps` of a :class:`~iscsi_target.scsi.target_device.TargetDevice` that has `luns`, for the sessions that
    a target with this access list admits."""
    every = tuple(luns)
    maps = {}
    for rule in access.rules:
        if rule.masks:
            seen = dict(rule.luns) if rule.luns is not None else {lun: lun for lun in every}
            reading = frozenset(seen) if rule.read_only else rule.read_only_luns
            maps[access.view_of(rule)] = LunMap(seen, reading)
    return maps
