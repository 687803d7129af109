# SPDX-License-Identifier: Apache-2.0
"""An N_Port's link services: port login and process login in both directions, and what else a peer asks (FC-LS).

Sans-IO. It carries FCP: frames of TYPE 08h go to the :class:`~fcsim.fcp.target.FcpTarget` or the
:class:`~fcsim.fcp.initiator.FcpInitiator` of the peer they come from.
"""

from __future__ import annotations

import enum
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from fcsim.errors import MalformedFrame, PeerViolation
from fcsim.fcp.executor import ScsiExecutor
from fcsim.fcp.initiator import CommandCompleted, ExchangeFailed, FcpInitiator
from fcsim.fcp.target import ExchangeDropped, FcpTarget, FcpTargetLimits
from fcsim.live.echo import EchoAnswered, Echoes, EchoFailed
from fcsim.live.link_services import els_reply, els_request, offer_of
from fcsim.port.login import Offer
from fcsim.wire import els_login, els_services
from fcsim.wire.codes import FCtl, FcType, RCtl
from fcsim.wire.els import decode_els
from fcsim.wire.els_commands import ElsCommand, RejectExplanation, RejectReason
from fcsim.wire.els_login import ClassOptions, ClassParameters, FcpService, ServiceParameterPage
from fcsim.wire.els_services import ExchangeStatus
from fcsim.wire.frame import Frame, FrameHeader

__all__ = [
    "Event",
    "LoginFailed",
    "NPort",
    "NPortConfig",
    "PortLoggedIn",
    "PortLoggedOut",
    "ProcessLoggedIn",
]

MS_PS = 10**9
#: OX_IDs of link services are taken from here up, so that they never meet those of FCP commands of one initiator.
_FIRST_OX_ID, _LAST_OX_ID = 0xF000, 0xFFFE
PEER_LIMIT = 256
#: Domain controllers and well-known addresses; no process login there.
_FIRST_SERVER = 0xFFFC00


@dataclass(frozen=True, slots=True)
class NPortConfig:
    """Names and what the port offers at login. ``e_d_tov_ps``: how long an answer may take; ``tries``: how often a
    login is asked before it fails. ``wants_targets``: send PRLI after a login, as an initiator does."""

    port_name: int
    node_name: int
    offer: Offer
    wants_targets: bool = False
    e_d_tov_ps: int = 2000 * MS_PS
    r_a_tov_ps: int = 10_000 * MS_PS
    tries: int = 4
    peer_limit: int = PEER_LIMIT


@dataclass(frozen=True, slots=True)
class PortLoggedIn:
    """PLOGI was accepted; ``originated`` by this end. ``offer`` is the peer's."""

    peer: int
    port_name: int
    offer: Offer
    originated: bool


@dataclass(frozen=True, slots=True)
class ProcessLoggedIn:
    """PRLI was accepted; ``peer_is_target`` says which way commands go."""

    peer: int
    peer_is_target: bool


@dataclass(frozen=True, slots=True)
class PortLoggedOut:
    """LOGO, or the link is gone."""

    peer: int
    reason: str


@dataclass(frozen=True, slots=True)
class LoginFailed:
    """The peer refused, or did not answer."""

    peer: int
    reason: str


Event = (
    PortLoggedIn
    | ProcessLoggedIn
    | PortLoggedOut
    | LoginFailed
    | ExchangeDropped
    | CommandCompleted
    | ExchangeFailed
    | EchoAnswered
    | EchoFailed
)


class _Step(enum.Enum):
    """How far the login with a peer is."""

    LOGGED_OUT = "logged out"
    PLOGI = "PLOGI sent"
    LOGGED_IN = "logged in"
    PRLI = "PRLI sent"
    PROCESS = "process logged in"


