"""A whole recorded conversation of somebody else's initiator and target through our framing and codecs."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections import Counter
from pathlib import Path

import pytest

from iscsi_target.wire.codec import decode_pdu, encode_pdu
from iscsi_target.wire.framing import Framer

pytestmark = pytest.mark.slow


def test_every_pdu_of_a_real_capture_is_cut_and_read_and_counts_as_tshark_counts() -> None:
    folder = os.environ.get("SANCREDIT_CAPTURES")
    if not folder:
        pytest.skip(
            "SANCREDIT_CAPTURES does not name the folder with iscsi-scsi-data-cdrom.pcap (Wireshark samples)"
        )
    path = Path(folder) / "iscsi-scsi-data-cdrom.pcap"
    if not path.exists():
        pytest.skip(f"{path} is missing: download it from Wireshark's SampleCaptures page")
    tshark = shutil.which("tshark")
    if tshark is None:
        pytest.skip("tshark is missing: apt-get install tshark")

    names = ("iscsi.opcode", "iscsi.datasegmentlength", "iscsi.initiatortasktag", "tcp.payload")
    argv = [tshark, "-r", str(path), "-Y", "iscsi", "-T", "fields"]
    for name in names:
        argv += ["-e", name]
    output = subprocess.run(argv, capture_output=True, text=True, timeout=60, check=True).stdout
    read: Counter[int] = Counter()
    for line in output.splitlines():
        opcode, length, tag, payload = line.split("\t")
        size = int(length or "0", 0) if "," not in length else -1
        if "," in opcode or len(payload) // 2 != 48 + (size + 3 & ~3):
            continue  # the recorder lost segments: only PDUs that fill their segment are whole for certain
        (frame,) = Framer(1 << 20).receive(bytes.fromhex(payload))
        pdu = decode_pdu(frame.whole())
        assert (pdu.OPCODE, len(pdu.data)) == (int(opcode, 0), size)
        assert getattr(pdu, "initiator_task_tag", None) == int(tag, 0)
        assert encode_pdu(pdu)[48 : 48 + size] == frame.data
        assert encode_pdu(pdu)[8:24] == frame.basic_header[8:24]
        read[pdu.OPCODE] += 1
    assert sum(read.values()) > 1000
    assert set(read) >= {0x01, 0x03, 0x06, 0x21, 0x23, 0x25, 0x26}
