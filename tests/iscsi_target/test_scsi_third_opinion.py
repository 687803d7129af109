# SPDX-License-Identifier: Apache-2.0
"""sg3-utils (Debian's sg3-utils) reads what this device server says, as a third opinion beside the standards."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path

import pytest

from iscsi_target.scsi.sense import Condition, FieldPointer, SenseData
from iscsi_target.scsi.stores.memory import MemoryStore
from tests.iscsi_target.scsi_rig import TARGET, rig

pytestmark = pytest.mark.skipif(
    shutil.which("sg_decode_sense") is None, reason="sg3-utils is missing: install the package sg3-utils"
)


def _said(*argv: str) -> str:
    return subprocess.run(argv, capture_output=True, text=True, check=True, timeout=100).stdout


def _decoded(sense: bytes) -> str:
    return _said("sg_decode_sense", *(f"{byte:02x}" for byte in sense))


def _words(text: str) -> set[str]:
    return set(re.findall(r"[a-z0-9]+", text.lower()))


@pytest.mark.parametrize("condition", Condition, ids=lambda condition: condition.name)
def test_a_condition_is_called_by_its_standard_name(condition: Condition) -> None:
    said = _decoded(SenseData(condition).fixed())
    key = re.search(r"Sense key: (.*)", said)
    assert key is not None
    assert _words(key[1]) == _words(condition.key.name.replace("_", " "))
    additional = re.search(r"Additional sense: (.*)", said)
    assert additional is not None
    theirs, ours = _words(additional[1]), _words(condition.name.replace("_", " "))
    # Our names may leave words out ("logical unit"), and begin with the sense key where the standard's do not.
    meant = ours - _words(condition.key.name.replace("_", " "))
    assert meant <= theirs, (theirs, ours)


def test_descriptor_format_and_field_pointers_are_understood() -> None:
    pointing = SenseData(Condition.INVALID_FIELD_IN_CDB, field_pointer=FieldPointer(1, 7))
    for encoded in (pointing.fixed(), pointing.descriptor()):
        assert "Error in Command: byte 1 bit 7" in _decoded(encoded)
    located = SenseData(Condition.LOGICAL_BLOCK_ADDRESS_OUT_OF_RANGE, information=0x1122334455667788)
    assert "1122334455667788" in _decoded(located.descriptor())
    halfway = SenseData(Condition.NOT_READY_SANITIZE_IN_PROGRESS, progress=0x8000)
    assert "Progress indication: 50.00%" in _decoded(halfway.fixed())


@pytest.mark.parametrize(
    ("page", "lines"),
    [
        (
            "83",
            [
                "vendor id: SANCREDT",
                "Relative target port: 0x1",
                f"{TARGET},t,0x0001",
                "designator type: NAA",
            ],
        ),
        ("86", ["HEADSUP=1", "ORDSUP=1", "SIMPSUP=1", "V_SUP=1", "Maximum supported sense data length=252"]),
        (
            "b0",
            [
                "Maximum compare and write length: 255 blocks",
                "Maximum transfer length: 32768 blocks",
                "Maximum unmap block descriptor count: 256",
                "Optimal unmap granularity: 8 blocks",
                "Maximum write same length: 0x8000 blocks",
                "Maximum atomic transfer length: 32768 blocks",
            ],
        ),
        ("b1", ["Non-rotating medium", "WABEREQ=1", "WACEREQ=1"]),
        ("b2", ["(LBPU): 1", "(LBPWS10): 1", "(LBPRZ): 1", "(ANC_SUP): 0", "thin provisioned"]),
    ],
)
def test_vital_product_data_are_understood(tmp_path: Path, page: str, lines: list[str]) -> None:
    data = rig().initiator().send(f"12 01 {page} 00 ff 00").data
    (tmp_path / "page").write_text(data.hex(" "))
    said = _said("sg_vpd", f"--page=0x{page}", f"--inhex={tmp_path / 'page'}")
    for line in lines:
        assert line in said


def test_standard_inquiry_data_are_understood(tmp_path: Path) -> None:
    (tmp_path / "data").write_text(rig().initiator().send("12 00 00 00 ff 00").data.hex(" "))
    said = _said("sg_inq", f"--inhex={tmp_path / 'data'}")
    for line in ("[SPC-4]", "TPGS=3", "3PC=1", "CmdQue=1", "Peripheral device type: disk"):
        assert line in said


def test_lba_status_is_understood(tmp_path: Path) -> None:
    host = rig().initiator()
    host.send("2a 00 00 00 00 00 00 00 08 00", bytes(4096))
    (tmp_path / "data").write_text(host.send("9e 12" + "00" * 11 + "ff 00 00").data.hex(" "))
    said = _said("sg_get_lba_status", "--maxlen=256", f"--inhex={tmp_path / 'data'}")
    assert re.search(r"LBA: 0x0+\s+blocks:\s+8\s+mapped", said)
    assert re.search(r"LBA: 0x0+8\s+blocks:\s+2040\s+deallocated", said)


@pytest.mark.parametrize(
    ("page", "lines"),
    [
        ("00", ["0x0c", "0x2f", "Informational exceptions"]),
        (
            "0c",
            [
                "Logical block provisioning page",
                "Available LBA mapping threshold resource count: 7",
                "Used LBA mapping threshold resource count: 1",
                "Scope: dedicated to lu",
                "Scope: not dedicated to lu",
            ],
        ),
        (
            "2f",
            [
                "Informational Exceptions page",
                "IE asc = 0x0, ascq = 0x0",
                "Current temperature = <not available>",
            ],
        ),
    ],
)
def test_log_pages_are_understood(tmp_path: Path, page: str, lines: list[str]) -> None:
    host = rig(store=MemoryStore(8 << 20)).initiator()
    host.send("2a 00 00 00 00 00 00 00 08 00", bytes(4096))
    data = host.send(f"4d 00 {0x40 | int(page, 16):02x} 00 00 00 00 02 00 00").data
    (tmp_path / "page").write_text(data.hex(" "))
    said = _said("sg_logs", "--pdt=0", f"--inhex={tmp_path / 'page'}")
    for line in lines:
        assert line.lower() in said.lower(), said
