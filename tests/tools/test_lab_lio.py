"""The driver on a real kernel, in the lab's guest: applied, changed, restored, cleared; CHAP, ACL and ALUA as an
initiator sees them; targetcli's files both ways; rtslib of Debian and of PyPI."""

from __future__ import annotations

import json
import shutil
import subprocess
from dataclasses import replace
from functools import partial

import pytest

from iscsi_target.errors import CommandFailed, LoginFailed
from iscsi_target.initiator import Initiator
from iscsi_target.lio import saveconfig
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
from iscsi_target.session.chap import Chap, Credentials
from tests import lab_guest
from tools.harness.initiator import BlockingInitiator
from tools.harness.loop_thread import LoopThread
from tools.lab.driver import CLEAR, drive
from tools.lab.project import HOME, LIBRARIES

pytestmark = lab_guest.MARKS

OPEN, CLOSED = "iqn.2003-10.example.test:open", "iqn.2003-10.example.test:closed"
HOST = "iqn.2003-10.example.test:host"
DEMO = {
    "generate_node_acls": "1",
    "cache_dynamic_acls": "1",
    "demo_mode_write_protect": "0",
    "authentication": "0",
}


def driven(lab, body, *, pypi=False, **files):
    """Run ``body`` in the guest with a driver; what it put into ``answer``."""
    return drive(lab, body, pypi=pypi, files=files)


def described():
    """An open target on a ramdisk, and one with an ACL, CHAP both ways, a file and an ALUA group."""
    near = AluaGroup(name="near", tag=17, settings={"alua_access_state": 1, "alua_access_type": 1})
    return Description(
        backstores=[
            Backstore(
                plugin=Plugin.RAMDISK, name="ram", size_bytes=8 << 20, attributes={"emulate_model_alias": "1"}
            ),
            Backstore(
                plugin=Plugin.FILEIO,
                name="disk",
                device="/tmp/disk.img",
                size_bytes=16 << 20,
                write_back=True,
                attributes={"emulate_tpu": "1"},
                alua_groups=[near],
            ),
        ],
        targets=[
            KernelTarget(
                wwn=OPEN,
                groups=[
                    PortalGroup(
                        luns=[Lun(number=0, plugin=Plugin.RAMDISK, backstore="ram")],
                        portals=[Portal(address="0.0.0.0", port=3260)],
                        attributes=DEMO,
                        parameters={"MaxBurstLength": "524288"},
                    )
                ],
            ),
            KernelTarget(
                wwn=CLOSED,
                groups=[
                    PortalGroup(
                        luns=[Lun(number=3, plugin=Plugin.FILEIO, backstore="disk", alua_group="near")],
                        portals=[Portal(address="0.0.0.0", port=3260)],
                        acls=[
                            Acl(
                                initiator=HOST,
                                mapped_luns=[
                                    MappedLun(number=0, lun=3),
                                    MappedLun(number=1, lun=3, read_only=True),
                                ],
                                login=Login("host", "secret-of-host"),
                                mutual_login=Login("target", "secret-of-target"),
                                queue_depth=16,
                            )
                        ],
                        attributes={"authentication": "1", "generate_node_acls": "0"},
                    )
                ],
            ),
        ],
        discovery=[Discovery(enforced=True, login=Login("finder", "secret-finder"))],
    )


@pytest.fixture
def clean(lab):
    """The guest, without a target of the kernel before and after."""
    yield lab
    lab.run(f"{CLEAR}; rm -f /tmp/disk.img")


@pytest.fixture
def sessions():
    """Logs in from here: ``sessions(port, iqn, …)``."""
    thread = LoopThread("lab-initiators")
    opened = []

    def login(port, iqn, **options):
        session = BlockingInitiator.login(thread, "127.0.0.1", port, iqn, timeout_s=120, **options)
        opened.append(session)
        return session

    yield login
    for session in opened:
        session.abort()
    thread.stop(60)


