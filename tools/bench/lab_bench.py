"""How long the lab takes: ``python -m tools.bench lab [--rounds N] [--output json]``.

From ``sancredit lab up`` to the first login of an initiator on this machine at the guest's kernel target, our driver's
work in between; and the driver's plan for 1,000 targets with 4 LUNs each. The image has to be in the cache already
(`sancredit lab up` builds it). Medians over rounds, each with a guest of its own.
"""

from __future__ import annotations

import os
import statistics
import sys
import time
from collections.abc import Sequence

from iscsi_target.lio.model import (
    Backstore,
    Description,
    KernelTarget,
    Lun,
    Plugin,
    Portal,
    PortalGroup,
)
from iscsi_target.lio.nodes import nodes_of
from iscsi_target.lio.plan import plan
from tools.bench.measured import Measured, command_line, write
from tools.harness.initiator import BlockingInitiator
from tools.harness.kernel_target import IQN, describe
from tools.harness.loop_thread import LoopThread
from tools.lab import machine as machines
from tools.lab.driver import apply
from tools.lab.errors import LabError
from tools.lab.image import ready_image
from tools.lab.machine import Settings
from tools.lab.project import install

_LOGIN_BAR_S = 30.0
_PLAN_BAR_S = 1.0
_TARGETS, _LUNS = 1000, 4
_LIFETIME_S = 600


def boot_to_login() -> dict[str, float]:
    """Seconds since the call at which each step was done."""
    began = time.monotonic()
    settings = Settings(lifetime_s=_LIFETIME_S, owner_pid=os.getpid())
    machine = machines.up(f"bench-{os.getpid()}", settings)
    times = {"boot": time.monotonic() - began}
    loop = LoopThread("lab-bench")
    try:
        install(machine)
        times["our code is in the guest"] = time.monotonic() - began
        apply(machine, describe(("16MiB",)))
        times["target applied"] = time.monotonic() - began
        session = BlockingInitiator.login(
            loop, "127.0.0.1", machine.forward(3260), IQN, timeout_s=_LOGIN_BAR_S
        )
        times["boot to first login"] = time.monotonic() - began
        session.logout()
    finally:
        loop.stop(10)
        machine.down()
    return times


def many_targets() -> Description:
    """A thousand targets with four ramdisks each."""
    stores, targets = [], []
    for number in range(_TARGETS):
        names = [f"disk-{number}-{lun}" for lun in range(_LUNS)]
        stores += [Backstore(plugin=Plugin.RAMDISK, name=name, size_bytes=1 << 20) for name in names]
        group = PortalGroup(
            luns=[Lun(number=lun, plugin=Plugin.RAMDISK, backstore=name) for lun, name in enumerate(names)],
            portals=[Portal(address="127.0.0.1", port=3260)],
        )
        targets.append(KernelTarget(wwn=f"iqn.2003-10.example.test:target-{number}", groups=[group]))
    return Description(backstores=stores, targets=targets)


def plan_s() -> float:
    """Seconds of CPU for the plan from nothing; it plans nothing the second time."""
    described = many_targets()
    began = time.process_time()
    wanted = nodes_of(described)
    planned = plan(wanted, {})
    spent = time.process_time() - began
    if len(planned.steps) < _TARGETS * _LUNS:
        raise AssertionError("the plan leaves targets out")
    return spent


def main(words: Sequence[str] | None = None) -> int:
    """Exit status 1 when a bar is missed or there is no lab here."""
    parser = command_line("lab", __doc__)
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args(words)
    spent = statistics.median(plan_s() for _ in range(options.rounds))
    found = [
        Measured(
            name="plan, 1,000 targets x 4 LUNs",
            value=spent,
            unit="s",
            bar=f"<= {_PLAN_BAR_S:g} s",
            met=spent <= _PLAN_BAR_S,
        )
    ]
    try:
        if ready_image() is None:
            sys.stderr.write("the lab's image is not built yet: sancredit lab up\n")
            return 1
        rounds = [boot_to_login() for _ in range(options.rounds)]
    except LabError as error:
        sys.stderr.write(f"{error}\n")
        return 1
    for name in rounds[0]:
        value = statistics.median(times[name] for times in rounds)
        last = name == "boot to first login"
        bar = f"<= {_LOGIN_BAR_S:g} s" if last else ""
        found.append(
            Measured(name=name, value=value, unit="s", bar=bar, met=not last or value <= _LOGIN_BAR_S)
        )
    return write(found, options.output, decimals=2)


if __name__ == "__main__":
    sys.exit(main())
