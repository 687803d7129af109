"""The pages of pairs and groups, policies and the audit trail; and what they show to whom."""

from __future__ import annotations

import html
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from mgmt.api.security.gate import Security
from mgmt.api.security.identity import Role
from mgmt.api.security.tokens import TokenFile
from mgmt.array.replication.pair_state import TRANSITIONS, PairInput
from mgmt.messages import ReservedBufferUpdateRequest
from mgmt.pair_messages import PairRequest
from mgmt.station import policies, trail
from mgmt.station.records import Sizing
from mgmt.web.groups import VERBS, gathered
from mgmt.web.words import FENCES, PAIR_STATES
from tests.mgmt.test_web_pages import PAGES, POLICY
from tests.mgmt.web_desk import PAIR, TARGET, Desk, commands, desk, error_at, pair_row, reservation

WISH = PAIR | {
    "group": "db",
    "volumes": "vol0\r\nvol1,copy1\r\n",
    "journal": "jnl",
    "mode": "sync",
    "fence": "data",
    "sessions": "2",
    "connections": "3",
}


@pytest.fixture
def fresh(tmp_path: Path) -> Iterator[Desk]:
    with desk(tmp_path) as made:
        yield made


def with_group(made: Desk, state: str = "PAIR", **values: Any) -> None:
    """Both ends of the group ``db`` of two volumes."""
    made.place.master.rows["pairs"] = [pair_row("M", name, state, **values) for name in ("vol0", "vol1")]
    made.place.remote.rows["pairs"] = [
        pair_row("R", name, state, role="S-VOL", **values) for name in ("vol0", "vol1")
    ]


def test_a_group_is_shown_with_its_state_progress_and_how_far_it_is_behind(fresh: Desk) -> None:
    assert "No group has been made" in fresh.get("/groups").text
    with_group(fresh, "COPY", dirty_bytes=1 << 20, rpo_bytes=3 << 20, rpo_ns=2_500_000_000)
    for page in ("/groups", "/groups/db"):
        shown = fresh.get(page).text.replace("\N{NO-BREAK SPACE}", " ")
        for text in ("75.0 % of 8 MiB", "2.5 s", "3 MiB", "M → R", ">COPY<", "asynchronous"):
            assert text in shown, (page, text)
    assert fresh.get("/groups/none").status_code == 404
    assert fresh.get("/groups/db").text.count('<th scope="row">vol1</th>') == 2
    table = fresh.get("/tables/groups", q="vol1")
    assert "2 rows" in table.text and 'href="/groups/db"' in table.text


@pytest.mark.parametrize("state", ["COPY", "PAIR", "PSUS", "PSUE", "SSWS"])
def test_the_verbs_that_are_offered_are_those_that_the_state_machine_of_pairs_takes(state: str) -> None:
    rows = [pair_row("M", "vol0", state), pair_row("R", "vol0", state, role="S-VOL")]
    (group,) = gathered(rows)
    inputs = {
        "split": PairInput.SPLIT,
        "resync": PairInput.RESYNC,
        "takeover": PairInput.TAKEOVER,
        "swap": PairInput.PROMOTE,
        "delete": PairInput.DELETE,
    }
    taken = {
        verb
        for verb, what in inputs.items()
        if any(
            (role, at) == ((VERBS[verb][1] or role), state) and wish is what
            for (role, at), wish in TRANSITIONS
        )
    }
    assert set(group.verbs) == taken


def test_what_pairs_can_be_has_words() -> None:
    assert set(PAIR_STATES) == {state for (_, state), _ in TRANSITIONS}
    assert set(FENCES) == {"never", "data"}


