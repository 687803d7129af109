"""Pairs by the command line: a station, two arrays, and what an administrator types."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from mgmt.cli.pair import until_paired
from tests.mgmt.array_processes import MASTER, REMOTE, command
from tests.mgmt.replication_processes import MIB, two_sites

pytestmark = [pytest.mark.slow, pytest.mark.timeout(400)]

PORTS = f"{MASTER},{REMOTE}"


@contextmanager
def station(directory: Path) -> Iterator[str]:
    """The management station of both arrays, until the block ends."""
    address = f"unix:{directory / 'station.sock'}"
    arrays = [f"--array={name}=unix:{directory / f'{name}.sock'}" for name in ("east", "west")]
    process = subprocess.Popen(
        command("station", "serve", "--listen", address, "--state", str(directory / "station"), *arrays),
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    try:
        assert process.stdout.readline().startswith("listening"), "the station did not start"
        yield address
    finally:
        process.kill()  # it keeps nothing about pairs, so that is fine at any time
        process.wait()
        process.stdout.close()


def type_line(address: str, line: str) -> tuple[int, str, str]:
    done = subprocess.run(
        [sys.executable, "-m", "mgmt.cli", *line.split()],
        capture_output=True,
        text=True,
        timeout=300,
        env=os.environ | {"SANCREDIT_STATION": address},
        check=False,
    )
    return done.returncode, done.stdout, done.stderr


def test_a_group_from_its_making_to_its_end_by_the_command_line(tmp_path: Path) -> None:
    with two_sites(tmp_path, 4 * MIB) as (east, west):
        east.image().write_bytes(os.urandom(4 * MIB))

        def tell(line: str, code: int = 0) -> str:
            got, out, err = type_line(address, line)
            assert got == code, (line, out, err)
            assert "Traceback" not in err
            return out if code == 0 else err

        def rows() -> dict[str, Any]:
            return {row["array"]: row for row in json.loads(tell("pair status db -o json"))}

        with station(tmp_path) as address:
            wish = f"pair create db --port-pair {PORTS} --volume vol0 --journal jnl --sessions 2"
            assert "db: PAIR (P-VOL, async)" in tell(f"{wish} --connections 2 --wait")
            assert {row["state"] for row in rows().values()} == {"PAIR"}
            refused = tell(f"pair create db2 --port-pair {PORTS} --volume vol0 --journal jnl", 1)
            assert "busy" in refused and refused.count("\n") == 1
            assert "equal" in tell("copy verify db")
            assert "PSUS" in tell("copy pause db")
            with west.image().open("r+b") as file:
                file.seek(2 * MIB + 5)
                file.write(b"not what was copied")
            assert "1 pieces of 1 MiB differ: vol0 at 2097152" in type_line(address, "copy verify db")[1]
        with station(tmp_path) as address:  # another station knows as much
            tell("pair resync db --full --wait")
            assert "equal" in tell("copy verify db")
            tell("pair swap db")
            assert (rows()["west"]["role"], rows()["east"]["role"]) == ("P-VOL", "S-VOL")
            tell("pair delete db")
            assert "there is no group 'db'" in tell("pair split db", 1)


class Told:
    """A station that has these answers, one after the other."""

    who = "the station"

    def __init__(self, *answers: dict[str, Any]) -> None:
        self._answers = list(answers)

    def get(self, path: str) -> Any:
        return {"items": [self._answers.pop(0)] if self._answers else [], "down": [], "next": None}


def row(state: str, **changes: Any) -> dict[str, Any]:
    fields = {"group": "db", "role": "P-VOL", "mode": "async", "rpo_bytes": 0, "rpo_ns": None, "held": False}
    return fields | {"state": state, "total_bytes": 100, "dirty_bytes": 40, "error": ""} | changes


@pytest.mark.parametrize(
    ("answers", "code", "text"),
    [
        ([row("COPY"), row("PSUE", error="gone"), row("PAIR")], 0, "db: PAIR"),
        ([row("COPY"), row("PSUE", error="old data", held=True)], 1, "does not become PAIR: old data"),
        ([row("COPY"), row("PSUS")], 1, "does not become PAIR: PSUS"),
        ([row("COPY")], 1, "does not become PAIR: it is gone"),
    ],
)
def test_waiting_ends_with_pair_or_with_what_does_not_become_one(
    answers: list[dict[str, Any]], code: int, text: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert until_paired(Told(*answers), "db", "table") == code  # type: ignore[arg-type]
    written = capsys.readouterr()
    assert text in written.out + written.err
