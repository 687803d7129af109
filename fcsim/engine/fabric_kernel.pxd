cimport cython

cdef long long NEVER, RANDOM_LIMIT, COUNTERS, TX_FRAMES, TX_BYTES, RX_FRAMES, ZERO_TRANSITIONS, ZERO_TICKS
cdef long long WAIT_TICKS, DISCARDS, PEAK, LOST_FRAMES, LOST_R_RDYS, RECOVERED, LINK_RESETS, FLOW_COUNTERS, SENT
cdef long long DELIVERED, BYTES, LATENCY, WORST, TRACE_WIDTH


cdef class Engine:
    cdef readonly long long links, channels, hosts, overhead, leaves, random, free_slot, trace_at, now, events
    cdef readonly long long number
    cdef long long[::1] byte_ticks, propagation, latency, r_rdy_ticks, from_host, from_switch, to_host
    cdef long long[::1] to_switch, local_index, voq_base, ring_base, ring_size, active_base, active_size, hold
    cdef long long[::1] patience, window, lose_frame, lose_r_rdy, drain_frame, drain_byte, route_start
    cdef long long[::1] route_count, route_links, flow_start, flow_end, flow_to, flow_hot, flow_hot_chance
    cdef long long[::1] flow_low, flow_high, flow_gap, flow_next, flow_left, flow_channel, trace, traced
    cdef long long[::1] granted, credit, zero_since, fly_time, fly_frame, fly_head, fly_count, ret_time
    cdef long long[::1] ret_channel, ret_head, ret_count, tx_at, src_at, sink_at, hold_at, loss_at
    cdef long long[::1] stalled_since, current_in, current_channel, current_epoch, epoch, turn_channel
    cdef long long[::1] turn_flow, waiting, outstanding, window_frames, window_lost, window_rdys
    cdef long long[::1] window_rdys_lost, sink_head, sink_tail, queue_head, queue_tail, queue_active, active
    cdef long long[::1] active_head, active_count, frame_next, frame_to, frame_from, frame_size, frame_channel
    cdef long long[::1] frame_born, frame_queued, frame_in, frame_flow, frame_number, counters, flow_counters
    cdef long long[::1] key, tree

    @cython.locals(done="long long", link="long long", room="long long", time="long long")
    cpdef long long run(self, long long until, long long most) except? -2

    @cython.locals(base="long long", least="long long")
    cdef long long _settle(self, long long link) except? -2

    @cython.locals(left="long long", node="long long", right="long long", winner="long long")
    cdef long long _lead(self, long long link, long long time) except? -2

    @cython.locals(both="long long", channel="long long", head="long long")
    cdef long long _credit_came(self, long long link) except? -2

    @cython.locals(came="long long")
    cdef long long _sent(self, long long link) except? -2

    @cython.locals(arrival="long long", back="long long", both="long long", channel="long long", counters="long long", end="long long", frame="long long", lost="long long")
    cdef long long _start(self, long long link) except? -2

    cdef long long _moved(self, long long link) except? -2

    @cython.locals(channel="long long", count="long long", due="long long", first="long long", flow="long long", stalled="long long", step="long long", turn="long long")
    cdef long long _from_host(self, long long link) except? -2

    @cython.locals(frame="long long", host="long long", size="long long", to="long long")
    cdef long long _made(self, long long link, long long flow, long long channel) except? -2

    @cython.locals(base="long long", both="long long", came="long long", channel="long long", frame="long long", head="long long", queue="long long", size="long long", step="long long")
    cdef long long _from_queues(self, long long link) except? -2

    @cython.locals(place="long long", size="long long")
    cdef long long _activate(self, long long link, long long both, long long queue) except? -2

    @cython.locals(place="long long")
    cdef long long _place(self, long long link, long long head, long long count) except? -2

    @cython.locals(place="long long")
    cdef long long _fly(self, long long link, long long arrival, long long frame) except? -2

    @cython.locals(head="long long")
    cdef long long _landed(self, long long link) except? -2

    @cython.locals(channel="long long", frame="long long", out="long long", queue="long long")
    cdef long long _arrived(self, long long link) except? -2

    @cython.locals(count="long long", entry="long long", spread="long long")
    cdef long long _route(self, long long link, long long frame) except? -2

    cdef long long _drain_end(self, long long link, long long frame) except? -2

    @cython.locals(channel="long long", flow="long long", following="long long", frame="long long", latency="long long")
    cdef long long _drained(self, long long link) except? -2

    @cython.locals(back="long long", lost="long long")
    cdef long long _give_back(self, long long link, long long channel) except? -2

    @cython.locals(place="long long")
    cdef long long _return(self, long long link, long long channel) except? -2

    cdef long long _release(self, long long frame) except? -2

    @cython.locals(place="long long")
    cdef long long _queue_at(self, long long link, long long both, long long step) except? -2

    @cython.locals(both="long long", channel="long long", frame="long long", oldest="long long", step="long long")
    cdef long long _oldest(self, long long link) except? -2

    @cython.locals(both="long long", channel="long long", step="long long")
    cdef long long _expire(self, long long link) except? -2

    @cython.locals(came="long long", channel="long long", frame="long long")
    cdef long long _drop_expired(self, long long link, long long queue) except? -2

    @cython.locals(both="long long", channel="long long", counters="long long", frame="long long")
    cdef long long _reset(self, long long link) except? -2

    @cython.locals(dropped="long long", following="long long")
    cdef long long _drop_chain(self, long long link, long long frame) except? -2

    @cython.locals(channel="long long", out="long long", queue="long long")
    cdef long long _empty_queues(self, long long link) except? -2

    cdef long long _chance(self) except? -2

    @cython.locals(at="long long")
    cdef long long _note(self, long long link, long long kind, long long frame) except? -2
