# SPDX-License-Identifier: Apache-2.0
"""What an initiator does when connections break: the knobs, and the pauses between attempts."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class Reconnection:
    """A policy. The default recovers connections at error recovery level 2 and gives the session up otherwise.

    Pauses between attempts double from `first_delay_s` to `longest_delay_s`; both in seconds.
    """

    connections: bool = True
    """At error recovery level 2: go on with what was under way on a lost connection (RFC 7143 section 7.2.2)."""
    to_another: bool = False
    """... on a connection that is left, when there is one, instead of making the lost one anew."""
    sessions: bool = False
    """Make a lost session anew under the same ISID (session reinstatement, section 6.3.5). What was under way fails
    with ConnectionLost, or is sent again with `retry_commands`; later calls wait for the new session."""
    retry_commands: bool = False
    """Send SCSI commands that were under way again on a new session. Only for commands that may be run twice."""
    attempts: int = 5
    """Logins tried for a session before it is given up."""
    first_delay_s: float = 0.2
    longest_delay_s: float = 5.0

    def __post_init__(self) -> None:
        if self.attempts < 1 or not 0 < self.first_delay_s <= self.longest_delay_s:
            raise ValueError("at least one attempt, and 0 < first_delay_s <= longest_delay_s")

    def delays(self) -> Iterator[float]:
        """The pauses, without end, in seconds."""
        delay_s = self.first_delay_s
        while True:
            yield delay_s
            delay_s = min(2 * delay_s, self.longest_delay_s)
