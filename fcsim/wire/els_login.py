# SPDX-License-Identifier: Apache-2.0
"""Logins and logouts of ports, fabrics and processes (FC-LS: FLOGI, FDISC, PLOGI, PDISC, LOGO, PRLI, PRLO).

The login carries what buffer credit is about: BB_Credit, BB_SC_N, the receive data field size, EE_Credit.
"""

from __future__ import annotations

import enum
from dataclasses import dataclass
from typing import ClassVar

from construct import (
    BitsInteger,
    BitStruct,
    Bytes,
    Const,
    Construct,
    Flag,
    GreedyBytes,
    Int8ub,
    Int16ub,
    Int24ub,
    Int32ub,
    Int64ub,
    Padding,
    Struct,
)

from fcsim.wire.codes import FcType, OpenCode
from fcsim.wire.els_commands import ElsCommand
from fcsim.wire.layout import Coded, Many, Record, Sized, command

__all__ = [
    "ClassOptions",
    "ClassParameters",
    "CommonFeatures",
    "FcpService",
    "Fdisc",
    "Flogi",
    "FlogiAccept",
    "Logo",
    "NvmePrli",
    "NvmePrliAccept",
    "NvmeServiceParameterPage",
    "Pdisc",
    "Plogi",
    "PlogiAccept",
    "Prli",
    "PrliAccept",
    "PrliResponse",
    "Prlo",
    "PrloAccept",
    "PrloPage",
    "ServiceParameterPage",
]


class CommonFeatures(enum.IntFlag, boundary=enum.KEEP):
    """Common features of a login (FC-LS, common service parameters, word 1).

    The first bit depends on the login: several N_Port_IDs (FLOGI), clean address (its LS_ACC), continuously
    increasing relative offset (PLOGI). The third: valid vendor version level, or NPIV granted (FLOGI LS_ACC).
    """

    MULTIPLE_N_PORT_ID = 0x8000
    RANDOM_RELATIVE_OFFSET = 0x4000
    VALID_VENDOR_VERSION = 0x2000
    F_PORT = 0x1000
    ALTERNATE_BB_CREDIT = 0x0800
    E_D_TOV_NANOSECONDS = 0x0400
    MULTICAST = 0x0200
    BROADCAST = 0x0100
    HUNT_GROUP = 0x0080
    DEDICATED_SIMPLEX = 0x0040
    SECURITY = 0x0020
    CLOCK_SYNCHRONIZATION = 0x0010
    R_T_TOV_100_US = 0x0008
    DYNAMIC_HALF_DUPLEX = 0x0004
    CONTINUOUSLY_INCREASING_SEQ_CNT = 0x0002
    PAYLOAD_256 = 0x0001


class ClassOptions(enum.IntFlag, boundary=enum.KEEP):
    """Service options of one class (FC-LS, class service parameters, word 0)."""

    VALID = 0x8000
    INTERMIX = 0x4000
    STACKED_CONNECT = 0x3000
    SEQUENTIAL_DELIVERY = 0x0800
    DEDICATED_SIMPLEX = 0x0400
    CAMP_ON = 0x0200
    BUFFERED_CLASS_1 = 0x0100
    PRIORITY = 0x0080


@dataclass(frozen=True, slots=True, kw_only=True)
class ClassParameters:
    """Class service parameters, 16 bytes (FC-LS, class service parameters)."""

    LAYOUT: ClassVar[Struct] = Struct(
        "service_options" / Coded(Int16ub, ClassOptions),
        "initiator_control" / Int16ub,
        "recipient_control" / Int16ub,
        "receive_data_field_size" / Int16ub,
        "concurrent_sequences" / Int16ub,
        "ee_credit" / Int16ub,
        "open_sequences_per_exchange" / Int16ub,
        "obsolete" / Int16ub,
    )
    service_options: int = 0
    initiator_control: int = 0
    recipient_control: int = 0
    receive_data_field_size: int = 0
    concurrent_sequences: int = 0
    ee_credit: int = 0
    open_sequences_per_exchange: int = 0
    obsolete: int = 0

    @property
    def valid(self) -> bool:
        """True when the class is supported."""
        return bool(self.service_options & ClassOptions.VALID)


_NO_CLASS = ClassParameters()
_NO_VERSION = bytes(16)


def _login(code: ElsCommand, word_3: tuple[object, ...]) -> Struct:
    """The layout all logins share; word 3 of the common service parameters differs."""
    return Struct(
        command(code, Int8ub),
        Padding(3),
        "version_high" / Int8ub,
        "version_low" / Int8ub,
        "bb_credit" / Int16ub,
        "common_features" / Coded(Int16ub, CommonFeatures),
        "bb_data" / BitStruct("bb_sc_n" / BitsInteger(4), "bb_receive_data_field_size" / BitsInteger(12)),
        *word_3,
        "e_d_tov" / Int32ub,
        "port_name" / Int64ub,
        "node_name" / Int64ub,
        "class_1" / Record(ClassParameters),
        "class_2" / Record(ClassParameters),
        "class_3" / Record(ClassParameters),
        "class_4" / Record(ClassParameters),
        "vendor_version" / Bytes(16),
        "extension" / GreedyBytes,
    )


