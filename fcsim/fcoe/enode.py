# SPDX-License-Identifier: Apache-2.0
"""An ENode in a fabric: discovers a forwarder, logs in by FIP, registers, finds targets, logs in to them. Sans-IO.

The counterpart of :class:`~fcsim.fcoe.fcf.Fcf`, as an initiator's driver would be (FC-BB-6, FC-GS).
"""

from __future__ import annotations

import enum
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from fcsim.errors import MalformedFrame, PeerViolation
from fcsim.fcoe.ethernet import EthernetHeader, decode_ethernet, ethernet_fcoe, ethernet_fip, is_for
from fcsim.live.link_services import F_CTL_REQUEST, els_request
from fcsim.live.n_port import MS_PS, Event, NPort, NPortConfig, PortLoggedIn
from fcsim.wire import fip as f
from fcsim.wire import name_server as ns
from fcsim.wire.codes import FcType, RCtl, WellKnownAddress
from fcsim.wire.ct import CT_ACCEPT, CtPreamble, decode_ct, encode_ct, request_ct
from fcsim.wire.derive import derive
from fcsim.wire.els import decode_els
from fcsim.wire.els_commands import ElsCommand
from fcsim.wire.els_login import ClassOptions, ClassParameters, CommonFeatures, Flogi, FlogiAccept
from fcsim.wire.els_services import Scr
from fcsim.wire.frame import DelimitedFrame, Frame, FrameHeader, decode_frame, encode_frame

__all__ = ["Enode", "EnodeConfig", "EnodeState"]

_MAX_FCOE_BYTES = 2158
_TARGET_LIMIT = 256


class EnodeState(enum.Enum):
    """How far the ENode is."""

    SOLICITING = "looks for a forwarder"
    LOGGING_IN = "FLOGI sent"
    REGISTERING = "logs in to the name server and registers"
    UP = "knows its targets"


@dataclass(frozen=True, slots=True)
class EnodeConfig:
    """``retry_ps``: how long until a solicitation or FLOGI is sent again."""

    enode_mac: bytes
    n_port: NPortConfig
    retry_ps: int = 2000 * MS_PS


