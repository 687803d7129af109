# cython: boundscheck=True, wraparound=False, cdivision=False, initializedcheck=False, annotation_typing=False
# cython: infer_types=True, language_level=3
"""The event engine of a fabric: links with credits, switches with virtual output queues, hosts that send and drain.

Times are ticks of :mod:`fcsim.clock`. There is no event queue: what is on its way along a link, frames one way and
R_RDYs the other, is in the order of its arrival already, so each link has two rings and a few alarms, and a winners'
tree over the links finds the next event. Ties go to the link with the lower number, so runs are repeatable, and the
compiled engine and its plain twin agree to the tick.

A frame is stored and forwarded: it may leave a switch when it is there as a whole (and ``latency`` later), and its
receive buffer is free when its last byte has left.
"""

from __future__ import annotations

from fcsim.engine import fabric_state
from fcsim.engine.fabric_memory_kernel import Memory
from fcsim.engine.fabric_state import State

COMPILED = not __file__.endswith(".py")

# Typed copies: a module's own constants would be looked up by name in compiled code.
NEVER = fabric_state.NEVER
COUNTERS = fabric_state.COUNTERS
TX_FRAMES = fabric_state.TX_FRAMES
TX_BYTES = fabric_state.TX_BYTES
RX_FRAMES = fabric_state.RX_FRAMES
ZERO_TRANSITIONS = fabric_state.ZERO_TRANSITIONS
ZERO_TICKS = fabric_state.ZERO_TICKS
DISCARDS = fabric_state.DISCARDS
PEAK = fabric_state.PEAK
LOST_FRAMES = fabric_state.LOST_FRAMES
LOST_R_RDYS = fabric_state.LOST_R_RDYS
RECOVERED = fabric_state.RECOVERED
LINK_RESETS = fabric_state.LINK_RESETS
FLOW_COUNTERS = fabric_state.FLOW_COUNTERS
SENT = fabric_state.SENT
TRACE_WIDTH = fabric_state.TRACE_WIDTH


