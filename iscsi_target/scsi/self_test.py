# SPDX-License-Identifier: Apache-2.0
"""SEND DIAGNOSTIC (SPC-4 6.42), of which a disk must have the default self-test (SBC-3 table 17)."""

from __future__ import annotations

from typing import NamedTuple

from iscsi_target.executor import ScsiResult
from iscsi_target.scsi.errors import check, invalid_field_in_cdb
from iscsi_target.scsi.layout import CdbLayout, bits, control, flag, opcode, reserved
from iscsi_target.scsi.medium import not_ready
from iscsi_target.scsi.operation import DISK_ONLY, GOOD, Access, Operation, Task, Traits


class SendDiagnostic(NamedTuple):
    """Fields of the SEND DIAGNOSTIC CDB; DEVOFFL and UNITOFFL only give leave, of which no use is made."""

    self_test_code: int
    self_test: int
    parameter_list_length: int


SEND_DIAGNOSTIC = CdbLayout(
    SendDiagnostic,
    opcode(0x1D),
    bits("self_test_code", 3),
    reserved(2),
    flag("self_test"),
    reserved(2),
    reserved(8),
    bits("parameter_list_length", 16),
    control(),
)

_SAMPLE_BYTES = 4096


def send_diagnostic(task: Task, cdb: SendDiagnostic) -> ScsiResult:
    """The default self-test reads the beginning of the medium; there are no diagnostic pages and no other tests."""
    unit = task.unit
    if cdb.self_test_code:
        raise invalid_field_in_cdb(1, 7)
    if cdb.parameter_list_length:
        raise invalid_field_in_cdb(3)
    if cdb.self_test:
        why = not_ready(unit)
        if why is not None:
            raise check(why)
        unit.store.read(0, min(_SAMPLE_BYTES, unit.blocks * unit.block_length))
    return GOOD


OPERATIONS = (
    Operation(
        "SEND DIAGNOSTIC",
        SEND_DIAGNOSTIC,
        send_diagnostic,
        Traits.STORE | Traits.STANDBY,
        Access.WRITE,
        device_types=DISK_ONLY,
    ),
)
