"""What the pages are read of in a browser: real arrays, measuring devices and a station, each in its process."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

LOCAL, REMOTE = "127.0.0.1", "127.0.0.2"
IMAGE_BYTES = 8 * 1024**2
UNITS = 256
WWPN = {"east": "50:06:01:60:3b:a0:11:22", "west": "50:06:01:60:3b:a0:11:23"}
INTERFACES = f"""
[[interface]]
address = "{{port}}"
iscsi_port = 0
units = {UNITS}
[[interface]]
kind = "fc"
name = "fc0"
address = "{{wwpn}}"
link = "{{link}}"
speed = "8G"
distance = "10km"
credits = 100
unreserved = 4
time_scale = 2000
"""


@contextmanager
def serving(lines: int, *words: str) -> Iterator[list[str]]:
    """``sancredit …`` until the block ends; what it printed once it was ready."""
    process = subprocess.Popen(
        [sys.executable, "-m", "mgmt.cli", *words], stdout=subprocess.PIPE, text=True, start_new_session=True
    )
    assert process.stdout is not None
    try:
        ready = [process.stdout.readline().strip() for _ in range(lines)]
        assert all(ready), words
        yield ready
    finally:
        process.terminate()
        try:
            process.wait(60)
        finally:
            process.kill()
            process.wait()
            process.stdout.close()


@contextmanager
def san(place: Path) -> Iterator[str]:
    """The address of a station with the arrays ``east`` and ``west`` and a measuring device at each of their ports."""
    (place / "master.img").write_bytes(os.urandom(IMAGE_BYTES))
    with ExitStack() as stack:
        for name, port, volume in (
            ("east", LOCAL, "master.img"),
            ("west", REMOTE, f"remote.img:{IMAGE_BYTES}"),
        ):
            file = place / f"{name}.toml"
            file.write_text(INTERFACES.format(port=port, wwpn=WWPN[name], link=f"unix:{place}/{name}-link"))
            words = ["array", "serve", "--name", name, "--listen", f"unix:{place}/{name}.sock"]
            words += ["--config", str(file), "--volume", f"vol0={place}/{volume}"]
            words += ["--volume", f"db={place}/{name}-db.img:{IMAGE_BYTES}"]
            words += ["--volume", f"jnl={place}/{name}-jnl.img:{IMAGE_BYTES}"]
            words += ["--state", f"{place}/{name}.state", "--chap-file", f"{place}/chap"]
            stack.enter_context(serving(3, *words))
        far = stack.enter_context(
            serving(2, "probe", "serve", "--listen", f"unix:{place}/far.sock", "--address", REMOTE)
        )
        (udp,) = (line.partition("udp://")[2] for line in far if "udp://" in line)
        near = ["probe", "serve", "--listen", f"unix:{place}/near.sock", "--address", LOCAL, "--peer", udp]
        stack.enter_context(serving(2, *near))
        words = ["station", "serve", "--listen", "http://127.0.0.1:0", "--state", f"{place}/station.state"]
        words += ["--probe", f"unix:{place}/near.sock"]
        for name in ("east", "west"):
            words += ["--array", f"{name}=unix:{place}/{name}.sock"]
        (ready,) = stack.enter_context(serving(1, *words))
        yield ready.removeprefix("listening ")
