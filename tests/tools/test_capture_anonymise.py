"""An anonymised capture: nobody's name or data is in it, and what it tells about times and commands is the same."""

from __future__ import annotations

import asyncio
import os
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from iscsi_target.initiator import Initiator
from iscsi_target.running import serve
from iscsi_target.session.parameters import Parameters
from tools.capture.analysis import analyse
from tools.capture.anonymise_cli import anonymise
from tools.capture.flows import flow_rows

SECRET = b"what nobody else may read " * 20
TARGET, HOST = "iqn.2026-11.example.secret-company:vault", "iqn.2026-11.example.secret-company:host-7"


@pytest.fixture(scope="module")
def capture(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("anonymise") / "capture.pcapng"

    async def work(port: int) -> None:
        digests = Parameters(header_digest=("CRC32C",), data_digest=("CRC32C",))
        session = await Initiator.login("127.0.0.1", port, TARGET, initiator_iqn=HOST, parameters=digests)
        for lba in range(0, 64, 8):
            await session.write(0, lba, SECRET[:512] * 8)
            assert (await session.read(0, lba, 8))[:8] == SECRET[:8]
        await session.logout()

    with serve("1MiB", iqn=TARGET, capture=path, log_limit=None) as target:
        asyncio.run(work(target.port))
    return path


def captures() -> Path | None:
    where = os.environ.get("SANCREDIT_CAPTURES")
    return Path(where) if where else None


def run(*arguments: object) -> tuple[int, str]:
    done = CliRunner().invoke(anonymise, [str(argument) for argument in arguments])
    return done.exit_code, done.output


def told(path: Path) -> list[tuple[Any, ...]]:
    """What a capture tells but for names."""
    with analyse([path]) as analysis:
        rows = flow_rows(analysis, detail=False)
    names = ("lun", "commands", "reads", "writes", "outstanding_max")
    return sorted((*(row[name] for name in names), str(row["ect_ns"]), str(row["dal_ns"])) for row in rows)


def test_nothing_that_names_anybody_and_no_data_are_left(capture: Path, tmp_path: Path) -> None:
    out = tmp_path / "shown.pcapng"
    assert run(capture, "--out", out)[0] == 0
    before, after = capture.read_bytes(), out.read_bytes()
    for word in (b"secret-company", SECRET[:16], b"host-7", bytes((127, 0, 0, 1))):
        assert word in before
        assert word not in after
    assert b"iqn.2026-11.example.anonymous:node-1" in after


def test_what_it_tells_of_commands_and_times_is_the_same(capture: Path, tmp_path: Path) -> None:
    out = tmp_path / "shown.pcapng"
    run(capture, "--out", out)
    assert told(out) == told(capture)


def test_the_same_party_has_the_same_name_and_another_key_other_tokens(capture: Path, tmp_path: Path) -> None:
    key, other = tmp_path / "a.key", tmp_path / "b.key"
    key.write_text("0123456789abcdef")
    other.write_text("fedcba9876543210")
    outs = [tmp_path / f"{number}.pcapng" for number in range(3)]
    for out, chosen in zip(outs, (key, key, other), strict=True):
        run(capture, "--out", out, "--key", chosen)
    first, again, different = (out.read_bytes() for out in outs)
    assert first == again
    assert first != different


@pytest.mark.slow
@pytest.mark.parametrize(
    "name", ["iscsi-scsi-data-cdrom.pcap", "fcoe-t11.pcap", "fcoe-linux-fabric.pcap", "fcip_trace.cap"]
)
def test_real_captures_tell_the_same_afterwards_and_tshark_reads_them(name: str, tmp_path: Path) -> None:
    folder = captures()
    if folder is None:
        pytest.skip(f"SANCREDIT_CAPTURES does not name the folder with {name}")
    if shutil.which("tshark") is None:
        pytest.skip("no tshark: install the package tshark")
    out = tmp_path / "shown.pcapng"
    code, text = run(folder / name, "--out", out)
    assert code == 0, text
    assert [row[:4] for row in told(out)] == [row[:4] for row in told(folder / name)]
    command = ["tshark", "-r", str(out), "-Y", "fc.crc.status == 0 || tcp.checksum.status == 0"]
    found = subprocess.run(command, capture_output=True, text=True, check=True)
    assert found.stdout == "", "a checksum is wrong"


@pytest.mark.parametrize(
    ("arguments", "code", "why"),
    [(("--key", "/nonexistent"), 2, "cannot read the key"), (("--out", "/nonexistent/x"), 1, "cannot write")],
)
def test_bad_input_gets_one_line(
    capture: Path, tmp_path: Path, arguments: tuple[str, ...], code: int, why: str
) -> None:
    found, text = run(capture, "--out", tmp_path / "x", *arguments)
    assert (found, text.count("\n")) == (code, 1)
    assert why in text


def test_what_is_there_is_not_overwritten_and_a_bad_capture_leaves_nothing(
    capture: Path, tmp_path: Path
) -> None:
    out = tmp_path / "old"
    out.write_text("old")
    assert run(capture, "--out", out)[0] == 1
    assert out.read_text() == "old"
    (tmp_path / "no.pcap").write_bytes(b"no capture, really")
    assert run(tmp_path / "no.pcap", "--out", tmp_path / "new")[0] == 2
    assert not (tmp_path / "new").exists()
