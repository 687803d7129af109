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
from dataclasses import asdict

import pytest

from tests import lab_guest
from tools.lab import accelerator, guest_agent, image, keeper, packages, session
from tools.lab.agent import Agent
from tools.lab.cpio import newc
from tools.lab.errors import LabFailed, LabUnavailable
from tools.lab.image import Image
from tools.lab.machine import Machine, check_name, running, up


def command(*words, **environment):
    done = subprocess.run(
        [sys.executable, "-m", "mgmt.cli", "lab", *words],
        env=os.environ | environment,
        capture_output=True,
        text=True,
        timeout=110,
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


def test_a_mirror_that_never_answers_is_given_up_in_time(tmp_path, monkeypatch):
    for name, script in (
        ("apt-get", "exec sleep 600"),
        ("apt-cache", "echo ' Depends: linux-image-6.1.0-1-amd64'"),
        ("dpkg-deb", "exit 1"),
    ):
        (tmp_path / name).write_text(f"#!/bin/sh\n{script}\n")
        (tmp_path / name).chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    monkeypatch.setattr(packages, "_DOWNLOAD_S", 0.1)
    with pytest.raises(LabUnavailable, match=r"cannot be had: they have not come within 0\.1 s; look at"):
        packages.Packages(tmp_path / "cache").download(["python3"], (), "linux-image-amd64")


def test_a_machine_of_another_kind_says_so(tmp_path, monkeypatch):
    monkeypatch.setattr(image.platform, "machine", lambda: "aarch64")
    with pytest.raises(LabUnavailable, match="is built on an x86-64 machine, and this is aarch64; copy"):
        image.build(lambda text: None, cache=tmp_path)
    assert [path.name for path in (tmp_path / "images").iterdir()] == []


# -- the session: one guest for all, one caller at a time -----------------------------------------------------------

_HOLDER = """
import os, sys
from tools.lab import session
session.machines.running = lambda name: "a guest"  # no machine is booted here; what is looked at is the turn
os.environ[session.VARIABLE] = sys.argv[1]
with session.guest() as machine:
    print(machine, flush=True)
    sys.stdin.read()
"""


def test_a_session_that_is_killed_leaves_nothing_and_holds_nobody_up(tmp_path):
    cache, temporary = tmp_path / "cache", tmp_path / "tmp"
    temporary.mkdir()
    environment = os.environ | {"SANCREDIT_CACHE": str(cache), "TMPDIR": str(temporary)}

    def holder():
        return subprocess.Popen(
            [sys.executable, "-c", _HOLDER, f"pytest-{os.getpid()}-0000"],
            env=environment,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    with holder() as first, holder() as second:
        ready, _, _ = select.select([first.stdout, second.stdout], [], [], 60)
        (has,) = ready  # the turn is one process's
        (waits,) = {first.stdout, second.stdout} - {has}
        assert has.readline() == "a guest\n"
        assert select.select([waits], [], [], 0.5)[0] == []
        killed, other = (first, second) if has is first.stdout else (second, first)
        killed.kill()
        assert waits.readline() == "a guest\n"
        other.stdin.close()
        assert other.wait(60) == 0
    assert list(temporary.iterdir()) == []
    assert [path.name for path in cache.rglob("*") if path.is_file()] == [
        "sessions.lock"
    ]  # for all, for good


def test_what_a_guest_leaves_that_ended_by_itself_goes_with_the_session(tmp_path, monkeypatch):
    monkeypatch.setenv("SANCREDIT_CACHE", str(tmp_path))
    monkeypatch.setenv(session.VARIABLE, "pytest-1-0000")
    with subprocess.Popen(["true"]) as ended_process:
        pass
    (tmp_path / "guest").mkdir()
    (tmp_path / "lab/machines").mkdir(parents=True)
    left = Machine("pytest-1-0000", ended_process.pid, str(tmp_path / "guest"), "tcg", 1.0, start_ticks=1)
    (tmp_path / "lab/machines/pytest-1-0000.json").write_text(json.dumps(asdict(left)))
    assert running("pytest-1-0000") is None
    session.end()
    assert [str(path.relative_to(tmp_path)) for path in tmp_path.rglob("*")] == ["lab", "lab/machines"]


def test_what_one_test_has_waited_for_in_vain_the_next_one_need_not(tmp_path, monkeypatch):
    asked = []

    def up(name, settings):
        asked.append(name)
        raise LabUnavailable("the mirror is silent", "wait")

    monkeypatch.setenv("SANCREDIT_CACHE", str(tmp_path))
    monkeypatch.setenv("SANCREDIT_LAB_REFUSED", "")  # so that it is put back
    monkeypatch.delenv("SANCREDIT_LAB_REFUSED")
    monkeypatch.setenv(session.VARIABLE, "pytest-1-0000")
    monkeypatch.setattr(session.machines, "up", up)
    for _ in range(2):
        with pytest.raises(LabUnavailable, match="the mirror is silent; wait"), session.guest():
            pass
    assert asked == ["pytest-1-0000"]
    session.end()
    assert "SANCREDIT_LAB_REFUSED" not in os.environ


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
        guest = int(begun[0].stdout.readline())
        try:
            return begun[0], os.pidfd_open(guest), owner
        except ProcessLookupError:  # its time is over already
            return begun[0], None, owner

    yield start
    for process in (owner, *begun):
        process.kill()
        process.wait()
    begun[0].stdout.close()


def ended(pidfd):
    """Whether the process behind it ends within a minute; None: it has."""
    if pidfd is None:
        return True
    try:
        return bool(select.select([pidfd], [], [], 60)[0])
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
    assert process.wait(60) == 124
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
    thread.join(60)


def test_a_command_ends_with_its_status_and_its_words(agent):
    outcome = agent.run("echo out; echo err >&2; exit 7")
    assert (outcome.status, outcome.output) == (7, "out\nerr\n")
    with pytest.raises(LabFailed, match="the command ended with 7: out"):
        outcome.check()


def test_a_command_that_runs_too_long_is_killed_with_all_its_children(agent):
    outcome = agent.run("sleep 100 & sleep 100; true", timeout_s=0.2)
    assert outcome.status == guest_agent.KILLED


def test_a_running_command_can_be_asked_about_and_signalled(agent, tmp_path):
    os.mkfifo(tmp_path / "begun")
    job = agent.spawn(
        f"trap 'echo ended; exit 3' TERM; echo begun; : > {tmp_path}/begun; while :; do sleep 0.01; done"
    )
    (tmp_path / "begun").read_bytes()  # until its trap is set
    assert job.poll(0.1) is None
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


def test_callers_wait_for_one_another_where_the_queue_is_short(tmp_path):
    path = tmp_path / "agent"
    with socket.create_server(str(path), family=socket.AF_UNIX, backlog=0) as listener:
        listener.settimeout(60)
        answers = []
        callers = [
            threading.Thread(target=lambda: answers.append(Agent(path).call({"wait": 1}))) for _ in range(6)
        ]
        for caller in callers:
            caller.start()
        for _ in callers:  # one client at a time, as qemu has them
            link, _address = listener.accept()
            with link, link.makefile("rw") as lines:
                request = json.loads(next(line for line in lines if line.strip()))
                lines.write(json.dumps({"id": request["id"], "rc": None}) + "\n")
        for caller in callers:
            caller.join(60)
    assert [answer["rc"] for answer in answers] == [None] * 6


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
        listening = lab.agent.spawn("echo hello from inside | nc -l -p 7777")
        lab.run("until netstat -lnt | grep -q 7777; do usleep 20000; done")
        with socket.create_connection(("127.0.0.1", port), timeout=60) as link, link.makefile() as lines:
            assert lines.readline() == "hello from inside\n"
        assert listening.wait().status == 0
