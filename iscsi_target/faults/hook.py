# SPDX-License-Identifier: Apache-2.0
"""Python hooks: a function that sees every PDU and says what is to become of it.

::

    from iscsi_target.faults import Drop

    def hook(pdu, context):
        if context.direction.value == "to-initiator" and pdu.opcode == 0x31 and context.random.random() < 0.1:
            return Drop()

A hook's file is a program that runs with the target's rights: it is loaded only where somebody names it on the command
line or in Python, never over the control API.
"""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from random import Random

from iscsi_target.faults.actions import Action
from iscsi_target.faults.errors import FaultError
from iscsi_target.faults.matching import Direction
from iscsi_target.faults.wire_pdu import WirePdu


@dataclass(frozen=True, slots=True)
class HookContext:
    """What a hook is told besides the PDU."""

    direction: Direction
    connection: int
    """The connections of a target are numbered from 1 in the order of their coming."""
    tsih: int
    cid: int
    initiator_name: str
    target_name: str
    lun: int | None
    """Of the PDU's task."""
    cdb: bytes
    """Of the PDU's task."""
    number: int
    """PDUs of this connection so far, this one included."""
    now_ns: int
    random: Random
    """Seeded, one for each connection: draw from it and the same traffic replays the same."""


Hook = Callable[[WirePdu, HookContext], Action | Iterable[Action] | None]


def load_hook(path: Path) -> Hook:
    """The function ``hook`` of a Python file. Raises FaultError: it cannot be read, fails when run, or has none."""
    name = f"iscsi_target_hook_{abs(hash(path.resolve())):x}"
    spec = importlib.util.spec_from_file_location(name, path)
    if spec is None or spec.loader is None or not path.is_file():
        raise FaultError(f"{path} is no Python file")
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    try:
        spec.loader.exec_module(module)
    except Exception as error:
        del sys.modules[name]
        raise FaultError(f"{path}: {type(error).__name__}: {error}") from error
    hook = getattr(module, "hook", None)
    if not callable(hook):
        raise FaultError(f"{path} defines no function hook(pdu, context)")
    found: Hook = hook
    return found


def actions_of(answer: object) -> tuple[Action, ...]:
    """What a hook returned, as a tuple. Raises FaultError for what is no action."""
    from iscsi_target.faults.actions import COMMAND_ACTIONS, WIRE_ACTIONS

    kinds = (*WIRE_ACTIONS, *COMMAND_ACTIONS)
    if answer is None:
        return ()
    items = tuple(answer) if isinstance(answer, list | tuple) else (answer,)
    for item in items:
        if not isinstance(item, kinds):
            raise FaultError(f"a hook returns actions or None, not {item!r:.80}")
    return items
