"""``sancredit get …``: the tables."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import click

from mgmt.cli.failures import Failed
from mgmt.cli.options import headers_option, open_station, output_option, station_option, two
from mgmt.cli.output import Query, all_pages, rows_of, show_list
from mgmt.cli.watching import watch_option, watched
from mgmt.layouts import LAYOUTS

Option = Callable[[Any], Any]


def _command(
    name: str,
    *options: Option,
    path: str | None = None,
    about: str = "",
    example: str = "",
    query: Callable[[Mapping[str, Any]], Query] = lambda values: (),
) -> click.Command:
    """``get NAME``; what its own ``options`` say becomes parameters of the request through ``query``."""

    @click.command(
        name,
        help=about or f"{LAYOUTS[name].title}.",
        epilog=f"Example: sancredit get {name} {example or '-o wide'}",
    )
    @output_option
    @headers_option
    @watch_option
    @station_option
    def command(output: str, no_headers: bool, watch: float | None, station: str, **values: Any) -> int:
        wanted = query(values)
        with open_station(station) as peer:
            return watched(watch, output, lambda: show_list(peer, name, output, not no_headers, path, wanted))

    for option in reversed(options):
        command = option(command)
    return command


def _with_style(command: click.Command) -> click.Command:
    """``get ports --style``: the Fibre Channel ports as switches print theirs."""
    table = command.callback
    assert table is not None

    def styled(style: str | None, **values: Any) -> Any:
        if style is None:
            return table(**values)
        from fcsim.fabric import switch_views

        with open_station(values["station"]) as peer:
            rows = rows_of(all_pages(peer, "/api/v1/ports"))
        ports = [row for row in rows if row.get("kind") == "fc"]
        if not ports:
            raise Failed("no array has a Fibre Channel port")
        try:
            click.echo(getattr(switch_views, style)(ports), nl=False)
        except (KeyError, TypeError) as error:
            raise Failed(f"a port's row is not of this version: {error}") from None
        return 0

    command.callback = styled
    command.params.append(
        click.Option(
            ["--style"],
            type=click.Choice(["fos", "nxos"]),
            help="Print the Fibre Channel ports as Brocade's or Cisco's switches do.",
        )
    )
    return command


get_arrays = _command("arrays")
get_ports = _with_style(_command("ports", example="--style fos"))
get_pools = _command("pools")
get_channels = _command("channels")
get_reservations = _command("reservations")
get_allocations = _command("allocations")
get_buffer_ids = _command("buffer-ids")
get_pairs = _command("pairs")
get_copies = _command("copies")


def _alarms(values: Mapping[str, Any]) -> Query:
    states = ("active", "acknowledged", "cleared") if values["all_"] else ("active", "acknowledged")
    return [*(("state", state) for state in states), ("kind", values["kind"]), ("array", values["array"])]


def _history(values: Mapping[str, Any]) -> Query:
    local_port, remote_port = two("--port-pair", values["port_pair"])
    named = [("local_port", local_port), ("remote_port", remote_port)]
    return [*named, ("since", values["since"]), ("until", values["until"]), ("limit", values["limit"])]


_KIND = click.option("--kind", metavar="KIND", help="Only of this kind.")
_ARRAY = click.option("--array", metavar="NAME", help="Only about this array.")

get_alarms = _command(
    "alarms",
    click.option("--all", "all_", is_flag=True, help="Also those that are over."),
    _KIND,
    _ARRAY,
    query=_alarms,
)
get_events = _command(
    "events",
    click.option(
        "--after", type=click.IntRange(0), help="Those after this number, oldest first; else the newest."
    ),
    _KIND,
    _ARRAY,
    click.option(
        "--limit", type=click.IntRange(1, 1000), default=100, show_default=True, help="How many events."
    ),
    query=lambda values: [(key, values[key]) for key in ("after", "kind", "array", "limit")],
)
get_history = _command(
    "history",
    click.option("--port-pair", metavar="A,B", required=True, help="The channel's local and remote port."),
    click.option("--since", metavar="TIME", help="From this time on, as 2026-01-31T12:00:00Z."),
    click.option("--until", metavar="TIME", help="Up to this time."),
    click.option(
        "--limit",
        type=click.IntRange(1, 1000),
        default=200,
        show_default=True,
        help="How many rows, the newest.",
    ),
    path="channels/history",
    example="--port-pair 127.0.0.1,127.0.0.2",
    query=_history,
)
