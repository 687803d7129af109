"""Buffer-to-buffer credits of captured Fibre Channel links.

Where a capture has R_RDY and VC_RDY, credits in use are counted: a frame takes one, a ready gives one back. Where it
has none, they can only be bounded, and the row says under which assumption. Credits are also inferred from the
spacing of frames at the sender: as long as credits last, frames follow each other without a hole; the first hole of a
burst comes after as many frames as there are credits (reliable where bursts are longer than that and pauses longer
than the loop).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from credits.sizing import loop_credits
from fcsim.errors import MalformedFrame
from fcsim.wire.frame import decode_frame
from fcsim.wire.payload import ExchangeMemory
from tools.capture.channel_credits import Channels
from tools.capture.rows import Part, RowKind
from tools.capture.series import Peaks

IDLE_BYTES = 24
"""At least six idles between frames count with each of them (FOS, FC-FS)."""
LEVELS = 1 << 16
SPACING_FRAMES = 100_000
MOST_CREDITS = 2048
_NOISE_NS = 200
_CLOSE = 1.03
_CREDIT_TYPES = (0x01, 0x22)
_VC_RDY = 0xBCF5

EXACT = "R_RDY and VC_RDY counted"
BOUND = "no primitives captured: a credit counts as in use until the receiver answered in the exchange (upper bound)"


@dataclass(slots=True)
class _Side:
    """What one port of a link sends."""

    name: str
    outstanding: int = 0
    lowest: int = 0
    last_ns: int = -1
    frames: int = 0
    readies: int = 0
    frame_bytes: int = 0
    sizes: Counter[int] = field(default_factory=Counter)
    granted: int | None = None
    """Buffers that it has for the other side's frames, by its login."""
    level_ns: Any = None
    peaks: Any = None
    waiting: Any = None
    early: Any = None
    loop_min_ns: int | None = None
    spacing: list[tuple[Any, Any]] = field(default_factory=list)
    spaced: int = 0
    ready_times: list[Any] = field(default_factory=list)
    readied: int = 0
    unconfirmed: dict[tuple[int, int], int] = field(default_factory=dict)
    highest_bound: int = 0
    first_ns: int = -1
    channels: Channels | None = None


@dataclass(frozen=True, slots=True)
class Inferred:
    """Credits inferred from spacing: how many, on how many bursts that rests, and the byte time that was assumed."""

    credits: int | None
    bursts: int
    ns_per_byte: float | None


