"""The driver of the kernel's target on a double of configfs, through the real rtslib."""

from __future__ import annotations

import errno
import json
import os
from dataclasses import replace
from pathlib import Path

import pytest

from iscsi_target.lio import configfs, saveconfig
from iscsi_target.lio.apply import Driver, Options
from iscsi_target.lio.errors import InvalidDescription, KernelUnavailable, LioError, NotOurs, StepFailed
from iscsi_target.lio.kernel import Kernel
from iscsi_target.lio.model import (
    Acl,
    AluaGroup,
    Backstore,
    Description,
    Discovery,
    KernelTarget,
    Login,
    Lun,
    MappedLun,
    Plugin,
    Portal,
    PortalGroup,
)
from iscsi_target.lio.nodes import Key, Kind, nodes_of
from iscsi_target.lio.present import description_of
from iscsi_target.lio.record import Record
from tests.iscsi_target.lio_configfs import SimulatedConfigfs

IQN = "iqn.2003-10.example.test:disks"
HOST = "iqn.2003-10.example.test:host"
GROUP = Key(Kind.GROUP, ("iscsi", IQN, "1"))


@pytest.fixture
def lio(tmp_path, monkeypatch):
    return SimulatedConfigfs(tmp_path, monkeypatch)


@pytest.fixture
def driver(lio, tmp_path):
    return Driver(Kernel(lio.root), tmp_path / "state.json")


def described(tmp_path, **changes):
    """One target with everything: two kinds of backstore, ALUA, ACL, mapped LUNs, CHAP both ways, parameters."""
    disk = tmp_path / "disk.img"
    disk.touch()
    group = PortalGroup(
        tag=1,
        luns=[
            Lun(number=0, plugin=Plugin.RAMDISK, backstore="ram", alias="first"),
            Lun(number=1, plugin=Plugin.FILEIO, backstore="disk", alua_group="near"),
        ],
        portals=[Portal(address="127.0.0.1", port=3260), Portal(address="::1", port=3260)],
        acls=[
            Acl(
                initiator=HOST,
                mapped_luns=[MappedLun(number=5, lun=1, read_only=True)],
                login=Login("host", "secret-of-host"),
                mutual_login=Login("target", "secret-of-target"),
                queue_depth=16,
                tag="hosts",
                attributes={"nopin_timeout": "5"},
            )
        ],
        attributes={"authentication": "1", "login_timeout": "30"},
        parameters={"MaxBurstLength": "524288"},
    )
    given = {
        "backstores": [
            Backstore(plugin=Plugin.RAMDISK, name="ram", size_bytes=1 << 20, attributes={"emulate_tpu": "1"}),
            Backstore(
                plugin=Plugin.FILEIO,
                name="disk",
                device=str(disk),
                size_bytes=4 << 20,
                write_back=True,
                alua_groups=[
                    AluaGroup(name="near", tag=17, settings={"alua_access_state": 1, "alua_access_type": 1})
                ],
            ),
        ],
        "targets": [KernelTarget(wwn=IQN, groups=[group])],
    }
    return Description(**(given | changes))


def with_group(description, **changes):
    target = description.targets[0]
    return replace(description, targets=[replace(target, groups=[replace(target.groups[0], **changes)])])


def snapshot(root):
    """Every directory, link and file there is, with its text."""
    found = {}
    for folder, folders, files in os.walk(root):
        for name in (*folders, *files):
            path = Path(folder) / name
            if path.is_symlink():
                found[str(path)] = str(path.readlink())
            else:
                found[str(path)] = _text(path) if path.is_file() else None
    return found


def _text(path):
    """Also of a file that only takes: root may read it, and others not."""
    mode = path.stat().st_mode
    path.chmod(mode | 0o400)
    try:
        return path.read_text()
    finally:
        path.chmod(mode)


def test_all_of_a_description_comes_to_be_and_a_second_run_does_nothing(driver, lio, tmp_path):
    wanted = described(tmp_path)
    driver.apply(wanted)
    present = configfs.read(lio.root)
    for key, node in nodes_of(wanted).items():
        assert key in present
        assert {name: present[key].settings[name] for name in node.settings} == dict(node.settings)
    writes = len(lio.writes)
    assert driver.apply(wanted).steps == ()
    assert len(lio.writes) == writes


def test_a_portal_group_goes_to_work_when_everything_else_is_there(driver, tmp_path):
    steps = [str(step) for step in driver.plan(described(tmp_path)).steps]
    assert steps[-1] == f"set enable of portal group 1 of {IQN} to 1"
    assert all("secret" not in step for step in steps)


