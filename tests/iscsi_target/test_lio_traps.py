"""Each trap of rtslib and of configfs that the driver has to step around, one test each."""

from __future__ import annotations

import importlib
import json
import sys
from dataclasses import replace

import pytest

from iscsi_target.lio import configfs, saveconfig
from iscsi_target.lio.apply import Driver
from iscsi_target.lio.errors import KernelUnavailable, StepFailed
from iscsi_target.lio.kernel import Kernel
from iscsi_target.lio.model import Backstore, Description, KernelTarget, Plugin, PortalGroup
from iscsi_target.lio.nodes import Key, Kind
from iscsi_target.lio.present import description_of
from tests.iscsi_target.lio_configfs import VECTORS, SimulatedConfigfs
from tests.iscsi_target.test_lio_driver import IQN, described, with_group


@pytest.fixture
def lio(tmp_path, monkeypatch):
    return SimulatedConfigfs(tmp_path, monkeypatch)


@pytest.fixture
def driver(lio, tmp_path):
    return Driver(Kernel(lio.root), tmp_path / "state.json")


def ram(name, size=1 << 20):
    return Backstore(plugin=Plugin.RAMDISK, name=name, size_bytes=size)


def test_the_directory_that_rtslib_insists_on_is_made(driver, tmp_path):
    assert not (tmp_path / "dbroot").exists()
    driver.apply(Description(backstores=[ram("a")]))
    assert sorted(path.name for path in (tmp_path / "dbroot").iterdir()) == ["alua", "pr"]


def test_a_kernel_without_a_list_of_modules_is_not_asked_for_one(driver, lio, tmp_path, monkeypatch):
    def modprobe(_module):
        raise FileNotFoundError(2, "No such file or directory", "/proc/modules")  # rtslib's, raw, as it comes

    for name in ("fabric", "root"):
        monkeypatch.setattr(importlib.import_module(f"rtslib.{name}"), "modprobe", modprobe)
    driver.apply(described(tmp_path))
    assert driver.apply(described(tmp_path)).steps == ()


def test_a_dbroot_that_cannot_change_any_more_is_no_trouble(driver, lio, tmp_path):
    (lio.root / "dbroot").write_text("/var/target\n")
    lio.refuse("target/dbroot")  # the kernel: devices are registered; rtslib: a warning, here an error
    driver.apply(Description(backstores=[ram("a")]))
    assert driver.plan(Description(backstores=[ram("a")])).steps == ()


@pytest.mark.parametrize(
    ("ending", "words"),
    [
        ("lun_1/alua_tg_pt_gp", "cannot set alua_tg_pt_gp of LUN 1"),  # rtslib answers -1, and nobody looks
        (":host/tag", "cannot set tag of ACL"),  # rtslib passes over the refusal
        (":host/cmdsn_depth", "invalid argument"),  # rtslib fails over its own error message with a TypeError
        (":host/auth/password", "invalid argument"),
    ],
)
def test_a_refusal_that_rtslib_hides_is_seen(driver, lio, tmp_path, ending, words):
    lio.refuse(ending)
    with pytest.raises(StepFailed, match=words) as failed:
        driver.apply(described(tmp_path))
    assert "secret" not in str(failed.value)


def test_a_backstore_that_somebody_else_made_meanwhile_is_not_overlooked(driver, lio):
    driver.apply(Description(backstores=[ram("a")]))
    (lio.root / "core/rd_mcp_1").mkdir()  # rtslib's memory of numbers is that of its own process
    (lio.root / "core/rd_mcp_1/other").mkdir()
    driver.apply(Description(backstores=[ram("a"), ram("b")]))
    assert configfs.backstores(lio.root)[Key(Kind.BACKSTORE, ("ramdisk", "b"))].parent.name == "rd_mcp_2"


def test_values_that_are_so_already_are_not_written_again(driver, lio):
    # A saveconfig has attributes that look writable and are refused: writing what is there is EINVAL all the same.
    saved = saveconfig.load(VECTORS / "saveconfig-2.1.json")
    (store,) = [one for one in saved.backstores if one.plugin is Plugin.RAMDISK]
    lio.refuse("attrib/alua_support")
    lio.refuse("attrib/pgr_support")
    driver.apply(Description(backstores=[store]))
    assert driver.plan(Description(backstores=[store])).steps == ()


def test_parameters_of_a_target_are_set_which_rtslib_saves_and_does_not_restore(driver, lio):
    target = KernelTarget(wwn=IQN, parameters={"cmd_completion_affinity": "1"}, groups=[PortalGroup(tag=1)])
    driver.apply(Description(targets=[target]))
    assert (lio.root / "iscsi" / IQN / "param/cmd_completion_affinity").read_text() == "1\n"


