"""The tables by name: 101, 108, 109 and 1500 with the document's column names, the pools, and the rest."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from typing import Any

from mgmt.columns import (
    Column,
    Layout,
    Row,
    address,
    delay,
    megabytes,
    percent,
    rate,
    size,
    time_of_day,
    yes,
)


def _at(*names: str) -> Callable[[Row], Any]:
    """The first of the values at ``names`` (``a.b`` reaches into an object), or ``None``."""

    def value(row: Row) -> Any:
        for name in names:
            found: Any = row
            for part in name.split("."):
                found = found.get(part) if isinstance(found, Mapping) else None
            if found is not None:
                return found
        return None

    return value


def _kind(row: Row) -> str | None:
    target = row.get("target")
    return str(target.get("kind")).replace("_", " ") if isinstance(target, Mapping) else None


def _open_name(row: Row) -> str | None:
    """What a reservation without ports is for: ``application remote-copy``."""
    name = _at("target.name")(row)
    return None if name is None else f"{_kind(row)} {name}"


def _share_in_use(row: Row) -> str | None:
    """How much of a reservation is in use; with the size beside it, all that one needs to know of its units."""
    reserved, used = row.get("reserved_units"), row.get("in_use_units")
    if type(reserved) is not int or type(used) is not int or reserved <= 0:
        return None
    return f"{100 * used // reserved} %"


def _measured(row: Row) -> Any:
    """When a channel was measured, or that its values are stale; ``wide`` has both."""
    return "stale" if row.get("stale") and row.get("measured_at") else row.get("measured_at")


def _measured_text(value: str) -> str:
    return value if value == "stale" else time_of_day(value)


def _rule_keys(row: Row) -> str:
    """A fault rule's other keys: ``opcode=r2t nth=3``."""
    rule = row.get("rule")
    if not isinstance(rule, Mapping):
        return ""
    said = (f"{key}={value}" for key, value in rule.items() if key not in ("name", "action", "enabled"))
    return " ".join(said)


def _first_peer(row: Row) -> str | None:
    """Where an initiator's first connection comes from."""
    connections = row.get("connections")
    return str(connections[0].get("peer")) if isinstance(connections, list) and connections else None


def _connections(row: Row) -> int:
    connections = row.get("connections")
    return len(connections) if isinstance(connections, list) else 0


_MASTER = Column("MASTER PORT", _at("target.local_port", "local_port"))
_REMOTE = Column("REMOTE PORT", _at("target.remote_port", "remote_port"))
_NUMBER = Column("PORT", _at("target.remote_port_number", "remote_port_number"), numeric=True, optional=True)
_BUFFER_ID = Column("ID", _at("target.buffer_id", "buffer_id"), numeric=True, optional=True)
_NAME = Column("NAME", _open_name, optional=True)
_ARRAY = Column("ARRAY", _at("array"), optional=True)
_TARGET_FIELDS = (
    "target.kind",
    "target.local_port",
    "target.remote_port",
    "target.remote_port_number",
    "target.buffer_id",
    "target.name",
)

