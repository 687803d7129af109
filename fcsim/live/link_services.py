# SPDX-License-Identifier: Apache-2.0
"""Extended link services as frames: a request, its answer, and what a login offers (FC-LS)."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from fcsim.port.login import Offer, checked
from fcsim.wire.codes import FCtl, FcType, RCtl
from fcsim.wire.els import encode_els
from fcsim.wire.frame import Frame, FrameHeader

__all__ = ["F_CTL_REPLY", "F_CTL_REQUEST", "els_reply", "els_request", "offer_of"]

F_CTL_REQUEST = FCtl.FIRST_SEQUENCE | FCtl.END_SEQUENCE | FCtl.SEQUENCE_INITIATIVE
F_CTL_REPLY = FCtl.EXCHANGE_RESPONDER | FCtl.LAST_SEQUENCE | FCtl.END_SEQUENCE | FCtl.SEQUENCE_INITIATIVE


def els_request(message: Any, *, s_id: int, d_id: int, ox_id: int) -> Frame:
    """An extended link service that expects an answer."""
    header = FrameHeader(
        r_ctl=RCtl.ELS_REQUEST, d_id=d_id, s_id=s_id, type_=FcType.ELS, f_ctl=F_CTL_REQUEST, ox_id=ox_id
    )
    return Frame(header=header, payload=encode_els(message))


def els_reply(message: Any, to: FrameHeader, *, s_id: int | None = None, rx_id: int | None = None) -> Frame:
    """The answer to a request. ``s_id`` where it is not the address that was asked."""
    header = FrameHeader(
        r_ctl=RCtl.ELS_REPLY,
        d_id=to.s_id,
        s_id=to.d_id if s_id is None else s_id,
        type_=FcType.ELS,
        f_ctl=F_CTL_REPLY,
        ox_id=to.ox_id,
        rx_id=to.ox_id if rx_id is None else rx_id,
    )
    return Frame(header=header, payload=encode_els(message))


def offer_of(login: Any, *, directly_connected: bool = False) -> Offer:
    """What a PLOGI, FLOGI or its accept offers. Raises PeerViolation for what the standard does not allow.

    Where a fabric lies between, the BB_Credit of a PLOGI counts for nothing, and 0 is what servers say.
    """
    offer = Offer(
        login.bb_credit,
        login.bb_receive_data_field_size,
        login.bb_sc_n,
        login.alternate_bb_credit,
        login.class_2.ee_credit if login.class_2.valid else 0,
    )
    checked(offer if directly_connected else replace(offer, bb_credit=offer.bb_credit or 1))
    return offer
