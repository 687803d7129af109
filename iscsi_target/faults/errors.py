# SPDX-License-Identifier: Apache-2.0
"""What the fault rules say no with."""

from __future__ import annotations


class FaultError(ValueError):
    """A rule, a rules file or a hook is not what it has to be; the text is one line for its author."""


class UnknownRule(FaultError):
    """There is no rule of this name."""
