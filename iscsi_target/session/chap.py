# SPDX-License-Identifier: Apache-2.0
"""CHAP, one-way and mutual (RFC 7143 section 12.1.3; RFC 1994; algorithms of the IANA registry). Sans-IO."""

from __future__ import annotations

import base64
import binascii
import enum
import hashlib
import hmac
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

from iscsi_target.errors import NegotiationError
from iscsi_target.wire.text import Pair

CHALLENGE_BYTES = 16
_BINARY_LIMIT_BYTES = 1024

ALGORITHMS: Mapping[int, Callable[[bytes], bytes]] = {
    5: lambda data: hashlib.md5(data, usedforsecurity=False).digest(),
    6: lambda data: hashlib.sha1(data, usedforsecurity=False).digest(),
    7: lambda data: hashlib.sha256(data).digest(),
    8: lambda data: hashlib.sha3_256(data).digest(),
}
"""CHAP_A values: 5 MD5, 6 SHA1, 7 SHA-256, 8 SHA3-256."""


@dataclass(frozen=True, slots=True)
class Credentials:
    """A name and its secret. The secret never appears in a repr."""

    name: str
    secret: bytes = field(repr=False)


@dataclass(frozen=True, slots=True)
class Chap:
    """What one end needs: `accepted` are the peers that may prove themselves (target), `own` is how we prove
    ourselves (initiator; target for mutual authentication). `algorithms` in order of preference."""

    accepted: tuple[Credentials, ...] = ()
    own: Credentials | None = None
    algorithms: tuple[int, ...] = (7, 8, 6, 5)


def chap_for_any(chaps: Sequence[Chap | None]) -> Chap | None:
    """What opens a discovery session on a node whose targets have `chaps`: the credentials of any of them.

    None, so no authentication, when there are none or one of the targets is open. We prove ourselves only as what all
    of them agree on.
    """
    if not chaps:
        return None
    closed = [chap for chap in chaps if chap is not None]
    if len(closed) < len(chaps):
        return None
    first = closed[0]
    return Chap(
        accepted=tuple(dict.fromkeys(known for chap in closed for known in chap.accepted)),
        own=first.own if all(chap.own == first.own for chap in closed) else None,
        algorithms=tuple(one for one in first.algorithms if all(one in chap.algorithms for chap in closed)),
    )


class AuthenticationFailed(Exception):
    """The peer did not prove itself; the text is for our log only."""


def encode_binary(data: bytes) -> str:
    """A binary value as text, hexadecimal (section 6.1)."""
    return "0x" + data.hex()


def decode_binary(text: str) -> bytes:
    """A hexadecimal (0x) or base64 (0b) value, at most 1024 bytes. Raises NegotiationError."""
    prefix, body = text[:2].lower(), text[2:]
    try:
        if prefix == "0x":
            data = bytes.fromhex(body if len(body) % 2 == 0 else "0" + body)
        elif prefix == "0b":
            data = base64.b64decode(body, validate=True)
        else:
            raise NegotiationError("a binary value begins with 0x or 0b")
    except (ValueError, binascii.Error):
        raise NegotiationError("a binary value is neither hexadecimal nor base64") from None
    if not 0 < len(data) <= _BINARY_LIMIT_BYTES:
        raise NegotiationError(f"a binary value has 1 to {_BINARY_LIMIT_BYTES} bytes")
    return data


def answer_challenge(algorithm: int, identifier: int, secret: bytes, challenge: bytes) -> bytes:
    """The CHAP response: hash over identifier, secret and challenge (RFC 1994 section 4.1)."""
    return ALGORITHMS[algorithm](bytes((identifier,)) + secret + challenge)


def _refuse_our_own(
    response: bytes, algorithm: int, identifier: int, secret: bytes, challenge: bytes
) -> None:
    """A response that we would have given ourselves proves nothing: one secret serves both directions, or the peer
    has let us answer our own challenge on another connection (section 9.2.1). Raises AuthenticationFailed."""
    if hmac.compare_digest(answer_challenge(algorithm, identifier, secret, challenge), response):
        raise AuthenticationFailed("the peer's CHAP response is the one we would give: both have one secret")


class ChapState(enum.Enum):
    """Where the target's side of the exchange stands."""

    IDLE = enum.auto()
    ALGORITHM_AWAITED = enum.auto()
    RESPONSE_AWAITED = enum.auto()
    DONE = enum.auto()


