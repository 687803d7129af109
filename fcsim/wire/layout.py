# SPDX-License-Identifier: Apache-2.0
"""The words that the descriptions are written in, beyond construct's own.

A description (``LAYOUT``) is a construct ``Struct`` beside a frozen dataclass with the same fields in the same order.
Bit fields stand in a named ``BitStruct`` whose children are fields of the dataclass. A length or count is a
``Rebuild``: it is on the wire and not in the dataclass. :mod:`fcsim.wire.derive` and :mod:`fcsim.layers` know exactly
these constructs and refuse every other.
"""

from __future__ import annotations

import enum
import io
from collections.abc import Callable, Mapping
from dataclasses import fields
from typing import Any

from construct import Adapter, Const, Construct, Container, GreedyBytes, Struct, Subconstruct
from construct.core import Restreamed, StreamError, Transformed, stream_read, stream_write

__all__ = ["ByteCount", "Coded", "Many", "Record", "Sized", "Tlvs", "bit_struct", "command"]


class Coded(Subconstruct):  # type: ignore[misc]
    """An integer that stays an integer; `codes` names its values (an IntEnum) or its bits (an IntFlag)."""

    def __init__(self, subcon: Construct, codes: type[enum.IntEnum] | type[enum.IntFlag]) -> None:
        super().__init__(subcon)
        self.codes = codes


class Record(Adapter):  # type: ignore[misc]
    """Another description in place of a field; the value is the dataclass."""

    def __init__(self, pdu: type[Any]) -> None:
        super().__init__(pdu.LAYOUT)
        self.pdu = pdu

    def _decode(self, obj: Container, context: Container, path: str) -> Any:
        values: dict[str, Any] = {}
        for name, value in obj.items():
            if isinstance(value, Container):
                values |= value
            else:
                values[name] = tuple(value) if isinstance(value, list) else value
        return self.pdu(**{field.name: values[field.name] for field in fields(self.pdu)})

    def _encode(self, obj: Any, context: Container, path: str) -> dict[str, Any]:
        values: dict[str, Any] = {}
        for part in self.pdu.LAYOUT.subcons:
            group = bit_struct(part)
            if group is not None:
                names = [bit.name for bit in group.subcons if hasattr(obj, bit.name or "")]
                values[part.name] = {name: getattr(obj, name) for name in names}
            elif part.name and hasattr(obj, part.name):
                values[part.name] = getattr(obj, part.name)
        return values


class Many(Subconstruct):  # type: ignore[misc]
    """As many `subcon` as fill the bytes to the last; a part of one is an error. The value is a tuple."""

    def _parse(self, stream: Any, context: Container, path: str) -> tuple[Any, ...]:
        body = io.BytesIO(stream.read())
        end, found = len(body.getbuffer()), []
        while body.tell() < end:
            found.append(self.subcon._parsereport(body, context, path))
        return tuple(found)

    def _build(self, obj: tuple[Any, ...], stream: Any, context: Container, path: str) -> tuple[Any, ...]:
        for element in obj:
            self.subcon._build(element, stream, context, path)
        return obj


class Sized(Subconstruct):  # type: ignore[misc]
    """A length and the bytes it counts, which are exactly one `subcon`.

    The length counts units of `unit` bytes and `plus` bytes that stand before the counted ones.
    """

    def __init__(self, length: Construct, subcon: Construct, unit: int = 1, plus: int = 0) -> None:
        super().__init__(subcon)
        self.length, self.unit, self.plus = length, unit, plus

    def _parse(self, stream: Any, context: Container, path: str) -> Any:
        size = self.length._parsereport(stream, context, path) * self.unit - self.plus
        if size < 0:
            raise StreamError(f"a length of {size} bytes", path=path)
        body = io.BytesIO(stream_read(stream, size, path))
        value = self.subcon._parsereport(body, context, path)
        if body.read(1):
            raise StreamError("bytes are left over", path=path)
        return value

    def _build(self, obj: Any, stream: Any, context: Container, path: str) -> Any:
        body = io.BytesIO()
        self.subcon._build(obj, body, context, path)
        size, rest = divmod(len(body.getvalue()) + self.plus, self.unit)
        if rest:
            raise StreamError(f"{len(body.getvalue())} bytes are no multiple of {self.unit}", path=path)
        self.length._build(size, stream, context, path)
        stream_write(stream, body.getvalue(), len(body.getvalue()), path)
        return obj


class ByteCount(Subconstruct):  # type: ignore[misc]
    """The length, in units of `unit` bytes, of the later field `of`, which `part` describes."""

    def __init__(self, subcon: Construct, of: str, part: Construct, unit: int = 1) -> None:
        super().__init__(subcon)
        self.of, self.part, self.unit = of, part, unit
        self.flagbuildnone = True

    def _build(self, obj: Any, stream: Any, context: Container, path: str) -> Any:
        body = io.BytesIO()
        self.part._build(context[self.of], body, context, path)
        size, rest = divmod(len(body.getvalue()), self.unit)
        if rest:
            raise StreamError(f"{len(body.getvalue())} bytes are no multiple of {self.unit}", path=path)
        return self.subcon._build(size, stream, context, path)


class Tlvs(Construct):  # type: ignore[misc]
    """Descriptors to the end of the bytes: tag, length, body. The value is a tuple of dataclasses.

    `kinds` are the dataclasses by tag, each with a LAYOUT of the body; any other tag becomes `other(tag, body)`.
    The length counts units of `unit` bytes, and the tag and the length too when it `covers_header`.
    """

    def __init__(
        self,
        tag: Construct,
        length: Construct,
        kinds: Mapping[int, type[Any]],
        other: Callable[[int, bytes], Any],
        unit: int = 1,
        covers_header: bool = False,
    ) -> None:
        super().__init__()
        self.tag, self.kinds, self.other = tag, kinds, other
        self.unit, self.covers_header = unit, covers_header
        self.plus = tag.sizeof() + length.sizeof() if covers_header else 0
        self.length = length
        self._tags = {kind: number for number, kind in kinds.items()}

    def _parse(self, stream: Any, context: Container, path: str) -> tuple[Any, ...]:
        body = io.BytesIO(stream.read())
        end, found = len(body.getbuffer()), []
        while body.tell() < end:
            tag = self.tag._parsereport(body, context, path)
            kind = self.kinds.get(tag)
            sized = Sized(self.length, GreedyBytes if kind is None else Record(kind), self.unit, self.plus)
            value = sized._parsereport(body, context, path)
            found.append(self.other(tag, value) if kind is None else value)
        return tuple(found)

    def _build(self, obj: tuple[Any, ...], stream: Any, context: Container, path: str) -> tuple[Any, ...]:
        for element in obj:
            tag = self._tags.get(type(element))
            inner = GreedyBytes if tag is None else Record(type(element))
            self.tag._build(element.tag if tag is None else tag, stream, context, path)
            value = element.body if tag is None else element
            Sized(self.length, inner, self.unit, self.plus)._build(value, stream, context, path)
        return obj


def bit_struct(part: Construct) -> Struct | None:
    """The Struct of bits inside a named BitStruct, None for anything else."""
    inner = getattr(part, "subcon", None)
    if isinstance(inner, Transformed | Restreamed) and isinstance(inner.subcon, Struct):
        return inner.subcon
    return None


def command(code: int, subcon: Construct) -> Construct:
    """A fixed first field that says what the rest is."""
    return "code" / Const(int(code), subcon)