_FABRIC = ("r_a_tov" / Int32ub,)
_N_PORT = ("total_concurrent_sequences" / Int16ub, "relative_offset_by_category" / Int16ub)


class _LoginWords:
    """What the words of every login say (FC-LS, common service parameters)."""

    __slots__ = ()
    common_features: int
    e_d_tov: int

    @property
    def alternate_bb_credit(self) -> bool:
        """Alternate BB credit management: credit starts at zero and R_RDYs are sent first."""
        return bool(self.common_features & CommonFeatures.ALTERNATE_BB_CREDIT)

    @property
    def e_d_tov_ns(self) -> int:
        """E_D_TOV in nanoseconds, whichever resolution the login chose."""
        if self.common_features & CommonFeatures.E_D_TOV_NANOSECONDS:
            return self.e_d_tov
        return self.e_d_tov * 1_000_000


@dataclass(frozen=True, slots=True, kw_only=True)
class _FabricLogin(_LoginWords):
    version_high: int = 0x20
    version_low: int = 0x20
    bb_credit: int
    common_features: int = 0
    bb_sc_n: int = 0
    bb_receive_data_field_size: int
    r_a_tov: int = 0
    e_d_tov: int = 0
    port_name: int
    node_name: int
    class_1: ClassParameters = _NO_CLASS
    class_2: ClassParameters = _NO_CLASS
    class_3: ClassParameters = _NO_CLASS
    class_4: ClassParameters = _NO_CLASS
    vendor_version: bytes = _NO_VERSION
    extension: bytes = b""


@dataclass(frozen=True, slots=True, kw_only=True)
class _PortLogin(_LoginWords):
    version_high: int = 0x20
    version_low: int = 0x20
    bb_credit: int
    common_features: int = 0
    bb_sc_n: int = 0
    bb_receive_data_field_size: int
    total_concurrent_sequences: int = 255
    relative_offset_by_category: int = 0x1F
    e_d_tov: int = 2000
    port_name: int
    node_name: int
    class_1: ClassParameters = _NO_CLASS
    class_2: ClassParameters = _NO_CLASS
    class_3: ClassParameters = _NO_CLASS
    class_4: ClassParameters = _NO_CLASS
    vendor_version: bytes = _NO_VERSION
    extension: bytes = b""


@dataclass(frozen=True, slots=True, kw_only=True)
class Flogi(_FabricLogin):
    """FLOGI: fabric login, or the first login point-to-point (FC-LS). ``bb_credit`` holds for the link."""

    LAYOUT: ClassVar[Struct] = _login(ElsCommand.FLOGI, _FABRIC)


@dataclass(frozen=True, slots=True, kw_only=True)
class Fdisc(_FabricLogin):
    """FDISC: one more N_Port_ID over the same link (FC-LS); its ``bb_credit`` counts for nothing."""

    LAYOUT: ClassVar[Struct] = _login(ElsCommand.FDISC, _FABRIC)


@dataclass(frozen=True, slots=True, kw_only=True)
class FlogiAccept(_FabricLogin):
    """LS_ACC of FLOGI and FDISC (FC-LS). ``r_a_tov`` in milliseconds."""

    LAYOUT: ClassVar[Struct] = _login(ElsCommand.LS_ACC, _FABRIC)


@dataclass(frozen=True, slots=True, kw_only=True)
class Plogi(_PortLogin):
    """PLOGI: N_Port login (FC-LS). Its ``bb_credit`` counts point-to-point and on a loop only."""

    LAYOUT: ClassVar[Struct] = _login(ElsCommand.PLOGI, _N_PORT)


@dataclass(frozen=True, slots=True, kw_only=True)
class Pdisc(_PortLogin):
    """PDISC: discover N_Port service parameters without a new login (FC-LS)."""

    LAYOUT: ClassVar[Struct] = _login(ElsCommand.PDISC, _N_PORT)


@dataclass(frozen=True, slots=True, kw_only=True)
class PlogiAccept(_PortLogin):
    """LS_ACC of PLOGI and PDISC (FC-LS)."""

    LAYOUT: ClassVar[Struct] = _login(ElsCommand.LS_ACC, _N_PORT)


@dataclass(frozen=True, slots=True, kw_only=True)
class Logo:
    """LOGO: logout of `n_port_id` (FC-LS)."""

    LAYOUT: ClassVar[Struct] = Struct(
        command(ElsCommand.LOGO, Int8ub), Padding(4), "n_port_id" / Int24ub, "port_name" / Int64ub
    )
    n_port_id: int
    port_name: int


class PrliResponse(OpenCode):
    """Accept response code of a PRLI page (FC-LS, PRLI)."""

    NONE = 0
    REQUEST_EXECUTED = 1
    NO_RESOURCES = 2
    INITIALIZATION_INCOMPLETE = 3
    NO_SUCH_PAGE = 4
    PREDEFINED_CONFIGURATION = 5
    EXECUTED_CONDITIONALLY = 6
    ONE_PAGE_AT_A_TIME = 7
    INVALID = 8


