"""``sancredit reserve``, ``update`` and ``release``."""

from __future__ import annotations

import uuid
from collections.abc import Mapping
from typing import Any, ClassVar

import click

from credits.quantities import parse_size
from credits.targets import Target, TargetKind
from mgmt.cli.answers import checked
from mgmt.cli.options import (
    COUNT,
    DELAY,
    RATE,
    AutoSize,
    body,
    counts_options,
    make_target,
    open_station,
    output_option,
    station_option,
    target_options,
)
from mgmt.cli.output import say, show_one
from mgmt.columns import size as size_text

#: A measurement comes before an automatic size.
_TIMEOUT_S = 120.0
#: What the sentences about a change are made of.
_CHANGE = {
    "array": str,
    "reserved_bytes": int,
    "reserved_units": int,
    "previous_units": int,
    "pending_shrink_units": int,
}
_PREVIEW = _CHANGE | {"free_units_before": int, "free_units_after": int, "expanded_units": int}


class Share(click.ParamType):  # type: ignore[type-arg]
    """``4:64KiB``: how many connections share, and what each of them is sure of."""

    name = "N:SIZE"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> dict[str, int]:
        """The body of the API."""
        count, _, least = str(value).partition(":")
        try:
            return {"connections": int(count), "minimum_bytes": parse_size(least)}
        except ValueError:
            self.fail(f"{value!r:.60} is not N:SIZE, such as 4:64KiB", param, ctx)


_relogin_option = click.option(
    "--relogin",
    is_flag=True,
    help="Fibre Channel: also beyond what the login has granted; the link then logs in again.",
)


@click.command(epilog="Example: sancredit reserve --port-pair 127.0.0.1,127.0.0.2 --size auto")
@target_options
@click.option(
    "--size", type=AutoSize(), default="auto", show_default=True, help="auto: the recommended size; or bytes."
)
@counts_options
@click.option(
    "--lease", type=DELAY, help="It lapses after this time, unless it is made again or units are in use."
)
@click.option(
    "--share",
    type=Share(),
    help="With --connection: so many connections share the new buffer ID, each sure of SIZE.",
)
@click.option(
    "--both-ends",
    is_flag=True,
    help="Also on the array of the remote port, for the way back; both or neither.",
)
@_relogin_option
@click.option("--dry-run", is_flag=True, help="Only say what would change.")
@output_option
@station_option
def reserve(
    size: int | None,
    lease: int | None,
    share: dict[str, int] | None,
    both_ends: bool,
    relogin: bool,
    dry_run: bool,
    sessions: int | None,
    connections: int | None,
    output: str,
    station: str,
    **named: Any,
) -> None:
    """Reserve buffers for a target. A second reservation for the same target replaces the first."""
    wanted = make_target(**named)
    target = wanted.target
    if target.kind is TargetKind.CONNECTION and target.buffer_id is not None:
        raise click.UsageError(
            "a reservation for a connection is given a new ID: use --connection, or update"
        )
    if share is not None and (target.kind is not TargetKind.CONNECTION or dry_run or both_ends):
        raise click.UsageError("--share is for a connection's buffer ID: use --connection, without --dry-run")
    values = {"size_bytes": size, "sessions": sessions, "connections_per_session": connections}
    if both_ends:
        if target.kind is not TargetKind.PORT_PAIR:
            raise click.UsageError("--both-ends is for a port pair alone")
        if relogin:
            raise click.UsageError("--relogin is for one end: reserve each of them, or update them")
        request = body(wanted, **values, lease_ns=lease)
        (_preview_both_ends if dry_run else _reserve_both_ends)(station, output, request, target)
        return
    if dry_run:
        _preview(station, output, body(wanted, **values), target)
        return
    request = body(
        wanted,
        **values,
        lease_ns=lease,
        sharing=share,
        relogin=relogin or None,
        request_id=uuid.uuid4().hex,
    )
    with open_station(station, _TIMEOUT_S) as peer:
        answer = checked(peer, peer.post("/api/v1/reserve", request), **_CHANGE)
    show_one(answer, output, _changed("reserved", target, answer))
    _warn(answer)


