# SPDX-License-Identifier: Apache-2.0
"""Sequences: an information unit cut into frames, and put together again (FC-FS, sequences; FCP-4, FCP_DATA)."""

from __future__ import annotations

from collections.abc import Iterator

from fcsim.errors import PeerViolation
from fcsim.wire.codes import FCtl, FcType, RCtl
from fcsim.wire.frame import Frame, FrameHeader

_ORIGINATOR = 0
_RESPONDER = FCtl.EXCHANGE_RESPONDER

F_CTL_COMMAND = FCtl.FIRST_SEQUENCE | FCtl.END_SEQUENCE | FCtl.SEQUENCE_INITIATIVE
F_CTL_XFER_RDY = _RESPONDER | FCtl.END_SEQUENCE | FCtl.SEQUENCE_INITIATIVE
F_CTL_RESPONSE = _RESPONDER | FCtl.LAST_SEQUENCE | FCtl.END_SEQUENCE


def data_frames(
    data: bytes,
    *,
    relative_offset: int,
    max_payload: int,
    from_responder: bool,
    addresses: tuple[int, int],
    ids: tuple[int, int],
    seq_id: int,
) -> Iterator[Frame]:
    """Cut FCP_DATA into frames of at most ``max_payload`` bytes. ``addresses`` is (S_ID, D_ID), ``ids`` (OX_ID,
    RX_ID). The last frame ends the sequence; an originator's passes the initiative back with it."""
    own = _RESPONDER if from_responder else _ORIGINATOR
    last = FCtl.END_SEQUENCE | (0 if from_responder else FCtl.SEQUENCE_INITIATIVE)
    for count, start in enumerate(range(0, len(data), max_payload)):
        piece = data[start : start + max_payload]
        ends = start + len(piece) == len(data)
        yield Frame(
            header=FrameHeader(
                r_ctl=RCtl.SOLICITED_DATA,
                d_id=addresses[1],
                s_id=addresses[0],
                type_=FcType.FCP,
                f_ctl=own | FCtl.RELATIVE_OFFSET_PRESENT | (last if ends else 0),
                seq_id=seq_id,
                seq_cnt=count & 0xFFFF,
                ox_id=ids[0],
                rx_id=ids[1],
                parameter=relative_offset + start,
            ),
            payload=piece,
        )


class FrameMissing(PeerViolation):
    """A frame of a sequence did not come, or was cut off its end: class 3 loses frames, it is nobody's misbehaviour."""


class DataCollector:
    """Puts FCP_DATA frames of one direction of an exchange together, in bounds.

    ``limit`` bytes are the whole; a frame beyond them, or not where the last one ended within a sequence, is the
    peer's violation: class 3 loses frames but does not change their order.
    """

    __slots__ = ("_expected_cnt", "_seq_id", "data", "limit", "received")

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self.data = bytearray()
        self.received = 0
        self._seq_id: int | None = None
        self._expected_cnt = 0

    def take(self, frame: Frame) -> bool:
        """A data frame arrived; True when it ends its sequence. Raises PeerViolation, and FrameMissing among it."""
        header, size = frame.header, len(frame.payload)
        start = header.parameter if header.f_ctl & FCtl.RELATIVE_OFFSET_PRESENT else self.received
        if header.seq_id != self._seq_id:
            self._seq_id, self._expected_cnt = header.seq_id, header.seq_cnt
        if header.seq_cnt != self._expected_cnt:
            raise FrameMissing(
                f"SEQ_CNT {header.seq_cnt} where {self._expected_cnt} was due: a frame was lost"
            )
        if start > len(self.data) and start + size <= self.limit:
            raise FrameMissing(f"data at {start} where {len(self.data)} was due: a frame was lost")
        if start != len(self.data) or start + size > self.limit:
            raise PeerViolation(
                f"{size} bytes at {start}, where {len(self.data)} of {self.limit} had been received"
            )
        self._expected_cnt = (self._expected_cnt + 1) & 0xFFFF
        self.data += frame.payload
        self.received += size
        return bool(header.f_ctl & FCtl.END_SEQUENCE)
