"""What the lab says no with.

::

    LabError            the abstract root
      LabUnavailable    this machine cannot have the lab; carries the reason and the fix
      LabFailed         the guest was there and did not do what it was asked for
"""

from __future__ import annotations


class LabError(Exception):
    """Root of the package's errors."""


class LabUnavailable(LabError):
    """No lab on this machine; ``reason`` says why and ``fix`` what to do about it."""

    def __init__(self, reason: str, fix: str) -> None:
        super().__init__(f"{reason}; {fix}")
        self.reason = reason
        self.fix = fix


class LabFailed(LabError):
    """The guest did not boot, does not answer, or a file could not be copied."""
