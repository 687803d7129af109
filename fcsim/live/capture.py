# SPDX-License-Identifier: Apache-2.0
"""Captures of a live link: records of link type 225 in link time, both directions, for any packet writer.

The writer is the caller's (``iscsi_target.trace.pcapng.PcapngWriter`` is one): this package writes no file format.
"""

from __future__ import annotations

from typing import Any, Protocol

from fcsim.wire.ordered_sets import ORDERED_SET_BYTES

__all__ = ["LINKTYPE_FC_2_WITH_FRAME_DELIMS", "LinkCapture", "PacketWriter"]

LINKTYPE_FC_2_WITH_FRAME_DELIMS = 225


class PacketWriter(Protocol):
    """Writes packets of several interfaces."""

    def add_interface(self, link_type: int, *, name: str | None = None) -> int:
        """Describe an interface; its number."""
        ...

    def write(self, time_ns: int, data: bytes, *, interface: int) -> Any:
        """One packet."""
        ...


class LinkCapture:
    """One end's view: interface ``NAME out`` is what it sent, ``NAME in`` what arrived.

    Ordered sets are left out unless ``primitives``: tshark has no dissector for them of its own.
    """

    def __init__(
        self, writer: PacketWriter, name: str, *, epoch_ns: int = 0, primitives: bool = False
    ) -> None:
        self._writer = writer
        self._epoch_ns = epoch_ns
        self._primitives = primitives
        self._sent, self._received = (
            writer.add_interface(LINKTYPE_FC_2_WITH_FRAME_DELIMS, name=f"{name} {way}")
            for way in ("out", "in")
        )

    def record(self, moment_ps: int, record: bytes, *, sent: bool) -> None:
        """See :class:`~fcsim.live.live_end.Capture`."""
        if self._primitives or len(record) != ORDERED_SET_BYTES:
            number = self._sent if sent else self._received
            self._writer.write(self._epoch_ns + moment_ps // 1000, record, interface=number)
