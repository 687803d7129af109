"""The login phase at the target, request by request (RFC 7143 section 6.3 and 11.12-11.13)."""

from __future__ import annotations

import pytest

from iscsi_target.errors import LoginFailed, NegotiationError
from iscsi_target.session.chap import ALGORITHMS, AuthenticationFailed, Chap, Credentials
from iscsi_target.session.events import LoginRefused, SessionEstablished
from iscsi_target.session.initiator_login import InitiatorLogin, LoginWish
from iscsi_target.session.limits import Limits
from iscsi_target.session.node import Target, TargetNode
from iscsi_target.session.parameters import Parameters
from iscsi_target.session.target_output import Phase
from iscsi_target.wire.opcodes import LoginStatus, Stage
from iscsi_target.wire.requests import NopOut
from iscsi_target.wire.responses import LoginResponse
from iscsi_target.wire.text import encode_text
from tests.iscsi_target.imaginary_wire import (
    HOST,
    ISID,
    TARGET,
    Conversation,
    Pair2Ends,
    RamDisk,
    login_pairs,
    make_node,
)

NAMES = [("InitiatorName", HOST), ("TargetName", TARGET)]


def refusal(conversation: Conversation, **fields: object) -> int:
    (response,) = conversation.send(conversation.login_request(fields.pop("pairs", NAMES), **fields))  # type: ignore[arg-type]
    assert isinstance(response, LoginResponse)
    assert conversation.target.phase is Phase.CLOSING
    (event,) = conversation.node.events
    assert isinstance(event, LoginRefused)
    assert event.text
    return response.status_class << 8 | response.status_detail


def test_a_login_with_one_request_reaches_full_feature_phase() -> None:
    disk = RamDisk()
    conversation = Conversation(make_node(disk, alias="a disk"))
    response = conversation.log_in()
    assert (response.transit, response.csg, response.nsg) == (True, 1, Stage.FULL_FEATURE_PHASE)
    assert response.tsih != 0
    assert login_pairs(response)["TargetPortalGroupTag"] == "1"
    assert login_pairs(response)["TargetAlias"] == "a disk"
    assert disk.established == [f"{HOST},i,0x{ISID.hex()}"]
    assert isinstance(conversation.node.events[0], SessionEstablished)
    conversation.assert_alive()


def test_a_login_through_the_security_stage_without_authentication() -> None:
    conversation = Conversation(make_node())
    first = conversation.login_request([*NAMES, ("AuthMethod", "CHAP,None")], csg=0, nsg=1)
    (response,) = conversation.send(first)
    assert isinstance(response, LoginResponse)
    assert login_pairs(response)["AuthMethod"] == "None"
    assert (response.transit, response.nsg, response.tsih) == (True, 1, 0)
    (response,) = conversation.send(conversation.login_request([("MaxBurstLength", "4096")]))
    assert isinstance(response, LoginResponse)
    assert response.tsih != 0
    conversation.assert_alive()


def test_the_target_does_not_transit_unless_the_initiator_wants_to() -> None:
    conversation = Conversation(make_node())
    (response,) = conversation.send(conversation.login_request(NAMES, transit=False, nsg=0))
    assert isinstance(response, LoginResponse)
    assert (response.transit, response.tsih) == (False, 0)
    (response,) = conversation.send(conversation.login_request([]))
    assert isinstance(response, LoginResponse)
    assert response.transit


def test_continued_text_is_taken_as_one() -> None:
    conversation = Conversation(make_node())
    text = encode_text(NAMES)
    head = conversation.login_request([], transit=False, nsg=0, continue_=True, data=text[:30])
    (response,) = conversation.send(head)
    assert isinstance(response, LoginResponse)
    assert (response.transit, response.data, response.status_class) == (False, b"", 0)
    (response,) = conversation.send(conversation.login_request([], data=text[30:]))
    assert isinstance(response, LoginResponse)
    assert response.transit
    conversation.assert_alive()


