"""Remote copies: the monitor, one copy, starting (step 813), stopping, comparing both disks."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import suppress
from typing import Any
from urllib.parse import quote

from fastapi import APIRouter, Request, Response

from credits.errors import CreditError
from mgmt.layouts import LAYOUTS
from mgmt.station import copies
from mgmt.station.channels import COUNT_LIMIT
from mgmt.web.commands import Command, get, post, target_body, target_words
from mgmt.web.downloads import download
from mgmt.web.face import REFUSALS, Face, Submitted, as_problem
from mgmt.web.forms import Form, named_target, target_fields
from mgmt.web.reading import Row, lenient, port_addresses, table
from mgmt.web.rendering import redirect
from mgmt.web.reservation import named
from mgmt.web.table import Wish

PAGE_COPIES = 20
RUNNING = ("starting", "copying", "flushing", "finishing", "stopping", "failing")


def add(router: APIRouter, face: Face) -> None:
    """The routes."""

    @router.get("/copies")
    def monitor(request: Request) -> Response:
        """Every copy: those that run first."""
        found = table(face.station, "copies")
        rows = sorted(found.rows, key=lambda row: row.get("state") not in RUNNING)
        wish = Wish.of(request.query_params)
        pages = max(1, -(-len(rows) // PAGE_COPIES))
        page = min(max(1, wish.page), pages)
        shown = rows[(page - 1) * PAGE_COPIES : page * PAGE_COPIES]
        base = str(request.base_url).rstrip("/")
        needed = needs(face)
        return face.page(
            request,
            "copies.html",
            commands=(get(base, "copies"),),
            copies=[(lenient(row), needed.get(_pair(row))) for row in shown],
            down=found.down,
            page=page,
            pages=pages,
            found=len(rows),
            now=face.station.utc_now().isoformat(),
            running=RUNNING,
        )

    @router.get("/copies/start")
    def ask(request: Request) -> Response:
        """The form of step 813, for the target that the URL names or for one that is typed."""
        form = face.query(request)
        form.values = {"kind": "port_pair"} | dict(form.values)
        return _start_page(face, request, form)

    @router.post("/copies/start")
    def start(request: Request, submitted: Submitted) -> Response:
        """Steps 813-814."""
        return _start(face, request, face.form(request, submitted))

    @router.get("/copies/{copy_id}")
    def show(request: Request, copy_id: str) -> Response:
        """One copy."""
        return _copy_page(face, request, copy_id)

    @router.get("/copies/{copy_id}/{form}")
    def take(copy_id: str, form: str) -> Response:
        """One copy as CSV or JSON."""
        return download("copy", form, [_row(face, copy_id)], LAYOUTS["copies"].fields)

    @router.post("/copies/{copy_id}/stop")
    def stop(request: Request, copy_id: str, submitted: Submitted) -> Response:
        """Stop it; its units return to the list they came from."""
        del submitted
        copies.stop(face.station, copy_id)
        return redirect(f"/copies/{copy_id}")

    @router.post("/copies/{copy_id}/verify")
    def verify(request: Request, copy_id: str, submitted: Submitted) -> Response:
        """SHA-256 of both volumes, each computed by its own array."""
        del submitted
        digests = copies.verify(face.station, copy_id)
        return _copy_page(face, request, copy_id, digests=digests)


def needs(face: Face) -> dict[tuple[Any, Any], Any]:
    """Port pair → what its channel needs by the document's formula (step 903), where it has been measured."""
    rows = table(face.station, "pairs").rows
    return {(row.get("local_port"), row.get("remote_port")): row.get("recommended_bytes") for row in rows}


def _pair(row: Row) -> tuple[Any, Any]:
    return row.get("local_port"), row.get("remote_port")


def _row(face: Face, copy_id: str) -> Any:
    rows = table(face.station, "copies").rows
    row = next((row for row in rows if row.get("copy_id") == copy_id), None)
    return lenient(row or copies.row(face.station, copies.status(face.station, copy_id)))


def _copy_page(
    face: Face, request: Request, copy_id: str, *, digests: Any = None, refusals: Sequence[Any] = ()
) -> Response:
    row = _row(face, copy_id)
    with suppress(*REFUSALS):
        record = copies.record_of(face.station, copy_id)
        row |= {"remote_array": record.remote_array, "remote_volume": record.remote_volume}
    base = str(request.base_url).rstrip("/")
    commands = tuple(
        post(base, ["copy", verb, copy_id], f"copies/{copy_id}/{verb}", {}) for verb in ("stop", "verify")
    )
    status = Command(f"sancredit copy status {copy_id}", f"curl -sS {base}/api/v1/copies/{copy_id}")
    return face.page(
        request,
        "copy.html",
        here=f"/copies/{quote(copy_id, safe='')}",
        commands=(status, *commands),
        copy=row,
        needed=needs(face).get(_pair(row)),
        running=RUNNING,
        digests=digests,
        refusals=[as_problem(refusal) for refusal in refusals],
        now=face.station.utc_now().isoformat(),
    )


def _start_page(
    face: Face, request: Request, form: Form, *, status: int = 200, problem: Mapping[str, Any] | None = None
) -> Response:
    quiet = Form(form.values, form.language)
    found = named_target(quiet)
    base = str(request.base_url).rstrip("/")
    commands = [get(base, "copies")]
    if found is not None and form.text("volume"):
        target, via = found
        volume = form.text("volume")
        words = ["copy", "start", *target_words(target, via), "--volume", volume]
        commands = [post(base, words, "copies", target_body(target, via, volume=volume))]
    arrays = table(face.station, "arrays").rows
    volumes = sorted({str(volume.get("name")) for row in arrays for volume in row.get("volumes") or ()})
    return face.page(
        request,
        "copy_start.html",
        status=status,
        commands=tuple(commands),
        form=form,
        target=None if found is None or quiet.errors else found[0],
        pair=None if found is None else found[1],
        fields={} if found is None else target_fields(*found),
        ports=port_addresses(face.station),
        volumes=volumes[:1000],
        problem=problem,
    )


def _start(face: Face, request: Request, form: Form) -> Response:
    wanted = named_target(form)
    volume = form.text("volume")
    if not volume:
        form.wrong("volume", form.language("Enter the name of a volume of the master array."))
    sessions, connections = (
        form.whole(name, 1, COUNT_LIMIT, needed=False) for name in ("sessions", "connections_per_session")
    )
    if form.errors or wanted is None:
        return _start_page(face, request, form, status=422)
    target, via = named(form)
    try:
        started = copies.start(
            face.station,
            target,
            volume,
            via=None if target.local_port else via,
            remote_volume=form.text("remote_volume") or None,
            sessions=sessions,
            connections_per_session=connections,
        )
    except REFUSALS as error:
        found = as_problem(error)
        if isinstance(error, CreditError) and "volume" in str(error):
            form.wrong(
                "volume", form.language("The array has no such volume; those there are: see the list.")
            )
        return _start_page(face, request, form, status=int(found["status"]), problem=found)
    if started.refusals:
        return _copy_page(face, request, started.copy_id, refusals=started.refusals)
    return redirect(f"/copies/{started.copy_id}")
