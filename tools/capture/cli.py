"""``sancredit capture``: what is in captures, and why it is slow."""

from __future__ import annotations

import csv
import functools
import gc
import importlib
import io
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from mgmt.cli.failures import BadValue, Failed
from mgmt.cli.options import SIZE, headers_option, output_option
from mgmt.cli.output import say, show, show_one
from mgmt.columns import delay, rate, size
from mgmt.layouts import LAYOUTS

if TYPE_CHECKING:
    from tools.capture.live import LiveSource

Command = Callable[..., Any]
PATHS = click.argument("files", nargs=-1, type=click.Path(path_type=Path, allow_dash=True), metavar="FILE…")
PATH = click.Path(dir_okay=False, path_type=Path)
PORT = click.option(
    "--port",
    "ports",
    multiple=True,
    type=click.IntRange(1, 65535),
    help="iSCSI is on this TCP port only (may be repeated); default: 3260, and wherever it is recognised.",
)


def _source(command: Command) -> Command:
    """FILE…, and what captures from an interface instead."""

    @functools.wraps(command)
    def wrapped(
        *,
        files: Sequence[Path],
        interface: str | None,
        seconds: float | None,
        snap: int,
        write: Path | None,
        rotate: int | None,
        keep: int,
        **more: Any,
    ) -> None:
        gc.disable()  # a process for one command: what it makes, it keeps to its end
        if bool(files) == (interface is not None):
            raise click.UsageError("give FILE…, or -i INTERFACE")
        if interface is None:
            if write is not None or rotate or keep or seconds is not None:
                raise click.UsageError("--seconds, --write, --rotate and --keep are for -i INTERFACE")
            command(files=files, live=None, **more)
            return
        command(files=(), live=_open_live(interface, seconds, snap, write, rotate or 0, keep), **more)

    found: Command = wrapped
    for decorate in (
        click.option(
            "--keep", type=click.IntRange(0), default=0, help="With --rotate: keep the latest so many files."
        ),
        click.option("--rotate", type=SIZE, help="With --write: begin another file beyond this size."),
        click.option(
            "--write", type=PATH, metavar="FILE", help="With -i: keep the packets in this pcapng file."
        ),
        click.option(
            "--snap",
            type=click.IntRange(96, 65535),
            default=65535,
            help="With -i: keep so much of each packet.",
        ),
        click.option(
            "--seconds",
            type=click.FloatRange(0.1),
            help="With -i: end after this time; default: with Ctrl-C.",
        ),
        click.option(
            "-i", "--interface", metavar="NAME", help="Capture from this interface (privileges are dropped)."
        ),
        PATHS,
    ):
        found = decorate(found)
    return found


def _open_live(
    interface: str, seconds: float | None, snap: int, write: Path | None, rotate: int, keep: int
) -> LiveSource:
    """Open the interface, then give privileges up."""
    import signal

    from tools.capture.live import LiveConfig, LiveSource, drop_privileges
    from tools.capture.packet_socket import UnsupportedInterface

    config = LiveConfig(
        interface=interface, seconds=seconds, snap_bytes=snap, write=write, rotate_bytes=rotate, files=keep
    )
    try:
        live = LiveSource(config)
    except PermissionError as error:
        raise Failed(f"capturing from {interface} needs CAP_NET_RAW: run it as root") from error
    except OSError as error:
        where = f" to {error.filename}" if error.filename else ""
        raise BadValue(
            f"cannot capture from {interface}{where}: {(error.strerror or str(error)).lower()}"
        ) from error
    except UnsupportedInterface as error:
        raise BadValue(str(error)) from error
    for module in ("analysis", "flows", "listing", "summary", "tcp_credits", "fc_credits"):
        importlib.import_module(f"tools.capture.{module}")  # the user that is left may not read our own files
    for module in ("numpy", "tabulate"):
        importlib.import_module(module)
    user = drop_privileges()
    if rotate and write is not None and not os.access(write.parent, os.W_OK | os.X_OK):
        raise BadValue(
            f"{user}, as whom the capture goes on, cannot make files in {write.parent}: see --rotate"
        )
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: setattr(live, "stopped", True))
    say(f"capturing from {interface} as {user}" + ("" if seconds else "; Ctrl-C ends it"))
    return live


def _refused(work: Callable[[], Any]) -> Any:
    """``work()``; a file that is no capture is a bad value."""
    from tools.capture.scan import CaptureError

    try:
        return work()
    except CaptureError as error:
        raise BadValue(str(error)) from error


