"""Tokens: made once, hashed, rotated, expired, revoked while a station runs; and sessions that end with them."""

from __future__ import annotations

import json
import os
import stat
import threading
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from mgmt.api.security import tokens
from mgmt.api.security.identity import RIGHTS, Right, Role, right_for
from mgmt.api.security.sessions import LIFETIME_S, Sessions
from mgmt.api.security.tokens import TokenError, TokenFile

NOW = datetime(2026, 1, 1, 12, tzinfo=UTC)
HOUR, DAY = timedelta(hours=1), timedelta(days=1)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "state" / "tokens.json"


def test_a_token_is_known_by_its_text_and_by_nothing_like_it(path: Path) -> None:
    file = TokenFile(path)
    token, text = file.create("ci", Role.OPERATOR, now=NOW)
    assert file.verify(text, NOW) == token
    near = [text[:-1], text + "x", text[:-1] + ("a" if text[-1] != "a" else "b"), text.upper(), f" {text}"]
    other = text.replace(token.token_id, "0" * 12)
    for wrong in (*near, other, "", "sct_", "é" * 60, "x" * 10_000):
        assert file.verify(wrong, NOW) is None, wrong


def test_the_file_holds_no_token_and_is_for_its_owner_alone(path: Path) -> None:
    old = os.umask(0)
    try:
        _, text = TokenFile(path).create("ci", Role.ADMIN, now=NOW)
    finally:
        os.umask(old)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600 and stat.S_IMODE(path.parent.stat().st_mode) == 0o700
    assert text not in path.read_text() and text.rpartition("_")[2] not in path.read_text()


def test_a_token_expires(path: Path) -> None:
    _, text = TokenFile(path).create("ci", Role.VIEWER, now=NOW, lifetime=DAY)
    assert TokenFile(path).verify(text, NOW + DAY - timedelta(seconds=1)) is not None
    assert TokenFile(path).verify(text, NOW + DAY) is None


def test_a_rotated_token_counts_beside_the_new_one_for_a_while(path: Path) -> None:
    file = TokenFile(path)
    _, old = file.create("ci", Role.VIEWER, now=NOW, lifetime=DAY)
    token, new = file.rotate("ci", now=NOW, grace=HOUR)
    assert token.expires_at == NOW + DAY
    assert file.verify(old, NOW) == file.verify(new, NOW) == token
    assert file.verify(old, NOW + HOUR) is None and file.verify(new, NOW + HOUR) == token
    _, newest = file.rotate("ci", now=NOW, grace=timedelta(0), lifetime=2 * DAY)
    assert file.verify(new, NOW) is None and file.verify(old, NOW) is None
    assert file.verify(newest, NOW + DAY) is not None


def test_a_revoked_token_ends_at_once_in_a_station_that_runs(path: Path) -> None:
    running, text = TokenFile(path), TokenFile(path).create("ci", Role.VIEWER, now=NOW)[1]
    assert running.verify(text, NOW) is not None
    TokenFile(path).revoke("ci")
    assert running.verify(text, NOW) is None


def test_a_file_that_is_not_ours_counts_for_nothing_and_is_left_alone(path: Path) -> None:
    file = TokenFile(path)
    _, text = file.create("ci", Role.VIEWER, now=NOW)
    for content in (
        "",
        "[]",
        "{",
        '{"format": 2, "tokens": []}',
        '{"format": 1, "tokens": [{"role": "king"}]}',
    ):
        path.write_text(content)
        assert file.verify(text, NOW) is None
        with pytest.raises(TokenError, match="not in the form"):
            file.create("other", Role.VIEWER, now=NOW)
        assert path.read_text() == content
    path.unlink()
    assert file.verify(text, NOW) is None and file.tokens() == []


@pytest.mark.parametrize("name", ["", "local", "a b", "a\nb", "x" * 65, "ü/"])
def test_a_name_is_short_and_plain_and_not_that_of_this_machine(path: Path, name: str) -> None:
    with pytest.raises(TokenError, match="names no token"):
        TokenFile(path).create(name, Role.VIEWER, now=NOW)


