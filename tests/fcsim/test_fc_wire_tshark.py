"""A third opinion: tshark reads what we write, field by field; and our Lua script where tshark is wrong or silent."""

from __future__ import annotations

import json
import shutil
import struct
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pytest

from fcsim.wire import els_login as login
from fcsim.wire import els_notices as notices
from fcsim.wire import els_services as services
from fcsim.wire import fcip, fip, fspf, name_server, sw_ils
from fcsim.wire import sw_zoning as zoning
from fcsim.wire.bls import BaAcc, BaRjt
from fcsim.wire.codes import FCtl, FcType, RCtl
from fcsim.wire.ct import CT_ACCEPT, CtMessage, CtPreamble, request_ct
from fcsim.wire.derive import derive
from fcsim.wire.fcoe import encode_fcoe
from fcsim.wire.fcp import FcpCmnd, FcpRsp, FcpXferRdy
from fcsim.wire.frame import (
    DelimitedFrame,
    Frame,
    FrameHeader,
    NetworkHeader,
    VirtualFabricTaggingHeader,
    encode_delimited,
    encode_frame,
)
from fcsim.wire.ordered_sets import BB_SCR, EOF, LR, R_RDY, SOF, vc_rdy
from fcsim.wire.payload import FcMessage, encode_payload

pytestmark = pytest.mark.slow

SCRIPT = Path(__file__).parent.parent.parent / "tools" / "wireshark" / "sancredit.lua"
ETHERNET, FC_2, FC_2_DELIMITED, RAW_IP = 1, 224, 225, 101
REQUEST = FCtl.FIRST_SEQUENCE | FCtl.END_SEQUENCE | FCtl.SEQUENCE_INITIATIVE
REPLY = FCtl.EXCHANGE_RESPONDER | FCtl.LAST_SEQUENCE | FCtl.END_SEQUENCE


def run_tshark(path: Path, *options: str) -> str:
    tool = shutil.which("tshark")
    if tool is None:
        pytest.skip("tshark is missing: apt-get install tshark")
    argv = [tool, "-r", str(path), *options]
    return subprocess.run(argv, capture_output=True, text=True, timeout=60, check=True).stdout


def read_by_tshark(path: Path, *options: str) -> list[dict[str, list[str]]]:
    """Per frame, every value of every field."""
    frames = []
    for frame in json.loads(run_tshark(path, *options, "-T", "json"), object_pairs_hook=lambda items: items):
        flat: dict[str, list[str]] = {}
        _flatten(frame, flat)
        frames.append(flat)
    return frames


def _flatten(items: Any, into: dict[str, list[str]]) -> None:
    for key, value in items:
        if isinstance(value, list) and value and isinstance(value[0], tuple | list):
            _flatten(value, into)
        elif isinstance(value, str):
            into.setdefault(key, []).append(value)


def number(text: str) -> int:
    if text in ("True", "False"):
        return int(text == "True")
    if ":" in text or (text.count(".") == 2):
        return int(text.replace(":", "").replace(".", ""), 16)
    return int(text, 0)


def write_pcap(path: Path, link_type: int, records: Sequence[bytes]) -> None:
    out = [struct.pack("<IHHiIII", 0xA1B2C3D4, 2, 4, 0, 0, 262144, link_type)]
    out += [struct.pack("<IIII", n, 0, len(data), len(data)) + data for n, data in enumerate(records, 1)]
    path.write_bytes(b"".join(out))


@dataclass(frozen=True)
class Case:
    """A message, the R_CTL and TYPE of its frame, and what tshark has to say of it."""

    message: FcMessage
    r_ctl: int
    type_: int
    says: dict[str, int | str | tuple[int, ...]] = field(default_factory=dict)
    reply: bool = False
    answers: bool = False
    """The case before this one is the request; tshark needs it in order to read an accept."""


def els(message: Any, says: dict[str, Any], reply: bool = False, answers: bool = False) -> Case:
    r_ctl = RCtl.ELS_REPLY if reply or answers else RCtl.ELS_REQUEST
    return Case(message, r_ctl, FcType.ELS, says, reply or answers, answers)


def sw(message: Any, says: dict[str, Any], reply: bool = False, answers: bool = False) -> Case:
    r_ctl = RCtl.SOLICITED_CONTROL if reply or answers else RCtl.UNSOLICITED_CONTROL
    prefixed = {f"swils.{name}": value for name, value in says.items()}
    return Case(message, r_ctl, FcType.SW_ILS, prefixed, reply or answers, answers)


def ns(body: Any, says: dict[str, Any], answers: bool = False) -> Case:
    message = CtMessage(CtPreamble(command_code=CT_ACCEPT), body) if answers else request_ct(body)
    r_ctl = RCtl.SOLICITED_CONTROL if answers else RCtl.UNSOLICITED_CONTROL
    prefixed = {f"fcdns.{name}": value for name, value in says.items()}
    return Case(message, r_ctl, FcType.FC_CT, prefixed, answers, answers)


