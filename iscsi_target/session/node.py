# SPDX-License-Identifier: Apache-2.0
"""The iSCSI target node: its targets, portals and sessions (RFC 7143 sections 4.4 and 6.3.5). Sans-IO."""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

from iscsi_target.errors import SessionRefused
from iscsi_target.executor import LogicalUnits
from iscsi_target.session.access import AccessList
from iscsi_target.session.chap import Chap, chap_for_any
from iscsi_target.session.counters import TargetStatistics, TrafficTable, by_lun, total
from iscsi_target.session.events import ConnectionAdded, Event, SessionEnded, SessionEstablished
from iscsi_target.session.limits import Limits
from iscsi_target.session.parameters import Parameters
from iscsi_target.session.task_set import TaskSet
from iscsi_target.wire.lun import lun_to_bytes
from iscsi_target.wire.names import name_problem
from iscsi_target.wire.opcodes import AsyncEvent, LoginStatus

if TYPE_CHECKING:
    from iscsi_target.session.target_connection import TargetConnection
    from iscsi_target.session.target_session import TargetSession


@dataclass(frozen=True, slots=True, kw_only=True)
class Target:
    """One iSCSI target and the logical units behind it."""

    name: str
    logical_units: LogicalUnits
    alias: str = ""
    allowed_initiators: frozenset[str] | None = None
    """Initiator names that may log in; None: all. Short for an access list with just that."""
    access: AccessList | None = None
    """Who may log in, and what it sees; None: everybody, everything."""
    chap: Chap | None = None
    """What initiators have to prove, and how we prove ourselves; None: no authentication."""
    moved_to: str = ""
    """TargetAddress that logins are sent on to (temporarily moved, section 11.13.5); empty: they are served here."""
    parameters: Parameters = field(default_factory=lambda: Parameters(error_recovery_level=2))

    def __post_init__(self) -> None:
        problem = name_problem(self.name)
        if problem is not None:
            raise ValueError(f"{self.name!r} is no iSCSI name: {problem}")

    def may_admit(self, initiator_name: str, address: str) -> bool:
        """Whether this initiator may log in once it has proven itself."""
        if self.allowed_initiators is not None and initiator_name not in self.allowed_initiators:
            return False
        return self.access is None or self.access.may_fit(initiator_name, address)

    def shows_to(self, initiator_name: str, address: str, chap_name: str) -> bool:
        """Whether discovery names this target to an initiator; `chap_name`: what it has proven."""
        if self.allowed_initiators is not None and initiator_name not in self.allowed_initiators:
            return False
        return self.access is None or self.access.shows_to(initiator_name, address, chap_name)

    def view_for(self, initiator_name: str, address: str, chap_name: str) -> str:
        """Admit an initiator that has proven itself as `chap_name` (empty: not at all): the name under which the
        logical units know what it sees. Raises SessionRefused."""
        if self.access is None:
            return initiator_name
        rule = self.access.find(initiator_name, address, chap_name)
        if rule is None:
            proven = f" as CHAP name {chap_name[:64]!r}" if chap_name else ""
            raise SessionRefused(
                LoginStatus.NOT_FOUND if self.access.hidden else LoginStatus.AUTHORIZATION_FAILURE,
                f"no access rule of {self.name} admits {initiator_name} from {address}{proven}",
            )
        return self.access.view_of(rule) if rule.masks else initiator_name


@dataclass(frozen=True, slots=True)
class Portal:
    """An address that the node listens on, as SendTargets reports it."""

    host: str
    port: int
    portal_group_tag: int = 1

    def spelled(self) -> str:
        """HOST:PORT, an IPv6 address in brackets."""
        return f"{'[' + self.host + ']' if ':' in self.host else self.host}:{self.port}"

    def address(self, local_host: str) -> str:
        """TargetAddress value; a wildcard host becomes the address the initiator reached us by."""
        host = local_host if self.host in ("", "0.0.0.0", "::") else self.host
        return f"{replace(self, host=host).spelled()},{self.portal_group_tag}"


