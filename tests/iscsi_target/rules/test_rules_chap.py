"""UNH-IOL CHAP for targets: the exchange in its order, and everything that has to end in a refusal."""

from __future__ import annotations

import base64
from collections.abc import Callable

import pytest

from iscsi_target.session.chap import Chap, Credentials, answer_challenge, encode_binary
from iscsi_target.wire.opcodes import LoginStatus, Stage
from iscsi_target.wire.responses import LoginResponse
from iscsi_target.wire.text import Pair, decode_text
from tests.iscsi_target.rules.raw_initiator import HOST, TARGET, RawInitiator
from tests.iscsi_target.rules.real_target import RealTarget

MD5 = 5
HOST_SECRET, TARGET_SECRET = b"a secret of the host", b"a secret of the target"
CHAP = Chap(accepted=(Credentials("host", HOST_SECRET),), own=Credentials("target", TARGET_SECRET))


@pytest.fixture
def guarded(serve: Callable[..., RealTarget]) -> RealTarget:
    """A target that wants CHAP, and proves itself when it is asked to."""
    return serve(chap=CHAP)


def say(peer: RawInitiator, *pairs: Pair, transit: bool = False) -> LoginResponse:
    """One text of the security stage, and what the target says to it."""
    peer.send(
        peer.login_request(
            *pairs,
            csg=Stage.SECURITY_NEGOTIATION,
            nsg=Stage.FULL_FEATURE_PHASE if transit else 0,
            transit=transit,
        )
    )
    return peer.expect(LoginResponse)


def began(target: RealTarget) -> RawInitiator:
    """A login that has settled on CHAP."""
    peer = target.peer()
    pairs = [("InitiatorName", HOST), ("TargetName", TARGET), ("AuthMethod", "CHAP")]
    response = say(peer, *pairs)
    assert ("AuthMethod", "CHAP") in decode_text(response.data)
    return peer


def challenged(target: RealTarget, algorithms: str = "5") -> tuple[RawInitiator, dict[str, str]]:
    """A login to which the target has sent its challenge."""
    peer = began(target)
    return peer, dict(decode_text(say(peer, ("CHAP_A", algorithms)).data))


def proof(challenge: dict[str, str], secret: bytes = HOST_SECRET) -> bytes:
    """The right response to a challenge."""
    raw = bytes.fromhex(challenge["CHAP_C"][2:])
    return answer_challenge(int(challenge["CHAP_A"]), int(challenge["CHAP_I"]), secret, raw)


def proven(challenge: dict[str, str]) -> list[Pair]:
    return [("CHAP_N", "host"), ("CHAP_R", encode_binary(proof(challenge)))]


def assert_refused(target: RealTarget, peer: RawInitiator, response: LoginResponse) -> None:
    """The login failed for the initiator's fault, the connection is closed, and the next one may try."""
    assert response.status_class == 2
    assert response.status_detail in (0, 1)
    peer.expect_closed()
    assert_opens(target)


def assert_opens(target: RealTarget) -> None:
    """The right response opens the target."""
    peer, challenge = challenged(target)
    response = say(peer, *proven(challenge), transit=True)
    assert (response.status_class, response.transit) == (0, True)
    peer.entered(response)
    peer.take_unit_attention()
    peer.assert_alive()
    peer.close()


def test_nobody_leaves_the_security_stage_before_the_proof(guarded: RealTarget) -> None:
    """A login that asks for full-feature phase before CHAP is over does not get there.

    UNH-IOL CHAP 1.1
    RFC 7143 6.3.2, 12.1.3, 11.13.6
    """
    peer = guarded.peer()
    pairs = [("InitiatorName", HOST), ("TargetName", TARGET), ("AuthMethod", "CHAP")]
    assert not say(peer, *pairs, transit=True).transit
    response = say(peer, ("CHAP_A", "5"), transit=True)
    assert not response.transit
    response = say(peer, *proven(dict(decode_text(response.data))), transit=True)
    assert (response.status_class, response.transit) == (0, True)
    peer.entered(response)
    peer.take_unit_attention()
    peer.assert_alive()


@pytest.mark.parametrize("pairs", [[], [("AuthMethod", "None")]], ids=["no word", "AuthMethod=None"])
def test_chap_cannot_be_left_out(guarded: RealTarget, pairs: list[Pair]) -> None:
    """A login without CHAP, where the target wants it, is refused as an authentication failure.

    UNH-IOL CHAP no-authentication
    RFC 7143 6.3.2, 12.1, 11.13.5
    """
    peer = guarded.peer()
    response = say(peer, ("InitiatorName", HOST), ("TargetName", TARGET), *pairs, transit=True)
    assert response.status_class << 8 | response.status_detail == LoginStatus.AUTHENTICATION_FAILURE
    assert_refused(guarded, peer, response)


