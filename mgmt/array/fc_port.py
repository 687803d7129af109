"""A Fibre Channel interface of an array: its port group, and the live link whose logins grant what is reserved there.

The reservation stands at the receiver (paragraph 24, spec J.1): the credits of a port pair are receive buffers of this
array's port group, and the login of the other end carries their sum to it as BB_Credit. A link has two ends, so one
other array is plugged in at a time. It runs on a thread of its own, as its target reads and writes disks at once.
"""

from __future__ import annotations

import asyncio
import contextlib
import ipaddress
import logging
import threading
from collections.abc import Callable
from concurrent.futures import Future
from concurrent.futures import TimeoutError as FutureTimeout
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from credits.durable import DurablePool
from credits.errors import CreditError
from credits.targets import Target
from fcsim.errors import FibreChannelError, PeerViolation
from fcsim.live.fcp import end_config
from fcsim.live.link_clock import choose_time_scale
from fcsim.live.live_end import EndConfig, LiveEnd
from fcsim.live.measure import frame_cost_ns
from fcsim.live.shell import Address, LiveLink, listen
from fcsim.port.group import LinkCredits, PortGroup
from fcsim.port.login import Offer
from fcsim.speeds import SPEEDS
from iscsi_target.executor import LogicalUnits
from mgmt.array.description import FcInterface
from mgmt.array.errors import CannotServe, ConfigurationError
from mgmt.array.fc_rows import port_row
from mgmt.fc.channel import Line
from mgmt.fc.executor import LogicalUnitsExecutor

_log = logging.getLogger(__name__)

_ANSWER_S = 5.0
#: After a link that could not be listened for again.
_PAUSE_S = 1.0
#: From a host to its port: a hall.
_HOST_DISTANCE_M = 100


def link_address(text: str) -> Address:
    """``unix:PATH`` or ``HOST:PORT`` on loopback: both ends need one clock. Raises :class:`ConfigurationError`."""
    kind, _, rest = text.partition(":")
    if kind == "unix" and rest:
        return Path(rest)
    host, _, port = text.rpartition(":")
    try:
        if ipaddress.ip_address(host.strip("[]")).is_loopback and 0 <= int(port) <= 65535:
            return host.strip("[]"), int(port)
    except ValueError:
        pass
    raise ConfigurationError(f"{text!r:.200} is no place for a link: write unix:PATH or 127.0.0.1:PORT")


def wwpn_text(port_name: int) -> str:
    """A port name as the tables write it."""
    digits = f"{port_name:016x}"
    return ":".join(digits[at : at + 2] for at in range(0, 16, 2))


def host_ports(config: FcInterface) -> list[FcInterface]:
    """The ports of the group that are for hosts, as interfaces of their own over the same pool."""
    port_name = int(config.address.replace(":", ""), 16)
    return [
        replace(
            config,
            address=wwpn_text(port_name + (number << 16)),
            link=f"{config.link}.{number}",
            unreserved=config.host_credits,
            distance_m=_HOST_DISTANCE_M,
            capture=None,
            host_ports=0,
        )
        for number in range(1, config.host_ports + 1)
    ]


