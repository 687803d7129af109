"""What the page is made of is as it came, is served to be kept, and asks no other server for anything."""

from __future__ import annotations

import hashlib
import re
from pathlib import Path

import httpx
import pytest

from mgmt.web.rendering import STATIC
from tests.mgmt.web_desk import desk

VENDOR = STATIC / "vendor"
TEMPLATES = STATIC.parent / "templates"


def test_vendored_files_are_those_of_the_table_beside_them() -> None:
    table = re.findall(
        r"^\| `([^`]+)` \|.*`([0-9a-f]{64})` \|$", (VENDOR / "README.md").read_text(), re.MULTILINE
    )
    assert dict(table) == {
        file.name: hashlib.sha256(file.read_bytes()).hexdigest()
        for file in VENDOR.iterdir()
        if file.suffix in (".js", ".css")
    }
    assert {file.name for file in VENDOR.glob("*.LICENSE")} == {"htmx.LICENSE", "uplot.LICENSE"}


def test_no_template_style_or_script_names_another_server_or_is_inline() -> None:
    own = [*TEMPLATES.glob("*.html"), *STATIC.glob("*.js"), *STATIC.glob("*.css")]
    assert len(own) > 15
    for file in own:
        text = file.read_text().replace("http://www.w3.org/2000/svg", "")
        assert not re.search(r"https?://|@import|url\((?!#)", text), file.name
        assert not re.search(r"<script(?![^>]*(?:src=|application/json))", text), file.name
        assert " style=" not in text and "<style" not in text and "hx-on" not in text, file.name
    for file in VENDOR.glob("*.css"):
        assert "url(" not in file.read_text(), file.name


@pytest.fixture
def pages(tmp_path: Path) -> list[tuple[str, httpx.Response]]:
    with desk(tmp_path) as made:
        found = re.findall(r'(?:src|href)="(/static/[^"]+)"', made.get("/channels").text + made.get("/").text)
        missing = made.client.get("/static/nothing.js"), made.client.get("/static/../pages.py")
        assert [answer.status_code for answer in missing] == [404, 404]
        return [(path, made.client.get(path)) for path in sorted(set(found))]


def test_every_asset_of_a_page_is_there_under_the_digest_of_its_content(
    pages: list[tuple[str, httpx.Response]],
) -> None:
    assert len(pages) >= 5
    for path, answer in pages:
        assert answer.status_code == 200, path
        assert hashlib.sha256(answer.content).hexdigest().startswith(path.partition("?v=")[2])
        assert answer.headers["x-content-type-options"] == "nosniff"
        assert "immutable" in answer.headers["cache-control"]
