"""``sancredit fc simulate`` and ``sancredit fc sweep``: fabrics of scenario files."""

from __future__ import annotations

import csv
import io
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from mgmt.cli.failures import BadValue, Unreachable
from mgmt.cli.options import DELAY, headers_option, output_option
from mgmt.cli.output import say, show, show_one
from mgmt.columns import megabytes, picoseconds
from mgmt.tables import draw

if TYPE_CHECKING:
    from fcsim.fabric.plan import Plan
    from fcsim.fabric.simulation import Outcome, Progress

PATH = click.Path(dir_okay=False, path_type=Path)
_PROGRESS_STEPS = 1000


@click.command(epilog="Example: sancredit fc simulate examples/fabric-slow-drain.toml")
@click.argument("scenario", type=PATH, metavar="SCENARIO.toml")
@click.option(
    "--until", type=DELAY, help="End after this much simulated time: 10ms; default: the scenario's duration."
)
@click.option("--seed", type=click.IntRange(0, 2**31 - 1), help="Another seed than the scenario's.")
@click.option(
    "--plot", type=PATH, metavar="FILE.png", help="Draw throughput, credits outstanding and queue depth."
)
@click.option("--pcap", type=PATH, metavar="FILE.pcapng", help="Capture the link of --link (link type 225).")
@click.option(
    "--link", metavar="NAME", help="With --pcap: a link (both directions) or a port (what it sends)."
)
@click.option("--primitives", is_flag=True, help="With --pcap: R_RDY and VC_RDY too.")
@click.option("--series", is_flag=True, help="The time series of every port instead, as csv or json.")
@click.option(
    "--style", type=click.Choice(["fos", "nxos"]), help="Print the ports as Brocade's or Cisco's switches do."
)
@output_option
@headers_option
def simulate(
    scenario: Path,
    until: int | None,
    seed: int | None,
    plot: Path | None,
    pcap: Path | None,
    link: str | None,
    primitives: bool,
    series: bool,
    style: str | None,
    output: str,
    no_headers: bool,
) -> None:
    """Simulate a fabric: hosts, switches, inter-switch links, flows and faults of a TOML file, in exact time.

    The table has one row for each port: the credits that it may use, the most it had outstanding, what its distance
    needs at its average frame, and the share of the time in which frames waited for credit. -o wide has all that
    switches print, -o json everything."""
    if (pcap is None) != (link is None) or (primitives and pcap is None):
        raise click.UsageError("--pcap FILE.pcapng and --link NAME go together, and --primitives with them")
    if series and output not in ("csv", "json"):
        raise click.UsageError("--series is for -o csv and -o json")
    from fcsim.errors import InvalidScenario
    from fcsim.fabric.plan import make_plan
    from fcsim.fabric.results import report, series_rows
    from fcsim.fabric.scenario_file import load_scenario

    try:
        plan = make_plan(load_scenario(scenario))
        outcome = _run(plan, until, seed, pcap, link, primitives)
    except InvalidScenario as error:
        raise BadValue(str(error)) from error
    if plot is not None:
        from fcsim.fabric.plot import draw_plot

        try:
            draw_plot(outcome, plot)
        except ValueError as error:
            raise BadValue(f"{plot}: {error}") from error
    if series:
        rows = series_rows(outcome)
        if output == "json":
            show_one({"series": rows}, "json", "")
        else:
            _write_csv(rows, list(rows[0]), not no_headers)
        return
    result = report(outcome)
    if style is not None:
        from fcsim.fabric import switch_views

        click.echo(getattr(switch_views, style)(result["ports"]), nl=False)
    elif output == "csv":
        show(result["ports"], "fc-ports", output, headers=not no_headers)
    elif output in ("json", "yaml"):
        show_one(result, output, "")
    else:
        _show_tables(result, output == "wide", not no_headers)


