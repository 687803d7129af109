"""Values for every description of the Fibre Channel wire formats, drawn from the descriptions themselves."""

from __future__ import annotations

from dataclasses import fields
from typing import Any

from construct import (
    Array,
    BitsInteger,
    Bytes,
    Const,
    Construct,
    FixedSized,
    Flag,
    GreedyBytes,
    Padded,
    Rebuild,
)
from hypothesis import strategies as st

from fcsim.wire import (
    bls,
    ct,
    els,
    els_login,
    els_notices,
    els_services,
    fcip,
    fcoe,
    fcp,
    fip,
    frame,
    fspf,
    name_server,
    ordered_sets,
    sw_ils,
    sw_zoning,
    switch_services,
)
from fcsim.wire.derive import plain
from fcsim.wire.layout import ByteCount, Many, Record, Sized, Tlvs, bit_struct

KINDS: tuple[type[Any], ...] = tuple(
    dict.fromkeys(
        (
            frame.FrameHeader,
            frame.VirtualFabricTaggingHeader,
            frame.InterFabricRoutingHeader,
            frame.EncapsulationHeader,
            frame.NetworkHeader,
            frame.AssociationHeader,
            ordered_sets.OrderedSet,
            *els.REQUESTS.values(),
            *els.ACCEPTS.values(),
            els_login.ClassParameters,
            els_login.NvmePrli,
            els_login.NvmePrliAccept,
            els_services.LsAcc,
            els_services.UnknownEls,
            *els_notices.NOTICE_DESCRIPTORS.values(),
            *switch_services.SW_REQUESTS.values(),
            *switch_services.SW_ACCEPTS.values(),
            sw_ils.SwAcc,
            sw_ils.UnknownSwIls,
            fspf.LinkStateRecord,
            sw_zoning.ActiveZoneSet,
            ct.CtPreamble,
            *name_server.REQUESTS,
            *name_server.ACCEPTS.values(),
            fcp.FcpCmnd,
            fcp.FcpXferRdy,
            fcp.FcpData,
            fcp.FcpRsp,
            fcp.FcpConf,
            bls.BaAcc,
            bls.BaRjt,
            bls.LinkReject,
            fcoe.FcoeHeader,
            fcoe.FcoeTrailer,
            fip.Fip,
            *fip.FIP_DESCRIPTORS.values(),
            fcip.FcipHeader,
            fcip.FcipDelimiter,
            fcip.FcipSpecialFrame,
        )
    )
)
# Where one value of the dataclass limits another.
_WORDS = {"additional_cdb": 4, "frame": 4, "symbolic_port_name": 1, "symbolic_node_name": 1}


def messages(kind: type[Any]) -> st.SearchStrategy[Any]:
    """Dataclasses of one kind with any values that fit."""
    values: dict[str, st.SearchStrategy[Any]] = {}
    for part in kind.LAYOUT.subcons:
        bits = bit_struct(part)
        for item in bits.subcons if bits is not None else (part,):
            value = _value(item, kind)
            if value is not None and item.name:
                values[item.name] = value
    assert set(values) == {field.name for field in fields(kind)}, kind
    drawn = st.fixed_dictionaries(values)
    if "bidirectional_read_dl" in values:
        return drawn.map(
            lambda v: kind(**v | {"bidirectional_read_dl": (7,) * (v["rddata"] and v["wrdata"])})
        )
    if "bidirectional_read_residual" in values:
        return drawn.map(lambda v: kind(**v | {"bidirectional_read_residual": (9,) * v["bidirectional"]}))
    return drawn.map(lambda v: kind(**v))


def _value(part: Construct, owner: type[Any]) -> st.SearchStrategy[Any] | None:
    inner = plain(part)
    if isinstance(inner, Const | Padded | Rebuild | ByteCount):
        return None
    if isinstance(inner, Sized | FixedSized):
        inner = plain(inner.subcon)
    if type(inner) is type(Flag):
        return st.booleans()
    if isinstance(inner, BitsInteger):
        return st.integers(0, (1 << inner.length) - 1)
    if isinstance(inner, Array | Many):
        element = _value(inner.subcon, owner)
        assert element is not None
        return st.lists(element, max_size=3).map(tuple)
    if isinstance(inner, Record):
        return messages(inner.pdu)
    if isinstance(inner, Tlvs):
        known = [messages(one) for one in inner.kinds.values()]
        tags = st.integers(0, (1 << 8 * inner.tag.sizeof()) - 1).filter(lambda tag: tag not in inner.kinds)
        bodies = st.binary(max_size=5).map(lambda body: body * 4 + bytes(inner.unit - 1 and 2))
        other = st.builds(inner.other, tags, bodies)
        return st.lists(st.one_of(*known, other), max_size=4).map(tuple)
    if type(inner) is type(GreedyBytes):
        unit = _WORDS.get(part.name or "", 1)
        return st.binary(max_size=12).map(lambda data: data * unit)
    if isinstance(inner, Bytes):
        if isinstance(inner.length, int):
            return st.binary(min_size=inner.length, max_size=inner.length)
        unit = _WORDS.get(part.name or "", 1)
        return st.binary(max_size=9).map(lambda data: data * unit)
    return st.integers(0, (1 << 8 * inner.sizeof()) - 1)
