# SPDX-License-Identifier: Apache-2.0
"""The name server of one switch: what ports registered, and who asks for it (FC-GS, name server). Sans-IO, a table.

Only ports that are logged in have an entry: the fabric makes it at FLOGI with :meth:`NameServer.add` and takes it away
again, so the table is bounded by the logins.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

from fcsim.errors import MalformedFrame
from fcsim.wire import name_server as wire
from fcsim.wire.codes import FcType
from fcsim.wire.ct import (
    CT_ACCEPT,
    CT_REJECT,
    CtExplanation,
    CtMessage,
    CtPreamble,
    CtReason,
    GsSubtype,
    GsType,
    decode_ct,
)
from fcsim.wire.derive import derive

__all__ = ["NameServer", "Refusal", "Registration"]

CLASS_3 = 1 << 3
#: An answer is one frame: 2112 bytes less the preamble.
_ONE_FRAME_WORDS = (2112 - 16) // 4


@dataclass(frozen=True, slots=True)
class Registration:
    """What is known of one N_Port."""

    port_id: int
    port_name: int
    node_name: int
    port_type: int = wire.PortType.N_PORT
    class_of_service: int = CLASS_3
    fc4_types: bytes = bytes(wire.TYPES_BYTES)
    fcp_features: int = 0
    symbolic_port_name: bytes = b""
    symbolic_node_name: bytes = b""


class Refusal(Exception):
    """Why a request is rejected; never leaves this module's :meth:`NameServer.answer`."""

    def __init__(self, explanation: CtExplanation, reason: CtReason = CtReason.UNABLE_TO_PERFORM) -> None:
        super().__init__(explanation.name)
        self.reason, self.explanation = reason, explanation


