# SPDX-License-Identifier: Apache-2.0
"""The initiator's side of the login phase (RFC 7143 section 6.3). Sans-IO."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

from iscsi_target.errors import LoginFailed, NegotiationError
from iscsi_target.session.chap import Chap, ChapInitiator
from iscsi_target.session.keys import When
from iscsi_target.session.negotiation import Negotiation, Role
from iscsi_target.session.parameters import Agreed, Parameters
from iscsi_target.wire.opcodes import Stage
from iscsi_target.wire.requests import LoginRequest
from iscsi_target.wire.responses import LoginResponse
from iscsi_target.wire.text import Pair, decode_text, encode_text

_EXCHANGES_LIMIT = 32
_REDIRECTION = 1
_TEXT_LIMIT_BYTES = 64 * 1024


@dataclass(frozen=True, slots=True, kw_only=True)
class LoginWish:
    """Who logs in, to what, as what. `tsih` 0 starts a session; else the connection joins that session."""

    initiator_name: str
    target_name: str
    """Empty for a discovery session."""
    isid: bytes
    tsih: int = 0
    cid: int = 0
    parameters: Parameters = field(default_factory=Parameters)
    chap: Chap | None = None

    def __post_init__(self) -> None:
        if len(self.isid) != 6:
            raise ValueError("an ISID has six bytes")


class InitiatorLogin:
    """`start` gives the first Login Request, `receive` the next one or None when full-feature phase is reached."""

    def __init__(
        self, wish: LoginWish, *, cmd_sn: int, task_tag: int, random_bytes: Callable[[int], bytes]
    ) -> None:
        self._wish = wish
        self._cmd_sn = cmd_sn
        self._task_tag = task_tag
        discovery = not wish.target_name
        self._negotiation = Negotiation(
            Role.INITIATOR, wish.parameters, leading=not wish.tsih, discovery=discovery
        )
        self._chap = ChapInitiator(wish.chap, random_bytes) if wish.chap is not None else None
        self._stage = (
            Stage.LOGIN_OPERATIONAL_NEGOTIATION if self._chap is None else Stage.SECURITY_NEGOTIATION
        )
        self._text = b""
        self._exchanges = 0
        self._exp_stat_sn = 0
        self._offered = False
        self.last_response: LoginResponse | None = None

    @property
    def agreed(self) -> Agreed:
        """The outcome, once `receive` has returned None."""
        return self._negotiation.agreed()

    @property
    def declared(self) -> dict[str, str]:
        """What the target stated: TargetAlias, TargetPortalGroupTag, TargetAddress (on redirection)."""
        return self._negotiation.declared

    def start(self) -> LoginRequest:
        """The first Login Request."""
        wish = self._wish
        pairs: list[Pair] = [("InitiatorName", wish.initiator_name)]
        if wish.target_name:
            pairs.append(("TargetName", wish.target_name))
        if (
            not wish.tsih
        ):  # leading only (RFC 7143 section 13.21): a connection that joins has the session's type
            pairs.append(("SessionType", "Normal" if wish.target_name else "Discovery"))
        if self._chap is not None:
            pairs.append(("AuthMethod", "CHAP"))
            return self._request(pairs, transit=False)
        pairs += self._offer()
        return self._request(pairs, transit=True)

    def receive(self, response: LoginResponse) -> LoginRequest | None:
        """The next Login Request, or None: full-feature phase.

        Raises LoginFailed when the target refuses, NegotiationError when it breaks the rules.
        """
        status = response.status_class << 8 | response.status_detail
        self.last_response = response
        if status:
            addresses: tuple[str, ...] = ()
            if response.status_class == _REDIRECTION:
                pairs = decode_text(response.data)
                addresses = tuple(value for key, value in pairs if key == "TargetAddress")
            raise LoginFailed(status, "; ".join(addresses), target_addresses=addresses)
        if response.initiator_task_tag != self._task_tag or response.isid != self._wish.isid:
            raise NegotiationError("a Login Response to another login")
        if response.csg != self._stage:
            raise NegotiationError(f"a Login Response of stage {response.csg} in stage {self._stage.value}")
        self._exp_stat_sn = (response.stat_sn + 1) & 0xFFFFFFFF
        self._exchanges += 1
        self._text += response.data
        if self._exchanges > _EXCHANGES_LIMIT or len(self._text) > _TEXT_LIMIT_BYTES:
            raise NegotiationError("the login does not come to an end")
        if response.continue_:
            return self._request([], transit=False)
        pairs, self._text = decode_text(self._text), b""
        return (
            self._security(response, pairs)
            if self._stage is Stage.SECURITY_NEGOTIATION
            else self._operational(response, pairs)
        )

    def _security(self, response: LoginResponse, pairs: list[Pair]) -> LoginRequest | None:
        assert self._chap is not None
        security = {key: value for key, value in pairs if key.startswith("CHAP_") or key == "AuthMethod"}
        plain = [pair for pair in pairs if pair[0] not in security]
        self._negotiation.receive(plain, When.SECURITY)
        if response.transit:
            self._chap.receive(security)
            if not self._chap.finished:
                raise NegotiationError("the target leaves the security stage without authentication")
            self._stage = Stage(response.nsg)
            return self._request(self._offer(), transit=True)
        answers = self._chap.receive(security)
        return self._request(answers, transit=self._chap.finished or self._chap.answered)

    def _operational(self, response: LoginResponse, pairs: list[Pair]) -> LoginRequest | None:
        answers = self._negotiation.receive(pairs, When.OPERATIONAL)
        if response.transit:
            if response.nsg != Stage.FULL_FEATURE_PHASE:
                raise NegotiationError(f"transition to stage {response.nsg}")
            if answers:
                raise NegotiationError("the target ends the negotiation with open questions")
            wish = self._wish
            if wish.target_name and (not response.tsih or wish.tsih not in (0, response.tsih)):
                raise NegotiationError(f"TSIH {response.tsih} in the last Login Response")
            return None
        return self._request(answers, transit=True)

    def _offer(self) -> list[Pair]:
        if self._offered:
            return []
        self._offered = True
        return self._negotiation.offer()

    def _request(self, pairs: list[Pair], *, transit: bool) -> LoginRequest:
        if self._stage is Stage.SECURITY_NEGOTIATION:
            next_stage = Stage.LOGIN_OPERATIONAL_NEGOTIATION
        else:
            next_stage = Stage.FULL_FEATURE_PHASE
        wish = self._wish
        return LoginRequest(
            transit=transit,
            csg=self._stage,
            nsg=next_stage if transit else 0,
            isid=wish.isid,
            tsih=wish.tsih,
            initiator_task_tag=self._task_tag,
            cid=wish.cid,
            cmd_sn=self._cmd_sn,
            exp_stat_sn=self._exp_stat_sn,
            data=encode_text(pairs),
        )
