"""First paint of the station's pages with 500 arrays and 10,000 reservations, in Debian's Chromium.

The station of the API's benchmark, on one core. For each page: the server's answer without a browser, and the browser's
first contentful paint, each the median and the worst of ``--rounds`` loads; what the first of all needed, when the
station had not yet asked its arrays, is told beside them.

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

from tools.bench.api_bench import running

_CHROMIUM = "/usr/bin/chromium"
_FLAGS = ["--headless", "--no-sandbox", "--disable-gpu", "--disable-background-networking"]
_BAR_MS = 1000
_PAINT = "performance.getEntriesByName('first-contentful-paint')[0]?.startTime"
_PAGES = (
    "/",
    "/tables/reservations",
    "/tables/reservations?sort=RESERVED&desc=1&page=100",
    "/tables/reservations?q=10.9.7",
    "/tables/pools",
    "/tables/pairs",
    "/copies",
    "/channels",
    "/alarms",
    "/events",
)


def _answers(base: str, path: str, rounds: int) -> list[float]:
    """Milliseconds from the request to the whole answer."""
    with httpx.Client(base_url=base, timeout=60) as client:
        return [_timed_ms(lambda: client.get(path).raise_for_status()) for _ in range(rounds)]


def _timed_ms(act: Callable[[], object]) -> float:
    began = time.perf_counter()
    act()
    return (time.perf_counter() - began) * 1000


def _paints(browser: Any, base: str, path: str, rounds: int) -> list[float]:
    """Milliseconds from the start of the navigation to the first contentful paint."""
    page = browser.new_page()
    try:
        found = []
        for _ in range(rounds):
            page.goto(base + path)
            paint = None
            while paint is None:  # the page's policy allows no script that waits inside it
                page.wait_for_timeout(20)
                paint = page.evaluate(_PAINT)
            found.append(float(paint))
        return found
    finally:
        page.close()


def _report(base: str, rounds: int) -> bool:
    from playwright.sync_api import sync_playwright

    first_ms = _answers(base, "/", 1)[0]
    rows = []
    worst_ms = 0.0
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=_CHROMIUM, args=_FLAGS)
        for path in _PAGES:
            answers, paints = _answers(base, path, rounds), _paints(browser, base, path, rounds)
            worst_ms = max(worst_ms, *paints)
            rows.append(
                [
                    path,
                    *(round(of(values)) for values in (answers, paints) for of in (statistics.median, max)),
                ]
            )
        browser.close()
    headings = ["page", "answer ms", "worst", "first paint ms", "worst"]
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
    with running(options.arrays, options.reservations) as (where, _):
        return 0 if _report(f"http://{where}", options.rounds) else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
