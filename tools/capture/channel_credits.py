"""Credits of virtual channels: VC_RDY says which channel gets one back, but no frame says which it took it from.

A switch chooses the channel by the destination. Which channel a destination has is found out from the counts: never has
a channel given back more than was sent on it, and at the end it has nearly all. Where more than one way to spread the
destinations fits, or none (the capture began amid traffic), it is left open and said so.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

EVENTS = 200_000
"""From the first so many frames and VC_RDYs; a link that is longer on does not change its channels."""
DESTINATIONS = 16
_TRIES = 20_000
_MOST_CREDITS = 256


class Channels:
    """The virtual channels of one direction of a link; shown its frames and the VC_RDYs that come back. Needs numpy."""

    def __init__(self) -> None:
        self._parts: list[tuple[Any, Any, Any]] = []
        self._count = 0

    def show(self, times: Any, destinations: Any, numbers: Any) -> None:
        """Arrays in order of time. ``destinations``: of a frame, -1 for what is none. ``numbers``: the channel of a
        VC_RDY, -1 for what is none."""
        if self._count < EVENTS:
            self._parts.append((times, destinations, numbers))
            self._count += len(times)

    def rows(self) -> list[dict[str, Any]]:
        """One for each channel that gave credits back. ``outstanding_max`` and ``at_max_ns``, how long so many were in
        use: None where it is not known whose channel it is."""
        if not self._parts:
            return []
        import numpy as np

        times, frames, readies = (np.concatenate(column) for column in zip(*self._parts, strict=True))
        channels = np.unique(readies[readies >= 0]).tolist()
        found = list(self._spread(frames, readies, channels))
        known: dict[int, tuple[int, ...]] = found[0] if len(found) == 1 else {}
        rows = []
        for channel in channels:
            mine = known.get(channel, ())
            row: dict[str, Any] = {
                "channel": channel,
                "readies": int((readies == channel).sum()),
                "frames": int(np.isin(frames, mine).sum()) if mine else None,
                "destinations": [f"{d_id >> 16:02x}.{d_id >> 8 & 255:02x}.{d_id & 255:02x}" for d_id in mine],
                "outstanding_max": None,
                "at_max_ns": None,
            }
            if mine:
                levels = _levels(frames, readies, channel, mine)
                most = int(levels.max())
                row["outstanding_max"] = most
                row["at_max_ns"] = int(np.diff(times)[levels[:-1] == most].sum())
            rows.append(row)
        return rows

    def _spread(self, frames: Any, readies: Any, channels: list[int]) -> Iterator[dict[int, tuple[int, ...]]]:
        """The ways to give each destination a channel that fit; it is over with the second."""
        import numpy as np

        values, counts = np.unique(frames[frames >= 0], return_counts=True)
        sent = sorted(zip(counts.tolist(), values.tolist(), strict=True), reverse=True)
        back = {channel: int((readies == channel).sum()) for channel in channels}
        if len(sent) > DESTINATIONS:
            return
        ways: list[tuple[int, dict[int, tuple[int, ...]], dict[int, int]]] = [
            (0, dict.fromkeys(channels, ()), dict.fromkeys(channels, 0))
        ]
        told = 0
        for _ in range(_TRIES):
            if not ways or told > 1:
                return
            place, given, sums = ways.pop()
            if place < len(sent):
                count, destination = sent[place]
                ways += [
                    (place + 1, given | {one: (*given[one], destination)}, sums | {one: sums[one] + count})
                    for one in channels
                    if sums[one] + count <= back[one] + _MOST_CREDITS
                ]
            elif all(
                sums[one] >= back[one] and int(_levels(frames, readies, one, given[one]).min()) >= 0
                for one in channels
            ):
                told += 1
                yield given


def _levels(frames: Any, readies: Any, channel: int, destinations: tuple[int, ...]) -> Any:
    """Credits of a channel in use after each event."""
    import numpy as np

    sent = np.isin(frames, destinations).astype(np.int64)
    return np.cumsum(sent - (readies == channel))
