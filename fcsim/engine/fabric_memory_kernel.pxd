cimport cython

cimport fcsim.engine.fabric_fields as F

cdef long long NEVER, MAX_PAYLOAD_BYTES


cdef class Memory:
    cdef readonly long long links, channels, hosts, overhead, leaves, free_slot, trace_at, now, events, number
    cdef readonly long long until, overrun, ahead
    cdef long long[::1] port, lane, frame, flow, queue, flown, back, voq_base, ring_base, active_base, active
    cdef long long[::1] route_start, route_count, route_links, route_only, trace, deliveries, counters, flow_counters
    cdef long long[::1] tree_key, tree_link, window_count, window_lost
    cdef readonly long long delivery_at, script_room, script_flow

    @cython.locals(last="long long", link="long long", place="long long", port="long long")
    cdef long long _last_return(self) noexcept

    @cython.locals(place="long long", port="long long")
    cdef long long _queue_at(self, long long link, long long both, long long step) noexcept

    @cython.locals(both="long long", channel="long long", frame="long long", oldest="long long", step="long long")
    cdef long long _oldest(self, long long link) noexcept

    @cython.locals(dropped="long long", following="long long")
    cdef long long _drop_chain(self, long long link, long long frame) noexcept

    cdef long long _release(self, long long frame) noexcept

    @cython.locals(back="long long")
    cdef long long _boundary(self, long long side, long long window, long long lost) noexcept

    @cython.locals(at="long long")
    cdef long long _note(self, long long link, long long kind, long long frame, long long time) noexcept

    @cython.locals(channel="long long", out="long long", queue="long long")
    cdef long long _empty_queues(self, long long link) noexcept

    @cython.locals(both="long long", channel="long long", counters="long long", port="long long", side="long long")
    cdef long long _renew(self, long long link, long long up_at) noexcept

    @cython.locals(port="long long")
    cdef long long _heed_r_rdy(self, long long link, long long both, long long time) noexcept

    @cython.locals(channel="long long", ends="long long", lane="long long")
    cdef long long _patience_ends(self, long long link) noexcept

    @cython.locals(spread="long long")
    cdef long long _one_of_several(self, long long entry, long long frame) noexcept

    cdef long long _note_delivery(self, long long frame, long long when) noexcept

    @cython.locals(at="long long", kept="long long")
    cdef long long _forget_delivery(self, long long frame) noexcept

    @cython.locals(port="long long")
    cdef long long _queue_script(self, long long link, long long frame) noexcept

    @cython.locals(frame="long long", port="long long")
    cdef long long _from_script(self, long long link, long long due) noexcept

    @cython.locals(port="long long")
    cdef long long _script_turn(self, long long link) noexcept

    @cython.locals(port="long long")
    cdef long long _book_wait(self, long long link) noexcept

    @cython.locals(alone="long long", port="long long")
    cdef long long _always_ready(self, long long link, long long flow) noexcept

    cdef long long _from_host(self, long long link) noexcept

    cdef long long _risk(self, long long link, long long frame, long long arrival) noexcept

    cdef long long _recover_frames(self, long long link, long long lost, long long when) noexcept

    cdef long long _give_back(self, long long link, long long channel, long long when, long long frame) noexcept

    cdef long long _expire(self, long long link) noexcept

    cdef long long _reset(self, long long link) noexcept