CLASS_3 = login.ClassParameters(
    service_options=0x8880,
    initiator_control=0x0010,
    recipient_control=0x0008,
    receive_data_field_size=2048,
    concurrent_sequences=17,
    ee_credit=33,
    open_sequences_per_exchange=5,
)
LOGIN = {
    "bb_credit": 10,
    "common_features": 0x8F02,
    "bb_sc_n": 9,
    "bb_receive_data_field_size": 2112,
    "e_d_tov": 2001,
    "port_name": 0x2000_0102_0304_0506,
    "node_name": 0x1000_0102_0304_0507,
    "class_1": replace(CLASS_3, receive_data_field_size=1024, ee_credit=1),
    "class_2": replace(CLASS_3, receive_data_field_size=512, ee_credit=2),
    "class_3": CLASS_3,
}
LOGIN_SAYS = {
    "fcels.logi.b2b": 10,
    "fcels.logi.bbscnum": 9,
    "fcels.logi.rcvsize": 2112,
    "fcels.edtov": 2001,
    "fcels.npname": 0x2000_0102_0304_0506,
    "fcels.fnname": 0x1000_0102_0304_0507,
    "fcels.logi.cmnfeatures": 0x8F02,
    "fcels.cmn.bbb": 1,
    "fcels.logi.clsrcvsize": (1024, 512, 2048),
    "fcels.logi.e2e": (1, 2, 33),
    "fcels.logi.totconseq": (17, 17, 17),  # tshark has the names of the common and the class field swapped
    "fcels.logi.openseq": (5, 5, 5),
}
PAGE = login.ServiceParameterPage(
    originator_associator_valid=True,
    establish_image_pair=True,
    originator_associator=0x01020304,
    responder_associator=0x05060708,
    service_parameters=0x01B2,
)
LINK = fspf.LinkDescriptor(link_id=0x99, output_port_index=0xA001, neighbor_port_index=0xA002, link_cost=1000)
RECORD = fspf.LinkStateRecord(
    lsr_age=277,
    link_state_id=0xAD,
    advertising_domain_id=0xAE,
    incarnation=0x80000002,
    checksum=0xA685,
    links=(LINK,),
)
# tshark does not skip the fill bytes after a name: with names of whole words there are none.
ZONE = zoning.ZoneObject(
    zone_name=zoning.ZoneName(text=b"zone"),
    members=(zoning.ZoneMember(member_type=1, flags=0, identifier=bytes.fromhex("2000010203040506")),),
)
ZONE_SET = zoning.ActiveZoneSet(zone_name=zoning.ZoneName(text=b"set1"), objects=(ZONE,))

