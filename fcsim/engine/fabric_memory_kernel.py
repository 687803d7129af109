# cython: boundscheck=True, wraparound=False, cdivision=False, initializedcheck=False, annotation_typing=False
# cython: infer_types=True, language_level=3
"""The fabric engine's arrays, and the steps on them that decide nothing and are seldom taken.

What every frame needs is in :mod:`fcsim.engine.fabric_kernel`, in one final class, so that it is inlined.
"""

from __future__ import annotations

from fcsim.engine import fabric_state
from fcsim.engine.fabric_state import State

COMPILED = not __file__.endswith(".py")

# Typed copies: a module's own constants would be looked up by name in compiled code.
NEVER = fabric_state.NEVER
COUNTERS = fabric_state.COUNTERS
DISCARDS = fabric_state.DISCARDS
WAIT_TICKS = fabric_state.WAIT_TICKS
MAX_PAYLOAD_BYTES = fabric_state.PAYLOAD_LIMIT_BYTES
ZERO_TICKS, MISSING = fabric_state.ZERO_TICKS, fabric_state.MISSING
TRACE_WIDTH = fabric_state.TRACE_WIDTH


class Memory:
    """The arrays of a :class:`~fcsim.engine.fabric_state.State`, and the seldom steps on them."""

    def __init__(self, state: State) -> None:
        self.links, self.channels, self.hosts = state.links, state.channels, state.hosts
        self.overhead, self.leaves = state.overhead, state.leaves
        self.free_slot = state.free_slot
        self.random, self.route_only = state.random, state.route_only
        self.byte_ticks, self.propagation, self.latency = state.byte_ticks, state.propagation, state.latency
        self.r_rdy_ticks, self.from_host = state.r_rdy_ticks, state.from_host
        self.from_switch, self.to_host, self.to_switch = state.from_switch, state.to_host, state.to_switch
        self.local_index, self.voq_base, self.ring_base = state.local_index, state.voq_base, state.ring_base
        self.ring_size, self.active_base = state.ring_size, state.active_base
        self.active_size, self.hold, self.patience = state.active_size, state.hold, state.patience
        self.window, self.lose_frame, self.lose_r_rdy = state.window, state.lose_frame, state.lose_r_rdy
        self.corrupt_frame = state.corrupt_frame
        self.turn_script = state.turn_script
        self.scripted, self.script_head, self.script_tail = (
            state.scripted,
            state.script_head,
            state.script_tail,
        )
        self.deliveries, self.script_room, self.script_flow = (
            state.deliveries,
            state.script_room,
            state.script_flow,
        )
        self.drain_frame, self.drain_byte = state.drain_frame, state.drain_byte
        self.route_start, self.route_count = state.route_start, state.route_count
        self.route_links, self.flow_start, self.flow_end = state.route_links, state.flow_start, state.flow_end
        self.flow_to, self.flow_hot = state.flow_to, state.flow_hot
        self.flow_hot_chance, self.flow_low = state.flow_hot_chance, state.flow_low
        self.flow_high, self.flow_gap, self.flow_next = state.flow_high, state.flow_gap, state.flow_next
        self.flow_left, self.flow_channel, self.trace = state.flow_left, state.flow_channel, state.trace
        self.vc_mode = state.vc_mode
        self.traced, self.granted, self.credit = state.traced, state.granted, state.credit
        self.zero_since, self.fly_time, self.fly_frame = state.zero_since, state.fly_time, state.fly_frame
        self.fly_head, self.fly_count, self.ret_time = state.fly_head, state.fly_count, state.ret_time
        self.ret_channel, self.ret_head, self.ret_count = state.ret_channel, state.ret_head, state.ret_count
        self.try_at, self.free_at, self.drained_at = state.try_at, state.free_at, state.drained_at
        self.hold_at, self.loss_at, self.stalled_since = state.hold_at, state.loss_at, state.stalled_since
        self.current_in, self.current_channel = state.current_in, state.current_channel
        self.current_epoch, self.epoch = state.current_epoch, state.epoch
        self.turn_channel, self.turn_flow, self.waiting = state.turn_channel, state.turn_flow, state.waiting
        self.outstanding, self.window_count = state.outstanding, state.window_count
        self.window_lost, self.ret_frame = state.window_lost, state.ret_frame
        self.queue_head, self.queue_tail = state.queue_head, state.queue_tail
        self.queue_active, self.active, self.active_head = state.queue_active, state.active, state.active_head
        self.active_count, self.frame_next = state.active_count, state.frame_next
        self.frame_to, self.frame_from, self.frame_size = state.frame_to, state.frame_from, state.frame_size
        self.frame_channel, self.frame_born = state.frame_channel, state.frame_born
        self.frame_queued, self.frame_in = state.frame_queued, state.frame_in
        self.frame_flow, self.frame_number = state.frame_flow, state.frame_number
        self.counters, self.flow_counters, self.fly_next = state.counters, state.flow_counters, state.fly_next
        self.tree_key, self.tree_link = state.tree_key, state.tree_link
        self.trace_at = 0
        self.delivery_at = 0
        self.now = 0
        self.until = 0
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
            if self.ret_count[link]:
                place = (
                    self.ring_base[link]
                    + (self.ret_head[link] + self.ret_count[link] - 1) % self.ring_size[link]
                )
                last = max(last, self.ret_time[place])
        return last

    def _queue_at(self, link: int, both: int, step: int) -> int:
        """The queue that has its turn after ``step`` others."""
        place = self.active_head[both] + step
        if place >= self.active_size[link]:
            place -= self.active_size[link]
        return self.active[self.active_base[both] + place]

    def _oldest(self, link: int) -> int:
        oldest = NEVER
        for channel in range(self.channels):
            both = link * self.channels + channel
            for step in range(self.active_count[both]):
                frame = self.queue_head[self._queue_at(link, both, step)]
                if frame >= 0:
                    oldest = min(oldest, self.frame_queued[frame])
        return oldest

    def _drop_chain(self, link: int, frame: int) -> int:
        """Drop a frame and those chained to it; how many."""
        dropped = 0
        while frame >= 0:
            following = self.frame_next[frame]
            self._release(frame)
            frame = following
            dropped += 1
        self.counters[link * COUNTERS + DISCARDS] += dropped
        return dropped

    def _release(self, frame: int) -> int:
        self.frame_next[frame] = self.free_slot
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
        if at + TRACE_WIDTH > len(self.trace):
            return 0
        self.trace[at] = time
        self.trace[at + 1] = link
        self.trace[at + 2] = kind
        self.trace[at + 3] = -1 if frame < 0 else self.frame_from[frame]
        self.trace[at + 4] = -1 if frame < 0 else self.frame_to[frame]
        self.trace[at + 5] = 0 if frame < 0 else self.frame_size[frame]
        self.trace[at + 6] = 0 if frame < 0 else self.frame_channel[frame]
        self.trace[at + 7] = 0 if frame < 0 else self.frame_number[frame]
        self.trace_at = at + TRACE_WIDTH
        return 0

    def _empty_queues(self, link: int) -> int:
        """Drop what stands in the receiving switch's buffers of a link."""
        for out in range(self.links):
            if self.from_switch[out] != self.to_switch[link]:
                continue
            for channel in range(self.channels):
                queue = self.voq_base[link] + self.local_index[out] * self.channels + channel
                self.waiting[out] -= self._drop_chain(link, self.queue_head[queue])
                self.queue_head[queue] = -1
            if not self.waiting[out]:
                self._book_wait(out)
        return 0

    def _renew(self, link: int, up_at: int) -> int:
        """All credits are back, nothing is outstanding, and the transmitter is free at ``up_at``."""
        counters = link * COUNTERS
        self.epoch[link] += 1
        for side in range(2 * link, 2 * link + 2):
            self.window_count[side] = 0
            self.window_lost[side] = 0
        self.outstanding[link] = 0
        self.counters[counters + MISSING] = 0
        for channel in range(self.channels):
            both = link * self.channels + channel
            if not self.credit[both] and self.granted[both]:
                self.counters[counters + ZERO_TICKS] += self.now - self.zero_since[both]
            self.credit[both] = self.granted[both]
        self.free_at[link] = up_at
        self.try_at[link] = self.free_at[link]
        return 0

    def _starved(self, link: int) -> int:
        """Whether a channel has had no credit for as long as the port is patient."""
        starved = 0
        for channel in range(self.channels):
            both = link * self.channels + channel
            if self.granted[both] and not self.credit[both]:
                starved |= self.zero_since[both] + self.patience[link] <= self.now
        return starved

    def _one_of_several(self, entry: int, frame: int) -> int:
        """Of several equal links always the same for a pair of hosts."""
        # Mixed well: hosts with even numbers on one side and odd ones on the other would leave links unused.
        spread = (self.frame_from[frame] * 0x9E3779B1 + self.frame_to[frame] * 0x85EBCA6B) & 0xFFFFFFFF
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
        self.free_slot = self.frame_next[frame]
        self.frame_from[frame] = host
        self.frame_to[frame] = to
        self.frame_size[frame] = size
        self.frame_channel[frame] = channel
        self.frame_flow[frame] = self.script_flow
        self.frame_in[frame] = -1
        self.frame_born[frame] = self.now
        self.frame_next[frame] = -1
        self.frame_number[frame] = self.number
        self.number += 1
        return frame

    def number_of(self, frame: int) -> int:
        """The number under which a frame of :meth:`script` is told in the trace and in deliveries."""
        return self.frame_number[frame]

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
        self.deliveries[self.delivery_at + 1] = self.frame_number[frame]
        self.delivery_at += 2
        self.until = min(self.until, when)
        return 0

    def _forget_delivery(self, frame: int) -> int:
        """A frame that was about to be delivered is lost with its link."""
        kept = 0
        for at in range(0, self.delivery_at, 2):
            if self.deliveries[at + 1] != self.frame_number[frame]:
                self.deliveries[kept] = self.deliveries[at]
                self.deliveries[kept + 1] = self.deliveries[at + 1]
                kept += 2
        self.delivery_at = kept
        return 0

    def _queue_script(self, link: int, frame: int) -> int:
        if self.script_head[link] < 0:
            self.script_head[link] = frame
        else:
            self.frame_next[self.script_tail[link]] = frame
        self.script_tail[link] = frame
        return 0

    def _script_turn(self, link: int) -> int:
        """Whether a scripted frame goes before the host's flows: they take turns."""
        self.turn_script[link] ^= 1
        return self.turn_script[link] or self.flow_start[link] == self.flow_end[link]

    def _from_script(self, link: int, due: int) -> int:
        """The next frame of a scripted host; -1: there is no credit for it, and a flow is ``due`` at the earliest."""
        frame = self.script_head[link]
        if not self.credit[link * self.channels + self.frame_channel[frame] * self.vc_mode[link]]:
            if self.stalled_since[link] < 0:
                self.stalled_since[link] = self.now
            if self.ret_count[link]:
                due = min(due, self.ret_time[self.ring_base[link] + self.ret_head[link]])
            self.try_at[link] = due
            return -1
        self.script_head[link] = self.frame_next[frame]
        self.script_room += 1
        return frame

    def _book_wait(self, link: int) -> int:
        """No frame waits for credit any more."""
        if self.stalled_since[link] >= 0:
            self.counters[link * COUNTERS + WAIT_TICKS] += self.now - self.stalled_since[link]
            self.stalled_since[link] = -1
        return 0
