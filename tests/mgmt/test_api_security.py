"""Who may use a station: tokens, roles, browsers and their forms, rates, notifications that are forged or repeated."""

from __future__ import annotations

import base64
import re
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import httpx
import pytest
from starlette.requests import Request
from starlette.responses import HTMLResponse
from starlette.routing import Route

from mgmt.api.app import make_app
from mgmt.api.security.gate import Access, Security
from mgmt.api.security.identity import Role
from mgmt.api.security.login import local_path
from mgmt.api.security.tokens import TokenFile
from mgmt.http import Peer, PeerRefused, ServerThread
from mgmt.http.credentials import ClientCredentials
from mgmt.http.rates import Rate
from mgmt.http.signing import HEADER, SigningKey
from mgmt.http.tls import ClientTls, ServerTls
from mgmt.messages import BufferReserveRequest, ChannelChangeNotify, Envelope, encode
from tests.mgmt.certificates import Authority
from tests.mgmt.station_stand_ins import LOCAL, REMOTE, Site, site

TARGET = {"kind": "port_pair", "local_port": LOCAL, "remote_port": REMOTE}
RESERVE = {"target": TARGET, "size_bytes": 1}
KEY = SigningKey("east", b"0123456789abcdef")
JSON = {"content-type": "application/json"}


class Guarded:
    """A station that asks for tokens, on loopback so that no certificate is in the way, and its clocks."""

    def __init__(self, place: Site, directory: Path, **demands: Any) -> None:
        self.place = place
        self.tokens = TokenFile(directory / "tokens.json")
        self.now_ns = 0
        security = Security(**({"tokens": self.tokens} | demands))
        self.access = Access(security, utc_now=place.clock, now_ns=lambda: self.now_ns)

        def add_page(app: Any, _station: Any) -> None:
            async def page(request: Request) -> HTMLResponse:
                if request.method == "POST":
                    return HTMLResponse((await request.body()).decode("latin-1"))
                return HTMLResponse(request.state.csrf_token)

            app.router.routes.append(Route("/page", page, methods=["GET", "POST"]))

        self.app = make_app(place.station, access=self.access, faces=(add_page,))

    def token(self, role: Role, **more: Any) -> dict[str, str]:
        """The header of a new token."""
        _, text = self.tokens.create(role.value, role, now=self.place.clock(), **more)
        return {"authorization": f"Bearer {text}"}


@contextmanager
def served(guarded: Guarded) -> Iterator[httpx.Client]:
    with (
        ServerThread(guarded.app, "http://127.0.0.1:0") as thread,
        httpx.Client(base_url=f"http://{thread.address.host_and_port}", timeout=60) as made,
    ):
        yield made


@pytest.fixture
def place(tmp_path: Path) -> Iterator[Site]:
    with site(tmp_path) as made:
        yield made


@pytest.fixture
def guarded(place: Site, tmp_path: Path) -> Guarded:
    return Guarded(place, tmp_path)


@pytest.fixture
def client(guarded: Guarded) -> Iterator[httpx.Client]:
    with served(guarded) as made:
        yield made


def code(answer: httpx.Response) -> tuple[int, str]:
    assert answer.headers["content-type"] == "application/problem+json", answer.text
    return answer.status_code, answer.json()["code"]


def test_nobody_is_served_without_a_token_and_nothing_changes(client: httpx.Client, guarded: Guarded) -> None:
    for path in (
        "/api/v1/pools",
        "/api/v1/openapi.json",
        "/metrics",
        "/redfish/v1/Fabrics",
        "/api/v1/nowhere",
    ):
        answer = client.get(path)
        assert code(answer) == (401, "NOT_AUTHENTICATED"), path
        assert answer.headers["www-authenticate"].startswith("Bearer")
    assert code(client.post("/api/v1/reserve", json=RESERVE))[0] == 401
    assert code(client.post("/messages", content=b"{}", headers=JSON))[0] == 401
    assert guarded.place.master.seen == []


def test_the_roots_of_redfish_are_open_as_its_standard_says(client: httpx.Client) -> None:
    assert client.get("/redfish").json() == {"v1": "/redfish/v1/"}
    assert client.get("/redfish/v1/").status_code == 200


