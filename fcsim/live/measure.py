# SPDX-License-Identifier: Apache-2.0
"""What a frame costs this machine: two ends in memory, and the wall's clock around them."""

from __future__ import annotations

import time
from collections.abc import Sequence

from fcsim.live.live_end import EndConfig, LiveEnd, delimited_bytes
from fcsim.live.n_port import NPortConfig
from fcsim.port.login import Offer
from fcsim.speeds import MAX_PAYLOAD_BYTES, SPEEDS
from fcsim.wire.codes import FcType, RCtl
from fcsim.wire.frame import Frame, FrameHeader

__all__ = ["carry", "frame_cost_ns", "plain_frame"]


def plain_frame(payload: bytes, *, s_id: int = 1, d_id: int = 2) -> bytes:
    """The record of a frame that is neither link service nor FCP (unsolicited data, TYPE IP)."""
    header = FrameHeader(r_ctl=RCtl.UNSOLICITED_DATA, d_id=d_id, s_id=s_id, type_=FcType.IP)
    return delimited_bytes(Frame(header=header, payload=payload))


def carry(ends: Sequence[LiveEnd], until_ps: int, *, step_ps: int = 1) -> None:
    """Run the two ends of a link in memory, without a wall's clock, to a moment of link time.

    Steps of up to the flight time of the link are exact; the smallest lets one event happen at a time.
    """
    there, back = ends
    while True:
        moments = [moment for end in ends if (moment := end.next_moment()) is not None]
        first = min(moments, default=until_ps + 1)
        if first > until_ps:
            return
        horizon = min(first + step_ps - 1, until_ps)
        for end in ends:
            end.run_until(horizon)
        back.receive_data(there.data_to_send())
        there.receive_data(back.data_to_send())


def frame_cost_ns(frames: int = 400) -> int:
    """Nanoseconds that one frame of full size and its R_RDY take both ends together, sockets left out."""
    ends = []
    for name, peer in ((1, 2), (2, 1)):
        n_port = NPortConfig(name, name, Offer(64))
        ends.append(LiveEnd(EndConfig("measure", n_port, SPEEDS["32G"], 10_000), peer))
    carry(ends, 10**9, step_ps=50_000_000)
    record, now_ps = plain_frame(bytes(MAX_PAYLOAD_BYTES)), 10**9
    began = time.perf_counter_ns()
    for _ in range(frames):
        ends[0].submit(record, now_ps)
    carry(ends, 10**11, step_ps=50_000_000)
    return (time.perf_counter_ns() - began) // frames
