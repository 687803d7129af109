"""The control protocol of a running channel: one JSON object per line, each answered by one line.

::

    {"op": "status"}                                                        -> {"ok": true, "status": {...}}
    {"op": "set", "bandwidth_bps": 1, "rtt_ns": 2, "queue_bytes": 3, "loss_ppm": 4}
                                                                            -> {"ok": true, "status": {...}}
    {"op": "hold", "direction": "remote_to_master", "held": true}           -> {"ok": true, "status": {...}}
    {"op": "pass", "direction": "remote_to_master", "packets": 1}           -> {"ok": true, "status": {...}}
    anything else                                                           -> {"ok": false, "error": "..."}

``set`` takes any of the four; what is absent stays. ``hold`` keeps a direction's packets inside (acknowledgements, for
one), ``pass`` lets some of them out. A line is at most :data:`LINE_LIMIT_BYTES`.
"""

from __future__ import annotations

import json
import os
import socket
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tools.wan.errors import BadSetting, ChannelFailed

LINE_LIMIT_BYTES = 4096
ANSWER_LIMIT_BYTES = 64 * 1024
DIRECTIONS = ("master_to_remote", "remote_to_master")
_PASS_LIMIT = 1_000_000
_SETTABLE = ("bandwidth_bps", "rtt_ns", "queue_bytes", "loss_ppm")


@dataclass(frozen=True, slots=True)
class StatusRequest:
    """The counters are wanted."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SetRequest:
    """New settings; None leaves one as it is."""

    bandwidth_bps: int | None = None
    rtt_ns: int | None = None
    queue_bytes: int | None = None
    loss_ppm: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class HoldRequest:
    """Keep the packets of a direction inside, or no longer; ``packets`` of them pass though it is held."""

    direction: str
    held: bool = True
    packets: int = 0


Request = StatusRequest | SetRequest | HoldRequest


def decode_request(line: bytes) -> Request:
    """The request in one line; raises :class:`BadSetting` with one clear sentence."""
    try:
        message = json.loads(line)
    except (ValueError, RecursionError):
        raise BadSetting("the request is not JSON") from None
    if not isinstance(message, dict):
        raise BadSetting("the request is not a JSON object")
    operation = message.pop("op", None)
    if operation == "status" and not message:
        return StatusRequest()
    if operation == "set":
        for key, value in message.items():
            if key not in _SETTABLE:
                raise BadSetting(f"{key!r} cannot be set; what can is {', '.join(_SETTABLE)}")
            if type(value) is not int:
                raise BadSetting(f"{key} is {value!r}, but must be a whole number")
        return SetRequest(**message)
    if operation in ("hold", "pass"):
        return _hold(operation, message)
    raise BadSetting('the request must be {"op": "status"}, or have the op "set", "hold" or "pass"')


def _hold(operation: str, message: dict[str, Any]) -> HoldRequest:
    key, kind = ("held", bool) if operation == "hold" else ("packets", int)
    if set(message) != {"direction", key} or type(message[key]) is not kind:
        raise BadSetting(f"{operation} takes a direction and {key}")
    if message["direction"] not in DIRECTIONS:
        raise BadSetting(f"a direction is one of {', '.join(DIRECTIONS)}")
    if operation == "hold":
        return HoldRequest(direction=message["direction"], held=message["held"])
    if not 1 <= message["packets"] <= _PASS_LIMIT:
        raise BadSetting(f"packets is 1 to {_PASS_LIMIT}, not {message['packets']}")
    return HoldRequest(direction=message["direction"], packets=message["packets"])


def encode(message: Mapping[str, Any]) -> bytes:
    """One line."""
    return json.dumps(message, separators=(",", ":")).encode() + b"\n"


def read_line(connection: socket.socket) -> dict[str, Any]:
    """One answer from a blocking socket; raises :class:`ChannelFailed` when the other side is gone or too slow."""
    data = bytearray()
    while not data.endswith(b"\n"):
        try:
            chunk = connection.recv(ANSWER_LIMIT_BYTES)
        except TimeoutError:
            raise ChannelFailed("the channel's process does not answer") from None
        except OSError as error:
            raise ChannelFailed(f"the channel's process is gone: {error.strerror}") from None
        if not chunk:
            raise ChannelFailed("the channel's process is gone")
        data += chunk
        if len(data) > ANSWER_LIMIT_BYTES:
            raise ChannelFailed("the channel's process answers without end")
    answer = json.loads(data)
    if not isinstance(answer, dict):
        raise ChannelFailed("the channel's process answered nonsense")
    return answer


def through_directory(path: Path) -> tuple[int, str]:
    """A descriptor of the socket's directory, and a name through it that fits ``sun_path`` (108 bytes)."""
    directory = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    return directory, f"/proc/self/fd/{directory}/{path.name}"


def request(path: Path, message: Mapping[str, Any], timeout_s: float = 5.0) -> dict[str, Any]:
    """Ask the channel whose control socket is ``path``; its ``status``.

    Raises :class:`BadSetting` where the channel refuses, :class:`ChannelFailed` where it does not answer.
    """
    directory = -1
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as connection:
        connection.settimeout(timeout_s)
        try:
            directory, name = through_directory(path)
            connection.connect(name)
            connection.sendall(encode(message))
        except OSError as error:
            raise ChannelFailed(f"no channel answers at {path}: {error.strerror}") from None
        finally:
            if directory >= 0:
                os.close(directory)
        return status_of(read_line(connection))


def status_of(answer: Mapping[str, Any]) -> dict[str, Any]:
    """The status in an answer; raises :class:`BadSetting` with the reason of a refusal."""
    if not answer.get("ok"):
        raise BadSetting(str(answer.get("error", "refused")))
    status = answer.get("status")
    return dict(status) if isinstance(status, dict) else {}
