# SPDX-License-Identifier: Apache-2.0
"""Vital product data pages (SPC-4 7.8, SBC-3 6.6)."""

from __future__ import annotations

from collections.abc import Callable

import construct as c

from iscsi_target.scsi.atomic import MAX_ATOMIC_BLOCKS
from iscsi_target.scsi.logical_unit import DeviceType, LogicalUnit
from iscsi_target.scsi.operation import Task
from iscsi_target.scsi.provisioning import (
    MAX_UNMAP_BLOCKS,
    MAX_UNMAP_DESCRIPTORS,
    anchors,
    max_write_same_blocks,
    threshold_exponent,
)

VpdPage = Callable[[Task], bytes]


def padded(text: str, width: int) -> bytes:
    """ASCII, left-aligned and filled with spaces (SPC-4 4.3.1)."""
    return text.encode("ascii").ljust(width)


def _supported_pages(task: Task) -> bytes:
    return bytes(sorted(pages_of(task.unit)))


def _unit_serial_number(task: Task) -> bytes:
    return task.unit.identity.serial.encode("ascii")


DESIGNATOR = c.Struct(
    "protocol" / c.BitStruct("protocol_identifier" / c.BitsInteger(4), "code_set" / c.BitsInteger(4)),
    "kind"
    / c.BitStruct(
        "piv" / c.Flag, c.Padding(1), "association" / c.BitsInteger(2), "designator_type" / c.BitsInteger(4)
    ),
    c.Padding(1),
    "designator" / c.Prefixed(c.Int8ub, c.GreedyBytes),
)
"""Designation descriptor, SPC-4 table 547."""

_ISCSI = 5
_BINARY, _ASCII, _UTF8 = 1, 2, 3
_LOGICAL_UNIT, _TARGET_PORT, _TARGET_DEVICE = 0, 1, 2
_T10_VENDOR_ID, _NAA, _RELATIVE_TARGET_PORT, _TARGET_PORT_GROUP, _SCSI_NAME = 1, 3, 4, 5, 8


def _designator(association: int, kind: int, code_set: int, designator: bytes) -> bytes:
    of_port = association != _LOGICAL_UNIT
    built: bytes = DESIGNATOR.build(
        {
            "protocol": {"protocol_identifier": _ISCSI if of_port else 0, "code_set": code_set},
            "kind": {"piv": of_port, "association": association, "designator_type": kind},
            "designator": designator,
        }
    )
    return built


def scsi_name(text: str) -> bytes:
    """A SCSI name string: UTF-8, null terminated, padded to a multiple of 4 (SPC-4 7.8.6.11)."""
    encoded = text.encode() + b"\0"
    return encoded + bytes(-len(encoded) % 4)


def _device_identification(task: Task) -> bytes:
    unit, port = task.unit, task.nexus.target_port
    port_bytes = (port & 0xFFFF).to_bytes(4, "big")
    vendor_specific = padded(unit.config.vendor, 8) + unit.identity.serial.encode("ascii")
    return b"".join(
        (
            _designator(_LOGICAL_UNIT, _NAA, _BINARY, unit.identity.naa),
            _designator(_LOGICAL_UNIT, _T10_VENDOR_ID, _ASCII, vendor_specific),
            _designator(_TARGET_PORT, _RELATIVE_TARGET_PORT, _BINARY, port_bytes),
            _designator(_TARGET_PORT, _TARGET_PORT_GROUP, _BINARY, port_bytes),
            _designator(
                _TARGET_PORT, _SCSI_NAME, _UTF8, scsi_name(f"{task.target.name},t,0x{port & 0xFFFF:04x}")
            ),
            _designator(_TARGET_DEVICE, _SCSI_NAME, _UTF8, scsi_name(task.target.name)),
        )
    )


EXTENDED_INQUIRY_DATA = c.Struct(
    c.Padding(1),
    "support"
    / c.BitStruct(
        c.Padding(2),
        "uask_sup" / c.Flag,
        "group_sup" / c.Flag,
        "prior_sup" / c.Flag,
        "headsup" / c.Flag,
        "ordsup" / c.Flag,
        "simpsup" / c.Flag,
    ),
    "cache" / c.BitStruct(c.Padding(6), "nv_sup" / c.Flag, "v_sup" / c.Flag),
    "persistence" / c.BitStruct(c.Padding(7), "luiclr" / c.Flag),
    c.Padding(5),
    "maximum_supported_sense_data_length" / c.Int8ub,
    c.Padding(50),
)
"""Extended INQUIRY data after the page header, SPC-4 table 549: 60 bytes."""

BLOCK_LIMITS = c.Struct(
    "flags" / c.BitStruct(c.Padding(7), "wsnz" / c.Flag),
    "maximum_compare_and_write_length" / c.Int8ub,
    "optimal_transfer_length_granularity" / c.Int16ub,
    "maximum_transfer_length" / c.Int32ub,
    "optimal_transfer_length" / c.Int32ub,
    "maximum_prefetch_length" / c.Int32ub,
    "maximum_unmap_lba_count" / c.Int32ub,
    "maximum_unmap_block_descriptor_count" / c.Int32ub,
    "optimal_unmap_granularity" / c.Int32ub,
    "alignment" / c.BitStruct("ugavalid" / c.Flag, "unmap_granularity_alignment" / c.BitsInteger(31)),
    "maximum_write_same_length" / c.Int64ub,
    "maximum_atomic_transfer_length" / c.Int32ub,
    "atomic_alignment" / c.Int32ub,
    "atomic_transfer_length_granularity" / c.Int32ub,
    "maximum_atomic_transfer_length_with_atomic_boundary" / c.Int32ub,
    "maximum_atomic_boundary_size" / c.Int32ub,
)
"""Block limits after the page header, SBC-3 table 204 and SBC-4 table 274: 60 bytes."""

