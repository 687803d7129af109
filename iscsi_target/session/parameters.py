# SPDX-License-Identifier: Apache-2.0
"""What one end wishes and what both agreed on, as plain values named like the keys of RFC 7143 section 13."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

FIELDS: Mapping[str, str] = {
    "HeaderDigest": "header_digest",
    "DataDigest": "data_digest",
    "MaxConnections": "max_connections",
    "InitialR2T": "initial_r2t",
    "ImmediateData": "immediate_data",
    "MaxRecvDataSegmentLength": "max_recv_data_segment_length",
    "MaxBurstLength": "max_burst_length",
    "FirstBurstLength": "first_burst_length",
    "DefaultTime2Wait": "default_time2wait",
    "DefaultTime2Retain": "default_time2retain",
    "MaxOutstandingR2T": "max_outstanding_r2t",
    "DataPDUInOrder": "data_pdu_in_order",
    "DataSequenceInOrder": "data_sequence_in_order",
    "ErrorRecoveryLevel": "error_recovery_level",
    "TaskReporting": "task_reporting",
    "iSCSIProtocolLevel": "iscsi_protocol_level",
}
"""Key name to attribute name, for every key whose value the session keeps."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Parameters:
    """One end's wishes. Lists are in order of preference; lengths in bytes; times in seconds."""

    header_digest: tuple[str, ...] = ("None", "CRC32C")
    data_digest: tuple[str, ...] = ("None", "CRC32C")
    max_connections: int = 16
    initial_r2t: bool = False
    immediate_data: bool = True
    max_recv_data_segment_length: int = 262144
    max_burst_length: int = 1048576
    first_burst_length: int = 262144
    default_time2wait: int = 2
    default_time2retain: int = 20
    max_outstanding_r2t: int = 8
    data_pdu_in_order: bool = True
    data_sequence_in_order: bool = True
    error_recovery_level: int = 0
    task_reporting: tuple[str, ...] = ("RFC3720", "ResponseFence", "FastAbort")
    iscsi_protocol_level: int = 2

    def __post_init__(self) -> None:
        if not 512 <= self.first_burst_length <= self.max_burst_length <= 0xFFFFFF:
            raise ValueError("512 <= FirstBurstLength <= MaxBurstLength <= 2**24 - 1 does not hold")
        if not 512 <= self.max_recv_data_segment_length <= 0xFFFFFF:
            raise ValueError("MaxRecvDataSegmentLength is not between 512 and 2**24 - 1")


@dataclass(frozen=True, slots=True, kw_only=True)
class Agreed:
    """What holds for a connection and its session after the login; the defaults are the standard's."""

    header_digest: str = "None"
    data_digest: str = "None"
    max_connections: int = 1
    initial_r2t: bool = True
    immediate_data: bool = True
    max_recv_data_segment_length: int = 8192
    """What we declared: the most the peer may send us in one data segment."""
    max_send_data_segment_length: int = 8192
    """What the peer declared."""
    max_burst_length: int = 262144
    first_burst_length: int = 65536
    default_time2wait: int = 2
    default_time2retain: int = 20
    max_outstanding_r2t: int = 1
    data_pdu_in_order: bool = True
    data_sequence_in_order: bool = True
    error_recovery_level: int = 0
    task_reporting: str = "RFC3720"
    iscsi_protocol_level: int = 1
