# SPDX-License-Identifier: Apache-2.0
"""TCP ports for programs that cannot listen on port 0 and say what they got, or that come back to theirs."""

from __future__ import annotations

import random
import socket
from pathlib import Path


def free_port() -> int:
    """A port that nobody listens on, and that the kernel gives to nobody who asks for any port.

    So outgoing connections and listeners on port 0, of tests that run at the same time, do not take it before its owner
    does, nor while its owner was killed and is not back yet.
    """
    given_away_from = int(Path("/proc/sys/net/ipv4/ip_local_port_range").read_text().split()[0])
    for _ in range(1000):
        port = random.SystemRandom().randrange(10_000, max(given_away_from, 20_000))
        with socket.socket() as probe:
            try:
                probe.bind(("0.0.0.0", port))
            except OSError:
                continue
            return port
    raise OSError("no free port was found")
