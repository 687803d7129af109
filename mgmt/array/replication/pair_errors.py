"""What is wrong with a wish about pairs, in one line each."""

from __future__ import annotations


class PairRefused(ValueError):
    """The wish does not fit what there is; nothing was changed. ``code`` is a word for machines."""

    def __init__(self, code: str, text: str) -> None:
        super().__init__(text)
        self.code = code


class NoSuchGroup(LookupError):
    """There is no group of this name here."""
