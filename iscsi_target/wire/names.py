# SPDX-License-Identifier: Apache-2.0
"""iSCSI names and the SCSI port names built from them (RFC 7143 section 4.2.7, 4.4.1.1; RFC 3980)."""

from __future__ import annotations

import re

NAME_LIMIT_BYTES = 223
_FORMS = (
    re.compile(r"iqn\.\d{4}-\d{2}\.[^\s,/]+"),
    re.compile(r"eui\.[0-9A-Fa-f]{16}"),
    re.compile(r"naa\.(?:[0-9A-Fa-f]{16}|[0-9A-Fa-f]{32})"),
)


def name_problem(name: str) -> str | None:
    """Why `name` is no iSCSI name, in one phrase; None when it is one."""
    if not name:
        return "it is empty"
    if len(name.encode()) > NAME_LIMIT_BYTES:
        return f"it is longer than {NAME_LIMIT_BYTES} bytes"
    if any(ord(character) <= 0x20 for character in name):
        return "it contains a space or control character"
    if not any(form.fullmatch(name) for form in _FORMS):
        return "it is not of the form iqn.YYYY-MM.domain[:text], eui.<16 hex> or naa.<16 or 32 hex>"
    return None


def initiator_port(name: str, isid: bytes) -> str:
    """SCSI initiator port name."""
    return f"{name},i,0x{isid.hex()}"


def target_port(name: str, portal_group_tag: int) -> str:
    """SCSI target port name."""
    return f"{name},t,0x{portal_group_tag:04x}"
