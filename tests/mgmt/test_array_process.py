"""``sancredit array serve`` as a process: ready lines, durable reservations, clean ends, and bad input."""

from __future__ import annotations

import os
import random
import resource
import signal
import socket
import stat
import subprocess
from pathlib import Path

import pytest

from credits.errors import Code
from credits.targets import port_pair
from mgmt.http import Peer, PeerRefused
from mgmt.messages import (
    BufferReserveRequest,
    ChannelInfoGetRequest,
    InterfaceInfoGetRequest,
    InterfaceInfoGetResponse,
    VolumeDigestRequest,
)
from tests.mgmt.array_processes import MASTER, PAIR, array, command

pytestmark = pytest.mark.slow

UNIT = 16384
IQN = "iqn.2003-10.example.sancredit:east"


def refused(*arguments: str) -> tuple[int, str]:
    """Exit code and the words of an array that does not come up."""
    run = subprocess.run(
        command("array", "serve", *arguments), capture_output=True, text=True, timeout=110, check=False
    )
    assert run.stdout == ""
    assert len(run.stderr.strip().splitlines()) == 1, run.stderr
    return run.returncode, run.stderr.strip()


def basic(tmp_path: Path, *more: str) -> list[str]:
    return [
        *("--listen", f"unix:{tmp_path / 'c.sock'}", "--port-address", MASTER, "--iscsi-port", "0"),
        *more,
    ]


def test_a_ready_array_says_where_it_listens_and_what_it_is(tmp_path: Path) -> None:
    volume = tmp_path / "a.img"
    with array(tmp_path, "east", MASTER, "--volume", f"vol0={volume}:1MiB", "--units", "64") as east:
        port = east.port["iscsi_port"]
        assert east.ready[0] == f"listening iscsi://{MASTER}:{port}/{IQN}"
        with socket.create_connection((MASTER, port), timeout=30):
            pass
        assert east.table("info") == {
            "name": "east",
            "ports": [
                {
                    "address": MASTER,
                    "interface": "tcp0",
                    "kind": "tcp",
                    "iscsi_port": port,
                    "iqn": IQN,
                    "copy_iqn": f"{IQN}:copy",
                }
            ],
            "volumes": [{"name": "vol0", "lun": 0, "size_bytes": 1 << 20}],
        }
        answer = east.peer.send(InterfaceInfoGetRequest(target=PAIR))
        assert isinstance(answer, InterfaceInfoGetResponse)
        assert answer.available_units == 64
        for table in ("reservations", "allocations", "buffer-ids", "copies"):
            assert east.table(table) == []


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_an_array_ends_cleanly_and_leaves_no_socket(tmp_path: Path, number: signal.Signals) -> None:
    with array(tmp_path, "east", MASTER) as east:
        east.process.send_signal(number)
        assert east.process.wait(60) == 0
    assert [path.name for path in tmp_path.iterdir()] == ["chap"]


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
def test_reservations_survive_however_the_array_ends(tmp_path: Path, number: signal.Signals) -> None:
    state = tmp_path / "state"
    with array(tmp_path, "east", MASTER, "--state", str(state)) as east:
        assert east.reserve(40 * UNIT, request_id="r1") == 40
        (before,) = east.table("reservations")
        east.process.send_signal(number)
        east.process.wait(60)
    assert stat.S_IMODE(state.stat().st_mode) == 0o700
    with array(tmp_path, "east", MASTER, "--state", str(state)) as east:
        (after,) = east.table("reservations")
        assert (after["target"], after["reserved_units"]) == (before["target"], before["reserved_units"])
        assert east.pool["free_units"] == 216
        assert east.reserve(40 * UNIT, request_id="r1") == 40, "a retry after the restart"
        assert east.pool["free_units"] == 216


def test_without_a_state_directory_reservations_end_with_the_process(tmp_path: Path) -> None:
    with array(tmp_path, "east", MASTER) as east:
        east.reserve(UNIT)
    with array(tmp_path, "east", MASTER) as east:
        assert east.table("reservations") == []