#: The tables by the name that ``sancredit get`` has for them.
LAYOUTS: Mapping[str, Layout] = {
    "reservations": Layout(
        "Table 101: reserved-buffer information",
        (
            _ARRAY,
            Column("INTERFACE", _at("interface"), wide=True),
            Column("TARGET", _kind, wide=True),
            _MASTER,
            _REMOTE,
            _NUMBER,
            _BUFFER_ID,
            _NAME,
            Column("ADDRESS", _at("buffer_address"), address, numeric=True),
            Column("RESERVED", _at("reserved_bytes"), size, numeric=True),
            Column("REQUESTED", _at("requested_bytes"), size, numeric=True, wide=True),
            Column("UNITS", _at("reserved_units"), numeric=True, wide=True),
            Column("UNITS IN USE", _at("in_use_units"), numeric=True, wide=True),
            Column("IN USE", _share_in_use, numeric=True),
            Column("STATE", _at("state")),
        ),
        (
            "array",
            "interface",
            *_TARGET_FIELDS,
            "buffer_address",
            "reserved_units",
            "reserved_bytes",
            "requested_bytes",
            "in_use_units",
            "state",
            "idle_units",
            "pending_shrink_units",
            "backed_units",
        ),
    ),
    "channels": Layout(
        "Table 108: channel information",
        (
            _MASTER,
            _REMOTE,
            _NUMBER,
            Column("BANDWIDTH", _at("bandwidth_bps"), rate, numeric=True),
            Column("DELAY", _at("rtt_ns"), delay, numeric=True),
            Column("SESSIONS", _at("sessions"), numeric=True),
            Column("CONNS", _at("connections_per_session"), numeric=True),
            Column("MEASURED", _measured, _measured_text),
            Column("MEASURED AT", _at("measured_at"), wide=True),
            Column("STALE", _at("stale"), yes, wide=True),
            Column("METHOD", _at("method"), wide=True),
        ),
        (
            "local_port",
            "remote_port",
            "remote_port_number",
            "bandwidth_bps",
            "rtt_ns",
            "sessions",
            "connections_per_session",
            "measured_at",
            "method",
            "stale",
        ),
    ),
    "allocations": Layout(
        "Table 109: allocated-buffer information",
        (
            _ARRAY,
            Column("INTERFACE", _at("interface"), wide=True),
            Column("TARGET", _kind, wide=True),
            _MASTER,
            _REMOTE,
            _NUMBER,
            _BUFFER_ID,
            _NAME,
            Column("ADDRESS", _at("buffer_address"), address, numeric=True),
            Column("ALLOCATED", _at("allocated_bytes"), size, numeric=True),
            Column("UNITS", _at("allocated_units"), numeric=True),
        ),
        (
            "array",
            "interface",
            *_TARGET_FIELDS,
            "buffer_address",
            "allocated_units",
            "allocated_bytes",
            "reserved",
            "holders",
        ),
    ),
    "buffer-ids": Layout(
        "Table 1500: reserved-buffer IDs",
        (_ARRAY, _MASTER, _REMOTE, Column("BUFFER ID", _at("buffer_id"), numeric=True)),
        ("array", "local_port", "remote_port", "buffer_id"),
    ),
    "pools": Layout(
        "Area 100: communication memory",
        (
            _ARRAY,
            Column("IFACE", _at("interface")),
            Column("KIND", _at("kind")),
            Column("UNIT", _at("unit_bytes"), size, numeric=True),
            Column("TOTAL", _at("total_units"), numeric=True),
            Column("FREE", _at("free_units"), numeric=True),
            Column("RESERVED", _at("reserved_idle_units"), numeric=True),
            Column("IN USE", _at("in_use_units"), numeric=True),
            Column("DRAINING", _at("draining_units"), numeric=True),
            Column("EXPANDABLE", _at("expandable_units"), numeric=True),
            Column("HELD", _at("held_units"), numeric=True, wide=True, optional=True),
            Column("DEGRADED", _at("degraded_units"), numeric=True, wide=True, optional=True),
        ),
        (
            "array",
            "interface",
            "kind",
            "unit_bytes",
            "total_units",
            "free_units",
            "reserved_idle_units",
            "in_use_units",
            "draining_units",
            "expandable_units",
            "held_units",
            "degraded_units",
            "revision",
        ),
    ),
    "arrays": Layout(
        "Storage arrays",
        (
            _ARRAY,
            Column("STATE", _at("state")),
            Column("PORTS", _at("ports"), lambda ports: ", ".join(map(str, ports))),
            Column(
                "VOLUMES",
                _at("volumes"),
                lambda volumes: ", ".join(str(volume.get("name")) for volume in volumes),
            ),
            Column("ADDRESS", _at("address"), wide=True),
            Column("DETAIL", _at("detail"), wide=True),
        ),
        ("array", "state", "ports", "volumes", "address", "detail"),
    ),
    "ports": Layout(
        "Ports",
        (
            _ARRAY,
            Column("PORT", _at("address")),
            Column("ISCSI PORT", _at("iscsi_port"), numeric=True),
            Column("IQN", _at("iqn")),
        ),
        ("array", "address", "iscsi_port", "iqn"),
    ),
    "pairs": Layout(
        "Port pairs",
        (
            _ARRAY,
            _MASTER,
            _REMOTE,
            _NUMBER,
            Column("REMOTE ARRAY", _at("remote_array"), wide=True),
            Column("SESSIONS", _at("sessions"), numeric=True),
            Column("CONNS", _at("connections_per_session"), numeric=True),
            Column("RECOMMENDED", _at("recommended_bytes"), size, numeric=True),
            Column("RESERVED", _at("reserved_bytes"), size, numeric=True),
            Column("STALE", _at("stale"), yes, wide=True),
        ),
        (
            "array",
            "local_port",
            "remote_port",
            "remote_port_number",
            "remote_array",
            "sessions",
            "connections_per_session",
            "recommended_bytes",
            "reserved_bytes",
            "stale",
        ),
    ),
    "copies": Layout(
        "Remote copies",
        (
            Column("COPY", _at("copy_id")),
            Column("ARRAY", _at("array"), wide=True),
            Column("PAIR", _at("pair"), lambda pair: pair if isinstance(pair, str) else json.dumps(pair)),
            Column("VOLUME", _at("volume"), wide=True),
            Column("MODE", _at("mode"), wide=True),
            Column("STATE", _at("state")),
            Column("PROGRESS", _at("progress"), percent, numeric=True),
            Column("RESERVED", _at("reserved_bytes"), size, numeric=True, wide=True),
            Column("IN FLIGHT", _at("in_flight_bytes"), size, numeric=True),
            Column("RPO", _at("rpo_ns"), delay, numeric=True, wide=True),
            Column("RPO SIZE", _at("rpo_bytes"), size, numeric=True, wide=True),
            Column("ERROR", _at("error"), wide=True),
        ),
        (
            "copy_id",
            "array",
            "pair",
            "local_port",
            "remote_port",
            "volume",
            "mode",
            "state",
            "connections",
            "total_bytes",
            "copied_bytes",
            "acknowledged_bytes",
            "progress",
            "reserved_bytes",
            "in_flight_bytes",
            "max_in_flight_bytes",
            "rpo_ns",
            "rpo_bytes",
            "seconds",
            "goodput_bps",
            "links",
            "error",
        ),
    ),
    "recommend": Layout(
        "Recommended size",
        (
            Column("POLICY", _at("policy")),
            Column("RECOMMENDED", _at("bytes"), size, numeric=True),
            Column("UNITS", _at("units"), numeric=True),
            Column("UNIT", _at("unit_bytes"), size, numeric=True),
            Column("AVAILABLE", _at("available_bytes"), size, numeric=True, optional=True),
            Column("RESERVED", _at("reserved_units"), numeric=True, optional=True),
            Column("SHORT", _at("short_units"), numeric=True, optional=True),
            Column("MEASURED AT", _at("measured_at"), wide=True, optional=True),
            Column("STALE", _at("stale"), yes, wide=True, optional=True),
        ),
        (
            "policy",
            "bytes",
            "units",
            "unit_bytes",
            *_TARGET_FIELDS,
            "available_units",
            "available_bytes",
            "expandable_units",
            "reserved_units",
            "allocated_units",
            "short_units",
            "measured_at",
            "stale",
            "terms",
            "explanations",
        ),
    ),
    "fc-credits": Layout(
        "Credits of a Fibre Channel link",
        (
            Column("RULE", _at("rule")),
            Column("CREDITS", _at("credits"), numeric=True),
            Column("PAYLOAD/S", _at("payload_bytes_per_second"), megabytes, numeric=True),
            Column("OF LINE", _at("share"), percent, numeric=True),
            Column("MEANING", _at("meaning"), sentence=True),
        ),
        ("rule", "credits", "payload_bytes_per_second", "share", "meaning"),
    ),
    "terms": Layout(
        "Terms",
        (
            Column("TERM", _at("term")),
            Column("VALUE", _at("value"), numeric=True),
            Column("MEANING", _at("meaning"), sentence=True),
        ),
        ("term", "value", "meaning"),
    ),
    "target-faults": Layout(
        "Fault rules",
        (
            Column("NAME", _at("name")),
            Column("ACTION", _at("rule.action")),
            Column("ENABLED", _at("enabled"), yes),
            Column("MATCHED", _at("matched"), numeric=True),
            Column("FIRED", _at("fired"), numeric=True),
            Column("RULE", _rule_keys, sentence=True),
        ),
        ("name", "enabled", "matched", "fired", "rule"),
    ),
    "target-sessions": Layout(
        "iSCSI sessions",
        (
            Column("SESSION", _at("session"), numeric=True),
            Column("INITIATOR", _at("initiator")),
            Column("TARGET", _at("target"), wide=True),
            Column("PEER", _first_peer, wide=True),
            Column("CONNECTIONS", _connections, numeric=True, wide=True),
            Column("COMMANDS", _at("commands"), numeric=True),
            Column("READ", _at("read_bytes"), size, numeric=True),
            Column("WRITTEN", _at("written_bytes"), size, numeric=True),
            Column("TASKS", _at("tasks"), numeric=True),
        ),
        ("session", "initiator", "target", "connections", "commands", "read_bytes", "written_bytes", "tasks"),
    ),
    "target-captures": Layout(
        "Captures",
        (
            Column("FILE", _at("file")),
            Column("PACKETS", _at("packets"), numeric=True),
            Column("ERROR", _at("error"), optional=True),
        ),
        ("path", "file", "packets", "error"),
    ),
}