CASES = [
    els(login.Flogi(**LOGIN), {**LOGIN_SAYS, "fcels.opcode": 4}),
    els(
        login.Plogi(**LOGIN),
        {**LOGIN_SAYS, "fcels.opcode": 3, "fcels.logi.maxconseq": 255, "fcels.logi.reloff": 0x1F},
    ),
    els(
        login.PlogiAccept(**LOGIN),
        {**LOGIN_SAYS, "fcels.opcode": 2, "fcels.logi.maxconseq": 255},
        answers=True,
    ),
    els(login.Flogi(**LOGIN), {}),
    els(login.FlogiAccept(**LOGIN, r_a_tov=10_000), LOGIN_SAYS, answers=True),
    els(login.Fdisc(**LOGIN), {**LOGIN_SAYS, "fcels.opcode": 0x51}),
    els(login.Pdisc(**LOGIN), {**LOGIN_SAYS, "fcels.opcode": 0x50}),
    els(login.Logo(n_port_id=0x010203, port_name=0x11), {"fcels.portid": 0x010203, "fcels.npname": 0x11}),
    els(
        login.Prli(pages=(PAGE,)),
        {
            "fcels.prlilo.type": 8,
            "fcels.prlilo.originator_pa": 0x01020304,
            "fcels.prlilo.responder_pa": 0x05060708,
            "fcels.prliloflags": 0xA0,
            "fcels.fcpflags": 0x01B2,
            "fcels.fcpflags.initiator": 1,
            "fcels.fcpflags.target": 1,
            "fcels.fcpflags.ccomp": 1,
            "fcels.prlilo.page_length": 16,
            "fcels.prlilo.payload_length": 20,
        },
    ),
    els(
        login.PrliAccept(pages=(replace(PAGE, response_code=1),)),
        {"fcels.prlilo.type": 8, "fcels.prliloflags": 0xA1, "fcels.fcpflags": 0x01B2},
        answers=True,
    ),
    els(
        login.Prlo(pages=(login.PrloPage(originator_associator=9),)),
        {"fcels.prlilo.originator_pa": 9, "fcels.prlilo.payload_length": 20},
    ),
    els(
        services.LsRjt(reason=9, explanation=0x29, vendor_specific=7),
        {"fcels.rjt.reason": 9, "fcels.rjt.detail": 0x29, "fcels.rjt.vnduniq": 7},
        reply=True,
    ),
    els(services.Rtv(), {}),
    els(services.RtvAccept(r_a_tov=10_000, e_d_tov=2_000), {}, answers=True),
    els(services.Rls(port_id=0x010203), {}),
    els(services.RlsAccept(link_failures=1, invalid_crcs=6), {}, answers=True),
    els(services.Echo(data=b"abcd"), {}),
    els(
        services.Rrq(originator_s_id=0x010203, exchange_ox_id=0x1234, exchange_rx_id=0x5678),
        {"fcels.opcode": 0x12},
    ),
    els(
        services.Rec(originator_s_id=0x010203, exchange_ox_id=0x1234, exchange_rx_id=0x5678),
        {"fcels.oxid": 0x1234, "fcels.rxid": 0x5678},
    ),
    els(
        services.RecAccept(
            exchange_ox_id=0x1234,
            exchange_rx_id=0x5678,
            originator_id=0x010203,
            responder_id=0x040506,
            fc4_value=77,
            e_stat=1 << 29,
        ),
        {
            "fcels.oxid": 0x1234,
            "fcels.rxid": 0x5678,
            "fcels.rec.fc4value": 77,
            "fcels.estat": 1 << 29,
            "fcels.estat.complete": 1,
        },
        answers=True,
    ),
    els(
        services.Adisc(hard_address=0x010203, port_name=5, node_name=6, n_port_id=0x040506),
        {"fcels.hrdaddr": 0x010203, "fcels.npname": 5, "fcels.fnname": 6, "fcels.portid": 0x040506},
    ),
    els(
        services.AdiscAccept(hard_address=1, port_name=5, node_name=6, n_port_id=2),
        {"fcels.hrdaddr": 1, "fcels.npname": 5, "fcels.fnname": 6, "fcels.portid": 2},
        answers=True,
    ),
    els(
        services.Rscn(
            pages=(services.AffectedPortPage(event_qualifier=1, address_format=2, address=0xAD0000),)
        ),
        {
            "fcels.rscn.evqual": 1,
            "fcels.rscn.addrfmt": 2,
            "fcels.rscn.domain": 0xAD,
            "fcels.rscn.page_len": 4,
            "fcels.rscn.payload_len": 8,
        },
    ),
    els(services.Scr(function=3), {"fcels.scr.regn": 3}),
    els(
        services.Fan(loop_fabric_address=0x010203, fabric_port_name=7, fabric_name=8),
        {"fcels.faddr": 0x010203, "fcels.fpname": 7, "fcels.fnname": 8},
    ),
    sw(
        sw_ils.Esc(vendor_id=b"sancredi", protocols=(sw_ils.ProtocolDescriptor(vendor_id=b"vendor12"),)),
        {"esc.payload_length": 24, "esc.swvendor": "sancredi", "esc.vendorid": "vendor12", "esc.protocol": 2},
    ),
    sw(
        sw_ils.EscAccept(vendor_id=b"sancredi", protocol=sw_ils.ProtocolDescriptor(vendor_id=b"vendor12")),
        {"esc.swvendor": "sancredi", "esc.vendorid": "vendor12", "esc.protocol": 2},
        answers=True,
    ),
    sw(
        sw_ils.Efp(
            principal_switch_priority=128,
            principal_switch_name=5,
            records=(sw_ils.DomainRecord(domain_id=0x99, switch_name=6),),
        ),
        {
            "efp.recordlen": 16,
            "efp.payloadlen": 32,
            "efp.psprio": 128,
            "efp.psname": 5,
            "efp.rectype": 1,
            "efp.domid": 0x99,
            "efp.sname": 6,
        },
    ),
    sw(
        sw_ils.EfpAccept(principal_switch_priority=2, principal_switch_name=5),
        {"efp.recordlen": 16, "efp.payloadlen": 16, "efp.psprio": 2, "efp.psname": 5},
        answers=True,
    ),
    sw(sw_ils.Dia(switch_name=9), {"dia.sname": 9}),
    sw(sw_ils.DiaAccept(switch_name=10), {"dia.sname": 10}, answers=True),
    sw(
        sw_ils.Rdi(switch_name=9, domains=(sw_ils.RequestedDomain(domain_id=0xAD),)),
        {"rdi.len": 16, "rdi.reqsn": 9, "requested_domain_id": 0xAD},
    ),
    sw(
        sw_ils.RdiAccept(switch_name=9, domains=(sw_ils.RequestedDomain(domain_id=0xAD),)),
        {"rdi.len": 16, "rdi.reqsn": 9, "granted_domain_id": 0xAD},
        answers=True,
    ),
    sw(sw_ils.BuildFabric(), {"opcode": 0x17}),
    sw(sw_ils.ReconfigureFabric(), {"opcode": 0x18}),
    sw(
        sw_ils.SwRscn(
            event_type=1,
            address_format=0,
            affected_port=0x010203,
            detection_function=1,
            entries=(sw_ils.SwRscnEntry(port_state=2, port_id=0x040506, port_name=7, node_name=8),),
        ),
        {
            "rscn.evtype": 1,
            "rscn.affectedport": 0x010203,
            "rscn.detectfn": 1,
            "rscn.num_entries": 1,
            "rscn.portstate": 2,
            "rscn.portid": 0x040506,
            "rscn.pwwn": 7,
            "rscn.nwwn": 8,
        },
    ),
    sw(
        sw_ils.SwRjt(reason=9, explanation=0x19, vendor_specific=3),
        {"rjt.reason": 9, "rjt.reasonexpl": 0x19, "rjt.vendor": 3},
        reply=True,
    ),
    sw(
        fspf.Hlo(originating_domain_id=0x99, recipient_domain_id=0xAD, originating_port_index=0xA001),
        {
            "fspf.ver": 2,
            "fspf.origdomid": 0x99,
            "hlo.hloint": 20,
            "hlo.deadint": 80,
            "hlo.rcvdomid": 0xAD,
            "hlo.origpidx": 0xA001,
        },
    ),
    sw(
        fspf.Lsu(originating_domain_id=0x99, flags=1, records=(RECORD,)),
        {
            "lsupdate.flags": 1,
            "lsupdate.num_of_lsrs": 1,
            "lsr.type": 1,
            "lsr.age": 277,
            "ls.id": 0xAD,
            "lsr.advdomid": 0xAE,
            "lsr.incid": 0x80000002,
            "lsr.checksum": 0xA685,
            "lsr.length": 44,
            "lsr.number_of_links": 1,
            "ldr.linkid": 0x99,
            "ldr.out_portidx": 0xA001,
            "ldr.nbr_portidx": 0xA002,
            "ldr.linktype": 1,
            "ldr.linkcost": 1000,
        },
    ),
    sw(
        fspf.Lsa(
            originating_domain_id=0x99,
            flags=2,
            records=(
                fspf.LinkStateHeader(
                    link_state_id=1, advertising_domain_id=2, incarnation=3, checksum=4, lsr_length=28
                ),
            ),
        ),
        {
            "lsack.flags": 2,
            "lsack.num_of_lsr_headers": 1,
            "ls.id": 1,
            "lsr.advdomid": 2,
            "lsr.incid": 3,
            "lsr.checksum": 4,
            "lsr.length": 28,
        },
    ),
    sw(
        zoning.Mr(active=(ZONE_SET,), full=(zoning.FullZoneSet(objects=(ZONE,)),)),
        {
            "mr.activezonesetname": "set1",
            "zone.zoneobjname": "zone",
            "zone.zoneobjtype": 2,
            "zone.num_members": 1,
            "zone.mbrtype": 1,
            "zone.identifier_length": 8,
            "zone.mbrid.fcwwn": 0x2000010203040506,
            "zone.active_zoneset_length": 40,
            "zone.full_zone_set_length": 32,
        },
    ),
    sw(
        zoning.MrAccept(status=1, reason=2, vendor_specific=3),
        {"zone.status": 1, "zone.reason": 2, "zone.vendor_unique": 3},
        answers=True,
    ),
    sw(zoning.Aca(domain_ids=(0x99, 0xAD)), {"aca.domain_id_list_length": 8}),
    sw(
        zoning.Sfc(operation=3, zone_set=(ZONE_SET,)),
        {"sfc.opcode": 3, "sfc.zoneset_length": 40, "sfc.zonename": "set1"},
    ),
    ns(name_server.GaNxt(port_id=0x010203), {"opcode": 0x100, "req.portid": 0x010203}),
    ns(
        name_server.AllOfPort(
            port_type=1,
            port_id=2,
            port_name=3,
            symbolic_port_name=b"port",
            node_name=4,
            symbolic_node_name=b"node!",
            class_of_service=8,
            fc4_types=name_server.fc4_types(8),
            fabric_port_name=5,
            hard_address=6,
        ),
        {
            "rply.porttype": 1,
            "rply.portid": 2,
            "rply.pname": 3,
            "rply.spnamelen": 4,
            "rply.spname": "port",
            "rply.nname": 4,
            "rply.snamelen": 5,
            "rply.sname": "node!",
            "rply.fpname": 5,
            "rply.hrdaddr": 6,
            "fc4types.fcp": 1,
        },
        answers=True,
    ),
    ns(name_server.GpnId(port_id=0x010203), {"opcode": 0x112, "req.portid": 0x010203}),
    ns(name_server.PortNameAccept(port_name=9), {"rply.pname": 9}, answers=True),
    ns(name_server.GnnId(port_id=1), {"req.portid": 1}),
    ns(name_server.NodeNameAccept(node_name=9), {"rply.nname": 9}, answers=True),
    ns(name_server.GspnId(port_id=1), {"req.portid": 1}),
    ns(
        name_server.SymbolicNameAccept(symbolic_name=b"name"),
        {"rply.spnamelen": 4, "rply.spname": "name"},
        answers=True,
    ),
    ns(name_server.GidPn(port_name=5), {"opcode": 0x121, "req.portname": 5}),
    ns(name_server.GidNn(node_name=5), {"opcode": 0x131, "req.nname": 5}),
    ns(
        name_server.GidFt(domain_id_scope=1, area_id_scope=2, fc4_type=8),
        {"opcode": 0x171, "req.domainid": 1, "req.areaid": 2, "req.fc4type": 8},
    ),
    ns(
        name_server.PortList(
            entries=(name_server.PortEntry(port_id=7), name_server.PortEntry(last=True, port_id=8))
        ),
        {"rply.portid": (7, 8)},
        answers=True,
    ),
    ns(
        name_server.GidPt(port_type=1, domain_id_scope=2),
        {"opcode": 0x1A1, "req.porttype": 1, "req.domainid": 2},
    ),
    ns(name_server.RpnId(port_id=1, port_name=2), {"opcode": 0x212, "req.portid": 1, "req.portname": 2}),
    ns(name_server.RnnId(port_id=1, node_name=2), {"opcode": 0x213, "req.portid": 1, "req.nname": 2}),
    ns(
        name_server.RftId(port_id=1, fc4_types=name_server.fc4_types(8)),
        {"opcode": 0x217, "req.portid": 1, "fc4types.fcp": 1},
    ),
    ns(
        name_server.RspnId(port_id=1, symbolic_port_name=b"port"),
        {"opcode": 0x218, "req.portid": 1, "req.spnamelen": 4, "req.spname": "port"},
    ),
    ns(
        name_server.RffId(port_id=1, fc4_features=2),
        {"opcode": 0x21F, "req.portid": 1, "req.fc4type": 8, "fc4features.i": 1},
    ),
    ns(
        name_server.RsnnNn(node_name=2, symbolic_node_name=b"node!"),
        {"opcode": 0x239, "req.nname": 2, "req.snamelen": 5, "req.sname": "node!"},
    ),
    Case(
        FcpCmnd(
            lun=b"\0\x05" + bytes(6),
            crn=3,
            task_attribute=1,
            task_management=0x10,
            rddata=True,
            cdb=b"\x28" + bytes(15),
            fcp_dl=4096,
        ),
        RCtl.UNSOLICITED_COMMAND,
        FcType.FCP,
        {
            "fcp.lun": 5,
            "fcp.crn": 3,
            "fcp.taskattr": 1,
            "fcp.mgmt.flags.lu_reset": 1,
            "fcp.rddata": 1,
            "fcp.wrdata": 0,
            "fcp.dl": 4096,
            "fcp.addlcdblen": 0,
        },
    ),
    Case(
        FcpXferRdy(data_ro=512, burst_len=2048),
        RCtl.DATA_DESCRIPTOR,
        FcType.FCP,
        {"fcp.data_ro": 512, "fcp.burstlen": 2048},
        True,
    ),
    Case(
        FcpRsp(
            retry_delay=7,
            residual_underrun=True,
            sense_length_valid=True,
            response_length_valid=True,
            scsi_status=2,
            residual=99,
            response_information=b"\0\0\0\x05" + bytes(4),
            sense=bytes((0x70, 0, 5)) + bytes(15),
        ),
        RCtl.COMMAND_STATUS,
        FcType.FCP,
        {
            "fcp.status": 2,
            "fcp.resid": 99,
            "fcp.snslen": 18,
            "fcp.rsplen": 8,
            "fcp.rsp.flags.resid_under": 1,
            "fcp.rsp.flags.sns_vld": 1,
            "fcp.rspcode": 5,
            "fcp.rsp.retry_delay_timer": 7,
        },
        True,
    ),
    Case(
        BaAcc(
            seq_id_validity=0x80,
            seq_id=3,
            aborted_ox_id=0x1234,
            aborted_rx_id=0x5678,
            low_seq_cnt=1,
            high_seq_cnt=9,
        ),
        RCtl.BA_ACC,
        FcType.BLS,
        {
            "fc.bls_seqidvld": 0x80,
            "fc.bls_lastseqid": 3,
            "fc.bls_oxid": 0x1234,
            "fc.bls_rxid": 0x5678,
            "fc.bls_lseqcnt": 1,
            "fc.bls_hseqcnt": 9,
        },
        True,
    ),
    Case(
        BaRjt(reason=9, explanation=3, vendor_specific=1),
        RCtl.BA_RJT,
        FcType.BLS,
        {"fc.bls_reason": 9, "fc.bls_rjtdetail": 3, "fc.bls_vnduniq": 1},
        True,
    ),
    Case(b"", RCtl.ABTS, FcType.BLS),
    Case(b"", RCtl.ACK_1, FcType.BLS),
]


