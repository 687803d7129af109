"""FCoE cores against each other, in memory: a forwarder with an ENode, two VN2VN ports, and peers that misbehave."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from fcsim.fcoe.enode import Enode, EnodeConfig, EnodeState
from fcsim.fcoe.ethernet import decode_ethernet, ethernet_fip, fabric_provided_mac
from fcsim.fcoe.fcf import Fcf, FcfConfig
from fcsim.fcoe.name_server import NameServer, Registration
from fcsim.fcoe.vn2vn import BEACON_PS, Vn2vnConfig, Vn2vnPort, Vn2vnState
from fcsim.fcp.initiator import CommandCompleted
from fcsim.live.link_services import els_request
from fcsim.live.n_port import NPort, NPortConfig, PortLoggedOut, ProcessLoggedIn
from fcsim.port.login import Offer
from fcsim.wire import fip as f
from fcsim.wire import name_server as ns
from fcsim.wire.codes import FcType, WellKnownAddress
from fcsim.wire.ct import CT_ACCEPT, CT_REJECT, CtExplanation, CtPreamble, encode_ct, request_ct
from fcsim.wire.els import decode_els
from fcsim.wire.els_commands import ElsCommand, RejectExplanation
from fcsim.wire.els_login import ClassOptions, ClassParameters, CommonFeatures, Fdisc, FlogiAccept
from fcsim.wire.els_services import LsRjt
from fcsim.wire.frame import DelimitedFrame, decode_frame, encode_frame
from tests.fcsim.test_fcp_exchanges import LUN_0, Disk, read_10, write_10

FORWARDER = bytes.fromhex("02fc00000001")
HOSTS = [bytes.fromhex(f"0200000000{number:02x}") for number in range(1, 9)]
TARGET_NAMES = NPortConfig(0x2000_00FC_0000_0001, 0x1000_00FC_0000_0001, Offer(16))
SECOND_PS = 10**12


def host_names(number: int) -> NPortConfig:
    return NPortConfig(0x3000 + number, 0x4000 + number, Offer(10), wants_targets=True)


def fcf(**values: Any) -> Fcf:
    return Fcf(FcfConfig(FORWARDER, 0x10, 0x11, 0x12, TARGET_NAMES, **values), Disk())


class Segment:
    """An Ethernet without a wire: what one core sends, all others get, after the timers that are due."""

    def __init__(self, *cores: Any) -> None:
        self.cores = list(cores)
        self.now_ps = 0
        self.frames: list[bytes] = []
        self.lose: Callable[[bytes], bool] = lambda _: False

    def run(self, until_ps: int) -> None:
        while True:
            moved = False
            for core in self.cores:
                for data in list(core.frames()):
                    moved = True
                    self.frames.append(data)
                    for other in self.cores:
                        if other is not core and not self.lose(data):
                            other.receive(data, self.now_ps)
            if moved:
                continue
            due = [moment for core in self.cores if (moment := core.next_deadline()) is not None]
            if not due or min(due) > until_ps:
                self.now_ps = until_ps
                return
            self.now_ps = max(self.now_ps, min(due))
            for core in self.cores:
                core.handle_timer(self.now_ps)


def good(
    segment: Segment, port: NPort, events: Callable[[], Any], cdb: bytes, **data: Any
) -> CommandCompleted:
    """Run a command to its end, told of the unit attention of a new nexus first."""
    (initiator,) = port.initiators.values()
    for _ in range(2):
        initiator.command(LUN_0, cdb, segment.now_ps, **data)
        for core in segment.cores:
            if getattr(core, "n_port", None) is port:
                core.handle_timer(segment.now_ps)
        segment.run(segment.now_ps + 10**9)
        done = [event for event in events() if isinstance(event, CommandCompleted)]
        assert len(done) == 1
        if done[0].status == 0:
            return done[0]
    raise AssertionError(done[0])


def test_an_enode_finds_the_forwarder_registers_and_reads_what_it_wrote() -> None:
    host, switch = Enode(EnodeConfig(HOSTS[0], host_names(1))), fcf()
    segment = Segment(host, switch)
    segment.run(SECOND_PS)
    assert host.state is EnodeState.UP
    assert host.mac_address == fabric_provided_mac(f.DEFAULT_FC_MAP, host.n_port.n_port_id)
    assert [event.peer for event in host.events() if isinstance(event, ProcessLoggedIn)] == [0x010202]
    entry = switch.name_server.ports[host.n_port.n_port_id]
    assert (entry.port_name, ns.registered_types(entry.fc4_types), entry.fcp_features) == (
        0x3001,
        (FcType.FCP,),
        2,
    )
    data = bytes(range(256)) * 40
    good(segment, host.n_port, host.events, write_10(7, 20), data_out=data)
    assert good(segment, host.n_port, host.events, read_10(7, 20), data_in_length=len(data)).data_in == data
    assert not host.ignored


def fdisc(enode_mac: bytes, port_name: int) -> bytes:
    """An FDISC inside FIP, as an ENode sends it for one more N_Port (FC-BB-6)."""
    message = Fdisc(
        bb_credit=0,
        common_features=CommonFeatures.MULTIPLE_N_PORT_ID,
        bb_receive_data_field_size=2048,
        port_name=port_name,
        node_name=port_name + 1,
        class_3=ClassParameters(service_options=ClassOptions.VALID | ClassOptions.SEQUENTIAL_DELIVERY),
    )
    frame = els_request(message, s_id=0, d_id=WellKnownAddress.F_PORT_CONTROLLER, ox_id=9)
    fip = f.Fip(
        operation=f.FipOperation.LINK_SERVICE,
        subcode=f.LinkServiceSubcode.REQUEST,
        flags=f.FipFlags.FPMA,
        descriptors=(
            f.EncapsulatedFdisc(frame=encode_frame(frame)),
            f.MacAddressDescriptor(mac_address=bytes(6)),
        ),
    )
    return ethernet_fip(fip, FORWARDER, enode_mac)


def fdisc_answer(segment: Segment, switch: Fcf, data: bytes) -> tuple[Any, int, bytes]:
    """What the forwarder answers: the message, the address it goes to, and the MAC address that was given."""
    switch.receive(data, segment.now_ps)
    answers = map(decode_ethernet, list(switch.frames()))
    fip = next(inner for header, inner in answers if header.destination == data[6:12])
    assert isinstance(fip, f.Fip)
    inside = next(one for one in fip.descriptors if isinstance(one, f.EncapsulatedFdisc))
    mac = next(one for one in fip.descriptors if isinstance(one, f.MacAddressDescriptor))
    frame = decode_frame(inside.frame)
    return decode_els(frame.payload, ElsCommand.FDISC), frame.header.d_id, mac.mac_address


def test_fdisc_gives_a_second_n_port_an_address_of_its_own_on_the_same_enode() -> None:
    """N_Port_ID virtualisation: FLOGI first, then FDISC for each further N_Port (FC-LS)."""
    host, switch = Enode(EnodeConfig(HOSTS[0], host_names(1))), fcf()
    segment = Segment(host, switch)
    segment.run(SECOND_PS)
    accept, number, mac = fdisc_answer(segment, switch, fdisc(HOSTS[0], 0x5000))
    assert isinstance(accept, FlogiAccept)
    assert number not in (0, host.n_port.n_port_id)
    assert mac == fabric_provided_mac(f.DEFAULT_FC_MAP, number)
    assert switch.name_server.ports[number].port_name == 0x5000
    assert set(switch.logins) == {host.n_port.n_port_id, number}
    again = fdisc_answer(segment, switch, fdisc(HOSTS[0], 0x5000))
    assert again[1:] == (number, mac), "the same name gets the same address"


def test_fdisc_without_flogi_is_refused() -> None:
    switch = fcf()
    answer, _, mac = fdisc_answer(Segment(switch), switch, fdisc(HOSTS[0], 0x5000))
    assert isinstance(answer, LsRjt)
    assert answer.explanation == RejectExplanation.N_PORT_LOGIN_REQUIRED
    assert mac == bytes(6)
    assert not switch.logins


def test_fdisc_of_another_enodes_name_is_refused() -> None:
    first, second = (Enode(EnodeConfig(HOSTS[n], host_names(n + 1))) for n in (0, 1))
    switch = fcf()
    segment = Segment(first, second, switch)
    segment.run(SECOND_PS)
    answer, _, _ = fdisc_answer(segment, switch, fdisc(HOSTS[1], 0x3001))
    assert isinstance(answer, LsRjt)
    assert first.n_port.n_port_id in switch.logins


def test_a_second_enode_is_announced_to_the_first_and_frames_between_them_are_forwarded() -> None:
    first, switch = Enode(EnodeConfig(HOSTS[0], host_names(1))), fcf()
    segment = Segment(first, switch)
    segment.run(SECOND_PS)
    second = Enode(EnodeConfig(HOSTS[1], host_names(2)), now_ps=segment.now_ps)
    segment.cores.append(second)
    segment.run(2 * SECOND_PS)
    assert second.state is EnodeState.UP
    assert second.n_port.n_port_id in first.n_port.logged_in, "RSCN told the first one"


def test_a_silent_enode_is_logged_out_after_two_and_a_half_periods() -> None:
    host, switch = Enode(EnodeConfig(HOSTS[0], host_names(1))), fcf(fka_adv_ms=1000)
    segment = Segment(host, switch)
    segment.run(10 * SECOND_PS)
    (address,) = switch.logins
    assert host.state is EnodeState.UP, "keep alives keep it"
    segment.cores.remove(host)
    list(switch.events())
    segment.run(13 * SECOND_PS)
    assert not switch.logins
    assert address not in switch.name_server.ports
    assert [event.peer for event in switch.events() if isinstance(event, PortLoggedOut)] == [address]


def test_an_enode_whose_forwarder_is_silent_looks_for_one_again() -> None:
    host, switch = Enode(EnodeConfig(HOSTS[0], host_names(1))), fcf(fka_adv_ms=1000)
    segment = Segment(host, switch)
    segment.run(SECOND_PS)
    segment.cores.remove(switch)
    segment.run(5 * SECOND_PS)
    assert host.state is EnodeState.SOLICITING
    assert not host.n_port.initiators


def test_a_forwarder_that_began_anew_has_its_enodes_log_in_again() -> None:
    host, switch = Enode(EnodeConfig(HOSTS[0], host_names(1))), fcf(fka_adv_ms=1000)
    segment = Segment(host, switch)
    segment.run(3 * SECOND_PS)
    again = Fcf(switch.config, Disk(), now_ps=segment.now_ps)
    segment.cores = [host, again]
    list(host.events())
    segment.run(4 * SECOND_PS)
    reasons = [event.reason for event in host.events() if isinstance(event, PortLoggedOut)]
    assert "the forwarder cleared the virtual link" in reasons
    assert host.state is EnodeState.UP
    assert host.n_port.n_port_id in again.logins
    assert good(segment, host.n_port, host.events, read_10(0, 1), data_in_length=512).status == 0


def test_logins_beyond_the_limit_are_refused_and_cost_nothing() -> None:
    hosts = [Enode(EnodeConfig(mac, host_names(number))) for number, mac in enumerate(HOSTS[:4])]
    switch = fcf(login_limit=2)
    Segment(*hosts, switch).run(SECOND_PS)
    assert sum(host.state is EnodeState.UP for host in hosts) == len(switch.logins) == 2
    assert len(switch.name_server.ports) == 3


def test_a_frame_with_another_ports_address_is_ignored() -> None:
    host, switch = Enode(EnodeConfig(HOSTS[0], host_names(1))), fcf()
    segment = Segment(host, switch)
    segment.run(SECOND_PS)
    stolen = next(data for data in segment.frames if data[6:12] == host.mac_address)
    before = switch.ignored
    switch.receive(stolen[:6] + HOSTS[5] + stolen[12:], segment.now_ps)
    assert switch.ignored == before + 1
    assert not list(switch.frames())


def vn2vn(number: int, *, executor: Any = None, quiet: bool = False, address: int | None = None) -> Vn2vnPort:
    names = NPortConfig(0x3000 + number, 0x4000 + number, Offer(10), wants_targets=executor is None)
    config = Vn2vnConfig(HOSTS[number], names, address or 0x100 + number, quiet=quiet)
    return Vn2vnPort(config, executor)


@pytest.mark.parametrize(("initiator", "target"), [(1, 2), (2, 1)])
@pytest.mark.parametrize("quiet", [False, True])
def test_two_vn2vn_ports_find_each_other_and_carry_fcp(initiator: int, target: int, quiet: bool) -> None:
    host, disk = vn2vn(initiator), vn2vn(target, executor=Disk(), quiet=quiet)
    segment = Segment(host, disk)
    segment.run(10 * SECOND_PS)
    assert host.state is disk.state is Vn2vnState.UP
    assert list(host.n_port.initiators) == [0x100 + target]
    data = b"vn2vn!!!" * 512
    good(segment, host.n_port, host.events, write_10(0, 8), data_out=data)
    assert good(segment, host.n_port, host.events, read_10(0, 8), data_in_length=4096).data_in == data


def test_a_quiet_port_says_nothing_before_another_does() -> None:
    disk = vn2vn(1, executor=Disk(), quiet=True)
    segment = Segment(disk)
    segment.run(100 * SECOND_PS)
    assert not segment.frames


def test_of_two_ports_with_one_address_the_lower_name_chooses_another() -> None:
    low, high = vn2vn(1, address=0x77), vn2vn(2, address=0x77, executor=Disk())
    Segment(low, high).run(10 * SECOND_PS)
    assert high.n_port.n_port_id == 0x77
    assert low.n_port.n_port_id == 0x78
    assert list(low.n_port.initiators) == [0x77]


def test_a_port_without_beacons_is_forgotten_after_two_and_a_half_periods() -> None:
    host, disk = vn2vn(1), vn2vn(2, executor=Disk())
    segment = Segment(host, disk)
    segment.run(10 * SECOND_PS)
    segment.cores.remove(host)
    segment.run(10 * SECOND_PS + 2 * BEACON_PS)
    assert disk.neighbours
    segment.run(10 * SECOND_PS + 3 * BEACON_PS)
    assert not disk.neighbours
    assert not disk.n_port.logged_in


def test_a_flood_of_claims_is_bounded() -> None:
    disk = vn2vn(1, executor=Disk())
    for number in range(1000):
        mac = fabric_provided_mac(0x0EFD00, number + 0x200)
        described = (
            f.MacAddressDescriptor(mac_address=mac),
            f.VxPortIdentification(mac_address=mac, address_identifier=number + 0x200, port_name=number),
        )
        fip = f.Fip(operation=5, subcode=f.Vn2vnSubcode.CLAIM_NOTIFICATION, descriptors=described)
        disk.receive(ethernet_fip(fip, f.ALL_VN2VN_ENODE_MACS, mac), 0)
    assert len(disk.neighbours) == 64
    assert disk.ignored == 936


@pytest.mark.parametrize("make", [fcf, lambda: vn2vn(1, executor=Disk())])
def test_frames_cut_short_or_with_a_bit_turned_are_counted_and_never_raise(make: Callable[[], Any]) -> None:
    host = Enode(EnodeConfig(HOSTS[0], host_names(1)))
    segment = Segment(host, fcf())
    segment.run(SECOND_PS)
    others = Segment(vn2vn(2), vn2vn(3, executor=Disk()))
    others.run(10 * SECOND_PS)
    core = make()
    for data in segment.frames + others.frames:
        for size in (0, 13, 14, 20, len(data) // 2, len(data) - 1):
            core.receive(data[:size], 0)
        for position in range(0, min(len(data), 120), 3):
            core.receive(data[:position] + bytes((data[position] ^ 0x55,)) + data[position + 1 :], 0)
        for answer in core.frames():
            decode_ethernet(answer)
    assert core.ignored > 100


# -- the name server ----------------------------------------------------------------------------------------------


def ask(server: NameServer, body: Any, max_residual: int = 0) -> Any:
    return server.answer(encode_ct(request_ct(body, CtPreamble(command_code=0, max_residual=max_residual))))


def server_with(count: int) -> NameServer:
    server = NameServer()
    for number in range(1, count + 1):
        types = ns.fc4_types(FcType.FCP) if number % 2 else bytes(32)
        server.add(
            Registration(number, 0x100 + number, 0x200 + number, fc4_types=types, fcp_features=number % 4)
        )
    return server


def test_every_request_of_the_table_is_answered() -> None:
    values = {
        "port_id": 1,
        "port_name": 0x101,
        "node_name": 0x201,
        "symbolic_port_name": b"port",
        "symbolic_node_name": b"node",
        "fc4_types": ns.fc4_types(FcType.FCP),
        "fc4_features": 1,
        "class_of_service": 8,
        "port_type": ns.PortType.N_PORT,
    }
    for kind in ns.REQUESTS:
        needed = {name: values[name] for name in kind.__dataclass_fields__ if name in values}
        answer = ask(server_with(3), kind(**needed))
        assert answer.preamble.command_code == CT_ACCEPT, kind
        accept = ns.ACCEPTS.get(int(kind.COMMAND))
        assert type(answer.body) is (accept or bytes), kind
        encode_ct(answer)


def test_what_was_registered_is_what_is_told() -> None:
    server = server_with(1)
    ask(server, ns.RspnId(port_id=1, symbolic_port_name=b"fcoe over veth0"))
    ask(server, ns.RffId(port_id=1, fc4_features=3))
    assert ask(server, ns.GspnId(port_id=1)).body.symbolic_name == b"fcoe over veth0"
    assert ask(server, ns.GffId(port_id=1)).body.fc4_features[4:8] == b"\0\0\0\3"
    assert server.take_changed() == {1}
    assert not server.take_changed()


@pytest.mark.parametrize(
    ("body", "explanation"),
    [
        (ns.GpnId(port_id=9), CtExplanation.PORT_ID_NOT_REGISTERED),
        (ns.GidPn(port_name=9), CtExplanation.PORT_NAME_NOT_REGISTERED),
        (ns.GidFt(fc4_type=FcType.NVME), CtExplanation.FC4_TYPES_NOT_REGISTERED),
        (ns.RnnId(port_id=9, node_name=1), CtExplanation.PORT_ID_NOT_REGISTERED),
    ],
)
def test_what_is_not_there_is_refused_with_the_reason(body: Any, explanation: int) -> None:
    server = server_with(2)
    before = dict(server.ports)
    answer = ask(server, body)
    assert (answer.preamble.command_code, answer.preamble.explanation) == (CT_REJECT, explanation)
    assert server.ports == before


def test_a_list_is_cut_to_the_askers_room_and_says_so() -> None:
    server = server_with(9)
    whole = ask(server, ns.GpnFt()).body.entries
    assert [entry.port_id for entry in whole] == [1, 3, 5, 7, 9]
    assert [entry.last for entry in whole] == [False] * 4 + [True]
    cut = ask(server, ns.GpnFt(), max_residual=8)
    assert [entry.port_id for entry in cut.body.entries] == [1, 3]
    assert (cut.body.entries[-1].last, cut.preamble.max_residual) == (True, 12)


def test_the_reader_of_ethernet_takes_fip_and_fcoe_alone() -> None:
    host, switch = Enode(EnodeConfig(HOSTS[0], host_names(1))), fcf()
    segment = Segment(host, switch)
    segment.run(SECOND_PS)
    kinds = {type(decode_ethernet(data)[1]) for data in segment.frames}
    assert kinds == {f.Fip, DelimitedFrame}
