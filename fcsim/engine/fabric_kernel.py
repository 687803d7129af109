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

from fcsim.engine import fabric_fields as F  # noqa: N812 - as the .pxd has it
from fcsim.engine import fabric_state
from fcsim.engine.fabric_state import State
from fcsim.engine.fabric_traffic_kernel import Traffic

COMPILED = not __file__.endswith(".py")

# Typed copies: a module's own constants would be looked up by name in compiled code.
NEVER, SPOILT = fabric_state.NEVER, fabric_state.SPOILT


class Engine(Traffic):
    """Runs a :class:`~fcsim.engine.fabric_state.State`, in place."""

    def __init__(self, state: State) -> None:
        super().__init__(state)
        for link in range(self.links):
            if self.port[link * F.PORT + F.FROM_HOST] >= 0:
                self._start(link)
                self._settle(link)

    def run(self, until: int, most: int) -> int:
        """Let time go on to ``until``, or for ``most`` events, or until the trace is nearly full; events handled.

        When nothing is left to happen, time stops with the last event. Raises RuntimeError should more be under way
        than there are credits, which is a defect of this engine.
        """
        self._look_ahead(most > 1 and not len(self.deliveries) and not len(self.trace))
        done = self._advance(min(until, NEVER - 1), most)
        self._look_no_further()
        self.collect()
        return done

    def collect(self) -> int:
        """Book every credit that has come back by now, so that counters and credits hold for this moment."""
        for link in range(self.links):
            self._collect(link)
        if self.overrun:
            raise RuntimeError("more frames or R_RDYs under way than there are credits")
        return self.now

    def offer(self, link: int, frame: int) -> int:
        """Send a frame of :meth:`Memory.script` over a host's ``link``, now or when those before it have gone."""
        self._queue_script(link, frame)
        if self.port[link * F.PORT + F.FREE_AT] <= self.now:
            self._start(link)
        return self._settle(link)

    def restart(self, link: int, up_at: int) -> int:
        """The link goes down now, and is up at ``up_at`` with the credits that were granted. Raises IndexError."""
        if not 0 <= link < self.links:
            raise IndexError(link)
        self._collect(link)
        self._initialise(link, max(up_at, self.now))
        self.port[link * F.PORT + F.LOSS_AT] = NEVER
        return self._settle(link)

    # -- hosts that do not work ahead ----------------------------------------------------------------------------

    def _from_host(self, link: int) -> int:
        """A frame of a host's flows, which take turns; -1: none is due, or there is no credit."""
        port = link * F.PORT
        if self.port[port + F.SCRIPT_HEAD] >= 0 and self._script_turn(link):
            return self._from_script(link, NEVER)
        first = self.port[port + F.FLOW_START]
        count = self.port[port + F.FLOW_END] - first
        due = NEVER
        stalled = False
        for step in range(count):
            turn = self.port[port + F.TURN_FLOW] + step
            if turn >= count:
                turn -= count
            flow = first + turn
            if not self.flow[flow * F.FLOW + F.FLOW_LEFT]:
                continue
            if self.flow[flow * F.FLOW + F.FLOW_NEXT] > self.now:
                due = min(due, self.flow[flow * F.FLOW + F.FLOW_NEXT])
                continue
            channel = self.flow[flow * F.FLOW + F.FLOW_CHANNEL]
            if not self.lane[self._lane(link, channel) + F.CREDIT]:
                stalled = True
                continue
            self.port[port + F.TURN_FLOW] = turn + 1 if turn + 1 < count else 0
            return self._made(link, flow, channel)
        if stalled:
            due = min(due, self._next_return(link))
            if self.port[port + F.STALLED_SINCE] < 0:
                self.port[port + F.STALLED_SINCE] = self.now
        if self.port[port + F.SCRIPT_HEAD] >= 0:
            return self._from_script(link, due)
        self.port[port + F.TRY_AT] = due
        return -1

    # -- faults ------------------------------------------------------------------------------------------------

    def _risk(self, link: int, frame: int, arrival: int) -> int:
        """A frame is on its way along a link that has faults or is looked at, or lost on it."""
        port = link * F.PORT
        counters = link * F.COUNTERS
        to_host = self.port[port + F.TO_HOST] >= 0
        lost: int = self.port[port + F.LOSE_FRAME] > 0 and self._chance(link) < self.port[port + F.LOSE_FRAME]
        if lost:
            self.counters[counters + F.LOST_FRAMES] += 1
            self._release(frame)
            if not self.port[port + F.CORRUPT_FRAME]:
                self.counters[counters + F.MISSING] += 1
            elif to_host:  # it arrives and is dropped, and its buffer is free: the credit comes back
                lost = 0
                self.port[port + F.DRAINED_AT] = max(arrival, self.port[port + F.DRAINED_AT])
                drained = self.port[port + F.DRAINED_AT]
                self._give_back(link, self.frame[frame * F.FRAME + F.FRAME_CHANNEL], drained, -1)
            else:
                lost = 0
                self._fly(link, arrival, -SPOILT - self.frame[frame * F.FRAME + F.FRAME_CHANNEL])
        elif to_host:
            drained = self._drain(link, frame, arrival)
            if (
                self.port[port + F.SCRIPTED]
                and self.frame[frame * F.FRAME + F.FRAME_FLOW] == self.script_flow
            ):
                self._note_delivery(frame, drained)
            self._give_back(link, self.frame[frame * F.FRAME + F.FRAME_CHANNEL], drained, frame)
        else:
            self._fly(link, arrival, frame)
        window = self.port[port + F.WINDOW]
        back = self._boundary(2 * link, window, lost) if window else 0
        if back and to_host:
            self._recover_frames(link, back, max(arrival, self.port[port + F.DRAINED_AT]))
        elif back:
            self._fly(link, arrival, -1 - back)
        return 0

    def _recover_frames(self, link: int, lost: int, when: int) -> int:
        """BB_SCs told how many frames were lost: as many R_RDYs more."""
        for _ in range(lost):
            self.counters[link * F.COUNTERS + F.RECOVERED] += 1
            self.counters[link * F.COUNTERS + F.MISSING] -= 1
            self._give_back(link, 0, when, -1)
        return 0

    def _give_back(self, link: int, channel: int, when: int, frame: int) -> int:
        """A receive buffer of a link is free at ``when``: its R_RDY goes back, unless it gets lost."""
        port = link * F.PORT
        lost = self.port[port + F.LOSE_R_RDY] > 0 and self._chance(link) < self.port[port + F.LOSE_R_RDY]
        if lost:
            self.counters[link * F.COUNTERS + F.LOST_R_RDYS] += 1
            self.counters[link * F.COUNTERS + F.MISSING] += 1
            if frame >= 0:
                self._delivered(frame, when)
        else:
            self._return(link, channel, when, frame)
        if not self.port[port + F.WINDOW]:
            return 0
        for _ in range(self._boundary(2 * link + 1, self.port[port + F.WINDOW], lost)):
            self.counters[link * F.COUNTERS + F.RECOVERED] += 1
            self.counters[link * F.COUNTERS + F.MISSING] -= 1
            self._return(link, channel, when, -1)
        return 0

    def _expire(self, link: int) -> int:
        """Frames that waited for credit as long as the hold time are dropped; their buffers are free."""
        port = link * F.PORT
        self.port[port + F.HOLD_AT] = NEVER
        if self.port[port + F.STALLED_SINCE] < 0:
            return 0
        for channel in range(self.channels):
            both = link * self.channels + channel
            for step in range(self.lane[both * F.LANE + F.ACTIVE_COUNT]):
                self._drop_expired(link, self._queue_at(link, both, step))
        if self.port[port + F.WAITING]:
            self.port[port + F.HOLD_AT] = self._oldest(link) + self.port[port + F.HOLD]
        else:
            self._moved(link)
        return 0

    def _drop_expired(self, link: int, queue: int) -> int:
        port = link * F.PORT
        frame = self.queue[queue * F.QUEUE + F.QUEUE_HEAD]
        while (
            frame >= 0 and self.frame[frame * F.FRAME + F.FRAME_QUEUED] + self.port[port + F.HOLD] <= self.now
        ):
            self.queue[queue * F.QUEUE + F.QUEUE_HEAD] = self.frame[frame * F.FRAME + F.FRAME_NEXT]
            came = self.frame[frame * F.FRAME + F.FRAME_IN]
            channel = self.frame[frame * F.FRAME + F.FRAME_CHANNEL]
            self.counters[link * F.COUNTERS + F.DISCARDS] += 1
            self.port[port + F.WAITING] -= 1
            self._release(frame)
            self._give_back(came, channel, self.now, -1)
            frame = self.queue[queue * F.QUEUE + F.QUEUE_HEAD]
        return 0

    def _reset(self, link: int) -> int:
        """No credit came back for too long: a link reset. What is under way or in the other side's buffers is lost."""
        port = link * F.PORT
        self._collect(link)
        self.port[port + F.LOSS_AT] = self._patience_ends(link)
        if self.port[port + F.LOSS_AT] <= self.now:
            allowed = self.ahead
            self._look_no_further()
            self.port[port + F.LOSS_AT] = NEVER
            self.counters[link * F.COUNTERS + F.LINK_RESETS] += 1
            # LR one way and LRR back, before frames go again.
            self._initialise(
                link, self.now + 2 * (self.port[port + F.PROPAGATION] + self.port[port + F.R_RDY_TICKS])
            )
            self._look_ahead(allowed)
        elif self.port[port + F.JOINED]:
            self._plan(link)
        return 0

    def _initialise(self, link: int, up_at: int) -> int:
        """What is on the link or in the other side's buffers is lost; nothing is outstanding."""
        port = link * F.PORT
        while self.port[port + F.FLY_COUNT]:
            frame = self._landed(link)
            if frame >= 0:
                self.frame[frame * F.FRAME + F.FRAME_NEXT] = -1
                self._drop_chain(link, frame)
        while self.port[port + F.RET_COUNT]:
            at = self.ring_base[link] + self.port[port + F.RET_HEAD]
            frame = self.back[at * F.BACK + F.RET_FRAME]
            if (
                frame >= 0
                and self.back[at * F.BACK + F.RET_TIME]
                - self.port[port + F.R_RDY_TICKS]
                - self.port[port + F.PROPAGATION]
                <= self.now
            ):
                self._delivered(frame, self.now)
            elif frame >= 0:
                self._forget_delivery(frame)
                self.frame[frame * F.FRAME + F.FRAME_NEXT] = -1
                self._drop_chain(link, frame)
            self._forget_return(link)
        self.port[port + F.DRAINED_AT] = min(self.port[port + F.DRAINED_AT], self.now)
        if self.port[port + F.TO_HOST] < 0:
            self._empty_queues(link)
        return self._renew(link, up_at)

    # -- how far ahead: within a run only ----------------------------------------------------------------------

    def _look_ahead(self, allowed: int) -> int:
        """Begin a run: which hosts' frames take one event from host to switch, and which R_RDYs are told when the
        frame whose buffer they free begins to leave the switch. Both need links without faults."""
        self.ahead = allowed
        for link in range(self.links):
            port = link * F.PORT
            sound = not (
                self.port[port + F.WINDOW] or self.port[port + F.LOSE_R_RDY] or self.port[port + F.TRACED]
            )
            self.port[port + F.SOUND] = sound and not (
                self.port[port + F.LOSE_FRAME] or self.port[port + F.SCRIPTED]
            )
            sure = allowed and sound and self.port[port + F.R_RDY_TICKS] + self.port[port + F.PROPAGATION] > 0
            within = self.port[port + F.TO_SWITCH] >= 0
            host = self.port[port + F.FROM_HOST] >= 0
            flow = self.port[port + F.FLOW_START]
            self.port[port + F.JOINED] = (
                sure
                and host
                and within
                and self.lane[(link * self.channels) * F.LANE + F.GRANTED] > 0
                and not self.port[port + F.LOSE_FRAME]
                and self._always_ready(link, flow)
            )
            self.port[port + F.FORETOLD] = self.port[port + F.JOINED] or (sure and within and not host)
            sure = allowed and self.channels == 1 and not (self.port[port + F.PATIENCE] or host)
            self.port[port + F.ONE_CREDIT] = sure and (
                self.port[port + F.TO_HOST] >= 0 or not self.port[port + F.HOLD]
            )
        for link in range(self.links):
            port = link * F.PORT
            came = self.port[port + F.CURRENT_IN]
            if (
                came >= 0
                and self.port[came * F.PORT + F.FORETOLD]
                and self.port[port + F.CURRENT_EPOCH] == self.port[came * F.PORT + F.EPOCH]
            ):
                self._return(came, self.port[port + F.CURRENT_CHANNEL], self.port[port + F.FREE_AT], -1)
        for link in range(self.links):
            port = link * F.PORT
            if self.port[port + F.JOINED]:
                self.port[port + F.TRY_AT] = NEVER
                self.port[port + F.FREE_AT] = max(
                    self.port[port + F.FREE_AT],
                    self.flow[(self.port[port + F.FLOW_START]) * F.FLOW + F.FLOW_NEXT],
                )
                self._plan(link)
                self._settle(link)
        return 0

    def _look_no_further(self) -> int:
        """End a run: what was known ahead of this moment, and may yet change, is not known any more."""
        for link in range(self.links):
            port = link * F.PORT
            while self.port[port + F.JOINED] and 0 <= self.port[port + F.SEND_AT] <= self.now:
                frame = self._send_joined(link)
                if frame < 0:
                    break
                arrival = (
                    self.port[port + F.FREE_AT]
                    + self.port[port + F.PROPAGATION]
                    + self.port[port + F.SWITCHING]
                )
                self._fly(link, arrival, frame)
                self._plan(link)
        for link in range(self.links):
            port = link * F.PORT
            if self.port[port + F.FORETOLD]:
                self._forget_ahead(link)
            came = self.port[port + F.CURRENT_IN]
            if (
                came >= 0
                and self.port[port + F.FREE_AT] <= self.now
                and self.port[came * F.PORT + F.FORETOLD]
            ):
                self.port[port + F.CURRENT_IN] = -1
            elif came >= 0 and self.port[port + F.FREE_AT] > self.now:
                self.port[port + F.TRY_AT] = self.port[port + F.FREE_AT]
                if self.port[port + F.STALLED_SINCE] > self.now:
                    self.port[port + F.STALLED_SINCE] = -1
            self._settle(link)
        for link in range(self.links):
            port = link * F.PORT
            if self.port[port + F.JOINED] and self.port[port + F.DRAWN_BYTES] >= 0:
                self.port[port + F.RANDOM] = self.port[port + F.DRAWN_FROM]  # drawn when it is sent
                self.port[port + F.DRAWN_BYTES] = -1
            self.port[port + F.FORETOLD] = 0
            self.port[port + F.JOINED] = 0
            self.port[port + F.SOUND] = 0
            self.port[port + F.ONE_CREDIT] = 0
        return 0

    def _forget_ahead(self, link: int) -> int:
        """Forget the R_RDYs of a link that have not left yet, and what waits for them."""
        port = link * F.PORT
        left = self.now + self.port[port + F.R_RDY_TICKS] + self.port[port + F.PROPAGATION]
        count = self.port[port + F.RET_COUNT]
        while self.port[port + F.RET_COUNT]:
            last = self._place(link, self.port[port + F.RET_HEAD], self.port[port + F.RET_COUNT] - 1)
            if self.back[last * F.BACK + F.RET_TIME] <= left:
                break
            self.port[port + F.RET_COUNT] -= 1
        if self.port[port + F.JOINED]:
            self._plan(link)
            self.port[port + F.TRY_AT] = (
                self.port[port + F.SEND_AT] if self.port[port + F.SEND_AT] >= 0 else NEVER
            )
            self.port[port + F.FLY_NEXT] = self._next_flown(link)
            if self.port[port + F.PATIENCE] and not self.lane[link * F.LANE + F.CREDIT]:
                self.port[port + F.LOSS_AT] = (
                    self.lane[link * F.LANE + F.ZERO_SINCE] + self.port[port + F.PATIENCE]
                )
        elif self.port[port + F.STALLED_SINCE] >= 0 and self.port[port + F.RET_COUNT] < count:
            self.port[port + F.TRY_AT] = max(self.port[port + F.FREE_AT], self._next_return(link))
        return 0
