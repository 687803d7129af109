"""Access lists: who may log in, what discovery shows, which LUNs are seen (RFC 7143 section 9.2.2; SAM-5 4.6.4)."""

from __future__ import annotations

from ipaddress import ip_network
from typing import Any

import pytest

from iscsi_target.errors import LoginFailed
from iscsi_target.masking import lun_maps
from iscsi_target.scsi.logical_unit import LogicalUnit, derive_identity
from iscsi_target.scsi.stores.memory import MemoryStore
from iscsi_target.scsi.target_device import TargetDevice
from iscsi_target.session.access import AccessList, AccessRule, address_of
from iscsi_target.session.chap import Chap, Credentials
from iscsi_target.session.events import LoginRefused
from iscsi_target.session.initiator_events import CommandEnded, TextAnswered
from iscsi_target.session.node import Portal, Target, TargetNode
from iscsi_target.wire.lun import lun_from_bytes
from iscsi_target.wire.opcodes import LoginStatus
from iscsi_target.wire.requests import TextRequest
from iscsi_target.wire.text import decode_text, encode_text
from tests.iscsi_target.imaginary_wire import HOST, TARGET, Pair2Ends, RamDisk, write_16

ALICE, BOB = Credentials("alice", b"secret of alice 1"), Credentials("bob", b"secret of bob 123")
SERVER = Chap(accepted=(ALICE, BOB))
REPORT_LUNS = bytes((0xA0,)) + bytes(5) + (512).to_bytes(4, "big") + bytes(2)


def node_with(*rules: AccessRule, hidden: bool = False, **target: Any) -> TargetNode:
    access = AccessList(rules, hidden)
    node = TargetNode([Target(name=TARGET, logical_units=RamDisk(), access=access, **target)])
    node.portals = (Portal("192.0.2.1", 3260, 1),)
    return node


def ends_from(node: TargetNode, address: str = "192.0.2.9", **wish: Any) -> Pair2Ends:
    """Two ends whose initiator comes from an address of the test's choice."""
    return Pair2Ends(node, address=address, **wish)


def status_of(ends: Pair2Ends) -> int:
    """0 when the login succeeds, else its status."""
    try:
        ends.connect()
    except LoginFailed as refused:
        return refused.status
    return 0


def test_a_rule_by_name_admits_that_initiator_and_nobody_else() -> None:
    node = node_with(AccessRule(initiators=frozenset({HOST})))
    assert status_of(ends_from(node)) == 0
    assert status_of(ends_from(node, initiator_name=HOST + "2")) == LoginStatus.AUTHORIZATION_FAILURE


@pytest.mark.parametrize(
    ("network", "address", "fits"),
    [
        ("192.0.2.0/24", "192.0.2.9", True),
        ("192.0.2.0/24", "192.0.3.9", False),
        ("192.0.2.9/32", "::ffff:192.0.2.9", True),
        ("2001:db8::/32", "2001:db8::7", True),
        ("2001:db8::/32", "192.0.2.9", False),
        ("192.0.2.0/24", "no address", False),
    ],
)
def test_a_rule_by_address_goes_by_where_the_connection_comes_from(
    network: str, address: str, fits: bool
) -> None:
    node = node_with(AccessRule(networks=(ip_network(network),)))
    assert status_of(ends_from(node, address)) == (0 if fits else LoginStatus.AUTHORIZATION_FAILURE)


def test_the_address_is_found_in_every_spelling_of_a_peer() -> None:
    assert address_of("[fe80::1%eth0]:40000") == address_of("fe80::1%eth0:40000") == "fe80::1"


def test_a_rule_by_chap_name_goes_by_what_was_proven() -> None:
    node = node_with(AccessRule(chap_names=frozenset({"alice"})), chap=SERVER)
    assert status_of(ends_from(node, chap=Chap(own=ALICE))) == 0
    assert status_of(ends_from(node, chap=Chap(own=BOB))) == LoginStatus.AUTHORIZATION_FAILURE
    assert status_of(ends_from(node)) == LoginStatus.AUTHENTICATION_FAILURE


def test_all_that_one_rule_says_has_to_fit() -> None:
    rule = AccessRule(
        initiators=frozenset({HOST}),
        networks=(ip_network("192.0.2.0/24"),),
        chap_names=frozenset({"alice"}),
    )
    node = node_with(rule, chap=SERVER)
    alice = Chap(own=ALICE)
    assert status_of(ends_from(node, chap=alice)) == 0
    assert status_of(ends_from(node, "198.51.100.1", chap=alice)) == LoginStatus.AUTHORIZATION_FAILURE
    assert (
        status_of(ends_from(node, initiator_name=HOST + "2", chap=alice)) == LoginStatus.AUTHORIZATION_FAILURE
    )


def test_a_refusal_is_one_event_that_says_who_from_where_and_why() -> None:
    node = node_with(AccessRule(initiators=frozenset({HOST + "2"})))
    status_of(ends_from(node))
    (event,) = node.events
    assert isinstance(event, LoginRefused)
    assert event.text == f"no access rule of {TARGET} admits {HOST} from 192.0.2.9"
    assert not node.sessions


