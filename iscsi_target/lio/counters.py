# SPDX-License-Identifier: Apache-2.0
"""Sessions and counters of the kernel's target, from configfs, as rows with the names that the emulator's have.

The kernel counts whole MiB of a LUN's or session's data. Of an initiator without an ACL (demo mode) it tells the name
alone.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from iscsi_target.lio.configfs import FABRICS, ROOT, read, wwn_in_kernel, wwn_of
from iscsi_target.lio.nodes import Kind, Node, Nodes

_MIB = 1 << 20
_NO_SETTINGS: dict[Any, Node] = {}


def read_targets(root: Path = ROOT) -> list[dict[str, Any]]:
    """A row for each LUN of each portal group: what is behind it, how much went through, who is logged in."""
    nodes = read(root, _NO_SETTINGS)
    return [
        row for node in nodes.values() if node.key.kind is Kind.GROUP for row in _group(root, node, nodes)
    ]


def _group(root: Path, group: Node, nodes: Nodes) -> Iterator[dict[str, Any]]:
    fabric, wwn, tag = group.key.path
    path = root / FABRICS[fabric] / wwn_in_kernel(fabric, wwn) / f"tpgt_{tag}"
    inner = [node for key, node in nodes.items() if key.parent == group.key]
    common = {
        "target": wwn,
        "fabric": fabric,
        "group": int(tag),
        "enabled": group.settings.get("enable") == "1",
        "portals": [node.key.path[3] for node in inner if node.key.kind is Kind.PORTAL],
        "sessions": len(list(_sessions_of(path, fabric, wwn))),
    }
    luns = [node for node in inner if node.key.kind is Kind.LUN]
    for lun in luns:
        counters = path / "lun" / f"lun_{lun.key.path[3]}" / "statistics/scsi_tgt_port"
        yield common | {
            "lun": int(lun.key.path[3]),
            "backstore": lun.made_of.get("backstore"),
            "commands": _number(counters / "in_cmds"),
            "read_bytes": _mebibytes(counters / "read_mbytes"),
            "written_bytes": _mebibytes(counters / "write_mbytes"),
        }
    if not luns:
        nothing = dict.fromkeys(("lun", "backstore", "commands", "read_bytes", "written_bytes"))
        yield common | nothing


def read_sessions(root: Path = ROOT) -> list[dict[str, Any]]:
    """A row for each session, as ``sancredit target sessions list`` has them; None for what the kernel keeps."""
    nodes = read(root, _NO_SETTINGS)
    rows = []
    for key in nodes:
        if key.kind is Kind.GROUP:
            fabric, wwn, tag = key.path
            path = root / FABRICS[fabric] / wwn_in_kernel(fabric, wwn) / f"tpgt_{tag}"
            rows += list(_sessions_of(path, fabric, wwn))
    return rows


def _sessions_of(path: Path, fabric: str, wwn: str) -> Iterator[dict[str, Any]]:
    for acl in sorted(path.glob("acls/*")):
        info = _text(acl / "info")
        number = re.search(r"LIO Session ID: (\d+)", info)
        if number is not None:
            yield _session(int(number[1]), wwn_of(fabric, acl.name), wwn, info) | _traffic(acl)
    for name in _text(path / "dynamic_sessions").replace("\0", "\n").split():
        yield _session(None, name, wwn, "") | dict.fromkeys(("commands", "read_bytes", "written_bytes"))


def _session(number: int | None, initiator: str, target: str, info: str) -> dict[str, Any]:
    peers = re.findall(r"Address (\S+)", info)
    return {
        "session": number,
        "initiator": initiator,
        "target": target,
        "connections": [{"peer": peer} for peer in peers],
        "tasks": None,
    }


def _traffic(acl: Path) -> dict[str, int]:
    """The sum over the LUNs that the initiator sees."""
    total = {"commands": 0, "read_bytes": 0, "written_bytes": 0}
    for statistics in acl.glob("lun_*/statistics/scsi_auth_intr"):
        total["commands"] += _number(statistics / "num_cmds") or 0
        total["read_bytes"] += _mebibytes(statistics / "read_mbytes") or 0
        total["written_bytes"] += _mebibytes(statistics / "write_mbytes") or 0
    return total


def _mebibytes(path: Path) -> int | None:
    count = _number(path)
    return None if count is None else count * _MIB


def _number(path: Path) -> int | None:
    text = _text(path).strip()
    return int(text) if text.isascii() and text.isdigit() else None


def _text(path: Path) -> str:
    try:
        return path.read_text()
    except OSError:
        return ""
