"""The tables by name: 101, 108, 109 and 1500 with the document's column names, the pools, and the rest."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from mgmt.access_layouts import ACCESS_LAYOUTS
from mgmt.capture_layouts import CAPTURE_LAYOUTS
from mgmt.columns import (
    Column,
    Layout,
    Row,
    address,
    at,
    delay,
    percent,
    rate,
    size,
    time_of_day,
    yes,
)
from mgmt.fc_layouts import FC_LAYOUTS
from mgmt.lio_layouts import LIO_LAYOUTS
from mgmt.station_layouts import STATION_LAYOUTS


def _kind(row: Row) -> str | None:
    target = row.get("target")
    return str(target.get("kind")).replace("_", " ") if isinstance(target, Mapping) else None


def _open_name(row: Row) -> str | None:
    """What a reservation without ports is for: ``application remote-copy``."""
    name = at("target.name")(row)
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


def _per_cent_of_ppm(value: int) -> str:
    return f"{value / 10_000:.2f} %"


def _measured_text(value: str) -> str:
    return value if value == "stale" else time_of_day(value)


def _rule_keys(row: Row) -> str:
    """A fault rule's other keys: ``opcode=r2t nth=3``."""
    rule = row.get("rule")
    if not isinstance(rule, Mapping):
        return ""
    said = (
        f"{key}={_spelled(value)}" for key, value in rule.items() if key not in ("name", "action", "enabled")
    )
    return " ".join(said)


def _spelled(value: object) -> str:
    """As TOML has it, without quotes and without spaces, at which a sentence is broken."""
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, Mapping):
        return f"{{{','.join(f'{key}={_spelled(item)}' for key, item in value.items())}}}"
    if isinstance(value, list):
        return f"[{','.join(_spelled(item) for item in value)}]"
    return str(value)


def _first_peer(row: Row) -> str | None:
    """Where an initiator's first connection comes from."""
    connections = row.get("connections")
    return str(connections[0].get("peer")) if isinstance(connections, list) and connections else None


def _connections(row: Row) -> int:
    connections = row.get("connections")
    return len(connections) if isinstance(connections, list) else 0


def _links(row: Row) -> list[Mapping[str, Any]]:
    links = row.get("links")
    return [link for link in links if isinstance(link, Mapping)] if isinstance(links, list) else []


def _limited_by(row: Row) -> str | None:
    """What keeps the connections of a copy from being faster; most are limited by the same."""
    words = sorted({str(link.get("limited_by") or "") for link in _links(row)} - {""})
    return ", ".join(words) or None


def _sent_again(row: Row) -> int | None:
    """Segments that the connections of a copy have sent again."""
    counts = [link.get("retransmitted_segments") for link in _links(row)]
    known = [count for count in counts if type(count) is int]
    return sum(known) if known else None


