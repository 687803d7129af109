"""Addresses of servers: ``unix:/path/to.sock`` or ``http(s)://HOST:PORT``."""

from __future__ import annotations

import os
from contextlib import suppress
from dataclasses import dataclass
from ipaddress import ip_address
from urllib.parse import urlsplit

_PORTS = {"http": 80, "https": 443}


class AddressError(ValueError):
    """The text is not an address; the message says what one looks like."""


@dataclass(frozen=True, slots=True)
class Address:
    """Where a server listens: a Unix socket's ``path``, or ``host`` and ``port`` of a TCP socket."""

    scheme: str
    path: str = ""
    host: str = ""
    port: int = 0

    def __str__(self) -> str:
        if self.scheme == "unix":
            return f"unix:{self.path}"
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{self.scheme}://{host}:{self.port}"

    @property
    def is_loopback(self) -> bool:
        """Whether only this machine can reach the address."""
        if self.scheme == "unix" or self.host == "localhost":
            return True
        with suppress(ValueError):
            return ip_address(self.host).is_loopback
        return False


def parse_address(text: str) -> Address:
    """``unix:/path/to.sock`` or ``http(s)://HOST:PORT`` as an :class:`Address`.

    Raises :class:`AddressError`.
    """
    form = f"{text!r} is not an address: write unix:/path/to.sock or http://HOST:PORT"
    if text.startswith("unix:"):
        path = text.removeprefix("unix:")
        if not path or "\0" in path:
            raise AddressError(form)
        if len(os.fsencode(path)) > 107:  # sun_path of Linux, less its terminator
            raise AddressError(f"the path of a Unix socket has at most 107 bytes: {path}")
        return Address("unix", path=path)
    if not text.isascii() or not text.isprintable() or any(sign in text for sign in " @?#\\"):
        raise AddressError(form)
    try:
        url = urlsplit(text)
        host, port = url.hostname, url.port
        if host and ":" in host:
            host = str(ip_address(host))
    except ValueError as error:
        raise AddressError(form) from error
    if url.scheme not in ("http", "https") or not host or url.path not in ("", "/"):
        raise AddressError(form)
    return Address(url.scheme, host=host, port=port if port is not None else _PORTS[url.scheme])
