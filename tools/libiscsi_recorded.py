# SPDX-License-Identifier: Apache-2.0
"""Results of libiscsi's suite (1.19.0) at other targets, recorded on 2026-11-22; no run of ours makes them."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Recorded:
    """One peer's results of an earlier run. Where only the failures are known, `skips` is None."""

    name: str
    about: str
    totals: str
    fails: frozenset[str]
    skips: frozenset[str] | None = None

    def cell(self, names: Collection[str]) -> str:
        """Passed / failed / skipped of these tests, a question mark for what was not recorded."""
        fails = sum(name in self.fails for name in names)
        if self.skips is None:
            return f"? / {fails} / ?"
        skips = sum(name in self.skips for name in names)
        return f"{len(names) - fails - skips} / {fails} / {skips}"


def _tests(by_suite: Mapping[str, str]) -> frozenset[str]:
    return frozenset(f"{suite}.{test}" for suite, tests in by_suite.items() for test in tests.split())


_LIO_FAILS = {
    "CompareAndWrite": "Miscompare Simple",
    "ReceiveCopyResults": "CopyStatus",
    "Reserve6": "Logout",
    "Sanitize": "Readonly",
    "Verify10": "Mismatch VerifyProtect",
    "Verify16": "Mismatch VerifyProtect",
    "iSCSIResiduals": "Write10Residuals Write12Residuals Write16Residuals WriteVerify10Residuals "
    "WriteVerify16Residuals",
    "iSCSIdatasn": "iSCSIDataSnInvalid",
}
_LIO_SKIPS = {
    "CompareAndWrite": "DpoFua InvalidDataOutSize",
    "GetLBAStatus": "BeyondEol Simple UnmapSingle",
    "OrWrite": "BeyondEol DpoFua Protect Simple Verify ZeroBlocks",
    "Prefetch10": "BeyondEol Flags Simple ZeroBlocks",
    "Prefetch16": "BeyondEol Flags Simple ZeroBlocks",
    "PreventAllow": "2ITNexuses ColdReset Eject ITNexusLoss LUNReset Logout Simple WarmReset",
    "Read10": "DpoFua",
    "Read12": "DpoFua",
    "Read16": "DpoFua",
    "ReadDefectData10": "Simple",
    "ReadDefectData12": "Simple",
    "ReadOnly": "ReadOnlySBC",
    "ReportSupportedOpcodes": "OneCommand RCTD SERVACTV Simple",
    "Reserve6": "TargetColdReset TargetWarmReset",
    "Sanitize": "BlockErase BlockEraseReserved CryptoErase CryptoEraseReserved ExitFailureMode "
    "InvalidServiceAction Overwrite OverwriteReserved Reservations Reset",
    "StartStopUnit": "Simple",
    "Verify10": "Dpo",
    "Verify12": "BeyondEol Dpo Flags Mismatch MismatchNoCmp Simple VerifyProtect ZeroBlocks",
    "Verify16": "Dpo",
    "Write10": "DpoFua",
    "Write12": "DpoFua",
    "Write16": "DpoFua",
    "WriteAtomic16": "BeyondEol DpoFua Simple VPD WriteProtect ZeroBlocks",
    "WriteSame10": "InvalidDataOutSize UnmapUnaligned ZeroBlocks",
    "WriteSame16": "InvalidDataOutSize UnmapUnaligned ZeroBlocks",
    "WriteVerify10": "Dpo",
    "WriteVerify12": "BeyondEol Dpo Flags Simple WriteProtect ZeroBlocks",
    "WriteVerify16": "Dpo",
    "iSCSIResiduals": "WriteVerify12Residuals",
}
_ISTGT_FAILS = {
    "CompareAndWrite": "DpoFua Miscompare Simple",
    "Inquiry": "BlockLimits EVPD",
    "ModeSense6": "Control-D_SENSE Control-SWP",
    "MultipathIO": "Reset",
    "ProutClear": "Simple",
    "ProutPreempt": "RemoveRegistration",
    "ProutRegister": "Simple",
    "ProutReserve": "AccessEAAR AccessWEAR OwnershipEA OwnershipEAAR OwnershipEARO OwnershipWE OwnershipWEAR "
    "OwnershipWERO Simple",
    "Read10": "BeyondEol DpoFua ReadProtect ZeroBlocks",
    "Read12": "BeyondEol DpoFua ReadProtect ZeroBlocks",
    "Read16": "BeyondEol DpoFua ReadProtect ZeroBlocks",
    "Read6": "BeyondEol",
    "ReadCapacity16": "Alloclen",
    "Reserve6": "2Initiators ITNexusLoss LUNReset Logout TargetColdReset TargetWarmReset",
    "Sanitize": "Readonly Reservations",
    "Verify10": "BeyondEol Dpo Mismatch VerifyProtect ZeroBlocks",
    "Verify12": "BeyondEol Dpo Mismatch VerifyProtect ZeroBlocks",
    "Verify16": "BeyondEol Dpo Mismatch VerifyProtect ZeroBlocks",
    "Write10": "BeyondEol DpoFua WriteProtect ZeroBlocks",
    "Write12": "BeyondEol DpoFua WriteProtect ZeroBlocks",
    "Write16": "BeyondEol DpoFua WriteProtect ZeroBlocks",
    "WriteSame10": "BeyondEol WriteProtect ZeroBlocks",
    "WriteSame16": "BeyondEol WriteProtect ZeroBlocks",
    "WriteVerify10": "BeyondEol Dpo WriteProtect ZeroBlocks",
    "WriteVerify12": "BeyondEol Dpo WriteProtect ZeroBlocks",
    "WriteVerify16": "BeyondEol Dpo WriteProtect ZeroBlocks",
    "iSCSIResiduals": "Read10Invalid Read10Residuals Read12Residuals Read16Residuals Write10Residuals "
    "Write12Residuals Write16Residuals WriteVerify10Residuals WriteVerify12Residuals "
    "WriteVerify16Residuals",
    "iSCSITMF": "LUNResetSimpleAsync",
}

RECORDED = (
    Recorded(
        "LIO",
        "the target of Linux 6.1 in a virtual machine, a file-backed unit with emulate_tpu and emulate_tpws; the whole "
        "suite in one process of the tool; MultipathIO with the URL given twice",
        "131 / 15 / 84",
        _tests(_LIO_FAILS),
        _tests(_LIO_SKIPS),
    ),
    Recorded(
        "istgt 0.4",
        "of 2011-10-08, a file-backed unit, merged from two runs; the unit stayed reserved after some tests, which may "
        "have failed later ones: a lower bound. What timed out (13) counts as failed",
        "64 / 98 / 68",
        _tests(_ISTGT_FAILS),
    ),
)
