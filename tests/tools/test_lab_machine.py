"""The lab itself: what it says where it cannot be had, the archive that the kernel unpacks, the agent's two ends, and
a guest that is booted."""

from __future__ import annotations

import base64
import json
import os
import select
import shutil
import signal
import socket
import subprocess
import sys
import threading

import pytest

from tests import lab_guest
from tools.lab import accelerator, guest_agent, image, keeper, packages
from tools.lab.agent import Agent
from tools.lab.cpio import newc
from tools.lab.errors import LabFailed, LabUnavailable
from tools.lab.image import Image
from tools.lab.machine import check_name, running, up


def command(*words, **environment):
    done = subprocess.run(
        [sys.executable, "-m", "mgmt.cli", "lab", *words],
        env=os.environ | environment,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    return done.returncode, done.stdout, done.stderr


@pytest.fixture
def nothing(tmp_path, monkeypatch):
    """A machine without programs and with an empty cache."""
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setenv("SANCREDIT_CACHE", str(tmp_path / "cache"))
    return tmp_path


def test_without_qemu_it_says_so_and_what_to_do(nothing):
    with pytest.raises(LabUnavailable, match="no qemu-system-x86_64 here; apt-get install") as error:
        up("x")
    assert "\n" not in str(error.value)
    assert command("up") == (1, "", f"sancredit: {error.value}\n")


def test_without_apt_it_says_so_and_what_to_do(nothing):
    with pytest.raises(
        LabUnavailable, match="the lab is built from Debian's packages, and there is no apt-get here"
    ):
        packages.Packages(nothing)


def test_a_mirror_that_cannot_be_reached_is_one_line(tmp_path, monkeypatch):
    program = tmp_path / "apt-get"
    program.write_text("#!/bin/sh\necho 'E: Could not resolve the mirror' >&2\nexit 100\n")
    program.chmod(0o755)
    shutil.copy(program, tmp_path / "apt-cache")
    shutil.copy(program, tmp_path / "dpkg-deb")
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    with pytest.raises(
        LabUnavailable, match="packages cannot be had: Could not resolve the mirror; look at the mirror"
    ):
        packages.Packages(tmp_path / "cache").download(["python3"], (), "linux-image-amd64")


def test_a_guest_that_is_not_there_is_exit_code_3(tmp_path):
    status, _, said = command("run", "--name", "nobody", "--", "true", SANCREDIT_CACHE=str(tmp_path))
    assert status == 3
    assert (
        said
        == "sancredit: no guest called nobody runs here; start it with `sancredit lab up --name nobody`\n"
    )
    assert command("down", SANCREDIT_CACHE=str(tmp_path))[0] == 3


@pytest.mark.parametrize("name", ["", "../x", "a b", "x" * 42, "-x"])
def test_a_name_that_is_none_is_wrong_usage(name, tmp_path):
    with pytest.raises(ValueError, match="a guest's name is letters"):
        check_name(name)
    assert command("up", "--name", name, SANCREDIT_CACHE=str(tmp_path))[0] == 2


def test_kvm_is_not_taken_at_its_word(tmp_path, monkeypatch):
    monkeypatch.setenv("SANCREDIT_CACHE", str(tmp_path))
    monkeypatch.delenv("SANCREDIT_LAB_ACCELERATOR", raising=False)
    (tmp_path / "lab").mkdir()
    device = tmp_path / "kvm"
    device.touch()
    monkeypatch.setattr(accelerator, "_DEVICE", device)
    booted = []
    monkeypatch.setattr(accelerator, "_answers", lambda qemu, image: booted.append(qemu))
    for _ in range(2):
        assert accelerator.choose("qemu", Image(tmp_path)) == "tcg"
    assert booted == ["qemu"]  # asked once in each boot of this machine
    monkeypatch.setattr(accelerator, "_DEVICE", tmp_path / "none")
    (tmp_path / "lab/accelerator.json").unlink()
    assert accelerator.choose("qemu", Image(tmp_path)) == "tcg"
    assert booted == ["qemu"]


def test_the_recipe_changes_with_what_goes_into_the_image(monkeypatch):
    before = image.recipe()
    monkeypatch.setattr(image.guest, "PACKAGES", (*image.guest.PACKAGES, "hello"))
    assert image.recipe() != before


@pytest.mark.skipif(
    not (shutil.which("cpio") or shutil.which("busybox")), reason="needs cpio: apt-get install cpio"
)
def test_the_archive_is_what_cpio_unpacks(tmp_path):
    top, out = tmp_path / "top", tmp_path / "out"
    (top / "a/b").mkdir(parents=True)
    out.mkdir()
    (top / "a/b/file").write_bytes(b"odd")
    (top / "a/b/file").chmod(0o755)
    (top / "empty").touch()
    words = ["cpio"] if shutil.which("cpio") else ["busybox", "cpio"]
    subprocess.run([*words, "-id"], input=newc(top), cwd=out, check=True, capture_output=True)
    assert (out / "a/b/file").read_bytes() == b"odd"
    assert (out / "a/b/file").stat().st_mode & 0o777 == 0o755
    assert (out / "empty").read_bytes() == b""


# -- the keeper: nobody's guest stays ---------------------------------------------------------------------------------


@pytest.fixture
def kept(tmp_path):
    """A keeper of something that would run for ever: ``kept(seconds)``; its process, the guest's pidfd, the owner."""
    owner = subprocess.Popen(["sleep", "600"])
    (tmp_path / "guest").mkdir()
    (tmp_path / "record").touch()
    begun = []

    def start(seconds):
        words = [str(owner.pid), str(seconds), str(tmp_path / "guest"), str(tmp_path / "record")]
        script = "echo $$; trap '' HUP; exec sleep 600"
        command = [sys.executable, "-I", "-S", keeper.__file__, *words, "--", "sh", "-c", script]
        begun.append(subprocess.Popen(command, stdout=subprocess.PIPE, text=True))
        return begun[0], os.pidfd_open(int(begun[0].stdout.readline())), owner

    yield start
    for process in (owner, *begun):
        process.kill()
        process.wait()
    begun[0].stdout.close()


def ended(pidfd):
    """Whether the process behind it ends within 20 s."""
    try:
        return bool(select.select([pidfd], [], [], 20)[0])
    finally:
        os.close(pidfd)


@pytest.mark.parametrize("how", ["its owner is killed", "its time is over", "it is asked to end"])
def test_a_guest_does_not_outlive_its_session_and_leaves_nothing(kept, tmp_path, how):
    process, guest, owner = kept(0.2 if how == "its time is over" else 600)
    if how == "its owner is killed":
        owner.kill()
    elif how == "it is asked to end":
        process.terminate()
    assert ended(guest)
    assert process.wait(20) == 124
    assert not (tmp_path / "guest").exists()
    assert not (tmp_path / "record").exists()


def test_a_guest_dies_with_its_keeper(kept):
    process, guest, _owner = kept(600)
    process.kill()
    assert ended(guest)


# -- the agent: its two ends, without a guest between them ----------------------------------------------------------


@pytest.fixture
def agent(tmp_path):
    """The guest's half in a thread, behind a Unix socket as qemu's is; the host's half."""
    path = tmp_path / "agent"
    listener = socket.create_server(str(path), family=socket.AF_UNIX)
    jobs = guest_agent.Jobs()

    def serve():
        while True:
            try:
                link, _ = listener.accept()
            except OSError:
                return
            with link, link.makefile("rw") as lines:
                for line in lines:
                    if not line.strip():
                        continue
                    request = json.loads(line)
                    try:
                        found = guest_agent.answer(jobs, request)
                    except Exception as error:  # noqa: BLE001 - as main() of the agent does
                        found = {"error": str(error)}
                    lines.write("junk\n" + json.dumps({"id": "another's"}) + "\n")
                    lines.write(json.dumps(found | {"id": request["id"]}) + "\n")
                    lines.flush()

    thread = threading.Thread(target=serve)
    thread.start()
    yield Agent(path)
    listener.shutdown(socket.SHUT_RDWR)
    listener.close()
    thread.join(10)


def test_a_command_ends_with_its_status_and_its_words(agent):
    outcome = agent.run("echo out; echo err >&2; exit 7")
    assert (outcome.status, outcome.output) == (7, "out\nerr\n")
    with pytest.raises(LabFailed, match="the command ended with 7: out"):
        outcome.check()


def test_a_command_that_runs_too_long_is_killed_with_all_its_children(agent):
    outcome = agent.run("sleep 100 & sleep 100; true", timeout_s=0.2)
    assert outcome.status == guest_agent.KILLED


def test_a_running_command_can_be_asked_about_and_signalled(agent):
    job = agent.spawn("trap 'echo ended; exit 3' TERM; echo begun; while :; do sleep 0.01; done")
    assert job.poll(0.2) is None
    job.signal(signal.SIGTERM)
    outcome = job.wait()
    assert outcome.status == 3
    assert outcome.output.splitlines()[0] == "begun"
    assert outcome.output.splitlines()[-1] == "ended"


def test_files_of_any_size_go_both_ways(agent, tmp_path):
    data = os.urandom((2 << 20) + 17)
    agent.put(data, str(tmp_path / "there"), 0o640)
    assert (tmp_path / "there").stat().st_mode & 0o777 == 0o640
    agent.get_file(str(tmp_path / "there"), tmp_path / "back")
    assert (tmp_path / "back").read_bytes() == data
    agent.put(b"", str(tmp_path / "empty"))
    assert agent.get(str(tmp_path / "empty")) == b""
    with pytest.raises(LabFailed, match="No such file"):
        agent.get(str(tmp_path / "none"))


def test_an_agent_that_is_not_there_or_silent_is_one_line(tmp_path):
    with pytest.raises(LabFailed, match="the guest cannot be reached: no such file"):
        Agent(tmp_path / "none").call({"wait": 1})
    with (
        socket.create_server(str(tmp_path / "silent"), family=socket.AF_UNIX),
        pytest.raises(LabFailed, match=r"the guest has not answered in 0\.1 s"),
    ):
        Agent(tmp_path / "silent").call({"wait": 1}, 0.1)


def test_the_answer_is_bound_to_the_request(agent):
    assert base64.b64decode(agent.call({"get": "/proc/self/comm", "offset": 0, "size": 3})["data"])


class TestInTheLab:
    """With a guest."""

    pytestmark = lab_guest.MARKS

    def test_a_guest_runs_commands_and_is_found_by_its_name(self, lab):
        assert lab.alive()
        assert running(lab.name) == lab
        status, out, _ = command("run", "--name", lab.name, "--", "uname", "-s;", "exit", "5")
        assert (status, out) == (5, "Linux\n")
        modules = (
            "iscsi_target_mod tcm_fc fcoe iscsi_tcp dm_multipath sch_netem scsi_dh_alua target_core_pscsi"
        )
        lab.run(f"for m in {modules}; do modprobe -n $m || exit 1; done")

    def test_a_second_guest_of_the_name_is_refused_and_a_port_leads_inside(self, lab):
        with pytest.raises(LabFailed, match="runs already"):
            up(lab.name)
        port = lab.forward(7777)
        listening = lab.agent.spawn("echo hello from inside | nc -l -p 7777", timeout_s=30)
        lab.run("for i in $(seq 100); do netstat -lnt | grep -q 7777 && exit 0; usleep 20000; done; exit 1")
        with socket.create_connection(("127.0.0.1", port), timeout=20) as link, link.makefile() as lines:
            assert lines.readline() == "hello from inside\n"
        assert listening.wait().status == 0