def _remarks(scanner: Any) -> None:
    """What is wrong with the capture, on stderr: the first place of each kind."""
    told: set[str] = set()
    for packet, offset, what in scanner.remarks:
        if what not in told:
            told.add(what)
            times = scanner.remarked[what]
            more = f" ({times} times)" if times > 1 else ""
            say(f"packet {packet}, offset {offset}: {what}{more}")
    dropped = sum(scanner.reported_drops.values())
    if dropped:
        say(f"{dropped} packets were dropped by the capture itself")


@click.command(epilog="Example: sancredit capture summary capture.pcapng -o json")
@_source
@PORT
@output_option
@headers_option
def summary(
    files: Sequence[Path], live: LiveSource | None, ports: tuple[int, ...], output: str, no_headers: bool
) -> None:
    """What is in captures: packets, PDUs by opcode, frames by type, and what is wrong with them."""
    from tools.capture.scan import Scan
    from tools.capture.summary import summary_of

    scan = Scan(files, ports=ports, live=live)
    _refused(scan.run)
    found = summary_of(scan)
    if output in ("table", "wide", "csv"):
        show(_count_rows(found), "capture-counts", output, headers=not no_headers)
        if output != "csv":
            _say_totals(found)
    else:
        show_one(found, output, "")
    _remarks(scan.scanner)


def _count_rows(found: Mapping[str, Any]) -> list[dict[str, Any]]:
    """The counts of a summary as rows of a table."""
    rows: list[dict[str, Any]] = []
    for protocol, values in found["protocols"].items():
        names = values.get("names", {})
        for key, value in values.items():
            if key == "names":
                continue
            if isinstance(value, Mapping):
                rows += [
                    {"protocol": protocol, "what": f"{key} {names.get(name, name)}", "count": count}
                    for name, count in value.items()
                ]
            elif value:
                rows.append({"protocol": protocol, "what": key.replace("_", " "), "count": value})
    return rows


def _say_totals(found: Mapping[str, Any]) -> None:
    text = f"\n{found['packets']} packets, {size(found['bytes'])}, {found['flows']} flows"
    if found["duration_ns"]:
        text += f" in {delay(found['duration_ns'])} ({rate(found['throughput_bps'])}/s)"
    for key, words in (
        ("cut_packets", "cut by the snap length"),
        ("other_packets", "of other protocols"),
        ("unknown_link_packets", "of unknown link types"),
    ):
        if found[key]:
            text += f"; {found[key]} {words}"
    click.echo(text)


@click.command(epilog="Example: sancredit capture flows capture.pcapng -o wide")
@_source
@PORT
@click.option("--violations", is_flag=True, help="The rules that were broken instead, with their clauses.")
@click.option(
    "--interval",
    type=click.FloatRange(1e-6, 1e6),
    metavar="SECONDS",
    help="I/O over time instead: one row for each interval.",
)
@click.option("--plot", type=PATH, metavar="FILE", help="Draw it over time: .png, .svg or .html.")
@click.option("--parquet", type=PATH, metavar="FILE", help="Write every command to a Parquet file.")
@click.option(
    "--scheduler", metavar="ADDRESS", help="Spread the files over the workers of this dask scheduler."
)
@output_option
@headers_option
def flows(
    files: Sequence[Path],
    live: LiveSource | None,
    ports: tuple[int, ...],
    violations: bool,
    interval: float | None,
    plot: Path | None,
    parquet: Path | None,
    scheduler: str | None,
    output: str,
    no_headers: bool,
) -> None:
    """I/O by initiator, target and LUN: commands, latencies with percentiles, rates, queue depth, errors.

    ECT is the time from a command to its status, DAL to the first answer of any kind, HRL from the permission to send
    to the host's data. -o json has logins, sizes, command windows and rules that were broken."""
    from tools.capture.analysis import analyse
    from tools.capture.flows import flow_rows

    if scheduler is not None:
        if violations or interval is not None or plot is not None or parquet is not None:
            raise click.UsageError("--scheduler gives the table of flows only")
        from tools.capture.spread import spread_flows

        rows = _refused(lambda: _drawn(lambda: spread_flows(files, ports, scheduler)))
        show(rows, "capture-flows", output, headers=not no_headers)
        return
    with _refused(lambda: analyse(files, ports=ports, live=live)) as analysis:
        _remarks(analysis.scanner)
        _say_unmatched(analysis)
        if plot is not None:
            from tools.capture.plots import draw_flows

            _drawn(lambda: draw_flows(analysis, plot))
        if parquet is not None:
            from tools.capture.timeline import write_parquet

            count = _drawn(lambda: write_parquet(analysis, parquet))
            say(f"{count} commands written to {parquet}")
        if violations:
            if not analysis.violations():
                say("no rule was broken, as far as the capture shows")
            show(_broken(analysis), "capture-violations", output, headers=not no_headers)
        elif interval is not None:
            from tools.capture.timeline import interval_rows

            rows = _drawn(lambda: interval_rows(analysis, round(interval * 1e9)))
            show(rows, "capture-intervals", output, headers=not no_headers)
        else:
            rows = flow_rows(analysis, detail=output not in ("table", "wide"))
            show(rows, "capture-flows", output, headers=not no_headers)


