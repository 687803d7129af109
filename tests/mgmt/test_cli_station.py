"""The verbs of alarms, events, policies, undo, audit and what-if: the command line against a real station's API.

The tables are held to golden texts, with Japanese names in them.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from credits.targets import port_pair, port_pair_number
from mgmt.api.app import make_app
from mgmt.cli.main import main
from mgmt.http import ServerThread
from mgmt.station import alarms, channels, registry, reservations
from mgmt.station.alarms import Cause
from mgmt.station.database import Transaction
from mgmt.station.records import AlarmKind, Severity
from mgmt.station.store import open_store
from tests.mgmt.databases import PASSWORD, Server
from tests.mgmt.pool_arrays import LOCAL, REMOTE, SECOND, SECOND_REMOTE, UNIT, Yard, yard

PAIR, OTHER = port_pair(LOCAL, REMOTE), port_pair(SECOND, SECOND_REMOTE)
NAMED = ["--port-pair", f"{LOCAL},{REMOTE}"]


def golden(name: str) -> str:
    """The text that a command is held to."""
    return (Path(__file__).parent / "golden" / f"station-{name}.txt").read_text()


@dataclass
class Desk:
    """Somebody at a terminal: commands that reach the station."""

    place: Yard
    address: str
    capsys: pytest.CaptureFixture[str]
    said: str = ""

    def __call__(self, *words: str, code: int = 0) -> str:
        """What a command wrote on stdout; ``said`` is what it wrote on stderr."""
        self.capsys.readouterr()
        found = main([*words, "--station", self.address])
        out, self.said = self.capsys.readouterr()
        assert found == code, (words, found, out, self.said)
        return out


@pytest.fixture
def desk(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Iterator[Desk]:
    with yard(tmp_path, lambda: open_store(tmp_path / "state")) as place:
        address = f"unix:{tmp_path}/station.sock"
        with ServerThread(make_app(place.station), address):
            yield Desk(place, address, capsys)


def raised(desk: Desk, *causes: Cause) -> None:
    def change(transaction: Transaction) -> None:
        for cause in causes:
            alarms.raise_alarm(transaction, desk.place.station, cause)

    desk.place.station.store.database.write(change)


SHORT = Cause(kind=AlarmKind.SHORTAGE, subject="東京→大阪", text="50 ユニット不足", array="東京")
DOWN = Cause(
    kind=AlarmKind.ARRAY_DOWN,
    subject="array 大阪",
    text="it does not answer: no connection in 5 s, and nobody knows why it does not",
    severity=Severity.CRITICAL,
    array="大阪",
)


def test_alarms_are_shown_and_acknowledged(desk: Desk) -> None:
    raised(desk, SHORT, DOWN)
    assert desk("get", "alarms") == golden("alarms")
    assert desk("alarm", "ack", "1", "--note", "見ています") == (
        "alarm 1 (shortage, 東京→大阪) is acknowledged\n"
    )
    (row,) = json.loads(desk("get", "alarms", "--kind", "shortage", "-o", "json"))
    assert (row["state"], row["note"], row["acknowledged_by"]) == ("acknowledged", "見ています", "local")
    assert desk("get", "alarms", "--array", "大阪", "--no-headers", "-o", "csv").startswith(
        "2,array-down,critical"
    )
    assert "no alarm 9" in (desk("alarm", "ack", "9", code=1) or desk.said)


def test_events_and_the_audit_trail_tell_what_happened(desk: Desk) -> None:
    desk("reserve", *NAMED, "--size", str(40 * UNIT))
    desk("update", *NAMED, "--size", str(60 * UNIT))
    desk("release", *NAMED)
    assert desk("get", "events") == golden("events")
    assert desk("audit", "show") == golden("audit")
    words = desk("audit", "verify")
    assert words.startswith("the audit trail is sound: 6 records, head 6:")
    head = words.split()[-1]
    assert json.loads(desk("audit", "verify", "--head", head, "-o", "json"))["sound"] is True
    assert "written anew" in desk("audit", "verify", "--head", "6:" + "0" * 64, code=1)
    desk("audit", "verify", "--head", "nonsense", code=2)
    assert "a head is NUMBER:HASH" in desk.said


def test_undo_says_what_is_now(desk: Desk) -> None:
    desk("reserve", *NAMED, "--size", str(40 * UNIT))
    assert (
        desk("undo") == "undone: change 2 (reserve)\nport pair 192.0.2.1->192.0.2.2 on array M is released\n"
    )
    desk("undo", code=1)
    assert "no change of a user to undo" in desk.said


def test_a_policy_is_made_changed_shown_and_removed(desk: Desk) -> None:
    desk("policy", "set", *NAMED, "--automatic", "--floor", "64KiB", "--priority", "5")
    desk("policy", "set", *NAMED, "--ceiling", "1MiB", "--lease", "60s")
    desk("policy", "set", "--application", "複製", "--size", "2MiB")
    assert desk("policy", "show") == golden("policies")
    row = json.loads(desk("policy", "show", "-o", "json"))[1]
    assert (row["min_bytes"], row["max_bytes"], row["priority"], row["lease_s"]) == (65536, 1048576, 5, 60)
    assert "has no policy any more" in desk("policy", "remove", *NAMED)
    desk("policy", "remove", *NAMED, code=1)
    desk("policy", "set", *NAMED, "--automatic", "--size", "5", code=2)
    desk("policy", "set", *NAMED, "--lease", "1500ms", code=2)
    desk("policy", "set", *NAMED, "--floor", "2MiB", "--ceiling", "1MiB", code=2)
    assert "below the smallest" in desk.said


def test_a_failure_of_a_channel_is_foretold_with_the_ways_out(desk: Desk) -> None:
    place = desk.place
    place.probe.rtt_ns = 80_000_000
    for target in (PAIR, OTHER):
        channels.register(place.station, target)
        reservations.reserve(place.station, target)
    reservations.reserve(place.station, port_pair_number(SECOND, SECOND_REMOTE, 7), size_bytes=2750 * UNIT)
    failure = ["preview", "--failure", f"{LOCAL},{REMOTE}", "--if", "rtt=120ms"]
    assert desk(*failure, code=1) == golden("failure")
    assert "1 of 2 reservations would run short" in desk.said
    (row,) = json.loads(desk(*failure, "-o", "json", code=1))
    assert row["shortages"] == 1 and row["steps"][0]["target"]["remote_port_number"] == 7
    grown = desk("preview", "--channel", f"{LOCAL},{REMOTE}", "--if", "rtt=81ms")
    assert "keep" in grown
    desk("preview", "--channel", f"{LOCAL},{REMOTE}", code=2)
    desk("preview", *NAMED, "--onto", "a,b", code=2)
    desk(*failure, *NAMED, code=2)
    desk("preview", "--failure", "10.0.0.1,10.0.0.2", code=1)
    assert "register it first" in desk.said


def test_the_history_of_a_channel_is_a_table(desk: Desk) -> None:
    channels.register(desk.place.station, PAIR)
    channels.measure(desk.place.station, LOCAL, REMOTE)
    assert desk("get", "history", *NAMED) == golden("history")
    desk("get", "history", *NAMED, "--since", "yesterday", code=2)
    assert "\n" not in desk.said.strip()


def test_an_array_is_added_and_removed_by_command(desk: Desk) -> None:
    assert "is not of this station any more" in desk("array", "remove", "R")
    assert "東京   up" in desk("array", "add", "東京", desk.place.address("R"))
    assert registry.remembered(desk.place.station.store).keys() == {"東京"}
    desk("array", "add", "a/b", "unix:/x", code=2)
    desk("array", "add", "x", "nonsense", code=2)
    desk("array", "remove", "nobody", code=2)


def test_a_backup_and_a_restore_by_command(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    open_store(tmp_path / "one").close()
    file, state = str(tmp_path / "b"), ["--state", str(tmp_path / "two")]
    assert main(["station", "backup", "--state", str(tmp_path / "one"), file]) == 0
    assert main(["station", "restore", *state, file]) == 0
    assert "rows as of" in capsys.readouterr().out
    (tmp_path / "b").write_text("spoiled")
    assert main(["station", "restore", *state, "--replace", file]) == 2
    assert "no backup of a station" in capsys.readouterr().err


@pytest.mark.parametrize(
    "words",
    [["--store", "mysql://u:secret@h/d"], ["--store", "postgresql://u@h/d", "--store-password-file", "open"]],
)
def test_a_store_or_password_that_cannot_be_used_is_one_line_without_secrets(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], words: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "open").write_text("secret")
    (tmp_path / "open").chmod(0o644)
    assert main(["station", "backup", *words, "file"]) == 2
    said = capsys.readouterr().err
    assert said.count("\n") == 1 and "secret" not in said


@pytest.mark.slow
def test_the_password_of_a_database_comes_from_a_file_or_the_environment(
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    postgresql: Callable[[], Server],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    at = postgresql()
    url = at.url(at.make_database())
    open_store(None, url, password=PASSWORD).close()
    secret = tmp_path / "password"
    secret.touch(0o600)
    secret.write_text(PASSWORD + "\n")
    backup = ["station", "backup", "--store", url]
    assert main([*backup, "--store-password-file", str(secret), str(tmp_path / "a")]) == 0
    monkeypatch.setenv("SANCREDIT_STORE_PASSWORD", PASSWORD)
    assert main([*backup, str(tmp_path / "b")]) == 0
    monkeypatch.setenv("SANCREDIT_STORE_PASSWORD", "something wrong")
    capsys.readouterr()
    assert main([*backup, str(tmp_path / "c")]) == 1
    said = capsys.readouterr().err
    assert said.count("\n") == 1 and "something wrong" not in said and not (tmp_path / "c").exists()


def test_what_is_tried_out_is_said_and_not_done(desk: Desk) -> None:
    both = desk("reserve", *NAMED, "--size", f"{4 * UNIT}", "--both-ends", "--dry-run").splitlines()
    assert [line.partition(" on array ")[2][0] for line in both] == ["M", "R"]
    assert all("0 -> 4 units (+4), free 3000 -> 2996" in line for line in both)
    assert desk.place.master.reserved() == desk.place.remote.reserved() == {}
    desk("reserve", *NAMED, "--size", f"{4 * UNIT}")
    assert desk("release", *NAMED, "--dry-run") == (
        f"would release 4 units of {PAIR} on array M: free 2996 -> 3000\n"
    )
    assert desk.place.master.reserved() == {str(PAIR): 4}
    revision = json.loads(desk("release", *NAMED, "--dry-run", "-o", "json"))["revision"]
    late = [*NAMED, "--if-revision", str(revision - 1)]
    size = ["--size", f"{9 * UNIT}"]
    for words in (["release"], ["release", "--dry-run"], ["update", *size], ["update", *size, "--dry-run"]):
        desk(*words, *late, code=1)
        assert desk.said == (
            f"sancredit: the reservations have changed: revision {revision - 1} was expected, it is {revision} now; "
            "read them again (`sancredit get reservations`), then give --if-revision as it is now, or leave it out\n"
        )
    desk("release", *NAMED, "--if-revision", str(revision))
    assert desk.place.master.reserved() == {}
