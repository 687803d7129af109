"""What every page works with: the station, the renderer, forms, and errors as pages."""

from __future__ import annotations

from collections.abc import Callable, Coroutine, Mapping
from dataclasses import dataclass, field
from typing import Annotated, Any

from fastapi import Depends, Request, Response
from fastapi.responses import HTMLResponse
from fastapi.routing import APIRoute
from starlette.datastructures import UploadFile

from credits.errors import CreditError
from mgmt.http import PeerRefused, PeerUnreachable, ProblemError, make_problem, problem
from mgmt.station import alarms, events
from mgmt.station.context import Station
from mgmt.station.store import StationStoreError
from mgmt.web.forms import Form
from mgmt.web.rendering import Renderer, came_from, is_part
from mgmt.web.table import Searched

#: What a use case raises that a person can be told.
REFUSALS = (CreditError, PeerRefused, PeerUnreachable, ProblemError, StationStoreError)
_FIELD_LIMIT = 64


@dataclass(frozen=True, slots=True)
class News:
    """Number of the newest event, from which on the page listens, and how many alarms nobody has acknowledged."""

    event_number: int
    alarms: int


@dataclass(frozen=True, slots=True)
class Face:
    """The station, and how its pages are drawn."""

    station: Station
    renderer: Renderer
    searched: Searched = field(default_factory=Searched)

    def page(self, request: Request, template: str, **values: Any) -> HTMLResponse:
        """A page; the arguments are those of :meth:`mgmt.web.rendering.Renderer.page`."""
        if not values.get("bare") and not is_part(request):
            values = {"news": self.news()} | values
        return self.renderer.page(request, template, **values)

    def news(self) -> News:
        """What every whole page has beside its content."""
        last = events.newest(self.station, 1)
        return News(
            event_number=last[0].number if last else 0,
            alarms=alarms.count(self.station),
        )

    def form(self, request: Request, values: Mapping[str, str]) -> Form:
        """A form in the reader's language."""
        return Form(values, self.renderer.language(request))

    def query(self, request: Request) -> Form:
        """The query of the page's URL, read like a form."""
        return self.form(request, dict(request.query_params))


async def read_form(request: Request) -> dict[str, str]:
    """The fields of a form; of those that came twice the last, and no files."""
    found = await request.form(max_fields=_FIELD_LIMIT, max_files=0)
    return {name: value for name, value in found.items() if not isinstance(value, UploadFile)}


#: A submitted form, for the signature of an endpoint.
Submitted = Annotated[dict[str, str], Depends(read_form)]


def as_problem(error: Exception) -> dict[str, Any]:
    """The RFC 9457 object of a refusal, the store's among them."""
    if isinstance(error, StationStoreError):
        return make_problem("STORE", str(error))
    return problem(error)[1]


def page_route(face: Face) -> type[APIRoute]:
    """Routes whose refusals are pages: the same words and status as the API's problem."""

    class PageRoute(APIRoute):
        def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
            handle = super().get_route_handler()

            async def handled(request: Request) -> Response:
                try:
                    return await handle(request)
                except REFUSALS as error:
                    return refusal_page(face, request, as_problem(error))

            return handled

    return PageRoute


def refusal_page(
    face: Face, request: Request, found: Mapping[str, Any], *, bare: bool = False
) -> HTMLResponse:
    """A problem as a page; ``bare`` without what only those see who may read."""
    status, back = int(found["status"]), came_from(request)
    return face.page(request, "refusal.html", status=status, problem=found, back=back, bare=bare)


def asker(request: Request) -> str:
    """Who asks, for the audit trail: the name of the token, or ``local`` where nobody needs one."""
    return str(getattr(getattr(request.state, "identity", None), "name", "local"))
