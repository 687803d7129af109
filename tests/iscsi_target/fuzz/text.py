"""Fuzz target: key=value texts, the negotiation at both ends, CHAP, whole logins, SendTargets.

Input: one byte that chooses the machine, then texts with 0xFF between them (no UTF-8 text contains that byte).
"""

from __future__ import annotations

import random
from collections.abc import Callable
from functools import partial

from iscsi_target.errors import NegotiationError
from iscsi_target.session.chap import AuthenticationFailed, Chap, ChapInitiator, ChapTarget, Credentials
from iscsi_target.session.keys import KEYS, When
from iscsi_target.session.limits import Limits
from iscsi_target.session.negotiation import Negotiation, Role
from iscsi_target.session.parameters import Agreed, Parameters
from iscsi_target.session.target_output import Phase
from iscsi_target.wire.codec import Pdu
from iscsi_target.wire.requests import LoginRequest, TextRequest
from iscsi_target.wire.responses import LoginResponse
from iscsi_target.wire.text import Pair, decode_text, encode_text
from tests.iscsi_target.fuzz.mutation import mutate_bytes
from tests.iscsi_target.imaginary_wire import HOST, TARGET, Conversation, RamDisk, make_node

BETWEEN = b"\xff"
_NAMES = [
    ("InitiatorName", HOST),
    ("TargetName", TARGET),
    ("SessionType", "Normal"),
]
_VALUES = [
    "Yes",
    "No",
    "None",
    "CRC32C",
    "0",
    "1",
    "2",
    "512",
    "8192",
    "0x10000",
    "16777215",
    "16777216",
    "Reject",
]
_VALUES += [
    "Irrelevant",
    "NotUnderstood",
    "",
    "5,7",
    "0b",
    "0x",
    "CHAP,None",
    "All",
    "\u00b2",
    "x" * 256,
    "-1",
    "1~2",
]
_TOKENS = [f"{key}=".encode() for key in KEYS] + [value.encode() for value in _VALUES]
_TOKENS += [encode_text([pair]) for pair in _NAMES] + [
    b"\0",
    b"=",
    BETWEEN,
    b"X-com.example.own=1\0",
    b"\xc3\x28",
]
_CHAP = Chap((Credentials("host", b"0123456789abcdef"),), Credentials("target", b"fedcba9876543210"))
_WISHES = Parameters(max_connections=4, initial_r2t=False, error_recovery_level=2, max_outstanding_r2t=4)
_LIMITS = Limits(login_text_bytes=4096, text_response_bytes=1 << 16)


def _text(*pairs: Pair) -> bytes:
    return encode_text(pairs)


class TextTarget:
    """See the module."""

    name = "text"
    size_limit_bytes = 3000
    peak_limit_bytes = 2 << 20

    def __init__(self) -> None:
        self._machines: list[Callable[[list[bytes]], None]] = [
            partial(_negotiate, Role.TARGET, When.OPERATIONAL, False),
            partial(_negotiate, Role.TARGET, When.FULL_FEATURE, False),
            partial(_negotiate, Role.TARGET, When.SECURITY, True),
            partial(_negotiate, Role.INITIATOR, When.OPERATIONAL, False),
            _chap_target,
            _chap_initiator,
            partial(_log_in, False, 1),
            partial(_log_in, True, 0),
            partial(_log_in, False, 0),
            _send_targets,
        ]

    def seeds(self) -> list[bytes]:
        offer = _text(*Negotiation(Role.INITIATOR, _WISHES).offer())
        answer = _text(*Negotiation(Role.TARGET, _WISHES).receive(decode_text(offer), When.OPERATIONAL))
        names = _text(*_NAMES)
        chap = BETWEEN.join(
            (
                names + _text(("AuthMethod", "CHAP,None")),
                _text(("CHAP_A", "5,7")),
                _text(("CHAP_N", "host"), ("CHAP_R", "0x" + "00" * 16)),
            )
        )
        mutual = BETWEEN.join(
            (
                _text(("CHAP_A", "7")),
                _text(("CHAP_N", "host"), ("CHAP_R", "0bAAAA"), ("CHAP_I", "7"), ("CHAP_C", "0x0102")),
            )
        )
        challenge = BETWEEN.join(
            (
                _text(("AuthMethod", "CHAP")),
                _text(("CHAP_A", "7"), ("CHAP_I", "9"), ("CHAP_C", "0x" + "11" * 16)),
                _text(("CHAP_N", "target"), ("CHAP_R", "0x" + "22" * 32)),
            )
        )
        obsolete = _text(
            ("IFMarker", "Yes"), ("OFMarkInt", "1~2"), ("X-own", "1"), ("TaskReporting", "FastAbort")
        )
        texts = [offer, answer, chap, mutual, challenge, obsolete, names + offer, names + BETWEEN + offer]
        texts += [
            _text(("SendTargets", "All")),
            _text(("MaxRecvDataSegmentLength", "1024"), ("SendTargets", "")),
        ]
        return [bytes((machine,)) + text for machine in range(len(self._machines)) for text in texts]

    def mutate(self, rng: random.Random, data: bytes, other: bytes) -> bytes:
        if rng.random() < 0.5:
            return mutate_bytes(rng, data, _TOKENS, other)
        items = data[1:].split(b"\0")
        match rng.randrange(4):
            case 0:
                items.insert(rng.randrange(len(items) + 1), rng.choice(items))
            case 1:
                del items[rng.randrange(len(items))]
            case 2:
                rng.shuffle(items)
            case _:
                key = rng.choice(list(KEYS))
                items.insert(rng.randrange(len(items) + 1), f"{key}={rng.choice(_VALUES)}".encode())
        return data[:1] + b"\0".join(items)

    def pieces(self, data: bytes) -> list[bytes]:
        pieces, start = [data[:1]], 1
        while start < len(data):
            end = data.find(b"\0", start) + 1 or len(data)
            pieces.append(data[start:end])
            start = end
        return pieces

    def run(self, data: bytes) -> None:
        if data:
            self._machines[data[0] % len(self._machines)](data[1:].split(BETWEEN)[:8])


