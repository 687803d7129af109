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
from fcsim.engine.fabric_state import State

COMPILED = not __file__.endswith(".py")

# Typed copies: a module's own constants would be looked up by name in compiled code.
NEVER = fabric_state.NEVER
RANDOM_LIMIT = fabric_state.RANDOM_LIMIT
COUNTERS = fabric_state.COUNTERS
TX_FRAMES, TX_BYTES, RX_FRAMES = fabric_state.TX_FRAMES, fabric_state.TX_BYTES, fabric_state.RX_FRAMES
ZERO_TRANSITIONS, ZERO_TICKS = fabric_state.ZERO_TRANSITIONS, fabric_state.ZERO_TICKS
WAIT_TICKS, DISCARDS, PEAK = fabric_state.WAIT_TICKS, fabric_state.DISCARDS, fabric_state.PEAK
LOST_FRAMES, LOST_R_RDYS = fabric_state.LOST_FRAMES, fabric_state.LOST_R_RDYS
RECOVERED, LINK_RESETS = fabric_state.RECOVERED, fabric_state.LINK_RESETS
FLOW_COUNTERS, SENT, DELIVERED = fabric_state.FLOW_COUNTERS, fabric_state.SENT, fabric_state.DELIVERED
BYTES, LATENCY, WORST = fabric_state.BYTES, fabric_state.LATENCY, fabric_state.WORST
TRACE_WIDTH = fabric_state.TRACE_WIDTH


