cimport cython

cdef long long STEPS, FIRST_STEP_NS


cdef class PeakSteps:
    cdef readonly object words
    cdef long long[::1] values
    cdef readonly long long start_ns, largest, width_ns

    @cython.locals(at="long long", i="long long", step="long long", values="long long[::1]")
    cpdef long long add(self, long long now, long long value) except -1
