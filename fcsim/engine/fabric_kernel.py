# cython: boundscheck=False, wraparound=False, cdivision=True, initializedcheck=False, annotation_typing=False
# cython: infer_types=True, language_level=3
"""The event engine of a fabric: links with credits, switches with virtual output queues, hosts that send and drain.

Times are ticks of :mod:`fcsim.clock`. There is no event queue: what is on its way along a link, frames one way and
R_RDYs the other, is in the order of its arrival already, so each link has two rings and a few alarms, and a winners'
tree over the links finds the next event. Ties go to the link with the lower number, so runs are repeatable, and the
compiled engine and its plain twin agree to the tick.

Hosts work ahead: no R_RDY that is not known yet can arrive earlier than an R_RDY that left now, so until then
all that a host sends is determined, and it takes no event. Random numbers are drawn by link, so that this is
no matter of order.

Array bounds are not checked here (docs/adr/0007): only :func:`~fcsim.engine.fabric_state.lay_out` makes the arrays,
and the plain twin, which checks, runs the same inputs in the tests.

A frame is stored and forwarded: it may leave a switch when it is there as a whole (and ``latency`` later), and its
receive buffer is free when its last byte has left.
"""

from __future__ import annotations

from fcsim.engine import fabric_state
from fcsim.engine.fabric_memory_kernel import Memory
from fcsim.engine.fabric_state import State

COMPILED = not __file__.endswith(".py")

