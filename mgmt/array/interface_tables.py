"""``[[interface]]`` tables of an array's file: communication interfaces of either kind."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import replace
from ipaddress import ip_address

from credits.config import PoolConfig, UnitKind
from credits.errors import InvalidRequest
from credits.quantities import parse_distance
from fcsim.speeds import MAX_DISTANCE_M, MAX_FRAME_BYTES, parse_speed
from mgmt.array.description import ISCSI_PORT, FcInterface, Interface, TcpInterface
from mgmt.array.errors import ConfigurationError
from mgmt.target.table import Table

#: Bounds what one process listens on and journals.
INTERFACES_LIMIT = 64
_WWPN = re.compile(r"[0-9a-f]{16}|[0-9a-f]{2}(:[0-9a-f]{2}){7}", re.IGNORECASE)
_UNIT_BYTES = 16 * 1024
_PAGE_BYTES = 64 * 1024
_BUFFER_IDS = 10_000_000
_LARGEST_TIME_SCALE = 10**7
_HOST_PORTS_LIMIT = 16


def interfaces_of(tables: Sequence[Table]) -> tuple[Interface, ...]:
    """The interfaces in the order of the tables. Raises :class:`ConfigurationError`, and Table's own error."""
    if not 1 <= len(tables) <= INTERFACES_LIMIT:
        raise ConfigurationError(f"an array has 1 to {INTERFACES_LIMIT} interfaces, not {len(tables)}")
    interfaces: list[Interface] = []
    for table in tables:
        kind = table.text("kind", "tcp")
        number = sum(other.kind.value == kind for other in interfaces)
        name = table.text("name") or f"{kind}{number}"
        try:
            if kind == "tcp":
                interfaces.append(_tcp(table, name))
            elif kind == "fc":
                interfaces.append(_fc(table, name))
            else:
                raise table.error("kind", f"an interface is tcp or fc, not {kind!r:.40}")
        except InvalidRequest as error:
            raise ConfigurationError(f"{table.where}: {error}") from None
        table.done()
    for what, given in (
        ("name", [one.name for one in interfaces]),
        ("address", [one.address for one in interfaces]),
    ):
        if twice := {one for one in given if given.count(one) > 1}:
            raise ConfigurationError(f"there are two interfaces with the {what} {sorted(twice)[0]!r:.80}")
    return tuple(_numbered(interface, number) for number, interface in enumerate(interfaces))


def _numbered(interface: Interface, number: int) -> Interface:
    """With buffer IDs of its own: an ID names one reservation of the whole array."""
    first = interface.pool.first_buffer_id + number * _BUFFER_IDS
    return replace(interface, pool=replace(interface.pool, first_buffer_id=first))


def canonical_wwpn(text: str) -> str:
    """A WWPN with colons in lower case. Raises :class:`ValueError`."""
    if not _WWPN.fullmatch(text):
        raise ValueError(f"{text!r:.60} is no WWPN of 16 hex digits, such as 50:06:01:60:3b:a0:11:22")
    digits = text.replace(":", "").lower()
    return ":".join(digits[at : at + 2] for at in range(0, 16, 2))


def _tcp(table: Table, name: str) -> TcpInterface:
    text = table.text("address")
    if text is None:
        raise table.error("address", "the IP address of its port is missing")
    try:
        address = str(ip_address(text))
    except ValueError as error:
        raise table.error("address", str(error)) from None
    port = table.integer("iscsi_port", ISCSI_PORT, high=65535)
    pages = table.integer("pages", 0) or 0
    page_bytes = table.size("page")
    pool = PoolConfig(
        name=name,
        kind=UnitKind.TCP,
        unit_bytes=table.size("unit", _UNIT_BYTES) or 0,
        total_units=table.integer("units", 256) or 0,
        unsplit_pages=pages,
        page_bytes=page_bytes or (_PAGE_BYTES if pages else None),
        min_free_units=table.integer("min_free", 0) or 0,
    )
    return TcpInterface(address=address, iscsi_port=ISCSI_PORT if port is None else port, pool=pool)


def _fc(table: Table, name: str) -> FcInterface:
    text = table.text("address")
    if text is None:
        raise table.error("address", "the WWPN of its port is missing")
    speed = table.text("speed") or "8G"
    distance = table.text("distance") or "0 m"
    try:
        address = canonical_wwpn(text)
        parse_speed(speed)
        distance_m = parse_distance(distance)
        if not 0 <= distance_m <= MAX_DISTANCE_M:
            raise ValueError(f"a distance is from 0 to {MAX_DISTANCE_M} m, not {distance_m}")
    except ValueError as error:
        raise ConfigurationError(f"{table.where}: {error}") from None
    blocks = table.integer("blocks", 0) or 0
    link = table.text("link")
    host_ports = table.integer("host_ports", 0, low=0, high=_HOST_PORTS_LIMIT) or 0
    if host_ports and not (link or "").startswith("unix:"):
        raise table.error("host_ports", "they listen beside the port's own link, which is to be unix:PATH")
    pool = PoolConfig(
        name=name,
        kind=UnitKind.FC,
        unit_bytes=table.size("frame", MAX_FRAME_BYTES) or 0,
        total_units=table.integer("credits", 1024) or 0,
        unsplit_pages=blocks,
        block_units=table.integer("block", 64) if blocks else table.integer("block"),
        min_free_units=table.integer("min_free", 0) or 0,
    )
    return FcInterface(
        address=address,
        link=link,
        speed=parse_speed(speed).name,
        distance_m=distance_m,
        unreserved=table.integer("unreserved", 8, low=1, high=32767) or 8,
        pool=pool,
        time_scale=table.integer("time_scale", low=1, high=_LARGEST_TIME_SCALE),
        capture=table.text("capture"),
        host_ports=host_ports,
        host_credits=table.integer("host_credits", 8, low=1, high=32767) or 8,
    )