def test_a_journal_that_cannot_grow_refuses_the_reservation_and_changes_nothing(tmp_path: Path) -> None:
    with array(tmp_path, "east", MASTER, "--state", str(tmp_path / "state")) as east:
        east.reserve(5 * UNIT)
        largest = max(path.stat().st_size for path in (tmp_path / "state").iterdir())
        _, hard = resource.prlimit(east.process.pid, resource.RLIMIT_FSIZE)
        resource.prlimit(east.process.pid, resource.RLIMIT_FSIZE, (largest, hard))
        with pytest.raises(PeerRefused) as refusal:
            for number in range(200):
                east.reserve(UNIT, port_pair("a", f"b{number}"))
        assert refusal.value.code == Code.STORE
        before = east.pool["free_units"]
        assert len(east.table("reservations")) == 251 - before + 1
        resource.prlimit(east.process.pid, resource.RLIMIT_FSIZE, (hard, hard))
        east.reserve(UNIT, port_pair("a", "c"))
        assert east.pool["free_units"] == before - 1


def test_a_refusal_travels_as_a_problem_with_its_numbers(tmp_path: Path) -> None:
    with array(tmp_path, "east", MASTER, "--units", "100") as east:
        east.reserve(40 * UNIT)
        with pytest.raises(PeerRefused) as refusal:
            east.peer.send(BufferReserveRequest(target=port_pair("a", "b"), requested_bytes=61 * UNIT))
        shortage = refusal.value.shortage
        assert refusal.value.code == Code.NO_MEMORY
        assert shortage is not None
        assert (shortage.asked_units, shortage.free_units, shortage.grantable_units) == (61, 60, 60)
        assert [(holder.name, holder.units) for holder in shortage.holders] == [(str(PAIR), 40)]
        assert east.pool["free_units"] == 60


def test_what_an_array_does_not_answer_is_a_bad_message(tmp_path: Path) -> None:
    with array(tmp_path, "east", MASTER) as east:
        with pytest.raises(PeerRefused, match="ChannelInfoGetRequest") as refusal:
            east.peer.send(ChannelInfoGetRequest(local_port="a", remote_port="b"))
        assert refusal.value.code == Code.BAD_MESSAGE
        with pytest.raises(PeerRefused, match="there are: none"):
            east.peer.send(VolumeDigestRequest(volume="vol0"))
        with pytest.raises(PeerRefused) as missing:
            east.peer.get("/v1/nothing")
        assert missing.value.status == 404


def test_everything_can_come_from_a_file(tmp_path: Path) -> None:
    config = tmp_path / "array.toml"
    config.write_text(
        f"""
        units = 32
        state = "{tmp_path / "state"}"
        [volumes]
        vol0 = "{tmp_path / "a.img"}:1MiB"
        """
    )
    with array(tmp_path, "east", MASTER, "--config", str(config)) as east:
        assert east.pool["total_units"] == 32
        assert east.table("info")["volumes"][0]["size_bytes"] == 1 << 20


def test_an_iscsi_port_in_use_is_one_line_and_exit_code_1(tmp_path: Path) -> None:
    with socket.socket() as taken:
        taken.bind((MASTER, 0))
        taken.listen()
        port = taken.getsockname()[1]
        code, text = refused(*basic(tmp_path, "--iscsi-port", str(port)))
    assert code == 1
    assert f"cannot listen on iscsi://{MASTER}:{port}" in text
    assert "in use" in text
    assert not (tmp_path / "c.sock").exists()


def test_a_control_address_in_use_is_one_line_and_exit_code_1(tmp_path: Path) -> None:
    with array(tmp_path, "east", MASTER) as east:
        code, text = refused(*basic(tmp_path, "--listen", f"unix:{tmp_path / 'east.sock'}"))
        assert code == 1
        assert "address already in use" in text
        assert east.pool["free_units"] == 256, "the array that has it goes on"


def test_an_address_of_another_machine_is_one_line_and_exit_code_1(tmp_path: Path) -> None:
    code, text = refused(*basic(tmp_path, "--port-address", "192.0.2.1"))
    assert code == 1
    assert "iscsi://192.0.2.1:0" in text


