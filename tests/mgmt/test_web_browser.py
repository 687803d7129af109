"""The station's pages in a real browser, against real arrays, measuring devices and a real station."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
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
from tests.mgmt.web_desk import PAIR, TARGET, desk, reservation, running_copy
from tests.mgmt.web_reader import PATIENCE_MS, reading

sync_api = pytest.importorskip(
    "playwright.sync_api", reason="install the test extra: pip install -e '.[test]'"
)

CHROMIUM = "/usr/bin/chromium"
FLAGS = ["--headless", "--no-sandbox", "--disable-gpu", "--disable-background-networking"]
LOCAL, REMOTE = "127.0.0.1", "127.0.0.2"
IMAGE_BYTES = 8 * 1024**2
UNITS = 256
WWPN = {"east": "50:06:01:60:3b:a0:11:22", "west": "50:06:01:60:3b:a0:11:23"}
INTERFACES = f"""
[[interface]]
address = "{{port}}"
iscsi_port = 0
units = {UNITS}
[[interface]]
kind = "fc"
name = "fc0"
address = "{{wwpn}}"
link = "{{link}}"
speed = "8G"
distance = "10km"
credits = 100
unreserved = 4
time_scale = 2000
"""

pytestmark = [
    pytest.mark.slow,
    pytest.mark.timeout(400),
    pytest.mark.skipif(
        not Path(CHROMIUM).exists(), reason="no Chromium: apt install chromium fonts-noto-cjk"
    ),
    # The browser's driver leaves its event loop and pipes to the garbage collector when its process ends.
    pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning"),
    pytest.mark.xdist_group("browser"),
]


@contextmanager
def serving(lines: int, *words: str) -> Iterator[list[str]]:
    """``sancredit …`` until the block ends; what it printed once it was ready."""
    process = subprocess.Popen(
        [sys.executable, "-m", "mgmt.cli", *words], stdout=subprocess.PIPE, text=True, start_new_session=True
    )
    assert process.stdout is not None
    try:
        ready = [process.stdout.readline().strip() for _ in range(lines)]
        assert all(ready), words
        yield ready
    finally:
        process.terminate()
        try:
            process.wait(20)
        finally:
            process.kill()
            process.wait()
            process.stdout.close()


@pytest.fixture(scope="module")
def station(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The address of a station with two arrays and two measuring devices."""
    place = tmp_path_factory.mktemp("san")
    (place / "master.img").write_bytes(os.urandom(IMAGE_BYTES))
    with ExitStack() as stack:
        for name, port, volume in (
            ("east", LOCAL, "master.img"),
            ("west", REMOTE, f"remote.img:{IMAGE_BYTES}"),
        ):
            file = place / f"{name}.toml"
            file.write_text(INTERFACES.format(port=port, wwpn=WWPN[name], link=f"unix:{place}/{name}-link"))
            words = ["array", "serve", "--name", name, "--listen", f"unix:{place}/{name}.sock"]
            words += ["--config", str(file), "--volume", f"vol0={place}/{volume}"]
            words += ["--volume", f"db={place}/{name}-db.img:{IMAGE_BYTES}"]
            words += ["--volume", f"jnl={place}/{name}-jnl.img:{IMAGE_BYTES}"]
            words += ["--state", f"{place}/{name}.state", "--chap-file", f"{place}/chap"]
            stack.enter_context(serving(3, *words))
        far = stack.enter_context(
            serving(2, "probe", "serve", "--listen", f"unix:{place}/far.sock", "--address", REMOTE)
        )
        (udp,) = (line.partition("udp://")[2] for line in far if "udp://" in line)
        near = ["probe", "serve", "--listen", f"unix:{place}/near.sock", "--address", LOCAL, "--peer", udp]
        stack.enter_context(serving(2, *near))
        words = ["station", "serve", "--listen", "http://127.0.0.1:0", "--state", f"{place}/station.state"]
        words += ["--probe", f"unix:{place}/near.sock"]
        for name in ("east", "west"):
            words += ["--array", f"{name}=unix:{place}/{name}.sock"]
        (ready,) = stack.enter_context(serving(1, *words))
        yield ready.removeprefix("listening ")


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
        assert page.locator("html").get_attribute("lang") == tag
        reader.look("overview")
        page.goto("/reserve?chosen=1")
        reader.look("1601-nothing-chosen")
        page.goto("/reserve")
        reader.look("1601")
        page.check(f"#kind-{kind}")
        page.locator("main form button").click()
        page.fill("#local_port", "10.0.0")
        page.fill("#remote_port", REMOTE)
        page.fill("#sessions", "0")
        page.locator("main form button").click()
        assert page.locator("#local_port").input_value() == "10.0.0"
        assert page.evaluate("document.activeElement.id") == "summary"
        reader.look(f"{screen}-refused")
        page.fill("#local_port", LOCAL)
        page.fill("#sessions", "100")
        page.fill("#connections_per_session", "100")
        if screen == "1401":
            page.fill("#remote_port_number", "25")
        reader.look(screen)
        page.locator("main form button").click()
        page.wait_for_url("**/size?*")
        reader.look("701-shortage")
        reader.submit()
        reader.look("701-automatic-refused")
        page.locator(".notice a[href*='/reserve/']").click()
        assert page.locator("#sessions").input_value() == "100"
        page.fill("#sessions", "2")
        page.fill("#connections_per_session", "3")
        page.locator("main form button").click()
        page.wait_for_url("**/size?*")
        page.locator("details.why summary").click()
        reader.look("701-why")
        page.check("#mode-manual")
        assert page.evaluate("document.activeElement.id") == "size_bytes"
        page.fill("#size_bytes", "64MiB")
        sync_api.expect(page.locator("#change .state.bad")).to_be_visible()
        reader.submit()
        assert page.locator("#size_bytes").input_value() == "64MiB"
        reader.look("701-manual-refused")
        page.fill("#size_bytes", "1MiB")
        sync_api.expect(page.locator("#change")).to_contain_text("+64")
        reader.look("701-manual")
        reader.submit()
        page.wait_for_url("**/reservation?*")
        (row,) = reserved(station)
        assert (row["reserved_bytes"], row["array"]) == (1024**2, "east")
        reader.look("reserved")
        page.fill("#rtt", "200ms")
        page.locator("form[action='/reservation'] button").click()
        sync_api.expect(page.locator("#supposed")).to_be_visible()
        reader.look("what-if")
        page.locator("main a[href*='/copies/start?']").click()
        page.locator("main form button").click()
        reader.look("copy-start-refused")
        page.fill("#volume", "vol0")
        page.locator("main form button").click()
        page.wait_for_url("**/copies/copy-*")
        sync_api.expect(page.locator("#live .state.ok").first).to_be_visible()
        page.locator("form[action$='/verify'] button").click()
        sync_api.expect(page.locator(".notice.ok code").first).to_be_visible()
        reader.look("copy-verified")
        what_if = f"/what-if?ask=1&what=changes&pair={LOCAL},{REMOTE}&rtt=200ms"
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
        reader.troubles = [text for text in reader.troubles if "status of 404" not in text]  # /copies/none
        page.locator(".copy-as summary").click()
        reader.look("copy-as")
        page.keyboard.press("Escape")
        page.goto("/reservation?" + page_query(station))
        page.locator("main a[href*='/policy?']").click()
        page.fill("#min_change", "much")
        page.locator("button[value=save]").click()
        reader.look("policy-refused")
        assert page.locator("#min_change").input_value() == "much"
        page.fill("#min_change", "20")
        page.locator("button[value=save]").click()
        page.wait_for_url("**done=saved*")
        reader.look("policy")
        page.locator("main form a[href*='/reservation?']").click()
        page.locator("main form[action$='/release'] button").click()
        page.wait_for_url("**done=released*")
        reader.look("released")
        assert reserved(station) == []


