# SPDX-License-Identifier: Apache-2.0
"""A Fibre Channel forwarder: FIP, fabric login, name server and fabric controller, and a target behind it. Sans-IO.

Ethernet frames in, Ethernet frames out; time in picoseconds (FC-BB-6 for FIP, FC-LS and FC-GS for the fabric). It also
forwards between the N_Ports that are logged in. What a peer can make it hold is bounded by ``login_limit``.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from fcsim.errors import MalformedFrame, PeerViolation
from fcsim.fcoe.ethernet import (
    ETHERNET_HEADER_BYTES,
    UNSENT_LIMIT,
    EthernetHeader,
    decode_ethernet,
    ethernet_fcoe,
    ethernet_fip,
    fabric_provided_mac,
    is_for,
)
from fcsim.fcoe.name_server import NameServer, Registration
from fcsim.fcp.executor import ScsiExecutor
from fcsim.fcp.target import FcpTargetLimits
from fcsim.live.link_services import els_reply, els_request, offer_of
from fcsim.live.n_port import MS_PS, Event, NPort, NPortConfig
from fcsim.port.login import Offer
from fcsim.wire import fip as f
from fcsim.wire.codes import FCtl, FcType, RCtl, WellKnownAddress
from fcsim.wire.ct import encode_ct
from fcsim.wire.els import decode_els
from fcsim.wire.els_commands import ElsCommand, RejectExplanation, RejectReason
from fcsim.wire.els_login import ClassOptions, ClassParameters, CommonFeatures, Fdisc, Flogi, FlogiAccept
from fcsim.wire.els_services import AffectedPortPage, LsAcc, LsRjt, Rscn, RscnEvent, Scr
from fcsim.wire.frame import DelimitedFrame, Frame, FrameHeader, decode_frame, encode_frame
from fcsim.wire.name_server import Fc4Features, fc4_types

__all__ = ["FabricLogin", "Fcf", "FcfConfig"]

_F_CTL_CT_REPLY = FCtl.EXCHANGE_RESPONDER | FCtl.LAST_SEQUENCE | FCtl.END_SEQUENCE


@dataclass(frozen=True, slots=True)
class FcfConfig:
    """``mac_address`` is the forwarder's; ``fka_adv_ms`` the period of its advertisements and of the ENodes' keep
    alives; a peer that is silent for 2.5 of them is logged out (FC-BB-6). ``n_port_ids`` are given to those who log
    in; ``target_id`` is the target's of this side."""

    mac_address: bytes
    switch_name: int
    fabric_name: int
    f_port_name: int
    target: NPortConfig
    target_id: int = 0x010202
    n_port_ids: range = range(0x010301, 0x010400)
    bb_credit: int = 16
    fc_map: int = f.DEFAULT_FC_MAP
    priority: int = 128
    fka_adv_ms: int = 8000
    login_limit: int = 64


@dataclass(slots=True)
class FabricLogin:
    """One N_Port that is logged in to the fabric."""

    n_port_id: int
    mac_address: bytes
    enode_mac: bytes
    port_name: int
    node_name: int
    expires_ps: int
    notified: bool = field(default=False)
    """It registered for state change notifications."""


