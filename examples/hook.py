"""A hook for ``sancredit target serve --hook examples/hook.py``: the first R2T of one write in ten is lost, and the
first read of every session is answered with BUSY."""

from __future__ import annotations

from iscsi_target.faults import Action, Drop, busy
from iscsi_target.faults.hook import HookContext
from iscsi_target.faults.wire_pdu import WirePdu
from iscsi_target.wire.opcodes import Opcode

READ_10, READ_16 = 0x28, 0x88
greeted: set[int] = set()


def hook(pdu: WirePdu, context: HookContext) -> Action | None:
    """What is to become of `pdu`; None: nothing out of the ordinary."""
    if pdu.opcode == Opcode.R2T and pdu.number("r2t_sn") == 0 and context.random.random() < 0.1:
        return Drop()
    if (
        pdu.opcode == Opcode.SCSI_COMMAND
        and context.cdb[0] in (READ_10, READ_16)
        and context.tsih not in greeted
    ):
        greeted.add(context.tsih)
        return busy()
    return None