class _Peer:
    __slots__ = ("deadline_ps", "offer", "ox_id", "port_name", "step", "tries")

    def __init__(self) -> None:
        self.step = _Step.LOGGED_OUT
        self.offer: Offer | None = None
        self.port_name = 0
        self.ox_id = 0
        self.tries = 0
        self.deadline_ps: int | None = None


def _class_3(offer: Offer) -> ClassParameters:
    return ClassParameters(
        service_options=ClassOptions.VALID | ClassOptions.SEQUENTIAL_DELIVERY,
        receive_data_field_size=offer.receive_data_field_bytes,
        concurrent_sequences=255,
        open_sequences_per_exchange=1,
    )


class NPort:
    """One N_Port and the peers it is logged in with. ``executor`` makes it a target; ``directly_connected`` says that
    no fabric lies between, so that a PLOGI's BB_Credit is the link's.

    ``n_port_id`` 0: it has no address yet; a PLOGI then gives it one, as between directly connected N_Ports
    (FC-LS, point-to-point).
    """

    def __init__(
        self,
        config: NPortConfig,
        *,
        n_port_id: int = 0,
        executor: ScsiExecutor | None = None,
        limits: FcpTargetLimits | None = None,
        directly_connected: bool = False,
    ) -> None:
        self._directly_connected = directly_connected
        self.config = config
        self.target = FcpTarget(n_port_id, executor, limits) if executor is not None else None
        self.initiators: dict[int, FcpInitiator] = {}
        """Of the targets that are logged in, by their N_Port_ID."""
        self.unanswered: int = 0
        """Frames that nobody here had a use for."""
        self._n_port_id = n_port_id
        self._peers: dict[int, _Peer] = {}
        self._echoes = Echoes()
        self._ox_id = _FIRST_OX_ID
        self._output: deque[Frame] = deque()
        self._events: deque[Event] = deque()
        self._requests: Mapping[int, Callable[[FrameHeader, Any, int], None]] = {
            ElsCommand.PLOGI: self._plogi,
            ElsCommand.PDISC: self._pdisc,
            ElsCommand.PRLI: self._prli,
            ElsCommand.PRLO: self._prlo,
            ElsCommand.LOGO: self._logo,
            ElsCommand.RTV: self._rtv,
            ElsCommand.ECHO: self._echo,
            ElsCommand.ADISC: self._adisc,
            ElsCommand.RRQ: self._rrq,
            ElsCommand.REC: self._rec,
            ElsCommand.RSCN: self._rscn,
            ElsCommand.TEST: lambda _header, _message, _now_ps: None,
        }

    @property
    def n_port_id(self) -> int:
        """This port's address; 0 while it has none."""
        return self._n_port_id

    @n_port_id.setter
    def n_port_id(self, value: int) -> None:
        self._n_port_id = value
        if self.target is not None:
            self.target.s_id = value

    @property
    def logged_in(self) -> Mapping[int, int]:
        """Port names by N_Port_ID of the peers that are logged in."""
        return {
            peer: state.port_name
            for peer, state in self._peers.items()
            if state.step not in (_Step.LOGGED_OUT, _Step.PLOGI)
        }

    # -- wishes -------------------------------------------------------------------------------------------------

    def log_in(self, peer: int, now_ps: int) -> None:
        """Send PLOGI, and PRLI when it is accepted where the configuration wants targets."""
        self._peers.setdefault(peer, _Peer()).tries = 0
        self._ask(peer, _Step.PLOGI, self._login(els_login.Plogi), now_ps)

    def log_in_process(self, peer: int, now_ps: int) -> None:
        """Send PRLI to a peer that logged in here, where the configuration wants targets."""
        if self.config.wants_targets and peer < _FIRST_SERVER and peer in self.logged_in:
            self._peers[peer].tries = 0
            self._ask(peer, _Step.PRLI, self._process_login(), now_ps)

    def echo(self, peer: int, data: bytes, now_ps: int) -> Frame:
        """Send ECHO to a peer that is logged in; the frame, whose OX_ID the event has, EchoAnswered or EchoFailed.

        Raises CreditMisuse while too many are under way, PeerViolation where nobody of that address is logged in.
        """
        if peer not in self.logged_in:
            raise PeerViolation(f"{peer:06x} is not logged in")
        message = els_services.Echo(data=data)
        frame = els_request(message, s_id=self.n_port_id, d_id=peer, ox_id=self._new_ox_id())
        self._echoes.ask(frame, data, now_ps, now_ps + self.config.e_d_tov_ps)
        self._send(frame)
        return frame

    def log_out(self, peer: int) -> None:
        """Send LOGO and forget the peer."""
        message = els_login.Logo(n_port_id=self.n_port_id, port_name=self.config.port_name)
        self._send(els_request(message, s_id=self.n_port_id, d_id=peer, ox_id=self._new_ox_id()))
        self.forget(peer, "logged out")

    def link_lost(self, reason: str) -> None:
        """Every login is void, without a word on the wire."""
        for peer in list(self._peers):
            self.forget(peer, reason)

    def grant_at_most(self, granted_bytes: int) -> None:
        """Have the target ask for no more Data-Out at once (:meth:`FcpTarget.grant_at_most`)."""
        if self.target is not None:
            self.target.grant_at_most(granted_bytes)

    def refuse_commands(self, busy: bool) -> None:
        """Have the target answer TASK SET FULL, or no more: who sends for it cannot keep up with what it is asked."""
        if self.target is not None:
            self.target.busy = busy

    # -- frames -------------------------------------------------------------------------------------------------

    def receive(self, frame: Frame, now_ps: int) -> None:
        """A frame addressed to this port."""
        header = frame.header
        if header.type_ == FcType.ELS:
            self._link_service(frame, now_ps)
        elif header.s_id not in self.logged_in:
            self.unanswered += 1
            if header.r_ctl == RCtl.UNSOLICITED_COMMAND:  # FC-LS: a frame before login is answered with LOGO
                message = els_login.Logo(n_port_id=self.n_port_id, port_name=self.config.port_name)
                self._send(els_request(message, s_id=header.d_id, d_id=header.s_id, ox_id=self._new_ox_id()))
        elif header.f_ctl & FCtl.EXCHANGE_RESPONDER:
            initiator = self.initiators.get(header.s_id)
            if initiator is None:
                self.unanswered += 1
                return
            initiator.receive(frame, now_ps)
        elif self.target is not None:
            self.target.receive(frame, now_ps)
        else:
            self.unanswered += 1

    def frames(self) -> Iterator[Frame]:
        """What has to be sent, in order; handed over once."""
        while self._output:
            yield self._output.popleft()
        if self.target is not None:
            yield from self.target.frames()
        for initiator in self.initiators.values():
            yield from initiator.frames()

    def events(self) -> Iterator[Event]:
        """What happened since the last call."""
        while self._events:
            yield self._events.popleft()
        yield from self._echoes.events()
        if self.target is not None:
            yield from self.target.events()
        for initiator in self.initiators.values():
            yield from initiator.events()

    def next_deadline(self) -> int | None:
        """When :meth:`handle_timer` wants to be called, in picoseconds."""
        due = [peer.deadline_ps for peer in self._peers.values() if peer.deadline_ps is not None]
        for core in (self._echoes, self.target, *self.initiators.values()):
            deadline = None if core is None else core.next_deadline()
            if deadline is not None:
                due.append(deadline)
        return min(due, default=None)

    def handle_timer(self, now_ps: int) -> None:
        """Ask again where no answer came, or give up; let the exchanges' time run out."""
        for number, peer in list(self._peers.items()):
            if peer.deadline_ps is None or peer.deadline_ps > now_ps:
                continue
            if peer.tries >= self.config.tries:
                self._failed(number, f"no answer to {peer.tries} requests: {peer.step.value}")
            elif peer.step is _Step.PLOGI:
                self._ask(number, _Step.PLOGI, self._login(els_login.Plogi), now_ps)
            else:
                self._ask(number, _Step.PRLI, self._process_login(), now_ps)
        for core in (self._echoes, self.target, *self.initiators.values()):
            if core is not None:
                core.handle_timer(now_ps)

    # -- what this end asks -------------------------------------------------------------------------------------

    def _login(self, kind: type[Any]) -> Any:
        offer, config = self.config.offer, self.config
        return kind(
            bb_credit=offer.bb_credit,
            common_features=els_login.CommonFeatures.MULTIPLE_N_PORT_ID
            | (els_login.CommonFeatures.ALTERNATE_BB_CREDIT if offer.alternate else 0),
            bb_sc_n=offer.bb_sc_n,
            bb_receive_data_field_size=offer.receive_data_field_bytes,
            e_d_tov=config.e_d_tov_ps // MS_PS,
            port_name=config.port_name,
            node_name=config.node_name,
            class_3=_class_3(offer),
        )

    def _process_login(self) -> els_login.Prli:
        page = ServiceParameterPage(
            establish_image_pair=True,
            service_parameters=FcpService.INITIATOR | FcpService.READ_XFER_RDY_DISABLED,
        )
        return els_login.Prli(pages=(page,))

    def _ask(self, peer: int, step: _Step, message: Any, now_ps: int) -> None:
        state = self._peers.setdefault(peer, _Peer())
        state.step, state.ox_id = step, self._new_ox_id()
        state.tries += 1
        state.deadline_ps = now_ps + self.config.e_d_tov_ps
        self._send(els_request(message, s_id=self.n_port_id, d_id=peer, ox_id=state.ox_id))

    def _answered(self, frame: Frame, now_ps: int) -> None:
        """LS_ACC or LS_RJT of what this end asked; anything else is of no use."""
        header = frame.header
        if self._echoes.take(frame, now_ps):
            return
        peer = self._peers.get(header.s_id)
        if peer is None or peer.deadline_ps is None or header.ox_id != peer.ox_id:
            self.unanswered += 1
            return
        asked = ElsCommand.PLOGI if peer.step is _Step.PLOGI else ElsCommand.PRLI
        try:
            message = decode_els(frame.payload, asked)
            if isinstance(message, els_services.LsRjt):
                reason = f"reason {message.reason:#04x}, explanation {message.explanation:#04x}"
                self._failed(header.s_id, f"{asked.name} was refused: {reason}")
            elif isinstance(message, els_login.PlogiAccept):
                self._logged_in(header.s_id, message, originated=True)
                self.log_in_process(header.s_id, now_ps)
            elif isinstance(message, els_login.PrliAccept):
                self._process_accepted(header.s_id, message)
        except (MalformedFrame, PeerViolation) as error:
            self._failed(header.s_id, str(error))

    def _process_accepted(self, peer: int, message: els_login.PrliAccept) -> None:
        page = next((page for page in message.pages if page.type_ == FcType.FCP), None)
        if page is None or page.response_code != els_login.PrliResponse.REQUEST_EXECUTED:
            code = "no page of FCP" if page is None else f"response code {page.response_code}"
            self._failed(peer, f"PRLI was not executed: {code}")
            return
        state = self._peers[peer]
        state.step, state.deadline_ps = _Step.PROCESS, None
        if page.service_parameters & FcpService.TARGET and peer not in self.initiators:
            assert state.offer is not None
            size = min(state.offer.receive_data_field_bytes, self.config.offer.receive_data_field_bytes)
            self.initiators[peer] = FcpInitiator(self.n_port_id, peer, max_payload=size)
        self._events.append(ProcessLoggedIn(peer, bool(page.service_parameters & FcpService.TARGET)))

    def _failed(self, peer: int, reason: str) -> None:
        self.forget(peer, reason)
        self._events.append(LoginFailed(peer, reason))

    def _logged_in(self, peer: int, message: Any, *, originated: bool) -> None:
        state = self._peers[peer]
        offer = offer_of(message, directly_connected=self._directly_connected)
        state.offer, state.port_name = offer, message.port_name
        state.step, state.deadline_ps, state.tries = _Step.LOGGED_IN, None, 0
        self._events.append(PortLoggedIn(peer, message.port_name, offer, originated))

    def forget(self, peer: int, reason: str) -> None:
        """A peer is gone; nothing is sent."""
        state = self._peers.pop(peer, None)
        initiator = self.initiators.pop(peer, None)
        self._echoes.forget(peer, reason)
        if initiator is not None or (state is not None and state.step not in (_Step.LOGGED_OUT, _Step.PLOGI)):
            self._events.append(PortLoggedOut(peer, reason))
        if self.target is not None:
            self.target.log_out(peer)

    # -- what a peer asks ---------------------------------------------------------------------------------------

    def _link_service(self, frame: Frame, now_ps: int) -> None:
        header = frame.header
        if header.f_ctl & FCtl.EXCHANGE_RESPONDER:
            self._answered(frame, now_ps)
            return
        try:
            message = decode_els(frame.payload)
        except MalformedFrame:
            self._refuse(header, RejectReason.LOGICAL_ERROR, RejectExplanation.INVALID_PAYLOAD_LENGTH)
            return
        handler = self._requests.get(frame.payload[0])
        if handler is None:
            self._refuse(header, RejectReason.COMMAND_NOT_SUPPORTED, RejectExplanation.REQUEST_NOT_SUPPORTED)
        else:
            handler(header, message, now_ps)

    def _plogi(self, header: FrameHeader, message: els_login.Plogi, now_ps: int) -> None:
        if header.s_id not in self._peers and len(self._peers) >= self.config.peer_limit:
            self._refuse(header, RejectReason.UNABLE_TO_PERFORM, RejectExplanation.INSUFFICIENT_RESOURCES)
            return
        self.forget(header.s_id, "a new login")
        try:
            offer_of(message, directly_connected=self._directly_connected)
        except PeerViolation:
            self._refuse(
                header, RejectReason.LOGICAL_ERROR, RejectExplanation.INVALID_COMMON_SERVICE_PARAMETERS
            )
            return
        if not self.n_port_id:
            self.n_port_id = header.d_id
        self._peers[header.s_id] = _Peer()
        self._reply(self._login(els_login.PlogiAccept), header)
        self._logged_in(header.s_id, message, originated=False)

    def _pdisc(self, header: FrameHeader, message: Any, now_ps: int) -> None:
        if self._known(header):
            self._reply(self._login(els_login.PlogiAccept), header)

    def _prli(self, header: FrameHeader, message: els_login.Prli, now_ps: int) -> None:
        if not self._known(header):
            return
        state = self._peers[header.s_id]
        assert state.offer is not None
        pages = []
        for page in message.pages:
            known = page.type_ == FcType.FCP
            mine = (FcpService.TARGET if self.target is not None else 0) | (
                FcpService.INITIATOR if self.config.wants_targets else 0
            )
            pages.append(
                ServiceParameterPage(
                    type_=page.type_,
                    establish_image_pair=known and page.establish_image_pair,
                    response_code=els_login.PrliResponse.REQUEST_EXECUTED
                    if known
                    else els_login.PrliResponse.NO_SUCH_PAGE,
                    service_parameters=mine | FcpService.READ_XFER_RDY_DISABLED if known else 0,
                )
            )
            if known:
                if self.target is not None and page.service_parameters & FcpService.INITIATOR:
                    size = min(
                        state.offer.receive_data_field_bytes, self.config.offer.receive_data_field_bytes
                    )
                    self.target.log_in(header.s_id, size)
                if state.step is not _Step.PRLI:
                    state.step = _Step.PROCESS
                is_target = bool(page.service_parameters & FcpService.TARGET)
                self._events.append(ProcessLoggedIn(header.s_id, is_target))
        self._reply(els_login.PrliAccept(pages=tuple(pages)), header)

    def _prlo(self, header: FrameHeader, message: els_login.Prlo, now_ps: int) -> None:
        if not self._known(header):
            return
        if self.target is not None:
            self.target.log_out(header.s_id)
        self.initiators.pop(header.s_id, None)
        self._peers[header.s_id].step = _Step.LOGGED_IN
        done = els_login.PrliResponse.REQUEST_EXECUTED
        pages = tuple(els_login.PrloPage(type_=page.type_, response_code=done) for page in message.pages)
        self._reply(els_login.PrloAccept(pages=pages), header)

    def _logo(self, header: FrameHeader, message: Any, now_ps: int) -> None:
        self.forget(header.s_id, "the peer logged out")
        self._reply(els_services.LsAcc(), header)

    def _rtv(self, header: FrameHeader, message: Any, now_ps: int) -> None:
        values = self.config.r_a_tov_ps // MS_PS, self.config.e_d_tov_ps // MS_PS
        self._reply(els_services.RtvAccept(r_a_tov=values[0], e_d_tov=values[1]), header)

    def _echo(self, header: FrameHeader, message: els_services.Echo, now_ps: int) -> None:
        self._reply(els_services.EchoAccept(data=message.data), header)

    def _adisc(self, header: FrameHeader, message: Any, now_ps: int) -> None:
        if not self._known(header):
            return
        config = self.config
        self._reply(
            els_services.AdiscAccept(
                port_name=config.port_name, node_name=config.node_name, n_port_id=self.n_port_id
            ),
            header,
        )

    def _rrq(self, header: FrameHeader, message: Any, now_ps: int) -> None:
        self._reply(els_services.LsAcc(), header)

    def _rscn(self, header: FrameHeader, message: Any, now_ps: int) -> None:
        self._reply(els_services.LsAcc(), header)

    def _rec(self, header: FrameHeader, message: els_services.Rec, now_ps: int) -> None:
        """How far an exchange is (FC-LS, REC): one that waits for its XFER_RDY is not lost, and is told so."""
        progress = None if self.target is None else self.target.progress(header.s_id, message.exchange_ox_id)
        if progress is None:
            self._refuse(header, RejectReason.LOGICAL_ERROR, RejectExplanation.INVALID_OX_ID_RX_ID)
            return
        held = ExchangeStatus.SEQUENCE_INITIATIVE_HELD if progress.holds_initiative else 0
        self._reply(
            els_services.RecAccept(
                exchange_ox_id=message.exchange_ox_id,
                exchange_rx_id=progress.rx_id,
                originator_id=header.s_id,
                responder_id=self.n_port_id,
                fc4_value=progress.received_bytes,
                e_stat=ExchangeStatus.RESPONDER | held,
            ),
            header,
        )

    # -- inside -------------------------------------------------------------------------------------------------

    def _known(self, header: FrameHeader) -> bool:
        if header.s_id in self.logged_in:
            return True
        self._refuse(header, RejectReason.UNABLE_TO_PERFORM, RejectExplanation.N_PORT_LOGIN_REQUIRED)
        return False

    def _refuse(self, header: FrameHeader, reason: RejectReason, explanation: RejectExplanation) -> None:
        self._reply(els_services.LsRjt(reason=reason, explanation=explanation), header)

    def _reply(self, message: Any, header: FrameHeader) -> None:
        self._send(els_reply(message, header))

    def _send(self, frame: Frame) -> None:
        self._output.append(frame)

    def _new_ox_id(self) -> int:
        ox_id, self._ox_id = self._ox_id, self._ox_id + 1 if self._ox_id < _LAST_OX_ID else _FIRST_OX_ID
        return ox_id
