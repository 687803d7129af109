# SPDX-License-Identifier: Apache-2.0
"""Code points of the frame header (FC-FS) in the standard's words. Values that no table names are kept as they are."""

from __future__ import annotations

import enum
from typing import Self

__all__ = [
    "UNASSIGNED_X_ID",
    "AckForm",
    "DfCtl",
    "FCtl",
    "FcType",
    "OpenCode",
    "RCtl",
    "WellKnownAddress",
    "domain_controller",
]

UNASSIGNED_X_ID = 0xFFFF
"""An OX_ID or RX_ID that has no value yet."""


class OpenCode(enum.IntEnum):
    """An IntEnum in which any other non-negative number stands for itself: ``RCtl(0x99).name == '0x99'``."""

    @classmethod
    def _missing_(cls, value: object) -> Self | None:
        if not isinstance(value, int) or value < 0:
            return None
        member = int.__new__(cls, value)
        member._name_ = f"{value:#04x}"
        member._value_ = value
        return member


class RCtl(OpenCode):
    """R_CTL: routing and information category (FC-FS frame header, word 0)."""

    UNCATEGORIZED = 0x00
    SOLICITED_DATA = 0x01
    UNSOLICITED_CONTROL = 0x02
    SOLICITED_CONTROL = 0x03
    UNSOLICITED_DATA = 0x04
    DATA_DESCRIPTOR = 0x05
    UNSOLICITED_COMMAND = 0x06
    COMMAND_STATUS = 0x07
    ELS_REQUEST = 0x22
    ELS_REPLY = 0x23
    FC4_LINK_REQUEST = 0x32
    FC4_LINK_REPLY = 0x33
    VFT_HEADER = 0x50
    IFR_HEADER = 0x51
    ENC_HEADER = 0x52
    NOP = 0x80
    ABTS = 0x81
    RMC = 0x82
    BA_ACC = 0x84
    BA_RJT = 0x85
    PRMT = 0x86
    ACK_1 = 0xC0
    ACK_0 = 0xC1
    P_RJT = 0xC2
    F_RJT = 0xC3
    P_BSY = 0xC4
    F_BSY_DATA = 0xC5
    F_BSY_LINK_CONTROL = 0xC6
    LCR = 0xC7
    NTY = 0xC8
    END = 0xC9


class FcType(OpenCode):
    """TYPE: what the data field carries (FC-FS frame header, word 2)."""

    BLS = 0x00
    ELS = 0x01
    LLC_SNAP = 0x04
    IP = 0x05
    FCP = 0x08
    SB_TO_CU = 0x1B
    SB_FROM_CU = 0x1C
    FC_CT = 0x20
    SW_ILS = 0x22
    AL = 0x23
    SNMP = 0x24
    NVME = 0x28


class FCtl(enum.IntFlag, boundary=enum.KEEP):
    """F_CTL: the 24 bits of frame control (FC-FS frame header, word 2). Fields of two bits have their mask."""

    EXCHANGE_RESPONDER = 1 << 23
    SEQUENCE_RECIPIENT = 1 << 22
    FIRST_SEQUENCE = 1 << 21
    LAST_SEQUENCE = 1 << 20
    END_SEQUENCE = 1 << 19
    END_CONNECTION = 1 << 18
    PRIORITY_ENABLE = 1 << 17
    SEQUENCE_INITIATIVE = 1 << 16
    X_ID_REASSIGNED = 1 << 15
    INVALIDATE_X_ID = 1 << 14
    ACK_FORM_MASK = 3 << 12
    RETRANSMITTED_SEQUENCE = 1 << 9
    UNIDIRECTIONAL_TRANSMIT = 1 << 8
    CONTINUE_SEQUENCE_MASK = 3 << 6
    ABORT_SEQUENCE_MASK = 3 << 4
    RELATIVE_OFFSET_PRESENT = 1 << 3
    FILL_BYTES_MASK = 3


class AckForm(enum.IntEnum):
    """ACK form, F_CTL bits 13 and 12."""

    NO_ASSISTANCE = 0
    ACK_1_REQUIRED = 1
    ACK_N_REQUIRED = 2
    ACK_0_REQUIRED = 3


class DfCtl(enum.IntFlag, boundary=enum.KEEP):
    """DF_CTL: which optional headers begin the data field (FC-FS frame header, word 3)."""

    ESP_HEADER = 0x40
    NETWORK_HEADER = 0x20
    ASSOCIATION_HEADER = 0x10
    DEVICE_HEADER_MASK = 0x03


class WellKnownAddress(OpenCode):
    """Well-known address identifiers (FC-FS)."""

    MULTICAST_SERVER = 0xFFFFF5
    CLOCK_SYNCHRONIZATION_SERVER = 0xFFFFF6
    SECURITY_KEY_DISTRIBUTION_SERVER = 0xFFFFF7
    ALIAS_SERVER = 0xFFFFF8
    QUALITY_OF_SERVICE_FACILITATOR = 0xFFFFF9
    MANAGEMENT_SERVER = 0xFFFFFA
    TIME_SERVER = 0xFFFFFB
    DIRECTORY_SERVER = 0xFFFFFC
    FABRIC_CONTROLLER = 0xFFFFFD
    F_PORT_CONTROLLER = 0xFFFFFE
    BROADCAST = 0xFFFFFF


def domain_controller(domain_id: int) -> int:
    """The address FFFCdd of the domain controller of a switch. Raises ValueError for no domain ID (1 to 239)."""
    if not 1 <= domain_id <= 239:
        raise ValueError(f"a domain ID is 1 to 239, not {domain_id}")
    return 0xFFFC00 | domain_id
