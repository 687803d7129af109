"""What a storage array is asked to be: flags and a TOML file, read at the edge into frozen values.

The flags describe an array with one TCP interface. A file says the same with the same names, or lists any number of
interfaces of either kind in ``[[interface]]`` tables; and more about volumes in ``[[volume]]`` tables.
"""

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
from mgmt.array.description import (
    ISCSI_PORT,
    ArrayConfig,
    CopyConfig,
    FcInterface,
    Interface,
    TcpInterface,
    VolumeConfig,
)
from mgmt.array.errors import ConfigurationError
from mgmt.array.interface_tables import interfaces_of
from mgmt.array.sections import cache_of, copy_of, volumes_of
from mgmt.http import AddressError, parse_address
from mgmt.target.table import ConfigurationError as TableError
from mgmt.target.table import Table

__all__ = [
    "INTERFACE_NAME",
    "ArrayConfig",
    "ConfigurationError",
    "CopyConfig",
    "FcInterface",
    "Settings",
    "TcpInterface",
    "VolumeConfig",
    "build",
    "load",
    "parse_volumes",
]

#: The one communication interface 208 that flags describe; the tables name it.
INTERFACE_NAME = "tcp0"
_NAME_LIMIT = 64
_LARGEST_CONFIGURATION_BYTES = 1 << 20
#: What belongs to the one interface that flags describe.
_OF_THE_INTERFACE = ("port_address", "iscsi_port", "unit", "units", "pages", "page", "min_free")
_TABLES = ("interface", "volume", "cache", "usage")


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """The flags as given, ``None`` where they were not; the keys of the TOML file are the same names.

    The last four are the tables of the file: ``[[interface]]``, ``[[volume]]``, ``[cache]``, ``[usage]``.
    """

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
    congestion: str | None = None
    chap_file: str | None = None
    chap: bool | None = None
    station: str | None = None
    station_token_file: str | None = None
    cache_size: str | None = None
    volumes: Mapping[str, str] | None = None
    interface: Sequence[Mapping[str, Any]] | None = None
    volume: Sequence[Mapping[str, Any]] | None = None
    cache: Mapping[str, Any] | None = None
    usage: Mapping[str, Any] | None = None


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
    if given.listen is None:
        raise ConfigurationError("an array needs a control address: --listen unix:PATH or http://HOST:PORT")
    try:
        parse_address(given.listen)
        if given.station is not None:
            parse_address(given.station)
    except AddressError as error:
        raise ConfigurationError(str(error)) from None
    try:
        return ArrayConfig(
            name=name,
            listen=given.listen,
            iqn=given.iqn or f"iqn.2003-10.example.sancredit:{name.lower()}",
            interfaces=_interfaces(given),
            volumes=_volumes(given),
            state=_path("state", given.state),
            copy=copy_of(
                extent=given.extent,
                allocation_units=given.allocation_units,
                congestion=given.congestion,
                usage=None if given.usage is None else Table(given.usage, "usage"),
            ),
            cache=cache_of(
                given.cache_size,
                None if given.cache is None else Table(given.cache, "cache"),
                _path("state", given.state),
            ),
            chap=given.chap is not False,
            chap_file=_path("chap-file", given.chap_file),
            station=given.station,
            station_token_file=_path("station-token-file", given.station_token_file),
        )
    except TableError as error:
        raise ConfigurationError(str(error)) from None


def parse_volumes(texts: Sequence[str]) -> dict[str, str] | None:
    """Flags ``NAME=STORE`` as names and the rest; ``None`` for none. Raises :class:`ConfigurationError`."""
    volumes: dict[str, str] = {}
    for text in texts:
        name, sign, rest = text.partition("=")
        if not sign or not name or not rest:
            raise ConfigurationError(
                f"{text!r:.200} is not a volume: write NAME=PATH, NAME=PATH:SIZE, or NAME=SIZE for memory"
            )
        if name in volumes:
            raise ConfigurationError(f"there are two volumes with the name {name!r:.80}")
        volumes[name] = rest
    return volumes or None


def _check_type(path: Path, key: str, value: Any) -> None:
    whole_numbers = ("iscsi_port", "units", "pages", "min_free", "allocation_units")
    if key == "volumes":
        good = isinstance(value, dict) and all(isinstance(item, str) for item in value.values())
        wanted = "a table of NAME = 'PATH', 'PATH:SIZE', or 'SIZE' for memory"
    elif key in ("interface", "volume"):
        good = isinstance(value, list) and all(isinstance(item, dict) for item in value)
        wanted = f"a list of tables: [[{key}]]"
    elif key in _TABLES:
        good, wanted = isinstance(value, dict), f"a table: [{key}]"
    elif key == "chap":
        good, wanted = isinstance(value, bool), "true or false"
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


def _path(name: str, text: str | None) -> Path | None:
    if text is None:
        return None
    if not text or "\0" in text:  # an empty one would be the directory that the array was started in
        raise ConfigurationError(f"--{name} is a path, not {text!r:.40}")
    return Path(text)


def _interfaces(given: Settings) -> tuple[Interface, ...]:
    if given.interface is not None:
        for key in _OF_THE_INTERFACE:
            if getattr(given, key) is not None:
                raise ConfigurationError(
                    f"{key} describes an array's only interface; with [[interface]] tables it stands in them"
                )
        return interfaces_of([Table(one, f"interface {n}") for n, one in enumerate(given.interface, 1)])
    if given.port_address is None:
        raise ConfigurationError(
            "an array needs the IP address of its port: --port-address, or [[interface]] tables in its file"
        )
    try:
        address = str(ip_address(given.port_address))
    except ValueError as error:
        raise ConfigurationError(str(error)) from None
    iscsi_port = ISCSI_PORT if given.iscsi_port is None else given.iscsi_port
    if not 0 <= iscsi_port <= 65535:
        raise ConfigurationError(f"--iscsi-port is from 0 to 65535, not {iscsi_port}")
    return (TcpInterface(address=address, iscsi_port=iscsi_port, pool=_pool(given)),)


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


def _size(name: str, text: str | None, default: str) -> int:
    try:
        return parse_size(default if text is None else text)
    except ValueError as error:
        raise ConfigurationError(f"--{name}: {error}") from None


def _volumes(given: Settings) -> tuple[VolumeConfig, ...]:
    tables = [Table(one, f"volume {n}") for n, one in enumerate(given.volume or (), 1)]
    volumes = volumes_of(given.volumes or {}, tables)
    names = [volume.name for volume in volumes]
    if twice := {name for name in names if names.count(name) > 1}:
        raise ConfigurationError(f"there are two volumes with the name {sorted(twice)[0]!r:.80}")
    return volumes
