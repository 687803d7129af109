"""Plots of captures: latency, load and queue depth over time, credits and bytes in flight, one exchange in sequence.

Files by suffix: ``.png``, ``.svg``, and ``.html``, which holds the drawing itself and asks nobody for anything.
"""

from __future__ import annotations

import html
import importlib.util
import io
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from mgmt.columns import delay, size
from tools.capture.analysis import Analysis
from tools.capture.scan_kernel import Scanner
from tools.capture.sessions import endpoint
from tools.capture.timeline import picked

SUFFIXES = (".png", ".svg", ".html")
_STEPS = 400
_LEGEND_ROWS = 8
_PAGE = """<!DOCTYPE html>
<html lang="en"><head><meta charset="utf-8"><title>{title}</title>
<style>body{{font-family:sans-serif;max-width:72rem;margin:1rem auto}}svg{{width:100%;height:auto}}</style></head>
<body><h1>{title}</h1>
{drawing}
</body></html>
"""


def _figure(rows: int, height: float) -> tuple[Any, Sequence[Any]]:
    if importlib.util.find_spec("matplotlib") is None:
        raise ValueError("plots need matplotlib: pip install 'sancredit[plot]'")
    from matplotlib.figure import Figure

    figure = Figure(figsize=(11, height * rows), layout="constrained")
    axes = figure.subplots(rows, 1, sharex=True, squeeze=False)
    return figure, list(axes[:, 0])


def save(figure: Any, path: Path, title: str) -> None:
    """Write a figure by its suffix. Raises :class:`ValueError` for another suffix."""
    suffix = path.suffix.lower()
    if suffix not in SUFFIXES:
        raise ValueError(f"{path.name} is drawn as {', '.join(SUFFIXES)}, not {suffix or 'without a suffix'}")
    if suffix != ".html":
        figure.savefig(path, dpi=110, metadata={"Title": title} if suffix == ".png" else None)
        return
    text = io.StringIO()
    figure.savefig(text, format="svg")
    drawing = text.getvalue()
    drawing = drawing[drawing.index("<svg") :]
    path.write_text(_PAGE.format(title=html.escape(title), drawing=drawing), encoding="utf-8")


def _time_unit(span_ns: int) -> tuple[float, str]:
    for factor, unit in ((1_000_000_000, "s"), (1_000_000, "ms")):
        if span_ns >= 2 * factor:
            return factor, unit
    return 1_000, "µs"


def _ticks(axis: Any, text: Any) -> None:
    from matplotlib.ticker import FuncFormatter

    axis.set_major_formatter(FuncFormatter(lambda value, _: text(max(0, round(value)))))


