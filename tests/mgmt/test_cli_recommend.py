"""``sancredit recommend`` without a station."""

from __future__ import annotations

import json
import re

import pytest

from mgmt.cli.main import main


def test_recommend_computes_the_documents_formula_without_a_station(
    capsys: pytest.CaptureFixture[str],
) -> None:
    words = "recommend --bandwidth 100Mbit --rtt 20ms --sessions 2 --connections 3 -o json"
    assert main(words.split()) == 0
    found = json.loads(capsys.readouterr().out)
    assert (found["policy"], found["bytes"], found["units"], found["unit_bytes"]) == (
        "document",
        1_500_000,
        92,
        16384,
    )
    assert found["terms"]["sessions"] == 2


def test_policy_all_is_a_list_side_by_side(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["recommend", "--bandwidth", "1Gbit", "--rtt", "40ms", "--policy", "all", "-o", "json"]) == 0
    found = {row["policy"]: row["bytes"] for row in json.loads(capsys.readouterr().out)}
    assert found["document"] == 5_000_000
    assert found["cisco-mds"] == 4_691_596


def test_a_fibre_channel_link_is_sized_in_credits_by_every_rule(capsys: pytest.CaptureFixture[str]) -> None:
    """100 km at 8G: Brocade's rule says 406 (reference figures), the round trip holds 1 ms x 850 MB/s / 2172 B."""
    words = ["recommend", "--speed", "8G", "--distance", "100km", "--policy", "all", "-o", "json"]
    assert main(words) == 0
    found = {row["policy"]: row["units"] for row in json.loads(capsys.readouterr().out)}
    assert (found["fos"], found["fc-exact"], found["document"]) == (406, 392, 396)
    assert main([*words, "--payload", "1024"]) == 0
    found = {row["policy"]: row["units"] for row in json.loads(capsys.readouterr().out)}
    assert found["fos-average-frame"] == 828


def test_explain_shows_each_term_with_its_meaning(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["recommend", "--bandwidth", "10Mbit", "--rtt", "280ms", "--explain"]) == 0
    shown = capsys.readouterr().out
    assert re.search(r"rtt_ns +280000000 +delay, from sending to acknowledgement", shown)
    assert max(len(line) for line in shown.splitlines()) <= 80


@pytest.mark.parametrize("output", ["json", "yaml", "csv"])
def test_the_same_recommendation_in_every_format(output: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["recommend", "--bandwidth", "10Mbit", "--rtt", "280ms", "-o", output]) == 0
    assert "350000" in capsys.readouterr().out
