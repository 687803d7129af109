"""A live capture that rotates, in a network namespace of its own: ``python live_rotation.py FILE``.

Sends numbered datagrams over the loopback meanwhile. Prints what the capture said, as JSON.
"""

from __future__ import annotations

import json
import signal
import socket
import subprocess
import sys

from tools.wan.errors import ChannelUnavailable
from tools.wan.sites import make_namespaces

COUNT, SIZE_BYTES = 600, 1000


def main() -> int:
    """Exit status 77 where no namespace can be made."""
    try:
        make_namespaces()
    except ChannelUnavailable as error:
        sys.stderr.write(str(error))
        return 77
    words = ["capture", "summary", "-i", "lo", "--write", sys.argv[1], "--rotate", "64KiB", "--keep", "3"]
    capture = subprocess.Popen(
        [sys.executable, "-m", "mgmt.cli", *words, "-o", "json"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert capture.stderr is not None
    said = capture.stderr.readline()
    if "capturing from lo" in said:
        with (
            socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as there,  # else each is answered by ICMP
            socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as here,
        ):
            there.bind(("127.0.0.1", 0))
            for number in range(COUNT):
                here.sendto(number.to_bytes(4, "big").ljust(SIZE_BYTES, b"\0"), there.getsockname())
        capture.send_signal(signal.SIGINT)
    out, err = capture.communicate(timeout=60)
    json.dump({"code": capture.returncode, "out": out, "err": said + err}, sys.stdout)
    return 0


if __name__ == "__main__":
    sys.exit(main())
