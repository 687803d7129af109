"""Figure 5 by the command line alone: two arrays, two measuring devices and a station as real processes."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

LOCAL, REMOTE = "127.0.0.1", "127.0.0.2"
PAIR = f"{LOCAL},{REMOTE}"
IMAGE_BYTES = 8 * 1024**2
UNIT = 16 * 1024
UNITS = 256
PARTS = ("free_units", "reserved_idle_units", "in_use_units", "draining_units")

pytestmark = pytest.mark.slow


@contextmanager
def serving(lines: int, *words: str) -> Iterator[list[str]]:
    """``sancredit …`` until the block ends; what it printed once it was ready. It must end with exit code 0."""
    process = subprocess.Popen(
        [sys.executable, "-m", "mgmt.cli", *words], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    try:
        yield [process.stdout.readline().strip() for _ in range(lines)]
        process.terminate()
        _, errors = process.communicate(timeout=60)
        assert (process.returncode, errors) == (0, ""), words
    finally:
        if process.poll() is None:
            process.kill()
            process.communicate()


@dataclass
class Told:
    """What a command ended with."""

    code: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        return json.loads(self.out)


@dataclass
class Desk:
    """Where the administrator types."""

    station: str
    image: bytes
    disk: Path

    def type(self, line: str) -> Told:
        done = subprocess.run(
            [sys.executable, "-m", "mgmt.cli", *line.split()],
            capture_output=True,
            text=True,
            timeout=110,
            env=os.environ | {"SANCREDIT_STATION": self.station},
            check=False,
        )
        return Told(done.returncode, done.stdout, done.stderr)

    def master_pool(self) -> dict[str, int]:
        rows = self.type("get pools -o json").json
        for row in rows:
            assert sum(row[part] for part in PARTS) == row["total_units"], "conservation"
        (pool,) = (row for row in rows if row["array"] == "M")
        return dict(pool)


@pytest.fixture
def desk(tmp_path: Path) -> Iterator[Desk]:
    image, disk = os.urandom(IMAGE_BYTES), tmp_path / "remote.img"
    (tmp_path / "master.img").write_bytes(image)
    array = ("--units", str(UNITS), "--iscsi-port", "0")
    with ExitStack() as stack:
        for name, port, volume in (("M", LOCAL, "master.img"), ("R", REMOTE, f"remote.img:{IMAGE_BYTES}")):
            words: tuple[str, ...] = (
                "array",
                "serve",
                "--name",
                name,
                "--listen",
                f"unix:{tmp_path}/{name}.sock",
            )
            words += ("--port-address", port, "--volume", f"vol0={tmp_path}/{volume}", *array)
            words += ("--chap-file", str(tmp_path / "arrays.chap"))
            stack.enter_context(serving(2, *words, "--state", str(tmp_path / f"{name}.state")))
        far, _ = stack.enter_context(
            serving(2, "probe", "serve", "--listen", f"unix:{tmp_path}/far.sock", "--address", REMOTE)
        )
        near = ("probe", "serve", "--listen", f"unix:{tmp_path}/near.sock", "--address", LOCAL)
        stack.enter_context(serving(2, *near, "--peer", far.removeprefix("listening udp://")))
        words = ("station", "serve", "--listen", f"unix:{tmp_path}/station.sock")
        words += ("--state", str(tmp_path / "station.state"), "--probe", f"unix:{tmp_path}/near.sock")
        words += ("--array", f"M=unix:{tmp_path}/M.sock", "--array", f"R=unix:{tmp_path}/R.sock")
        (ready,) = stack.enter_context(serving(1, *words))
        yield Desk(ready.removeprefix("listening "), image, disk)


def test_the_whole_of_figure_5(desk: Desk) -> None:
    """801 to 815, then what the tables say, then giving everything back."""
    assert {row["array"]: row["state"] for row in desk.type("get arrays -o json").json} == {
        "M": "up",
        "R": "up",
    }

    # 801-804
    assert desk.type(f"register --port-pair {PAIR} --sessions 2 --connections 3").code == 0
    assert desk.type(f"measure --port-pair {PAIR}").code == 0
    (channel,) = desk.type("get channels -o json").json
    assert channel["bandwidth_bps"] > 0 and channel["rtt_ns"] > 0 and channel["stale"] is False

    # 805-808: the document's formula on what was measured
    advice = desk.type(f"recommend --port-pair {PAIR} -o json").json
    assert advice["bytes"] == -(-channel["bandwidth_bps"] * channel["rtt_ns"] * 6 // 8_000_000_000)
    assert (advice["available_units"], advice["unit_bytes"]) == (UNITS, UNIT)

    # 809-812: refused when too large, with nothing changed; then 1,500,000 bytes are 92 units
    refused = desk.type(f"reserve --port-pair {PAIR} --size 1GiB")
    assert refused.code == 1 and "256 are free" in refused.err and refused.err.count("\n") == 1
    assert desk.master_pool()["free_units"] == UNITS
    granted = desk.type(f"reserve --port-pair {PAIR} --size 1500000 -o json").json
    assert (granted["reserved_units"], granted["replaced"]) == (92, False)
    assert desk.master_pool()["free_units"] == UNITS - 92
    (row,) = desk.type("get reservations -o json").json
    assert (row["target"]["local_port"], row["reserved_bytes"], row["requested_bytes"]) == (
        LOCAL,
        92 * UNIT,
        1_500_000,
    )

    # 1206-1208: grow and shrink
    assert desk.type(f"update --port-pair {PAIR} --size 2MiB").out.startswith("now reserved 2MiB (128 units)")
    assert desk.type(f"update --port-pair {PAIR} --size 1500000 -o json").json["previous_units"] == 128

    # 813-815, and the proof
    done = desk.type(f"copy start --port-pair {PAIR} --volume vol0 --wait -o json")
    assert done.code == 0, done.err
    assert (done.json["state"], done.json["acknowledged_bytes"], done.json["connections"]) == (
        "done",
        IMAGE_BYTES,
        6,
    )
    one = desk.type(f"copy status {done.json['copy_id']} -o json").json
    (listed,) = desk.type("get copies -o json").json
    assert one | {name: listed[name] for name in ("links", "max_in_flight_bytes")} == listed | {
        "remote_array": "R"
    }
    assert (one["pair"], one["array"], one["progress"], one["rpo_bytes"]) == (PAIR, "M", 1.0, 0)
    verdict = desk.type(f"copy verify {done.json['copy_id']} -o json")
    assert (verdict.code, verdict.json["sha256_match"]) == (0, True)
    assert desk.disk.read_bytes() == desk.image
    (copy,) = desk.type("get copies -o json").json
    assert (copy["progress"], copy["state"]) == (1.0, "done")

    # nothing is in use any more, and everything goes back
    pool = desk.master_pool()
    assert (pool["in_use_units"], pool["reserved_idle_units"]) == (0, 92)
    assert desk.type(f"release --port-pair {PAIR}").code == 0
    assert desk.master_pool()["free_units"] == UNITS
    again = desk.type(f"release --port-pair {PAIR}")
    assert again.code == 1 and "no reservation" in again.err


def test_a_connection_is_reserved_and_copied_and_released_by_its_buffer_id(desk: Desk) -> None:
    """Embodiment 4."""
    words = f"reserve --port-pair {PAIR} --connection --size 256KiB -o json"
    first, second = desk.type(words).json, desk.type(words).json
    assert first["buffer_id"] != second["buffer_id"]
    ids = [row["buffer_id"] for row in desk.type("get buffer-ids -o json").json]
    assert ids == [first["buffer_id"], second["buffer_id"]]
    grown = desk.type(f"update --buffer-id {first['buffer_id']} --size 512KiB -o json").json
    assert (grown["previous_units"], grown["reserved_units"]) == (16, 32)
    done = desk.type(f"copy start --buffer-id {first['buffer_id']} --volume vol0 --wait -o json")
    assert (done.code, done.json["state"], done.json["connections"]) == (0, "done", 1)
    for buffer_id in ids:
        assert desk.type(f"release --buffer-id {buffer_id}").code == 0
    assert desk.master_pool()["free_units"] == UNITS


def test_a_preview_says_what_the_reservation_then_does_and_changes_nothing(desk: Desk) -> None:
    unknown = desk.type(f"preview --port-pair {PAIR}")
    assert unknown.code == 1 and "has not been measured" in unknown.err
    supposed = f"preview --port-pair {PAIR} --if bandwidth=10Mbit,rtt=280ms,sessions=2,connections=3 -o json"
    would = desk.type(supposed).json
    assert (would["requested_bytes"], would["previous_units"], would["reserved_units"]) == (2_100_000, 0, 129)
    assert (would["free_units_before"], would["free_units_after"]) == (UNITS, UNITS - 129)
    assert desk.type("get channels -o json").json == [] == desk.type("get reservations -o json").json

    dry = desk.type(f"reserve --port-pair {PAIR} --size 1500000 --dry-run")
    assert dry.code == 0 and "0 -> 92 units (+92), free 256 -> 164" in dry.out
    refused = desk.type(f"reserve --port-pair {PAIR} --size 1GiB --dry-run")
    assert (refused.code, refused.err) == (1, desk.type(f"reserve --port-pair {PAIR} --size 1GiB").err)
    assert desk.master_pool()["free_units"] == UNITS

    assert desk.type(f"reserve --port-pair {PAIR} --size 1500000").code == 0
    shrunk = desk.type(f"update --port-pair {PAIR} --size 16KiB --dry-run -o json").json
    assert (shrunk["previous_units"], shrunk["reserved_units"], shrunk["free_units_after"]) == (
        92,
        1,
        UNITS - 1,
    )
    assert desk.master_pool()["free_units"] == UNITS - 92


def test_an_application_is_reserved_for_and_copied_by_and_released_by_its_name(desk: Desk) -> None:
    """Paragraph 102."""
    first = desk.type("reserve --application backup --size 256KiB")
    assert first.code == 2 and "--port-pair A,B" in first.err and first.err.count("\n") == 1
    made = desk.type(f"reserve --application backup --port-pair {PAIR} --size 256KiB -o json").json
    assert (made["array"], made["reserved_units"]) == ("M", 16)
    assert "application backup" in desk.type("get reservations").out
    grown = desk.type("update --application backup --size 512KiB -o json").json
    assert (grown["previous_units"], grown["reserved_units"]) == (16, 32)
    words = f"copy start --port-pair {PAIR} --volume vol0 --application backup --wait -o json"
    done = desk.type(words)
    assert (done.code, done.json["state"], done.json["reserved_bytes"]) == (0, "done", 512 * 1024)
    assert desk.disk.read_bytes() == desk.image
    assert desk.type("release --application backup").out.startswith("released 32 units of application backup")
    assert desk.master_pool()["free_units"] == UNITS


def test_both_ends_are_reserved_by_one_command_and_lapse_with_their_lease(desk: Desk) -> None:
    words = f"reserve --port-pair {PAIR} --both-ends --size 1MiB"
    told = desk.type(words)
    assert (told.code, told.err) == (0, "")
    assert told.out.splitlines() == [
        f"reserved 1MiB (64 units) for port pair {LOCAL}->{REMOTE} on array M",
        f"reserved 1MiB (64 units) for port pair {REMOTE}->{LOCAL} on array R",
    ]
    rows = desk.type("get reservations -o json").json
    assert [(row["array"], row["target"]["local_port"]) for row in rows] == [("M", LOCAL), ("R", REMOTE)]
    told = desk.type(f"{words} --lease 1s")
    assert [line.partition("; ")[2] for line in told.out.splitlines()] == ["before: 64 units"] * 2
    deadline = time.monotonic() + 60
    while rows := desk.type("get reservations -o json").json:
        assert time.monotonic() < deadline, rows
    assert desk.master_pool()["free_units"] == UNITS
    assert desk.type(f"reserve --port-pair {REMOTE},{LOCAL} --size 3MiB").code == 0
    refused = desk.type(f"reserve --port-pair {PAIR} --both-ends --size 5MiB")
    assert refused.code == 1 and "nothing has changed at either end" in refused.err
    assert desk.master_pool()["free_units"] == UNITS
