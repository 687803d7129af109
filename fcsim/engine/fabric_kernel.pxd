cimport cython

cimport fcsim.engine.fabric_fields as F

from fcsim.engine.fabric_traffic_kernel cimport Traffic

cdef long long NEVER, SPOILT


cdef class Engine(Traffic):
    @cython.locals(channel="long long", count="long long", due="long long", first="long long", flow="long long", port="long long", stalled="long long", step="long long", turn="long long")
    cdef long long _from_host(self, long long link) noexcept

    @cython.locals(back="long long", counters="long long", drained="long long", lost="long long", port="long long", to_host="long long", window="long long")
    cdef long long _risk(self, long long link, long long frame, long long arrival) noexcept

    cdef long long _recover_frames(self, long long link, long long lost, long long when) noexcept

    @cython.locals(lost="long long", port="long long")
    cdef long long _give_back(self, long long link, long long channel, long long when, long long frame) noexcept

    @cython.locals(both="long long", channel="long long", port="long long", step="long long")
    cdef long long _expire(self, long long link) noexcept

    @cython.locals(came="long long", channel="long long", frame="long long", port="long long")
    cdef long long _drop_expired(self, long long link, long long queue) noexcept

    @cython.locals(allowed="long long", port="long long")
    cdef long long _reset(self, long long link) noexcept

    @cython.locals(at="long long", frame="long long", port="long long")
    cdef long long _initialise(self, long long link, long long up_at) noexcept

    @cython.locals(came="long long", flow="long long", host="long long", link="long long", port="long long", sound="long long", sure="long long", within="long long")
    cdef long long _look_ahead(self, long long allowed) noexcept

    @cython.locals(arrival="long long", came="long long", frame="long long", link="long long", port="long long")
    cdef long long _look_no_further(self) noexcept

    @cython.locals(count="long long", last="long long", left="long long", port="long long")
    cdef long long _forget_ahead(self, long long link) noexcept