def test_a_changed_setting_is_one_step_and_a_changed_size_makes_the_unit_anew(driver, lio, tmp_path):
    wanted = described(tmp_path)
    driver.apply(wanted)
    slower = with_group(wanted, attributes={"authentication": "1", "login_timeout": "10"})
    assert [str(step) for step in driver.apply(slower).steps] == [
        f"set login_timeout of portal group 1 of {IQN} to 10 (was 30)"
    ]
    ram, disk = slower.backstores
    bigger = replace(slower, backstores=[replace(ram, size_bytes=2 << 20), disk])
    steps = [str(step) for step in driver.apply(bigger).steps]
    assert steps[:2] == [
        f"remove LUN 0 of {IQN} group 1",
        "remove backstore ramdisk/ram (its contents are lost)",
    ]
    assert configfs.read(lio.root)[Key(Kind.BACKSTORE, ("ramdisk", "ram"))].made_of["size"] == 2 << 20
    assert driver.apply(bigger).steps == ()


def test_what_a_description_names_no_more_goes(driver, lio, tmp_path):
    wanted = described(tmp_path)
    driver.apply(wanted)
    driver.apply(with_group(wanted, acls=[], portals=wanted.targets[0].groups[0].portals[:1]))
    kinds = [key.kind for key in configfs.read(lio.root)]
    assert kinds.count(Kind.PORTAL) == 1
    assert Kind.ACL not in kinds


def test_clear_leaves_the_kernel_as_it_was(driver, lio, tmp_path):
    before = snapshot(lio.root)
    secret = Discovery(enforced=True, login=Login("finder", "finder-secret"))
    driver.apply(described(tmp_path, discovery=[secret]))
    assert snapshot(lio.root) != before
    driver.clear()
    assert snapshot(lio.root) == before
    assert driver.clear().steps == ()


@pytest.mark.parametrize(
    "ending", ["lun/lun_1", "np/[::1]:3260", "attrib/nopin_timeout", "tpgt_1/enable", "lun_5"]
)
def test_a_refused_step_leaves_the_kernel_as_it_was(driver, lio, tmp_path, ending):
    before = snapshot(lio.root)
    lio.refuse(ending)
    with pytest.raises(
        StepFailed, match="invalid argument; everything that this run did was undone"
    ) as failed:
        driver.apply(described(tmp_path))
    assert failed.value.left == ()
    assert snapshot(lio.root) == before
    assert Record(tmp_path / "state.json").made == {}


def test_a_refused_change_brings_back_what_was_removed(driver, lio, tmp_path):
    wanted = described(tmp_path)
    driver.apply(wanted)
    before = snapshot(lio.root)
    lio.refuse("np/127.0.0.2:3260", errno.EADDRNOTAVAIL)
    fewer = with_group(
        wanted,
        acls=[],
        luns=[replace(wanted.targets[0].groups[0].luns[0], alias="other")],
        portals=[Portal(address="127.0.0.2", port=3260)],
    )
    with pytest.raises(
        StepFailed, match=r"make portal 127\.0\.0\.2:3260 .*: cannot assign requested address;"
    ):
        driver.apply(fewer)
    assert snapshot(lio.root) == before
    assert driver.plan(wanted).steps == ()


def test_what_cannot_be_undone_is_named(driver, lio, tmp_path, monkeypatch):
    lio.refuse("tpgt_1/enable")
    real = lio.rmdir

    def rmdir(path, **options):
        if str(path).endswith("core/rd_mcp_0/ram"):
            raise OSError(errno.EBUSY, os.strerror(errno.EBUSY), str(path))
        real(path, **options)

    monkeypatch.setattr(os, "rmdir", rmdir)
    with pytest.raises(StepFailed, match="could not undo: cannot remove backstore ramdisk/ram") as failed:
        driver.apply(described(tmp_path))
    assert len(failed.value.left) == 1
    assert list(Record(tmp_path / "state.json").made) == [Key(Kind.BACKSTORE, ("ramdisk", "ram"))]


def test_things_of_others_are_left_alone(driver, lio, tmp_path):
    other = Driver(Kernel(lio.root), tmp_path / "other.json")
    theirs = Description(
        backstores=[Backstore(plugin=Plugin.RAMDISK, name="theirs", size_bytes=4096)],
        targets=[KernelTarget(wwn=f"{IQN}.theirs", groups=[PortalGroup(tag=1)])],
    )
    other.apply(theirs)
    before = snapshot(lio.root)
    driver.apply(described(tmp_path))
    driver.clear()
    assert snapshot(lio.root) == before


def test_something_of_others_with_our_name_is_refused_and_can_be_adopted(driver, lio, tmp_path):
    other = Driver(Kernel(lio.root), tmp_path / "other.json")
    other.apply(Description(backstores=[Backstore(plugin=Plugin.RAMDISK, name="ram", size_bytes=4096)]))
    before = snapshot(lio.root)
    with pytest.raises(
        NotOurs, match="backstore ramdisk/ram would have to change, and was not made by sancredit"
    ):
        driver.apply(described(tmp_path))
    assert snapshot(lio.root) == before
    driver.apply(described(tmp_path), Options(adopt=True))
    assert driver.apply(described(tmp_path)).steps == ()


