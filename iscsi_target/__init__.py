# SPDX-License-Identifier: Apache-2.0
"""iSCSI over TCP (RFC 7143, RFC 7144): an emulated target and an initiator.

::

    server.py, initiator.py    shells: sockets, the event loop, time
      session/                 sans-IO cores: login, negotiation, command window, tasks, both ends
        wire/                  bytes: one description per PDU, framing, digests, text keys
    executor.py                the seam to the device server in scsi/
    buffers.py, tcp.py         who may send how much: units for Data-In, reserved memory for a connection's bytes
"""
