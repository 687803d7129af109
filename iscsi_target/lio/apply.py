# SPDX-License-Identifier: Apache-2.0
"""A plan on the kernel: all steps or none. What this run has done is undone, last first, when a step is refused."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

from iscsi_target.lio import configfs
from iscsi_target.lio.configfs import ROOT
from iscsi_target.lio.errors import NotOurs, StepFailed
from iscsi_target.lio.kernel import Kernel, Refused
from iscsi_target.lio.model import Description, check
from iscsi_target.lio.nodes import Key, Kind, Nodes, nodes_of
from iscsi_target.lio.plan import Change, Make, Plan, Remove, Step, clear, plan
from iscsi_target.lio.record import DEFAULT, Record, locked
from iscsi_target.lio.saveconfig import from_document, to_document

Tell = Callable[[Step], None]


@dataclass(frozen=True, slots=True)
class Options:
    """`adopt`: take over what others have made; `prune`: remove what others have put into ours."""

    adopt: bool = False
    prune: bool = False


class Driver:
    """Description → kernel. `kernel` is where configfs is written; `state`: the record of what is ours."""

    def __init__(self, kernel: Kernel | None = None, state: Path = DEFAULT, root: Path = ROOT) -> None:
        self._kernel = kernel
        self._state = state
        self._root = kernel.root if kernel is not None else root

    @property
    def kernel(self) -> Kernel:
        """Made when first needed: a plan needs no rtslib."""
        if self._kernel is None:
            self._kernel = Kernel(self._root)
        return self._kernel

    def plan(self, description: Description, options: Options | None = None) -> Plan:
        """The steps from what is there to `description`; nothing is changed."""
        options = options or Options()
        check(description)
        wanted = nodes_of(description)
        return self._plan(wanted, Record(self._state), options)

    def _plan(self, wanted: Nodes, record: Record, options: Options) -> Plan:
        present = configfs.read(self._root, wanted)
        return plan(wanted, present, record.made, adopt=options.adopt, prune=options.prune)

    def drift(self, description: Description | None = None) -> Plan | None:
        """What it takes to be as `description` again, or as what was applied last; None: nothing was."""
        record = Record(self._state)
        if description is None:
            if record.description is None:
                return None
            description = from_document(record.description, str(self._state))
        return self._plan(nodes_of(description), record, Options())

    def apply(
        self, description: Description, options: Options | None = None, tell: Tell = lambda step: None
    ) -> Plan:
        """Lead the kernel to `description`; the plan that was carried out.

        Raises InvalidDescription, KernelUnavailable and NotOurs before anything is changed, and StepFailed.
        """
        options = options or Options()
        check(description)
        wanted = nodes_of(description)
        with locked(self._state):
            self.kernel.prepare({target.fabric for target in description.targets})
            record = Record(self._state)
            found = self._plan(wanted, record, options)
            if found.conflicts:
                more = f" and {len(found.conflicts) - 1} more" if len(found.conflicts) > 1 else ""
                raise NotOurs(
                    f"{found.conflicts[0]}{more} would have to change, and was not made by sancredit:"
                    " --adopt takes it over"
                )
            record.add(key for key in wanted if options.adopt and _ownable(key))
            self._carry_out(found, record, tell)
            record.description = to_document(description)
            record.save()
        return found

    def clear(self, tell: Tell = lambda step: None) -> Plan:
        """Remove what we have made; `kept` of the plan is what others stand on. Raises as :meth:`apply`."""
        with locked(self._state):
            record = Record(self._state)
            if not record.made and record.description is None:
                return Plan(())
            self.kernel.prepare(set())
            present = configfs.read(self._root)
            record.drop([key for key in record.made if key not in present])
            found = clear(present, record.made)
            back = [
                Change(key, name, None, old)
                for (key, name), old in reversed(record.originals.items())
                if key in present and present[key].settings.get(name) != old
            ]
            found = replace(found, steps=(*back, *found.steps))
            self._carry_out(found, record, tell)
            record.description = None
            record.originals.clear()
            record.save()
        return found

    def _carry_out(self, found: Plan, record: Record, tell: Tell) -> None:
        done: list[Step] = []
        record.add(step.key for step in found.steps if isinstance(step, Make) and _ownable(step.key))
        record.save()
        changed: dict[tuple[Key, str], str] = {}
        try:
            for step in found.steps:
                inverse = self.kernel.inverse(step)
                done.append(inverse)
                if isinstance(inverse, Change) and step.key not in record.made:
                    changed.setdefault((step.key, inverse.name), inverse.new)
                self.kernel.perform(step)
                tell(step)
        except BaseException as error:
            left = self._undo(done)
            record.drop(step.key for step in found.steps if not self.kernel.exists(step.key))
            record.save()
            if isinstance(error, Refused | LookupError | OSError):
                raise StepFailed(str(error), left) from error
            raise
        record.originals = changed | record.originals
        record.drop(
            step.key for step in found.steps if isinstance(step, Remove) and not self.kernel.exists(step.key)
        )

    def _undo(self, done: list[Step]) -> list[str]:
        """Take steps back, last first; what could not be. The step that failed may have been half done."""
        left = []
        for number, step in enumerate(reversed(done)):
            there = self.kernel.exists(step.key)
            if there == isinstance(step, Make):
                continue  # nothing has happened, or it went away with its parent
            try:
                self.kernel.perform(step)
            except Refused as error:
                if number or isinstance(step, Remove):
                    left.append(str(error))
        return left


def _ownable(key: Key) -> bool:
    return key.kind is not Kind.DISCOVERY
