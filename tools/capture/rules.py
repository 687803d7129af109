"""What a capture is checked for, rule by rule with its clause; and what a violation looks like."""

from __future__ import annotations

import enum
from dataclasses import dataclass


class Rule(enum.IntEnum):
    """Rules by number, as the kernel counts them."""

    CMD_SN_ORDER = 0
    CMD_SN_WINDOW = 1
    EXP_STAT_SN = 2
    TASK_TAG_IN_USE = 3
    IMMEDIATE_DATA = 4
    FIRST_BURST = 5
    UNSOLICITED_DATA = 6
    DATA_OUT_SN = 7
    DATA_OUT_OFFSET = 8
    DATA_OUT_BEYOND = 9
    DATA_SEGMENT_LENGTH = 10
    STAT_SN = 11
    MAX_CMD_SN = 12
    DATA_IN_SN = 13
    DATA_IN_OFFSET = 14
    DATA_IN_BEYOND = 15
    R2T_SN = 16
    R2T_LENGTH = 17
    R2T_BEYOND = 18
    R2T_OUTSTANDING = 19
    UNKNOWN_TASK = 20
    MISSING_DATA = 21
    EXP_DATA_SN = 22
    SEQ_CNT = 23
    RELATIVE_OFFSET = 24
    XFER_RDY_BEYOND = 25
    UNKNOWN_EXCHANGE = 26
    EXCHANGE_IN_USE = 27
    FCP_DATA_BEYOND = 28
    FCP_RESIDUAL = 29


RULES: dict[Rule, tuple[str, str]] = {
    Rule.CMD_SN_ORDER: ("CmdSN goes back or leaves a hole on the only connection", "RFC 7143 4.2.2.1"),
    Rule.CMD_SN_WINDOW: ("CmdSN is beyond MaxCmdSN", "RFC 7143 4.2.2.1"),
    Rule.EXP_STAT_SN: ("ExpStatSN is beyond what the target has sent", "RFC 7143 4.2.2.2"),
    Rule.TASK_TAG_IN_USE: ("the initiator task tag is in use", "RFC 7143 11.2.1.8"),
    Rule.IMMEDIATE_DATA: ("immediate data although ImmediateData=No", "RFC 7143 13.11"),
    Rule.FIRST_BURST: ("unsolicited data beyond FirstBurstLength", "RFC 7143 13.14"),
    Rule.UNSOLICITED_DATA: ("unsolicited Data-Out although InitialR2T=Yes", "RFC 7143 13.10"),
    Rule.DATA_OUT_SN: ("DataSN of a Data-Out is not the next", "RFC 7143 11.7.5"),
    Rule.DATA_OUT_OFFSET: ("a Data-Out leaves a hole or overlaps", "RFC 7143 11.7.6"),
    Rule.DATA_OUT_BEYOND: ("a Data-Out reaches beyond what was asked for", "RFC 7143 11.8.4"),
    Rule.DATA_SEGMENT_LENGTH: (
        "a data segment is longer than the receiver's MaxRecvDataSegmentLength",
        "RFC 7143 13.12",
    ),
    Rule.STAT_SN: ("StatSN is not the next", "RFC 7143 4.2.2.2"),
    Rule.MAX_CMD_SN: ("MaxCmdSN is less than ExpCmdSN - 1", "RFC 7143 4.2.2.1"),
    Rule.DATA_IN_SN: ("DataSN of a Data-In is not the next", "RFC 7143 11.7.5"),
    Rule.DATA_IN_OFFSET: ("a Data-In leaves a hole or overlaps", "RFC 7143 11.7.6"),
    Rule.DATA_IN_BEYOND: ("Data-In beyond the expected data transfer length", "RFC 7143 11.7"),
    Rule.R2T_SN: ("R2TSN is not the next", "RFC 7143 11.8.3"),
    Rule.R2T_LENGTH: ("an R2T asks for nothing or for more than MaxBurstLength", "RFC 7143 11.8.4"),
    Rule.R2T_BEYOND: ("an R2T reaches beyond the expected data transfer length", "RFC 7143 11.8.4"),
    Rule.R2T_OUTSTANDING: ("more R2Ts outstanding than MaxOutstandingR2T", "RFC 7143 13.17"),
    Rule.UNKNOWN_TASK: ("a PDU of a task that is not there", "RFC 7143 11.2.1.8"),
    Rule.MISSING_DATA: ("good status before all solicited data came", "RFC 7143 11.8"),
    Rule.EXP_DATA_SN: ("ExpDataSN is not the number of Data-In PDUs and R2Ts", "RFC 7143 11.4.8"),
    Rule.SEQ_CNT: ("SEQ_CNT of a sequence is not the next", "FC-FS, SEQ_CNT"),
    Rule.RELATIVE_OFFSET: ("FCP_DATA leaves a hole or overlaps", "FCP-4, FCP_DATA"),
    Rule.XFER_RDY_BEYOND: ("FCP_XFER_RDY reaches beyond FCP_DL", "FCP-4, FCP_XFER_RDY"),
    Rule.UNKNOWN_EXCHANGE: (
        "data or a response of an exchange that is not there",
        "FCP-4, FCP_DATA and FCP_RSP",
    ),
    Rule.EXCHANGE_IN_USE: ("the OX_ID is in use", "FC-FS, OX_ID"),
    Rule.FCP_DATA_BEYOND: ("FCP_DATA beyond FCP_DL, or beyond what was asked for", "FCP-4, FCP_DATA"),
    Rule.FCP_RESIDUAL: ("good status, no residual, and less data than FCP_DL", "FCP-4, FCP_RSP"),
}
assert set(RULES) == set(Rule)


@dataclass(frozen=True, slots=True)
class Violation:
    """One rule broken by one connection or pair of addresses: how often, and where first."""

    flow: int
    rule: Rule
    count: int
    packet: int

    @property
    def text(self) -> str:
        """What is wrong."""
        return RULES[self.rule][0]

    @property
    def clause(self) -> str:
        """Where it is written."""
        return RULES[self.rule][1]