@pytest.mark.parametrize("pypi", [False, True], ids=["rtslib-2.1", "rtslib-2.2"])
def test_the_driver_applies_changes_clears_and_rolls_back(clean, pypi):
    wanted = described()
    ram, disk = wanted.backstores
    changed = replace(wanted, backstores=[replace(ram, size_bytes=4 << 20), disk], targets=wanted.targets[:1])
    refused = replace(
        changed,
        targets=[
            replace(
                wanted.targets[0],
                groups=[
                    replace(wanted.targets[0].groups[0], portals=[Portal(address="192.0.2.77", port=3260)])
                ],
            )
        ],
    )
    found = driven(
        clean,
        """
Path("/sys/kernel/config/target").is_dir() or driver.kernel.prepare({"iscsi"})
before = now()
answer["first"] = len(driver.apply(load("wanted.json")).steps)
answer["second"] = steps(driver.apply(load("wanted.json")))
answer["changed"] = steps(driver.apply(load("changed.json")))
kept = now()
try:
    driver.apply(load("refused.json"))
except LioError as error:
    answer["refused"] = str(error)
answer["as before"] = now() == kept
answer["third"] = steps(driver.apply(load("changed.json")))
driver.clear()
answer["cleared"] = now() == before
""",
        pypi=pypi,
        **{"wanted.json": wanted, "changed.json": changed, "refused.json": refused},
    )
    assert found["first"] == 19
    assert found["second"] == []
    assert "remove backstore ramdisk/ram (its contents are lost)" in found["changed"]
    assert f"remove target {CLOSED}" in found["changed"]
    assert found["refused"].endswith("invalid argument; everything that this run did was undone")
    assert found["as before"] is True
    assert found["third"] == []
    assert found["cleared"] is True


def test_what_we_export_is_what_targetcli_saves_and_either_restores_the_other_ones(clean):
    first = driven(
        clean, 'driver.apply(load("wanted.json"))\nanswer["now"] = now()', **{"wanted.json": described()}
    )
    # In a place of its own, since targetcli takes the directory of what it saves away from everybody else (mode 0600).
    clean.run("mkdir -p /tmp/saved; targetcli saveconfig /tmp/saved/theirs.json")
    theirs = json.loads(clean.agent.get("/tmp/saved/theirs.json"))
    ours = first["now"]
    (acl,) = _target(ours, CLOSED)["tpgs"][0]["node_acls"]
    assert acl.pop("tcq_depth") == 16  # which targetcli does not save
    assert _ordered(ours) == _ordered(theirs)
    again = driven(
        clean,
        """
driver.clear()
driver.apply(load("saved/theirs.json"))
answer["now"] = now()
""",
    )
    (acl,) = _target(again["now"], CLOSED)["tpgs"][0]["node_acls"]
    assert acl.pop("tcq_depth", 64) == 64
    assert _ordered(again["now"]) == _ordered(theirs)
    clean.agent.put(json.dumps(first["now"]).encode(), "/tmp/saved/ours.json")
    clean.run(
        "targetcli restoreconfig /tmp/saved/ours.json clear_existing=True;"
        " targetcli saveconfig /tmp/saved/theirs.json"
    )
    assert _ordered(json.loads(clean.agent.get("/tmp/saved/theirs.json"))) == _ordered(ours)


def _target(document, wwn):
    return next(target for target in document["targets"] if target["wwn"] == wwn)


def _ordered(value):
    """The same without the order of lists, which is that of configfs' directories."""
    if isinstance(value, dict):
        return {key: _ordered(item) for key, item in value.items()}
    if isinstance(value, list):
        return sorted((_ordered(item) for item in value), key=lambda item: json.dumps(item, sort_keys=True))
    return value


