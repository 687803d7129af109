"""The API's page names routes and tests that are there, and every message that crosses a process boundary."""

from __future__ import annotations

import re
from pathlib import Path

from mgmt.api.app import make_app
from tests.mgmt.station_stand_ins import site

HERE = Path(__file__).parent
PAGE = HERE.parent.parent / "docs" / "api.md"
#: Of M1 to M17, those that stay inside one process.
INSIDE = {"M8", "M17"}


def rows() -> list[list[str]]:
    table = PAGE.read_text().partition("## The messages of the document")[2].partition("\n## ")[0]
    return [line.strip("|").split("|") for line in table.splitlines() if line.startswith("| M")]


def test_the_page_has_every_message_that_crosses_a_process_boundary() -> None:
    named = {number for row in rows() for number in re.findall(r"M\d+\b", row[0])}
    assert named == {f"M{number}" for number in range(1, 18)} - INSIDE


def test_every_route_that_the_page_names_is_there(tmp_path: Path) -> None:
    with site(tmp_path) as place:
        app = make_app(place.station)
    known = {(method, path) for path, methods in app.openapi()["paths"].items() for method in methods}
    for row in rows():
        for method, path in re.findall(r"`(GET|POST) (/[^`]*)`", row[2]):
            if path == "/messages":
                assert any(getattr(route, "path", "") == path for route in app.routes)
            else:
                assert (method.lower(), f"/api/v1{path}") in known, path


def test_every_test_that_the_page_names_is_there() -> None:
    for row in rows():
        for file, name in re.findall(r"`(\w+\.py)::(\w+)`", row[3]):
            assert f"def {name}(" in (HERE / file).read_text(), name
        assert "::" in row[3], row[0]
