cimport cython

from tools.capture.stream_kernel cimport Direction, Streams

cdef long long ROW_WORDS, HEADER_BYTES, FC, ORDERED_SET, FIP, NATIVE, FCOE, FCIP, CUT, PAYLOAD_CUT, OTHER_STREAM, CACHE
cdef long long DIRECTION_LIMIT, FRAME_HEADER, DELIMITERS, FCIP_HEADER, FCIP_FRAME_LIMIT, FCIP_WORD
cdef long long DELIMITER_CACHE

cdef long long u16(const unsigned char[::1] data, long long at) except? -1
@cython.locals(b0="long long", b1="long long", b2="long long", b3="long long")
cdef long long u32(const unsigned char[::1] data, long long at) except? -1


cdef class Frames(Streams):
    cdef public dict directions
    cdef list cache
    cdef long long[::1] r_ctls, types, sof_words, sof_codes, eof_words, eof_codes, eof_known
    cdef public long long others, frames, frame_bytes, ordered_sets, fips

    cpdef Direction pair(self, bytes key, bytes back)
    @cython.locals(one="long long")
    cdef long long _is_eof(self, long long code) except -1
    @cython.locals(content_end="long long", eof="long long")
    cdef long long fcoe(self, long long at, long long end, long long wire_end) except -1
    @cython.locals(place="long long", i="long long", sof="long long", eof="long long", frame_end="long long",
        word="long long", index="long long")
    cdef long long delimited(self, long long at, long long end, long long wire_end) except -1
    @cython.locals(start="long long", extended="long long", vsan="long long", first="long long", step="long long", d=Direction,
        payload="long long", df_ctl="long long", notes="long long", length="long long", offset="long long",
        flow="long long", place="long long", word="long long", i="long long", frame_type="long long", r_ctl="long long",
        octets="unsigned char[::1]", words="long long[::1]")
    cdef long long frame(self, long long at, long long end, long long wire_end, long long record, long long sof,
        long long eof, long long carrier) except -1
    @cython.locals(index="long long", d=Direction)
    cdef Direction _addresses(self, long long d_id, long long s_id, long long vsan)
    @cython.locals(place="long long", i="long long")
    cdef long long fip(self, long long at, long long end, long long wire_end) except -1
    @cython.locals(place="long long", p="long long", need="long long", take="long long", cut="bint")
    cdef long long deliver_fcip(self, Direction d, long long at, long long captured, long long wire) except -1
    @cython.locals(place="long long")
    cdef long long _search_fcip(self, long long at, long long captured) except? -1
    @cython.locals(end="long long")
    cdef long long _fcip_frame(self, Direction d, bytes whole) except -1
