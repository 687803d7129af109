# SPDX-License-Identifier: Apache-2.0
"""Faults on purpose: seeded rules that drop, delay, corrupt, reject or fail what a target receives and sends.

A :class:`RuleSet` holds :class:`Rule` values: what a rule looks at (:class:`Match`), when it fires
(:class:`Trigger`) and what it does (:mod:`iscsi_target.faults.actions`). Rules come from TOML (:func:`load_rules`),
from JSON through the control API, or from Python. :class:`iscsi_target.instruments.Instruments` puts a rule set to
work in a server.
"""

from iscsi_target.faults.actions import (
    Action,
    Answer,
    Async,
    Close,
    Corrupt,
    Delay,
    Drop,
    Duplicate,
    Latency,
    MediumAccess,
    MediumError,
    Part,
    Rate,
    Redirect,
    Reject,
    Renumber,
    Reorder,
    Sense,
    Truncate,
    Window,
    busy,
    queue_full,
)
from iscsi_target.faults.distributions import Exponential, Fixed, Normal, Samples, Uniform
from iscsi_target.faults.errors import FaultError, UnknownRule
from iscsi_target.faults.matching import CdbPattern, Direction, Match, Scope, Trigger, parse_cdb
from iscsi_target.faults.rules import InstalledRule, Rule, RuleSet, RuleStatus
from iscsi_target.faults.tables import RuleFile, load_rules, rule_from_table, rule_to_table

__all__ = [
    "Action",
    "Answer",
    "Async",
    "CdbPattern",
    "Close",
    "Corrupt",
    "Delay",
    "Direction",
    "Drop",
    "Duplicate",
    "Exponential",
    "FaultError",
    "Fixed",
    "InstalledRule",
    "Latency",
    "Match",
    "MediumAccess",
    "MediumError",
    "Normal",
    "Part",
    "Rate",
    "Redirect",
    "Reject",
    "Renumber",
    "Reorder",
    "Rule",
    "RuleFile",
    "RuleSet",
    "RuleStatus",
    "Samples",
    "Scope",
    "Sense",
    "Trigger",
    "Truncate",
    "Uniform",
    "UnknownRule",
    "Window",
    "busy",
    "load_rules",
    "parse_cdb",
    "queue_full",
    "rule_from_table",
    "rule_to_table",
]
