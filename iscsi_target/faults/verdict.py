# SPDX-License-Identifier: Apache-2.0
"""What the rules that fired make of one PDU."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

from iscsi_target.faults.lane import Item
from iscsi_target.faults.wire_pdu import WirePdu
from iscsi_target.wire_filter import Closing


class Verdict:
    """Filled in rule by rule."""

    def __init__(self, pdu: WirePdu) -> None:
        self.pdu = pdu
        """As the rules so far left it."""
        self.drop = False
        self.copies = 1
        self.delay_ns = 0
        self.overtaken = False
        self.behind = 0
        self.within_ns = 0
        self.closing: Closing | None = None
        self.steps: list[Callable[[], None]] = []
        """What the core is to do, after what came before the PDU and the PDU itself."""
        self.on_release: Callable[[int, bytes], None] | None = None
        """Called for every copy when it goes on, with the time and its bytes."""
        self._said: list[tuple[str, str]] = []

    def say(self, name: str, fate: str) -> None:
        """Rule `name` fired."""
        self._said.append((name, fate))

    @property
    def names(self) -> tuple[str, ...]:
        """The rules that fired."""
        return tuple(name for name, _ in self._said)

    @property
    def fate(self) -> str:
        """What they did, in words."""
        return ", ".join(fate for _, fate in self._said)

    @property
    def comment(self) -> str:
        """For a capture."""
        return "; ".join(f"rule {name}: {fate}" for name, fate in self._said)

    def items(self) -> list[Item]:
        """What goes on."""
        if self.drop:
            return []
        raw = self.pdu.raw
        on_release = partial(self._released, raw) if self.on_release is not None else None
        return [Item(raw, on_release=on_release) for _ in range(self.copies)]

    def _released(self, raw: bytes, now_ns: int) -> None:
        assert self.on_release is not None
        self.on_release(now_ns, raw)
