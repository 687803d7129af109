"""``sancredit station token …``: who may use a station, kept as hashes beside its state. A token is shown once."""

from __future__ import annotations

import sys
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from mgmt.cli.failures import Failed
from mgmt.cli.options import Quantity, output_option

if TYPE_CHECKING:
    from mgmt.api.security.tokens import Token, TokenFile

F = TypeVar("F", bound=Callable[..., Any])

_UNITS = {"d": 86400, "h": 3600, "m": 60, "s": 1}
_ROLES = ("viewer", "operator", "admin", "probe", "array")


def _parse_duration(text: str) -> int:
    number, unit = text[:-1], text[-1:]
    if not (number.isascii() and number.isdigit() and unit in _UNITS and len(number) < 7):
        raise ValueError(f"{text!r:.40} is no duration: write 90d, 12h, 30m or 45s")
    return int(number) * _UNITS[unit]


_DURATION = Quantity("duration", _parse_duration)


def _state_option(command: F) -> F:
    return click.option(
        "--state",
        type=click.Path(path_type=Path, file_okay=False),
        help="The station's directory; ~/.local/state/sancredit/station unless told.",
    )(command)


def _tokens(state: Path | None) -> TokenFile:
    from mgmt.api.security.tokens import FILE_NAME, TokenFile
    from mgmt.cli.store import default_state

    return TokenFile((state or default_state()) / FILE_NAME)


def _print(token: Token, text: str) -> None:
    """The token alone on stdout, so that ``> FILE`` and ``$(…)`` take it; what it is on stderr."""
    until = "" if token.expires_at is None else f", until {token.expires_at:%Y-%m-%d %H:%M}Z"
    click.echo(
        f"sancredit: {token.name} is {token.role.value}{until}; this is the only time it is shown", err=True
    )
    click.echo(text)
    sys.stdout.flush()


@click.command(epilog="Example: sancredit station token create ci --role operator --expires 90d")
@click.argument("name")
@click.option(
    "--role", type=click.Choice(_ROLES), default="viewer", show_default=True, help="What it may do."
)
@click.option(
    "--expires", type=_DURATION, metavar="DURATION", help="After how long: 90d, 12h. Never unless told."
)
@_state_option
def create(name: str, role: str, expires: int | None, state: Path | None) -> None:
    """Make a token and print it, this one time: `umask 077; sancredit station token create … > FILE`."""
    from mgmt.api.security.identity import Role
    from mgmt.api.security.tokens import TokenError

    lifetime = None if expires is None else timedelta(seconds=expires)
    try:
        token, text = _tokens(state).create(name, Role(role), now=datetime.now(UTC), lifetime=lifetime)
    except TokenError as error:
        raise Failed(str(error)) from None
    _print(token, text)


@click.command(epilog="Example: sancredit station token rotate ci --grace 1h")
@click.argument("name")
@click.option(
    "--grace",
    type=_DURATION,
    metavar="DURATION",
    default="1h",
    show_default=True,
    help="How long the old one counts.",
)
@click.option("--expires", type=_DURATION, metavar="DURATION", help="After how long; as before unless told.")
@_state_option
def rotate(name: str, grace: int, expires: int | None, state: Path | None) -> None:
    """Replace a token by a new one and print it; the old one still counts for a while."""
    from mgmt.api.security.tokens import TokenError

    lifetime = None if expires is None else timedelta(seconds=expires)
    try:
        token, text = _tokens(state).rotate(
            name, now=datetime.now(UTC), grace=timedelta(seconds=grace), lifetime=lifetime
        )
    except TokenError as error:
        raise Failed(str(error)) from None
    _print(token, text)


@click.command(epilog="Example: sancredit station token revoke ci")
@click.argument("name")
@_state_option
def revoke(name: str, state: Path | None) -> None:
    """Take a token away, at once, also from a station that runs."""
    from mgmt.api.security.tokens import TokenError

    try:
        _tokens(state).revoke(name)
    except TokenError as error:
        raise Failed(str(error)) from None
    click.echo(f"token {name} does not count any more")


@click.command("list", epilog="Example: sancredit station token list -o json")
@output_option
@_state_option
def list_(output: str, state: Path | None) -> None:
    """The tokens there are: names, roles and times, never the tokens themselves."""
    from mgmt.api.security.tokens import TokenError
    from mgmt.cli.output import show

    try:
        tokens = _tokens(state).tokens()
    except TokenError as error:
        raise Failed(str(error)) from None
    now = datetime.now(UTC)
    show([_row(token, now) for token in tokens], "tokens", output)


def _row(token: Token, now: datetime) -> dict[str, Any]:
    def text(at: datetime | None) -> str | None:
        return None if at is None else at.isoformat(timespec="seconds")

    state = "valid" if token.is_valid(now) else "expired"
    if state == "valid" and token.previous_until is not None and now < token.previous_until:
        state = "rotating"
    return {
        "name": token.name,
        "role": token.role.value,
        "state": state,
        "created_at": text(token.created_at),
        "expires_at": text(token.expires_at),
        "previous_until": text(token.previous_until),
    }
