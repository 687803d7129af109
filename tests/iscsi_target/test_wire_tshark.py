"""A third opinion: tshark reads what we write, field by field, for every PDU."""

from __future__ import annotations

import json
import random
import shutil
import struct
import subprocess
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import pytest

from iscsi_target.wire.codec import CODECS, REQUESTS, RESPONSES, Pdu, encode_pdu
from iscsi_target.wire.digest import digest
from iscsi_target.wire.opcodes import ISCSI_PORT
from iscsi_target.wire.requests import LoginRequest, NopOut
from iscsi_target.wire.text import encode_text

pytestmark = pytest.mark.slow

# Our field name: tshark's, where one name serves all PDUs.
COMMON = {
    "total_ahs_length": "totalahslength",
    "data_segment_length": "datasegmentlength",
    "initiator_task_tag": "initiatortasktag",
    "target_transfer_tag": "targettransfertag",
    "expected_data_transfer_length": "scsicommand.expecteddatatransferlength",
    "cmd_sn": "cmdsn",
    "stat_sn": "statsn",
    "exp_stat_sn": "expstatsn",
    "exp_cmd_sn": "expcmdsn",
    "max_cmd_sn": "maxcmdsn",
    "data_sn": "datasn",
    "exp_data_sn": "expdatasn",
    "ref_cmd_sn": "refcmdsn",
    "buffer_offset": "bufferOffset",
    "r2t_sn": "r2tsn",
    "desired_data_transfer_length": "desireddatalength",
    "referenced_task_tag": "taskmanfun.referencedtasktag",
    "isid": "isid",
    "tsih": "tsih",
    "cid": "cid",
    "version_max": "versionmax",
    "version_min": "versionmin",
    "version_active": "versionactive",
    "time2wait": "time2wait",
    "time2retain": "time2retain",
    "async_event": "asyncevent",
    "async_vcode": "eventvendorcode",
    "parameter_1": "parameter1",
    "parameter_2": "parameter2",
    "parameter_3": "parameter3",
    "beg_run": "snack.begrun",
    "run_length": "snack.runlength",
    "bidirectional_read_residual_count": "scsiresponse.bidireadresidualcount",
}
# ... and where the name depends on the PDU.
SPECIAL = {
    ("ScsiCommandPdu", "final"): "scsicommand.F",
    ("ScsiCommandPdu", "read"): "scsicommand.R",
    ("ScsiCommandPdu", "write"): "scsicommand.W",
    ("ScsiCommandPdu", "attr"): "scsicommand.attr",
    ("DataIn", "final"): "scsidata.F",
    ("DataIn", "acknowledge"): "scsidata.A",
    ("DataIn", "overflow"): "scsidata.O",
    ("DataIn", "underflow"): "scsidata.U",
    ("DataIn", "status_present"): "scsidata.S",
    ("DataIn", "residual_count"): "scsidata.readresidualcount",
    ("DataOut", "final"): "scsidata.F",
    ("ScsiResponse", "bidirectional_read_overflow"): "scsiresponse.o",
    ("ScsiResponse", "bidirectional_read_underflow"): "scsiresponse.u",
    ("ScsiResponse", "overflow"): "scsiresponse.O",
    ("ScsiResponse", "underflow"): "scsiresponse.U",
    ("ScsiResponse", "response"): "scsiresponse.response",
    ("ScsiResponse", "status"): "scsiresponse.status",
    ("ScsiResponse", "residual_count"): "scsiresponse.residualcount",
    ("LoginRequest", "transit"): "login.T",
    ("LoginRequest", "continue_"): "login.C",
    ("LoginRequest", "csg"): "login.csg",
    ("LoginRequest", "nsg"): "login.nsg",
    ("LoginResponse", "transit"): "login.T",
    ("LoginResponse", "continue_"): "login.C",
    ("LoginResponse", "csg"): "login.csg",
    ("LoginResponse", "nsg"): "login.nsg",
    ("TextRequest", "final"): "text.F",
    ("TextRequest", "continue_"): "text.C",
    ("TextResponse", "final"): "text.F",
    ("TextResponse", "continue_"): "text.C",
    ("TaskManagementRequest", "function"): "taskmanfun.function",
    ("TaskManagementResponse", "response"): "taskmanfun.response",
    ("LogoutRequest", "reason"): "logout.reason",
    ("LogoutResponse", "response"): "logout.response",
    ("SnackRequest", "type_"): "snack.type",
    ("Reject", "reason"): "reject.reason",
    ("Reject", "data_sn_or_r2t_sn"): "datasn",
}
# tshark takes a PDU with an undefined code for no iSCSI at all.
LEGAL: dict[str, Callable[[random.Random], dict[str, Any]]] = {
    "TaskManagementRequest": lambda rng: {"function": rng.randint(1, 8)},
    "TaskManagementResponse": lambda rng: {
        "response": rng.randint(0, 5),
        "additional_response_information": bytes(3),  # of RFC 7144, which tshark does not know
    },
    "LoginRequest": lambda rng: {"immediate": True, "transit": True, "continue_": False},
    "LoginResponse": lambda rng: {"transit": True, "continue_": False},
    "DataOut": lambda rng: {"immediate": False},
    "TextRequest": lambda rng: {"final": True, "continue_": False},
    "TextResponse": lambda rng: {"final": True, "continue_": False},
    "LogoutRequest": lambda rng: {"reason": rng.randint(0, 2)},
    "LogoutResponse": lambda rng: {"response": rng.randint(0, 3)},
    "SnackRequest": lambda rng: {"immediate": False, "type_": 1, "initiator_task_tag": 0xFFFFFFFF},
    "ScsiResponse": lambda rng: {
        "response": 0,
        "status": 0,
        "underflow": False,
        "bidirectional_read_underflow": False,
    },
    "DataIn": lambda rng: {"status": 0, "final": True, "underflow": False},
    "Reject": lambda rng: {"reason": rng.randint(2, 12)},
}
REQUEST_ONLY = {"immediate": "I"}


