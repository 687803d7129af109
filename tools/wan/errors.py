"""What the channel says no with.

::

    WanError              the abstract root
      BadSetting          a rate, delay, queue, address or argument that has no meaning
      ChannelUnavailable  this machine cannot emulate a channel of the kind asked for; carries the fix
      ChannelFailed       the channel was there and is no longer (closed, or its process died)
"""

from __future__ import annotations


class WanError(Exception):
    """Root of the package's errors."""


class BadSetting(WanError, ValueError):
    """A value that has no meaning, whatever the machine; the text names it and its limits."""


class ChannelUnavailable(WanError):
    """This machine cannot make the channel; ``reason`` says why and ``fix`` what to do about it."""

    def __init__(self, reason: str, fix: str = "") -> None:
        super().__init__(f"{reason}; {fix}" if fix else reason)
        self.reason = reason
        self.fix = fix


class ChannelFailed(WanError):
    """The channel is closed, or the process that holds it has died."""
