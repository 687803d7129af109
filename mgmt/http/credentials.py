"""What a client shows, and tokens in files."""

from __future__ import annotations

import stat
from dataclasses import dataclass, field
from pathlib import Path

from mgmt.http.signing import SigningKey
from mgmt.http.tls import ClientTls

_TOKEN_LIMIT_BYTES = 512
_SHORTEST_TOKEN = 16


class CredentialError(ValueError):
    """A token file, or a combination of options, that cannot be used; one line that shows no secret."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ClientCredentials:
    """What a client shows and whom it trusts."""

    tls: ClientTls | None = None
    token: str | None = field(default=None, repr=False)
    key: SigningKey | None = None


def read_token(path: Path) -> str:
    """The token in a file that only its owner can read. Raises :class:`CredentialError`."""
    try:
        with path.open("rb") as file:
            if stat.S_IMODE(path.stat().st_mode) & 0o077:
                raise CredentialError(f"others can read the token in {path}: chmod 600 {path}")
            token = file.read(_TOKEN_LIMIT_BYTES + 1).strip()
    except OSError as error:
        raise CredentialError(
            f"cannot read the token in {path}: {(error.strerror or str(error)).lower()}"
        ) from None
    return checked_token(token.decode("latin-1"), f"the token in {path}")


def checked_token(text: str, what: str) -> str:
    """``text`` where it can be a token. Raises :class:`CredentialError`, which names ``what`` and does not show it."""
    if not _SHORTEST_TOKEN <= len(text) <= _TOKEN_LIMIT_BYTES or not text.isascii() or not text.isprintable():
        raise CredentialError(f"{what} is not {_SHORTEST_TOKEN} to {_TOKEN_LIMIT_BYTES} ASCII characters")
    if " " in text:
        raise CredentialError(f"{what} has a space in it")
    return text
