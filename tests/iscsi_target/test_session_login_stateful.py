"""The login phase against a raw peer that does whatever comes to its mind, and against our own initiator.

A small model of RFC 7143 section 6.3 runs beside the target: which stage it is in, whether the peer has proven itself,
which keys were answered. What the target answers must be what the model allows.
"""

from __future__ import annotations

import random
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from iscsi_target.errors import NegotiationError
from iscsi_target.session.chap import Chap, Credentials, answer_challenge, decode_binary, encode_binary
from iscsi_target.session.keys import KEYS
from iscsi_target.session.limits import Limits
from iscsi_target.session.parameters import Parameters
from iscsi_target.session.target_output import Phase
from iscsi_target.wire.codec import Pdu
from iscsi_target.wire.opcodes import LoginStatus
from iscsi_target.wire.requests import NopOut, ScsiCommandPdu, TextRequest
from iscsi_target.wire.responses import LoginResponse
from iscsi_target.wire.text import Pair, decode_text, encode_text
from tests.iscsi_target.imaginary_wire import (
    HOST,
    TARGET,
    Conversation,
    Pair2Ends,
    RamDisk,
    make_node,
    read_16,
)

SECRET, OWN_SECRET = b"a long enough secret", b"and another, ours"
CHAP = Chap((Credentials("host", SECRET),), Credentials("target", OWN_SECRET))
LEGAL_STATUS = frozenset(LoginStatus)
TRANSITIONS = {(0, 1), (0, 3), (1, 3)}
VALUES = [
    "Yes",
    "No",
    "None",
    "CRC32C",
    "CRC32C,None",
    "1",
    "2",
    "0",
    "8192",
    "65536",
    "16777216",
    "maybe",
    "Irrelevant",
]
OPERATIONAL = sorted(key for key, row in KEYS.items() if row.when.name == "OPERATIONAL")
NAMES = [("InitiatorName", HOST), ("TargetName", TARGET), ("SessionType", "Normal")]


