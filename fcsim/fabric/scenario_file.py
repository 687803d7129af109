# SPDX-License-Identifier: Apache-2.0
"""The schema of scenario files: TOML tables in, a :class:`~fcsim.fabric.scenario.Scenario` out, every error one line
with the file, the line, the value and what would be right."""

from __future__ import annotations

from collections.abc import Iterable
from itertools import product
from pathlib import Path

from credits.quantities import parse_delay, parse_distance, parse_rate, parse_size
from fcsim.errors import InvalidScenario
from fcsim.fabric.scenario import (
    BROCADE_CREDITS,
    DEFAULT_LOSS_NS,
    Fault,
    FaultKind,
    Flow,
    Host,
    Isl,
    Scenario,
    Scsi,
    Switch,
)
from fcsim.fabric.toml_document import Document, TableReader, load_document, tables
from fcsim.port.credit import BB_CREDIT_LIMIT
from fcsim.port.recovery import BB_SC_N_LIMIT
from fcsim.speeds import MAX_DISTANCE_M, MAX_PAYLOAD_BYTES, Speed, parse_speed

TABLES = ("fabric", "switch", "host", "port", "isl", "flow", "scsi", "fault")
"""``[[port]]`` is another word for ``[[host]]``."""
HOSTS_LIMIT = 2000
FLOWS_LIMIT = 20_000
SCSI_LIMIT = 500
SCSI_COMMAND_LIMIT_BYTES = 8 << 20
DOMAINS_LIMIT = 239
LINKS_LIMIT = 64
"""Links between the same two switches."""
LONGEST_NS = 3600 * 10**9
SAMPLES_LIMIT = 20_000
_NAME_SIGNS = set("/,: \t")


def load_scenario(path: Path) -> Scenario:
    """Read a file. Raises :class:`~fcsim.errors.InvalidScenario`."""
    return read_scenario(load_document(path))


