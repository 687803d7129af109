"""The control API of a running target: JSON over HTTP on a Unix socket of mode 0600, or on loopback with a bearer
token.

===========================  ==================================================================================
``GET /faults``              rules and their counters
``POST /faults``             ``{"rules": [table, …], "replace": false}``: add rules, all or none
``POST /faults/remove``      ``{"name": …}``
``POST /faults/clear``       ``{}``
``POST /faults/enable``      ``{"name": …, "enabled": true}``
``GET /sessions``            sessions
``POST /sessions/end``       ``{"session": TSIH}``
``POST /sessions/logout``    ``{"session": TSIH, "time_s": 10}``: ask the initiator to log out
``POST /sessions/async``     ``{"session": TSIH, "event": …, …}``: the keys of an ``async`` action, and ``lun``
``GET /log``                 ``?count=20`` and what selects PDUs (opcode, lun, command, session, rule, …)
``GET /captures``            captures under way
``POST /captures/start``     ``{"path": …, "snap_bytes": 0, "rotate_bytes": 0, "files": 0, …}``: a new file
``POST /captures/stop``      ``{"path": …}``
``GET /statistics``          everything that is counted
===========================  ==================================================================================

What is refused is an RFC 9457 problem with the code ``BAD_MESSAGE`` (the request makes no sense), ``NOT_FOUND`` (no
such rule, session) or ``NOT_DONE``. Bodies have at most 64 KiB.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from typing import Any

from starlette.applications import Starlette
from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route
from starlette.types import ASGIApp

from credits.errors import Code
from iscsi_target.control import NoSuchSession, TargetControl
from iscsi_target.faults import FaultError, UnknownRule
from iscsi_target.running import TargetStuck
from iscsi_target.trace.capture import CaptureError
from mgmt.http.application import exception_handlers
from mgmt.http.guarding import TokenGuard
from mgmt.http.problems import ProblemError

_NUMBERS = ("count", "lun", "task_tag", "session", "connection", "status", "after")


def make_app(control: TargetControl, token: str | None = None) -> ASGIApp:
    """The ASGI application. With a `token` every request has to show it (``Authorization: Bearer TOKEN``, RFC 6750)."""
    api = _Api(control)
    routes = [
        Route("/faults", _answer(api.faults)),
        Route("/faults", _answer(api.add_faults), methods=["POST"]),
        Route("/faults/remove", _answer(api.remove_fault), methods=["POST"]),
        Route("/faults/clear", _answer(api.clear_faults), methods=["POST"]),
        Route("/faults/enable", _answer(api.enable_fault), methods=["POST"]),
        Route("/sessions", _answer(api.sessions)),
        Route("/sessions/end", _answer(api.end_session), methods=["POST"]),
        Route("/sessions/logout", _answer(api.request_logout), methods=["POST"]),
        Route("/sessions/async", _answer(api.send_async), methods=["POST"]),
        Route("/log", _answer(api.log)),
        Route("/captures", _answer(api.captures)),
        Route("/captures/start", _answer(api.start_capture), methods=["POST"]),
        Route("/captures/stop", _answer(api.stop_capture), methods=["POST"]),
        Route("/statistics", _answer(api.statistics)),
    ]
    app: ASGIApp = Starlette(routes=routes, exception_handlers=exception_handlers())
    if token is None:
        return app
    return TokenGuard(app, token, advice="show the target's token: --token FILE")


def _answer(do: Callable[[Mapping[str, Any]], Any]) -> Callable[[Request], Any]:
    """The endpoint of one request: its body (or query) as a table to `do`, in a worker thread; its answer as JSON."""

    async def endpoint(request: Request) -> Response:
        given: Any = dict(request.query_params)
        if request.method == "POST":
            given = _table(await request.body())
        try:
            answer = await run_in_threadpool(do, given)
        except UnknownRule as error:
            raise ProblemError("NOT_FOUND", str(error), status=404, title="No such rule") from error
        except NoSuchSession as error:
            raise ProblemError("NOT_FOUND", str(error), status=404, title="No such session") from error
        except FaultError as error:
            raise _refusal(str(error)) from error
        except (CaptureError, TargetStuck) as error:
            raise ProblemError("NOT_DONE", str(error), status=409, title="Not done") from error
        return JSONResponse(answer)

    return endpoint


def _refusal(text: str) -> ProblemError:
    return ProblemError(Code.BAD_MESSAGE, text, status=400, title="Not a valid request")


def _table(body: bytes) -> dict[str, Any]:
    try:
        table = json.loads(body)
    except (ValueError, RecursionError) as error:
        raise _refusal("the request is not JSON") from error
    if not isinstance(table, dict):
        raise _refusal("the request is no JSON object")
    return table


class _Api:
    """From the tables of requests to the control's methods."""

    def __init__(self, control: TargetControl) -> None:
        self._control = control

    def faults(self, _given: Mapping[str, Any]) -> Any:
        return {"items": self._control.faults()}

    def add_faults(self, given: Mapping[str, Any]) -> Any:
        _known(given, "rules", "replace")
        names = self._control.add_faults(
            _of(given, "rules", list), replace_rules=_of(given, "replace", bool, False)
        )
        return {"added": names}

    def remove_fault(self, given: Mapping[str, Any]) -> Any:
        _known(given, "name")
        return self._control.remove_fault(_of(given, "name", str))

    def clear_faults(self, given: Mapping[str, Any]) -> Any:
        _known(given)
        return {"removed": self._control.clear_faults()}

    def enable_fault(self, given: Mapping[str, Any]) -> Any:
        _known(given, "name", "enabled")
        return self._control.enable_fault(_of(given, "name", str), _of(given, "enabled", bool, True))

    def sessions(self, _given: Mapping[str, Any]) -> Any:
        return {"items": self._control.sessions()}

    def end_session(self, given: Mapping[str, Any]) -> Any:
        _known(given, "session")
        self._control.end_session(_of(given, "session", int))
        return {}

    def request_logout(self, given: Mapping[str, Any]) -> Any:
        _known(given, "session", "time_s")
        time_s = _of(given, "time_s", int, 10)
        if not 0 <= time_s <= 0xFFFF:
            raise _refusal("time_s is 0 to 65535")
        self._control.request_logout(_of(given, "session", int), time_s)
        return {}

    def send_async(self, given: Mapping[str, Any]) -> Any:
        message = {
            key: value for key, value in given.items() if key not in ("session", "lun", "name", "action")
        }
        lun = _of(given, "lun", int, 0)
        if not 0 <= lun <= 0x3FFF:
            raise _refusal("lun is 0 to 16383")
        self._control.send_async(_of(given, "session", int), message, lun=lun)
        return {}

    def log(self, given: Mapping[str, Any]) -> Any:
        selection: dict[str, Any] = {}
        for key, value in given.items():
            if key in _NUMBERS:
                if not (value.isascii() and value.isdigit() and len(value) < 20):
                    raise _refusal(f"{key} is a number, not {value!r:.40}")
                selection[key] = int(value)
            else:
                selection[key] = value
        return {"items": self._control.log(**selection)}

    def captures(self, _given: Mapping[str, Any]) -> Any:
        return {"items": self._control.captures()}

    def start_capture(self, given: Mapping[str, Any]) -> Any:
        return self._control.start_capture(
            _of(given, "path", str), **{key: value for key, value in given.items() if key != "path"}
        )

    def stop_capture(self, given: Mapping[str, Any]) -> Any:
        _known(given, "path")
        return self._control.stop_capture(_of(given, "path", str))

    def statistics(self, _given: Mapping[str, Any]) -> Any:
        return self._control.statistics()


def _known(given: Mapping[str, Any], *keys: str) -> None:
    for key in given:
        if key not in keys:
            raise _refusal(f"{key!r:.60} is no key of this request; there are {', '.join(keys) or 'none'}")


def _of(given: Mapping[str, Any], key: str, kind: type[Any], default: Any = None) -> Any:
    value = given.get(key, default)
    if not isinstance(value, kind) or (kind is int and isinstance(value, bool)):
        wanted = {list: "a list", bool: "true or false", str: "text", int: "a number"}[kind]
        raise _refusal(f"{key} is {wanted}" if key in given else f"the request needs {key}")
    return value
