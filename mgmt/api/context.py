"""What the path operations of the API work with: the station, and the little that HTTP itself has to remember."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from starlette.responses import JSONResponse, Response

from mgmt.api.idempotency import Answers
from mgmt.api.lists import Lists
from mgmt.api.stream import Hub
from mgmt.http import problem
from mgmt.messages import Message, to_plain
from mgmt.station import reservations, sizes
from mgmt.station.channel_rows import ChannelRows
from mgmt.station.context import Station


@dataclass(frozen=True, slots=True)
class Api:
    """One application's state."""

    station: Station
    lists: Lists = field(default_factory=Lists)
    answers: Answers = field(default_factory=Answers)
    hub: Hub = field(default_factory=Hub)
    channel_rows: ChannelRows = field(default_factory=ChannelRows)
    refused: Counter[int] = field(default_factory=Counter)
    """Requests that the gate has stopped, by HTTP status."""


def plain(message: Message) -> dict[str, Any]:
    """A message as a JSON object."""
    found: dict[str, Any] = to_plain(message)
    return found


def refusal(error: Exception) -> dict[str, Any]:
    """The RFC 9457 problem of an error of ours."""
    return problem(error)[1]


def change(done: reservations.Reserved | reservations.Updated | reservations.Previewed) -> dict[str, Any]:
    """What an array granted or would grant, with the advice behind the size."""
    found = {"array": done.array, "requested_bytes": done.requested_bytes} | plain(done.answer)
    if done.advice is not None:
        found["advice"] = sizes.rows(done.advice)[0]
    return found


def many(rows: Sequence[Mapping[str, Any]], following: int | None = None) -> Response:
    """A list of rows that are JSON already: nothing looks through them once more."""
    answer = {"items": rows, "down": [], "next": following}
    body = json.dumps(answer, separators=(",", ":"), ensure_ascii=False).encode()
    return Response(body, media_type="application/json")


def tagged(value: Mapping[str, Any]) -> JSONResponse:
    """An answer whose ``revision`` is its entity tag, for ``If-Match`` of the next change."""
    revision = value.get("revision")
    headers = {"etag": f'"{revision}"'} if type(revision) is int else {}
    return JSONResponse(dict(value), headers=headers)