def read_scenario(document: Document) -> Scenario:
    """The scenario of a document. Raises :class:`~fcsim.errors.InvalidScenario`."""
    for name in document.values:
        if name not in TABLES:
            line = document.line(name, 0)
            raise InvalidScenario(
                f"{document.path}:{line}: there is no table {name!r:.40}; there are [fabric], "
                + ", ".join(f"[[{table}]]" for table in TABLES[1:])
            )
    fabric = TableReader(document, "fabric", 0, document.values.get("fabric", {}))
    name = fabric.text("name", Path(document.path).stem)
    seed = fabric.integer("seed", 1, 0, 2**31 - 1)
    duration_ns = fabric.quantity("duration", parse_delay, "10ms", 10_000_000, 1)
    if duration_ns > LONGEST_NS:
        raise fabric.error("duration", f"at most {LONGEST_NS // 10**9}s of simulated time")
    sample_ns = fabric.quantity("sample", parse_delay, "50us", max(1, duration_ns // 200), 1)
    if duration_ns // sample_ns > SAMPLES_LIMIT:
        least = -(-duration_ns // SAMPLES_LIMIT)
        raise fabric.error("sample", f"more than {SAMPLES_LIMIT} samples; take at least {least}ns")
    loss_ns = fabric.quantity("link_reset_after", parse_delay, "2s", DEFAULT_LOSS_NS)
    fabric.done()

    names: set[str] = set()
    switches = tuple(
        _switch(table, number, names) for number, table in enumerate(tables(document, "switch"), 1)
    )
    if len(switches) > DOMAINS_LIMIT:
        raise InvalidScenario(
            f"{document.path}: {len(switches)} switches; a fabric has {DOMAINS_LIMIT} at most"
        )
    hosts = _hosts(document, {switch.name for switch in switches}, names)
    isls = _isls(document, [switch.name for switch in switches], names)
    host_names = [host.name for host in hosts]
    flows = [
        flow
        for number, table in enumerate(tables(document, "flow"), 1)
        for flow in _flows(table, number, host_names)
    ]
    scsi = tuple(_scsi(table, number, host_names) for number, table in enumerate(tables(document, "scsi"), 1))
    if len(scsi) > SCSI_LIMIT:
        raise InvalidScenario(f"{document.path}: {len(scsi)} scsi loads; {SCSI_LIMIT} at most")
    if not flows and not scsi:
        raise InvalidScenario(
            f'{document.path}: no frames would be sent; add a [[flow]] with from = "{host_names[0]}"'
        )
    if len(flows) > FLOWS_LIMIT:
        raise InvalidScenario(f"{document.path}: {len(flows)} flows; {FLOWS_LIMIT} at most")
    faults = tuple(_fault(table, host_names) for table in tables(document, "fault"))
    return Scenario(
        name, seed, duration_ns, sample_ns, loss_ns, switches, hosts, isls, tuple(flows), faults, scsi
    )


def _named(table: TableReader, key: str, default: str | None, names: set[str]) -> str:
    name = table.text(key, default)
    if _NAME_SIGNS & set(name) or len(name) > 40 or not name.isprintable():
        raise table.error(
            key, f"{name!r:.60}: a name has at most 40 signs, and no slash, comma, colon or space"
        )
    if name in names:
        raise table.error(key, f"there is a {name!r} already; choose another name")
    names.add(name)
    return name


def _switch(table: TableReader, number: int, names: set[str]) -> Switch:
    name = _named(table, "name", None, names)
    domain = table.integer("domain", number, 1, DOMAINS_LIMIT)
    latency_ns = table.quantity("latency", parse_delay, "700ns", 0)
    hold_ns = table.quantity("hold_time", parse_delay, "500ms") if table.has("hold_time") else None
    table.raw("hold_time")
    buffers = table.integer("buffers", None, 1, 10**6) if table.has("buffers") else None
    table.raw("buffers")
    table.done()
    return Switch(name, domain, latency_ns, hold_ns, buffers)


def _speed(table: TableReader) -> Speed:
    try:
        return parse_speed(table.text("speed", "16G"))
    except ValueError as error:
        raise table.error("speed", str(error)) from None


def _distance(table: TableReader) -> int:
    distance_m = table.quantity("distance", parse_distance, "10km", 0)
    if distance_m > MAX_DISTANCE_M:
        raise table.error("distance", f"at most {MAX_DISTANCE_M // 1000}km")
    return distance_m


def _hosts(document: Document, switches: set[str], names: set[str]) -> tuple[Host, ...]:
    read = tables(document, "host", "port")
    if not read:
        raise InvalidScenario(f'{document.path}: there is no host; add a [[host]] with name and switch = "…"')
    if len(read) > HOSTS_LIMIT:
        raise InvalidScenario(f"{document.path}: {len(read)} hosts; {HOSTS_LIMIT} at most")
    hosts = tuple(_host(table, switches, names) for table in read)
    by_name = {host.name: host for host in hosts}
    taken: dict[str, str] = {}
    for host, table in zip(hosts, read, strict=True):
        if host.to in switches:
            continue
        table.one_of("peer", host.to, by_name, "host")
        other = by_name[host.to]
        if host.to == host.name or (other.to in switches or other.to != host.name):
            raise table.error("peer", f"{host.to} is not the other end; give it peer = {host.name!r}")
        if (other.speed, other.distance_m) != (host.speed, host.distance_m):
            raise table.error(
                "peer", f"speed and distance are not those of {host.to}; a link has one of each"
            )
        taken[host.name] = host.to
    return hosts


def _host(table: TableReader, switches: set[str], names: set[str]) -> Host:
    name = _named(table, "name", None, names)
    if table.has("peer"):
        to = table.text("peer")
        if table.has("switch"):
            raise table.error("peer", "a port is on a switch or on another host; leave one of the two out")
    else:
        to = table.one_of("switch", table.text("switch"), sorted(switches), "switch")
    table.raw("switch"), table.raw("peer")
    credit = table.integer("bb_credit", 8, 1, BB_CREDIT_LIMIT)
    host = Host(
        name,
        to,
        _speed(table),
        _distance(table),
        table.integer("tx_bb_credit", credit, 1, BB_CREDIT_LIMIT),
        table.integer("rx_bb_credit", credit, 1, BB_CREDIT_LIMIT),
        table.quantity("service_time", parse_delay, "5us", 0),
        table.quantity("drain_rate", parse_rate, "800Mbit", 0),
        table.quantity("hold_time", parse_delay, "220ms") if table.has("hold_time") else None,
        table.integer("bb_sc_n", 0, 0, BB_SC_N_LIMIT),
    )
    table.raw("hold_time")
    table.done()
    return host


def _isls(document: Document, switches: list[str], names: set[str]) -> tuple[Isl, ...]:
    return tuple(_isl(table, switches, names) for table in tables(document, "isl"))


def _isl(table: TableReader, switches: list[str], names: set[str]) -> Isl:
    ends = table.texts("between")
    if len(ends) != 2 or ends[0] == ends[1]:
        raise table.error("between", 'two different switches are expected: ["s1", "s2"]')
    for end in ends:
        table.one_of("between", end, switches, "switch")
    base = f"{ends[0]}-{ends[1]}"
    default = next(name for name in _with_numbers(base) if name not in names)
    name = _named(table, "name", default, names)
    speed, distance_m = _speed(table), _distance(table)
    credits: tuple[int, ...]
    if table.has("virtual_channels"):
        if table.has("bb_credit"):
            raise table.error(
                "bb_credit", "R_RDY mode has bb_credit, VC_RDY mode virtual_channels; leave one out"
            )
        if table.raw("virtual_channels") == "brocade":
            credits = BROCADE_CREDITS
        else:
            credits = table.integers("virtual_channels", 0, BB_CREDIT_LIMIT, 1, 16)
        if len(credits) < 2:
            raise table.error(
                "virtual_channels", "credits of two virtual channels or more, or bb_credit instead"
            )
    else:
        credits = (table.integer("bb_credit", 16, 1, BB_CREDIT_LIMIT),)
    table.raw("virtual_channels"), table.raw("bb_credit")
    bb_sc_n = table.integer("bb_sc_n", 0, 0, BB_SC_N_LIMIT)
    if bb_sc_n and len(credits) > 1:
        raise table.error(
            "bb_sc_n", "credit recovery counts the R_RDYs of a whole link; use bb_credit (R_RDY mode)"
        )
    isl = Isl(
        name,
        (ends[0], ends[1]),
        speed,
        distance_m,
        credits,
        table.integer("count", 1, 1, LINKS_LIMIT),
        table.truth("trunk"),
        bb_sc_n,
        table.quantity("hold_time", parse_delay, "500ms") if table.has("hold_time") else None,
    )
    table.raw("hold_time")
    if isl.trunk and isl.count > 8:
        raise table.error("count", f"a trunk has at most 8 links, not {isl.count}")
    table.done()
    return isl


def _with_numbers(base: str) -> Iterable[str]:
    yield base
    for number in range(2, 10_000):
        yield f"{base}.{number}"


def _flows(table: TableReader, number: int, hosts: list[str]) -> Iterable[Flow]:
    sources = [table.one_of("from", name, hosts, "host") for name in table.texts("from")]
    targets: list[str | None]
    targets = [
        None if name == "any" else table.one_of("to", name, hosts, "host")
        for name in (table.texts("to") if table.has("to") else ("any",))
    ]
    table.raw("to")
    hot = table.one_of("hot", table.text("hot"), hosts, "host") if table.has("hot") else None
    table.raw("hot")
    hot_share = table.share("hot_share", 0.0)
    if (hot is None) != (hot_share == 0.0) or (hot is not None and None not in targets):
        raise table.error("hot_share", 'hot and hot_share go together, with to = "any"')
    if None in targets and len(hosts) < 2:
        raise table.error("to", "there is no other host")
    payload = table.raw("payload")
    if isinstance(payload, list):
        low, high = table.integers("payload", 0, MAX_PAYLOAD_BYTES, 2, 2)
        if low > high:
            raise table.error("payload", f"[{low}, {high}] runs backwards; write [{high}, {low}]")
    else:
        low = high = table.integer("payload", MAX_PAYLOAD_BYTES, 0, MAX_PAYLOAD_BYTES)
    rate_bps = table.quantity("rate", parse_rate, "800Mbit", 0, 1)
    if rate_bps and not high:
        raise table.error("rate", "frames without payload have no rate; leave it out, or give a payload")
    start_ns = table.quantity("start", parse_delay, "1ms", 0)
    frames = table.integer("frames", None, 1, 10**12) if table.has("frames") else None
    table.raw("frames")
    channel = table.integer("virtual_channel", None, 0, 15) if table.has("virtual_channel") else None
    table.raw("virtual_channel")
    base = table.text("name", f"flow{number}")
    table.done()
    for source, to in product(sources, targets):
        if source == to:
            if len(sources) * len(targets) == 1:
                raise table.error("to", f"{source} sends to itself; name another host")
            continue
        many = len(sources) * len(targets) > 1
        yield Flow(
            f"{base}:{source}>{to or 'any'}" if many else base,
            source,
            to,
            None if hot == source else hot,
            0.0 if hot == source else hot_share,
            low,
            high,
            rate_bps,
            start_ns,
            frames,
            channel,
        )


def _scsi(table: TableReader, number: int, hosts: list[str]) -> Scsi:
    source = table.one_of("from", table.text("from"), hosts, "host")
    to = table.one_of("to", table.text("to"), hosts, "host")
    if to == source:
        raise table.error("to", f"{source} cannot be its own target; name another host")
    load = Scsi(
        table.text("name", f"scsi{number}"),
        source,
        to,
        table.share("read_share", 1.0),
        table.quantity("command", parse_size, "64KiB", 65_536, 512),
        table.integer("depth", 8, 1, 256),
        table.integer("commands", None, 1, 10**9) if table.has("commands") else None,
        table.quantity("capacity", parse_size, "64MiB", 64 << 20, 1 << 20),
        table.integer("payload", 2048, 256, MAX_PAYLOAD_BYTES),
        table.quantity("start", parse_delay, "1ms", 0),
        table.quantity("latency", parse_delay, "100us", 0),
        table.quantity("timeout", parse_delay, "2s", 10**10, 1000),
        table.integer("virtual_channel", None, 0, 15) if table.has("virtual_channel") else None,
    )
    table.raw("commands"), table.raw("virtual_channel")
    if load.command_bytes > SCSI_COMMAND_LIMIT_BYTES or load.command_bytes % 512:
        raise table.error("command", "a multiple of 512 bytes, at most 8MiB")
    if load.capacity_bytes < load.command_bytes:
        raise table.error("capacity", f"{load.capacity_bytes} bytes have no room for a command")
    if load.payload_bytes % 4:
        raise table.error("payload", "a data field is a multiple of 4 bytes")
    table.done()
    return load


def _fault(table: TableReader, hosts: list[str]) -> Fault:
    kind = FaultKind(
        table.one_of("kind", table.text("kind"), [kind.value for kind in FaultKind], "kind of fault")
    )
    if kind is FaultKind.SLOW_RECEIVER:
        place = table.one_of("port", table.text("port"), hosts, "host")
    elif kind is FaultKind.LINK_BOUNCE:
        place = table.text("link")
    else:
        place = table.text("port") if table.has("port") else table.text("link")
        table.raw("port"), table.raw("link")
    from_ns = table.quantity("from", parse_delay, "2ms", 0)
    until_ns = table.quantity("until", parse_delay, "5ms") if table.has("until") else None
    table.raw("until")
    if until_ns is not None and until_ns <= from_ns:
        raise table.error("until", "it ends before it begins; until is later than from")
    if kind is FaultKind.LINK_BOUNCE and until_ns is None:
        raise table.error("until", 'when is the link up again? until = "…"')
    probability, count, service_ns = 0.0, None, 0
    if kind is FaultKind.SLOW_RECEIVER:
        service_ns = table.quantity("service_time", parse_delay, "50us", None, 1)
    elif kind is not FaultKind.LINK_BOUNCE:
        if table.has("probability") == table.has("count"):
            raise table.error(None, "give probability, or count for exactly so many: one of the two")
        if table.has("count"):
            count = table.integer("count", None, 1, 10**6)
            if not table.has("port"):
                raise table.error(
                    "count", "of which direction? Name the port that sends the frames: port = …"
                )
        else:
            probability = table.share("probability")
        table.raw("count"), table.raw("probability")
    table.done()
    return Fault(kind, place, from_ns, until_ns, probability, count, service_ns)
