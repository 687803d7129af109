cimport cython

from fcsim.engine.fabric_memory_kernel cimport Memory

cdef long long NEVER, COUNTERS, TX_FRAMES, TX_BYTES, RX_FRAMES, ZERO_TRANSITIONS, ZERO_TICKS, WAIT_TICKS
cdef long long DISCARDS, PEAK, LINK_RESETS, LOST_FRAMES, LOST_R_RDYS, RECOVERED, MISSING, FLOW_COUNTERS, SENT
cdef long long DELIVERED, BYTES, LATENCY, WORST, TRACE_WIDTH, SPOILT


@cython.final
cdef class Engine(Memory):
    @cython.locals(done="long long", ends="long long", link="long long", room="long long", time="long long")
    cdef long long _advance(self, long long until, long long most) noexcept

    @cython.locals(came="long long")
    cdef inline long long _try(self, long long link) noexcept

    @cython.locals(last="long long", now="long long")
    cdef inline long long _send_ahead(self, long long link) noexcept

    @cython.locals(frame="long long", host="long long")
    cdef inline long long _start(self, long long link) noexcept

    @cython.locals(both="long long", channel="long long", counters="long long", end="long long", flow="long long")
    cdef inline long long _send(self, long long link, long long frame, long long host) noexcept

    @cython.locals(arrival="long long", back="long long", counters="long long", drained="long long", lost="long long", to_host="long long")
    cdef inline long long _launch(self, long long link, long long frame, long long end) noexcept

    cdef long long _recover_frames(self, long long link, long long lost, long long when) noexcept

    @cython.locals(alone="long long")
    cdef inline long long _always_ready(self, long long link, long long flow) noexcept

    @cython.locals(channel="long long", count="long long", due="long long", first="long long", flow="long long", stalled="long long", step="long long", turn="long long")
    cdef inline long long _from_host(self, long long link) noexcept

    @cython.locals(frame="long long", host="long long", size="long long", to="long long")
    cdef inline long long _made(self, long long link, long long flow, long long channel) noexcept

    @cython.locals(base="long long", both="long long", channel="long long", frame="long long", head="long long", queue="long long", size="long long", step="long long")
    cdef inline long long _from_queues(self, long long link) noexcept

    @cython.locals(came="long long")
    cdef inline long long _passes(self, long long link, long long frame, long long channel) noexcept

    @cython.locals(channel="long long", frame="long long", idle="long long", out="long long", queue="long long")
    cdef inline long long _arrived(self, long long link) noexcept

    @cython.locals(entry="long long", only="long long")
    cdef inline long long _route(self, long long link, long long frame) noexcept

    @cython.locals(lost="long long")
    cdef inline long long _give_back(self, long long link, long long channel, long long when, long long frame) noexcept

    @cython.locals(place="long long", time="long long")
    cdef inline long long _return(self, long long link, long long channel, long long when, long long frame) noexcept

    @cython.locals(least="long long")
    cdef inline long long _settle(self, long long link) noexcept

    @cython.locals(node="long long", other="long long", rival="long long", winner="long long", won="long long")
    cdef inline long long _lead(self, long long link, long long time) noexcept

    @cython.locals(at="long long", both="long long", frame="long long", time="long long")
    cdef inline long long _collect(self, long long link) noexcept

    @cython.locals(head="long long")
    cdef inline long long _forget_return(self, long long link) noexcept

    cdef inline long long _moved(self, long long link) noexcept

    cdef inline long long _next_return(self, long long link) noexcept

    @cython.locals(place="long long", size="long long")
    cdef inline long long _activate(self, long long link, long long both, long long queue) noexcept

    @cython.locals(place="long long")
    cdef inline long long _place(self, long long link, long long head, long long count) noexcept

    @cython.locals(place="long long")
    cdef inline long long _fly(self, long long link, long long arrival, long long frame) noexcept

    @cython.locals(head="long long", place="long long")
    cdef inline long long _landed(self, long long link) noexcept

    @cython.locals(flow="long long", latency="long long")
    cdef inline long long _delivered(self, long long frame, long long when) noexcept

    @cython.locals(drawn="long long")
    cdef inline long long _chance(self, long long link) noexcept

    @cython.locals(both="long long", channel="long long", step="long long")
    cdef long long _expire(self, long long link) noexcept

    @cython.locals(came="long long", channel="long long", frame="long long")
    cdef long long _drop_expired(self, long long link, long long queue) noexcept

    cdef long long _reset(self, long long link) noexcept

    @cython.locals(at="long long", frame="long long")
    cdef long long _initialise(self, long long link, long long up_at) noexcept