def test_a_group_of_pairs_is_made_split_and_dissolved_on_the_page(browser: Any, station: str) -> None:
    with reading(browser, station, "groups", locale="en-GB") as reader:
        page = reader.page
        page.goto("/groups")
        reader.look("none")
        page.locator("main a[href='/groups/create']").first.click()
        page.fill("#group", "db")
        page.fill("#local_port", LOCAL)
        page.fill("#remote_port", REMOTE)
        page.fill("#journal", "jnl")
        page.locator("main form button").click()
        assert page.locator("#group").input_value() == "db"
        reader.look("create-refused")
        page.fill("#volumes", "db")
        page.locator("main form button").click()
        page.wait_for_url("**/groups/db?done=create")
        state = page.locator("#live h2 .state")
        sync_api.expect(state).to_have_text("PAIR")  # without reloading
        sync_api.expect(page.locator("#live .share")).to_contain_text("100.0 %")
        page.goto("/groups/db")
        reader.look("pair")
        page.locator("form[action$='/split'] button").click()
        page.wait_for_url("**done=split")
        sync_api.expect(state).to_have_text("PSUS")
        page.locator("form[action$='/delete'] button").click()
        reader.look("not-sure")
        reader.speak("ja")
        page.goto("/groups/db")
        reader.look("psus-ja")
        page.goto("/groups")
        reader.look("all-ja")
        page.goto("/groups/db")
        page.check("#sure-delete")
        page.locator("form[action$='/delete'] button").click()
        page.wait_for_url("**/groups?done=delete")
        assert httpx.get(f"{station}/api/v1/groups").json()["items"] == []


