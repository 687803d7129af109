# cython: boundscheck=True, wraparound=False, cdivision=False, initializedcheck=False, annotation_typing=False
# cython: infer_types=True, language_level=3
"""Whether bytes can be the basic header segment of an iSCSI PDU (RFC 7143 section 11)."""

from __future__ import annotations

from collections.abc import Sequence

COMPILED = not __file__.endswith(".py")

NO_TAG = 0xFFFFFFFF


def u16(data: Sequence[int], at: int) -> int:
    """Two bytes, big-endian."""
    high = data[at]
    return high << 8 | data[at + 1]


def u32(data: Sequence[int], at: int) -> int:
    """Four bytes, big-endian."""
    b0, b1, b2, b3 = data[at], data[at + 1], data[at + 2], data[at + 3]
    return b0 << 24 | b1 << 16 | b2 << 8 | b3


def plausible(data: Sequence[int], at: int, role: int) -> int:
    """Whether a header segment that keeps to RFC 7143 section 11 can stand there; its opcode + 1, or 0.

    ``role``: 1 as an initiator sends it, 2 as a target does, 0 either.
    """
    first = data[at]
    flags = data[at + 1]
    opcode = first & 0x3F
    if first & 0x80 or (role == 1 and opcode >= 0x20) or (role == 2 and opcode < 0x20):
        return 0
    lengths = u32(data, at + 4)
    ahs = lengths >> 24
    length = lengths & 0xFFFFFF
    reserved = u16(data, at + 2)
    if opcode == 0x25:
        # DataSN and F, A, O, U, S; without S, status and residual are reserved
        good = flags & 0x38 == 0 and data[at + 2] == 0 and ahs == 0
        if good and not flags & 1:
            good = reserved == 0 and length > 0
    elif opcode == 0x01:
        good = flags & 0x18 == 0 and flags & 7 <= 4 and reserved == 0 and ahs <= 80
    elif opcode == 0x21:
        status = data[at + 3]
        good = flags & 0xE1 == 0x80 and ahs == 0 and status & 0x81 == 0 and length <= 65536
    elif opcode == 0x05:
        good = flags & 0x7F == 0 and reserved == 0 and ahs == 0
    elif opcode == 0x31:
        good = flags == 0x80 and reserved == 0 and lengths == 0
    elif opcode == 0x00 or opcode == 0x20:
        good = flags == 0x80 and reserved == 0 and ahs == 0
    elif opcode == 0x02:
        good = flags & 0x80 != 0 and 1 <= flags & 0x7F <= 14 and reserved == 0 and lengths == 0
    elif opcode == 0x03:
        good = first == 0x43 and flags & 0x30 == 0 and reserved <= 0x0202 and ahs == 0 and length <= 65536
    elif opcode == 0x23:
        good = flags & 0x30 == 0 and reserved <= 0x0202 and ahs == 0 and length <= 65536
        good = good and data[at + 36] <= 3
    elif opcode == 0x04 or opcode == 0x24:
        good = flags & 0x3F == 0 and reserved == 0 and ahs == 0
    elif opcode == 0x06:
        good = flags & 0x80 != 0 and flags & 0x7F <= 2 and reserved == 0 and lengths == 0
    elif opcode == 0x26 or opcode == 0x22:
        good = flags == 0x80 and lengths == 0 and data[at + 3] == 0
    elif opcode == 0x10:
        good = flags & 0xF0 == 0x80 and flags & 0x0F <= 3 and reserved == 0 and lengths == 0
    elif opcode == 0x32:
        good = flags == 0x80 and reserved == 0 and ahs == 0 and u32(data, at + 16) == NO_TAG
    elif opcode == 0x3F:
        good = flags == 0x80 and ahs == 0 and u32(data, at + 16) == NO_TAG
    else:
        good = False
    if good and opcode >= 0x20 and opcode != 0x23:
        # MaxCmdSN is never far from ExpCmdSN
        good = (u32(data, at + 32) + 1 - u32(data, at + 28)) & NO_TAG < 0x10000
    return opcode + 1 if good else 0


def known(data: Sequence[int], at: int) -> int:
    """Whether a header segment that stands where one must stand has an opcode of RFC 7143 section 11.2.1.2."""
    opcode = data[at] & 0x3F
    return (
        opcode <= 0x06
        or 0x20 <= opcode <= 0x26
        or opcode == 0x10
        or opcode == 0x31
        or opcode == 0x32
        or opcode == 0x3F
        or 0x1C <= opcode <= 0x1E
        or 0x3C <= opcode <= 0x3E
    )
