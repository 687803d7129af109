cimport cython

cdef long long EXCHANGE_WORDS, MASK, COMPLETION, FIRST_DATA, HOST_RESPONSE, SIZE

@cython.locals(start="long long", found="long long")
cdef long long value(const long long[::1] words, long long at, long long metric) except? -2
@cython.locals(number="long long", at="long long")
cpdef long long count_groups(const long long[::1] words, long long count, long long metric, long long flags,
    const long long[::1] group_of, long long[::1] counts) except -1
@cython.locals(number="long long", at="long long", figure="long long", group="long long", place="long long")
cpdef long long gather(const long long[::1] words, long long count, long long metric, long long flags,
    const long long[::1] group_of, long long[::1] next_of, long long[::1] out) except -1
@cython.locals(count="long long", total="long long", i="long long", root="long long", last="long long", top="long long")
cpdef long long sort(long long[::1] values, long long start, long long end) except? -1
@cython.locals(moved="long long", child="long long")
cdef long long _sift(long long[::1] values, long long start, long long root, long long count) except -1
@cython.locals(at="long long", same="long long", begin="long long")
cpdef list runs(const long long[::1] values, long long start, long long end, long long most)
