"""Which edges of the package an input takes: pairs of lines run one after the other in one call of a function.

`sys.settrace` on every supported Python, so no compiler and no dependency. A compiled kernel is not seen inside; it is
fuzzed all the same, steered by the edges of its callers and by the run of its pure twin.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from types import CodeType, FrameType
from typing import Any

_LINE_BITS = 20
_SETTLED_CALLS = 300
_SETTLED_SHARE = 16
"""A function that showed nothing new in so many calls is watched in one call of so many: tracing costs far more than
running."""

Trace = Callable[[FrameType, str, Any], Any]


class EdgeCoverage:
    """A context in which edges of the modules under `folder` are collected into `edges`."""

    def __init__(self, folder: Path) -> None:
        self._prefix = f"{folder}/"
        self._codes: dict[CodeType, list[int]] = {}
        """Number of a function (0: not ours) and how often it was called since it last showed a new edge."""
        self._before: Any = None
        self.edges: set[int] = set()

    def __enter__(self) -> EdgeCoverage:
        self._before = sys.gettrace()
        sys.settrace(self._called)
        return self

    def __exit__(self, *_: object) -> None:
        sys.settrace(self._before)

    def begin_again(self) -> None:
        """Forget the edges, and which functions have settled."""
        self.edges = set()
        for known in self._codes.values():
            known[1] = 0

    def _called(self, frame: FrameType, event: str, argument: Any) -> Trace | None:
        code = frame.f_code
        known = self._codes.get(code)
        if known is None:
            known = [len(self._codes) + 1 if code.co_filename.startswith(self._prefix) else 0, 0]
            self._codes[code] = known
        if not known[0]:
            return None
        known[1] += 1
        if known[1] > _SETTLED_CALLS and known[1] % _SETTLED_SHARE:
            return None
        edges, base, last = self.edges, known[0] << 2 * _LINE_BITS, 0

        def line(frame: FrameType, event: str, argument: Any) -> Trace:
            nonlocal last
            if event == "line":
                here = frame.f_lineno
                edge = base | last << _LINE_BITS | here
                last = here
                if edge not in edges:
                    edges.add(edge)
                    known[1] = 0
            return line

        return line
