# cython: boundscheck=False, wraparound=False, cdivision=False, initializedcheck=False, annotation_typing=False
# cython: infer_types=True, language_level=3
"""The credit recurrence of one link, frame by frame, without an event queue.

A frame leaves when it is ready, when the frame before it has left, and when the credit that is used ``credits`` frames
later has come back. Times are ticks of :mod:`fcsim.clock`. A block of frames continues where the block before it
stopped: the state is ``ring`` (when each credit comes back) and ``state``.

The loops do not check array bounds (docs/adr/0007); lengths are checked once, before them.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from array import array

COMPILED = not __file__.endswith(".py")

FREE_AT = 0
"""Index in `state`: when the transmitter is free."""
DRAINED_AT = 1
"""When the receiver has dealt with the frame before."""
SLOT = 2
"""The place in `ring` of the next credit."""
STALLS = 3
"""Frames that waited for credit while they were ready and the line was free."""
STALLED = 4
"""Ticks that they waited, together."""
PAYLOAD = 5
"""Payload bytes sent."""
BUSY = 6
"""Ticks that the line carried a frame."""
STATE_SIZE = 7


def first_bad(ready: array[int], payload: array[int], count: int, payload_limit: int, last_tick: int) -> int:
    """Index of the first frame with a payload or a time out of range; -1: there is none."""
    if count > len(ready) or count > len(payload):
        raise IndexError(count)
    for i in range(count):
        if payload[i] < 0 or payload[i] > payload_limit or ready[i] < 0 or ready[i] > last_tick:
            return i
    return -1


def run_block(
    ready: array[int],
    payload: array[int],
    sent: memoryview,
    drained: memoryview,
    ring: array[int],
    state: array[int],
    count: int,
    byte: int,
    around: int,
    propagation: int,
    drain: int,
    r_rdy: int,
    payload_limit: int,
    last_tick: int,
) -> int:
    """Send ``count`` frames; returns when the last of them was drained, 0 for none; -1: one of them is out of range.

    Then ``ring`` is spoilt and ``state`` as it was. The loop has no branches that depend on the frames, which
    would be mispredicted.

    ``ready``: when each frame may leave. ``payload``: its bytes; ``around``: the bytes around them on the line, idles
    included; ``byte``: ticks of a byte. ``sent`` and ``drained`` receive when it began to leave and when its buffer was
    free; they may be of length 0: then only the totals are kept. ``ring``: one entry for each credit. ``drain``:
    ticks that the receiver takes for a frame, one after the other. ``r_rdy``: ticks of an R_RDY. Raises IndexError
    for arrays that are too short.
    """
    credits = len(ring)
    record = len(sent) > 0
    if (
        count > len(ready)
        or count > len(payload)
        or len(state) < STATE_SIZE
        or not 0 <= state[SLOT] < credits
    ):
        raise IndexError(count)
    if record and (count > len(sent) or count > len(drained)):
        raise IndexError(count)
    free_at = state[FREE_AT]
    drained_at = state[DRAINED_AT]
    slot = state[SLOT]
    stalls = state[STALLS]
    stalled = state[STALLED]
    carried = 0
    back = r_rdy + propagation
    signs = 0
    for i in range(count):
        when = ready[i]
        size = payload[i]
        signs |= size | (payload_limit - size) | when | (last_tick - when)
        line_at = when if when > free_at else free_at
        credit_at = ring[slot]
        start = credit_at if credit_at > line_at else line_at
        wait = start - line_at
        stalls += wait > 0
        stalled += wait
        length = (size + around) * byte
        carried += size
        free_at = start + length
        arrived = free_at + propagation
        drained_at = (arrived if arrived > drained_at else drained_at) + drain
        ring[slot] = drained_at + back
        slot = slot + 1 if slot + 1 < credits else 0
        if record:
            sent[i] = start
            drained[i] = drained_at
    if signs < 0:
        return -1
    state[FREE_AT] = free_at
    state[DRAINED_AT] = drained_at
    state[SLOT] = slot
    state[STALLS] = stalls
    state[STALLED] = stalled
    state[PAYLOAD] += carried
    state[BUSY] += (carried + count * around) * byte
    return drained_at if count else 0
