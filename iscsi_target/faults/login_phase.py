# SPDX-License-Identifier: Apache-2.0
"""What an onlooker learns from the login phase of a connection: names, digests, limits (RFC 7143 section 6.3)."""

from __future__ import annotations

from iscsi_target.errors import IscsiError
from iscsi_target.faults.wire_pdu import WirePdu
from iscsi_target.wire.opcodes import Opcode, Stage
from iscsi_target.wire.text import Pair, decode_text

_LOGIN_SEGMENT_BYTES = 8192
_HEADERS_BYTES = 48 + 1020 + 8 + 4
_TEXT_LIMIT_BYTES = 1 << 16


class LoginPhase:
    """Follows the Login Requests and Responses; changes nothing."""

    def __init__(self) -> None:
        self.over = False
        """Full-feature phase has begun (or something else than a login came: no more is to be learnt)."""
        self.waiting = False
        """A Login Request is on its way: its answer decides how what follows it is to be cut."""
        self.initiator_name = ""
        self.target_name = ""
        self.cid = 0
        self.header_digest = False
        self.data_digest = False
        self.limit_bytes = _LOGIN_SEGMENT_BYTES + _HEADERS_BYTES
        """The longest PDU that the target takes."""
        self._asked = b""
        self._answered = b""

    def request(self, pdu: WirePdu) -> None:
        """A PDU of the initiator's."""
        if pdu.opcode != Opcode.LOGIN_REQUEST:
            return
        self.cid = pdu.number("cid") or 0
        self._asked = (self._asked + pdu.data)[:_TEXT_LIMIT_BYTES]
        for key, value in _pairs(self._asked):
            if key == "InitiatorName":
                self.initiator_name = value
            elif key == "TargetName":
                self.target_name = value

    def response(self, pdu: WirePdu) -> None:
        """A PDU of the target's."""
        self.waiting = False
        if pdu.opcode != Opcode.LOGIN_RESPONSE:
            return
        self._answered = (self._answered + pdu.data)[:_TEXT_LIMIT_BYTES]
        finished = pdu.number("transit") and pdu.number("nsg") == Stage.FULL_FEATURE_PHASE
        if not finished or pdu.number("status_class"):
            return
        self.over = True
        for key, value in _pairs(self._answered):
            if key == "HeaderDigest":
                self.header_digest = value == "CRC32C"
            elif key == "DataDigest":
                self.data_digest = value == "CRC32C"
            elif key == "MaxRecvDataSegmentLength" and value.isascii() and value.isdigit():
                self.limit_bytes = min(int(value), 1 << 24) + _HEADERS_BYTES
        self._asked = self._answered = b""


def _pairs(text: bytes) -> list[Pair]:
    try:
        return decode_text(text)
    except IscsiError:
        return []
