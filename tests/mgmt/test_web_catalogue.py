"""The catalogues have every message of the page, and nothing else; values are filled into all of them alike."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from babel.messages.catalog import Catalog
from babel.messages.extract import extract_from_dir
from babel.messages.pofile import read_po

import mgmt.web
from credits.sizing import Inputs
from mgmt import sizing
from mgmt.layouts import LAYOUTS
from mgmt.station.records import AlarmKind
from mgmt.web.language import CATALOGUES, LANGUAGES, Language, Languages
from mgmt.web.tables import columns_of
from mgmt.web.words import ALARMS, EXPLANATIONS, HEADINGS, TERMS, TITLES, Words

WEB = Path(mgmt.web.__file__).parent
KEYWORDS = {"_": None, "mark": None, "language": None, "ngettext": (1, 2)}
OTHERS = [tag for tag in LANGUAGES if tag != "en"]


def messages() -> set[str]:
    """Every message in the templates and modules, by its English singular."""
    methods = [("**.py", "python"), ("templates/**.html", "jinja2")]
    found = extract_from_dir(WEB, method_map=methods, keywords=KEYWORDS)
    return {message if isinstance(message, str) else message[0] for _, _, message, _, _ in found}


def catalogue(tag: str) -> Catalog:
    with (CATALOGUES / f"{tag}.po").open("rb") as file:
        return read_po(file, locale=tag, abort_invalid=True)


@pytest.mark.parametrize("tag", OTHERS)
def test_every_message_is_translated_and_none_is_left_over(tag: str) -> None:
    translated = {
        entry.id if isinstance(entry.id, str) else entry.id[0]
        for entry in catalogue(tag)
        if entry.id and entry.string and not entry.fuzzy
    }
    wanted = messages()
    assert len(wanted) > 300  # the extraction finds what there is
    assert translated == wanted


@pytest.mark.parametrize("tag", OTHERS)
def test_a_translation_fills_in_the_values_of_its_message_and_no_others(tag: str) -> None:
    places = re.compile(r"%\(\w+\)s")
    for entry in catalogue(tag):
        ids = entry.id if isinstance(entry.id, tuple | list) else (entry.id,)
        strings = entry.string if isinstance(entry.string, tuple | list) else (entry.string,)
        for string in map(str, strings):
            assert set(places.findall(string)) == set(places.findall(ids[0])), ids[0]
            assert string.count("%") == len(places.findall(string)) or "%(" not in string, ids[0]


def test_what_tables_formulas_and_alarms_say_is_among_the_words() -> None:
    shown = {column.heading for name in TITLES for column in columns_of(name)}
    assert shown <= set(HEADINGS), shown - set(HEADINGS)
    assert set(TITLES) <= set(LAYOUTS) and set(ALARMS) == set(AlarmKind)
    inputs = Inputs(unit_bytes=2048, bandwidth_bps=10**7, rtt_ns=10**6, sessions=2, connections=3)
    for one in sizing.recommendations(sizing.ALL, inputs):
        for term in one.terms:
            assert term.explanation in EXPLANATIONS and term.name in TERMS, term


def test_a_language_is_chosen_by_wish_then_by_what_the_browser_accepts() -> None:
    languages = Languages()
    assert languages.choose("ja", "en").tag == "ja"
    assert languages.choose(None, "xx", accept="fr, ja-JP;q=0.8, en;q=0.9").tag == "en"
    assert languages.choose(accept="ja-JP").tag == "ja"
    for nonsense in (None, "", ";;;,", "ja;q=x", "ja;q=0", "q=1", "," * 5000, "\0"):
        assert languages.choose(accept=nonsense).tag == "en"
    assert languages["xx"].tag == "en"


def test_what_is_not_translated_is_shown_in_english_and_what_is_unknown_as_it_came() -> None:
    language = Language("ja", {"a %(n)s": "b %(n)s"}, {"%(count)s x": "x が %(count)s"})
    assert (language("a %(n)s", n=1), language("c 100 %")) == ("b 1", "c 100 %")
    assert language.plural("%(count)s x", "%(count)s xs", 3) == "x が 3"
    assert Language("en").plural("%(count)s x", "%(count)s xs", 1) == "1 x"
    words = Words(language)
    assert (words.state("moon"), words.tone("moon"), words.heading("MOON")) == ("moon", "quiet", "MOON")
    assert words.refusal("MOON", "no moon") == "no moon" and words.mode(None) == "None"
