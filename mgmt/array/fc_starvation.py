"""How long the Fibre Channel interfaces of an array have had no credit to send with: what a station's alarm of credit
starvation goes by."""

from __future__ import annotations

from collections.abc import Mapping
from concurrent.futures import CancelledError, Future
from concurrent.futures import TimeoutError as FutureTimeout

from fcsim.errors import FibreChannelError
from mgmt.array.fc_port import FcPort
from mgmt.fc.channel import Line, Lines

_ANSWER_S = 5.0


def credit_zero_shares(ports: Mapping[str, FcPort], lines: Lines) -> dict[str, float]:
    """By interface with a link up: the share of the last minute in which frames waited for a credit, on its worst link.

    ``ports`` are the FC interfaces by name, ``lines`` the links that copies have plugged in elsewhere. The minute is
    one of the link's own time. Blocks until the links' event loops have answered, so it is not to be called on one.
    """
    found = {}
    for name, port in ports.items():
        here = port.line()
        links = [*lines.of(port.config.address), *(() if here is None else (here,))]
        shares = [share for line in links if (share := _share(line)) is not None]
        if shares:
            found[name] = max(shares)
    return found


def _share(line: Line) -> float | None:
    """None: the link has gone."""
    answer: Future[float] = Future()

    def look() -> None:
        if not answer.set_running_or_notify_cancel():
            return
        try:
            answer.set_result(line.link.end.statistics().channels[0].tx_wait_shares.last_1m)
        except (FibreChannelError, IndexError) as error:  # it was unplugged just now
            answer.set_exception(error)

    if line.link.closed.done():
        return None
    try:
        line.loop.call_soon_threadsafe(look)
        return answer.result(_ANSWER_S)
    except (FibreChannelError, IndexError, RuntimeError, CancelledError, FutureTimeout):
        answer.cancel()
        return None