# Typed copies: a module's own constants would be looked up by name in compiled code.
NEVER, COUNTERS, TX_FRAMES = fabric_state.NEVER, fabric_state.COUNTERS, fabric_state.TX_FRAMES
TX_BYTES, RX_FRAMES = fabric_state.TX_BYTES, fabric_state.RX_FRAMES
ZERO_TRANSITIONS = fabric_state.ZERO_TRANSITIONS
ZERO_TICKS, WAIT_TICKS, DISCARDS = fabric_state.ZERO_TICKS, fabric_state.WAIT_TICKS, fabric_state.DISCARDS
PEAK, LINK_RESETS, LOST_FRAMES = fabric_state.PEAK, fabric_state.LINK_RESETS, fabric_state.LOST_FRAMES
LOST_R_RDYS, RECOVERED, MISSING = fabric_state.LOST_R_RDYS, fabric_state.RECOVERED, fabric_state.MISSING
FLOW_COUNTERS, SENT, DELIVERED = fabric_state.FLOW_COUNTERS, fabric_state.SENT, fabric_state.DELIVERED
BYTES, LATENCY, WORST = fabric_state.BYTES, fabric_state.LATENCY, fabric_state.WORST
TRACE_WIDTH, SPOILT = fabric_state.TRACE_WIDTH, fabric_state.SPOILT


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

        When nothing is left to happen, time stops with the last event. Raises RuntimeError should more be under way
        than there are credits, which is a defect of this engine.
        """
        done = self._advance(min(until, NEVER - 1), most)
        self.collect()
        return done

    def _advance(self, until: int, most: int) -> int:
        done = 0
        room = len(self.trace) - TRACE_WIDTH * 4 * self.links if len(self.trace) else NEVER
        self.until = until
        while done < most and self.trace_at <= room and not self.overrun:
            link = self.tree_link[1]
            time = self.tree_key[1]
            if time > self.until:  # which may be nearer than `until`: a scripted host was delivered a frame
                ends = time >= NEVER and not len(self.deliveries)
                self.now = max(self.now, min(self.until, self._last_return())) if ends else self.until
                break
            self.now = time
            done += 1
            if self.fly_next[link] == time:
                self._arrived(link)
            elif self.try_at[link] == time:
                self._try(link)
            elif self.hold_at[link] == time:
                self._expire(link)
            elif self.loss_at[link] == time:
                self._reset(link)
            self._settle(link)
        self.events += done
        return done

    def collect(self) -> int:
        """Book every credit that has come back by now, so that counters and credits hold for this moment."""
        for link in range(self.links):
            self._collect(link)
        if self.overrun:
            raise RuntimeError("more frames or R_RDYs under way than there are credits")
        return self.now

    def _try(self, link: int) -> int:
        """The transmitter is free, or what it waited for has come: the buffer of what it sent is free as well."""
        self.try_at[link] = NEVER
        came = self.current_in[link]
        if came >= 0:
            self.current_in[link] = -1
            if self.current_epoch[link] == self.epoch[came]:
                self._give_back(came, self.current_channel[link], self.now, -1)
        self._start(link)
        if self.from_host[link] >= 0:
            self._send_ahead(link)
        return 0

    def _send_ahead(self, link: int) -> int:
        """What a host sends before any R_RDY that is not known yet can arrive."""
        now = self.now
        last = min(now + self.r_rdy_ticks[link] + self.propagation[link], self.until)
        if self.traced[link] or self.scripted[link]:
            last = now
        while self.try_at[link] <= last and self.try_at[link] < self.loss_at[link]:
            self.now = self.try_at[link]
            self.try_at[link] = NEVER
            self._start(link)
        self.now = now
        return 0

    def _start(self, link: int) -> int:
        """Send the next frame, if there is one and a credit for it. The caller settles the link."""
        self._collect(link)
        host = self.from_host[link] >= 0
        frame = self._from_host(link) if host else self._from_queues(link)
        if frame >= 0:
            self._send(link, frame, host)
        return 0

    def _send(self, link: int, frame: int, host: int) -> int:
        """A frame leaves, for which there is a credit; ``host``: whether a host sends it."""
        self._moved(link)
        channel = self.frame_channel[frame]
        both = link * self.channels + channel * self.vc_mode[link]
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
            if host and self._always_ready(link, flow):  # it will stand at the line's end without credit
                self.stalled_since[link] = end
                self.try_at[link] = max(end, self._next_return(link))
        return 0

    def _launch(self, link: int, frame: int, end: int) -> int:
        """A frame whose last byte leaves at ``end`` is on its way, or lost on it."""
        counters = link * COUNTERS
        arrival = end + self.propagation[link] + self.latency[link]
        to_host = self.to_host[link] >= 0
        lost: int = self.lose_frame[link] > 0 and self._chance(link) < self.lose_frame[link]
        if lost:
            self.counters[counters + LOST_FRAMES] += 1
            self._release(frame)
            if not self.corrupt_frame[link]:
                self.counters[counters + MISSING] += 1
            elif to_host:  # it arrives and is dropped, and its buffer is free: the credit comes back
                lost = 0
                self.drained_at[link] = max(arrival, self.drained_at[link])
                self._give_back(link, self.frame_channel[frame], self.drained_at[link], -1)
            else:
                lost = 0
                self._fly(link, arrival, -SPOILT - self.frame_channel[frame])
        elif to_host:
            # A host deals with frames one after the other: when its buffer will be free is known already.
            drained = max(arrival, self.drained_at[link]) + self.drain_frame[link]
            drained += self.frame_size[frame] * self.drain_byte[link]
            self.drained_at[link] = drained
            self.counters[counters + RX_FRAMES] += 1
            if self.scripted[link] and self.frame_flow[frame] == self.script_flow:
                self._note_delivery(frame, drained)
            self._give_back(link, self.frame_channel[frame], drained, frame)
        else:
            self._fly(link, arrival, frame)
        back = self._boundary(2 * link, self.window[link], lost) if self.window[link] else 0
        if back and to_host:
            self._recover_frames(link, back, max(arrival, self.drained_at[link]))
        elif back:
            self._fly(link, arrival, -1 - back)
        return 0

    def _recover_frames(self, link: int, lost: int, when: int) -> int:
        """BB_SCs told how many frames were lost: as many R_RDYs more."""
        for _ in range(lost):
            self.counters[link * COUNTERS + RECOVERED] += 1
            self.counters[link * COUNTERS + MISSING] -= 1
            self._give_back(link, 0, when, -1)
        return 0

    def _always_ready(self, link: int, flow: int) -> int:
        """Whether a host has nothing but this flow, which sends as fast as credit lets it."""
        alone = self.channels == 1 and self.flow_end[link] - self.flow_start[link] == 1
        return alone and self.flow_gap[flow] == 0 and self.flow_left[flow] != 0

    def _from_host(self, link: int) -> int:
        """A frame of a host's flows, which take turns; -1: none is due, or there is no credit."""
        if self.script_head[link] >= 0 and self._script_turn(link):
            return self._from_script(link, NEVER)
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
            if not self.credit[link * self.channels + channel * self.vc_mode[link]]:
                stalled = True
                continue
            self.turn_flow[link] = turn + 1 if turn + 1 < count else 0
            return self._made(link, flow, channel)
        if stalled:
            due = min(due, self._next_return(link))
            if self.stalled_since[link] < 0:
                self.stalled_since[link] = self.now
        if self.script_head[link] >= 0:
            return self._from_script(link, due)
        self.try_at[link] = due
        return -1

    def _made(self, link: int, flow: int, channel: int) -> int:
        """A new frame of a flow."""
        frame = self.free_slot
        if frame < 0:
            self.overrun = 1
            return -1
        self.free_slot = self.frame_next[frame]
        host = self.from_host[link]
        to = self.flow_to[flow]
        if to < 0:
            to = self.flow_hot[flow]
            if to < 0 or self._chance(link) >= self.flow_hot_chance[flow]:
                to = self._chance(link) * (self.hosts - 1) >> 31
                if to >= host:
                    to += 1
        size = self.flow_low[flow]
        if self.flow_high[flow] > size:
            size += self._chance(link) * (self.flow_high[flow] - size + 1) >> 31
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
            if not self.credit[link * self.channels + channel * self.vc_mode[link]]:
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
                self._passes(link, frame, channel)
                return frame
        self.try_at[link] = self._next_return(link)
        if (
            self.try_at[link] < self.tree_key[self.leaves + link]
        ):  # a frame's arrival brought us here, not our turn
            self._lead(link, self.try_at[link])
        if self.waiting[link] and self.stalled_since[link] < 0:
            self.stalled_since[link] = self.now
        if self.waiting[link] and self.hold[link] and self.hold_at[link] == NEVER:
            self.hold_at[link] = self._oldest(link) + self.hold[link]
        return -1

    def _passes(self, link: int, frame: int, channel: int) -> int:
        """A frame goes through the switch: its buffer is free when it has left."""
        self.turn_channel[link] = channel + 1 if channel + 1 < self.channels else 0
        came = self.frame_in[frame]
        self.current_in[link] = came
        self.current_channel[link] = channel
        self.current_epoch[link] = self.epoch[came]
        return 0

    def _arrived(self, link: int) -> int:
        frame = self._landed(link)
        if frame <= -SPOILT:
            return self._give_back(link, -SPOILT - frame, self.now, -1)
        if frame < 0:
            return self._recover_frames(link, -1 - frame, self.now)
        self.counters[link * COUNTERS + RX_FRAMES] += 1
        self.frame_in[frame] = link
        self.frame_next[frame] = -1
        out = self._route(link, frame)
        channel = self.frame_channel[frame]
        if out < 0:
            self.counters[link * COUNTERS + DISCARDS] += 1
            self._release(frame)
            return self._give_back(link, channel, self.now, -1)
        idle = self.free_at[out] <= self.now and self.current_in[out] < 0 and self.stalled_since[out] < 0
        if idle and not self.waiting[out]:
            self._collect(out)
            if self.credit[out * self.channels + channel * self.vc_mode[out]]:  # past the queues
                self._passes(out, frame, channel)
                self._send(out, frame, 0)
                return self._settle(out)
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
        if idle:
            self._start(out)
            self._settle(out)
        return 0

    def _route(self, link: int, frame: int) -> int:
        """The link out of the switch; of several equal ones always the same for a pair of hosts."""
        entry = self.to_switch[link] * self.hosts + self.frame_to[frame]
        only = self.route_only[entry]
        if only >= -1:
            return only
        return self._one_of_several(entry, frame)

    def _give_back(self, link: int, channel: int, when: int, frame: int) -> int:
        """A receive buffer of a link is free at ``when``: its R_RDY goes back, unless it gets lost."""
        lost = self.lose_r_rdy[link] > 0 and self._chance(link) < self.lose_r_rdy[link]
        if lost:
            self.counters[link * COUNTERS + LOST_R_RDYS] += 1
            self.counters[link * COUNTERS + MISSING] += 1
            if frame >= 0:
                self._delivered(frame, when)
        else:
            self._return(link, channel, when, frame)
        if not self.window[link]:
            return 0
        for _ in range(self._boundary(2 * link + 1, self.window[link], lost)):
            self.counters[link * COUNTERS + RECOVERED] += 1
            self.counters[link * COUNTERS + MISSING] -= 1
            self._return(link, channel, when, -1)
        return 0

    def _return(self, link: int, channel: int, when: int, frame: int) -> int:
        """An R_RDY is on its way; ``frame`` is what it answers, where the receiver is a host."""
        time = when + self.r_rdy_ticks[link] + self.propagation[link]
        place = self._place(link, self.ret_head[link], self.ret_count[link])
        self.ret_time[place] = time
        self.ret_channel[place] = channel
        self.ret_frame[place] = frame
        self.ret_count[link] += not self.overrun
        if self.stalled_since[link] >= 0:  # somebody waits for it
            time = max(time, self.free_at[link])
            if time < self.try_at[link]:
                self.try_at[link] = time
                if self.from_host[link] >= 0:
                    self._send_ahead(link)
                    self._settle(link)
                elif time < self.tree_key[self.leaves + link]:
                    self._lead(link, time)
        return 0

    def _settle(self, link: int) -> int:
        """Find a link's next event anew, after the one that was its next."""
        least = min(self.try_at[link], self.fly_next[link], self.hold_at[link], self.loss_at[link])
        if self.tree_key[self.leaves + link] == least:
            return 0
        return self._lead(link, least)

    def _lead(self, link: int, time: int) -> int:
        """A link's next event is at ``time``: the tree's winners above it change."""
        node = self.leaves + link
        winner = link
        self.tree_key[node] = time
        while node > 1:
            rival = self.tree_key[node ^ 1]
            other = self.tree_link[node ^ 1]
            # Left of its rival, a link wins a tie.
            won = -(time < rival + 1 - (node & 1))  # all bits or none: a branch would be mispredicted
            time = rival ^ ((time ^ rival) & won)
            winner = other ^ ((winner ^ other) & won)
            node >>= 1
            self.tree_key[node] = time
            self.tree_link[node] = winner
        return 0

    def _collect(self, link: int) -> int:
        """Take in the R_RDYs that have arrived. They are no events: nobody looks at a credit before it is needed."""
        while self.ret_count[link]:
            at = self.ring_base[link] + self.ret_head[link]
            time = self.ret_time[at]
            if time > self.now:
                break
            frame = self.ret_frame[at]
            both = link * self.channels + self.ret_channel[at] * self.vc_mode[link]
            self._forget_return(link)
            if frame >= 0:
                self._delivered(frame, time - self.r_rdy_ticks[link] - self.propagation[link])
            if self.credit[both] >= self.granted[both]:
                continue
            if not self.credit[both]:
                self.counters[link * COUNTERS + ZERO_TICKS] += time - self.zero_since[both]
                self.loss_at[link] = NEVER
            self.credit[both] += 1
            self.outstanding[link] -= 1
            if self.traced[link] and self.trace_at + TRACE_WIDTH <= len(self.trace):
                self._note(link, 1, -1, time)
                self.trace[self.trace_at - 2] = both - link * self.channels  # an R_RDY's virtual channel
        return 0

    def _forget_return(self, link: int) -> int:
        head = self.ret_head[link] + 1
        self.ret_head[link] = head if head < self.ring_size[link] else 0
        self.ret_count[link] -= 1
        return 0

    def _moved(self, link: int) -> int:
        """No frame waits for credit any more: book the wait."""
        if self.stalled_since[link] >= 0:
            self.counters[link * COUNTERS + WAIT_TICKS] += self.now - self.stalled_since[link]
            self.stalled_since[link] = -1
        return 0

    def _next_return(self, link: int) -> int:
        return self.ret_time[self.ring_base[link] + self.ret_head[link]] if self.ret_count[link] else NEVER

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
        if count >= self.ring_size[link]:
            self.overrun = 1
            return self.ring_base[link]
        place = self.ring_base[link] + head + count
        return place if place < self.ring_base[link + 1] else place - self.ring_size[link]

    def _fly(self, link: int, arrival: int, frame: int) -> int:
        place = self._place(link, self.fly_head[link], self.fly_count[link])
        self.fly_time[place] = arrival
        self.fly_frame[place] = frame
        if not self.fly_count[link]:
            self.fly_next[link] = arrival
        self.fly_count[link] += not self.overrun
        return 0

    def _landed(self, link: int) -> int:
        """Take out what arrives next: a frame, or -1 less the frames that BB_SCs told to be lost, or -SPOILT less the
        virtual channel of a frame with a bad CRC."""
        place = self.ring_base[link] + self.fly_head[link]
        head = self.fly_head[link] + 1
        if head == self.ring_size[link]:
            head = 0
        self.fly_head[link] = head
        self.fly_count[link] -= 1
        self.fly_next[link] = self.fly_time[self.ring_base[link] + head] if self.fly_count[link] else NEVER
        return self.fly_frame[place]

    def _delivered(self, frame: int, when: int) -> int:
        """A host has dealt with a frame."""
        flow = self.frame_flow[frame] * FLOW_COUNTERS
        latency = when - self.frame_born[frame]
        self.flow_counters[flow + DELIVERED] += 1
        self.flow_counters[flow + BYTES] += self.frame_size[frame]
        self.flow_counters[flow + LATENCY] += latency
        self.flow_counters[flow + WORST] = max(self.flow_counters[flow + WORST], latency)
        self.frame_next[frame] = self.free_slot
        self.free_slot = frame
        return 0

    def _chance(self, link: int) -> int:
        """The link's next number of Lehmer's generator, 1 to 2^31 - 2: the same compiled and plain."""
        drawn = self.random[link] * 48271 % 2147483647  # RANDOM_LIMIT, as a constant for the compiler
        self.random[link] = drawn
        return drawn

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
        if not self._starved(link):
            return 0
        self.counters[link * COUNTERS + LINK_RESETS] += 1
        # LR one way and LRR back, before frames go again.
        return self._initialise(link, self.now + 2 * (self.propagation[link] + self.r_rdy_ticks[link]))

    def offer(self, link: int, frame: int) -> int:
        """Send a frame of :meth:`Memory.script` over a host's ``link``, now or when those before it have gone."""
        self._queue_script(link, frame)
        if self.free_at[link] <= self.now:
            self._start(link)
        return self._settle(link)

    def restart(self, link: int, up_at: int) -> int:
        """The link goes down now, and is up at ``up_at`` with the credits that were granted. Raises IndexError."""
        if not 0 <= link < self.links:
            raise IndexError(link)
        self._collect(link)
        self._initialise(link, max(up_at, self.now))
        self.loss_at[link] = NEVER
        return self._settle(link)

    def _initialise(self, link: int, up_at: int) -> int:
        """What is on the link or in the other side's buffers is lost; nothing is outstanding."""
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
                self._forget_delivery(frame)
                self.frame_next[frame] = -1
                self._drop_chain(link, frame)
            self._forget_return(link)
        self.drained_at[link] = min(self.drained_at[link], self.now)
        if self.to_host[link] < 0:
            self._empty_queues(link)
        return self._renew(link, up_at)