def frame_of(case: Case, index: int) -> Frame:
    exchange = index - case.answers
    here, there = 0x020000 + exchange, 0x010000 + exchange
    header = FrameHeader(
        r_ctl=case.r_ctl,
        d_id=here if case.answers else there,
        cs_ctl=index % 256,
        s_id=there if case.answers else here,
        type_=case.type_,
        f_ctl=REPLY if case.reply else REQUEST,
        seq_id=index % 256,
        seq_cnt=0,
        ox_id=0x100 + exchange,
        rx_id=0x200 + exchange if case.reply else 0xFFFF,
        parameter=index,
    )
    return Frame(header=header, payload=encode_payload(case.message))


HEADER_NAMES = {
    "fc.r_ctl": "r_ctl",
    "fc.d_id": "d_id",
    "fc.cs_ctl": "cs_ctl",
    "fc.s_id": "s_id",
    "fc.type": "type_",
    "fc.f_ctl": "f_ctl",
    "fc.seq_id": "seq_id",
    "fc.df_ctl": "df_ctl",
    "fc.seq_cnt": "seq_cnt",
    "fc.ox_id": "ox_id",
    "fc.rx_id": "rx_id",
}


def check(case: Case, header: FrameHeader, read: dict[str, list[str]]) -> int:
    for theirs, ours in HEADER_NAMES.items():
        assert number(read[theirs][0]) == getattr(header, ours), theirs
    for name, value in case.says.items():
        found = read.get(name)
        assert found is not None, f"tshark shows no {name}: {sorted(read)}"
        if isinstance(value, tuple):
            assert tuple(map(number, found[: len(value)])) == value, name
        elif isinstance(value, str):
            assert found[0] == value, name
        else:
            assert number(found[0]) == value, (name, found)
    return len(HEADER_NAMES) + len(case.says)


