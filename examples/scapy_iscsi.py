"""iSCSI by hand with scapy: craft PDUs, log in to a target, ask and read, send it something wrong, sniff it all.

``python3 examples/scapy_iscsi.py``. The target is one of this process; its address could be any target's. Sniffing a
live interface needs root; without it the conversation is read back from the target's own capture.
"""
# ruff: noqa: F403, F405 - the layers are imported as scapy's users import layers

import os
import socket
import sys
import tempfile
import threading
from pathlib import Path

from scapy.packet import bind_layers
from scapy.sendrecv import AsyncSniffer, sniff
from scapy.sessions import TCPSession
from scapy.supersocket import StreamSocket

from iscsi_target.layers import *
from iscsi_target.running import serve


def say(text):
    sys.stdout.write(text + "\n")


def talk(host, port, iqn):
    """A session, PDU by PDU."""
    wire = StreamSocket(socket.create_connection((host, port), timeout=10), ISCSI)

    # The login: one PDU that asks for the full-feature phase at once (stages: 1 is operational, 3 full-feature).
    keys = {"InitiatorName": "iqn.2026-11.example:scapy", "TargetName": iqn, "SessionType": "Normal"}
    text = "".join(f"{key}={value}\0" for key, value in keys.items())
    login = ISCSILoginRequest(
        transit=1, csg=1, nsg=3, isid=bytes.fromhex("80 00 00 00 00 01"), cmd_sn=1, data=text.encode()
    )
    wire.send(login)
    answer = wire.recv()
    say(f"login: status {answer.status_class:#04x}{answer.status_detail:02x}, session {answer.tsih}")
    sequence, status = answer.exp_cmd_sn, answer.stat_sn

    def send(pdu):
        """With the next CmdSN and the ExpStatSN that acknowledges all so far; the answer is what comes next."""
        nonlocal sequence, status
        pdu.cmd_sn, pdu.exp_stat_sn = sequence, status + 1
        sequence += 0 if pdu.immediate else 1
        wire.send(pdu)
        told = wire.recv()
        while isinstance(told, ISCSIDataIn) and not told.final:
            told = wire.recv()
        status = told.stat_sn
        return told

    def command(tag, cdb, length):
        return ISCSIScsiCommand(
            read=1,
            initiator_task_tag=tag,
            expected_data_transfer_length=length,
            cdb=bytes.fromhex(cdb).ljust(16, b"\0"),
        )

    inquiry = send(command(1, "12 00 00 00 60 00", 96))
    say(f"INQUIRY: {inquiry.data[8:16].decode().strip()} {inquiry.data[16:32].decode().strip()}")
    attention = send(
        command(2, "00 00 00 00 00 00", 0)
    )  # TEST UNIT READY; the first one is told of the power-on
    say(f"TEST UNIT READY: status {attention.status:#04x}, sense key {attention.data[4] & 15}")
    read = send(command(3, "28 00 00000000 00 0001 00", 512))
    say(f"READ(10): {len(read.data)} bytes, status {read.status:#04x}")

    # Something no initiator sends: an opcode that there is not. Everything of a layer can be set, and broken.
    wrong = ISCSINopOut(initiator_task_tag=4, fixed_0_2=0x1E)
    refused = send(wrong)
    say(f"opcode 0x1e: {refused.name}, reason {refused.reason:#04x}")

    logout = send(ISCSILogoutRequest(immediate=1, initiator_task_tag=5))
    say(f"logout: response {logout.response}")
    wire.close()


def has_ended(packet):
    return packet.haslayer(ISCSILogoutResponse)


def once(packets):
    """On the loopback everything passes twice: as it goes out, and as it comes in."""
    kept = []
    for packet in packets:
        if not kept or bytes(kept[-1]) != bytes(packet):
            kept.append(packet)
    return kept


def main():
    with tempfile.TemporaryDirectory() as room:
        capture = Path(room, "target.pcapng")
        with serve("1MiB", capture=capture) as target:
            bind_layers(TCP, ISCSI, dport=target.port)  # the layers know port 3260; this target has another
            bind_layers(TCP, ISCSI, sport=target.port)
            sniffer = None
            if os.geteuid() == 0:
                listening = threading.Event()
                sniffer = AsyncSniffer(iface="lo", stop_filter=has_ended, started_callback=listening.set)
                sniffer.start()
                listening.wait(10)
            talk(target.host, target.port, target.iqn)
        if sniffer is not None:
            sniffer.join(10)
            capture = once(sniffer.results)
        else:
            capture = str(capture)
        packets = sniff(offline=capture, session=TCPSession)  # puts PDUs together over segments
    names = []
    for packet in packets:
        pdu = packet.payload
        while pdu and not isinstance(pdu, ISCSI):
            pdu = pdu.payload
        while isinstance(pdu, ISCSI):  # several of a segment one after the other
            names.append(pdu.name.removeprefix("iSCSI "))
            pdu = pdu.payload
    say(f"sniffed {'live' if sniffer is not None else 'from the capture'}: {', '.join(names)}")


if __name__ == "__main__":
    main()
