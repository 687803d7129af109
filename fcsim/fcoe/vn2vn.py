# SPDX-License-Identifier: Apache-2.0
"""A VN2VN port: N_Ports on an Ethernet without a switch find each other and log in (FC-BB-6, VN2VN). Sans-IO.

The port probes for its address, claims it, and sends beacons; two ports that know each other log in with FLOGI inside
FIP, then PLOGI. The one with the higher port name sends the PLOGI where this side decides.
"""

from __future__ import annotations

import enum
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
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
from fcsim.fcp.executor import ScsiExecutor
from fcsim.fcp.target import FcpTargetLimits
from fcsim.live.link_services import els_reply, els_request, offer_of
from fcsim.live.n_port import MS_PS, Event, NPort, NPortConfig, PortLoggedIn
from fcsim.wire import fip as f
from fcsim.wire.codes import FcType
from fcsim.wire.els import decode_els
from fcsim.wire.els_commands import ElsCommand
from fcsim.wire.els_login import ClassOptions, ClassParameters, Flogi, FlogiAccept, Logo
from fcsim.wire.els_services import LsAcc
from fcsim.wire.frame import DelimitedFrame, Frame, decode_frame, encode_frame
from fcsim.wire.name_server import Fc4Features, fc4_types

__all__ = ["Neighbour", "Vn2vnConfig", "Vn2vnPort", "Vn2vnState"]

VN2VN_FC_MAP = 0x0EFD00
PROBE_WAIT_PS = 100 * MS_PS
ANNOUNCE_WAIT_PS = 400 * MS_PS
BEACON_PS = 8000 * MS_PS
PROBES = 2
_MAX_FCOE_BYTES = 2158


class Vn2vnState(enum.Enum):
    """How far the port is (FC-BB-6, VN2VN)."""

    QUIET = "waits for another port to begin"
    PROBING = "asks whether its address is taken"
    CLAIMED = "has claimed its address, no beacon yet"
    UP = "sends beacons"


@dataclass(frozen=True, slots=True)
class Vn2vnConfig:
    """``n_port_id`` is the address to try first, 1 to FFFFh. ``quiet``: say nothing before another port does, since
    Linux may fall over a beacon that arrives while it makes its port."""

    enode_mac: bytes
    n_port: NPortConfig
    n_port_id: int
    quiet: bool = False
    neighbour_limit: int = 64


@dataclass(slots=True)
class Neighbour:
    """Another port on the Ethernet."""

    n_port_id: int
    mac_address: bytes
    enode_mac: bytes
    port_name: int
    expires_ps: int
    fabric_login: bool = False


