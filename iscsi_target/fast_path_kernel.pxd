# SPDX-License-Identifier: Apache-2.0
cimport cython


cdef class FastDisk:
    cdef public object look
    cdef public object memory
    cdef public object find
    cdef public long long granule_bytes
    cdef public object read
    cdef public object write
    cdef public long long block_length
    cdef public long long max_blocks


cdef class FastUnit:
    cdef public FastDisk disk
    cdef public object lun
    cdef public object traffic
    cdef public long long readable
    cdef public long long writable


cdef class FastPath:
    cdef tuple _reads
    cdef tuple _writes
    cdef object _find
    cdef dict _units
    cdef long long _write_limit
    cdef bint _header_digest
    cdef bint _data_digest
    cdef public list taken
    cdef public long long data_in_bytes
    cdef public long long exp_cmd_sn
    cdef public long long max_cmd_sn
    cdef public long long stat_sn
    cdef public long long output_bytes
    cdef public long long read_limit
    cdef public long long failures

    @cython.locals(
        octets="const unsigned char[::1]",
        overhead="long long",
        readable="long long",
        writable="long long",
        block_length="long long",
        max_blocks="long long",
        flags="long long",
        lengths="long long",
        expected="long long",
        cmd_sn="long long",
        cdb_flags="long long",
        lba="long long",
        blocks="long long",
        control="long long",
        data_start="long long",
        after="long long",
        unit=FastUnit,
    )
    cpdef long long take(
        self, object source, long long start, long long end, dict tasks, long long exp_cmd_sn, long long max_cmd_sn
    ) except -1

    cdef FastUnit _unit(self, object lun)

    @cython.locals(
        unit=FastUnit,
        its_unit=FastUnit,
        disk=FastDisk,
        granule_bytes="long long",
        offset="long long",
        length="long long",
        reads="long long",
        writes="long long",
        read_bytes="long long",
        written_bytes="long long",
        done="long long",
        output_bytes="long long",
        all_read_bytes="long long",
        next_max_cmd_sn="long long",
        header_digest="bint",
        data_digest="bint",
    )
    cpdef list run(
        self, list output, long long stat_sn, long long exp_cmd_sn, long long max_cmd_sn, long long limit_bytes
    )

    cpdef list give_up(self)
