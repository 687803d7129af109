"""The page's languages: English as the templates have it, and gettext catalogues read as ``.po`` (docs/adr/0008)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

CATALOGUES = Path(__file__).parent / "catalogues"
#: Language tag → what it is called in itself.
LANGUAGES: Mapping[str, str] = {"en": "English", "ja": "日本語"}
DEFAULT = "en"
_HEADER_LIMIT = 512


def mark(message: str) -> str:
    """``message``, to be found by the extraction and translated where it is shown."""
    return message


@dataclass(frozen=True, slots=True)
class Language:
    """One language; calling it translates. ``%(name)s`` in a message is filled from the keyword arguments."""

    tag: str
    messages: Mapping[str, str] = field(default_factory=dict, repr=False)
    plurals: Mapping[str, str] = field(default_factory=dict, repr=False)
    """By the English singular; for languages with one form. English has its two in the templates."""

    def __call__(self, message: str, **values: object) -> str:
        """``message`` in this language; the English where there is no translation."""
        text = self.messages.get(message, message)
        return text % values if values else text

    def plural(self, singular: str, plural: str, number: int) -> str:
        """The form for ``number``, which is ``%(count)s`` in it."""
        text = self.plurals.get(singular) or (singular if number == 1 else plural)
        return text % {"count": f"{number:,}"}


class Languages:
    """All languages, read once. Raises what :func:`babel.messages.pofile.read_po` does on a broken catalogue."""

    def __init__(self, directory: Path = CATALOGUES) -> None:
        self._by_tag = {tag: _read(directory, tag) for tag in LANGUAGES}

    def __getitem__(self, tag: str) -> Language:
        return self._by_tag.get(tag, self._by_tag[DEFAULT])

    def choose(self, *wishes: str | None, accept: str | None = None) -> Language:
        """The first of the ``wishes`` that is a language here, else by the ``Accept-Language`` header, else English."""
        for wish in (*wishes, *_accepted(accept)):
            if wish in self._by_tag:
                return self._by_tag[wish]
        return self._by_tag[DEFAULT]


def _accepted(header: str | None) -> list[str]:
    """The primary tags of an ``Accept-Language`` header (RFC 9110, 12.5.4), the most wanted first."""
    found: list[tuple[float, int, str]] = []
    for place, part in enumerate((header or "")[:_HEADER_LIMIT].split(",")):
        name, _, weight = part.strip().partition(";")
        try:
            quality = float(weight.strip().removeprefix("q=")) if weight else 1.0
        except ValueError:
            continue
        if quality > 0:
            found.append((-quality, place, name.strip().partition("-")[0].lower()))
    return [tag for _, _, tag in sorted(found)]


def _read(directory: Path, tag: str) -> Language:
    if tag == DEFAULT:
        return Language(tag)
    from babel.messages.pofile import read_po

    with (directory / f"{tag}.po").open("rb") as file:
        catalogue = read_po(file, locale=tag, abort_invalid=True)
    messages: dict[str, str] = {}
    plurals: dict[str, str] = {}
    for message in catalogue:
        if not message.id or message.fuzzy or not message.string:
            continue
        if isinstance(message.id, tuple | list):
            plurals[message.id[0]] = message.string[0]
        else:
            messages[message.id] = str(message.string)
    return Language(tag, messages, plurals)
