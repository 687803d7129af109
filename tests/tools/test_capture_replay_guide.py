"""docs/replay.md: its commands run as they stand there."""

from __future__ import annotations

import asyncio
import re
import shlex
from pathlib import Path

import pytest

from iscsi_target.running import serve
from mgmt.cli.main import main
from tests.tools.test_capture_fabric_replay import FABRIC
from tests.tools.test_capture_replay import some_work

ROOT = Path(__file__).resolve().parents[2]
GUIDE = ROOT / "docs" / "replay.md"


def commands() -> list[str]:
    return re.findall(r"^\$ sancredit (.*)$", GUIDE.read_text(), re.MULTILINE)


@pytest.fixture(scope="module")
def room(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the files that the guide names."""
    room = tmp_path_factory.mktemp("replay-guide")
    (room / "examples").symlink_to(ROOT / "examples")
    with serve("4MiB", capture=room / "capture.pcapng", log_limit=None) as target:
        asyncio.run(some_work(target))
    (room / "fabric.toml").write_text(FABRIC.format(credits=300))
    words = ["fc", "simulate", str(room / "fabric.toml"), "--pcap", str(room / "fabric.pcapng")]
    assert main([*words, "--link", "database-west"]) == 0
    return room


@pytest.mark.parametrize("words", commands())
def test_a_command_of_the_guide_runs_as_typed(
    words: str, room: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(room)
    code = main(shlex.split(words))
    said = capsys.readouterr()
    assert code == 0, said.err
    assert said.out


def test_the_guide_has_the_four_commands() -> None:
    assert {words.split()[1] for words in commands()} == {"replay", "whatif", "simulate", "export"}