class FcPort:
    """One N_Port, its port group over ``pool``, and the link that is plugged in. ``units`` are what it serves.

    ``stop`` it; :meth:`check` and :meth:`row` may be called on any thread.
    """

    def __init__(self, config: FcInterface, pool: DurablePool, units: LogicalUnits) -> None:
        self.config = config
        self._group = PortGroup(pool)
        self._guard = threading.Lock()
        self._units = units
        self._address = None if config.link is None else link_address(config.link)
        self._time_scale = config.time_scale
        self._loop: asyncio.AbstractEventLoop | None = None
        self._link: LiveLink | None = None
        self._peer: str | None = None
        self._stopping: asyncio.Event | None = None
        self._bound: Future[str] = Future()
        self._thread: threading.Thread | None = None
        self.listening = ""
        """Where the other end plugs in; empty for a port that only calls."""

    # -- life ---------------------------------------------------------------------------------------------------

    def start(self) -> None:
        """Wait for the other end. Raises :class:`CannotServe`."""
        if self._address is None:
            return
        self._thread = threading.Thread(target=self._run, name=f"fc {self.config.name}", daemon=True)
        self._thread.start()
        try:
            self.listening = self._bound.result(_ANSWER_S)
        except (OSError, FutureTimeout) as error:
            reason = (getattr(error, "strerror", None) or str(error) or "no answer").lower()
            raise CannotServe(f"cannot listen for the link {self.config.link}: {reason}") from None

    def stop(self) -> None:
        """Unplug, and end the thread."""
        thread, self._thread = self._thread, None
        if thread is None:
            return
        loop, stopping = self._loop, self._stopping
        if loop is not None and stopping is not None:
            loop.call_soon_threadsafe(stopping.set)
        thread.join(_ANSWER_S)

    # -- the reservation ----------------------------------------------------------------------------------------

    def check(self, target: Target, units: int) -> None:
        """Raises :class:`credits.Refused` (RELOGIN_REQUIRED) for credits beyond what the login has granted."""
        with self._guard:
            self._group.check_granted(target, units)

    def log_in_again(self, target: Target) -> None:
        """Have the link that is plugged in log in anew, where ``target`` has outgrown what its login granted: the other
        end is granted what is reserved now, and the exchanges that are open end."""
        granted, link, loop = self.credits(), self._link, self._loop
        if granted is None or link is None or loop is None or not granted.relogin_required:
            return
        if target.local_port in (None, self.config.address) and target.remote_port in (None, self._peer):
            loop.call_soon_threadsafe(self._go_offline, link)

    def _go_offline(self, link: LiveLink) -> None:
        with contextlib.suppress(FibreChannelError):  # it was unplugged just now
            link.call(lambda end, now_ps: end.log_in_again(end.config.n_port.offer, now_ps))

    def credits(self) -> LinkCredits | None:
        """What the login that stands has granted; ``None`` while nobody is logged in."""
        peer = self._peer
        if peer is None:
            return None
        with self._guard:
            try:
                return self._group.link(self.config.address, peer)
            except CreditError:
                return None

    # -- looking at it ------------------------------------------------------------------------------------------

    def line(self) -> Line | None:
        """The link that is plugged in (:class:`mgmt.fc.channel.MeasuredPort`)."""
        link, loop = self._link, self._loop
        return None if link is None or loop is None else Line(link, loop)

    def row(self) -> dict[str, Any]:
        """The port as ``get ports`` has it, with the counters of the link that is plugged in."""
        statistics = None
        link, loop = self._link, self._loop
        if link is not None and loop is not None:
            try:
                statistics = self._call(loop, lambda: (link.end.statistics(), link.end.traffic))
            except (FutureTimeout, FibreChannelError, RuntimeError):
                statistics = None  # it was unplugged just now
        return port_row(
            self.config, self._peer, self.listening, self.credits(), statistics, self._group.pool.statistics()
        )

    def _call(self, loop: asyncio.AbstractEventLoop, ask: Callable[[], Any]) -> Any:
        answer: Future[Any] = Future()

        def run() -> None:
            try:
                answer.set_result(ask())
            except Exception as error:  # noqa: BLE001 - it is raised where it was asked for
                answer.set_exception(error)

        loop.call_soon_threadsafe(run)
        return answer.result(_ANSWER_S)

    # -- the thread ---------------------------------------------------------------------------------------------

    def _run(self) -> None:
        try:
            asyncio.run(self._serve())
        except OSError as error:
            if not self._bound.done():
                self._bound.set_exception(error)
            else:
                _log.error("the link %s cannot be listened for any more: %s", self.config.link, error)

    async def _serve(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._stopping = asyncio.Event()
        speed = SPEEDS[self.config.speed]
        if self._time_scale is None:
            self._time_scale = choose_time_scale(speed, self.config.distance_m, frame_cost_ns())
        stopping = asyncio.ensure_future(self._stopping.wait())
        while not stopping.done():
            serving = asyncio.ensure_future(self._serve_one_link())
            await asyncio.wait({serving, stopping}, return_when=asyncio.FIRST_COMPLETED)
            if not serving.done():
                serving.cancel()
            try:
                await serving
            except asyncio.CancelledError:
                return
            except FibreChannelError as error:
                _log.warning("link %s: %s", self.config.link, error)
            except OSError as error:
                if not self._bound.done():
                    raise
                _log.warning("link %s: %s", self.config.link, error)
                await asyncio.wait({stopping}, timeout=_PAUSE_S)

    async def _serve_one_link(self) -> None:
        assert self._address is not None
        executor = LogicalUnitsExecutor(self._units)
        mine = end_config(
            self.config.name,
            speed=SPEEDS[self.config.speed],
            distance_m=self.config.distance_m,
            port_name=int(self.config.address.replace(":", ""), 16),
        )
        listener = await listen(
            self._address, mine, partial(self._make_end, executor), time_scale=self._time_scale
        )
        try:
            bound = listener.address
            if not self._bound.done():
                self._bound.set_result(
                    f"unix:{bound}" if isinstance(bound, str) else f"{bound[0]}:{bound[1]}"
                )
                if not isinstance(self._address, Path):
                    self._address = (bound[0], bound[1])  # the next link finds it where this one did
            self._link = link = await listener.accept()
            await asyncio.shield(link.closed)
            if link.error:
                _log.warning("link %s: %s", self.config.link, link.error)
        finally:
            self._link = None
            self._log_out()
            executor.forget()
            await listener.close()

    def _make_end(self, executor: LogicalUnitsExecutor, config: EndConfig, peer_port_name: int) -> LiveEnd:
        """The end of a link whose other end has said who it is: the login grants what is reserved for the pair."""
        peer = wwpn_text(peer_port_name)
        try:
            with self._guard:
                free = self._group.pool.statistics().free_units
                granted = self._group.log_in(self.config.address, peer, min(self.config.unreserved, free))
        except CreditError as error:
            raise PeerViolation(f"no credits for {peer}: {error}") from None
        self._peer = peer
        offer = replace(config.n_port.offer, bb_credit=granted.bb_credit)
        return LiveEnd(config, peer_port_name, executor=executor, offer_now=lambda: self._offer(offer, peer))

    def _offer(self, offer: Offer, peer: str) -> Offer:
        """What the next login grants: what is reserved by then; where the pool has not so much, what it did before."""
        try:
            with self._guard:
                held = self._group.link(self.config.address, peer).unreserved
                most = held + self._group.pool.statistics().free_units
                granted = self._group.log_in(self.config.address, peer, min(self.config.unreserved, most))
        except CreditError as error:
            _log.warning("link %s: the login grants %d credits: %s", self.config.link, offer.bb_credit, error)
            return offer
        return replace(offer, bb_credit=granted.bb_credit)

    def _log_out(self) -> None:
        peer, self._peer = self._peer, None
        if peer is not None:
            with self._guard:
                self._group.log_out(self.config.address, peer)
