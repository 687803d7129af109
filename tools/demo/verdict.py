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
    """One line of the verdict: what was to be shown, whether it was, and the figures. ``holds`` None: not measured."""

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

    def utilisation(self, outcome: Outcome) -> float:
        """Goodput as a share of the channel's payload limit."""
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
        emulated = self.channel["kind"] != "loopback"
        share, control = self.utilisation(self.reserved), self.utilisation(self.baseline)
        flight = self.reserved.flight
        refused = self.baseline.connections == 0
        return [
            Claim(
                "without a reservation the storm starves the copy",
                refused or control < BASELINE_BAR if emulated or refused else None,
                "refused: no buffer left" if refused else f"{control:.1%} of the channel",
            ),
            Claim(
                f"with it the copy gets at least {BAR:.0%} of the channel",
                share >= BAR if emulated else None,
                f"{self.reserved.goodput_bps / 1e6:.1f} of {self.settings.payload_limit_bps / 1e6:.1f} Mbit/s "
                f"payload: {share:.1%}, in {self.reserved.seconds:.2f} s",
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
        """Nothing that was measured failed."""
        return all(claim.holds is not False for claim in self.claims())

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
        return {
            "connections": outcome.connections,
            "goodput_bps": outcome.goodput_bps,
            "channel_utilisation": round(self.utilisation(outcome), 4),
            "seconds": outcome.seconds,
            "acknowledged_bytes": outcome.status["acknowledged_bytes"] if outcome.status else 0,
            "packets": outcome.capture.get("packets"),
        }