def test_chap_acl_and_alua_are_what_an_initiator_meets(clean, sessions):
    driven(clean, 'driver.apply(load("wanted.json"))', **{"wanted.json": described()})
    port = clean.forward(3260)
    proof = Chap(
        own=Credentials("host", b"secret-of-host"), accepted=(Credentials("target", b"secret-of-target"),)
    )
    wrong = Chap(own=Credentials("host", b"not-the-secret-of"))

    with pytest.raises(LoginFailed, match="authentication"):
        sessions(port, CLOSED, initiator_iqn=HOST, chap=wrong)
    with pytest.raises(LoginFailed, match="authentication"):
        sessions(port, CLOSED, initiator_iqn=HOST)
    with pytest.raises(LoginFailed):
        sessions(port, CLOSED, initiator_iqn=f"{HOST}.other", chap=proof)
    session = sessions(port, CLOSED, initiator_iqn=HOST, chap=proof)
    session.write(8, b"\x5a" * 512)
    assert session.read(8, 1) == b"\x5a" * 512
    assert session.read(8, 1, lun=1) == b"\x5a" * 512
    with pytest.raises(CommandFailed) as protected:
        session.write(8, b"\x00" * 512, lun=1)
    assert "sense 7/27/00" in str(protected.value)  # WRITE PROTECTED

    # REPORT TARGET PORT GROUPS (SPC-4 6.35): our group with its tag and its state
    data = session.execute(
        bytes.fromhex("a30a00000000000010000000"), data_in_length=4096, check=False
    ).data_in
    groups = {int.from_bytes(data[at + 2 : at + 4], "big"): data[at] & 0x0F for at in _groups(data)}
    assert groups[17] == 1
    rows = driven(
        clean,
        "from iscsi_target.lio.counters import read_sessions, read_targets\n"
        'answer["sessions"] = read_sessions(); answer["targets"] = read_targets()',
    )
    (row,) = [row for row in rows["sessions"] if row["initiator"] == HOST]
    assert row["target"] == CLOSED
    assert row["connections"] == [{"peer": "10.0.2.2"}]
    assert row["commands"] >= 4
    assert {row["target"]: row["sessions"] for row in rows["targets"]} == {OPEN: 0, CLOSED: 1}


def _groups(data):
    at, end = 4, 4 + int.from_bytes(data[:4], "big")
    while at < end:
        yield at
        at += 8 + 4 * data[at + 7]


def test_a_session_has_two_connections_with_commands_on_both(clean, sessions):
    wanted = described()
    group = replace(wanted.targets[0].groups[0], parameters={"MaxConnections": "2"})
    several = replace(wanted, targets=[replace(wanted.targets[0], groups=[group])])
    driven(clean, 'driver.apply(load("wanted.json"))', **{"wanted.json": several})
    session = sessions(clean.forward(3260), OPEN, max_connections=2)
    assert session.agreed.max_connections == 2
    assert session.call(lambda one: one.add_connection(1)) is None
    assert session.session.connections == (0, 1)
    data = {lba: bytes([lba + 1]) * 512 for lba in range(32)}
    session.together(*(partial(Initiator.write, lun=0, lba=lba, data=block) for lba, block in data.items()))
    found = session.together(*(partial(Initiator.read, lun=0, lba=lba, blocks=1) for lba in data))
    assert [bytes(block) for block in found] == list(data.values())


