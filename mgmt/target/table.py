"""A table of a TOML file, read key by key: every wrong or unknown key is one line with the file, the table and the
key."""

from __future__ import annotations

import tomllib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from credits.quantities import parse_size
from iscsi_target.faults.errors import FaultError
from iscsi_target.faults.quantities import parse_time

LARGEST_FILE_BYTES = 1 << 20


class ConfigurationError(ValueError):
    """The file or the flags describe no target; the text is one line (exit code 2)."""


def load_document(path: Path) -> Table:
    """The whole file as a table. Raises ConfigurationError."""
    try:
        with path.open("rb") as file:
            data = file.read(LARGEST_FILE_BYTES + 1)
    except OSError as error:
        raise ConfigurationError(f"cannot read {path}: {(error.strerror or str(error)).lower()}") from None
    if len(data) > LARGEST_FILE_BYTES:
        raise ConfigurationError(f"{path} is longer than {LARGEST_FILE_BYTES} bytes")
    try:
        return Table(tomllib.loads(data.decode()), str(path))
    except (UnicodeDecodeError, tomllib.TOMLDecodeError, RecursionError) as error:
        raise ConfigurationError(f"{path} is not TOML: {error}") from None


class Table:
    """`where` names the table in errors. Each key is asked for once, then :meth:`done` refuses what nobody asked
    for."""

    def __init__(self, values: Mapping[str, Any], where: str) -> None:
        self.where = where
        self._values = values
        self._asked: dict[str, None] = {}

    def error(self, key: str, text: str) -> ConfigurationError:
        """An error about a key."""
        return ConfigurationError(f"{self.where}: {key}: {text}")

    def has(self, key: str) -> bool:
        """Whether the key is there."""
        return key in self._values

    def done(self) -> None:
        """Raises ConfigurationError for a key that nothing has asked for."""
        for key in self._values:
            if key not in self._asked:
                known = ", ".join(self._asked) or "none"
                raise ConfigurationError(f"{self.where}: there is no setting {key!r:.60}; there are {known}")

    def raw(self, key: str) -> Any:
        """The value as it stands; None: it is not there."""
        self._asked[key] = None
        return self._values.get(key)

    def text(self, key: str, default: str | None = None) -> str | None:
        """Text."""
        value = self.raw(key)
        if value is None:
            return default
        if not isinstance(value, str):
            raise self.error(key, f"text is expected, not {value!r:.60}")
        return value

    def integer(
        self, key: str, default: int | None = None, *, low: int = 0, high: int = 1 << 62
    ) -> int | None:
        """A whole number from `low` to `high`."""
        value = self.raw(key)
        if value is None:
            return default
        if not isinstance(value, int) or isinstance(value, bool) or not low <= value <= high:
            raise self.error(key, f"a whole number from {low} to {high} is expected, not {value!r:.60}")
        return value

    def truth(self, key: str, default: bool = False) -> bool:
        """true or false."""
        value = self.raw(key)
        if value is None:
            return default
        if not isinstance(value, bool):
            raise self.error(key, f"true or false is expected, not {value!r:.60}")
        return value

    def texts(self, key: str) -> tuple[str, ...] | None:
        """A list of text."""
        value = self.raw(key)
        if value is None:
            return None
        if not isinstance(value, list) or not all(isinstance(item, str) for item in value):
            raise self.error(key, f"a list of text is expected, not {value!r:.60}")
        return tuple(value)

    def size(self, key: str, default: int | None = None) -> int | None:
        """Bytes, of "64MiB" or a number."""
        value = self.raw(key)
        if value is None:
            return default
        if isinstance(value, int) and not isinstance(value, bool) and value >= 0:
            return value
        try:
            return parse_size(value) if isinstance(value, str) else self._no_size(key, value)
        except ValueError as error:
            raise self.error(key, str(error)) from None

    def _no_size(self, key: str, value: object) -> int:
        raise self.error(key, f'a size such as "64MiB" is expected, not {value!r:.60}')

    def time_ns(self, key: str) -> int | None:
        """Nanoseconds, of "15s"."""
        value = self.raw(key)
        if value is None:
            return None
        try:
            return parse_time(value)
        except FaultError as error:
            raise self.error(key, str(error)) from None

    def table(self, key: str) -> Table:
        """A table in the table; empty when it is not there."""
        value = self.raw(key)
        if value is not None and not isinstance(value, Mapping):
            raise self.error(key, f"a table is expected: [{key}]")
        return Table(value or {}, f"{self.where}: {key}")

    def tables(self, key: str) -> Sequence[Table]:
        """An array of tables."""
        value = self.raw(key)
        if value is None:
            return ()
        if not isinstance(value, list) or not all(isinstance(item, Mapping) for item in value):
            raise self.error(key, f"tables are expected: [[{key}]]")
        return [Table(item, f"{self.where}: {key} {number}") for number, item in enumerate(value, 1)]
