# SPDX-License-Identifier: Apache-2.0
"""Text requests in full-feature phase at the target: SendTargets and renegotiation (RFC 7143 sections 4.3, 11.10,
appendix C). Sans-IO."""

from __future__ import annotations

from typing import TYPE_CHECKING

from iscsi_target.errors import LimitExceeded, NegotiationError, ProtocolError
from iscsi_target.session.access import address_of
from iscsi_target.session.keys import When
from iscsi_target.session.negotiation import Negotiation, Role
from iscsi_target.wire.opcodes import RESERVED_TAG, RejectReason
from iscsi_target.wire.requests import TextRequest
from iscsi_target.wire.responses import TextResponse
from iscsi_target.wire.text import Pair, decode_text, encode_text

if TYPE_CHECKING:
    from iscsi_target.session.node import Target
    from iscsi_target.session.target_connection import TargetConnection


class TextExchange:
    """The text negotiation of one connection; one at a time (section 4.3)."""

    def __init__(self, connection: TargetConnection) -> None:
        self._connection = connection
        self._text = b""
        self._answer = b""
        self._tag = RESERVED_TAG
        self._task_tag = RESERVED_TAG
        self._negotiation: Negotiation | None = None
        """Of the exchange in progress; what comes of it holds when the exchange ends (sections 6.4, 7.12)."""

    def receive(self, request: TextRequest) -> None:
        """Answer one Text Request. Raises ProtocolError for what is to be rejected."""
        try:
            self._step(request)
        except ProtocolError:
            self._reset()
            raise

    def _reset(self) -> None:
        self._text = self._answer = b""
        self._tag = self._task_tag = RESERVED_TAG
        self._negotiation = None

    def _step(self, request: TextRequest) -> None:
        if request.final and request.continue_:
            raise ProtocolError("a Text Request has both F and C set", RejectReason.PROTOCOL_ERROR)
        if request.target_transfer_tag == RESERVED_TAG:
            self._reset()  # a reserved tag starts a new exchange and ends an older one (section 11.10.4)
            self._task_tag = request.initiator_task_tag
        elif request.target_transfer_tag != self._tag or request.initiator_task_tag != self._task_tag:
            raise ProtocolError("the tags name no text exchange in progress", RejectReason.PROTOCOL_ERROR)
        limits = self._connection.node.limits
        if self._connection.output_bytes > limits.send_queue_bytes:
            # One at a time is what section 11.10 allows; one read may bring thousands, each with a long answer.
            raise ProtocolError("a Text Request before earlier answers could be sent")
        self._text += request.data
        if len(self._text) > limits.login_text_bytes:
            raise LimitExceeded(f"more than {limits.login_text_bytes} bytes of text")
        if request.continue_:
            self._send(request, b"", continue_=False, final=False)
            return
        if self._answer:
            if request.data:
                raise ProtocolError("new text before the answer was fetched", RejectReason.PROTOCOL_ERROR)
        else:
            self._answer = encode_text(self._answers(decode_text(self._text, limit=limits.text_keys)))
            self._text = b""
            if len(self._answer) > limits.text_response_bytes:
                raise LimitExceeded("the answer is too long", RejectReason.LONG_OPERATION_REJECT)
        room = self._connection.max_send
        part, self._answer = self._answer[:room], self._answer[room:]
        self._send(request, part, continue_=bool(self._answer), final=request.final and not self._answer)

    def _send(self, request: TextRequest, data: bytes, *, continue_: bool, final: bool) -> None:
        connection = self._connection
        session = connection.session
        assert session is not None
        negotiation = self._negotiation
        if final:
            self._reset()
        elif self._tag == RESERVED_TAG:
            self._tag = session.new_transfer_tag()
        connection.send(
            TextResponse(
                final=final,
                continue_=continue_,
                lun=request.lun,
                initiator_task_tag=request.initiator_task_tag,
                target_transfer_tag=self._tag,
                stat_sn=connection.take_stat_sn(),
                exp_cmd_sn=session.exp_cmd_sn,
                max_cmd_sn=session.max_cmd_sn,
                data=data,
            )
        )
        if final and negotiation is not None and negotiation.segment_length_received:
            connection.set_max_send(negotiation.agreed().max_send_data_segment_length)

    def _answers(self, pairs: list[Pair]) -> list[Pair]:
        connection = self._connection
        session = connection.session
        assert session is not None
        if self._negotiation is None:
            wishes = (
                session.target.parameters
                if session.target is not None
                else connection.node.discovery_parameters
            )
            self._negotiation = Negotiation(Role.TARGET, wishes, discovery=session.target is None)
            self._negotiation.declare()  # ours stays as it was declared in the login
        answers: list[Pair] = []
        for key, value in pairs:
            if key == "SendTargets":
                answers += self._send_targets(value)
            else:
                answers += self._negotiation.receive([(key, value)], When.FULL_FEATURE)
        return answers

    def _send_targets(self, value: str) -> list[Pair]:
        connection = self._connection
        session = connection.session
        assert session is not None
        node = connection.node
        targets: list[Target]
        visible = node.visible_targets(session.initiator_name, address_of(connection.peer), session.chap_name)
        if value == "All":
            if session.target is not None:
                raise NegotiationError("SendTargets=All is for discovery sessions only")
            targets = visible
        else:
            name = value or (session.target.name if session.target is not None else "")
            if not name:
                raise NegotiationError("an empty SendTargets is for normal sessions only")
            targets = [target for target in visible if target.name == name]
        pairs: list[Pair] = []
        for target in targets:
            pairs.append(("TargetName", target.name))
            pairs += [("TargetAddress", portal.address(connection.local_host)) for portal in node.portals]
        return pairs