@pytest.mark.parametrize(
    ("fields", "status"),
    [
        ({"version_min": 1, "version_max": 1}, LoginStatus.UNSUPPORTED_VERSION),
        ({"continue_": True}, LoginStatus.INITIATOR_ERROR),
        ({"csg": 3}, LoginStatus.INITIATOR_ERROR),
        ({"csg": 2}, LoginStatus.INITIATOR_ERROR),
        ({"csg": 1, "nsg": 0}, LoginStatus.INITIATOR_ERROR),
        ({"csg": 1, "nsg": 1}, LoginStatus.INITIATOR_ERROR),
        ({"csg": 0, "nsg": 2}, LoginStatus.INITIATOR_ERROR),
        ({"data": b"no equals sign\0"}, LoginStatus.INITIATOR_ERROR),
        ({"pairs": [("TargetName", TARGET)]}, LoginStatus.MISSING_PARAMETER),
        ({"pairs": [("InitiatorName", HOST)]}, LoginStatus.MISSING_PARAMETER),
        ({"pairs": [("InitiatorName", "disk one"), ("TargetName", TARGET)]}, LoginStatus.INITIATOR_ERROR),
        ({"pairs": [("InitiatorName", HOST), ("TargetName", TARGET + "x")]}, LoginStatus.NOT_FOUND),
        ({"pairs": [*NAMES, ("SessionType", "Party")]}, LoginStatus.SESSION_TYPE_NOT_SUPPORTED),
        ({"pairs": [*NAMES, *NAMES]}, LoginStatus.INITIATOR_ERROR),
        ({"tsih": 77}, LoginStatus.SESSION_DOES_NOT_EXIST),
    ],
)
def test_a_login_that_cannot_be_is_refused_with_its_status(
    fields: dict[str, object], status: LoginStatus
) -> None:
    assert refusal(Conversation(make_node()), **fields) == status


def test_an_initiator_that_may_not_is_refused() -> None:
    node = make_node(allowed_initiators=frozenset({"iqn.2026-11.example:other"}))
    assert refusal(Conversation(node)) == LoginStatus.AUTHORIZATION_FAILURE


def test_a_target_that_has_moved_says_where_to() -> None:
    ends = Pair2Ends(make_node(moved_to="192.0.2.77:3260,2"))
    with pytest.raises(LoginFailed, match=r"192\.0\.2\.77:3260,2") as moved:
        ends.connect()
    assert moved.value.status == LoginStatus.TARGET_MOVED_TEMPORARILY


def test_another_pdu_than_login_ends_the_connection() -> None:
    conversation = Conversation(make_node())
    (response,) = conversation.send(NopOut(cmd_sn=1, exp_stat_sn=0, initiator_task_tag=9))
    assert isinstance(response, LoginResponse)
    assert response.status_class << 8 | response.status_detail == LoginStatus.INVALID_DURING_LOGIN
    assert conversation.target.closing


def test_fields_that_change_within_a_login_are_refused() -> None:
    conversation = Conversation(make_node())
    conversation.send(conversation.login_request(NAMES, transit=False, nsg=0))
    assert refusal(conversation, isid=bytes(6)) == LoginStatus.INVALID_DURING_LOGIN


def test_login_text_is_bounded() -> None:
    conversation = Conversation(make_node(limits=Limits(login_text_bytes=1000)))
    part = {"transit": False, "nsg": 0, "continue_": True, "data": b"X-a=" + b"b" * 596}
    conversation.send(conversation.login_request([], **part))
    assert refusal(conversation, **part) == LoginStatus.INITIATOR_ERROR


def test_login_exchanges_are_bounded() -> None:
    conversation = Conversation(make_node(limits=Limits(login_exchanges=3)))
    for _ in range(3):
        conversation.send(conversation.login_request(NAMES if not _ else [], transit=False, nsg=0))
    assert refusal(conversation, pairs=[], transit=False, nsg=0) == LoginStatus.INITIATOR_ERROR


def test_sessions_are_bounded() -> None:
    node = make_node(limits=Limits(sessions=1))
    Conversation(node).log_in()
    node.events.clear()
    assert refusal(Conversation(node, isid=bytes(6))) == LoginStatus.OUT_OF_RESOURCES


def test_a_login_that_takes_too_long_is_ended() -> None:
    conversation = Conversation(make_node(limits=Limits(login_timeout_ns=100)))
    assert conversation.target.next_deadline() == 100
    conversation.target.handle_timer(99)
    assert not conversation.target.closing
    conversation.target.handle_timer(100)
    assert conversation.target.closing


# -- sessions and connections (sections 6.3.4, 6.3.5) -----------------------------------------------------------------


def test_the_same_isid_without_a_tsih_reinstates_the_session() -> None:
    disk = RamDisk()
    node = make_node(disk)
    old, new = Conversation(node), Conversation(node)
    first = old.log_in().tsih
    assert new.log_in().tsih != first
    assert old.target.closing
    assert list(node.sessions) == [new.tsih]
    assert len(disk.lost) == 1
    new.assert_alive()