def test_drift_is_found_and_an_acl_of_others_stays_until_it_is_pruned(driver, lio, tmp_path):
    wanted = described(tmp_path)
    driver.apply(wanted)
    assert driver.drift().steps == ()
    group = configfs.path_of(GROUP, lio.root)
    lio.write(group / "attrib/login_timeout", "7")
    foreign = group / "acls/iqn.2003-10.example.test:guest"
    foreign.mkdir()
    found = driver.drift()
    assert [str(step) for step in found.steps] == [
        f"set login_timeout of portal group 1 of {IQN} to 30 (was 7)"
    ]
    assert [key.path[-1] for key in found.foreign] == ["iqn.2003-10.example.test:guest"]
    driver.apply(wanted)
    assert foreign.exists()
    driver.apply(wanted, Options(prune=True))
    assert not foreign.exists()
    assert driver.drift().steps == driver.drift().foreign == ()


def test_clear_keeps_what_others_stand_on(driver, lio, tmp_path):
    driver.apply(described(tmp_path))
    foreign = configfs.path_of(GROUP, lio.root) / "acls/iqn.2003-10.example.test:guest"
    foreign.mkdir()
    found = driver.clear()
    assert [key.kind for key in found.kept] == [Kind.TARGET, Kind.GROUP]
    assert foreign.exists()
    foreign.rmdir()
    assert driver.clear().kept == ()
    assert not [key for key in configfs.read(lio.root) if key.kind is not Kind.DISCOVERY]


def test_a_target_that_somebody_left_half_built_is_completed(driver, lio, tmp_path):
    group = lio.root / "iscsi" / IQN / "tpgt_1"
    for path in (
        group.parent,
        group,
        group / "lun/lun_0",
        lio.root / "core/rd_mcp_7",
        lio.root / "core/rd_mcp_7/ram",
    ):
        path.mkdir()
    wanted = described(tmp_path)
    with pytest.raises(NotOurs):
        driver.apply(wanted)
    driver.apply(wanted, Options(adopt=True))
    assert driver.apply(wanted).steps == ()
    assert description_of(configfs.read(lio.root)).targets[0].groups[0].luns[0].backstore == "ram"


def test_what_the_kernel_has_goes_through_a_saveconfig_and_back_without_loss(driver, lio, tmp_path):
    driver.apply(described(tmp_path))
    document = saveconfig.to_document(description_of(configfs.read(lio.root)))
    again = saveconfig.from_document(json.loads(json.dumps(document)))
    assert saveconfig.to_document(again) == document
    driver.clear()
    driver.apply(again)
    assert saveconfig.to_document(description_of(configfs.read(lio.root))) == document


def test_a_user_may_not_and_a_kernel_without_lio_cannot(driver, lio, tmp_path, monkeypatch):
    before = snapshot(lio.root)
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    with pytest.raises(
        KernelUnavailable, match="only root may configure the kernel's target; run it as root"
    ):
        driver.apply(described(tmp_path))
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    assert snapshot(lio.root) == before
    nowhere = Driver(Kernel(tmp_path / "none/target"), tmp_path / "state.json")
    with pytest.raises(KernelUnavailable, match="this kernel has no configfs"):
        nowhere.apply(described(tmp_path))


def test_a_kernel_without_the_module_says_which(driver, lio, tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path))  # no modprobe there
    loop = KernelTarget(wwn="naa.5001405000000001", fabric="loopback", groups=[PortalGroup(tag=1)])
    with pytest.raises(KernelUnavailable, match="this kernel has no tcm_loop: modprobe: No such file"):
        driver.apply(Description(targets=[loop]))


def test_a_record_that_cannot_be_read_stops_everything(driver, lio, tmp_path):
    (tmp_path / "state.json").write_text("{")
    with pytest.raises(LioError, match=r"state.json does not say what was made here .*: remove it"):
        driver.apply(described(tmp_path))


def test_secrets_are_for_the_owner_alone(driver, lio, tmp_path):
    driver.apply(described(tmp_path))
    assert (tmp_path / "state.json").stat().st_mode & 0o777 == 0o600
    saveconfig.save(described(tmp_path), tmp_path / "saved.json")
    assert (tmp_path / "saved.json").stat().st_mode & 0o777 == 0o600
    assert "secret-of-host" not in repr(described(tmp_path))


@pytest.mark.parametrize(
    ("changes", "complaint"),
    [
        ({"backstores": []}, "there is no backstore ramdisk/ram"),
        ({"targets": [KernelTarget(wwn="iqn.2026-11.a:b")]}, "with a dot in the domain"),
        ({"targets": [KernelTarget(wwn="iqn.2026-11.exa_mple.a:b")]}, "no underscore"),
        ({"targets": [KernelTarget(wwn=IQN), KernelTarget(wwn=IQN)]}, "is described twice"),
        ({"targets": [KernelTarget(wwn="naa.1", fabric="loopback")]}, "takes naa.<16 hex>"),
    ],
)
def test_a_description_without_a_meaning_is_one_line_and_touches_nothing(
    driver, lio, tmp_path, changes, complaint
):
    before = snapshot(lio.root)
    with pytest.raises(InvalidDescription, match=complaint):
        driver.apply(described(tmp_path, **changes))
    assert snapshot(lio.root) == before
