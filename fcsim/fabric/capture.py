# SPDX-License-Identifier: Apache-2.0
"""What passed a simulated link as records of link type 225: frames with delimiters and CRC, and primitive signals.

Frames of SCSI loads are what they were. Of the others the engine knows their ends, size and channel: around that each
pair of hosts sends FCP_DATA in sequences of up to 64 KiB, one exchange each, with a counting pattern as data. SEQ_CNT
counts what passes this link: a frame that was lost before it leaves no gap.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from fcsim.clock import TICKS_PER_NS
from fcsim.fabric.plan import Plan
from fcsim.fabric.simulation import TraceEvent
from fcsim.live.live_end import delimited_bytes
from fcsim.wire.codes import FCtl, FcType, RCtl
from fcsim.wire.frame import DelimitedFrame, Frame, FrameHeader, encode_delimited
from fcsim.wire.ordered_sets import EOF, R_RDY, SOF, vc_rdy

LINK_TYPE_FC_2_DELIMITED = 225
"""LINKTYPE_FC_2_WITH_FRAME_DELIMS: records begin with the start of frame and end with the end of frame."""
SEQUENCE_BYTES = 64 * 1024
_PATTERN = bytes(range(256)) * 9


@dataclass(frozen=True, slots=True)
class LinkRecord:
    """One record: ``port`` is the position in the plan of the port that sent it; ``at_ns`` when it began to."""

    at_ns: int
    port: int
    data: bytes


@dataclass(slots=True)
class _Exchange:
    ox_id: int
    seq_cnt: int = 0
    offset: int = 0


class LinkCapture:
    """Makes records of trace events, which come in the order of time."""

    def __init__(self, plan: Plan, *, primitives: bool = False) -> None:
        self._plan = plan
        self._primitives = primitives
        self._exchanges: dict[tuple[int, int, int], _Exchange] = {}
        self._next_ox_id = 0
        hosts = {port.name: port.fc_id for port in plan.ports}
        self._addresses = [hosts[host.name] for host in plan.scenario.hosts]

    def record(self, event: TraceEvent) -> Iterator[LinkRecord]:
        """The record of an event; none for a primitive that nobody asked for."""
        direction = self._plan.directions[event.direction]
        at_ns = event.at_ticks // TICKS_PER_NS
        if event.frame:
            yield LinkRecord(at_ns, direction.source, self._frame(event))
        elif self._primitives:
            channels = self._plan.channels
            word = vc_rdy(channels[event.channel]) if len(direction.credits) > 1 else R_RDY
            yield LinkRecord(at_ns, direction.destination, word.encode())

    def _frame(self, event: TraceEvent) -> bytes:
        if event.contents is not None:
            return delimited_bytes(event.contents)
        key = event.source, event.destination, event.channel
        exchange = self._exchanges.get(key)
        if exchange is None:
            exchange = self._exchanges[key] = _Exchange(self._next_ox_id)
            self._next_ox_id = (self._next_ox_id + 1) % 0xFFFF
        first = exchange.seq_cnt == 0
        last = exchange.offset + event.payload_bytes >= SEQUENCE_BYTES or exchange.seq_cnt == 0xFFFF
        f_ctl = FCtl.RELATIVE_OFFSET_PRESENT
        if last:
            f_ctl |= FCtl.END_SEQUENCE | FCtl.SEQUENCE_INITIATIVE
            del self._exchanges[key]
        header = FrameHeader(
            r_ctl=RCtl.SOLICITED_DATA,
            d_id=self._addresses[event.destination],
            s_id=self._addresses[event.source],
            type_=FcType.FCP,
            f_ctl=f_ctl,
            seq_id=exchange.ox_id & 0xFF,
            seq_cnt=exchange.seq_cnt,
            ox_id=exchange.ox_id,
            parameter=exchange.offset,
        )
        exchange.seq_cnt += 1
        exchange.offset += event.payload_bytes
        return encode_delimited(
            DelimitedFrame(
                sof=SOF.SOFI3 if first else SOF.SOFN3,
                frame=Frame(header=header, payload=_PATTERN[: event.payload_bytes]),
                eof=EOF.EOFT if last else EOF.EOFN,
            )
        )