def _reserve_both_ends(station: str, output: str, request: Mapping[str, Any], target: Target) -> None:
    mirrored = Target(target.kind, target.remote_port, target.local_port)
    with open_station(station, _TIMEOUT_S) as peer:
        answer = checked(peer, peer.post("/api/v1/reserve-both-ends", request), local=dict, remote=dict)
        local, remote = (checked(peer, answer[end], **_CHANGE) for end in ("local", "remote"))
    sentence = f"{_changed('reserved', target, local)}\n{_changed('reserved', mirrored, remote)}"
    show_one(answer, output, sentence)
    _warn(answer)


@click.command(epilog="Example: sancredit update --port-pair 127.0.0.1,127.0.0.2 --size 2MiB")
@target_options
@click.option(
    "--size", type=AutoSize(), default="auto", show_default=True, help="auto: the recommended size; or bytes."
)
@_relogin_option
@click.option("--if-revision", type=int, help="Only if nothing has changed since this revision.")
@click.option("--dry-run", is_flag=True, help="Only say what would change.")
@output_option
@station_option
def update(
    size: int | None,
    relogin: bool,
    if_revision: int | None,
    dry_run: bool,
    output: str,
    station: str,
    **named: Any,
) -> None:
    """Bring the reservation of a target to another size: grow from the free list, shrink back to it."""
    wanted = make_target(**named)
    request = body(wanted, size_bytes=size, relogin=relogin or None, expected_revision=if_revision)
    if dry_run:
        _preview(station, output, request, wanted.target, path="/api/v1/update?dry_run=true")
        return
    request["request_id"] = uuid.uuid4().hex
    with open_station(station, _TIMEOUT_S) as peer:
        answer = checked(peer, peer.post("/api/v1/update", request), **_CHANGE)
    show_one(answer, output, _changed("now reserved", wanted.target, answer))
    _warn(answer)


class Supposition(click.ParamType):  # type: ignore[type-arg]
    """``rtt=80ms,bandwidth=1Gbit``: values of a channel as it might become, by the API's names."""

    name = "name=value,…"

    _VALUES: ClassVar[Mapping[str, tuple[str, click.ParamType]]] = {  # type: ignore[type-arg]
        "bandwidth": ("bandwidth_bps", RATE),
        "rtt": ("rtt_ns", DELAY),
        "sessions": ("sessions", COUNT),
        "connections": ("connections_per_session", COUNT),
    }

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> dict[str, int]:
        if isinstance(value, dict):
            return value
        values: dict[str, int] = {}
        for part in str(value).split(","):
            name, sign, text = part.strip().partition("=")
            if not sign or name not in self._VALUES:
                self.fail(
                    f"{part!r:.80}: write name=value, with {', '.join(self._VALUES)} as names", param, ctx
                )
            field, kind = self._VALUES[name]
            values[field] = kind.convert(text, param, ctx)
        return values


@click.command(
    epilog="Example: sancredit preview --port-pair 127.0.0.1,127.0.0.2 --if rtt=80ms,bandwidth=1Gbit"
)
@target_options
@click.option("--if", "supposed", type=Supposition(), default=None, help="The channel as it might become.")
@click.option(
    "--size",
    type=AutoSize(),
    default="auto",
    show_default=True,
    help="auto: what would be recommended; or bytes.",
)
@click.option(
    "--failure", metavar="A,B", help="What would happen to every reservation if this channel failed."
)
@click.option("--onto", metavar="A,B", help="With --failure: the channel that its sessions go over then.")
@click.option(
    "--channel", metavar="A,B", help="With --if: what it would do to every reservation over the channel."
)
@output_option
@station_option
def preview(
    supposed: dict[str, int] | None,
    size: int | None,
    failure: str | None,
    onto: str | None,
    channel: str | None,
    output: str,
    station: str,
    **named: Any,
) -> int:
    """What a reservation would change, on the channel as it is or as it might become. Nothing is changed.

    With --failure or --channel: what would be done about all reservations there, in which order, which of them would
    run short, and what would cure it.
    """
    if failure is None and channel is None:
        if onto is not None:
            raise click.UsageError("--onto goes with --failure")
        wanted = make_target(**named)
        _preview(station, output, body(wanted, size_bytes=size, **(supposed or {})), wanted.target)
        return 0
    if any(named.values()) or size is not None or (failure and channel) or (onto and not failure):
        raise click.UsageError(
            "--failure and --channel are about a whole channel: without a target and a size"
        )
    from mgmt.cli.outlook import channel_request, failure_request, show_outlook

    if failure is not None:
        return show_outlook(station, output, "failure", failure_request(failure, onto, supposed or {}))
    return show_outlook(station, output, "channels", channel_request(str(channel), supposed or {}))