class NameServer:
    """Answers name server requests; ``changed`` is the ports whose entry changed since it was last taken."""

    def __init__(self) -> None:
        self.ports: dict[int, Registration] = {}
        self._changed: set[int] = set()
        self._handlers: Mapping[type[Any], Callable[[Any], Any]] = {
            wire.GaNxt: self._ga_nxt,
            wire.GpnId: lambda r: wire.PortNameAccept(port_name=self._by_id(r.port_id).port_name),
            wire.GnnId: lambda r: wire.NodeNameAccept(node_name=self._by_id(r.port_id).node_name),
            wire.GcsId: lambda r: wire.ClassOfServiceAccept(
                class_of_service=self._by_id(r.port_id).class_of_service
            ),
            wire.GftId: lambda r: wire.TypesAccept(fc4_types=self._by_id(r.port_id).fc4_types),
            wire.GspnId: lambda r: wire.SymbolicNameAccept(
                symbolic_name=self._by_id(r.port_id).symbolic_port_name
            ),
            wire.GptId: lambda r: wire.PortTypeAccept(port_type=self._by_id(r.port_id).port_type),
            wire.GffId: self._gff_id,
            wire.GidPn: lambda r: self._ids(
                lambda port: port.port_name == r.port_name, CtExplanation.PORT_NAME_NOT_REGISTERED
            ),
            wire.GidNn: lambda r: self._ids(
                lambda port: port.node_name == r.node_name, CtExplanation.NODE_NAME_NOT_REGISTERED
            ),
            wire.GsnnNn: self._gsnn_nn,
            wire.GidFt: lambda r: self._ids(
                lambda port: r.fc4_type in wire.registered_types(port.fc4_types),
                CtExplanation.FC4_TYPES_NOT_REGISTERED,
            ),
            wire.GpnFt: lambda r: self._names(r.fc4_type, lambda port: port.port_name),
            wire.GnnFt: lambda r: self._names(r.fc4_type, lambda port: port.node_name),
            wire.GidPt: lambda r: self._ids(
                lambda port: r.port_type in (port.port_type, wire.PortType.NX_PORT),
                CtExplanation.PORT_TYPE_NOT_REGISTERED,
            ),
            wire.RpnId: lambda r: self._register(r.port_id, port_name=r.port_name),
            wire.RnnId: lambda r: self._register(r.port_id, node_name=r.node_name),
            wire.RcsId: lambda r: self._register(r.port_id, class_of_service=r.class_of_service),
            wire.RftId: lambda r: self._register(r.port_id, fc4_types=r.fc4_types),
            wire.RspnId: lambda r: self._register(r.port_id, symbolic_port_name=r.symbolic_port_name),
            wire.RptId: lambda r: self._register(r.port_id, port_type=r.port_type),
            wire.RffId: self._rff_id,
            wire.RsnnNn: self._rsnn_nn,
            wire.DaId: self._da_id,
        }

    def add(self, registration: Registration) -> None:
        """A port logged in to the fabric."""
        self.ports[registration.port_id] = registration

    def remove(self, port_id: int) -> None:
        """A port logged out."""
        if self.ports.pop(port_id, None) is not None:
            self._changed.add(port_id)

    def take_changed(self) -> frozenset[int]:
        """The ports whose entry changed, or that are gone, since the last call: what RSCN speaks of."""
        changed, self._changed = frozenset(self._changed), set()
        return changed

    def answer(self, payload: bytes) -> CtMessage:
        """The answer to one CT_IU. Raises MalformedFrame for what has not even a whole preamble."""
        preamble, _ = derive(CtPreamble).decode_prefix(payload)
        if (preamble.gs_type, preamble.gs_subtype) != (GsType.DIRECTORY_SERVICE, GsSubtype.NAME_SERVER):
            return self._reject(preamble, CtReason.SERVER_NOT_AVAILABLE, CtExplanation.NONE)
        try:
            request = decode_ct(payload)
            handler = self._handlers.get(type(request.body))
            if handler is None:
                return self._reject(preamble, CtReason.COMMAND_NOT_SUPPORTED, CtExplanation.NONE)
            body = handler(request.body)
        except Refusal as refusal:
            return self._reject(preamble, refusal.reason, refusal.explanation)
        except MalformedFrame:
            return self._reject(preamble, CtReason.INVALID_SIZE, CtExplanation.NONE)
        return self._accept(preamble, body)

    # -- inside -------------------------------------------------------------------------------------------------

    @staticmethod
    def _accept(asked: CtPreamble, body: Any) -> CtMessage:
        """An accept that fits the asker's room: lists lose entries, and ``max_residual`` says how many words."""
        residual = 0
        entries = getattr(body, "entries", None)
        if entries:
            size = type(entries[0]).LAYOUT.sizeof()
            words = asked.max_residual or _ONE_FRAME_WORDS
            room = max(min(words, _ONE_FRAME_WORDS) * 4 // size, 1)
            if len(entries) > room:
                residual = (len(entries) - room) * size // 4
                body = replace(body, entries=(*entries[: room - 1], replace(entries[room - 1], last=True)))
        return CtMessage(replace(asked, command_code=CT_ACCEPT, max_residual=residual), body)

    @staticmethod
    def _reject(asked: CtPreamble, reason: int, explanation: int) -> CtMessage:
        return CtMessage(
            replace(asked, command_code=CT_REJECT, max_residual=0, reason=reason, explanation=explanation)
        )

    def _by_id(self, port_id: int) -> Registration:
        port = self.ports.get(port_id)
        if port is None:
            raise Refusal(CtExplanation.PORT_ID_NOT_REGISTERED)
        return port

    def _register(self, port_id: int, **values: Any) -> bytes:
        self.ports[port_id] = replace(self._by_id(port_id), **values)
        self._changed.add(port_id)
        return b""

    def _ids(self, chosen: Callable[[Registration], bool], none: CtExplanation) -> wire.PortList:
        found = sorted(port.port_id for port in self.ports.values() if chosen(port))
        if not found:
            raise Refusal(none)
        return wire.PortList(
            entries=tuple(wire.PortEntry(last=number == found[-1], port_id=number) for number in found)
        )

    def _names(self, fc4_type: int, name: Callable[[Registration], int]) -> wire.NamedPortList:
        found = sorted(
            (port.port_id, name(port))
            for port in self.ports.values()
            if fc4_type in wire.registered_types(port.fc4_types)
        )
        if not found:
            raise Refusal(CtExplanation.FC4_TYPES_NOT_REGISTERED)
        last = found[-1][0]
        return wire.NamedPortList(
            entries=tuple(
                wire.NamedPortEntry(last=number == last, port_id=number, port_or_node_name=value)
                for number, value in found
            )
        )

    def _ga_nxt(self, request: wire.GaNxt) -> wire.AllOfPort:
        if not self.ports:
            raise Refusal(CtExplanation.DATABASE_EMPTY)
        following = sorted(self.ports)
        number = next((port_id for port_id in following if port_id > request.port_id), following[0])
        port = self.ports[number]
        return wire.AllOfPort(
            port_type=port.port_type,
            port_id=port.port_id,
            port_name=port.port_name,
            symbolic_port_name=port.symbolic_port_name,
            node_name=port.node_name,
            symbolic_node_name=port.symbolic_node_name,
            class_of_service=port.class_of_service,
            fc4_types=port.fc4_types,
        )

    def _gff_id(self, request: wire.GffId) -> wire.FeaturesAccept:
        """Four bits for each TYPE; TYPE n stands in word n div 8 at bits 4 (n mod 8)."""
        features = self._by_id(request.port_id).fcp_features << FcType.FCP % 8 * 4
        words = bytearray(128)
        start = FcType.FCP // 8 * 4
        words[start : start + 4] = features.to_bytes(4, "big")
        return wire.FeaturesAccept(fc4_features=bytes(words))

    def _rff_id(self, request: wire.RffId) -> bytes:
        if request.fc4_type != FcType.FCP:
            self._by_id(request.port_id)
            return b""
        return self._register(request.port_id, fcp_features=request.fc4_features & 0x0F)

    def _of_node(self, node_name: int) -> list[Registration]:
        found = [port for port in self.ports.values() if port.node_name == node_name]
        if not found:
            raise Refusal(CtExplanation.NODE_NAME_NOT_REGISTERED)
        return found

    def _gsnn_nn(self, request: wire.GsnnNn) -> wire.SymbolicNameAccept:
        return wire.SymbolicNameAccept(symbolic_name=self._of_node(request.node_name)[0].symbolic_node_name)

    def _rsnn_nn(self, request: wire.RsnnNn) -> bytes:
        for port in self._of_node(request.node_name):
            self._register(port.port_id, symbolic_node_name=request.symbolic_node_name)
        return b""

    def _da_id(self, request: wire.DaId) -> bytes:
        port = self._by_id(request.port_id)
        self.ports[port.port_id] = Registration(port.port_id, port.port_name, port.node_name)
        self._changed.add(port.port_id)
        return b""