class CreditWatch:
    """Shown the parts of a table, it follows the credits of every link. Needs numpy."""

    def __init__(self, names: list[str]) -> None:
        """``names``: the interfaces' names, filled in while the capture is scanned."""
        import numpy as np

        self._np = np
        self._names = names
        self._sides: dict[Any, _Side] = {}
        self._memory = ExchangeMemory()
        self.primitives = 0

    # --- shown rows ---

    def __call__(self, part: Part) -> None:
        """The next part of the table."""
        columns = part.columns()
        kinds = columns["kind"]
        fibre = (kinds == RowKind.FC) | (kinds == RowKind.ORDERED_SET)
        if not fibre.any():
            return
        columns = columns[fibre]
        for number in self._np.flatnonzero(self._is_login(columns)):
            self._login(part, columns[number])
        if (columns["kind"] == RowKind.ORDERED_SET).any():
            self.primitives += int((columns["kind"] == RowKind.ORDERED_SET).sum())
        ways = (columns["interface"].astype(self._np.int64) << 2) | columns["way"]
        found = self._np.unique(ways)
        for way in found:
            self._sent(int(way), columns[ways == way])
        for way in found:
            self._counted(int(way), columns, ways)
        if not self.primitives:
            self._bounded(columns)

    def _is_login(self, columns: Any) -> Any:
        return (columns["kind"] == RowKind.FC) & self._np.isin(columns["fc_type"], _CREDIT_TYPES)

    def _side(self, key: Any) -> _Side:
        side = self._sides.get(key)
        if side is None:
            name = self._name(key)
            side = self._sides[key] = _Side(name)
            side.level_ns = self._np.zeros(256, dtype=self._np.int64)
            side.peaks = Peaks()
            side.waiting = side.early = self._np.empty(0, dtype=self._np.int64)
        return side

    def _name(self, key: Any) -> str:
        if isinstance(key, tuple):
            return f"{key[0] >> 16:02x}.{key[0] >> 8 & 255:02x}.{key[0] & 255:02x}"
        interface, way = key >> 2, key & 3
        name = self._names[interface] if interface < len(self._names) else ""
        return (name or f"interface {interface}") + ("", " in", " out", "")[way]

    def _login(self, part: Part, one: Any) -> None:
        """A FLOGI, PLOGI or ELP, or an answer to one: the buffers of its sender."""
        if not one["kept"]:
            return
        try:
            message: Any = self._memory.decode(decode_frame(part.kept[int(one["kept"]) - 1]))
        except MalformedFrame:
            return
        credit = getattr(message, "bb_credit", None)
        name = type(message).__name__
        if credit is None or name.startswith("Fdisc"):
            return
        way = int(one["interface"]) << 2 | int(one["way"])
        pair = (int(one["fc_word1"]) & 0xFFFFFF, int(one["fc_word0"]) & 0xFFFFFF)
        for key in (way, pair):
            side = self._side(key)
            # A PLOGI's credit counts point-to-point only; FLOGI and ELP are about the link.
            if side.granted is None or not name.startswith("Plogi"):
                side.granted = int(credit)

    def _sent(self, way: int, rows: Any) -> None:
        """What this side of a link sent: sizes and spacing."""
        np = self._np
        side = self._side(way)
        frames = rows[rows["kind"] == RowKind.FC]
        if not len(frames):
            return
        lengths = frames["length_bytes"].astype(np.int64)
        times = frames["time_ns"]
        if side.first_ns < 0:
            side.first_ns = int(times[0])
        side.frames += len(frames)
        side.frame_bytes += int(lengths.sum())
        for size, count in zip(*np.unique(lengths, return_counts=True), strict=True):
            side.sizes[int(size)] += int(count)
        if side.spaced < SPACING_FRAMES:
            side.spacing.append((times.copy(), lengths))
            side.spaced += len(frames)

    def _counted(self, way: int, columns: Any, ways: Any) -> None:
        """Credits in use by this side: its frames, less what the other side gave back."""
        np = self._np
        other = self._other(way)
        if other is None:
            return
        side = self._side(way)
        is_frame = (columns["kind"] == RowKind.FC) & (ways == way)
        is_ready = self._readies(columns) & (ways == other)
        chosen = is_frame | is_ready
        if not chosen.any():
            return
        times = columns["time_ns"][chosen]
        words = columns["fc_word0"][chosen].astype(np.int64)
        if side.channels is not None or (is_ready[chosen] & (words >> 16 == _VC_RDY)).any():
            side.channels = side.channels or Channels()
            sent = is_frame[chosen]
            side.channels.show(
                times,
                np.where(sent, words & 0xFFFFFF, -1),
                np.where(sent | (words >> 16 != _VC_RDY), -1, words & 0xFF),
            )
        steps = np.where(is_frame[chosen], 1, -1)
        levels = side.outstanding + np.cumsum(steps)
        side.readies += int(is_ready.sum())
        side.lowest = min(side.lowest, int(levels.min()))
        self._book(side, times, levels)
        side.outstanding = int(levels[-1])
        if side.readied < SPACING_FRAMES:
            side.ready_times.append(times[steps < 0])
            side.readied += int((steps < 0).sum())
        self._loop(side, times[steps > 0], times[steps < 0])

    def _book(self, side: _Side, times: Any, levels: Any) -> None:
        """How long each number of credits was in use."""
        np = self._np
        before = np.concatenate([[side.outstanding], levels[:-1]])
        since = np.concatenate([[side.last_ns if side.last_ns >= 0 else times[0]], times[:-1]])
        spans = np.maximum(times - since, 0)
        shifted = np.clip(before + LEVELS // 2, 0, LEVELS - 1)
        if len(side.level_ns) != LEVELS:
            side.level_ns = np.zeros(LEVELS, dtype=np.int64)
        np.add.at(side.level_ns, shifted, spans)
        side.last_ns = int(times[-1])
        side.peaks.add(times, np.maximum(levels, 0))

    def _loop(self, side: _Side, sent: Any, back: Any) -> None:
        """The shortest time from a frame to the credit that it took: frames and readies are in the same order."""
        np = self._np
        side.waiting = np.concatenate([side.waiting, sent])
        if side.lowest < 0:  # readies of frames before the capture are in front: the order cannot be trusted
            side.waiting = side.waiting[:0]
            return
        pairs = min(len(side.waiting), len(back))
        if pairs:
            shortest = int((back[:pairs] - side.waiting[:pairs]).min())
            if shortest > 0:
                side.loop_min_ns = min(side.loop_min_ns or shortest, shortest)
        side.waiting = side.waiting[pairs:][-LEVELS:]

    def _readies(self, columns: Any) -> Any:
        """Which rows are R_RDY or VC_RDY."""
        words = columns["fc_word0"]
        ready = (words == 0xBC954A4A) | ((words >> 16 == _VC_RDY) & ((words >> 8 & 0xFF) == (words & 0xFF)))
        return (columns["kind"] == RowKind.ORDERED_SET) & ready

    def _other(self, way: int) -> int | None:
        """The other side of the link that this one sends on."""
        interface, direction = way >> 2, way & 3
        if direction:
            return interface << 2 | (3 - direction)
        names = self._names
        if interface >= len(names):
            return None
        name = names[interface]
        for mine, theirs in ((" out", " in"), (" in", " out")):
            if name.endswith(mine):
                wanted = name[: -len(mine)] + theirs
                return names.index(wanted) << 2 if wanted in names else None
        if len(names) == 2:
            return (1 - interface) << 2
        return None

    def _bounded(self, columns: Any) -> None:
        """Without primitives: frames that nothing has answered yet, by pair of addresses."""
        np = self._np
        frames = columns[columns["kind"] == RowKind.FC]
        sources = (frames["fc_word1"] & 0xFFFFFF).tolist()
        targets = (frames["fc_word0"] & 0xFFFFFF).tolist()
        exchanges = frames["fc_ox_id"].tolist()
        contexts = (frames["fc_word2"] >> 23 & 1).tolist()
        lengths = frames["length_bytes"].tolist()
        times = frames["time_ns"].tolist()
        peaks: dict[tuple[int, int], tuple[list[int], list[int]]] = {}
        for source, target, ox_id, answer, length, time_ns in zip(
            sources, targets, exchanges, contexts, lengths, times, strict=True
        ):
            side = self._side((source, target))
            if side.first_ns < 0:
                side.first_ns = time_ns
            side.frames += 1
            side.frame_bytes += length
            side.sizes[length] += 1
            back = self._sides.get((target, source))
            if back is not None:
                back.outstanding -= back.unconfirmed.pop((ox_id, answer ^ 1), 0)
                # What is answered was received, and so was everything that its sender sent before it.
            key = (ox_id, answer)
            side.unconfirmed[key] = side.unconfirmed.get(key, 0) + 1
            side.outstanding += 1
            side.highest_bound = max(side.highest_bound, side.outstanding)
            if len(side.unconfirmed) > LEVELS:
                side.outstanding -= side.unconfirmed.pop(next(iter(side.unconfirmed)))
            series = peaks.setdefault((source, target), ([], []))
            series[0].append(time_ns)
            series[1].append(side.outstanding)
        for pair, (at, values) in peaks.items():
            self._side(pair).peaks.add(np.array(at, dtype=np.int64), np.array(values, dtype=np.int64))

    # --- the report ---

    def rows(self, *, bytes_per_second: int | None = None) -> list[dict[str, Any]]:
        """One row per port that sent frames. ``bytes_per_second``: the link's decoded rate, where it is known."""
        exact = self.primitives > 0
        found = []
        for key, side in self._sides.items():
            if not side.frames or isinstance(key, tuple) is exact:
                continue
            found.append(self._row(key, side, exact, bytes_per_second))
        return found

    def series(self) -> Mapping[str, list[tuple[int, int]]]:
        """Credits in use over time by port, of the rows that :meth:`rows` has."""
        exact = self.primitives > 0
        return {
            side.name: side.peaks.points()
            for key, side in self._sides.items()
            if side.frames and isinstance(key, tuple) is not exact
        }

    def _peer(self, key: Any) -> _Side | None:
        other = (key[1], key[0]) if isinstance(key, tuple) else self._other(key)
        return None if other is None else self._sides.get(other)

    def _row(self, key: Any, side: _Side, exact: bool, given_rate: int | None) -> dict[str, Any]:
        peer = self._peer(key)
        login = peer.granted if peer is not None else None
        login = login or None  # servers answer 0, which grants nothing and says nothing
        inferred = self.infer(side) if exact else Inferred(None, 0, None)
        mean = side.frame_bytes / side.frames
        loop = side.loop_min_ns
        row: dict[str, Any] = {
            "port": side.name,
            "peer": peer.name if peer is not None else None,
            "frames": side.frames,
            "frame_bytes_mean": round(mean),
            "frame_sizes": [{"bytes": size, "frames": count} for size, count in side.sizes.most_common(8)],
            "login_credit": login,
            "basis": EXACT if exact else BOUND,
            "exact": exact,
            "inferred_credit": inferred.credits,
            "supporting_bursts": inferred.bursts,
            "virtual_channels": [] if side.channels is None else side.channels.rows(),
        }
        if exact and peer is not None:
            row |= self._levels(side, login or inferred.credits)
            if loop is not None:
                loop += row["return_ns"]
        else:
            row |= {"outstanding_max": side.highest_bound, "outstanding_mean": None}
            row |= {"zero_ns": None, "zero_share": None, "credits_assumed": login}
        row |= self._needed(side, given_rate, inferred, loop)
        return row

    def _levels(self, side: _Side, credits: int | None) -> dict[str, Any]:
        """Credits in use, and how long there was none left."""
        np = self._np
        base = LEVELS // 2 + side.lowest  # what was in use when the capture began shows when it goes below 0
        spans = side.level_ns[base:] if len(side.level_ns) == LEVELS else np.zeros(1, dtype=np.int64)
        used = np.flatnonzero(spans)
        most = max(
            int(used[-1]) if len(used) else 0,
            max((v for _, v in side.peaks.points()), default=0) - side.lowest,
        )
        assumed = credits or most
        back = self._return_ns(side, assumed)
        if back:
            spans = self._late_levels(side, back)
            most = max(most, int(np.flatnonzero(spans)[-1]))
        total = int(spans.sum())
        mean = float((spans * np.arange(len(spans))).sum()) / total if total else 0.0
        zero = int(spans[assumed:].sum()) if assumed else 0
        return {
            "outstanding_max": most,
            "outstanding_mean": round(mean, 2),
            "zero_ns": zero,
            "zero_share": zero / total if total else None,
            "credits_assumed": assumed,
            "readies": side.readies,
            "return_ns": back,
        }

    def _return_ns(self, side: _Side, credits: int) -> int:
        """How much later than it was recorded a ready has an effect: 0 at the sender, the way back elsewhere.

        Frame number n + credits cannot leave before ready number n is back; where frames waited, it left just then.
        """
        np = self._np
        if side.lowest < 0 or not side.spacing or not side.ready_times:
            return 0
        frames = np.concatenate([times for times, _ in side.spacing])[credits:]
        readies = np.concatenate(side.ready_times)
        pairs = min(len(frames), len(readies))
        if not pairs:
            return 0
        shortest = int((frames[:pairs] - readies[:pairs]).min())
        return shortest if shortest > _NOISE_NS else 0

    def _late_levels(self, side: _Side, back_ns: int) -> Any:
        """How long each number of credits was in use, when readies take so long to come back; of the first frames."""
        np = self._np
        frames = np.concatenate([times for times, _ in side.spacing])
        readies = np.concatenate(side.ready_times) + back_ns
        last = frames[-1]
        readies = readies[readies <= last]
        times = np.concatenate([readies, frames])
        steps = np.concatenate([np.full(len(readies), -1), np.ones(len(frames), dtype=np.int64)])
        order = np.argsort(times, kind="stable")
        levels = np.cumsum(steps[order])
        spans = np.diff(times[order])
        return np.bincount(np.maximum(levels[:-1], 0), weights=spans).astype(np.int64)

    def _needed(self, side: _Side, given: int | None, inferred: Inferred, loop: int | None) -> dict[str, Any]:
        """Credits that keep the line busy with frames as they were (:func:`~credits.sizing.loop_credits`)."""
        rate = given
        source = "given (--speed)"
        if rate is None and inferred.ns_per_byte:
            rate, source = round(1e9 / inferred.ns_per_byte), "the closest spacing of frames"
        if rate is None or loop is None:
            missing = "a line rate (--speed)" if rate is None else "a credit loop: no R_RDY captured"
            return {"recommended_credits": None, "terms": {}, "missing": missing}
        mean = side.frame_bytes // side.frames
        frame = mean + IDLE_BYTES
        credits = loop_credits(loop, rate, frame)
        return {
            "recommended_credits": max(1, credits),
            "terms": {
                "loop_ns": {
                    "value": loop,
                    "meaning": "shortest time from a frame to the return of the credit that it took: "
                    "serialisation, both ways, the receiver",
                },
                "bytes_per_second": {"value": rate, "meaning": f"decoded rate of the line: {source}"},
                "frame_bytes": {
                    "value": frame,
                    "meaning": f"mean of the {side.frames} frames captured ({mean}) and {IDLE_BYTES} of idles",
                },
                "credits": {"value": max(1, credits), "meaning": "loop × rate / frame, rounded up"},
            },
        }

    def infer(self, side: _Side) -> Inferred:
        """Credits out of the spacing of the first frames that this side sent."""
        np = self._np
        if side.spaced < 3:
            return Inferred(None, 0, None)
        times = np.concatenate([t for t, _ in side.spacing])[:SPACING_FRAMES]
        lengths = np.concatenate([size for _, size in side.spacing])[:SPACING_FRAMES] + IDLE_BYTES
        gaps = np.diff(times)
        good = gaps > 0
        if not good.any():
            return Inferred(None, 0, None)
        ratios = gaps[good] / lengths[:-1][good]
        # Frames without a hole between them, give or take the clock of the capture.
        per_byte = float(ratios[ratios <= ratios.min() * _CLOSE].mean())
        line = np.concatenate([[0], np.cumsum(lengths)]) * per_byte
        for count in range(1, min(MOST_CREDITS, len(times) - 1)):
            late = (times[count:] - times[:-count]) - (line[count : len(times)] - line[: len(times) - count])
            if late.min() > _NOISE_NS:
                return Inferred(count, self._bursts(times, line, count, late), per_byte)
        return Inferred(None, 0, per_byte)

    def _bursts(self, times: Any, line: Any, count: int, late: Any) -> int:
        """Bursts that begin after a pause, go on without a hole for ``count`` frames, and then wait."""
        np = self._np
        waited = times - line[: len(times)]
        steps = np.diff(waited)
        pause = max(float(late.min()) * 2, _NOISE_NS)
        begins = np.concatenate([[0], np.flatnonzero(steps > pause) + 1])
        begins = begins[begins + count < len(times)]
        inside = waited[begins + count - 1] - waited[begins] <= _NOISE_NS
        after = waited[begins + count] - waited[begins] > _NOISE_NS
        return int((inside & after).sum())