def test_tshark_reads_every_field_of_every_message_as_we_do(tmp_path: Path) -> None:
    built = [frame_of(case, index) for index, case in enumerate(CASES)]
    path = tmp_path / "every.pcap"
    write_pcap(
        path,
        FC_2_DELIMITED,
        [encode_delimited(DelimitedFrame(sof=SOF.SOFI3, frame=one, eof=EOF.EOFT)) for one in built],
    )
    read = read_by_tshark(path)
    compared = 0
    for case, frame, fields in zip(CASES, built, read, strict=True):
        header = replace(frame.header, f_ctl=frame.header.f_ctl | -len(frame.payload) % 4)
        try:
            compared += check(case, header, fields)
        except AssertionError as error:
            raise AssertionError(f"{type(case.message).__name__}: {error}") from None
        assert number(fields["fc.sof"][0]) == 0xBCB55656
        assert fields["fc.eof"][0] in ("0xbc957575", "0xbcb57575")
        assert "_ws.malformed" not in fields, case
    assert compared > 600


# --- the other link types and encapsulations ---


def test_tshark_finds_our_crcs_good_over_ethernet_and_without_delimiters(tmp_path: Path) -> None:
    built = [frame_of(case, index) for index, case in enumerate(CASES)]
    delimited = [DelimitedFrame(sof=SOF.SOFN3, frame=one, eof=EOF.EOFN) for one in built]
    head = bytes.fromhex("0efc00010203" + "0efc00040506" + "8906")
    write_pcap(tmp_path / "fcoe.pcap", ETHERNET, [head + encode_fcoe(one) for one in delimited])
    broken = replace(delimited[0], crc=b"oops")
    write_pcap(tmp_path / "bad.pcap", ETHERNET, [head + encode_fcoe(broken)])
    write_pcap(tmp_path / "224.pcap", FC_2, [encode_frame(one) for one in built])
    over_ethernet = read_by_tshark(tmp_path / "fcoe.pcap")
    assert {tuple(fields["fcoe.crc.status"]) for fields in over_ethernet} == {("1",)}
    assert {number(fields["fcoe.sof"][0]) for fields in over_ethernet} == {SOF.SOFN3}
    assert {number(fields["fcoe.eof"][0]) for fields in over_ethernet} == {EOF.EOFN}
    (bad,) = read_by_tshark(tmp_path / "bad.pcap")
    assert bad["fcoe.crc.status"] == ["0"]
    for case, frame, fields, plain in zip(
        CASES, built, over_ethernet, read_by_tshark(tmp_path / "224.pcap"), strict=True
    ):
        header = replace(frame.header, f_ctl=frame.header.f_ctl | -len(frame.payload) % 4)
        check(case, header, fields)
        check(case, header, plain)


