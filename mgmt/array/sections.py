"""The other parts of an array's configuration: volumes, cache memory, remote copy."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from credits.errors import InvalidRequest
from credits.quantities import parse_size
from credits.usage import UsagePolicy
from mgmt.array.description import CacheConfig, CopyConfig, VolumeConfig
from mgmt.array.errors import ConfigurationError
from mgmt.target.table import Table

_NAME_LIMIT = 64
_VOLUMES_LIMIT = 1024
_CACHE_LEAST_BYTES = 1 << 20
_CACHE_LARGEST_BYTES = 1 << 40
CONGESTION_NAME_LIMIT = 15
"""TCP_CA_NAME_MAX without its terminator."""


def volumes_of(given: Mapping[str, str], tables: Sequence[Table]) -> tuple[VolumeConfig, ...]:
    """Volumes of the flags or ``[volumes]``, then those of the ``[[volume]]`` tables."""
    volumes = [_volume(_checked_name(name), text) for name, text in given.items()]
    for table in tables:
        name, text = table.text("name"), table.text("store")
        if not name or not text:
            raise ConfigurationError(f"{table.where}: a volume has a name and a store")
        volume = _volume(_checked_name(name), text)
        volumes.append(
            VolumeConfig(
                name=name,
                path=volume.path,
                size_bytes=volume.size_bytes,
                read_only=table.truth("read_only"),
                hosts=table.truth("hosts", True),
                cached=table.truth("cached", True),
            )
        )
        table.done()
    if len(volumes) > _VOLUMES_LIMIT:
        raise ConfigurationError(f"an array has at most {_VOLUMES_LIMIT} volumes, not {len(volumes)}")
    return tuple(volumes)


def _checked_name(name: str) -> str:
    if not name or len(name) > _NAME_LIMIT or not name.isprintable() or "," in name:
        raise ConfigurationError(f"{name!r:.80} cannot name a volume")
    return name


def _volume(name: str, text: str) -> VolumeConfig:
    """``PATH``, ``PATH:SIZE``, or ``SIZE`` for memory; what follows the last colon is a size when it reads as one.

    A path that reads as a size is written with a slash.
    """
    if not text or "\0" in text:
        raise ConfigurationError(f"volume {name} needs a path, or a size for memory")
    head, colon, tail = text.rpartition(":")
    if not colon and text[0].isdigit() and "/" not in text:
        return VolumeConfig(name, None, _size(f"volume {name}", text))
    if colon and tail[:1].isdigit():
        if not head:
            raise ConfigurationError(f"volume {name} needs a path before its size")
        return VolumeConfig(name, Path(head), _size(f"volume {name}", tail))
    return VolumeConfig(name, Path(text))


def cache_of(flag: str | None, table: Table | None, state: Path | None) -> CacheConfig | None:
    """The cache: its size from the flag ``--cache``, else the table; its file in ``state`` where there is one."""
    size_bytes = None if flag is None else _size("--cache", flag)
    if table is None:
        if size_bytes is None:
            return None
        table = Table({}, "cache")
    in_table = table.size("size")
    size_bytes = in_table if size_bytes is None else size_bytes
    if size_bytes is None or not _CACHE_LEAST_BYTES <= size_bytes <= _CACHE_LARGEST_BYTES:
        raise ConfigurationError(
            f"a cache has a size from {_CACHE_LEAST_BYTES} to {_CACHE_LARGEST_BYTES} bytes, not {size_bytes}"
        )
    file = table.text("file")
    config = CacheConfig(
        size_bytes=size_bytes,
        file=Path(file) if file else (state / "cache" if state is not None else None),
        high_percent=table.integer("high_percent", 70, low=1, high=100) or 0,
        low_percent=table.integer("low_percent", 40, high=99) or 0,
        warning_bytes=table.size("warning", 0) or 0,
    )
    table.done()
    if config.low_percent >= config.high_percent:
        raise ConfigurationError(
            f"cache: low_percent {config.low_percent} is below high_percent, not {config.high_percent} and more"
        )
    if config.warning_bytes >= size_bytes:
        raise ConfigurationError(
            f"cache: a warning at {config.warning_bytes} bytes free would never end: it has {size_bytes}"
        )
    return config


def copy_of(
    *, extent: str | None, allocation_units: int | None, congestion: str | None, usage: Table | None
) -> CopyConfig:
    """How remote copy moves data."""
    extent_bytes = _size("--extent", extent or "64KiB")
    if not 512 <= extent_bytes <= 1 << 24 or extent_bytes % 512:
        raise ConfigurationError(
            f"an extent is a multiple of 512 bytes up to 16MiB, not {extent_bytes} bytes"
        )
    if allocation_units is not None and allocation_units < 1:
        raise ConfigurationError(f"--allocation-units is at least 1, not {allocation_units}")
    congestion = "cubic" if congestion is None else congestion
    if len(congestion) > CONGESTION_NAME_LIMIT or not (
        congestion.isascii() and congestion.replace("_", "").isalnum()
    ):
        raise ConfigurationError(f"{congestion!r:.40} cannot name a TCP congestion control")
    return CopyConfig(
        extent_bytes=extent_bytes,
        allocation_units=allocation_units,
        congestion=congestion,
        usage=None if usage is None else _usage(usage),
    )


def _usage(table: Table) -> UsagePolicy:
    least = table.integer("min_units", 1, low=1) or 1
    period_ns = table.time_ns("period")
    try:
        policy = UsagePolicy(
            max_units=1 << 30,
            min_units=least,
            upper_percent=table.integer("upper_percent", 80, high=100) or 0,
            lower_percent=table.integer("lower_percent", 30, high=100) or 0,
            grow_percent=table.integer("grow_percent", 50, low=1, high=1000) or 0,
            shrink_percent=table.integer("shrink_percent", 25, low=1, high=100) or 0,
            period_ns=100_000_000 if period_ns is None else period_ns,
        )
    except InvalidRequest as error:
        raise ConfigurationError(f"usage: {error}") from None
    table.done()
    return policy


def _size(name: str, text: str) -> int:
    try:
        return parse_size(text)
    except ValueError as error:
        raise ConfigurationError(f"{name}: {error}") from None
