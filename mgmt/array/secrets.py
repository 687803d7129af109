"""The secret that arrays share, by which each knows the other (CHAP, mutual; RFC 7143 section 12.1.3).

One file holds it, the same at every array; what goes over the wire is derived from it, one secret for each direction,
since RFC 7143 section 9.2.1 forbids to use the same for both.
"""

from __future__ import annotations

import hashlib
import hmac
import os
import secrets
import stat
from dataclasses import dataclass
from pathlib import Path

from iscsi_target.session.chap import Chap, Credentials
from mgmt.array.errors import ConfigurationError

#: The CHAP names: who begins the copy, and who is written to.
COPIER, COPIED = "sancredit-array", "sancredit-array-target"
_SECRET_BYTES = 32
_SHORTEST_BYTES = 12
_LONGEST_BYTES = 1024


@dataclass(frozen=True, slots=True)
class ArrayChap:
    """What an array needs as the target of copies, and as the initiator of its own."""

    target: Chap
    initiator: Chap


def array_chap(secret: bytes) -> ArrayChap:
    """Both ends' credentials from the shared secret."""
    there = Credentials(COPIER, _derived(secret, b"initiator"))
    back = Credentials(COPIED, _derived(secret, b"target"))
    return ArrayChap(
        target=Chap(accepted=(there,), own=back, algorithms=(7,)),
        initiator=Chap(accepted=(back,), own=there, algorithms=(7,)),
    )


def read_secret(file: Path | None, state: Path | None) -> bytes:
    """The secret in ``file``, which only its owner may read; a missing one is made.

    Without ``file`` it is ``chap`` in the state directory, or a random one for this run: then no array that does not
    have a copy of it can copy to this one. Raises :class:`ConfigurationError`.
    """
    if file is None:
        if state is None:
            return secrets.token_bytes(_SECRET_BYTES)
        file = state / "chap"
    try:
        try:
            return _read(file)
        except FileNotFoundError:
            return _make(file)
    except OSError as error:
        reason = (error.strerror or str(error)).lower()
        raise ConfigurationError(f"cannot read the arrays' secret in {file}: {reason}") from None


def _derived(secret: bytes, direction: bytes) -> bytes:
    return hmac.digest(secret, b"sancredit arrays " + direction, hashlib.sha256).hex().encode()


def _read(file: Path) -> bytes:
    with file.open("rb") as opened:
        if stat.S_IMODE(os.fstat(opened.fileno()).st_mode) & 0o077:
            raise ConfigurationError(f"others can read the arrays' secret in {file}: chmod 600 {file}")
        secret = opened.read(_LONGEST_BYTES + 1).strip()
    if not _SHORTEST_BYTES <= len(secret) <= _LONGEST_BYTES:
        raise ConfigurationError(
            f"the arrays' secret in {file} has {len(secret)} bytes, not {_SHORTEST_BYTES} to {_LONGEST_BYTES}"
        )
    return secret


def _make(file: Path) -> bytes:
    """A new secret, in place at once as a whole: of two arrays that start together the first one's counts."""
    file.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    secret = secrets.token_hex(_SECRET_BYTES).encode()
    draft = file.with_name(f".{file.name}.{os.getpid()}")
    descriptor = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    try:
        with os.fdopen(descriptor, "wb") as opened:
            opened.write(secret + b"\n")
            opened.flush()
            os.fsync(opened.fileno())
        os.link(draft, file)
    except FileExistsError:
        return _read(file)
    finally:
        draft.unlink()
    return secret
