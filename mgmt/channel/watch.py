"""The measuring devices' manager at work: it watches channels without being asked, and tells the station (step 1201).

A thread for each channel keeps a STAMP session going; one more asks the arrays how fast their copies get on, measures
the bandwidth of channels without copies by packet trains, and notifies.
"""

from __future__ import annotations

import logging
import os
import select
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from credits.errors import CreditError
from mgmt.channel.dispersion import NotMeasurable
from mgmt.channel.endpoint import receive, udp_socket, utc_offset_ns
from mgmt.channel.measurement import Measured
from mgmt.channel.monitor import ChannelChanged, ChannelMonitor, ChannelView
from mgmt.channel.stream import StampStream
from mgmt.http import Peer, PeerRefused, PeerUnreachable
from mgmt.messages import ChannelChangeNotify

_log = logging.getLogger(__name__)
#: What TCP and IP add to the bytes of a volume on a channel with an MTU of 1500 bytes.
_PACKET_BYTES, _PAYLOAD_BYTES = 1500, 1448


@dataclass(frozen=True, slots=True, kw_only=True)
class WatchConfig:
    """``poll_s``: how often arrays are asked; ``trains_every_s``: how often a channel without copies is measured."""

    poll_s: float = 0.5
    trains_every_s: float = 30.0


class ChannelWatch:
    """One channel between two ports, and what is known of it. Thread-safe.

    A thread keeps a STAMP session going from ``address`` to the ``device`` at the remote site.
    """

    def __init__(
        self,
        address: str,
        local_port: str,
        remote_port: str,
        device: tuple[str, int],
        key: bytes | None = None,
    ) -> None:
        self.local_port = local_port
        self.remote_port = remote_port
        self._monitor = ChannelMonitor()
        self._lock = threading.Lock()
        self._sock = udp_socket(address)
        self._stream = StampStream(
            int.from_bytes(os.urandom(2), "big") or 1, utc_offset_ns=utc_offset_ns(), key=key
        )
        self._device = device
        self._wake_read, self._wake_write = os.pipe()
        self._thread = threading.Thread(target=self._run, name=f"watch {remote_port}", daemon=True)
        self._thread.start()

    def close(self) -> None:
        """End the session."""
        os.close(self._wake_write)
        self._thread.join()
        os.close(self._wake_read)
        self._sock.close()

    def view(self) -> ChannelView:
        """What is known of the channel."""
        with self._lock:
            return self._monitor.view()

    def observe_delivery(self, rate_bps: int) -> None:
        """Copies got on at this rate, in bits of IP packets per second."""
        with self._lock:
            self._monitor.observe_delivery(rate_bps, time.monotonic_ns())

    def observe_bandwidth(self, bandwidth_bps: int) -> None:
        """Packet trains found this."""
        with self._lock:
            self._monitor.observe_bandwidth(bandwidth_bps, time.monotonic_ns())

    def newest_change(self) -> ChannelChanged | None:
        """The last change since the last call; earlier ones are of no interest any more (GAP-12)."""
        with self._lock:
            changes = list(self._monitor.events())
        return changes[-1] if changes else None

    def _run(self) -> None:
        while True:
            now_ns = time.monotonic_ns()
            for datagram in self._stream.datagrams_to_send(now_ns):
                self._send(datagram)
            with self._lock:
                for _ in range(self._stream.lost(now_ns)):
                    self._monitor.observe_loss()
            due_ns = self._stream.next_deadline() or now_ns
            wait_s = max(0.0, (due_ns - time.monotonic_ns()) / 1e9)
            readable, _, _ = select.select([self._sock.fileno(), self._wake_read], [], [], wait_s)
            if self._wake_read in readable:
                return
            if readable:
                self._read()

    def _send(self, datagram: bytes) -> None:
        try:
            self._sock.sendto(datagram, self._device)
        except OSError as error:  # no route, a full queue: the packet counts as lost, the next may leave
            _log.debug("a packet to %s could not leave: %s", self.remote_port, error)

    def _read(self) -> None:
        for _ in range(256):
            try:
                data, arrival_ns, peer, _ = receive(self._sock)
            except OSError:  # nothing more to read, or an ICMP error for an earlier packet
                return
            if peer[:2] != self._device:
                continue
            with self._lock:
                if (sample := self._stream.receive(data, arrival_ns)) is not None:
                    self._monitor.observe_round_trip(sample, arrival_ns)


