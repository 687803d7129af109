"""Fuzz target: framing, every codec, additional headers.

Input: one byte of options, then the stream. Whatever the bytes: the same frames come out however they are cut; the
derived codec and construct read the same; only declared errors are raised.
"""

from __future__ import annotations

import random
from typing import Any

from construct import Container
from construct.core import ConstructError

from iscsi_target.errors import ProtocolError
from iscsi_target.wire.ahs import AdditionalHeaders, decode_ahs, encode_ahs
from iscsi_target.wire.codec import CODECS, decode_pdu, encode_pdu
from iscsi_target.wire.derive import MalformedPdu
from iscsi_target.wire.digest import digest_of
from iscsi_target.wire.framing import Framer
from iscsi_target.wire.lun import MAX_LUN, lun_from_bytes, lun_to_bytes
from tests.iscsi_target.fuzz.mutation import mutate_bytes

_HEADER_DIGEST, _DATA_DIGEST, _FIX = 1, 2, 4
_DECLARED_BYTES = 1 << 14
_TOKENS = [bytes((opcode,)) for opcode in CODECS] + [
    bytes(48),
    b"\x01\x80" + bytes(46),
    b"\x05\x80" + bytes(46),
    b"\x00\x05\x02\x00",
    b"\x00\x0d\x01\x00",
    b"\x00\x00\x40\x00",
    b"\x10\x00\x00\x00",
    b"\xff" * 4,
]


class PduTarget:
    """See the module."""

    name = "pdu"
    size_limit_bytes = 2048
    peak_limit_bytes = 1 << 20

    def seeds(self) -> list[bytes]:
        seeds = []
        for codec in CODECS.values():
            header = bytearray(48)
            for position, _, value in codec.constants:
                header[position] |= value
            for options in (0, _FIX | _HEADER_DIGEST | _DATA_DIGEST):
                seeds.append(bytes((options,)) + header)
                header[7] = 5
                seeds.append(bytes((options,)) + header + b"a=b\0c\0\0\0")
        extended = encode_ahs(AdditionalHeaders(bytes(range(18)), 512))
        command = bytearray(48)
        command[0], command[4] = 1, len(extended) // 4
        seeds.append(b"\0" + command + extended)
        return seeds

    def mutate(self, rng: random.Random, data: bytes, other: bytes) -> bytes:
        return mutate_bytes(rng, data, _TOKENS, other)

    def pieces(self, data: bytes) -> list[bytes]:
        return [data[at : at + 4] for at in range(0, len(data), 4)]

    def run(self, data: bytes) -> None:
        if not data:
            return
        options, stream = data[0], data[1:]
        if options & _FIX:
            stream = _with_digests(stream, options)
        whole, error = _frames(stream, options, [len(stream)])
        cut, cut_error = _frames(stream, options, [options >> 3 or 1])
        assert cut == whole, "other frames when the stream is cut"
        assert cut_error == error, "another error when the stream is cut"
        for frame in whole:
            _decode(frame)


def _framer(options: int) -> Framer:
    framer = Framer(_DECLARED_BYTES)
    framer.header_digest = bool(options & _HEADER_DIGEST)
    framer.data_digest = bool(options & _DATA_DIGEST)
    return framer


def _frames(stream: bytes, options: int, sizes: list[int]) -> tuple[list[tuple[bytes, bool]], str]:
    """The frames (whole, digest good) of a stream that comes in pieces, and the error it ends with."""
    framer, found, start, turn = _framer(options), [], 0, 0
    try:
        while start < len(stream):
            size = sizes[turn % len(sizes)]
            turn += 1
            for frame in framer.receive(stream[start : start + size]):
                found.append((frame.whole(), frame.data_digest_ok))
            start += size
    except ProtocolError as error:
        return found, f"{type(error).__name__}: {error}"
    return found, "unfinished" if framer.partial else ""


def _with_digests(stream: bytes, options: int) -> bytes:
    """Give every PDU the digests it needs to be heard."""
    framer, out = Framer(_DECLARED_BYTES), []
    try:
        for frame in framer.receive(stream):
            header = frame.basic_header + bytes(frame.ahs)
            out.append(header + (digest_of((header,)) if options & _HEADER_DIGEST else b""))
            data = bytes(frame.data) + bytes(-len(frame.data) % 4)
            out.append(data + (digest_of((data,)) if data and options & _DATA_DIGEST else b""))
    except ProtocolError:
        out.append(b"\xff")
    return b"".join(out)


def _decode(frame: tuple[bytes, bool]) -> None:
    encoded, _ = frame
    opcode = encoded[0] & 0x3F
    codec = CODECS.get(opcode)
    try:
        pdu = decode_pdu(encoded)
    except MalformedPdu:
        assert codec is None or not _construct_reads(codec.pdu.LAYOUT, encoded), "construct reads it"
        return
    assert codec is not None
    # Fixed and reserved bits are ignored on receipt (RFC 7143 section 11.1), so construct gets them as they should be.
    values = _flat(codec.pdu.LAYOUT.parse(encode_pdu(pdu)))
    for name in values.keys() & set(codec.names):
        if hasattr(pdu, name):
            assert getattr(pdu, name) == values[name], (
                f"{name}: {getattr(pdu, name)!r}, construct {values[name]!r}"
            )
    assert decode_pdu(encode_pdu(pdu)) == pdu, "not the same after encoding"
    if pdu.ahs:
        try:
            headers = decode_ahs(pdu.ahs)
        except ProtocolError:
            return
        assert decode_ahs(encode_ahs(headers)) == headers, "additional headers change in encoding"
    lun = getattr(pdu, "lun", None)
    if lun is not None and lun_from_bytes(lun) <= MAX_LUN:
        assert lun[2:] == bytes(6), f"a LUN field of several levels is taken for LUN {lun_from_bytes(lun)}"
        assert lun_from_bytes(lun_to_bytes(lun_from_bytes(lun))) == lun_from_bytes(lun)


def _construct_reads(layout: Any, encoded: bytes) -> bool:
    try:
        layout.parse(encoded)
    except ConstructError:
        return False
    return True


def _flat(container: Container) -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for name, value in container.items():
        if isinstance(value, Container):
            flat |= _flat(value)
        else:
            flat[name] = value
    return flat
