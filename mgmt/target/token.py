"""The bearer token of a target's control API, in a file of mode 0600."""

from __future__ import annotations

import contextlib
import os
import secrets
import stat
from pathlib import Path

from mgmt.target.table import ConfigurationError

_TOKEN_LIMIT_BYTES = 512
_SHORTEST_TOKEN = 16


def read_token(path: Path, *, create: bool = False) -> str:
    """The bearer token in a file that only its owner can read; made when it is not there and `create`.

    Raises ConfigurationError.
    """
    with contextlib.suppress(FileExistsError):
        if create:
            flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC
            try:
                with os.fdopen(os.open(path, flags, 0o600), "w") as file:
                    file.write(secrets.token_urlsafe(32) + "\n")
            except FileExistsError:
                raise
            except OSError as error:
                raise ConfigurationError(f"cannot make the token in {path}: {_reason(error)}") from error
    try:
        with path.open("rb") as found:
            if stat.S_IMODE(os.fstat(found.fileno()).st_mode) & 0o077:
                raise ConfigurationError(f"others can read the token in {path}: chmod 600 {path}")
            token = found.read(_TOKEN_LIMIT_BYTES + 1).strip()
    except OSError as error:
        raise ConfigurationError(f"cannot read the token in {path}: {_reason(error)}") from error
    if not _SHORTEST_TOKEN <= len(token) <= _TOKEN_LIMIT_BYTES or not token.isascii() or b" " in token:
        raise ConfigurationError(
            f"the token in {path} is {_SHORTEST_TOKEN} to {_TOKEN_LIMIT_BYTES} ASCII characters without a space"
        )
    return token.decode()


def _reason(error: OSError) -> str:
    return (error.strerror or str(error)).lower()
