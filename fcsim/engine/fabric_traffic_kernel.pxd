cimport cython

cimport fcsim.engine.fabric_fields as F

from fcsim.engine.fabric_memory_kernel cimport Memory

cdef long long NEVER, SPOILT


cdef class Traffic(Memory):
    @cython.locals(done="long long", ends="long long", link="long long", room="long long", time="long long")
    cdef long long _advance(self, long long until, long long most) noexcept

    @cython.locals(came="long long", known="long long", port="long long")
    cdef inline long long _try(self, long long link) noexcept

    @cython.locals(last="long long", now="long long", port="long long")
    cdef inline long long _send_ahead(self, long long link) noexcept

    @cython.locals(frame="long long")
    cdef inline long long _start(self, long long link) noexcept

    @cython.locals(end="long long", flow="long long", lane="long long", port="long long")
    cdef inline long long _send(self, long long link, long long frame) noexcept

    @cython.locals(came="long long", channel="long long", end="long long", port="long long")
    cdef inline long long _pass_on(self, long long link, long long frame) noexcept

    @cython.locals(back="long long", end="long long", oldest="long long", port="long long")
    cdef inline long long _turn(self, long long link) noexcept

    @cython.locals(counters="long long", end="long long", held="long long", lane="long long", left="long long", patience_ends="long long", port="long long", size="long long")
    cdef inline long long _leave(self, long long link, long long frame) noexcept

    @cython.locals(arrival="long long", drained="long long", port="long long")
    cdef inline long long _launch(self, long long link, long long frame, long long end) noexcept

    @cython.locals(drained="long long", port="long long")
    cdef inline long long _drain(self, long long link, long long frame, long long arrival) noexcept

    @cython.locals(frame="long long", gap="long long", host="long long", port="long long", size="long long", to="long long")
    cdef inline long long _made(self, long long link, long long flow, long long channel) noexcept

    @cython.locals(port="long long", size="long long", to="long long")
    cdef inline long long _draw(self, long long link, long long flow) noexcept

    @cython.locals(base="long long", both="long long", channel="long long", frame="long long", head="long long", port="long long", queue="long long", size="long long", step="long long")
    cdef inline long long _from_queues(self, long long link) noexcept

    @cython.locals(frame="long long", port="long long")
    cdef inline long long _arrived(self, long long link) noexcept

    @cython.locals(end="long long", flow="long long", frame="long long", now="long long", port="long long")
    cdef inline long long _send_joined(self, long long link) noexcept

    @cython.locals(arrival="long long", flow="long long", port="long long", send="long long", size="long long")
    cdef inline long long _plan(self, long long link) noexcept

    @cython.locals(channel="long long", free="long long", idle="long long", out="long long", turn="long long")
    cdef inline long long _received(self, long long link, long long frame) noexcept

    @cython.locals(channel="long long", queue="long long")
    cdef inline long long _enqueue(self, long long link, long long out, long long frame) noexcept

    @cython.locals(entry="long long", only="long long")
    cdef inline long long _route(self, long long link, long long frame) noexcept

    @cython.locals(place="long long", port="long long", time="long long")
    cdef inline long long _return(self, long long link, long long channel, long long when, long long frame) noexcept

    @cython.locals(before="long long", count="long long", first="long long", last="long long", port="long long")
    cdef inline long long _make_room(self, long long link, long long place, long long time) noexcept

    @cython.locals(least="long long", port="long long")
    cdef inline long long _settle(self, long long link) noexcept

    @cython.locals(node="long long", other="long long", rival="long long", winner="long long", won="long long")
    cdef inline long long _lead(self, long long link, long long time) noexcept

    cdef inline long long _collect(self, long long link) noexcept

    @cython.locals(at="long long", both="long long", frame="long long", port="long long", time="long long")
    cdef inline long long _take_in(self, long long link) noexcept

    @cython.locals(head="long long", port="long long")
    cdef inline long long _forget_return(self, long long link) noexcept

    @cython.locals(port="long long")
    cdef inline long long _moved(self, long long link) noexcept

    @cython.locals(port="long long")
    cdef inline long long _next_return(self, long long link) noexcept

    @cython.locals(place="long long", size="long long")
    cdef inline long long _activate(self, long long link, long long both, long long queue) noexcept

    cdef inline long long _lane(self, long long link, long long channel) noexcept

    @cython.locals(size="long long")
    cdef inline long long _place(self, long long link, long long head, long long count) noexcept

    @cython.locals(place="long long", port="long long")
    cdef inline long long _fly(self, long long link, long long arrival, long long frame) noexcept

    @cython.locals(head="long long", place="long long", port="long long")
    cdef inline long long _landed(self, long long link) noexcept

    @cython.locals(port="long long")
    cdef inline long long _next_flown(self, long long link) noexcept

    @cython.locals(flow="long long", latency="long long")
    cdef inline long long _delivered(self, long long frame, long long when) noexcept

    @cython.locals(drawn="long long", port="long long", product="long long")
    cdef inline long long _chance(self, long long link) noexcept
