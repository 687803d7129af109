# SPDX-License-Identifier: Apache-2.0
"""iSCSI over TCP (RFC 7143, RFC 7144): an emulated target and an initiator.

::

    server.py, initiator.py    shells: sockets, the event loop, time
      session/                 sans-IO cores: login, negotiation, command window, tasks, both ends
        wire/                  bytes: one description per PDU, framing, digests, text keys
    executor.py                the seam to the device server in scsi/
    wire_filter.py             the seam to who changes bytes on their way: faults/ (rules), trace/ (log, captures)
    instruments.py, running.py both put to work in a server; a server in a thread of this process
    buffers.py, tcp.py         who may send how much: units for Data-In, reserved memory for a connection's bytes
    fast_path_kernel.py        READ and WRITE of memory without a task, compiled where a compiler is at hand
"""

from credits.plain_kernels import heed_the_variable as _heed_the_variable

_heed_the_variable()
