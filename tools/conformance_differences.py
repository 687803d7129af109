# SPDX-License-Identifier: Apache-2.0
"""Where the emulator and the kernel's target (LIO, Linux 6.1, a file-backed unit) differ in libiscsi's suite, and why.

The lab's tests run these on both and want exactly these verdicts; `make soak` runs the whole suite, in which nothing
else may differ but what one of the two does not implement (skipped).
"""

from __future__ import annotations

from dataclasses import dataclass

from tools.libiscsi_suite import FAIL, PASS, SKIP


@dataclass(frozen=True, slots=True)
class Difference:
    """Tests that end differently: the emulator's verdict, LIO's, and the reason with its clause.

    In a ``race`` LIO's verdict is the usual one: another may come from who is first, and is no news.
    """

    tests: tuple[str, ...]
    emulator: str
    lio: str
    why: str
    race: bool = False


DIFFERENCES = (
    Difference(
        ("CompareAndWrite.Simple", "CompareAndWrite.Miscompare"),
        PASS,
        FAIL,
        "More blocks than MAXIMUM COMPARE AND WRITE LENGTH are INVALID FIELD IN CDB (SBC-3 5.2). LIO refuses them with"
        " an additional sense code of its own, 0E/03.",
    ),
    Difference(
        ("ReceiveCopyResults.CopyStatus",),
        PASS,
        FAIL,
        "LIO copies (EXTENDED COPY) and answers RECEIVE COPY RESULTS with the operating parameters only, not with the"
        " status of a copy (SPC-4 6.18.2).",
    ),
    Difference(
        ("Reserve6.Logout",),
        PASS,
        FAIL,
        "A logout is an I_T nexus loss and ends a RESERVE(6) (SPC-2 5.5.1). LIO releases it a moment after the logout"
        " was answered: who comes at once meets RESERVATION CONFLICT.",
        race=True,
    ),
    Difference(
        ("Reserve6.TargetColdReset", "Reserve6.TargetWarmReset"),
        PASS,
        SKIP,
        "LIO carries out no TARGET RESET and says so (RFC 7143 section 11.6.1). Each of these tests then leaves its"
        " RESERVE(6) to its logout, and LIO releases it a moment later, as above: the test that follows at once may"
        " meet RESERVATION CONFLICT.",
        race=True,
    ),
    Difference(
        ("Sanitize.Readonly",),
        PASS,
        FAIL,
        "LIO knows no SANITIZE and says so where WRITE PROTECTED is wanted.",
    ),
    Difference(
        ("Verify10.Mismatch", "Verify16.Mismatch", "Verify10.VerifyProtect", "Verify16.VerifyProtect"),
        PASS,
        FAIL,
        "LIO's VERIFY takes the data and compares nothing (SBC-3 5.29: MISCOMPARE), and looks at no VRPROTECT.",
    ),
    Difference(
        ("iSCSIdatasn.iSCSIDataSnInvalid",),
        PASS,
        FAIL,
        "A hole in the DataSN of Data-Out (RFC 7143 section 7.8): LIO, at error recovery level 0, drops the connection"
        " without an answer where a CHECK CONDITION or a Reject is wanted.",
    ),
    Difference(
        (
            "iSCSIResiduals.Write10Residuals",
            "iSCSIResiduals.Write12Residuals",
            "iSCSIResiduals.Write16Residuals",
            "iSCSIResiduals.WriteVerify10Residuals",
            "iSCSIResiduals.WriteVerify16Residuals",
        ),
        PASS,
        FAIL,
        "EXPECTED DATA TRANSFER LENGTH and the CDB disagree (RFC 7143 section 11.4.5): LIO refuses such writes with"
        " INVALID FIELD IN CDB instead of writing what both allow and reporting the residual.",
    ),
)


def differences_table() -> str:
    """The table of docs/conformance.md."""
    lines = ["| libiscsi's test | emulator | LIO | why |", "|---|---|---|---|"]
    for one in DIFFERENCES:
        tests = ", ".join(f"`{test}`" for test in one.tests)
        lines.append(f"| {tests} | {one.emulator} | {one.lio} | {one.why} |")
    return "\n".join(lines) + "\n"
