# SPDX-License-Identifier: Apache-2.0
"""Device servers for the SCSI targets of a simulated fabric."""

from __future__ import annotations

from typing import Any

from fcsim.fabric.variation import SweepRun
from fcsim.fabric.variation import run_one as run_plain
from iscsi_target.scsi.build import target_device
from mgmt.fc.executor import LogicalUnitsExecutor

__all__ = ["device_server", "run_one"]


def device_server(host: str, size_bytes: int) -> LogicalUnitsExecutor:
    """A target's executor: a whole device server over one thin logical unit in memory."""
    return LogicalUnitsExecutor(target_device(f"fc.{host}", [str(size_bytes)]))


def run_one(run: SweepRun) -> dict[str, Any]:
    """One run of a sweep, its SCSI loads included; for the workers of :func:`fcsim.engine.sweep.run_sweep`."""
    return run_plain(run, device_server)