def draw_flows(analysis: Analysis, path: Path) -> None:
    """Completion times, throughput, IOPS and outstanding commands over time. Raises :class:`ValueError`."""
    import numpy as np

    if path.suffix.lower() not in SUFFIXES:
        raise ValueError(f"{path.name} is drawn as {', '.join(SUFFIXES)}")
    _, columns = picked(analysis)
    if not len(columns["end"]):
        raise ValueError("the capture has no command with an answer: there is nothing to draw")
    figure, (latency, load, depth) = _figure(3, 2.8)
    order = np.argsort(columns["end"], kind="stable")
    at = columns["end"][order] - int(analysis.scanner.first_ns)
    ect = columns["ect"][order]
    span = max(1, int(at[-1] - at[0]))
    width = max(1, span // _STEPS)
    factor, unit = _time_unit(span)
    steps = (at - at[0]) // width
    edges = np.searchsorted(steps, np.arange(int(steps[-1]) + 2))
    centres, quantiles = [], []
    for step in range(len(edges) - 1):
        part = ect[edges[step] : edges[step + 1]]
        if len(part):
            centres.append((int(at[0]) + (step + 0.5) * width) / factor)
            quantiles.append((np.percentile(part, 50), np.percentile(part, 99), part.max()))
    table = np.array(quantiles)
    for column, (label, colour) in enumerate((("p50", "#1f77b4"), ("p99", "#ff7f0e"), ("max", "#d62728"))):
        latency.plot(centres, table[:, column], ".-", color=colour, label=label, linewidth=1, markersize=3)
    latency.set_yscale("log")
    _ticks(latency.yaxis, delay)
    latency.set_ylabel("completion time")
    latency.legend(ncols=3, fontsize="small")
    bins = np.arange(int(steps[-1]) + 1)
    positions = (int(at[0]) + (bins + 0.5) * width) / factor
    moved = np.bincount(steps, weights=columns["bytes"][order], minlength=len(bins)) / width * 1000
    load.plot(positions, moved, color="#2ca02c", linewidth=1, label="MB/s")
    load.set_ylabel("MB/s")
    load.set_ylim(bottom=0)
    right = load.twinx()
    rate = np.bincount(steps, minlength=len(bins)) / width * 1e9
    right.plot(positions, rate, color="#9467bd", linewidth=1, linestyle=":", label="IOPS")
    right.set_ylabel("IOPS (dotted)")
    right.set_ylim(0, max(1.0, float(rate.max()) * 1.4))
    deepest = np.zeros(len(bins), dtype=np.int64)
    np.maximum.at(deepest, steps, columns["depth"][order].astype(np.int64))
    depth.step(positions, deepest, where="mid", color="#8c564b", linewidth=1)
    depth.set_ylabel("outstanding (max)")
    depth.set_ylim(bottom=0)
    depth.set_xlabel(f"time since the first packet [{unit}]")
    for axes in (latency, load, depth):
        axes.grid(alpha=0.3)
    title = f"{len(at)} commands, {', '.join(Path(name).name for name, _ in analysis.scan.sources[:3])}"
    figure.suptitle(title, fontsize="medium")
    save(figure, path, title)


def draw_series(
    series: Mapping[str, Sequence[tuple[int, int]]], path: Path, what: str, *, in_bytes: bool
) -> None:
    """Lines over time: (nanoseconds since the first, value). Raises :class:`ValueError` for nothing to draw."""
    shown = {name: points for name, points in series.items() if points}
    if not shown:
        raise ValueError("there is nothing to draw: no frames and no connections with data")
    figure, (axes,) = _figure(1, 4.5)
    span = max(1, *(points[-1][0] for points in shown.values()))
    factor, unit = _time_unit(span)
    largest = sorted(shown, key=lambda name: -max(value for _, value in shown[name]))[:_LEGEND_ROWS]
    for name in largest:
        points = shown[name]
        axes.step(
            [at / factor for at, _ in points],
            [value for _, value in points],
            where="post",
            label=name,
            linewidth=1,
            linestyle=":" if name.startswith("window of") else "-",
        )
    if in_bytes:
        from matplotlib.ticker import MultipleLocator

        most = max(value for name in largest for _, value in shown[name])
        axes.yaxis.set_major_locator(MultipleLocator(1 << max(0, most // 5).bit_length()))
        _ticks(axes.yaxis, size)
    axes.set_ylim(bottom=0)
    axes.set_ylabel(what)
    axes.set_xlabel(f"time [{unit}]")
    axes.grid(alpha=0.3)
    axes.legend(fontsize="small")
    save(figure, path, what)


def draw_credits(watch: Any, scanner: Scanner, path: Path) -> None:
    """Credits in use of Fibre Channel ports; without such, bytes in flight of iSCSI connections, the largest window
    beside where there is one connection only. Raises :class:`ValueError` for nothing to draw."""
    series = watch.series()
    if any(series.values()):
        draw_series(series, path, "credits in use (peaks)", in_bytes=False)
        return
    sides = [side for pair in scanner.flows for side in pair if side.flight is not None]
    found = {f"{endpoint(side)} > {endpoint(side.peer)}": side.flight.points() for side in sides}
    if len(sides) > 2:
        found["all connections together"] = scanner.flight_all.points()
    else:
        found |= {
            f"window of {endpoint(side.peer)}": side.windows.points()
            for side in sides
            if side.window_scale >= 0 and side.peer.window_scale >= 0
        }
    first = min((points[0][0] for points in found.values() if points), default=0)
    moved = {name: [(at - first, value) for at, value in points] for name, points in found.items()}
    draw_series(moved, path, "bytes in flight (peaks)", in_bytes=True)


def draw_sequence(
    steps: Sequence[tuple[int, bool, str]], ends: tuple[str, str], path: Path, title: str
) -> None:
    """One exchange as a sequence diagram: (nanoseconds, whether toward the second end, text) in order of time."""
    if not steps:
        raise ValueError("there is no exchange to draw")
    figure, (axes,) = _figure(1, max(2.5, 0.38 * len(steps) + 1.5))
    first = steps[0][0]
    for number, (at, forward, text) in enumerate(steps):
        level = -number
        begin, end = (0.0, 1.0) if forward else (1.0, 0.0)
        axes.annotate(
            "",
            xy=(end, level - 0.25),
            xytext=(begin, level),
            arrowprops={"arrowstyle": "->", "color": "#1f77b4"},
        )
        axes.text(0.5, level + 0.02, text, ha="center", va="bottom", fontsize="small")
        axes.text(-0.02, level, delay(at - first), ha="right", va="center", fontsize="small", color="#555")
    bottom = -len(steps)
    for place, name in ((0.0, ends[0]), (1.0, ends[1])):
        axes.plot([place, place], [0.6, bottom], color="black", linewidth=1)
        axes.text(place, 0.75, name, ha="center", va="bottom", fontsize="medium")
    axes.set_xlim(-0.15, 1.1)
    axes.set_ylim(bottom - 0.3, 1.6)
    axes.axis("off")
    figure.suptitle(title, fontsize="medium")
    save(figure, path, title)
