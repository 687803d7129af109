"""The control API of a running target and the commands that use it, against a real process."""

from __future__ import annotations

import asyncio
import json
import signal
import stat
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from iscsi_target.errors import CommandFailed, ConnectionLost
from iscsi_target.initiator import Initiator
from mgmt.cli.main import main
from mgmt.http import Peer, PeerRefused
from mgmt.target.table import ConfigurationError
from mgmt.target.token import read_token
from tools.capture.pcapng import read_file

IQN = "iqn.2003-10.example.sancredit:target"


class Process:
    """`sancredit target serve` with the control API."""

    def __init__(self, directory: Path, *flags: str) -> None:
        self.process = subprocess.Popen(
            [
                *(
                    sys.executable,
                    "-m",
                    "mgmt.cli",
                    "target",
                    "serve",
                    "--portal",
                    "127.0.0.1:0",
                    "--lun",
                    "4MiB",
                ),
                *flags,
            ],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            cwd=directory,
        )
        assert self.process.stdout is not None
        lines = [self.process.stdout.readline().split() for _ in range(2 if "--control" in flags else 1)]
        if not lines[0]:
            raise AssertionError(self.stop())
        said = dict(lines)
        self.port = int(said["listening"].split("/")[2].rpartition(":")[2])
        self.control = said.get("control", "")

    def stop(self) -> str:
        """Its exit must be clean; what it wrote to stderr."""
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
        _, err = self.process.communicate(timeout=20)
        return err

    async def login(self) -> Initiator:
        initiator = await Initiator.login("127.0.0.1", self.port, IQN)
        await initiator.test_unit_ready(0)
        return initiator


@pytest.fixture(scope="module")
def process(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Process]:
    directory = tmp_path_factory.mktemp("target")
    running = Process(directory, "--control", str(directory / "t.sock"), "--seed", "5")
    yield running
    assert running.stop() == ""
    assert running.process.returncode == 0
    assert not (directory / "t.sock").exists()


@pytest.fixture
def peer(process: Process) -> Iterator[Peer]:
    with Peer(process.control) as client:
        client.post("/faults/clear", {})
        yield client
        client.post("/faults/clear", {})


def run(coroutine: Any) -> Any:
    return asyncio.run(asyncio.wait_for(coroutine, 30))


def cli(capsys: pytest.CaptureFixture[str], process: Process, *arguments: str, code: int = 0) -> str:
    assert main(["target", *arguments, "--control", process.control]) == code
    told = capsys.readouterr()
    return told.out if code == 0 else told.err


def test_the_socket_is_for_its_owner_only(process: Process) -> None:
    path = Path(process.control.removeprefix("unix:"))
    assert stat.S_IMODE(path.stat().st_mode) == 0o600


def test_rules_are_added_seen_disabled_and_removed_while_a_session_runs(process: Process, peer: Peer) -> None:
    async def use() -> None:
        async with await process.login() as initiator:
            rule = {"name": "full", "action": "queue-full", "command": "read"}
            assert await asyncio.to_thread(peer.post, "/faults", {"rules": [rule]}) == {"added": ["full"]}
            with pytest.raises(CommandFailed) as failed:
                await initiator.read(0, 0, 1)
            assert failed.value.status == 0x28
            (row,) = (await asyncio.to_thread(peer.get, "/faults"))["items"]
            assert (row["name"], row["enabled"], row["matched"], row["fired"]) == ("full", True, 1, 1)
            assert row["rule"] == rule
            await asyncio.to_thread(peer.post, "/faults/enable", {"name": "full", "enabled": False})
            await initiator.read(0, 0, 1)
            await asyncio.to_thread(peer.post, "/faults/enable", {"name": "full"})
            with pytest.raises(CommandFailed):
                await initiator.read(0, 0, 1)
            gone = await asyncio.to_thread(peer.post, "/faults/remove", {"name": "full"})
            assert gone["fired"] == 2
            await initiator.read(0, 0, 1)

    run(use())


