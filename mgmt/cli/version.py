"""``sancredit --version``: the version, and whether compiled kernels are in use."""

from __future__ import annotations

from importlib.machinery import EXTENSION_SUFFIXES
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from pathlib import Path


def kernels() -> dict[str, bool]:
    """Every kernel module by its dotted name, and whether Python would load its compiled form."""
    found = {}
    for package in ("fcsim", "iscsi_target", "tools"):
        spec = find_spec(package)
        for place in (spec.submodule_search_locations or ()) if spec is not None else ():
            for source in sorted(Path(place).rglob("*_kernel.py")):
                parts = source.relative_to(Path(place)).with_suffix("").parts
                compiled = any(source.with_suffix(suffix).exists() for suffix in EXTENSION_SUFFIXES)
                found[".".join((package, *parts))] = compiled
    return found


def version_text() -> str:
    """``sancredit 0.1.0 (compiled kernels in use)``, or how many are not."""
    try:
        number = version("sancredit")
    except PackageNotFoundError:
        number = "(not installed)"
    states = kernels()
    plain = [name for name, compiled in states.items() if not compiled]
    if not states:
        said = "no compiled kernels in this version"
    elif not plain:
        said = f"compiled kernels in use: {len(states)}"
    else:
        said = f"{len(plain)} of {len(states)} kernels run uncompiled, which is slow; see `sancredit doctor`"
    return f"sancredit {number} ({said})"
