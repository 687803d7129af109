"""The file of copies that outlives an array."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from mgmt.array.replication.history import CopyHistory, HistoryError
from mgmt.messages import CopyStatus

RUNNING = CopyStatus(
    copy_id="c1",
    local_port="127.0.0.1",
    remote_port="127.0.0.2",
    volume="vol0",
    mode="initial",
    state="copying",
    connections=6,
    total_bytes=100,
    copied_bytes=60,
    acknowledged_bytes=40,
    in_flight_bytes=20,
    reserved_bytes=64,
    seconds=1.5,
    goodput_bps=213,
)
DONE = replace(RUNNING, copy_id="c0", state="done", in_flight_bytes=0, reserved_bytes=0)


def test_a_copy_that_had_not_ended_is_found_as_interrupted(tmp_path: Path) -> None:
    file = tmp_path / "copies.json"
    CopyHistory(file).save([DONE, RUNNING])
    assert file.stat().st_mode & 0o777 == 0o600
    done, interrupted = CopyHistory(file).load()
    assert done == DONE
    assert (interrupted.state, interrupted.acknowledged_bytes, interrupted.in_flight_bytes) == (
        "failed",
        40,
        0,
    )
    assert interrupted.error.startswith("interrupted at 40 of 100 bytes")


def test_what_has_not_changed_is_not_written_again(tmp_path: Path) -> None:
    file = tmp_path / "copies.json"
    history = CopyHistory(file)
    history.save([DONE])
    file.unlink()
    history.save([DONE])
    assert not file.exists()
    history.save([])
    assert CopyHistory(file).load() == []


def test_without_a_file_nothing_is_kept(tmp_path: Path) -> None:
    CopyHistory(None).save([DONE])
    assert CopyHistory(None).load() == [] and list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("data", [b"", b"{}", b"[1]", b"\xff", b'[{"copy_id": "c"}]', b"[" * 5000])
def test_a_file_of_another_kind_is_refused_with_what_to_do(data: bytes, tmp_path: Path) -> None:
    file = tmp_path / "copies.json"
    file.write_bytes(data)
    with pytest.raises(HistoryError, match="move it away"):
        CopyHistory(file).load()


def test_a_disk_that_cannot_be_written_is_said_once(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    history = CopyHistory(tmp_path / "none" / "copies.json")
    history.save([DONE])
    history.save([RUNNING])
    told = capsys.readouterr().err
    assert told.startswith("sancredit: cannot keep the copies in ") and told.count("\n") == 1
