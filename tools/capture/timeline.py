"""Exchanges over time: one row for each interval, and every exchange as a table for other tools. Needs numpy."""

from __future__ import annotations

import importlib
import importlib.util
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from tools.capture.analysis import Analysis, NexusName
from tools.capture.exchanges import Flag, exchange_dtype

INTERVAL_LIMIT = 100_000
_NS_PER_S = 1_000_000_000


def exchange_columns(analysis: Analysis) -> Iterator[Any]:
    """Every exchange as structured numpy arrays, block by block."""
    import numpy as np

    kind = exchange_dtype()
    for block, count in analysis.store.blocks():
        yield np.frombuffer(block, dtype=kind, count=count)


def picked(analysis: Analysis) -> tuple[list[NexusName], dict[str, Any]]:
    """The columns that series are made of, of all exchanges: end, completion time, bytes, flags, depth, group."""
    import numpy as np

    names, numbers = analysis.group_numbers()
    group_of = np.frombuffer(numbers, dtype=np.int64) if len(numbers) else np.zeros(0, dtype=np.int64)
    found: dict[str, list[Any]] = {key: [] for key in ("end", "ect", "bytes", "flags", "depth", "group")}
    for rows in exchange_columns(analysis):
        found["end"].append(rows["end_ns"])
        found["ect"].append(np.maximum(rows["end_ns"] - rows["start_ns"], 0))
        found["bytes"].append(rows["bytes_in"].astype(np.int64) + rows["bytes_out"])
        found["flags"].append(rows["flags"])
        found["depth"].append(rows["depth"])
        found["group"].append(group_of[rows["nexus"]].astype(np.int32))
    empty = np.zeros(0, dtype=np.int64)
    return names, {key: np.concatenate(parts) if parts else empty for key, parts in found.items()}


def interval_rows(analysis: Analysis, interval_ns: int) -> list[dict[str, Any]]:
    """One row for each interval in which something ended, by initiator, target and LUN.

    Raises :class:`ValueError` for more intervals than can be.
    """
    import numpy as np

    names, columns = picked(analysis)
    if not len(columns["end"]):
        return []
    first = int(analysis.scanner.first_ns)
    steps = np.maximum(columns["end"] - first, 0) // interval_ns
    if int(steps.max()) >= INTERVAL_LIMIT:
        raise ValueError(f"more than {INTERVAL_LIMIT} intervals: make them longer")
    rows: list[dict[str, Any]] = []
    for group, name in enumerate(names):
        chosen = columns["group"] == group
        order = np.argsort(steps[chosen], kind="stable")
        mine = {key: values[chosen][order] for key, values in columns.items()}
        at, starts = np.unique(steps[chosen][order], return_index=True)
        for number, (step, begin) in enumerate(zip(at.tolist(), starts.tolist(), strict=True)):
            end = int(starts[number + 1]) if number + 1 < len(starts) else len(mine["end"])
            ect = np.sort(mine["ect"][begin:end])
            flags = mine["flags"][begin:end]
            count = end - begin
            rows.append(
                {
                    "initiator": name.initiator,
                    "target": name.target,
                    "lun": name.lun,
                    "at_ns": step * interval_ns,
                    "commands": count,
                    "reads": int((flags & int(Flag.READ) != 0).sum()),
                    "writes": int((flags & int(Flag.WRITE) != 0).sum()),
                    "iops": round(count * _NS_PER_S / interval_ns, 1),
                    "throughput_bps": int(mine["bytes"][begin:end].sum()) * 8 * _NS_PER_S // interval_ns,
                    "ect_mean_ns": round(float(ect.mean()), 1),
                    "ect_p50_ns": int(ect[max(0, -(-count // 2) - 1)]),
                    "ect_p99_ns": int(ect[max(0, -(-count * 99 // 100) - 1)]),
                    "ect_max_ns": int(ect[-1]),
                    "outstanding_max": int(mine["depth"][begin:end].max()),
                }
            )
    return rows


def write_parquet(analysis: Analysis, path: Path) -> int:
    """Every exchange as a row of a Parquet file; how many. The file is replaced whole or not at all.

    Raises :class:`ValueError` without pyarrow.
    """
    if importlib.util.find_spec("pyarrow") is None:
        raise ValueError("Parquet needs pyarrow: pip install 'sancredit[scale]'")
    arrow: Any = importlib.import_module("pyarrow")
    parquet: Any = importlib.import_module("pyarrow.parquet")
    names, numbers = analysis.group_numbers()
    labels = {
        key: arrow.array([getattr(name, key) for name in names] or [""])
        for key in ("initiator", "target", "lun")
    }
    wanted = (
        *("start_ns", "first_ns", "end_ns", "ready_ns", "data_ns", "tag", "bytes_in", "bytes_out", "edtl"),
        *("packet", "end_packet", "status", "response", "flags", "depth", "r2ts"),
    )
    waiting = path.with_name(path.name + ".part")
    writer: Any = None
    count = 0
    try:
        for rows in exchange_columns(analysis):
            groups = arrow.array([numbers[int(one)] for one in rows["nexus"]], type=arrow.int32())
            columns: dict[str, Any] = {
                key: arrow.DictionaryArray.from_arrays(groups, values) for key, values in labels.items()
            }
            cdbs = rows["cdb_0"].byteswap().view("V8"), rows["cdb_1"].byteswap().view("V8")
            columns["cdb"] = arrow.array([a.tobytes() + b.tobytes() for a, b in zip(*cdbs, strict=True)])
            columns |= {key: arrow.array(rows[key].copy()) for key in wanted}
            table = arrow.table(columns)
            if writer is None:
                writer = parquet.ParquetWriter(waiting, table.schema)
            writer.write_table(table)
            count += len(rows)
        if writer is None:
            parquet.write_table(arrow.table({key: arrow.array([]) for key in wanted}), waiting)
        else:
            writer.close()
            writer = None
        waiting.replace(path)
    finally:
        if writer is not None:
            writer.close()
        waiting.unlink(missing_ok=True)
    return count