def _say_unmatched(analysis: Any) -> None:
    """Answers whose commands came before the capture: no rule is broken, but nobody counts them either."""
    count = sum(link.unmatched for link in analysis.matcher.connections.values())
    if count:
        many = "answers to commands" if count > 1 else "answer to a command"
        say(f"{count} {many} that the capture does not have: from before it began, or lost by it")


def _broken(analysis: Any) -> list[dict[str, Any]]:
    """The rules that were broken, as rows."""
    return [
        {
            "flow": analysis.connection_name(one.flow),
            "rule": one.rule.name.lower(),
            "count": one.count,
            "packet": one.packet,
            "clause": one.clause,
            "text": one.text,
        }
        for one in analysis.violations()
    ]


FILTER = click.option(
    "--filter",
    "-Y",
    "expression",
    default="",
    help="Only what passes: Wireshark's field names, == != < > contains, and, or, not, brackets.",
)
LIMIT = click.option("--limit", type=click.IntRange(1), help="End after so many lines.")
SHOW = click.option("--show", "wanted", type=click.IntRange(1), metavar="N", help="Line N in full instead.")
SEQUENCE = click.option(
    "--sequence",
    type=PATH,
    metavar="FILE",
    help="With --show: draw the exchange of line N, .png, .svg or .html.",
)


@click.command(
    epilog="Example: sancredit capture pdus capture.pcapng --filter 'iscsi.opcode == 0x01' --limit 20"
)
@_source
@PORT
@FILTER
@LIMIT
@SHOW
@SEQUENCE
@output_option
@headers_option
def pdus(
    files: Sequence[Path],
    live: LiveSource | None,
    ports: tuple[int, ...],
    expression: str,
    limit: int | None,
    wanted: int | None,
    sequence: Path | None,
    output: str,
    no_headers: bool,
) -> None:
    """iSCSI PDUs, one line each, in the order in which they were complete; or one of them in full (--show)."""
    from tools.capture.listing import ISCSI_KINDS

    _list(files, live, ISCSI_KINDS, ports, expression, limit, wanted, sequence, output, not no_headers)


@click.command(
    epilog="Example: sancredit capture frames capture.pcapng --filter 'fc.type == 0x08' --limit 20"
)
@_source
@FILTER
@LIMIT
@SHOW
@SEQUENCE
@output_option
@headers_option
def frames(
    files: Sequence[Path],
    live: LiveSource | None,
    expression: str,
    limit: int | None,
    wanted: int | None,
    sequence: Path | None,
    output: str,
    no_headers: bool,
) -> None:
    """Fibre Channel frames, ordered sets and FIP, one line each; or one of them in full (--show)."""
    from tools.capture.listing import FC_KINDS

    _list(files, live, FC_KINDS, (), expression, limit, wanted, sequence, output, not no_headers)


def _list(
    files: Sequence[Path],
    live: LiveSource | None,
    kinds: Sequence[Any],
    ports: tuple[int, ...],
    expression: str,
    limit: int | None,
    wanted: int | None,
    sequence: Path | None,
    output: str,
    headers: bool,
) -> None:
    from tools.capture.filters import FilterError, parse_filter
    from tools.capture.listing import Listing

    try:
        passes = parse_filter(expression)
    except FilterError as error:
        raise BadValue(f"--filter: {error}") from error
    if sequence is not None:
        from tools.capture.plots import draw_sequence

        if wanted is None:
            raise click.UsageError("--sequence FILE draws the exchange of one line: --show N")
        steps, ends, title = _refused(lambda: Listing(files, kinds, ports=ports).exchange(wanted))
        _drawn(lambda: draw_sequence(steps, ends, sequence, title))
    listing = Listing(files, kinds, ports=ports, keep_all=wanted is not None, live=live)
    if wanted is not None:
        found = _refused(lambda: listing.full(wanted))
        if found is None:
            raise Failed(f"there is no line {wanted}")
        if output in ("table", "wide"):
            width = max(len(name) for name, _ in found)
            click.echo("\n".join(f"{name:{width}}  {value}" for name, value in found))
        else:
            rows = [{"field": name, "value": value} for name, value in found]
            show(rows, "capture-fields", output, headers=headers)
        return
    lines = listing.rows(passes, limit)
    if output in ("table", "wide", "csv"):
        _refused(lambda: _stream_lines(lines, output, headers))
    else:
        show(_refused(lambda: list(lines)), "capture-lines", output)
    _remarks(listing.scan.scanner)


