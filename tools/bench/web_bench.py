"""First paint of the station's pages with 500 arrays and 10,000 reservations, in Debian's Chromium.

The station of the API's benchmark, on one core. For each page: the server's answer without a browser, and the browser's
first contentful paint, each the median and the worst of ``--rounds`` loads; what the first of all needed, when the
station had not yet asked its arrays, is told beside them. Processor time of one load, which other work on the machine
does not change: the station's for an answer, and that of the browser's main thread for everything until the page rests.

``python -m tools.bench web [--arrays 500] [--reservations 10000] [--rounds 8]``
"""

from __future__ import annotations

import argparse
import os
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
from tabulate import tabulate

from tools.bench.api_bench import cpu_s, running

_CHROMIUM = "/usr/bin/chromium"
_FLAGS = ["--headless", "--no-sandbox", "--disable-gpu", "--disable-background-networking"]
_BAR_MS = 1000
_PAINT = "performance.getEntriesByName('first-contentful-paint')[0]?.startTime"
#: Stations renew what they know of 500 arrays all the time; so long at rest is measured to take it off.
_REST_S = 1.0
_PAGES = (
    "/",
    "/tables/reservations",
    "/tables/reservations?sort=RESERVED&desc=1&page=100",
    "/tables/reservations?q=10.9.7",
    "/tables/pools",
    "/tables/pairs",
    "/copies",
    "/groups",
    "/channels",
    "/what-if",
    "/alarms",
    "/events",
    "/audit",
)


def _answers(base: str, path: str, rounds: int, station: int, rest_share: float) -> tuple[list[float], float]:
    """Milliseconds from the request to the whole answer, each; and the station's processor time of one."""
    with httpx.Client(base_url=base, timeout=60) as client:
        began, used_s = time.perf_counter(), cpu_s(station)
        found = [_timed_ms(lambda: client.get(path).raise_for_status()) for _ in range(rounds)]
        used_s = cpu_s(station) - used_s - rest_share * (time.perf_counter() - began)
    return found, max(0.0, 1000 * used_s / rounds)


def _timed_ms(act: Callable[[], object]) -> float:
    began = time.perf_counter()
    act()
    return (time.perf_counter() - began) * 1000


def _paints(browser: Any, base: str, path: str, rounds: int) -> tuple[list[float], float]:
    """Milliseconds from the start of each navigation to the first contentful paint; the main thread's for one."""
    page = browser.new_page()
    try:
        meter = page.context.new_cdp_session(page)
        meter.send("Performance.enable", {"timeDomain": "threadTicks"})
        found, used_s = [], 0.0
        for _ in range(rounds):
            before_s = _main_thread_s(meter)
            page.goto(base + path)
            paint = None
            while paint is None:  # the page's policy allows no script that waits inside it
                page.wait_for_timeout(20)
                paint = page.evaluate(_PAINT)
            found.append(float(paint))
            after_s = _main_thread_s(meter)
            used_s += after_s - before_s if after_s >= before_s else after_s  # another process began anew
        return found, 1000 * used_s / rounds
    finally:
        page.close()


def _main_thread_s(meter: Any) -> float:
    metrics = meter.send("Performance.getMetrics")["metrics"]
    return float(next(one["value"] for one in metrics if one["name"] == "TaskDuration"))


def _report(base: str, station: int, rounds: int) -> bool:
    from playwright.sync_api import sync_playwright

    first_ms = _answers(base, "/", 1, station, 0.0)[0][0]
    began, used_s = time.perf_counter(), cpu_s(station)
    time.sleep(_REST_S)
    rest_share = (cpu_s(station) - used_s) / (time.perf_counter() - began)
    rows = []
    worst_ms = 0.0
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=_CHROMIUM, args=_FLAGS)
        for path in _PAGES:
            answers, station_ms = _answers(base, path, rounds, station, rest_share)
            paints, browser_ms = _paints(browser, base, path, rounds)
            worst_ms = max(worst_ms, *paints)
            told = [of(values) for values in (answers, paints) for of in (statistics.median, max)]
            rows.append([path, *map(round, (*told, station_ms, browser_ms))])
        browser.close()
    headings = ["page", "answer ms", "worst", "first paint ms", "worst", "station CPU ms", "browser CPU ms"]
    sys.stdout.write(tabulate(rows, headings) + f"\nfirst answer of all: {first_ms:.0f} ms\n")
    met = worst_ms <= _BAR_MS
    sys.stdout.write(f"first paint within {_BAR_MS} ms: {'yes' if met else 'NO'}\n")
    return met


def main(words: list[str]) -> int:
    """Exit status 0 where every first paint was within a second, else 1; 2 where there is no Chromium."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--arrays", type=int, default=500)
    parser.add_argument("--reservations", type=int, default=10_000)
    parser.add_argument("--rounds", type=int, default=8)
    options = parser.parse_args(words)
    if not Path(_CHROMIUM).exists() or not os.access(_CHROMIUM, os.X_OK):
        sys.stderr.write("no Chromium: apt install chromium\n")
        return 2
    with running(options.arrays, options.reservations) as (where, station):
        return 0 if _report(f"http://{where}", station, options.rounds) else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
