cimport cython

from tools.capture.fcp_kernel cimport FcpTasks
from tools.capture.task_kernel cimport Connection, Nexus, Task

cdef long long ROW_WORDS, ROW_BYTES, HEADER_AT, ISCSI, FC, AFTER_GAP, PEER_WAITS
cdef long long CMD_SN_ORDER, CMD_SN_WINDOW, EXP_STAT_SN, TASK_TAG_IN_USE, IMMEDIATE_DATA, FIRST_BURST, UNSOLICITED_DATA
cdef long long DATA_OUT_SN, DATA_OUT_OFFSET, DATA_OUT_BEYOND, DATA_SEGMENT_LENGTH, STAT_SN, MAX_CMD_SN, DATA_IN_SN
cdef long long DATA_IN_OFFSET, DATA_IN_BEYOND, R2T_SN, R2T_LENGTH, R2T_BEYOND, R2T_OUTSTANDING, UNKNOWN_TASK, MISSING_DATA
cdef long long EXP_DATA_SN, READ, WRITE, MANAGEMENT, MASK, HALF, HIGH_LIMIT

cdef long long u16(const unsigned char[::1] data, long long at) except? -1
@cython.locals(b0="long long", b1="long long", b2="long long", b3="long long")
cdef long long u32(const unsigned char[::1] data, long long at) except? -1


cdef class Matcher(FcpTasks):
    cdef public object listener
    cdef list kept

    @cython.locals(number="long long", at="long long", kind="long long")
    cdef long long _rows(self, const long long[::1] words, const unsigned char[::1] octets, long long count) except -1
    @cython.locals(flow="long long", opcode="long long", connection=Connection, notes="long long", key="long long",
        task=Task, lun_word="long long", nexus=Nexus)
    cdef long long _pdu(self, const unsigned char[::1] octets, long long at, const long long[::1] words, long long row) except -1
    cdef long long _login(self, Connection connection, long long opcode, long long kept) except -1
    cdef long long _exp_data_sn(self, Connection connection, Task task, long long response, long long said) except -1
    @cython.locals(nexus=Nexus)
    cdef long long _residual(self, Task task, long long flags) except -1
    @cython.locals(cmd_sn="long long", immediate="long long", free="long long", used="long long", beyond="bint")
    cdef long long _cmd_sn(self, Connection connection, const unsigned char[::1] octets, long long at) except -1
    @cython.locals(stat_sn="long long", exp_cmd_sn="long long", max_cmd_sn="long long", bears="long long", size="long long")
    cdef long long _numbers(self, Connection connection, const unsigned char[::1] octets, long long at, long long opcode) except -1
    @cython.locals(lun_word="long long", nexus=Nexus, task=Task, flags="long long", length="long long")
    cdef long long _command(self, Connection connection, const unsigned char[::1] octets, long long at,
        const long long[::1] words, long long row, long long key) except -1
    @cython.locals(length="long long", offset="long long")
    cdef long long _data_in(self, Connection connection, Task task, const unsigned char[::1] octets, long long at,
        long long begin) except -1
    @cython.locals(task=Task, length="long long", tag="long long", offset="long long", nexus=Nexus)
    cdef long long _data_out(self, Connection connection, const unsigned char[::1] octets, long long at, long long begin,
        long long key) except -1
    @cython.locals(task=Task, offset="long long", length="long long")
    cdef long long _r2t(self, Connection connection, const unsigned char[::1] octets, long long at, long long key) except -1
    @cython.locals(task=Task)
    cdef long long _managed(self, long long key, long long flow, long long response) except -1
    @cython.locals(task=Task, nexus=Nexus)
    cdef long long _abort(self, object key) except -1
