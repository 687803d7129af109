"""Two sites with a channel between them, for shell scripts: ``python3 examples/channel.py 50Mbit 20ms`` (see story.sh).

Once the channel stands, one line for the shell's ``eval``: the addresses of both sites, the channel's interface, and
the words to put before a command to run it at a site. Terminate it, and what still runs at the sites ends with it.
"""

from __future__ import annotations

import signal
import subprocess
import sys
from pathlib import Path

from credits.quantities import parse_delay, parse_rate
from tools.wan.channel import Channel


def words_for(channel: Channel, site: str) -> str:
    """What runs a command at a site: nsenter, into the namespaces of a process that sleeps there."""
    if channel.kind == "loopback":
        return "env"
    sleeper = channel.popen(site, ["sleep", "infinity"], stdout=subprocess.DEVNULL)
    theirs, ours = Path(f"/proc/{sleeper.pid}/ns/net"), Path("/proc/self/ns/net")
    while theirs.readlink() == ours.readlink():  # it is entering
        if sleeper.poll() is not None:
            sys.exit(f"the {site} site cannot be entered")
    user_too = Path(f"/proc/{sleeper.pid}/ns/user").readlink() != Path("/proc/self/ns/user").readlink()
    return f"nsenter --target {sleeper.pid} --net" + (" --user --preserve-credentials" if user_too else "")


def main() -> None:
    """Open the channel, say how to use it, wait."""
    bandwidth, rtt = sys.argv[1:]
    signal.signal(signal.SIGTERM, lambda *_: sys.exit())
    with Channel.open(bandwidth_bps=parse_rate(bandwidth), rtt_ns=parse_delay(rtt)) as channel:
        told = {
            "interface": channel.interface,
            "near_address": channel.master_address,
            "far_address": channel.remote_address,
            "near": words_for(channel, "master"),
            "far": words_for(channel, "remote"),
        }
        sys.stdout.write(" ".join(f"{name}={value!r}" for name, value in told.items()) + "\n")
        sys.stdout.flush()
        signal.pause()


if __name__ == "__main__":
    main()
