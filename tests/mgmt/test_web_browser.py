"""The station's pages in a real browser, against real arrays, measuring devices and a real station."""

from __future__ import annotations

import os
import re
import socket
import time
from collections.abc import Iterator
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any

import httpx
import pytest
from sqlalchemy import insert

from mgmt.api.app import make_app
from mgmt.http import ServerThread
from mgmt.station import alarms
from mgmt.station.records import AlarmKind, Severity
from mgmt.station.schema import SAMPLES
from mgmt.web.pages import add_pages
from tests.mgmt.web_desk import PAIR, TARGET, desk, pair_row, reservation, running_copy
from tests.mgmt.web_reader import PATIENCE_MS, frozen_pictures, reading
from tests.mgmt.web_station import LOCAL, REMOTE, WWPN, san

sync_api = pytest.importorskip(
    "playwright.sync_api", reason="install the test extra: pip install -e '.[test]'"
)

CHROMIUM = "/usr/bin/chromium"
FLAGS = ["--headless", "--no-sandbox", "--disable-gpu", "--disable-background-networking"]
pytestmark = [
    pytest.mark.slow,
    pytest.mark.timeout(900),
    pytest.mark.skipif(
        not Path(CHROMIUM).exists(), reason="no Chromium: apt install chromium fonts-noto-cjk"
    ),
    # The browser's driver leaves its event loop and pipes to the garbage collector when its process ends.
    pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning"),
    pytest.mark.xdist_group("browser"),
]


