"""Sequence bytes in flight, from a capture made at the sender's side: ``python -m tools.capture.inflight FILE``.

For each direction of each TCP connection, at every packet: the highest sequence number sent so far minus the highest
acknowledged so far, in the serial-number arithmetic of RFC 1982 (unrolled to integers that never wrap). A
retransmission sends nothing new and so adds nothing. SYN and FIN take a sequence number each but carry no byte: they
are not counted. A reset ends what is in flight.

Over a chosen set of flows the sum is followed as well: its maximum is what a reservation of so many bytes must bound.
"""

from __future__ import annotations

import argparse
import json
import sys
from array import array
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from tools.capture.pcapng import CapturedPacket, CaptureFormatError, read_file
from tools.capture.tcp import ACK, RST, SYN, Segment, decode_segment, endpoint

DEFAULT_POINTS = 1000
_HALF = 1 << 31
_MODULUS = 1 << 32
_NS_PER_S = 1_000_000_000


@dataclass(frozen=True, slots=True, order=True)
class FlowKey:
    """One direction of a TCP connection, from the sender of the data to its receiver."""

    source: str
    source_port: int
    destination: str
    destination_port: int

    def __str__(self) -> str:
        return f"{self.source}:{self.source_port} > {self.destination}:{self.destination_port}"


@dataclass(frozen=True, slots=True, kw_only=True)
class FlowReport:
    """What one flow did. Times are nanoseconds since 1970; None where the capture does not tell.

    ``payload_bytes`` counts each sequence number once, ``retransmitted_bytes`` what was sent again,
    ``acknowledged_bytes`` what the receiver confirmed. ``mss_bytes`` is the smaller of the two sides' offers; options
    take their part of it (12 bytes for timestamps). ``goodput_bps``: acknowledged bits from the first byte sent to
    the last acknowledgement that confirmed anything new.
    """

    flow: FlowKey
    packets: int
    payload_bytes: int
    acknowledged_bytes: int
    retransmitted_bytes: int
    mss_bytes: int | None
    max_in_flight_bytes: int
    max_in_flight_ns: int | None
    first_data_ns: int | None
    last_acknowledgement_ns: int | None
    goodput_bps: float | None


@dataclass(frozen=True, slots=True, kw_only=True)
class InFlightReport:
    """The chosen flows and their sum.

    ``series`` has at most the number of points asked for: (nanoseconds since the first data, largest sum within
    that step), so that downsampling never hides a peak. ``acknowledged_series`` is the same for the bytes
    acknowledged so far.
    """

    flows: tuple[FlowReport, ...]
    max_in_flight_bytes: int
    max_in_flight_ns: int | None
    acknowledged_bytes: int
    first_data_ns: int | None
    last_acknowledgement_ns: int | None
    goodput_bps: float | None
    series: tuple[tuple[int, int], ...]
    acknowledged_series: tuple[tuple[int, int], ...]


class _Flow:
    """Sequence numbers of one direction, unrolled: the origin is the first number seen."""

    __slots__ = (
        "acknowledged",
        "chosen",
        "confirmed",
        "dead",
        "first_data_ns",
        "in_flight",
        "initial",
        "key",
        "last_acknowledgement_ns",
        "max_in_flight",
        "max_in_flight_ns",
        "mss",
        "origin",
        "packets",
        "retransmitted",
        "sent",
        "start",
    )

    def __init__(self, key: FlowKey, chosen: bool, origin: int, initial: int | None) -> None:
        self.key = key
        self.chosen = chosen
        self.initial = initial  # the sequence number of the SYN, where it was seen
        self.origin = origin  # the number on the wire that stands at 0
        self.start = 0  # where the first byte stood
        self.sent = 0  # end of the highest byte sent
        self.acknowledged = 0  # highest acknowledgement
        self.in_flight = 0
        self.confirmed = 0  # bytes sent and acknowledged, as last settled
        self.dead = False
        self.max_in_flight = 0
        self.max_in_flight_ns: int | None = None
        self.first_data_ns: int | None = None
        self.last_acknowledgement_ns: int | None = None
        self.packets = 0
        self.retransmitted = 0
        self.mss: int | None = None

    def unrolled(self, number: int, near: int) -> int:
        """The integer that stands for a number on the wire, nearest to ``near`` (RFC 1982 section 3.2)."""
        difference = (number - self.origin - near) % _MODULUS
        return near + (difference - _MODULUS if difference >= _HALF else difference)

    def data(self, segment: Segment, time_ns: int) -> None:
        """A segment of this flow with payload."""
        begin = self.unrolled(segment.sequence + (1 if segment.flags & SYN else 0), self.sent)
        end = begin + segment.payload_bytes
        self.packets += 1
        if self.first_data_ns is None:
            self.first_data_ns = time_ns
        if end > self.sent:
            self.retransmitted += max(0, self.sent - begin)
            self.sent = end
        else:
            self.retransmitted += segment.payload_bytes

    def acknowledge(self, number: int, time_ns: int) -> None:
        """An acknowledgement for this flow. One beyond what was sent confirms a FIN, or bytes the capture missed."""
        at = self.unrolled(number, self.acknowledged)
        if at > self.acknowledged:
            if self.first_data_ns is not None and self.acknowledged < self.sent:
                self.last_acknowledgement_ns = time_ns
            self.acknowledged = at

    def settle(self, time_ns: int) -> int:
        """Bring :attr:`in_flight` up to date; by how much it changed."""
        now = 0 if self.dead else max(0, self.sent - self.acknowledged)
        change = now - self.in_flight
        self.in_flight = now
        if now > self.max_in_flight:
            self.max_in_flight, self.max_in_flight_ns = now, time_ns
        return change

    def confirm(self) -> int:
        """Bring :attr:`confirmed` up to date; by how much it changed."""
        now = max(0, min(self.acknowledged, self.sent) - self.start)
        change = now - self.confirmed
        self.confirmed = now
        return change

    def report(self) -> FlowReport:
        payload = self.sent - self.start
        acknowledged = max(0, min(self.acknowledged, self.sent) - self.start)
        return FlowReport(
            flow=self.key,
            packets=self.packets,
            payload_bytes=payload,
            acknowledged_bytes=acknowledged,
            retransmitted_bytes=self.retransmitted,
            mss_bytes=self.mss,
            max_in_flight_bytes=self.max_in_flight,
            max_in_flight_ns=self.max_in_flight_ns,
            first_data_ns=self.first_data_ns,
            last_acknowledgement_ns=self.last_acknowledgement_ns,
            goodput_bps=_goodput(acknowledged, self.first_data_ns, self.last_acknowledgement_ns),
        )


