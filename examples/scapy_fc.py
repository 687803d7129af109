"""Fibre Channel by hand with scapy: frames and primitives of a link in a file, then FCoE to a target on an interface.

``python3 examples/scapy_fc.py``. The second half makes a pair of interfaces in a network namespace of its own (it
starts itself again in one), serves a target at one end, and at the other discovers it, logs in and asks: PDU by PDU.
"""
# ruff: noqa: F403, F405 - the layers are imported as scapy's users import layers

import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from scapy.config import conf
from scapy.utils import rdpcap, wrpcap

from fcsim.layers import *

US, HOST, STORAGE = "02:00:00:00:00:01", "veth0", "veth1"
ALL_FORWARDERS = "01:10:18:01:00:02"
PORT_NAME, NODE_NAME = 0x2100_0000_0000_0041, 0x2000_0000_0000_0041
TARGET = 0x010202  # where `sancredit fc fcoe serve --mode fabric` has its target; a name server tells it too (GPN_FT)
REQUEST = FCtl.FIRST_SEQUENCE | FCtl.END_SEQUENCE | FCtl.SEQUENCE_INITIATIVE


def say(text):
    sys.stdout.write(text + "\n")


# --- a link in a file ----------------------------------------------------------------------------------------------


def a_link(path):
    """An FLOGI between its delimiters, the R_RDY that answers it, and a frame with a bad CRC (link type 225)."""
    header = FC(d_id=WellKnownAddress.F_PORT_CONTROLLER, f_ctl=REQUEST, ox_id=1)
    login = FCDelimited(sof=SOF.SOFI3, eof=EOF.EOFT) / header / FCFlogi(bb_credit=16, port_name=PORT_NAME)
    spoiled = login.copy()
    spoiled.crc = b"\0\0\0\0"
    r_rdy = FCOrderedSet(word=bytes.fromhex("bc954a4a"))
    records = [Raw(bytes(packet)) for packet in (login, r_rdy, spoiled)]
    wrpcap(str(path), records, linktype=LINKTYPE_FC_2_WITH_FRAME_DELIMS)
    for packet in rdpcap(str(path)):
        if FCOrderedSet in packet:
            say(f"link: {packet.primitive}")
            continue
        good = bytes(packet)[:-8] == bytes(login)[:-8] and packet.crc == bytes(login)[-8:-4]
        say(f"link: FLOGI with BB_Credit {packet[FCFlogi].bb_credit}, CRC {'good' if good else 'bad'}")


# --- FCoE to a target ----------------------------------------------------------------------------------------------


class Wire:
    """Frames to and from an interface, and a note of all that passed."""

    def __init__(self, interface):
        self.socket = conf.L2socket(iface=interface)
        self.mine, self.forwarder, self.number = US, None, 0
        self.passed = []

    def send(self, packet):
        self.passed.append(packet)
        self.socket.send(packet)

    def wait_for(self, wanted, seconds=15.0):
        """The next packet for which ``wanted(packet)``; whatever else comes is noted and let go."""
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            packet = self.socket.recv() if self.socket.select([self.socket], 0.2) else None
            if packet is None or packet.src in (US, self.mine):
                continue
            if FIP in packet or FC in packet:
                self.passed.append(packet)
            if wanted(packet):
                return packet
        sys.exit("no answer came")

    def fip(self, operation, subcode, *descriptors, to):
        self.send(
            Ether(src=US, dst=to) / FIP(operation=operation, subcode=subcode, descriptors=list(descriptors))
        )

    def frame(self, header, payload):
        self.send(
            Ether(src=self.mine, dst=self.forwarder) / FCoE(sof=SOF.SOFI3, eof=EOF.EOFT) / header / payload
        )

    def ask(self, message, d_id):
        """An extended link service; the payload of the frame that answers it."""
        self.number += 1
        self.frame(FC(d_id=d_id, s_id=self.n_port_id, f_ctl=REQUEST, ox_id=self.number), message)
        answer = self.wait_for(lambda packet: FC in packet and packet[FC].ox_id == self.number)
        return answer[FC].payload


def class_3():
    return FCClassParameters(service_options=0x8800, receive_data_field_size=2048, concurrent_sequences=255)


