"""What a storage array is: frozen values, read from flags and a TOML file by :mod:`mgmt.array.configuration`."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from credits.config import PoolConfig, UnitKind
from credits.usage import UsagePolicy

ISCSI_PORT = 3260


@dataclass(frozen=True, slots=True)
class VolumeConfig:
    """A disk: a file (with ``size_bytes`` a missing one is created sparse at that size), a block device, or memory.

    ``path`` is ``None`` for memory. ``hosts``: whether hosts see it; other arrays always do. ``cached``: whether
    writes to it go through the cache memory 102, where there is one.
    """

    name: str
    path: Path | None
    size_bytes: int | None = None
    read_only: bool = False
    hosts: bool = True
    cached: bool = True


@dataclass(frozen=True, slots=True, kw_only=True)
class TcpInterface:
    """A communication interface 208 whose units are TCP memory buffers; its port listens for iSCSI.

    ``iscsi_port`` 0: one that the system chooses.
    """

    address: str
    iscsi_port: int
    pool: PoolConfig

    @property
    def name(self) -> str:
        """What the tables call it."""
        return self.pool.name

    @property
    def kind(self) -> UnitKind:
        """Its units."""
        return self.pool.kind


@dataclass(frozen=True, slots=True, kw_only=True)
class FcInterface:
    """A communication interface whose units are receive frame buffers of a port group (paragraph 24).

    ``address`` is the WWPN; ``link`` where the other end of its line plugs in (``unix:PATH`` or ``HOST:PORT``),
    ``None`` for a port that only calls others. ``unreserved``: credits that a login is granted without a reservation,
    or as many as are free.
    ``time_scale``: link time is so many times slower than real time; ``None``: measured at the start.
    """

    address: str
    link: str | None
    speed: str
    distance_m: int
    unreserved: int
    pool: PoolConfig
    time_scale: int | None = None
    capture: str | None = None
    """A file (pcapng) for what crosses the line of a copy that begins here."""
    host_ports: int = 0
    """Ports of the same port group that hosts plug into, at ``link`` with ``.1``, ``.2`` … behind it."""
    host_credits: int = 8
    """What the login of a host borrows of the group's free buffers, if there are so many."""

    @property
    def name(self) -> str:
        """What the tables call it."""
        return self.pool.name

    @property
    def kind(self) -> UnitKind:
        """Its units."""
        return self.pool.kind


Interface = TcpInterface | FcInterface


@dataclass(frozen=True, slots=True, kw_only=True)
class CopyConfig:
    """How remote copy moves data: the extent is one WRITE command; ``gather_ns`` bounds the wait for M7s."""

    extent_bytes: int = 64 * 1024
    gather_ns: int = 10_000_000_000
    connect_timeout_s: float = 4.0
    allocation_units: int | None = None
    """The predetermined number of units of one allocation (paragraph 50); ``None`` for GAP-16's default."""
    congestion: str = "cubic"
    """TCP_CONGESTION of copy connections; empty: the system's."""
    usage: UsagePolicy | None = None
    """The controller of paragraph 51, by which connections share a reservation as they use it; ``None``: evenly.
    Its ``max_units`` is replaced by the reservation's."""


@dataclass(frozen=True, slots=True, kw_only=True)
class CacheConfig:
    """The cache memory 102.

    ``file`` keeps what is in it when the process is killed; ``None``: it ends with the process. Write-back goes at full
    speed from ``high_percent`` dirty until ``low_percent``. ``warning_bytes``: so much or less free makes a copy under
    way ask for a larger reservation (paragraph 104); 0: never.
    """

    size_bytes: int
    file: Path | None = None
    high_percent: int = 70
    low_percent: int = 40
    warning_bytes: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class ArrayConfig:
    """One array process.

    ``listen`` is the control address. ``state`` is the directory of the journals; ``None`` keeps reservations in memory
    only. ``chap_file`` holds the secret that arrays share (``None``: one in ``state``, or for this run); without
    ``chap`` other arrays need none. ``station``: the control address of the management station, for what an array says
    without being asked (M12).
    """

    name: str
    listen: str
    iqn: str
    interfaces: tuple[Interface, ...]
    volumes: tuple[VolumeConfig, ...]
    state: Path | None
    copy: CopyConfig = field(default_factory=CopyConfig)
    cache: CacheConfig | None = None
    chap: bool = True
    chap_file: Path | None = None
    station: str | None = None
    station_token_file: Path | None = None
