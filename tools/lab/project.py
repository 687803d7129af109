"""Our own code inside the guest: the driver for LIO runs where LIO is."""

from __future__ import annotations

import importlib.util
import io
import tarfile
from collections.abc import Iterator
from pathlib import Path

from tools.lab.machine import Machine

_TOP = Path(__file__).resolve().parents[2]
_PACKAGES = ("credits", "iscsi_target", "mgmt")
#: Of this interpreter's libraries, those in plain Python that the command line needs there, and rtslib apart.
_LIBRARIES = {"common": ("click", "tabulate", "wcwidth"), "rtslib": ("rtslib",)}
HOME, LIBRARIES = "/opt/sancredit", "/opt/libraries"


def install(machine: Machine) -> None:
    """Copy the packages into the guest, and ``/usr/bin/sancredit`` in front of them.

    Debian's rtslib 2.1 is used there; SANCREDIT_RTSLIB=pypi takes the one that this interpreter has (2.2).
    """
    machine.agent.put(_archive(), "/tmp/sancredit.tar")
    machine.agent.put(_COMMAND.encode(), "/usr/bin/sancredit", 0o755)
    machine.run(f"mkdir -p {HOME} {LIBRARIES} && tar -xf /tmp/sancredit.tar -C /opt && rm /tmp/sancredit.tar")


_COMMAND = f"""#!/bin/sh
path={HOME}:{LIBRARIES}/common
[ "$SANCREDIT_RTSLIB" = pypi ] && path=$path:{LIBRARIES}/rtslib
PYTHONPATH=$path exec python3 -c 'import sys; from mgmt.cli.main import main; sys.exit(main())' "$@"
"""


def _archive() -> bytes:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w") as archive:
        for path, name in _files():
            archive.add(path, name)
    return out.getvalue()


def _files() -> Iterator[tuple[Path, str]]:
    """Sources, and byte code beside them, which serves where the guest's Python is of our version."""
    for package in _PACKAGES:
        for path in _python(_TOP / package):
            yield path, f"sancredit/{path.relative_to(_TOP)}"
    for folder, libraries in _LIBRARIES.items():
        for library in libraries:
            found = importlib.util.find_spec(library)
            for place in (found.submodule_search_locations or ()) if found else ():
                for path in _python(Path(place)):
                    yield path, f"libraries/{folder}/{library}/{path.relative_to(place)}"


def _python(top: Path) -> list[Path]:
    return sorted(path for path in top.rglob("*.py*") if path.suffix in (".py", ".pyc"))
