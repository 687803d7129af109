"""One verdict per interval, and a notice only when something changed and somebody asked for it."""

from __future__ import annotations

import pytest

from fcsim.port.congestion import (
    CongestionMonitor,
    CongestionNotice,
    CongestionType,
    Finding,
    Interval,
    Severity,
    Verdict,
    judge,
)


@pytest.mark.parametrize(
    ("interval", "verdict"),
    [
        (Interval(load=0.05, wait=0.02, credits=8), Verdict.OK),
        (Interval(load=0.85, wait=0.0, credits=8), Verdict.OVERSUBSCRIBED),
        (Interval(load=0.1, wait=0.3, credits=8), Verdict.CREDIT_STALL),
        (Interval(load=0.5, wait=0.5, credits=8, needed_credits=8), Verdict.CREDIT_STALL),
        (Interval(load=0.2, wait=0.5, credits=8, needed_credits=40), Verdict.DISTANCE_SHORT),
        (Interval(load=0.1, wait=0.9, credits=8, needed_credits=40, credits_lost=2), Verdict.LOST_CREDIT),
    ],
)
def test_the_verdict_pairs_waiting_with_load_loss_and_distance(interval: Interval, verdict: Verdict) -> None:
    assert judge(interval).verdict is verdict


def test_a_short_link_says_how_many_credits_are_missing_and_what_they_cost() -> None:
    finding = judge(Interval(load=0.2, wait=0.8, credits=8, needed_credits=40))
    assert finding.missing_credits == 32
    assert "32 credits short" in finding.text
    assert "20% of the bandwidth" in finding.text
    assert finding.severity is Severity.ALARM


def test_a_notice_goes_out_when_a_condition_begins_changes_and_clears() -> None:
    monitor = CongestionMonitor(1000, registered=True)
    stall = Finding(Verdict.CREDIT_STALL, "", Severity.WARNING)
    alarm = Finding(Verdict.CREDIT_STALL, "", Severity.ALARM)
    fine = Finding(Verdict.OK, "")
    seen = [monitor.see(finding) for finding in (fine, stall, stall, alarm, fine, fine)]
    assert seen == [
        None,
        CongestionNotice(CongestionType.CREDIT_STALL, Severity.WARNING, 1000),
        None,
        CongestionNotice(CongestionType.CREDIT_STALL, Severity.ALARM, 1000),
        CongestionNotice(CongestionType.CLEAR, Severity.WARNING, 1000),
        None,
    ]


def test_a_peer_that_did_not_register_is_told_nothing() -> None:
    assert CongestionMonitor(1000).see(Finding(Verdict.LOST_CREDIT, "", Severity.ALARM)) is None