def test_tshark_reads_extended_and_optional_headers_as_we_do(tmp_path: Path) -> None:
    header = FrameHeader(r_ctl=4, d_id=1, s_id=2, type_=FcType.FCP, f_ctl=REQUEST)
    tag = VirtualFabricTaggingHeader(version=1, type_=2, priority=5, vf_id=0x123, hop_ct=9)
    network = NetworkHeader(destination_name=0x2000010203040506, source_name=0x2000010203040507)
    tagged = Frame(header=header, extended=(tag,), payload=b"abcd")
    routed = Frame(header=header, network_header=network, payload=b"abcd")
    write_pcap(tmp_path / "headers.pcap", FC_2, [encode_frame(tagged), encode_frame(routed)])
    first, second = read_by_tshark(tmp_path / "headers.pcap")
    assert number(first["fc.vft.vf_id"][0]) == 0x123
    assert number(first["fc.vft.hop_ct"][0]) == 9
    assert number(first["fc.vft.type"][0]) == 2
    assert number(first["fc.vft.pri"][0]) == 5
    assert number(second["fc.nethdr.da"][0]) == network.destination_name
    assert number(second["fc.nethdr.sa"][0]) == network.source_name


def test_tshark_reads_fip_and_its_descriptors_as_we_do(tmp_path: Path) -> None:
    flogi = encode_frame(frame_of(CASES[0], 0))
    descriptors: dict[Any, dict[str, int]] = {
        fip.PriorityDescriptor(priority=7): {"fip.pri": 7},
        fip.MacAddressDescriptor(mac_address=b"\x02\0\0\0\0\x09"): {"fip.mac": 0x020000000009},
        fip.FcMapDescriptor(fc_map=0x0EFC01): {"fip.map": 0x0EFC01},
        fip.NameIdentifier(name_identifier=0x1000): {"fip.name": 0x1000},
        fip.FabricDescriptor(vf_id=3, fc_map=0x0EFC02, fabric_name=5): {
            "fip.fab.vfid": 3,
            "fip.fab.map": 0x0EFC02,
            "fip.fab.name": 5,
        },
        fip.MaxFcoeSize(max_fcoe_size_bytes=2158): {"fip.fcoe_size": 2158},
        fip.VxPortIdentification(mac_address=b"\x02\0\0\0\0\x0a", address_identifier=0x010203, port_name=6): {
            "fip.vn.mac": 0x02000000000A,
            "fip.vn.fc_id": 0x010203,
            "fip.vn.pwwn": 6,
        },
        fip.FkaAdvPeriod(period=8001): {"fip.fka": 8001},
        fip.VendorIdDescriptor(vendor_id=b"vendor12"): {"fip.vendor": int.from_bytes(b"vendor12", "big")},
        fip.VlanDescriptor(vlan_id=100): {"fip.vlan": 100},
        fip.Fc4Attributes(fc4_types=name_server.fc4_types(8)): {"fip.fc4f.fcp": 1},
        fip.EncapsulatedFlogi(frame=flogi): {"fcels.logi.b2b": 10, "fcels.logi.bbscnum": 9},
    }
    message = fip.Fip(
        operation=fip.FipOperation.VN2VN,
        subcode=fip.Vn2vnSubcode.CLAIM_NOTIFICATION,
        flags=fip.FipFlags.FPMA | fip.FipFlags.SOLICITED | fip.FipFlags.REC_OR_P2P,
        descriptors=tuple(descriptors),
    )
    head = bytes.fromhex("0efc00010203" + "0efc00040506" + "8914")
    write_pcap(tmp_path / "fip.pcap", ETHERNET, [head + fip.encode_fip(message)])
    (read,) = read_by_tshark(tmp_path / "fip.pcap")
    assert number(read["fip.opcode"][0]) == 5
    assert number(read["fip.vn2vn_subcode"][0]) == 3
    assert number(read["fip.dl_len"][0]) * 4 == len(fip.encode_fip(message)) - 10
    assert [read[f"fip.flags.{name}"] for name in ("fpma", "spma", "sol", "rec_p2p", "fport")] == [
        ["1"],
        ["0"],
        ["1"],
        ["1"],
        ["0"],
    ]
    for descriptor, says in descriptors.items():
        for name, value in says.items():
            assert number(read[name][0]) == value, (descriptor, name)


