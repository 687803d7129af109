"""UNH-IOL CHAP for initiators: what the real initiator proves, and what it does not believe."""

from __future__ import annotations

import asyncio
import base64
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest

from iscsi_target.errors import NegotiationError
from iscsi_target.session.chap import Chap, Credentials, answer_challenge, encode_binary
from iscsi_target.wire.opcodes import Stage
from iscsi_target.wire.requests import LoginRequest
from iscsi_target.wire.text import Pair, decode_text
from tests.iscsi_target.rules.initiator_rig import RawServer, fails, parameters, scripted
from tests.iscsi_target.rules.raw_target import RawTarget

SECRET, THEIR_SECRET = b"a secret of the host", b"a secret of the target"
ONE_WAY = Chap(own=Credentials("host", SECRET))
MUTUAL = Chap(own=Credentials("host", SECRET), accepted=(Credentials("target", THEIR_SECRET),))
CHALLENGE = bytes(range(16))


class Login:
    """A login with CHAP that is under way, seen from the target."""

    def __init__(
        self, server: RawServer, task: asyncio.Task[Any], peer: RawTarget, request: LoginRequest
    ) -> None:
        self.server, self.task, self.peer, self.request = server, task, peer, request

    @property
    def said(self) -> dict[str, str]:
        """What the initiator said last."""
        return dict(decode_text(self.request.data))

    async def say(self, *pairs: Pair, **fields: Any) -> None:
        """A Login Response of the security stage without a transition, unless `fields` say so."""
        values = {"transit": False, "nsg": 0, "tsih": 0} | fields
        await self.peer.send(self.peer.login_response(self.request, *pairs, **values))

    async def challenge(
        self, challenge: bytes = CHALLENGE, *, identifier: int = 7, algorithm: int = 5
    ) -> dict[str, str]:
        """Send the challenge; returns what the initiator answers."""
        await self.say(
            ("CHAP_A", str(algorithm)), ("CHAP_I", str(identifier)), ("CHAP_C", encode_binary(challenge))
        )
        self.request = await self.peer.expect(LoginRequest, csg=Stage.SECURITY_NEGOTIATION)
        return self.said

    def proof(self, secret: bytes = THEIR_SECRET, name: str = "target") -> list[Pair]:
        """The answer to the initiator's challenge."""
        said = self.said
        response = answer_challenge(5, int(said["CHAP_I"]), secret, bytes.fromhex(said["CHAP_C"][2:]))
        return [("CHAP_N", name), ("CHAP_R", encode_binary(response))]

    async def succeeds(self, *pairs: Pair) -> None:
        """The target is content: the initiator goes on to the operational stage, and the session works."""
        await self.say(*pairs, transit=True, nsg=Stage.LOGIN_OPERATIONAL_NEGOTIATION)
        await self.peer.log_in()
        session = await self.task
        await self.peer.assert_alive(session)
        await session.abort()

    async def fails(self, match: str = "") -> None:
        """The initiator gives the login up and closes the connection."""
        await fails(self.task, NegotiationError, match)
        await self.peer.expect_closed()


@asynccontextmanager
async def logging_in(chap: Chap = ONE_WAY) -> AsyncIterator[Login]:
    """A login up to CHAP_A of the initiator."""
    async with RawServer() as server:
        yield await another(server, chap)


async def another(server: RawServer, chap: Chap = ONE_WAY) -> Login:
    task = server.login(parameters=parameters(), chap=chap)
    peer = await server.accept()
    request = await peer.expect(LoginRequest, csg=Stage.SECURITY_NEGOTIATION, transit=False)
    assert dict(decode_text(request.data))["AuthMethod"] == "CHAP"
    login = Login(server, task, peer, request)
    await login.say(("AuthMethod", "CHAP"))
    login.request = await peer.expect(LoginRequest, csg=Stage.SECURITY_NEGOTIATION, transit=False)
    assert "CHAP_A" in login.said
    return login


@pytest.mark.parametrize("algorithm", [5, 6, 7, 8])
@scripted
async def test_the_response_is_right_for_the_algorithm_chosen(algorithm: int) -> None:
    """The initiator offers its algorithms and answers the challenge with the one that the target chose.

    UNH-IOL CHAP-I 1.1, 2.1, 4.1
    RFC 7143 12.1.3
    """
    async with logging_in() as login:
        assert str(algorithm) in login.said["CHAP_A"].split(",")
        said = await login.challenge(algorithm=algorithm)
        assert said["CHAP_N"] == "host"
        assert bytes.fromhex(said["CHAP_R"][2:]) == answer_challenge(algorithm, 7, SECRET, CHALLENGE)
        assert login.request.transit
        await login.succeeds()


