# SPDX-License-Identifier: Apache-2.0
"""What the driver of the kernel's target says no with.

::

    LioError               the abstract root; its text is one line
      InvalidDescription   the description, or a saveconfig file, means nothing
      KernelUnavailable    this machine or user cannot configure LIO; carries the fix
      NotOurs              something of that name is there already, and we did not make it
      StepFailed           the kernel refused a step; what this run had done was undone
"""

from __future__ import annotations

from collections.abc import Sequence


class LioError(Exception):
    """Root of the package's errors."""


class InvalidDescription(LioError, ValueError):
    """A value without a meaning; the text names where it stands."""


class KernelUnavailable(LioError):
    """No LIO here; `reason` says why and `fix` what to do about it."""

    def __init__(self, reason: str, fix: str) -> None:
        super().__init__(f"{reason}; {fix}")
        self.reason = reason
        self.fix = fix


class NotOurs(LioError):
    """Present things of others stand in the way."""


class StepFailed(LioError):
    """A step was refused. `left`: what could not be undone, in words; empty when the kernel is as it was."""

    def __init__(self, text: str, left: Sequence[str] = ()) -> None:
        rest = f"; could not undo: {'; '.join(left)}" if left else "; everything that this run did was undone"
        super().__init__(text + rest)
        self.left = tuple(left)
