"""Table 108 as lists have it: made anew only when a row has changed, or its values have just become too old."""

from __future__ import annotations

import threading
from datetime import datetime
from typing import TYPE_CHECKING, Any

from mgmt.station.channels import row

if TYPE_CHECKING:
    from mgmt.station.context import Station


class ChannelRows:
    """The rows as they were last made, and until when they are right. Thread-safe."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._rows: tuple[dict[str, Any], ...] = ()
        self._of = -1
        self._from_s = self._until_s = 0.0
        self._revision = 0

    def table(self, station: Station) -> tuple[tuple[dict[str, Any], ...], int]:
        """The rows (shared: do not change them), and a revision that changes whenever they do."""
        with self._lock:
            version = station.store.channels_version  # before they are read: what changes meanwhile is newer
            now_s = station.utc_now().timestamp()
            if version != self._of or not self._from_s <= now_s <= self._until_s:
                channels = station.store.channels()
                self._rows = tuple(row(station, channel) for channel in channels)
                measured = (channel.measured_at for channel in channels if channel.measured_at is not None)
                ends = (datetime.fromisoformat(at).timestamp() + station.stale_after_s for at in measured)
                self._until_s = min((end_s for end_s in ends if end_s >= now_s), default=float("inf"))
                self._of, self._from_s = version, now_s
                self._revision += 1
            return self._rows, self._revision
