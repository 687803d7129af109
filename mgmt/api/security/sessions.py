"""Sessions of browsers: a cookie for who has logged in with a token. In memory; a restart logs everybody out."""

from __future__ import annotations

import hashlib
import secrets
from collections import OrderedDict
from dataclasses import dataclass
from datetime import datetime

from mgmt.api.security.tokens import Token, TokenFile

SESSION_LIMIT = 1000
LIFETIME_S = 8 * 3600
COOKIE = "sancredit_session"


@dataclass(frozen=True, slots=True)
class _Session:
    token_id: str
    ends_ns: int


class Sessions:
    """At most ``limit`` sessions; the oldest ends where there are more. A session ends with its token."""

    def __init__(self, tokens: TokenFile, *, limit: int = SESSION_LIMIT) -> None:
        self._tokens = tokens
        self._limit = limit
        self._sessions: OrderedDict[str, _Session] = OrderedDict()

    def open(self, token: Token, now_ns: int) -> str:
        """The cookie's value of a new session."""
        cookie = secrets.token_urlsafe(32)
        self._sessions[_key(cookie)] = _Session(token.token_id, now_ns + LIFETIME_S * 10**9)
        while len(self._sessions) > self._limit:
            self._sessions.popitem(last=False)
        return cookie

    def find(self, cookie: str, now_ns: int, now: datetime) -> Token | None:
        """The token that the session was opened with, while both last."""
        session = self._sessions.get(_key(cookie))
        if session is None:
            return None
        token = self._tokens.current(session.token_id, now) if now_ns < session.ends_ns else None
        if token is None:
            self.close(cookie)
        return token

    def close(self, cookie: str) -> None:
        """Log out."""
        self._sessions.pop(_key(cookie), None)


def _key(cookie: str) -> str:
    """Cookies are looked up by their hash: how long that takes says nothing about those that there are."""
    return hashlib.sha256(cookie.encode()).hexdigest()