@pytest.mark.parametrize(
    ("path", "body", "status", "code"),
    [
        ("/faults", {"rules": [{"name": "x", "action": "explode"}]}, 400, "BAD_MESSAGE"),
        ("/faults", {"rules": [{"name": "x", "action": "drop"}, 3]}, 400, "BAD_MESSAGE"),
        ("/faults", {"rules": {}}, 400, "BAD_MESSAGE"),
        ("/faults", {"hook": "evil.py"}, 400, "BAD_MESSAGE"),
        ("/faults", {"rules": [{"name": "x", "action": "drop", "hook": "evil.py"}]}, 400, "BAD_MESSAGE"),
        ("/faults", [], 400, "BAD_MESSAGE"),
        ("/faults/remove", {"name": "nobody"}, 404, "NOT_FOUND"),
        ("/faults/enable", {"name": "nobody", "enabled": 1}, 400, "BAD_MESSAGE"),
        ("/sessions/end", {"session": 999}, 404, "NOT_FOUND"),
        ("/sessions/end", {"session": True}, 400, "BAD_MESSAGE"),
        ("/sessions/logout", {"session": 1, "time_s": 1 << 20}, 400, "BAD_MESSAGE"),
        ("/sessions/async", {"session": 999, "event": "scsi-event"}, 404, "NOT_FOUND"),
        ("/sessions/async", {"session": 1, "event": "nonsense"}, 400, "BAD_MESSAGE"),
        ("/captures/start", {"path": "/proc/nowhere.pcapng"}, 409, "NOT_DONE"),
        ("/captures/start", {"path": "x", "snap_bytes": "much"}, 409, "NOT_DONE"),
        ("/captures/start", {"path": "x", "overwrite": True}, 409, "NOT_DONE"),
        ("/captures/stop", {"path": "/tmp/never"}, 409, "NOT_DONE"),
    ],
)
def test_what_cannot_be_is_refused_and_changes_nothing(
    peer: Peer, path: str, body: Any, status: int, code: str
) -> None:
    with pytest.raises(PeerRefused) as refused:
        peer.post(path, body)
    assert (refused.value.status, refused.value.code) == (status, code)
    assert peer.get("/faults")["items"] == []
    assert peer.get("/captures")["items"] == []


def test_a_body_beyond_64_kib_is_refused(peer: Peer) -> None:
    with pytest.raises(PeerRefused, match="at most 65536 bytes"):
        peer.post("/faults", {"rules": [{"name": "x" * 70_000, "action": "drop"}]})


def test_a_query_that_selects_nothing_sensible_is_refused(peer: Peer) -> None:
    for query in ("count=many", "opcod=r2t", "opcode=r3t", "direction=up"):
        with pytest.raises(PeerRefused) as refused:
            peer.get(f"/log?{query}")
        assert refused.value.status == 400


def test_sessions_are_listed_told_and_ended(process: Process, peer: Peer) -> None:
    async def use() -> None:
        initiator = await process.login()
        (row,) = (await asyncio.to_thread(peer.get, "/sessions"))["items"]
        assert (row["session"], row["target"], row["commands"]) == (initiator.tsih, IQN, 2)
        assert row["connections"][0]["portal"] == f"127.0.0.1:{process.port}"
        message = {"session": initiator.tsih, "event": "scsi-event", "asc": 42, "ascq": 9, "lun": 0}
        await asyncio.to_thread(peer.post, "/sessions/async", message)
        await initiator.nop(b"to hear it")
        assert [received.pdu.async_event for received in initiator.async_messages] == [0]
        await asyncio.to_thread(peer.post, "/sessions/end", {"session": initiator.tsih})
        with pytest.raises((ConnectionLost, TimeoutError)):
            await asyncio.wait_for(initiator.test_unit_ready(0), 5)
        await initiator.abort()
        asked = await process.login()
        await asyncio.to_thread(peer.post, "/sessions/logout", {"session": asked.tsih, "time_s": 3})
        while (await asyncio.to_thread(peer.get, "/sessions"))["items"]:  # it does as it is asked
            await asyncio.sleep(0.01)
        await asked.logout()

    run(use())
    log = peer.get("/log?count=1&opcode=logout-request")["items"]
    assert len(log) == 1


def test_the_log_and_a_capture_show_what_happened(process: Process, peer: Peer, tmp_path: Path) -> None:
    path = tmp_path / "asked.pcapng"
    peer.post("/captures/start", {"path": str(path), "snap_bytes": 200})
    with pytest.raises(PeerRefused, match="is being written already"):
        peer.post("/captures/start", {"path": str(path)})

    async def use() -> None:
        async with await process.login() as initiator:
            await initiator.read(0, 0, 8)

    run(use())
    assert peer.get("/captures")["items"][0]["packets"] > 6
    assert peer.post("/captures/stop", {"path": str(path)})["error"] is None
    assert max(len(packet.data) for packet in read_file(path)) == 200
    with pytest.raises(PeerRefused, match="file exists"):
        peer.post("/captures/start", {"path": str(path)})
    (answer,) = peer.get("/log?count=1&opcode=data-in&command=read")["items"]
    assert (answer["data_bytes"], answer["status"], answer["lun"]) == (4096, 0, 0)
    assert len(peer.get("/log?count=3")["items"]) == 3
    statistics = peer.get("/statistics")
    assert statistics["logged_pdus"] > 0
    assert statistics["targets"][0]["traffic"]["read_commands"] >= 1


