# SPDX-License-Identifier: Apache-2.0
"""Errors of fcsim, two levels: FibreChannelError, and below it one class for each cause a caller can act on."""

from __future__ import annotations

__all__ = [
    "CreditMisuse",
    "ExchangeLost",
    "FibreChannelError",
    "InvalidScenario",
    "MalformedFrame",
    "PeerViolation",
    "SchedulerUnreachable",
]


class FibreChannelError(Exception):
    """Anything that fcsim raises on purpose."""


class MalformedFrame(FibreChannelError, ValueError):
    """Bytes from outside that are not what they should be: cut short, a wrong fixed value, a wrong length."""


class CreditMisuse(FibreChannelError):
    """The caller used a credit twice, or one that it does not have: a defect on this side of the link."""


class PeerViolation(FibreChannelError):
    """The peer went beyond its credit, or offered at login what the standard does not allow."""


class ExchangeLost(PeerViolation):
    """A command ended without a response: a frame was lost, the target broke a rule, or time ran out. It may have been
    executed or not; one that does the same when it is repeated may be sent again."""


class InvalidScenario(FibreChannelError, ValueError):
    """A simulation was asked for that makes no sense; the text names the value and its range."""


class SchedulerUnreachable(FibreChannelError):
    """No scheduler of sweeps answers at the address that was given."""
