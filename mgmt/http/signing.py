"""Signed messages (GAP-22): a key that both sides have, a time and a nonce, so that nothing is forged or said twice.

The header ``X-Sancredit-Signature`` is ``key=NAME,time=SECONDS,nonce=HEX,mac=HEX``: HMAC-SHA256 (RFC 2104) over name,
time, nonce, path and body. A verifier refuses what is older or newer than its window and what it has seen before; what
it has to remember for that is bounded by time and by count.
"""

from __future__ import annotations

import hashlib
import hmac
import re
import stat
from collections import OrderedDict
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

HEADER = "x-sancredit-signature"
#: How far a sender's clock may be from the verifier's.
WINDOW_S = 60
#: Nonces remembered; a sender that uses them up faster than the window passes is refused until it has.
NONCE_LIMIT = 100_000
_FORM = re.compile(r"key=([\w.-]{1,64}),time=(\d{1,12}),nonce=([0-9a-f]{32}),mac=([0-9a-f]{64})", re.ASCII)
_SHORTEST_KEY_BYTES = 16
_KEY_LIMIT_BYTES = 4096


class KeyFileError(ValueError):
    """The file holds no key that can be used; one line that does not show what it holds."""


class NotAuthentic(Exception):
    """The signature is missing, wrong, too old, or was used before; the text says which."""


@dataclass(frozen=True, slots=True)
class SigningKey:
    """A key and its name, which travels with a signature. The key itself never shows."""

    name: str
    secret: bytes = field(repr=False)

    def sign(self, path: str, body: bytes, *, now_s: int, nonce: str) -> str:
        """The value of :data:`HEADER`; ``nonce`` is 32 hex digits that were never used before."""
        mac = _mac(self.secret, self.name, now_s, nonce, path, body)
        return f"key={self.name},time={now_s},nonce={nonce},mac={mac}"


def read_key(path: Path) -> SigningKey:
    """The key in a file that only its owner can read; its name is that of the file, without a suffix.

    Raises :class:`KeyFileError`.
    """
    name = path.name.partition(".")[0]
    if not re.fullmatch(r"[\w-]{1,64}", name, re.ASCII):
        raise KeyFileError(f"the name of the file {path} names the key: use letters, digits, _ and -")
    try:
        with path.open("rb") as file:
            if stat.S_IMODE(path.stat().st_mode) & 0o077:
                raise KeyFileError(f"others can read the key in {path}: chmod 600 {path}")
            secret = file.read(_KEY_LIMIT_BYTES + 1).strip()
    except OSError as error:
        raise KeyFileError(
            f"cannot read the key in {path}: {(error.strerror or str(error)).lower()}"
        ) from None
    if not _SHORTEST_KEY_BYTES <= len(secret) <= _KEY_LIMIT_BYTES:
        raise KeyFileError(f"the key in {path} has {_SHORTEST_KEY_BYTES} to {_KEY_LIMIT_BYTES} bytes")
    return SigningKey(name, secret)


def _mac(secret: bytes, name: str, now_s: int, nonce: str, path: str, body: bytes) -> str:
    said = b"\n".join((name.encode(), str(now_s).encode(), nonce.encode(), path.encode(), body))
    return hmac.new(secret, said, hashlib.sha256).hexdigest()


class Verifier:
    """Checks signatures made with any of ``keys``. Not thread-safe: one event loop, or a lock, around it."""

    def __init__(
        self, keys: Mapping[str, SigningKey], *, window_s: int = WINDOW_S, nonce_limit: int = NONCE_LIMIT
    ) -> None:
        self._keys = dict(keys)
        self._window_s = window_s
        self._nonce_limit = nonce_limit
        self._seen: OrderedDict[tuple[str, str], int] = OrderedDict()

    def verify(self, header: str, path: str, body: bytes, *, now_s: int) -> str:
        """The name of the key that signed this. Raises :class:`NotAuthentic`; then nothing is remembered of it."""
        form = _FORM.fullmatch(header)
        if form is None:
            raise NotAuthentic("a notification is signed with the key of its measuring device")
        name, time_text, nonce, mac = form.groups()
        key = self._keys.get(name)
        wanted = _mac(key.secret if key else b"", name, int(time_text), nonce, path, body)
        if not hmac.compare_digest(mac, wanted) or key is None:
            raise NotAuthentic("the signature is not that of a key known here")
        if abs(int(time_text) - now_s) > self._window_s:
            raise NotAuthentic(f"the signature's time is more than {self._window_s} s from this clock's")
        self._forget(now_s)
        if (name, nonce) in self._seen:
            raise NotAuthentic("the signature was used before")
        if len(self._seen) >= self._nonce_limit:
            raise NotAuthentic("too many notifications: their nonces cannot be remembered")
        self._seen[name, nonce] = now_s
        return name

    def _forget(self, now_s: int) -> None:
        """Nonces that no signature inside the window can repeat any more."""
        while self._seen and next(iter(self._seen.values())) < now_s - 2 * self._window_s:
            self._seen.popitem(last=False)
