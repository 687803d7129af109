"""Remote copy with reserved buffers (claim 4) to a target that we did not write: LIO, in the lab's guest, behind a
channel with netem's delay and loss."""

from __future__ import annotations

import hashlib
import os

import pytest

from iscsi_target.lio.model import (
    Backstore,
    Description,
    KernelTarget,
    Login,
    Lun,
    Plugin,
    Portal,
    PortalGroup,
)
from mgmt.array.secrets import array_chap
from tests import lab_guest
from tests.mgmt.array_processes import MASTER, array, start_copy, start_requests
from tests.mgmt.test_array_copy import Storm, all_up, until
from tools.lab.driver import CLEAR, apply

pytestmark = lab_guest.MARKS

IQN = "iqn.2003-10.example.test:remote:copy"  # a name that ends so has an array prove itself by CHAP
MIB = 1 << 20
UNIT = 16384
IMAGE_BYTES = 4 * MIB


def remote(secret):
    """A target of LIO that arrays copy to: CHAP both ways with SHA-256."""
    chap = array_chap(secret)
    assert chap.target.own is not None
    (there,), back = chap.target.accepted, chap.target.own
    group = PortalGroup(
        luns=[Lun(number=0, plugin=Plugin.FILEIO, backstore="copy")],
        portals=[Portal(address="0.0.0.0", port=3260)],
        login=Login(there.name, there.secret.decode()),
        mutual_login=Login(back.name, back.secret.decode()),
        attributes={
            "authentication": "1",
            "generate_node_acls": "1",
            "cache_dynamic_acls": "1",
            "demo_mode_write_protect": "0",
        },
        parameters={"MaxConnections": "4"},
    )
    store = Backstore(plugin=Plugin.FILEIO, name="copy", device="/tmp/copy.img", size_bytes=IMAGE_BYTES)
    return Description(backstores=[store], targets=[KernelTarget(wwn=IQN, groups=[group])])


@pytest.fixture
def copied_to(lab):
    """The guest with the target, and a channel of 5 ms and 1 % loss each way out of it."""
    secret = b"the arrays share this"
    apply(lab, remote(secret))
    lab.run("modprobe sch_netem; tc qdisc replace dev eth0 root netem delay 5ms loss 1%")
    yield lab, secret
    lab.run(f"tc qdisc del dev eth0 root; {CLEAR}; rm -f /tmp/copy.img")


def test_a_reservation_brings_the_copy_to_lio_through_a_storm_of_hosts(copied_to, tmp_path):
    lab, secret = copied_to
    port = {"address": "127.0.0.1", "iscsi_port": lab.forward(3260), "copy_iqn": IQN}
    image = tmp_path / "master.img"
    image.write_bytes(os.urandom(IMAGE_BYTES))
    (tmp_path / "chap").write_bytes(secret)
    (tmp_path / "chap").chmod(0o600)
    with array(tmp_path, "master", MASTER, "--volume", f"vol0={image}", "--units", "64") as master:
        assert master.reserve(30 * UNIT) == 30
        with Storm(master.port, hosts=8):
            until(lambda: master.pool["free_units"] == 0)
            all_up(start_copy(master, start_requests(port, sessions=3, connections=1)))
            status = master.wait_until_over()
            assert status.state == "done", status.error
            (copy,) = master.table("copies")
            assert 0 < copy["max_in_flight_bytes"] <= 30 * UNIT
            assert master.pool["free_units"] == 0
    digest = hashlib.sha256(image.read_bytes()).hexdigest()
    assert lab.run("sync; sha256sum /tmp/copy.img").split()[0] == digest
    channel = lab.run("tc -s qdisc show dev eth0")
    assert "delay 5ms" in channel
    assert "loss 1%" in channel
