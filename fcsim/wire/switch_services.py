# SPDX-License-Identifier: Apache-2.0
"""Switch link services as a whole: which dataclass a payload is (FC-SW).

An SW_ACC does not say what it answers: `decode_sw_ils` takes the command of the request where the reader knows it.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from fcsim.errors import MalformedFrame
from fcsim.wire import fspf, sw_ils
from fcsim.wire import sw_zoning as zoning
from fcsim.wire.derive import Buffer, derive
from fcsim.wire.sw_ils import SwCommand

__all__ = ["SW_ACCEPTS", "SW_REQUESTS", "SwMessage", "decode_sw_ils", "encode_sw_ils"]

SwMessage = (
    sw_ils.SwAcc
    | sw_ils.SwRjt
    | sw_ils.Elp
    | sw_ils.ElpAccept
    | sw_ils.Esc
    | sw_ils.EscAccept
    | sw_ils.Efp
    | sw_ils.EfpAccept
    | sw_ils.Dia
    | sw_ils.DiaAccept
    | sw_ils.Rdi
    | sw_ils.RdiAccept
    | sw_ils.BuildFabric
    | sw_ils.ReconfigureFabric
    | sw_ils.SwRscn
    | sw_ils.UnknownSwIls
    | fspf.Hlo
    | fspf.Lsu
    | fspf.Lsa
    | zoning.Mr
    | zoning.MrAccept
    | zoning.Aca
    | zoning.Rca
    | zoning.Sfc
    | zoning.Ufc
)

SW_REQUESTS: Mapping[int, type[Any]] = {
    SwCommand.SW_RJT: sw_ils.SwRjt,
    SwCommand.ELP: sw_ils.Elp,
    SwCommand.EFP: sw_ils.Efp,
    SwCommand.DIA: sw_ils.Dia,
    SwCommand.RDI: sw_ils.Rdi,
    SwCommand.HLO: fspf.Hlo,
    SwCommand.LSU: fspf.Lsu,
    SwCommand.LSA: fspf.Lsa,
    SwCommand.BF: sw_ils.BuildFabric,
    SwCommand.RCF: sw_ils.ReconfigureFabric,
    SwCommand.SW_RSCN: sw_ils.SwRscn,
    SwCommand.MR: zoning.Mr,
    SwCommand.ACA: zoning.Aca,
    SwCommand.RCA: zoning.Rca,
    SwCommand.SFC: zoning.Sfc,
    SwCommand.UFC: zoning.Ufc,
    SwCommand.ESC: sw_ils.Esc,
}
"""The dataclass by command, for everything but SW_ACC."""

SW_ACCEPTS: Mapping[int, type[Any]] = {
    SwCommand.ELP: sw_ils.ElpAccept,
    SwCommand.EFP: sw_ils.EfpAccept,
    SwCommand.DIA: sw_ils.DiaAccept,
    SwCommand.RDI: sw_ils.RdiAccept,
    SwCommand.ESC: sw_ils.EscAccept,
    SwCommand.MR: zoning.MrAccept,
    SwCommand.ACA: zoning.MrAccept,
    SwCommand.RCA: zoning.MrAccept,
    SwCommand.SFC: zoning.MrAccept,
    SwCommand.UFC: zoning.MrAccept,
}
"""The dataclass of the SW_ACC by the command of the request, where it says more than yes."""


def decode_sw_ils(payload: Buffer, answers: int | None = None) -> SwMessage:
    """Decode a switch link service. `answers` is the command of the request that an SW_ACC answers.

    Raises :class:`~fcsim.errors.MalformedFrame`. Bytes after the message are ignored.
    """
    if len(payload) < 4:
        raise MalformedFrame(f"{len(payload)} bytes are no switch link service")
    code = payload[0]
    if code == SwCommand.SW_ACC:
        kind = SW_ACCEPTS.get(answers, sw_ils.SwAcc) if answers is not None else sw_ils.SwAcc
    else:
        kind = SW_REQUESTS.get(code, sw_ils.UnknownSwIls)
    message: SwMessage = derive(kind).decode(payload)
    return message


def encode_sw_ils(message: SwMessage) -> bytes:
    """Encode a switch link service. Raises ValueError when a field does not fit."""
    return derive(type(message)).encode(message)
