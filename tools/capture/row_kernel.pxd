cimport cython

cdef long long ROW_BYTES, ROW_WORDS, HEADER_AT, TABLE_ROWS, KEPT_TABLE, REMARK_LIMIT


cdef class Rows:
    cdef const unsigned char[::1] data
    cdef object view
    cdef public long long base, now, packet, interface, way, place, rows
    cdef public list ready, remarks, kept
    cdef public dict remarked
    cdef public object words_of_part
    cdef long long[::1] words
    cdef unsigned char[::1] octets
    cdef readonly long long count, kept_bytes

    cpdef long long finish_part(self) except -1
    cpdef long long remark(self, str what, long long offset) except -1
    @cython.locals(at="long long")
    cdef long long row(self, long long begin, long long offset, long long flow, long long length, long long kind,
        long long notes) except -1
    cdef long long keep_bytes(self, bytes whole) except -1