def test_a_state_directory_in_use_is_one_line_and_exit_code_1(tmp_path: Path) -> None:
    state = tmp_path / "state"
    with array(tmp_path, "east", MASTER, "--state", str(state)):
        code, text = refused(*basic(tmp_path, "--state", str(state)))
    assert code == 1
    assert str(state) in text


@pytest.mark.parametrize("state", ["/proc/nowhere", "/dev/null", "/dev/null/below"])
def test_a_state_directory_that_cannot_be_written_is_one_line_and_exit_code_1(
    tmp_path: Path, state: str
) -> None:
    code, text = refused(*basic(tmp_path, "--state", state))
    assert code == 1
    assert state in text


@pytest.mark.parametrize(
    ("flags", "text"),
    [
        (["--volume", "vol0={tmp}/missing.img"], "No such file"),
        (["--volume", "vol0={tmp}"], "directory"),
        (["--volume", "vol0"], "NAME=PATH"),
        (["--volume", "a={tmp}/a:1MiB", "--volume", "a={tmp}/b:1MiB"], "two volumes"),
        (["--config", "{tmp}/missing.toml"], "No such file"),
        (["--config", "{tmp}/bad.toml"], "is not TOML"),
        (["--port-address", "somewhere"], "somewhere"),
        (["--unit", "0"], "unit_bytes"),
        (["--units", "many"], "many"),
        (["--listen", "tcp:5"], "is not an address"),
        (["--iqn", "no iqn"], "iSCSI name"),
        (["--config", "{tmp}/token.toml"], "cannot read the token in"),
    ],
)
def test_bad_input_is_one_line_and_exit_code_2(tmp_path: Path, flags: list[str], text: str) -> None:
    (tmp_path / "bad.toml").write_text("units = [")
    (tmp_path / "token.toml").write_text(
        f'cache_size = "1MiB"\nstation = "http://127.0.0.1:1"\nstation_token_file = "{tmp_path}/token"\n'
    )
    code, words = refused(*basic(tmp_path, *(flag.replace("{tmp}", str(tmp_path)) for flag in flags)))
    assert code == 2
    assert text in words
    assert not (tmp_path / "c.sock").exists()
    assert not (tmp_path / "token").exists(), "a token comes from the station: none is made up"


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can become someone who may not read the file")
def test_an_unreadable_volume_is_one_line_and_exit_code_2(tmp_path: Path) -> None:
    secret = tmp_path / "secret.img"
    secret.write_bytes(bytes(512))
    secret.chmod(0)
    script = (
        "import locale, os, sys\n"
        # nobody may not read our libraries
        "import mgmt.array.cli, mgmt.array.configuration, mgmt.array.process, mgmt.cli.failures\n"
        "from mgmt.cli.main import main\n"
        "os.setgroups([]); os.setgid(65534); os.setuid(65534)\n"
        "sys.exit(main(sys.argv[1:]))"
    )
    arguments = ("array", "serve", *basic(tmp_path, "--volume", f"vol0={secret}"))
    run = subprocess.run(
        [*command()[:1], "-c", script, *arguments], capture_output=True, text=True, timeout=110, check=False
    )
    assert run.returncode == 2, run.stderr
    assert "ermission denied" in run.stderr


def test_a_client_that_hangs_up_or_talks_nonsense_does_not_disturb_the_array(tmp_path: Path) -> None:
    with array(tmp_path, "east", MASTER) as east:
        for junk in (b"", b"\0" * 48, random.Random(1).randbytes(200)):
            with socket.create_connection((MASTER, east.port["iscsi_port"]), timeout=30) as stranger:
                stranger.sendall(junk)
        with socket.socket(socket.AF_UNIX) as stranger:
            stranger.connect(str(tmp_path / "east.sock"))
            stranger.sendall(b"POST /messages HTTP/1.1\r\ncontent-length: 5\r\n\r\n")
        with Peer(f"unix:{tmp_path / 'east.sock'}", 60.0) as another:
            assert another.get("/v1/pools")[0]["free_units"] == 256
