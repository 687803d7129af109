"""Schemathesis, somebody else's fuzzer, against the API and its own description."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from mgmt.api.app import make_app
from mgmt.http import ServerThread
from tests.mgmt.station_stand_ins import site

#: Not asked: the stream, which does not end.
_WITHOUT = "/api/v1/events/stream"


#: Not expected: a target that the schema admits may name an array that is not there, and that is refused.
_UNCHECKED = "positive_data_acceptance"


def schemathesis(directory: Path, *, phases: str, examples: int, seconds: int) -> None:
    """A run of the program against a station between two stand-in arrays; the test fails with what it found."""
    with site(directory) as place, ServerThread(make_app(place.station), "http://127.0.0.1:0") as thread:
        base = f"http://{thread.address.host_and_port}"
        command = [
            *(sys.executable, "-m", "schemathesis.cli", "run", f"{base}/api/v1/openapi.json"),
            *("--exclude-path", _WITHOUT, "--max-examples", str(examples), "--seed", "1", "--no-color"),
            *("--request-timeout", "60", "--generation-database", ":memory:", "--workers", "2"),
            *("--phases", phases, "--exclude-checks", _UNCHECKED),
        ]
        environment = {"PATH": os.environ["PATH"], "HOME": str(directory), "LANG": "C.UTF-8"}
        report = directory / "schemathesis.txt"
        with (
            report.open("wb") as out,
            subprocess.Popen(command, cwd=directory, env=environment, stdout=out, stderr=out) as process,
        ):
            try:
                code = process.wait(seconds)
            except subprocess.TimeoutExpired:
                process.kill()
                code = -1
        assert code == 0, f"exit code {code}: {report.read_text()[-8000:]}"


@pytest.mark.slow
@pytest.mark.timeout(630)
def test_the_api_does_what_its_description_says_and_never_fails(tmp_path: Path) -> None:
    schemathesis(tmp_path, phases="coverage,fuzzing", examples=3, seconds=600)


@pytest.mark.soak
@pytest.mark.timeout(1800)
def test_the_api_does_what_its_description_says_for_long(tmp_path: Path) -> None:
    schemathesis(tmp_path, phases="examples,coverage,fuzzing,stateful", examples=200, seconds=1700)


def test_the_description_is_openapi_3_1_and_every_reference_in_it_leads_somewhere(tmp_path: Path) -> None:
    with site(tmp_path) as place:
        document = make_app(place.station).openapi()
    assert document["openapi"].startswith("3.1")
    text = json.dumps(document)
    wanted = {part.split('"')[0] for part in text.split('"#/components/schemas/')[1:]}
    assert wanted and wanted <= set(document["components"]["schemas"])