class TargetNode:
    """All sessions of a set of targets. `events` collects what happened; `touched` the connections that have bytes
    to send or have to be closed, until the shell takes them."""

    def __init__(self, targets: Sequence[Target], limits: Limits | None = None, *, alias: str = "") -> None:
        self.targets = {target.name: target for target in targets}
        if len(self.targets) != len(targets):
            raise ValueError("two targets have the same name")
        self.limits = limits or Limits()
        self.alias = alias
        self.portals: tuple[Portal, ...] = ()
        self.now_ns = 0
        """The time of the read that is worked on."""
        self.past_traffic: dict[str, TrafficTable] = {}
        """Counters of the sessions that ended, by target name."""
        self._task_sets: dict[str, TaskSet] = {}
        self.sessions: dict[int, TargetSession] = {}
        self.events: deque[Event] = deque(maxlen=10_000)
        self.touched: set[TargetConnection] = set()
        self.discovery_parameters = Parameters(
            max_connections=1, max_recv_data_segment_length=65536, error_recovery_level=0
        )
        self.discovery_chap: Chap | None = chap_for_any([target.chap for target in targets])
        """What initiators have to prove before a discovery session; None: nothing. Where every target wants CHAP,
        discovery does too; a shell may set it otherwise."""
        self._last_tsih = 0

    def find(self, target_name: str, initiator_name: str, address: str = "") -> Target:
        """The target for a login from an address. Raises SessionRefused: not found, or this initiator may not."""
        target = self.targets.get(target_name)
        if target is None:
            raise SessionRefused(LoginStatus.NOT_FOUND, f"there is no target {target_name[:223]!r}")
        if not target.may_admit(initiator_name, address):
            hidden = target.access is not None and target.access.hidden
            raise SessionRefused(
                LoginStatus.NOT_FOUND if hidden else LoginStatus.AUTHORIZATION_FAILURE,
                f"no access rule of {target_name} admits {initiator_name} from {address or 'anywhere'}",
            )
        if target.moved_to:
            raise SessionRefused(
                LoginStatus.TARGET_MOVED_TEMPORARILY,
                f"{target_name} has moved to {target.moved_to}",
                [("TargetAddress", target.moved_to)],
            )
        return target

    def visible_targets(self, initiator_name: str, address: str = "", chap_name: str = "") -> list[Target]:
        """The targets that SendTargets=All tells this initiator of; `chap_name`: what it has proven."""
        return [
            target for target in self.targets.values() if target.shows_to(initiator_name, address, chap_name)
        ]

    def establish(self, session: TargetSession, connection: TargetConnection, *, initial_cmd_sn: int) -> None:
        """A leading login is complete: end an older session of the same nexus, assign the TSIH, count it in.

        Raises SessionRefused (out of resources).
        """
        older = self._same_nexus(session)
        if older is None and len(self.sessions) >= self.limits.sessions:
            raise SessionRefused(
                LoginStatus.OUT_OF_RESOURCES, f"all {self.limits.sessions} sessions are in use"
            )
        if older is not None:
            older.end("session reinstatement by a new login with the same ISID")
        session.tsih = self._new_tsih()
        session.start(initial_cmd_sn)
        session.attach(connection)
        self.sessions[session.tsih] = session
        if session.target is not None:
            session.target.logical_units.i_t_nexus_established(
                session.view, session.initiator_port, session.portal_group_tag
            )
        name = session.target.name if session.target is not None else ""
        self.events.append(
            SessionEstablished(session.initiator_name, name, session.tsih, connection.cid, connection.peer)
        )

    def session_to_join(
        self,
        tsih: int,
        initiator_name: str,
        isid: bytes,
        target: Target | None,
        cid: int,
        portal_group_tag: int,
    ) -> TargetSession:
        """The session that a login with a TSIH wants to add a connection to. Raises SessionRefused."""
        session = self.sessions.get(tsih)
        if session is None or (session.initiator_name, session.isid) != (initiator_name, isid):
            raise SessionRefused(
                LoginStatus.SESSION_DOES_NOT_EXIST, f"no session has TSIH {tsih} and this ISID"
            )
        if session.target is not target:
            raise SessionRefused(LoginStatus.CANNOT_INCLUDE_IN_SESSION, "the session is with another target")
        if session.portal_group_tag != portal_group_tag:
            raise SessionRefused(
                LoginStatus.CANNOT_INCLUDE_IN_SESSION,
                f"the session is with portal group {session.portal_group_tag}, this portal is in {portal_group_tag}",
            )
        if cid not in session.connections and len(session.connections) >= session.agreed.max_connections:
            raise SessionRefused(
                LoginStatus.TOO_MANY_CONNECTIONS,
                f"the session has its {session.agreed.max_connections} connections already",
            )
        return session

    def join(self, session: TargetSession, connection: TargetConnection) -> None:
        """A further connection's login is complete; the same CID replaces the old connection (section 6.3.4)."""
        old = session.connections.get(connection.cid)
        if old is not None:
            session.detach(old, "connection reinstatement", recover=True)
            old.close()
        elif len(session.connections) >= session.agreed.max_connections:
            raise SessionRefused(
                LoginStatus.TOO_MANY_CONNECTIONS, "the session has all its connections already"
            )
        if self.sessions.get(session.tsih) is not session:
            raise SessionRefused(LoginStatus.SESSION_DOES_NOT_EXIST, "the session ended during the login")
        session.attach(connection)
        self.events.append(
            ConnectionAdded(session.initiator_name, session.tsih, connection.cid, connection.peer)
        )

    def forget(self, session: TargetSession, text: str) -> None:
        """A session ended: lose its nexus."""
        if self.sessions.pop(session.tsih, None) is None:
            return
        name = ""
        if session.target is not None:
            name = session.target.name
            self.past_traffic.setdefault(name, TrafficTable()).take_over(session.traffic)
            session.target.logical_units.i_t_nexus_loss(session.initiator_port, session.portal_group_tag)
        self.events.append(SessionEnded(session.initiator_name, name, session.tsih, text))

    def request_logout(self, tsih: int, time_s: int) -> bool:
        """Ask the initiator to log the session out within `time_s` (async event 1); False: there is no such session."""
        session = self.sessions.get(tsih)
        if session is None:
            return False
        for connection in session.connections.values():
            connection.send_async(AsyncEvent.LOGOUT_REQUESTED, parameters=(0, 0, time_s))
        return True

    def request_negotiation(self, tsih: int, time_s: int) -> bool:
        """Ask the initiator to negotiate within `time_s` (async event 4); False: there is no such session."""
        session = self.sessions.get(tsih)
        if session is None:
            return False
        for connection in session.connections.values():
            connection.send_async(AsyncEvent.NEGOTIATION_REQUESTED, parameters=(0, 0, time_s))
        return True

    def drop_connection(self, tsih: int, cid: int, text: str = "dropped by the target") -> bool:
        """Drop one connection, and say so on it (async event 2); False: there is no such connection."""
        session = self.sessions.get(tsih)
        connection = None if session is None else session.connections.get(cid)
        if session is None or connection is None:
            return False
        times = (session.agreed.default_time2wait, session.agreed.default_time2retain)
        connection.send_async(AsyncEvent.CONNECTION_DROPPED, parameters=(cid, *times))
        connection.fail(text)
        return True

    def drop_session(self, tsih: int, text: str = "dropped by the target") -> bool:
        """Drop a session, and say so on every connection (async event 3); False: there is no such session."""
        session = self.sessions.get(tsih)
        if session is None:
            return False
        times = (session.agreed.default_time2wait, session.agreed.default_time2retain)
        for connection in session.connections.values():
            connection.send_async(AsyncEvent.SESSION_DROPPED, parameters=(0, *times))
        session.end(text)
        return True

    def report_scsi_event(self, target: Target, lun: int, sense: bytes) -> int:
        """Tell every session with the target of a SCSI event (async event 0); returns how many were told."""
        told = 0
        for session in self.sessions_of(target):
            for connection in list(session.connections.values())[:1]:
                data = len(sense).to_bytes(2, "big") + sense
                connection.send_async(AsyncEvent.SCSI_EVENT, lun_field=lun_to_bytes(lun), data=data)
                told += 1
        return told

    def handle_timer(self, now_ns: int) -> None:
        """Time has passed: connections that nobody recovered are given up."""
        self.now_ns = now_ns
        for session in list(self.sessions.values()):
            session.management.handle_timer(now_ns)
            if session.allegiance.suspended:
                session.allegiance.handle_timer(now_ns)

    def task_set_of(self, target: Target | None) -> TaskSet:
        """The task sets that the sessions with a target share; those of a discovery session stay empty."""
        if target is None:
            return TaskSet(None)
        return self._task_sets.setdefault(target.name, TaskSet(target.logical_units))

    def sessions_of(self, target: Target | None) -> list[TargetSession]:
        """The sessions with one target."""
        return [session for session in self.sessions.values() if session.target is target]

    def statistics(self) -> tuple[TargetStatistics, ...]:
        """The counters of every target, ended sessions included."""
        found = []
        for name, target in self.targets.items():
            sessions = self.sessions_of(target)
            tables = [session.traffic for session in sessions]
            if name in self.past_traffic:
                tables.append(self.past_traffic[name])
            luns = by_lun(tables)
            found.append(TargetStatistics(name, len(sessions), total(luns), luns))
        return tuple(found)

    def _same_nexus(self, new: TargetSession) -> TargetSession | None:
        for session in self.sessions.values():
            if (
                session.isid == new.isid
                and session.initiator_name == new.initiator_name
                and session.target is new.target
                and session.portal_group_tag == new.portal_group_tag
            ):
                return session
        return None

    def _new_tsih(self) -> int:
        while True:
            self._last_tsih = self._last_tsih % 0xFFFF + 1
            if self._last_tsih not in self.sessions:
                return self._last_tsih