def test_a_hidden_target_is_not_found_by_whom_no_rule_admits() -> None:
    rule = AccessRule(networks=(ip_network("192.0.2.0/24"),), chap_names=frozenset({"alice"}))
    node = node_with(rule, hidden=True, chap=SERVER)
    assert status_of(ends_from(node, "198.51.100.1", chap=Chap(own=ALICE))) == LoginStatus.NOT_FOUND
    assert status_of(ends_from(node, chap=Chap(own=BOB))) == LoginStatus.NOT_FOUND
    assert status_of(ends_from(node, chap=Chap(own=ALICE))) == 0


def discovered(node: TargetNode, address: str = "192.0.2.9", **wish: Any) -> list[str]:
    ends = ends_from(node, address, target_name="", **wish)
    ends.connect()
    ends.links[0][0].request(TextRequest, data=encode_text([("SendTargets", "All")]))
    ends.session.events.clear()
    ends.transfer()
    (answer,) = [event for event in ends.session.events if isinstance(event, TextAnswered)]
    return [value for key, value in decode_text(answer.data) if key == "TargetName"]


def test_discovery_shows_the_targets_that_a_login_would_find() -> None:
    by_name = node_with(AccessRule(initiators=frozenset({HOST})))
    assert discovered(by_name) == [TARGET]
    assert discovered(by_name, initiator_name=HOST + "2") == []
    by_address = node_with(AccessRule(networks=(ip_network("192.0.2.0/24"),)))
    assert discovered(by_address) == [TARGET]
    assert discovered(by_address, "198.51.100.1") == []
    by_chap = node_with(AccessRule(chap_names=frozenset({"alice"})), chap=SERVER)
    assert discovered(by_chap, chap=Chap(own=ALICE)) == [TARGET]
    assert discovered(by_chap, chap=Chap(own=BOB)) == []


@pytest.mark.parametrize("hidden", [False, True])
def test_without_authentication_discovery_shows_what_chap_could_open_unless_it_is_hidden(
    hidden: bool,
) -> None:
    node = node_with(AccessRule(chap_names=frozenset({"alice"})), hidden=hidden, chap=SERVER)
    node.discovery_chap = None
    assert discovered(node) == ([] if hidden else [TARGET])


def device_with(access: AccessList) -> TargetDevice:
    units = {lun: LogicalUnit(MemoryStore(1 << 20), derive_identity(TARGET, lun)) for lun in range(3)}
    return TargetDevice(TARGET, units, lun_maps=lun_maps(access, units))


def ask(ends: Pair2Ends, cdb: bytes, **data: Any) -> CommandEnded:
    ends.session.events.clear()
    ends.submit(cdb, **data)
    ends.transfer()
    (ended,) = [event for event in ends.session.events if isinstance(event, CommandEnded)]
    return ended


def luns(ends: Pair2Ends) -> list[int]:
    data = bytes(ask(ends, REPORT_LUNS, data_in=512).data_in)
    return [lun_from_bytes(data[at : at + 8]) for at in range(8, 8 + int.from_bytes(data[:4], "big"), 8)]


def test_a_rule_maps_and_masks_luns_and_may_forbid_to_write() -> None:
    access = AccessList(
        (
            AccessRule(networks=(ip_network("192.0.2.7/32"),), luns={0: 2, 4: 1}),
            AccessRule(networks=(ip_network("192.0.2.8/32"),), read_only=True),
            AccessRule(initiators=frozenset({HOST})),
        )
    )
    device = device_with(access)
    node = TargetNode([Target(name=TARGET, logical_units=device, access=access)])
    mapped, reader, writer = (
        ends_from(node, f"192.0.2.{number}", isid=bytes((0x80, 0, 0, 0, 0, number))) for number in (7, 8, 9)
    )
    for ends in (mapped, reader, writer):
        ends.connect()
        ask(ends, bytes(6))  # takes the unit attention of LUN 0
    assert (luns(mapped), luns(reader), luns(writer)) == ([0, 4], [0, 1, 2], [0, 1, 2])
    write, data = write_16(0, 1), bytes(range(256)) * 2
    assert ask(writer, write, data_out=data).status == 0
    refused = ask(reader, write, data_out=data)
    assert (refused.status, refused.sense[2] & 0x0F) == (2, 7), "DATA PROTECT"
    assert ask(mapped, write, data_out=data[::-1]).status == 0
    assert device.units[0].store.read(0, 512)[0] == data
    assert b"".join(device.units[2].store.read(0, 512)) == data[::-1]
    device.close()


def test_further_connections_have_to_fall_under_the_rule_of_their_session() -> None:
    access = AccessList(
        (
            AccessRule(networks=(ip_network("192.0.2.8/31"),), read_only=True),
            AccessRule(networks=(ip_network("192.0.2.0/24"),)),
        )
    )
    node = TargetNode([Target(name=TARGET, logical_units=RamDisk(), access=access)])
    ends = ends_from(node, "192.0.2.8")
    ends.connect(0)
    ends.address = "192.0.2.9"
    ends.connect(1)
    ends.address = "192.0.2.10"
    with pytest.raises(LoginFailed) as refused:
        ends.connect(2)
    assert refused.value.status == LoginStatus.AUTHORIZATION_FAILURE


def test_a_rule_refuses_what_can_never_be_right() -> None:
    with pytest.raises(ValueError, match="no iSCSI name"):
        AccessRule(initiators=frozenset({"host"}))
    with pytest.raises(ValueError, match="no LUN at all"):
        AccessRule(luns={})
