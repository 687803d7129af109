"""SCSI commands to begin with: one or more of every family."""

from __future__ import annotations

from typing import Any

from iscsi_target.wire.requests import ScsiCommandPdu

_HEX = (
    "8a 00 0000000000000001 00000008 0000",  # WRITE (16)
    "88 00 0000000000000001 00000008 0000",  # READ (16)
    "2a 00 00000001 00 0010 00",  # WRITE (10)
    "28 00 00000000 00 0004 00",  # READ (10)
    "12 01 83 00ff 00",  # INQUIRY
    "12 00 00 00ff 00",
    "12 01 b0 00ff 00",
    "a0 00 00000000 00000000 0100 0000",  # REPORT LUNS
    "9e 10 0000000000000000 00000020 0000",  # READ CAPACITY (16)
    "25 00 00000000 00 0000 00",  # READ CAPACITY (10)
    "1a 00 3f 00 ff 00",  # MODE SENSE (6)
    "5a 00 0a 00 00 00 00 00ff 00",  # MODE SENSE (10)
    "15 10 00 00 18 00",  # MODE SELECT (6)
    "55 10 00 00 00 00 00 0020 00",  # MODE SELECT (10)
    "a3 0c 00 00 0000 00001000 0000",  # REPORT SUPPORTED OPERATION CODES
    "a3 0a 00 00 0000 00000100 0000",  # REPORT TARGET PORT GROUPS
    "a4 0a 00 00 0000 00000008 0000",  # SET TARGET PORT GROUPS
    "5e 00 00 00 00 00 00 0100 00",  # PERSISTENT RESERVE IN
    "5e 02 00 00 00 00 00 0100 00",
    "5f 06 00 00 00 00000018 00",  # PERSISTENT RESERVE OUT
    "5f 01 01 00 00 00000018 00",
    "16 00 00 00 00 00",  # RESERVE (6)
    "17 00 00 00 00 00",  # RELEASE (6)
    "93 08 0000000000000000 00000008 0000",  # WRITE SAME (16)
    "41 00 00000000 00 0008 00",  # WRITE SAME (10)
    "42 00 00 00 00 00 00 0018 00",  # UNMAP
    "9e 12 0000000000000000 00000100 0000",  # GET LBA STATUS
    "89 00 0000000000000001 00000001 0000",  # COMPARE AND WRITE
    "8b 00 0000000000000001 00000001 0000",  # ORWRITE
    "9c 00 0000000000000000 0000 0008 0000",  # WRITE ATOMIC (16)
    "8f 02 0000000000000001 00000001 0000",  # VERIFY (16)
    "8e 02 0000000000000001 00000001 0000",  # WRITE AND VERIFY (16)
    "35 00 00000000 00 0000 00",  # SYNCHRONIZE CACHE
    "90 00 0000000000000000 00000008 0000",  # PRE-FETCH (16)
    "83 00 0000000000000000 00000038 0000",  # EXTENDED COPY
    "84 03 0000000000000000 00000100 0000",  # RECEIVE COPY RESULTS
    "1b 00 00 00 02 00",  # START STOP UNIT
    "1e 00 00 00 01 00",  # PREVENT ALLOW MEDIUM REMOVAL
    "37 00 08 00 00 00 00 0008 00",  # READ DEFECT DATA
    "03 00 00 00 ff 00",  # REQUEST SENSE
    "00 00 00 00 00 00",  # TEST UNIT READY
    "48 01 00 00 00 00 00 0008 00",  # SANITIZE
    "ff 00 00 00 00 00",
)
CDBS = tuple(bytes.fromhex(text).ljust(16, b"\0")[:16] for text in _HEX)
_WITH_DATA = {0x8A, 0x2A, 0x15, 0x55, 0xA4, 0x5F, 0x93, 0x41, 0x42, 0x89, 0x8B, 0x9C, 0x8F, 0x8E, 0x83, 0x48}


def command(cdb: bytes, *, tag: int, **fields: Any) -> ScsiCommandPdu:
    """A SCSI Command PDU that announces 4 KiB in the direction of its CDB."""
    write = cdb[0] in _WITH_DATA
    return ScsiCommandPdu(
        cdb=cdb,
        initiator_task_tag=tag,
        read=not write,
        write=write,
        expected_data_transfer_length=4096,
        data=bytes(64) if write else b"",
        **fields,
    )
