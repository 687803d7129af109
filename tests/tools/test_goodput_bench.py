"""The stage that remote copy's bars are measured on, with a margin that a busy machine reaches too."""

from __future__ import annotations

from pathlib import Path

import pytest

from tools.bench import goodput_bench
from tools.bench.copy_stage import MIB, Moment, StageConfig, copy_stage, rate_bps, steady_bps
from tools.wan.errors import ChannelUnavailable

SECOND = 10**9


def test_a_rate_is_that_of_the_moments_and_the_steady_one_that_of_their_second_half() -> None:
    slow, fast = [Moment(n * SECOND, n * 10) for n in range(3)], [Moment(n * SECOND, n * 50) for n in (3, 4)]
    assert rate_bps(slow) == 80
    assert steady_bps([*slow, *fast]) == (200 - 20) * 8 / 2


def test_a_copy_that_was_over_at_once_has_no_rate() -> None:
    with pytest.raises(RuntimeError, match="larger volume"):
        rate_bps([Moment(5, 5)])


def test_a_congestion_control_that_the_kernel_has_not_is_said_not_left_out(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / "controls").write_text("reno cubic\n")
    monkeypatch.setattr(goodput_bench, "_AVAILABLE", tmp_path / "controls")
    names, remark = goodput_bench.controls()
    assert names == ["cubic"]
    assert "bbr" in remark


@pytest.mark.slow
def test_one_connection_with_its_reservation_fills_a_channel_under_a_storm() -> None:
    config = StageConfig(bandwidth_bps=20_000_000, rtt_ns=20_000_000, volume_bytes=64 * MIB, units=64)
    try:
        with copy_stage(config) as stage:
            assert stage.reserve(config.pipe_bytes * 6 // 5) == 4 * config.unit_bytes
            with stage.storm(hosts=4):
                stage.start_copy("c1", 1, 1)
                moments = stage.watch_copy("c1", 3.0)
                assert steady_bps(moments) > 0.5 * stage.limit_bps
                stage.stop_copy("c1")
            assert stage.status("c1").state == "stopped"
    except ChannelUnavailable as reason:
        pytest.skip(str(reason))
