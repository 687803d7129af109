"""Addresses of servers: ``unix:/path/to.sock`` or ``http(s)://[USER:PASSWORD@]HOST:PORT``.

A password is taken and never shown: not by :class:`Address` as text, not in an error about it (:func:`masked`).
"""

from __future__ import annotations

import os
from contextlib import suppress
from dataclasses import dataclass, field
from ipaddress import ip_address
from urllib.parse import quote, unquote, urlsplit

_PORTS = {"http": 80, "https": 443}
_MASK = "***"


class AddressError(ValueError):
    """The text is not an address; the message says what one looks like."""


@dataclass(frozen=True, slots=True)
class Address:
    """Where a server listens: a Unix socket's ``path``, or ``host`` and ``port`` of a TCP socket.

    ``username`` and ``password`` are what a client shows there (HTTP basic authentication, RFC 7617).
    """

    scheme: str
    path: str = ""
    host: str = ""
    port: int = 0
    username: str = ""
    password: str = field(default="", repr=False)

    def __str__(self) -> str:
        """The address as people may read it: the password is masked."""
        if self.scheme == "unix":
            return f"unix:{self.path}"
        user = quote(self.username, safe="") + (f":{_MASK}" if self.password else "")
        return f"{self.scheme}://{user}{'@' if user else ''}{self.host_and_port}"

    @property
    def host_and_port(self) -> str:
        """``HOST:PORT``, an IPv6 address in brackets."""
        return f"{f'[{self.host}]' if ':' in self.host else self.host}:{self.port}"

    @property
    def is_loopback(self) -> bool:
        """Whether only this machine can reach the address."""
        if self.scheme == "unix" or self.host == "localhost":
            return True
        with suppress(ValueError):
            return ip_address(self.host).is_loopback
        return False


def masked(text: str) -> str:
    """``text`` with what looks like the password of a URL in it replaced by ``***``, however the rest is spelled."""
    head, sign, tail = text.rpartition("@")
    if not sign or text.startswith("unix:"):
        return text
    start, slashes, user = head.partition("://") if "://" in head else ("", "", head)
    name, colon, _ = user.partition(":")
    return f"{start}{slashes}{name}{colon}{_MASK if colon else ''}@{tail}"


def parse_address(text: str) -> Address:
    """``unix:/path/to.sock`` or ``http(s)://[USER:PASSWORD@]HOST:PORT`` as an :class:`Address`.

    Signs of a user name or password that a URL cannot hold are percent-encoded. Raises :class:`AddressError`.
    """
    form = f"{masked(text)!r} is not an address: write unix:/path/to.sock or http://HOST:PORT"
    if text.startswith("unix:"):
        path = text.removeprefix("unix:")
        if not path or "\0" in path:
            raise AddressError(form)
        if len(os.fsencode(path)) > 107:  # sun_path of Linux, less its terminator
            raise AddressError(f"the path of a Unix socket has at most 107 bytes: {path}")
        return Address("unix", path=path)
    if not text.isascii() or not text.isprintable() or any(sign in text for sign in " ?#\\"):
        raise AddressError(form)
    try:
        url = urlsplit(text)
        host, port = url.hostname, url.port
        if host and ":" in host:
            host = str(ip_address(host))
    except ValueError as error:
        raise AddressError(form) from None if "@" in text else error
    if url.scheme not in ("http", "https") or not host or url.path not in ("", "/"):
        raise AddressError(form)
    return Address(
        url.scheme,
        host=host,
        port=port if port is not None else _PORTS[url.scheme],
        username=unquote(url.username or ""),
        password=unquote(url.password or ""),
    )
