cimport cython

cdef long long EXCHANGE_WORDS, EXCHANGES_PER_BLOCK, READ, WRITE, MANAGEMENT, RULE_COUNT, HIGH_LIMIT, OPEN_LIMIT


cdef class Nexus:
    cdef readonly long long number, flow, fibre
    cdef readonly bytes lun
    cdef public dict statuses, management
    cdef public long long commands, reads, writes, others, bytes_in, bytes_out, lun_word
    cdef public long long outstanding, outstanding_max, busy_ns, depth_ns, changed_ns
    cdef public long long first_ns, last_ns, unanswered, aborted, r2ts, underflows, overflows, unsolicited, failures


cdef class Task:
    cdef public Nexus nexus
    cdef public long long tag, start, begin, first, ready, data, lun_word, cdb0, cdb1, edtl, bytes_in, bytes_out, packet
    cdef public long long flags, depth, r2ts, data_sn, in_offset, out_offset, out_sn, burst_end, burst_tag, open_r2ts
    cdef public long long seq_id, seq_cnt, function, referenced, cut, unsolicited_end, gaps


cdef class Connection:
    cdef readonly long long flow
    cdef public long long cmd_sn, stat_sn, max_cmd_sn, exp_cmd_sn, initiator_segment, target_segment, max_burst
    cdef public long long first_burst, immediate, initial_r2t, outstanding_r2t, data_in_order, agreed, window_max
    cdef public long long window_zero, window_used, window_samples, window_sum, window_free_min, shared, gap, gaps, unmatched, peer_waits
    cdef public long long[::1] rules, first_packets


cdef class Tasks:
    cdef public dict tasks, by_lun, connections
    cdef public list nexuses, blocks
    cdef public object block
    cdef public long long now, packet, count, total, given_up, last_flow
    cdef Connection last_connection
    cdef Nexus last_nexus
    cdef long long[::1] words

    cpdef Connection connection(self, long long flow)
    cdef Nexus nexus(self, long long flow, const unsigned char[::1] octets, long long at, long long lun_word, long long fibre)
    cdef long long violation(self, Connection connection, long long rule) except -1
    cdef long long depth(self, Nexus nexus, long long now) except -1
    @cython.locals(nexus=Nexus)
    cdef long long open(self, object key, Task task) except -1
    @cython.locals(nexus=Nexus)
    cdef long long drop(self, Task task) except -1
    @cython.locals(nexus=Nexus, at="long long")
    cdef long long close(self, Task task, long long status, long long response) except -1
