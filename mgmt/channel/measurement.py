"""One measurement of a channel, seen from the master side (sans-IO; time and the nonce are arguments).

First a few STAMP packets (RFC 8762), for the round-trip time; then packet trains, one at a time, for the bandwidth.
The first train is short and only tells how long the next ones have to be. How long something is waited for follows
from the round trip, once one is known: the first echo has :attr:`MeasurementConfig.echo_wait_ns`, for channels over
satellites. The whole never takes longer than :attr:`MeasurementConfig.limit_ns`; what is known by then counts.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import Enum

from mgmt.channel.dispersion import NotMeasurable, channel_bandwidth_bps, jitter_ns, round_trip_ns
from mgmt.channel.responder import MAX_TRAIN
from mgmt.channel.stamp import SenderPacket, decode_reflector, encode_sender
from mgmt.channel.wire import PACKET_BYTES, Kind, Packet, decode, encode, is_ours


@dataclass(frozen=True, slots=True)
class MeasurementConfig:
    """How much is sent and how long it may take; lengths are IP packets, with the headers."""

    ip_header_bytes: int = 28
    """What IP and UDP add to a datagram: 28 for IPv4, 48 for IPv6."""
    packet_bytes: int = 1500
    """Length of the packets of a train."""
    echoes: int = 10
    echo_spacing_ns: int = 5_000_000
    echo_wait_ns: int = 3_000_000_000
    """How long after the last echo the first answer is waited for."""
    trains: int = 5
    scout_packets: int = 16
    """Length of the first train."""
    max_packets: int = 512
    train_span_ns: int = 40_000_000
    """How long a train should keep the channel busy."""
    repeat_ns: int = 100_000_000
    """After how long an unanswered report request is sent again, besides two round trips."""
    trains_ns: int = 1_000_000_000
    """How long all trains may take, besides two round trips for each."""
    limit_ns: int = 15_000_000_000

    def __post_init__(self) -> None:
        if self.packet_bytes < PACKET_BYTES + self.ip_header_bytes:
            raise ValueError(f"a probe packet has at least {PACKET_BYTES + self.ip_header_bytes} bytes")
        if not 1 <= self.scout_packets <= self.max_packets <= MAX_TRAIN:
            raise ValueError(f"a packet train has at most {MAX_TRAIN} packets")


@dataclass(frozen=True, slots=True)
class Delay:
    """The smallest round trip, the mean difference of neighbouring ones, and the loss, of the STAMP packets."""

    rtt_ns: int
    jitter_ns: int
    loss_ppm: int


@dataclass(frozen=True, slots=True)
class Measured:
    """What a measurement found. ``sender_limited``: the channel carries at least this, the sender had no more.

    ``jitter_ns`` is the mean difference of neighbouring round trips (IPDV, RFC 3393), ``loss_ppm`` how many of a
    million STAMP packets did not come back.
    """

    bandwidth_bps: int
    rtt_ns: int
    sender_limited: bool
    jitter_ns: int = 0
    loss_ppm: int = 0


class _Phase(Enum):
    ECHOES = "echoes"
    TRAINS = "trains"
    OVER = "over"


@dataclass(slots=True)
class _Train:
    """One train under way: its length, when it was written, when its report is asked for again."""

    packets: int
    repeat_at_ns: int
    offered_bps: int | None = None


@dataclass(slots=True)
class _Found:
    rtts_ns: dict[int, int] = field(default_factory=dict)
    scout_bps: list[int] = field(default_factory=list)
    train_bps: list[int] = field(default_factory=list)
    offered_bps: list[int] = field(default_factory=list)


class Measurement:
    """The core of one measurement. The shell sends :meth:`datagrams_to_send`, hands in what :meth:`receive` takes,
    and calls :meth:`handle_timer` at :meth:`next_deadline` until :attr:`over`. ``utc_offset_ns`` is what ``now_ns``
    lacks of UTC; the ``key`` is both devices'.
    """

    def __init__(
        self,
        nonce: int,
        config: MeasurementConfig,
        now_ns: int,
        *,
        utc_offset_ns: int = 0,
        key: bytes | None = None,
    ) -> None:
        self._nonce = nonce
        self._ssid = nonce & 0xFFFF
        self._utc_offset_ns = utc_offset_ns
        self._key = key
        self._config = config
        self._phase = _Phase.ECHOES
        self._found = _Found()
        self._gives_up_at_ns = now_ns + config.limit_ns
        self._ends_at_ns = self._gives_up_at_ns
        self._next_echo_at_ns = now_ns
        self._sent_ns: list[int] = []
        self._trains_sent = 0
        self._train: _Train | None = None
        self._report_due = False

    @property
    def over(self) -> bool:
        """There is nothing more to send or to wait for."""
        return self._phase is _Phase.OVER

    def datagrams_to_send(self, now_ns: int) -> list[bytes]:
        """What has to leave now, as fast as it can."""
        if self._phase is _Phase.ECHOES:
            return self._echo(now_ns)
        if self._phase is _Phase.TRAINS:
            if self._train is None:
                return self._start_train(now_ns)
            if self._report_due:
                self._report_due = False
                return [self._report_request()]
        return []

    def burst_written(self, took_ns: int, *, blocked: bool) -> None:
        """The train just returned by :meth:`datagrams_to_send` took this long to write.

        ``blocked``: the system made the sender wait, so that the sender was not the slowest part.
        """
        if self._train is not None and not blocked and took_ns > 0:
            bits = 8 * self._train.packets * self._config.packet_bytes
            self._train.offered_bps = bits * 1_000_000_000 // took_ns

    def receive(self, data: bytes, arrival_ns: int) -> None:
        """A datagram arrived; one of strangers, of another measurement or out of its time is ignored."""
        if not is_ours(data):
            if self._phase is _Phase.ECHOES:
                self._echo_back(data, arrival_ns)
            return
        packet = decode(data, self._key)
        if packet is None or packet.nonce != self._nonce or packet.kind is not Kind.REPORT:
            return
        if self._train is not None and packet.train == self._trains_sent:
            self._report(packet)

    def next_deadline(self) -> int | None:
        """When :meth:`handle_timer` is due; ``None`` when the measurement is over."""
        if self._phase is _Phase.OVER:
            return None
        if self._phase is _Phase.ECHOES:
            return min(self._next_echo_at_ns, self._ends_at_ns)
        if self._train is not None:
            return min(self._train.repeat_at_ns, self._ends_at_ns)
        return self._ends_at_ns

    def handle_timer(self, now_ns: int) -> None:
        """The moment of :meth:`next_deadline` has come, or has passed."""
        if now_ns >= self._ends_at_ns:
            self._phase = _Phase.OVER
        elif self._phase is _Phase.ECHOES and len(self._sent_ns) == self._config.echoes:
            if now_ns >= self._next_echo_at_ns:
                self._end_echoes(now_ns)
        elif self._train is not None and now_ns >= self._train.repeat_at_ns:
            self._train.repeat_at_ns = now_ns + self._repeat_ns()
            self._report_due = True

    def outcome(self) -> Measured:
        """What was found. :class:`NotMeasurable`: not enough came back."""
        delay, found = self.outcome_of_delay(), self._found
        bandwidth_bps = channel_bandwidth_bps(found.train_bps or found.scout_bps)
        offered = max(found.offered_bps, default=None)
        return Measured(
            bandwidth_bps,
            delay.rtt_ns,
            sender_limited=offered is not None and offered < bandwidth_bps * 5 // 4,
            jitter_ns=delay.jitter_ns,
            loss_ppm=delay.loss_ppm,
        )

    def outcome_of_delay(self) -> Delay:
        """What the STAMP packets alone found. :class:`NotMeasurable`: none came back."""
        found = self._found
        if not found.rtts_ns:
            waited_s = min(self._config.echo_wait_ns, self._config.limit_ns) / 1_000_000_000
            raise NotMeasurable(
                f"nothing came back: no echo of {len(self._sent_ns)} in {waited_s:g} s; does a measuring device listen "
                "there, and does UDP pass?"
            )
        rtts_ns = [found.rtts_ns[number] for number in sorted(found.rtts_ns)]
        rtt_ns = round_trip_ns(rtts_ns)
        loss_ppm = 1_000_000 - len(rtts_ns) * 1_000_000 // len(self._sent_ns)
        return Delay(rtt_ns, jitter_ns(rtts_ns), loss_ppm)

    def _echo(self, now_ns: int) -> list[bytes]:
        if len(self._sent_ns) >= self._config.echoes or now_ns < self._next_echo_at_ns:
            return []
        number = len(self._sent_ns)
        self._sent_ns.append(now_ns)
        last = len(self._sent_ns) == self._config.echoes
        self._next_echo_at_ns = now_ns + (self._last_wait_ns() if last else self._config.echo_spacing_ns)
        return [encode_sender(SenderPacket(number, now_ns + self._utc_offset_ns, self._ssid), self._key)]

    def _echo_back(self, data: bytes, arrival_ns: int) -> None:
        packet = decode_reflector(data, arrival_ns + self._utc_offset_ns, self._key)
        if packet is None or packet.ssid != self._ssid:
            return
        number, found = packet.sender_sequence, self._found.rtts_ns
        if number >= len(self._sent_ns) or number in found:
            return
        if packet.sender_sent_utc_ns != self._sent_ns[number] + self._utc_offset_ns:
            return
        held_ns = packet.sent_utc_ns - packet.received_utc_ns
        found[number] = arrival_ns - self._sent_ns[number] - held_ns
        if len(found) == self._config.echoes:
            self._end_echoes(arrival_ns)
        elif len(self._sent_ns) == self._config.echoes:
            self._next_echo_at_ns = min(self._next_echo_at_ns, arrival_ns + self._last_wait_ns())

    def _last_wait_ns(self) -> int:
        """How long the echoes still missing are waited for when the last has left: a while, or two round trips."""
        known = self._longest_rtt_ns()
        return min(self._repeat_ns(), self._config.echo_wait_ns) if known else self._config.echo_wait_ns

    def _end_echoes(self, now_ns: int) -> None:
        if not self._found.rtts_ns:
            self._phase = _Phase.OVER
            return
        self._phase = _Phase.TRAINS
        config = self._config
        trains_ns = config.trains_ns + 2 * (config.trains + 1) * self._longest_rtt_ns()
        self._ends_at_ns = min(now_ns + trains_ns, self._gives_up_at_ns)

    def _longest_rtt_ns(self) -> int:
        return max([0, *self._found.rtts_ns.values()])

    def _repeat_ns(self) -> int:
        return self._config.repeat_ns + 2 * self._longest_rtt_ns()

    def _start_train(self, now_ns: int) -> list[bytes]:
        self._trains_sent += 1
        config = self._config
        packets = self._train_packets()
        self._train = _Train(packets, now_ns + self._repeat_ns())
        payload_bytes = config.packet_bytes - config.ip_header_bytes
        burst = [
            encode(
                Packet(Kind.TRAIN, self._nonce, train=self._trains_sent, sequence=number),
                payload_bytes,
                self._key,
            )
            for number in range(packets)
        ]
        return [*burst, self._report_request()]

    def _train_packets(self) -> int:
        """Enough packets to keep the channel busy for the wanted span, within bounds."""
        config = self._config
        known = self._found.train_bps or self._found.scout_bps
        if not known:
            return config.scout_packets
        wanted = known[-1] * config.train_span_ns // (8_000_000_000 * config.packet_bytes)
        return min(max(wanted, config.scout_packets), config.max_packets)

    def _report_request(self) -> bytes:
        return encode(Packet(Kind.REPORT_REQUEST, self._nonce, train=self._trains_sent), key=self._key)

    def _report(self, packet: Packet) -> None:
        train, self._train = self._train, None
        self._report_due = False
        if train is not None and packet.bandwidth_bps > 0:
            scout = not self._found.scout_bps
            (self._found.scout_bps if scout else self._found.train_bps).append(packet.bandwidth_bps)
            if train.offered_bps is not None:
                self._found.offered_bps.append(train.offered_bps)
        if self._trains_sent == self._config.trains + 1:
            self._phase = _Phase.OVER


__all__ = ["Delay", "Measured", "Measurement", "MeasurementConfig", "NotMeasurable"]