def tshark_name(pdu: Pdu, field: str) -> str | None:
    kind = type(pdu).__name__
    name = SPECIAL.get((kind, field)) or COMMON.get(field)
    if isinstance(pdu, REQUESTS):
        name = name or REQUEST_ONLY.get(field)
    return name and f"iscsi.{name}"


def capture(path: Path, conversation: Iterable[tuple[bool, bytes]]) -> None:
    """A pcap of raw IPv4 packets: (from the initiator, bytes) over one TCP connection with the target's port."""
    out = [struct.pack("<IHHiIII", 0xA1B2C3D4, 2, 4, 0, 0, 262144, 101)]
    sequence = {True: 1000, False: 5000}
    for number, (up, payload) in enumerate(conversation):
        ports = (40000, ISCSI_PORT) if up else (ISCSI_PORT, 40000)
        tcp = (
            struct.pack(">HHIIBBHHH", *ports, sequence[up], sequence[not up], 0x50, 0x18, 65535, 0, 0)
            + payload
        )
        addresses = (b"\x0a\0\0\1", b"\x0a\0\0\2") if up else (b"\x0a\0\0\2", b"\x0a\0\0\1")
        packet = struct.pack(">BBHHHBBH4s4s", 0x45, 0, 20 + len(tcp), number, 0, 64, 6, 0, *addresses) + tcp
        out.append(struct.pack("<IIII", number, 0, len(packet), len(packet)) + packet)
        sequence[up] += len(payload)
    path.write_bytes(b"".join(out))


