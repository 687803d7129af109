"""The measuring device as a process: answers the management station's M1 with M2, and other devices' probes.

The same program stands at both sites (spec B, parts 3 to 5): at the master site it measures when asked, at the
remote site it responds. M1 is answered for the remote ports it has been given a peer device for.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import partial
from ipaddress import ip_address
from typing import TYPE_CHECKING

from credits.errors import Code, CreditError, InvalidRequest
from mgmt.channel.dispersion import NotMeasurable, check_measured
from mgmt.channel.endpoint import measure
from mgmt.channel.measurement import Measured
from mgmt.messages import BadMessage, ChannelInfoGetRequest, ChannelInfoGetResponse, Envelope, Message

if TYPE_CHECKING:
    from starlette.types import ASGIApp

#: How a channel is measured from an address to a peer device; :func:`mgmt.channel.endpoint.measure` is one.
Measure = Callable[[str, tuple[str, int]], Measured]


class PeerDeviceError(ValueError):
    """The text does not name a peer device."""


@dataclass(frozen=True, slots=True)
class PeerDevice:
    """The responder that stands for ``remote_port``."""

    remote_port: str
    host: str
    port: int


def parse_peer(text: str) -> PeerDevice:
    """``HOST:PORT``, or ``REMOTE_PORT=HOST:PORT`` where the device does not share the port's address."""
    head, sign, tail = text.rpartition("=")
    host, colon, port = tail.rpartition(":")
    try:
        address = str(ip_address(host.strip("[]")))
        remote_port = str(ip_address(head)) if sign else address
        if not colon or not port.isascii() or not port.isdigit() or not 1 <= int(port) <= 65535:
            raise ValueError(port)
    except ValueError:
        raise PeerDeviceError(
            f"{text!r:.120} is not a peer device: write ADDRESS:PORT or REMOTE-PORT-ADDRESS=ADDRESS:PORT"
        ) from None
    return PeerDevice(remote_port, address, int(port))


class ChannelManager:
    """Answers M1 (step 802) by measuring (step 803); one measurement at a time, since two would see each other."""

    def __init__(
        self,
        address: str,
        peers: Mapping[str, PeerDevice],
        *,
        key: bytes | None = None,
        measurer: Measure | None = None,
        utc_now: Callable[[], datetime] = lambda: datetime.now(UTC),
    ) -> None:
        self._address = address
        self._peers = dict(peers)
        self._measurer = measurer or partial(measure, key=key)
        self._utc_now = utc_now
        self._one_at_a_time = threading.Lock()

    def handle(self, envelope: Envelope) -> Message:
        """The answer to one message. Raises :class:`CreditError` and :class:`BadMessage`."""
        request = envelope.message
        if not isinstance(request, ChannelInfoGetRequest):
            raise BadMessage(f"a measuring device does not answer {type(request).__name__}")
        peer = self._peers.get(_canonical(request.remote_port))
        if peer is None:
            known = ", ".join(self._peers) or "none"
            raise InvalidRequest(
                Code.INVALID_TARGET,
                f"no measuring device is known for {request.remote_port:.80}; known: {known}",
            )
        measured = self.measure(peer)
        limit = "at least: the sender could send no faster; " if measured.sender_limited else ""
        return ChannelInfoGetResponse(
            local_port=request.local_port,
            remote_port=request.remote_port,
            bandwidth_bps=measured.bandwidth_bps,
            rtt_ns=measured.rtt_ns,
            measured_at=self._utc_now().isoformat(timespec="milliseconds"),
            method=f"{limit}UDP packet trains and STAMP, {self._address} to {peer.host}",
            jitter_ns=measured.jitter_ns,
            loss_ppm=measured.loss_ppm,
        )

    def measure(self, peer: PeerDevice) -> Measured:
        """Measure the channel to ``peer`` once nobody else measures. :class:`CreditError`: it cannot be measured."""
        with self._one_at_a_time:
            try:
                measured = self._measurer(self._address, (peer.host, peer.port))
                check_measured(measured.bandwidth_bps, measured.rtt_ns)
            except NotMeasurable as error:
                detail = f"the device at {peer.host}:{peer.port} could not be measured: {error}"
                raise CreditError(Code.UNREACHABLE, detail) from None
            except OSError as error:
                detail = f"the device at {peer.host}:{peer.port} does not answer: {error.strerror}"
                raise CreditError(Code.UNREACHABLE, detail) from None
        return measured

    def app(self) -> ASGIApp:
        """The HTTP application: ``POST /messages``."""
        from starlette.applications import Starlette
        from starlette.routing import Route

        from mgmt.http import exception_handlers, message_endpoint

        route = Route("/messages", message_endpoint(self.handle), methods=["POST"])
        return Starlette(routes=[route], exception_handlers=exception_handlers())


def _canonical(address: str) -> str:
    try:
        return str(ip_address(address))
    except ValueError:
        return address
