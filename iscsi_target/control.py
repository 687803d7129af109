# SPDX-License-Identifier: Apache-2.0
"""What may be asked of a running target: its fault rules, sessions, log, captures and statistics, in values of JSON.

A plain object; how the requests come (HTTP on a Unix socket, say) is its caller's business. Python code never comes
this way: hooks are files that somebody named when the target was started.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any, Protocol, TypeVar

from iscsi_target.faults.actions import Async
from iscsi_target.faults.core_actions import send_async
from iscsi_target.faults.errors import FaultError
from iscsi_target.faults.rules import RuleStatus
from iscsi_target.faults.tables import rule_from_table, rule_to_table
from iscsi_target.instruments import Instruments
from iscsi_target.server import SessionInfo, TargetServer
from iscsi_target.session.target_session import TargetSession
from iscsi_target.trace.capture import Capture, CaptureConfig, CaptureError

__all__ = ["NoSuchSession", "TargetControl"]

T = TypeVar("T")
MAX_LOG_RECORDS = 1000
"""Records of one answer."""
_LOG_KEYS = (
    "direction",
    "opcode",
    "lun",
    "command",
    "task_tag",
    "session",
    "connection",
    "initiator",
    "status",
    "rule",
    "after",
)
_CAPTURE_KEYS = ("snap_bytes", "rotate_bytes", "files", "session", "initiator")


class NoSuchSession(LookupError):
    """There is no session with this TSIH."""


class Caller(Protocol):
    """Runs a function in the thread of the target's event loop and returns what it returns, or raises what it
    raises."""

    def __call__(self, function: Callable[[], T], /) -> T:
        """Run it there."""
        ...


class TargetControl:
    """See the module. Methods may be called from any thread but the target's own; `call` gets into that one.

    What cannot be raises FaultError (UnknownRule), CaptureError or NoSuchSession, with one line for people.
    """

    def __init__(self, server: TargetServer, instruments: Instruments, call: Caller) -> None:
        self._server = server
        self._instruments = instruments
        self._call = call

    # -- fault rules --------------------------------------------------------------------------------------------

    def faults(self) -> list[dict[str, Any]]:
        """Every rule with its counters, in the order in which they are tried."""
        return [_rule_row(status) for status in self._instruments.faults.statuses()]

    def add_faults(self, tables: Sequence[object], *, replace_rules: bool = False) -> list[str]:
        """Add the rules that tables describe, all or none; their names."""
        rules = []
        for number, table in enumerate(tables, 1):
            if not isinstance(table, Mapping):
                raise FaultError(f"rule {number} is no table of keys")
            rules.append(rule_from_table(table, where=f"rule {number}" if len(tables) > 1 else "rule"))
        self._instruments.faults.add_all(rules, replace_rules=replace_rules)
        return [rule.name for rule in rules]

    def remove_fault(self, name: str) -> dict[str, Any]:
        """Remove a rule; how it stood at the end."""
        return _rule_row(self._instruments.faults.remove(name))

    def clear_faults(self) -> int:
        """Remove every rule; how many there were."""
        return self._instruments.faults.clear()

    def enable_fault(self, name: str, enabled: bool) -> dict[str, Any]:
        """Let a rule work, or rest; how it stands."""
        self._instruments.faults.enable(name, enabled)
        return _rule_row(self._instruments.faults.status(name))

    # -- sessions -----------------------------------------------------------------------------------------------

    def sessions(self) -> list[dict[str, Any]]:
        """The sessions as they are now."""
        return [_session_row(info) for info in self._call(self._server.sessions)]

    def end_session(self, tsih: int) -> None:
        """End a session at once."""

        def end() -> None:
            self._session(tsih).end("ended through the control API")
            self._server.serve_touched()

        self._call(end)

    def request_logout(self, tsih: int, time_s: int = 10) -> None:
        """Ask the initiator of a session to log out within `time_s`."""

        def ask() -> None:
            self._session(tsih)
            self._server.request_logout(tsih, time_s)

        self._call(ask)

    def send_async(self, tsih: int, table: Mapping[str, object], *, lun: int = 0) -> None:
        """Send an Asynchronous Message to a session: the keys of an ``async`` action (``event``, ``parameters``,
        ``sense_key``, ``asc``, ``ascq``)."""
        rule = rule_from_table({"name": "message", "action": "async", **table})
        action = rule.action
        assert isinstance(action, Async)

        def send() -> None:
            for connection in list(self._session(tsih).connections.values())[:1]:
                send_async(connection, action, lun)
            self._server.serve_touched()

        self._call(send)

    def _session(self, tsih: int) -> TargetSession:
        session = self._server.node.sessions.get(tsih)
        if session is None:
            there = ", ".join(map(str, sorted(self._server.node.sessions))) or "none"
            raise NoSuchSession(f"there is no session {tsih}; there are: {there}")
        return session

    # -- log ----------------------------------------------------------------------------------------------------

    def log(self, count: int = 20, **selection: Any) -> list[dict[str, Any]]:
        """The last PDUs, at most `count` and at most 1000; `selection` as for :meth:`PduLog.records`."""
        log = self._instruments.log
        if log is None:
            raise FaultError("this target keeps no PDU log")
        if unknown := set(selection) - set(_LOG_KEYS):
            raise FaultError(f"{sorted(unknown)[0]!r} selects no PDUs; there are {', '.join(_LOG_KEYS)}")
        try:
            records = log.records(**selection)
        except (ValueError, TypeError) as error:
            raise FaultError(str(error)) from None
        return [record.as_dict() for record in records[-max(1, min(count, MAX_LOG_RECORDS)) :]]

    # -- captures -----------------------------------------------------------------------------------------------

    def captures(self) -> list[dict[str, Any]]:
        """The captures under way."""
        return [_capture_row(capture) for capture in self._instruments.captures]

    def start_capture(self, path: str, **config: Any) -> dict[str, Any]:
        """Begin a capture into a file that is not there yet (:class:`~iscsi_target.trace.capture.CaptureConfig`)."""
        if unknown := set(config) - set(_CAPTURE_KEYS):
            raise CaptureError(f"{sorted(unknown)[0]!r} is no setting; there are {', '.join(_CAPTURE_KEYS)}")
        for key, value in config.items():
            if not isinstance(value, str if key == "initiator" else int) or isinstance(value, bool):
                raise CaptureError(f"{key}: {value!r:.40} cannot be")
        made = CaptureConfig(path=Path(path), overwrite=False)
        return _capture_row(self._instruments.start_capture(replace(made, **config)))

    def stop_capture(self, path: str) -> dict[str, Any]:
        """End a capture; its file is complete afterwards."""
        found = [capture for capture in self._instruments.captures if capture.config.path == Path(path)]
        if not found:
            raise CaptureError(f"{path} is not being written")
        self._call(lambda: self._instruments.stop_capture(found[0]))
        return _capture_row(found[0])

    # -- statistics ---------------------------------------------------------------------------------------------

    def statistics(self) -> dict[str, Any]:
        """Everything the server counts, and what its instruments do."""
        instruments = self._instruments
        counted = asdict(self._call(self._server.statistics))
        counted["faults"] = {status.rule.name: status.fired for status in instruments.faults.statuses()}
        counted["accepted_connections"] = instruments.accepted
        counted["logged_pdus"] = instruments.log.total if instruments.log is not None else 0
        return counted


def _rule_row(status: RuleStatus) -> dict[str, Any]:
    return {
        "name": status.rule.name,
        "enabled": status.rule.enabled,
        "matched": status.matched,
        "fired": status.fired,
        "rule": rule_to_table(status.rule),
    }


def _session_row(info: SessionInfo) -> dict[str, Any]:
    return {
        "session": info.tsih,
        "initiator": info.initiator_name,
        "target": info.target_name,
        "connections": [
            {
                "cid": connection.cid,
                "peer": f"{connection.peer_host}:{connection.peer_port}",
                "portal": f"{connection.local_host}:{connection.local_port}",
            }
            for connection in info.connections
        ],
        "commands": info.commands,
        "read_bytes": info.read_bytes,
        "written_bytes": info.written_bytes,
        "tasks": info.tasks,
    }


def _capture_row(capture: Capture) -> dict[str, Any]:
    return {
        "path": str(capture.config.path),
        "file": str(capture.path),
        "packets": capture.packets,
        "error": capture.error,
    }