def read_by_tshark(path: Path, *preferences: str) -> list[dict[str, Any]]:
    tool = shutil.which("tshark")
    if tool is None:
        pytest.skip("tshark is missing: apt-get install tshark")
    options = [item for preference in preferences for item in ("-o", preference)]
    done = subprocess.run(
        [tool, "-r", str(path), *options, "-T", "json"],  # -J would leave out the trees of flags
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    pairs = json.loads(done.stdout, object_pairs_hook=lambda items: items)
    frames = []
    for frame in pairs:
        flat: dict[str, Any] = {}
        _flatten(frame, flat)
        frames.append(flat)
    return frames


def _flatten(items: Any, into: dict[str, Any]) -> None:
    for key, value in items:
        if isinstance(value, list) and value and isinstance(value[0], tuple | list):
            _flatten(value, into)
        into.setdefault(key, value)


def value_of(text: str) -> int:
    if ":" in text:
        return int(text.replace(":", ""), 16)
    return int(text, 0)


def random_pdu(kind: type[Pdu], rng: random.Random) -> Pdu:
    codec = CODECS[kind.OPCODE]
    values: dict[str, Any] = {}
    for name in codec.names:
        if name in codec.bits and name not in ("total_ahs_length", "data_segment_length"):
            values[name] = rng.getrandbits(codec.bits[name])
            if codec.bits[name] == 1:
                values[name] = bool(values[name])
    # Legal values where tshark decodes further on them.
    values |= {"lun": bytes((0, rng.randrange(256))) + bytes(6)} if "lun" in codec.names else {}
    if "isid" in codec.names:
        values["isid"] = b"\x80" + rng.randbytes(5)
    if "cdb" in codec.names:
        values["cdb"] = bytes((0x88,)) + bytes(15)
    if "csg" in codec.names:
        values |= {"csg": 1, "nsg": 3, "data": encode_text([("X-key", "value")])}
    if "additional_response_information" in codec.names:
        values["additional_response_information"] = rng.randbytes(3)
    values |= LEGAL.get(kind.__name__, lambda rng: {})(rng)
    if kind.__name__ == "Reject":
        values["data"] = encode_pdu(NopOut(cmd_sn=1, exp_stat_sn=1))
    if kind.__name__ == "ScsiCommandPdu":
        values |= {"read": True, "write": False, "final": True}
    if kind.__name__ in ("DataIn", "DataOut", "NopIn", "NopOut"):
        values["data"] = rng.randbytes(rng.randrange(1, 40))
    return kind(**values)


@pytest.mark.parametrize("seed", range(3))
def test_tshark_reads_every_field_of_every_pdu_as_we_do(tmp_path: Path, seed: int) -> None:
    rng = random.Random(seed)
    pdus = [random_pdu(kind, rng) for kind in (*REQUESTS, *RESPONSES)]
    login = LoginRequest(transit=True, csg=1, nsg=3, isid=bytes(6), initiator_task_tag=1, cmd_sn=1)
    path = tmp_path / "every.pcap"
    capture(path, [(isinstance(pdu, REQUESTS), encode_pdu(pdu)) for pdu in [login, *pdus]])
    frames = read_by_tshark(path, "iscsi.bogus_pdu_filter:FALSE")[1:]
    compared = 0
    for pdu, frame in zip(pdus, frames, strict=True):
        assert value_of(frame["iscsi.opcode"]) == pdu.OPCODE
        assert value_of(frame.get("iscsi.datasegmentlength", "0")) == len(pdu.data)
        for name in CODECS[pdu.OPCODE].names:
            theirs = tshark_name(pdu, name)
            ours = getattr(pdu, name, None)
            if theirs is None or ours is None or theirs not in frame:
                continue
            expected = int.from_bytes(ours, "big") if isinstance(ours, bytes) else int(ours)
            assert value_of(frame[theirs]) == expected, (type(pdu).__name__, name)
            compared += 1
    assert compared > 100, "the names of tshark's fields have changed"


def test_tshark_finds_our_digests_good(tmp_path: Path) -> None:
    ping = encode_pdu(NopOut(initiator_task_tag=1, cmd_sn=1, exp_stat_sn=1, data=b"12345"))
    good = ping[:48] + digest(ping[:48]) + ping[48:] + digest(ping[48:])
    bad = good[:-1] + bytes((good[-1] ^ 1,))
    path = tmp_path / "digests.pcap"
    keys = encode_text([("HeaderDigest", "CRC32C"), ("DataDigest", "CRC32C")])
    login = LoginRequest(transit=True, csg=1, nsg=3, isid=bytes(6), initiator_task_tag=1, cmd_sn=1, data=keys)
    capture(path, [(True, encode_pdu(login)), (True, good), (True, bad)])
    tool = shutil.which("tshark")
    if tool is None:
        pytest.skip("tshark is missing: apt-get install tshark")
    text = subprocess.run(
        [tool, "-r", str(path), "-V"],
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    ).stdout
    found = [line.strip() for line in text.splitlines() if "Digest:" in line or "DataDigest" in line]
    assert sum("Good CRC32" in line for line in found) == 3, found
    assert sum("Bad CRC32" in line for line in found) == 1, found