class Engine:
    """Runs a :class:`~fcsim.engine.fabric_state.State`, in place."""

    def __init__(self, state: State) -> None:
        self.links, self.channels, self.hosts = state.links, state.channels, state.hosts
        self.overhead, self.leaves = state.overhead, state.leaves
        self.random, self.free_slot = state.random, state.free_slot
        self.byte_ticks, self.propagation, self.latency = state.byte_ticks, state.propagation, state.latency
        self.r_rdy_ticks, self.from_host = state.r_rdy_ticks, state.from_host
        self.from_switch, self.to_host, self.to_switch = state.from_switch, state.to_host, state.to_switch
        self.local_index, self.voq_base, self.ring_base = state.local_index, state.voq_base, state.ring_base
        self.ring_size, self.active_base = state.ring_size, state.active_base
        self.active_size, self.hold, self.patience = state.active_size, state.hold, state.patience
        self.window, self.lose_frame, self.lose_r_rdy = state.window, state.lose_frame, state.lose_r_rdy
        self.drain_frame, self.drain_byte = state.drain_frame, state.drain_byte
        self.route_start, self.route_count = state.route_start, state.route_count
        self.route_links, self.flow_start, self.flow_end = state.route_links, state.flow_start, state.flow_end
        self.flow_to, self.flow_hot = state.flow_to, state.flow_hot
        self.flow_hot_chance, self.flow_low = state.flow_hot_chance, state.flow_low
        self.flow_high, self.flow_gap, self.flow_next = state.flow_high, state.flow_gap, state.flow_next
        self.flow_left, self.flow_channel, self.trace = state.flow_left, state.flow_channel, state.trace
        self.traced, self.granted, self.credit = state.traced, state.granted, state.credit
        self.zero_since, self.fly_time, self.fly_frame = state.zero_since, state.fly_time, state.fly_frame
        self.fly_head, self.fly_count, self.ret_time = state.fly_head, state.fly_count, state.ret_time
        self.ret_channel, self.ret_head, self.ret_count = state.ret_channel, state.ret_head, state.ret_count
        self.tx_at, self.src_at, self.sink_at = state.tx_at, state.src_at, state.sink_at
        self.hold_at, self.loss_at, self.stalled_since = state.hold_at, state.loss_at, state.stalled_since
        self.current_in, self.current_channel = state.current_in, state.current_channel
        self.current_epoch, self.epoch = state.current_epoch, state.epoch
        self.turn_channel, self.turn_flow, self.waiting = state.turn_channel, state.turn_flow, state.waiting
        self.outstanding, self.window_frames = state.outstanding, state.window_frames
        self.window_lost, self.window_rdys = state.window_lost, state.window_rdys
        self.window_rdys_lost, self.sink_head = state.window_rdys_lost, state.sink_head
        self.sink_tail, self.queue_head, self.queue_tail = state.sink_tail, state.queue_head, state.queue_tail
        self.queue_active, self.active, self.active_head = state.queue_active, state.active, state.active_head
        self.active_count, self.frame_next = state.active_count, state.frame_next
        self.frame_to, self.frame_from, self.frame_size = state.frame_to, state.frame_from, state.frame_size
        self.frame_channel, self.frame_born = state.frame_channel, state.frame_born
        self.frame_queued, self.frame_in = state.frame_queued, state.frame_in
        self.frame_flow, self.frame_number = state.frame_flow, state.frame_number
        self.counters, self.flow_counters, self.key = state.counters, state.flow_counters, state.key
        self.tree = state.tree
        self.trace_at = 0
        self.now = 0
        self.events = 0
        self.number = 0
        for link in range(self.links):
            if self.from_host[link] >= 0:
                self._start(link)
                self._settle(link)

    def run(self, until: int, most: int) -> int:
        """Let time go on to ``until``, or for ``most`` events, or until the trace is nearly full; events handled."""
        done = 0
        room = len(self.trace) - TRACE_WIDTH * 4 * self.links
        while done < most:
            if self.trace_at > room and len(self.trace):
                break
            link = self.tree[1]
            time = self.key[link]
            if time > until:
                if time < NEVER:  # otherwise nothing will ever happen again: time stops with the last event
                    self.now = until
                break
            self.now = time
            done += 1
            if self.ret_count[link] and self.ret_time[self.ring_base[link] + self.ret_head[link]] == time:
                self._credit_came(link)
            elif self.sink_at[link] == time:
                self._drained(link)
            elif self.fly_count[link] and self.fly_time[self.ring_base[link] + self.fly_head[link]] == time:
                self._arrived(link)
            elif self.tx_at[link] == time:
                self._sent(link)
            elif self.hold_at[link] == time:
                self._expire(link)
            elif self.loss_at[link] == time:
                self._reset(link)
            else:
                self.src_at[link] = NEVER
                if self.tx_at[link] == NEVER:
                    self._start(link)
            self._settle(link)
        self.events += done
        return done

    # -- the winners' tree --------------------------------------------------------------------------------------

    def _settle(self, link: int) -> int:
        """Find a link's next event anew, after the one that was its next."""
        least = self.tx_at[link]
        least = min(least, self.src_at[link], self.sink_at[link], self.hold_at[link], self.loss_at[link])
        base = self.ring_base[link]
        if self.ret_count[link]:
            least = min(least, self.ret_time[base + self.ret_head[link]])
        if self.fly_count[link]:
            least = min(least, self.fly_time[base + self.fly_head[link]])
        if self.key[link] == least:
            return 0
        return self._lead(link, least)

    def _lead(self, link: int, time: int) -> int:
        """A link's next event is at ``time``: the tree's winners above it change."""
        self.key[link] = time
        node = (self.leaves + link) >> 1
        while node:
            left = self.tree[2 * node]
            right = self.tree[2 * node + 1]
            winner = left if self.key[left] <= self.key[right] else right
            if winner == self.tree[node] and winner != link:
                break
            self.tree[node] = winner
            node >>= 1
        return 0

    # -- what happens at a link ---------------------------------------------------------------------------------

    def _credit_came(self, link: int) -> int:
        head = self.ret_head[link]
        channel = self.ret_channel[self.ring_base[link] + head]
        self.ret_head[link] = head + 1 if head + 1 < self.ring_size[link] else 0
        self.ret_count[link] -= 1
        both = link * self.channels + channel
        if self.credit[both] >= self.granted[both]:
            return 0
        if not self.credit[both]:
            self.counters[link * COUNTERS + ZERO_TICKS] += self.now - self.zero_since[both]
            self.loss_at[link] = NEVER
        self.credit[both] += 1
        self.outstanding[link] -= 1
        if self.traced[link]:
            self._note(link, 1, -1)
        if self.tx_at[link] == NEVER:
            self._start(link)
        return 0

    def _sent(self, link: int) -> int:
        """The last byte of a frame has left: its buffer is free, the next one may go."""
        self.tx_at[link] = NEVER
        came = self.current_in[link]
        if came >= 0 and self.current_epoch[link] == self.epoch[came]:
            self._give_back(came, self.current_channel[link])
        self.current_in[link] = -1
        self._start(link)
        return 0

    def _start(self, link: int) -> int:
        """Send the next frame, if there is one and a credit for it; 1 when one left."""
        frame = self._from_host(link) if self.from_host[link] >= 0 else self._from_queues(link)
        if frame < 0:
            return 0
        self._moved(link)
        channel = self.frame_channel[frame]
        both = link * self.channels + channel
        counters = link * COUNTERS
        self.credit[both] -= 1
        self.outstanding[link] += 1
        self.counters[counters + PEAK] = max(self.counters[counters + PEAK], self.outstanding[link])
        if not self.credit[both]:
            self.counters[counters + ZERO_TRANSITIONS] += 1
            self.zero_since[both] = self.now
            if self.patience[link]:
                self.loss_at[link] = self.now + self.patience[link]
                if self.loss_at[link] < self.key[link]:
                    self._lead(link, self.loss_at[link])
        end = self.now + (self.frame_size[frame] + self.overhead) * self.byte_ticks[link]
        self.tx_at[link] = end
        if end < self.key[link]:
            self._lead(link, end)
        self.counters[counters + TX_FRAMES] += 1
        self.counters[counters + TX_BYTES] += self.frame_size[frame]
        if self.traced[link]:
            self._note(link, 0, frame)
        arrival = end + self.propagation[link] + self.latency[link]
        lost = self.lose_frame[link] > 0 and self._chance() < self.lose_frame[link]
        if lost:
            self.counters[counters + LOST_FRAMES] += 1
            self._release(frame)
        else:
            self._fly(link, arrival, frame)
        if self.window[link]:
            self.window_frames[link] += 1
            self.window_lost[link] += lost
            if self.window_frames[link] == self.window[link]:
                back = self.window_lost[link] % self.window[link]
                self.window_frames[link] = 0
                self.window_lost[link] = 0
                if back:
                    self._fly(link, arrival, -1 - back)
        return 1

    def _moved(self, link: int) -> int:
        """No frame waits for credit any more: book the wait."""
        if self.stalled_since[link] >= 0:
            self.counters[link * COUNTERS + WAIT_TICKS] += self.now - self.stalled_since[link]
            self.stalled_since[link] = -1
        return 0

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
            self.src_at[link] = NEVER
            return self._made(link, flow, channel)
        self.src_at[link] = due
        if stalled and self.stalled_since[link] < 0:
            self.stalled_since[link] = self.now
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
        self.current_in[link] = -1
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
        if self.waiting[link] and self.stalled_since[link] < 0:
            self.stalled_since[link] = self.now
        if self.waiting[link] and self.hold[link] and self.hold_at[link] == NEVER:
            self.hold_at[link] = self._oldest(link) + self.hold[link]
            if self.hold_at[link] < self.key[link]:
                self._lead(link, self.hold_at[link])
        return -1

    def _activate(self, link: int, both: int, queue: int) -> int:
        size = self.active_size[link]
        place = self.active_head[both] + self.active_count[both]
        if place >= size:
            place -= size
        self.active[self.active_base[both] + place] = queue
        self.active_count[both] += 1
        self.queue_active[queue] = 1
        return 0

    def _place(self, link: int, head: int, count: int) -> int:
        """Where the next entry of one of the link's two rings goes."""
        place = self.ring_base[link] + head + count
        return place if place < self.ring_base[link + 1] else place - self.ring_size[link]

    def _fly(self, link: int, arrival: int, frame: int) -> int:
        place = self._place(link, self.fly_head[link], self.fly_count[link])
        self.fly_time[place] = arrival
        self.fly_frame[place] = frame
        self.fly_count[link] += 1  # later than `tx_at`, so it is not the link's next event yet
        return 0

    def _landed(self, link: int) -> int:
        head = self.fly_head[link]
        self.fly_head[link] = head + 1 if head + 1 < self.ring_size[link] else 0
        self.fly_count[link] -= 1
        return self.fly_frame[self.ring_base[link] + head]

    def _arrived(self, link: int) -> int:
        frame = self._landed(link)
        if frame < 0:  # BB_SCs: as many frames were lost since the last one
            for _ in range(-1 - frame):
                self.counters[link * COUNTERS + RECOVERED] += 1
                self._give_back(link, 0)
            return 0
        self.counters[link * COUNTERS + RX_FRAMES] += 1
        self.frame_in[frame] = link
        self.frame_next[frame] = -1
        if self.to_host[link] >= 0:
            if self.sink_head[link] < 0:
                self.sink_head[link] = frame
                self.sink_at[link] = self._drain_end(link, frame)
            else:
                self.frame_next[self.sink_tail[link]] = frame
            self.sink_tail[link] = frame
            return 0
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
        if self.tx_at[out] == NEVER:
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

    def _drain_end(self, link: int, frame: int) -> int:
        return self.now + self.drain_frame[link] + self.frame_size[frame] * self.drain_byte[link]

    def _drained(self, link: int) -> int:
        """A host has dealt with a frame."""
        frame = self.sink_head[link]
        channel = self.frame_channel[frame]
        flow = self.frame_flow[frame] * FLOW_COUNTERS
        latency = self.now - self.frame_born[frame]
        self.flow_counters[flow + DELIVERED] += 1
        self.flow_counters[flow + BYTES] += self.frame_size[frame]
        self.flow_counters[flow + LATENCY] += latency
        self.flow_counters[flow + WORST] = max(self.flow_counters[flow + WORST], latency)
        following = self.frame_next[frame]
        self.sink_head[link] = following
        self.sink_at[link] = NEVER if following < 0 else self._drain_end(link, following)
        self._release(frame)
        self._give_back(link, channel)
        return 0

    def _give_back(self, link: int, channel: int) -> int:
        """A receive buffer of a link is free: its R_RDY goes back, unless it gets lost."""
        lost = self.lose_r_rdy[link] > 0 and self._chance() < self.lose_r_rdy[link]
        if lost:
            self.counters[link * COUNTERS + LOST_R_RDYS] += 1
        else:
            self._return(link, channel)
        if self.window[link]:
            self.window_rdys[link] += 1
            self.window_rdys_lost[link] += lost
            if self.window_rdys[link] == self.window[link]:
                back = self.window_rdys_lost[link] % self.window[link]
                self.window_rdys[link] = 0
                self.window_rdys_lost[link] = 0
                for _ in range(back):
                    self.counters[link * COUNTERS + RECOVERED] += 1
                    self._return(link, channel)
        return 0

    def _return(self, link: int, channel: int) -> int:
        place = self._place(link, self.ret_head[link], self.ret_count[link])
        self.ret_time[place] = self.now + self.r_rdy_ticks[link] + self.propagation[link]
        self.ret_channel[place] = channel
        self.ret_count[link] += 1
        if self.ret_count[link] == 1 and self.ret_time[place] < self.key[link]:
            self._lead(link, self.ret_time[place])
        return 0

    def _release(self, frame: int) -> int:
        self.frame_next[frame] = self.free_slot
        self.free_slot = frame
        return 0

    # -- what takes long ----------------------------------------------------------------------------------------

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
            self._give_back(came, channel)
            frame = self.queue_head[queue]
        return 0

    def _reset(self, link: int) -> int:
        """No credit came back for too long: a link reset. What is under way or in the other side's buffers is lost."""
        counters = link * COUNTERS
        self.loss_at[link] = NEVER
        self.counters[counters + LINK_RESETS] += 1
        while self.fly_count[link]:
            frame = self._landed(link)
            if frame >= 0:
                self.frame_next[frame] = -1
                self._drop_chain(link, frame)
        if self.to_host[link] >= 0:
            self._drop_chain(link, self.sink_head[link])
            self.sink_head[link] = -1
            self.sink_at[link] = NEVER
        else:
            self._empty_queues(link)
        self.epoch[link] += 1
        self.ret_count[link] = 0
        self.ret_head[link] = 0
        self.window_frames[link] = 0
        self.window_lost[link] = 0
        self.window_rdys[link] = 0
        self.window_rdys_lost[link] = 0
        self.outstanding[link] = 0
        for channel in range(self.channels):
            both = link * self.channels + channel
            if not self.credit[both] and self.granted[both]:
                self.counters[counters + ZERO_TICKS] += self.now - self.zero_since[both]
            self.credit[both] = self.granted[both]
        # LR one way and LRR back, before frames go again.
        self.tx_at[link] = self.now + 2 * (self.propagation[link] + self.r_rdy_ticks[link])
        self.current_in[link] = -1
        return 0

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

    def _chance(self) -> int:
        """The next number of Lehmer's generator, 1 to 2^31 - 2: the same compiled and plain."""
        self.random = self.random * 48271 % RANDOM_LIMIT
        return self.random

    def _note(self, link: int, kind: int, frame: int) -> int:
        at = self.trace_at
        if at + TRACE_WIDTH > len(self.trace):
            return 0
        self.trace[at] = self.now
        self.trace[at + 1] = link
        self.trace[at + 2] = kind
        self.trace[at + 3] = -1 if frame < 0 else self.frame_from[frame]
        self.trace[at + 4] = -1 if frame < 0 else self.frame_to[frame]
        self.trace[at + 5] = 0 if frame < 0 else self.frame_size[frame]
        self.trace[at + 6] = 0 if frame < 0 else self.frame_channel[frame]
        self.trace[at + 7] = 0 if frame < 0 else self.frame_number[frame]
        self.trace_at = at + TRACE_WIDTH
        return 0
