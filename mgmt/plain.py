"""Dataclass trees as JSON-ready values, and back, strictly: what messages and stored records are made of."""

from __future__ import annotations

import math
import types
import typing
from dataclasses import MISSING, fields, is_dataclass
from enum import Enum
from typing import Any, Union, get_args, get_origin, get_type_hints


class BadMessage(ValueError):
    """The bytes are not one of our messages; the text says which field is wrong and why."""


def to_plain(value: Any) -> Any:
    """A dataclass tree as JSON-ready values; ``None`` fields are left out."""
    if is_dataclass(value) and not isinstance(value, type):
        pairs = ((field.name, getattr(value, field.name)) for field in fields(value))
        return {name: to_plain(item) for name, item in pairs if item is not None}
    if isinstance(value, Enum):
        return value.value
    if isinstance(value, tuple | list):
        return [to_plain(item) for item in value]
    return value


def from_plain(kind: Any, value: Any, path: str) -> Any:
    """``value`` as an instance of ``kind``, strictly; :class:`BadMessage` names the offending ``path``."""
    origin = get_origin(kind)
    if origin in (Union, types.UnionType):
        if value is None and type(None) in get_args(kind):
            return None
        inner = [arm for arm in get_args(kind) if arm is not type(None)]
        return from_plain(inner[0], value, path)
    if origin is tuple:
        if not isinstance(value, list):
            raise BadMessage(f"{path} is a list")
        (item_kind, _) = get_args(kind)
        return tuple(from_plain(item_kind, item, f"{path}[{n}]") for n, item in enumerate(value))
    if is_dataclass(kind):
        return _object_from_plain(typing.cast(type, kind), value, path)
    if isinstance(kind, type) and issubclass(kind, Enum):
        try:
            return kind(value)
        except ValueError as error:
            raise BadMessage(f"{path} is one of {', '.join(str(item.value) for item in kind)}") from error
    whole = type(value) is int
    if type(value) is not kind and not (kind is float and whole):
        raise BadMessage(f"{path} is of type {kind.__name__}, not {type(value).__name__}")
    if (whole and not -(2**63) <= value < 2**63) or (kind is float and not math.isfinite(value)):
        raise BadMessage(f"{path} is out of range")
    return float(value) if kind is float else value


def _object_from_plain(kind: type, value: Any, path: str) -> Any:
    if not isinstance(value, dict):
        raise BadMessage(f"{path} is an object")
    hints = get_type_hints(kind)
    known = {field.name: field for field in fields(kind)}
    if unknown := sorted(set(value) - set(known)):
        raise BadMessage(f"{path} has no field {unknown[0]!r}")
    arguments = {}
    for name, field in known.items():
        if name in value:
            arguments[name] = from_plain(hints[name], value[name], f"{path}.{name}")
        elif field.default is MISSING and field.default_factory is MISSING:
            raise BadMessage(f"{path}.{name} is missing")
    return kind(**arguments)
