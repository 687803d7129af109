cimport cython

from fcsim.engine.fabric_memory_kernel cimport Memory

cdef long long NEVER, COUNTERS, TX_FRAMES, TX_BYTES, RX_FRAMES, ZERO_TRANSITIONS, ZERO_TICKS, DISCARDS, PEAK
cdef long long LOST_FRAMES, LOST_R_RDYS, RECOVERED, LINK_RESETS, FLOW_COUNTERS, SENT, TRACE_WIDTH


cdef class Engine(Memory):
    @cython.locals(done="long long", link="long long", room="long long", time="long long")
    cpdef long long run(self, long long until, long long most) except? -2

    @cython.locals(came="long long")
    cdef long long _try(self, long long link) except? -2

    @cython.locals(both="long long", channel="long long", counters="long long", end="long long", flow="long long", frame="long long", host="long long")
    cdef long long _start(self, long long link) except? -2

    @cython.locals(arrival="long long", back="long long", counters="long long", drained="long long", lost="long long", to_host="long long")
    cdef long long _launch(self, long long link, long long frame, long long end) except? -2

    cdef long long _recover_frames(self, long long link, long long lost, long long when) except? -2

    @cython.locals(alone="long long")
    cdef long long _always_ready(self, long long link, long long flow) except? -2

    @cython.locals(channel="long long", count="long long", due="long long", first="long long", flow="long long", stalled="long long", step="long long", turn="long long")
    cdef long long _from_host(self, long long link) except? -2

    @cython.locals(frame="long long", host="long long", size="long long", to="long long")
    cdef long long _made(self, long long link, long long flow, long long channel) except? -2

    @cython.locals(base="long long", both="long long", came="long long", channel="long long", frame="long long", head="long long", queue="long long", size="long long", step="long long")
    cdef long long _from_queues(self, long long link) except? -2

    @cython.locals(channel="long long", frame="long long", out="long long", queue="long long")
    cdef long long _arrived(self, long long link) except? -2

    @cython.locals(count="long long", entry="long long", spread="long long")
    cdef long long _route(self, long long link, long long frame) except? -2

    @cython.locals(lost="long long")
    cdef long long _give_back(self, long long link, long long channel, long long when, long long frame) except? -2

    @cython.locals(place="long long", time="long long")
    cdef long long _return(self, long long link, long long channel, long long when, long long frame) except? -2

    @cython.locals(both="long long", channel="long long", step="long long")
    cdef long long _expire(self, long long link) except? -2

    @cython.locals(came="long long", channel="long long", frame="long long")
    cdef long long _drop_expired(self, long long link, long long queue) except? -2

    @cython.locals(at="long long", both="long long", channel="long long", counters="long long", frame="long long", side="long long", starved="long long")
    cdef long long _reset(self, long long link) except? -2

    @cython.locals(channel="long long", out="long long", queue="long long")
    cdef long long _empty_queues(self, long long link) except? -2
