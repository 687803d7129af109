"""Options that several commands share: the station, the output, reservation targets, and quantities."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeVar

import click

from credits import targets
from credits.errors import InvalidRequest
from credits.quantities import parse_delay, parse_distance, parse_rate, parse_size
from credits.targets import Target
from mgmt.cli.credentials import client_options, shown

if TYPE_CHECKING:
    from mgmt.http.client import Peer

F = TypeVar("F", bound=Callable[..., Any])

DEFAULT_STATION = "http://127.0.0.1:8480"
FORMATS = ("table", "wide", "json", "yaml", "csv")


class Quantity(click.ParamType):  # type: ignore[type-arg]  # generic from click 8.5 on
    """A number with a unit, read by one of :mod:`credits.quantities`."""

    def __init__(self, name: str, parse: Callable[[str], int], lowest: int = 0) -> None:
        self.name = name
        self._parse = parse
        self._lowest = lowest

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> int:
        if isinstance(value, int):
            return value
        try:
            number = self._parse(value)
        except ValueError as error:
            self.fail(str(error), param, ctx)
        if number < self._lowest:
            self.fail(f"{value!r:.80}: a {self.name} is more than 0 here", param, ctx)
        return number


SIZE = Quantity("size", parse_size, 1)
RATE = Quantity("rate", parse_rate, 1)
DELAY = Quantity("delay", parse_delay, 1)
DISTANCE = Quantity("distance", parse_distance)
COUNT = click.IntRange(1, 65535)


class AutoSize(click.ParamType):  # type: ignore[type-arg]
    """``auto`` (``None``: the recommended size, radio button 704), a size in bytes (705), or ``capture:FILE``: what the
    document's formula gives for what was captured."""

    name = "auto|size|capture:FILE"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> int | None:
        if value is None or isinstance(value, int):
            return value
        if isinstance(value, str) and value.startswith("capture:"):
            from mgmt.cli.captured import captured_size

            return captured_size(value)
        return None if value == "auto" else SIZE.convert(value, param, ctx)


def station_option(command: F) -> F:
    """``--station ADDRESS``, also from SANCREDIT_STATION, and what to show there."""
    return click.option(
        "--station",
        envvar="SANCREDIT_STATION",
        default=DEFAULT_STATION,
        show_default=True,
        metavar="ADDRESS",
        help="The station: http(s)://HOST:PORT or unix:PATH; also SANCREDIT_STATION.",
    )(client_options(command))


def open_station(address: str, timeout_s: float = 30.0) -> Peer:
    """A client of the station at ``address``; close it. Raises :class:`mgmt.http.AddressError`."""
    from mgmt.http.client import Peer

    return Peer(address, timeout_s, name="the station", credentials=shown())


def output_option(command: F) -> F:
    """``-o FORMAT``."""
    return click.option(
        "-o",
        "--output",
        type=click.Choice(FORMATS),
        default="table",
        show_default=True,
        help="How to write the answer.",
    )(command)


def headers_option(command: F) -> F:
    """``--no-headers``."""
    return click.option("--no-headers", is_flag=True, help="No headings in table, wide and csv.")(command)


def counts_options(command: F) -> F:
    """``--sessions`` and ``--connections`` (604 and 605)."""
    command = click.option("--connections", type=COUNT, help="TCP connections of each session.")(command)
    return click.option("--sessions", type=COUNT, help="Remote-copy sessions at the same time.")(command)


@dataclass(frozen=True, slots=True)
class Named:
    """A target as the options name it, and the port pair ``via`` that it goes over where it has no ports itself."""

    target: Target
    via: tuple[str, str] | None = None


def port_options(command: F) -> F:
    """The options that name a port pair or a connection; :func:`make_target` reads them."""
    for option in reversed(
        (
            click.option("--port-pair", metavar="A,B", help="The local and the remote port (1602)."),
            click.option(
                "--remote-port",
                type=click.IntRange(1, 65535),
                help="With --port-pair: port number there (1603).",
            ),
            click.option(
                "--connection", is_flag=True, help="With --port-pair: for one new connection (1604)."
            ),
            click.option(
                "--buffer-id",
                type=click.IntRange(0, targets.BUFFER_ID_LIMIT),
                help="The connection that has this buffer ID.",
            ),
        )
    ):
        command = option(command)
    return command


