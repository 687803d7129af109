"""What the harness itself says."""

from __future__ import annotations


class HarnessError(Exception):
    """A target or initiator of a test could not be had, or did not end in time."""


class Hung(HarnessError):
    """Something did not answer in time; the text has the stack of the thread that was to answer."""
