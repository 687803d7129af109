"""The demo's report as plots: bytes in flight, goodput and the pool over time, without and with a reservation."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from tools.demo.figure5 import Outcome
from tools.demo.samples import PoolSample

_MIB = 1 << 20
_BIN_S = 0.2
_INK = "#1b2733"
_COPY, _IDLE, _HOSTS, _FREE, _DRAIN, _LIMIT = "#1f6fb2", "#a9d0ec", "#e08e45", "#e4e8ec", "#b39ddb", "#c23b22"


@dataclass(frozen=True, slots=True)
class Run:
    """One of the two runs, as far as the plots need it; times in seconds from the run's start.

    ``in_flight`` and ``acknowledged`` are ``(at_s, bytes)`` from the packet capture, ``pool`` the master array's
    samples, ``reserved_bytes`` 0 for the run without a reservation.
    """

    title: str
    in_flight: Sequence[tuple[float, int]]
    acknowledged: Sequence[tuple[float, int]]
    pool: Sequence[PoolSample]
    reserved_bytes: int
    bin_s: float = _BIN_S
    """Goodput is a mean over so long."""

    @classmethod
    def of(cls, title: str, outcome: Outcome, reserved_bytes: int) -> Run:
        """The plots' view of a run's outcome."""
        flight, scale = outcome.flight, outcome.time_scale
        points: list[tuple[float, int]] = []
        acknowledged: list[tuple[float, int]] = []
        if flight is not None and flight.first_data_ns is not None:
            begin_ns = flight.first_data_ns - outcome.pool_started_ns
            points = [((begin_ns + at_ns) / scale / 1e9, value) for at_ns, value in flight.series]
            acknowledged = [
                ((begin_ns + at_ns) / scale / 1e9, value) for at_ns, value in flight.acknowledged_series
            ]
        # Progress is asked for less often than packets come.
        bin_s = _BIN_S if scale == 1 else 3 * _BIN_S / scale
        pool = [replace(sample, at_s=sample.at_s / scale) for sample in outcome.pool]
        return cls(title, points, acknowledged, pool, reserved_bytes, bin_s)


def write_plots(path: Path, runs: Sequence[Run], payload_limit_bps: int) -> None:
    """Draw all runs side by side into one picture (the ending of ``path`` chooses the format)."""
    import matplotlib as mpl

    mpl.use("Agg")
    from matplotlib import pyplot

    style: Any = {"font.size": 9, "axes.titlesize": 10, "axes.spines.top": False, "axes.spines.right": False}
    with pyplot.rc_context(style):
        figure, axes = pyplot.subplots(
            3, len(runs), figsize=(5.4 * len(runs), 8), sharex="col", sharey="row", squeeze=False
        )
        highest = max((value for run in runs for _, value in run.in_flight), default=0)
        top = max(highest, *(run.reserved_bytes for run in runs), 1) * 1.15 / _MIB
        for column, run in enumerate(runs):
            axes[0][column].set_ylim(0, top)
            axes[0][column].set_title(run.title, loc="left", fontweight="bold")
            _plot_in_flight(axes[0][column], run)
            _plot_goodput(axes[1][column], run, payload_limit_bps)
            _plot_pool(axes[2][column], run)
            axes[2][column].set_xlabel("seconds")
        axes[0][0].set_ylabel("copy bytes in flight (MiB)\nseen on the channel")
        axes[1][0].set_ylabel("goodput of the copy (Mbit/s)\nseen on the channel")
        axes[2][0].set_ylabel(f"{runs[0].pool[0].array if runs[0].pool else ''} array's pool (units)")
        figure.align_ylabels()
        figure.tight_layout()
        figure.savefig(path, dpi=120)
        pyplot.close(figure)


def _plot_in_flight(axes: Any, run: Run) -> None:
    if run.in_flight:
        axes.plot(*_columns(run.in_flight, 1 / _MIB), color=_COPY, linewidth=0.9)
    else:
        _say(axes, "the copy was refused:\nnot one byte in flight")
    if run.reserved_bytes:
        axes.axhline(run.reserved_bytes / _MIB, color=_LIMIT, linestyle="--", linewidth=1)
        axes.annotate(
            "reserved",
            (1, run.reserved_bytes / _MIB),
            xycoords=("axes fraction", "data"),
            ha="right",
            va="bottom",
            color=_LIMIT,
        )


def _plot_goodput(axes: Any, run: Run, payload_limit_bps: int) -> None:
    rates = _rates(run.acknowledged, run.bin_s)
    if rates:
        axes.plot(*_columns(rates, 1e-6), color=_COPY, linewidth=1.2)
    else:
        _say(axes, "0")
    axes.axhline(payload_limit_bps / 1e6, color=_INK, linestyle=":", linewidth=1)
    axes.annotate(
        "channel's payload limit",
        (1, payload_limit_bps / 1e6),
        xycoords=("axes fraction", "data"),
        ha="right",
        va="bottom",
        color=_INK,
    )
    axes.set_ylim(0, payload_limit_bps / 1e6 * 1.15)


def _plot_pool(axes: Any, run: Run) -> None:
    at = [sample.at_s for sample in run.pool]
    layers = [
        [sample.reserved_in_use_units for sample in run.pool],
        [sample.reserved_idle_units for sample in run.pool],
        [max(0, sample.in_use_units - sample.reserved_in_use_units) for sample in run.pool],
        [sample.draining_units for sample in run.pool],
        [sample.free_units for sample in run.pool],
    ]
    labels = ["reserved, in use", "reserved, idle", "in use from the free list", "draining", "free"]
    axes.stackplot(at, layers, labels=labels, colors=[_COPY, _IDLE, _HOSTS, _DRAIN, _FREE], step="post")
    axes.set_ylim(bottom=0)
    axes.legend(loc="upper center", bbox_to_anchor=(0.5, -0.22), ncols=3, fontsize=8, frameon=False)


def _columns(points: Sequence[tuple[float, float]], scale: float) -> tuple[list[float], list[float]]:
    return [at for at, _ in points], [value * scale for _, value in points]


def _rates(acknowledged: Sequence[tuple[float, int]], bin_s: float = _BIN_S) -> list[tuple[float, float]]:
    """Bits per second in bins of ``bin_s`` from a cumulative count of acknowledged bytes."""
    rates = []
    for (start, before), (end, after) in _every(acknowledged, bin_s):
        rates.append(((start + end) / 2, (after - before) * 8 / (end - start)))
    return rates


def _every(
    points: Sequence[tuple[float, int]], bin_s: float
) -> list[tuple[tuple[float, int], tuple[float, int]]]:
    pairs = []
    last = points[0] if points else (0.0, 0)
    for point in points[1:]:
        if point[0] - last[0] >= bin_s:
            pairs.append((last, point))
            last = point
    return pairs


def _say(axes: Any, text: str) -> None:
    axes.text(0.5, 0.5, text, transform=axes.transAxes, ha="center", va="center", color=_LIMIT)
