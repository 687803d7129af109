cimport cython

from tools.capture.header_kernel cimport known, plausible
from tools.capture.row_kernel cimport Rows

cdef long long HEADER_BYTES, KEPT_LIMIT, ISCSI, SPLIT, CUT, HEADER_DIGEST, DATA_DIGEST, AFTER_GAP, REPEATED, PEER_WAITS
cdef long long BHS, MASK, HALF, UNDECIDED, ISCSI_STREAM, FCIP_STREAM, OTHER_STREAM, TRIES, CERTAIN, SURE_AFTER
cdef long long HELD_SEGMENTS, HELD_BYTES, HELD_ALL_BYTES, GIVE_UP_AFTER, KEPT_OPCODES

cdef long long u16(const unsigned char[::1] data, long long at) except? -1
@cython.locals(b0="long long", b1="long long", b2="long long", b3="long long")
cdef long long u32(const unsigned char[::1] data, long long at) except? -1


cdef class Direction:
    cdef public Direction peer
    cdef readonly long long number
    cdef readonly long long side
    cdef readonly bytes key
    cdef public long long a0, a1, a2, a3, b0, b1, b2, b3, ports, source_port, destination_port
    cdef public long long protocol, role, tries, score, sure, agreed, slipped, lost, started, expected
    cdef public long long have, skip, total, last_length, begin_ns, begin_offset, notes
    cdef public long long header_digest, data_digest, wanted_header, wanted_data
    cdef unsigned char[::1] header
    cdef public object keeping
    cdef public bytes prefix
    cdef public list held
    cdef public object flight, windows
    cdef public long long in_flight
    cdef public long long held_bytes
    cdef public long long initial, packets, payload, pdus, frames, retransmitted, out_of_order, gaps, gap_bytes, cut_headers
    cdef public long long high, any_acknowledged, acknowledged, max_in_flight, max_in_flight_ns, window, window_scale, mss
    cdef public long long window_max, window_full_ns, full_since
    cdef public long long first_ns, last_ns, syn_ns, handshake_ns, timed_end, timed_ns, rtt_min_ns, rtt_sum_ns, rtt_count
    cdef public long long family, opened, high_known, fresh, window_fulls, zero_windows, wire_bytes


cdef class Streams(Rows):
    cdef public long long held_bytes, only_ports, keep_all, incomplete, cut_headers, figures_only
    cdef public list flows
    cdef public object ports
    cdef long long[::1] opcodes

    @cython.locals(ahead="long long", behind="long long")
    cdef long long segment(self, Direction d, long long seq, long long at, long long captured, long long wire) except -1
    cdef long long _hold(self, Direction d, long long seq, long long at, long long captured, long long wire) except -1
    cdef bint _acknowledged(self, Direction d) except -1
    cdef long long _release(self, Direction d, bint late) except -1
    @cython.locals(missing="long long")
    cdef long long _give_up(self, Direction d) except -1
    cdef long long _skip_gap(self, Direction d, long long missing) except -1
    cdef long long _lose(self, Direction d) except -1
    cpdef long long end(self) except -1
    @cython.locals(peer=Direction, opcode="long long", place="long long", login="bint", mine="bint")
    cdef long long _decide(self, Direction d, long long at, long long captured) except -1
    cdef long long ours(self, Direction d) except -1
    @cython.locals(place="long long", lengths="long long")
    cdef long long _chain(self, long long at, long long captured, long long role) except -1
    @cython.locals(place="long long", lengths="long long", last="long long", chain="long long", follow="long long",
        role="long long")
    cdef long long _search(self, Direction d, long long at, long long p, long long captured, long long least) except? -1
    @cython.locals(p="long long", take="long long", left="long long", i="long long", good="bint")
    cdef long long _deliver(self, Direction d, long long at, long long captured, long long wire) except -1
    @cython.locals(octets=bytes)
    cdef long long _deliver_beginning(self, Direction d, long long at, long long captured, long long wire) except -1
    @cython.locals(place="long long", shift="long long")
    cdef long long _find_again(self, Direction d, long long at, long long p, long long captured) except? -1
    @cython.locals(good="bint")
    cdef long long _header_is_bad(self, Direction d, long long at) except -1
    cdef bint _lenient(self, Direction d) except -1
    cdef long long _no_header(self, Direction d) except -1
    @cython.locals(i="long long")
    cdef long long _copy(self, Direction d, long long at) except -1
    @cython.locals(lengths="long long", length="long long", opcode="long long", body="long long", wanted="long long")
    cdef long long _begun(self, Direction d, long long left) except -1
    cdef long long _gather(self, Direction d, long long at, long long captured, long long wire) except -1
    @cython.locals(opcode="long long", back="long long", at="long long", i="long long", peer=Direction)
    cdef long long _complete(self, Direction d) except -1
    cdef long long deliver_fcip(self, Direction d, long long at, long long captured, long long wire) except -1
