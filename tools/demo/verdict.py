"""What the two runs prove, as rows for people and as JSON for machines."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from tools.demo.figure5 import Outcome
from tools.demo.settings import Settings

BAR = 0.90
BASELINE_BAR = 0.30


@dataclass(frozen=True, slots=True)
class Claim:
    """One line of the verdict: what was to be shown, whether it was, and the figures.

    ``holds`` None: not measured. What is not ``required`` depends on the formula and the channel as well as on us:
    it is said, but does not fail the demo.
    """

    name: str
    holds: bool | None
    figures: str
    required: bool = True


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
        return int(self.reservation["reserved_bytes"]) + self.settings.mtu - 52

    def claims(self) -> list[Claim]:
        """The lines of the verdict, in the order of the story."""
        share, control = self.utilisation(self.reserved), self.utilisation(self.baseline)
        flight = self.reserved.flight
        refused = self.baseline.connections == 0
        rate = f"{self.reserved.goodput_bps / 1e6:.1f}"
        return [
            Claim(
                "without a reservation the storm starves the copy",
                True if refused else None if control is None else control < BASELINE_BAR,
                "refused: no buffer left"
                if refused
                else f"{self.baseline.goodput_bps / 1e6:.1f} Mbit/s with "
                f"{self.baseline.storm_left_free_units} units left free",
            ),
            Claim(
                f"with it the copy gets at least {BAR:.0%} of the channel",
                None if share is None else share >= BAR,
                f"{rate} Mbit/s, and no channel to compare it with"
                if share is None
                else f"{rate} of {self.settings.payload_limit_bps / 1e6:.1f} Mbit/s payload: {share:.1%}, "
                f"in {self.reserved.seconds:.2f} s",
                required=False,
            ),
            Claim(
                "bytes in flight never exceed the reservation (packets)",
                flight.max_in_flight_bytes <= self.flight_limit_bytes if flight is not None else None,
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

    @property
    def passed(self) -> bool:
        """Nothing that is required and was measured failed."""
        return all(claim.holds is not False for claim in self.claims() if claim.required)

    def as_json(self) -> dict[str, Any]:
        """The object of ``sancredit demo -o json``."""
        flight = self.reserved.flight
        return {
            "transport": "tcp",
            "channel": {
                "kind": self.channel["kind"],
                "note": self.channel["note"],
                "bandwidth_bps": self.settings.bandwidth_bps,
                "rtt_ns": self.settings.rtt_ns,
                "payload_limit_bps": self.settings.payload_limit_bps,
                "measured_bandwidth_bps": self.channel["bandwidth_bps"],
                "measured_rtt_ns": self.channel["rtt_ns"],
            },
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