_MASTER = Column("MASTER PORT", at("target.local_port", "local_port"))
_REMOTE = Column("REMOTE PORT", at("target.remote_port", "remote_port"))
_NUMBER = Column("PORT", at("target.remote_port_number", "remote_port_number"), numeric=True, optional=True)
_BUFFER_ID = Column("ID", at("target.buffer_id", "buffer_id"), numeric=True, optional=True)
_NAME = Column("NAME", _open_name, optional=True)
_ARRAY = Column("ARRAY", at("array"), optional=True)
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
            Column("INTERFACE", at("interface"), wide=True),
            Column("TARGET", _kind, wide=True),
            _MASTER,
            _REMOTE,
            _NUMBER,
            _BUFFER_ID,
            _NAME,
            Column("ADDRESS", at("buffer_address"), address, numeric=True),
            Column("RESERVED", at("reserved_bytes"), size, numeric=True),
            Column("REQUESTED", at("requested_bytes"), size, numeric=True, wide=True),
            Column("UNITS", at("reserved_units"), numeric=True, wide=True),
            Column("UNITS IN USE", at("in_use_units"), numeric=True, wide=True),
            Column("IN USE", _share_in_use, numeric=True),
            Column("STATE", at("state")),
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
            Column("BANDWIDTH", at("bandwidth_bps"), rate, numeric=True),
            Column("DELAY", at("rtt_ns"), delay, numeric=True),
            Column("SESSIONS", at("sessions"), numeric=True),
            Column("CONNS", at("connections_per_session"), numeric=True),
            Column("MEASURED", _measured, _measured_text),
            Column("JITTER", at("jitter_ns"), delay, wide=True, numeric=True, optional=True),
            Column("LOSS", at("loss_ppm"), _per_cent_of_ppm, wide=True, numeric=True, optional=True),
            Column(
                "CREDIT ZERO", at("credit_zero_ppm"), _per_cent_of_ppm, wide=True, numeric=True, optional=True
            ),
            Column("MEASURED AT", at("measured_at"), wide=True),
            Column("STALE", at("stale"), yes, wide=True),
            Column("METHOD", at("method"), wide=True),
        ),
        (
            "local_port",
            "remote_port",
            "remote_port_number",
            "bandwidth_bps",
            "rtt_ns",
            "jitter_ns",
            "loss_ppm",
            "credit_zero_ppm",
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
            Column("INTERFACE", at("interface"), wide=True),
            Column("TARGET", _kind, wide=True),
            _MASTER,
            _REMOTE,
            _NUMBER,
            _BUFFER_ID,
            _NAME,
            Column("ADDRESS", at("buffer_address"), address, numeric=True),
            Column("ALLOCATED", at("allocated_bytes"), size, numeric=True),
            Column("UNITS", at("allocated_units"), numeric=True),
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
        (_ARRAY, _MASTER, _REMOTE, Column("BUFFER ID", at("buffer_id"), numeric=True)),
        ("array", "local_port", "remote_port", "buffer_id"),
    ),
    "pools": Layout(
        "Area 100: communication memory",
        (
            _ARRAY,
            Column("IFACE", at("interface")),
            Column("KIND", at("kind")),
            Column("UNIT", at("unit_bytes"), size, numeric=True),
            Column("TOTAL", at("total_units"), numeric=True),
            Column("FREE", at("free_units"), numeric=True),
            Column("RESERVED", at("reserved_idle_units"), numeric=True),
            Column("IN USE", at("in_use_units"), numeric=True),
            Column("DRAINING", at("draining_units"), numeric=True),
            Column("EXPANDABLE", at("expandable_units"), numeric=True),
            Column("HELD", at("held_units"), numeric=True, wide=True, optional=True),
            Column("DEGRADED", at("degraded_units"), numeric=True, wide=True, optional=True),
            Column("NO CREDIT %", at("credit_zero_percent"), numeric=True, wide=True, optional=True),
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
            "credit_zero_percent",
            "revision",
        ),
    ),
    "arrays": Layout(
        "Storage arrays",
        (
            _ARRAY,
            Column("STATE", at("state")),
            Column("PORTS", at("ports"), lambda ports: ", ".join(map(str, ports))),
            Column(
                "VOLUMES",
                at("volumes"),
                lambda volumes: ", ".join(str(volume.get("name")) for volume in volumes),
            ),
            Column("ADDRESS", at("address"), wide=True),
            Column("DETAIL", at("detail"), wide=True),
        ),
        ("array", "state", "ports", "volumes", "address", "detail"),
    ),
    "ports": Layout(
        "Ports",
        (
            _ARRAY,
            Column("PORT", at("address")),
            Column("IFACE", at("interface"), wide=True),
            Column("KIND", at("kind"), optional=True),
            Column("ISCSI PORT", at("iscsi_port"), numeric=True),
            Column("IQN", at("iqn")),
            Column("SPEED", at("speed"), optional=True),
            Column("LINK", at("state"), optional=True),
            Column("PEER", at("peer"), wide=True, optional=True),
            Column("CREDITS", at("rx_bb_credit"), numeric=True, optional=True),
        ),
        (
            "array",
            "address",
            "interface",
            "kind",
            "iscsi_port",
            "iqn",
            "copy_iqn",
            "speed",
            "state",
            "peer",
            "rx_bb_credit",
        ),
    ),
    "pairs": Layout(
        "Port pairs",
        (
            _ARRAY,
            _MASTER,
            _REMOTE,
            _NUMBER,
            Column("REMOTE ARRAY", at("remote_array"), wide=True),
            Column("SESSIONS", at("sessions"), numeric=True),
            Column("CONNS", at("connections_per_session"), numeric=True),
            Column("RECOMMENDED", at("recommended_bytes"), size, numeric=True),
            Column("RESERVED", at("reserved_bytes"), size, numeric=True),
            Column("STALE", at("stale"), yes, wide=True),
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
    "groups": Layout(
        "Consistency groups",
        (
            Column("GROUP", at("group")),
            _ARRAY,
            Column("ROLE", at("role")),
            Column("VOLUME", at("volume")),
            Column("MODE", at("mode")),
            Column("STATE", at("state")),
            Column("PROGRESS", at("progress"), percent, numeric=True),
            Column("RPO", at("rpo_ns"), delay, numeric=True),
            Column("RPO SIZE", at("rpo_bytes"), size, numeric=True),
            Column("JOURNAL", at("journal_bytes"), size, numeric=True, wide=True),
            Column("RESERVED", at("reserved_bytes"), size, numeric=True, wide=True),
            Column("EPOCH", at("epoch"), numeric=True, wide=True),
            Column("CONSISTENT", at("consistent"), yes, wide=True),
            Column("ERROR", at("error"), wide=True),
        ),
        (
            *("group", "array", "role", "volume", "mode", "fence", "state", "group_state", "progress"),
            *("total_bytes", "dirty_bytes", "rpo_ns", "rpo_bytes", "journal_bytes", "journal_capacity_bytes"),
            *(
                "reserved_bytes",
                "in_flight_bytes",
                "connections",
                "wanted_connections",
                "generation",
                "epoch",
            ),
            *(
                "last_seq",
                "newest_seq",
                "consistent",
                "sent_bytes",
                "resynced_bytes",
                "local_port",
                "remote_port",
            ),
            *("remote_lun", "held", "error"),
        ),
    ),
    "copies": Layout(
        "Remote copies",
        (
            Column("COPY", at("copy_id")),
            Column("ARRAY", at("array"), wide=True),
            Column("PAIR", at("pair"), lambda pair: pair if isinstance(pair, str) else json.dumps(pair)),
            Column("VOLUME", at("volume"), wide=True),
            Column("MODE", at("mode"), wide=True),
            Column("STATE", at("state")),
            Column("PROGRESS", at("progress"), percent, numeric=True),
            Column("RESERVED", at("reserved_bytes"), size, numeric=True, wide=True),
            Column("IN FLIGHT", at("in_flight_bytes"), size, numeric=True),
            Column("RPO", at("rpo_ns"), delay, numeric=True, wide=True),
            Column("RPO SIZE", at("rpo_bytes"), size, numeric=True, wide=True),
            Column("LIMITED BY", _limited_by, wide=True, optional=True),
            Column("SENT AGAIN", _sent_again, numeric=True, wide=True, optional=True),
            Column("ERROR", at("error"), wide=True),
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
            Column("POLICY", at("policy")),
            Column("RECOMMENDED", at("bytes"), size, numeric=True),
            Column("UNITS", at("units"), numeric=True),
            Column("UNIT", at("unit_bytes"), size, numeric=True),
            Column("AVAILABLE", at("available_bytes"), size, numeric=True, optional=True),
            Column("RESERVED", at("reserved_units"), numeric=True, optional=True),
            Column("SHORT", at("short_units"), numeric=True, optional=True),
            Column("MEASURED AT", at("measured_at"), wide=True, optional=True),
            Column("STALE", at("stale"), yes, wide=True, optional=True),
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
    "terms": Layout(
        "Terms",
        (
            Column("TERM", at("term")),
            Column("VALUE", at("value"), numeric=True),
            Column("MEANING", at("meaning"), sentence=True),
        ),
        ("term", "value", "meaning"),
    ),
    "target-faults": Layout(
        "Fault rules",
        (
            Column("NAME", at("name")),
            Column("ACTION", at("rule.action")),
            Column("ENABLED", at("enabled"), yes),
            Column("MATCHED", at("matched"), numeric=True),
            Column("FIRED", at("fired"), numeric=True),
            Column("RULE", _rule_keys, sentence=True),
        ),
        ("name", "enabled", "matched", "fired", "rule"),
    ),
    "target-sessions": Layout(
        "iSCSI sessions",
        (
            Column("SESSION", at("session"), numeric=True),
            Column("INITIATOR", at("initiator")),
            Column("TARGET", at("target"), wide=True),
            Column("PEER", _first_peer, wide=True),
            Column("CONNECTIONS", _connections, numeric=True, wide=True),
            Column("COMMANDS", at("commands"), numeric=True),
            Column("READ", at("read_bytes"), size, numeric=True),
            Column("WRITTEN", at("written_bytes"), size, numeric=True),
            Column("TASKS", at("tasks"), numeric=True),
        ),
        ("session", "initiator", "target", "connections", "commands", "read_bytes", "written_bytes", "tasks"),
    ),
    "target-captures": Layout(
        "Captures",
        (
            Column("FILE", at("file")),
            Column("PACKETS", at("packets"), numeric=True),
            Column("ERROR", at("error"), optional=True),
        ),
        ("path", "file", "packets", "error"),
    ),
    **ACCESS_LAYOUTS,
    **FC_LAYOUTS,
    **STATION_LAYOUTS,
    **CAPTURE_LAYOUTS,
    **LIO_LAYOUTS,
}
