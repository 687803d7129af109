cimport cython

cdef long long NEVER, RANDOM_LIMIT, COUNTERS, ZERO_TICKS, WAIT_TICKS, DISCARDS, FLOW_COUNTERS, DELIVERED, BYTES
cdef long long LATENCY, WORST, TRACE_WIDTH


cdef class Memory:
    cdef readonly long long links, channels, hosts, overhead, leaves, random, free_slot, trace_at, now, events
    cdef readonly long long number
    cdef long long[::1] byte_ticks, propagation, latency, r_rdy_ticks, from_host, from_switch, to_host
    cdef long long[::1] to_switch, local_index, voq_base, ring_base, ring_size, active_base, active_size, hold
    cdef long long[::1] patience, window, lose_frame, lose_r_rdy, drain_frame, drain_byte, route_start
    cdef long long[::1] route_count, route_links, flow_start, flow_end, flow_to, flow_hot, flow_hot_chance
    cdef long long[::1] flow_low, flow_high, flow_gap, flow_next, flow_left, flow_channel, trace, traced
    cdef long long[::1] granted, credit, zero_since, fly_time, fly_frame, fly_head, fly_count, ret_time
    cdef long long[::1] ret_channel, ret_head, ret_count, try_at, free_at, drained_at, hold_at, loss_at
    cdef long long[::1] stalled_since, current_in, current_channel, current_epoch, epoch, turn_channel
    cdef long long[::1] turn_flow, waiting, outstanding, window_count, window_lost, ret_frame, queue_head
    cdef long long[::1] queue_tail, queue_active, active, active_head, active_count, frame_next, frame_to
    cdef long long[::1] frame_from, frame_size, frame_channel, frame_born, frame_queued, frame_in, frame_flow
    cdef long long[::1] frame_number, counters, flow_counters, key, tree

    @cython.locals(link="long long")
    cpdef long long collect(self) except? -2

    @cython.locals(last="long long", link="long long", place="long long")
    cdef long long _last_return(self) except? -2

    @cython.locals(least="long long")
    cdef long long _settle(self, long long link) except? -2

    @cython.locals(left="long long", node="long long", right="long long", winner="long long")
    cdef long long _lead(self, long long link, long long time) except? -2

    @cython.locals(at="long long", both="long long", frame="long long", time="long long")
    cdef long long _collect(self, long long link) except? -2

    @cython.locals(head="long long")
    cdef long long _forget_return(self, long long link) except? -2

    cdef long long _moved(self, long long link) except? -2

    cdef long long _next_return(self, long long link) except? -2

    @cython.locals(place="long long", size="long long")
    cdef long long _activate(self, long long link, long long both, long long queue) except? -2

    @cython.locals(place="long long")
    cdef long long _place(self, long long link, long long head, long long count) except? -2

    @cython.locals(place="long long")
    cdef long long _fly(self, long long link, long long arrival, long long frame) except? -2

    @cython.locals(head="long long")
    cdef long long _landed(self, long long link) except? -2

    @cython.locals(flow="long long", latency="long long")
    cdef long long _delivered(self, long long frame, long long when) except? -2

    cdef long long _release(self, long long frame) except? -2

    @cython.locals(place="long long")
    cdef long long _queue_at(self, long long link, long long both, long long step) except? -2

    @cython.locals(both="long long", channel="long long", frame="long long", oldest="long long", step="long long")
    cdef long long _oldest(self, long long link) except? -2

    @cython.locals(dropped="long long", following="long long")
    cdef long long _drop_chain(self, long long link, long long frame) except? -2

    @cython.locals(back="long long")
    cdef long long _boundary(self, long long side, long long window, long long lost) except? -2

    cdef long long _chance(self) except? -2

    @cython.locals(at="long long")
    cdef long long _note(self, long long link, long long kind, long long frame, long long time) except? -2
