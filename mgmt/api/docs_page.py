"""The description of the API as a page: drawn here from the OpenAPI document, without a script and without a request
to anybody else."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from html import escape
from typing import Any

from fastapi import FastAPI
from starlette.requests import Request
from starlette.responses import HTMLResponse, Response
from starlette.routing import Route

_METHODS = ("get", "post", "put", "patch", "delete")
_DEPTH = 4


def docs_route(app: FastAPI) -> Route:
    """``GET /api/v1/docs``."""
    drawn: list[str] = []

    async def page(_request: Request) -> Response:
        if not drawn:
            drawn.append(draw(app.openapi()))
        return HTMLResponse(drawn[0], headers={"cache-control": "no-cache"})

    return Route("/api/v1/docs", page, methods=["GET"])


def draw(document: Mapping[str, Any]) -> str:
    """The page for an OpenAPI 3.1 document."""
    info = document["info"]
    by_tag: dict[str, list[str]] = {}
    for path, operations in document["paths"].items():
        for method in _METHODS:
            if method in operations:
                operation = operations[method]
                tag = operation.get("tags", ["other"])[0]
                by_tag.setdefault(tag, []).append(_operation(document, method, path, operation))
    sections = "".join(
        f'<section><h2 id="{escape(tag)}">{escape(tag)}</h2>{"".join(drawn)}</section>'
        for tag, drawn in by_tag.items()
    )
    index = " · ".join(f'<a href="#{escape(tag)}">{escape(tag)}</a>' for tag in by_tag)
    title = escape(f"{info['title']}: API {info['version']}")
    return (
        '<!doctype html><html lang="en"><head><meta charset="utf-8">'
        f'<title>{title}</title><meta name="viewport" content="width=device-width">'
        '<link rel="stylesheet" href="/static/api/plain.css"></head>'
        f"<body><main><h1>{title}</h1>{_PREFACE}<nav aria-label='Groups'><p>{index}</p></nav>"
        f"{sections}</main></body></html>\n"
    )


_PREFACE = """
<p>OpenAPI 3.1: <a href="/api/v1/openapi.json">openapi.json</a>. Every refusal is an RFC 9457 problem
(<code>application/problem+json</code>) with a <code>code</code>, and the numbers where it is about units. Sizes are
bytes, delays nanoseconds, rates bits per second. Where the station asks for a token:
<code>Authorization: Bearer TOKEN</code>.</p>
"""


def _operation(document: Mapping[str, Any], method: str, path: str, operation: Mapping[str, Any]) -> str:
    about = str(operation.get("description") or operation.get("summary", ""))
    body = operation.get("requestBody", {}).get("content", {}).get("application/json", {}).get("schema")
    parts = [f"<p>{escape(about)}</p>", _parameters(operation.get("parameters", []))]
    if body is not None:
        parts.append(f"<h4>Body</h4>{_table(_rows(document, body))}")
    parts.append(_answers(document, operation.get("responses", {})))
    parts.append(f"<h4>Example</h4><pre>{escape(_example(document, method, path, body))}</pre>")
    head = f'<span class="method">{method.upper()}</span> <code>{escape(path)}</code>'
    return f"<details><summary>{head} {escape(about.partition('. ')[0])}</summary>{''.join(parts)}</details>"


def _parameters(parameters: list[Mapping[str, Any]]) -> str:
    if not parameters:
        return ""
    rows = [
        (
            str(found["name"]),
            f"{found['in']}, {_kind(found.get('schema', {}))}",
            str(found.get("description", "")),
        )
        for found in parameters
    ]
    return f"<h4>Parameters</h4>{_table(rows)}"


def _answers(document: Mapping[str, Any], responses: Mapping[str, Any]) -> str:
    drawn = []
    for status, answer in responses.items():
        for media_type, content in answer.get("content", {}).items():
            rows = _rows(document, content.get("schema", {})) if media_type == "application/json" else []
            drawn.append(
                f"<p><b>{escape(status)}</b> {escape(str(answer.get('description', '')))} "
                f"(<code>{escape(media_type)}</code>)</p>{_table(rows) if rows else ''}"
            )
    return f"<h4>Answers</h4>{''.join(drawn)}" if drawn else ""


def _table(rows: list[tuple[str, str, str]]) -> str:
    if not rows:
        return ""
    lines = "".join(
        f"<tr><th scope='row'><code>{escape(name)}</code></th><td>{escape(kind)}</td><td>{escape(about)}</td></tr>"
        for name, kind, about in rows
    )
    head = "<tr><th scope='col'>Name</th><th scope='col'>Type</th><th scope='col'>Meaning</th></tr>"
    return f"<div class='wide'><table><thead>{head}</thead><tbody>{lines}</tbody></table></div>"


def _resolved(document: Mapping[str, Any], schema: Mapping[str, Any]) -> Mapping[str, Any]:
    reference = schema.get("$ref")
    if not isinstance(reference, str):
        return schema
    found: Any = document
    for part in reference.removeprefix("#/").split("/"):
        found = found.get(part, {})
    return found if isinstance(found, Mapping) else {}


def _rows(document: Mapping[str, Any], schema: Mapping[str, Any]) -> list[tuple[str, str, str]]:
    return list(_fields(document, schema, "", 0))


def _fields(
    document: Mapping[str, Any], schema: Mapping[str, Any], prefix: str, depth: int
) -> Iterator[tuple[str, str, str]]:
    """The members of an object, those of objects in it as ``outer.inner``."""
    schema = _resolved(document, schema)
    for arm in schema.get("anyOf", ()):
        yield from _fields(document, arm, prefix, depth)
    required = schema.get("required", ())
    for name, member in schema.get("properties", {}).items():
        found = _resolved(document, member)
        inner = next((arm for arm in (found, *found.get("anyOf", ())) if _has_members(document, arm)), None)
        wanted = ", required" if name in required else ""
        about = str(found.get("description", "")).strip().partition("\n")[0]
        yield prefix + name, _kind(found) + wanted, about
        if inner is not None and depth < _DEPTH:
            yield from _fields(document, inner, f"{prefix}{name}.", depth + 1)


def _has_members(document: Mapping[str, Any], schema: Mapping[str, Any]) -> bool:
    return "properties" in _resolved(document, schema)


def _kind(schema: Mapping[str, Any]) -> str:
    if "enum" in schema:
        return " | ".join(json.dumps(value) for value in schema["enum"])
    if "anyOf" in schema:
        return " or ".join(dict.fromkeys(_kind(arm) for arm in schema["anyOf"]))
    if "$ref" in schema:
        return "object"
    kind = schema.get("type", "any")
    text = " or ".join(kind) if isinstance(kind, list) else str(kind)
    if "items" in schema and isinstance(schema["items"], Mapping):
        text += f" of {_kind(schema['items'])}"
    low, high = schema.get("minimum"), schema.get("maximum", schema.get("exclusiveMaximum"))
    if low is not None or high is not None:
        text += f" ({low if low is not None else ''}…{high if high is not None else ''})"
    return text


def _example(document: Mapping[str, Any], method: str, path: str, body: Mapping[str, Any] | None) -> str:
    curl = f"curl -s http://127.0.0.1:8480{path}"
    if method == "get":
        return curl
    given = json.dumps(_sample(document, body or {}, 0))
    return f"{curl} -H 'Content-Type: application/json' \\\n  -d '{given}'"


_SAMPLES: Mapping[str, Callable[[Mapping[str, Any]], Any]] = {
    "string": lambda schema: schema.get("examples", [""])[0] or "…",
    "integer": lambda schema: max(1, int(schema.get("minimum", 1))),
    "number": lambda _schema: 1.0,
    "boolean": lambda _schema: False,
    "array": lambda _schema: [],
}
_KNOWN_SAMPLES = {
    "kind": "port_pair",
    "local_port": "127.0.0.1",
    "remote_port": "127.0.0.2",
    "size_bytes": 1048576,
    "volume": "vol0",
}


def _sample(document: Mapping[str, Any], schema: Mapping[str, Any], depth: int) -> Any:
    """A value that a schema admits: what is required, and the ports of a target."""
    schema = _resolved(document, schema)
    if "properties" in schema and depth < _DEPTH:
        required = schema.get("required", ())
        return {
            name: _KNOWN_SAMPLES.get(name, _sample(document, member, depth + 1))
            for name, member in schema["properties"].items()
            if name in required or (name in ("local_port", "remote_port"))
        }
    if "enum" in schema:
        return schema["enum"][0]
    kind = schema.get("type")
    return _SAMPLES[kind](schema) if isinstance(kind, str) and kind in _SAMPLES else {}