class Watching:
    """All channels of one device. ``measure`` runs packet trains to a remote port, one measurement at a time."""

    def __init__(
        self,
        channels: Sequence[ChannelWatch],
        *,
        station: Peer | None,
        arrays: Sequence[Peer],
        measure: Callable[[str], Measured],
        config: WatchConfig | None = None,
        utc_now: Callable[[], datetime] = lambda: datetime.now(UTC),
    ) -> None:
        self._channels = {watch.remote_port: watch for watch in channels}
        self._station = station
        self._arrays = arrays
        self._measure = measure
        self._config = config or WatchConfig()
        self._utc_now = utc_now
        self._sequence = 0
        self._unsent: dict[str, ChannelChanged] = {}
        self._progress: dict[tuple[str, str], tuple[int, int]] = {}
        self._busy_at: dict[str, float] = {}
        self._trains_at: dict[str, float] = {}
        self._failed: set[str] = set()
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="channel-manager", daemon=True)
        self._thread.start()

    def close(self) -> None:
        """Stop, and end the sessions of all channels."""
        self._stop.set()
        self._thread.join()
        for watch in self._channels.values():
            watch.close()

    def _run(self) -> None:
        while True:
            for array in self._arrays:
                self._ask(array)
            for remote_port, watch in self._channels.items():
                self._run_trains(remote_port, watch)
                if (change := watch.newest_change()) is not None:
                    self._unsent[remote_port] = change
            self._notify()
            if self._stop.wait(self._config.poll_s):
                return

    def _ask(self, array: Peer) -> None:
        """How far the copies of an array have got since the last time, by remote port."""
        try:
            rows = array.get("/v1/copies")
        except (PeerRefused, PeerUnreachable) as error:
            self._complain(array.who, str(error))
            return
        self._failed.discard(array.who)
        now_ns = time.monotonic_ns()
        rates: dict[str, int] = {}
        seen: dict[tuple[str, str], tuple[int, int]] = {}
        for row in copies_in(rows):
            key = (array.who, str(row["copy_id"]))
            before = self._progress.get(key)
            seen[key] = (now_ns, row["acknowledged_bytes"])
            if before is not None and now_ns > before[0] and row["acknowledged_bytes"] > before[1]:
                rate = (row["acknowledged_bytes"] - before[1]) * 8_000_000_000 // (now_ns - before[0])
                remote_port = str(row["remote_port"])
                rates[remote_port] = rates.get(remote_port, 0) + rate
        self._progress = {key: at for key, at in self._progress.items() if key[0] != array.who} | seen
        for remote_port, rate_bps in rates.items():
            self._busy_at[remote_port] = time.monotonic()
            if (watch := self._channels.get(remote_port)) is not None:
                watch.observe_delivery(rate_bps * _PACKET_BYTES // _PAYLOAD_BYTES)

    def _run_trains(self, remote_port: str, watch: ChannelWatch) -> None:
        """Packet trains, where no copy has moved anything for a while: they would only see what it leaves over."""
        now, every_s = time.monotonic(), self._config.trains_every_s
        if now - self._busy_at.get(remote_port, -every_s) < min(every_s, 5.0):
            return
        if now - self._trains_at.get(remote_port, -every_s) < every_s:
            return
        try:
            measured = self._measure(remote_port)
        except (CreditError, NotMeasurable, OSError) as error:
            self._complain(remote_port, str(error))
            self._trains_at[remote_port] = now + min(every_s, 5.0) - every_s
            return
        self._failed.discard(remote_port)
        self._trains_at[remote_port] = now
        # As many as make a value: the detector goes by more than one sample, and the trains were five.
        for _ in range(3):
            watch.observe_bandwidth(measured.bandwidth_bps)

    def _notify(self) -> None:
        if self._station is None:
            self._unsent.clear()
        for remote_port, change in list(self._unsent.items()):
            watch = self._channels[remote_port]
            seen, at = watch.view(), self._utc_now()
            # Also after a restart the numbers go on from where they were (GAP-12).
            self._sequence = max(self._sequence + 1, int(at.timestamp() * 1000))
            notice = ChannelChangeNotify(
                local_port=watch.local_port,
                remote_port=remote_port,
                bandwidth_bps=change.bandwidth_bps,
                rtt_ns=change.rtt_ns,
                measured_at=at.isoformat(timespec="milliseconds"),
                sequence=self._sequence,
                jitter_ns=seen.jitter_ns,
                loss_ppm=seen.loss_ppm,
            )
            assert self._station is not None
            try:
                self._station.send(notice)
            except PeerRefused as error:
                self._complain(self._station.who, str(error))
            except PeerUnreachable as error:
                self._complain(self._station.who, str(error))
                return  # kept, and sent again at the next turn
            else:
                self._failed.discard(self._station.who)
            del self._unsent[remote_port]

    def _complain(self, who: str, why: str) -> None:
        """Once, until it is well again."""
        if who not in self._failed:
            self._failed.add(who)
            _log.warning("%s: %s", who, why)


def copies_in(rows: Any) -> list[Mapping[str, Any]]:
    """The rows of an array's answer that are copies under way; an array is trusted, but not to be in its right mind."""
    if not isinstance(rows, list):
        return []
    return [
        row
        for row in rows
        if isinstance(row, dict)
        and {"copy_id", "remote_port"} <= row.keys()
        and isinstance(row.get("acknowledged_bytes"), int)
    ]