def _goodput(acknowledged_bytes: int, first_ns: int | None, last_ns: int | None) -> float | None:
    if first_ns is None or last_ns is None or last_ns <= first_ns:
        return None
    return acknowledged_bytes * 8 * _NS_PER_S / (last_ns - first_ns)


class InFlightAnalysis:
    """Takes packets in the order of their capture, answers with a report at any time."""

    def __init__(self, choose: Callable[[FlowKey], bool] = lambda flow: True) -> None:
        """``choose`` says which flows are reported and summed."""
        self._choose = choose
        self._current: dict[tuple[bytes, bytes], _Flow] = {}
        self._ended: list[_Flow] = []
        self._sum = 0
        self._max_sum = 0
        self._max_sum_ns: int | None = None
        self._times = array("q")
        self._sums = array("q")
        self._confirmed_sum = 0
        self._confirmed_sums = array("q")

    def receive(self, packet: CapturedPacket) -> None:
        """One packet; what is not TCP is passed over."""
        segment = decode_segment(packet)
        if segment is None:
            return
        time_ns = packet.time_ns
        forward = self._flow(segment)
        if segment.mss_bytes is not None:
            forward.mss = min(segment.mss_bytes, forward.mss or segment.mss_bytes)
        if segment.payload_bytes:
            forward.data(segment, time_ns)
        back = self._current.get((segment.destination, segment.source))
        if back is None and segment.flags & ACK:
            back = self._new(segment.destination, segment.source, segment.acknowledgement, None)
        if back is not None:
            if segment.mss_bytes is not None:
                back.mss = min(segment.mss_bytes, back.mss or segment.mss_bytes)
            if segment.flags & ACK:
                back.acknowledge(segment.acknowledgement, time_ns)
            if segment.flags & RST:
                forward.dead = back.dead = True
            self._settle(back, time_ns)
        self._settle(forward, time_ns)

    def _flow(self, segment: Segment) -> _Flow:
        """The flow of a segment's sender; a new one where it opens a new connection between the same ports."""
        flow = self._current.get((segment.source, segment.destination))
        if not segment.flags & SYN:
            return flow or self._new(segment.source, segment.destination, segment.sequence, None)
        if flow is not None:
            # A capture that began in mid-connection has not seen the first SYN: then any SYN after data is a new one.
            same = flow.initial == segment.sequence if flow.initial is not None else flow.packets == 0
            if same:
                return flow
            self._end(segment.source, segment.destination)
            if not segment.flags & ACK:
                self._end(segment.destination, segment.source)
        origin = (segment.sequence + 1) % _MODULUS
        return self._new(segment.source, segment.destination, origin, segment.sequence)

    def _new(self, source: bytes, destination: bytes, origin: int, initial: int | None) -> _Flow:
        key = FlowKey(*endpoint(source), *endpoint(destination))
        flow = _Flow(key, self._choose(key), origin, initial)
        self._current[source, destination] = flow
        return flow

    def _end(self, source: bytes, destination: bytes) -> None:
        flow = self._current.pop((source, destination), None)
        if flow is not None:
            self._ended.append(flow)
            if flow.chosen:
                self._sum -= flow.in_flight

    def _settle(self, flow: _Flow, time_ns: int) -> None:
        change = flow.settle(time_ns)
        if change == 0 or not flow.chosen:
            return
        self._sum += change
        self._confirmed_sum += flow.confirm()
        self._times.append(time_ns)
        self._sums.append(self._sum)
        self._confirmed_sums.append(self._confirmed_sum)
        if self._sum > self._max_sum:
            self._max_sum, self._max_sum_ns = self._sum, time_ns

    def report(self, points: int = DEFAULT_POINTS) -> InFlightReport:
        """What the packets so far have shown; ``points`` is the most that the series may have."""
        flows = [*self._ended, *self._current.values()]
        chosen = [flow.report() for flow in flows if flow.chosen and flow.sent > flow.start]
        firsts = [flow.first_data_ns for flow in chosen if flow.first_data_ns is not None]
        lasts = [flow.last_acknowledgement_ns for flow in chosen if flow.last_acknowledgement_ns is not None]
        first, last = min(firsts, default=None), max(lasts, default=None)
        acknowledged = sum(flow.acknowledged_bytes for flow in chosen)
        return InFlightReport(
            flows=tuple(sorted(chosen, key=lambda flow: (flow.flow, flow.first_data_ns or 0))),
            max_in_flight_bytes=self._max_sum,
            max_in_flight_ns=self._max_sum_ns,
            acknowledged_bytes=acknowledged,
            first_data_ns=first,
            last_acknowledgement_ns=last,
            goodput_bps=_goodput(acknowledged, first, last),
            series=downsample(self._times, self._sums, points),
            acknowledged_series=downsample(self._times, self._confirmed_sums, points),
        )


