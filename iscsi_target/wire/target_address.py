# SPDX-License-Identifier: Apache-2.0
"""The value of the TargetAddress key: ``host[:port][,portal group tag]`` (RFC 7143 section 13.8)."""

from __future__ import annotations

import re
from dataclasses import dataclass

from iscsi_target.errors import NegotiationError
from iscsi_target.wire.opcodes import ISCSI_PORT

_FORM = re.compile(
    r"(?:\[(?P<v6>[0-9A-Fa-f:.]{2,45})\]|(?P<host>[^\s:,\[\]]{1,255}))(?::(?P<port>[0-9]{1,5}))?(?:,(?P<tag>[0-9]{1,5}))?"
)


@dataclass(frozen=True, slots=True)
class TargetAddress:
    """Where a target can be reached."""

    host: str
    """A DNS name, an IPv4 or an IPv6 address (without its brackets)."""
    port: int = ISCSI_PORT
    portal_group_tag: int | None = None
    """None in a redirection, which does not say it."""


def parse_target_address(text: str) -> TargetAddress:
    """Read the value of a TargetAddress key. Raises NegotiationError."""
    found = _FORM.fullmatch(text)
    port = int(found["port"] or ISCSI_PORT) if found else 0
    tag = int(found["tag"]) if found and found["tag"] else None
    if found is None or not 0 < port < 65536 or (tag or 0) > 65535:
        raise NegotiationError(f"{text[:80]!r} is no TargetAddress: host[:port][,tag]")
    return TargetAddress(found["v6"] or found["host"], port, tag)