def test_tshark_reads_fcip_as_we_do(tmp_path: Path) -> None:
    delimited = DelimitedFrame(sof=SOF.SOFF, frame=frame_of(CASES[0], 0), eof=EOF.EOFN)
    header = fcip.FcipHeader(flags=1, time_stamp_seconds=11, time_stamp_fraction=12)
    data = fcip.encode_fcip(fcip.FcipFrame(header=header, delimited=delimited))
    special = fcip.encode_fcip(
        fcip.FcipSpecialFrame(
            source_fabric_name=0x1001,
            source_entity_id=0x1002,
            connection_nonce=b"nonce678",
            connection_usage_flags=1,
            connection_usage_code=2,
            destination_fabric_name=0x1003,
            k_a_tov=4,
        )
    )
    write_pcap(tmp_path / "fcip.pcap", RAW_IP, [segment(special), segment(data, len(special))])
    first, second = read_by_tshark(tmp_path / "fcip.pcap")
    assert number(first["fcip.pflags.sf"][0]) == 1
    assert number(first["fcip.framelen"][0]) == 19
    assert number(first["fcip.srcwwn"][0]) == 0x1001
    assert number(first["fcip.srcid"][0]) == 0x1002
    assert number(first["fcip.nonce"][0]) == int.from_bytes(b"nonce678", "big")
    assert (number(first["fcip.connflags"][0]), number(first["fcip.conncode"][0])) == (1, 2)
    # Wireshark reads the destination and K_A_TOV two bytes late; RFC 3821 leaves no gap.
    assert number(first["fcip.dstwwn"][0]) == 0x1003_0000
    assert (number(second["fcip.sof"][0]), number(second["fcip.eof"][0])) == (SOF.SOFF, EOF.EOFN)
    assert number(second["fcip.tsec"][0]) == 11
    assert number(second["fcip.framelen"][0]) * 4 == len(data)
    assert number(second["fcels.logi.b2b"][0]) == 10


def segment(payload: bytes, sequence: int = 0) -> bytes:
    """An IPv4 packet of one TCP connection to the FCIP port."""
    tcp = (
        struct.pack(">HHIIBBHHH", 40000, fcip.FCIP_PORT, 1000 + sequence, 1, 0x50, 0x18, 65535, 0, 0)
        + payload
    )
    return (
        struct.pack(">BBHHHBBH4s4s", 0x45, 0, 20 + len(tcp), 0, 0, 64, 6, 0, b"\x0a\0\0\1", b"\x0a\0\0\2")
        + tcp
    )


# --- our script ---


def test_the_script_shows_primitives_and_leaves_frames_as_they_are(tmp_path: Path) -> None:
    frame = DelimitedFrame(sof=SOF.SOFI3, frame=frame_of(CASES[0], 0), eof=EOF.EOFT)
    records = [R_RDY.encode(), vc_rdy(3).encode() * 2, encode_delimited(frame), BB_SCR.encode(), LR.encode()]
    path = tmp_path / "primitives.pcap"
    write_pcap(path, FC_2_DELIMITED, records)
    assert "_ws.malformed" in read_by_tshark(path)[0], "Wireshark has learnt it: the script may go"
    read = read_by_tshark(path, "-X", f"lua_script:{SCRIPT}")
    names = [fields.get("sancredit.primitive") for fields in read]
    assert names == [["R_RDY"], ["VC_RDY 3", "VC_RDY 3"], None, ["BB_SCr"], ["LR"]]
    assert read[1]["sancredit.primitive.vc"] == ["3", "3"]
    assert all("_ws.malformed" not in fields for fields in read)
    assert number(read[2]["fcels.logi.b2b"][0]) == 10
    summary = run_tshark(
        path, "-X", f"lua_script:{SCRIPT}", "-T", "fields", "-e", "_ws.col.Info"
    ).splitlines()
    assert summary[:2] == ["R_RDY", "VC_RDY 3, VC_RDY 3"]