@pytest.mark.parametrize("algorithm", ["0", "99", "-5"])
@scripted
async def test_a_number_that_was_not_offered_is_not_taken(algorithm: str) -> None:
    """CHAP_A with a number that was not offered ends the login; no response is given away.

    UNH-IOL CHAP-I 1.2.1
    RFC 7143 12.1.3
    """
    async with logging_in() as login:
        await login.say(("CHAP_A", algorithm), ("CHAP_I", "7"), ("CHAP_C", encode_binary(CHALLENGE)))
        await login.fails("algorithm")


@pytest.mark.parametrize("algorithm", ["five", "", "5,6", "0x5"])
@scripted
async def test_an_algorithm_that_is_no_number_is_not_taken(algorithm: str) -> None:
    """CHAP_A that is not one number ends the login.

    UNH-IOL CHAP-I 1.2.2
    RFC 7143 12.1.3
    """
    async with logging_in() as login:
        await login.say(("CHAP_A", algorithm), ("CHAP_I", "7"), ("CHAP_C", encode_binary(CHALLENGE)))
        await login.fails()


@pytest.mark.parametrize(
    "left_out",
    [
        pytest.param("CHAP_A", id="1.3"),
        pytest.param("CHAP_I", id="2.3"),
        pytest.param("CHAP_C", id="3.5"),
    ],
)
@scripted
async def test_a_challenge_that_is_not_whole_is_not_answered(left_out: str) -> None:
    """CHAP_A, CHAP_I and CHAP_C come together; without one of them the login does not go on to a response.

    UNH-IOL CHAP-I 1.3, 2.3, 3.5
    RFC 7143 12.1.3
    """
    async with logging_in() as login:
        whole = [("CHAP_A", "5"), ("CHAP_I", "7"), ("CHAP_C", encode_binary(CHALLENGE))]
        await login.say(*[pair for pair in whole if pair[0] != left_out])
        await login.fails()


@pytest.mark.parametrize("identifier", ["256", "-1", "seven", "", "4294967303"])
@scripted
async def test_an_identifier_beyond_one_octet_is_not_taken(identifier: str) -> None:
    """CHAP_I outside of 0 to 255 ends the login.

    UNH-IOL CHAP-I 2.2
    RFC 7143 12.1.3
    """
    async with logging_in() as login:
        await login.say(("CHAP_A", "5"), ("CHAP_I", identifier), ("CHAP_C", encode_binary(CHALLENGE)))
        await login.fails("CHAP_I")


@pytest.mark.parametrize("identifiers", [(7, 7), (7, 8), (0, 255)])
@scripted
async def test_identifiers_may_be_the_same_or_differ(identifiers: tuple[int, int]) -> None:
    """Logins with the same identifier or others are answered alike: the identifier is part of the response, no more.

    UNH-IOL CHAP-I 2.4, 2.6
    RFC 7143 12.1.3
    """
    async with RawServer() as server:
        for identifier in identifiers:
            login = await another(server)
            said = await login.challenge(identifier=identifier)
            assert bytes.fromhex(said["CHAP_R"][2:]) == answer_challenge(5, identifier, SECRET, CHALLENGE)
            await login.succeeds()


@pytest.mark.parametrize("size", [pytest.param(1024, id="3.1"), pytest.param(1, id="3.2")])
@scripted
async def test_challenges_of_every_size_are_answered(size: int) -> None:
    """A challenge of 1 to 1024 bytes is answered, in hexadecimal or base64.

    UNH-IOL CHAP-I 3.1, 3.2
    RFC 7143 12.1.3, 6.1
    """
    challenge = bytes(range(256)) * 4
    for spelled in (encode_binary(challenge[:size]), "0b" + base64.b64encode(challenge[:size]).decode()):
        async with logging_in() as login:
            await login.say(("CHAP_A", "5"), ("CHAP_I", "7"), ("CHAP_C", spelled))
            login.request = await login.peer.expect(LoginRequest)
            assert bytes.fromhex(login.said["CHAP_R"][2:]) == answer_challenge(5, 7, SECRET, challenge[:size])
            await login.succeeds()


@pytest.mark.parametrize(
    "challenge", [pytest.param("0x" + "00" * 1025, id="3.3"), pytest.param("0x", id="3.4"), "plain", "0xzz"]
)
@scripted
async def test_a_challenge_that_is_none_is_not_answered(challenge: str) -> None:
    """A challenge of no byte, of more than 1024, or that is no binary value ends the login.

    UNH-IOL CHAP-I 3.3, 3.4
    RFC 7143 12.1.3, 6.1
    """
    async with logging_in() as login:
        await login.say(("CHAP_A", "5"), ("CHAP_I", "7"), ("CHAP_C", challenge))
        await login.fails("binary")


