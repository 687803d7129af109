"""``--store``: where the station keeps what it knows; and ``sancredit station backup|restore``."""

from __future__ import annotations

import os
import stat
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import click

from mgmt.cli.failures import BadValue
from mgmt.cli.options import output_option
from mgmt.cli.output import show_one

F = TypeVar("F", bound=Callable[..., Any])
_FILE = click.Path(path_type=Path, dir_okay=False)
_LONGEST_PASSWORD = 1024
#: The password of the database, where it is in no file.
PASSWORD_VARIABLE = "SANCREDIT_STORE_PASSWORD"


def store_options(command: F) -> F:
    """``--store`` and ``--store-password-file``; :func:`store_of` reads them."""
    command = click.option(
        "--store-password-file",
        type=_FILE,
        envvar="SANCREDIT_STORE_PASSWORD_FILE",
        help=f"File with the database's password, which only its owner can read; or {PASSWORD_VARIABLE}.",
    )(command)
    return click.option(
        "--store",
        envvar="SANCREDIT_STORE",
        metavar="URL",
        help="postgresql://USER@HOST/NAME instead of SQLite in the state directory; also SANCREDIT_STORE.",
    )(command)


def store_of(store: str | None, password_file: Path | None) -> tuple[str | None, str | None]:
    """The URL of the database, and its password where one is given apart. Raises BadValue."""
    if store is None:
        if password_file is not None:
            raise click.UsageError("--store-password-file is for a database: give --store")
        return None, None
    if not store.startswith(("postgresql://", "postgresql+psycopg://")):
        from mgmt.http.address import masked

        raise BadValue(f"{masked(store)!r:.200} is no store: write postgresql://USER@HOST/NAME")
    if password_file is None:
        return store, os.environ.get(PASSWORD_VARIABLE)
    try:
        with password_file.open("rb") as file:
            if stat.S_IMODE(os.fstat(file.fileno()).st_mode) & 0o077:
                raise BadValue(f"others can read the password in {password_file}: chmod 600 {password_file}")
            found = file.read(_LONGEST_PASSWORD + 1).rstrip(b"\r\n")
        if not 1 <= len(found) <= _LONGEST_PASSWORD:
            raise BadValue(
                f"the password in {password_file} has {len(found)} bytes, not 1 to {_LONGEST_PASSWORD}"
            )
        return store, found.decode()
    except UnicodeDecodeError as error:
        raise BadValue(f"the password in {password_file} is no UTF-8 text") from error
    except OSError as error:
        reason = (error.strerror or str(error)).lower()
        raise BadValue(f"cannot read the password in {password_file}: {reason}") from error


_STATE = click.option(
    "--state",
    type=click.Path(path_type=Path, file_okay=False),
    help="The station's state directory; ~/.local/state/sancredit/station unless told.",
)


@click.command(epilog="Example: sancredit station backup --state ./station station.backup")
@click.argument("file", type=_FILE)
@_STATE
@store_options
@output_option
def backup(
    file: Path, state: Path | None, store: str | None, store_password_file: Path | None, output: str
) -> None:
    """Save everything a station keeps into FILE; the station may run meanwhile."""
    from mgmt.station import backup as saving

    url, password = store_of(store, store_password_file)
    saved = saving.backup(state or default_state(), file, url, password=password)
    sentence = f"saved {saved.rows} rows in {file}; sha256 {saved.sha256}"
    show_one({"file": str(file), "rows": saved.rows, "sha256": saved.sha256}, output, sentence)


@click.command(epilog="Example: sancredit station restore --state ./restored station.backup")
@click.argument("file", type=_FILE)
@_STATE
@store_options
@click.option("--replace", is_flag=True, help="Also where a station's state is kept already, which is lost.")
@output_option
def restore(
    file: Path,
    state: Path | None,
    store: str | None,
    store_password_file: Path | None,
    replace: bool,
    output: str,
) -> None:
    """Bring a store to what FILE holds, from either kind of database into either; no station may run on it."""
    from mgmt.station import backup as saving

    url, password = store_of(store, store_password_file)
    saved = saving.restore(state or default_state(), file, url, password=password, replace=replace)
    sentence = f"restored {saved.rows} rows as of {saved.taken_at}"
    answer = {"rows": saved.rows, "sha256": saved.sha256, "taken_at": saved.taken_at}
    show_one(answer, output, sentence)


def default_state() -> Path:
    """Where a station keeps what it knows unless told."""
    base = os.environ.get("XDG_STATE_HOME") or "~/.local/state"
    return Path(base).expanduser() / "sancredit" / "station"
