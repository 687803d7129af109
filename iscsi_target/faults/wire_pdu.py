# SPDX-License-Identifier: Apache-2.0
"""One PDU as it lies on the wire, decoded as far as somebody asks; and the ways to change it."""

from __future__ import annotations

import struct
from dataclasses import fields, replace
from functools import cached_property
from typing import Any

from iscsi_target.faults.errors import FaultError
from iscsi_target.wire.codec import CODECS, Pdu
from iscsi_target.wire.derive import MalformedPdu
from iscsi_target.wire.digest import DIGEST_BYTES, digest
from iscsi_target.wire.opcodes import BHS_BYTES

_word_at = struct.Struct(">I").unpack_from


class WirePdu:
    """A whole PDU. `raw` is what is on the wire: header, additional headers, header digest, data, padding, data digest.

    Changing methods return a new one; digests that are on the wire are made to match unless told otherwise.
    """

    def __init__(self, raw: bytes, *, header_digest: bool = False, data_digest: bool = False) -> None:
        self.raw = raw
        self.header_digest = header_digest
        self.data_digest = data_digest

    # -- what it says -------------------------------------------------------------------------------------------

    @property
    def opcode(self) -> int:
        """The opcode without the I bit."""
        return self.raw[0] & 0x3F

    @property
    def immediate(self) -> bool:
        """The I bit (of requests)."""
        return bool(self.raw[0] & 0x40)

    @property
    def header(self) -> bytes:
        """The basic header segment."""
        return self.raw[:BHS_BYTES]

    @property
    def lun_field(self) -> bytes:
        """Bytes 8 to 15: the LUN, of the PDUs that have one."""
        return self.raw[8:16]

    @property
    def initiator_task_tag(self) -> int:
        """Bytes 16 to 19, the same in every PDU."""
        return int(_word_at(self.raw, 16)[0])

    @property
    def ahs_bytes(self) -> int:
        """Length of the additional header segments."""
        return self.raw[4] * 4

    @property
    def data_bytes(self) -> int:
        """DataSegmentLength."""
        return int(_word_at(self.raw, 4)[0]) & 0xFFFFFF

    @property
    def _data_at(self) -> int:
        return BHS_BYTES + self.ahs_bytes + (DIGEST_BYTES if self.header_digest else 0)

    @property
    def ahs(self) -> bytes:
        """The additional header segments."""
        return self.raw[BHS_BYTES : BHS_BYTES + self.ahs_bytes]

    @property
    def data(self) -> bytes:
        """The data segment without padding."""
        return self.raw[self._data_at : self._data_at + self.data_bytes]

    @cached_property
    def decoded(self) -> Pdu | None:
        """The PDU as the dataclass of its opcode; None when it is none that RFC 7143 defines."""
        codec = CODECS.get(self.opcode)
        if codec is None:
            return None
        try:
            pdu: Pdu = codec.decode(self._without_digests())
        except MalformedPdu:
            return None
        return pdu

    def number(self, name: str) -> int | None:
        """The integer field `name` of the header; None when this PDU has no such field."""
        codec = CODECS.get(self.opcode)
        if codec is None or name not in codec.bits:
            return None
        return int(codec.unpack(self.raw, 0)[codec.names.index(name)])

    # -- changes ------------------------------------------------------------------------------------------------

    def with_number(self, name: str, value: int) -> WirePdu:
        """The same with another integer in the header, modulo its width. Raises FaultError: there is no such field."""
        codec = CODECS.get(self.opcode)
        if codec is None or name not in codec.bits:
            raise FaultError(f"this PDU has no {name}")
        values = list(codec.unpack(self.raw, 0))
        values[codec.names.index(name)] = value & (1 << codec.bits[name]) - 1
        header: bytes = codec.pack(*values)
        return self._with_header(bytes((self.raw[0],)) + header[1:])

    def with_data(self, data: bytes) -> WirePdu:
        """The same with another data segment, its length and digests to match."""
        if len(data) >= 1 << 24:
            raise FaultError(f"a data segment of {len(data)} bytes cannot be announced")
        header = self.raw[:5] + len(data).to_bytes(3, "big") + self.raw[8:BHS_BYTES]
        return self._assembled(header, self.ahs, data)

    def with_fields(self, **values: Any) -> WirePdu:
        """The same with other fields of the dataclass (:attr:`decoded`), digests to match. Raises FaultError."""
        pdu: Any = self.decoded
        if pdu is None:
            raise FaultError("this PDU is none that RFC 7143 defines")
        known = {entry.name for entry in fields(pdu)}
        if unknown := set(values) - known:
            raise FaultError(f"a {type(pdu).__name__} has no {', '.join(sorted(unknown))}")
        try:
            changed = replace(pdu, **values)
            header = CODECS[self.opcode].header(changed)
        except (ValueError, TypeError) as error:
            raise FaultError(str(error)) from None
        return self._assembled(header, changed.ahs, changed.data)

    def with_header_bits_flipped(self, bits: tuple[int, ...], *, recompute: bool) -> WirePdu:
        """The same with bits of the basic and additional headers flipped. The lengths in it may then not fit the
        rest."""
        end = BHS_BYTES + self.ahs_bytes
        head = flipped(self.raw[:end], bits)
        rest = self.raw[end:]
        if self.header_digest and recompute:
            rest = digest(head) + rest[DIGEST_BYTES:]
        return self._raw(head + rest)

    def with_data_bits_flipped(self, bits: tuple[int, ...], *, recompute: bool) -> WirePdu:
        """The same with bits of the data segment flipped."""
        data = flipped(self.data, bits)
        if recompute:
            return self.with_data(data)
        start = self._data_at
        return self._raw(self.raw[:start] + data + self.raw[start + len(data) :])

    def with_digest_bits_flipped(self, bits: tuple[int, ...], *, of_header: bool) -> WirePdu:
        """The same with bits of a digest flipped. Raises FaultError: it has none."""
        if not self.has_digest(of_header=of_header):
            raise FaultError("this PDU has no such digest")
        end = BHS_BYTES + self.ahs_bytes + DIGEST_BYTES if of_header else len(self.raw)
        start = end - DIGEST_BYTES
        return self._raw(self.raw[:start] + flipped(self.raw[start:end], bits) + self.raw[end:])

    def has_digest(self, *, of_header: bool) -> bool:
        """Whether there is a header digest, or a data digest."""
        return self.header_digest if of_header else self.data_digest and self.data_bytes > 0

    def _without_digests(self) -> bytes:
        end = self._data_at + (self.data_bytes + 3 & ~3)
        return self.raw[: BHS_BYTES + self.ahs_bytes] + self.raw[self._data_at : end]

    def _with_header(self, header: bytes) -> WirePdu:
        """Another basic header with the same lengths; its digest is made to match."""
        rest = self.raw[BHS_BYTES:]
        if self.header_digest:
            ahs = self.ahs
            rest = ahs + digest(header, ahs) + rest[len(ahs) + DIGEST_BYTES :]
        return self._raw(header + rest)

    def _assembled(self, header: bytes, ahs: bytes, data: bytes) -> WirePdu:
        parts = [header, ahs]
        if self.header_digest:
            parts.append(digest(header, ahs))
        padding = bytes(-len(data) % 4)
        parts += [data, padding]
        if self.data_digest and data:
            parts.append(digest(data, padding))
        return self._raw(b"".join(parts))

    def _raw(self, raw: bytes) -> WirePdu:
        return WirePdu(raw, header_digest=self.header_digest, data_digest=self.data_digest)


def flipped(data: bytes, bits: tuple[int, ...]) -> bytes:
    """`data` with these bits inverted; bit 0 is the most significant of the first byte. Bits beyond its end are
    left."""
    changed = bytearray(data)
    for bit in bits:
        if bit >> 3 < len(changed):
            changed[bit >> 3] ^= 0x80 >> (bit & 7)
    return bytes(changed)