@pytest.mark.parametrize(
    ("role", "reads", "changes", "administers"),
    [
        (Role.VIEWER, 200, 403, 403),
        (Role.OPERATOR, 200, 200, 403),
        (Role.ADMIN, 200, 200, 422),
        (Role.PROBE, 403, 403, 403),
        (Role.ARRAY, 403, 403, 403),
    ],
)
def test_each_role_may_what_it_may(
    client: httpx.Client, guarded: Guarded, role: Role, reads: int, changes: int, administers: int
) -> None:
    shown = guarded.token(role)
    assert client.get("/api/v1/pools", headers=shown).status_code == reads
    assert client.post("/api/v1/reserve", json=RESERVE, headers=shown).status_code == changes
    made = len(guarded.place.master.messages(BufferReserveRequest))
    assert made == (1 if changes == 200 else 0)
    answer = client.post("/api/v1/arrays", json={"name": "", "address": "x"}, headers=shown)
    assert answer.status_code == administers


@pytest.mark.parametrize(
    "shown",
    [
        "Bearer",
        "Bearer nonsense",
        "Bearer sct_000000000000_" + "a" * 43,
        "Basic !!!",
        "Basic " + base64.b64encode(b"\xff\xfe").decode(),
        "Basic " + base64.b64encode(b"user").decode(),
        "Negotiate x",
        "Bearer " + "x" * 4000,
    ],
)
def test_a_token_that_is_none_is_refused(client: httpx.Client, shown: str) -> None:
    assert code(client.get("/api/v1/pools", headers={"authorization": shown})) == (401, "NOT_AUTHENTICATED")


def test_a_token_is_a_password_too_for_clients_that_know_no_better(
    client: httpx.Client, guarded: Guarded
) -> None:
    text = guarded.token(Role.VIEWER)["authorization"].removeprefix("Bearer ")
    assert client.get("/metrics", auth=("anybody", text)).status_code == 200


def test_a_token_that_has_expired_or_was_revoked_counts_no_more(
    client: httpx.Client, guarded: Guarded
) -> None:
    short = guarded.token(Role.VIEWER, lifetime=timedelta(hours=1))
    other = guarded.token(Role.OPERATOR)
    assert client.get("/api/v1/pools", headers=short).status_code == 200
    guarded.place.clock.advance(3600)
    assert code(client.get("/api/v1/pools", headers=short))[0] == 401
    guarded.tokens.revoke("operator")
    assert code(client.get("/api/v1/pools", headers=other))[0] == 401


def test_who_made_a_change_is_in_the_audit_trail(client: httpx.Client, guarded: Guarded) -> None:
    shown = guarded.token(Role.OPERATOR)
    client.post("/api/v1/reserve", json=RESERVE, headers=shown).raise_for_status()
    rows = client.get("/api/v1/audit", headers=shown).json()["items"]
    assert rows and {row["by"] for row in rows if row["verb"] == "reserve"} == {"operator"}


# -- rates -------------------------------------------------------------------------------------------------------


def test_a_client_that_floods_is_told_to_wait_and_the_others_are_served(place: Site, tmp_path: Path) -> None:
    guarded = Guarded(place, tmp_path, rate=Rate(per_second=1, burst=3))
    noisy, quiet = guarded.token(Role.VIEWER), guarded.token(Role.OPERATOR)
    with served(guarded) as client:
        found = [client.get("/redfish/v1/Fabrics", headers=noisy) for _ in range(5)]
        assert [answer.status_code for answer in found] == [200, 200, 200, 429, 429]
        assert code(found[-1])[1] == "TOO_MANY_REQUESTS" and found[-1].headers["retry-after"] == "1"
        assert client.get("/redfish/v1/Fabrics", headers=quiet).status_code == 200
        guarded.now_ns = 10**9
        assert client.get("/redfish/v1/Fabrics", headers=noisy).status_code == 200


def test_who_guesses_tokens_is_held_up_and_holds_nobody_else_up(
    client: httpx.Client, guarded: Guarded
) -> None:
    good = guarded.token(Role.VIEWER)
    wrong = {"authorization": "Bearer sct_000000000000_" + "a" * 43}
    statuses = [client.get("/api/v1/pools", headers=wrong).status_code for _ in range(25)]
    assert statuses == [401] * 20 + [429] * 5
    assert client.get("/api/v1/pools", headers=good).status_code == 200


# -- browsers ----------------------------------------------------------------------------------------------------


def test_a_page_without_a_log_in_leads_to_it_and_back(client: httpx.Client, guarded: Guarded) -> None:
    text = guarded.token(Role.OPERATOR)["authorization"].removeprefix("Bearer ")
    answer = client.get("/page", headers={"accept": "text/html"})
    assert (answer.status_code, answer.headers["location"]) == (303, "/login?next=/page")
    form = client.get(answer.headers["location"])
    found = re.search(r'name="csrf_token" value="(\w+)"', form.text)
    assert found is not None
    fields = {"csrf_token": found[1], "next": "/page", "token": "wrong"}
    refused = client.post("/login", data=fields)
    assert refused.status_code == 401 and "Error: the token is unknown" in refused.text
    assert "wrong" not in refused.text
    answer = client.post("/login", data=fields | {"token": text})
    assert (answer.status_code, answer.headers["location"]) == (303, "/page")
    cookie = answer.headers["set-cookie"]
    assert "HttpOnly" in cookie and "samesite=strict" in cookie.lower() and text not in cookie
    assert client.get("/page").status_code == 200
    assert client.post("/api/v1/reserve", json=RESERVE).status_code == 200
    token = client.get("/page").text
    assert client.post("/logout", data={"csrf_token": token}).status_code == 303
    assert client.get("/page").status_code == 401


