"""Words that do not stand in a template: headings of the tables, states, kinds, refusals, terms of the formulas."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from credits.errors import Code
from credits.targets import TargetKind
from mgmt.plain import to_plain
from mgmt.station.records import AlarmKind
from mgmt.web.language import Language, mark
from mgmt.web.phrases import Phrases, Said

#: The group of the navigation that is for those who may change something.
DO = mark("Do")
#: (group, ((path, name), …)) of the navigation.
NAVIGATION: tuple[tuple[str, tuple[tuple[str, str], ...]], ...] = (
    (
        mark("Now"),
        (
            ("/", mark("Overview")),
            ("/copies", mark("Copies")),
            ("/groups", mark("Pairs and groups")),
            ("/alarms", mark("Alarms")),
        ),
    ),
    (
        DO,
        (
            ("/reserve", mark("Reserve")),
            ("/copies/start", mark("Start a copy")),
            ("/groups/create", mark("Make a group")),
        ),
    ),
    (
        mark("Tables"),
        (
            ("/tables/reservations", mark("101 Reservations")),
            ("/tables/channels", mark("108 Channels")),
            ("/tables/allocations", mark("109 Allocations")),
            ("/tables/buffer-ids", mark("1500 Buffer IDs")),
            ("/tables/pools", mark("Pools")),
            ("/tables/pairs", mark("Port pairs")),
            ("/tables/policies", mark("Policies")),
            ("/tables/ports", mark("Ports")),
            ("/tables/arrays", mark("Arrays")),
        ),
    ),
    (
        mark("Look"),
        (
            ("/channels", mark("Channel charts")),
            ("/what-if", mark("What if")),
            ("/fibre-channel", mark("Fibre Channel")),
            ("/events", mark("Events")),
            ("/audit", mark("Audit trail")),
        ),
    ),
)

#: Heading of a column as the command line has it → as the page has it.
HEADINGS: Mapping[str, str] = {
    "ADDRESS": mark("Buffer address"),
    "ALLOCATED": mark("Allocated"),
    "BY": mark("By"),
    "CEILING": mark("At most"),
    "EVERY": mark("At most every"),
    "FLOOR": mark("At least"),
    "FROM": mark("From a change in %"),
    "LEASE": mark("Lapses after"),
    "OR": mark("Or after"),
    "OVER": mark("Port pair"),
    "PARTIAL": mark("In part"),
    "PRIORITY": mark("Priority"),
    "SHRINK AFTER": mark("Shrink after samples"),
    "SIZE": mark("Size"),
    "SIZING": mark("Size of the reservation"),
    "ARRAY": mark("Array"),
    "BANDWIDTH": mark("Bandwidth"),
    "BUFFER ID": mark("Buffer ID"),
    "CONNS": mark("Connections"),
    "DEGRADED": mark("Degraded"),
    "DELAY": mark("Delay"),
    "DETAIL": mark("Detail"),
    "DRAINING": mark("Draining"),
    "EXPANDABLE": mark("Expandable"),
    "FREE": mark("Free"),
    "COPY": mark("Remote copy"),
    "IN FLIGHT": mark("In flight"),
    "PAIR": mark("Port pair"),
    "CREDITS": mark("Credits"),
    "LINK": mark("Link"),
    "PEER": mark("Peer"),
    "SPEED": mark("Line speed"),
    "CONSISTENT": mark("Consistent"),
    "EPOCH": mark("Epoch"),
    "ERROR": mark("Error"),
    "GROUP": mark("Group"),
    "HELD": mark("Held"),
    "JOURNAL": mark("Journal"),
    "MODE": mark("Mode"),
    "PROGRESS": mark("Progress"),
    "ROLE": mark("Role"),
    "RPO": mark("RPO, time"),
    "RPO SIZE": mark("RPO, size"),
    "VOLUME": mark("Volume"),
    "ID": mark("Buffer ID"),
    "IFACE": mark("Interface"),
    "IN USE": mark("In use"),
    "INTERFACE": mark("Interface"),
    "IQN": mark("iSCSI name"),
    "ISCSI PORT": mark("iSCSI port"),
    "KIND": mark("Kind"),
    "MASTER PORT": mark("Master port"),
    "MEASURED": mark("Measured"),
    "MEASURED AT": mark("Measured at"),
    "METHOD": mark("Method"),
    "JITTER": mark("Jitter"),
    "LOSS": mark("Loss"),
    "CREDIT ZERO": mark("Times at zero"),
    "NO CREDIT %": mark("Waiting, last minute"),
    "NAME": mark("Name"),
    "PORT": mark("Port number"),
    "PORTS": mark("Ports"),
    "RECOMMENDED": mark("Recommended"),
    "REMOTE ARRAY": mark("Remote array"),
    "REMOTE PORT": mark("Remote port"),
    "REQUESTED": mark("Requested"),
    "RESERVED": mark("Reserved"),
    "SESSIONS": mark("Sessions"),
    "STALE": mark("Stale"),
    "STATE": mark("State"),
    "TARGET": mark("Target"),
    "TOTAL": mark("Total"),
    "UNIT": mark("Unit"),
    "UNITS": mark("Units"),
    "UNITS IN USE": mark("Units in use"),
    "VOLUMES": mark("Volumes"),
    "LIMITED BY": mark("Limited by"),
    "SENT AGAIN": mark("Sent again"),
}

#: (table, heading) → what it is called there, where that is something else.
_HEADINGS_IN: Mapping[tuple[str, str], str] = {("ports", "PORT"): mark("Address")}

#: Name of a table → its title.
TITLES: Mapping[str, str] = {
    "reservations": mark("Table 101: reserved-buffer information"),
    "channels": mark("Table 108: channel information"),
    "allocations": mark("Table 109: allocated-buffer information"),
    "buffer-ids": mark("Table 1500: reserved-buffer IDs"),
    "pools": mark("Area 100: communication memory"),
    "pairs": mark("Port pairs"),
    "groups": mark("Consistency groups"),
    "policies": mark("Policies"),
    "copies": mark("Remote copies"),
    "ports": mark("Ports"),
    "arrays": mark("Storage arrays"),
}

KINDS: Mapping[str, str] = {
    TargetKind.PORT_PAIR: mark("port pair"),
    TargetKind.PORT_PAIR_NUMBER: mark("port pair and remote port number"),
    TargetKind.CONNECTION: mark("connection"),
    TargetKind.APPLICATION: mark("application"),
    TargetKind.VOLUME_PAIR: mark("volume pair"),
    TargetKind.VOLUME_GROUP_PAIR: mark("volume-group pair"),
}

#: State → (what it is called, the tone that it is shown in: ok, busy, warn, bad, quiet).
STATES: Mapping[str, tuple[str, str]] = {
    "up": (mark("up"), "ok"),
    "down": (mark("down"), "bad"),
    "ok": (mark("OK"), "ok"),
    "short": (mark("short"), "warn"),
    "unreserved": (mark("not reserved"), "quiet"),
    "stale": (mark("stale"), "warn"),
    "degraded": (mark("degraded"), "warn"),
    "reserved": (mark("reserved"), "ok"),
    "in_use": (mark("in use"), "busy"),
    "draining": (mark("draining"), "busy"),
    "released": (mark("released"), "quiet"),
    "starting": (mark("starting"), "busy"),
    "copying": (mark("copying"), "busy"),
    "flushing": (mark("flushing"), "busy"),
    "finishing": (mark("finishing"), "busy"),
    "stopping": (mark("stopping"), "busy"),
    "failing": (mark("failing"), "bad"),
    "done": (mark("done"), "ok"),
    "failed": (mark("failed"), "bad"),
    "SMPL": ("SMPL", "quiet"),
    "COPY": ("COPY", "busy"),
    "PAIR": ("PAIR", "ok"),
    "PSUS": ("PSUS", "warn"),
    "PSUE": ("PSUE", "bad"),
    "SSWS": ("SSWS", "warn"),
    "waiting": (mark("waiting"), "warn"),
    "grow": (mark("grows"), "ok"),
    "shrink": (mark("shrinks"), "ok"),
    "keep": (mark("stays"), "quiet"),
    "fixed": (mark("set by hand"), "quiet"),
    "partial": (mark("grows in part"), "warn"),
    "automatic": (mark("automatic"), "busy"),
    "manual": (mark("manual"), "quiet"),
    "asked": (mark("asked"), "busy"),
    "refused": (mark("refused"), "bad"),
    "unknown": (mark("not known"), "warn"),
    "settled": (mark("settled"), "ok"),
    "info": (mark("information"), "quiet"),
    "warning": (mark("warning"), "warn"),
    "critical": (mark("critical"), "bad"),
    "acknowledged": (mark("acknowledged"), "busy"),
    "cleared": (mark("over"), "quiet"),
    "active": (mark("active"), "bad"),
    "stopped": (mark("stopped"), "quiet"),
}

#: Code of a refusal → its title.
REFUSALS: Mapping[str, str] = {
    Code.NO_MEMORY: mark("Not enough free buffers"),
    Code.INVALID_SIZE: mark("Not a valid size"),
    Code.INVALID_TARGET: mark("Not a valid reservation target"),
    Code.NOT_RESERVED: mark("The target has no reservation"),
    Code.OVER_RESERVATION: mark("The reservation is used up"),
    Code.BUSY: mark("Still in use"),
    Code.STALE: mark("The state has changed since it was read"),
    Code.UNREACHABLE: mark("The other side could not be reached"),
    Code.UNAUTHORIZED: mark("Not allowed"),
    Code.RELOGIN_REQUIRED: mark("The port must log in again"),
    Code.BAD_MESSAGE: mark("Not a valid request"),
    Code.STORE: mark("The state could not be read or written"),
    "NOT_MEASURED": mark("The channel has not been measured"),
    "NOT_REGISTERED": mark("The pair is not in table 108"),
    "NOT_FOUND": mark("There is nothing here"),
    "VOLUME_TOO_SMALL": mark("The remote volume is too small"),
    "TIMEOUT": mark("The answer took too long"),
}

#: What stands beside the terms of a recommendation (:mod:`credits.sizing`).
EXPLANATIONS: tuple[str, ...] = (
    mark("bandwidth of the channel (403)"),
    mark("delay, from sending to acknowledgement (404)"),
    mark("remote-copy sessions at the same time (405)"),
    mark("TCP connections of each session (406)"),
    mark("bandwidth × delay × connections × sessions / 8e9, rounded up (step 903)"),
    mark("bandwidth × delay / 8e9: the bandwidth is the pair's, shared by its connections"),
    mark("what is under way on the channel at any moment"),
    mark("exactly 100 % leaves 5 to 12 % of the channel unused: acknowledgements are noticed late"),
    mark("bandwidth × delay × headroom"),
    mark("maximum window size: bandwidth × round trip × 0.9375 + 4 KiB"),
    mark("kept within 14 KiB and 32 MiB"),
    mark("round trip × available bandwidth"),
    mark("largest window: 7 MiB on a single path, 14 MiB on several"),
    mark("the smaller of the two"),
    mark("units at least: one for each connection of each session"),
)

#: Name of a term → what it is called.
TERMS: Mapping[str, str] = {
    "bandwidth_bps": mark("Bandwidth"),
    "rtt_ns": mark("Delay"),
    "sessions": mark("Sessions"),
    "connections_per_session": mark("Connections per session"),
    "bytes": mark("Size"),
    "bandwidth_delay_bytes": mark("Bandwidth × delay"),
    "headroom_percent": mark("Headroom"),
    "window_bytes": mark("Window"),
    "ceiling_bytes": mark("Ceiling"),
    "minimum": mark("Minimum"),
}


#: Field of a form → its label, where an error in it does not say which it is.
FIELDS: Mapping[str, str] = {
    "local_port": mark("Master port"),
    "remote_port": mark("Remote port"),
    "remote_port_number": mark("Port number of the remote site"),
    "sessions": mark("Sessions"),
    "connections_per_session": mark("Connections per session"),
    "connections": mark("Connections"),
    "name": mark("Name"),
    "remote_name": mark("Name at the remote site"),
    "size_bytes": mark("Size"),
    "lease": mark("Lapses after"),
    "volume": mark("Volume"),
    "volumes": mark("Volumes"),
    "group": mark("Name of the group"),
    "journal": mark("Journal volume"),
    "min_bytes": mark("At least"),
    "max_bytes": mark("At most"),
    "min_change": mark("From a change in %"),
    "min_interval": mark("At most every"),
    "shrink_samples": mark("Shrink after samples"),
    "shrink_after": mark("Or after"),
    "priority": mark("Priority"),
    "head": mark("Head from an earlier check"),
    "bandwidth": mark("Bandwidth"),
    "rtt": mark("Delay"),
}

#: How a copy keeps the remote volume up to date.
MODES: Mapping[str, str] = {
    "initial": mark("initial copy"),
    "sync": mark("synchronous"),
    "async": mark("asynchronous"),
}

#: What becomes of a host's write while the secondary cannot be reached.
FENCES: Mapping[str, str] = {
    "never": mark("hosts go on writing"),
    "data": mark("hosts' writes are refused"),
}

#: State of a group → what it means.
PAIR_STATES: Mapping[str, str] = {
    "SMPL": mark("no pair"),
    "COPY": mark("the secondary is being brought up to date"),
    "PAIR": mark("every write is replicated"),
    "PSUS": mark("suspended on request"),
    "PSUE": mark("suspended by an error"),
    "SSWS": mark("the secondary was taken over: its hosts write"),
}

#: Why the station changed something that nobody asked for.
CAUSES: Mapping[str, str] = {
    "channel": mark("the channel changed"),
    "cache": mark("the cache ran low"),
    "lease": mark("the lease"),
    "undo": mark("undone"),
    "reconciliation": mark("reconciliation"),
}

#: How a channel's values came.
METHODS: Mapping[str, str] = {"notified": mark("notified by the measuring device")}

#: Kind of an alarm → what it is about.
ALARMS: Mapping[str, str] = {
    AlarmKind.SHORTAGE: mark("Buffer shortage"),
    AlarmKind.DEGRADED: mark("Pool smaller than its reservations"),
    AlarmKind.STALE_CHANNEL: mark("Channel values are stale"),
    AlarmKind.CACHE_LOW: mark("Cache nearly full"),
    AlarmKind.CREDIT_STARVATION: mark("Port waits for credits"),
    AlarmKind.OPEN_END: mark("One end is still open"),
    AlarmKind.ARRAY_DOWN: mark("Array does not answer"),
    AlarmKind.LOST: mark("Reservation is gone"),
    AlarmKind.LOW_POOL: mark("Hardly any free buffers"),
}


@dataclass(frozen=True, slots=True)
class Words:
    """The words above in one language; what is not among them is shown as it came."""

    language: Language

    def heading(self, text: str, table: str = "") -> str:
        """Of a column of ``table``."""
        return self.language(_HEADINGS_IN.get((table, text)) or HEADINGS.get(text, text))

    def title(self, table: str) -> str:
        """Of a table."""
        return self.language(TITLES.get(table, table))

    def kind(self, kind: Any) -> str:
        """Of a reservation target."""
        return self.language(KINDS.get(str(kind), str(kind)))

    def field(self, name: str) -> str:
        """What the field of a form is called; nothing where its error says it."""
        return self.language(FIELDS[name]) if name in FIELDS else ""

    def state(self, state: Any) -> str:
        """Of an array, a reservation, a copy."""
        return self.language(STATES[state][0]) if state in STATES else str(state)

    def tone(self, state: Any) -> str:
        """How the state is shown."""
        return STATES[state][1] if state in STATES else "quiet"

    def refusal(self, code: Any, title: str = "") -> str:
        """The title of a refusal."""
        return self.language(REFUSALS[code]) if code in REFUSALS else title or str(code)

    def mode(self, mode: Any) -> str:
        """Of a copy."""
        return self.language(MODES[mode]) if mode in MODES else str(mode)

    def method(self, method: Any) -> str:
        """By which a channel was measured."""
        return self.language(METHODS[method]) if method in METHODS else str(method or "–")

    def alarm(self, kind: Any) -> str:
        """What an alarm is about."""
        return self.language(ALARMS[kind]) if kind in ALARMS else str(kind)

    def said(self, text: Any) -> Said:
        """A whole sentence as the station and the arrays say it."""
        return Phrases(self.language, self.alarm).said(str(text))

    def term(self, name: str) -> str:
        """What a formula's term is called."""
        return self.language(TERMS.get(name, name))

    def fence(self, fence: Any) -> str:
        """What becomes of writes that the secondary cannot have."""
        return self.language(FENCES[fence]) if fence in FENCES else str(fence)

    def pair_state(self, state: Any) -> str:
        """What the state of a group means."""
        return self.language(PAIR_STATES[state]) if state in PAIR_STATES else ""

    def cause(self, cause: Any) -> str:
        """Why something was changed that no user asked for."""
        return self.language(CAUSES[cause]) if cause in CAUSES else str(cause)

    def target(self, target: Any, pair: tuple[str, str] | None = None) -> str:
        """A reservation target in one line: ``port pair 10.0.0.1 → 10.0.1.1``."""
        said = target if isinstance(target, Mapping) else to_plain(target)
        words = [self.kind(said.get("kind"))]
        if said.get("buffer_id") is not None:
            words.append(str(said["buffer_id"]))
        if said.get("name"):
            words.append(str(said["name"]))
        local, remote = pair or (said.get("local_port"), said.get("remote_port"))
        if local is not None:
            number = f" : {said['remote_port_number']}" if said.get("remote_port_number") else ""
            words.append(f"{local} → {remote}{number}")
        return " ".join(words)
