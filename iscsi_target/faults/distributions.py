# SPDX-License-Identifier: Apache-2.0
"""How long something takes: fixed, uniform, normal, exponential, or drawn from samples. Times in nanoseconds.

The chance comes in as a :class:`random.Random`, so that a seed replays the same delays.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from random import Random
from typing import Protocol

from iscsi_target.faults.errors import FaultError
from iscsi_target.faults.quantities import format_time, parse_time

MAX_DELAY_NS = 3600 * 10**9
"""The longest delay that is drawn, in nanoseconds: an hour."""
MAX_SAMPLES = 100_000


class Chance(Protocol):
    """The part of :class:`random.Random` that drawing needs."""

    def random(self) -> float:
        """In [0, 1)."""
        ...


class Distribution(Protocol):
    """Something that times are drawn from."""

    def draw_ns(self, random: Random) -> int:
        """One time in nanoseconds, 0 to :data:`MAX_DELAY_NS`."""
        ...


def _bounded(value_ns: float) -> int:
    return min(max(int(value_ns), 0), MAX_DELAY_NS)


@dataclass(frozen=True, slots=True)
class Fixed:
    """Always the same."""

    value_ns: int

    def draw_ns(self, random: Random) -> int:
        return _bounded(self.value_ns)


@dataclass(frozen=True, slots=True)
class Uniform:
    """Anything between two times, each as likely."""

    low_ns: int
    high_ns: int

    def __post_init__(self) -> None:
        if self.low_ns > self.high_ns:
            raise FaultError("a uniform time has its lower end first")

    def draw_ns(self, random: Random) -> int:
        return _bounded(random.uniform(self.low_ns, self.high_ns))


@dataclass(frozen=True, slots=True)
class Normal:
    """Gaussian around a mean; what would be negative is 0."""

    mean_ns: int
    deviation_ns: int

    def draw_ns(self, random: Random) -> int:
        return _bounded(random.gauss(self.mean_ns, self.deviation_ns))


@dataclass(frozen=True, slots=True)
class Exponential:
    """Memoryless, with this mean."""

    mean_ns: int

    def __post_init__(self) -> None:
        if self.mean_ns <= 0:
            raise FaultError("an exponential time has a mean above 0")

    def draw_ns(self, random: Random) -> int:
        return _bounded(random.expovariate(1 / self.mean_ns))


@dataclass(frozen=True, slots=True)
class Samples:
    """One of these, each as likely: measured times, for instance."""

    values_ns: tuple[int, ...]

    def __post_init__(self) -> None:
        if not 0 < len(self.values_ns) <= MAX_SAMPLES:
            raise FaultError(f"there are 1 to {MAX_SAMPLES} samples")

    def draw_ns(self, random: Random) -> int:
        return _bounded(random.choice(self.values_ns))


def parse_distribution(value: object) -> Distribution:
    """From a rule's table: ``"20ms"``, ``{uniform = ["1ms", "5ms"]}``, ``{normal = ["20ms", "3ms"]}`` (mean, standard
    deviation), ``{exponential = "10ms"}``, ``{samples = ["1ms", …]}``. Raises FaultError."""
    if isinstance(value, str | int) and not isinstance(value, bool):
        return Fixed(parse_time(value))
    if isinstance(value, Mapping) and len(value) == 1:
        ((kind, given),) = value.items()
        if kind == "exponential":
            return Exponential(parse_time(given))
        if isinstance(given, list | tuple):
            times = tuple(parse_time(item) for item in given[: MAX_SAMPLES + 1])
            if kind == "samples":
                return Samples(times)
            if kind in ("uniform", "normal") and len(times) == 2:
                return Uniform(*times) if kind == "uniform" else Normal(*times)
    raise FaultError(
        'a time is "20ms", {uniform = ["1ms", "5ms"]}, {normal = ["20ms", "3ms"]}, {exponential = "10ms"} or'
        f' {{samples = ["1ms", "2ms"]}}, not {value!r:.80}'
    )


def describe_distribution(distribution: Distribution) -> object:
    """The value that :func:`parse_distribution` makes `distribution` of."""
    match distribution:
        case Fixed(value):
            return format_time(value)
        case Uniform(low, high):
            return {"uniform": [format_time(low), format_time(high)]}
        case Normal(mean, deviation):
            return {"normal": [format_time(mean), format_time(deviation)]}
        case Exponential(mean):
            return {"exponential": format_time(mean)}
        case Samples(values):
            return {"samples": [format_time(value) for value in values]}
        case _:
            return repr(distribution)