BLOCK_DEVICE_CHARACTERISTICS = c.Struct(
    "medium_rotation_rate" / c.Int16ub,
    "product_type" / c.Int8ub,
    "sanitize"
    / c.BitStruct(
        "wabereq" / c.BitsInteger(2), "wacereq" / c.BitsInteger(2), "nominal_form_factor" / c.BitsInteger(4)
    ),
    "flags" / c.BitStruct(c.Padding(6), "fuab" / c.Flag, "vbuls" / c.Flag),
    c.Padding(55),
)
"""Block device characteristics after the page header, SBC-3 table 201: 60 bytes."""

LOGICAL_BLOCK_PROVISIONING = c.Struct(
    "threshold_exponent" / c.Int8ub,
    "flags"
    / c.BitStruct(
        "lbpu" / c.Flag,
        "lbpws" / c.Flag,
        "lbpws10" / c.Flag,
        c.Padding(2),
        "lbprz" / c.Flag,
        "anc_sup" / c.Flag,
        "dp" / c.Flag,
    ),
    "provisioning" / c.BitStruct(c.Padding(5), "provisioning_type" / c.BitsInteger(3)),
    c.Padding(1),
)
"""Logical block provisioning after the page header, SBC-3 table 209: 4 bytes."""

_SOLID_STATE = 1
_READS_ZEROS_AFTER_SANITIZE = 1
_THIN = 2
_MAX_SENSE_BYTES = 252


def _extended_inquiry_data(task: Task) -> bytes:
    built: bytes = EXTENDED_INQUIRY_DATA.build(
        {
            "support": {
                "uask_sup": False,
                "group_sup": False,
                "prior_sup": False,
                "headsup": True,
                "ordsup": True,
                "simpsup": True,
            },
            "cache": {"nv_sup": False, "v_sup": task.unit.config.write_cache},
            "persistence": {"luiclr": False},
            "maximum_supported_sense_data_length": _MAX_SENSE_BYTES,
        }
    )
    return built


def _block_limits(task: Task) -> bytes:
    unit = task.unit
    physical = 1 << unit.config.physical_block_exponent
    granularity = max(1, unit.store.granularity_bytes // unit.block_length)
    built: bytes = BLOCK_LIMITS.build(
        {
            "flags": {"wsnz": False},
            "maximum_compare_and_write_length": 255,
            "optimal_transfer_length_granularity": physical,
            "maximum_transfer_length": unit.max_transfer_blocks,
            "optimal_transfer_length": min(unit.max_transfer_blocks, (1 << 20) // unit.block_length),
            "maximum_prefetch_length": 0,
            "maximum_unmap_lba_count": MAX_UNMAP_BLOCKS if unit.thin else 0,
            "maximum_unmap_block_descriptor_count": MAX_UNMAP_DESCRIPTORS if unit.thin else 0,
            "optimal_unmap_granularity": granularity if unit.thin else 0,
            "alignment": {"ugavalid": unit.thin, "unmap_granularity_alignment": 0},
            "maximum_write_same_length": max_write_same_blocks(unit),
            "maximum_atomic_transfer_length": min(MAX_ATOMIC_BLOCKS, unit.max_transfer_blocks),
            "atomic_alignment": 0,
            "atomic_transfer_length_granularity": 0,
            "maximum_atomic_transfer_length_with_atomic_boundary": 0,
            "maximum_atomic_boundary_size": 0,
        }
    )
    return built


def _block_device_characteristics(task: Task) -> bytes:
    built: bytes = BLOCK_DEVICE_CHARACTERISTICS.build(
        {
            "medium_rotation_rate": _SOLID_STATE,
            "product_type": 0,
            "sanitize": {
                "wabereq": _READS_ZEROS_AFTER_SANITIZE,
                "wacereq": _READS_ZEROS_AFTER_SANITIZE,
                "nominal_form_factor": 0,
            },
            "flags": {"fuab": False, "vbuls": False},
        }
    )
    return built


def _logical_block_provisioning(task: Task) -> bytes:
    thin = task.unit.thin
    built: bytes = LOGICAL_BLOCK_PROVISIONING.build(
        {
            "threshold_exponent": threshold_exponent(task.unit),
            "flags": {
                "lbpu": thin,
                "lbpws": thin,
                "lbpws10": thin,
                "lbprz": thin,
                "anc_sup": anchors(task.unit),
                "dp": False,
            },
            "provisioning": {"provisioning_type": _THIN if thin else 0},
        }
    )
    return built


_EVERY_UNIT: dict[int, VpdPage] = {
    0x00: _supported_pages,
    0x80: _unit_serial_number,
    0x83: _device_identification,
    0x86: _extended_inquiry_data,
}
_DISK: dict[int, VpdPage] = {
    **_EVERY_UNIT,
    0xB0: _block_limits,
    0xB1: _block_device_characteristics,
    0xB2: _logical_block_provisioning,
}


def pages_of(unit: LogicalUnit) -> dict[int, VpdPage]:
    """The VPD pages of a unit, by page code."""
    return _DISK if unit.config.device_type is DeviceType.DISK else _EVERY_UNIT
