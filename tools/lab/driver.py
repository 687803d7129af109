"""The driver of the kernel's target, run inside a guest on its real kernel."""

from __future__ import annotations

import json
from typing import Any

from iscsi_target.lio import saveconfig
from iscsi_target.lio.model import Description
from tools.lab.errors import LabFailed
from tools.lab.machine import Machine
from tools.lab.project import HOME, LIBRARIES

_DRIVE_S = 300.0
_SCRIPT = """
import json, sys
sys.path[:0] = {path!r}
from pathlib import Path
from iscsi_target.lio import configfs, saveconfig
from iscsi_target.lio.apply import Driver, Options
from iscsi_target.lio.errors import LioError
from iscsi_target.lio.present import description_of
driver = Driver(state=Path("/run/sancredit/lio.json"))
def load(name): return saveconfig.load(Path("/tmp") / name)
def now(): return saveconfig.to_document(description_of(configfs.read()))
def steps(plan): return [str(step) for step in plan.steps]
answer = {{}}
{body}
print("ANSWER", json.dumps(answer))
"""


def drive(
    machine: Machine, body: str, *, pypi: bool = False, files: dict[str, Description] | None = None
) -> dict[str, Any]:
    """Run Python with a ``driver`` at hand; what it put into ``answer``.

    ``files``: descriptions that it can ``load(NAME)``. Debian's rtslib 2.1 serves, with ``pypi`` the 2.2 of here.
    Raises :class:`LabFailed` with what it wrote when it fails.
    """
    for name, description in (files or {}).items():
        machine.agent.put(saveconfig.dumps(description).encode(), f"/tmp/{name}")
    path = [HOME, *([f"{LIBRARIES}/rtslib"] if pypi else [])]
    machine.agent.put(_SCRIPT.format(body=body, path=path).encode(), "/tmp/drive.py")
    before, mark, found = machine.run("python3 /tmp/drive.py", timeout_s=_DRIVE_S).rpartition("ANSWER ")
    if not mark:
        raise LabFailed(f"the driver gave no answer: {before[-500:]}")
    return dict(json.loads(found))


def apply(machine: Machine, description: Description) -> None:
    """Lead the guest's kernel to a description. Raises :class:`LabFailed`."""
    drive(machine, 'driver.apply(load("wanted.json"))', files={"wanted.json": description})


#: Removes every target and backstore that the guest's kernel has, whoever made them.
CLEAR = (
    "test ! -d /sys/kernel/config/target"
    " || python3 -c 'import rtslib_fb; rtslib_fb.RTSRoot().clear_existing(confirm=True)'; rm -rf /run/sancredit"
)