def test_disks_of_the_kernel_serve_as_backstores_and_a_user_handler_is_only_registered(clean, sessions):
    """block over a loop device, pscsi over scsi_debug's disk; user without its handler: nobody answers."""
    clean.run(
        "set -e; modprobe loop; modprobe sd_mod; modprobe scsi_debug dev_size_mb=16;"
        " truncate -s 16M /tmp/block.img; losetup /dev/loop0 /tmp/block.img"
    )
    found = (
        "until set -- /sys/bus/pseudo/drivers/scsi_debug/adapter*/host*/target*/*/block/*; [ -b /dev/${1##*/} ];"
        " do usleep 20000; done; echo ${1##*/}"
    )
    disk = clean.run(found).strip()
    stores = loop, raw, handled = [
        Backstore(plugin=Plugin.BLOCK, name="loop", device="/dev/loop0"),
        Backstore(plugin=Plugin.PSCSI, name="raw", device=f"/dev/{disk}"),
        Backstore(plugin=Plugin.USER, name="handled", config="nobody/handles", size_bytes=8 << 20),
    ]
    with_groups = replace(raw, alua_groups=[AluaGroup(name="near", tag=17)])
    group = PortalGroup(
        luns=[Lun(number=n, plugin=store.plugin, backstore=store.name) for n, store in enumerate(stores)],
        portals=[Portal(address="0.0.0.0", port=3260)],
        attributes=DEMO,
    )
    wanted = Description(backstores=stores, targets=[KernelTarget(wwn=OPEN, groups=[group])])
    try:
        said = driven(
            clean,
            """
before = now()
driver.apply(load("wanted.json"))
answer["second"] = steps(driver.apply(load("wanted.json")))
answer["now"] = now()
try:
    driver.apply(load("alua.json"))
except LioError as error:
    answer["refused"] = str(error)
answer["as before"] = now() == answer["now"]
""",
            **{"wanted.json": wanted, "alua.json": replace(wanted, backstores=[loop, with_groups, handled])},
        )
        assert said["second"] == []
        assert "\n" not in said["refused"]  # the device has its own groups: pscsi passes them through
        assert said["refused"].endswith("everything that this run did was undone")
        assert said["as before"] is True
        assert {one["plugin"] for one in said["now"]["storage_objects"]} == {"block", "pscsi", "user"}
        session = sessions(clean.forward(3260), OPEN)
        for lun in (0, 1):
            assert session.capacity(lun=lun) == (32768, 512)
            session.write(8, bytes([lun + 1]) * 4096, lun=lun)
            assert session.read(8, 8, lun=lun) == bytes([lun + 1]) * 4096
        assert bytes(session.inquiry(lun=1)[8:16]) == b"Linux   "  # scsi_debug's own: pscsi passes it through
        assert sorted(session.report_luns()) == [0, 1, 2]
        session.abort()
        clean.run("dd if=/tmp/block.img bs=512 skip=8 count=8 2>/dev/null | tr -d '\\001' | cmp - /dev/null")
    finally:
        clean.run(f"{CLEAR}; losetup -d /dev/loop0; rmmod scsi_debug; rm -f /tmp/block.img")


@pytest.fixture
def runner(clean):
    """tcmu-runner in the guest, with its handler for qcow2 images."""
    clean.run(
        "modprobe target_core_user; (tcmu-runner -d >/dev/null 2>&1 &);"
        " until grep -q 'handlers found' /var/log/tcmu-runner.log; do usleep 50000; done"
    )
    yield clean
    # The module remembers that somebody answers it, and would wait for the next answer for ever: it goes as well.
    clean.run(
        f"{CLEAR}; kill $(pidof tcmu-runner); while pidof tcmu-runner; do usleep 20000; done;"
        " rm -f /var/log/tcmu-runner.log /var/lib/handled.qcow2; rmmod target_core_user"
    )


