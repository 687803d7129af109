"""The pure-Python twin of a compiled kernel: the same source, loaded beside the extension, as its oracle."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from types import ModuleType

ROOT = Path(__file__).resolve().parent.parent


def plain(name: str) -> ModuleType:
    """Load ``name``'s .py under another name. What it imports itself stays as it is (compiled, where it is)."""
    path = ROOT.joinpath(*name.split(".")).with_suffix(".py")
    alias = f"plain_{name.replace('.', '_')}"
    if alias in sys.modules:
        return sys.modules[alias]
    spec = importlib.util.spec_from_file_location(alias, path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[alias] = module
    spec.loader.exec_module(module)
    return module
