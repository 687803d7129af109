"""Which failure ends with which exit code and words: 1 not done, 2 wrong usage, 3 not reached."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import click

from credits.errors import CreditError, InvalidRequest

FAILED, USAGE, UNREACHABLE = 1, 2, 3

#: Packages of ours; the name of any other missing module is a library that an extra brings.
OURS = ("credits", "fcsim", "iscsi_target", "mgmt", "tools")

#: Refusal codes of a peer that mean: what was asked makes no sense, whatever the state (exit code 2).
_BAD_VALUES = ("INVALID_SIZE", "INVALID_TARGET", "BAD_MESSAGE")


class Failed(click.ClickException):
    """The thing asked for failed, in one line."""

    exit_code = FAILED


class BadValue(click.ClickException):
    """A bad value or file, in one line."""

    exit_code = USAGE


class Unreachable(click.ClickException):
    """The other side was not reached, in one line."""

    exit_code = UNREACHABLE


def describe(error: Exception) -> tuple[int, str] | None:
    """Exit code and one line for an expected failure; ``None`` for a defect of ours, which keeps its traceback."""
    if isinstance(error, click.UsageError):
        return USAGE, _usage(error)
    if isinstance(error, click.ClickException):
        return error.exit_code, _line(error.format_message())
    if isinstance(error, InvalidRequest):
        return USAGE, _line(str(error))
    if isinstance(error, CreditError):
        return FAILED, _line(str(error))
    for name, judge in _JUDGES.items():
        if name in _lineage(error):
            return judge(error)
    if isinstance(error, ModuleNotFoundError) and error.name and error.name.partition(".")[0] not in OURS:
        return FAILED, f"this needs the library {error.name}: pip install 'sancredit[all]'"
    if isinstance(error, OSError) and error.strerror:
        where = f"{error.filename}: " if error.filename else ""
        return FAILED, _line(f"{where}{error.strerror.lower()}")
    return None


def _lineage(error: Exception) -> list[str]:
    """Names of the error's classes: matched by name, so that a failing command imports nothing for it."""
    return [f"{kind.__module__}.{kind.__qualname__}" for kind in type(error).__mro__]


def _usage(error: click.UsageError) -> str:
    text = _line(error.format_message())
    path = error.ctx.command_path if error.ctx is not None else "sancredit"
    return f"{text.rstrip('.')}; see `{path} --help`"


def _refused(error: Any) -> tuple[int, str]:
    code = str(error.code)
    if code == "NOT_FOUND" and str(error) == "Not Found":  # the path is not there, not the thing asked for
        return (
            FAILED,
            "what answers there does not know this request: is it a sancredit station of this version?",
        )
    if code == "NOT_RESERVED" and "`" not in str(error):
        return FAILED, f"{_line(str(error))}; what is reserved: `sancredit get reservations`"
    if code == "STALE" and "revision" in str(error):
        return FAILED, (
            f"{_line(str(error))} (`sancredit get reservations`), then give --if-revision as it is now, or leave it out"
        )
    if code in ("UNREACHABLE", "STOPPING"):
        return UNREACHABLE, _line(str(error))
    return (USAGE if code in _BAD_VALUES else FAILED), _line(str(error))


def _unreachable(error: Any) -> tuple[int, str]:
    text = _line(str(error))
    if error.who.startswith("the station") and "is it a sancredit station" not in text:
        if error.answered:
            return (
                UNREACHABLE,
                f"{text}: is it a sancredit station? Say where it is (--station, SANCREDIT_STATION)",
            )
        text += "; start it with `sancredit station serve`, or say where it is (--station, SANCREDIT_STATION)"
    return UNREACHABLE, text


_JUDGES: Mapping[str, Callable[[Any], tuple[int, str]]] = {
    "mgmt.http.problems.PeerRefused": _refused,
    "mgmt.http.problems.ProblemError": _refused,
    "mgmt.http.problems.PeerUnreachable": _unreachable,
    "mgmt.http.address.AddressError": lambda error: (USAGE, _line(str(error))),
    "mgmt.http.tls.TlsError": lambda error: (USAGE, _line(str(error))),
    "mgmt.http.server.ListenError": lambda error: (FAILED, _line(str(error))),
    "mgmt.target.table.ConfigurationError": lambda error: (USAGE, _line(str(error))),
    "mgmt.target.process.StartError": lambda error: (FAILED, _line(str(error))),
    "iscsi_target.lio.errors.InvalidDescription": lambda error: (USAGE, _line(str(error))),
    "iscsi_target.lio.errors.LioError": lambda error: (FAILED, _line(str(error))),
    "mgmt.station.database.StationStoreError": lambda error: (FAILED, _line(str(error))),
    "mgmt.station.backup.BackupError": lambda error: (USAGE, _line(str(error))),
}


def _line(text: str) -> str:
    """``text`` on one line without control signs, whatever a peer put into it."""
    return "".join(sign if sign.isprintable() else " " for sign in " ".join(text.split()))
