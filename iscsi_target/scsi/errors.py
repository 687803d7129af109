# SPDX-License-Identifier: Apache-2.0
"""What the SCSI layer says no with.

::

    ScsiError              the abstract root
      CheckCondition       a command ends with CHECK CONDITION; carries the sense data            (SAM-5 5.3.1)
      StatusOnly           a command ends with another status, for example RESERVATION CONFLICT    (SAM-5 5.3.1)
      StoreError           a backing store cannot be opened, read or written
      InvalidConfiguration a logical unit or LUN map that cannot be built

`CheckCondition` and `StatusOnly` never leave :mod:`iscsi_target.scsi`: the device server turns them into results.
"""

from __future__ import annotations

from iscsi_target.scsi.sense import Condition, FieldPointer, SenseData
from iscsi_target.scsi.status import Status


class ScsiError(Exception):
    """Root of the package's errors."""


class CheckCondition(ScsiError):
    """The command ends with CHECK CONDITION and this sense data."""

    def __init__(self, sense: SenseData) -> None:
        super().__init__(sense.condition.name)
        self.sense = sense


class StatusOnly(ScsiError):
    """The command ends with `status` and no sense data."""

    def __init__(self, status: Status) -> None:
        super().__init__(status.name)
        self.status = status


class StoreError(ScsiError):
    """A backing store failed; the text names the store and what to do. `full`: for want of space."""

    def __init__(self, text: str, *, full: bool = False) -> None:
        super().__init__(text)
        self.full = full


class InvalidConfiguration(ScsiError):
    """A logical unit, LUN map or store description that has no meaning."""


def check(condition: Condition, *, information: int | None = None) -> CheckCondition:
    """A CHECK CONDITION to raise; `information` is the INFORMATION field (an LBA or an offset, SPC-4 4.5.2.2)."""
    return CheckCondition(SenseData(condition, information=information))


def invalid_field_in_cdb(byte: int, bit: int | None = None) -> CheckCondition:
    """INVALID FIELD IN CDB that points at `byte` (and the most significant `bit` of the field, SPC-4 4.5.2.4.2)."""
    return CheckCondition(
        SenseData(Condition.INVALID_FIELD_IN_CDB, field_pointer=FieldPointer(byte, bit, in_cdb=True))
    )


def invalid_field_in_parameter_list(byte: int, bit: int | None = None) -> CheckCondition:
    """INVALID FIELD IN PARAMETER LIST that points at `byte` of the Data-Out (SPC-4 4.5.2.4.2)."""
    return CheckCondition(
        SenseData(
            Condition.INVALID_FIELD_IN_PARAMETER_LIST, field_pointer=FieldPointer(byte, bit, in_cdb=False)
        )
    )
