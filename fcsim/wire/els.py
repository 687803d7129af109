# SPDX-License-Identifier: Apache-2.0
"""Extended link services as a whole: which dataclass a payload is (FC-LS).

An LS_ACC does not say what it answers: `decode_els` takes the command of the request where the reader knows it.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from fcsim.errors import MalformedFrame
from fcsim.wire import els_login as login
from fcsim.wire import els_notices as notices
from fcsim.wire import els_services as services
from fcsim.wire.derive import Buffer, derive
from fcsim.wire.els_commands import ElsCommand

__all__ = ["ACCEPTS", "REQUESTS", "ElsMessage", "decode_els", "encode_els"]

ElsMessage = (
    login.Flogi
    | login.Fdisc
    | login.FlogiAccept
    | login.Plogi
    | login.Pdisc
    | login.PlogiAccept
    | login.Logo
    | login.Prli
    | login.PrliAccept
    | login.NvmePrli
    | login.NvmePrliAccept
    | login.Prlo
    | login.PrloAccept
    | notices.Fpin
    | notices.Edc
    | notices.EdcAccept
    | notices.Rdf
    | notices.RdfAccept
    | services.LsAcc
    | services.LsRjt
    | services.Rtv
    | services.RtvAccept
    | services.Rls
    | services.RlsAccept
    | services.Echo
    | services.EchoAccept
    | services.TestEls
    | services.Rrq
    | services.Rec
    | services.RecAccept
    | services.Srr
    | services.Adisc
    | services.AdiscAccept
    | services.Fan
    | services.Rscn
    | services.Scr
    | services.LinkKeepAlive
    | services.UnknownEls
)

REQUESTS: Mapping[int, type[Any]] = {
    ElsCommand.LS_RJT: services.LsRjt,
    ElsCommand.FLOGI: login.Flogi,
    ElsCommand.FDISC: login.Fdisc,
    ElsCommand.PLOGI: login.Plogi,
    ElsCommand.PDISC: login.Pdisc,
    ElsCommand.LOGO: login.Logo,
    ElsCommand.PRLI: login.Prli,
    ElsCommand.PRLO: login.Prlo,
    ElsCommand.RTV: services.Rtv,
    ElsCommand.RLS: services.Rls,
    ElsCommand.ECHO: services.Echo,
    ElsCommand.TEST: services.TestEls,
    ElsCommand.RRQ: services.Rrq,
    ElsCommand.REC: services.Rec,
    ElsCommand.SRR: services.Srr,
    ElsCommand.ADISC: services.Adisc,
    ElsCommand.FAN: services.Fan,
    ElsCommand.RSCN: services.Rscn,
    ElsCommand.SCR: services.Scr,
    ElsCommand.LKA: services.LinkKeepAlive,
    ElsCommand.FPIN: notices.Fpin,
    ElsCommand.EDC: notices.Edc,
    ElsCommand.RDF: notices.Rdf,
}
"""The dataclass by command, for everything but LS_ACC."""

ACCEPTS: Mapping[int, type[Any]] = {
    ElsCommand.FLOGI: login.FlogiAccept,
    ElsCommand.FDISC: login.FlogiAccept,
    ElsCommand.PLOGI: login.PlogiAccept,
    ElsCommand.PDISC: login.PlogiAccept,
    ElsCommand.PRLI: login.PrliAccept,
    ElsCommand.PRLO: login.PrloAccept,
    ElsCommand.RTV: services.RtvAccept,
    ElsCommand.RLS: services.RlsAccept,
    ElsCommand.ECHO: services.EchoAccept,
    ElsCommand.REC: services.RecAccept,
    ElsCommand.ADISC: services.AdiscAccept,
    ElsCommand.EDC: notices.EdcAccept,
    ElsCommand.RDF: notices.RdfAccept,
}
"""The dataclass of the LS_ACC by the command of the request, where it says more than yes."""

_LONG_PAGES: Mapping[type[Any], type[Any]] = {
    login.Prli: login.NvmePrli,
    login.PrliAccept: login.NvmePrliAccept,
}
_NVME_PAGE_BYTES = 20


def decode_els(payload: Buffer, answers: int | None = None) -> ElsMessage:
    """Decode an extended link service. `answers` is the command of the request that an LS_ACC answers.

    Raises :class:`~fcsim.errors.MalformedFrame`. Bytes after the message are ignored.
    """
    if len(payload) < 4:
        raise MalformedFrame(f"{len(payload)} bytes are no extended link service")
    code = payload[0]
    if code == ElsCommand.LS_ACC:
        kind = ACCEPTS.get(answers, services.LsAcc) if answers is not None else services.LsAcc
    else:
        kind = REQUESTS.get(code, services.UnknownEls)
    if payload[1] == _NVME_PAGE_BYTES:
        kind = _LONG_PAGES.get(kind, kind)
    message: ElsMessage = derive(kind).decode(payload)
    return message


def encode_els(message: ElsMessage) -> bytes:
    """Encode an extended link service. Raises ValueError when a field does not fit."""
    return derive(type(message)).encode(message)
