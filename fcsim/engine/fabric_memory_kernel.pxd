cimport cython

cdef long long NEVER, COUNTERS, DISCARDS, WAIT_TICKS, ZERO_TICKS, MISSING, TRACE_WIDTH, MAX_PAYLOAD_BYTES


cdef class Memory:
    cdef readonly long long links, channels, hosts, overhead, leaves, free_slot, trace_at, now, events, number
    cdef readonly long long until, overrun
    cdef long long[::1] random, route_only, byte_ticks, propagation, latency, r_rdy_ticks, from_host
    cdef long long[::1] from_switch, to_host, to_switch, local_index, voq_base, ring_base, ring_size
    cdef long long[::1] active_base, active_size, hold, patience, window, lose_frame, lose_r_rdy, drain_frame
    cdef long long[::1] drain_byte, route_start, route_count, route_links, flow_start, flow_end, flow_to
    cdef long long[::1] flow_hot, flow_hot_chance, flow_low, flow_high, flow_gap, flow_next, flow_left
    cdef long long[::1] flow_channel, trace, vc_mode, traced, granted, credit, zero_since, fly_time, fly_frame
    cdef long long[::1] fly_head, fly_count, ret_time, ret_channel, ret_head, ret_count, try_at, free_at
    cdef long long[::1] drained_at, hold_at, loss_at, stalled_since, current_in, current_channel, current_epoch
    cdef long long[::1] epoch, turn_channel, turn_flow, waiting, outstanding, window_count, window_lost
    cdef long long[::1] ret_frame, queue_head, queue_tail, queue_active, active, active_head, active_count
    cdef long long[::1] frame_next, frame_to, frame_from, frame_size, frame_channel, frame_born, frame_queued
    cdef long long[::1] frame_in, frame_flow, frame_number, counters, flow_counters, fly_next, tree_key
    cdef long long[::1] tree_link, corrupt_frame, scripted, turn_script, script_head, script_tail, deliveries
    cdef readonly long long delivery_at, script_room, script_flow

    @cython.locals(last="long long", link="long long", place="long long")
    cdef long long _last_return(self) noexcept

    @cython.locals(place="long long")
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

    @cython.locals(both="long long", channel="long long", counters="long long", side="long long")
    cdef long long _renew(self, long long link, long long up_at) noexcept

    @cython.locals(both="long long", channel="long long", starved="long long")
    cdef long long _starved(self, long long link) noexcept

    @cython.locals(spread="long long")
    cdef long long _one_of_several(self, long long entry, long long frame) noexcept

    cdef long long _note_delivery(self, long long frame, long long when) noexcept

    @cython.locals(at="long long", kept="long long")
    cdef long long _forget_delivery(self, long long frame) noexcept

    cdef long long _queue_script(self, long long link, long long frame) noexcept

    @cython.locals(frame="long long")
    cdef long long _from_script(self, long long link, long long due) noexcept

    cdef long long _script_turn(self, long long link) noexcept

    cdef long long _book_wait(self, long long link) noexcept