@pytest.mark.parametrize(
    ("text", "leads_to"),
    [
        ("/channels?a=b", "/channels?a=b"),
        ("", "/"),
        ("https://elsewhere.example/", "/"),
        ("//elsewhere.example", "/"),
        ("/\\elsewhere.example", "/"),
        ("/a\r\nSet-Cookie: x", "/"),
        ("javascript:alert(1)", "/"),
    ],
)
def test_a_log_in_leads_nowhere_else(text: str, leads_to: str) -> None:
    assert local_path(text) == leads_to


def test_every_page_says_what_a_browser_may_load(client: httpx.Client) -> None:
    answer = client.get("/login")
    policy = answer.headers["content-security-policy"]
    assert policy.startswith("default-src 'none'") and "frame-ancestors 'none'" in policy
    assert "unsafe" not in policy and "http" not in policy
    assert answer.headers["x-content-type-options"] == "nosniff"
    assert answer.headers["cache-control"] == "no-store"


@pytest.mark.parametrize("way", ["field", "header", "multipart"])
def test_a_form_of_a_page_of_ours_is_taken(place: Site, tmp_path: Path, way: str) -> None:
    guarded = Guarded(place, tmp_path, tokens=None)
    with served(guarded) as client:
        base = str(client.base_url)
        token = client.get("/page").text
        if way == "header":
            answer = client.post("/page", data={"a": "b"}, headers={"X-CSRF-Token": token, "origin": base})
        elif way == "field":
            answer = client.post("/page", data={"a": "b", "csrf_token": token})
        else:
            answer = client.post("/page", data={"csrf_token": token}, files={"a": b"b"})
        assert answer.status_code == 200 and "b" in answer.text


@pytest.mark.parametrize(
    ("changed", "headers"),
    [
        ({"csrf_token": None}, {}),
        ({"csrf_token": ""}, {}),
        ({"csrf_token": "0" * 64}, {}),
        ({"csrf_token": "é"}, {}),
        ({}, {"origin": "http://elsewhere.example"}),
        ({}, {"origin": "null"}),
        ({}, {"sec-fetch-site": "cross-site"}),
        ({}, {"sec-fetch-site": "same-site"}),
        ({}, {"cookie": ""}),
        ({}, {"X-CSRF-Token": "0" * 64}),
    ],
)
def test_a_form_that_is_not_ours_changes_nothing(
    place: Site, tmp_path: Path, changed: dict[str, Any], headers: dict[str, str]
) -> None:
    guarded = Guarded(place, tmp_path, tokens=None)
    with served(guarded) as client:
        fields = {"a": "b", "csrf_token": client.get("/page").text} | changed
        fields = {name: value for name, value in fields.items() if value is not None}
        if "cookie" in headers:
            client.cookies.clear()
        assert code(client.post("/page", data=fields, headers=headers)) == (403, "UNAUTHORIZED")


def test_the_api_takes_no_forms_and_a_foreign_page_cannot_send_it_json(
    client: httpx.Client, guarded: Guarded
) -> None:
    shown = guarded.token(Role.ADMIN)
    assert code(client.post("/api/v1/reserve", data={"size_bytes": "1"}, headers=shown))[0] == 415
    for headers in ({"origin": "http://elsewhere.example"}, {"sec-fetch-site": "cross-site"}):
        answer = client.post("/api/v1/reserve", json=RESERVE, headers=shown | headers)
        assert code(answer) == (403, "UNAUTHORIZED")
    answer = client.options("/api/v1/reserve", headers=shown | {"origin": "http://elsewhere.example"})
    assert "access-control-allow-origin" not in answer.headers
    assert guarded.place.master.messages(BufferReserveRequest) == []


# -- notifications (M9) ------------------------------------------------------------------------------------------


def notice(sequence: int = 1, rtt_ns: int = 2000) -> bytes:
    message = ChannelChangeNotify(
        local_port=LOCAL,
        remote_port=REMOTE,
        bandwidth_bps=1000,
        rtt_ns=rtt_ns,
        measured_at="2026-01-01T11:00:00+00:00",
        sequence=sequence,
    )
    return encode(Envelope(f"r{sequence}", message))


