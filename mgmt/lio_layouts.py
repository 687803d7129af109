"""The tables of the kernel's target: the steps of a plan, and the targets with their LUNs."""

from __future__ import annotations

from collections.abc import Mapping

from mgmt.columns import Column, Layout, Row, at, size


def _portals(row: Row) -> str:
    return " ".join(row.get("portals") or ())


LIO_LAYOUTS: Mapping[str, Layout] = {
    "lio-steps": Layout(
        "Steps on the kernel's target",
        (
            Column("STEP", at("step"), wide=True),
            Column("KIND", at("kind"), wide=True),
            Column("WHAT", at("what"), sentence=True),
        ),
        ("step", "kind", "what"),
    ),
    "lio-targets": Layout(
        "Targets of the kernel",
        (
            Column("TARGET", at("target")),
            Column("GROUP", at("group"), numeric=True, wide=True),
            Column("ENABLED", at("enabled"), lambda value: "yes" if value else "no", wide=True),
            Column("PORTALS", _portals, wide=True),
            Column("LUN", at("lun"), numeric=True),
            Column("BACKSTORE", at("backstore")),
            Column("SESSIONS", at("sessions"), numeric=True),
            Column("COMMANDS", at("commands"), numeric=True, wide=True),
            Column("READ", at("read_bytes"), size, numeric=True),
            Column("WRITTEN", at("written_bytes"), size, numeric=True),
        ),
        (
            *("target", "fabric", "group", "enabled", "portals", "lun", "backstore", "sessions"),
            *("commands", "read_bytes", "written_bytes"),
        ),
    ),
}
