"""Idempotency-Key: a change asked for twice is made once, and answered the same both times (GAP-5).

The key goes to the array as the request's ID as well, which knows it again after a restart of either side; what is kept
here makes the station's own part of a change (registering, advice, several arrays) the same answer too.
"""

from __future__ import annotations

import hashlib
import json
import threading
from collections import OrderedDict
from collections.abc import Callable
from concurrent.futures import Future
from typing import Annotated, Any

from fastapi import Header

from credits.errors import Code
from mgmt.http.problems import PeerUnreachable, ProblemError

KEY_LIMIT = 2048
_WAIT_S = 30.0

#: The header of RFC-to-be draft-ietf-httpapi-idempotency-key-header.
IdempotencyKey = Annotated[
    str | None,
    Header(
        alias="Idempotency-Key",
        min_length=1,
        max_length=128,
        pattern=r"^[!-~]+$",
        description="The same key with the same body is carried out once, and answered as the first time.",
    ),
]


class Answers:
    """The answers of the newest changes that came with a key. Thread-safe."""

    def __init__(self, limit: int = KEY_LIMIT) -> None:
        self._limit = limit
        self._lock = threading.Lock()
        self._kept: OrderedDict[tuple[str, str], tuple[str, Future[Any]]] = OrderedDict()

    def __len__(self) -> int:
        return len(self._kept)

    def once(self, key: str | None, who: str, what: str, body: Any, carry_out: Callable[[], Any]) -> Any:
        """What ``carry_out`` returns or raises; with a ``key`` of ``who`` that was used before, what it did then.

        A failure that says nothing about the change (nobody answered) is not kept: the next attempt is a new one.
        Raises :class:`ProblemError` where the key was used for something else, or its first use is still under way.
        """
        if key is None:
            return carry_out()
        print_ = hashlib.sha256(json.dumps([what, body], sort_keys=True).encode()).hexdigest()
        with self._lock:
            known = self._kept.get((who, key))
            if known is None:
                future: Future[Any] = Future()
                self._kept[who, key] = print_, future
                while len(self._kept) > self._limit:
                    self._kept.popitem(last=False)
        if known is not None:
            return _repeated(key, known, print_)
        try:
            future.set_result(carry_out())
        except BaseException as error:  # noqa: BLE001 - raised again by result()
            future.set_exception(error)
            if isinstance(error, PeerUnreachable) or not isinstance(error, Exception):
                with self._lock:
                    self._kept.pop((who, key), None)
        return future.result()


def _repeated(key: str, known: tuple[str, Future[Any]], print_: str) -> Any:
    if known[0] != print_:
        raise ProblemError(
            Code.BAD_MESSAGE,
            f"the Idempotency-Key {key!r} was used before, for something else",
            status=422,
            title="Key used twice",
        )
    try:
        return known[1].result(_WAIT_S)
    except TimeoutError:
        raise ProblemError(
            Code.BUSY,
            "the first request with this Idempotency-Key is still under way",
            status=409,
            title="Under way",
        ) from None