class FcpService(enum.IntFlag, boundary=enum.KEEP):
    """FCP service parameters of a PRLI page (FCP-4, PRLI)."""

    REC_SUPPORT = 0x0400
    TASK_RETRY_IDENTIFICATION = 0x0200
    RETRY = 0x0100
    CONFIRMED_COMPLETION = 0x0080
    DATA_OVERLAY = 0x0040
    INITIATOR = 0x0020
    TARGET = 0x0010
    READ_XFER_RDY_DISABLED = 0x0002
    WRITE_XFER_RDY_DISABLED = 0x0001


def _page_flags() -> Construct:
    return "flags" / BitStruct(
        "originator_associator_valid" / Flag,
        "responder_associator_valid" / Flag,
        "establish_image_pair" / Flag,
        Padding(1),
        "response_code" / Coded(BitsInteger(4), PrliResponse),
        Padding(8),
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class ServiceParameterPage:
    """One page of a PRLI, 16 bytes (FC-LS, PRLI; FCP-4 for ``service_parameters``)."""

    LAYOUT: ClassVar[Struct] = Struct(
        "type_" / Coded(Int8ub, FcType),
        "type_extension" / Int8ub,
        _page_flags(),
        "originator_associator" / Int32ub,
        "responder_associator" / Int32ub,
        "service_parameters" / Coded(Int32ub, FcpService),
    )
    type_: int = FcType.FCP
    type_extension: int = 0
    originator_associator_valid: bool = False
    responder_associator_valid: bool = False
    establish_image_pair: bool = False
    response_code: int = 0
    originator_associator: int = 0
    responder_associator: int = 0
    service_parameters: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class NvmeServiceParameterPage:
    """One page of a PRLI for NVMe, 20 bytes (FC-NVMe, PRLI)."""

    LAYOUT: ClassVar[Struct] = Struct(
        *ServiceParameterPage.LAYOUT.subcons[:5],
        "service_parameters" / Int32ub,
        Padding(2),
        "first_burst_size" / Int16ub,
    )
    type_: int = FcType.NVME
    type_extension: int = 0
    originator_associator_valid: bool = False
    responder_associator_valid: bool = False
    establish_image_pair: bool = False
    response_code: int = 0
    originator_associator: int = 0
    responder_associator: int = 0
    service_parameters: int = 0
    first_burst_size: int = 0


def _process_login(code: ElsCommand, page: type[object]) -> Struct:
    size = Record(page).sizeof()
    pages = "pages" / Sized(Int16ub, Many(Record(page)), plus=4)
    return Struct(command(code, Int8ub), "page_length" / Const(size, Int8ub), pages)


@dataclass(frozen=True, slots=True, kw_only=True)
class Prli:
    """PRLI: process login (FC-LS)."""

    LAYOUT: ClassVar[Struct] = _process_login(ElsCommand.PRLI, ServiceParameterPage)
    pages: tuple[ServiceParameterPage, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class PrliAccept:
    """LS_ACC of a PRLI (FC-LS)."""

    LAYOUT: ClassVar[Struct] = _process_login(ElsCommand.LS_ACC, ServiceParameterPage)
    pages: tuple[ServiceParameterPage, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class NvmePrli:
    """PRLI with the longer pages of NVMe (FC-NVMe)."""

    LAYOUT: ClassVar[Struct] = _process_login(ElsCommand.PRLI, NvmeServiceParameterPage)
    pages: tuple[NvmeServiceParameterPage, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class NvmePrliAccept:
    """LS_ACC of a PRLI with the longer pages of NVMe (FC-NVMe)."""

    LAYOUT: ClassVar[Struct] = _process_login(ElsCommand.LS_ACC, NvmeServiceParameterPage)
    pages: tuple[NvmeServiceParameterPage, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class PrloPage:
    """One page of a PRLO, 16 bytes (FC-LS, PRLO)."""

    LAYOUT: ClassVar[Struct] = Struct(
        "type_" / Coded(Int8ub, FcType),
        "type_extension" / Int8ub,
        "flags"
        / BitStruct(
            "originator_associator_valid" / Flag,
            "responder_associator_valid" / Flag,
            Padding(2),
            "response_code" / Coded(BitsInteger(4), PrliResponse),
            Padding(8),
        ),
        "originator_associator" / Int32ub,
        "responder_associator" / Int32ub,
        Padding(4),
    )
    type_: int = FcType.FCP
    type_extension: int = 0
    originator_associator_valid: bool = False
    responder_associator_valid: bool = False
    response_code: int = 0
    originator_associator: int = 0
    responder_associator: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Prlo:
    """PRLO: process logout (FC-LS)."""

    LAYOUT: ClassVar[Struct] = _process_login(ElsCommand.PRLO, PrloPage)
    pages: tuple[PrloPage, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class PrloAccept:
    """LS_ACC of a PRLO (FC-LS)."""

    LAYOUT: ClassVar[Struct] = _process_login(ElsCommand.LS_ACC, PrloPage)
    pages: tuple[PrloPage, ...]
