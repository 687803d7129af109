"""Makes the targets of one test, ends them, and keeps what there is to see of them when the test fails."""

from __future__ import annotations

import hashlib
import json
import re
import shlex
import shutil
import tempfile
from collections.abc import Callable
from dataclasses import fields
from pathlib import Path
from typing import Any

from tools.harness.errors import HarnessError, Hung
from tools.harness.running import RunningTarget, TargetOptions

LAST_PDUS = 20
_NAME_LIMIT = 120


class TargetFactory:
    """``target_factory`` of one test: call it for a target.

    ``seed`` is this test's, made of the run's and of the test's name; the second target's is the next number.
    """

    def __init__(
        self,
        *,
        node_id: str,
        seed: int,
        run_seed: int,
        timeout_s: float,
        artifacts: str | None,
        temporary: Callable[[], Path],
        root: Path,
    ) -> None:
        self.seed = seed
        self.timeout_s = timeout_s
        self.targets: list[RunningTarget] = []
        self._node_id = node_id
        self._run_seed = run_seed
        self._artifacts = artifacts
        self._temporary = temporary
        self._root = root
        self._captures: Path | None = None

    def __call__(self, **options: Any) -> RunningTarget:
        """A running target; the options are those of :class:`~tools.harness.running.TargetOptions`.

        Raises :class:`HarnessError` for an option that there is not.
        """
        known = [field.name for field in fields(TargetOptions)]
        unknown = [name for name in options if name not in known]
        if unknown:
            raise HarnessError(f"a target has no option {unknown[0]!r}; there are {', '.join(known)}")
        if self._captures is None:
            self._captures = Path(tempfile.mkdtemp(prefix="target-captures-", dir=self._temporary()))
        number = len(self.targets) + 1
        made = RunningTarget(
            TargetOptions(**options),
            seed=self.seed + number - 1,
            timeout_s=self.timeout_s,
            capture_to=self._captures / f"target-{number}.pcapng",
        )
        self.targets.append(made)
        return made

    def stop(self) -> None:
        """End all targets. Raises :class:`Hung` when one did not end in time."""
        hung = []
        for target in reversed(self.targets):
            try:
                target.stop()
            except Hung as error:
                hung.append(str(error))
        if self._captures is not None:
            shutil.rmtree(self._captures, ignore_errors=True)
        if hung:
            raise Hung("\n".join(hung))

    # -- what a failed test leaves behind -----------------------------------------------------------------------

    @property
    def replay(self) -> str:
        """The command that runs the test again with the same chance."""
        # --rootdir: without a configuration file it depends on the words given, and the test's name with it
        words = ["python", "-m", "pytest", "--rootdir=.", self._node_id, f"--target-seed={self._run_seed}"]
        return f"cd {shlex.quote(str(self._root))} && {shlex.join(words)}"

    def keep_artifacts(self, phase: str) -> str:
        """Write them; returns what the report of the failed ``phase`` (setup, call, teardown) is to say."""
        directory = self._directory()
        said = [f"seed {self._run_seed} (of this test: {self.seed}); to replay:", f"  {self.replay}"]
        try:
            directory.mkdir(parents=True, exist_ok=True, mode=0o700)
            for number, target in enumerate(self.targets, 1):
                said += self._keep(target, directory, f"target-{number}")
            text = "\n".join([f"{self._node_id}: failed in {phase}", *said]) + "\n"
            (directory / f"report-{phase}.txt").write_text(text, encoding="utf-8")
        except OSError as error:
            return "\n".join([*said, f"the artefacts could not be written: {error}"])
        return "\n".join([*said, f"captures and PDU logs: {directory}"])

    def _directory(self) -> Path:
        return artifact_directory(self._node_id, self._artifacts, self._temporary)

    def _keep(self, target: RunningTarget, directory: Path, name: str) -> list[str]:
        target.finish_capture()
        if self._captures is not None:
            for capture in sorted(self._captures.glob(f"{name}*.pcapng")):
                shutil.copyfile(capture, directory / capture.name)
        target.log.write_json_lines(directory / f"{name}.jsonl")
        rules = [
            {
                "rule": status.rule.name,
                "action": repr(status.rule.action),
                "matched": status.matched,
                "fired": status.fired,
            }
            for status in target.faults.statuses()
        ]
        (directory / f"{name}.rules.json").write_text(json.dumps(rules, indent=2) + "\n", encoding="utf-8")
        said = [f"{name}: {target.url()}, {target.log.total} PDUs"]
        said += [f"  rule {rule['rule']}: fired {rule['fired']} of {rule['matched']} times" for rule in rules]
        lines = target.log.describe(LAST_PDUS).splitlines()
        (directory / f"{name}.last-pdus.txt").write_text("\n".join(lines) + "\n", encoding="utf-8")
        return [*said, *(f"  {line}" for line in lines)]


def artifact_directory(node_id: str, artifacts: str | None, temporary: Callable[[], Path]) -> Path:
    """Where a failed test's artefacts go: a directory of its own in ``artifacts``, else in a temporary one."""
    name = re.sub(r"[^\w.\[\]-]+", "_", node_id)
    if len(name) > _NAME_LIMIT or name != node_id:
        digest = hashlib.sha256(node_id.encode()).hexdigest()[:8]
        name = f"{name[:_NAME_LIMIT]}-{digest}"
    base = Path(artifacts) if artifacts else temporary() / "target-artifacts"
    return base / name
