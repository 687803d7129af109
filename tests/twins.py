"""The pure-Python twin of a compiled kernel: the same source, loaded beside the extension, as its oracle."""

from __future__ import annotations

import importlib
import importlib.util
import sys
from pathlib import Path
from types import ModuleType

ROOT = Path(__file__).resolve().parent.parent


def plain(name: str, *below: str) -> ModuleType:
    """Load ``name``'s .py under another name, and for it the .py of the kernels ``below`` that it stands on.

    What else it imports stays as it is (compiled, where it is).
    """
    alias = f"plain_{name.replace('.', '_')}"
    if alias in sys.modules:
        return sys.modules[alias]
    compiled = {kernel: importlib.import_module(kernel) for kernel in below}
    try:
        for kernel in below:
            sys.modules[kernel] = _load(kernel, f"plain_{kernel.replace('.', '_')}")
        return _load(name, alias)
    finally:
        sys.modules.update(compiled)


def _load(name: str, alias: str) -> ModuleType:
    path = ROOT.joinpath(*name.split(".")).with_suffix(".py")
    spec = importlib.util.spec_from_file_location(alias, path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[alias] = module
    spec.loader.exec_module(module)
    return module