def test_another_isid_is_another_session() -> None:
    node = make_node()
    one, two = Conversation(node), Conversation(node, isid=bytes(6))
    one.log_in()
    two.log_in()
    one.assert_alive()
    two.assert_alive()
    assert len(node.sessions) == 2


def test_a_tsih_and_a_new_cid_add_a_connection() -> None:
    node = make_node()
    one = Conversation(node)
    tsih = one.log_in(("MaxConnections", "2")).tsih
    two = Conversation(node, cid=1, tsih=tsih)
    assert two.log_in().tsih == tsih
    assert set(node.sessions[tsih].connections) == {0, 1}
    one.assert_alive()
    two.assert_alive()


def test_more_connections_than_agreed_are_refused() -> None:
    node = make_node()
    tsih = Conversation(node).log_in(("MaxConnections", "1")).tsih
    node.events.clear()
    assert refusal(Conversation(node, cid=1, tsih=tsih)) == LoginStatus.TOO_MANY_CONNECTIONS


def test_the_same_cid_reinstates_the_connection() -> None:
    node = make_node()
    old = Conversation(node)
    tsih = old.log_in().tsih
    new = Conversation(node, tsih=tsih)
    new.log_in()
    assert old.target.closing
    assert list(node.sessions) == [tsih]
    assert node.sessions[tsih].connections[0] is new.target
    new.assert_alive()


def test_a_session_with_another_target_cannot_be_joined() -> None:
    node = make_node()
    tsih = Conversation(node).log_in_for_discovery().tsih
    node.events.clear()
    assert refusal(Conversation(node, cid=1, tsih=tsih)) == LoginStatus.CANNOT_INCLUDE_IN_SESSION


# -- two real ends, CHAP (sections 6.3, 12.1.3) -----------------------------------------------------------------------


@pytest.mark.parametrize("digest", [("None",), ("CRC32C",)])
def test_two_real_ends_log_in_and_add_connections(digest: tuple[str, ...]) -> None:
    ends = Pair2Ends(make_node(), parameters=Parameters(header_digest=digest, data_digest=digest))
    for cid in range(3):
        ends.connect(cid)
    assert set(ends.session.connections) == {0, 1, 2}
    assert ends.session.agreed.header_digest == digest[0]
    assert ends.links[2][0].declared["TargetPortalGroupTag"] == "1"


@pytest.mark.parametrize("algorithm", sorted(ALGORITHMS))
@pytest.mark.parametrize("mutual", [False, True])
def test_two_real_ends_authenticate_each_other(algorithm: int, mutual: bool) -> None:
    host, disk = Credentials("host", b"secret of the host"), Credentials("disk", b"secret of the disk")
    node = make_node(chap=Chap(accepted=(host,), own=disk))
    chap = Chap(accepted=(disk,) if mutual else (), own=host, algorithms=(algorithm,))
    ends = Pair2Ends(node, chap=chap)
    ends.connect()
    assert ends.session.tsih in node.sessions


def test_a_wrong_secret_is_refused() -> None:
    node = make_node(chap=Chap(accepted=(Credentials("host", b"right"),)))
    ends = Pair2Ends(node, chap=Chap(own=Credentials("host", b"wrong")))
    with pytest.raises(LoginFailed) as refused:
        ends.connect()
    assert refused.value.status == LoginStatus.AUTHENTICATION_FAILURE
    assert not node.sessions


def test_a_target_with_the_wrong_secret_is_not_believed() -> None:
    host = Credentials("host", b"secret of the host")
    node = make_node(chap=Chap(accepted=(host,), own=Credentials("disk", b"forged")))
    ends = Pair2Ends(node, chap=Chap(accepted=(Credentials("disk", b"genuine"),), own=host))
    with pytest.raises(AuthenticationFailed):
        ends.connect()


def test_a_reflected_challenge_is_refused() -> None:
    conversation = Conversation(
        make_node(chap=Chap(accepted=(Credentials("h", b"s"),), own=Credentials("t", b"another")))
    )
    start = conversation.login_request([*NAMES, ("AuthMethod", "CHAP")], csg=0, nsg=1, transit=False)
    conversation.send(start)
    (response,) = conversation.send(
        conversation.login_request([("CHAP_A", "5")], csg=0, nsg=1, transit=False)
    )
    assert isinstance(response, LoginResponse)
    challenge = login_pairs(response)
    stolen = [("CHAP_N", "h"), ("CHAP_R", "0x00"), ("CHAP_I", "1"), ("CHAP_C", challenge["CHAP_C"])]
    assert refusal(conversation, pairs=stolen, csg=0, nsg=1) == LoginStatus.AUTHENTICATION_FAILURE


