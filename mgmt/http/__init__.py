"""HTTP between station, arrays, measuring devices and the command line.

An address is ``unix:/path/to.sock``, ``http://HOST:PORT`` on loopback, or ``https://HOST:PORT``. Clients:
:class:`Peer`. Servers: :class:`ServerThread` or :func:`serve` with an ASGI application made from
:func:`message_endpoint` and :func:`exception_handlers`. What is refused travels as an RFC 9457 problem.

The names of client and server are loaded when first used, so that nobody waits for a library of the other half.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from mgmt.http.address import Address, AddressError, parse_address
from mgmt.http.problems import (
    PeerError,
    PeerRefused,
    PeerUnreachable,
    ProblemError,
    make_problem,
    problem,
    shortage_of,
)

if TYPE_CHECKING:
    from mgmt.http.application import Guard, exception_handlers, message_endpoint, problem_response
    from mgmt.http.client import Peer
    from mgmt.http.server import ListenError, ServerThread, listening, serve

__all__ = [
    "Address",
    "AddressError",
    "Guard",
    "ListenError",
    "Peer",
    "PeerError",
    "PeerRefused",
    "PeerUnreachable",
    "ProblemError",
    "ServerThread",
    "exception_handlers",
    "listening",
    "make_problem",
    "message_endpoint",
    "parse_address",
    "problem",
    "problem_response",
    "serve",
    "shortage_of",
]

_LAZY = {
    "Peer": "mgmt.http.client",
    "Guard": "mgmt.http.application",
    "exception_handlers": "mgmt.http.application",
    "message_endpoint": "mgmt.http.application",
    "problem_response": "mgmt.http.application",
    "ListenError": "mgmt.http.server",
    "ServerThread": "mgmt.http.server",
    "listening": "mgmt.http.server",
    "serve": "mgmt.http.server",
}


def __getattr__(name: str) -> Any:
    if module := _LAZY.get(name):
        return getattr(import_module(module), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