class LoginMachine(RuleBasedStateMachine):
    """One connection that logs in, or tries to."""

    def __init__(self) -> None:
        super().__init__()
        self.limits = Limits(login_exchanges=12, login_text_bytes=4000)
        self.stage: int | None = None
        self.identified = False
        self.proven = False
        self.next_stat_sn: int | None = None
        self.answered: list[str] = []
        self.challenge: dict[str, str] = {}
        self.partial = False
        self.refused = False

    @initialize(chap=st.booleans())
    def begin(self, chap: bool) -> None:
        self.chap = chap
        self.disk = RamDisk(8)
        self.node = make_node(self.disk, limits=self.limits, chap=CHAP if chap else None)
        self.peer = Conversation(self.node)

    @property
    def over(self) -> bool:
        return self.peer.target.phase is not Phase.LOGIN

    def log_in(self, pairs: list[Pair], **fields: Any) -> LoginResponse | None:
        """One Login Request, and everything that is true of its answer whatever it says."""
        answers = self.peer.send(self.peer.login_request(pairs, **fields))
        if self.refused:
            assert answers == [], "an answer after the refusal"
            return None
        (answer,) = answers
        assert isinstance(answer, LoginResponse)
        status = answer.status_class << 8 | answer.status_detail
        assert status in LEGAL_STATUS
        assert self.next_stat_sn in (None, answer.stat_sn), "StatSN of Login Responses is not contiguous"
        self.next_stat_sn = answer.stat_sn + 1
        assert answer.initiator_task_tag == 7
        if status:
            self.refused = True
            assert not answer.transit
            assert self.peer.target.phase is Phase.CLOSING
            return answer
        return answer

    def follow(self, answer: LoginResponse | None, csg: int, nsg: int, transit: bool) -> None:
        """Move the model as the answer says, if it may say so."""
        if answer is None or self.refused:
            return
        assert answer.csg == csg
        assert not (answer.transit and not transit), "the target sets T and the initiator did not"
        assert answer.transit or answer.nsg == 0
        if answer.transit:
            assert answer.nsg == nsg
            assert (csg, nsg) in TRANSITIONS
            assert self.proven or not self.chap, "the stage ends without authentication"
            self.stage = nsg
            assert (answer.tsih != 0) == (nsg == 3)
        else:
            assert answer.tsih == 0
        pairs = decode_text(answer.data)
        known = [key for key, _ in pairs if key in KEYS]
        for key in known:
            assert key not in self.answered, f"{key} was answered twice"
        self.answered += known
        if "CHAP_C" in dict(pairs):
            self.challenge = dict(pairs)
        if "CHAP_N" in dict(pairs):
            wanted = answer_challenge(int(self.challenge["CHAP_A"]), 77, OWN_SECRET, b"our own challenge")
            assert decode_binary(dict(pairs)["CHAP_R"]) == wanted

    def send(self, pairs: list[Pair], *, csg: int, nsg: int, transit: bool, names: bool) -> None:
        if names:
            pairs = [*NAMES, *pairs]
        first = self.stage is None
        answer = self.log_in(pairs, csg=csg, nsg=nsg if transit else 0, transit=transit)
        legal_stage = csg in (0, 1) if first else csg == self.stage
        if answer is not None and not self.refused:
            assert legal_stage, "a stage that is not the login's"
            assert not transit or (csg, nsg) in TRANSITIONS, "a transition that there is not"
            assert not first or names, "a login without names"
            if first:
                self.stage = csg
        self.follow(answer, csg, nsg, transit)

    @rule(
        data=st.data(),
        count=st.integers(0, 4),
        csg=st.sampled_from([0, 1, 1, 1, 2, 3]),
        nsg=st.sampled_from([1, 3, 3, 0, 2]),
        transit=st.booleans(),
        names=st.booleans(),
    )
    @precondition(lambda self: not self.over)
    def any_request(
        self, data: st.DataObject, count: int, csg: int, nsg: int, transit: bool, names: bool
    ) -> None:
        """A request in any stage, to any stage, with any keys."""
        pairs = [
            (data.draw(st.sampled_from(OPERATIONAL)), data.draw(st.sampled_from(VALUES)))
            for _ in range(count)
        ]
        self.send(pairs, csg=csg, nsg=nsg, transit=transit, names=names)

    @rule(data=st.data(), count=st.integers(0, 4), transit=st.booleans())
    @precondition(lambda self: not self.over)
    def fitting_request(self, data: st.DataObject, count: int, transit: bool) -> None:
        """A request that goes on where the login stands, with keys that were not sent yet."""
        csg = (0 if self.chap else 1) if self.stage is None else self.stage
        left = [key for key in OPERATIONAL if key not in self.answered and csg == 1]
        keys = data.draw(st.lists(st.sampled_from(left), max_size=count, unique=True)) if left else []
        pairs = [(key, data.draw(st.sampled_from(VALUES))) for key in keys]
        self.send(pairs, csg=csg, nsg=3 if csg else 1, transit=transit, names=self.stage is None)

    @rule(method=st.sampled_from(["CHAP", "CHAP,None", "None", "KRB5"]), transit=st.booleans())
    @precondition(lambda self: not self.over and self.stage in (None, 0))
    def offer_a_method(self, method: str, transit: bool) -> None:
        self.send([("AuthMethod", method)], csg=0, nsg=1, transit=transit, names=self.stage is None)

    @rule(algorithms=st.sampled_from(["5", "7", "7,5", "6,8", "99", "", "\u00b2", "5,5"]))
    @precondition(lambda self: not self.over and self.stage == 0)
    def offer_algorithms(self, algorithms: str) -> None:
        self.send([("CHAP_A", algorithms)], csg=0, nsg=1, transit=False, names=False)

    @rule(right=st.booleans(), mutual=st.booleans(), transit=st.booleans())
    @precondition(lambda self: not self.over and self.stage == 0 and self.challenge)
    def prove(self, right: bool, mutual: bool, transit: bool) -> None:
        secret = SECRET if right else b"not the secret"
        stated = self.challenge
        response = answer_challenge(
            int(stated["CHAP_A"]), int(stated["CHAP_I"]), secret, decode_binary(stated["CHAP_C"])
        )
        pairs = [("CHAP_N", "host"), ("CHAP_R", encode_binary(response))]
        if mutual:
            pairs += [("CHAP_I", "77"), ("CHAP_C", encode_binary(b"our own challenge"))]
        again = self.proven
        self.proven = self.proven or right
        self.send(pairs, csg=0, nsg=1, transit=transit, names=False)
        assert self.refused == (again or not right), (
            "a proof that holds is refused, or one that does not is taken"
        )

    @rule()
    @precondition(lambda self: not self.over and self.stage == 0 and self.challenge)
    def reflect_the_challenge(self) -> None:
        """The attack that RFC 7143 section 12.1.3 names: our own challenge comes back to be answered by us."""
        pairs = [
            ("CHAP_N", "host"),
            ("CHAP_R", "0x00"),
            ("CHAP_I", "1"),
            ("CHAP_C", self.challenge["CHAP_C"]),
        ]
        self.send(pairs, csg=0, nsg=1, transit=False, names=False)
        assert self.refused

    @rule(cut=st.integers(1, 60))
    @precondition(lambda self: not self.over and self.stage is None)
    def continued_text(self, cut: int) -> None:
        """A text in two requests (C bit): the first is answered with nothing."""
        text = encode_text(NAMES)
        csg = 0 if self.chap else 1
        answer = self.log_in([], csg=csg, nsg=0, transit=False, continue_=True, data=text[:cut])
        if answer is None or self.refused:
            return
        assert (answer.data, answer.transit) == (b"", False)
        self.stage = csg
        last = self.log_in([("AuthMethod", "CHAP")] if self.chap else [], csg=csg, transit=False, nsg=0)
        if last is not None and cut != len(text):
            assert self.refused, "half a text was taken for a whole one"
        self.follow(last, csg, 0, False)

    @rule(
        change=st.sampled_from(
            [{"initiator_task_tag": 8}, {"cid": 9}, {"isid": b"other!"}, {"tsih": 3}, {"version_min": 1}]
        )
    )
    @precondition(lambda self: not self.over and self.stage is not None)
    def change_of_identity(self, change: dict[str, Any]) -> None:
        request = self.peer.login_request([], csg=self.stage, nsg=0, transit=False, **change)
        (answer,) = self.peer.send(request)
        assert isinstance(answer, LoginResponse)
        wanted = (
            LoginStatus.UNSUPPORTED_VERSION if "version_min" in change else LoginStatus.INVALID_DURING_LOGIN
        )
        assert answer.status_class << 8 | answer.status_detail == wanted
        self.refused = True

    @rule(
        pdu=st.sampled_from(
            [
                NopOut(immediate=True, initiator_task_tag=1, cmd_sn=1, exp_stat_sn=0),
                ScsiCommandPdu(cdb=read_16(0, 1), initiator_task_tag=1, cmd_sn=1, exp_stat_sn=0, read=True),
                TextRequest(initiator_task_tag=1, cmd_sn=1, exp_stat_sn=0, data=b"SendTargets=All\0"),
            ]
        )
    )
    @precondition(lambda self: not self.over)
    def a_pdu_of_another_phase(self, pdu: Pdu) -> None:
        """Before the login is complete no command is heard."""
        (answer,) = self.peer.send(pdu)
        assert isinstance(answer, LoginResponse)
        assert answer.status_class << 8 | answer.status_detail == LoginStatus.INVALID_DURING_LOGIN
        self.refused = True

    @rule()
    @precondition(lambda self: self.over)
    def once_more(self) -> None:
        """What follows the end: full-feature phase works when it was reached, a refused peer is not heard."""
        if self.refused:
            assert self.peer.send(self.peer.login_request(NAMES)) == []
            self.peer = Conversation(self.node)
            self.forget()
            return
        digests = self.peer.target._header_digest or self.peer.target._data_digest
        if not digests:
            self.peer.assert_alive()
        self.peer.target.eof()
        self.node.handle_timer(0)
        self.node.handle_timer(10**13)  # at error recovery level 2 the session waited for the connection
        self.peer = Conversation(self.node)
        self.forget()

    def forget(self) -> None:
        self.stage = None
        self.proven = self.refused = False
        self.next_stat_sn = None
        self.answered = []
        self.challenge = {}

    @invariant()
    def no_full_feature_phase_without_authentication(self) -> None:
        if hasattr(self, "peer") and self.peer.target.phase is Phase.FULL_FEATURE:
            assert self.proven or not self.chap
            assert self.peer.target.session is not None
            assert self.peer.target.session.tsih in self.node.sessions

    @invariant()
    def a_session_is_there_only_while_logged_in(self) -> None:
        if hasattr(self, "peer"):
            assert len(self.node.sessions) == (self.peer.target.phase is Phase.FULL_FEATURE)
            assert len(self.disk.established) - len(self.disk.lost) == len(self.node.sessions)


