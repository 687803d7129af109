# SPDX-License-Identifier: Apache-2.0
"""The UNH-IOL iSCSI test lists that our rule tests follow: numbers, and in our own words what each is about.

The numbers are those of the published suites. Where a chapter has several (16.3.1 to 16.3.7) and only its subject is
known to us, the order within the chapter is our reading of it. Where no numbers are known to us, tests carry a word
instead of a number.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True)
class UnhList:
    """One list. `label` stands in docstrings after ``UNH-IOL``."""

    label: str
    title: str
    about: str
    numbers: Mapping[str, str] = field(default_factory=dict)
    """Number to subject; each needs a test or a reason in `not_applicable`."""
    not_applicable: Mapping[str, str] = field(default_factory=dict)
    words: bool = False
    """Tests may also carry a word in place of a number."""


_FFP = {
    "1.1": "CmdSN beyond MaxCmdSN",
    "1.2": "CmdSN before ExpCmdSN",
    "1.3": "closed command window",
    "2.1": "StatSN",
    "3.1": "DataSN",
    "4.1": "R2TSN",
    "5.1": "command retry",
    "6.1": "connection allegiance",
    "7.1": "unsolicited data error: Data-Out",
    "7.2": "unsolicited data error: immediate data",
    "8.1": "Target Transfer Tag: given by the target",
    "8.2": "Target Transfer Tag: wrong one",
    "9.1": "Data-In: status",
    "9.2": "Data-In: F bit",
    "9.3.1": "Data-In: DataSegmentLength within MaxRecvDataSegmentLength",
    "9.3.2": "Data-In: sequence within MaxBurstLength",
    "9.3.3": "Data-In: whole words",
    "9.4": "Data-In: DataSN",
    "9.5": "Data-In: Buffer Offset",
    "10.1": "R2T: offset and desired length",
    "11.1": "task management: immediate, and in its turn",
    "11.2.1": "TASK REASSIGN: not supported",
    "11.2.2": "TASK REASSIGN: no such task",
    "11.2.3": "TASK REASSIGN: still allegiant",
    "11.3.1": "task management response: no such task",
    "11.3.2": "task management response: no such LUN",
    "11.3.3": "task management response: function not supported",
    "11.4": "TARGET WARM RESET",
    "11.5": "TARGET COLD RESET",
    "12.1": "SNACK: error recovery level 0",
    "12.2": "SNACK: data and R2T",
    "12.3": "SNACK: status",
    "12.4": "SNACK: DataACK",
    "13.1": "logout: session",
    "13.2": "logout: connection",
    "13.3": "logout: for recovery",
    "14.1": "Reject: header of the rejected PDU",
    "14.2": "Reject: numbering",
    "14.3": "Reject: other tasks",
    "15.1.1": "NOP-In answer: tags",
    "15.1.2": "NOP-In answer: data",
    "15.1.3": "NOP-In answer: length",
    "15.1.4": "NOP-In answer: immediate NOP-Out",
    "15.1.5": "NOP-In answer: numbered NOP-Out",
    "15.1.6": "NOP-In answer: no data",
    "15.2": "NOP-In: the target's ping",
    "15.3": "NOP: confirmation of ExpCmdSN and ExpStatSN",
    "16.1": "residual underflow",
    "16.2": "residual overflow",
    "16.3.1": "unexpected data: immediate data",
    "16.3.2": "unexpected data: unsolicited Data-Out",
    "16.3.3": "unexpected data: no such task",
    "16.3.4": "unexpected data: fewer than promised",
    "16.3.5": "unexpected data: with a read",
    "16.3.6": "opcode not defined",
    "16.3.7": "opcode of a target, login out of place",
    "16.4.1": "retry: task tag in use",
    "16.4.2": "retry: command under way",
    "16.5": "error detection: sequence and length",
    "17.1.1": "text response: complete",
    "17.1.2": "text response: to be continued",
    "17.2.1": "text: F bit",
    "17.2.2": "text: F with C",
    "17.3.1": "SendTargets: All, discovery session",
    "17.3.2": "SendTargets: All, normal session",
    "17.3.3": "SendTargets: no value",
    "17.3.4": "SendTargets: a name",
    "17.3.5": "SendTargets: an unknown name",
    "17.4.1": "text: unknown keys",
    "17.4.2": "text: other keys",
    "17.5": "text: Initiator Task Tag",
    "17.6": "text: each key once",
    "17.7.1": "text: reset of an exchange",
    "17.7.2": "text: unknown transfer tag",
    "17.7.3": "text: failure",
    "17.8.1": "C bit: answer to continued text",
    "17.8.2": "C bit: continued text as a whole",
    "17.8.3": "C bit: continued answer",
    "18.1.1": "header digest error",
    "18.2.1": "data digest error: Data-Out",
    "18.2.2": "data digest error: requests",
    "19.1": "Expected Data Transfer Length",
}

_ER = {
    "1.1": "inadvertent retry",
    "1.2": "retry after a digest error",
    "2.1": "reassignment of a write after a logout",
    "2.2": "reassignment of a write without a logout",
    "2.3": "reassignment of a read after a logout",
    "2.4": "reassignment after an implicit logout",
    "3.1": "R2T SNACK",
    "3.2": "Data SNACK: one PDU",
    "3.3": "Data SNACK: a run",
    "3.4": "Data SNACK: all",
    "3.5": "Status SNACK: SCSI Response",
}

_INITIATOR = {
    "1.1": "CmdSN goes up by one",
    "2.1": "immediate delivery: requests",
    "2.2": "immediate delivery: task management",
    "3.1": "closed command window",
    "3.2": "large command window",
    "3.3": "command window of one",
    "4.1": "command retry",
    "5.1": "StatSN with a gap",
    "6.1": "DataSN of Data-Out",
    "7.1": "reassignment after a lost connection",
    "8.1": "unsolicited, then solicited data",
    "8.2": "solicited data only",
    "8.3": "unsolicited Data-Out",
    "9.1": "Target Transfer Tag in Data-Out",
    "10.1": "status in Data-In",
    "10.2": "A bit in Data-In",
    "11.1.1": "Data-Out: DataSegmentLength",
    "11.1.2": "Data-In without data",
    "11.2.1": "Data-Out: F bit, unsolicited",
    "11.2.2": "Data-Out: F bit, solicited",
    "11.3": "Data-Out: DataSN anew for each R2T",
    "11.4": "Data-Out: Buffer Offset",
    "12.1": "R2T answered with one PDU",
    "12.2": "R2T answered with several PDUs",
    "12.3": "R2Ts out of order",
    "12.4": "R2Ts of parallel commands",
    "13.1": "SNACK for data that were lost",
    "13.2": "DataACK",
    "14.1": "logout when the target asks for it",
    "14.2": "logout of one connection of several when the target asks for it",
    "15.1": "answer to the target's ping",
    "15.2": "ping",
    "15.3": "confirmation of ExpStatSN",
    "16.1.1": "SCSI Command with immediate data",
    "16.1.2": "SCSI Command without immediate data",
    "16.2.1": "immediate data, InitialR2T=Yes",
    "16.2.2": "no immediate data, InitialR2T=Yes",
    "16.2.3": "no immediate data, InitialR2T=No",
    "16.2.4": "immediate data, InitialR2T=No",
    "16.3.1": "F bit of the SCSI Command",
    "16.4.1": "CHECK CONDITION: CRC error",
    "16.4.2": "SNACK rejected",
    "16.4.3": "CHECK CONDITION: unexpected unsolicited data",
    "16.4.4": "CHECK CONDITION: not enough unsolicited data",
    "16.4.5": "status BUSY",
    "16.4.6": "status RESERVATION CONFLICT",
    "16.5": "MaxCmdSN of a SCSI Response",
    "16.6": "Expected Data Transfer Length",
    "17.1": "logout",
    "18.1": "text request: fields",
    "18.2": "text request: task tag",
    "18.3.1": "text request: first transfer tag",
    "18.3.2": "text request: transfer tag of a continuation",
    "18.4": "text request: other fields",
    "18.5": "text request: a new exchange",
    "19.1": "task management: CmdSN",
    "19.2": "task management: LUN",
    "19.3": "task management: RefCmdSN",
    "19.4.1": "ABORT TASK SET: all tasks of the LUN",
    "19.4.2": "ABORT TASK SET: nothing new meanwhile",
    "19.4.3": "ABORT TASK SET: tasks are over with the response",
    "19.5": "TASK REASSIGN",
    "20.1": "async message: logout wanted",
    "20.2": "async message: connection dropped",
    "20.3": "async message: all connections dropped",
    "20.4": "async message: negotiation wanted",
}

_CHAP_INITIATOR = {
    "1.1": "CHAP_A: valid",
    "1.2.1": "CHAP_A: a number that was not offered",
    "1.2.2": "CHAP_A: no number",
    "1.3": "CHAP_A: out of order",
    "2.1": "CHAP_I: valid",
    "2.2": "CHAP_I: invalid",
    "2.3": "CHAP_I: out of order",
    "2.4": "CHAP_I: the same twice",
    "2.5": "CHAP_I: the initiator's own",
    "2.6": "CHAP_I: another one",
    "3.1": "CHAP_C: big",
    "3.2": "CHAP_C: small",
    "3.3": "CHAP_C: too big",
    "3.4": "CHAP_C: too small",
    "3.5": "CHAP_C: out of order",
    "3.6.1": "CHAP_C: the target's same challenge, at once",
    "3.6.2": "CHAP_C: the target's same challenge, one after the other",
    "3.6.3": "CHAP_C: the initiator's challenges, at once",
    "3.6.4": "CHAP_C: the initiator's challenges, one after the other",
    "3.7": "CHAP_C: not the target's own",
    "3.8": "CHAP_C: reflected by the target",
    "4.1": "CHAP_N: valid",
    "4.2": "CHAP_N: big",
    "4.3": "CHAP_N: small",
    "4.4": "CHAP_N: too big",
    "4.5": "CHAP_N: out of order",
    "4.6": "CHAP_N: the initiator's own",
    "4.7": "CHAP_N: one secret for both",
    "4.8": "CHAP_N: another name, another secret",
    "5.1": "CHAP_R: wrong",
    "5.2": "CHAP_R: too big",
    "5.3": "CHAP_R: too small",
}

_INFORMATIVE = (
    "informative in the suite: the standard asks initiators to make challenges of their own that differ, not to "
    "remember those of targets"
)

LISTS: tuple[UnhList, ...] = (
    UnhList(
        "FFP",
        "Full feature phase, targets",
        "UNH-IOL Full Feature Phase Test Suite for iSCSI Targets, 82 numbers.",
        _FFP,
    ),
    UnhList(
        "ER",
        "Error recovery, targets",
        "UNH-IOL Error Recovery Test Suite for iSCSI Targets; of its later groups (lost and damaged PDUs) we know no "
        "numbers.",
        _ER,
        words=True,
    ),
    UnhList(
        "MC",
        "Several connections, targets",
        "What the UNH-IOL Multi-Connection Test Suite for iSCSI Targets is about; we know no numbers of it.",
        words=True,
    ),
    UnhList(
        "CHAP",
        "CHAP, targets",
        "What the UNH-IOL CHAP Test Suite for iSCSI Targets is about; of its numbers we know the first.",
        {"1.1": "no transition before the proof"},
        words=True,
    ),
    UnhList(
        "FFP-I",
        "Full feature phase, initiators",
        "The mirror: UNH-IOL Full Feature Phase Test Suite for iSCSI Initiators. A scripted target misbehaves; "
        "`iscsi_target.initiator` recovers or fails cleanly.",
        _INITIATOR,
        words=True,
    ),
    UnhList(
        "CHAP-I",
        "Login and CHAP, initiators",
        "UNH-IOL CHAP Test Suite for iSCSI Initiators; the rules of the login carry words of our own.",
        _CHAP_INITIATOR,
        {
            "3.6.1": _INFORMATIVE,
            "3.6.2": _INFORMATIVE,
        },
        words=True,
    ),
)
"""All lists, in the order of the page."""
