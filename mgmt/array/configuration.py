"""What a storage array is asked to be: flags and a TOML file, read at the edge into frozen values."""

from __future__ import annotations

import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from ipaddress import ip_address
from pathlib import Path
from typing import Any

from credits.config import PoolConfig, UnitKind
from credits.errors import InvalidRequest
from credits.quantities import parse_size
from mgmt.http import AddressError, parse_address

#: The array's one communication interface 208; the tables name it.
INTERFACE_NAME = "tcp0"
ISCSI_PORT = 3260
_NAME_LIMIT = 64
_LARGEST_CONFIGURATION_BYTES = 1 << 20


class ConfigurationError(ValueError):
    """The flags or the file do not describe an array; the text is one line (exit code 2)."""


@dataclass(frozen=True, slots=True)
class VolumeConfig:
    """A volume in a file; with ``size_bytes`` a missing file is created sparse at that size."""

    name: str
    path: Path
    size_bytes: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class CopyConfig:
    """How remote copy moves data: the extent is one WRITE command; ``gather_ns`` bounds the wait for M7s."""

    extent_bytes: int = 64 * 1024
    gather_ns: int = 10_000_000_000
    connect_timeout_s: float = 4.0
    allocation_units: int | None = None
    """The predetermined number of units of one allocation (paragraph 50); ``None`` for GAP-16's default."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ArrayConfig:
    """One array process.

    ``listen`` is the control address; ``port_address`` the IP address of its port, where the iSCSI target listens
    on ``iscsi_port`` (0: one that the system chooses). ``state`` is the directory of the journal; ``None`` keeps
    reservations in memory only.
    """

    name: str
    listen: str
    port_address: str
    iscsi_port: int
    iqn: str
    pool: PoolConfig
    volumes: tuple[VolumeConfig, ...]
    state: Path | None
    copy: CopyConfig


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """The flags as given, ``None`` where they were not; the keys of the TOML file are the same names."""

    name: str | None = None
    listen: str | None = None
    port_address: str | None = None
    iscsi_port: int | None = None
    iqn: str | None = None
    unit: str | None = None
    units: int | None = None
    pages: int | None = None
    page: str | None = None
    min_free: int | None = None
    state: str | None = None
    allocation_units: int | None = None
    extent: str | None = None
    volumes: Mapping[str, str] | None = None


def load(path: Path) -> Settings:
    """The settings in a TOML file. :class:`ConfigurationError`: unreadable, not TOML, an unknown or wrong key."""
    try:
        with path.open("rb") as file:
            data = file.read(_LARGEST_CONFIGURATION_BYTES + 1)
    except OSError as error:
        raise ConfigurationError(f"cannot read {path}: {error.strerror}") from None
    if len(data) > _LARGEST_CONFIGURATION_BYTES:
        raise ConfigurationError(f"{path} is longer than {_LARGEST_CONFIGURATION_BYTES} bytes")
    try:
        plain = tomllib.loads(data.decode())
    except (UnicodeDecodeError, tomllib.TOMLDecodeError, RecursionError) as error:
        raise ConfigurationError(f"{path} is not TOML: {error}") from None
    known = {field.name for field in fields(Settings)}
    for key, value in plain.items():
        if key not in known:
            raise ConfigurationError(
                f"{path}: there is no setting {key!r}; there are {', '.join(sorted(known))}"
            )
        _check_type(path, key, value)
    return Settings(**plain)


def build(flags: Settings, file: Settings | None = None) -> ArrayConfig:
    """The array that ``flags`` describe over what ``file`` says. Raises :class:`ConfigurationError`."""
    given = _merged(flags, file or Settings())
    name = given.name or "array"
    if len(name) > _NAME_LIMIT or not name.isprintable() or any(sign in name for sign in " /,"):
        raise ConfigurationError(f"{name!r:.80} cannot name an array")
    if given.port_address is None:
        raise ConfigurationError("an array needs the IP address of its port: --port-address")
    if given.listen is None:
        raise ConfigurationError("an array needs a control address: --listen unix:PATH or http://HOST:PORT")
    try:
        address = str(ip_address(given.port_address))
        parse_address(given.listen)
    except (ValueError, AddressError) as error:
        raise ConfigurationError(str(error)) from None
    iscsi_port = ISCSI_PORT if given.iscsi_port is None else given.iscsi_port
    if not 0 <= iscsi_port <= 65535:
        raise ConfigurationError(f"--iscsi-port is from 0 to 65535, not {iscsi_port}")
    return ArrayConfig(
        name=name,
        listen=given.listen,
        port_address=address,
        iscsi_port=iscsi_port,
        iqn=given.iqn or f"iqn.2003-10.example.sancredit:{name.lower()}",
        pool=_pool(given),
        volumes=_volumes(given.volumes or {}),
        state=Path(given.state) if given.state is not None else None,
        copy=_copy(given),
    )


def parse_volumes(texts: Sequence[str]) -> dict[str, str] | None:
    """Flags ``NAME=PATH[:SIZE]`` as names and the rest; ``None`` for none. Raises :class:`ConfigurationError`."""
    volumes: dict[str, str] = {}
    for text in texts:
        name, sign, rest = text.partition("=")
        if not sign or not name or not rest:
            raise ConfigurationError(f"{text!r:.200} is not a volume: write NAME=PATH or NAME=PATH:SIZE")
        if name in volumes:
            raise ConfigurationError(f"there are two volumes with the name {name!r:.80}")
        volumes[name] = rest
    return volumes or None


def _check_type(path: Path, key: str, value: Any) -> None:
    whole_numbers = ("iscsi_port", "units", "pages", "min_free", "allocation_units")
    if key == "volumes":
        good = isinstance(value, dict) and all(isinstance(item, str) for item in value.values())
        wanted = "a table of NAME = 'PATH' or 'PATH:SIZE'"
    elif key in whole_numbers:
        good, wanted = type(value) is int, "a whole number"
    else:
        good, wanted = isinstance(value, str), "a text"
    if not good:
        raise ConfigurationError(f"{path}: {key} is {wanted}, not {value!r:.80}")


def _merged(flags: Settings, file: Settings) -> Settings:
    chosen = {}
    for field in fields(Settings):
        flag = getattr(flags, field.name)
        chosen[field.name] = getattr(file, field.name) if flag is None else flag
    return Settings(**chosen)


def _pool(given: Settings) -> PoolConfig:
    try:
        return PoolConfig(
            name=INTERFACE_NAME,
            kind=UnitKind.TCP,
            unit_bytes=_size("unit", given.unit, "16KiB"),
            total_units=256 if given.units is None else given.units,
            unsplit_pages=given.pages or 0,
            page_bytes=_size("page", given.page, "64KiB") if given.pages or given.page else None,
            min_free_units=given.min_free or 0,
        )
    except InvalidRequest as error:
        raise ConfigurationError(str(error)) from None


def _copy(given: Settings) -> CopyConfig:
    extent_bytes = _size("extent", given.extent, "64KiB")
    if not 512 <= extent_bytes <= 1 << 24 or extent_bytes % 512:
        raise ConfigurationError(
            f"an extent is a multiple of 512 bytes up to 16MiB, not {extent_bytes} bytes"
        )
    if given.allocation_units is not None and given.allocation_units < 1:
        raise ConfigurationError(f"--allocation-units is at least 1, not {given.allocation_units}")
    return CopyConfig(extent_bytes=extent_bytes, allocation_units=given.allocation_units)


def _size(name: str, text: str | None, default: str) -> int:
    try:
        return parse_size(default if text is None else text)
    except ValueError as error:
        raise ConfigurationError(f"--{name}: {error}") from None


def _volumes(given: Mapping[str, str]) -> tuple[VolumeConfig, ...]:
    volumes = []
    for name, text in given.items():
        if not name or len(name) > _NAME_LIMIT or not name.isprintable():
            raise ConfigurationError(f"{name!r:.80} cannot name a volume")
        volumes.append(_volume(name, text))
    return tuple(volumes)


def _volume(name: str, text: str) -> VolumeConfig:
    """``PATH`` or ``PATH:SIZE``; what follows the last colon is a size when it reads as one."""
    head, colon, tail = text.rpartition(":")
    if not text or "\0" in text:
        raise ConfigurationError(f"volume {name} needs a path")
    if colon and tail[:1].isdigit():
        if not head:
            raise ConfigurationError(f"volume {name} needs a path before its size")
        return VolumeConfig(name, Path(head), _size(f"volume {name}", tail, tail))
    return VolumeConfig(name, Path(text))
