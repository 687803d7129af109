"""Captured commands for other tools: fio's iolog, and a trace of one JSON object a line."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from tools.capture.replay.cdbs import Effect, reach_of
from tools.capture.replay.collect import CapturedCommand, Trace

_HEADER = {"format": "sancredit-trace", "version": 1}


class ExportError(ValueError):
    """What is asked for cannot be written; one line."""


@dataclass(frozen=True, slots=True)
class Choice:
    """Which commands: of one LUN (as reports spell it), of one initiator; None: of all."""

    lun: str | None = None
    initiator: str | None = None

    def of(self, trace: Trace) -> Iterator[CapturedCommand]:
        """The commands, in the order in which they started."""
        for command in trace.commands:
            if self.lun not in (None, command.lun):
                continue
            if self.initiator not in (None, trace.nexuses[command.nexus][0]):
                continue
            yield command


def iolog(trace: Trace, choice: Choice, *, file: str, block_bytes: int = 512) -> Iterator[str]:
    """Lines of a version 3 iolog for ``fio --read_iolog``: microseconds, file, action, offset and length in bytes.

    Raises :class:`ExportError`: the commands are of several LUNs, or none reads or writes blocks.
    """
    if not file or any(sign.isspace() for sign in file):
        raise ExportError(f"{file!r:.80} is no name of a file that an iolog can hold")
    commands = [
        command for command in choice.of(trace) if reach_of(command.cdb).effect in (Effect.READ, Effect.WRITE)
    ]
    luns = sorted({command.lun for command in commands})
    if not commands:
        raise ExportError("no command of the capture reads or writes blocks there")
    if len(luns) > 1:
        raise ExportError(f"an iolog is of one LUN; the capture has {', '.join(luns)}: choose with --lun")
    first_ns = commands[0].start_ns
    yield "fio version 3 iolog"
    yield f"0 {file} add"
    yield f"0 {file} open"
    at_us = 0
    for command in commands:
        reach = reach_of(command.cdb)
        at_us = (command.start_ns - first_ns) // 1000
        action = "read" if reach.effect is Effect.READ else "write"
        yield f"{at_us} {file} {action} {reach.lba * block_bytes} {reach.blocks * block_bytes}"
    yield f"{at_us} {file} close"


def trace_lines(trace: Trace, choice: Choice) -> Iterator[str]:
    """A header, then a JSON object for each command.

    ``start_ns`` and ``end_ns`` count from the first start (``end_ns`` null: no status came); then who, which LUN, the
    CDB, the expected length, the status, how many bytes were read.
    """
    commands: Iterable[CapturedCommand] = choice.of(trace)
    yield json.dumps(_HEADER | {"nexuses": [{"initiator": i, "target": t} for i, t in trace.nexuses]})
    first_ns: int | None = None
    for command in commands:
        if first_ns is None:
            first_ns = command.start_ns
        yield json.dumps(
            {
                "start_ns": command.start_ns - first_ns,
                "end_ns": command.end_ns - first_ns if command.end_ns else None,
                "nexus": command.nexus,
                "lun": command.lun,
                "cdb": command.cdb.hex(),
                "edtl_bytes": command.edtl,
                "read": command.reads,
                "write": command.writes,
                "status": command.status,
                "data_in_bytes": command.data_in_bytes,
            }
        )
