# SPDX-License-Identifier: Apache-2.0
"""What iSCSI says no with.

::

    IscsiError                 the abstract root
      ProtocolError            the peer broke a rule of RFC 7143; carries the Reject reason
        NegotiationError       ... in a text negotiation
        LimitExceeded          ... or one of our limits
      LoginFailed              (initiator) the target refused the login; carries the login status
      CommandFailed            (initiator) a SCSI command ended with a status other than GOOD; carries it and the sense
      TaskAborted              (initiator) the task ended without a status: abort, reset, Reject
      ConnectionLost           the TCP connection ended, or a time-out declared it dead
      SessionRefused           (target) a login is refused; carries the login status that goes back
"""

from __future__ import annotations

import os
from collections.abc import Sequence

from iscsi_target.wire.opcodes import LoginStatus, RejectReason


class IscsiError(Exception):
    """Root of the package's errors."""


class ProtocolError(IscsiError):
    """The peer sent what RFC 7143 forbids; `reason` is what a Reject PDU would say."""

    def __init__(self, text: str, reason: RejectReason = RejectReason.PROTOCOL_ERROR) -> None:
        super().__init__(text)
        self.reason = reason


class NegotiationError(ProtocolError):
    """A text key or value that cannot be answered."""


class LimitExceeded(ProtocolError):
    """The peer went beyond a declared or configured limit."""


class LoginFailed(IscsiError):
    """The target refused the login. `status` is Status-Class and Status-Detail as one number."""

    def __init__(self, status: int, text: str = "", *, target_addresses: Sequence[str] = ()) -> None:
        try:
            name = LoginStatus(status).name.lower().replace("_", " ")
        except ValueError:
            name = "unknown status"
        super().__init__(f"login refused: {name} ({status:#06x}){': ' + text if text else ''}")
        self.status = status
        self.target_addresses = tuple(target_addresses)
        """Where the target has moved to, with a redirection (section 11.13.5)."""


class CommandFailed(IscsiError):
    """A SCSI command ended with `status` (SAM-5 5.3); `sense` is the sense data without its length."""

    def __init__(self, status: int, sense: bytes, residual_count: int = 0) -> None:
        super().__init__(f"SCSI status {status:#04x}{describe_sense(sense)}")
        self.status = status
        self.sense = sense
        self.residual_count = residual_count


class TaskAborted(IscsiError):
    """The task ended without a SCSI status."""


class ConnectionLost(IscsiError):
    """The TCP connection is gone; the text says how."""


class SessionRefused(IscsiError):
    """Raised in the target's login core; `status` goes back in the Login Response."""

    def __init__(self, status: LoginStatus, text: str, pairs: Sequence[tuple[str, str]] = ()) -> None:
        super().__init__(text)
        self.status = status
        self.pairs = pairs
        """Keys that go with the status (TargetAddress of a redirection)."""


def reason_of(error: OSError) -> str:
    """The kernel's words for its error number ("Connection refused"); asyncio puts others into `strerror`."""
    if error.errno is not None and error.errno > 0:
        return os.strerror(error.errno)
    return error.strerror or str(error)


def describe_sense(sense: bytes) -> str:
    """Sense key and additional sense code in words of numbers: ``, sense 5/24/00``; empty without sense."""
    if len(sense) >= 14 and sense[0] & 0x7E == 0x70:
        return f", sense {sense[2] & 0xF:x}/{sense[12]:02x}/{sense[13]:02x}"
    if len(sense) >= 4 and sense[0] & 0x7E == 0x72:
        return f", sense {sense[1] & 0xF:x}/{sense[2]:02x}/{sense[3]:02x}"
    return ""
