"""Options about who is who: tokens and certificates of clients and servers. No secret is ever an argument."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click
from click.core import ParameterSource

from mgmt.cli.failures import BadValue

if TYPE_CHECKING:
    from mgmt.http.address import Address
    from mgmt.http.credentials import ClientCredentials
    from mgmt.http.guarding import ServerCredentials
    from mgmt.http.tls import ServerTls

F = TypeVar("F", bound=Callable[..., Any])

_TOKEN, _CA = "mgmt.cli.credentials.token", "mgmt.cli.credentials.ca"
_FILE = click.Path(path_type=Path, dir_okay=False)


def client_options(command: F) -> F:
    """``--token @FILE`` and ``--ca FILE`` of a command that talks to a station; :func:`shown` reads them."""
    command = click.option(
        "--ca",
        type=_FILE,
        envvar="SANCREDIT_CA",
        expose_value=False,
        callback=_note(_CA),
        help="Who signed the certificate of an https:// station; also SANCREDIT_CA.",
    )(command)
    return click.option(
        "--token",
        metavar="@FILE",
        envvar="SANCREDIT_TOKEN",
        expose_value=False,
        callback=_note_token,
        help="The token that the station wants, in a file; also SANCREDIT_TOKEN.",
    )(command)


def _note(name: str) -> Callable[[click.Context, click.Parameter, Any], None]:
    def note(context: click.Context, _parameter: click.Parameter, value: Any) -> None:
        context.meta[name] = value

    return note


def _note_token(context: click.Context, parameter: click.Parameter, value: str | None) -> None:
    source = context.get_parameter_source(str(parameter.name))
    if value is not None and not value.startswith("@") and source is ParameterSource.COMMANDLINE:
        raise click.UsageError(
            "a token is never an argument, which others can see: write --token @FILE or set SANCREDIT_TOKEN"
        )
    context.meta[_TOKEN] = value


def shown() -> ClientCredentials | None:
    """What the command shows a station, from :func:`client_options`; ``None`` where nothing was given."""
    context = click.get_current_context(silent=True)
    text = context.meta.get(_TOKEN) if context is not None else None
    authority = context.meta.get(_CA) if context is not None else None
    if text is None and authority is None:
        return None
    from mgmt.http.credentials import ClientCredentials
    from mgmt.http.tls import ClientTls

    tls = ClientTls(authority=authority) if authority is not None else None
    return ClientCredentials(tls=tls, token=None if text is None else _token(text))


def _token(text: str) -> str:
    from mgmt.http.credentials import CredentialError, checked_token, read_token

    try:
        if text.startswith("@"):
            return read_token(Path(text[1:]).expanduser())
        return checked_token(text.strip(), "SANCREDIT_TOKEN")
    except CredentialError as error:
        raise BadValue(str(error)) from None


def tls_options(command: F) -> F:
    """``--tls-cert``, ``--tls-key`` and ``--tls-ca`` of a server; :func:`server_tls` reads them."""
    for option in reversed(
        (
            click.option("--tls-cert", type=_FILE, help="Certificate to show (PEM); then write https://."),
            click.option("--tls-key", type=_FILE, help="Its key (PEM, mode 0600, without a password)."),
            click.option("--tls-ca", type=_FILE, help="Ask clients for certificates of this authority."),
        )
    ):
        command = option(command)
    return command


def server_tls(
    tls_cert: Path | None, tls_key: Path | None, tls_ca: Path | None, *, mutual: bool
) -> ServerTls | None:
    """What a server shows and asks for, or ``None`` without a certificate; ``mutual``: clients have to show theirs."""
    from mgmt.http.tls import ServerTls

    if tls_cert is None and tls_key is None and tls_ca is None:
        return None
    if tls_cert is None or tls_key is None:
        raise click.UsageError("TLS takes a certificate and its key: --tls-cert FILE --tls-key FILE")
    return ServerTls(
        certificate=tls_cert, key=tls_key, authority=tls_ca, mutual=mutual and tls_ca is not None
    )


def server_options(command: F) -> F:
    """The options of an array or a measuring device about who may talk to it; :func:`server_credentials` reads them."""
    command = click.option(
        "--token",
        "token_file",
        type=_FILE,
        help="Answer only who shows the token in this file (mode 0600).",
    )(command)
    return tls_options(command)


def server_credentials(
    listen: Address,
    *,
    tls_cert: Path | None,
    tls_key: Path | None,
    tls_ca: Path | None,
    token_file: Path | None,
) -> ServerCredentials:
    """What the server shows and asks for, checked for ``listen``."""
    from mgmt.http.credentials import CredentialError, read_token
    from mgmt.http.guarding import ServerCredentials

    try:
        made = ServerCredentials(
            # With a token beside it a certificate is one of two ways in, else it is the only one.
            tls=server_tls(tls_cert, tls_key, tls_ca, mutual=token_file is None),
            token=None if token_file is None else read_token(token_file),
        )
        made.check(listen)
    except CredentialError as error:
        raise BadValue(str(error)) from None
    return made


def peer_options(command: F) -> F:
    """What a station shows its arrays and measuring devices; :func:`peer_credentials` reads them."""
    for option in reversed(
        (
            click.option("--peer-ca", type=_FILE, help="Who signed the certificates of arrays and devices."),
            click.option("--peer-cert", type=_FILE, help="Certificate to show them (PEM)."),
            click.option("--peer-key", type=_FILE, help="Its key (PEM, mode 0600)."),
            click.option("--peer-token", metavar="@FILE", help="The token to show them."),
        )
    ):
        command = option(command)
    return command


def peer_credentials(
    peer_ca: Path | None, peer_cert: Path | None, peer_key: Path | None, peer_token: str | None
) -> ClientCredentials:
    """What a station shows its arrays and measuring devices."""
    from mgmt.http.credentials import ClientCredentials
    from mgmt.http.tls import ClientTls

    if peer_token is not None and not peer_token.startswith("@"):
        raise click.UsageError("a token is never an argument, which others can see: write --peer-token @FILE")
    return ClientCredentials(
        tls=ClientTls(authority=peer_ca, certificate=peer_cert, key=peer_key),
        token=None if peer_token is None else _token(peer_token),
    )
