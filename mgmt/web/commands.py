"""What a view shows or does, as a command line and as curl: "copy as"."""

from __future__ import annotations

import json
import shlex
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from credits.targets import Target, TargetKind
from mgmt.messages import to_plain

#: Lists that the command line has under another name than ``get``.
_LISTED_BY: Mapping[str, tuple[str, ...]] = {
    "groups": ("pair", "status"),
    "policies": ("policy", "show"),
    "audit": ("audit", "show"),
}
_JSON = "Content-Type: application/json"
#: Where the command line looks for the station unless told.
_USUAL = "http://127.0.0.1:8480"


@dataclass(frozen=True, slots=True)
class Command:
    """One thing in both spellings."""

    cli: str
    curl: str


def get(base: str, name: str) -> Command:
    """Reading the list ``name``."""
    words = _LISTED_BY.get(name, ("get", name))
    return Command(
        shlex.join(["sancredit", *words, "-o", "wide", *_station(base)]),
        shlex.join(["curl", "-sS", f"{base}/api/v1/{name}"]),
    )


def post(base: str, words: list[str], path: str, body: Mapping[str, Any]) -> Command:
    """Doing something: the command's words, and the request's path and body; ``None`` values are left out."""
    plain = {name: value for name, value in body.items() if value is not None}
    text = json.dumps(plain, ensure_ascii=False)
    curl = ["curl", "-sS", f"{base}/api/v1/{path}", "-H", _JSON, "-d", text]
    return Command(shlex.join(["sancredit", *words, *_station(base)]), shlex.join(curl))


def _station(base: str) -> list[str]:
    return [] if base == _USUAL else ["--station", base]


def target_words(target: Target, via: tuple[str, str] | None = None) -> list[str]:
    """The options that name ``target`` on the command line (:func:`mgmt.cli.options.make_target` reads them)."""
    words: list[str] = []
    pair = via or (target.local_port, target.remote_port)
    if None not in pair:
        words += ["--port-pair", f"{pair[0]},{pair[1]}"]
    match target.kind:
        case TargetKind.PORT_PAIR_NUMBER:
            words += ["--remote-port", str(target.remote_port_number)]
        case TargetKind.CONNECTION if target.buffer_id is None:
            words += ["--connection"]
        case TargetKind.CONNECTION:
            words += ["--buffer-id", str(target.buffer_id)]
        case TargetKind.APPLICATION | TargetKind.VOLUME_PAIR | TargetKind.VOLUME_GROUP_PAIR:
            words += [f"--{target.kind.value.replace('_', '-')}", str(target.name)]
    return words


def target_body(target: Target, via: tuple[str, str] | None = None, **values: Any) -> dict[str, Any]:
    """A request's body: the target, the pair it goes over, and the values that are not ``None``."""
    body: dict[str, Any] = {"target": to_plain(target)}
    if via is not None and target.local_port is None:
        body["via"] = {"local_port": via[0], "remote_port": via[1]}
    return body | {name: value for name, value in values.items() if value is not None}
