"""Watching one channel: from a stream of samples to the moments when it has changed (sans-IO; step 1201).

The delay comes from STAMP packets that never stop, the bandwidth from the delivery rate of running copies, and while
nothing runs from packet trains. What is hard is that a copy with a large reservation fills the queue of its own
channel: the round trip grows without the channel having changed, and a reservation that grew with it would grow for
ever. A queue is in one direction, though; so the delay is taken from the direction that is less loaded at the moment,
twice. For that the offset of the two clocks has to be known; it is that with which the quickest round trip of the last
minute was equally long both ways. A path that really is longer one way than the other counts as its mean.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass, field

from mgmt.channel.change import ChangeConfig, ChangeDetector
from mgmt.channel.smoothing import Average, WindowedExtreme


@dataclass(frozen=True, slots=True)
class MonitorConfig:
    """Windows and thresholds. A ``slot_ns`` gives one sample of the delay to the detector: its smallest."""

    slot_ns: int = 250_000_000
    offset_window_ns: int = 60_000_000_000
    bandwidth_slot_ns: int = 500_000_000
    bandwidth_window_ns: int = 1_500_000_000
    delay_change: ChangeConfig = field(default_factory=ChangeConfig)
    bandwidth_change: ChangeConfig = field(default_factory=lambda: ChangeConfig(threshold=0.5))
    jitter_floor_ns: int = 500_000
    """Changes of the delay of less than this are none, whatever part of it they are."""


@dataclass(frozen=True, slots=True)
class RoundTrip:
    """One STAMP packet that came back: its round trip without the reflector's time, and both ways as the clocks say."""

    rtt_ns: int
    there_ns: int
    back_ns: int


@dataclass(frozen=True, slots=True)
class ChannelChanged:
    """The channel has changed (M9). Both values are the newest, whichever of them it was."""

    bandwidth_bps: int
    rtt_ns: int
    now_ns: int


@dataclass(frozen=True, slots=True)
class ChannelView:
    """What is shown of a channel; None: not measured yet. ``rtt_ns`` is the unloaded delay, ``loaded_rtt_ns`` the
    average of what packets see, ``jitter_ns`` and ``loss_ppm`` averages too."""

    bandwidth_bps: int | None
    rtt_ns: int | None
    loaded_rtt_ns: int | None
    jitter_ns: int | None
    loss_ppm: int | None