def a_target():
    """Discovery, fabric login, port login, process login, INQUIRY."""
    wire = Wire(HOST)
    names = {"port_name": PORT_NAME, "node_name": NODE_NAME}
    mac = FIPMacAddressDescriptor(mac_address=bytes.fromhex(US.replace(":", "")))
    wire.fip(
        1,
        1,
        mac,
        FIPNameIdentifier(name_identifier=NODE_NAME),
        FIPMaxFcoeSize(max_fcoe_size_bytes=2158),
        to=ALL_FORWARDERS,
    )
    offer = wire.wait_for(lambda packet: FIP in packet and (packet.operation, packet.subcode) == (1, 2))
    wire.forwarder = offer.src
    say(f"FIP: a forwarder advertises itself, {len(offer.descriptors)} descriptors")

    flogi = FCFlogi(bb_credit=16, bb_receive_data_field_size=2048, class_3=class_3(), **names)
    inside = FC(d_id=WellKnownAddress.F_PORT_CONTROLLER, f_ctl=REQUEST, ox_id=1) / flogi
    wire.fip(2, 1, FIPEncapsulatedFlogi(frame=inside), FIPMacAddressDescriptor(), to=wire.forwarder)
    accepted = wire.wait_for(lambda packet: FIP in packet and (packet.operation, packet.subcode) == (2, 2))
    granted = {type(one): one for one in accepted.descriptors}
    wire.mine = granted[FIPMacAddressDescriptor].mac_address.hex(":")
    wire.n_port_id = FC(bytes(granted[FIPEncapsulatedFlogi].frame)).d_id
    say(f"FLOGI: N_Port_ID {wire.n_port_id:06x}, and a MAC address that ends with it: {wire.mine[9:]}")

    plogi = FCPlogi(bb_credit=16, bb_receive_data_field_size=2048, class_3=class_3(), **names)
    say(f"PLOGI: {wire.ask(plogi, TARGET).name}")
    page = bytes.fromhex(
        "08 00 20 00 00000000 00000000 00000022"
    )  # FCP, image pair; initiator, no XFER_RDY for reads
    say(f"PRLI: code {wire.ask(Raw(bytes.fromhex('20 10 0014') + page), TARGET).code:#04x}")

    for tag, cdb, length in ((0x20, "12 00 00 00 60 00", 96), (0x21, "00 00 00 00 00 00", 0)):
        command = FCFcpCmnd(rddata=int(length > 0), cdb=bytes.fromhex(cdb).ljust(16, b"\0"), fcp_dl=length)
        header = FC(r_ctl=RCtl.UNSOLICITED_COMMAND, type_=FcType.FCP, f_ctl=REQUEST, ox_id=tag)
        header.d_id, header.s_id = TARGET, wire.n_port_id
        wire.frame(header, command)
        if length:
            data = bytes(wire.wait_for(lambda packet: FCFcpData in packet)[FC].payload)
            say(f"INQUIRY: {data[8:16].decode().strip()} {data[16:32].decode().strip()}")
        response = wire.wait_for(lambda packet: FCFcpRsp in packet)[FCFcpRsp]
        say(f"FCP_RSP: status {int(response.scsi_status):#04x}, {len(response.sense)} bytes of sense data")
    return wire.passed


def main():
    if "--inside" not in sys.argv:
        with tempfile.TemporaryDirectory() as room:
            a_link(Path(room, "link.pcap"))
        again = ["unshare", "--user", "--map-root-user"] if os.geteuid() else ["unshare"]
        sys.stdout.flush()
        os.execvp(again[0], [*again, "--net", sys.executable, __file__, "--inside"])
    for line in (
        f"link add {HOST} mtu 2500 type veth peer name {STORAGE} mtu 2500",
        f"link set {HOST} up",
        f"link set {STORAGE} up",
    ):
        subprocess.run(["ip", *line.split()], check=True)
    serve = [
        sys.executable,
        "-m",
        "mgmt.cli",
        "fc",
        "fcoe",
        "serve",
        STORAGE,
        "--mode",
        "fabric",
        "--lun",
        "16MiB",
    ]
    with subprocess.Popen(serve, stdout=subprocess.PIPE, text=True) as target:
        try:
            target.stdout.readline()
            passed = a_target()
        finally:
            target.terminate()
    say("passed: " + ", ".join(packet.lastlayer().name for packet in passed))


if __name__ == "__main__":
    main()
