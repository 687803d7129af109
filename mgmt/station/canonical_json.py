"""The one spelling of targets and of the parts of records in the store: sorted keys, no spaces, base units."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from typing import Any

from credits.targets import Target
from mgmt.plain import BadMessage, from_plain, to_plain


def dumps(value: Any) -> str:
    """``value`` (dataclasses, lists, objects, numbers, texts) as canonical JSON."""
    return json.dumps(
        to_plain(value), sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False
    )


def target_key(target: Target) -> str:
    """A text that is equal exactly when two targets name the same reservation."""
    if target.buffer_id is not None:
        return dumps([target.kind.value, target.buffer_id])
    pair = [target.local_port, target.remote_port, target.remote_port_number]
    return dumps([target.kind.value, *pair, target.name])


def target_text(target: Target | None) -> str | None:
    """A target for the store."""
    return None if target is None else dumps(target)


def target_of(text: str | None) -> Target | None:
    """A target from the store."""
    if text is None:
        return None
    found: Target = from_plain(Target, json.loads(text), "target")
    return found


def target_in(plain: Any) -> Target | None:
    """The target in a row that an array sent, or ``None`` where it is none of ours."""
    try:
        found: Target = from_plain(Target, plain, "target")
    except BadMessage:
        return None
    return found


def utc_text(at: datetime) -> str:
    """A time as lists show it and the store keeps it."""
    return at.astimezone(UTC).isoformat(timespec="milliseconds")
