# SPDX-License-Identifier: Apache-2.0
"""The actions that change one PDU's bytes, and what each action says of itself. Pure functions."""

from __future__ import annotations

from random import Random

from iscsi_target.faults.actions import (
    Action,
    Async,
    Close,
    Corrupt,
    Delay,
    Drop,
    Duplicate,
    Part,
    Redirect,
    Reject,
    Renumber,
    Reorder,
    Truncate,
    Window,
)
from iscsi_target.faults.matching import Direction
from iscsi_target.faults.wire_pdu import WirePdu
from iscsi_target.session.serial import before
from iscsi_target.wire.opcodes import BHS_BYTES, Opcode

_MASK = 0xFFFFFFFF


def can_act_on(action: Action, pdu: WirePdu, direction: Direction, *, full_feature: bool) -> bool:
    """Whether the PDU has what the action acts on: a digest to corrupt, data to cut, a window to shrink."""
    match action:
        case Truncate(keep_bytes, adjust):
            return (pdu.data_bytes if adjust else len(pdu.raw)) > keep_bytes
        case Corrupt(Part.DATA):
            return pdu.data_bytes > 0
        case Corrupt(Part.HEADER_DIGEST | Part.DATA_DIGEST as part):
            return pdu.has_digest(of_header=part is Part.HEADER_DIGEST)
        case Renumber(field):
            return pdu.number(field) is not None
        case Window():
            return direction is Direction.TO_INITIATOR and pdu.number("max_cmd_sn") is not None
        case Redirect():
            return direction is Direction.TO_TARGET and pdu.opcode == Opcode.LOGIN_REQUEST
        case Reject():
            return direction is Direction.TO_TARGET and full_feature
        case Async():
            return full_feature
        case _:
            return True


def edited(action: Truncate | Corrupt | Renumber | Window, pdu: WirePdu, random: Random) -> WirePdu:
    """The PDU as the action leaves it."""
    match action:
        case Truncate(keep_bytes, True):
            return pdu.with_data(pdu.data[:keep_bytes])
        case Truncate(keep_bytes):
            return WirePdu(pdu.raw[:keep_bytes], header_digest=pdu.header_digest, data_digest=pdu.data_digest)
        case Corrupt():
            return _corrupted(action, pdu, random)
        case Renumber(field, add, value):
            old = pdu.number(field)
            return pdu if old is None else pdu.with_number(field, old + add if value is None else value)
        case Window(commands):
            return _narrowed(pdu, commands)


def _corrupted(action: Corrupt, pdu: WirePdu, random: Random) -> WirePdu:
    match action.part:
        case Part.HEADER:
            size = BHS_BYTES + pdu.ahs_bytes
            return pdu.with_header_bits_flipped(_bits(action, size, random), recompute=action.recompute)
        case Part.DATA:
            bits = _bits(action, pdu.data_bytes, random)
            return pdu.with_data_bits_flipped(bits, recompute=action.recompute)
        case Part.HEADER_DIGEST | Part.DATA_DIGEST as part:
            return pdu.with_digest_bits_flipped(
                _bits(action, 4, random), of_header=part is Part.HEADER_DIGEST
            )


def _bits(action: Corrupt, size_bytes: int, random: Random) -> tuple[int, ...]:
    if action.bits:
        return action.bits
    count = min(action.random_bits, size_bytes * 8)
    return tuple(random.sample(range(size_bytes * 8), count))


def _narrowed(pdu: WirePdu, commands: int) -> WirePdu:
    exp_cmd_sn, max_cmd_sn = pdu.number("exp_cmd_sn"), pdu.number("max_cmd_sn")
    if exp_cmd_sn is None or max_cmd_sn is None:
        return pdu
    narrow = (exp_cmd_sn + commands - 1) & _MASK
    return pdu.with_number("max_cmd_sn", narrow) if before(narrow, max_cmd_sn) else pdu


def said(action: Action) -> str:
    """What became of a PDU, in the past tense, for the log."""
    match action:
        case Drop():
            return "dropped"
        case Duplicate(copies):
            return f"duplicated {copies} times" if copies > 1 else "duplicated"
        case Delay():
            return "delayed"
        case Reorder(behind):
            return f"put behind the next {behind}" if behind > 1 else "put behind the next"
        case Truncate(keep_bytes, adjust):
            return f"cut to {keep_bytes} B{' of data' if adjust else ''}"
        case Corrupt(part):
            return f"{part.value} corrupted"
        case Renumber(field):
            return f"{field} changed"
        case Window(commands):
            return f"window of {commands}" if commands else "window closed"
        case Redirect(address):
            return f"redirected to {address}"
        case Close(how):
            return {"close": "connection closed", "half-close": "connection half-closed"}.get(
                how, "connection reset"
            )
        case Reject(reason):
            return f"rejected ({reason.name.lower().replace('_', ' ')})"
        case Async(event):
            return f"async message ({event.name.lower().replace('_', ' ')})"
        case _:
            return type(action).__name__.lower()