def _show_tables(result: Mapping[str, Any], wide: bool, headers: bool) -> None:
    from fcsim.fabric.results import findings

    click.echo(draw("fc-ports", result["ports"], wide=wide, headers=headers))
    if result["flows"]:
        click.echo("\n" + draw("fc-flows", result["flows"], wide=wide, headers=headers))
    if result["scsi"]:
        click.echo("\n" + draw("fc-scsi", result["scsi"], wide=wide, headers=headers))
    bad = findings(result)
    if bad:
        click.echo("\n" + draw("fc-findings", bad, wide=wide, headers=headers))
    rate = megabytes(result["throughput_bps"] // 8)
    click.echo(f"\n{result['frames']} frames in {picoseconds(result['duration_ps'])}, {rate}/s of payload")


def _run(
    plan: Plan, until: int | None, seed: int | None, pcap: Path | None, link: str | None, primitives: bool
) -> Outcome:
    from fcsim.fabric.simulation import simulate as run
    from mgmt.fc.fabric import device_server

    with _progress("simulating") as progress:
        if pcap is None or link is None:
            return run(plan, until_ns=until, seed=seed, progress=progress, make_executor=device_server)
        from fcsim.fabric.capture import LINK_TYPE_FC_2_DELIMITED, LinkCapture
        from iscsi_target.trace.pcapng import PcapngWriter

        traced = plan.directions_of(link)
        capture = LinkCapture(plan, primitives=primitives)
        with pcap.open("wb") as file:
            writer = PcapngWriter(file, comment=f"simulated link {link} of {plan.scenario.name}")
            ends = [plan.directions[n] for n in traced]
            ports = dict.fromkeys(port for end in ends for port in (end.source, end.destination))
            interfaces = {
                port: writer.add_interface(LINK_TYPE_FC_2_DELIMITED, name=plan.ports[port].name)
                for port in ports
            }

            def write(event: Any) -> None:
                for record in capture.record(event):
                    writer.write(record.at_ns, record.data, interface=interfaces[record.port])

            return run(
                plan,
                until_ns=until,
                seed=seed,
                progress=progress,
                traced=traced,
                on_trace=write,
                make_executor=device_server,
            )


@click.command(
    epilog="Example: sancredit fc sweep examples/fabric-distance.toml --vary isl.bb_credit=16,64,256 "
    "--vary isl.distance=10km,50km"
)
@click.argument("scenario", type=PATH, metavar="SCENARIO.toml")
@click.option(
    "--vary",
    multiple=True,
    required=True,
    metavar="KEY=V1,V2,…",
    help="A key of the scenario and its values: port.bb_credit=4,8,16, isl.NAME.distance=1km,50km; a key alone is "
    "every table's that has it. Several: every combination.",
)
@click.option("--until", type=DELAY, help="End each run after this much simulated time.")
@click.option(
    "--jobs", type=click.IntRange(1, 1024), help="Processes at the same time; default: one for each core."
)
@click.option(
    "--scheduler", metavar="ADDRESS", help="Run on the workers of this dask scheduler: tcp://HOST:PORT."
)
@click.option(
    "--resume",
    type=PATH,
    metavar="FILE",
    help="Keep finished runs in this file, and go on from it after a stop.",
)
@click.option(
    "--table", "file", type=PATH, metavar="FILE", help="Also write the rows there: .csv or .parquet."
)
@output_option
@headers_option
def sweep(
    scenario: Path,
    vary: tuple[str, ...],
    until: int | None,
    jobs: int | None,
    scheduler: str | None,
    resume: Path | None,
    file: Path | None,
    output: str,
    no_headers: bool,
) -> None:
    """Simulate a scenario with every combination of the values that vary, on all cores; one row for each run."""
    from fcsim.engine.sweep import run_sweep, write_rows
    from fcsim.errors import InvalidScenario, SchedulerUnreachable
    from fcsim.fabric import variation
    from fcsim.fabric.toml_document import load_document
    from mgmt.fc.fabric import run_one

    try:
        changes = [variation.parse_variation(text) for text in vary]
        runs = variation.make_runs(load_document(scenario), changes, until)
        with _progress("sweeping") as progress:
            rows: Sequence[Mapping[str, Any]] = run_sweep(
                run_one, runs, partial=resume, progress=progress, workers=jobs, scheduler=scheduler
            )
        if file is not None:
            write_rows([dict(row) for row in rows], file)
    except SchedulerUnreachable as error:
        raise Unreachable(str(error)) from error
    except InvalidScenario as error:
        raise BadValue(str(error)) from error
    if output == "csv":
        _write_csv(rows, list(rows[0]), not no_headers)
    elif output in ("table", "wide"):
        words = [
            " ".join(f"{place.rpartition('.')[2]}={value}" for place, value in run.values.items())
            for run in runs
        ]
        told = [
            {**row, "values": text, "worst_port": row["worst_port"] or None}
            for row, text in zip(rows, words, strict=True)
        ]
        show(told, "fc-sweep", output, headers=not no_headers)
    else:
        show(rows, "fc-sweep", output)


def _write_csv(rows: Sequence[Mapping[str, Any]], names: Sequence[str], headers: bool) -> None:
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    if headers:
        writer.writerow(names)
    writer.writerows([[row[name] for name in names] for row in rows])
    click.echo(text.getvalue(), nl=False)


@contextmanager
def _progress(what: str) -> Iterator[Progress]:
    """A bar on stderr, where that is a terminal; nothing elsewhere."""
    if not sys.stderr.isatty():
        yield lambda done, total: None
        return
    try:
        from rich.console import Console
        from rich.progress import Progress as Bar
    except ModuleNotFoundError:
        say("no progress bar: pip install 'sancredit[station]'")
        yield lambda done, total: None
        return
    with Bar(console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task(what, total=_PROGRESS_STEPS)
        yield _stepper(lambda step: bar.update(task, completed=step))


def _stepper(show_step: Callable[[int], None]) -> Progress:
    """Progress in thousandths: a run tells far more often than a terminal can show."""
    last = -1

    def at(done: int, total: int) -> None:
        nonlocal last
        step = done * _PROGRESS_STEPS // max(1, total)
        if step != last:
            last = step
            show_step(step)

    return at
