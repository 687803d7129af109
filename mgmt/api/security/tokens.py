"""Tokens: made once, shown once, kept as hashes in a file that only the station's owner can read.

A token is ``sct_ID_SECRET`` with 256 random bits, so one round of SHA-256 keeps it (there is nothing to guess). The
file is read again when it has changed: ``sancredit station token`` works while a station runs. One writer at a time.
"""

from __future__ import annotations

import fcntl
import hashlib
import hmac
import json
import logging
import os
import re
import secrets
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from mgmt.api.security.identity import Identity, Role

FORMAT = 1
#: The file in a station's state directory.
FILE_NAME = "tokens.json"
TOKEN_LIMIT = 1000
#: The longest text that is looked at as a token.
TEXT_LIMIT = 128
_FORM = re.compile(r"sct_([0-9a-f]{12})_[\w-]{43}", re.ASCII)
_NAME = re.compile(r"[\w.@-]{1,64}")
_FILE_LIMIT_BYTES = 1 << 20

_log = logging.getLogger(__name__)


class TokenError(ValueError):
    """A name that cannot be used or is not there, or a file that cannot be read or written; one line."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Token:
    """What is kept of a token. ``previous_sha256`` still counts until ``previous_until``, after a rotation."""

    token_id: str
    name: str
    role: Role
    sha256: str
    created_at: datetime
    expires_at: datetime | None = None
    previous_sha256: str | None = None
    previous_id: str | None = None
    previous_until: datetime | None = None

    def is_valid(self, now: datetime) -> bool:
        """Whether it has not expired."""
        return self.expires_at is None or now < self.expires_at

    @property
    def identity(self) -> Identity:
        """Whom it stands for."""
        return Identity(self.name, self.role)


class TokenFile:
    """The tokens in a file of mode 0600; a file that is not there holds none. Times are UTC and handed in."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._stamp: tuple[int, int, int] | None = None
        self._by_id: dict[str, Token] = {}

    def tokens(self) -> list[Token]:
        """All tokens, by name. Raises :class:`TokenError`."""
        return sorted(self._load(), key=lambda token: token.name)

    def create(
        self, name: str, role: Role, *, now: datetime, lifetime: timedelta | None = None
    ) -> tuple[Token, str]:
        """A new token and its text, which is never shown again. Raises :class:`TokenError`."""
        if not _NAME.fullmatch(name) or name == "local":
            raise TokenError(f"{name!r:.80} names no token: use 1 to 64 letters, digits, '.', '_', '@', '-'")
        with self._changing() as tokens:
            if any(token.name == name for token in tokens):
                raise TokenError(f"there is a token {name!r}: rotate or revoke it, or choose another name")
            if len(tokens) >= TOKEN_LIMIT:
                raise TokenError(f"there are {TOKEN_LIMIT} tokens: revoke some")
            text, token_id = _new_text()
            expires_at = None if lifetime is None else now + lifetime
            token = Token(
                token_id=token_id,
                name=name,
                role=role,
                sha256=_sha256(text),
                created_at=now,
                expires_at=expires_at,
            )
            tokens.append(token)
        return token, text

    def revoke(self, name: str) -> Token:
        """Take a token away, at once. Raises :class:`TokenError`."""
        with self._changing() as tokens:
            token = _named(tokens, name)
            tokens.remove(token)
        return token

    def rotate(
        self, name: str, *, now: datetime, grace: timedelta, lifetime: timedelta | None = None
    ) -> tuple[Token, str]:
        """A new text for a token; the old one still counts for ``grace``. Raises :class:`TokenError`.

        With ``lifetime`` it expires so long from now, else when it would have.
        """
        with self._changing() as tokens:
            old = _named(tokens, name)
            text, token_id = _new_text()
            token = replace(
                old,
                token_id=token_id,
                sha256=_sha256(text),
                expires_at=old.expires_at if lifetime is None else now + lifetime,
                previous_sha256=old.sha256 if grace > timedelta(0) else None,
                previous_id=old.token_id if grace > timedelta(0) else None,
                previous_until=now + grace if grace > timedelta(0) else None,
            )
            tokens[tokens.index(old)] = token
        return token, text

    def verify(self, text: str, now: datetime) -> Token | None:
        """The token whose text this is, or ``None``: unknown, expired, revoked, or no token at all."""
        form = _FORM.fullmatch(text) if len(text) <= TEXT_LIMIT else None
        if form is None:
            return None
        token = self.current(form[1], now)
        if token is None:
            return None
        wanted = token.sha256 if form[1] == token.token_id else token.previous_sha256
        return token if wanted is not None and hmac.compare_digest(_sha256(text), wanted) else None

    def current(self, token_id: str, now: datetime) -> Token | None:
        """The token with this ID as it is now, or ``None`` where it counts no more."""
        self._refresh()
        token = self._by_id.get(token_id)
        if token is None or not token.is_valid(now):
            return None
        if token_id != token.token_id and (token.previous_until is None or now >= token.previous_until):
            return None
        return token

    def _refresh(self) -> None:
        try:
            found = self._path.stat()
            stamp = (found.st_ino, found.st_mtime_ns, found.st_size)
        except OSError:
            self._stamp, self._by_id = None, {}
            return
        if stamp == self._stamp:
            return
        self._by_id = {}
        try:
            for token in self._load():
                self._by_id[token.token_id] = token
                if token.previous_id is not None:
                    self._by_id[token.previous_id] = token
        except TokenError as error:
            _log.warning("%s; no token counts", error)
        self._stamp = stamp

    def _load(self) -> list[Token]:
        try:
            with self._path.open("rb") as file:
                data = file.read(_FILE_LIMIT_BYTES + 1)
        except FileNotFoundError:
            return []
        except OSError as error:
            raise TokenError(f"cannot read the tokens in {self._path}: {_why(error)}") from None
        try:
            plain = json.loads(data)
            if len(data) > _FILE_LIMIT_BYTES or plain["format"] != FORMAT:
                raise ValueError(FORMAT)
            return [_token(row) for row in plain["tokens"]]
        except (ValueError, KeyError, TypeError, AttributeError):
            raise TokenError(f"the tokens in {self._path} are not in the form of this version") from None

    @contextmanager
    def _changing(self) -> Iterator[list[Token]]:
        """The tokens to be changed; what they are at the end of the block is on the disk after it."""
        try:
            self._path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
            lock = os.open(f"{self._path}.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        except OSError as error:
            raise TokenError(f"cannot write the tokens in {self._path}: {_why(error)}") from None
        try:
            fcntl.flock(lock, fcntl.LOCK_EX)
            tokens = self._load()
            yield tokens
            try:
                _write(self._path, {"format": FORMAT, "tokens": [_plain(token) for token in tokens]})
            except OSError as error:
                raise TokenError(f"cannot write the tokens in {self._path}: {_why(error)}") from None
        finally:
            os.close(lock)


def _new_text() -> tuple[str, str]:
    token_id = secrets.token_hex(6)
    return f"sct_{token_id}_{secrets.token_urlsafe(32)}", token_id


def _sha256(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


def _named(tokens: list[Token], name: str) -> Token:
    for token in tokens:
        if token.name == name:
            return token
    known = ", ".join(sorted(token.name for token in tokens)[:16]) or "none"
    raise TokenError(f"there is no token {name!r:.80}; there are: {known}")


def _write(path: Path, value: Any) -> None:
    """In place of the file, durably, and never readable by others."""
    fresh = path.with_name(f"{path.name}.new")
    descriptor = os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
    with os.fdopen(descriptor, "w") as file:
        json.dump(value, file, indent=1)
        file.flush()
        os.fsync(file.fileno())
    fresh.replace(path)
    directory = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(directory)
    finally:
        os.close(directory)


_READ: dict[str, Callable[[Any], Any]] = {
    "role": Role,
    "created_at": datetime.fromisoformat,
    "expires_at": datetime.fromisoformat,
    "previous_until": datetime.fromisoformat,
}


def _token(row: dict[str, Any]) -> Token:
    return Token(**{name: _READ.get(name, str)(value) for name, value in row.items() if value is not None})


def _plain(token: Token) -> dict[str, Any]:
    plain = asdict(token)
    for name, value in plain.items():
        if isinstance(value, datetime):
            plain[name] = value.astimezone(UTC).isoformat()
        elif isinstance(value, Role):
            plain[name] = value.value
    return plain


def _why(error: OSError) -> str:
    return (error.strerror or str(error)).lower()
