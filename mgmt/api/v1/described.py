"""What the description of the API says beside the types: problems, pages of lists, entity tags."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Annotated, Any

from fastapi import Header, Query
from pydantic import TypeAdapter

from mgmt.api.lists import FILTER_LIMIT, LARGEST_LIMIT, LIMIT, TEXT_LIMIT
from mgmt.http.problems import PROBLEM_TYPE

#: RFC 9457, with the members of a refusal for want of units.
PROBLEM_SCHEMA: Mapping[str, Any] = {
    "type": "object",
    "required": ["type", "title", "status", "detail", "code"],
    "properties": {
        "type": {"type": "string"},
        "title": {"type": "string"},
        "status": {"type": "integer"},
        "detail": {"type": "string"},
        "code": {"type": "string", "examples": ["NO_MEMORY", "STALE", "BAD_MESSAGE"]},
        "asked_units": {"type": "integer"},
        "free_units": {"type": "integer"},
        "expandable_units": {"type": "integer"},
        "grantable_units": {"type": "integer", "description": "The largest size that would be granted."},
        "holders": {
            "type": "array",
            "items": {
                "type": "object",
                "properties": {"name": {"type": "string"}, "units": {"type": "integer"}},
            },
        },
    },
}

_PROBLEM = {"content": {PROBLEM_TYPE: {"schema": {"$ref": "#/components/schemas/Problem"}}}}
#: For ``APIRouter(responses=…)``: every refusal is a problem.
PROBLEMS: dict[int | str, dict[str, Any]] = {
    "4XX": {"description": "Refused", **_PROBLEM},
    "5XX": {"description": "Not done", **_PROBLEM},
    422: {"description": "Not a valid request", **_PROBLEM},
}

Filters = Annotated[
    list[Annotated[str, Query(max_length=TEXT_LIMIT)]],
    Query(
        alias="filter",
        max_length=FILTER_LIMIT,
        description="`FIELD OP VALUE`, OP one of `= != < <= > >= ~` (contains); all of them have to hold.",
        examples=["array=east", "reserved_bytes>=1048576"],
    ),
]
Sort = Annotated[
    str | None,
    Query(max_length=TEXT_LIMIT, description="Fields, the weightiest first; `-` before one: descending."),
]
Limit = Annotated[int, Query(ge=1, le=LARGEST_LIMIT, description="Rows of one page.")]
Cursor = Annotated[str | None, Query(max_length=TEXT_LIMIT, description="`next` of the page before.")]
IfNoneMatch = Annotated[
    str | None, Header(max_length=1024, description="The entity tag known: 304 where nothing has changed.")
]
IfMatch = Annotated[
    str | None,
    Header(
        max_length=64,
        description='The generation (`"revision"`) that the change is based on: 412 STALE where it is another.',
    ),
]
DryRun = Annotated[bool, Query(description="Answer what it would do; nothing changes anywhere.")]

PAGE_LIMIT = LIMIT


def list_response(fields: Sequence[str], title: str) -> dict[int | str, dict[str, Any]]:
    """The 200 and 304 of a list whose rows have these ``fields``."""
    names = dict.fromkeys(field.partition(".")[0] for field in fields)
    schema = {
        "type": "object",
        "title": title,
        "required": ["items", "down", "next", "total"],
        "properties": {
            "items": {
                "type": "array",
                "items": {"type": "object", "properties": {name: {} for name in names}},
            },
            "down": {
                "type": "array",
                "description": "The arrays that did not answer.",
                "items": {
                    "type": "object",
                    "properties": {name: {"type": "string"} for name in ("array", "address", "detail")},
                },
            },
            "next": {"type": ["string", "null"], "description": "The cursor of the next page."},
            "total": {"type": "integer", "description": "Rows on all pages."},
        },
    }
    return {
        200: {
            "description": title,
            "content": {"application/json": {"schema": schema}},
            "headers": {"ETag": {"schema": {"type": "string"}}},
        },
        304: {"description": "Nothing has changed"},
    }


def message_response(*kinds: type, about: str) -> dict[int | str, dict[str, Any]]:
    """The 200 of a change whose answer is one of these messages, with what the station adds to it."""
    found = [TypeAdapter(kind).json_schema() for kind in kinds]
    schemas = [_inlined(schema, schema.pop("$defs", {})) for schema in found]
    return {200: {"description": about, "content": {"application/json": {"schema": {"anyOf": schemas}}}}}


def _inlined(schema: Any, definitions: Mapping[str, Any]) -> Any:
    """``schema`` with what it refers to in its place: it stands in an answer, where its own definitions cannot."""
    if isinstance(schema, list):
        return [_inlined(item, definitions) for item in schema]
    if not isinstance(schema, dict):
        return schema
    if (reference := schema.get("$ref")) is not None:
        return _inlined(definitions[str(reference).rpartition("/")[2]], definitions)
    return {name: _inlined(value, definitions) for name, value in schema.items()}
