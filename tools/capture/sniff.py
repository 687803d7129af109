"""Capture an interface into a pcapng file until SIGTERM or SIGINT: ``python -m tools.capture.sniff wan0 FILE``.

To be run inside a site of a channel::

    sniffer = channel.popen("master", sniff_command(channel.interface, path), stdout=subprocess.PIPE, text=True)
    sniffer.stdout.readline()              # "capturing wan0 to …": from now on every packet is seen
    …
    sniffer.terminate()                    # the file is complete once the process has ended
    print(sniffer.communicate()[0])        # {"packets": 12345, "dropped": 0}

Stop it a round-trip time after the last byte was acknowledged, or the file ends before that acknowledgement.
Only the first bytes of each packet are kept (headers; 128 by default). What the capture itself lost is counted, in
the last line and in the file.
"""

from __future__ import annotations

import argparse
import json
import os
import select
import signal
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from types import FrameType

from iscsi_target.trace.pcapng import PcapngWriter
from tools.capture.packet_socket import UnsupportedInterface
from tools.capture.ring import PacketRing

SNAP_BYTES = 128
GATHER_S = 0.005
"""How long packets gather in the ring before they are written together."""


def sniff_command(interface: str, path: Path, *, snap_bytes: int = SNAP_BYTES) -> list[str]:
    """The argument list that runs this program with this Python."""
    module = [sys.executable, "-m", "tools.capture.sniff"]
    return [*module, "--snap-bytes", str(snap_bytes), interface, str(path)]


def capture(interface: str, path: Path, snap_bytes: int) -> tuple[int, int]:
    """Capture until a signal; (packets written, packets lost). Raises what :class:`PacketRing` raises."""
    wakeup, writer = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)

    def stop(number: int, frame: FrameType | None) -> None:
        os.write(writer, b"x")

    written = 0
    with (
        PacketRing(interface, snap_bytes=snap_bytes) as ring,
        path.open("wb", buffering=1 << 20) as stream,
    ):
        file = PcapngWriter(stream)
        file.add_interface(ring.link_type, snap_bytes=snap_bytes, name=interface)
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, stop)
        sys.stdout.write(f"capturing {interface} to {path}\n")
        sys.stdout.flush()
        started_ns = time.time_ns()
        poll = select.poll()
        poll.register(ring.socket, select.POLLIN)
        poll.register(wakeup, select.POLLIN)
        running = True
        while running:
            running = wakeup not in [descriptor for descriptor, _event in poll.poll()]
            if running:
                time.sleep(GATHER_S)
            for packet in ring.packets():
                file.write(packet.time_ns, packet.data, packet.original_bytes)
                written += 1
        received, dropped = ring.statistics()
        file.write_statistics(time.time_ns(), received=received, dropped=dropped, started_ns=started_ns)
    return written, dropped


def main(arguments: Sequence[str] | None = None) -> int:
    """Exit status 0, or 1 where the interface or the file cannot be used."""
    parser = argparse.ArgumentParser(
        prog="python -m tools.capture.sniff", description="capture into a pcapng file"
    )
    parser.add_argument("interface", help="its name, in this network namespace")
    parser.add_argument("file", type=Path, help="the pcapng file; overwritten")
    parser.add_argument("--snap-bytes", type=int, default=SNAP_BYTES, help="how much of a packet is kept")
    options = parser.parse_args(arguments)
    try:
        written, dropped = capture(options.interface, options.file, options.snap_bytes)
    except (OSError, ValueError, UnsupportedInterface) as error:
        reason = (error.strerror if isinstance(error, OSError) else None) or str(error)
        sys.stderr.write(f"cannot capture {options.interface} to {options.file}: {reason}\n")
        return 1
    sys.stdout.write(json.dumps({"packets": written, "dropped": dropped}) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
