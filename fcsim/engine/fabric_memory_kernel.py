# cython: boundscheck=True, wraparound=False, cdivision=False, initializedcheck=False, annotation_typing=False
# cython: infer_types=True, language_level=3
"""The fabric engine's arrays, and the steps on them that decide nothing and are seldom taken.

What every frame needs is in :mod:`fcsim.engine.fabric_traffic_kernel`, in one class, so that it is inlined.
"""

from __future__ import annotations

from fcsim.engine import fabric_fields as F  # noqa: N812 - as the .pxd has it
from fcsim.engine import fabric_state
from fcsim.engine.fabric_state import State

COMPILED = not __file__.endswith(".py")

# Typed copies: a module's own constants would be looked up by name in compiled code.
NEVER, MAX_PAYLOAD_BYTES = fabric_state.NEVER, fabric_state.PAYLOAD_LIMIT_BYTES


class Memory:
    """The arrays of a :class:`~fcsim.engine.fabric_state.State`, and the seldom steps on them."""

    def __init__(self, state: State) -> None:
        self.links, self.channels, self.hosts = state.links, state.channels, state.hosts
        self.overhead, self.leaves = state.overhead, state.leaves
        self.free_slot = state.free_slot
        self.port, self.lane, self.frame, self.flow = state.port, state.lane, state.frame, state.flow
        self.queue, self.flown, self.back = state.queue, state.flown, state.back
        self.voq_base, self.ring_base, self.active_base = state.voq_base, state.ring_base, state.active_base
        self.route_start, self.route_count = state.route_start, state.route_count
        self.route_links, self.route_only = state.route_links, state.route_only
        self.active, self.trace, self.deliveries = state.active, state.trace, state.deliveries
        self.counters, self.flow_counters = state.counters, state.flow_counters
        self.tree_key, self.tree_link = state.tree_key, state.tree_link
        self.window_count, self.window_lost = state.window_count, state.window_lost
        self.script_room, self.script_flow = state.script_room, state.script_flow
        self.trace_at = 0
        self.delivery_at = 0
        self.now = 0
        self.until = 0
        self.ahead = 0
        self.overrun = 0
        self.events = 0
        self.number = 0

    def clear_trace(self) -> int:
        """Begin the trace anew, after its events have been taken out; how many numbers stood in it."""
        used = self.trace_at
        self.trace_at = 0
        return used

    def _last_return(self) -> int:
        last = 0
        for link in range(self.links):
            port = link * F.PORT
            if self.port[port + F.RET_COUNT]:
                place = (
                    self.ring_base[link]
                    + (self.port[port + F.RET_HEAD] + self.port[port + F.RET_COUNT] - 1)
                    % self.port[port + F.RING_SIZE]
                )
                last = max(last, self.back[place * F.BACK + F.RET_TIME])
        return last

    def _queue_at(self, link: int, both: int, step: int) -> int:
        """The queue that has its turn after ``step`` others."""
        port = link * F.PORT
        place = self.lane[both * F.LANE + F.ACTIVE_HEAD] + step
        if place >= self.port[port + F.ACTIVE_SIZE]:
            place -= self.port[port + F.ACTIVE_SIZE]
        return self.active[self.active_base[both] + place]

    def _oldest(self, link: int) -> int:
        oldest = NEVER
        for channel in range(self.channels):
            both = link * self.channels + channel
            for step in range(self.lane[both * F.LANE + F.ACTIVE_COUNT]):
                frame = self.queue[(self._queue_at(link, both, step)) * F.QUEUE + F.QUEUE_HEAD]
                if frame >= 0:
                    oldest = min(oldest, self.frame[frame * F.FRAME + F.FRAME_QUEUED])
        return oldest

    def _drop_chain(self, link: int, frame: int) -> int:
        """Drop a frame and those chained to it; how many."""
        dropped = 0
        while frame >= 0:
            following = self.frame[frame * F.FRAME + F.FRAME_NEXT]
            self._release(frame)
            frame = following
            dropped += 1
        self.counters[link * F.COUNTERS + F.DISCARDS] += dropped
        return dropped

    def _release(self, frame: int) -> int:
        self.frame[frame * F.FRAME + F.FRAME_NEXT] = self.free_slot
        self.free_slot = frame
        return 0

    def _boundary(self, side: int, window: int, lost: int) -> int:
        """Count a frame (even ``side``) or an R_RDY (odd); at a boundary of 2^N, how many of them were lost."""
        if not window:
            return 0
        self.window_count[side] += 1
        self.window_lost[side] += lost
        if self.window_count[side] < window:
            return 0
        back = self.window_lost[side] % window
        self.window_count[side] = 0
        self.window_lost[side] = 0
        return back

    def _note(self, link: int, kind: int, frame: int, time: int) -> int:
        at = self.trace_at
        if at + F.TRACE_WIDTH > len(self.trace):
            return 0
        self.trace[at] = time
        self.trace[at + 1] = link
        self.trace[at + 2] = kind
        self.trace[at + 3] = -1 if frame < 0 else self.frame[frame * F.FRAME + F.FRAME_FROM]
        self.trace[at + 4] = -1 if frame < 0 else self.frame[frame * F.FRAME + F.FRAME_TO]
        self.trace[at + 5] = 0 if frame < 0 else self.frame[frame * F.FRAME + F.FRAME_SIZE]
        self.trace[at + 6] = 0 if frame < 0 else self.frame[frame * F.FRAME + F.FRAME_CHANNEL]
        self.trace[at + 7] = 0 if frame < 0 else self.frame[frame * F.FRAME + F.FRAME_NUMBER]
        self.trace_at = at + F.TRACE_WIDTH
        return 0

    def _empty_queues(self, link: int) -> int:
        """Drop what stands in the receiving switch's buffers of a link."""
        for out in range(self.links):
            if self.port[out * F.PORT + F.FROM_SWITCH] != self.port[link * F.PORT + F.TO_SWITCH]:
                continue
            for channel in range(self.channels):
                queue = (
                    self.voq_base[link] + self.port[out * F.PORT + F.LOCAL_INDEX] * self.channels + channel
                )
                self.port[out * F.PORT + F.WAITING] -= self._drop_chain(
                    link, self.queue[queue * F.QUEUE + F.QUEUE_HEAD]
                )
                self.queue[queue * F.QUEUE + F.QUEUE_HEAD] = -1
            if not self.port[out * F.PORT + F.WAITING]:
                self._book_wait(out)
        return 0

    def _renew(self, link: int, up_at: int) -> int:
        """All credits are back, nothing is outstanding, and the transmitter is free at ``up_at``."""
        port = link * F.PORT
        counters = link * F.COUNTERS
        self.port[port + F.EPOCH] += 1
        for side in range(2 * link, 2 * link + 2):
            self.window_count[side] = 0
            self.window_lost[side] = 0
        self.port[port + F.OUTSTANDING] = 0
        self.counters[counters + F.MISSING] = 0
        for channel in range(self.channels):
            both = link * self.channels + channel
            if not self.lane[both * F.LANE + F.CREDIT] and self.lane[both * F.LANE + F.GRANTED]:
                self.counters[counters + F.ZERO_TICKS] += self.now - self.lane[both * F.LANE + F.ZERO_SINCE]
            self.lane[both * F.LANE + F.CREDIT] = self.lane[both * F.LANE + F.GRANTED]
        self.port[port + F.FREE_AT] = up_at
        self.port[port + F.TRY_AT] = self.port[port + F.FREE_AT]
        return 0

    def _heed_r_rdy(self, link: int, both: int, time: int) -> int:
        """An R_RDY gave a channel credit, of a link that is traced or patient."""
        port = link * F.PORT
        if self.port[port + F.PATIENCE] and self.lane[both * F.LANE + F.CREDIT] == 1:  # there was none
            self.port[port + F.LOSS_AT] = self._patience_ends(link)
        if self.port[port + F.TRACED] and self.trace_at + F.TRACE_WIDTH <= len(self.trace):
            self._note(link, 1, -1, time)
            self.trace[self.trace_at - 2] = both - link * self.channels  # an R_RDY's virtual channel
        return 0

    def _patience_ends(self, link: int) -> int:
        """When a channel has been without credit for as long as the port is patient; NEVER: none is."""
        ends = NEVER
        for channel in range(self.channels):
            lane = (link * self.channels + channel) * F.LANE
            if self.lane[lane + F.GRANTED] and not self.lane[lane + F.CREDIT]:
                ends = min(ends, self.lane[lane + F.ZERO_SINCE] + self.port[link * F.PORT + F.PATIENCE])
        return ends

    def _one_of_several(self, entry: int, frame: int) -> int:
        """Of several equal links always the same for a pair of hosts."""
        # Mixed well: hosts with even numbers on one side and odd ones on the other would leave links unused.
        spread = (
            self.frame[frame * F.FRAME + F.FRAME_FROM] * 0x9E3779B1
            + self.frame[frame * F.FRAME + F.FRAME_TO] * 0x85EBCA6B
        ) & 0xFFFFFFFF
        spread = (spread ^ (spread >> 15)) >> 8
        return self.route_links[self.route_start[entry] + spread % self.route_count[entry]]

    # -- scripted hosts: what they send is said from outside, frame by frame ----------------------------------------

    def script(self, host: int, to: int, size: int, channel: int) -> int:
        """A new frame of ``size`` payload bytes for ``Engine.offer``; -1: there is no room. Raises IndexError for
        hosts, sizes or channels that there are not."""
        if not 0 <= host < self.hosts or not 0 <= to < self.hosts or not 0 <= channel < self.channels:
            raise IndexError((host, to, channel))
        if not 0 <= size <= MAX_PAYLOAD_BYTES:
            raise IndexError(size)
        frame = self.free_slot
        if frame < 0 or not self.script_room:
            return -1
        self.script_room -= 1
        self.free_slot = self.frame[frame * F.FRAME + F.FRAME_NEXT]
        self.frame[frame * F.FRAME + F.FRAME_FROM] = host
        self.frame[frame * F.FRAME + F.FRAME_TO] = to
        self.frame[frame * F.FRAME + F.FRAME_SIZE] = size
        self.frame[frame * F.FRAME + F.FRAME_CHANNEL] = channel
        self.frame[frame * F.FRAME + F.FRAME_FLOW] = self.script_flow
        self.frame[frame * F.FRAME + F.FRAME_IN] = -1
        self.frame[frame * F.FRAME + F.FRAME_BORN] = self.now
        self.frame[frame * F.FRAME + F.FRAME_NEXT] = -1
        self.frame[frame * F.FRAME + F.FRAME_NUMBER] = self.number
        self.number += 1
        return frame

    def number_of(self, frame: int) -> int:
        """The number under which a frame of :meth:`script` is told in the trace and in deliveries."""
        return self.frame[frame * F.FRAME + F.FRAME_NUMBER]

    def next_delivery(self) -> int:
        """When a frame is delivered to a scripted host next; NEVER: none is on its last link."""
        first = NEVER
        for at in range(0, self.delivery_at, 2):
            first = min(first, self.deliveries[at])
        return first

    def take_delivery(self) -> int:
        """The number of a frame that has been delivered to a scripted host by now, the earliest first; -1: none."""
        best = -1
        for at in range(0, self.delivery_at, 2):
            if self.deliveries[at] <= self.now and (best < 0 or self.deliveries[at] < self.deliveries[best]):
                best = at
        if best < 0:
            return -1
        number = self.deliveries[best + 1]
        self.delivery_at -= 2
        for at in range(best, self.delivery_at):
            self.deliveries[at] = self.deliveries[at + 2]
        return number

    def _note_delivery(self, frame: int, when: int) -> int:
        """A frame will be delivered: time goes no further than that before somebody has been told."""
        if self.delivery_at + 2 > len(self.deliveries):
            self.overrun = 1
            return 0
        self.deliveries[self.delivery_at] = when
        self.deliveries[self.delivery_at + 1] = self.frame[frame * F.FRAME + F.FRAME_NUMBER]
        self.delivery_at += 2
        self.until = min(self.until, when)
        return 0

    def _forget_delivery(self, frame: int) -> int:
        """A frame that was about to be delivered is lost with its link."""
        kept = 0
        for at in range(0, self.delivery_at, 2):
            if self.deliveries[at + 1] != self.frame[frame * F.FRAME + F.FRAME_NUMBER]:
                self.deliveries[kept] = self.deliveries[at]
                self.deliveries[kept + 1] = self.deliveries[at + 1]
                kept += 2
        self.delivery_at = kept
        return 0

    def _queue_script(self, link: int, frame: int) -> int:
        port = link * F.PORT
        if self.port[port + F.SCRIPT_HEAD] < 0:
            self.port[port + F.SCRIPT_HEAD] = frame
        else:
            self.frame[(self.port[port + F.SCRIPT_TAIL]) * F.FRAME + F.FRAME_NEXT] = frame
        self.port[port + F.SCRIPT_TAIL] = frame
        return 0

    def _script_turn(self, link: int) -> int:
        """Whether a scripted frame goes before the host's flows: they take turns."""
        port = link * F.PORT
        self.port[port + F.TURN_SCRIPT] ^= 1
        return (
            self.port[port + F.TURN_SCRIPT] or self.port[port + F.FLOW_START] == self.port[port + F.FLOW_END]
        )

    def _from_script(self, link: int, due: int) -> int:
        """The next frame of a scripted host; -1: there is no credit for it, and a flow is ``due`` at the earliest."""
        port = link * F.PORT
        frame = self.port[port + F.SCRIPT_HEAD]
        if not self.lane[
            (
                link * self.channels
                + self.frame[frame * F.FRAME + F.FRAME_CHANNEL] * self.port[port + F.VC_MODE]
            )
            * F.LANE
            + F.CREDIT
        ]:
            if self.port[port + F.STALLED_SINCE] < 0:
                self.port[port + F.STALLED_SINCE] = self.now
            if self.port[port + F.RET_COUNT]:
                due = min(
                    due,
                    self.back[(self.ring_base[link] + self.port[port + F.RET_HEAD]) * F.BACK + F.RET_TIME],
                )
            self.port[port + F.TRY_AT] = due
            return -1
        self.port[port + F.SCRIPT_HEAD] = self.frame[frame * F.FRAME + F.FRAME_NEXT]
        self.script_room += 1
        return frame

    def _book_wait(self, link: int) -> int:
        """No frame waits for credit any more."""
        port = link * F.PORT
        if self.port[port + F.STALLED_SINCE] >= 0:
            self.counters[link * F.COUNTERS + F.WAIT_TICKS] += max(
                0, self.now - self.port[port + F.STALLED_SINCE]
            )
            self.port[port + F.STALLED_SINCE] = -1
        return 0

    def _always_ready(self, link: int, flow: int) -> int:
        """Whether a host has nothing but this flow, which sends as fast as credit lets it."""
        port = link * F.PORT
        alone = self.channels == 1 and self.port[port + F.FLOW_END] - self.port[port + F.FLOW_START] == 1
        alone = alone and self.flow[flow * F.FLOW + F.FLOW_GAP] == 0
        return alone and self.flow[flow * F.FLOW + F.FLOW_LEFT] != 0

    # -- what frames and R_RDYs call for, and the engine does ------------------------------------------------------

    def _from_host(self, link: int) -> int:
        """A frame of a host that does not work ahead; -1: none is due, or there is no credit."""
        raise NotImplementedError

    def _risk(self, link: int, frame: int, arrival: int) -> int:
        """A frame is on its way along a link that has faults or is looked at."""
        raise NotImplementedError

    def _recover_frames(self, link: int, lost: int, when: int) -> int:
        """BB_SCs told how many frames were lost."""
        raise NotImplementedError

    def _give_back(self, link: int, channel: int, when: int, frame: int) -> int:
        """A receive buffer of a link that may have faults is free at ``when``."""
        raise NotImplementedError

    def _expire(self, link: int) -> int:
        """The hold time of frames is over."""
        raise NotImplementedError

    def _reset(self, link: int) -> int:
        """No credit came back for too long."""
        raise NotImplementedError
