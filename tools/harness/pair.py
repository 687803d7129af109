"""Two storage arrays, a channel between them and a management station, as real processes, for one test."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from contextlib import ExitStack
from fractions import Fraction
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from credits.quantities import parse_delay, parse_rate, parse_size
from tools.demo.image import Image, digest
from tools.demo.settings import Settings
from tools.demo.stage import VOLUME, Stage
from tools.harness.errors import HarnessError, Hung
from tools.wan.channel import Channel
from tools.wan.errors import WanError

_COMMAND_S = 120


class StoragePair:
    """``storage_pair`` of one test. ``channel`` may be changed while it runs; ``master`` and ``remote`` are clients
    of the arrays' control interfaces."""

    volume = VOLUME

    def __init__(self, *, bandwidth: str = "100Mbit", rtt: str = "20ms", size: str = "4MiB") -> None:
        """Raises :class:`HarnessError` when a process does not come up."""
        self._ending = ExitStack()
        # Not pytest's: the paths of Unix sockets are short.
        self._directory = directory = Path(
            self._ending.enter_context(TemporaryDirectory(prefix="sancredit-pair-"))
        )
        self._size = parse_size(size)
        image = directory / "master.img"
        image.write_bytes(os.urandom(self._size))
        described = Image(image, self._size, digest(image, self._size), "random bytes")
        settings = Settings(
            bandwidth_bps=parse_rate(bandwidth), rtt_ns=parse_delay(rtt), sessions=2, connections=3
        )
        self._stage = Stage(settings, directory, described)
        try:
            self._ending.enter_context(self._stage)
        except Exception as error:
            self._ending.close()
            raise HarnessError(f"the pair of arrays did not come up: {error}") from error
        self.channel: Channel = self._stage.channel
        self.master = self._stage.peers["master"]
        self.remote = self._stage.peers["remote"]
        self.station = self._stage.station
        self.port_pair = f"{self._stage.master_port},{self._stage.remote_port}"

    def run(self, *words: str) -> Any:
        """``sancredit WORDS… -o json`` at this pair's station: its answer. Raises :class:`HarnessError`."""
        environment = os.environ | {"SANCREDIT_STATION": self._stage.station_address}
        command = [sys.executable, "-m", "mgmt.cli", *words, "-o", "json"]
        try:
            done = subprocess.run(
                command, env=environment, capture_output=True, text=True, timeout=_COMMAND_S, check=False
            )
        except subprocess.TimeoutExpired:
            raise Hung(f"sancredit {' '.join(words)} has not ended in {_COMMAND_S} s") from None
        if done.returncode:
            raise HarnessError(
                f"sancredit {' '.join(words)} ended with {done.returncode}: {done.stderr.strip()}"
            )
        return json.loads(done.stdout) if done.stdout.strip() else None

    def same(self) -> bool:
        """Whether both volumes hold the same bytes."""
        there = self._directory / "remote.img"
        return digest(self._directory / "master.img", self._size) == digest(there, self._size)

    def keep_artifacts(self, directory: Path) -> list[str]:
        """The processes' own words; lines for the report."""
        said = []
        for log in sorted(self._directory.glob("*.log")):
            shutil.copyfile(log, directory / log.name)
            lines = log.read_text(errors="replace").splitlines()
            said += [f"{log.stem}: {line}" for line in lines[-3:]]
        return said

    def stop(self) -> None:
        """End everything, the last one started first."""
        self._ending.close()


def parse_loss(text: str) -> int:
    """``0.5%`` as parts per million: 5000. Raises :class:`HarnessError`."""
    match = re.fullmatch(r"(\d{1,3}(?:\.\d{1,6})?)%", text)
    share = Fraction(match[1]) if match is not None else None
    if share is None or share > 100:
        raise HarnessError(f"a loss is a percentage, such as 0.5%, not {text!r:.60}")
    return int(share * 10_000)


class ShapedChannel:
    """``channel`` of one test: two sites in network namespaces with a rate, a delay, a queue and loss between them."""

    def __init__(
        self, *, rate: str = "100Mbit", delay: str = "10ms", loss: str = "0%", seed: int = 0
    ) -> None:
        """``delay`` is one way, ``loss`` the share of packets that each way loses, those that ``seed`` chooses.

        Raises :class:`HarnessError` with the fix where this machine cannot.
        """
        try:
            self.channel = Channel.open(
                "auto",
                bandwidth_bps=parse_rate(rate),
                rtt_ns=2 * parse_delay(delay),
                loss_ppm=parse_loss(loss),
                loss_seed=seed,
            )
        except WanError as error:
            raise HarnessError(str(error)) from error

    @property
    def kind(self) -> str:
        """netem, tun, or loopback, which has neither rate nor delay nor loss."""
        return self.channel.kind

    def set(
        self,
        *,
        rate: str | None = None,
        delay: str | None = None,
        queue: str | None = None,
        loss: str | None = None,
    ) -> dict[str, Any]:
        """Change it while it runs; its status. Raises :class:`HarnessError`."""
        try:
            return self.channel.set(
                bandwidth_bps=None if rate is None else parse_rate(rate),
                rtt_ns=None if delay is None else 2 * parse_delay(delay),
                queue_bytes=None if queue is None else parse_size(queue),
                loss_ppm=None if loss is None else parse_loss(loss),
            )
        except WanError as error:
            raise HarnessError(str(error)) from error

    def start(self, site: str, *command: str) -> subprocess.Popen[str]:
        """Start a program in a site (``master`` or ``remote``): a server, say. It ends with the channel at the latest;
        use it in a ``with`` statement, and read its ``stdout``."""
        return self.channel.popen(site, command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)

    def run(self, site: str, *command: str, timeout_s: float = 60.0) -> str:
        """Run a program in a site to its end; what it wrote. Raises :class:`HarnessError`."""
        process = self.start(site, *command)
        try:
            output, _ = process.communicate(timeout=timeout_s)
        except subprocess.TimeoutExpired:
            process.kill()
            process.communicate()
            raise Hung(f"{command[0]} has not ended in {timeout_s:g} s") from None
        if process.returncode:
            raise HarnessError(f"{command[0]} ended with {process.returncode}: {output.strip()[-500:]}")
        return str(output)

    def keep_artifacts(self, directory: Path) -> list[str]:
        """The counters of both directions; lines for the report."""
        status = self.channel.status()
        (directory / "channel.json").write_text(json.dumps(status, indent=2, default=str) + "\n")
        return [f"channel: {self.channel.note}"]

    def stop(self) -> None:
        """End what runs in the sites, and the channel."""
        self.channel.close()
