"""A reader of the station's pages in Chromium: every state is photographed in both themes, and judged by axe in both.

The pictures are in ``build/screens``, or where ``SANCREDIT_SCREENS`` says.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from mgmt.web.rendering import LANGUAGE_COOKIE

axe_api = pytest.importorskip("axe_playwright_python.sync_playwright", reason="install the test extra")

SCREENS = Path(os.environ.get("SANCREDIT_SCREENS") or Path(__file__).parents[2] / "build" / "screens")
#: The machine may have more to do than this.
PATIENCE_MS = 40_000
#: Axe's rules of WCAG 2.2 A and AA, and its best practices.
AXE = {
    "resultTypes": ["violations"],
    "runOnly": ["wcag2a", "wcag2aa", "wcag21a", "wcag21aa", "wcag22aa", "best-practice"],
}
#: The rules whose verdict the colours make: all that another theme can change.
OF_COLOURS = {
    "resultTypes": ["violations"],
    "runOnly": {"type": "rule", "values": ["color-contrast", "link-in-text-block"]},
}
THEMES = ("light", "dark")


@dataclass
class Reader:
    """One reader's browser window: what it asks others for, what goes wrong in it, and its pictures."""

    page: Any
    station: str
    name: str
    language: str = "en"
    elsewhere: list[str] = field(default_factory=list)
    troubles: list[str] = field(default_factory=list)
    pictures: int = 0

    def look(self, name: str) -> None:
        """Photograph the state in the light and in the dark, and let axe judge both."""
        self.pictures += 1
        folder = SCREENS / self.name
        folder.mkdir(parents=True, exist_ok=True)
        # The markup is the same in every language and theme: all rules once, those of colours in each of the four.
        first = AXE if self.language == "en" or name.startswith("1401") else OF_COLOURS
        for theme, rules in zip(THEMES, (first, OF_COLOURS), strict=True):
            self.page.emulate_media(color_scheme=theme)
            self.page.screenshot(path=folder / f"{self.pictures:02}-{name}-{theme}.png", full_page=True)
            found = axe_api.Axe().run(self.page, options=rules)
            said = [
                f"{one['id']}: {one['help']}: {[node['html'][:160] for node in one['nodes'][:3]]}"
                for one in found.response["violations"]
            ]
            assert said == [], f"{self.name} {name} {theme}"
        # No state makes the page wider than its window: what is wide scrolls within itself.
        assert self.page.evaluate("document.documentElement.scrollWidth <= innerWidth"), name

    def speak(self, language: str) -> None:
        """The reader's language, as the switch keeps it."""
        self.language = language
        cookie = {"name": LANGUAGE_COOKIE, "value": language, "url": self.station}
        self.page.context.add_cookies([cookie])

    def submit(self, value: str = "ok") -> None:
        self.page.locator(f"main form button[value={value}]").click()


@contextmanager
def reading(browser: Any, station: str, name: str, **options: Any) -> Iterator[Reader]:
    """A window; afterwards nothing may have gone wrong in it, and nothing been asked of others."""
    context = browser.new_context(base_url=station, viewport={"width": 1280, "height": 800}, **options)
    page = context.new_page()
    page.set_default_timeout(PATIENCE_MS)
    reader = Reader(page, station, name, options.get("locale", "en")[:2])
    page.on("request", lambda request: reader.elsewhere.append(request.url))
    page.on("pageerror", lambda error: reader.troubles.append(str(error)))
    page.on(
        "console", lambda message: reader.troubles.append(message.text) if message.type == "error" else None
    )
    try:
        yield reader
    finally:
        context.close()
    assert [url for url in reader.elsewhere if not url.startswith(f"{station}/")] == []
    # A refused form is answered with 422, which the browser writes to its console.
    assert [text for text in reader.troubles if "status of 422" not in text] == []
