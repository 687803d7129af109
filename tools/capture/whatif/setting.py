"""Which channel a capture was taken on, as far as it tells, and which others are asked about."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from credits.quantities import parse_delay, parse_distance, parse_rate, parse_size
from fcsim.speeds import SPEEDS, Speed, parse_speed
from tools.capture.analysis import Analysis, analyse
from tools.capture.exchanges import Exchange, Flag
from tools.capture.sessions import endpoint, initiator_side
from tools.capture.tcp_credits import rtt_of
from tools.capture.whatif.pipes import FcPipe, Pipe, TcpPipe
from tools.capture.whatif.predict import Arrival, WhatIf, knee

_NS = 1_000_000_000
_MOST_SETTINGS = 256
_FC_DEFAULT_CREDITS = 16
_LARGEST_PAYLOAD = 2112


class SettingError(ValueError):
    """A setting that cannot be; one line."""


@dataclass(frozen=True, slots=True)
class TcpSetting:
    """A TCP connection's channel."""

    bandwidth_bps: int
    rtt_ns: int
    buffer_bytes: int

    @property
    def bytes_per_second(self) -> int:
        """One way."""
        return max(1, self.bandwidth_bps // 8)

    def pipes(self) -> tuple[Pipe, Pipe]:
        """From the initiator, and back."""
        pipe = TcpPipe(self.bandwidth_bps, self.rtt_ns, self.buffer_bytes)
        return pipe, pipe

    def plain(self) -> dict[str, Any]:
        """For output."""
        return {"kind": "tcp"} | asdict(self)


@dataclass(frozen=True, slots=True)
class FcSetting:
    """A Fibre Channel link."""

    speed: Speed
    distance_m: int
    bb_credit: int
    payload_bytes: int

    @property
    def bytes_per_second(self) -> int:
        """One way."""
        return self.speed.bytes_per_second

    def pipes(self) -> tuple[Pipe, Pipe]:
        """From the initiator, and back."""
        pipe = FcPipe(self.speed, self.distance_m, self.bb_credit, self.payload_bytes)
        return pipe, pipe

    def plain(self) -> dict[str, Any]:
        """For output."""
        return {"kind": "fc"} | asdict(self) | {"speed": self.speed.name}


Setting = TcpSetting | FcSetting
#: What may be set: to which field of which setting, and how it is read.
_NAMES: Mapping[str, tuple[type, str, Callable[[str], Any]]] = {
    "buffer": (TcpSetting, "buffer_bytes", parse_size),
    "bandwidth": (TcpSetting, "bandwidth_bps", parse_rate),
    "rtt": (TcpSetting, "rtt_ns", parse_delay),
    "credits": (FcSetting, "bb_credit", int),
    "distance": (FcSetting, "distance_m", parse_distance),
    "speed": (FcSetting, "speed", parse_speed),
    "payload": (FcSetting, "payload_bytes", int),
}


def changed(setting: Setting, name: str, text: str) -> Setting:
    """``setting`` with one value; raises :class:`SettingError`."""
    known = _NAMES.get(name)
    if known is None:
        raise SettingError(f"there is no setting {name!r:.40}; there are {', '.join(_NAMES)}")
    kind, field, parse = known
    if not isinstance(setting, kind):
        other = "Fibre Channel" if isinstance(setting, FcSetting) else "TCP"
        raise SettingError(f"{name} is no setting of {other}, which the capture is of")
    try:
        value = parse(text)
    except ValueError as error:
        raise SettingError(f"{name} {text!r:.40}: {error}") from None
    lowest = 0 if field in ("distance_m", "rtt_ns") else 1
    if not isinstance(value, Speed) and value < lowest:
        raise SettingError(f"{name} {text!r:.40} is less than {lowest}")
    if field == "payload_bytes" and value > _LARGEST_PAYLOAD:
        raise SettingError(f"a frame carries at most {_LARGEST_PAYLOAD} bytes, not {value}")
    made: Setting = replace(setting, **{field: value})
    return made


def predictions(
    paths: Sequence[Path | str],
    wanted: Mapping[str, Sequence[str]],
    *,
    captured: Mapping[str, str],
    ports: Sequence[int] = (),
) -> dict[str, Any]:
    """By pair of ports: the captured channel, what it predicts of itself, and what the wanted ones do.

    Raises :class:`SettingError` and :class:`tools.capture.scan.CaptureError`.
    """
    with analyse(paths, ports=ports) as analysis:
        flows = [_flow(flow, wanted) for flow in captured_flows(analysis, captured)]
    return {"flows": flows, "remarks": []}


@dataclass(frozen=True, slots=True)
class CapturedFlow:
    """The commands of a pair of ports that have an answer, and what is known of the channel they were captured on.

    ``arrivals`` are in the order of ``exchanges``; ``seen_rtt_ns`` as in :class:`~tools.capture.whatif.predict.WhatIf`.
    """

    initiator: str
    target: str
    connection: str
    exchanges: list[Exchange]
    arrivals: list[Arrival]
    setting: Setting
    seen_rtt_ns: int
    model: WhatIf


def captured_flows(analysis: Analysis, captured: Mapping[str, str]) -> Iterator[CapturedFlow]:
    """The pairs of ports of a capture; ``captured`` is what it cannot tell of its channel.

    Raises :class:`SettingError`.
    """
    groups: dict[int, list[Exchange]] = {}
    for exchange in analysis.store.exchanges():
        if exchange.end_ns and not exchange.flags & Flag.MANAGEMENT:
            groups.setdefault(exchange.flow >> 1, []).append(exchange)
    for flow, exchanges in groups.items():
        arrivals = [_arrival(one) for one in exchanges]
        pair = analysis.scanner.flows[flow]
        own = _fc_setting(arrivals) if exchanges[0].flags & Flag.FIBRE else _tcp_setting(pair, arrivals)
        for name, text in captured.items():
            own = changed(own, name, text)
        there, back = own.pipes()
        seen_rtt_ns = _seen_rtt_ns(pair, there.one_way_ns + back.one_way_ns)
        nexus = analysis.name_of(analysis.matcher.nexuses[exchanges[0].nexus])
        yield CapturedFlow(
            nexus.initiator,
            nexus.target,
            f"{endpoint(pair[0])} {endpoint(pair[1])}",
            exchanges,
            arrivals,
            own,
            seen_rtt_ns,
            WhatIf(arrivals, (there, back), seen_rtt_ns),
        )


def _flow(flow: CapturedFlow, wanted: Mapping[str, Sequence[str]]) -> dict[str, Any]:
    own, model = flow.setting, flow.model
    settings = _settings(own, wanted)
    if len(settings) > _MOST_SETTINGS:
        raise SettingError(f"{len(settings)} combinations are more than {_MOST_SETTINGS}")
    measured = model.measured()
    rows = []
    for setting in [own, *(one for one in settings if one != own)]:
        found = model.predict(setting.pipes())
        rows.append(
            {
                "channel": "captured" if setting is own else "what if",
                "setting": setting.plain(),
                "ect_ns": found.ect_ns,
                "rate_bps": found.rate_bps,
                "stalls": found.stalls,
                "stalled_ns": found.stalled_ns,
                "measured_ns": measured if setting is own else None,
                "error": _error(found.ect_ns, measured) if setting is own else None,
            }
        )
    sweep = [field for field, values in wanted.items() if len(values) > 1]
    return {
        "initiator": flow.initiator,
        "target": flow.target,
        "connection": flow.connection,
        "commands": len(flow.arrivals),
        "captured": own.plain(),
        "rows": rows,
        "sweep": sweep[0] if len(sweep) == 1 else None,
        "knee": _knee(rows, sweep),
    }


def _arrival(one: Exchange) -> Arrival:
    first_ns = one.ready_ns or one.first_ns
    solicited = bool(one.ready_ns)
    before = first_ns - one.start_ns if (solicited or one.bytes_in) and first_ns else 0
    return Arrival(one.start_ns, one.ect_ns, max(0, before), one.bytes_in, one.bytes_out, solicited)


def _seen_rtt_ns(pair: Any, rtt_ns: int) -> int:
    """How much of the round trip lies between the place of the capture and the target: the shortest time from what the
    initiator sent to its acknowledgement."""
    shortest = initiator_side(pair).rtt_min_ns
    return rtt_ns if shortest < 0 else min(int(shortest), rtt_ns)


def _tcp_setting(pair: Any, arrivals: Sequence[Arrival]) -> TcpSetting:
    """What the handshake, the acknowledgements and the quickest transfers tell."""
    rtts = [rtt for side in pair if (rtt := rtt_of(side)[0]) is not None]
    in_flight = max(side.max_in_flight for side in pair)
    rates = sorted(
        size * 8 * _NS // span
        for one in arrivals
        if (size := one.read_bytes or one.write_bytes) >= 16_384
        and (span := one.ect_ns - one.before_data_ns) > 0
    )
    quickest = rates[len(rates) * 99 // 100] if rates else _NS
    return TcpSetting(max(quickest, 1_000_000), min(rtts, default=0), max(in_flight, 65_536))


def _fc_setting(arrivals: Sequence[Arrival]) -> FcSetting:
    """The slowest standard speed that is not slower than the quickest transfers; a link in one room."""
    rates = sorted(
        size * _NS // span
        for one in arrivals
        if (size := one.read_bytes or one.write_bytes) >= 8192
        and (span := one.ect_ns - one.before_data_ns) > 0
    )
    quickest = rates[len(rates) * 99 // 100] if rates else 0
    by_rate = sorted(SPEEDS.values(), key=lambda speed: speed.bytes_per_second)
    speed = next((one for one in by_rate if one.bytes_per_second >= quickest), by_rate[-1])
    return FcSetting(speed, 0, _FC_DEFAULT_CREDITS, 2048)


def _settings(own: Setting, wanted: Mapping[str, Sequence[str]]) -> list[Setting]:
    """Every combination of the wanted values."""
    made = [own]
    for name, texts in wanted.items():
        made = [changed(setting, name, text.strip()) for setting in made for text in texts]
        if len(made) > _MOST_SETTINGS:
            raise SettingError(f"more than {_MOST_SETTINGS} combinations")
    return made


def _error(
    predicted: Mapping[str, int] | None, measured: Mapping[str, int] | None
) -> dict[str, float] | None:
    if predicted is None or measured is None:
        return None
    return {part: predicted[part] / max(1, measured[part]) - 1 for part in ("p50", "p99", "mean")}


def _knee(rows: Sequence[Mapping[str, Any]], sweep: Sequence[str]) -> int | None:
    """From which value on more brings nothing, where one setting that may be had in any amount is swept."""
    if len(sweep) != 1 or sweep[0] not in ("buffer", "credits"):
        return None
    field = _NAMES[sweep[0]][1]
    points = [
        (row["setting"][field], row["ect_ns"]["mean"])
        for row in rows
        if row["channel"] == "what if" and row["ect_ns"]
    ]
    return knee(points)
