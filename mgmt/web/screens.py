"""The screens before the size: target selection (1601), port-pair input (601), target input (1401); steps 801-808."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass

from fastapi import APIRouter, Request, Response

from credits.errors import Code, InvalidRequest
from credits.targets import Target, TargetKind
from mgmt.http import PeerRefused, PeerUnreachable, ProblemError
from mgmt.station import channels, sizes
from mgmt.web.commands import get, post, target_body, target_words
from mgmt.web.face import Face, Submitted, asker
from mgmt.web.forms import OPEN_KINDS, Form, Pair, target_fields
from mgmt.web.language import mark
from mgmt.web.reading import port_addresses
from mgmt.web.rendering import redirect


@dataclass(frozen=True, slots=True, kw_only=True)
class Kind:
    """A kind of target as screen 1601 offers it, and the screen that asks for it."""

    kind: TargetKind
    slug: str
    numeral: str
    name: str
    about: str
    screen: str
    counts: tuple[str, str] | None = ("604", "605")
    ports: tuple[str, str] = ("602", "603")
    buttons: tuple[str, str] = ("606", "607")


KINDS: tuple[Kind, ...] = (
    Kind(
        kind=TargetKind.PORT_PAIR,
        slug="port-pair",
        numeral="1602",
        name=mark("Port pair"),
        about=mark("Every remote copy between the two ports uses the reservation."),
        screen="601",
    ),
    Kind(
        kind=TargetKind.PORT_PAIR_NUMBER,
        slug="port-pair-number",
        numeral="1603",
        name=mark("Port pair and port number of the remote site"),
        about=mark("Only connections to this port number at the remote site: those of one protocol."),
        screen="1401",
        counts=("1405", "1406"),
        ports=("1402", "1403"),
        buttons=("1407", "1408"),
    ),
    Kind(
        kind=TargetKind.CONNECTION,
        slug="connection",
        numeral="1604",
        name=mark("Connection"),
        about=mark("One connection, or several that share the buffer ID that it is given."),
        screen="601",
        counts=None,
    ),
    Kind(
        kind=TargetKind.APPLICATION,
        slug="application",
        numeral="",
        name=mark("Application"),
        about=mark("Whatever the application of this name copies over the port pair."),
        screen="601",
    ),
    Kind(
        kind=TargetKind.VOLUME_PAIR,
        slug="volume-pair",
        numeral="",
        name=mark("Volume pair"),
        about=mark("The copy of one volume to another."),
        screen="601",
    ),
    Kind(
        kind=TargetKind.VOLUME_GROUP_PAIR,
        slug="volume-group-pair",
        numeral="",
        name=mark("Volume-group pair"),
        about=mark("The copies of the volumes of one group to another."),
        screen="601",
    ),
)
BY_SLUG: Mapping[str, Kind] = {kind.slug: kind for kind in KINDS}
SLUG: Mapping[TargetKind, str] = {kind.kind: kind.slug for kind in KINDS}
_MAIN = 3
"""So many kinds are the document's own; the others are those of its paragraph 102."""


def add(router: APIRouter, face: Face) -> None:
    """The routes."""

    @router.get("/reserve")
    def choose(request: Request, kind: str | None = None) -> Response:
        """Screen 1601; with a kind chosen, on to its form."""
        form = face.query(request)
        if kind in BY_SLUG:
            return redirect(f"/reserve/{kind}")
        if kind is not None or "chosen" in form.values:
            form.wrong("kind-0", form.language("Choose one kind of target."))
        return face.page(
            request,
            "screen_1601.html",
            status=422 if form.errors else 200,
            commands=(get(str(request.base_url).rstrip("/"), "reservations"),),
            form=form,
            kinds=KINDS[:_MAIN],
            more=KINDS[_MAIN:],
        )

    @router.get("/reserve/{slug}")
    def ask(request: Request, slug: str) -> Response:
        """Screen 601 or 1401, filled in from the URL."""
        form = face.query(request)
        form.values = {"sessions": "1", "connections_per_session": "1"} | dict(form.values)
        return _target_screen(face, request, _kind(slug), form)

    @router.post("/reserve/{slug}")
    def accept(request: Request, slug: str, submitted: Submitted) -> Response:
        """OK (606, 1407): steps 801-808; what is typed wrong is asked for again."""
        kind = _kind(slug)
        form = face.form(request, submitted)
        found = form.target(kind.kind)
        counts = (None, None) if kind.counts is None else form.counts()
        if found is not None and not form.errors:
            target, pair = found
            try:
                new = prepare(face, target, pair, counts, by=asker(request))
            except InvalidRequest as error:
                if error.code is not Code.INVALID_TARGET:
                    raise
                form.wrong(
                    "local_port", form.language("No array has this port; those there are: see the list.")
                )
            else:
                return redirect("/size", **target_fields(target, pair), new=new)
        return _target_screen(face, request, kind, form, status=422)


def prepare(
    face: Face, target: Target, pair: Pair, counts: tuple[int | None, int | None], *, by: str
) -> bool:
    """Steps 801-804: the row of table 108, measured where that is needed and can be; whether the row is new.

    A channel that cannot be measured is no failure: the next screen says so, and takes a size by hand (GAP-11).
    """
    station = face.station
    station.arrays.with_port(pair[0])
    row_target = channels.over(target, pair)
    known = station.store.channel(*pair, row_target.remote_port_number)
    sessions, connections = counts
    channels.register(station, row_target, sessions=sessions, connections_per_session=connections, by=by)
    with suppress(PeerRefused, PeerUnreachable, ProblemError):  # the next screen says what is missing
        sizes.advise(station, target, via=pair if target.local_port is None else None)
    return known is None


def _kind(slug: str) -> Kind:
    if slug not in BY_SLUG:
        raise ProblemError(
            "NOT_FOUND", f"there is no kind of target {slug!r:.80}", status=404, title="No such kind"
        )
    return BY_SLUG[slug]


def _target_screen(face: Face, request: Request, kind: Kind, form: Form, status: int = 200) -> Response:
    base = str(request.base_url).rstrip("/")
    commands = [get(base, "ports")]
    quiet = Form(form.values, form.language)
    if found := quiet.target(kind.kind):
        target, pair = found
        counts = (None, None) if kind.counts is None else quiet.counts()
        words = ["register", *target_words(target, pair)]
        for option, count in zip(("--sessions", "--connections"), counts, strict=True):
            words += [option, str(count)] if count is not None else []
        body = target_body(target, pair, sessions=counts[0], connections_per_session=counts[1])
        commands = [post(base, words, "pairs", body)]
    return face.page(
        request,
        "screen_target.html",
        status=status,
        commands=tuple(commands),
        kind=kind,
        names=OPEN_KINDS.get(kind.kind, 0),
        form=form,
        ports=port_addresses(face.station),
    )