def _stream_lines(lines: Iterator[Mapping[str, Any]], output: str, headers: bool) -> None:
    """Lines as they come: a capture has too many of them to wait for the last."""
    if output == "csv":
        names = LAYOUTS["capture-lines"].fields
        text = io.StringIO()
        writer = csv.writer(text, lineterminator="\n")
        if headers:
            writer.writerow(names)
        for number, row in enumerate(lines):
            writer.writerow([row[name] for name in names])
            if number % 1000 == 0:
                click.echo(text.getvalue(), nl=False)
                text.seek(0)
                text.truncate()
        click.echo(text.getvalue(), nl=False)
        return
    if headers:
        click.echo(f"{'NO':>8} {'PACKET':>8} {'TIME':>12}  {'FROM':<21} {'TO':<21} {'LENGTH':>7}  WHAT")
    for row in lines:
        click.echo(
            f"{row['number']:8} {row['packet']:8} {row['relative_ns'] / 1e9:12.6f}  {row['source']:<21} "
            f"{row['destination']:<21} {row['length_bytes']:7}  {row['text']}"
        )


@click.command(epilog="Example: sancredit capture credits capture.pcapng --explain")
@_source
@PORT
@click.option(
    "--speed", help="Speed of the Fibre Channel link, 1G … 128G; default: as the spacing of frames tells."
)
@click.option("--explain", is_flag=True, help="Show every term of what is needed.")
@click.option(
    "--plot", type=PATH, metavar="FILE", help="Draw credits or bytes in flight: .png, .svg or .html."
)
@output_option
@headers_option
def credits(
    files: Sequence[Path],
    live: LiveSource | None,
    ports: tuple[int, ...],
    speed: str | None,
    explain: bool,
    plot: Path | None,
    output: str,
    no_headers: bool,
) -> None:
    """Credits of Fibre Channel links and bytes in flight of iSCSI connections: granted, in use, exhausted, needed.

    Credits in use are exact where R_RDYs were captured, else an upper bound, and the row says which."""
    from tools.capture.analysis import analyse
    from tools.capture.fc_credits import CreditWatch
    from tools.capture.tcp_credits import tcp_rows

    watches: list[Any] = []

    def watch(scanner: Any) -> Any:
        watches.append(CreditWatch(scanner.names))
        scanner.follow_flights = int(plot is not None)
        return watches[0]

    with _refused(lambda: analyse(files, ports=ports, watch=watch, live=live)) as analysis:
        tcp = tcp_rows(analysis)
        fibre = watches[0].rows(bytes_per_second=_bytes_per_second(speed))
        _remarks(analysis.scanner)
    if plot is not None:
        from tools.capture.plots import draw_credits

        _drawn(lambda: draw_credits(watches[0], analysis.scanner, plot))
    if output in ("json", "yaml"):
        show_one({"fc": fibre, "tcp": tcp}, output, "")
        return
    if fibre or not tcp:
        show(fibre, "capture-fc-credits", output, headers=not no_headers)
    if tcp:
        show(tcp, "capture-tcp-credits", output, headers=not no_headers)
    if explain and output != "csv":
        for row in (*fibre, *tcp):
            _explain(row)


def _explain(row: Mapping[str, Any]) -> None:
    click.echo(f"\n{row.get('port') or row['flow']}:")
    for one in row.get("virtual_channels", ()):
        used = "" if one["outstanding_max"] is None else f", {one['outstanding_max']} in use at most"
        whose = (
            f" for {', '.join(one['destinations'][:4])}" if one["destinations"] else ", whose is not known"
        )
        click.echo(f"  virtual channel {one['channel']}: {one['readies']} given back{whose}{used}")
    if row.get("missing"):
        click.echo(f"  cannot be computed without {row['missing']}")
    for name, term in row["terms"].items():
        if term["value"] is not None:
            click.echo(f"  {name} = {term['value']}{_read(name, term['value'])}: {term['meaning']}")


def _read(name: str, value: float) -> str:
    """A term in the unit that people would use, beside its base unit."""
    for suffix, text in (("_ns", delay), ("_bytes", size), ("_bps", rate)):
        if name.endswith(suffix):
            return f" ({text(round(value))})"
    return ""


def _bytes_per_second(speed: str | None) -> int | None:
    from fcsim.speeds import parse_speed

    if speed is None:
        return None
    try:
        return parse_speed(speed).bytes_per_second
    except ValueError as error:
        raise click.UsageError(str(error)) from error


def _drawn(draw: Callable[[], Any]) -> Any:
    """``draw()``; what it cannot do is a bad value."""
    try:
        return draw()
    except ValueError as error:
        raise BadValue(str(error)) from error
