# SPDX-License-Identifier: Apache-2.0
"""The SCSI device server behind the iSCSI target: SPC-4, SBC-3 and a little MMC, sans-IO except the stores.

::

    target_device.py   one SCSI target device: LUN map, I_T nexuses, masking       (implements executor.LogicalUnits)
    device_server.py   one logical unit's commands: admission, dispatch
    logical_unit.py    one logical unit's state; nothing is global
    opcode_table.py    every command once: CDB layout, handler, properties   (REPORT SUPPORTED OPERATION CODES too)
    layout.py, sense.py, unit_attention.py
    inquiry.py, mode.py, medium.py, read_write.py, ...   the families of commands
    sanitize_job.py    an operation that outlives its command, resets and the process
    reservation_file.py, sanitize_file.py                what outlives the process
    stores/            where the blocks live: memory, file, block device, null, snapshot
"""
