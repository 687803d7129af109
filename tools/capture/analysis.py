"""A capture read once, with everything that the reports are made of."""

from __future__ import annotations

from array import array
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from tools.capture.exchange_kernel import Matcher
from tools.capture.exchange_store import ExchangeStore
from tools.capture.rows import Part
from tools.capture.rules import Rule, Violation
from tools.capture.scan import Scan
from tools.capture.scan_kernel import Scanner
from tools.capture.sessions import Sessions, endpoint, initiator_side, lun_text, vsan_of
from tools.capture.task_kernel import Connection, Nexus

if TYPE_CHECKING:
    from tools.capture.live import LiveSource


@dataclass(frozen=True, slots=True)
class NexusName:
    """Whom a nexus belongs to: names of the login (iSCSI) or addresses. The key of a report's rows."""

    protocol: str
    initiator: str
    target: str
    lun: str
    vsan: int = 0


@dataclass(slots=True)
class Analysis:
    """One pass over files: figures of the scan, exchanges, sessions. :func:`analyse` makes it; close it."""

    scan: Scan
    matcher: Matcher
    sessions: Sessions
    store: ExchangeStore
    groups: dict[NexusName, list[Nexus]] = field(default_factory=dict)

    @property
    def scanner(self) -> Scanner:
        """What was seen below the exchanges."""
        return self.scan.scanner

    def name_of(self, nexus: Nexus) -> NexusName:
        """Initiator, target and LUN of a nexus."""
        pair = self.scanner.flows[nexus.flow >> 1]
        if nexus.fibre:
            side = pair[nexus.flow & 1]
            return NexusName("fcp", endpoint(side), endpoint(side.peer), lun_text(nexus.lun), vsan_of(side))
        initiator, target = self.sessions.names(nexus.flow >> 1, pair)
        return NexusName("iscsi", initiator, target, lun_text(nexus.lun))

    def group_numbers(self) -> tuple[list[NexusName], array[int]]:
        """The names in the order in which they came, and the number of the name by number of the nexus."""
        names = list(self.groups)
        numbers = array("q", bytes(8 * len(self.matcher.nexuses)))
        for group, members in enumerate(self.groups.values()):
            for nexus in members:
                numbers[nexus.number] = group
        return names, numbers

    def violations(self) -> list[Violation]:
        """Every rule that was broken, by connection."""
        return [
            Violation(connection.flow, rule, connection.rules[rule], connection.first_packets[rule])
            for connection in self.matcher.connections.values()
            for rule in Rule
            if connection.rules[rule]
        ]

    def connection(self, flow: int) -> Connection:
        """What was agreed and seen on a connection."""
        return self.matcher.connection(flow)

    def connection_name(self, flow: int) -> str:
        """``192.0.2.1:51234 > 192.0.2.2:3260``."""
        side = initiator_side(self.scanner.flows[flow])
        return f"{endpoint(side)} > {endpoint(side.peer)}"

    def close(self) -> None:
        """Give the exchanges back."""
        self.store.close()

    def __enter__(self) -> Analysis:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def analyse(
    paths: Sequence[Path | str],
    *,
    ports: Sequence[int] = (),
    watch: Callable[[Scanner], Callable[[Part], None]] | None = None,
    live: LiveSource | None = None,
) -> Analysis:
    """Read captures once. ``watch`` is given the scanner, and what it returns is shown each part of the table.
    ``live``: a capture under way, after the files.

    Raises :class:`~tools.capture.scan.CaptureError` for what is no capture.
    """
    scan = Scan(paths, ports=ports, live=live)
    sessions = Sessions()
    matcher = Matcher(sessions)
    store = ExchangeStore()
    found = Analysis(scan, matcher, sessions, store)
    show = watch(scan.scanner) if watch is not None else None
    try:
        for part in scan.parts():
            if show is not None:
                show(part)
            matcher.receive(part)
            for block, count in matcher.take():
                store.add(block, count)
        matcher.end(scan.scanner.last_ns)
        for block, count in matcher.take():
            store.add(block, count)
    except BaseException:
        store.close()
        raise
    for nexus in matcher.nexuses:
        found.groups.setdefault(found.name_of(nexus), []).append(nexus)
    return found
