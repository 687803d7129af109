cimport cython

@cython.locals(i="long long")
cpdef long long first_bad(const long long[::1] ready, const long long[::1] payload, long long count,
    long long payload_limit, long long last_tick) except? -2

@cython.locals(i="long long", slot="long long", credits="long long", start="long long", wait="long long", size="long long", signs="long long", line_at="long long", credit_at="long long", when="long long", arrived="long long",
               free_at="long long", drained_at="long long", stalls="long long", stalled="long long", back="long long",
               length="long long", carried="long long", record="bint")
cpdef long long run_block(const long long[::1] ready, const long long[::1] payload, long long[::1] sent,
    long long[::1] drained, long long[::1] ring, long long[::1] state, long long count, long long byte,
    long long around, long long propagation, long long drain, long long r_rdy, long long payload_limit, long long last_tick) except? -2
