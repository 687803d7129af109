cimport cython

from tools.capture.task_kernel cimport Connection, Nexus, Task, Tasks

cdef long long FC_PAYLOAD_AT, SEQ_CNT, RELATIVE_OFFSET, XFER_RDY_BEYOND, UNKNOWN_EXCHANGE, EXCHANGE_IN_USE
cdef long long FCP_DATA_BEYOND, FCP_RESIDUAL, READ, WRITE, FIBRE, MANAGEMENT, MASK, HALF, HIGH_LIMIT, FCP, ELS, BLS
cdef long long DATA, DATA_SOLICITED, XFER_RDY, COMMAND, RESPONSE, ABTS, BA_ACC, ELS_REQUEST, PLOGI, LOGO, PRLI, PRLO, KEY

cdef long long u16(const unsigned char[::1] data, long long at) except? -1
@cython.locals(b0="long long", b1="long long", b2="long long", b3="long long")
cdef long long u32(const unsigned char[::1] data, long long at) except? -1


cdef class FcpTasks(Tasks):
    @cython.locals(kind="long long")
    cdef long long fibre(self, const unsigned char[::1] octets, long long at, const long long[::1] words, long long row) except -1
    @cython.locals(r_ctl="long long", flow="long long", responder="long long", origin="long long", ox_id="long long",
        key="long long", payload="long long", task=Task, connection=Connection, flags="long long", nexus=Nexus,
        moved="long long", length="long long")
    cdef long long _fcp(self, const unsigned char[::1] octets, long long at, const long long[::1] words, long long row) except -1
    @cython.locals(df_ctl="long long", length="long long", placed="long long", offset="long long")
    cdef long long _fcp_data(self, Connection connection, Task task, const unsigned char[::1] octets, long long at,
        long long size) except -1
    @cython.locals(seq_id="long long", count="long long")
    cdef long long _sequence(self, Connection connection, Task task, const unsigned char[::1] octets, long long at) except -1
    @cython.locals(payload="long long", lun_word="long long", nexus=Nexus, task=Task, former=Task, management="long long",
        direction="long long")
    cdef long long _fcp_command(self, const unsigned char[::1] octets, long long at, const long long[::1] words, long long row,
        long long key, long long flow) except -1
    @cython.locals(origin="long long", key="long long", task=Task, nexus=Nexus)
    cdef long long _aborted(self, const unsigned char[::1] octets, long long at, long long flow) except -1
    @cython.locals(connection=Connection)
    cdef long long _login_or_out(self, long long command, long long flow) except -1