@pytest.fixture(scope="module")
def station(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The address of a station with two arrays and two measuring devices."""
    with san(tmp_path_factory.mktemp("san")) as address:
        yield address


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with sync_api.sync_playwright() as playwright:
        sync_api.expect.set_options(timeout=PATIENCE_MS)
        launched = playwright.chromium.launch(executable_path=CHROMIUM, args=FLAGS)
        yield launched
        launched.close()


def reserved(station: str) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = httpx.get(f"{station}/api/v1/reservations").json()["items"]
    return rows


@pytest.mark.parametrize(("locale", "kind", "screen"), [("en-GB", 0, "601"), ("ja-JP", 1, "1401")])
def test_every_screen_of_figure_5_in_a_browser(
    browser: Any, station: str, locale: str, kind: int, screen: str
) -> None:
    tag = locale[:2]
    with reading(browser, station, tag, locale=locale) as reader:
        page = reader.page
        page.goto("/")
        sync_api.expect(page.locator("html")).to_have_attribute("lang", tag)
        reader.look("overview")
        page.goto("/reserve?chosen=1")
        reader.look("1601-nothing-chosen")
        page.goto("/reserve")
        reader.look("1601")
        page.check(f"#kind-{kind}")
        reader.press("main form button", "**/reserve/*")
        page.fill("#local_port", "10.0.0")
        page.fill("#remote_port", REMOTE)
        page.fill("#sessions", "0")
        reader.press("main form button")
        sync_api.expect(page.locator("#local_port")).to_have_value("10.0.0")
        reader.focused("#summary")
        reader.look(f"{screen}-refused")
        page.fill("#local_port", LOCAL)
        page.fill("#sessions", "100")
        page.fill("#connections_per_session", "100")
        if screen == "1401":
            page.fill("#remote_port_number", "25")
        reader.look(screen)
        reader.press("main form button", "**/size?*")
        reader.look("701-shortage")
        reader.submit("**/size")
        reader.look("701-automatic-refused")
        reader.press(".notice a[href*='/reserve/']", "**/reserve/*")
        sync_api.expect(page.locator("#sessions")).to_have_value("100")
        page.fill("#sessions", "2")
        page.fill("#connections_per_session", "3")
        reader.press("main form button", "**/size?*")
        page.locator("details.why summary").click()
        reader.look("701-why")
        page.check("#mode-manual")
        reader.focused("#size_bytes")
        page.fill("#size_bytes", "64MiB")
        sync_api.expect(page.locator("#change .state.bad")).to_be_visible()
        reader.submit("**/size")
        sync_api.expect(page.locator("#size_bytes")).to_have_value("64MiB")
        reader.look("701-manual-refused")
        page.fill("#size_bytes", "1MiB")
        sync_api.expect(page.locator("#change")).to_contain_text("+64")
        reader.look("701-manual")
        reader.submit("**/reservation?*")
        (row,) = reserved(station)
        assert (row["reserved_bytes"], row["array"]) == (1024**2, "east")
        reader.look("reserved")
        page.fill("#rtt", "200ms")
        reader.press("form[action='/reservation'] button", "**/reservation?*rtt=200ms*")
        sync_api.expect(page.locator("#supposed")).to_be_visible()
        reader.look("what-if")
        reader.press("main a[href*='/copies/start?']", "**/copies/start?*")
        reader.press("main form button", "**/copies/start")
        reader.look("copy-start-refused")
        page.fill("#volume", "vol0")
        reader.press("main form button", "**/copies/copy-*")
        sync_api.expect(page.locator("#live .state.ok").first).to_be_visible()
        reader.press("form[action$='/verify'] button")
        sync_api.expect(page.locator(".notice.ok code").first).to_be_visible()
        reader.look("copy-verified")
        what_if = f"/what-if?ask=1&what=changes&pair={LOCAL},{REMOTE}&rtt=200ms"
        reader.expected.add(404)  # /copies/none
        for name, path in (
            ("copies", "/copies"),
            ("table-101", "/tables/reservations"),
            ("table-108", "/tables/channels?sort=BANDWIDTH&desc=1"),
            ("table-109", "/tables/allocations"),
            ("table-1500", "/tables/buffer-ids"),
            ("pools", "/tables/pools"),
            ("channels", "/channels"),
            ("fibre-channel", "/fibre-channel"),
            ("ports", "/tables/ports"),
            ("arrays", "/tables/arrays"),
            ("policies", "/tables/policies"),
            ("events", "/events"),
            ("alarms", "/alarms"),
            ("audit", "/audit?verify=1"),
            ("audit-refused", "/audit?head=x"),
            ("what-if-channel", what_if),
            ("what-if-refused", f"{what_if}&bandwidth=much"),
            ("not-found", "/copies/none"),
            ("overview-in-use", "/"),
        ):
            page.goto(path)
            reader.look(name)
        page.locator(".copy-as summary").click()
        reader.look("copy-as")
        page.keyboard.press("Escape")
        sync_api.expect(page.locator(".copy-as .sheet")).to_be_hidden()
        page.goto("/reservation?" + page_query(station))
        reader.press("main a[href*='/policy?']", "**/policy?*")
        page.fill("#min_change", "much")
        reader.press("button[value=save]", "**/policy")
        reader.look("policy-refused")
        sync_api.expect(page.locator("#min_change")).to_have_value("much")
        page.fill("#min_change", "20")
        reader.press("button[value=save]", "**done=saved*")
        reader.look("policy")
        reader.press("main form a[href*='/reservation?']", "**/reservation?*")
        reader.press("main form[action$='/release'] button", "**done=released*")
        reader.look("released")
        assert reserved(station) == []


def test_a_group_of_pairs_is_made_split_and_dissolved_on_the_page(browser: Any, station: str) -> None:
    with reading(browser, station, "groups", locale="en-GB") as reader:
        page = reader.page
        page.goto("/groups")
        reader.look("none")
        with reader.leading("**/groups/create"):
            page.locator("main a[href='/groups/create']").first.click()
        page.fill("#group", "db")
        page.fill("#local_port", LOCAL)
        page.fill("#remote_port", REMOTE)
        page.fill("#journal", "jnl")
        reader.press("main form button")
        sync_api.expect(page.locator("#group")).to_have_value("db")
        reader.look("create-refused")
        page.fill("#volumes", "db")
        reader.press("main form button", "**/groups/db?done=create")
        state = page.locator("#live h2 .state")
        sync_api.expect(state).to_have_text("PAIR")  # without reloading
        sync_api.expect(page.locator("#live .share")).to_contain_text("100.0 %")
        page.goto("/groups/db")
        reader.look("pair")
        reader.press("form[action$='/split'] button", "**done=split")
        sync_api.expect(state).to_have_text("PSUS")
        reader.press("form[action$='/delete'] button", "**/groups/db/delete")
        reader.look("not-sure")
        reader.speak("ja")
        page.goto("/groups/db")
        reader.look("psus-ja")
        page.goto("/groups")
        reader.look("all-ja")
        page.goto("/groups/db")
        page.check("#sure-delete")
        reader.press("form[action$='/delete'] button", "**/groups?done=delete")
        assert httpx.get(f"{station}/api/v1/groups").json()["items"] == []


def page_query(station: str) -> str:
    (row,) = reserved(station)
    return "&".join(f"{name}={value}" for name, value in row["target"].items())


def test_the_keyboard_alone_leads_from_the_overview_to_a_reservation_and_back(
    browser: Any, station: str
) -> None:
    with reading(browser, station, "keyboard", locale="en-GB") as reader:
        page = reader.page
        press = page.keyboard.press
        page.goto("/")
        press("Tab")
        reader.focused(".skip")
        press("Enter")
        reader.focused("#main")
        press("?")
        sync_api.expect(page.locator("#keys")).to_be_visible()
        reader.look("shortcuts")
        press("Escape")
        sync_api.expect(page.locator("#keys")).to_be_hidden()
        press("g")
        with reader.leading("**/reserve"):
            press("r")
        reader.focused("#kind-0")
        press("Space")
        press("ArrowDown")
        press("ArrowDown")
        sync_api.expect(page.locator("#kind-2")).to_be_checked()
        with reader.leading("**/reserve/connection"):
            press("Enter")
        reader.type("#local_port", LOCAL)
        press("Tab")
        reader.type("#remote_port", REMOTE)
        with reader.leading("**/size?*"):
            press("Enter")
        walk_to(page, "mode-auto")
        press("ArrowDown")
        reader.type("#size_bytes", "256KiB")
        with reader.leading("**/reservation?*buffer_id=*"):
            press("Enter")
        (row,) = reserved(station)
        assert (row["target"]["kind"], row["reserved_units"]) == ("connection", 16)
        walk_to(page, link="/copies/start?")
        with reader.leading("**/copies/start?*"):
            press("Enter")
        walk_to(page, "volume")
        reader.type("#volume", "vol0")
        with reader.leading("**/copies/copy-*"):
            press("Enter")
        sync_api.expect(page.locator("#live .state.ok").first).to_be_visible()
        press("g")
        with reader.leading("**/tables/reservations"):
            press("t")
        walk_to(page, link="/reservation?")
        with reader.leading("**/reservation?*"):
            press("Enter")
        walk_to(page, "drain")
        press("Tab")
        reader.focused("form[action$='/release'] button")
        with reader.leading("**done=released*"):
            press("Enter")
        assert reserved(station) == []


def test_keys_that_are_pressed_before_the_page_is_drawn_arrive(browser: Any, station: str) -> None:
    """As on a machine that is too busy to draw: an autofocus of the browser's own waits for the first picture."""
    with reading(browser, station, "hasty", locale="en-GB") as reader:
        page = reader.page
        with frozen_pictures(page):
            page.goto("/reserve/connection")
            assert page.evaluate("document.activeElement.id") == "local_port"
            page.keyboard.type(LOCAL)
            assert page.locator("#local_port").input_value() == LOCAL


def walk_to(page: Any, element: str = "", *, link: str = "nowhere") -> None:
    """Press Tab until the element, or a link to ``link``, has the focus; what has it on the way is seen to have it."""
    for _ in range(80):
        page.keyboard.press("Tab")
        found, leads = page.evaluate("[document.activeElement.id, document.activeElement.href ?? '']")
        if found == element != "" or link in leads:
            return
        outline = page.evaluate("getComputedStyle(document.activeElement).outlineStyle")
        assert outline != "none", page.evaluate("document.activeElement.outerHTML.slice(0, 200)")
    raise AssertionError(f"the keyboard does not reach {element or link}")


def test_a_fibre_channel_pair_is_reserved_by_wwpn_exactly_as_one_of_addresses(
    browser: Any, station: str
) -> None:
    with reading(browser, station, "fibre-channel", locale="ja-JP") as reader:
        page = reader.page
        page.goto("/fibre-channel")
        sync_api.expect(page.locator("canvas").first).to_be_visible()
        sync_api.expect(page.locator("#live tbody tr")).to_have_count(2)
        reader.look("ports")
        page.goto("/reserve/port-pair")
        page.fill("#local_port", WWPN["east"].replace(":", "").upper())
        page.fill("#remote_port", WWPN["west"])
        reader.press("main form button", "**/size?*")
        sync_api.expect(page.locator("#change")).to_contain_text("+40")  # 10 km of 8G, as the ports say
        page.locator("details.why summary").click()
        reader.look("701-why")
        page.check("#mode-manual")
        page.fill("#size_bytes", str(20 * 2148))
        sync_api.expect(page.locator("#change")).to_contain_text("+20")
        reader.submit("**/reservation?*")
        (row,) = reserved(station)
        assert (row["interface"], row["target"]["local_port"], row["reserved_units"]) == (
            "fc0",
            WWPN["east"],
            20,
        )
        reader.look("reserved")
        reader.press("main form[action$='/release'] button", "**done=released*")


def test_without_javascript_every_step_can_be_taken(browser: Any, station: str) -> None:
    with reading(browser, station, "plain", locale="en-GB", java_script_enabled=False) as reader:
        page = reader.page
        page.goto("/reserve")
        page.check("#kind-0")
        reader.press("main form button", "**/reserve/port-pair")
        for name, value in (("local_port", LOCAL), ("remote_port", REMOTE), ("sessions", "1")):
            page.fill(f"#{name}", value)
        reader.press("main form button", "**/size?*")
        page.check("#mode-manual")
        page.fill("#size_bytes", "512KiB")
        reader.press("button[value=preview]")
        sync_api.expect(page.locator("#change")).to_contain_text("+32")
        reader.submit("**/reservation?*")
        assert reserved(station)[0]["reserved_units"] == 32
        reader.press("main a[href*='/policy?']", "**/policy?*")
        page.check("#sizing-manual")
        page.fill("#size_bytes", "1MiB")
        reader.press("button[value=save]", "**done=saved*")
        assert reserved(station)[0]["reserved_units"] == 64
        page.goto("/events")
        reader.press("form[action='/undo'] button", "**undone=*")
        assert reserved(station)[0]["reserved_units"] == 32
        page.goto(f"/what-if?pair={LOCAL},{REMOTE}")
        reader.press("main form button")
        sync_api.expect(page.locator("#foretold")).to_be_visible()
        page.goto("/reservation?" + page_query(station))
        reader.press("main form[action$='/release'] button", "**done=released*")
        reader.press("button[value=dark]")
        sync_api.expect(page.locator("html")).to_have_attribute("data-theme", "dark")


def test_what_another_does_is_seen_without_reloading_unless_paused(browser: Any, station: str) -> None:
    with reading(browser, station, "live", locale="en-GB") as reader:
        page = reader.page
        page.route("**/hx-sse*", a_little_later)
        with page.expect_response("**/api/v1/events/stream"):
            page.goto("/")
        size_bytes = 512 * 1024
        body = {
            "target": {"kind": "port_pair", "local_port": LOCAL, "remote_port": REMOTE},
            "size_bytes": size_bytes,
        }
        httpx.post(f"{station}/api/v1/reserve", json=body).raise_for_status()
        bar, pause = page.locator("#live .bar").first, page.locator("[data-pause]")
        sync_api.expect(bar).to_contain_text(re.compile(r"reserved, idle\s*32"))
        pause.click()
        sync_api.expect(pause).to_have_text("Resume")
        page.evaluate(NOTE_EVENTS)
        httpx.post(f"{station}/api/v1/release", json={"target": body["target"]}).raise_for_status()
        sync_api.expect(page.locator("body")).to_have_attribute("data-heard", re.compile(r"\breleased\b"))
        assert re.search(
            r"reserved, idle\s*32", bar.inner_text()
        )  # the page has heard of it, and stays as it is
        pause.click()
        sync_api.expect(bar).to_contain_text(re.compile(r"reserved, idle\s*0"))


#: What the overview says of the pair once it is registered.
REGISTERED = f"{PAIR['local_port']} → {PAIR['remote_port']}"
#: The kinds of the events that the page hears of from now on, where a test can read them.
NOTE_EVENTS = """document.addEventListener("htmx:sse:before:message", (event) => {
    document.body.dataset.heard = `${document.body.dataset.heard ?? ""} ${event.detail.message.event}`;
})"""
#: The status of the answer that came last for the part that lives, once it is put in or not.
NOTE_ANSWER = """document.addEventListener("htmx:finally:request", (event) => {
    const { response } = event.detail.ctx;  /* none where the pause has kept it from being asked for */
    if (event.target.id === "live" && response) document.body.dataset.answered = response.status;
})"""
#: What an event does, over and over: the part that lives is renewed as often as it may be.
RENEW = "setInterval(() => document.body.dispatchEvent(new CustomEvent('station-changed')), 100)"


def a_little_later(route: Any) -> None:
    """As over a slow line: the other scripts of the page are there long before this one."""
    time.sleep(0.3)
    route.continue_()


def test_an_answer_that_comes_after_the_pause_is_not_put_in(browser: Any, tmp_path: Path) -> None:
    held: list[Any] = []
    with (
        desk(tmp_path) as made,
        ServerThread(made.app, "http://127.0.0.1:0") as server,
        reading(browser, str(server.address), "late", locale="en-GB") as reader,
    ):
        page = reader.page
        pause, live = page.locator("[data-pause]"), page.locator("#live")
        page.goto("/")
        page.route("**/", lambda route: held.append(route), times=1)
        with page.expect_request("**/"):
            page.evaluate("document.body.dispatchEvent(new CustomEvent('station-changed'))")
        pause.click()
        sync_api.expect(pause).to_have_text("Resume")
        made.post("/reserve/port-pair", PAIR | {"sessions": "2", "connections_per_session": "3"})
        page.evaluate(NOTE_ANSWER)
        (route,) = held
        route.continue_()
        sync_api.expect(page.locator("body")).to_have_attribute("data-answered", "200")
        assert REGISTERED not in live.inner_text()
        pause.click()
        sync_api.expect(live).to_contain_text(REGISTERED)


def test_a_station_that_is_gone_or_refuses_is_told_of_and_forgotten_when_it_is_back(
    browser: Any, tmp_path: Path
) -> None:
    answers = {"status": 200}

    def answer(route: Any) -> None:
        status = answers["status"]
        route.continue_() if status == 200 else route.fulfill(status=status, body="{}")

    with desk(tmp_path) as made:
        server = ServerThread(made.app, f"http://127.0.0.1:{port_that_stays_free()}").start()
        with reading(browser, str(server.address), "lost", locale="en-GB") as reader:
            page, trouble = reader.page, reader.page.locator("#trouble p:visible")
            with page.expect_response("**/api/v1/events/stream"):
                page.goto("/")
            assert REGISTERED not in page.locator("#live").inner_text()
            server.stop()
            sync_api.expect(trouble).to_contain_text("does not answer")
            reader.look("gone")
            made.post("/reserve/port-pair", PAIR | {"sessions": "2", "connections_per_session": "3"})
            server = ServerThread(
                make_app(made.place.station, faces=(add_pages,)), str(server.address)
            ).start()
            sync_api.expect(trouble).to_have_count(0)
            sync_api.expect(page.locator("#live")).to_contain_text(REGISTERED)  # missed meanwhile
            page.route("**/", answer)
            page.evaluate(RENEW)
            for status, said in ((503, "does not answer"), (401, "logged out"), (404, "may be gone")):
                answers["status"] = status
                sync_api.expect(trouble).to_contain_text(said)
                sync_api.expect(page.locator("#live")).to_contain_text(REGISTERED)  # what was, stays
                answers["status"] = 200
                sync_api.expect(trouble).to_have_count(0)
            page.goto("about:blank")
            server.stop()
            reader.troubles.clear()  # that nothing answered is what this is about


def port_that_stays_free() -> int:
    """Below those that are given by chance: nobody else gets it while a server that had it is away."""
    for port in range(21_000 + os.getpid() % 5_000, 31_000):
        with socket.socket() as tried, suppress(OSError):
            tried.bind(("127.0.0.1", port))
            return port
    raise AssertionError("no port is free")


def test_troubles_and_histories_can_be_read_in_the_light_and_in_the_dark(
    browser: Any, tmp_path: Path
) -> None:
    """States that real arrays take long to come into; these are stand-ins."""
    with desk(tmp_path) as made, ServerThread(made.app, "http://127.0.0.1:0") as server:
        made.post("/reserve/port-pair", PAIR | {"sessions": "2", "connections_per_session": "3"})
        add_history(made.place.station)
        raise_alarms(made.place.station)
        array = made.place.master
        array.free_units = 500
        array.rows["reservations"] = [reservation(77), reservation(11)]
        array.rows["copies"] = [running_copy(0.3, "copying"), running_copy(0.9, "failed")]
        array.rows["pairs"] = [pair_row("M", "vol0", "COPY", dirty_bytes=1 << 20)]
        made.place.down("R")
        with reading(browser, str(server.address), "troubles") as reader:
            for language in ("en", "ja"):
                reader.speak(language)
                for name, path in (
                    ("overview", "/"),
                    ("alarms", "/alarms?all=1"),
                    (
                        "channels",
                        f"/channels?local_port={PAIR['local_port']}&remote_port={PAIR['remote_port']}",
                    ),
                    ("shortage", "/size?" + "&".join(f"{key}={value}" for key, value in TARGET.items())),
                    ("copies", "/copies"),
                    ("login", "/login"),
                ):
                    reader.page.goto(path)
                    if name == "channels":
                        sync_api.expect(reader.page.locator("canvas")).to_have_count(2)
                    reader.look(f"{name}-{language}")
            reader.page.set_viewport_size({"width": 400, "height": 800})
            target = "&".join(f"{key}={value}" for key, value in TARGET.items())
            for path in (
                "/size",
                "/reservation",
                "/policy",
                "/tables/reservations",
                "/audit",
                "/what-if",
                "/copies/copy-failed",
                "/groups/db",
                "/events",
                "/alarms",
                "/",
            ):
                reader.page.goto(f"{path}?{target}")
                assert reader.page.evaluate("document.documentElement.scrollWidth <= innerWidth"), path
            sync_api.expect(reader.page.locator("#side")).to_be_hidden()
            reader.page.locator(".menu").click()
            sync_api.expect(reader.page.locator("#side a").first).to_be_visible()
            reader.look("menu")


def add_history(station: Any) -> None:
    """A day of samples of the pair, one every ten minutes, with a dip."""
    start_ms = int(station.utc_now().timestamp() * 1000) - 86_400_000

    def write(transaction: Any) -> None:
        for step in range(144):
            bandwidth = 10_000_000 - (4_000_000 if 60 < step < 80 else 100_000 * (step % 7))
            rtt = 280_000_000 + (60_000_000 if 60 < step < 80 else 1_000_000 * (step % 5))
            values = dict.fromkeys(("bandwidth_bps", "bandwidth_min_bps", "bandwidth_max_bps"), bandwidth)
            values |= dict.fromkeys(("rtt_ns", "rtt_min_ns", "rtt_max_ns"), rtt)
            row = (
                PAIR
                | values
                | {"at_ms": start_ms + step * 600_000, "span_s": 60, "samples": 6, "method": "x"}
            )
            transaction.execute(insert(SAMPLES), row)

    station.store.database.write(write)


def raise_alarms(station: Any) -> None:
    """One of each severity, one of them acknowledged."""
    causes = [
        alarms.Cause(kind=AlarmKind.SHORTAGE, subject="port pair A->B", text="26 units are missing"),
        alarms.Cause(
            kind=AlarmKind.ARRAY_DOWN,
            subject="array R",
            text="no answer",
            severity=Severity.CRITICAL,
            array="R",
        ),
    ]
    made = [
        station.store.database.write(partial(alarms.raise_alarm, station=station, cause=cause))
        for cause in causes
    ]
    alarms.acknowledge(station, made[0].number, by="ann", note="more memory is ordered")