class Fcf:
    """See the module."""

    def __init__(
        self,
        config: FcfConfig,
        executor: ScsiExecutor | None = None,
        *,
        limits: FcpTargetLimits | None = None,
        now_ps: int = 0,
    ) -> None:
        self.config = config
        self.name_server = NameServer()
        self.target = NPort(config.target, n_port_id=config.target_id, executor=executor, limits=limits)
        self.directory = NPort(
            NPortConfig(config.switch_name + 1, config.switch_name, Offer(0)),
            n_port_id=WellKnownAddress.DIRECTORY_SERVER,
        )
        self.logins: dict[int, FabricLogin] = {}
        self.ignored = 0
        """Frames that were malformed, or of nobody who is logged in."""
        self._output: deque[bytes] = deque()
        self._next_advertisement_ps = now_ps
        self._ox_id = 0
        fip_table: Mapping[tuple[int, int], Callable[[EthernetHeader, f.Fip, int], None]] = {
            (f.FipOperation.DISCOVERY, f.DiscoverySubcode.SOLICITATION): self._solicited,
            (f.FipOperation.LINK_SERVICE, f.LinkServiceSubcode.REQUEST): self._link_service,
            (f.FipOperation.CONTROL, f.ControlSubcode.KEEP_ALIVE): self._keep_alive,
            (f.FipOperation.VLAN, f.VlanSubcode.REQUEST): self._vlan_request,
        }
        self._fip_table = fip_table
        port = config.target
        self.name_server.add(
            Registration(
                config.target_id,
                port.port_name,
                port.node_name,
                fc4_types=fc4_types(FcType.FCP),
                fcp_features=Fc4Features.TARGET,
            )
        )

    # -- frames and time ----------------------------------------------------------------------------------------

    def receive(self, data: bytes, now_ps: int) -> None:
        """An Ethernet frame; what is malformed or not for us is counted in ``ignored``."""
        self.target.refuse_commands(len(self._output) > UNSENT_LIMIT)
        try:
            header, inside = decode_ethernet(data)
            if isinstance(inside, DelimitedFrame):
                if not inside.crc_ok or header.destination != self.config.mac_address:
                    self.ignored += 1
                    return
                self._fcoe(header, inside.frame, now_ps)
            else:
                handler = self._fip_table.get((inside.operation, inside.subcode))
                if handler is None or not is_for(header, self.config.mac_address):
                    self.ignored += 1
                    return
                handler(header, inside, now_ps)
        except (MalformedFrame, PeerViolation):
            self.ignored += 1
        self._flush()

    def frames(self) -> Iterator[bytes]:
        """Ethernet frames to send, in order; handed over once."""
        while self._output:
            yield self._output.popleft()

    def events(self) -> Iterator[Event]:
        """Logins and logouts at the target."""
        yield from self.target.events()

    def next_deadline(self) -> int:
        """When :meth:`handle_timer` wants to be called, in picoseconds."""
        due = [self._next_advertisement_ps, *(login.expires_ps for login in self.logins.values())]
        for port in (self.target, self.directory):
            moment = port.next_deadline()
            if moment is not None:
                due.append(moment)
        return min(due)

    def handle_timer(self, now_ps: int) -> None:
        """Advertise; log out who is silent."""
        if now_ps >= self._next_advertisement_ps:
            self._next_advertisement_ps = now_ps + self.config.fka_adv_ms * MS_PS
            self._advertise(f.ALL_ENODE_MACS, 0)
        for login in list(self.logins.values()):
            if now_ps >= login.expires_ps:
                self._clear_virtual_link(login)
                self._log_out(login.n_port_id)
        self.target.handle_timer(now_ps)
        self._flush()

    def grant_at_most(self, granted_bytes: int) -> None:
        """Ask for no more Data-Out at once: the interface holds no more."""
        self.target.grant_at_most(granted_bytes)

    # -- FIP ----------------------------------------------------------------------------------------------------

    def _advertise(self, destination: bytes, padded_bytes: int) -> None:
        config = self.config
        flags = f.FipFlags.FPMA | f.FipFlags.AVAILABLE_FOR_LOGIN | f.FipFlags.FROM_FCF
        if padded_bytes:
            flags |= f.FipFlags.SOLICITED
        fip = f.Fip(
            operation=f.FipOperation.DISCOVERY,
            subcode=f.DiscoverySubcode.ADVERTISEMENT,
            flags=flags,
            descriptors=(
                f.PriorityDescriptor(priority=config.priority),
                f.MacAddressDescriptor(mac_address=config.mac_address),
                f.NameIdentifier(name_identifier=config.switch_name),
                f.FabricDescriptor(fc_map=config.fc_map, fabric_name=config.fabric_name),
                f.FkaAdvPeriod(period=config.fka_adv_ms),
            ),
        )
        self._output.append(ethernet_fip(fip, destination, config.mac_address, padded_bytes=padded_bytes))

    def _solicited(self, header: EthernetHeader, fip: f.Fip, now_ps: int) -> None:
        """A solicited advertisement is as long as the ENode's largest frame: it proves the path (FC-BB-6)."""
        size = _descriptor(fip, f.MaxFcoeSize).max_fcoe_size_bytes
        mac = _descriptor(fip, f.MacAddressDescriptor).mac_address
        self._advertise(mac, min(size, 2158) + ETHERNET_HEADER_BYTES)

    def _vlan_request(self, header: EthernetHeader, fip: f.Fip, now_ps: int) -> None:
        """FCoE runs where the request came from: no VLAN, said with the number 0."""
        answer = f.Fip(
            operation=f.FipOperation.VLAN,
            subcode=f.VlanSubcode.NOTIFICATION,
            flags=f.FipFlags.FROM_FCF,
            descriptors=(
                f.MacAddressDescriptor(mac_address=self.config.mac_address),
                f.VlanDescriptor(vlan_id=0),
            ),
        )
        self._output.append(ethernet_fip(answer, header.source, self.config.mac_address))

    def _keep_alive(self, header: EthernetHeader, fip: f.Fip, now_ps: int) -> None:
        """Of somebody who is not logged in: this forwarder began anew, and the ENode has not noticed. It is told so
        (FC-BB-6: without a port, all its virtual links are cleared); else it would find out by its time-outs.
        """
        mac = _descriptor(fip, f.MacAddressDescriptor).mac_address
        known = [one for one in self.logins.values() if mac in (one.enode_mac, one.mac_address)]
        for login in known:
            login.expires_ps = now_ps + self._patience_ps
        if not known:
            self._clear_virtual_links(header.source)

    @property
    def _patience_ps(self) -> int:
        return self.config.fka_adv_ms * MS_PS * 5 // 2

    def _clear_virtual_link(self, login: FabricLogin) -> None:
        port = f.VxPortIdentification(
            mac_address=login.mac_address, address_identifier=login.n_port_id, port_name=login.port_name
        )
        self._clear_virtual_links(login.enode_mac, port)

    def _clear_virtual_links(self, destination: bytes, *ports: f.VxPortIdentification) -> None:
        """Of these ports; of all that the ENode has where there are none."""
        config = self.config
        fip = f.Fip(
            operation=f.FipOperation.CONTROL,
            subcode=f.ControlSubcode.CLEAR_VIRTUAL_LINKS,
            flags=f.FipFlags.FPMA | f.FipFlags.FROM_FCF,
            descriptors=(
                f.MacAddressDescriptor(mac_address=config.mac_address),
                f.NameIdentifier(name_identifier=config.switch_name),
                *ports,
            ),
        )
        self._output.append(ethernet_fip(fip, destination, config.mac_address))

    def _link_service(self, header: EthernetHeader, fip: f.Fip, now_ps: int) -> None:
        """FLOGI, FDISC and LOGO inside FIP: the answer carries the MAC address that the fabric gave."""
        kinds = (f.EncapsulatedFlogi, f.EncapsulatedFdisc, f.EncapsulatedLogo)
        inside = next((one for one in fip.descriptors if isinstance(one, kinds)), None)
        if inside is None:
            raise MalformedFrame("a FIP link service without a frame")
        frame = decode_frame(inside.frame)
        message = decode_els(frame.payload)
        if isinstance(inside, f.EncapsulatedLogo):
            login = self.logins.get(frame.header.s_id)
            if login is None or login.enode_mac != header.source:
                raise PeerViolation("LOGO from an N_Port that is not logged in")
            self._log_out(login.n_port_id)
            self._fip_answer(header, type(inside), els_reply(LsAcc(), frame.header), login.mac_address)
            return
        if not isinstance(message, Flogi | Fdisc):
            raise MalformedFrame("the frame of a FIP login is no login")
        answer, mac = self._fabric_login(header.source, frame.header, message, now_ps)
        self._fip_answer(header, type(inside), answer, mac)

    def _fip_answer(self, header: EthernetHeader, kind: type[Any], frame: Frame, mac: bytes) -> None:
        fip = f.Fip(
            operation=f.FipOperation.LINK_SERVICE,
            subcode=f.LinkServiceSubcode.REPLY,
            flags=f.FipFlags.FPMA,
            descriptors=(kind(frame=encode_frame(frame)), f.MacAddressDescriptor(mac_address=mac)),
        )
        self._output.append(ethernet_fip(fip, header.source, self.config.mac_address))

    def _fabric_login(
        self, enode_mac: bytes, header: FrameHeader, message: Any, now_ps: int
    ) -> tuple[Frame, bytes]:
        config = self.config
        known = next((one for one in self.logins.values() if one.port_name == message.port_name), None)
        number = known.n_port_id if known is not None else self._free_id()
        offer_of(message)
        if isinstance(message, Fdisc) and not any(one.enode_mac == enode_mac for one in self.logins.values()):
            refusal = LsRjt(
                reason=RejectReason.UNABLE_TO_PERFORM, explanation=RejectExplanation.N_PORT_LOGIN_REQUIRED
            )
            return els_reply(refusal, header), bytes(6)
        if number is None or (known is not None and known.enode_mac != enode_mac):
            refusal = LsRjt(
                reason=RejectReason.UNABLE_TO_PERFORM, explanation=RejectExplanation.INSUFFICIENT_RESOURCES
            )
            return els_reply(refusal, header), bytes(6)
        if known is not None:
            self._log_out(number)
        mac = fabric_provided_mac(config.fc_map, number)
        self.logins[number] = FabricLogin(
            number, mac, enode_mac, message.port_name, message.node_name, now_ps + self._patience_ps
        )
        self.name_server.add(Registration(number, message.port_name, message.node_name))
        accept = FlogiAccept(
            bb_credit=config.bb_credit,
            common_features=CommonFeatures.F_PORT,
            bb_receive_data_field_size=config.target.offer.receive_data_field_bytes,
            r_a_tov=config.target.r_a_tov_ps // MS_PS,
            e_d_tov=config.target.e_d_tov_ps // MS_PS,
            port_name=config.f_port_name,
            node_name=config.fabric_name,
            class_3=ClassParameters(
                service_options=ClassOptions.VALID | ClassOptions.SEQUENTIAL_DELIVERY,
                receive_data_field_size=config.target.offer.receive_data_field_bytes,
                concurrent_sequences=255,
                open_sequences_per_exchange=1,
            ),
        )
        # The answer goes to the address that it gives.
        to = FrameHeader(
            r_ctl=header.r_ctl, d_id=header.d_id, s_id=number, type_=header.type_, ox_id=header.ox_id
        )
        return els_reply(accept, to), mac

    def _free_id(self) -> int | None:
        if len(self.logins) >= self.config.login_limit:
            return None
        return next((number for number in self.config.n_port_ids if number not in self.logins), None)

    def _log_out(self, n_port_id: int) -> None:
        self.logins.pop(n_port_id, None)
        self.name_server.remove(n_port_id)
        for port in (self.target, self.directory):
            port.forget(n_port_id, "the fabric logged it out")

    # -- FCoE ---------------------------------------------------------------------------------------------------

    def _fcoe(self, header: EthernetHeader, frame: Frame, now_ps: int) -> None:
        login = self.logins.get(frame.header.s_id)
        if login is None or header.source != login.mac_address:
            self.ignored += 1
            return
        destination = frame.header.d_id
        if destination == self.config.target_id:
            self.target.receive(frame, now_ps)
        elif destination == WellKnownAddress.DIRECTORY_SERVER:
            self._directory_server(frame, now_ps)
        elif destination == WellKnownAddress.FABRIC_CONTROLLER:
            self._fabric_controller(login, frame)
        elif destination in self.logins:
            self._send(frame)
        else:
            self.ignored += 1

    def _directory_server(self, frame: Frame, now_ps: int) -> None:
        header = frame.header
        if header.type_ != FcType.FC_CT or header.r_ctl != RCtl.UNSOLICITED_CONTROL:
            self.directory.receive(frame, now_ps)
            return
        if header.s_id not in self.directory.logged_in:
            self.ignored += 1
            return
        reply = FrameHeader(
            r_ctl=RCtl.SOLICITED_CONTROL,
            d_id=header.s_id,
            s_id=header.d_id,
            type_=FcType.FC_CT,
            f_ctl=_F_CTL_CT_REPLY,
            ox_id=header.ox_id,
            rx_id=header.ox_id,
        )
        # Linux and everybody else give room for no more than one frame; what is beyond it is cut, and said.
        self._send(Frame(header=reply, payload=encode_ct(self.name_server.answer(frame.payload))))

    def _fabric_controller(self, login: FabricLogin, frame: Frame) -> None:
        """SCR; every other request is refused. Answers to RSCN need none."""
        header = frame.header
        if header.type_ != FcType.ELS or header.f_ctl & FCtl.EXCHANGE_RESPONDER:
            return
        message = decode_els(frame.payload)
        if isinstance(message, Scr):
            login.notified = message.function != 255
            self._send(els_reply(LsAcc(), header))
        elif frame.payload[0] == ElsCommand.LOGO:
            self._send(els_reply(LsAcc(), header))
        else:
            refusal = LsRjt(
                reason=RejectReason.COMMAND_NOT_SUPPORTED, explanation=RejectExplanation.REQUEST_NOT_SUPPORTED
            )
            self._send(els_reply(refusal, header))

    def _notify(self) -> None:
        """RSCN to everybody who registered for it, but for changes of its own (FC-LS, RSCN)."""
        changed = self.name_server.take_changed()
        for login in self.logins.values():
            pages = tuple(
                AffectedPortPage(event_qualifier=RscnEvent.CHANGED_NAME_SERVER_OBJECT, address=number)
                for number in sorted(changed - {login.n_port_id})
            )
            if login.notified and pages:
                self._ox_id = (self._ox_id + 1) & 0x7FFF
                source = WellKnownAddress.FABRIC_CONTROLLER
                message = Rscn(pages=pages)
                self._send(els_request(message, s_id=source, d_id=login.n_port_id, ox_id=self._ox_id))

    def _flush(self) -> None:
        for port in (self.target, self.directory):
            for frame in port.frames():
                self._send(frame)
        for _ in self.directory.events():
            pass  # who is logged in to the directory server is nobody's business but its own
        self._notify()

    def _send(self, frame: Frame) -> None:
        login = self.logins.get(frame.header.d_id)
        if login is not None:
            self._output.append(ethernet_fcoe(frame, login.mac_address, self.config.mac_address))


def _descriptor(fip: f.Fip, kind: type[Any]) -> Any:
    """The first descriptor of a kind. Raises MalformedFrame where there is none."""
    for one in fip.descriptors:
        if isinstance(one, kind):
            return one
    raise MalformedFrame(f"a FIP frame without {kind.__name__}")