class ChannelMonitor:
    """The core for one channel. Facts come in by ``observe_…`` in the order of their time; :meth:`events` leave."""

    def __init__(self, config: MonitorConfig | None = None) -> None:
        self._config = config = config or MonitorConfig()
        self._quickest: deque[tuple[int, int, int]] = deque(maxlen=4096)
        self._delay = ChangeDetector(config.delay_change)
        self._bandwidth = ChangeDetector(config.bandwidth_change)
        self._rate = WindowedExtreme(config.bandwidth_window_ns, 1)
        self._slot_ends_ns: int | None = None
        self._slot: list[RoundTrip] = []
        self._rate_slot_ends_ns: int | None = None
        self._rtt_ns: int | None = None
        self._bandwidth_bps: int | None = None
        self._known = False
        self._queueing = False
        self._previous_rtt_ns: int | None = None
        self._loaded, self._jitter, self._loss = Average(), Average(1 / 16), Average(1 / 64)
        self._events: deque[ChannelChanged] = deque(maxlen=64)

    def events(self) -> Iterator[ChannelChanged]:
        """What happened since the last call; of more than 64 the newest."""
        while self._events:
            yield self._events.popleft()

    def view(self) -> ChannelView:
        """The channel as it is known now."""
        return ChannelView(
            bandwidth_bps=self._bandwidth_bps,
            rtt_ns=self._rtt_ns,
            loaded_rtt_ns=self._loaded.value,
            jitter_ns=self._jitter.value,
            loss_ppm=self._loss.value,
        )

    def observe_round_trip(self, sample: RoundTrip, now_ns: int) -> None:
        """A STAMP packet came back; one with a round trip of 0 or less tells of a clock that was set."""
        if sample.rtt_ns <= 0:
            return
        self._loss.observe(0)
        self._loaded.observe(sample.rtt_ns)
        if self._previous_rtt_ns is not None:
            self._jitter.observe(abs(sample.rtt_ns - self._previous_rtt_ns))
        self._previous_rtt_ns = sample.rtt_ns
        self._note_offset(sample, now_ns)
        if self._slot_ends_ns is None:
            self._slot_ends_ns = now_ns + self._config.slot_ns
        self._slot.append(sample)
        if now_ns >= self._slot_ends_ns:
            self._end_slot(now_ns)

    def observe_loss(self) -> None:
        """A STAMP packet did not come back in time."""
        self._loss.observe(1_000_000)

    def observe_delivery(self, rate_bps: int, now_ns: int) -> None:
        """The rate at which the channel delivered what copies sent. While no queue stands in their way, the copies
        had too little to send, and the rate says only that the channel carries at least that
        (draft-cheng-iccrg-delivery-rate-estimation clause 3)."""
        if rate_bps <= 0 or (not self._queueing and rate_bps <= (self._bandwidth_bps or 0)):
            return
        most = self._rate.observe(rate_bps, now_ns)
        if self._rate_slot_ends_ns is None:
            self._rate_slot_ends_ns = now_ns + self._config.bandwidth_slot_ns
        if now_ns >= self._rate_slot_ends_ns:
            self._rate_slot_ends_ns = now_ns + self._config.bandwidth_slot_ns
            self._observe_bandwidth(most, now_ns)

    @property
    def queueing(self) -> bool:
        """Whether packets wait on their way there: the channel carries all that it can."""
        return self._queueing

    def observe_bandwidth(self, bandwidth_bps: int, now_ns: int) -> None:
        """Packet trains found this bandwidth, while no copy was in their way."""
        if bandwidth_bps > 0:
            self._observe_bandwidth(bandwidth_bps, now_ns)

    def _note_offset(self, sample: RoundTrip, now_ns: int) -> None:
        """The quickest round trip of the window, kept as a queue that only gets slower towards its end."""
        kept, window_ns = self._quickest, self._config.offset_window_ns
        while kept and kept[-1][1] >= sample.rtt_ns:
            kept.pop()
        kept.append((now_ns, sample.rtt_ns, (sample.there_ns - sample.back_ns) // 2))
        while now_ns - kept[0][0] > window_ns:
            kept.popleft()

    def _end_slot(self, now_ns: int) -> None:
        slot, self._slot = self._slot, []
        self._slot_ends_ns = now_ns + self._config.slot_ns
        offset_ns = self._quickest[0][2]
        there_ns = min(sample.there_ns for sample in slot) - offset_ns
        back_ns = min(sample.back_ns for sample in slot) + offset_ns
        unloaded_ns = min(2 * min(there_ns, back_ns), min(sample.rtt_ns for sample in slot))
        if unloaded_ns <= 0:
            return  # a clock was set; the offset is found anew when the window is over
        self._queueing = there_ns - unloaded_ns // 2 > max(
            2 * self._config.jitter_floor_ns, unloaded_ns // 10
        )
        known_ns = self._rtt_ns
        if known_ns is not None and abs(unloaded_ns - known_ns) < self._config.jitter_floor_ns:
            unloaded_ns = known_ns
        changed = self._delay.observe(unloaded_ns, now_ns)
        if known_ns is None:
            self._rtt_ns = self._delay.reference
            self._tell_when_known(now_ns)
        elif changed is not None:
            self._rtt_ns = changed
            self._tell(now_ns)

    def _observe_bandwidth(self, value_bps: int, now_ns: int) -> None:
        known_bps = self._bandwidth_bps
        changed = self._bandwidth.observe(value_bps, now_ns)
        if known_bps is None:
            self._bandwidth_bps = self._bandwidth.reference
            self._tell_when_known(now_ns)
        elif changed is not None:
            self._bandwidth_bps = changed
            self._tell(now_ns)

    def _tell_when_known(self, now_ns: int) -> None:
        if not self._known and self._rtt_ns is not None and self._bandwidth_bps is not None:
            self._known = True
            self._tell(now_ns)

    def _tell(self, now_ns: int) -> None:
        if self._rtt_ns is not None and self._bandwidth_bps is not None:
            self._known = True
            self._events.append(ChannelChanged(self._bandwidth_bps, self._rtt_ns, now_ns))
