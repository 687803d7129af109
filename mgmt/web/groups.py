"""Pairs and their consistency groups: how far behind they are, making them, and the verbs that change their state."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import quote

from fastapi import APIRouter, Request, Response

from mgmt.http import ProblemError
from mgmt.layouts import LAYOUTS
from mgmt.station import groups
from mgmt.station.groups import P_VOL, S_VOL, GroupWish
from mgmt.station.inventory import LIVE_LIMIT
from mgmt.web.commands import Command, get, post
from mgmt.web.copies import needs
from mgmt.web.downloads import download
from mgmt.web.face import REFUSALS, Face, Submitted, as_problem
from mgmt.web.forms import Form
from mgmt.web.language import mark
from mgmt.web.readable import whole
from mgmt.web.reading import Row, lenient, port_addresses, table
from mgmt.web.rendering import redirect
from mgmt.web.table import Wish

PAGE_GROUPS = 20
MODES = ("async", "sync")
FENCES = ("never", "data")
_VOLUME_LIMIT = 64
_COUNT_LIMIT = 256
_PRIORITY_LIMIT = 255

#: Verb → (states of the end that it is for in which it does something, that end's role).
VERBS: Mapping[str, tuple[frozenset[str], str]] = {
    "split": (frozenset({"COPY", "PAIR", "PSUE"}), P_VOL),
    "resync": (frozenset({"PSUS", "PSUE"}), P_VOL),
    "swap": (frozenset({"PAIR", "SSWS"}), S_VOL),
    "takeover": (frozenset({"COPY", "PAIR", "PSUS", "PSUE"}), S_VOL),
    "delete": (frozenset(), ""),
}
#: Verb → what it was, once it is done.
DONE: Mapping[str, str] = {
    "create": mark("The group is made; its initial copy has begun."),
    "split": mark("The group is split: later changes are noted."),
    "resync": mark("The group is being brought up to date."),
    "swap": mark("The direction has changed."),
    "takeover": mark("The remote array has taken over."),
    "delete": mark("The group is dissolved; the volumes stay as they are."),
}


@dataclass(frozen=True, slots=True)
class Group:
    """One consistency group as its arrays tell of it: the rows of each of its ends."""

    name: str
    primary: Sequence[Row] = field(default_factory=list)
    secondary: Sequence[Row] = field(default_factory=list)

    @property
    def row(self) -> Row:
        """What holds for the whole group: as the primary says it, who knows more."""
        found: Row = (list(self.primary) or list(self.secondary))[0]
        return found

    @property
    def progress(self) -> float:
        """The share of the volumes that the secondary has, from 0 to 1."""
        rows = self.primary or self.secondary
        total = sum(whole(row["total_bytes"]) for row in rows)
        dirty = sum(whole(row["dirty_bytes"]) for row in rows)
        return max(0.0, 1 - dirty / total) if total else 1.0

    @property
    def total_bytes(self) -> int:
        """The size of its volumes."""
        return sum(whole(row["total_bytes"]) for row in self.primary or self.secondary)

    @property
    def state(self) -> str:
        """Of the primary, or of the secondary where that has taken over or nobody else answers."""
        taken = [row for row in self.secondary if row["group_state"] == "SSWS"]
        return str((taken[0] if taken else self.row)["group_state"])

    @property
    def verbs(self) -> tuple[str, ...]:
        """The verbs that would do something now."""
        states = {
            P_VOL: {row["group_state"] for row in self.primary},
            S_VOL: {row["group_state"] for row in self.secondary},
        }
        return tuple(
            verb
            for verb, (fitting, role) in VERBS.items()
            if not role or not fitting.isdisjoint(map(str, states[role]))
        )


def add(router: APIRouter, face: Face) -> None:
    """The routes."""

    @router.get("/groups")
    def monitor(request: Request) -> Response:
        """Every group: those that are not well first."""
        found = table(face.station, "groups")
        everything = sorted(gathered(found.rows), key=lambda group: (group.state == "PAIR", group.name))
        pages = max(1, -(-len(everything) // PAGE_GROUPS))
        page = min(max(1, Wish.of(request.query_params).page), pages)
        shown = everything[(page - 1) * PAGE_GROUPS : page * PAGE_GROUPS]
        return face.page(
            request,
            "groups.html",
            commands=(get(_base(request), "groups"),),
            groups=shown,
            needed=needs(face) if shown else {},
            down=found.down,
            page=page,
            pages=pages,
            found=len(everything),
            deleted=request.query_params.get("done") == "delete",
            now=face.station.utc_now().isoformat(),
        )

    @router.get("/groups/create")
    def ask(request: Request) -> Response:
        """The form that makes a group, filled in from the URL."""
        form = face.query(request)
        form.values = {"mode": "async", "fence": "never", "sessions": "1", "connections": "1"} | dict(
            form.values
        )
        return _create_page(face, request, form)

    @router.post("/groups/create")
    def create(request: Request, submitted: Submitted) -> Response:
        """Make it at both arrays, or at none."""
        form = face.form(request, submitted)
        wish = _wish(form)
        if wish is None:
            return _create_page(face, request, form, status=422)
        try:
            groups.create(face.station, wish)
        except REFUSALS as error:
            found = as_problem(error)
            return _create_page(face, request, form, status=int(found["status"]), problem=found)
        return redirect(_path(wish.group), done="create")

    @router.get("/groups/{name}")
    def show(request: Request, name: str) -> Response:
        """One group: its pairs at both ends, and what can be done with it."""
        return _page(face, request, name, face.query(request))

    @router.get("/groups/{name}/{form}")
    def take(name: str, form: str) -> Response:
        """The pairs of one group at both ends, as CSV or JSON."""
        made = _group(name, groups.rows(face.station, name).rows)
        return download("group", form, [*made.primary, *made.secondary], LAYOUTS["groups"].fields)

    @router.post("/groups/{name}/{verb}")
    def act(request: Request, name: str, verb: str, submitted: Submitted) -> Response:
        """Split, resynchronise, swap, take over, dissolve."""
        form = face.form(request, submitted)
        if verb not in VERBS:
            raise ProblemError(
                "NOT_FOUND", f"there is no verb {verb!r:.40}", status=404, title="No such verb"
            )
        if verb in ("takeover", "delete") and not form.text("sure"):
            form.wrong(f"sure-{verb}", form.language("Say that you mean it."))
            return _page(face, request, name, form, status=422)
        try:
            groups.wish(
                face.station, name, verb, full=bool(form.text("full")), force=bool(form.text("force"))
            )
        except REFUSALS as error:
            found = as_problem(error)
            return _page(face, request, name, form, status=int(found["status"]), problem=found)
        return redirect("/groups" if verb == "delete" else _path(name), done=verb)


def gathered(rows: Iterable[Row]) -> list[Group]:
    """The groups that the rows of ``get pairs`` of all arrays make, by name."""
    ends: dict[str, tuple[list[Row], list[Row]]] = {}
    for row in rows:
        if isinstance(row.get("group"), str):
            two = ends.setdefault(row["group"], ([], []))
            two[0 if row.get("role") == P_VOL else 1].append(lenient(dict(row)))
    return [Group(name, *two) for name, two in sorted(ends.items())]


def _group(name: str, rows: Iterable[Row]) -> Group:
    """Raises :class:`ProblemError` where the rows have none."""
    made = next(iter(gathered(rows)), None)
    if made is None:
        detail = f"no array that answers has a group {name!r:.80}"
        raise ProblemError("NOT_FOUND", detail, status=404, title="No such group")
    return made


def _page(
    face: Face,
    request: Request,
    name: str,
    form: Form,
    *,
    status: int = 200,
    problem: Mapping[str, Any] | None = None,
) -> Response:
    found = groups.rows(face.station, name)
    made = _group(name, found.rows)
    base = _base(request)
    status_of = Command(f"sancredit pair status {name}", f"curl -sS {base}/api/v1{_path(name)}")
    verbs = [post(base, ["pair", verb, name], f"{_path(name)[1:]}/{verb}", {}) for verb in made.verbs]
    done = form.text("done")
    return face.page(
        request,
        "group.html",
        status=status,
        here=_path(name),
        commands=(status_of, *verbs),
        group=made,
        needed=needs(face).get((made.row["local_port"], made.row["remote_port"])),
        done=form.language(DONE[done]) if done in DONE else "",
        form=form,
        problem=problem,
        down=found.down,
        every="2s" if len(face.station.arrays.names()) <= LIVE_LIMIT else "20s",
        now=face.station.utc_now().isoformat(),
    )


def _create_page(
    face: Face, request: Request, form: Form, *, status: int = 200, problem: Mapping[str, Any] | None = None
) -> Response:
    commands: tuple[Command, ...] = (get(_base(request), "groups"),)
    if (wish := _wish(Form(form.values, form.language))) is not None:
        commands = (_command(_base(request), wish),)
    arrays = table(face.station, "arrays").rows
    return face.page(
        request,
        "group_create.html",
        status=status,
        commands=commands,
        form=form,
        ports=port_addresses(face.station),
        volumes=sorted({str(one.get("name")) for row in arrays for one in row.get("volumes") or ()})[:1000],
        modes=MODES,
        fences=FENCES,
        problem=problem,
    )


def _wish(form: Form) -> GroupWish | None:
    """What the form asks for; ``None`` with the errors beside the fields."""
    name = form.text("group")
    if not 1 <= len(name) <= 64 or not name.isprintable() or any(sign in name for sign in "/, "):
        form.wrong(
            "group",
            form.language("Enter a name of at most 64 characters, without spaces, commas and slashes."),
        )
    pair = form.pair()
    volumes = [two for line in form.lines("volumes", _VOLUME_LIMIT) if (two := _two(line)) is not None]
    if not volumes or len(volumes) != len(form.lines("volumes", _VOLUME_LIMIT)):
        form.wrong(
            "volumes",
            form.language(
                "Enter one volume in each line, such as vol0, or vol0,copy0 for another name there."
            ),
        )
    journal = _two(form.text("journal"))
    if journal is None:
        form.wrong(
            "journal",
            form.language("Enter the name of a journal volume, or both names, such as jnl,jnl2."),
        )
    counts = [form.whole(field, 1, _COUNT_LIMIT) for field in ("sessions", "connections")]
    priority = form.whole("priority", 0, _PRIORITY_LIMIT, needed=False)
    mode, fence = form.text("mode"), form.text("fence")
    if mode not in MODES:
        form.wrong("mode", form.language("Choose one."))
    if fence not in FENCES:
        form.wrong("fence", form.language("Choose one."))
    if form.errors or pair is None or journal is None or None in counts:
        return None
    return GroupWish(
        group=name,
        ports=pair,
        volumes=volumes,
        journal=journal,
        mode=mode,
        fence=fence,
        sessions=counts[0] or 1,
        connections_per_session=counts[1] or 1,
        priority=priority or 0,
        overwrite=bool(form.text("overwrite")),
    )


def _two(text: str) -> tuple[str, str] | None:
    """``A,B``, or ``A`` for the same name at both ends."""
    here, comma, there = (part.strip() for part in text.partition(","))
    if not here or (comma and (not there or "," in there)) or not text.isprintable():
        return None
    return here, there or here


def _command(base: str, wish: GroupWish) -> Command:
    words = ["pair", "create", wish.group, "--port-pair", ",".join(wish.ports)]
    for volume in wish.volumes:
        words += ["--volume", ",".join(volume)]
    words += ["--journal", ",".join(wish.journal), "--mode", wish.mode, "--fence", wish.fence]
    words += ["--sessions", str(wish.sessions), "--connections", str(wish.connections_per_session)]
    words += ["--priority", str(wish.priority), *(["--overwrite"] if wish.overwrite else [])]
    body = {
        "group": wish.group,
        "ports": wish.ports,
        "volumes": wish.volumes,
        "journal": wish.journal,
        "mode": wish.mode,
        "fence": wish.fence,
        "sessions": wish.sessions,
        "connections_per_session": wish.connections_per_session,
        "priority": wish.priority,
        "overwrite": wish.overwrite,
    }
    return post(base, words, "groups", body)


def _path(name: str) -> str:
    return f"/groups/{quote(name, safe='')}"


def _base(request: Request) -> str:
    return str(request.base_url).rstrip("/")