@pytest.mark.parametrize(
    ("fields", "field"),
    [
        ({"group": ""}, "group"),
        ({"group": "a b"}, "group"),
        ({"local_port": "x"}, "local_port"),
        ({"volumes": " \r\n "}, "volumes"),
        ({"volumes": "a,b,c"}, "volumes"),
        ({"volumes": "a,"}, "volumes"),
        ({"journal": ""}, "journal"),
        ({"sessions": "0"}, "sessions"),
        ({"connections": "257"}, "connections"),
        ({"priority": "256"}, "priority"),
        ({"mode": "other"}, "mode"),
    ],
)
def test_what_is_wrong_with_a_new_group_is_said_beside_the_field_and_asks_no_array(
    fresh: Desk, fields: dict[str, str], field: str
) -> None:
    answer = fresh.post("/groups/create", WISH | fields, "/groups/create")
    assert answer.status_code == 422 and error_at(answer, field)
    assert "vol1,copy1" in answer.text or "volumes" in fields
    assert fresh.place.master.seen == fresh.place.remote.seen == []


def test_a_group_that_the_arrays_refuse_keeps_what_was_typed_and_says_why(fresh: Desk) -> None:
    answer = fresh.post("/groups/create", WISH, "/groups/create")
    assert answer.status_code >= 400 and 'value="db"' in answer.text
    assert 'role="alert"' in answer.text and "vol1,copy1" in answer.text  # no array has vol1


def test_a_verb_is_sent_to_the_array_that_it_is_for_and_what_is_hard_to_undo_is_asked_twice(
    fresh: Desk,
) -> None:
    with_group(fresh)
    for verb in ("takeover", "delete"):
        answer = fresh.post(f"/groups/db/{verb}", {}, "/groups/db")
        assert answer.status_code == 422 and f'id="sure-{verb}-error"' in answer.text
    assert fresh.place.master.seen == fresh.place.remote.seen == []
    answer = fresh.post("/groups/db/split", {}, "/groups/db")
    assert answer.headers["location"] == "/groups/db?done=split"
    fresh.post("/groups/db/takeover", {"sure": "1", "force": "1"}, "/groups/db")
    (split,), (takeover,) = fresh.place.master.seen, fresh.place.remote.seen
    assert (split.message.verb, takeover.message.verb) == ("split", "takeover")  # type: ignore[union-attr]
    assert takeover.message.force is True  # type: ignore[union-attr]
    answer = fresh.post("/groups/db/delete", {"sure": "1"}, "/groups/db")
    assert answer.headers["location"] == "/groups?done=delete"
    assert "is dissolved" in fresh.get(answer.headers["location"]).text
    assert fresh.post("/groups/db/explode", {}, "/groups/db").status_code == 404
    fresh.place.master.refuse = lambda message: True
    refused = fresh.post("/groups/db/split", {}, "/groups/db")
    assert refused.status_code == 412 and 'role="alert"' in refused.text


def test_the_part_that_lives_is_asked_for_where_it_can_be_had_also_after_a_refusal(fresh: Desk) -> None:
    with_group(fresh)
    fresh.place.master.rows["reservations"] = [reservation(9) | {"target": TARGET}]
    fresh.place.master.rows["copies"] = [PAIR | {"copy_id": "copy-1", "array": "M", "state": "done"}]
    fresh.place.master.refuse = lambda message: True
    for where, fields in (("/groups/db/delete", {}), ("/reservation/release", TARGET)):
        refused = fresh.post(where, fields)
        assert refused.status_code >= 400
        live = re.search(r'id="live" hx-get="([^"]+)"', refused.text)
        assert live is not None and fresh.get(html.unescape(live[1])).status_code == 200, where


