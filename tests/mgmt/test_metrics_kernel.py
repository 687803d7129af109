"""The kernel's counters under the names that the emulator's have; configfs is the double of lio_configfs, the judge of
what is in it test_lab_lio.py."""

from __future__ import annotations

import signal
import subprocess
import sys
import urllib.request
from contextlib import closing

import pytest
from prometheus_client import CollectorRegistry, generate_latest

from iscsi_target.lio import configfs
from iscsi_target.lio.apply import Driver
from iscsi_target.lio.kernel import Kernel
from mgmt.metrics.kernel import KernelCollector
from tests.iscsi_target.lio_configfs import SimulatedConfigfs
from tests.iscsi_target.test_lio_driver import GROUP, HOST, IQN, described
from tests.mgmt.test_metrics import exposed, samples, session, snapshot, value


@pytest.fixture
def counted(tmp_path, monkeypatch):
    """configfs with a target that has served: one session by an ACL, two without."""
    lio = SimulatedConfigfs(tmp_path, monkeypatch)
    Driver(Kernel(lio.root), tmp_path / "state.json").apply(described(tmp_path))
    group = configfs.path_of(GROUP, lio.root)
    port = group / "lun/lun_1/statistics/scsi_tgt_port"
    acl = group / f"acls/{HOST}"
    for path, text in (
        (port / "in_cmds", "12"),
        (port / "read_mbytes", "3"),
        (port / "write_mbytes", "5"),
        (acl / "info", "LIO Session ID: 7   ISID: 0x1\nAddress 127.0.0.1 TCP\nAddress 127.0.0.2 TCP\n"),
        (acl / "lun_5/statistics/scsi_auth_intr/num_cmds", "9"),
        (group / "dynamic_sessions", f"{HOST}.a\0{HOST}.a\0"),
    ):
        path.chmod(0o644)
        path.write_text(text)
    return lio.root


def found_in(root):
    registry = CollectorRegistry(auto_describe=False)
    registry.register(KernelCollector(root))
    return samples(generate_latest(registry).decode())


def test_luns_targets_and_sessions_have_their_figures(counted):
    found = found_in(counted)
    lun = {"target": IQN, "lun": "1"}
    assert value(found, "iscsi_lun_commands_total", kind="all", **lun) == 12
    assert value(found, "iscsi_lun_bytes_total", direction="read", **lun) == 3 << 20
    assert value(found, "iscsi_lun_commands_total", kind="all", target=IQN, lun="0") == 0
    assert value(found, "iscsi_target_bytes_total", direction="written", target=IQN) == 5 << 20
    assert value(found, "iscsi_target_sessions", target=IQN) == 3
    mine = {"target": IQN, "initiator": HOST, "tsih": "7"}
    assert value(found, "iscsi_session_commands_total", kind="all", **mine) == 9
    assert value(found, "iscsi_session_connections", **mine) == 2
    assert value(found, "iscsi_sessions_not_listed") == 2  # one initiator twice: no series may come twice


def test_names_and_labels_are_the_emulators(counted):
    shape = {(name, tuple(label for label, _ in labels)) for name, labels in exposed(snapshot(session(7)))}
    kernels = {(name, tuple(label for label, _ in labels)) for name, labels in found_in(counted)}
    assert kernels - {(f"{name[: -len('_total')]}_created", labels) for name, labels in kernels} <= shape


def test_a_kernel_without_a_target_has_no_figures(tmp_path):
    assert value(found_in(tmp_path / "none"), "iscsi_sessions_not_listed") == 0


def sancredit(*words):
    return subprocess.Popen(
        [sys.executable, "-m", "mgmt.cli", "lio", "metrics", *words],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def test_the_command_writes_them_once_or_serves_them(counted):
    with sancredit("--configfs", str(counted)) as once:
        out, said = once.communicate(timeout=30)
    assert (once.returncode, said) == (0, "")
    assert value(samples(out), "iscsi_target_sessions", target=IQN) == 3
    with sancredit("--configfs", str(counted), "--listen", "127.0.0.1:0") as serving:
        url = serving.stdout.readline().removeprefix("metrics ").strip()
        with closing(urllib.request.urlopen(url, timeout=10)) as answer:
            served = samples(answer.read().decode())
        serving.send_signal(signal.SIGTERM)
        assert serving.wait(20) == 0
    assert value(served, "iscsi_target_sessions", target=IQN) == 3
    assert served["process_resident_memory_bytes", ()] > 0


@pytest.mark.parametrize(
    ("words", "status", "complaint"),
    [
        ((), 1, "is not there: no LIO runs here; sancredit lio apply starts it"),
        (("--listen", "nowhere"), 2, "--listen"),
        (
            ("--listen", "192.0.2.1:9"),
            1,
            "cannot serve metrics at 192.0.2.1:9: cannot assign requested address",
        ),
    ],
)
def test_what_cannot_be_had_is_one_line(tmp_path, words, status, complaint):
    with sancredit("--configfs", str(tmp_path / "none"), *words) as process:
        out, said = process.communicate(timeout=30)
    assert (process.returncode, out) == (status, "")
    assert complaint in said
    assert said.count("\n") == 1