def test_commands_do_the_same_for_people(
    process: Process, peer: Peer, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "rules.toml"
    file.write_text('[[rule]]\nname = "one"\naction = "busy"\ncommand = "read"\nlun = 3\n')
    inline = '{name = "two", action = "latency", delay = {normal = ["2ms", "1ms"]}}'
    assert cli(capsys, process, "faults", "add", str(file), "--rule", inline) == "added one, two\n"
    table = cli(capsys, process, "faults", "list")
    assert [line.split()[0] for line in table.splitlines()] == ["NAME", "one", "two"]
    assert "lun=3 command=read" in table
    assert "delay={normal=[2ms,1ms]}" in table
    rows = json.loads(cli(capsys, process, "faults", "list", "-o", "json"))
    assert rows[1]["rule"]["delay"] == {"normal": ["2ms", "1ms"]}
    assert "there is a rule 'one' already" in cli(capsys, process, "faults", "add", str(file), code=2)
    assert cli(capsys, process, "faults", "add", str(file), "--replace") == "added one\n"
    assert cli(capsys, process, "faults", "disable", "one", "two") == (
        "one: matched 0, fired 0\ntwo: matched 0, fired 0\n"
    )
    assert cli(capsys, process, "faults", "enable", "one") == "one: matched 0, fired 0\n"
    assert "there is no rule 'nobody'; there are: one, two" in cli(
        capsys, process, "faults", "remove", "nobody", code=1
    )
    assert cli(capsys, process, "faults", "remove", "one") == "one: matched 0, fired 0\n"
    assert cli(capsys, process, "faults", "clear") == "removed 1\n"
    assert cli(capsys, process, "sessions", "list", "--no-headers") == "\n"
    assert "there is no session 77" in cli(capsys, process, "sessions", "end", "77", code=1)
    for line in cli(capsys, process, "log", "--count", "2").splitlines():
        assert json.loads(line)["connection"] >= 1
    path = tmp_path / "c.pcapng"
    cli(capsys, process, "capture", "start", str(path), "--rotate", "1MiB", "--files", "2")
    assert "c.pcapng" in cli(capsys, process, "capture", "list")
    assert cli(capsys, process, "capture", "stop", str(path)) == f"{path}: 0 packets\n"


@pytest.mark.parametrize(
    ("arguments", "code", "says"),
    [
        (["faults", "add"], 2, "name a file of rules, or give --rule"),
        (["faults", "add", "--rule", "name = 3"], 2, "--rule is an inline table of TOML"),
        (["faults", "add", "nothing.toml"], 2, "cannot read nothing.toml"),
        (["sessions", "async", "1", "--event", "nonsense"], 2, "there is no 'nonsense'"),
        (["log", "--opcode", "r3t"], 2, "there is no PDU 'r3t'"),
    ],
)
def test_wrong_usage_is_one_line_and_exit_code_2(
    process: Process, arguments: list[str], code: int, says: str, capsys: pytest.CaptureFixture[str]
) -> None:
    told = cli(capsys, process, *arguments, code=code)
    assert says in told
    assert told.count("\n") == 1


def test_the_log_can_be_followed(process: Process) -> None:
    following = subprocess.Popen(
        [
            *(sys.executable, "-m", "mgmt.cli", "target", "log", "--follow", "--count", "1"),
            *("--opcode", "logout-response", "--control", process.control),
        ],
        stdout=subprocess.PIPE,
        text=True,
    )

    async def use() -> None:
        await (await process.login()).logout()

    try:
        assert following.stdout is not None
        numbers = []
        for _ in range(3):
            run(use())
            numbers.append(json.loads(following.stdout.readline())["number"])
        assert numbers == sorted(set(numbers))
        following.send_signal(signal.SIGINT)
        assert following.wait(20) == 0
    finally:
        following.kill()
        following.communicate()


def test_nobody_at_the_address_is_exit_code_3(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["target", "faults", "list", "--control", str(tmp_path / "none.sock")]) == 3
    assert "the target at unix:" in capsys.readouterr().err


def test_on_loopback_every_request_shows_the_token(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    token = tmp_path / "token"
    running = Process(tmp_path, "--control", "http://127.0.0.1:0", "--token", str(token))
    try:
        assert stat.S_IMODE(token.stat().st_mode) == 0o600
        shown = token.read_text().strip()
        assert len(shown) >= 40
        for headers in ({}, {"Authorization": "Bearer wrong"}, {"Authorization": f"Basic {shown}"}):
            answer = httpx.get(f"{running.control}/faults", headers=headers)
            assert (answer.status_code, answer.json()["code"]) == (401, "NOT_AUTHENTICATED")
        good = httpx.get(f"{running.control}/faults", headers={"Authorization": f"Bearer {shown}"})
        assert good.json() == {"items": []}
        assert main(["target", "faults", "list", "--control", running.control]) == 1
        assert "show the target's token" in capsys.readouterr().err
        assert main(["target", "faults", "list", "--control", running.control, "--token", str(token)]) == 0
    finally:
        assert running.stop() == ""


def test_a_token_that_others_can_read_is_refused(tmp_path: Path) -> None:
    token = tmp_path / "token"
    token.write_text("0123456789abcdef0123\n")
    token.chmod(0o644)
    with pytest.raises(ConfigurationError, match="others can read the token"):
        read_token(token)
    token.chmod(0o600)
    assert read_token(token, create=True) == "0123456789abcdef0123"
    token.write_text("short\n")
    with pytest.raises(ConfigurationError, match="16 to 512 ASCII characters"):
        read_token(token)
    with pytest.raises(ConfigurationError, match="no such file"):
        read_token(tmp_path / "none")


@pytest.mark.parametrize(
    ("flags", "code", "says"),
    [
        (["--control", "http://127.0.0.1:0"], 2, "add --token FILE"),
        (["--control", "http://192.0.2.1:1", "--token", "t"], 1, "plain HTTP is for loopback addresses"),
        (["--faults", "nothing.toml"], 2, "cannot read nothing.toml: no such file or directory"),
        (["--hook", "nothing.py"], 2, "nothing.py is no Python file"),
        (["--capture", "/nowhere/x.pcapng"], 1, "cannot write /nowhere/x.pcapng"),
        (["--config", "nothing.toml"], 2, "cannot read nothing.toml"),
        (["--metrics", "x"], 2, "--metrics is HOST:PORT"),
    ],
)
def test_a_target_that_cannot_be_started_says_why_in_one_line(
    flags: list[str], code: int, says: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(["target", "serve", "--portal", "127.0.0.1:0", "--lun", "1MiB", *flags]) == code
    told = capsys.readouterr()
    assert says in told.err
    assert told.err.count("\n") == 1
    assert told.out == ""


def test_flags_bring_faults_a_hook_a_seed_and_a_capture(tmp_path: Path) -> None:
    (tmp_path / "faults.toml").write_text(
        '[[rule]]\nname = "b"\naction = "busy"\ncommand = "read"\nnth = 1\n'
    )
    (tmp_path / "hook.py").write_text(
        "from iscsi_target.faults import queue_full\n"
        "def hook(pdu, context):\n"
        "    return queue_full() if pdu.opcode == 1 and context.cdb[0] == 0x8A else None\n"
    )
    flags = ("--faults", "faults.toml", "--hook", "hook.py", "--seed", "3", "--capture", "c.pcapng")
    running = Process(tmp_path, *flags)

    async def use() -> None:
        async with await running.login() as initiator:
            for action, status in (
                (initiator.read(0, 0, 1), 0x08),
                (initiator.write(0, 0, bytes(512)), 0x28),
            ):
                with pytest.raises(CommandFailed) as failed:
                    await action
                assert failed.value.status == status

    try:
        run(use())
    finally:
        assert running.stop() == ""
    said = [packet.comment for packet in read_file(tmp_path / "c.pcapng") if packet.comment]
    assert said == ["rule hook.py: for the logical unit"]


def test_the_example_configuration_is_served(tmp_path: Path) -> None:
    examples = Path(__file__).resolve().parents[2] / "examples"
    running = subprocess.Popen(
        [
            *(sys.executable, "-m", "mgmt.cli", "target", "serve", "--portal", "127.0.0.1:0"),
            *("--config", str(examples / "target.toml"), "--control", str(tmp_path / "t.sock")),
        ],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        assert running.stdout is not None
        lines = [running.stdout.readline().strip() for _ in range(5)]
        assert [line.partition("iqn.")[2] for line in lines[:4]] == [
            *(f"2003-10.example:disks/{lun}" for lun in (0, 1, 7)),
            "2003-10.example:open/0",
        ]
        with Peer(f"unix:{tmp_path}/t.sock") as peer:
            assert len(peer.get("/faults")["items"]) == 5
    finally:
        running.terminate()
        out, err = running.communicate(timeout=20)
    assert (running.returncode, out, err) == (0, "", "")