class Vn2vnPort:
    """See the module."""

    def __init__(
        self,
        config: Vn2vnConfig,
        executor: ScsiExecutor | None = None,
        *,
        limits: FcpTargetLimits | None = None,
        now_ps: int = 0,
    ) -> None:
        self.config = config
        self.n_port = NPort(config.n_port, n_port_id=config.n_port_id, executor=executor, limits=limits)
        self.state = Vn2vnState.QUIET if config.quiet else Vn2vnState.PROBING
        self.neighbours: dict[int, Neighbour] = {}
        self.ignored = 0
        """Frames that were malformed, or of nobody who is known."""
        self._output: deque[bytes] = deque()
        self._events: deque[Event] = deque()
        self._probes = 0
        self._due_ps = now_ps
        self._ox_id = 0
        self._fip_table: Mapping[tuple[int, int], Callable[[EthernetHeader, f.Fip, int], None]] = {
            (f.FipOperation.VN2VN, f.Vn2vnSubcode.PROBE_REQUEST): self._probed,
            (f.FipOperation.VN2VN, f.Vn2vnSubcode.PROBE_REPLY): self._taken,
            (f.FipOperation.VN2VN, f.Vn2vnSubcode.CLAIM_NOTIFICATION): self._claimed,
            (f.FipOperation.VN2VN, f.Vn2vnSubcode.CLAIM_RESPONSE): self._claim_response,
            (f.FipOperation.VN2VN, f.Vn2vnSubcode.BEACON): self._beacon,
            (f.FipOperation.LINK_SERVICE, f.LinkServiceSubcode.REQUEST): self._link_service,
            (f.FipOperation.LINK_SERVICE, f.LinkServiceSubcode.REPLY): self._link_service_reply,
        }

    @property
    def mac_address(self) -> bytes:
        """The MAC address of the VN_Port."""
        return fabric_provided_mac(VN2VN_FC_MAP, self.n_port.n_port_id)

    # -- frames and time ----------------------------------------------------------------------------------------

    def receive(self, data: bytes, now_ps: int) -> None:
        """An Ethernet frame; what is malformed or of nobody known is counted in ``ignored``."""
        self.n_port.refuse_commands(len(self._output) > UNSENT_LIMIT)
        try:
            header, inside = decode_ethernet(data)
            if isinstance(inside, DelimitedFrame):
                self._fcoe(header, inside, now_ps)
            else:
                handler = self._fip_table.get((inside.operation, inside.subcode))
                if handler is None or not is_for(header, self.config.enode_mac, self.mac_address):
                    self.ignored += 1
                else:
                    handler(header, inside, now_ps)
        except (MalformedFrame, PeerViolation):
            self.ignored += 1
        self._flush(now_ps)

    def frames(self) -> Iterator[bytes]:
        """Ethernet frames to send, in order; handed over once."""
        while self._output:
            yield self._output.popleft()

    def events(self) -> Iterator[Event]:
        """Logins, logouts and commands of the N_Port."""
        while self._events:
            yield self._events.popleft()

    def next_deadline(self) -> int | None:
        """When :meth:`handle_timer` wants to be called, in picoseconds."""
        due = [neighbour.expires_ps for neighbour in self.neighbours.values()]
        if self.state is not Vn2vnState.QUIET:
            due.append(self._due_ps)
        moment = self.n_port.next_deadline()
        if moment is not None:
            due.append(moment)
        return min(due, default=None)

    def handle_timer(self, now_ps: int) -> None:
        """Probe, claim, send beacons; forget who sends none."""
        if self.state is not Vn2vnState.QUIET and now_ps >= self._due_ps:
            self._next_step(now_ps)
        for neighbour in list(self.neighbours.values()):
            if now_ps >= neighbour.expires_ps:
                del self.neighbours[neighbour.n_port_id]
                self.n_port.forget(neighbour.n_port_id, "no beacon for 2.5 periods")
        self.n_port.handle_timer(now_ps)
        self._flush(now_ps)

    def log_out(self) -> None:
        """LOGO to every neighbour."""
        for neighbour in list(self.neighbours.values()):
            message = Logo(n_port_id=self.n_port.n_port_id, port_name=self.config.n_port.port_name)
            self._encapsulated(f.EncapsulatedLogo, message, neighbour)
            self.n_port.forget(neighbour.n_port_id, "logged out")
        self.neighbours.clear()

    def grant_at_most(self, granted_bytes: int) -> None:
        """Ask for no more Data-Out at once: the interface holds no more."""
        self.n_port.grant_at_most(granted_bytes)

    def _next_step(self, now_ps: int) -> None:
        match self.state:
            case Vn2vnState.PROBING if self._probes < PROBES:
                self._probes += 1
                self._announce(f.Vn2vnSubcode.PROBE_REQUEST)
                self._due_ps = now_ps + (PROBE_WAIT_PS if self._probes < PROBES else ANNOUNCE_WAIT_PS)
            case Vn2vnState.PROBING:
                self._announce(f.Vn2vnSubcode.CLAIM_NOTIFICATION)
                self.state = Vn2vnState.CLAIMED
                self._due_ps = now_ps + ANNOUNCE_WAIT_PS
            case _:
                self._announce(f.Vn2vnSubcode.BEACON)
                self.state = Vn2vnState.UP
                self._due_ps = now_ps + BEACON_PS

    # -- FIP ----------------------------------------------------------------------------------------------------

    def _announce(
        self, subcode: f.Vn2vnSubcode, destination: bytes = f.ALL_VN2VN_ENODE_MACS, padded_bytes: int = 0
    ) -> None:
        config, names = self.config, self.config.n_port
        described: list[f.FipDescriptor] = [
            f.MacAddressDescriptor(mac_address=config.enode_mac),
            f.NameIdentifier(name_identifier=names.node_name),
            f.VxPortIdentification(
                mac_address=self.mac_address,
                address_identifier=self.n_port.n_port_id,
                port_name=names.port_name,
            ),
        ]
        if subcode in (f.Vn2vnSubcode.CLAIM_NOTIFICATION, f.Vn2vnSubcode.CLAIM_RESPONSE):
            features = (Fc4Features.TARGET if self.n_port.target is not None else 0) | (
                Fc4Features.INITIATOR if names.wants_targets else 0
            )
            words = bytearray(128)
            words[FcType.FCP // 8 * 4 + 3] = features
            described.append(f.Fc4Attributes(fc4_types=fc4_types(FcType.FCP), fc4_features=bytes(words)))
            described.append(f.MaxFcoeSize(max_fcoe_size_bytes=_MAX_FCOE_BYTES))
        fip = f.Fip(operation=f.FipOperation.VN2VN, subcode=subcode, descriptors=tuple(described))
        # Probes come from the ENode's address, beacons from the one that is claimed.
        source = self.mac_address if subcode == f.Vn2vnSubcode.BEACON else config.enode_mac
        self._output.append(ethernet_fip(fip, destination, source, padded_bytes=padded_bytes))

    @staticmethod
    def _identity(fip: f.Fip) -> tuple[bytes, f.VxPortIdentification]:
        mac = next((one for one in fip.descriptors if isinstance(one, f.MacAddressDescriptor)), None)
        port = next((one for one in fip.descriptors if isinstance(one, f.VxPortIdentification)), None)
        if mac is None or port is None:
            raise MalformedFrame("a VN2VN frame without MAC address or port identification")
        return mac.mac_address, port

    def _begin(self, now_ps: int) -> None:
        """Another port speaks: so may a quiet one."""
        if self.state is Vn2vnState.QUIET:
            self.state, self._probes, self._due_ps = Vn2vnState.CLAIMED, 0, now_ps + ANNOUNCE_WAIT_PS

    def _probed(self, header: EthernetHeader, fip: f.Fip, now_ps: int) -> None:
        """Someone asks for an address: ours is taken, unless we only probe for it too and have the lower name."""
        mac, port = self._identity(fip)
        if port.address_identifier != self.n_port.n_port_id:
            return
        if self.state is Vn2vnState.PROBING and self.config.n_port.port_name < port.port_name:
            self._choose_another(now_ps)
        else:
            self._announce(f.Vn2vnSubcode.PROBE_REPLY, mac)

    def _taken(self, header: EthernetHeader, fip: f.Fip, now_ps: int) -> None:
        _, port = self._identity(fip)
        if port.address_identifier == self.n_port.n_port_id and self.state is Vn2vnState.PROBING:
            self._choose_another(now_ps)

    def _choose_another(self, now_ps: int) -> None:
        taken = {*self.neighbours, self.n_port.n_port_id}
        number = self.n_port.n_port_id
        while number in taken:
            number = number % 0xFFFF + 1
        self.n_port.n_port_id = number
        self.state, self._probes, self._due_ps = Vn2vnState.PROBING, 0, now_ps

    def _claimed(self, header: EthernetHeader, fip: f.Fip, now_ps: int) -> None:
        """The answer is as long as the asker's largest frame: it proves the path (FC-BB-6)."""
        mac, port = self._identity(fip)
        if port.address_identifier == self.n_port.n_port_id:
            self._choose_another(now_ps)
            return
        self._learn(mac, port, now_ps)
        size = next((one.max_fcoe_size_bytes for one in fip.descriptors if isinstance(one, f.MaxFcoeSize)), 0)
        self._begin(now_ps)
        if self.state in (Vn2vnState.CLAIMED, Vn2vnState.UP):
            padded = min(size, _MAX_FCOE_BYTES) + ETHERNET_HEADER_BYTES
            self._announce(f.Vn2vnSubcode.CLAIM_RESPONSE, mac, padded)
            # Linux logs in at the first beacon after the answer: one soon saves it a period.
            self._due_ps = min(self._due_ps, now_ps + ANNOUNCE_WAIT_PS)

    def _claim_response(self, header: EthernetHeader, fip: f.Fip, now_ps: int) -> None:
        mac, port = self._identity(fip)
        self._learn(mac, port, now_ps)

    def _beacon(self, header: EthernetHeader, fip: f.Fip, now_ps: int) -> None:
        """A known port's beacon keeps it, and the first one is the time to log in; an unknown one's is answered with
        a claim, so that it gets to know us."""
        mac, port = self._identity(fip)
        if port.address_identifier == self.n_port.n_port_id:
            return
        neighbour = self.neighbours.get(port.address_identifier)
        if neighbour is None or neighbour.port_name != port.port_name:
            self._learn(mac, port, now_ps)
            self._begin(now_ps)
            if self.state in (Vn2vnState.CLAIMED, Vn2vnState.UP):
                self._announce(f.Vn2vnSubcode.CLAIM_NOTIFICATION)
            return
        neighbour.expires_ps = now_ps + BEACON_PS * 5 // 2
        if self.config.n_port.wants_targets and not neighbour.fabric_login and self.state is Vn2vnState.UP:
            neighbour.fabric_login = True
            names = self.config.n_port
            message = Flogi(
                bb_credit=names.offer.bb_credit,
                bb_receive_data_field_size=names.offer.receive_data_field_bytes,
                port_name=names.port_name,
                node_name=names.node_name,
                class_3=ClassParameters(
                    service_options=ClassOptions.VALID | ClassOptions.SEQUENTIAL_DELIVERY
                ),
            )
            self._encapsulated(f.EncapsulatedFlogi, message, neighbour)

    def _learn(self, enode_mac: bytes, port: f.VxPortIdentification, now_ps: int) -> None:
        known = self.neighbours.get(port.address_identifier)
        if known is None and len(self.neighbours) >= self.config.neighbour_limit:
            raise PeerViolation(f"more than {self.config.neighbour_limit} ports on this Ethernet")
        if not port.address_identifier or port.address_identifier > 0xFFFF:
            raise PeerViolation(f"{port.address_identifier:06x} is no address of VN2VN")
        if known is not None and known.port_name == port.port_name:
            known.expires_ps = now_ps + BEACON_PS * 5 // 2
            return
        self.neighbours[port.address_identifier] = Neighbour(
            port.address_identifier,
            port.mac_address,
            enode_mac,
            port.port_name,
            now_ps + BEACON_PS * 5 // 2,
        )

    # -- FLOGI and LOGO inside FIP ------------------------------------------------------------------------------

    def _encapsulated(self, kind: type[Any], message: Any, neighbour: Neighbour) -> None:
        self._ox_id = (self._ox_id + 1) & 0x7FFF
        frame = els_request(message, s_id=self.n_port.n_port_id, d_id=neighbour.n_port_id, ox_id=self._ox_id)
        self._fip_link_service(f.LinkServiceSubcode.REQUEST, kind, frame, neighbour.enode_mac)

    def _fip_link_service(
        self, subcode: f.LinkServiceSubcode, kind: type[Any], frame: Frame, destination: bytes
    ) -> None:
        fip = f.Fip(
            operation=f.FipOperation.LINK_SERVICE,
            subcode=subcode,
            descriptors=(
                kind(frame=encode_frame(frame)),
                f.MacAddressDescriptor(mac_address=self.mac_address),
            ),
        )
        self._output.append(ethernet_fip(fip, destination, self.config.enode_mac))

    def _inside(self, header: EthernetHeader, fip: f.Fip) -> tuple[Any, Frame, Neighbour]:
        kinds = (f.EncapsulatedFlogi, f.EncapsulatedLogo)
        inside = next((one for one in fip.descriptors if isinstance(one, kinds)), None)
        if inside is None:
            raise MalformedFrame("a FIP link service without a frame")
        frame = decode_frame(inside.frame)
        neighbour = self.neighbours.get(frame.header.s_id)
        if neighbour is None or neighbour.enode_mac != header.source:
            raise PeerViolation(f"a link service from {frame.header.s_id:06x}, which is not known")
        if frame.header.d_id != self.n_port.n_port_id:
            raise PeerViolation(f"a link service for {frame.header.d_id:06x}, which is not this port")
        return inside, frame, neighbour

    def _link_service(self, header: EthernetHeader, fip: f.Fip, now_ps: int) -> None:
        inside, frame, neighbour = self._inside(header, fip)
        config = self.config.n_port
        if isinstance(inside, f.EncapsulatedLogo):
            self.n_port.forget(neighbour.n_port_id, "the peer logged out")
            neighbour.fabric_login = False
            answer: Any = LsAcc()
        else:
            offer_of(decode_els(frame.payload))
            neighbour.fabric_login = True
            size = config.offer.receive_data_field_bytes
            answer = FlogiAccept(
                bb_credit=config.offer.bb_credit,
                bb_receive_data_field_size=size,
                r_a_tov=config.r_a_tov_ps // MS_PS,
                e_d_tov=config.e_d_tov_ps // MS_PS,
                port_name=config.port_name,
                node_name=config.node_name,
                class_3=ClassParameters(
                    service_options=ClassOptions.VALID | ClassOptions.SEQUENTIAL_DELIVERY,
                    receive_data_field_size=size,
                    concurrent_sequences=255,
                    open_sequences_per_exchange=1,
                ),
            )
        reply = els_reply(answer, frame.header)
        self._fip_link_service(f.LinkServiceSubcode.REPLY, type(inside), reply, header.source)
        if isinstance(inside, f.EncapsulatedFlogi) and config.port_name > neighbour.port_name:
            self.n_port.log_in(neighbour.n_port_id, now_ps)

    def _link_service_reply(self, header: EthernetHeader, fip: f.Fip, now_ps: int) -> None:
        inside, frame, neighbour = self._inside(header, fip)
        if not isinstance(inside, f.EncapsulatedFlogi):
            return
        offer_of(decode_els(frame.payload, ElsCommand.FLOGI))
        if self.config.n_port.port_name > neighbour.port_name:
            self.n_port.log_in(neighbour.n_port_id, now_ps)

    # -- FCoE ---------------------------------------------------------------------------------------------------

    def _fcoe(self, header: EthernetHeader, delimited: DelimitedFrame, now_ps: int) -> None:
        frame = delimited.frame
        neighbour = self.neighbours.get(frame.header.s_id)
        if (
            neighbour is None
            or not delimited.crc_ok
            or header.source != neighbour.mac_address
            or header.destination != self.mac_address
            or frame.header.d_id != self.n_port.n_port_id
        ):
            self.ignored += 1
            return
        self.n_port.receive(frame, now_ps)

    def _flush(self, now_ps: int) -> None:
        for event in self.n_port.events():
            if isinstance(event, PortLoggedIn) and not event.originated:
                self.n_port.log_in_process(event.peer, now_ps)
            self._events.append(event)
        for frame in self.n_port.frames():
            neighbour = self.neighbours.get(frame.header.d_id)
            if neighbour is not None:
                self._output.append(ethernet_fcoe(frame, neighbour.mac_address, self.mac_address))