def page_query(station: str) -> str:
    (row,) = reserved(station)
    return "&".join(f"{name}={value}" for name, value in row["target"].items())


def test_the_keyboard_alone_leads_from_the_overview_to_a_reservation_and_back(
    browser: Any, station: str
) -> None:
    with reading(browser, station, "keyboard", locale="en-GB") as reader:
        page = reader.page
        page.goto("/")
        page.keyboard.press("Tab")
        assert "Skip" in page.evaluate("document.activeElement.textContent")
        page.keyboard.press("Enter")
        assert page.evaluate("document.activeElement.id") == "main"
        page.keyboard.press("?")
        sync_api.expect(page.locator("#keys")).to_be_visible()
        reader.look("shortcuts")
        page.keyboard.press("Escape")
        sync_api.expect(page.locator("#keys")).to_be_hidden()
        page.keyboard.press("g")
        page.keyboard.press("r")
        page.wait_for_url("**/reserve")
        page.keyboard.press("Space")  # the first kind has the focus
        page.keyboard.press("ArrowDown")
        page.keyboard.press("ArrowDown")
        page.keyboard.press("Enter")
        page.wait_for_url("**/reserve/connection")
        page.keyboard.type(LOCAL)
        page.keyboard.press("Tab")
        page.keyboard.type(REMOTE)
        page.keyboard.press("Enter")
        page.wait_for_url("**/size?*")
        walk_to(page, "mode-auto")
        page.keyboard.press("ArrowDown")
        page.keyboard.type("256KiB")
        page.keyboard.press("Enter")
        page.wait_for_url("**/reservation?*buffer_id=*")
        (row,) = reserved(station)
        assert (row["target"]["kind"], row["reserved_units"]) == ("connection", 16)
        walk_to(page, link="/copies/start?")
        page.keyboard.press("Enter")
        page.wait_for_url("**/copies/start?*")
        walk_to(page, "volume")
        page.keyboard.type("vol0")
        page.keyboard.press("Enter")
        page.wait_for_url("**/copies/copy-*")
        sync_api.expect(page.locator("#live .state.ok").first).to_be_visible()
        page.keyboard.press("g")
        page.keyboard.press("t")
        page.wait_for_url("**/tables/reservations")
        walk_to(page, link="/reservation?")
        page.keyboard.press("Enter")
        page.wait_for_url("**/reservation?*")
        walk_to(page, "drain")
        page.keyboard.press("Tab")
        page.keyboard.press("Enter")
        page.wait_for_url("**done=released*")
        assert reserved(station) == []


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
        page.locator("main form button").click()
        page.wait_for_url("**/size?*")
        sync_api.expect(page.locator("#change")).to_contain_text("+40")  # 10 km of 8G, as the ports say
        page.locator("details.why summary").click()
        reader.look("701-why")
        page.check("#mode-manual")
        page.fill("#size_bytes", str(20 * 2148))
        sync_api.expect(page.locator("#change")).to_contain_text("+20")
        reader.submit()
        page.wait_for_url("**/reservation?*")
        (row,) = reserved(station)
        assert (row["interface"], row["target"]["local_port"], row["reserved_units"]) == (
            "fc0",
            WWPN["east"],
            20,
        )
        reader.look("reserved")
        page.locator("main form[action$='/release'] button").click()
        page.wait_for_url("**done=released*")


