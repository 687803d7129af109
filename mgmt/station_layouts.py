"""The tables of what the station itself keeps: alarms, events, history, policies, the audit trail, what-if views."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from mgmt.columns import Column, Layout, Row, at, delay, rate, size, time_of_day, yes


def target_words(row: Row) -> str | None:
    """A target in one cell: ``A->B``, ``A->B:25``, ``ID 7``, ``application NAME``."""
    target = row.get("target")
    if not isinstance(target, Mapping):
        return None
    if target.get("buffer_id") is not None:
        return f"ID {target['buffer_id']}"
    if target.get("name") is not None:
        return f"{str(target.get('kind')).replace('_', ' ')} {target['name']}"
    number = target.get("remote_port_number")
    return f"{target.get('local_port')}->{target.get('remote_port')}" + (
        "" if number is None else f":{number}"
    )


def _via(row: Row) -> str | None:
    via = row.get("via")
    return ",".join(map(str, via)) if isinstance(via, list | tuple) else None


def _units(name: str) -> Any:
    """Units in a part of an audit record; of both ends, both."""

    def value(row: Row) -> str | None:
        part = row.get(name)
        if not isinstance(part, Mapping):
            return None
        if "reserved_units" in part:
            return str(part["reserved_units"])
        both = [end for end in part.values() if isinstance(end, Mapping) and "reserved_units" in end]
        ends = [end["reserved_units"] for end in both]
        return " + ".join(map(str, ends)) or None

    return value


_TARGET = Column("TARGET", target_words)
_ARRAY = Column("ARRAY", at("array"))

STATION_LAYOUTS: Mapping[str, Layout] = {
    "alarms": Layout(
        "Alarms",
        (
            Column("ID", at("number"), numeric=True),
            Column("SEVERITY", at("severity")),
            Column("STATE", at("state")),
            Column("KIND", at("kind")),
            Column("SUBJECT", at("subject"), wide=True),
            Column("RAISED AT", at("raised_at"), wide=True),
            Column("COUNT", at("count"), numeric=True, wide=True),
            Column("BY", at("acknowledged_by"), wide=True, optional=True),
            Column("NOTE", at("note"), wide=True, optional=True),
            Column("WHAT", lambda row: f"{row.get('subject')}: {row.get('text')}", sentence=True),
        ),
        (
            "number",
            "kind",
            "severity",
            "state",
            "subject",
            "array",
            "text",
            "raised_at",
            "changed_at",
            "count",
            "cleared_at",
            "acknowledged_at",
            "acknowledged_by",
            "note",
        ),
    ),
    "events": Layout(
        "Events",
        (
            Column("ID", at("number"), numeric=True, wide=True),
            Column("TIME", at("at"), time_of_day),
            Column("AT", at("at"), wide=True),
            Column("SEVERITY", at("severity"), wide=True),
            Column("KIND", at("kind")),
            Column("BY", at("by")),
            Column("WHAT", at("text"), sentence=True),
        ),
        ("number", "at", "kind", "severity", "subject", "array", "text", "by"),
    ),
    "history": Layout(
        "Channel history",
        (
            Column("FROM", at("at"), lambda value: value[:19] + "Z"),
            Column("SPAN", lambda row: row.get("span_s"), lambda value: f"{value}s", numeric=True),
            Column("BANDWIDTH", at("bandwidth_bps"), rate, numeric=True),
            Column("LOWEST", at("bandwidth_min_bps"), rate, numeric=True),
            Column("HIGHEST", at("bandwidth_max_bps"), rate, numeric=True, wide=True),
            Column("DELAY", at("rtt_ns"), delay, numeric=True),
            Column("LONGEST", at("rtt_max_ns"), delay, numeric=True),
            Column("SHORTEST", at("rtt_min_ns"), delay, numeric=True, wide=True),
            Column("SAMPLES", at("samples"), numeric=True),
            Column("METHOD", at("method"), wide=True),
        ),
        (
            "local_port",
            "remote_port",
            "at",
            "span_s",
            "samples",
            "bandwidth_bps",
            "bandwidth_min_bps",
            "bandwidth_max_bps",
            "rtt_ns",
            "rtt_min_ns",
            "rtt_max_ns",
            "method",
        ),
    ),
    "policies": Layout(
        "Policies",
        (
            _TARGET,
            Column("OVER", _via, optional=True, wide=True),
            Column("SIZING", at("sizing")),
            Column("SIZE", at("size_bytes"), size, numeric=True),
            Column("FLOOR", at("min_bytes"), size, numeric=True),
            Column("CEILING", at("max_bytes"), size, numeric=True),
            Column("LEASE", at("lease_s"), lambda value: f"{value}s", numeric=True, optional=True),
            Column("FROM", at("min_change_percent"), lambda value: f"{value} %", numeric=True, wide=True),
            Column("EVERY", at("min_interval_s"), lambda value: f"{value}s", numeric=True, wide=True),
            Column("SHRINK AFTER", at("shrink_samples"), numeric=True, wide=True),
            Column("OR", at("shrink_after_s"), lambda value: f"{value}s", numeric=True, wide=True),
            Column("PARTIAL", at("allow_partial"), yes, wide=True),
            Column("PRIORITY", at("priority"), numeric=True, wide=True),
            Column("BY", at("changed_by"), wide=True),
        ),
        (
            "target.kind",
            "target.local_port",
            "target.remote_port",
            "target.remote_port_number",
            "target.buffer_id",
            "target.name",
            "via",
            "sizing",
            "size_bytes",
            "min_bytes",
            "max_bytes",
            "min_change_percent",
            "min_interval_s",
            "shrink_samples",
            "shrink_after_s",
            "lease_s",
            "allow_partial",
            "priority",
            "changed_at",
            "changed_by",
            "version",
        ),
    ),
    "audit": Layout(
        "Audit trail",
        (
            Column("NO", at("number"), numeric=True),
            Column("TIME", at("at"), time_of_day),
            Column("AT", at("at"), wide=True),
            Column("BY", at("by")),
            Column("CAUSE", at("cause"), wide=True),
            Column("CHANGE", at("verb")),
            Column("STAGE", at("stage")),
            Column("OF", at("of"), numeric=True, wide=True),
            Column("ARRAY", at("array"), wide=True),
            Column("BEFORE", _units("before"), numeric=True, wide=True),
            Column("AFTER", _units("after"), numeric=True),
            Column("DETAIL", at("detail"), wide=True),
            Column("SUBJECT", lambda row: target_words(row) or row.get("subject"), sentence=True),
        ),
        (
            "number",
            "at",
            "by",
            "verb",
            "stage",
            "of",
            "cause",
            "subject",
            "array",
            "request_id",
            "inputs",
            "before",
            "after",
            "detail",
            "previous_hash",
            "hash",
        ),
    ),
    "outlook": Layout(
        "What would be done, in this order",
        (
            Column("NO", at("order"), numeric=True),
            _ARRAY,
            _TARGET,
            Column("ACTION", at("action")),
            Column("HAS", at("reserved_units"), numeric=True),
            Column("WANTS", at("wanted_units"), numeric=True),
            Column("GETS", at("units"), numeric=True),
            Column("SHORT", at("short_units"), numeric=True),
            Column("FREE", at("free_units"), numeric=True),
            Column("SIZING", at("sizing"), wide=True),
            Column("RECOMMENDED", at("recommended_bytes"), size, numeric=True, wide=True),
        ),
        (
            "order",
            "array",
            "target.kind",
            "target.local_port",
            "target.remote_port",
            "target.remote_port_number",
            "target.buffer_id",
            "target.name",
            "action",
            "sizing",
            "reserved_units",
            "wanted_units",
            "units",
            "short_units",
            "free_units",
            "unit_bytes",
            "recommended_bytes",
        ),
    ),
    "cures": Layout(
        "Ways out",
        (
            _ARRAY,
            Column("UNITS", at("units"), numeric=True),
            Column("COMMAND", at("command"), wide=True, optional=True),
            Column("WHAT", at("text"), sentence=True),
        ),
        ("array", "units", "text", "command"),
    ),
}