class Enode:
    """See the module."""

    def __init__(self, config: EnodeConfig, *, now_ps: int = 0) -> None:
        self.config = config
        self.n_port = NPort(config.n_port)
        self.state = EnodeState.SOLICITING
        self.ignored = 0
        self.mac_address = bytes(6)
        """Of the VN_Port, as the fabric gave it."""
        self._forwarder = bytes(6)
        self._advertised_ps = 0
        self._fka_ps = 8000 * MS_PS
        self._due_ps = now_ps
        self._asked: deque[Any] = deque()
        self._ct_ox_id = 0x100
        self._output: deque[bytes] = deque()
        self._events: deque[Event] = deque()

    def receive(self, data: bytes, now_ps: int) -> None:
        """An Ethernet frame; what is malformed or not for us is counted in ``ignored``."""
        try:
            header, inside = decode_ethernet(data)
            if isinstance(inside, DelimitedFrame):
                self._fcoe(header, inside, now_ps)
            elif not is_for(header, self.config.enode_mac, self.mac_address):
                self.ignored += 1
            elif (inside.operation, inside.subcode) == (
                f.FipOperation.DISCOVERY,
                f.DiscoverySubcode.ADVERTISEMENT,
            ):
                self._advertised(inside, now_ps)
            elif (inside.operation, inside.subcode) == (
                f.FipOperation.LINK_SERVICE,
                f.LinkServiceSubcode.REPLY,
            ):
                self._logged_in(inside, now_ps)
            elif (inside.operation, inside.subcode) == (
                f.FipOperation.CONTROL,
                f.ControlSubcode.CLEAR_VIRTUAL_LINKS,
            ):
                if header.source == self._forwarder:
                    self._start_over("the forwarder cleared the virtual link", now_ps)
            else:
                self.ignored += 1
        except (MalformedFrame, PeerViolation):
            self.ignored += 1
        self._flush(now_ps)

    def frames(self) -> Iterator[bytes]:
        """Ethernet frames to send, in order; handed over once."""
        while self._output:
            yield self._output.popleft()

    def events(self) -> Iterator[Event]:
        """What happened since the last call."""
        while self._events:
            yield self._events.popleft()

    def next_deadline(self) -> int | None:
        """When :meth:`handle_timer` wants to be called, in picoseconds."""
        moment = self.n_port.next_deadline()
        return self._due_ps if moment is None else min(self._due_ps, moment)

    def handle_timer(self, now_ps: int) -> None:
        """Solicit, try again, keep alive; start over where the forwarder is silent."""
        self.n_port.handle_timer(now_ps)
        if now_ps >= self._due_ps:
            if self.state in (EnodeState.SOLICITING, EnodeState.LOGGING_IN):
                self.state = EnodeState.SOLICITING
                self._solicit()
                self._due_ps = now_ps + self.config.retry_ps
            elif now_ps - self._advertised_ps >= self._fka_ps * 5 // 2:
                self._start_over("no advertisement for 2.5 periods", now_ps)
            else:
                self._fip(
                    f.FipOperation.CONTROL,
                    f.ControlSubcode.KEEP_ALIVE,
                    f.MacAddressDescriptor(mac_address=self.config.enode_mac),
                )
                self._due_ps = now_ps + self._fka_ps
        self._flush(now_ps)

    def grant_at_most(self, granted_bytes: int) -> None:
        """Ask for no more Data-Out at once: the interface holds no more."""
        self.n_port.grant_at_most(granted_bytes)

    # -- inside -------------------------------------------------------------------------------------------------

    def _start_over(self, reason: str, now_ps: int) -> None:
        self.n_port.link_lost(reason)
        self._asked.clear()
        self.state, self._due_ps = EnodeState.SOLICITING, now_ps

    def _fip(self, operation: int, subcode: int, *descriptors: f.FipDescriptor) -> None:
        fip = f.Fip(operation=operation, subcode=subcode, flags=f.FipFlags.FPMA, descriptors=descriptors)
        self._output.append(ethernet_fip(fip, self._forwarder, self.config.enode_mac))

    def _solicit(self) -> None:
        self._forwarder = f.ALL_FCF_MACS
        self._fip(
            f.FipOperation.DISCOVERY,
            f.DiscoverySubcode.SOLICITATION,
            f.MacAddressDescriptor(mac_address=self.config.enode_mac),
            f.NameIdentifier(name_identifier=self.config.n_port.node_name),
            f.MaxFcoeSize(max_fcoe_size_bytes=_MAX_FCOE_BYTES),
        )

    def _advertised(self, fip: f.Fip, now_ps: int) -> None:
        found = {type(one): one for one in fip.descriptors}
        mac, period = found.get(f.MacAddressDescriptor), found.get(f.FkaAdvPeriod)
        if not isinstance(mac, f.MacAddressDescriptor) or not isinstance(period, f.FkaAdvPeriod):
            raise MalformedFrame("an advertisement without MAC address or period")
        if self.state is EnodeState.SOLICITING and fip.flags & f.FipFlags.SOLICITED:
            self._forwarder, self._advertised_ps = mac.mac_address, now_ps
            self._fka_ps = max(period.period, 100) * MS_PS
            self.state, self._due_ps = EnodeState.LOGGING_IN, now_ps + self.config.retry_ps
            names = self.config.n_port
            message = Flogi(
                bb_credit=names.offer.bb_credit,
                common_features=CommonFeatures.MULTIPLE_N_PORT_ID,
                bb_receive_data_field_size=names.offer.receive_data_field_bytes,
                port_name=names.port_name,
                node_name=names.node_name,
                class_3=ClassParameters(
                    service_options=ClassOptions.VALID | ClassOptions.SEQUENTIAL_DELIVERY
                ),
            )
            frame = els_request(message, s_id=0, d_id=WellKnownAddress.F_PORT_CONTROLLER, ox_id=1)
            self._fip(
                f.FipOperation.LINK_SERVICE,
                f.LinkServiceSubcode.REQUEST,
                f.EncapsulatedFlogi(frame=encode_frame(frame)),
                f.MacAddressDescriptor(mac_address=bytes(6)),
            )
        elif mac.mac_address == self._forwarder:
            self._advertised_ps = now_ps

    def _logged_in(self, fip: f.Fip, now_ps: int) -> None:
        found = {type(one): one for one in fip.descriptors}
        inside, mac = found.get(f.EncapsulatedFlogi), found.get(f.MacAddressDescriptor)
        if self.state is not EnodeState.LOGGING_IN or not isinstance(inside, f.EncapsulatedFlogi):
            self.ignored += 1
            return
        frame = decode_frame(inside.frame)
        message = decode_els(frame.payload, ElsCommand.FLOGI)
        if not isinstance(message, FlogiAccept) or not isinstance(mac, f.MacAddressDescriptor):
            raise PeerViolation("FLOGI was not accepted")
        self.mac_address, self.n_port.n_port_id = mac.mac_address, frame.header.d_id
        self.state, self._due_ps = EnodeState.REGISTERING, now_ps + self._fka_ps
        own, names = self.n_port.n_port_id, self.config.n_port
        self._asked = deque(
            (
                ns.RnnId(port_id=own, node_name=names.node_name),
                ns.RftId(port_id=own, fc4_types=ns.fc4_types(FcType.FCP)),
                ns.RffId(port_id=own, fc4_features=ns.Fc4Features.INITIATOR),
                Scr(),
                ns.GpnFt(fc4_type=FcType.FCP),
            )
        )
        self.n_port.log_in(WellKnownAddress.DIRECTORY_SERVER, now_ps)

    def _ask_next(self) -> None:
        if not self._asked:
            return
        self._ct_ox_id += 1
        message = self._asked[0]
        own = self.n_port.n_port_id
        if isinstance(message, Scr):
            controller = WellKnownAddress.FABRIC_CONTROLLER
            frame = els_request(message, s_id=own, d_id=controller, ox_id=self._ct_ox_id)
        else:
            header = FrameHeader(
                r_ctl=RCtl.UNSOLICITED_CONTROL,
                d_id=WellKnownAddress.DIRECTORY_SERVER,
                s_id=own,
                type_=FcType.FC_CT,
                f_ctl=F_CTL_REQUEST,
                ox_id=self._ct_ox_id,
            )
            preamble = CtPreamble(command_code=message.COMMAND, max_residual=512)
            frame = Frame(header=header, payload=encode_ct(request_ct(message, preamble)))
        self._send(frame)

    def _answered(self, frame: Frame, now_ps: int) -> None:
        asked = self._asked.popleft()
        if isinstance(asked, ns.GpnFt):
            preamble, _ = derive(CtPreamble).decode_prefix(frame.payload)
            self.state = EnodeState.UP
            if preamble.command_code == CT_ACCEPT:
                listed = decode_ct(frame.payload, ns.NameServerCommand.GPN_FT).body
                for entry in listed.entries[:_TARGET_LIMIT]:
                    if entry.port_id not in (self.n_port.n_port_id, *self.n_port.logged_in):
                        self.n_port.log_in(entry.port_id, now_ps)
        self._ask_next()

    def _fcoe(self, header: EthernetHeader, delimited: DelimitedFrame, now_ps: int) -> None:
        frame = delimited.frame
        if header.destination != self.mac_address or header.source != self._forwarder or not delimited.crc_ok:
            self.ignored += 1
        elif (
            self._asked
            and frame.header.ox_id == self._ct_ox_id
            and frame.header.s_id
            in (
                WellKnownAddress.DIRECTORY_SERVER,
                WellKnownAddress.FABRIC_CONTROLLER,
            )
        ):
            self._answered(frame, now_ps)
        else:
            self.n_port.receive(frame, now_ps)
            if frame.header.s_id == WellKnownAddress.FABRIC_CONTROLLER and frame.payload[:1] == b"\x61":
                self._asked.append(ns.GpnFt(fc4_type=FcType.FCP))
                self._ask_next()

    def _flush(self, now_ps: int) -> None:
        for event in self.n_port.events():
            if isinstance(event, PortLoggedIn) and event.peer == WellKnownAddress.DIRECTORY_SERVER:
                self._ask_next()
            else:
                self._events.append(event)
        for frame in self.n_port.frames():
            self._send(frame)

    def _send(self, frame: Frame) -> None:
        self._output.append(ethernet_fcoe(frame, self._forwarder, self.mac_address))
