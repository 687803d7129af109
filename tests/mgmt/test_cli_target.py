"""``sancredit target serve``: what it refuses, warns of, and how it ends."""

from __future__ import annotations

import asyncio
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from iscsi_target.errors import ConnectionLost
from iscsi_target.initiator import Initiator
from iscsi_target.session.parameters import Parameters
from mgmt.cli.main import main

IQN = "iqn.2003-10.example:t"


@pytest.mark.parametrize(
    ("text", "says"), [("1000", "take 512 or 1024 bytes"), ("5MB", "take 4999680 or 5000192")]
)
def test_a_size_that_is_no_multiple_of_a_block_is_refused(
    text: str, says: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["target", "serve", "--portal", "127.0.0.1:0", "--lun", text]) == 2
    told = capsys.readouterr()
    assert says in told.err and told.err.count("\n") == 1
    assert told.out == ""


def test_a_file_that_is_no_multiple_of_a_block_is_refused_with_the_command_that_helps(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    disk = tmp_path / "disk"
    disk.write_bytes(bytes(1025))
    assert main(["target", "serve", "--portal", "127.0.0.1:0", "--lun", "64MiB", "--lun", str(disk)]) == 2
    told = capsys.readouterr().err
    assert f"truncate -s 1536 {disk}" in told and told.count("\n") == 1


def test_a_portal_that_is_taken_is_named_once(capsys: pytest.CaptureFixture[str]) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        portal = f"127.0.0.1:{taken.getsockname()[1]}"
        assert main(["target", "serve", "--portal", portal]) == 1
    assert (
        capsys.readouterr().err == f"sancredit: cannot listen on iscsi://{portal}: address already in use\n"
    )


@pytest.mark.parametrize("words", [["serve", "--portal", "127.0.0.1:0"], ["faults", "list"]])
def test_a_control_address_that_looks_like_a_port_is_no_socket_of_that_name(
    words: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["target", *words, "--control", "127.0.0.1:0"]) == 2
    told = capsys.readouterr().err
    assert "--control 127.0.0.1:0: write http://127.0.0.1:0 for a TCP port" in told and told.count("\n") == 1
    assert not Path("127.0.0.1:0").exists()


@pytest.mark.parametrize(("secret", "warned"), [("elevenbytes", True), ("twelve bytes", False)])
def test_a_secret_below_96_bits_gets_a_warning(
    secret: str, warned: bool, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "secret"
    file.write_text(secret + "\n")
    file.chmod(0o600)
    with socket.create_server(("127.0.0.1", 0)) as taken:
        portal = f"127.0.0.1:{taken.getsockname()[1]}"
        assert main(["target", "serve", "--portal", portal, "--chap", f"user:@{file}"]) == 1
    lines = capsys.readouterr().err.splitlines()
    assert [line.startswith("warning: ") and "11 bytes" in line for line in lines] == [True, False][
        not warned :
    ]
    assert secret not in "".join(lines)


@pytest.mark.timeout(60)
def test_a_sanitize_that_would_take_for_ever_does_not_keep_the_target_from_ending() -> None:
    process = subprocess.Popen(
        [
            *(sys.executable, "-m", "mgmt.cli", "target", "serve"),
            *("--portal", "127.0.0.1:0", "--iqn", IQN, "--lun", "null:1000000TiB"),
        ],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )

    async def sanitize(port: int) -> None:
        """Leaves the command running: OVERWRITE of 1 EB, 31 times."""
        initiator = await Initiator.login("127.0.0.1", port, IQN, parameters=Parameters())
        await initiator.execute(0, bytes(6), check=False)
        pattern = bytes((0x1F, 0, 0, 1, 0xA5))
        running = asyncio.ensure_future(
            initiator.execute(0, bytes((0x48, 1, 0, 0, 0, 0, 0, 0, len(pattern), 0)), data_out=pattern)
        )
        # A test that waits for the command to be under way: admission then refuses others.
        while (await initiator.execute(0, bytes(6), check=False)).status == 0:
            await asyncio.sleep(0.01)
        process.terminate()
        with pytest.raises(ConnectionLost):
            await running
        await initiator.abort()

    try:
        assert process.stdout is not None
        port = int(process.stdout.readline().split("/")[2].rpartition(":")[2])
        asyncio.run(asyncio.wait_for(sanitize(port), 20))
        assert process.wait(20) == 0
    finally:
        process.kill()
        process.communicate()