def test_a_login_that_skips_the_security_stage_is_refused(guarded: RealTarget) -> None:
    """A login that begins in the operational stage, where the target wants CHAP, is refused.

    UNH-IOL CHAP stage-skipped
    RFC 7143 6.3.2, 11.13.5
    """
    peer = guarded.peer()
    assert peer.try_log_in() == LoginStatus.AUTHENTICATION_FAILURE
    peer.expect_closed()
    assert_opens(guarded)


@pytest.mark.parametrize(("offered", "chosen"), [("5", 5), ("6", 6), ("7,5", 7), ("8,7,6,5", 8), ("99,5", 5)])
def test_the_first_algorithm_both_know_is_chosen(guarded: RealTarget, offered: str, chosen: int) -> None:
    """Of the algorithms offered in CHAP_A the target chooses the first that it knows.

    UNH-IOL CHAP algorithm-valid
    RFC 7143 12.1.3
    """
    peer, challenge = challenged(guarded, offered)
    assert challenge["CHAP_A"] == str(chosen)
    response = say(peer, *proven(challenge), transit=True)
    assert (response.status_class, response.transit) == (0, True)


@pytest.mark.parametrize("offered", ["0", "99", "-5", "five", "", "5.0", "0x", "4,9,10"])
def test_an_algorithm_nobody_knows_is_refused(guarded: RealTarget, offered: str) -> None:
    """CHAP_A without an algorithm that the target knows, as a number or not, ends the login.

    UNH-IOL CHAP algorithm-invalid
    RFC 7143 12.1.3
    """
    peer = began(guarded)
    assert_refused(guarded, peer, say(peer, ("CHAP_A", offered)))


@pytest.mark.parametrize(
    "pairs",
    [
        [("CHAP_N", "host"), ("CHAP_R", "0x" + "00" * 16)],
        [("CHAP_I", "1"), ("CHAP_C", "0x00112233")],
        [("CHAP_A", "5"), ("CHAP_N", "host")],
    ],
    ids=["response first", "challenge first", "name with the algorithm"],
)
def test_keys_before_their_turn_are_refused(guarded: RealTarget, pairs: list[Pair]) -> None:
    """CHAP keys that come before CHAP_A was answered end the login.

    UNH-IOL CHAP out-of-order
    RFC 7143 12.1.3
    """
    peer = began(guarded)
    assert_refused(guarded, peer, say(peer, *pairs))


def test_a_second_algorithm_after_the_challenge_is_refused(guarded: RealTarget) -> None:
    """CHAP_A a second time, after the challenge, ends the login.

    UNH-IOL CHAP out-of-order
    RFC 7143 12.1.3, 6.2
    """
    peer, _ = challenged(guarded)
    assert_refused(guarded, peer, say(peer, ("CHAP_A", "5")))


@pytest.mark.parametrize("left_out", ["CHAP_N", "CHAP_R"])
def test_half_a_response_is_refused(guarded: RealTarget, left_out: str) -> None:
    """CHAP_N without CHAP_R, or the other way round, ends the login.

    UNH-IOL CHAP response-incomplete
    RFC 7143 12.1.3
    """
    peer, challenge = challenged(guarded)
    assert_refused(guarded, peer, say(peer, *[pair for pair in proven(challenge) if pair[0] != left_out]))


@pytest.mark.parametrize("name", ["nobody", "HOST", "", "h" * 300])
def test_a_name_nobody_has_is_refused(guarded: RealTarget, name: str) -> None:
    """CHAP_N that is not the name of the secret's owner, however long, ends the login.

    UNH-IOL CHAP name-invalid
    RFC 7143 12.1.3
    """
    peer, challenge = challenged(guarded)
    assert_refused(guarded, peer, say(peer, ("CHAP_N", name), proven(challenge)[1], transit=True))


@pytest.mark.parametrize(
    "response",
    ["0x" + "00" * 16, "0x00", "0x" + "00" * 1025, "0x", "00" * 16, "0xzz", "0b!!!", "0x" + "00" * 15],
    ids=["wrong", "short", "too long", "empty", "no prefix", "no hexadecimal", "no base64", "a byte less"],
)
def test_a_wrong_response_is_refused(guarded: RealTarget, response: str) -> None:
    """CHAP_R that is not the response to the challenge, or no binary value at all, ends the login.

    UNH-IOL CHAP response-invalid
    RFC 7143 12.1.3, 6.1, 11.13.5
    """
    peer, _ = challenged(guarded)
    assert_refused(guarded, peer, say(peer, ("CHAP_N", "host"), ("CHAP_R", response), transit=True))