def test_a_policy_is_edited_kept_shown_and_taken_away(fresh: Desk) -> None:
    assert "has no policy" in fresh.get("/policy", **TARGET).text
    fields = POLICY | {
        "min_bytes": "1MiB",
        "max_bytes": "4MiB",
        "lease": "300s",
        "partial": "1",
        "priority": "5",
    }
    answer = fresh.post("/policy", TARGET | fields, "/")
    assert answer.status_code == 303
    shown = fresh.get(answer.headers["location"])
    for value in ("1MiB", "4MiB", "300s", "60s"):
        assert f'value="{value}"' in shown.text
    (kept,) = policies.listed(fresh.place.station)
    assert (kept.min_bytes, kept.max_bytes, kept.lease_s, kept.allow_partial) == (1 << 20, 4 << 20, 300, True)
    assert (kept.priority, kept.sizing, kept.changed_by) == (5, Sizing.AUTOMATIC, "local")
    assert any("--ceiling 4194304" in command for command in commands(shown))
    listed = fresh.get("/tables/policies").text
    assert "1 row" in listed and "/policy?" in listed
    assert fresh.get("/tables/policies/json").json()[0]["min_bytes"] == 1 << 20
    # what is emptied is gone: no ceiling, no lease
    fresh.post("/policy", TARGET | POLICY | {"sizing": "manual", "size_bytes": "2MiB"}, "/")
    (kept,) = policies.listed(fresh.place.station)
    assert (kept.sizing, kept.size_bytes, kept.max_bytes, kept.lease_s) == (
        Sizing.MANUAL,
        2 << 20,
        None,
        None,
    )
    fresh.post("/policy", TARGET | {"do": "remove"}, "/")
    assert policies.listed(fresh.place.station) == []
    assert fresh.post("/policy", TARGET | {"do": "remove"}, "/").status_code == 404


def test_what_is_reserved_follows_a_policy_of_the_page_at_once(fresh: Desk) -> None:
    body = {"target": TARGET, "size_bytes": 1 << 20}
    fresh.client.post("/api/v1/reserve", json=body).raise_for_status()
    fresh.post("/policy", TARGET | POLICY | {"sizing": "manual", "size_bytes": "2MiB"}, "/")
    (asked,) = fresh.place.master.messages(ReservedBufferUpdateRequest)
    assert asked.recommended_bytes == 2 << 20


@pytest.mark.parametrize(
    ("fields", "field"),
    [
        ({"sizing": "manual"}, "size_bytes"),
        ({"sizing": "manual", "size_bytes": "much"}, "size_bytes"),
        ({"min_bytes": "2MiB", "max_bytes": "1MiB"}, "max_bytes"),
        ({"min_change": "1001"}, "min_change"),
        ({"min_interval": "1.5"}, "min_interval"),
        ({"min_interval": "100ms"}, "min_interval"),
        ({"shrink_samples": ""}, "shrink_samples"),
        ({"lease": "5s"}, "lease"),
        ({"priority": "-1"}, "priority"),
    ],
)
def test_a_policy_that_makes_no_sense_is_not_kept(fresh: Desk, fields: dict[str, str], field: str) -> None:
    answer = fresh.post("/policy", TARGET | POLICY | fields, "/")
    assert answer.status_code == 422 and error_at(answer, field)
    assert policies.listed(fresh.place.station) == []


def test_the_audit_trail_is_read_newest_first_searched_paged_checked_and_taken_away(fresh: Desk) -> None:
    assert "Nothing has been changed yet" in fresh.get("/audit").text
    for count in range(1, 61):
        fresh.place.clock.advance(1)
        fresh.client.post("/api/v1/pairs", json={"target": TARGET, "sessions": count}).raise_for_status()
    first = fresh.get("/audit").text
    assert "60 records" in first and "Page 1 of 2" in first and first.count("<code>register</code>") == 50
    last = fresh.get("/audit", page="2").text
    assert last.count("<code>register</code>") == 10 and ">1</td>" in last
    assert fresh.get("/audit", q="no such thing").text.count("<code>register</code>") == 0
    assert fresh.get("/audit", q=LOCAL_OF_PAIR).text.count("<code>register</code>") == 50
    checked = fresh.get("/audit", verify="1").text
    assert "The chain is whole" in checked and "60 records were checked" in checked
    head = re.search(r"60:[0-9a-f]{64}", checked)
    assert head is not None
    assert "The chain is whole" in fresh.get("/audit", head=head[0]).text
    wrong = fresh.get("/audit", head=head[0][:-1] + ("0" if head[0][-1] != "0" else "1")).text
    assert "The chain is broken" in wrong
    assert error_at(fresh.get("/audit", head="x"), "head")
    rows = fresh.get("/audit/json").json()
    assert len(rows) == 60 and rows[0]["number"] == 60
    assert len(fresh.get("/audit/csv").text.splitlines()) == 61
    assert fresh.get("/audit/xml").status_code == 404