def downsample(times: Sequence[int], values: Sequence[int], points: int) -> tuple[tuple[int, int], ...]:
    """At most ``points`` pairs (time since the first, largest value in that step); steps are of equal length.

    A step in which nothing changed has no point. Raises :class:`ValueError` for fewer than one point.
    """
    if points < 1:
        raise ValueError(f"a series of {points} points cannot be; at least 1")
    if not times:
        return ()
    first = times[0]
    step_ns = max(1, -(-(max(times) - first + 1) // points))
    peaks: dict[int, int] = {}
    for time_ns, value in zip(times, values, strict=True):
        step = max(0, time_ns - first) // step_ns
        if value > peaks.get(step, -1):
            peaks[step] = value
    return tuple((step * step_ns, peaks[step]) for step in sorted(peaks))


def analyse(
    packets: Iterable[CapturedPacket],
    choose: Callable[[FlowKey], bool] = lambda flow: True,
    *,
    points: int = DEFAULT_POINTS,
) -> InFlightReport:
    """The bytes in flight of the chosen flows of a capture."""
    analysis = InFlightAnalysis(choose)
    for packet in packets:
        analysis.receive(packet)
    return analysis.report(points)


def main(arguments: Sequence[str] | None = None) -> int:
    """Print the report; exit status 0, 1 where no chosen flow carried data, 2 where the file cannot be read."""
    parser = argparse.ArgumentParser(
        prog="python -m tools.capture.inflight", description="bytes in flight per flow"
    )
    parser.add_argument("file", type=Path, help="a pcapng or pcap file, captured at the sender's side")
    parser.add_argument(
        "--to-port", type=int, action="append", help="only flows to this port (may be repeated)"
    )
    parser.add_argument("--points", type=int, default=DEFAULT_POINTS, help="the most points of the series")
    parser.add_argument("-o", dest="output", choices=("table", "json"), default="table")
    options = parser.parse_args(arguments)
    ports = options.to_port
    try:
        report = analyse(
            read_file(options.file),
            (lambda flow: flow.destination_port in ports) if ports else (lambda flow: True),
            points=options.points,
        )
    except (OSError, CaptureFormatError) as error:
        reason = (error.strerror if isinstance(error, OSError) else None) or str(error)
        sys.stderr.write(f"cannot read {options.file}: {reason}\n")
        return 2
    if options.output == "json":
        sys.stdout.write(json.dumps(asdict(report)) + "\n")
    else:
        for flow in report.flows:
            rate = f"{flow.goodput_bps / 1e6:.2f} Mbit/s" if flow.goodput_bps is not None else "-"
            sys.stdout.write(f"{flow.flow}  in flight {flow.max_in_flight_bytes}  goodput {rate}\n")
        sys.stdout.write(f"sum  in flight {report.max_in_flight_bytes}\n")
    return 0 if report.flows else 1


if __name__ == "__main__":
    sys.exit(main())