def test_the_queue_depth_of_an_acl_is_exported_which_rtslib_forgets(driver, lio, tmp_path):
    driver.apply(described(tmp_path))
    document = saveconfig.to_document(description_of(configfs.read(lio.root)))
    assert document["targets"][0]["tpgs"][0]["node_acls"][0]["tcq_depth"] == 16


def test_a_name_in_capitals_is_the_same_name_the_second_time(driver, tmp_path):
    wanted = described(tmp_path)
    shouted = replace(wanted, targets=[replace(wanted.targets[0], wwn=IQN.upper().replace("IQN", "iqn", 1))])
    driver.apply(shouted)
    assert driver.apply(shouted).steps == ()


@pytest.mark.parametrize("size", [512, 2047, 2048, 6144, (1 << 20) + 1, (1 << 20) + 4095])
def test_a_size_that_is_no_multiple_of_a_page_is_rounded_as_rtslib_does(driver, lio, size):
    wanted = Description(backstores=[ram("a", size)])
    driver.apply(wanted)
    assert driver.apply(wanted).steps == ()


def test_the_size_of_a_user_backstore_is_not_that_of_its_sectors(driver, lio):
    store = Backstore(plugin=Plugin.USER, name="handled", config="nobody/handles", size_bytes=8 << 20)
    driver.apply(Description(backstores=[store]))  # the kernel: "SectorSize: 512 … Size: 8388608"
    assert configfs.read(lio.root)[Key(Kind.BACKSTORE, ("user", "handled"))].made_of["size"] == 8 << 20
    assert driver.apply(Description(backstores=[store])).steps == ()


def test_a_portal_group_that_has_no_switch_is_always_at_work(driver, lio, tmp_path):
    del lio.templates["group"]["."]["enable"]  # as tcm_fc's in Linux 6.1; rtslib passes over it
    driver.apply(described(tmp_path))
    assert driver.apply(described(tmp_path)).steps == ()
    with pytest.raises(StepFailed, match="cannot set enable of portal group 1"):
        driver.apply(with_group(described(tmp_path), enabled=False))


def test_a_unit_has_its_attributes_before_anybody_can_see_it(driver, lio, tmp_path):
    driver.apply(described(tmp_path))
    names = [name for name, _ in lio.writes]
    exported = next(
        number for number, name in enumerate(names) if "/lun/" in name or name.endswith("tpgt_1/enable")
    )
    assert any(name.endswith("ram/attrib/emulate_tpu") for name in names[:exported])
    assert any(name.endswith("near/tg_pt_gp_id") for name in names[:exported])


def test_a_serial_number_is_the_same_each_time(driver, lio):
    serials = []
    for _ in range(2):
        driver.apply(Description(backstores=[ram("a")]))
        serials.append(configfs.read(lio.root)[Key(Kind.BACKSTORE, ("ramdisk", "a"))].made_of["serial"])
        driver.clear()
    assert serials[0] == serials[1]


def test_configfs_is_mounted_where_it_is_and_not_where_rtslib_would(driver, tmp_path, monkeypatch):
    program = tmp_path / "bin/mount"
    program.parent.mkdir()
    program.write_text(f'#!/bin/sh\necho "$@" > {tmp_path}/said\nexit 1\n')
    program.chmod(0o755)
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.setenv("PATH", f"{program.parent}:/usr/bin:/bin")
    elsewhere = Driver(Kernel(tmp_path / "elsewhere/target"), tmp_path / "other.json")
    with pytest.raises(KernelUnavailable, match="configfs is not mounted"):
        elsewhere.apply(Description(backstores=[ram("a")]))
    assert (tmp_path / "said").read_text() == f"-t configfs configfs {tmp_path}/elsewhere\n"


def test_a_target_goes_without_the_portals_that_others_have_put_into_it(driver, lio, tmp_path):
    # rtslib's TPG.delete() would take them along
    driver.apply(described(tmp_path))
    portal = lio.root / "iscsi" / IQN / "tpgt_1/np/127.0.0.9:3260"
    portal.mkdir()
    with_portal = json.dumps(sorted(path.name for path in portal.parent.iterdir()))
    driver.apply(with_group(described(tmp_path), attributes={"login_timeout": "9"}))
    assert portal.exists(), with_portal


def test_an_rtslib_that_cannot_be_loaded_says_why(tmp_path, monkeypatch):
    for name in ("rtslib", "rtslib_fb"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "__init__.py").write_text("raise ImportError('No library named udev')")
        monkeypatch.delitem(sys.modules, name, raising=False)
    monkeypatch.syspath_prepend(str(tmp_path))
    with pytest.raises(
        KernelUnavailable, match="rtslib cannot be loaded: No library named udev; apt-get install libudev1"
    ):
        Kernel(tmp_path)