@pytest.mark.skipif(shutil.which("qemu-img") is None, reason="needs qemu-img: apt-get install qemu-utils")
def test_a_user_backstore_holds_what_its_handler_keeps_and_an_unknown_one_is_undone(
    runner, sessions, tmp_path
):
    image, raw = tmp_path / "handled.qcow2", tmp_path / "handled.raw"
    subprocess.run(["qemu-img", "create", "-q", "-f", "qcow2", image, "16M"], check=True)
    runner.agent.put(image, "/var/lib/handled.qcow2")
    store = Backstore(
        plugin=Plugin.USER, name="handled", config="qcow//var/lib/handled.qcow2", size_bytes=16 << 20
    )
    group = PortalGroup(
        luns=[Lun(number=0, plugin=Plugin.USER, backstore="handled")],
        portals=[Portal(address="0.0.0.0", port=3260)],
        attributes=DEMO,
    )
    wanted = Description(backstores=[store], targets=[KernelTarget(wwn=OPEN, groups=[group])])
    unknown = replace(store, name="unknown", config="nobody/handles")
    said = driven(
        runner,
        """
driver.apply(load("wanted.json"))
answer["second"] = steps(driver.apply(load("wanted.json")))
before = now()
try:
    driver.apply(load("unknown.json"))
except LioError as error:
    answer["refused"] = str(error)
answer["as before"] = now() == before
""",
        **{"wanted.json": wanted, "unknown.json": replace(wanted, backstores=[store, unknown])},
    )
    assert said["second"] == []
    assert "user/unknown" in said["refused"]
    assert said["refused"].endswith("everything that this run did was undone")
    assert said["as before"] is True
    data = {8: bytes(range(256)) * 16, 20000: b"z" * 65536}
    session = sessions(runner.forward(3260), OPEN)
    assert session.capacity() == (32768, 512)
    for lba, block in data.items():
        session.write(lba, block)
        assert session.read(lba, len(block) // 512) == block
    session.synchronize_cache()
    session.logout()
    driven(runner, "driver.clear()")
    runner.agent.get_file("/var/lib/handled.qcow2", image)
    subprocess.run(["qemu-img", "check", "-q", image], check=True)
    subprocess.run(["qemu-img", "convert", "-O", "raw", image, raw], check=True)
    with raw.open("rb") as file:
        for lba, block in data.items():
            file.seek(lba * 512)
            assert file.read(len(block)) == block


def test_a_user_who_is_not_root_is_told_so_and_the_kernel_stays_as_it_was(clean):
    clean.agent.put(saveconfig.dumps(described()).encode(), "/tmp/good.json", 0o644)
    driven(clean, 'driver.apply(load("wanted.json"))', **{"wanted.json": described()})
    before = clean.run("find /sys/kernel/config/target /run/sancredit | sort")
    nobody = "setpriv --reuid=65534 --regid=65534 --clear-groups sancredit lio"
    commands = {
        "status --no-headers": (1, "/run/sancredit/lio.json says what sancredit has made here, and only its"),
        "plan /tmp/good.json": (1, "/run/sancredit/lio.json says what sancredit has made here, and only its"),
        "apply /tmp/good.json": (1, "only root may configure the kernel's target; run it as root"),
        "apply /tmp/good.json --state /tmp/mine": (1, "only root may configure the kernel's target; run"),
        "clear": (1, "only root may configure the kernel's target; run it as root"),
    }
    for words, (status, complaint) in commands.items():
        outcome = clean.agent.run(f"{nobody} {words}")
        *_, last = outcome.output.splitlines()
        assert (outcome.status, complaint in last) == (status, True), outcome
        assert "Traceback" not in outcome.output
    assert clean.run("find /sys/kernel/config/target /run/sancredit | sort") == before


def test_bad_input_is_one_line_with_its_exit_code_and_the_kernel_stays_as_it_was(clean):
    clean.agent.put(saveconfig.dumps(described()).encode(), "/tmp/good.json")
    clean.agent.put(b'{"storage_objects": [{"name": "a", "plugin": "tape"}]}', "/tmp/bad.json")
    before = clean.run("find /sys/kernel/config/target 2>/dev/null | sort")
    commands = {
        "lio plan /tmp/bad.json": (2, "storage object a: plugin is one of ramdisk"),
        "lio apply /tmp/none.json": (2, "cannot read /tmp/none.json: no such file or directory"),
        "lio apply /tmp/good.json --configfs /tmp/none/target": (1, "this kernel has no configfs"),
    }
    program = (
        f"import sys; sys.path[:0] = ['{HOME}', '{LIBRARIES}/common']; from mgmt.cli.main import main\n"
        f"for words in {list(commands)!r}: print('->', main(words.split()), flush=True)"
    )
    said = clean.run(f'PYTHONUNBUFFERED=1 python3 -c "{program}"', timeout_s=300).splitlines()
    for number, (status, words) in enumerate(commands.values()):
        assert words in said[2 * number]
        assert said[2 * number + 1] == f"-> {status}"
    assert len(said) == 2 * len(commands)
    assert clean.run("find /sys/kernel/config/target 2>/dev/null | sort") == before
