cimport cython

cdef long long NO_TAG

cdef long long u16(const unsigned char[::1] data, long long at) except? -1
@cython.locals(b0="long long", b1="long long", b2="long long", b3="long long")
cdef long long u32(const unsigned char[::1] data, long long at) except? -1
@cython.locals(good="bint", first="long long", flags="long long", opcode="long long", lengths="long long",
    ahs="long long", length="long long", reserved="long long", status="long long")
cpdef long long plausible(const unsigned char[::1] data, long long at, long long role) except? -1
@cython.locals(opcode="long long")
cpdef bint known(const unsigned char[::1] data, long long at) except? -1
