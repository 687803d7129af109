# SPDX-License-Identifier: Apache-2.0
"""The target's side of the login phase (RFC 7143 section 6.3), one object per connection. Sans-IO."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from iscsi_target.errors import NegotiationError, SessionRefused
from iscsi_target.session.access import address_of
from iscsi_target.session.chap import AuthenticationFailed, ChapState, ChapTarget
from iscsi_target.session.keys import When
from iscsi_target.session.negotiation import Negotiation, Role
from iscsi_target.session.parameters import Agreed
from iscsi_target.session.target_session import TargetSession
from iscsi_target.wire.names import name_problem
from iscsi_target.wire.opcodes import LoginStatus, Stage
from iscsi_target.wire.requests import LoginRequest
from iscsi_target.wire.responses import LoginResponse
from iscsi_target.wire.text import Pair, decode_text, encode_text

if TYPE_CHECKING:
    from iscsi_target.session.node import Target, TargetNode
    from iscsi_target.session.target_connection import TargetConnection

TRANSITIONS: Mapping[Stage, frozenset[Stage]] = {
    Stage.SECURITY_NEGOTIATION: frozenset({Stage.LOGIN_OPERATIONAL_NEGOTIATION, Stage.FULL_FEATURE_PHASE}),
    Stage.LOGIN_OPERATIONAL_NEGOTIATION: frozenset({Stage.FULL_FEATURE_PHASE}),
}
"""Legal stage transitions (section 6.3.3, table of stage transitions); what is missing is a login error."""

_CHAP_KEYS = frozenset({"CHAP_A", "CHAP_I", "CHAP_C", "CHAP_N", "CHAP_R"})


@dataclass(frozen=True, slots=True)
class LoginStep:
    """The answer to one Login Request. `finished`: full-feature phase begins after it; `failed`: close after it."""

    response: LoginResponse
    finished: bool = False
    failed: bool = False
    text: str = ""


class TargetLogin:
    """Login Requests in, Login Responses out, until full-feature phase or refusal."""

    def __init__(
        self, node: TargetNode, connection: TargetConnection, random_bytes: Callable[[int], bytes]
    ) -> None:
        self._node = node
        self._connection = connection
        self._random = random_bytes
        self._first: LoginRequest | None = None
        self._stage = Stage.SECURITY_NEGOTIATION
        self._text = b""
        self._exchanges = 0
        self._stat_sn = 0
        self._negotiation: Negotiation | None = None
        self._chap: ChapTarget | None = None
        self._target: Target | None = None
        self._initiator_name = ""
        self._told_portal_group = False
        self._view = ""
        self._method_stated = False
        self.session: TargetSession | None = None

    @property
    def agreed(self) -> Agreed:
        """The outcome of the negotiation, once finished."""
        assert self._negotiation is not None
        return self._negotiation.agreed()

    @property
    def stat_sn(self) -> int:
        """The StatSN of the next response."""
        return self._stat_sn

    def receive(self, request: LoginRequest) -> LoginStep:
        """Answer one Login Request."""
        try:
            return self._step(request)
        except NegotiationError as error:
            return self._refuse(request, LoginStatus.INITIATOR_ERROR, str(error))
        except AuthenticationFailed as error:
            return self._refuse(request, LoginStatus.AUTHENTICATION_FAILURE, str(error))
        except SessionRefused as error:
            return self._refuse(request, error.status, str(error), error.pairs)

    def _step(self, request: LoginRequest) -> LoginStep:
        self._exchanges += 1
        if self._exchanges > self._node.limits.login_exchanges:
            raise NegotiationError(f"no end after {self._node.limits.login_exchanges} Login Requests")
        first = self._check_header(request)
        self._text += request.data
        if len(self._text) > self._node.limits.login_text_bytes:
            raise NegotiationError(f"more than {self._node.limits.login_text_bytes} bytes of login text")
        if request.continue_:
            return LoginStep(self._response(request, transit=False, pairs=[]))
        pairs = decode_text(self._text, limit=self._node.limits.text_keys)
        self._text = b""
        if first:
            self._identify(request, pairs)
        assert self._negotiation is not None
        answers: list[Pair] = []
        if not self._told_portal_group and self._target is not None:
            self._told_portal_group = True
            answers.append(("TargetPortalGroupTag", str(self._connection.portal_group_tag)))
            if self._target.alias:
                answers.append(("TargetAlias", self._target.alias))
        if self._stage is Stage.SECURITY_NEGOTIATION:
            answers += self._security(pairs)
            ready = self._chap is None or self._chap.state is ChapState.DONE
        else:
            # Some initiators offer AuthMethod=None here; without a need for authentication there is nothing to refuse.
            if self._chap is None and ("AuthMethod", "None") in pairs:
                pairs.remove(("AuthMethod", "None"))
                answers.append(("AuthMethod", "None"))
            answers += self._negotiation.receive(pairs, When.OPERATIONAL)
            answers += self._negotiation.declare()
            ready = True
        if not (request.transit and ready):
            return LoginStep(self._response(request, transit=False, pairs=answers))
        self._admit()
        next_stage = Stage(request.nsg)
        if next_stage is Stage.FULL_FEATURE_PHASE:
            self._finish(request)
            return LoginStep(self._response(request, transit=True, pairs=answers), finished=True)
        step = LoginStep(self._response(request, transit=True, pairs=answers))
        self._stage = next_stage
        return step

    def _check_header(self, request: LoginRequest) -> bool:
        """Check the fields that have to be right whatever the text says; True for the first request."""
        first = self._first is None
        if request.version_min > 0:
            raise SessionRefused(
                LoginStatus.UNSUPPORTED_VERSION, f"version {request.version_min} or newer wanted"
            )
        if request.transit and request.continue_:
            raise NegotiationError("a Login Request has both T and C set")
        if self._first is None:
            if request.csg not in (Stage.SECURITY_NEGOTIATION, Stage.LOGIN_OPERATIONAL_NEGOTIATION):
                raise NegotiationError(f"a login cannot begin in stage {request.csg}")
            self._stage = Stage(request.csg)
        elif (request.isid, request.tsih, request.cid, request.initiator_task_tag) != (
            self._first.isid,
            self._first.tsih,
            self._first.cid,
            self._first.initiator_task_tag,
        ):
            raise SessionRefused(
                LoginStatus.INVALID_DURING_LOGIN, "ISID, TSIH, CID or task tag changed within a login"
            )
        if request.csg != self._stage:
            raise NegotiationError(f"stage {request.csg} in a login that is in stage {self._stage.value}")
        if request.transit and request.nsg not in TRANSITIONS[self._stage]:
            raise NegotiationError(f"no transition from stage {request.csg} to {request.nsg}")
        self._first = self._first or request
        # A first text that is continued is identified only when it is whole.
        return first or self._negotiation is None

    def _identify(self, request: LoginRequest, pairs: list[Pair]) -> None:
        """The keys the first text has to carry: who, of what session type, to which target (section 6.3.1)."""
        stated: dict[str, str] = {}
        for key, value in pairs:
            stated.setdefault(key, value)
        name = stated.get("InitiatorName")
        if name is None:
            raise SessionRefused(
                LoginStatus.MISSING_PARAMETER, "the first Login Request has no InitiatorName"
            )
        problem = name_problem(name)
        if problem is not None:
            raise NegotiationError(f"InitiatorName {name[:64]!r}: {problem}")
        self._initiator_name = name
        session_type = stated.get("SessionType", "Normal")
        if session_type not in ("Normal", "Discovery"):
            raise SessionRefused(
                LoginStatus.SESSION_TYPE_NOT_SUPPORTED, f"session type {session_type[:32]!r}"
            )
        discovery = session_type == "Discovery"
        if not discovery:
            target_name = stated.get("TargetName")
            if target_name is None:
                raise SessionRefused(LoginStatus.MISSING_PARAMETER, "a normal session needs a TargetName")
            self._target = self._node.find(target_name, name, address_of(self._connection.peer))
        wishes = self._node.discovery_parameters if self._target is None else self._target.parameters
        if request.tsih:
            self.session = self._node.session_to_join(
                request.tsih,
                name,
                request.isid,
                self._target,
                request.cid,
                self._connection.portal_group_tag,
            )
        chap = self._target.chap if self._target is not None else self._node.discovery_chap
        if chap is not None:
            self._chap = ChapTarget(chap, self._random)
            if self._stage is not Stage.SECURITY_NEGOTIATION:
                raise AuthenticationFailed("the login skips the security stage")
        self._negotiation = Negotiation(Role.TARGET, wishes, leading=not request.tsih, discovery=discovery)

    def _admit(self) -> None:
        """The initiator has proven what it had to: may it come in, and what will it see? Raises SessionRefused."""
        if self._target is None or self._view:
            return
        identity = "" if self._chap is None else self._chap.identity
        self._view = self._target.view_for(self._initiator_name, address_of(self._connection.peer), identity)
        if self.session is not None and self.session.view != self._view:
            raise SessionRefused(
                LoginStatus.AUTHORIZATION_FAILURE,
                f"a connection of {self._initiator_name} falls under another access rule than its session",
            )

    def _security(self, pairs: list[Pair]) -> list[Pair]:
        assert self._negotiation is not None
        plain = [pair for pair in pairs if pair[0] not in _CHAP_KEYS and pair[0] != "AuthMethod"]
        answers = self._negotiation.receive(plain, When.SECURITY)
        security = [key for key, _ in pairs if key in _CHAP_KEYS or key == "AuthMethod"]
        stated = dict(pairs)
        if len(security) != len(set(security)) or ("AuthMethod" in stated and self._method_stated):
            raise NegotiationError("a security key was sent twice in one negotiation")
        if "AuthMethod" in stated:
            self._method_stated = True
            offered = stated["AuthMethod"].split(",")
            if self._chap is None:
                if "None" not in offered:
                    raise AuthenticationFailed(
                        "the initiator insists on an authentication the target has not"
                    )
                answers.append(("AuthMethod", "None"))
            elif "CHAP" not in offered:
                raise AuthenticationFailed(f"CHAP is needed, {stated['AuthMethod'][:64]!r} was offered")
            else:
                self._chap.begin()
                answers.append(("AuthMethod", "CHAP"))
        chap = {key: value for key, value in pairs if key in _CHAP_KEYS}
        if chap:
            if self._chap is None:
                raise AuthenticationFailed("CHAP keys without CHAP")
            answers += self._chap.receive(chap)
        elif self._chap is not None and self._chap.state is not ChapState.DONE and "AuthMethod" not in stated:
            raise AuthenticationFailed("the login leaves out the authentication")
        return answers

    def _finish(self, request: LoginRequest) -> None:
        assert self._negotiation is not None
        connection = self._connection
        connection.cid = request.cid
        if self.session is not None:
            self._node.join(self.session, connection)
            return
        session = TargetSession(
            self._node,
            target=self._target,
            initiator_name=self._initiator_name,
            isid=request.isid,
            portal_group_tag=connection.portal_group_tag,
            agreed=self.agreed,
            view=self._view,
            chap_name="" if self._chap is None else self._chap.identity,
        )
        self._node.establish(session, connection, initial_cmd_sn=request.cmd_sn)
        self.session = session

    def _response(
        self, request: LoginRequest, *, transit: bool, pairs: list[Pair], status: int = 0
    ) -> LoginResponse:
        session = self.session
        if session is not None and session.tsih:
            exp_cmd_sn, max_cmd_sn = session.exp_cmd_sn, session.max_cmd_sn
        else:
            exp_cmd_sn = max_cmd_sn = request.cmd_sn
        stat_sn = self._stat_sn
        self._stat_sn = (stat_sn + 1) & 0xFFFFFFFF
        finished = transit and request.nsg == Stage.FULL_FEATURE_PHASE
        return LoginResponse(
            transit=transit,
            csg=request.csg & 3,
            nsg=request.nsg & 3 if transit else 0,
            isid=request.isid,
            tsih=session.tsih if finished and session is not None else request.tsih,
            initiator_task_tag=request.initiator_task_tag,
            stat_sn=stat_sn,
            exp_cmd_sn=exp_cmd_sn,
            max_cmd_sn=max_cmd_sn,
            status_class=status >> 8,
            status_detail=status & 0xFF,
            data=encode_text(pairs),
        )

    def _refuse(
        self, request: LoginRequest, status: LoginStatus, text: str, pairs: Sequence[Pair] = ()
    ) -> LoginStep:
        response = self._response(request, transit=False, pairs=list(pairs), status=status)
        return LoginStep(response, failed=True, text=text)