@pytest.mark.parametrize(
    "fields",
    [
        {},
        {"csg": 0, "nsg": 1},
        {"csg": 0, "nsg": 1, "pairs": [*NAMES, ("AuthMethod", "None")]},
        {"csg": 0, "nsg": 1, "pairs": [*NAMES, ("AuthMethod", "CHAP"), ("CHAP_N", "h"), ("CHAP_R", "0x00")]},
    ],
    ids=["security stage skipped", "no method", "method None", "response before challenge"],
)
def test_authentication_cannot_be_left_out(fields: dict[str, object]) -> None:
    conversation = Conversation(make_node(chap=Chap(accepted=(Credentials("h", b"s"),))))
    assert refusal(conversation, **fields) == LoginStatus.AUTHENTICATION_FAILURE


def test_discovery_is_authenticated_where_every_target_is() -> None:
    """Credentials of each target open the discovery session, also those of one name with two secrets."""
    targets = [
        Target(
            name=TARGET, logical_units=RamDisk(), chap=Chap(accepted=(Credentials("h", b"of the first"),))
        ),
        Target(
            name=f"{TARGET}2",
            logical_units=RamDisk(),
            chap=Chap(accepted=(Credentials("h", b"of the second"),)),
        ),
    ]
    for secret in (b"of the first", b"of the second"):
        ends = Pair2Ends(TargetNode(targets), target_name="", chap=Chap(own=Credentials("h", secret)))
        ends.connect()
        assert ends.session.tsih in ends.node.sessions
    ends = Pair2Ends(TargetNode(targets), target_name="", chap=Chap(own=Credentials("h", b"of a third")))
    with pytest.raises(LoginFailed) as refused:
        ends.connect()
    assert refused.value.status == LoginStatus.AUTHENTICATION_FAILURE
    skipping = Conversation(TargetNode(targets))
    pairs = [("InitiatorName", HOST), ("SessionType", "Discovery")]
    assert refusal(skipping, pairs=pairs) == LoginStatus.AUTHENTICATION_FAILURE


def test_discovery_is_open_while_one_target_is() -> None:
    closed = Target(name=TARGET, logical_units=RamDisk(), chap=Chap(accepted=(Credentials("h", b"s"),)))
    node = TargetNode([closed, Target(name=f"{TARGET}2", logical_units=RamDisk())])
    assert Conversation(node).log_in_for_discovery().status_class == 0
    assert TargetNode([]).discovery_chap is None


def test_who_the_initiator_is_may_be_repeated_but_not_changed() -> None:
    """libiscsi states its name again in the operational stage after AuthMethod=None."""
    conversation = Conversation(make_node())
    conversation.send(conversation.login_request([*NAMES, ("AuthMethod", "CHAP,None")], csg=0, nsg=1))
    (response,) = conversation.send(conversation.login_request([*NAMES, ("SessionType", "Normal")]))
    assert isinstance(response, LoginResponse)
    assert response.tsih != 0
    other = Conversation(make_node())
    other.send(other.login_request([*NAMES, ("AuthMethod", "CHAP,None")], csg=0, nsg=1))
    pairs = [("InitiatorName", HOST + "2"), ("TargetName", TARGET)]
    assert refusal(other, pairs=pairs) == LoginStatus.INITIATOR_ERROR


def test_chap_md5_gives_the_response_of_rfc_1994() -> None:
    """MD5 over identifier, secret, challenge; the vector was computed with coreutils' md5sum."""
    assert ALGORITHMS[5](b"\x01" + b"secret" + b"challenge").hex() == "46e47770030e2b4e26a0db72a7efec00"


def test_the_initiator_does_not_follow_a_broken_login() -> None:
    wish = LoginWish(initiator_name=HOST, target_name=TARGET, isid=ISID)
    login = InitiatorLogin(wish, cmd_sn=1, task_tag=1, random_bytes=lambda n: bytes(n))
    login.start()
    with pytest.raises(NegotiationError):
        login.receive(
            LoginResponse(isid=ISID, initiator_task_tag=2, csg=1, stat_sn=0, exp_cmd_sn=1, max_cmd_sn=1)
        )
