# SPDX-License-Identifier: Apache-2.0
"""Code points of the extended link services (FC-LS) in the standard's words."""

from __future__ import annotations

from fcsim.wire.codes import OpenCode

__all__ = ["ElsCommand", "RejectExplanation", "RejectReason"]


class ElsCommand(OpenCode):
    """LS_Command codes (FC-LS, extended link services)."""

    LS_RJT = 0x01
    LS_ACC = 0x02
    PLOGI = 0x03
    FLOGI = 0x04
    LOGO = 0x05
    ABTX = 0x06
    RES = 0x08
    RSS = 0x09
    ESTS = 0x0B
    ESTC = 0x0C
    ADVC = 0x0D
    RTV = 0x0E
    RLS = 0x0F
    ECHO = 0x10
    TEST = 0x11
    RRQ = 0x12
    REC = 0x13
    SRR = 0x14
    FPIN = 0x16
    EDC = 0x17
    RDP = 0x18
    RDF = 0x19
    PRLI = 0x20
    PRLO = 0x21
    SCN = 0x22
    TPLS = 0x23
    TPRLO = 0x24
    PDISC = 0x50
    FDISC = 0x51
    ADISC = 0x52
    FARP_REQ = 0x54
    FARP_REPLY = 0x55
    RPS = 0x56
    RPL = 0x57
    FAN = 0x60
    RSCN = 0x61
    SCR = 0x62
    RNFT = 0x63
    RNID = 0x78
    RLIR = 0x79
    LIRR = 0x7A
    EVFP = 0x7F
    LKA = 0x80
    AUTH_ELS = 0x90


class RejectReason(OpenCode):
    """Reason codes of LS_RJT (FC-LS, LS_RJT)."""

    INVALID_COMMAND = 0x01
    LOGICAL_ERROR = 0x03
    LOGICAL_BUSY = 0x05
    PROTOCOL_ERROR = 0x07
    UNABLE_TO_PERFORM = 0x09
    COMMAND_NOT_SUPPORTED = 0x0B
    COMMAND_IN_PROGRESS = 0x0E
    FIP_ERROR = 0x20
    VENDOR_SPECIFIC = 0xFF


class RejectExplanation(OpenCode):
    """Reason explanations of LS_RJT (FC-LS, LS_RJT)."""

    NONE = 0x00
    SERVICE_PARAMETER_OPTIONS = 0x01
    SERVICE_PARAMETER_INITIATOR_CONTROL = 0x03
    SERVICE_PARAMETER_RECIPIENT_CONTROL = 0x05
    SERVICE_PARAMETER_RECEIVE_SIZE = 0x07
    SERVICE_PARAMETER_CONCURRENT_SEQUENCES = 0x09
    SERVICE_PARAMETER_CREDIT = 0x0B
    INVALID_PORT_NAME = 0x0D
    INVALID_NODE_NAME = 0x0E
    INVALID_COMMON_SERVICE_PARAMETERS = 0x0F
    INVALID_ASSOCIATION_HEADER = 0x11
    ASSOCIATION_HEADER_REQUIRED = 0x13
    INVALID_ORIGINATOR_S_ID = 0x15
    INVALID_OX_ID_RX_ID = 0x17
    REQUEST_IN_PROGRESS = 0x19
    N_PORT_LOGIN_REQUIRED = 0x1E
    INVALID_N_PORT_ID = 0x1F
    INSUFFICIENT_RESOURCES = 0x29
    UNABLE_TO_SUPPLY_DATA = 0x2A
    REQUEST_NOT_SUPPORTED = 0x2C
    INVALID_PAYLOAD_LENGTH = 0x2D
    NOT_NEIGHBOR = 0x62
