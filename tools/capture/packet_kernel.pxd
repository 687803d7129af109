cimport cython

from tools.capture.frame_kernel cimport Frames
from tools.capture.peaks_kernel cimport PeakSteps
from tools.capture.stream_kernel cimport Direction

cdef long long NATIVE, MASK, HALF, SYN, FIN, RST, ACK, CACHE, FRAME_HEADER, ISCSI_STREAM, FLIGHTS

cdef long long u16(const unsigned char[::1] data, long long at) except? -1
@cython.locals(b0="long long", b1="long long", b2="long long", b3="long long")
cdef long long u32(const unsigned char[::1] data, long long at) except? -1


cdef class Packets(Frames):
    cdef object fragments
    cdef public long long bytes, cut_packets, unknown_links, fragmented, tcp_packets, vlan
    cdef public long long follow_flights, flights, flight_sum
    cdef public PeakSteps flight_all
    cdef long long a0, a1, a2, a3, b0, b1, b2, b3, family, addresses_at

    @cython.locals(end="long long", skip="long long", version="long long")
    cdef long long one_packet(self, long long link_type, long long at, long long captured, long long original) except -1
    @cython.locals(ethertype="long long")
    cdef long long _ethernet(self, long long at, long long end, long long wire_end) except -1
    cdef long long _network(self, long long ethertype, long long at, long long end, long long wire_end) except -1
    @cython.locals(header="long long", total="long long", ip_end="long long", fragment="long long")
    cdef long long _ipv4(self, long long at, long long end, long long wire_end) except -1
    @cython.locals(length="long long", ip_end="long long", next_header="long long", place="long long", offset="long long")
    cdef long long _ipv6(self, long long at, long long end, long long wire_end) except -1
    @cython.locals(peer=Direction, ports="long long", seq="long long", header="long long", flags="long long",
        wire="long long", captured="long long", d=Direction)
    cdef long long _tcp(self, long long at, long long end, long long ip_end) except -1
    @cython.locals(flight="long long")
    cdef long long _follow(self, Direction d, long long reset) except -1
    @cython.locals(index="long long", d=Direction, size="long long", half="long long")
    cdef Direction _direction(self, long long ports, long long at)
    cdef long long _address(self, Direction d, long long ports) except -1
    cpdef Direction _again(self, Direction d)
    @cython.locals(kind="long long", size="long long")
    cdef long long _syn(self, Direction d, long long seq, long long flags, long long at, long long end) except -1
    @cython.locals(flight="long long")
    cdef long long _sent(self, Direction d, long long end) except -1
    @cython.locals(sample="long long", flight="long long")
    cdef long long _acknowledge(self, Direction d, long long number, long long window, Direction acker, long long syn) except -1