class Engine(Memory):
    """Runs a :class:`~fcsim.engine.fabric_state.State`, in place."""

    def __init__(self, state: State) -> None:
        super().__init__(state)
        for link in range(self.links):
            if self.from_host[link] >= 0:
                self._start(link)
                self._settle(link)

    def run(self, until: int, most: int) -> int:
        """Let time go on to ``until``, or for ``most`` events, or until the trace is nearly full; events handled.

        When nothing is left to happen, time stops with the last event.
        """
        done = 0
        room = len(self.trace) - TRACE_WIDTH * 4 * self.links
        while done < most:
            if self.trace_at > room and len(self.trace):
                break
            link = self.tree[1]
            time = self.key[link]
            if time > until:
                self.now = until if time < NEVER else max(self.now, self._last_return())
                break
            self.now = time
            done += 1
            if self.fly_count[link] and self.fly_time[self.ring_base[link] + self.fly_head[link]] == time:
                self._arrived(link)
            elif self.try_at[link] == time:
                self._try(link)
            elif self.hold_at[link] == time:
                self._expire(link)
            elif self.loss_at[link] == time:
                self._reset(link)
            self._settle(link)
        self.events += done
        self.collect()
        return done

    # -- what happens at a link ---------------------------------------------------------------------------------

    def _try(self, link: int) -> int:
        """The transmitter is free, or what it waited for has come: the buffer of what it sent is free as well."""
        self.try_at[link] = NEVER
        came = self.current_in[link]
        if came >= 0:
            self.current_in[link] = -1
            if self.current_epoch[link] == self.epoch[came]:
                self._give_back(came, self.current_channel[link], self.now, -1)
        self._start(link)
        return 0

    def _start(self, link: int) -> int:
        """Send the next frame, if there is one and a credit for it; 1 when one left."""
        self._collect(link)
        host = self.from_host[link] >= 0
        frame = self._from_host(link) if host else self._from_queues(link)
        if frame < 0:
            return 0
        self._moved(link)
        channel = self.frame_channel[frame]
        both = link * self.channels + channel
        counters = link * COUNTERS
        self.credit[both] -= 1
        self.outstanding[link] += 1
        self.counters[counters + PEAK] = max(self.counters[counters + PEAK], self.outstanding[link])
        end = self.now + (self.frame_size[frame] + self.overhead) * self.byte_ticks[link]
        self.free_at[link] = end
        self.try_at[link] = end
        self.counters[counters + TX_FRAMES] += 1
        self.counters[counters + TX_BYTES] += self.frame_size[frame]
        if self.traced[link]:
            self._note(link, 0, frame, self.now)
        flow = self.frame_flow[frame]
        self._launch(link, frame, end)
        if not self.credit[both]:
            self.counters[counters + ZERO_TRANSITIONS] += 1
            self.zero_since[both] = self.now
            if self.patience[link]:
                self.loss_at[link] = self.now + self.patience[link]
                if self.loss_at[link] < self.key[link]:
                    self._lead(link, self.loss_at[link])
            if host and self._always_ready(link, flow):  # it will stand at the line's end without credit
                self.stalled_since[link] = end
                self.try_at[link] = max(end, self._next_return(link))
        if self.try_at[link] < self.key[link]:
            self._lead(link, self.try_at[link])
        return 1

    def _launch(self, link: int, frame: int, end: int) -> int:
        """A frame whose last byte leaves at ``end`` is on its way, or lost on it."""
        counters = link * COUNTERS
        arrival = end + self.propagation[link] + self.latency[link]
        to_host = self.to_host[link] >= 0
        lost = self.lose_frame[link] > 0 and self._chance() < self.lose_frame[link]
        if lost:
            self.counters[counters + LOST_FRAMES] += 1
            self._release(frame)
        elif to_host:
            # A host deals with frames one after the other: when its buffer will be free is known already.
            drained = max(arrival, self.drained_at[link]) + self.drain_frame[link]
            drained += self.frame_size[frame] * self.drain_byte[link]
            self.drained_at[link] = drained
            self.counters[counters + RX_FRAMES] += 1
            self._give_back(link, self.frame_channel[frame], drained, frame)
        else:
            self._fly(link, arrival, frame)
        back = self._boundary(2 * link, self.window[link], lost)
        if back and to_host:
            self._recover_frames(link, back, max(arrival, self.drained_at[link]))
        elif back:
            self._fly(link, arrival, -1 - back)
        return 0

    def _recover_frames(self, link: int, lost: int, when: int) -> int:
        """BB_SCs told how many frames were lost: as many R_RDYs more."""
        for _ in range(lost):
            self.counters[link * COUNTERS + RECOVERED] += 1
            self._give_back(link, 0, when, -1)
        return 0

    def _always_ready(self, link: int, flow: int) -> int:
        """Whether a host has nothing but this flow, which sends as fast as credit lets it."""
        alone = self.channels == 1 and self.flow_end[link] - self.flow_start[link] == 1
        return alone and self.flow_gap[flow] == 0 and self.flow_left[flow] != 0

    def _from_host(self, link: int) -> int:
        """A frame of a host's flows, which take turns; -1: none is due, or there is no credit."""
        first = self.flow_start[link]
        count = self.flow_end[link] - first
        due = NEVER
        stalled = False
        for step in range(count):
            turn = self.turn_flow[link] + step
            if turn >= count:
                turn -= count
            flow = first + turn
            if not self.flow_left[flow]:
                continue
            if self.flow_next[flow] > self.now:
                due = min(due, self.flow_next[flow])
                continue
            channel = self.flow_channel[flow]
            if not self.credit[link * self.channels + channel]:
                stalled = True
                continue
            self.turn_flow[link] = turn + 1 if turn + 1 < count else 0
            return self._made(link, flow, channel)
        if stalled:
            due = min(due, self._next_return(link))
            if self.stalled_since[link] < 0:
                self.stalled_since[link] = self.now
        self.try_at[link] = due
        return -1

    def _made(self, link: int, flow: int, channel: int) -> int:
        """A new frame of a flow."""
        frame = self.free_slot
        if frame < 0:
            raise RuntimeError("more frames under way than there are credits")
        self.free_slot = self.frame_next[frame]
        host = self.from_host[link]
        to = self.flow_to[flow]
        if to < 0:
            to = self.flow_hot[flow]
            if to < 0 or self._chance() >= self.flow_hot_chance[flow]:
                to = self._chance() % (self.hosts - 1)
                if to >= host:
                    to += 1
        size = self.flow_low[flow]
        if self.flow_high[flow] > size:
            size += self._chance() % (self.flow_high[flow] - size + 1)
        self.frame_to[frame] = to
        self.frame_from[frame] = host
        self.frame_size[frame] = size
        self.frame_channel[frame] = channel
        self.frame_flow[frame] = flow
        self.frame_in[frame] = -1
        self.frame_number[frame] = self.number
        self.number += 1
        self.frame_born[frame] = self.flow_next[flow] if self.flow_gap[flow] else self.now
        self.flow_next[flow] += self.flow_gap[flow]
        if self.flow_left[flow] > 0:
            self.flow_left[flow] -= 1
        self.flow_counters[flow * FLOW_COUNTERS + SENT] += 1
        return frame

    def _from_queues(self, link: int) -> int:
        """A frame out of a switch's virtual output queues, which take turns; -1: none, or no credit for any."""
        if not self.waiting[link]:
            return -1
        for step in range(self.channels):
            channel = self.turn_channel[link] + step
            if channel >= self.channels:
                channel -= self.channels
            both = link * self.channels + channel
            if not self.credit[both]:
                continue
            while self.active_count[both]:
                base = self.active_base[both]
                size = self.active_size[link]
                head = self.active_head[both]
                queue = self.active[base + head]
                head += 1
                self.active_head[both] = 0 if head == size else head
                self.active_count[both] -= 1
                frame = self.queue_head[queue]
                if frame < 0:  # a link reset emptied it
                    self.queue_active[queue] = 0
                    continue
                self.queue_head[queue] = self.frame_next[frame]
                if self.queue_head[queue] >= 0:
                    self._activate(link, both, queue)
                else:
                    self.queue_active[queue] = 0
                self.waiting[link] -= 1
                self.turn_channel[link] = channel + 1 if channel + 1 < self.channels else 0
                came = self.frame_in[frame]
                self.current_in[link] = came
                self.current_channel[link] = channel
                self.current_epoch[link] = self.epoch[came]
                return frame
        self.try_at[link] = self._next_return(link)
        if self.waiting[link] and self.stalled_since[link] < 0:
            self.stalled_since[link] = self.now
        if self.waiting[link] and self.hold[link] and self.hold_at[link] == NEVER:
            self.hold_at[link] = self._oldest(link) + self.hold[link]
            if self.hold_at[link] < self.key[link]:
                self._lead(link, self.hold_at[link])
        return -1

    def _arrived(self, link: int) -> int:
        frame = self._landed(link)
        if frame < 0:
            return self._recover_frames(link, -1 - frame, self.now)
        self.counters[link * COUNTERS + RX_FRAMES] += 1
        self.frame_in[frame] = link
        self.frame_next[frame] = -1
        out = self._route(link, frame)
        channel = self.frame_channel[frame]
        queue = self.voq_base[link] + self.local_index[out] * self.channels + channel
        self.frame_queued[frame] = self.now
        if self.queue_head[queue] < 0:
            self.queue_head[queue] = frame
        else:
            self.frame_next[self.queue_tail[queue]] = frame
        self.queue_tail[queue] = frame
        self.waiting[out] += 1
        if not self.queue_active[queue]:
            self._activate(out, out * self.channels + channel, queue)
        if self.free_at[out] <= self.now and self.current_in[out] < 0 and self.stalled_since[out] < 0:
            self._start(out)
        return 0

    def _route(self, link: int, frame: int) -> int:
        """The link out of the switch; of several equal ones always the same for a pair of hosts."""
        entry = self.to_switch[link] * self.hosts + self.frame_to[frame]
        count = self.route_count[entry]
        if count == 1:
            return self.route_links[self.route_start[entry]]
        spread = self.frame_from[frame] * 31 + self.frame_to[frame] * 17
        return self.route_links[self.route_start[entry] + spread % count]

    def _give_back(self, link: int, channel: int, when: int, frame: int) -> int:
        """A receive buffer of a link is free at ``when``: its R_RDY goes back, unless it gets lost."""
        lost = self.lose_r_rdy[link] > 0 and self._chance() < self.lose_r_rdy[link]
        if lost:
            self.counters[link * COUNTERS + LOST_R_RDYS] += 1
            if frame >= 0:
                self._delivered(frame, when)
        else:
            self._return(link, channel, when, frame)
        for _ in range(self._boundary(2 * link + 1, self.window[link], lost)):
            self.counters[link * COUNTERS + RECOVERED] += 1
            self._return(link, channel, when, -1)
        return 0

    def _return(self, link: int, channel: int, when: int, frame: int) -> int:
        """An R_RDY is on its way; ``frame`` is what it answers, where the receiver is a host."""
        time = when + self.r_rdy_ticks[link] + self.propagation[link]
        place = self._place(link, self.ret_head[link], self.ret_count[link])
        self.ret_time[place] = time
        self.ret_channel[place] = channel
        self.ret_frame[place] = frame
        self.ret_count[link] += 1
        if self.stalled_since[link] >= 0:  # somebody waits for it
            time = max(time, self.free_at[link])
            if time < self.try_at[link]:
                self.try_at[link] = time
                if time < self.key[link]:
                    self._lead(link, time)
        return 0

    # -- what takes long ----------------------------------------------------------------------------------------

    def _expire(self, link: int) -> int:
        """Frames that waited for credit as long as the hold time are dropped; their buffers are free."""
        self.hold_at[link] = NEVER
        if self.stalled_since[link] < 0:
            return 0
        for channel in range(self.channels):
            both = link * self.channels + channel
            for step in range(self.active_count[both]):
                self._drop_expired(link, self._queue_at(link, both, step))
        if self.waiting[link]:
            self.hold_at[link] = self._oldest(link) + self.hold[link]
        else:
            self._moved(link)
        return 0

    def _drop_expired(self, link: int, queue: int) -> int:
        frame = self.queue_head[queue]
        while frame >= 0 and self.frame_queued[frame] + self.hold[link] <= self.now:
            self.queue_head[queue] = self.frame_next[frame]
            came = self.frame_in[frame]
            channel = self.frame_channel[frame]
            self.counters[link * COUNTERS + DISCARDS] += 1
            self.waiting[link] -= 1
            self._release(frame)
            self._give_back(came, channel, self.now, -1)
            frame = self.queue_head[queue]
        return 0

    def _reset(self, link: int) -> int:
        """No credit came back for too long: a link reset. What is under way or in the other side's buffers is lost."""
        self.loss_at[link] = NEVER
        self._collect(link)
        counters = link * COUNTERS
        starved = False
        for channel in range(self.channels):
            both = link * self.channels + channel
            if not self.credit[both] and self.zero_since[both] + self.patience[link] <= self.now:
                starved = True
        if not starved:
            return 0
        self.counters[counters + LINK_RESETS] += 1
        while self.fly_count[link]:
            frame = self._landed(link)
            if frame >= 0:
                self.frame_next[frame] = -1
                self._drop_chain(link, frame)
        while self.ret_count[link]:
            at = self.ring_base[link] + self.ret_head[link]
            frame = self.ret_frame[at]
            if frame >= 0 and self.ret_time[at] - self.r_rdy_ticks[link] - self.propagation[link] <= self.now:
                self._delivered(frame, self.now)
            elif frame >= 0:
                self.frame_next[frame] = -1
                self._drop_chain(link, frame)
            self._forget_return(link)
        self.drained_at[link] = min(self.drained_at[link], self.now)
        if self.to_host[link] < 0:
            self._empty_queues(link)
        self.epoch[link] += 1
        for side in range(2 * link, 2 * link + 2):
            self.window_count[side] = 0
            self.window_lost[side] = 0
        self.outstanding[link] = 0
        for channel in range(self.channels):
            both = link * self.channels + channel
            if not self.credit[both] and self.granted[both]:
                self.counters[counters + ZERO_TICKS] += self.now - self.zero_since[both]
            self.credit[both] = self.granted[both]
        # LR one way and LRR back, before frames go again.
        self.free_at[link] = self.now + 2 * (self.propagation[link] + self.r_rdy_ticks[link])
        self.try_at[link] = self.free_at[link]
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
                self._moved(out)
        return 0