NOTICE = notices.Fpin(
    descriptors=(
        notices.LinkIntegrityNotification(
            detecting_port_name=0x11,
            attached_port_name=0x12,
            event_type=6,
            event_modifier=1,
            event_threshold=1000,
            event_count=9,
            pname_list=(0x21, 0x22),
        ),
        notices.DeliveryNotification(detecting_port_name=0x13, attached_port_name=0x14, reason=1),
        notices.PeerCongestionNotification(
            detecting_port_name=0x15,
            attached_port_name=0x16,
            event_type=3,
            event_period=500,
            pname_list=(0x23,),
        ),
        notices.CongestionNotification(event_type=2, event_period=600, severity=0xF7),
        notices.UnknownDescriptor(0x99, b"ab"),
    )
)
REGISTRATION = notices.FpinRegistration(descriptor_tags=(0x20001, 0x20004))
SIGNALS = notices.CongestionSignalCapability(
    transmit_capability=2,
    transmit_frequency_count=10,
    transmit_frequency_unit=1,
    receive_capability=1,
    receive_frequency_count=20,
    receive_frequency_unit=2,
)
FAULTS = notices.LinkFaultCapability(
    degrade_activate_threshold=1, degrade_deactivate_threshold=2, fec_degrade_interval=3
)
ANSWER = notices.LinkServiceRequestInformation(request=0x17)
NOTICES: list[tuple[Case, dict[str, list[int]]]] = [
    (
        els(NOTICE, {}),
        {
            "els.command": [0x16],
            "descriptor.tag": [0x20001, 0x20002, 0x20003, 0x20004, 0x99],
            "fpin.detecting_port_name": [0x11, 0x13, 0x15],
            "fpin.attached_port_name": [0x12, 0x14, 0x16],
            "fpin.link_integrity.event_type": [6],
            "fpin.event_threshold": [1000],
            "fpin.event_count": [9],
            "fpin.pname_count": [2, 1],
            "fpin.pname": [0x21, 0x22, 0x23],
            "fpin.delivery.reason": [1],
            "fpin.congestion.event_type": [3, 2],
            "fpin.event_period": [500, 600],
            "fpin.congestion.severity": [0xF7],
            "descriptor.body": [0x6162],
        },
    ),
    (
        els(notices.Edc(descriptors=(FAULTS, SIGNALS)), {}),
        {
            "els.command": [0x17],
            "link_fault.degrade_activate_threshold": [1],
            "link_fault.degrade_deactivate_threshold": [2],
            "link_fault.fec_degrade_interval": [3],
            "edc.transmit_capability": [2],
            "edc.transmit_frequency_count": [10],
            "edc.transmit_frequency_unit": [1],
            "edc.receive_capability": [1],
            "edc.receive_frequency_count": [20],
            "edc.receive_frequency_unit": [2],
        },
    ),
    (
        els(notices.EdcAccept(descriptors=(ANSWER, SIGNALS)), {}, answers=True),
        {"els.command": [2], "lsri.request": [0x17], "edc.transmit_capability": [2]},
    ),
    (
        els(notices.Rdf(descriptors=(REGISTRATION,)), {}),
        {"rdf.tag_count": [2], "rdf.descriptor_tag": [0x20001, 0x20004]},
    ),
    (
        els(notices.RdfAccept(descriptors=(replace(ANSWER, request=0x19), REGISTRATION)), {}, answers=True),
        {"lsri.request": [0x19], "rdf.tag_count": [2]},
    ),
    (els(services.LsAcc(), {}, reply=True), {}),
]


def test_the_script_shows_every_field_of_the_notices(tmp_path: Path) -> None:
    path = tmp_path / "notices.pcap"
    built = [frame_of(case, index) for index, (case, _) in enumerate(NOTICES)]
    write_pcap(path, FC_2, [encode_frame(frame) for frame in built])
    read = read_by_tshark(path, "-X", f"lua_script:{SCRIPT}")
    for (case, says), fields in zip(NOTICES, read, strict=True):
        shown = {name.removeprefix("sancredit.") for name in fields if name.startswith("sancredit.")}
        assert bool(shown) == bool(says), case
        for name, values in says.items():
            assert list(map(number, fields[f"sancredit.{name}"])) == values, name
    summary = run_tshark(
        path, "-X", f"lua_script:{SCRIPT}", "-T", "fields", "-e", "_ws.col.Info"
    ).splitlines()
    assert "FPIN: Link integrity notification, Delivery notification, Peer congestion" in summary[0]


ELP = sw_ils.Elp(
    bb_sc_n=8,
    port_name=0x2001,
    switch_name=0x1001,
    flow_control_mode=2,
    flow_control=sw_ils.FlowControlParameters(bb_credit=250, compatibility=bytes(16)),
)


def test_the_script_shows_elp_where_it_is_and_tshark_does_not(tmp_path: Path) -> None:
    accept = sw_ils.ElpAccept(
        port_name=3, switch_name=4, bb_sc_n=5, flow_control=replace(ELP.flow_control, bb_credit=99)
    )
    cases = [sw(ELP, {}), sw(accept, {}, answers=True), sw(sw_ils.SwAcc(body=bytes(100)), {}, reply=True)]
    path = tmp_path / "elp.pcap"
    built = [frame_of(case, index) for index, case in enumerate(cases)]
    records = [encode_delimited(DelimitedFrame(sof=SOF.SOFF, frame=one, eof=EOF.EOFN)) for one in built]
    write_pcap(path, FC_2_DELIMITED, records)
    first, second, third = read_by_tshark(path, "-X", f"lua_script:{SCRIPT}")
    expected = {
        "command": 0x10,
        "revision": 2,
        "bb_sc_n": 8,
        "r_a_tov": 10_000,
        "e_d_tov": 2_000,
        "port_name": 0x2001,
        "switch_name": 0x1001,
        "class_f.options": 0x8000,
        "class_f.receive_data_field_size": 2112,
        "class_f.ee_credit": 1,
        "class_3.options": 0x8800,
        "class_3.receive_data_field_size": 2112,
        "flow_control_mode": 2,
        "flow_control_length": 20,
        "bb_credit": 250,
    }
    assert {name: number(first[f"sancredit.elp.{name}"][0]) for name in expected} == expected
    assert (number(second["sancredit.elp.bb_credit"][0]), number(second["sancredit.elp.bb_sc_n"][0])) == (
        99,
        5,
    )
    assert "sancredit.elp.bb_credit" not in third
    assert number(first["swils.elp.b2b"][0]) != 250, "Wireshark has learnt it: the script may go"
    assert derive(sw_ils.Elp).decode(derive(sw_ils.Elp).encode(ELP)).bb_credit == 250
