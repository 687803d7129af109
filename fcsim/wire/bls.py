# SPDX-License-Identifier: Apache-2.0
"""Basic link services and link control (FC-FS): BA_ACC, BA_RJT, and what P_RJT, F_RJT and busy frames say.

ABTS and the ACKs are a frame header alone.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from construct import Int8ub, Int16ub, Padding, Struct

from fcsim.errors import MalformedFrame
from fcsim.wire.codes import OpenCode, RCtl
from fcsim.wire.derive import Buffer, derive
from fcsim.wire.layout import Coded

__all__ = ["BaAcc", "BaRjt", "BaRjtReason", "LinkReject", "LinkRejectReason", "decode_bls"]

SEQ_ID_VALID = 0x80


class BaRjtReason(OpenCode):
    """Reason codes of BA_RJT (FC-FS, BA_RJT)."""

    INVALID_COMMAND = 0x01
    LOGICAL_ERROR = 0x03
    LOGICAL_BUSY = 0x05
    PROTOCOL_ERROR = 0x07
    UNABLE_TO_PERFORM = 0x09
    VENDOR_SPECIFIC = 0xFF


class LinkRejectReason(OpenCode):
    """Reason codes of P_RJT and F_RJT (FC-FS, reject reason codes)."""

    INVALID_D_ID = 0x01
    INVALID_S_ID = 0x02
    N_PORT_NOT_AVAILABLE_TEMPORARY = 0x03
    N_PORT_NOT_AVAILABLE_PERMANENT = 0x04
    CLASS_NOT_SUPPORTED = 0x05
    DELIMITER_ERROR = 0x06
    TYPE_NOT_SUPPORTED = 0x07
    INVALID_R_CTL = 0x09
    INVALID_F_CTL = 0x0A
    INVALID_OX_ID = 0x0B
    INVALID_RX_ID = 0x0C
    INVALID_SEQ_ID = 0x0D
    INVALID_DF_CTL = 0x0E
    INVALID_SEQ_CNT = 0x0F
    EXCHANGE_ERROR = 0x11
    PROTOCOL_ERROR = 0x12
    INCORRECT_LENGTH = 0x13
    UNEXPECTED_ACK = 0x14
    LOGIN_REQUIRED = 0x16
    VENDOR_SPECIFIC = 0xFF


@dataclass(frozen=True, slots=True, kw_only=True)
class BaAcc:
    """BA_ACC: an abort is accepted (FC-FS, BA_ACC). ``seq_id_validity`` 80h: ``seq_id`` is the last one good."""

    LAYOUT: ClassVar[Struct] = Struct(
        "seq_id_validity" / Int8ub,
        "seq_id" / Int8ub,
        Padding(2),
        "aborted_ox_id" / Int16ub,
        "aborted_rx_id" / Int16ub,
        "low_seq_cnt" / Int16ub,
        "high_seq_cnt" / Int16ub,
    )
    seq_id_validity: int = 0
    seq_id: int = 0
    aborted_ox_id: int
    aborted_rx_id: int
    low_seq_cnt: int = 0
    high_seq_cnt: int = 0xFFFF


@dataclass(frozen=True, slots=True, kw_only=True)
class BaRjt:
    """BA_RJT: a basic link service is refused (FC-FS, BA_RJT)."""

    LAYOUT: ClassVar[Struct] = Struct(
        Padding(1), "reason" / Coded(Int8ub, BaRjtReason), "explanation" / Int8ub, "vendor_specific" / Int8ub
    )
    reason: int
    explanation: int = 0
    vendor_specific: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class LinkReject:
    """The parameter field of P_RJT and F_RJT (FC-FS, reject): ``action`` 1 says try again, 2 do not."""

    LAYOUT: ClassVar[Struct] = Struct(
        "action" / Int8ub, "reason" / Coded(Int8ub, LinkRejectReason), Padding(1), "vendor_specific" / Int8ub
    )
    action: int
    reason: int
    vendor_specific: int = 0

    @classmethod
    def from_parameter(cls, parameter: int) -> LinkReject:
        """What the parameter field of a frame header says."""
        return derive(cls).decode(parameter.to_bytes(4, "big"))

    def to_parameter(self) -> int:
        """The parameter field of a frame header."""
        return int.from_bytes(derive(LinkReject).encode(self), "big")


def decode_bls(r_ctl: int, payload: Buffer) -> BaAcc | BaRjt:
    """Decode the answer to an ABTS. Raises :class:`~fcsim.errors.MalformedFrame`."""
    if r_ctl == RCtl.BA_ACC:
        return derive(BaAcc).decode(payload)
    if r_ctl == RCtl.BA_RJT:
        return derive(BaRjt).decode(payload)
    raise MalformedFrame(f"R_CTL {r_ctl:#04x} is no answer to a basic link service")
