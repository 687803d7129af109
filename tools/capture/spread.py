"""Many captures on the workers of a dask scheduler: each file is read by one of them, the flows are put together here.

Connections that go on from one file to the next are read apart then: commands whose answer is in another file count as
unanswered. Without a scheduler, files are read on.
"""

from __future__ import annotations

import importlib
import importlib.util
from array import array
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tools.capture.analysis import analyse
from tools.capture.exchanges import Flag
from tools.capture.flows import (
    COMPLETION,
    FIRST_DATA,
    HOST_RESPONSE,
    SIZE,
    STATUS_NAMES,
    distribution,
    flow_rows,
    gathered,
)

_NS_PER_S = 1_000_000_000
_METRICS = {
    "ect_ns": (COMPLETION, 0),
    "dal_ns": (FIRST_DATA, 0),
    "hrl_ns": (HOST_RESPONSE, 0),
    "read_ect_ns": (COMPLETION, int(Flag.READ)),
    "write_ect_ns": (COMPLETION, int(Flag.WRITE)),
    "read_size_bytes": (SIZE, int(Flag.READ)),
    "write_size_bytes": (SIZE, int(Flag.WRITE)),
}
_SUMS = (
    *("commands", "reads", "writes", "others", "unanswered", "aborted", "read_bytes", "written_bytes"),
    *("busy_ns", "ready_to_transfers", "unsolicited_bytes", "underflows", "overflows", "target_failures"),
    *STATUS_NAMES.values(),
)


def file_flows(job: tuple[str, tuple[int, ...]]) -> list[tuple[dict[str, Any], dict[str, bytes]]]:
    """The flows of one file with all their figures, for a worker. Raises as :func:`~tools.capture.analysis.analyse`."""
    path, ports = job
    with analyse([path], ports=ports) as analysis:
        rows = flow_rows(analysis, detail=False)
        names, numbers = analysis.group_numbers()
        figures: list[dict[str, bytes]] = [{} for _ in rows]
        for key, (metric, flags) in _METRICS.items():
            values, starts = gathered(analysis, metric, flags, numbers, len(names))
            for group, found in enumerate(figures):
                found[key] = values[starts[group] : starts[group + 1]].tobytes()
    return list(zip(rows, figures, strict=True))


def together(files: Sequence[Sequence[tuple[dict[str, Any], dict[str, bytes]]]]) -> list[dict[str, Any]]:
    """The flows of all files: sums, and exact percentiles over all of their figures."""
    merged: dict[tuple[str, ...], tuple[dict[str, Any], dict[str, bytearray]]] = {}
    for file in files:
        for row, figures in file:
            key = tuple(str(row.get(name, "")) for name in ("protocol", "initiator", "target", "lun", "vsan"))
            known = merged.get(key)
            if known is None:
                merged[key] = dict(row), {name: bytearray(values) for name, values in figures.items()}
                continue
            total, samples = known
            for name in _SUMS:
                total[name] += row[name]
            for name in ("task_management", "other_statuses"):
                for what, count in row[name].items():
                    total[name][what] = total[name].get(what, 0) + count
            last = max(one["first_ns"] + one["duration_ns"] for one in (total, row))
            total["first_ns"] = min(total["first_ns"], row["first_ns"])
            total["duration_ns"] = last - total["first_ns"]
            total["outstanding_max"] = max(total["outstanding_max"], row["outstanding_max"])
            total["outstanding_mean"] = None
            for name, values in figures.items():
                samples[name] += values
    rows = []
    for row, samples in merged.values():
        duration = row["duration_ns"]
        moved = row["read_bytes"] + row["written_bytes"]
        row["iops"] = round(row["commands"] * _NS_PER_S / duration, 1) if duration else None
        row["throughput_bps"] = moved * 8 * _NS_PER_S // duration if duration else None
        for name, octets in samples.items():
            figures_of = array("q")
            figures_of.frombytes(bytes(octets))
            row[name] = distribution(figures_of, 0, len(figures_of))
        rows.append(row)
    return rows


def spread_flows(paths: Sequence[Path], ports: Sequence[int], scheduler: str) -> list[dict[str, Any]]:
    """The flows of files that every worker of the scheduler can read under the same path.

    Raises :class:`ValueError` where dask is missing or nobody answers, and what a worker raises.
    """
    if importlib.util.find_spec("distributed") is None:
        raise ValueError("a scheduler needs dask: pip install 'sancredit[scale]', or leave the scheduler out")
    distributed: Any = importlib.import_module("distributed")
    jobs = [(str(path.resolve()), tuple(ports)) for path in paths]
    try:
        client = distributed.Client(scheduler, timeout="10s", set_as_default=False)
    except OSError as error:
        raise ValueError(f"no dask scheduler answers at {scheduler}: {error}") from error
    with client:
        return together(client.gather(client.map(file_flows, jobs, pure=False)))
