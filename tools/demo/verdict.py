"""What the two runs prove, as rows for people and as JSON for machines."""

from __future__ import annotations

from dataclasses import dataclass
from statistics import median
from typing import Any

from tools.demo.figure5 import Outcome
from tools.demo.settings import Settings

BAR = 0.90
BASELINE_BAR = 0.30
FULL_PIPE = 1.2
"""Below this multiple of bandwidth x delay a reservation does not fill a channel (``docs/performance.md``)."""


@dataclass(frozen=True, slots=True)
class Claim:
    """One line of the verdict: what was to be shown, whether it was, and the figures.

    ``holds`` None: not judged, and the figures say why.
    """

    name: str
    holds: bool | None
    figures: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Verdict:
    """The judgement over both runs."""

    settings: Settings
    channel: dict[str, Any]
    recommendation: dict[str, Any]
    reservation: dict[str, Any]
    baseline: Outcome
    reserved: Outcome
    sha256_match: bool

    @property
    def emulated(self) -> bool:
        """Whether there was a channel with a rate and a delay, not plain loopback."""
        return bool(self.channel["kind"] != "loopback")

    def utilisation(self, outcome: Outcome) -> float | None:
        """Goodput as a share of the channel's payload limit; None on plain loopback, which has none."""
        if not self.emulated:
            return None
        return outcome.goodput_bps / self.settings.payload_limit_bps

    @property
    def conservation_ok(self) -> bool:
        """The law held in every sample of both runs, on both arrays."""
        return self.baseline.conservation_ok and self.reserved.conservation_ok

    @property
    def flight_limit_bytes(self) -> int:
        """What the packets may show in flight at most: the reservation and one segment."""
        return int(self.reservation["reserved_bytes"]) + self.settings.segment_bytes

    def claims(self) -> list[Claim]:
        """The lines of the verdict, in the order of the story."""
        flight = self.reserved.flight
        return [
            self._starved(),
            self._served(),
            Claim(
                f"bytes in flight never exceed the reservation ({self.settings.evidence})",
                0 < flight.max_in_flight_bytes <= self.flight_limit_bytes if flight is not None else None,
                f"{flight.max_in_flight_bytes:,} of {self.reservation['reserved_bytes']:,} bytes"
                if flight is not None
                else str(self.reserved.capture.get("error")),
            ),
            Claim(
                "free + reserved idle + in use + draining = total, in every sample",
                self.conservation_ok,
                f"{len(self.baseline.pool) + len(self.reserved.pool)} samples of each array",
            ),
            Claim("SHA-256 of the remote disk equals the image's", self.sha256_match, ""),
        ]

    def _starved(self) -> Claim:
        name = "without a reservation the storm starves the copy"
        if self.baseline.connections == 0:
            return Claim(name, True, "refused: no buffer left")
        rate = f"{self.baseline.goodput_bps / 1e6:.1f} Mbit/s"
        if self.baseline.storm_left_free_units:
            return Claim(
                name, False, f"{rate}: the storm left {self.baseline.storm_left_free_units} units free"
            )
        share = self.utilisation(self.baseline)
        if share is None or self.baseline.seconds < self.settings.judged_after_s:
            return Claim(name, None, f"{rate}: nothing to compare it with, or too short to judge")
        return Claim(name, share < BASELINE_BAR, f"{rate}: {share:.1%} of the channel")

    def _served(self) -> Claim:
        name = f"with it the copy gets at least {BAR:.0%} of the channel"
        rate, share = f"{self.reserved.goodput_bps / 1e6:.1f}", self.utilisation(self.reserved)
        if share is None:
            return Claim(name, None, f"{rate} Mbit/s, and no channel to compare it with")
        figures = (
            f"{rate} of {self.settings.payload_limit_bps / 1e6:.1f} Mbit/s payload: {share:.1%}, "
            f"in {self.reserved.seconds:.2f} s"
        )
        if self._least_seconds < self.settings.judged_after_s:  # however long a busy machine took for it
            return Claim(name, None, f"{figures}; too short: slow start is most of it")
        if share < BAR and self.reservation["reserved_bytes"] < FULL_PIPE * self._bandwidth_delay_bytes:
            return Claim(
                name, None, f"{figures}; the reservation is less than {FULL_PIPE} x bandwidth x delay"
            )
        return Claim(name, share >= BAR, figures if share >= BAR else figures + self._why_slow())

    def _why_slow(self) -> str:
        """A pipe that was full most of the time and carried less than its rate did not wait for a buffer."""
        flight = self.reserved.flight
        if flight is None or not flight.series:
            return ""
        usual_bytes = median(in_flight_bytes for _, in_flight_bytes in flight.series)
        if usual_bytes < self._bandwidth_delay_bytes:
            return ""
        return "; bandwidth x delay was in flight, so it waited for this machine and not for buffers"

    @property
    def _least_seconds(self) -> float:
        """What the channel needs for the copy's bytes at its full rate."""
        copied_bytes = self.reserved.status["acknowledged_bytes"] if self.reserved.status else 0
        return float(copied_bytes * 8 / self.settings.payload_limit_bps)

    @property
    def _bandwidth_delay_bytes(self) -> int:
        return self.settings.bandwidth_bps * self.settings.rtt_ns // 8_000_000_000

    @property
    def passed(self) -> bool:
        """Nothing that was judged failed."""
        return all(claim.holds is not False for claim in self.claims())

    def as_json(self) -> dict[str, Any]:
        """The object of ``sancredit demo -o json``."""
        flight = self.reserved.flight
        return {
            "transport": self.settings.transport,
            "channel": {
                "kind": self.channel["kind"],
                "note": self.channel["note"],
                "bandwidth_bps": self.settings.bandwidth_bps,
                "rtt_ns": self.settings.rtt_ns,
                "payload_limit_bps": self.settings.payload_limit_bps,
                "measured_bandwidth_bps": self.channel["bandwidth_bps"],
                "measured_rtt_ns": self.channel["rtt_ns"],
            }
            | self.settings.channel_facts(),
            "sessions": self.settings.sessions,
            "connections_per_session": self.settings.connections,
            "recommended_bytes": self.recommendation["bytes"],
            "reserved_bytes": self.reservation["reserved_bytes"],
            "reserved_units": self.reservation["reserved_units"],
            "baseline": self._run_json(self.baseline)
            | {"refused": self.baseline.connections == 0, "refusal": self.baseline.refusal},
            "reserved": self._run_json(self.reserved)
            | {
                "sha256_match": self.sha256_match,
                "max_in_flight_bytes": flight.max_in_flight_bytes if flight is not None else None,
            },
            "conservation_ok": self.conservation_ok,
            "claims": [
                {"claim": claim.name, "holds": claim.holds, "figures": claim.figures}
                for claim in self.claims()
            ],
            "passed": self.passed,
        }

    def _run_json(self, outcome: Outcome) -> dict[str, Any]:
        share = self.utilisation(outcome)
        return {
            "connections": outcome.connections,
            "goodput_bps": outcome.goodput_bps,
            "channel_utilisation": None if share is None else round(share, 4),
            "seconds": outcome.seconds,
            "acknowledged_bytes": outcome.status["acknowledged_bytes"] if outcome.status else 0,
            "packets": outcome.capture.get("packets"),
        }
