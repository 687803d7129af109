"""A bulk TCP transfer to try a channel with: ``python -m tools.wan.bulk receive|send ADDRESS PORT``.

The receiver prints ``listening PORT``, takes one connection and, at its end, one JSON line: bytes, seconds from the
first byte to the last, ``goodput_bps``, and ``steady_bps`` over the second half of that time (without slow start).
The sender prints what its TCP says (``tcp(7)``, TCP_INFO): smallest round-trip time, retransmitted segments.
"""

from __future__ import annotations

import argparse
import json
import socket
import struct
import sys
import time
from collections.abc import Sequence
from typing import Any

CHUNK_BYTES = 256 * 1024
CONNECT_TIMEOUT_S = 10.0
_TCP_INFO_TOTAL_RETRANS_AT = 100
_TCP_INFO_MIN_RTT_AT = 148
_NS_PER_S = 1_000_000_000


def _say(line: str) -> None:
    sys.stdout.write(line + "\n")
    sys.stdout.flush()


def _rate(total_bytes: int, elapsed_ns: int) -> float:
    return total_bytes * 8 * _NS_PER_S / elapsed_ns if elapsed_ns > 0 else 0.0


def receive(address: str, port: int) -> dict[str, Any]:
    """Take one connection and count until its end."""
    with socket.create_server((address, port)) as server:
        _say(f"listening {server.getsockname()[1]}")
        connection, _peer = server.accept()
    buffer = bytearray(CHUNK_BYTES)
    arrivals: list[tuple[int, int]] = []  # (time, bytes so far)
    total = 0
    with connection:
        while count := connection.recv_into(buffer):
            total += count
            arrivals.append((time.monotonic_ns(), total))
    if not arrivals:
        return {"bytes": 0, "seconds": 0.0, "goodput_bps": 0.0, "steady_bps": 0.0}
    first_ns, last_ns = arrivals[0][0], arrivals[-1][0]
    half = [arrival for arrival in arrivals if arrival[0] >= (first_ns + last_ns) // 2]
    return {
        "bytes": total,
        "seconds": (last_ns - first_ns) / _NS_PER_S,
        "goodput_bps": _rate(total, last_ns - first_ns),
        "steady_bps": _rate(half[-1][1] - half[0][1], half[-1][0] - half[0][0]),
    }


def send(address: str, port: int, seconds: float, limit_bytes: int | None) -> dict[str, Any]:
    """Send until the time is over, or so many bytes."""
    chunk = bytes(CHUNK_BYTES)
    total = 0
    with socket.create_connection((address, port), timeout=CONNECT_TIMEOUT_S) as connection:
        deadline_ns = time.monotonic_ns() + int(seconds * _NS_PER_S)
        while time.monotonic_ns() < deadline_ns and (limit_bytes is None or total < limit_bytes):
            wanted = CHUNK_BYTES if limit_bytes is None else min(CHUNK_BYTES, limit_bytes - total)
            connection.sendall(chunk[:wanted] if wanted < CHUNK_BYTES else chunk)
            total += wanted
        information = connection.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 256)
    (min_rtt_us,) = struct.unpack_from("=I", information, _TCP_INFO_MIN_RTT_AT)
    (retransmitted,) = struct.unpack_from("=I", information, _TCP_INFO_TOTAL_RETRANS_AT)
    return {"bytes": total, "min_rtt_ns": min_rtt_us * 1000, "retransmitted_segments": retransmitted}


def main(arguments: Sequence[str] | None = None) -> int:
    """Exit status 0, or 1 where the other side cannot be reached."""
    parser = argparse.ArgumentParser(prog="python -m tools.wan.bulk", description="a bulk TCP transfer")
    parser.add_argument("role", choices=("receive", "send"))
    parser.add_argument("address")
    parser.add_argument("port", type=int)
    parser.add_argument("--seconds", type=float, default=3.0, help="how long to send")
    parser.add_argument("--bytes", type=int, help="how much to send at most")
    options = parser.parse_args(arguments)
    try:
        if options.role == "receive":
            result = receive(options.address, options.port)
        else:
            result = send(options.address, options.port, options.seconds, options.bytes)
    except OSError as error:
        sys.stderr.write(
            f"cannot {options.role} at {options.address} port {options.port}: {error.strerror or error}\n"
        )
        return 1
    _say(json.dumps(result))
    return 0


if __name__ == "__main__":
    sys.exit(main())
