# cython: boundscheck=True, wraparound=False, cdivision=False, initializedcheck=False, annotation_typing=False
# cython: infer_types=True, language_level=3
"""Figures of exchanges picked out of their blocks, group by group, and sorted: for exact percentiles.

Compiled by Cython where a compiler is at hand (types in the .pxd beside), plain Python where not; the same code.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from tools.capture import exchanges

COMPILED = not __file__.endswith(".py")

EXCHANGE_WORDS = exchanges.EXCHANGE_WORDS
MASK = 0xFFFFFFFF
COMPLETION, FIRST_DATA, HOST_RESPONSE, SIZE = 0, 1, 2, 3


def value(words: Sequence[int], at: int, metric: int) -> int:
    """One figure of the exchange at this place; -1: it has none. Ends before their beginnings count as 0."""
    start = words[at]
    found = -1
    if metric == COMPLETION:
        found = words[at + 3] - start
    elif metric == FIRST_DATA:
        found = words[at + 2] - start
    elif metric == SIZE:
        return words[at + 10] & MASK
    elif words[at + 4] and words[at + 5]:
        found = words[at + 5] - words[at + 4]
    else:
        return -1
    return found if found > 0 else 0


def count_groups(words: Any, count: int, metric: int, flags: int, group_of: Any, counts: Any) -> int:
    """How many figures each group has in a block: added to ``counts``. ``group_of``: group by number of the nexus.
    ``flags``: only exchanges that have one of them; 0: all."""
    for number in range(count):
        at = number * EXCHANGE_WORDS
        if (flags == 0 or words[at + 12] >> 48 & flags) and value(words, at, metric) >= 0:
            counts[group_of[words[at + 12] & MASK]] += 1
    return 0


def gather(words: Any, count: int, metric: int, flags: int, group_of: Any, next_of: Any, out: Any) -> int:
    """Put the figures of a block where ``next_of`` says for each group, and move that on."""
    for number in range(count):
        at = number * EXCHANGE_WORDS
        if flags == 0 or words[at + 12] >> 48 & flags:
            figure = value(words, at, metric)
            if figure >= 0:
                group = group_of[words[at + 12] & MASK]
                place = next_of[group]
                out[place] = figure
                next_of[group] = place + 1
    return 0


def sort(values: Any, start: int, end: int) -> int:
    """Sort ``values[start:end]`` in place; their sum. A heap sort: no worst case, no memory."""
    count = end - start
    total = 0
    for i in range(start, end):
        total += values[i]
    for root in range(count // 2 - 1, -1, -1):
        _sift(values, start, root, count)
    for last in range(count - 1, 0, -1):
        top = values[start]
        values[start] = values[start + last]
        values[start + last] = top
        _sift(values, start, 0, last)
    return total


def _sift(values: Any, start: int, root: int, count: int) -> int:
    moved = values[start + root]
    while True:
        child = 2 * root + 1
        if child >= count:
            break
        if child + 1 < count and values[start + child + 1] > values[start + child]:
            child += 1
        if values[start + child] <= moved:
            break
        values[start + root] = values[start + child]
        root = child
    values[start + root] = moved
    return 0


def runs(values: Any, start: int, end: int, most: int) -> list[tuple[int, int]]:
    """The distinct values of a sorted slice with how often each occurs, the most frequent first; at most ``most``."""
    found: list[tuple[int, int]] = []
    at = start
    while at < end:
        same = values[at]
        begin = at
        while at < end and values[at] == same:
            at += 1
        found.append((at - begin, same))
        if len(found) > 4 * most:
            found = sorted(found, reverse=True)[:most]
    return [(size, often) for often, size in sorted(found, key=_by_count)[:most]]


def _by_count(pair: tuple[int, int]) -> tuple[int, int]:
    return -pair[0], pair[1]
