"""What keeps an array from being brought up."""

from __future__ import annotations


class ConfigurationError(ValueError):
    """The flags or the file do not describe an array; the text is one line (exit code 2)."""


class CannotServe(Exception):
    """The array cannot be brought up: a port in use, a directory that cannot be written; one line (exit code 1)."""
