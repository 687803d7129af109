"""A reader of the station's pages in Chromium: every state is photographed in both themes, and judged by axe in both.

The pictures are in ``build/screens``, or where ``SANCREDIT_SCREENS`` says. ``SANCREDIT_BROWSER_SLOWER=30`` makes
the browser thirty times as slow, as a busy machine may be: whatever a test does not wait for shows then.
"""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from mgmt.web.rendering import LANGUAGE_COOKIE

axe_api = pytest.importorskip("axe_playwright_python.base", reason="install the test extra")
sync_api = pytest.importorskip("playwright.sync_api", reason="install the test extra")

SCREENS = Path(os.environ.get("SANCREDIT_SCREENS") or Path(__file__).parents[2] / "build" / "screens")
#: The machine may have more to do than this.
PATIENCE_MS = 60_000
#: So many times as slow as it could be.
SLOWER = float(os.environ.get("SANCREDIT_BROWSER_SLOWER") or 1)
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
    expected: set[int] = field(default_factory=lambda: {422})
    """Statuses of refusals that are meant: the browser writes them to its console."""

    @contextmanager
    def leading(self, to: str | None = None) -> Iterator[None]:
        """What is done in the block leads to another page, of the address ``to``; waits until that one is loaded.

        A click returns before the page that it asks for is there: what comes next would be done to the old one.
        """
        with self.page.expect_navigation(url=to):
            yield

    def press(self, button: str, to: str | None = None) -> None:
        """Click what leads to another page, and wait for that one."""
        with self.leading(to):
            self.page.locator(button).click()

    def focused(self, element: str) -> None:
        """Wait until the element has the focus: keys that are pressed earlier are lost."""
        sync_api.expect(self.page.locator(element)).to_be_focused()

    def type(self, element: str, text: str) -> None:
        """Type into the element that has the focus or is about to have it; all of it arrives there."""
        self.focused(element)
        self.page.keyboard.type(text)
        sync_api.expect(self.page.locator(element)).to_have_value(text)

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
            if not self.page.evaluate("'axe' in window"):
                self.page.evaluate(axe_api.AXE_SCRIPT)
            found = self.page.evaluate("options => axe.run(options)", rules)["violations"]
            said = [
                f"{one['id']}: {one['help']}: {[node['html'][:160] for node in one['nodes'][:3]]}"
                for one in found
            ]
            assert said == [], f"{self.name} {name} {theme}"
        # No state makes the page wider than its window: what is wide scrolls within itself.
        assert self.page.evaluate("document.documentElement.scrollWidth <= innerWidth"), name

    def speak(self, language: str) -> None:
        """The reader's language, as the switch keeps it."""
        self.language = language
        cookie = {"name": LANGUAGE_COOKIE, "value": language, "url": self.station}
        self.page.context.add_cookies([cookie])

    def submit(self, to: str | None = None) -> None:
        self.press("main form button[value=ok]", to)


@contextmanager
def reading(browser: Any, station: str, name: str, **options: Any) -> Iterator[Reader]:
    """A window; afterwards nothing may have gone wrong in it, and nothing been asked of others."""
    context = browser.new_context(base_url=station, viewport={"width": 1280, "height": 800}, **options)
    page = context.new_page()
    page.set_default_timeout(PATIENCE_MS)
    if SLOWER > 1:
        context.new_cdp_session(page).send("Emulation.setCPUThrottlingRate", {"rate": SLOWER})
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
    others = [url for url in reader.elsewhere if not url.startswith(f"{station}/")]
    assert others == [], others
    meant = {f"status of {status} " for status in reader.expected}
    troubles = [text for text in reader.troubles if not any(one in text for one in meant)]
    assert troubles == [], troubles


@contextmanager
def frozen_pictures(page: Any) -> Iterator[None]:
    """Nothing is drawn while the block runs, as where a busy machine does not come to it: who draws stands still.

    What the browser does with a picture, such as an autofocus, waits for the end of the block.
    """
    session = page.context.browser.new_browser_cdp_session()
    running = session.send("SystemInfo.getProcessInfo")["processInfo"]
    drawing = [one["id"] for one in running if one["type"] == "GPU"]
    assert drawing, running
    for process in drawing:
        os.kill(process, signal.SIGSTOP)
    try:
        yield
    finally:
        for process in drawing:
            os.kill(process, signal.SIGCONT)
        session.detach()
