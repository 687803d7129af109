"""Dataclass trees as JSON-ready values, and back, strictly: what messages and stored records are made of."""

from __future__ import annotations

import math
import types
import typing
from collections.abc import Callable
from dataclasses import MISSING, fields, is_dataclass
from enum import Enum
from functools import cache
from typing import Any, Union, get_args, get_origin, get_type_hints


class BadMessage(ValueError):
    """The bytes are not one of our messages; the text says which field is wrong and why."""


def to_plain(value: Any) -> Any:
    """A dataclass tree as JSON-ready values; ``None`` fields are left out."""
    kind: type = type(value)
    if kind in _PLAIN:
        return value
    if (names := _names(kind)) is not None:
        return {name: to_plain(item) for name in names if (item := getattr(value, name)) is not None}
    if isinstance(value, Enum):
        return value.value
    if isinstance(value, tuple | list):
        return [to_plain(item) for item in value]
    return value


def from_plain(kind: Any, value: Any, path: str) -> Any:
    """``value`` as an instance of ``kind``, strictly; :class:`BadMessage` names the offending ``path``."""
    return _reader(kind)(value, path)


_PLAIN = frozenset((str, int, float, bool, type(None)))
#: Reads a value, or says what is wrong at a path.
_Reader = Callable[[Any, str], Any]


@cache
def _names(kind: type) -> tuple[str, ...] | None:
    """The fields of a dataclass. Looking them up is most of the work, so it is done once for each class."""
    return tuple(field.name for field in fields(kind)) if is_dataclass(kind) else None


@cache
def _reader(kind: Any) -> _Reader:
    origin = get_origin(kind)
    if origin in (Union, types.UnionType):
        arms = get_args(kind)
        inner = _reader(next(arm for arm in arms if arm is not type(None)))
        if type(None) not in arms:
            return inner
        return lambda value, path: None if value is None else inner(value, path)
    if origin is tuple:
        return _tuple_reader(get_args(kind)[0])
    if is_dataclass(kind):
        return _object_reader(typing.cast(type, kind))
    if isinstance(kind, type) and issubclass(kind, Enum):
        return _enum_reader(kind)
    return _scalar_reader(kind)


def _tuple_reader(item_kind: Any) -> _Reader:
    def read(value: Any, path: str) -> Any:
        if not isinstance(value, list):
            raise BadMessage(f"{path} is a list")
        inner = _reader(item_kind)
        return tuple(inner(item, f"{path}[{n}]") for n, item in enumerate(value))

    return read


def _enum_reader(kind: type[Enum]) -> _Reader:
    def read(value: Any, path: str) -> Any:
        try:
            return kind(value)
        except ValueError as error:
            raise BadMessage(f"{path} is one of {', '.join(str(item.value) for item in kind)}") from error

    return read


def _scalar_reader(kind: type) -> _Reader:
    def read(value: Any, path: str) -> Any:
        whole = type(value) is int
        if type(value) is not kind and not (kind is float and whole):
            raise BadMessage(f"{path} is of type {kind.__name__}, not {type(value).__name__}")
        if (whole and not -(2**63) <= value < 2**63) or (kind is float and not math.isfinite(value)):
            raise BadMessage(f"{path} is out of range")
        return float(value) if kind is float else value

    return read


def _object_reader(kind: type) -> _Reader:
    @cache
    def known() -> dict[str, tuple[_Reader, bool]]:
        """Of each field its reader, and whether it has to be there; looked up when first used."""
        hints = get_type_hints(kind)
        return {
            field.name: (
                _reader(hints[field.name]),
                field.default is MISSING and field.default_factory is MISSING,
            )
            for field in fields(kind)
        }

    def read(value: Any, path: str) -> Any:
        if not isinstance(value, dict):
            raise BadMessage(f"{path} is an object")
        shape = known()
        if not value.keys() <= shape.keys():
            raise BadMessage(f"{path} has no field {min(set(value) - set(shape))!r}")
        arguments = {}
        for name, (inner, needed) in shape.items():
            if name in value:
                arguments[name] = inner(value[name], f"{path}.{name}")
            elif needed:
                raise BadMessage(f"{path}.{name} is missing")
        return kind(**arguments)

    return read
