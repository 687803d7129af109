"""One target description, two places: what the emulator's file means for the kernel's target, and the commands."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from iscsi_target.lio import saveconfig
from iscsi_target.lio.configfs import read
from iscsi_target.lio.errors import InvalidDescription
from iscsi_target.lio.model import Plugin
from iscsi_target.scsi.logical_unit import derive_identity
from mgmt.target.configuration import load
from mgmt.target.kernel import describe
from mgmt.target.table import ConfigurationError

EXAMPLE = Path(__file__).resolve().parents[2] / "examples/target-lio.toml"
IQN = "iqn.2003-10.example.test:disks"


def secret(path):
    return path.read_bytes().strip()


def written(tmp_path, text, head='portals = ["127.0.0.1:3260"]\n'):
    path = tmp_path / "target.toml"
    path.write_text(f'{head}\n[[target]]\niqn = "{IQN}"\n{text}')
    return path


def test_the_example_describes_a_target_for_both(tmp_path):
    emulated = load(EXAMPLE, lambda path: b"a secret of the example")
    kernels = describe(EXAMPLE, lambda path: b"a secret of the example")
    assert [target.wwn for target in kernels.targets] == [target.iqn for target in emulated.targets]
    group = kernels.targets[0].groups[0]
    assert [lun.number for lun in group.luns] == [lun.number for lun in emulated.targets[0].luns]
    assert {store.plugin for store in kernels.backstores} == {Plugin.RAMDISK, Plugin.FILEIO}
    assert group.luns[1].alua_group == "near"
    assert [(lun.number, lun.lun, lun.read_only) for lun in group.acls[0].mapped_luns] == [
        (0, 0, False),
        (1, 1, True),
    ]
    assert group.acls[0].login is not None
    assert kernels.discovery[0].enforced


def test_a_unit_has_the_same_serial_number_in_both_places(tmp_path):
    found = describe(written(tmp_path, '[[target.lun]]\nstore = "1MiB"\n'), secret)
    assert found.backstores[0].serial == derive_identity(IQN, 0).serial


def test_without_access_lists_everybody_may_log_in_and_write(tmp_path):
    (group,) = describe(written(tmp_path, ""), secret).targets[0].groups
    assert group.attributes == {
        "authentication": "0",
        "generate_node_acls": "1",
        "cache_dynamic_acls": "1",
        "demo_mode_write_protect": "0",
    }


def test_only_parameters_that_the_file_names_are_set(tmp_path):
    text = '[target.parameters]\nmax_burst_length = "512KiB"\ninitial_r2t = false\nheader_digest = ["CRC32C", "None"]\n'
    (group,) = describe(written(tmp_path, text), secret).targets[0].groups
    assert group.parameters == {"MaxBurstLength": "524288", "InitialR2T": "No", "HeaderDigest": "CRC32C,None"}


def test_portal_groups_are_target_portal_groups(tmp_path):
    head = "".join(f'[[portal]]\naddress = "127.0.0.{tag}:3260"\ngroup = {tag}\n' for tag in (1, 2))
    groups = describe(written(tmp_path, "", head), secret).targets[0].groups
    assert [(group.tag, group.portals[0].address) for group in groups] == [(1, "127.0.0.1"), (2, "127.0.0.2")]


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        (
            '[[target.lun]]\nstore = "1MiB"\ntype = "cdrom"\n',
            "LUN 0: the kernel's target has disks only, no CD-ROM",
        ),
        ('[[target.lun]]\nstore = "snapshot:x.img"\n', "the kernel's target has no snapshots"),
        (
            '[[target.lun]]\nstore = "1MiB"\nvendor = "ACME"\n',
            "vendor: the kernel's target presents its disks in its",
        ),
        ('moved_to = "h:3260,1"\n', "moved_to: the kernel's target sends no login elsewhere"),
        ('[[target.access]]\naddresses = ["127.0.0.0/8"]\n', "tells initiators apart by their names alone"),
        (
            '[[target.lun]]\nstore = "1MiB"\nlio = {backstore = "tape"}\n',
            "one of ramdisk, fileio, block, pscsi, user",
        ),
        ('[[target.lun]]\nstore = "1MiB"\nlio = {backstore = "block"}\n', "cannot be block"),
        ('[[target.lun]]\nstore = "1MiB"\nlio = {colour = 1}\n', "there is no setting 'colour'"),
        (
            '[[target.lun]]\nstore = "1MiB"\nlio = {alua = [{name = "a", tag = 2, state = "x"}]}\n',
            "active/optimized",
        ),
        (
            '[[target.lun]]\nstore = "1MiB"\nread_only = true\n[[target.lun]]\nstore = "1MiB"\n',
            "all LUNs read-only or",
        ),
    ],
)
def test_what_the_kernel_cannot_do_is_one_line(tmp_path, text, complaint):
    with pytest.raises(ConfigurationError, match=complaint) as error:
        describe(written(tmp_path, text), secret)
    assert "\n" not in str(error.value)


def test_a_port_that_the_system_would_choose_is_refused(tmp_path):
    with pytest.raises(InvalidDescription, match="the kernel listens on a port from 1 to 65535"):
        describe(written(tmp_path, "", 'portals = ["127.0.0.1:0"]'), secret)


def sancredit(*words):
    done = subprocess.run(
        [sys.executable, "-m", "mgmt.cli", "lio", *words],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    return done.returncode, done.stdout, done.stderr


def places(tmp_path):
    return ("--state", str(tmp_path / "state.json"), "--configfs", str(tmp_path / "none/target"))


def test_a_plan_is_shown_and_nothing_is_changed(tmp_path):
    path = written(tmp_path, '[[target.lun]]\nstore = "1MiB"\n')
    status, out, said = sancredit("plan", str(path), "-o", "json", *places(tmp_path))
    assert (status, said) == (0, "")
    steps = json.loads(out)
    assert [step["kind"] for step in steps] == ["backstore", "target", "group", "lun", "portal", "group"]
    assert not (tmp_path / "state.json").exists()


def test_a_description_goes_out_as_a_saveconfig_and_comes_in_again(tmp_path):
    path = written(tmp_path, '[[target.lun]]\nstore = "1MiB"\n')
    saved = tmp_path / "saved.json"
    assert sancredit("export", str(saved), "--from", str(path))[0] == 0
    assert saved.stat().st_mode & 0o777 == 0o600
    assert saveconfig.to_document(saveconfig.load(saved)) == saveconfig.to_document(describe(path, secret))
    status, out, _ = sancredit("import", str(saved), "-o", "json")
    assert (status, json.loads(out)) == (0, {"backstores": 1, "targets": 1, "luns": 1, "acls": 0})
    assert sancredit("plan", str(saved), "-o", "csv", *places(tmp_path))[0] == 0


def test_failures_are_one_line_with_their_exit_code(tmp_path):
    path = written(tmp_path, '[[target.lun]]\nstore = "1MiB"\n')
    for words, status, complaint in (
        (("plan", str(tmp_path / "none.toml")), 2, "cannot read"),
        (("plan", str(tmp_path / "none.json")), 2, "cannot read"),
        (("import", str(path)), 2, "is not JSON"),
        (("apply", str(path), *places(tmp_path)), 1, "root"),
        (("export", *places(tmp_path)), 2, "no LIO runs here"),
    ):
        code, out, said = sancredit(*words)
        assert (code, out, said.count("\n")) == (status, "", 1), said
        assert complaint in said or "this kernel has no configfs" in said
    assert sancredit("status", *places(tmp_path))[0] == 0
    assert sancredit("clear", *places(tmp_path))[0] == 0
    assert read(tmp_path / "none/target") == {}
