"""The compiled kernels; everything else about the project is in setup.cfg.

Each ``*_kernel.py`` with a ``.pxd`` beside it is compiled by Cython where a C compiler is at hand, and runs
as ordinary Python where not: the install never fails for want of a compiler.
"""

import os
from pathlib import Path

from setuptools import Extension, setup

HEADS = ("fcsim", "iscsi_target", "tools")


def kernels() -> list[Extension]:
    if os.environ.get("SANCREDIT_PLAIN"):
        return []
    os.chdir(Path(__file__).resolve().parent)
    sources = [
        path
        for head in HEADS
        for path in sorted(Path(head).rglob("*_kernel.py"))
        if path.with_suffix(".pxd").exists()
    ]
    if not sources:
        return []
    try:
        from Cython.Build import cythonize
    except ImportError:
        return []
    extensions = [
        Extension(
            ".".join(path.with_suffix("").parts),
            [path.as_posix()],
            extra_compile_args=["-O3", "-fwrapv", "-g0"],
        )
        for path in sources
    ]
    extensions = cythonize(extensions, build_dir="build/cython", language_level=3)
    for extension in extensions:
        extension.optional = True  # cythonize() drops the flag, so it is set afterwards
    return extensions


setup(ext_modules=kernels())