LoginMachine.TestCase.settings = settings(max_examples=150, stateful_step_count=25)
TestLoginMachine = LoginMachine.TestCase


@st.composite
def wishes(draw: st.DrawFn) -> Parameters:
    burst = draw(st.integers(512, 0xFFFFFF))
    digests = st.sampled_from([("None",), ("CRC32C",), ("None", "CRC32C"), ("CRC32C", "None")])
    return Parameters(
        header_digest=draw(digests),
        data_digest=draw(digests),
        max_connections=draw(st.integers(1, 65535)),
        initial_r2t=draw(st.booleans()),
        immediate_data=draw(st.booleans()),
        max_recv_data_segment_length=draw(st.integers(512, 0xFFFFFF)),
        max_burst_length=burst,
        first_burst_length=draw(st.integers(512, burst)),
        default_time2wait=draw(st.integers(0, 3600)),
        default_time2retain=draw(st.integers(0, 3600)),
        max_outstanding_r2t=draw(st.integers(1, 65535)),
        error_recovery_level=draw(st.integers(0, 2)),
    )


@settings(max_examples=150)
@given(ours=wishes(), theirs=wishes(), chap=st.booleans(), chunk=st.integers(1, 300))
def test_both_ends_agree_on_the_same_whatever_they_wish(
    ours: Parameters, theirs: Parameters, chap: bool, chunk: int
) -> None:
    digests_meet = all(
        set(getattr(ours, key)) & set(getattr(theirs, key)) for key in ("header_digest", "data_digest")
    )
    node = make_node(RamDisk(), parameters=theirs, chap=CHAP if chap else None)
    own = Chap((Credentials("target", OWN_SECRET),), Credentials("host", SECRET)) if chap else None
    sizes = random.Random(chunk)
    ends = Pair2Ends(node, parameters=ours, chap=own, chunk=lambda: sizes.randint(1, chunk))
    if not digests_meet:
        with pytest.raises(NegotiationError, match="takes none of the values"):
            ends.connect()
        return
    ends.connect()
    initiator, target = ends.links[0]
    assert initiator.full_feature
    session = target.session
    assert session is not None
    one, other = ends.session.agreed, session.agreed
    assert one is not None
    same = [
        "header_digest",
        "data_digest",
        "max_connections",
        "initial_r2t",
        "immediate_data",
        "max_burst_length",
        "first_burst_length",
        "default_time2wait",
        "default_time2retain",
        "max_outstanding_r2t",
        "error_recovery_level",
    ]
    assert {key: getattr(one, key) for key in same} == {key: getattr(other, key) for key in same}
    assert 512 <= target.max_send <= ours.max_recv_data_segment_length < target.max_send + 4
