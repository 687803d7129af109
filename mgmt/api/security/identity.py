"""Who asks, and what that lets them do: roles and rights as one table."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import Enum
from typing import Annotated

from fastapi import Depends, Request

from mgmt.http.application import SAFE_METHODS


class Right(Enum):
    """What a request needs."""

    READ = "read"
    CHANGE = "change"
    ADMINISTER = "administer"
    NOTIFY = "notify"
    """To send the messages that arrays and measuring devices send by themselves (M9, M12)."""


class Role(Enum):
    """What a token, or a client certificate's organizational unit, makes of who shows it."""

    VIEWER = "viewer"
    OPERATOR = "operator"
    ADMIN = "admin"
    PROBE = "probe"
    ARRAY = "array"


RIGHTS: Mapping[Role, frozenset[Right]] = {
    Role.VIEWER: frozenset({Right.READ}),
    Role.OPERATOR: frozenset({Right.READ, Right.CHANGE}),
    Role.ADMIN: frozenset(Right),
    Role.PROBE: frozenset({Right.NOTIFY}),
    Role.ARRAY: frozenset({Right.NOTIFY}),
}


@dataclass(frozen=True, slots=True)
class Identity:
    """Who asks: the ``name`` that audit trail and events carry, and the ``role``."""

    name: str
    role: Role

    def may(self, right: Right) -> bool:
        """Whether the role has the right."""
        return right in RIGHTS[self.role]


#: Everybody who reaches a station that asks for no token: its own machine.
LOCAL = Identity("local", Role.ADMIN)

#: Requests that change whom the station talks to, and not only what is reserved.
_ADMINISTRATIVE = ("/api/v1/arrays", "/api/v1/arrays/remove")


def right_for(method: str, path: str) -> Right:
    """The right that a request needs."""
    if path == "/messages":
        return Right.NOTIFY
    if method in SAFE_METHODS:
        return Right.READ
    return Right.ADMINISTER if path in _ADMINISTRATIVE else Right.CHANGE


def identity_of(request: Request) -> Identity:
    """Who asks, as the gate has found out."""
    identity = request.state.identity
    assert isinstance(identity, Identity)
    return identity


def _name_of(request: Request) -> str:
    return identity_of(request).name


#: A path operation's parameter: the name of who asks.
By = Annotated[str, Depends(_name_of)]
