# SPDX-License-Identifier: Apache-2.0
"""Times and sizes as people write them in a rule: ``20ms``, ``1.5s``, ``4KiB``, ``100MB``."""

from __future__ import annotations

import re

from iscsi_target.faults.errors import FaultError
from iscsi_target.scsi.errors import InvalidConfiguration
from iscsi_target.scsi.stores.description import parse_size

_TIMES_NS = {"ns": 1, "us": 1_000, "µs": 1_000, "ms": 1_000_000, "s": 1_000_000_000, "min": 60_000_000_000}
_TIME = re.compile(r"(\d{1,15}(?:\.\d{1,9})?)\s*(ns|us|µs|ms|s|min)\Z", re.ASCII | re.IGNORECASE)


def parse_time(value: object) -> int:
    """Nanoseconds of ``"20ms"``; 0 may stand without a unit. Raises FaultError."""
    if value == 0 and not isinstance(value, bool):
        return 0
    match = _TIME.match(value) if isinstance(value, str) else None
    if match is None:
        raise FaultError(f'a time is a number with ns, us, ms, s or min, such as "20ms", not {value!r:.40}')
    return round(float(match[1]) * _TIMES_NS[match[2].lower()])


def format_time(value_ns: int) -> str:
    """The shortest spelling that :func:`parse_time` reads as exactly `value_ns`."""
    for unit in ("s", "ms", "us"):
        if value_ns % _TIMES_NS[unit] == 0:
            return f"{value_ns // _TIMES_NS[unit]}{unit}"
    return f"{value_ns}ns"


def parse_bytes(value: object) -> int:
    """Bytes of ``"4KiB"`` or ``4096``. Raises FaultError."""
    if isinstance(value, int) and not isinstance(value, bool) and value > 0:
        return value
    try:
        size = parse_size(value) if isinstance(value, str) else None
    except InvalidConfiguration as error:
        raise FaultError(str(error)) from None
    if size is None:
        raise FaultError(f'a size is a number of bytes or text such as "4KiB", not {value!r:.40}')
    return size
