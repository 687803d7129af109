# SPDX-License-Identifier: Apache-2.0
"""What a frame carries: the message in its payload, chosen by R_CTL and TYPE (FC-FS).

Accepts (LS_ACC, SW_ACC, CT accept) do not say what they answer. `ExchangeMemory` remembers the requests of the frames
it was shown, so that it can read the answers; it forgets the oldest beyond its limit.
"""

from __future__ import annotations

from collections import OrderedDict
from typing import Any

from fcsim.wire.bls import BaAcc, BaRjt, decode_bls
from fcsim.wire.codes import FcType, RCtl
from fcsim.wire.ct import CT_ACCEPT, CT_REJECT, CtMessage, decode_ct, encode_ct
from fcsim.wire.derive import derive
from fcsim.wire.els import ElsMessage, decode_els
from fcsim.wire.els_commands import ElsCommand
from fcsim.wire.fcp import FcpIu, decode_fcp
from fcsim.wire.frame import Frame
from fcsim.wire.switch_services import SwMessage, decode_sw_ils

__all__ = ["ExchangeMemory", "FcMessage", "decode_payload", "encode_payload", "request_code"]

FcMessage = ElsMessage | SwMessage | CtMessage | FcpIu | BaAcc | BaRjt | bytes
_LINK_SERVICES = (RCtl.ELS_REQUEST, RCtl.ELS_REPLY, RCtl.FC4_LINK_REQUEST, RCtl.FC4_LINK_REPLY)
_FCP = frozenset((0x01, 0x03, 0x04, 0x05, 0x06, 0x07))


def decode_payload(frame: Frame, answers: int | None = None) -> FcMessage:
    """The message of a frame; bytes where it has none that is described here.

    `answers` is the command code of the request, for accepts. Raises :class:`~fcsim.errors.MalformedFrame`.
    """
    header, payload = frame.header, frame.payload
    if header.r_ctl in _LINK_SERVICES and header.type_ in (FcType.ELS, FcType.FCP):
        return decode_els(payload, answers)
    if header.type_ == FcType.FCP and header.r_ctl in _FCP:
        return decode_fcp(header.r_ctl, payload)
    if header.type_ == FcType.FC_CT and header.r_ctl in (RCtl.UNSOLICITED_CONTROL, RCtl.SOLICITED_CONTROL):
        return decode_ct(payload, answers)
    if header.type_ == FcType.SW_ILS and header.r_ctl in (RCtl.UNSOLICITED_CONTROL, RCtl.SOLICITED_CONTROL):
        return decode_sw_ils(payload, answers)
    if header.type_ == FcType.BLS and header.r_ctl in (RCtl.BA_ACC, RCtl.BA_RJT):
        return decode_bls(header.r_ctl, payload)
    return payload


def encode_payload(message: FcMessage) -> bytes:
    """The payload of a frame for a message. Raises ValueError when a field does not fit."""
    if isinstance(message, bytes):
        return message
    if isinstance(message, CtMessage):
        return encode_ct(message)
    kind: Any = type(message)
    return derive(kind).encode(message)


def request_code(frame: Frame) -> int | None:
    """The command code of a request that expects an answer; None for every other frame."""
    header, payload = frame.header, frame.payload
    if header.type_ == FcType.FC_CT and len(payload) >= 10:
        code = int.from_bytes(payload[8:10], "big")
        return None if code in (CT_ACCEPT, CT_REJECT) else code
    services = header.type_ in (FcType.ELS, FcType.FCP) and header.r_ctl in _LINK_SERVICES
    if payload and (services or header.type_ == FcType.SW_ILS):
        # SW_RJT and SW_ACC have the codes of LS_RJT and LS_ACC.
        return None if payload[0] in (ElsCommand.LS_RJT, ElsCommand.LS_ACC) else payload[0]
    return None


class ExchangeMemory:
    """Remembers what was asked in each exchange, in order to read the answers.

    Exchanges are told apart by originator, responder and OX_ID. A fabric login is asked from address 0 and answered to
    the address it gives, so address 0 stands for any.
    """

    __slots__ = ("_limit", "_requests")

    def __init__(self, limit: int = 4096) -> None:
        self._limit = limit
        self._requests: OrderedDict[tuple[int, int, int], int] = OrderedDict()

    def decode(self, frame: Frame) -> FcMessage:
        """The message of a frame, and remember it when it asks something.

        Raises :class:`~fcsim.errors.MalformedFrame`.
        """
        header = frame.header
        code = request_code(frame)
        if code is not None:
            key = (header.s_id, header.d_id, header.ox_id)
            self._requests.pop(key, None)
            self._requests[key] = code
            if len(self._requests) > self._limit:
                self._requests.popitem(last=False)
            return decode_payload(frame)
        return decode_payload(frame, self.request_of(frame))

    def request_of(self, frame: Frame) -> int | None:
        """The command code that was asked in the exchange that `frame` answers, None when it was not seen."""
        header = frame.header
        for asker in (header.d_id, 0):
            code = self._requests.get((asker, header.s_id, header.ox_id))
            if code is not None:
                return code
        return None