def test_without_javascript_every_step_can_be_taken(browser: Any, station: str) -> None:
    with reading(browser, station, "plain", locale="en-GB", java_script_enabled=False) as reader:
        page = reader.page
        page.goto("/reserve")
        page.check("#kind-0")
        page.locator("main form button").click()
        for name, value in (("local_port", LOCAL), ("remote_port", REMOTE), ("sessions", "1")):
            page.fill(f"#{name}", value)
        page.locator("main form button").click()
        page.check("#mode-manual")
        page.fill("#size_bytes", "512KiB")
        page.locator("button[value=preview]").click()
        sync_api.expect(page.locator("#change")).to_contain_text("+32")
        reader.submit()
        page.wait_for_url("**/reservation?*")
        assert reserved(station)[0]["reserved_units"] == 32
        page.locator("main a[href*='/policy?']").click()
        page.check("#sizing-manual")
        page.fill("#size_bytes", "1MiB")
        page.locator("button[value=save]").click()
        page.wait_for_url("**done=saved*")
        page.goto("/events")
        page.locator("form[action='/undo'] button").click()
        page.wait_for_url("**undone=*")
        page.goto(f"/what-if?pair={LOCAL},{REMOTE}")
        page.locator("main form button").click()
        sync_api.expect(page.locator("#foretold")).to_be_visible()
        page.goto("/reservation?" + page_query(station))
        page.locator("main form[action$='/release'] button").click()
        page.wait_for_url("**done=released*")
        page.locator("button[value=dark]").click()
        assert page.locator("html").get_attribute("data-theme") == "dark"


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
        bar = page.locator("#live .bar").first
        sync_api.expect(bar).to_contain_text(re.compile(r"reserved, idle\s*32"))
        page.locator("[data-pause]").click()
        httpx.post(f"{station}/api/v1/release", json={"target": body["target"]}).raise_for_status()
        sync_api.expect(page.locator("[data-pause]")).to_have_text("Resume")
        sync_api.expect(bar).to_contain_text(re.compile(r"reserved, idle\s*32"))
        page.locator("[data-pause]").click()
        sync_api.expect(bar).to_contain_text(re.compile(r"reserved, idle\s*0"))


def a_little_later(route: Any) -> None:
    """As over a slow line: the other scripts of the page are there long before this one."""
    time.sleep(0.3)
    route.continue_()


def answer_instead(status: int, route: Any) -> None:
    """What the station is made to answer."""
    route.fulfill(status=status, body="{}")


def test_a_station_that_is_gone_or_refuses_is_told_of_and_forgotten_when_it_is_back(
    browser: Any, tmp_path: Path
) -> None:
    with desk(tmp_path) as made:
        server = ServerThread(made.app, "http://127.0.0.1:0").start()
        with reading(browser, str(server.address), "lost", locale="en-GB") as reader:
            page, trouble = reader.page, reader.page.locator("#trouble p:visible")
            with page.expect_response("**/api/v1/events/stream"):
                page.goto("/")
            server.stop()
            sync_api.expect(trouble).to_contain_text("does not answer")
            reader.look("gone")
            made.post("/reserve/port-pair", PAIR | {"sessions": "2", "connections_per_session": "3"})
            server = ServerThread(
                make_app(made.place.station, faces=(add_pages,)), str(server.address)
            ).start()
            sync_api.expect(trouble).to_have_count(0)
            sync_api.expect(page.locator("#live")).to_contain_text(PAIR["remote_port"])  # missed meanwhile
            for status, said in ((503, "does not answer"), (401, "logged out"), (404, "may be gone")):
                page.route("**/", partial(answer_instead, status))
                page.evaluate("document.body.dispatchEvent(new CustomEvent('station-changed'))")
                sync_api.expect(trouble).to_contain_text(said)
                sync_api.expect(page.locator("#live")).to_contain_text(PAIR["remote_port"])  # what was, stays
                page.unroute("**/")
                page.wait_for_timeout(1100)  # the part that lives is renewed once a second at most
                page.evaluate("document.body.dispatchEvent(new CustomEvent('station-changed'))")
                sync_api.expect(trouble).to_have_count(0)
            page.goto("about:blank")
            server.stop()
            reader.troubles.clear()  # that nothing answered is what this is about


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
