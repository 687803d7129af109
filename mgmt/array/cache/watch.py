"""The cache memory looked at while copies are under way, and the station told when it is short (M12, paragraph 104)."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Iterable
from typing import Protocol

from credits.targets import Target
from mgmt.array.cache.memory import CacheMemory
from mgmt.array.cache.shortage import ShortageWatch
from mgmt.http import Peer, PeerRefused, PeerUnreachable
from mgmt.messages import BufferControlAutomationRequest, BufferControlAutomationResponse

_log = logging.getLogger(__name__)

#: How often the free size is looked at.
LOOK_S = 0.1
#: What did not reach the station is said again after so long.
AGAIN_S = 2.0


class Station(Protocol):
    """Where M12 goes: :class:`mgmt.http.Peer`."""

    def send(self, message: BufferControlAutomationRequest) -> object:
        """The answer. Raises PeerRefused and PeerUnreachable."""
        ...


Copied = Callable[[], Iterable[tuple[Target, int]]]
"""The targets whose reservations copies under way draw on, and what each has reserved, in bytes."""


class CacheWatch:
    """A thread that collects the free size of ``cache`` periodically. Without ``station`` it keeps the threshold."""

    def __init__(
        self, array: str, cache: CacheMemory, station: Peer | Station | None, copied: Copied
    ) -> None:
        self._array = array
        self._cache = cache
        self._station = station
        self._copied = copied
        self._core = ShortageWatch(cache.statistics().size_bytes, cache.config.warning_bytes)
        self._guard = threading.Lock()
        self._ending = threading.Event()
        self._thread = threading.Thread(target=self._run, name="cache-watch")

    def __enter__(self) -> CacheWatch:
        if self._station is not None:
            self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ending.set()
        if self._station is not None:
            self._thread.join()

    @property
    def threshold_bytes(self) -> int:
        """The warning threshold; 0: none."""
        return self._core.threshold_bytes

    def set_threshold(self, threshold_bytes: int) -> None:
        """M16."""
        with self._guard:
            self._core.set_threshold(threshold_bytes)

    def look(self) -> bool:
        """Collect once, and tell the station what is due; False: it did not take all of it."""
        reserved = dict(self._copied())
        free_bytes = self._cache.statistics().free_bytes
        with self._guard:
            due = self._core.observe(free_bytes, reserved)
            threshold_bytes = self._core.threshold_bytes
        heard = True
        for target in due:
            message = BufferControlAutomationRequest(
                array=self._array,
                target=target,
                reserved_bytes=reserved[target],
                free_bytes=free_bytes,
                threshold_bytes=threshold_bytes,
            )
            heard &= self._tell(message)
        return heard

    def _tell(self, message: BufferControlAutomationRequest) -> bool:
        assert self._station is not None
        try:
            answer = self._station.send(message)
        except PeerRefused as refusal:  # said once: asking again would be refused again
            _log.warning(
                "the cache is short, and the station does not enlarge %s: %s", message.target, refusal
            )
            return True
        except PeerUnreachable as error:
            _log.warning("the cache is short, and the station cannot be told: %s", error)
            with self._guard:
                self._core.not_heard(message.target)
            return False
        if isinstance(answer, BufferControlAutomationResponse) and answer.enlarges:
            _log.info("the cache is short: %s grows to %d bytes", message.target, answer.recommended_bytes)
        return True

    def _run(self) -> None:
        while not self._ending.wait(LOOK_S):
            if not self.look() and self._ending.wait(AGAIN_S):
                return
