# SPDX-License-Identifier: Apache-2.0
"""SCSI over Fibre Channel, both ends: exchanges in frames, sans-IO (FCP-4).

CDBs stay bytes: a target hands CDB, LUN and data to a :class:`~fcsim.fcp.executor.ScsiExecutor` of its caller.
"""
