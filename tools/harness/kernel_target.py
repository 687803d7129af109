"""The Linux kernel's target (LIO) for one test, in the lab's guest; it answers to the same names as the emulator."""

from __future__ import annotations

import json
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from iscsi_target.lio.model import Backstore, Description, KernelTarget, Lun, Plugin, Portal, PortalGroup
from iscsi_target.scsi.stores.description import parse_size
from tools.harness.errors import HarnessError
from tools.harness.initiator import BlockingInitiator
from tools.harness.loop_thread import LoopThread
from tools.lab.driver import CLEAR, apply, drive
from tools.lab.errors import LabFailed
from tools.lab.machine import Machine

IQN = "iqn.2003-10.example.sancredit:lio"
_OPEN = {
    "authentication": "0",
    "generate_node_acls": "1",
    "cache_dynamic_acls": "1",
    "demo_mode_write_protect": "0",
}


def describe(luns: Sequence[str]) -> Description:
    """An open target with ramdisks of these sizes. Raises :class:`HarnessError`."""
    stores = []
    for number, text in enumerate(luns):
        size = parse_size(text)
        if size is None:
            raise HarnessError(f"lio_target takes LUNs by size, such as 16MiB, not {text!r:.60}")
        stores.append(Backstore(plugin=Plugin.RAMDISK, name=f"harness-{number}", size_bytes=size))
    group = PortalGroup(
        luns=[Lun(number=n, plugin=Plugin.RAMDISK, backstore=store.name) for n, store in enumerate(stores)],
        portals=[Portal(address="0.0.0.0", port=3260)],
        attributes=_OPEN,
    )
    return Description(backstores=stores, targets=[KernelTarget(wwn=IQN, groups=[group])])


class LioTarget:
    """A target of the guest's kernel. ``machine`` is the guest: its commands, files and ports."""

    kind = "lio"
    iqn = IQN
    host = "127.0.0.1"
    lun = 0

    def __init__(self, machine: Machine, luns: Sequence[str], timeout_s: float) -> None:
        """Raises :class:`HarnessError` when the guest's kernel does not take it."""
        self.machine = machine
        self.timeout_s = timeout_s
        self._loop: LoopThread | None = None
        self._sessions: list[BlockingInitiator] = []
        try:
            apply(machine, describe(luns))
            self.port = machine.forward(3260)
        except LabFailed as error:
            raise HarnessError(str(error)) from error

    def url(self, lun: int = 0) -> str:
        """``iscsi://HOST:PORT/IQN/LUN``."""
        return f"iscsi://{self.host}:{self.port}/{self.iqn}/{lun}"

    def initiator(self, **options: Any) -> BlockingInitiator:
        """A session with it, ended with the test; ``options`` are those of `Initiator.login`."""
        if self._loop is None:
            self._loop = LoopThread("sancredit-lio-initiators")
        timeout_s = options.pop("timeout_s", self.timeout_s)
        session = BlockingInitiator.login(
            self._loop, self.host, self.port, self.iqn, timeout_s=timeout_s, **options
        )
        self._sessions.append(session)
        return session

    def keep_artifacts(self, directory: Path) -> list[str]:
        """The kernel's words and what it was configured as; lines for the report."""
        log = self.machine.run("dmesg | tail -100")
        (directory / "lio-dmesg.txt").write_text(log)
        document = drive(self.machine, 'answer["now"] = now()')["now"]
        (directory / "lio-saveconfig.json").write_text(json.dumps(document, indent=2, sort_keys=True) + "\n")
        return [
            f"lio: {self.url()}; the kernel's last words:",
            *(f"  {line}" for line in log.splitlines()[-5:]),
        ]

    def stop(self) -> None:
        """End the sessions and take the target away."""
        for session in reversed(self._sessions):
            with suppress(HarnessError):  # a session that hangs: its target goes now
                session.abort()
        if self._loop is not None:
            self._loop.stop(self.timeout_s)
        self.machine.run(CLEAR)
