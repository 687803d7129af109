"""The answers already given, so that a retry gets the first one again (GAP-5)."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable

from credits.errors import Code, InvalidRequest, Refused
from credits.verbs import Request, Result

#: So many answers are remembered; the oldest are forgotten first.
ANSWERS_LIMIT = 8192
REQUEST_ID_LIMIT = 128


class Answers:
    """Request IDs with what was asked and what was answered, results and refusals alike."""

    def __init__(self, limit: int = ANSWERS_LIMIT) -> None:
        self._limit = limit
        self._given: OrderedDict[str, tuple[str, Result | Refused]] = OrderedDict()

    def recall(self, request_id: str, request: Request) -> Result | None:
        """The earlier result for this request ID; raises the earlier refusal.

        Raises :class:`InvalidRequest` where the ID is no printable text of 1 to 128 characters, or was
        used for something else.
        """
        if (
            not isinstance(request_id, str)
            or not 1 <= len(request_id) <= REQUEST_ID_LIMIT
            or not request_id.isprintable()
        ):
            raise InvalidRequest(
                Code.BAD_MESSAGE, f"a request_id is a printable text of 1 to {REQUEST_ID_LIMIT} characters"
            )
        given = self._given.get(request_id)
        if given is None:
            return None
        asked, answer = given
        if asked != repr(request):
            raise InvalidRequest(
                Code.BAD_MESSAGE, f"request_id {request_id!r} was used before, for something else"
            )
        if isinstance(answer, Refused):
            raise Refused(answer.code, str(answer), answer.shortage)
        return answer

    def keep(self, request_id: str, request: Request, carry_out: Callable[[], Result]) -> Result:
        """Carry a request out and remember how that ended.

        A refusal is remembered too: were a late duplicate granted, nobody would know of the reservation.
        """
        try:
            answer = carry_out()
        except Refused as refusal:
            self.remember(request_id, repr(request), refusal)
            raise
        self.remember(request_id, repr(request), answer)
        return answer

    def remember(self, request_id: str, request_text: str, answer: Result | Refused) -> None:
        """Keep the answer; ``request_text`` is the request's ``repr``."""
        self._given[request_id] = request_text, answer
        while len(self._given) > self._limit:
            self._given.popitem(last=False)