LOCAL_OF_PAIR = PAIR["local_port"]


def test_a_viewer_sees_everything_and_no_button_that_changes_something(tmp_path: Path) -> None:
    file = TokenFile(tmp_path / "tokens.json")
    with desk(tmp_path, Security.remote(file, {})) as made:
        now = made.place.station.utc_now()
        texts = {role: file.create(role.value, role, now=now)[1] for role in (Role.VIEWER, Role.OPERATOR)}
        with_group(made)
        made.place.master.rows["reservations"] = [reservation(9) | {"target": TARGET}]
        forms: dict[Role, int] = {}
        for role, text in texts.items():
            made.post("/login", {"token": text, "next": "/"}, "/login")
            forms[role] = 0
            for page in (*PAGES, "/groups/db"):
                answer = made.get(page)
                assert answer.status_code == 200, (role, page)
                found = re.findall(
                    r'<form[^>]*method="post"[^>]*action="([^"]+)"(.*?)</form>', answer.text, re.DOTALL
                )
                acting = [
                    where
                    for where, body in found
                    if "<button" in body and where not in ("/preferences", "/logout")
                ]
                forms[role] += len(acting)
                if role is Role.VIEWER:
                    assert acting == [], page
                    offered = re.findall(r'class="button[^"]*" href="([^"]+)"', answer.text)
                    assert not {"/reserve", "/copies/start", "/groups/create"} & set(offered), page
                    assert "You may look" in answer.text or 'method="post" action="/size"' not in answer.text
            if role is Role.VIEWER:
                refused = made.post("/groups/db/split", {}, "/groups", accept="text/html")
                assert refused.status_code == 403 and "<h1>Not allowed</h1>" in refused.text
                assert "viewer is viewer here" in refused.text and 'href="/groups"' in refused.text
            made.post("/logout", {})
        assert forms[Role.OPERATOR] > 10
        assert made.place.master.messages(PairRequest) == []


def test_a_form_of_a_page_that_is_too_old_is_refused_with_a_page_that_leads_back(fresh: Desk) -> None:
    fresh.client.get("/")
    browser = {"accept": "text/html", "referer": "http://localhost/groups?page=2"}
    old = {"csrf_token": "0" * 64, "theme": "dark"}
    answer = fresh.client.post("/preferences", data=old, headers=browser)
    assert answer.status_code == 403 and "load it again" in answer.text
    assert (
        'href="/groups?page=2"' in answer.text
        and "default-src 'none'" in answer.headers["content-security-policy"]
    )
    away = fresh.client.post("/preferences", data=old, headers=browser | {"referer": "http://evil.example/x"})
    assert "evil.example" not in away.text and 'href="/"' in away.text
    program = fresh.client.post("/preferences", data=old)
    assert program.status_code == 403 and program.json()["code"] == "UNAUTHORIZED"


def test_a_value_in_an_address_that_is_none_and_a_defect_are_answered_with_pages(
    fresh: Desk, monkeypatch: pytest.MonkeyPatch
) -> None:
    wish = {"accept": "text/html"}
    answer = fresh.post("/alarms/x/ack", {}, "/", **wish)
    assert answer.status_code == 422 and "<h1>" in answer.text
    monkeypatch.setattr(trail, "last_number", lambda station: 1 // 0)
    answer = fresh.client.get("/audit", headers=wish | {"connection": "close"})
    assert answer.status_code == 500 and "<h1>" in answer.text and "ZeroDivision" not in answer.text
    assert fresh.client.get("/audit").json()["code"] == "INTERNAL"
