# SPDX-License-Identifier: Apache-2.0
"""The Fibre Channel ports of an array as the measuring device of their links: M1 is answered with M2 (steps 802, 803).

A port that has a link to the other end measures on that, beside what it carries: then the credit-zero time is that of
the traffic. One that has none plugs into the other end's for as long as it takes.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Mapping
from concurrent.futures import CancelledError as FutureCancelled
from concurrent.futures import TimeoutError as FutureTimeout
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Protocol

from credits.errors import Code, CreditError, InvalidRequest
from fcsim.errors import FibreChannelError
from fcsim.live.shell import Address, LiveLink
from mgmt.fc.measure import LinkMeasured, measure_at, measure_link
from mgmt.messages import ChannelInfoGetRequest, ChannelInfoGetResponse

__all__ = ["FcChannels", "Line", "Lines", "MeasuredPort"]

#: ECHOs of one measurement; a line's length does not vary.
_ECHOES = 3
_PATIENCE_S = 20.0


@dataclass(frozen=True, slots=True)
class Line:
    """A link that is up, and the event loop that it runs in."""

    link: LiveLink
    loop: asyncio.AbstractEventLoop


class Lines:
    """Links that copies have plugged into other arrays, by the port (WWPN) that they leave from. Thread-safe."""

    def __init__(self) -> None:
        self._lines: dict[str, list[Line]] = {}
        self._guard = threading.Lock()

    def plugged(self, port: str, link: LiveLink) -> None:
        """A link of this event loop is up; it is forgotten when it has been closed."""
        line = Line(link, asyncio.get_running_loop())
        with self._guard:
            self._lines[port] = [
                *(one for one in self._lines.get(port, ()) if not one.link.closed.done()),
                line,
            ]

    def of(self, port: str) -> list[Line]:
        """Those that may be up."""
        with self._guard:
            return [one for one in self._lines.get(port, ()) if not one.link.closed.done()]


class MeasuredPort(Protocol):
    """A Fibre Channel port of an array; :class:`mgmt.array.fc_port.FcPort` is one."""

    def line(self) -> Line | None:
        """The link that another array has plugged in here."""
        ...


class FcChannels:
    """Measures the links of ``ports`` (by WWPN, with colons), and those that copies have plugged into other arrays.

    ``address_of`` reads where a link is plugged in (``unix:PATH`` or ``HOST:PORT``), or raises ValueError.
    """

    def __init__(
        self,
        ports: Mapping[str, MeasuredPort],
        lines: Lines,
        address_of: Callable[[str], Address],
        utc_now: Callable[[], datetime] = lambda: datetime.now(UTC),
    ) -> None:
        self._ports = ports
        self._lines = lines
        self._address_of = address_of
        self._utc_now = utc_now
        self._one_at_a_time = threading.Lock()

    def answer(self, request: ChannelInfoGetRequest) -> ChannelInfoGetResponse:
        """M2; blocks. Raises :class:`CreditError` (UNREACHABLE) and :class:`InvalidRequest`."""
        here, there = request.local_port, request.remote_port
        if here not in self._ports:
            here, there = there, here
        if here not in self._ports:
            known = ", ".join(self._ports)
            raise InvalidRequest(
                Code.INVALID_TARGET, f"neither port is a Fibre Channel port of this array; it has {known}"
            )
        try:
            measured = self._measure(here, there, request.remote_link)
        except (FibreChannelError, FutureCancelled) as error:
            text = f"the link {here},{there} could not be measured: {str(error) or 'it was unplugged'}"
            raise CreditError(Code.UNREACHABLE, text) from None
        except (TimeoutError, FutureTimeout):
            text = f"the link {here},{there} could not be measured: no answer within {_PATIENCE_S:g} s"
            raise CreditError(Code.UNREACHABLE, text) from None
        return ChannelInfoGetResponse(
            local_port=request.local_port,
            remote_port=request.remote_port,
            bandwidth_bps=measured.bandwidth_bps,
            rtt_ns=measured.rtt_ns,
            measured_at=self._utc_now().isoformat(timespec="milliseconds"),
            method=f"ECHO over the link, {measured.speed}; without credit "
            f"{measured.credit_zero_ppm / 10_000:.2f} % of the time",
            jitter_ns=measured.jitter_ns,
            loss_ppm=measured.loss_ppm,
            credit_zero_ppm=measured.credit_zero_ppm,
        )

    def _measure(self, here: str, there: str, remote_link: str | None) -> LinkMeasured:
        port_name, own_name = (int(port.replace(":", ""), 16) for port in (there, here))
        here_plugged = self._ports[here].line()
        for line in (*self._lines.of(here), *(() if here_plugged is None else (here_plugged,))):
            running = asyncio.run_coroutine_threadsafe(_measured(line.link, port_name), line.loop)
            try:
                if (measured := running.result(_PATIENCE_S)) is not None:
                    return measured
            finally:
                running.cancel()
        if remote_link is None:
            raise CreditError(
                Code.UNREACHABLE,
                f"{there} is not plugged in at {here}, and where it listens is not known",
            )
        try:
            address = self._address_of(remote_link)
        except ValueError as error:
            raise InvalidRequest(Code.INVALID_TARGET, str(error)) from None
        with self._one_at_a_time:  # two would find each other plugged in
            return asyncio.run(
                measure_at(address, port_name=own_name, echoes=_ECHOES, patience_s=_PATIENCE_S)
            )


async def _measured(link: LiveLink, port_name: int) -> LinkMeasured | None:
    """The link, measured; None: the port of that name is not logged in at its other end."""
    if link.closed.done() or port_name not in link.end.n_port.logged_in.values():
        return None
    return await measure_link(link, _ECHOES)
