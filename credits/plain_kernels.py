# SPDX-License-Identifier: Apache-2.0
"""``SANCREDIT_PLAIN=1``: the whole process runs ``*_kernel`` modules as ordinary Python, compiled or not.

For publishing how fast the uncompiled code is, and for finding out whether a defect is the compiler's. It stands here
because every package that has kernels stands above this one.
"""

from __future__ import annotations

import importlib.util
import os
import sys
from collections.abc import Sequence
from importlib.machinery import ModuleSpec
from pathlib import Path
from types import ModuleType

VARIABLE = "SANCREDIT_PLAIN"


class PlainKernels:
    """A finder that gives the .py of a kernel before others find the extension beside it."""

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        """The spec of a ``*_kernel`` in `path`; None for everything else."""
        name = fullname.rpartition(".")[2]
        if not name.endswith("_kernel"):
            return None
        for folder in path or ():
            source = Path(folder) / f"{name}.py"
            if source.exists():
                return importlib.util.spec_from_file_location(fullname, source)
        return None


def heed_the_variable() -> None:
    """Called by each package that has kernels, before it imports one. Calling it again changes nothing."""
    if os.environ.get(VARIABLE) and not any(isinstance(finder, PlainKernels) for finder in sys.meta_path):
        sys.meta_path.insert(0, PlainKernels())