def test_a_name_is_taken_once_and_what_is_not_there_is_said(path: Path) -> None:
    file = TokenFile(path)
    file.create("ci", Role.VIEWER, now=NOW)
    with pytest.raises(TokenError, match="there is a token 'ci'"):
        file.create("ci", Role.ADMIN, now=NOW)
    for change in (lambda: file.revoke("cd"), lambda: file.rotate("cd", now=NOW, grace=HOUR)):
        with pytest.raises(TokenError, match="there is no token 'cd'; there are: ci"):
            change()


def test_two_writers_at_once_lose_nothing(path: Path) -> None:
    def make(first: int) -> None:
        for number in range(first, first + 10):
            TokenFile(path).create(f"t{number}", Role.VIEWER, now=NOW)

    threads = [threading.Thread(target=make, args=(first,)) for first in (0, 10, 20)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(TokenFile(path).tokens()) == 30


def test_there_is_a_limit_to_tokens(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tokens, "TOKEN_LIMIT", 1)
    TokenFile(path).create("a", Role.VIEWER, now=NOW)
    with pytest.raises(TokenError, match="revoke some"):
        TokenFile(path).create("b", Role.VIEWER, now=NOW)


def test_a_state_that_cannot_be_written_is_said_in_one_line(tmp_path: Path) -> None:
    (tmp_path / "state").write_text("a file")
    with pytest.raises(TokenError, match="cannot write the tokens"):
        TokenFile(tmp_path / "state" / "tokens.json").create("ci", Role.VIEWER, now=NOW)


def test_a_session_lasts_as_long_as_its_token_and_no_longer_than_its_time(path: Path) -> None:
    file = TokenFile(path)
    token, _ = file.create("me", Role.OPERATOR, now=NOW)
    sessions = Sessions(file)
    cookie = sessions.open(token, 0)
    assert sessions.find(cookie, 1, NOW) == token and sessions.find("other", 1, NOW) is None
    assert sessions.find(cookie, LIFETIME_S * 10**9, NOW) is None
    cookie = sessions.open(token, 0)
    file.revoke("me")
    assert sessions.find(cookie, 1, NOW) is None
    assert sessions._sessions == {}


def test_the_oldest_session_makes_room(path: Path) -> None:
    file = TokenFile(path)
    token, _ = file.create("me", Role.VIEWER, now=NOW)
    sessions = Sessions(file, limit=2)
    first, second, third = (sessions.open(token, 0) for _ in range(3))
    assert sessions.find(first, 1, NOW) is None
    assert sessions.find(second, 1, NOW) == sessions.find(third, 1, NOW) == token


@pytest.mark.parametrize(
    ("method", "path", "roles"),
    [
        ("GET", "/api/v1/pools", {Role.VIEWER, Role.OPERATOR, Role.ADMIN}),
        ("POST", "/api/v1/reserve", {Role.OPERATOR, Role.ADMIN}),
        ("DELETE", "/anything", {Role.OPERATOR, Role.ADMIN}),
        ("POST", "/api/v1/arrays", {Role.ADMIN}),
        ("POST", "/messages", {Role.ADMIN, Role.PROBE, Role.ARRAY}),
    ],
)
def test_each_request_needs_its_right(method: str, path: str, roles: set[Role]) -> None:
    assert {role for role, rights in RIGHTS.items() if right_for(method, path) in rights} == roles
    assert set(RIGHTS) == set(Role) and set(Right) == RIGHTS[Role.ADMIN]


def test_what_is_written_is_json_with_utc_times(path: Path) -> None:
    TokenFile(path).create("ci", Role.VIEWER, now=NOW, lifetime=HOUR)
    (found,) = json.loads(path.read_text())["tokens"]
    assert (found["name"], found["role"], found["expires_at"]) == (
        "ci",
        "viewer",
        "2026-01-01T13:00:00+00:00",
    )