@click.command(epilog="Example: sancredit release --port-pair 127.0.0.1,127.0.0.2")
@target_options
@click.option("--drain", is_flag=True, help="Also while units are in use: they return as they become free.")
@click.option("--if-revision", type=int, help="Only if nothing has changed since this revision.")
@click.option("--dry-run", is_flag=True, help="Only say what would come back.")
@output_option
@station_option
def release(
    drain: bool, if_revision: int | None, dry_run: bool, output: str, station: str, **named: Any
) -> None:
    """Give the reservation of a target up; its idle units return to the free list."""
    wanted = make_target(**named)
    request = body(wanted, drain=drain, expected_revision=if_revision)
    if dry_run:
        with open_station(station) as peer:
            found = checked(peer, peer.post("/api/v1/release?dry_run=true", request), **_PREVIEW)
        show_one(found, output, _would_release(wanted.target, found))
        return
    request = {**request, "request_id": uuid.uuid4().hex}
    with open_station(station) as peer:
        answer = peer.post("/api/v1/release", request)
        checked(peer, answer, array=str, released_units=int, draining_units=int)
    sentence = f"released {_units(answer['released_units'])} of {wanted.target} on array {answer['array']}"
    show_one(answer, output, sentence + _rest(answer["draining_units"]))


def _would_release(target: Target, answer: Mapping[str, Any]) -> str:
    later = answer["pending_shrink_units"]
    return (
        f"would release {_units(answer['previous_units'] - later)} of {target} on array {answer['array']}: "
        f"free {answer['free_units_before']} -> {answer['free_units_after']}{_rest(later)}"
    )


def _rest(in_use: int) -> str:
    """What a release leaves for later."""
    if not in_use:
        return ""
    return f"; {in_use} in use {'returns as it becomes' if in_use == 1 else 'return as they become'} free"


def _units(count: int) -> str:
    return "1 unit" if count == 1 else f"{count} units"


def _preview(
    station: str, output: str, request: Mapping[str, Any], target: Target, *, path: str = "/api/v1/preview"
) -> None:
    with open_station(station) as peer:
        answer = checked(peer, peer.post(path, request), **_PREVIEW)
    show_one(answer, output, _would_reserve(target, answer))
    _warn(answer)


def _preview_both_ends(station: str, output: str, request: Mapping[str, Any], target: Target) -> None:
    mirrored = Target(target.kind, target.remote_port, target.local_port)
    with open_station(station) as peer:
        answer = peer.post("/api/v1/reserve-both-ends?dry_run=true", request)
        checked(peer, answer, local=dict, remote=dict)
        local, remote = (checked(peer, answer[end], **_PREVIEW) for end in ("local", "remote"))
    show_one(answer, output, f"{_would_reserve(target, local)}\n{_would_reserve(mirrored, remote)}")
    _warn(local)


def _would_reserve(target: Target, answer: Mapping[str, Any]) -> str:
    before, after = answer["previous_units"], answer["reserved_units"]
    sentence = (
        f"would reserve {size_text(answer['reserved_bytes'])} for {target} on array {answer['array']}: "
        f"{before} -> {after} units ({after - before:+}), free {answer['free_units_before']} -> "
        f"{answer['free_units_after']}"
    )
    if answer["expanded_units"]:
        sentence += f", {answer['expanded_units']} split from pages"
    return sentence + _rest(answer["pending_shrink_units"])


def _changed(verb: str, target: Target, answer: Mapping[str, Any]) -> str:
    who = (
        f"buffer ID {answer['buffer_id']} ({target})" if answer.get("buffer_id") is not None else str(target)
    )
    sentence = (
        f"{verb} {size_text(answer['reserved_bytes'])} ({_units(answer['reserved_units'])}) for {who} "
        f"on array {answer['array']}"
    )
    if changed := answer.get("buffer_ids"):
        noun = "connection" if len(changed) == 1 else "connections"
        sentence += f", the sum of its {len(changed)} {noun}: buffer ID {', '.join(map(str, changed))}"
    if answer["previous_units"]:
        sentence += f"; before: {_units(answer['previous_units'])}"
    return sentence + _rest(answer["pending_shrink_units"])


def _warn(answer: Mapping[str, Any]) -> None:
    advice = answer.get("advice")
    if isinstance(advice, dict) and advice.get("stale"):
        say("the size comes from stale values: the last measurement failed or is too long ago")
