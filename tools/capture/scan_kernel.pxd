cimport cython

from tools.capture.packet_kernel cimport Packets

cdef long long RECORD_LIMIT, SECTION, INTERFACE, OLD_PACKET, SIMPLE, NAMES, STATISTICS, ENHANCED, UNKNOWN_FILE, PCAP, PCAPNG
cdef long long INTERFACE_LIMIT, EXACT, MICRO, NANO, NS_PER_S, SECOND_LIMIT


cdef class Scanner(Packets):
    cdef public object link_types, resolutions, snap_lengths
    cdef public list described, names
    cdef public dict reported_drops
    cdef long long[::1] link_of, resolution_of, snap_of
    cdef readonly long long files, first_ns, last_ns
    cdef long long format, searching, stuck, first_interface, big, nano, record_header, link_type, snap

    cpdef long long begin(self) except -1
    @cython.locals(at="long long", after="long long")
    cpdef long long feed(self, object buffer, long long start, long long end, long long base, bint final) except -1
    @cython.locals(b0="long long", b1="long long", b2="long long", b3="long long")
    cdef long long _read32(self, long long at) except? -1
    @cython.locals(b0="long long", b1="long long")
    cdef long long _read16(self, long long at) except? -1
    @cython.locals(magic="long long", big="long long")
    cdef long long _recognise(self, long long at, long long end) except -1
    @cython.locals(header="long long", fraction_limit="long long", scale="long long", link_type="long long",
        seconds="long long", fraction="long long", captured="long long", original="long long")
    cdef long long _records(self, long long at, long long end) except -1
    cdef long long _timed(self) except -1
    @cython.locals(kind="long long", magic="long long", length="long long")
    cdef long long _blocks(self, long long at, long long end) except -1
    @cython.locals(number="long long", high="long long", low="long long", captured="long long", original="long long",
        resolution="long long", link_type="long long", options="long long")
    cdef long long _enhanced(self, long long at, long long end) except -1
    @cython.locals(number="long long", original="long long", captured="long long", snap="long long")
    cdef long long _other_packet(self, long long kind, long long at, long long end) except -1
    cdef long long _lost_place(self, str what, long long at) except -1
    @cython.locals(step="long long", place="long long", after="long long", good="bint")
    cdef long long _find_record(self, long long at, long long end, bint final) except -1
    @cython.locals(captured="long long", original="long long", limit="long long", seconds="long long", near="long long",
        kind="long long", length="long long")
    cdef long long _record_end(self, long long at, long long end) except? -1