def test_a_forged_or_repeated_notification_changes_nothing(place: Site, tmp_path: Path) -> None:
    guarded = Guarded(place, tmp_path, tokens=None, keys={KEY.name: KEY})
    now_s = int(place.clock().timestamp())
    with served(guarded) as client:
        client.post("/api/v1/pairs", json={"target": TARGET}).raise_for_status()

        def row() -> Any:
            (found,) = client.get("/api/v1/channels").json()["items"]
            return found["rtt_ns"]

        def send(body: bytes, header: str | None) -> httpx.Response:
            shown = {} if header is None else {HEADER: header}
            return client.post("/messages", content=body, headers=JSON | shown)

        good = KEY.sign("/messages", notice(), now_s=now_s, nonce="0" * 32)
        forger = SigningKey(KEY.name, b"another key here")
        for body, header in (
            (notice(), None),
            (notice(), "nonsense"),
            (notice(), forger.sign("/messages", notice(), now_s=now_s, nonce="1" * 32)),
            (notice(rtt_ns=9), good),
            (notice(), KEY.sign("/messages", notice(), now_s=now_s - 61, nonce="2" * 32)),
        ):
            assert code(send(body, header)) == (401, "NOT_AUTHENTICATED")
            assert row() is None
        assert send(notice(), good).status_code == 200 and row() == 2000
        assert code(send(notice(), good))[0] == 401
        # Signed anew by who has the key, and old all the same: the sequence number decides.
        old = notice(sequence=1, rtt_ns=7)
        fresh = KEY.sign("/messages", old, now_s=now_s, nonce="3" * 32)
        assert send(old, fresh).status_code == 200 and row() == 2000


def test_a_measuring_device_signs_by_itself(place: Site, tmp_path: Path) -> None:
    guarded = Guarded(place, tmp_path, tokens=None, keys={KEY.name: KEY})
    guarded.access.utc_now = lambda: datetime.now(UTC)
    message = ChannelChangeNotify(
        local_port=LOCAL, remote_port=REMOTE, bandwidth_bps=1, rtt_ns=1, measured_at="x", sequence=1
    )
    with ServerThread(guarded.app, "http://127.0.0.1:0") as thread:
        with Peer(thread.address, credentials=ClientCredentials(key=KEY)) as peer:
            assert peer.send(message) == message
        with Peer(thread.address) as peer, pytest.raises(PeerRefused) as refused:
            peer.send(message)
        assert refused.value.status == 401


def test_only_devices_notify_and_devices_do_nothing_else(client: httpx.Client, guarded: Guarded) -> None:
    for role, status in ((Role.VIEWER, 403), (Role.OPERATOR, 403), (Role.ARRAY, 403), (Role.PROBE, 200)):
        headers = JSON | guarded.token(role)
        assert client.post("/messages", content=notice(), headers=headers).status_code == status, role


# -- TLS ---------------------------------------------------------------------------------------------------------


def test_over_tls_a_token_or_a_certificate_is_asked_for(place: Site, tmp_path: Path) -> None:
    directory = tmp_path / "certificates"
    directory.mkdir()
    authority = Authority(directory)
    server = authority.sign("station")
    device = authority.sign("probe-east", role="probe")
    stranger = authority.sign("stranger", role="king")
    tls = ServerTls(certificate=server.certificate, key=server.key, authority=authority.file)
    guarded = Guarded(place, tmp_path)
    text = guarded.token(Role.VIEWER)["authorization"].removeprefix("Bearer ")
    trust = ClientTls(authority=authority.file)

    def shows(files: Any) -> ClientCredentials:
        return ClientCredentials(
            tls=ClientTls(authority=authority.file, certificate=files.certificate, key=files.key)
        )

    message = ChannelChangeNotify(
        local_port=LOCAL, remote_port=REMOTE, bandwidth_bps=1, rtt_ns=1, measured_at="x", sequence=1
    )
    with ServerThread(guarded.app, "https://127.0.0.1:0", tls=tls) as thread:
        with Peer(thread.address, credentials=ClientCredentials(tls=trust, token=text)) as peer:
            assert peer.get("/api/v1/channels")["items"] == []
        with Peer(thread.address, credentials=shows(device)) as peer:
            assert peer.send(message) == message
            with pytest.raises(PeerRefused) as refused:
                peer.get("/api/v1/channels")
            assert refused.value.status == 403
        for credentials, status in ((ClientCredentials(tls=trust), 401), (shows(stranger), 403)):
            with Peer(thread.address, credentials=credentials) as peer, pytest.raises(PeerRefused) as refused:
                peer.send(message)
            assert refused.value.status == status