class ChapTarget:
    """The target's side. `random_bytes` is where challenges come from (os.urandom in the shell)."""

    def __init__(self, chap: Chap, random_bytes: Callable[[int], bytes]) -> None:
        self._chap = chap
        self._random = random_bytes
        self._algorithm = 0
        self._identifier = 0
        self._challenge = b""
        self.state = ChapState.IDLE
        self.identity = ""
        """CHAP_N of the peer, once proven."""

    def begin(self) -> None:
        """CHAP was chosen with AuthMethod."""
        self.state = ChapState.ALGORITHM_AWAITED

    def receive(self, pairs: Mapping[str, str]) -> list[Pair]:
        """The CHAP_* pairs of one text. Raises AuthenticationFailed or NegotiationError."""
        if self.state is ChapState.ALGORITHM_AWAITED and set(pairs) == {"CHAP_A"}:
            return self._choose(pairs["CHAP_A"])
        if self.state is ChapState.RESPONSE_AWAITED and {"CHAP_N", "CHAP_R"} <= set(pairs):
            return self._verify(pairs)
        raise AuthenticationFailed(f"CHAP keys out of order: {', '.join(sorted(pairs)) or 'none'}")

    def _choose(self, offered: str) -> list[Pair]:
        numbers = [
            int(item) for item in offered.split(",") if item.isascii() and item.isdigit() and len(item) < 4
        ]
        chosen = next((number for number in numbers if number in self._chap.algorithms), None)
        if chosen is None:
            raise AuthenticationFailed(f"none of the offered CHAP algorithms is accepted: {offered[:64]!r}")
        self._algorithm = chosen
        self._identifier = self._random(1)[0]
        self._challenge = self._random(CHALLENGE_BYTES)
        self.state = ChapState.RESPONSE_AWAITED
        return [
            ("CHAP_A", str(chosen)),
            ("CHAP_I", str(self._identifier)),
            ("CHAP_C", encode_binary(self._challenge)),
        ]

    def _verify(self, pairs: Mapping[str, str]) -> list[Pair]:
        name, response = pairs["CHAP_N"], decode_binary(pairs["CHAP_R"])
        proven = False
        for known in self._chap.accepted:  # all of them: the time taken must not tell which names there are
            wanted = answer_challenge(self._algorithm, self._identifier, known.secret, self._challenge)
            proven |= hmac.compare_digest(wanted, response) and known.name == name
        if not proven:
            raise AuthenticationFailed(f"CHAP response of {name[:64]!r} is wrong")
        if self._chap.own is not None:
            _refuse_our_own(
                response, self._algorithm, self._identifier, self._chap.own.secret, self._challenge
            )
        answers: list[Pair] = []
        if "CHAP_I" in pairs or "CHAP_C" in pairs:
            answers = self._prove(pairs)
        self.identity = name
        self.state = ChapState.DONE
        return answers

    def _prove(self, pairs: Mapping[str, str]) -> list[Pair]:
        identifier, challenge = pairs.get("CHAP_I", ""), decode_binary(pairs.get("CHAP_C", ""))
        if (
            not (identifier.isascii() and identifier.isdigit())
            or len(identifier) > 3
            or int(identifier) > 255
        ):
            raise NegotiationError("CHAP_I is not between 0 and 255")
        if hmac.compare_digest(challenge, self._challenge):
            raise AuthenticationFailed("the peer reflected our challenge")
        own = self._chap.own
        if own is None:
            raise AuthenticationFailed("the peer wants mutual CHAP, for which the target has no secret")
        response = answer_challenge(self._algorithm, int(identifier), own.secret, challenge)
        return [("CHAP_N", own.name), ("CHAP_R", encode_binary(response))]


class ChapInitiator:
    """The initiator's side; mutual when `chap.accepted` names the targets that have to prove themselves."""

    def __init__(self, chap: Chap, random_bytes: Callable[[int], bytes]) -> None:
        if chap.own is None:
            raise ValueError("an initiator needs a name and a secret of its own")
        self._chap = chap
        self._own = chap.own
        self._random = random_bytes
        self._algorithm = 0
        self._identifier = 0
        self._challenge = b""
        self._offered = False
        self.answered = False
        """Our response is sent."""
        self.finished = False
        """The exchange is complete; with mutual authentication the target has proven itself."""

    def receive(self, pairs: Mapping[str, str]) -> list[Pair]:
        """The security pairs of one text. Raises AuthenticationFailed or NegotiationError."""
        if "AuthMethod" in pairs and pairs["AuthMethod"] != "CHAP":
            raise AuthenticationFailed(f"the target chose AuthMethod {pairs['AuthMethod'][:32]!r}")
        if not self.answered:
            if "CHAP_C" in pairs:
                return self._answer(pairs)
            if self._offered:
                raise AuthenticationFailed("the target sends no challenge")
            self._offered = True
            return [("CHAP_A", ",".join(str(number) for number in self._chap.algorithms))]
        if self._chap.accepted:
            self._verify(pairs)
        self.finished = True
        return []

    def _answer(self, pairs: Mapping[str, str]) -> list[Pair]:
        chosen, identifier = pairs.get("CHAP_A", ""), pairs.get("CHAP_I", "")
        if (
            not (chosen.isascii() and chosen.isdigit())
            or len(chosen) > 3
            or int(chosen) not in self._chap.algorithms
        ):
            raise AuthenticationFailed(f"the target chose CHAP algorithm {chosen[:16]!r}")
        if (
            not (identifier.isascii() and identifier.isdigit())
            or len(identifier) > 3
            or int(identifier) > 255
        ):
            raise NegotiationError("CHAP_I is not between 0 and 255")
        self._algorithm = int(chosen)
        theirs = decode_binary(pairs["CHAP_C"])
        response = answer_challenge(self._algorithm, int(identifier), self._own.secret, theirs)
        answers = [("CHAP_N", self._own.name), ("CHAP_R", encode_binary(response))]
        if self._chap.accepted:
            self._identifier = self._random(1)[0]
            self._challenge = self._random(CHALLENGE_BYTES)
            if hmac.compare_digest(self._challenge, theirs):
                raise AuthenticationFailed("both challenges are the same")
            answers += [("CHAP_I", str(self._identifier)), ("CHAP_C", encode_binary(self._challenge))]
        self.answered = True
        return answers

    def _verify(self, pairs: Mapping[str, str]) -> None:
        name, response = pairs.get("CHAP_N", ""), decode_binary(pairs.get("CHAP_R", ""))
        secret = next((known.secret for known in self._chap.accepted if known.name == name), None)
        if secret is None:
            raise AuthenticationFailed(f"the target proves itself as {name[:64]!r}, which is not accepted")
        wanted = answer_challenge(self._algorithm, self._identifier, secret, self._challenge)
        if not hmac.compare_digest(wanted, response):
            raise AuthenticationFailed(f"CHAP response of target {name[:64]!r} is wrong")
        _refuse_our_own(response, self._algorithm, self._identifier, self._own.secret, self._challenge)
