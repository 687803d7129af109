"""Two arrays as real processes with a consistency group between them, and hosts that write through iSCSI."""

from __future__ import annotations

import contextlib
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from mgmt.http import Peer
from mgmt.messages import GroupStatus, PairCreateRequest, PairRequest
from mgmt.pair_messages import PairMember, RemoteEnd
from tests.mgmt.array_processes import MASTER, REMOTE, ArrayProcess, Start, cold, served, serving
from tools.ports import free_port

MIB = 1 << 20
GROUP = "g1"


@dataclass
class Site:
    """One end: its directory survives its process."""

    directory: Path
    name: str
    address: str
    size_bytes: int
    volumes: tuple[str, ...] = ("vol0",)
    arguments: tuple[str, ...] = ()
    start: Start = cold
    stack: contextlib.ExitStack = field(default_factory=contextlib.ExitStack)
    process: ArrayProcess | None = None

    @property
    def array(self) -> ArrayProcess:
        assert self.process is not None
        return self.process

    def image(self, volume: str = "vol0") -> Path:
        return self.directory / f"{self.name}.{volume}.img"

    def _arguments(self) -> list[str]:
        words = ["--port-address", self.address]
        for volume in self.volumes:
            words += ["--volume", f"{volume}={self.image(volume)}:{self.size_bytes}"]
        words += ["--volume", f"jnl={self.image('jnl')}:{16 * MIB}"]
        secret = self.directory / "secret"
        if not secret.exists():
            secret.write_text("0123456789abcdef0123456789abcdef\n")
            secret.chmod(0o600)
        words += ["--state", str(self.directory / f"{self.name}.state"), "--chap-file", str(secret)]
        return [*words, *self.arguments]

    def up(self) -> ArrayProcess:
        """Start the process, anew after it was killed; it listens where it did before."""
        self.stack = contextlib.ExitStack()
        running = served(self.directory, self.name, *self._arguments(), start=self.start)
        self.process = self.stack.enter_context(running)
        return self.process

    def stumble(self, seconds: float) -> None:
        """Start the process, and SIGKILL it so soon that it may still be recovering."""
        process = self.start(serving(self.directory, self.name, *self._arguments()))
        try:
            time.sleep(seconds)
        finally:
            process.kill()
            process.wait()
            assert process.stdout is not None
            process.stdout.close()

    def kill(self) -> None:
        """SIGKILL, and wait until it is gone."""
        process = self.array
        process.process.kill()
        process.process.wait()
        with contextlib.suppress(ValueError):
            self.stack.close()
        self.process = None

    def end(self) -> None:
        if self.process is not None:
            self.stack.close()
            self.process = None

    def tell(self, verb: str, **fields: Any) -> GroupStatus:
        answer = self.array.peer.send(PairRequest(group=GROUP, verb=verb, **fields), timeout_s=60)
        assert isinstance(answer, GroupStatus)
        return answer

    def status(self) -> GroupStatus:
        return self.tell("status")

    def wait_for(self, reached: Callable[[GroupStatus], bool], seconds: float = 120) -> GroupStatus:
        """Poll until ``reached``; fails with the last status."""
        deadline = time.monotonic() + seconds
        while not reached(status := self.status()):
            assert time.monotonic() < deadline, status
            time.sleep(0.01)
        return status

    def wait_for_group(self, group: str, state: str, seconds: float = 120) -> None:
        """Poll until another group than ``g1`` is in a state, and its remote image is a point in time."""
        deadline = time.monotonic() + seconds
        while True:
            rows = [row for row in self.array.table("pairs") if row["group"] == group]
            if rows and all(row["state"] == state and row["consistent"] for row in rows):
                return
            assert time.monotonic() < deadline, rows
            time.sleep(0.02)

    def place(self) -> RemoteEnd:
        port = self.array.port
        return RemoteEnd(host=self.address, port_number=port["iscsi_port"], iqn=port["copy_iqn"])


@contextmanager
def two_sites(
    directory: Path,
    size_bytes: int = 4 * MIB,
    volumes: tuple[str, ...] = ("vol0",),
    arguments: tuple[str, ...] = (),
    start: Start = cold,
) -> Iterator[tuple[Site, Site]]:
    """The arrays east (primary) and west, running."""
    east, west = (
        Site(
            directory,
            name,
            address,
            size_bytes,
            volumes,
            ("--iscsi-port", str(free_port()), *arguments),
            start,
        )
        for name, address in (("east", MASTER), ("west", REMOTE))
    )
    with contextlib.ExitStack() as ending:
        for site in (east, west):
            ending.callback(site.end)
            site.up()
        yield east, west


def create(
    east: Site, west: Site, mode: str = "async", primary: dict[str, Any] | None = None, **changes: Any
) -> GroupStatus:
    """Make the group ``g1`` at both ends, the secondary first; ``primary`` are fields for its end only."""
    group_id = uuid.uuid4().hex
    answer = None
    for here, there, role in ((west, east, "S-VOL"), (east, west, "P-VOL")):
        volumes = list(here.volumes)
        fields: dict[str, Any] = {
            "group": GROUP,
            "group_id": group_id,
            "role": role,
            "mode": mode,
            "fence": "never",
            "members": tuple(PairMember(volume=name, remote_lun=lun) for lun, name in enumerate(volumes)),
            "remote": there.place(),
            "local_port": here.address,
            "journal": "jnl",
            "remote_journal_lun": len(volumes),
            "sessions": 1,
            "connections_per_session": 2,
        }
        own = (primary or {}) if role == "P-VOL" else {}
        answer = here.array.peer.send(PairCreateRequest(**(fields | changes | own)))
    assert isinstance(answer, GroupStatus)
    return answer


__all__ = ["GROUP", "MIB", "Peer", "Site", "create", "free_port", "two_sites"]
