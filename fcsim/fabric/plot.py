# SPDX-License-Identifier: Apache-2.0
"""Throughput, credits outstanding and queue depth over time, as one picture (matplotlib)."""

from __future__ import annotations

from pathlib import Path

from fcsim.clock import TICKS_PER_SECOND
from fcsim.fabric.simulation import Outcome

BUSIEST = 8
"""More lines than this nobody tells apart: the ports that send most and wait most are drawn."""
#: Ports often do the same: a dashed line lets the one below it be seen.
_DASHES = ("-", (0, (6, 3)), (0, (3, 3)), (0, (1, 2)))
_COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#56b4e9", "#e69f00", "#7f3c8d", "#4d4d4d")


def draw_plot(outcome: Outcome, path: Path) -> None:
    """Write the picture; its kind follows from the file's suffix. Raises OSError, and ValueError for a suffix that
    matplotlib does not know."""
    import matplotlib as mpl

    mpl.use("Agg")
    from matplotlib import pyplot

    series, plan = outcome.series, outcome.plan
    shown = drawn_directions(outcome)
    at_ms = [tick * 1000 / TICKS_PER_SECOND for tick in series.at_ticks]
    spans = [b - a for a, b in zip([0, *series.at_ticks], series.at_ticks, strict=False)]
    figure, (rate, credit, queue) = pyplot.subplots(
        3, 1, sharex=True, figsize=(10, 8.5), layout="constrained"
    )
    try:
        for index, number in enumerate(shown):
            colour, dash = _COLOURS[index], _DASHES[index % len(_DASHES)]
            direction = plan.directions[number]
            label = f"{plan.ports[direction.source].name} → {plan.ports[direction.destination].name}"
            megabytes = [
                count * TICKS_PER_SECOND / max(1, span) / 1e6
                for count, span in zip(series.bytes[number], spans, strict=True)
            ]
            rate.plot(at_ms, megabytes, color=colour, label=label, linewidth=1.5, linestyle=dash)
            credit.plot(at_ms, series.outstanding[number], color=colour, linewidth=1.5, linestyle=dash)
            queue.plot(at_ms, series.queued[number], color=colour, linewidth=1.5, linestyle=dash)
        for panel, title in (
            (rate, "Payload, MB/s"),
            (credit, "Credits outstanding"),
            (queue, "Frames queued before the port"),
        ):
            panel.set_ylabel(title)
            panel.set_ylim(bottom=0)
            panel.grid(True, color="#dddddd", linewidth=0.6)
            panel.spines[["top", "right"]].set_visible(False)
        for panel in (credit, queue):  # there is no half a credit
            panel.yaxis.get_major_locator().set_params(integer=True)
        queue.set_xlabel("Time, ms")
        queue.set_xlim(0, at_ms[-1] if at_ms and at_ms[-1] else 1)
        left = len(plan.directions) - len(shown)
        more = f" ({len(shown)} of {len(plan.directions)} ports drawn)" if left else ""
        figure.suptitle(f"{plan.scenario.name}{more}")
        figure.legend(loc="outside lower center", ncols=min(4, max(1, len(shown))), frameon=False)
        figure.savefig(path, dpi=120)
    finally:
        pyplot.close(figure)


def drawn_directions(outcome: Outcome) -> list[int]:
    """The directions worth drawing: those that sent, the ones that waited or queued most first, in their order."""
    counted = outcome.directions
    busy = [n for n in range(len(counted)) if counted[n].tx_frames]
    busy.sort(key=lambda n: (counted[n].wait_ticks, counted[n].tx_bytes), reverse=True)
    return sorted(busy[:BUSIEST])