@scripted
async def test_every_login_challenges_the_target_anew() -> None:
    """The initiator's challenges differ from login to login and from the target's own, one after the other or at once.

    UNH-IOL CHAP-I 3.6.3, 3.6.4, 3.7, 2.5
    RFC 7143 9.2.1, 12.1.3
    """
    async with RawServer() as server:
        logins = [await another(server, MUTUAL) for _ in range(4)]
        offered = [await login.challenge() for login in logins]
        assert len({said["CHAP_C"] for said in offered}) == 4
        assert encode_binary(CHALLENGE) not in {said["CHAP_C"] for said in offered}
        assert all(0 <= int(said["CHAP_I"]) <= 255 for said in offered)
        for login in logins:
            await login.say()
            login.peer.close()
            await fails(login.task, Exception)


@scripted
async def test_a_target_that_proves_itself_is_believed() -> None:
    """With mutual CHAP the session begins when the target has answered the challenge rightly.

    UNH-IOL CHAP-I 4.8
    RFC 7143 12.1.3
    """
    async with logging_in(MUTUAL) as login:
        await login.challenge()
        await login.succeeds(*login.proof())


@scripted
async def test_a_reflected_response_is_not_believed() -> None:
    """A target whose response is what the initiator itself would answer has reflected the challenge: refused.

    UNH-IOL CHAP-I 3.8, 4.7
    RFC 7143 9.2.1
    """
    shared = Chap(own=Credentials("host", SECRET), accepted=(Credentials("target", SECRET),))
    async with logging_in(shared) as login:
        await login.challenge()
        await login.say(*login.proof(SECRET), transit=True, nsg=1)
        await login.fails("one secret")


@pytest.mark.parametrize(
    "name",
    [
        pytest.param("host", id="4.6"),
        pytest.param("", id="4.3"),
        pytest.param("t" * 1000, id="4.4"),
        "Target",
    ],
)
@scripted
async def test_a_target_of_another_name_is_not_believed(name: str) -> None:
    """A right response under a name that is not the target's, the initiator's own among them, ends the login.

    UNH-IOL CHAP-I 4.2, 4.3, 4.4, 4.6
    RFC 7143 12.1.3
    """
    async with logging_in(MUTUAL) as login:
        await login.challenge()
        await login.say(*login.proof(name=name), transit=True, nsg=1)
        await login.fails()


@pytest.mark.parametrize("pairs", [[], ["CHAP_N"], ["CHAP_R"]], ids=["nothing", "name only", "response only"])
@scripted
async def test_a_target_that_leaves_its_proof_out_is_not_believed(pairs: list[str]) -> None:
    """With mutual CHAP a target that goes on without CHAP_N and CHAP_R ends the login.

    UNH-IOL CHAP-I 4.5
    RFC 7143 12.1.3, 6.3.2
    """
    async with logging_in(MUTUAL) as login:
        await login.challenge()
        await login.say(*[pair for pair in login.proof() if pair[0] in pairs], transit=True, nsg=1)
        await login.fails()


@pytest.mark.parametrize(
    "response",
    [
        pytest.param("0x" + "00" * 16, id="5.1"),
        pytest.param("0x" + "00" * 1025, id="5.2"),
        pytest.param("0x00", id="5.3"),
        "0x",
        "nothing binary",
    ],
)
@scripted
async def test_a_wrong_response_of_the_target_is_not_believed(response: str) -> None:
    """A response that is wrong, too long, too short or no binary value ends the login.

    UNH-IOL CHAP-I 5.1, 5.2, 5.3
    RFC 7143 12.1.3
    """
    async with logging_in(MUTUAL) as login:
        await login.challenge()
        await login.say(("CHAP_N", "target"), ("CHAP_R", response), transit=True, nsg=1)
        await login.fails()


@pytest.mark.parametrize("method", ["None", "KRB5", "Reject"])
@scripted
async def test_a_target_that_chooses_no_chap_is_not_followed(method: str) -> None:
    """AuthMethod answered with anything but CHAP ends a login that wants CHAP.

    UNH-IOL CHAP-I no-authentication
    RFC 7143 12.1, 6.3.2
    """
    async with RawServer() as server:
        task = server.login(parameters=parameters(), chap=MUTUAL)
        peer = await server.accept()
        login = Login(server, task, peer, await peer.expect(LoginRequest))
        await login.say(("AuthMethod", method))
        await login.fails("AuthMethod")


@scripted
async def test_a_target_that_lets_everybody_in_has_not_proven_itself() -> None:
    """With mutual CHAP a target that leaves the security stage before the exchange ends the login.

    UNH-IOL CHAP-I premature-transition
    RFC 7143 6.3.2, 12.1.3
    """
    async with RawServer() as server:
        task = server.login(parameters=parameters(), chap=MUTUAL)
        peer = await server.accept()
        login = Login(server, task, peer, await peer.expect(LoginRequest))
        await login.say(("AuthMethod", "CHAP"), transit=True, nsg=Stage.LOGIN_OPERATIONAL_NEGOTIATION)
        await login.fails()
