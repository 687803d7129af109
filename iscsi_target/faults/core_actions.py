# SPDX-License-Identifier: Apache-2.0
"""One action done to one PDU: its verdict filled in, and what the protocol core does itself, with the right numbers."""

from __future__ import annotations

from functools import partial
from random import Random
from typing import TYPE_CHECKING

from iscsi_target.faults.actions import (
    Action,
    Answer,
    Async,
    Close,
    Corrupt,
    Delay,
    Drop,
    Duplicate,
    Latency,
    MediumError,
    Rate,
    Redirect,
    Reject,
    Renumber,
    Reorder,
    Sense,
    Truncate,
    Window,
)
from iscsi_target.faults.edits import edited, said
from iscsi_target.faults.quantities import format_time
from iscsi_target.faults.sense_data import fixed_sense_data
from iscsi_target.faults.verdict import Verdict
from iscsi_target.faults.wire_pdu import WirePdu
from iscsi_target.session.target_connection import TargetConnection
from iscsi_target.session.target_output import Phase
from iscsi_target.wire.codec import encode_pdu
from iscsi_target.wire.framing import Frame
from iscsi_target.wire.lun import lun_to_bytes
from iscsi_target.wire.opcodes import BHS_BYTES, AsyncEvent, LoginStatus, Opcode, RejectReason
from iscsi_target.wire.responses import LoginResponse
from iscsi_target.wire.text import encode_text

if TYPE_CHECKING:
    from iscsi_target.faults.connection_filter import ConnectionFilter, PduSubject

_UNNUMBERED = frozenset({Opcode.DATA_OUT, Opcode.SNACK_REQUEST, Opcode.LOGIN_REQUEST})
_LOGOUT_WITHIN_S = 10
_EMPTY = memoryview(b"")


def apply(
    owner: ConnectionFilter,
    subject: PduSubject,
    verdict: Verdict,
    action: Action,
    name: str,
    random: Random,
    now_ns: int,
) -> None:
    """Do the action to the PDU of the verdict."""
    fate = said(action)
    match action:
        case Drop():
            verdict.drop = True
        case Duplicate(copies):
            verdict.copies = min(verdict.copies + copies, 1000)
        case Delay(delay, overtake):
            delay_ns = delay.draw_ns(random)
            verdict.delay_ns += delay_ns
            verdict.overtaken = verdict.overtaken or overtake
            fate = f"delayed {format_time(delay_ns)}"
        case Reorder(behind, within_ns):
            verdict.behind, verdict.within_ns = behind, within_ns
        case Truncate() | Corrupt() | Renumber() | Window():
            before = verdict.pdu
            if len(before.raw) < BHS_BYTES:
                return  # a rule before this one left no header to work on
            verdict.pdu = edited(action, before, random)
            if isinstance(action, Window) and verdict.pdu is not before:
                owner.narrowed.again(owner.rules, now_ns)
        case Close(how, pass_first):
            verdict.closing = how
            verdict.drop = verdict.drop or not pass_first
        case Redirect():
            verdict.drop = True
            verdict.closing = "close"
            owner.forge(_moved(verdict.pdu, action), f"rule {name}: {fate}")
        case Reject(reason):
            verdict.drop = True
            verdict.steps.append(partial(_reject, owner, verdict.pdu, reason, name))
        case Async():
            verdict.steps.append(partial(send_async, owner.core, action, subject.lun))
        case Answer() | Sense() | MediumError() | Latency() | Rate():
            return
    verdict.say(name, fate)


def _moved(request: WirePdu, action: Redirect) -> bytes:
    """A Login Response that sends the initiator elsewhere (RFC 7143 section 11.13.5)."""
    status = (
        LoginStatus.TARGET_MOVED_PERMANENTLY if action.permanent else LoginStatus.TARGET_MOVED_TEMPORARILY
    )
    cmd_sn = request.number("cmd_sn") or 0
    return encode_pdu(
        LoginResponse(
            csg=request.number("csg") or 0,
            isid=request.raw[8:14],
            initiator_task_tag=request.initiator_task_tag,
            stat_sn=request.number("exp_stat_sn") or 0,
            exp_cmd_sn=cmd_sn,
            max_cmd_sn=cmd_sn,
            status_class=status >> 8,
            status_detail=status & 0xFF,
            data=encode_text([("TargetAddress", action.address)]),
        )
    )


def _reject(owner: ConnectionFilter, pdu: WirePdu, reason: RejectReason, name: str) -> None:
    core = owner.core
    session = core.session
    if session is None or not owner.full_feature:
        return
    if pdu.opcode not in _UNNUMBERED and not pdu.immediate and reason is not RejectReason.DATA_DIGEST_ERROR:
        session.plug(pdu.number("cmd_sn") or 0)
    core.reject(Frame(pdu.raw, 0, _EMPTY, _EMPTY), reason, f"fault rule {name}")


def send_async(core: TargetConnection, action: Async, lun: int | None) -> None:
    """Send an Asynchronous Message on a connection in full-feature phase, and do what it says; else nothing."""
    session = core.session
    if session is None or core.phase is not Phase.FULL_FEATURE:
        return
    wait_s, retain_s = session.agreed.default_time2wait, session.agreed.default_time2retain
    parameters = action.parameters
    lun_field, data = bytes(8), b""
    match action.event:
        case AsyncEvent.SCSI_EVENT:
            sense = fixed_sense_data(action.sense_key, action.asc, action.ascq)
            data = len(sense).to_bytes(2, "big") + sense
            lun_field = lun_to_bytes(lun or 0)
        case AsyncEvent.LOGOUT_REQUESTED | AsyncEvent.NEGOTIATION_REQUESTED:
            parameters = parameters or (0, 0, _LOGOUT_WITHIN_S)
        case AsyncEvent.CONNECTION_DROPPED:
            parameters = parameters or (core.cid, wait_s, retain_s)
        case AsyncEvent.SESSION_DROPPED:
            parameters = parameters or (0, wait_s, retain_s)
        case _:
            pass
    core.send_async(action.event, parameters=parameters or (0, 0, 0), lun_field=lun_field, data=data)
    match action.event:
        case AsyncEvent.CONNECTION_DROPPED:
            core.fail("the target said so in an asynchronous message")
        case AsyncEvent.SESSION_DROPPED:
            session.end("the target said so in an asynchronous message")
        case AsyncEvent.TASKS_TERMINATED:
            for task in list(session.tasks.values()):
                session.drop_task(task)
        case _:
            pass