def test_a_response_in_base64_is_taken(guarded: RealTarget) -> None:
    """Binary values may come as base64.

    UNH-IOL CHAP response-base64
    RFC 7143 6.1, 12.1.3
    """
    peer, challenge = challenged(guarded)
    coded = "0b" + base64.b64encode(proof(challenge)).decode()
    assert say(peer, ("CHAP_N", "host"), ("CHAP_R", coded), transit=True).transit


def test_every_login_gets_a_challenge_of_its_own(guarded: RealTarget) -> None:
    """No challenge is used twice, one after the other or at the same time, and an old response opens nothing.

    UNH-IOL CHAP challenge-same-value
    RFC 7143 9.2.1, 12.1.3
    """
    logins = [challenged(guarded) for _ in range(8)]
    assert len({challenge["CHAP_C"] for _, challenge in logins}) == 8
    replayed = proven(logins[0][1])
    peer, _ = logins[1]
    assert_refused(guarded, peer, say(peer, *replayed, transit=True))


def mutual(challenge: dict[str, str], identifier: str, theirs: str) -> list[Pair]:
    return [*proven(challenge), ("CHAP_I", identifier), ("CHAP_C", theirs)]


@pytest.mark.parametrize("size", [1, 16, 1024])
def test_the_target_proves_itself(guarded: RealTarget, size: int) -> None:
    """To a challenge of the initiator's, of 1 to 1024 bytes, the target answers with its name and response.

    UNH-IOL CHAP challenge-size
    RFC 7143 12.1.3
    """
    peer, challenge = challenged(guarded)
    theirs = bytes(range(256)) * 4
    response = say(peer, *mutual(challenge, "7", encode_binary(theirs[:size])), transit=True)
    answer = dict(decode_text(response.data))
    assert answer["CHAP_N"] == "target"
    wanted = answer_challenge(MD5, 7, TARGET_SECRET, theirs[:size])
    assert bytes.fromhex(answer["CHAP_R"][2:]) == wanted
    assert response.transit


@pytest.mark.parametrize(
    ("identifier", "theirs"),
    [
        ("256", "0x00112233"),
        ("-1", "0x00112233"),
        ("seven", "0x00112233"),
        ("", "0x00112233"),
        ("7", "0x"),
        ("7", "0x" + "00" * 1025),
        ("7", "00112233"),
    ],
)
def test_a_challenge_that_is_none_is_refused(guarded: RealTarget, identifier: str, theirs: str) -> None:
    """CHAP_I beyond one octet, or CHAP_C of no byte or more than 1024, ends the login without a proof of the target.

    UNH-IOL CHAP challenge-invalid
    RFC 7143 12.1.3
    """
    peer, challenge = challenged(guarded)
    response = say(peer, *mutual(challenge, identifier, theirs), transit=True)
    assert "CHAP_R" not in dict(decode_text(response.data))
    assert_refused(guarded, peer, response)


def test_a_reflected_challenge_is_refused(guarded: RealTarget) -> None:
    """A challenge that is the target's own, reflected, ends the login; the target computes nothing for it.

    UNH-IOL CHAP challenge-reflected
    RFC 7143 9.2.1, 12.1.3
    """
    peer, challenge = challenged(guarded)
    response = say(peer, *mutual(challenge, challenge["CHAP_I"], challenge["CHAP_C"]), transit=True)
    assert "CHAP_R" not in dict(decode_text(response.data))
    assert_refused(guarded, peer, response)


def test_half_a_challenge_is_refused(guarded: RealTarget) -> None:
    """CHAP_I without CHAP_C, or the other way round, ends the login.

    UNH-IOL CHAP challenge-incomplete
    RFC 7143 12.1.3
    """
    for pair in (("CHAP_I", "7"), ("CHAP_C", "0x00112233")):
        peer, challenge = challenged(guarded)
        assert_refused(guarded, peer, say(peer, *proven(challenge), pair, transit=True))


def test_a_response_as_the_target_itself_would_give_is_refused(serve: Callable[..., RealTarget]) -> None:
    """A response that equals the target's own to that challenge fails: one secret must not serve both directions.

    UNH-IOL CHAP secret-shared
    RFC 7143 9.2.1
    """
    shared = Chap(accepted=(Credentials("host", HOST_SECRET),), own=Credentials("target", HOST_SECRET))
    target = serve(chap=shared)
    peer, challenge = challenged(target)
    response = say(peer, *proven(challenge), transit=True)
    assert response.status_class << 8 | response.status_detail == LoginStatus.AUTHENTICATION_FAILURE
    peer.expect_closed()
