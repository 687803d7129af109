"""``sancredit fc credits``: the calculator, against published numbers."""

from __future__ import annotations

import csv
import io
import json

import pytest

from mgmt.cli.main import main


def test_the_json_has_the_exact_number_and_the_vendors_rules(capsys: pytest.CaptureFixture[str]) -> None:
    """FOS Admin Guide: 100 km at 2G takes 98 credits for full frames, Brocade's rule says 106."""
    assert main(["fc", "credits", "--speed", "2G", "--distance", "100km", "-o", "json"]) == 0
    answer = json.loads(capsys.readouterr().out)
    assert (answer["speed"], answer["distance_m"], answer["payload_bytes"]) == ("2G", 100_000, 2112)
    assert (answer["frame_bytes"], answer["credits"], answer["credits_gapless"]) == (2148, 98, 99)
    assert answer["rules"]["fos"] == 106


def test_small_frames_need_more_credits(capsys: pytest.CaptureFixture[str]) -> None:
    """The same page: 2310 credits at 2G for payloads of 32 bytes."""
    assert (
        main(["fc", "credits", "--speed", "2G", "--distance", "100km", "--payload", "32", "-o", "json"]) == 0
    )
    assert json.loads(capsys.readouterr().out)["credits"] == 2310


def test_given_credits_say_what_they_let_through(capsys: pytest.CaptureFixture[str]) -> None:
    """8G, 50 km, 16 credits: 67.2 MB/s of 826.5."""
    assert main(["fc", "credits", "--speed", "8G", "--distance", "50km", "--credits", "16", "-o", "csv"]) == 0
    rows = {row["rule"]: row for row in csv.DictReader(io.StringIO(capsys.readouterr().out))}
    assert int(rows["given"]["payload_bytes_per_second"]) / 1e6 == pytest.approx(67.2, abs=0.06)
    assert float(rows["gapless"]["share"]) == 1.0


def test_the_table_fits_a_terminal(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["fc", "credits", "--speed", "128G", "--distance", "10km", "--credits", "3"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].split() == ["RULE", "CREDITS", "PAYLOAD/S", "OF", "LINE", "MEANING"]
    assert max(map(len, lines)) <= 80


@pytest.mark.parametrize(
    ("words", "line"),
    [
        ("--speed 9G --distance 1km", "'9G' is not a Fibre Channel speed"),
        ("--speed 8G --distance 30000km", "a distance is from 0 to"),
        ("--speed 8G --distance 1km --payload 2113", "2113"),
        ("--speed 8G", "--distance"),
    ],
)
def test_a_link_that_cannot_be_gets_one_line_and_exit_code_2(
    words: str, line: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["fc", "credits", *words.split()]) == 2
    error = capsys.readouterr().err
    assert line in error
    assert len(error.splitlines()) == 1
