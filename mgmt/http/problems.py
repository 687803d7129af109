"""Errors as RFC 9457 problems, and back.

A problem's extension members are ``code`` (:class:`credits.errors.Code`) and, where the refusal is about units, the
numbers of :class:`credits.errors.Shortage`.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from credits.errors import Code, CreditError, Holder, Refused, Shortage
from mgmt.plain import BadMessage

PROBLEM_TYPE = "application/problem+json"

#: Code → (HTTP status, title). One row per code; the titles are the same words in every answer.
_PROBLEMS: dict[str, tuple[int, str]] = {
    Code.NO_MEMORY: (409, "Not enough free units"),
    Code.INVALID_SIZE: (422, "Not a valid size"),
    Code.INVALID_TARGET: (422, "Not a valid reservation target"),
    Code.NOT_RESERVED: (404, "The target has no reservation"),
    Code.OVER_RESERVATION: (409, "The reservation is used up"),
    Code.BUSY: (409, "In use, or being changed"),
    Code.STALE: (412, "The state has changed since it was read"),
    Code.UNREACHABLE: (502, "The other side could not be reached"),
    Code.UNAUTHORIZED: (403, "Not allowed"),
    Code.RELOGIN_REQUIRED: (409, "The port must log in again"),
    Code.BAD_MESSAGE: (400, "Not a valid message"),
    Code.STORE: (507, "The journal could not be read or written"),
}


class ProblemError(Exception):
    """A refusal of a face of ours that is none of the core's: it has its own code, HTTP status and title."""

    def __init__(self, code: str, detail: str, *, status: int, title: str) -> None:
        super().__init__(detail)
        self.code = code
        self.status = status
        self.title = title


class PeerError(Exception):
    """Root of what a :class:`Peer` raises."""


class PeerUnreachable(PeerError):
    """No answer: nobody listens, the connection broke, or the time was up (exit code 3).

    ``who`` is the other side's name and address; ``detail`` what happened; ``answered`` says that something is
    there, though it is not the server that was meant.
    """

    def __init__(self, who: str, detail: str, *, timed_out: bool = False, answered: bool = False) -> None:
        super().__init__(f"{who} does not answer: {detail}")
        self.who = who
        self.detail = detail
        self.timed_out = timed_out
        self.answered = answered


class PeerRefused(PeerError):
    """The other side answered with a problem.

    ``code`` is one of :class:`credits.errors.Code`, or another word where the answer was no refusal of the
    core (``NOT_FOUND``, ``INTERNAL``); ``problem`` is the whole RFC 9457 object; ``status`` the HTTP status.
    """

    def __init__(self, code: str, title: str, detail: str, problem: dict[str, Any]) -> None:
        super().__init__(detail or title)
        self.code = code
        self.title = title
        self.detail = detail
        self.problem = problem

    @property
    def status(self) -> int:
        """HTTP status of the answer."""
        status = self.problem.get("status")
        return status if type(status) is int and 400 <= status < 600 else 502

    @property
    def shortage(self) -> Shortage | None:
        """The numbers of the refusal, in units, where it carries them."""
        return shortage_of(self.problem)


def problem(error: Exception) -> tuple[int, dict[str, Any]]:
    """HTTP status and RFC 9457 object of an error of ours.

    Takes :class:`CreditError`, :class:`BadMessage`, :class:`PeerRefused` (its problem is passed on as it came),
    :class:`PeerUnreachable` and :class:`ProblemError`; raises ``TypeError`` for any other, which is a defect.
    """
    if isinstance(error, ProblemError):
        return error.status, make_problem(error.code, str(error), status=error.status, title=error.title)
    if isinstance(error, PeerRefused):
        return error.status, dict(error.problem)
    if isinstance(error, CreditError):
        body = make_problem(error.code, str(error))
        if isinstance(error, Refused) and error.shortage is not None:
            body |= _numbers(error.shortage)
        return int(body["status"]), body
    if isinstance(error, BadMessage | PeerUnreachable):
        code = Code.BAD_MESSAGE if isinstance(error, BadMessage) else Code.UNREACHABLE
        body = make_problem(code, str(error))
        return int(body["status"]), body
    raise TypeError(f"{type(error).__name__} is no refusal")


def make_problem(code: str, detail: str, *, status: int | None = None, title: str = "") -> dict[str, Any]:
    """An RFC 9457 object; ``status`` and ``title`` need giving only for codes outside the core's."""
    known_status, known_title = _PROBLEMS.get(code, (status or 500, title))
    return {
        "type": f"/problems/{code.lower().replace('_', '-')}",
        "title": title or known_title,
        "status": status or known_status,
        "detail": detail,
        "code": str(code),
    }


def _numbers(shortage: Shortage) -> dict[str, Any]:
    return {
        "asked_units": shortage.asked_units,
        "free_units": shortage.free_units,
        "expandable_units": shortage.expandable_units,
        "grantable_units": shortage.grantable_units,
        "holders": [{"name": holder.name, "units": holder.units} for holder in shortage.holders],
    }


def shortage_of(body: Mapping[str, Any]) -> Shortage | None:
    """The numbers of a problem, or ``None`` where it carries none (or not all of them, or no integers)."""
    names = ("asked_units", "free_units", "expandable_units", "grantable_units")
    values = [body.get(name) for name in names]
    holders = body.get("holders", [])
    if any(type(value) is not int for value in values) or not isinstance(holders, list):
        return None
    rows = [row for row in holders if isinstance(row, dict) and type(row.get("units")) is int]
    asked, free, expandable, grantable = (int(value or 0) for value in values)
    return Shortage(
        asked, free, expandable, grantable, tuple(Holder(str(row.get("name")), row["units"]) for row in rows)
    )
