"""One remote copy as every face shows it."""

from __future__ import annotations

from typing import Any

from mgmt.messages import CopyStatus, to_plain


def copy_row(array: str, status: CopyStatus) -> dict[str, Any]:
    """``{array, pair, state, progress, rpo_ns, rpo_bytes, …}`` and all fields of the status.

    ``rpo_ns`` is null for a copy of an image, ``rpo_bytes`` is what is still missing.
    """
    total = status.total_bytes
    plain: dict[str, Any] = to_plain(status)
    return plain | {
        "array": array,
        "pair": f"{status.local_port},{status.remote_port}",
        "progress": status.acknowledged_bytes / total if total else 1.0,
        "rpo_ns": None,
        "rpo_bytes": total - status.acknowledged_bytes,
    }