def target_options(command: F) -> F:
    """The options that name a reservation target of any kind; :func:`make_target` reads them."""
    for option in reversed(
        (
            click.option("--application", metavar="NAME", help="An application, over --port-pair."),
            click.option("--volume-pair", metavar="A,B", help="A pair of volumes, over --port-pair."),
            click.option(
                "--volume-group-pair", metavar="A,B", help="A pair of volume groups, over --port-pair."
            ),
        )
    ):
        command = option(command)
    return port_options(command)


def make_target(
    port_pair: str | None,
    remote_port: int | None,
    connection: bool,
    buffer_id: int | None,
    application: str | None = None,
    volume_pair: str | None = None,
    volume_group_pair: str | None = None,
) -> Named:
    """The one target that the options name. Raises :class:`click.UsageError`."""
    open_kind = _open_kind(application, volume_pair, volume_group_pair)
    if open_kind is not None and (remote_port is not None or connection or buffer_id is not None):
        raise click.UsageError(
            "name one target: a port pair, a connection, or one of the open kinds over a port pair"
        )
    if remote_port is not None and (connection or buffer_id is not None):
        raise click.UsageError("a target has a remote port number or is a connection, not both")
    if connection and buffer_id is not None:
        raise click.UsageError(
            "--connection asks for a new buffer ID, --buffer-id names one: give one of them"
        )
    if (remote_port is not None or connection) and port_pair is None:
        raise click.UsageError("--remote-port and --connection need --port-pair A,B")
    pair = two("--port-pair", port_pair) if port_pair is not None else None
    if open_kind is not None:
        named = Named(open_kind, pair)
    else:
        named = Named(_with_ports(pair, remote_port, connection, buffer_id))
    try:
        targets.check_target(named.target)
    except InvalidRequest as error:
        raise click.UsageError(str(error)) from error
    return named


def _open_kind(
    application: str | None, volume_pair: str | None, volume_group_pair: str | None
) -> Target | None:
    found = []
    if application is not None:
        found.append(targets.application(application))
    if volume_pair is not None:
        found.append(targets.volume_pair(*two("--volume-pair", volume_pair)))
    if volume_group_pair is not None:
        found.append(targets.volume_group_pair(*two("--volume-group-pair", volume_group_pair)))
    if len(found) > 1:
        raise click.UsageError("name one target: an application, a volume pair or a volume-group pair")
    return found[0] if found else None


def _with_ports(
    pair: tuple[str, str] | None, remote_port: int | None, connection: bool, buffer_id: int | None
) -> Target:
    if pair is None:
        if buffer_id is None:
            raise click.UsageError(
                "name a target: --port-pair A,B [--remote-port N | --connection], or --buffer-id N"
            )
        return targets.connection(buffer_id)
    if buffer_id is not None:
        return Target(targets.TargetKind.CONNECTION, *pair, buffer_id=buffer_id)
    if connection:
        return targets.new_connection(*pair)
    if remote_port is not None:
        return targets.port_pair_number(*pair, remote_port)
    return targets.port_pair(*pair)


def two(option: str, text: str) -> tuple[str, str]:
    """``A,B`` as two texts. Raises :class:`click.UsageError`."""
    parts = [part.strip() for part in text.split(",")]
    if len(parts) != 2 or not all(parts):
        raise click.UsageError(f"{option} is A,B: two names and a comma, not {text!r:.80}")
    return parts[0], parts[1]


def body(named: Named, **values: Any) -> dict[str, Any]:
    """A request body of the station's API: the target, the pair it goes over, and the values that were given."""
    from mgmt.messages import to_plain

    request: dict[str, Any] = {"target": to_plain(named.target)}
    if named.via is not None:
        request["via"] = {"local_port": named.via[0], "remote_port": named.via[1]}
    return request | {name: value for name, value in values.items() if value is not None}
