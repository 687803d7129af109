"""What the station and the arrays say in sentences is read back into its message and values, and said in Japanese."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

import mgmt.station
from credits.targets import (
    Target,
    TargetKind,
    application,
    connection,
    new_connection,
    port_pair,
    port_pair_number,
    volume_group_pair,
    volume_pair,
)
from mgmt.station import alarms
from mgmt.station.records import AlarmKind
from mgmt.web.language import Languages
from mgmt.web.phrases import FORETOLD, HAPPENED, REFUSED, SUBJECTS, Phrase
from mgmt.web.words import Words
from tests.mgmt.web_desk import PAIR, TARGET, desk, reservation

STATION = Path(mgmt.station.__file__).parent
JA, EN = (Words(Languages()[tag]) for tag in ("ja", "en"))
JAPANESE = re.compile(r"[\u3040-\u30ff\u4e00-\u9fff]")
#: A value for each place of a message that not every text can stand in.
VALUES = {
    "target": "port pair 10.0.0.1->10.0.1.1",
    "subject": "buffer ID 7",
    "pair": "10.0.0.1->10.0.1.1",
    "other": "10.0.0.2,10.0.1.2",
    "kept": " (3 of them kept for unreserved use)",
    "alarm": "shortage",
    "sizing": "manual",
    "verb": "release",
    "why": "connection refused",
    "share": "20 %",
    "word": "x",
    "array": "east",
}


def filled(message: str) -> str:
    return message % {name: VALUES.get(name, "12") for name in Phrase(message).names}


@pytest.mark.parametrize("message", [*HAPPENED, *FORETOLD, *REFUSED, *SUBJECTS])
def test_a_text_is_read_back_into_its_own_message_and_said_with_all_its_values(message: str) -> None:
    text = filled(message)
    said = JA.said(text)
    assert said.tag == "ja" and JAPANESE.search(said.text), said
    # the fixed parts of the translation of this message stand in it, not those of another that fits as well
    for part in re.split(r"%\(\w+\)s", JA.language(message)):
        assert part in said.text, (message, said.text)
    assert said.text.count("12") >= text.count("12")
    assert EN.said(text) == EN.said(text).__class__(text, "en")


def texts() -> Iterator[tuple[str, str]]:
    """Every text that a module of the station makes for an event, an alarm or an outlook, with 7 for each value."""
    for file in sorted(STATION.glob("*.py")):
        tree = ast.parse(file.read_text())
        for node in ast.walk(tree):
            made: list[ast.expr] = []
            match node:
                case ast.Assign(targets=[ast.Name(id="text")], value=value):
                    made = [value]
                case ast.keyword(arg="text", value=value):
                    made = [value]
                case ast.Call(func=ast.Attribute(value=ast.Name(id="events"), attr="note"), args=args):
                    made = args[4:5]
            for value in made:
                for part in [value.body, value.orelse] if isinstance(value, ast.IfExp) else [value]:
                    if isinstance(part, ast.JoinedStr | ast.Constant):
                        yield f"{file.name}:{part.lineno}", sample(part)


def sample(text: ast.JoinedStr | ast.Constant) -> str:
    if isinstance(text, ast.Constant):
        return str(text.value)
    found = ""
    for part in text.values:
        if isinstance(part, ast.Constant):
            found += str(part.value)
            continue
        assert isinstance(part, ast.FormattedValue)
        name = ast.unparse(part.value)
        found += next((value for key, value in STANDS_FOR.items() if re.search(key, name)), "7")
    return found


#: Name of a value in the station's code → a text that it may have.
STANDS_FOR = {
    r"\.sizing": "automatic",
    r"kind": "shortage",
    r"verb": "reserve",
    r"where": "buffer ID 7 on array 7",
    r"subject|target|wanted$|pair$|^made$": "buffer ID 7",
    r"^units$": "7 on array 7, 7 on array 7",
    r"failed|supposed": "7",
    r"noun": "the session",
    r"more|said": "",
}


def test_everything_that_the_station_says_of_what_happens_is_among_the_messages() -> None:
    found = dict(texts())
    assert len(found) > 30  # the search finds what there is
    unknown = {where: text for where, text in found.items() if JA.said(text).tag != "ja"}
    assert unknown == {}


@pytest.mark.parametrize(
    "target",
    [
        port_pair("10.0.0.1", "10.0.1.1"),
        port_pair_number("10.0.0.1", "10.0.1.1", 3260),
        new_connection("10.0.0.1", "10.0.1.1"),
        connection(7),
        application("nightly"),
        volume_pair("a", "b"),
        volume_group_pair("a", "b"),
    ],
    ids=lambda target: target.kind.value,
)
def test_every_kind_of_target_has_its_words(target: Target) -> None:
    assert isinstance(target.kind, TargetKind)
    assert JA.said(str(target)).tag == "ja"
    assert JAPANESE.search(JA.said(f"{target} has no reservation here").text)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "something that nobody has translated",
        "reserved many units for buffer ID 7 on array M",
        "reserved 7 units for the moon on array M",
        "the size of buffer ID 7 is enormous",
        "refused of buffer ID 7 on array M: no",
        "alarm %(number)s",
        "%s %(why)s %d",
        " on array " * 100 + ": " * 100 + " has " * 100,
        "array x does not answer: " * 40 + "y",
        "\N{ARABIC-INDIC DIGIT SEVEN} bytes are free, the threshold is 7",
    ],
)
def test_a_text_that_no_message_fits_comes_as_it_is_and_is_marked_as_english(text: str) -> None:
    said = JA.said(text)
    if said.tag == "en":
        assert said.text == text
    else:  # as deep as texts are within texts, and what is deeper as it came
        assert said.text.endswith("array x does not answer: y")


def test_events_alarms_and_refusals_are_read_and_searched_in_japanese(tmp_path: Path) -> None:
    with desk(tmp_path) as made:
        made.client.post("/api/v1/pairs", json={"target": TARGET, "sessions": 2}).raise_for_status()
        cause = alarms.Cause(
            kind=AlarmKind.STALE_CHANNEL, subject="channel A,B", text="its values are too old"
        )
        made.place.station.store.database.write(
            lambda transaction: alarms.raise_alarm(transaction, made.place.station, cause)
        )
        events = made.get("/events", lang="ja").text
        assert "値が古すぎます" in events and "its values are too old" not in events
        assert f"通信路 {PAIR['local_port']} → {PAIR['remote_port']} のセッション数は 2" in events
        shown = made.get("/alarms", lang="ja").text
        assert "通信路 A → B" in shown and "値が古すぎます" in shown
        for needle, rows in (("古すぎ", 1), ("too old", 1), ("セッション数", 1), ("そのような", 0)):
            found = made.get("/events", lang="ja", q=needle).text
            assert found.count('<td class="number">') == rows, needle
        assert made.get("/events", q="古すぎ").text.count('<td class="number">') == 0
        assert "its values are too old" in made.get("/events").text
        made.place.master.refuse = lambda message: True
        made.place.master.rows["reservations"] = [reservation(9) | {"target": TARGET}]
        refused = made.post("/reservation/release", TARGET, **{"accept-language": "ja"})
        assert refused.status_code == 409 and "まだ使用中" in refused.text
        assert '<span lang="en">units are in use</span>' in refused.text  # the stand-in's own words