def _decode(text: bytes) -> list[Pair] | None:
    try:
        pairs = decode_text(text)
    except NegotiationError:
        return None
    assert decode_text(encode_text(pairs)) == pairs
    return pairs


def _check(outcome: Agreed) -> None:
    assert 512 <= outcome.first_burst_length <= outcome.max_burst_length <= 0xFFFFFF
    assert 512 <= outcome.max_send_data_segment_length <= 0xFFFFFF
    assert 1 <= outcome.max_connections <= 65535 and 1 <= outcome.max_outstanding_r2t <= 65535
    assert 0 <= outcome.default_time2retain <= 3600 and 0 <= outcome.default_time2wait <= 3600
    assert outcome.header_digest in ("None", "CRC32C") and outcome.data_digest in ("None", "CRC32C")
    assert 0 <= outcome.error_recovery_level <= 2


def _negotiate(role: Role, phase: When, discovery: bool, texts: list[bytes]) -> None:
    negotiation = Negotiation(role, _WISHES, discovery=discovery)
    if role is Role.INITIATOR:
        negotiation.offer()
    for text in texts:
        pairs = _decode(text)
        if pairs is None:
            return
        if phase is When.SECURITY:  # the login keeps these for its CHAP machine
            pairs = [pair for pair in pairs if pair[0] != "AuthMethod"]
        try:
            answers = negotiation.receive(pairs, phase)
        except NegotiationError:
            return
        asked = [key for key, _ in pairs]
        assert all(asked.count(key) >= 1 for key, _ in answers), "an answer to no question"
        known = [key for key, _ in answers if key in KEYS]
        assert len(known) == len(set(known)), "a key was answered twice"
        assert decode_text(encode_text(answers)) == answers
        _check(negotiation.agreed())


def _chap_target(texts: list[bytes]) -> None:
    machine = ChapTarget(_CHAP, random.Random(1).randbytes)
    machine.begin()
    for text in texts:
        pairs = _decode(text)
        try:
            machine.receive(dict(pairs or []))
        except (AuthenticationFailed, NegotiationError):
            return


def _chap_initiator(texts: list[bytes]) -> None:
    machine = ChapInitiator(_CHAP, random.Random(1).randbytes)
    for text in texts:
        pairs = _decode(text)
        try:
            machine.receive(dict(pairs or []))
        except (AuthenticationFailed, NegotiationError):
            return
        assert not machine.finished, "the target has not proven itself"


def _log_in(chap: bool, stage: int, texts: list[bytes]) -> None:
    """A login of up to eight requests, each with one text; the stage moves when the target lets it."""
    node = make_node(RamDisk(8), limits=_LIMITS, chap=_CHAP if chap else None)
    conversation = Conversation(node)
    for number, text in enumerate(texts):
        last = number == len(texts) - 1
        request = LoginRequest(
            transit=last or stage == 0,
            csg=stage,
            nsg=3 if stage == 1 else 1,
            isid=conversation.isid,
            initiator_task_tag=7,
            cmd_sn=1,
            data=text[:8192],
        )
        answers = conversation.send(request)
        for answer in answers:
            assert isinstance(answer, LoginResponse)
            assert len(answer.data) <= 8192, "more than the default MaxRecvDataSegmentLength"
            decode_text(answer.data)
            if answer.transit and not answer.status_class:
                stage = answer.nsg
        if conversation.target.phase is not Phase.LOGIN:
            break
    if conversation.target.phase is Phase.FULL_FEATURE:
        assert not chap, "a login without the secret succeeded"
        assert conversation.target.session is not None
        _check(conversation.target.session.agreed)
        if not conversation.target._header_digest and not conversation.target._data_digest:
            conversation.target.set_max_send(1 << 14)
            conversation.assert_alive()
    conversation.target.eof()
    node.handle_timer(1)
    node.handle_timer(10**13)
    assert not node.sessions


def _send_targets(texts: list[bytes]) -> None:
    conversation = Conversation(make_node(RamDisk(8), limits=_LIMITS))
    conversation.log_in_for_discovery()
    for text in texts:
        pending: list[Pdu] = [
            TextRequest(initiator_task_tag=1, cmd_sn=conversation.next_cmd_sn(), exp_stat_sn=0, data=text)
        ]
        answers = conversation.send(*pending)
        assert len(answers) == (conversation.target.phase is Phase.FULL_FEATURE or bool(answers))
    if conversation.target.phase is Phase.FULL_FEATURE:
        conversation.target.set_max_send(1 << 14)
        conversation.assert_alive()
