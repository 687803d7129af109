# distutils: extra_compile_args = -finline-limit=2000 --param=inline-unit-growth=300 --param=large-function-growth=2000
# cython: boundscheck=False, wraparound=False, cdivision=True, initializedcheck=False, annotation_typing=False
# cython: infer_types=True, language_level=3
"""What every frame and every R_RDY of a fabric takes part in: hosts send and drain, switches queue and pass on.

In one class, whose steps are all inlined; what is seldom is above, in :mod:`fcsim.engine.fabric_kernel`, and below,
in :mod:`fcsim.engine.fabric_memory_kernel`. Array bounds are not checked here (docs/adr/0007).
"""

from __future__ import annotations

from fcsim.engine import fabric_fields as F  # noqa: N812 - as the .pxd has it
from fcsim.engine import fabric_state
from fcsim.engine.fabric_memory_kernel import Memory

COMPILED = not __file__.endswith(".py")

# Typed copies: a module's own constants would be looked up by name in compiled code.
NEVER, SPOILT = fabric_state.NEVER, fabric_state.SPOILT


class Traffic(Memory):
    """The steps of an engine on a sound link."""

    def _advance(self, until: int, most: int) -> int:
        done = 0
        room = len(self.trace) - F.TRACE_WIDTH * 4 * self.links if len(self.trace) else NEVER
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
            if self.port[link * F.PORT + F.FLY_NEXT] == time:
                self._arrived(link)
            elif self.port[link * F.PORT + F.TRY_AT] == time:
                self._try(link)
            elif self.port[link * F.PORT + F.HOLD_AT] == time:
                self._expire(link)
            elif self.port[link * F.PORT + F.LOSS_AT] == time:
                self._reset(link)
            self._settle(link)
        self.events += done
        return done

    def _try(self, link: int) -> int:
        """The transmitter is free, or what it waited for has come: the buffer of what it sent is free as well."""
        port = link * F.PORT
        self.port[port + F.TRY_AT] = NEVER
        came = self.port[port + F.CURRENT_IN]
        if came >= 0:
            self.port[port + F.CURRENT_IN] = -1
            known = self.port[came * F.PORT + F.FORETOLD]  # or else lost with its link since:
            if not known and self.port[port + F.CURRENT_EPOCH] == self.port[came * F.PORT + F.EPOCH]:
                self._give_back(came, self.port[port + F.CURRENT_CHANNEL], self.now, -1)
        self._start(link)
        if self.port[port + F.FROM_HOST] >= 0:
            self._send_ahead(link)
        return 0

    def _send_ahead(self, link: int) -> int:
        """What a host sends before any R_RDY that is not known yet can arrive."""
        port = link * F.PORT
        now = self.now
        last = min(now + self.port[port + F.R_RDY_TICKS] + self.port[port + F.PROPAGATION], self.until)
        if self.port[port + F.TRACED] or self.port[port + F.SCRIPTED]:
            last = now
        while self.port[port + F.TRY_AT] <= last and self.port[port + F.TRY_AT] < self.port[port + F.LOSS_AT]:
            self.now = self.port[port + F.TRY_AT]
            self.port[port + F.TRY_AT] = NEVER
            self._start(link)
        self.now = now
        return 0

    def _start(self, link: int) -> int:
        """Send the next frame, if there is one and a credit for it. The caller settles the link."""
        self._collect(link)
        if self.port[link * F.PORT + F.FROM_HOST] >= 0:
            frame = self._from_host(link)
            if frame >= 0:
                self._send(link, frame)
        else:
            frame = self._from_queues(link)
            if frame >= 0:
                self._pass_on(link, frame)
        return 0

    def _send(self, link: int, frame: int) -> int:
        """A host's frame leaves, for which there is a credit."""
        port = link * F.PORT
        flow = self.frame[frame * F.FRAME + F.FRAME_FLOW]
        end = self._leave(link, frame)
        self.port[port + F.TRY_AT] = end
        self._launch(link, frame, end)
        lane = self._lane(link, self.frame[frame * F.FRAME + F.FRAME_CHANNEL])
        if not self.lane[lane + F.CREDIT] and self._always_ready(link, flow):
            self.port[port + F.STALLED_SINCE] = end  # it will stand at the line's end without credit
            self.port[port + F.TRY_AT] = max(end, self._next_return(link))
        return 0

    def _pass_on(self, link: int, frame: int) -> int:
        """A frame goes out of the switch, for which there is a credit: its buffer is free when it has left."""
        port = link * F.PORT
        channel = self.frame[frame * F.FRAME + F.FRAME_CHANNEL]
        came = self.frame[frame * F.FRAME + F.FRAME_IN]
        self.port[port + F.TURN_CHANNEL] = channel + 1 if channel + 1 < self.channels else 0
        end = self._leave(link, frame)
        self.port[port + F.CURRENT_IN] = came
        self.port[port + F.CURRENT_CHANNEL] = channel
        self.port[port + F.CURRENT_EPOCH] = self.port[came * F.PORT + F.EPOCH]
        self._launch(link, frame, end)
        if not self.port[came * F.PORT + F.FORETOLD]:
            self.port[port + F.TRY_AT] = end
            return 0
        self._return(came, channel, end, -1)
        self.port[port + F.TRY_AT] = NEVER
        return self._turn(link) if self.port[port + F.WAITING] else 0

    def _turn(self, link: int) -> int:
        """When a switch's transmitter, which is busy, and for which a frame waits, can send next."""
        port = link * F.PORT
        end = self.port[port + F.FREE_AT]
        back = self._next_return(link)
        self.port[port + F.TRY_AT] = end
        if not self.port[port + F.ONE_CREDIT] or self.lane[link * F.LANE + F.CREDIT]:
            return 0
        if back <= end or self.port[port + F.HOLD_AT] < end:
            return 0
        if self.port[port + F.HOLD] and self.port[port + F.HOLD_AT] == NEVER:
            oldest = self._oldest(link) + self.port[port + F.HOLD]
            if oldest < end:
                return 0
            self.port[port + F.HOLD_AT] = oldest
        self.port[port + F.STALLED_SINCE] = end  # there will be no credit: no need to look
        self.port[port + F.TRY_AT] = back
        return 0

    def _leave(self, link: int, frame: int) -> int:
        """Book a frame that leaves now, for which there is a credit; when its last byte leaves."""
        port = link * F.PORT
        self._moved(link)
        lane = self._lane(link, self.frame[frame * F.FRAME + F.FRAME_CHANNEL])
        counters = link * F.COUNTERS
        size = self.frame[frame * F.FRAME + F.FRAME_SIZE]
        left = self.lane[lane + F.CREDIT] - 1
        self.lane[lane + F.CREDIT] = left
        held = self.port[port + F.OUTSTANDING] + 1
        self.port[port + F.OUTSTANDING] = held
        self.counters[counters + F.PEAK] = max(self.counters[counters + F.PEAK], held)
        end = self.now + (size + self.overhead) * self.port[port + F.BYTE_TICKS]
        self.port[port + F.FREE_AT] = end
        self.counters[counters + F.TX_FRAMES] += 1
        self.counters[counters + F.TX_BYTES] += size
        if self.port[port + F.TRACED]:
            self._note(link, 0, frame, self.now)
        if not left:
            self.counters[counters + F.ZERO_TRANSITIONS] += 1
            self.lane[lane + F.ZERO_SINCE] = self.now
            if self.port[port + F.PATIENCE]:  # another channel may be without credit for longer
                patience_ends = self.now + self.port[port + F.PATIENCE]
                self.port[port + F.LOSS_AT] = min(self.port[port + F.LOSS_AT], patience_ends)
        return end

    def _launch(self, link: int, frame: int, end: int) -> int:
        """A frame whose last byte leaves at ``end`` is on its way."""
        port = link * F.PORT
        arrival = end + self.port[port + F.PROPAGATION] + self.port[port + F.SWITCHING]
        if not self.port[port + F.SOUND]:
            return self._risk(link, frame, arrival)
        if self.port[port + F.TO_HOST] < 0:
            return self._fly(link, arrival, frame)
        drained = self._drain(link, frame, arrival)
        return self._return(link, self.frame[frame * F.FRAME + F.FRAME_CHANNEL], drained, frame)

    def _drain(self, link: int, frame: int, arrival: int) -> int:
        """When a host will have dealt with a frame: one after the other, so that this is known already."""
        port = link * F.PORT
        drained = max(arrival, self.port[port + F.DRAINED_AT]) + self.port[port + F.DRAIN_FRAME]
        drained += self.frame[frame * F.FRAME + F.FRAME_SIZE] * self.port[port + F.DRAIN_BYTE]
        self.port[port + F.DRAINED_AT] = drained
        self.counters[link * F.COUNTERS + F.RX_FRAMES] += 1
        return drained

    def _made(self, link: int, flow: int, channel: int) -> int:
        """A new frame of a flow."""
        port = link * F.PORT
        frame = self.free_slot
        if frame < 0:
            self.overrun = 1
            return -1
        self.free_slot = self.frame[frame * F.FRAME + F.FRAME_NEXT]
        host = self.port[port + F.FROM_HOST]
        if self.port[port + F.DRAWN_BYTES] < 0:
            self._draw(link, flow)
        size = self.port[port + F.DRAWN_BYTES]
        to = self.port[port + F.DRAWN_TO]
        self.port[port + F.DRAWN_BYTES] = -1
        self.frame[frame * F.FRAME + F.FRAME_TO] = to
        self.frame[frame * F.FRAME + F.FRAME_FROM] = host
        self.frame[frame * F.FRAME + F.FRAME_SIZE] = size
        self.frame[frame * F.FRAME + F.FRAME_CHANNEL] = channel
        self.frame[frame * F.FRAME + F.FRAME_FLOW] = flow
        self.frame[frame * F.FRAME + F.FRAME_IN] = -1
        self.frame[frame * F.FRAME + F.FRAME_NUMBER] = self.number
        self.number += 1
        gap = self.flow[flow * F.FLOW + F.FLOW_GAP]
        self.frame[frame * F.FRAME + F.FRAME_BORN] = (
            self.flow[flow * F.FLOW + F.FLOW_NEXT] if gap else self.now
        )
        self.flow[flow * F.FLOW + F.FLOW_NEXT] += gap
        if self.flow[flow * F.FLOW + F.FLOW_LEFT] > 0:
            self.flow[flow * F.FLOW + F.FLOW_LEFT] -= 1
        self.flow_counters[flow * F.FLOW_COUNTERS + F.SENT] += 1
        return frame

    def _draw(self, link: int, flow: int) -> int:
        """Where a flow's next frame goes, and its size."""
        port = link * F.PORT
        self.port[port + F.DRAWN_FROM] = self.port[port + F.RANDOM]
        to = self.flow[flow * F.FLOW + F.FLOW_TO]
        if to < 0:
            to = self.flow[flow * F.FLOW + F.FLOW_HOT]
            if to < 0 or self._chance(link) >= self.flow[flow * F.FLOW + F.FLOW_HOT_CHANCE]:
                to = self._chance(link) * (self.hosts - 1) >> 31
                if to >= self.port[port + F.FROM_HOST]:
                    to += 1
        size = self.flow[flow * F.FLOW + F.FLOW_LOW]
        if self.flow[flow * F.FLOW + F.FLOW_HIGH] > size:
            size += self._chance(link) * (self.flow[flow * F.FLOW + F.FLOW_HIGH] - size + 1) >> 31
        self.port[port + F.DRAWN_TO] = to
        self.port[port + F.DRAWN_BYTES] = size
        return 0

    def _from_queues(self, link: int) -> int:
        """A frame out of a switch's virtual output queues, which take turns; -1: none, or no credit for any."""
        port = link * F.PORT
        if not self.port[port + F.WAITING]:
            return -1
        for step in range(self.channels):
            channel = self.port[port + F.TURN_CHANNEL] + step
            if channel >= self.channels:
                channel -= self.channels
            both = link * self.channels + channel
            if not self.lane[self._lane(link, channel) + F.CREDIT]:
                continue
            while self.lane[both * F.LANE + F.ACTIVE_COUNT]:
                base = self.active_base[both]
                size = self.port[port + F.ACTIVE_SIZE]
                head = self.lane[both * F.LANE + F.ACTIVE_HEAD]
                queue = self.active[base + head]
                head += 1
                self.lane[both * F.LANE + F.ACTIVE_HEAD] = 0 if head == size else head
                self.lane[both * F.LANE + F.ACTIVE_COUNT] -= 1
                frame = self.queue[queue * F.QUEUE + F.QUEUE_HEAD]
                if frame < 0:  # a link reset emptied it
                    self.queue[queue * F.QUEUE + F.QUEUE_ACTIVE] = 0
                    continue
                self.queue[queue * F.QUEUE + F.QUEUE_HEAD] = self.frame[frame * F.FRAME + F.FRAME_NEXT]
                if self.queue[queue * F.QUEUE + F.QUEUE_HEAD] >= 0:
                    self._activate(link, both, queue)
                else:
                    self.queue[queue * F.QUEUE + F.QUEUE_ACTIVE] = 0
                self.port[port + F.WAITING] -= 1
                return frame
        self.port[port + F.TRY_AT] = self._next_return(link)
        # Where a frame's arrival brought us here, it is not our turn in the tree.
        if self.port[port + F.TRY_AT] < self.tree_key[self.leaves + link]:
            self._lead(link, self.port[port + F.TRY_AT])
        if self.port[port + F.WAITING] and self.port[port + F.STALLED_SINCE] < 0:
            self.port[port + F.STALLED_SINCE] = self.now
        if self.port[port + F.WAITING] and self.port[port + F.HOLD] and self.port[port + F.HOLD_AT] == NEVER:
            self.port[port + F.HOLD_AT] = max(self.now, self._oldest(link) + self.port[port + F.HOLD])
        return -1

    def _arrived(self, link: int) -> int:
        """What comes first on a link is at the switch; a host that works ahead sends its next frame no sooner."""
        port = link * F.PORT
        if not self.port[port + F.JOINED]:
            return self._received(link, self._landed(link))
        if self.port[port + F.FLY_COUNT]:
            frame = self._landed(link)
        else:
            frame = self._send_joined(link)
        self.port[port + F.SEND_AT] = -1  # for R_RDYs of this very frame: the next frame is planned once
        self._received(link, frame)
        return self._plan(link)

    def _send_joined(self, link: int) -> int:
        """What a host has sent at ``send_at``, now that it is at the switch or somebody looks; the frame."""
        port = link * F.PORT
        now = self.now
        self.now = self.port[port + F.SEND_AT]
        if not self.lane[link * F.LANE + F.CREDIT] and self._next_return(link) == self.now:
            self._take_in(link)  # a second one at the same tick comes after the frame
        else:
            self._collect(link)
        flow = self.port[port + F.FLOW_START]
        frame = self._made(link, flow, self.flow[flow * F.FLOW + F.FLOW_CHANNEL])
        if frame >= 0:
            end = self._leave(link, frame)
            if not self.lane[link * F.LANE + F.CREDIT] and self.flow[flow * F.FLOW + F.FLOW_LEFT]:
                self.port[port + F.STALLED_SINCE] = end
        self.now = now
        return frame

    def _plan(self, link: int) -> int:
        """When a host that works ahead sends next, as far as is known, and what arrives next then."""
        port = link * F.PORT
        flow = self.port[port + F.FLOW_START]
        send = self.port[port + F.FREE_AT]
        if not self.lane[link * F.LANE + F.CREDIT]:
            send = max(send, self._next_return(link))
        arrival = NEVER
        if not self.flow[flow * F.FLOW + F.FLOW_LEFT]:
            send = -1
        elif send < NEVER and send <= self.port[port + F.LOSS_AT]:
            self.port[port + F.LOSS_AT] = NEVER
            if self.port[port + F.DRAWN_BYTES] < 0:
                self._draw(link, flow)
            size = self.port[port + F.DRAWN_BYTES] + self.overhead
            arrival = send + size * self.port[port + F.BYTE_TICKS]
            arrival += self.port[port + F.PROPAGATION] + self.port[port + F.SWITCHING]
        else:
            send = NEVER
        self.port[port + F.SEND_AT] = send
        self.port[port + F.FLY_NEXT] = self._next_flown(link) if self.port[port + F.FLY_COUNT] else arrival
        return arrival

    def _received(self, link: int, frame: int) -> int:
        """A frame, or what else :meth:`_landed` tells, is at a switch."""
        if frame <= -SPOILT:
            return self._give_back(link, -SPOILT - frame, self.now, -1)
        if frame < 0:
            return self._recover_frames(link, -1 - frame, self.now)
        self.counters[link * F.COUNTERS + F.RX_FRAMES] += 1
        self.frame[frame * F.FRAME + F.FRAME_IN] = link
        self.frame[frame * F.FRAME + F.FRAME_NEXT] = -1
        out = self._route(link, frame)
        channel = self.frame[frame * F.FRAME + F.FRAME_CHANNEL]
        if out < 0:
            self.counters[link * F.COUNTERS + F.DISCARDS] += 1
            self._release(frame)
            return self._give_back(link, channel, self.now, -1)
        free = self.port[out * F.PORT + F.FREE_AT]
        # At the same tick a link with a lower number comes first: the transmitter's turn may be yet to come.
        turn = self.port[out * F.PORT + F.CURRENT_IN] < 0 or out < link
        idle = free < self.now or (free == self.now and turn)
        idle = idle and self.port[out * F.PORT + F.STALLED_SINCE] < 0
        if idle and not self.port[out * F.PORT + F.WAITING]:
            self._collect(out)
            if self.lane[self._lane(out, channel) + F.CREDIT]:  # past the queues
                self._pass_on(out, frame)
                return self._settle(out)
        self._enqueue(link, out, frame)
        if idle:
            self._start(out)
            return self._settle(out)
        if self.port[out * F.PORT + F.TRY_AT] > free and self.port[out * F.PORT + F.STALLED_SINCE] < 0:
            self._turn(out)
            return self._settle(out)
        return 0

    def _enqueue(self, link: int, out: int, frame: int) -> int:
        """A frame that came over ``link`` waits for its way ``out`` of the switch."""
        channel = self.frame[frame * F.FRAME + F.FRAME_CHANNEL]
        queue = self.voq_base[link] + self.port[out * F.PORT + F.LOCAL_INDEX] * self.channels + channel
        self.frame[frame * F.FRAME + F.FRAME_QUEUED] = self.now
        if self.queue[queue * F.QUEUE + F.QUEUE_HEAD] < 0:
            self.queue[queue * F.QUEUE + F.QUEUE_HEAD] = frame
        else:
            self.frame[(self.queue[queue * F.QUEUE + F.QUEUE_TAIL]) * F.FRAME + F.FRAME_NEXT] = frame
        self.queue[queue * F.QUEUE + F.QUEUE_TAIL] = frame
        self.port[out * F.PORT + F.WAITING] += 1
        if not self.queue[queue * F.QUEUE + F.QUEUE_ACTIVE]:
            self._activate(out, out * self.channels + channel, queue)
        return 0

    def _route(self, link: int, frame: int) -> int:
        """The link out of the switch; of several equal ones always the same for a pair of hosts."""
        entry = self.port[link * F.PORT + F.TO_SWITCH] * self.hosts + self.frame[frame * F.FRAME + F.FRAME_TO]
        only = self.route_only[entry]
        if only >= -1:
            return only
        return self._one_of_several(entry, frame)

    def _return(self, link: int, channel: int, when: int, frame: int) -> int:
        """An R_RDY is on its way; ``frame`` is what it answers, where the receiver is a host."""
        port = link * F.PORT
        time = when + self.port[port + F.R_RDY_TICKS] + self.port[port + F.PROPAGATION]
        place = self._place(link, self.port[port + F.RET_HEAD], self.port[port + F.RET_COUNT])
        if self.port[port + F.FORETOLD]:
            place = self._make_room(link, place, time)
        self.back[place * F.BACK + F.RET_TIME] = time
        self.back[place * F.BACK + F.RET_CHANNEL] = channel
        self.back[place * F.BACK + F.RET_FRAME] = frame
        self.port[port + F.RET_COUNT] += not self.overrun
        if self.port[port + F.JOINED]:
            if max(time, self.port[port + F.FREE_AT]) < self.port[port + F.SEND_AT]:
                self._plan(link)
                self._settle(link)
        elif self.port[port + F.STALLED_SINCE] >= 0:  # somebody waits for it
            time = max(time, self.port[port + F.FREE_AT])
            if time < self.port[port + F.TRY_AT]:
                self.port[port + F.TRY_AT] = time
                if self.port[port + F.FROM_HOST] >= 0:
                    self._send_ahead(link)
                    self._settle(link)
                elif time < self.tree_key[self.leaves + link]:
                    self._lead(link, time)
        return 0

    def _make_room(self, link: int, place: int, time: int) -> int:
        """Where an R_RDY that was told ahead goes: behind those that arrive no later."""
        port = link * F.PORT
        first = self.ring_base[link]
        last = self.port[port + F.RING_SIZE] - 1
        count = self.port[port + F.RET_COUNT]
        while count:
            before = first + ((place - first - 1) & last)
            if self.back[before * F.BACK + F.RET_TIME] <= time:
                break
            self.back[place * F.BACK + F.RET_TIME] = self.back[before * F.BACK + F.RET_TIME]
            self.back[place * F.BACK + F.RET_CHANNEL] = self.back[before * F.BACK + F.RET_CHANNEL]
            self.back[place * F.BACK + F.RET_FRAME] = self.back[before * F.BACK + F.RET_FRAME]
            place = before
            count -= 1
        return place

    def _settle(self, link: int) -> int:
        """Find a link's next event anew, after the one that was its next."""
        port = link * F.PORT
        least = min(self.port[port + F.TRY_AT], self.port[port + F.FLY_NEXT])
        least = min(least, self.port[port + F.HOLD_AT], self.port[port + F.LOSS_AT])
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
        while self._next_return(link) <= self.now:
            self._take_in(link)
        return 0

    def _take_in(self, link: int) -> int:
        """Take in the R_RDY that arrives first."""
        port = link * F.PORT
        at = self.ring_base[link] + self.port[port + F.RET_HEAD]
        time = self.back[at * F.BACK + F.RET_TIME]
        frame = self.back[at * F.BACK + F.RET_FRAME]
        both = link * self.channels + self.back[at * F.BACK + F.RET_CHANNEL] * self.port[port + F.VC_MODE]
        self._forget_return(link)
        if frame >= 0:
            self._delivered(frame, time - self.port[port + F.R_RDY_TICKS] - self.port[port + F.PROPAGATION])
        if self.lane[both * F.LANE + F.CREDIT] >= self.lane[both * F.LANE + F.GRANTED]:
            return 0
        if not self.lane[both * F.LANE + F.CREDIT]:
            self.counters[link * F.COUNTERS + F.ZERO_TICKS] += time - self.lane[both * F.LANE + F.ZERO_SINCE]
        self.lane[both * F.LANE + F.CREDIT] += 1
        self.port[port + F.OUTSTANDING] -= 1
        if self.port[port + F.HEED_R_RDY]:
            self._heed_r_rdy(link, both, time)
        return 0

    def _forget_return(self, link: int) -> int:
        port = link * F.PORT
        head = self.port[port + F.RET_HEAD] + 1
        self.port[port + F.RET_HEAD] = head & (self.port[port + F.RING_SIZE] - 1)
        self.port[port + F.RET_COUNT] -= 1
        return 0

    def _moved(self, link: int) -> int:
        """No frame waits for credit any more: book the wait."""
        port = link * F.PORT
        if self.port[port + F.STALLED_SINCE] >= 0:
            self.counters[link * F.COUNTERS + F.WAIT_TICKS] += self.now - self.port[port + F.STALLED_SINCE]
            self.port[port + F.STALLED_SINCE] = -1
        return 0

    def _next_return(self, link: int) -> int:
        port = link * F.PORT
        if not self.port[port + F.RET_COUNT]:
            return NEVER
        return self.back[(self.ring_base[link] + self.port[port + F.RET_HEAD]) * F.BACK + F.RET_TIME]

    def _activate(self, link: int, both: int, queue: int) -> int:
        size = self.port[link * F.PORT + F.ACTIVE_SIZE]
        place = self.lane[both * F.LANE + F.ACTIVE_HEAD] + self.lane[both * F.LANE + F.ACTIVE_COUNT]
        if place >= size:
            place -= size
        self.active[self.active_base[both] + place] = queue
        self.lane[both * F.LANE + F.ACTIVE_COUNT] += 1
        self.queue[queue * F.QUEUE + F.QUEUE_ACTIVE] = 1
        return 0

    def _lane(self, link: int, channel: int) -> int:
        """Where the record of the credits for a virtual channel begins: it may be that of all channels."""
        return (link * self.channels + channel * self.port[link * F.PORT + F.VC_MODE]) * F.LANE

    def _place(self, link: int, head: int, count: int) -> int:
        """Where the next entry of one of the link's two rings goes."""
        size = self.port[link * F.PORT + F.RING_SIZE]  # a power of two
        if count >= size:
            self.overrun = 1
        return self.ring_base[link] + ((head + count) & (size - 1))

    def _fly(self, link: int, arrival: int, frame: int) -> int:
        port = link * F.PORT
        place = self._place(link, self.port[port + F.FLY_HEAD], self.port[port + F.FLY_COUNT])
        self.flown[place * F.FLOWN + F.FLY_TIME] = arrival
        self.flown[place * F.FLOWN + F.FLY_FRAME] = frame
        if not self.port[port + F.FLY_COUNT]:
            self.port[port + F.FLY_NEXT] = arrival
        self.port[port + F.FLY_COUNT] += not self.overrun
        return 0

    def _landed(self, link: int) -> int:
        """Take out what arrives next: a frame, or -1 less the frames that BB_SCs told to be lost, or -SPOILT less the
        virtual channel of a frame with a bad CRC."""
        port = link * F.PORT
        place = self.ring_base[link] + self.port[port + F.FLY_HEAD]
        head = (self.port[port + F.FLY_HEAD] + 1) & (self.port[port + F.RING_SIZE] - 1)
        self.port[port + F.FLY_HEAD] = head
        self.port[port + F.FLY_COUNT] -= 1
        self.port[port + F.FLY_NEXT] = self._next_flown(link)
        return self.flown[place * F.FLOWN + F.FLY_FRAME]

    def _next_flown(self, link: int) -> int:
        port = link * F.PORT
        if not self.port[port + F.FLY_COUNT]:
            return NEVER
        return self.flown[(self.ring_base[link] + self.port[port + F.FLY_HEAD]) * F.FLOWN + F.FLY_TIME]

    def _delivered(self, frame: int, when: int) -> int:
        """A host has dealt with a frame."""
        flow = self.frame[frame * F.FRAME + F.FRAME_FLOW] * F.FLOW_COUNTERS
        latency = when - self.frame[frame * F.FRAME + F.FRAME_BORN]
        self.flow_counters[flow + F.DELIVERED] += 1
        self.flow_counters[flow + F.BYTES] += self.frame[frame * F.FRAME + F.FRAME_SIZE]
        self.flow_counters[flow + F.LATENCY] += latency
        self.flow_counters[flow + F.WORST] = max(self.flow_counters[flow + F.WORST], latency)
        self.frame[frame * F.FRAME + F.FRAME_NEXT] = self.free_slot
        self.free_slot = frame
        return 0

    def _chance(self, link: int) -> int:
        """The link's next number of Lehmer's generator, 1 to 2^31 - 2: the same compiled and plain."""
        port = link * F.PORT
        product = self.port[port + F.RANDOM] * 48271
        drawn = (product & 2147483647) + (product >> 31)  # the remainder by 2^31 - 1, without a division
        if drawn >= 2147483647:
            drawn -= 2147483647
        self.port[port + F.RANDOM] = drawn
        return drawn
