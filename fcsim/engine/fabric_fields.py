"""Where each number stands in the fabric engine's records, and the width of each kind of record.

What belongs together lies together, so that it is in few cache lines. The .pxd beside this file says the same in C,
for the compiled kernels, where these are constants.
"""

from __future__ import annotations

# A direction of a link, transmitter and receiver; what every frame needs comes first.
(
    FLY_NEXT,
    TRY_AT,
    HOLD_AT,
    LOSS_AT,
    SEND_AT,
    FREE_AT,
    JOINED,
    FORETOLD,
    SOUND,
    STALLED_SINCE,
    WAITING,
    CURRENT_IN,
    CURRENT_CHANNEL,
    CURRENT_EPOCH,
    EPOCH,
    FLY_COUNT,
    RET_COUNT,
    RET_HEAD,
    RING_SIZE,
    HEED_R_RDY,
    TRACED,
    PATIENCE,
    WINDOW,
    LOSE_FRAME,
    BYTE_TICKS,
    PROPAGATION,
    SWITCHING,
    R_RDY_TICKS,
    OUTSTANDING,
    VC_MODE,
    RANDOM,
    DRAWN_TO,
    DRAWN_BYTES,
    FLOW_START,
    FROM_HOST,
    TO_SWITCH,
    TO_HOST,
    DRAINED_AT,
    DRAIN_FRAME,
    DRAIN_BYTE,
    SCRIPTED,
    TURN_CHANNEL,
    ONE_CREDIT,
    LOCAL_INDEX,
    FROM_SWITCH,
    ACTIVE_SIZE,
    HOLD,
    CORRUPT_FRAME,
    TURN_SCRIPT,
    SCRIPT_HEAD,
    SCRIPT_TAIL,
    FLOW_END,
    FLY_HEAD,
    TURN_FLOW,
    DRAWN_FROM,
    LOSE_R_RDY,
) = range(56)
PORT = 64

# A virtual channel of a link.
(
    CREDIT,
    GRANTED,
    ZERO_SINCE,
    ACTIVE_HEAD,
    ACTIVE_COUNT,
) = range(5)
LANE = 8

# A frame that is somewhere.
(
    FRAME_NEXT,
    FRAME_TO,
    FRAME_FROM,
    FRAME_SIZE,
    FRAME_CHANNEL,
    FRAME_BORN,
    FRAME_QUEUED,
    FRAME_IN,
    FRAME_FLOW,
    FRAME_NUMBER,
) = range(10)
FRAME = 16

# A flow.
(
    FLOW_TO,
    FLOW_HOT,
    FLOW_HOT_CHANCE,
    FLOW_LOW,
    FLOW_HIGH,
    FLOW_GAP,
    FLOW_NEXT,
    FLOW_LEFT,
    FLOW_CHANNEL,
) = range(9)
FLOW = 16

# A virtual output queue.
(
    QUEUE_HEAD,
    QUEUE_TAIL,
    QUEUE_ACTIVE,
) = range(3)
QUEUE = 4

# A frame on its way along a link.
(
    FLY_TIME,
    FLY_FRAME,
) = range(2)
FLOWN = 2

# An R_RDY on its way back.
(
    RET_TIME,
    RET_CHANNEL,
    RET_FRAME,
) = range(3)
BACK = 4

TX_FRAMES, TX_BYTES, RX_FRAMES, ZERO_TRANSITIONS, ZERO_TICKS, WAIT_TICKS = 0, 1, 2, 3, 4, 5
DISCARDS, LOST_FRAMES, LOST_R_RDYS, RECOVERED, LINK_RESETS, PEAK, MISSING = 6, 7, 8, 9, 10, 11, 12
COUNTERS = 16
"""Counters of a link: ``counters[link * COUNTERS + …]``. MISSING: credits lost, neither recovered nor reset."""
SENT, DELIVERED, BYTES, LATENCY, WORST = 0, 1, 2, 3, 4
FLOW_COUNTERS = 5
"""Counters of a flow; latency is the sum in ticks from the moment a frame was due to the moment it was drained."""
TRACE_WIDTH = 8
"""A traced event: time, link, kind (0 frame, 1 R_RDY), source, destination, payload bytes, virtual channel, number.
R_RDYs are told when somebody looks at the credit: sort by time."""


def _fields(first: str, width: str) -> tuple[str, ...]:
    names = list(globals())
    return tuple(names[names.index(first) : names.index(width)])


RECORDS = {
    "port": _fields("FLY_NEXT", "PORT"),
    "lane": _fields("CREDIT", "LANE"),
    "frame": _fields("FRAME_NEXT", "FRAME"),
    "flow": _fields("FLOW_TO", "FLOW"),
    "queue": _fields("QUEUE_HEAD", "QUEUE"),
    "flown": _fields("FLY_TIME", "FLOWN"),
    "back": _fields("RET_TIME", "BACK"),
}
"""The constants of each kind of record, in their order."""
