"""``/metrics`` over HTTP, in a thread of its own; beside a data loop, :func:`taken_on` has it looked at there.

One scrape at a time; a client that is slow with its request or its answer is cut off.
"""

from __future__ import annotations

import asyncio
import concurrent.futures
import socket
import threading
from collections.abc import Callable, Iterable
from contextlib import suppress
from typing import Any, TypeVar
from wsgiref.simple_server import WSGIRequestHandler, WSGIServer
from wsgiref.types import StartResponse, WSGIEnvironment

from prometheus_client import CollectorRegistry, ProcessCollector, make_wsgi_app
from prometheus_client.registry import Collector

T = TypeVar("T")
_SNAPSHOT_S = 5.0
_REQUEST_S = 10.0


def taken_on(loop: asyncio.AbstractEventLoop, look: Callable[[], T]) -> Callable[[], T]:
    """``look``, called from any thread, on the loop where the counters live: the loop is held up by it alone, and not
    by its being put into words. Raises TimeoutError after 5 s."""

    def snapshot() -> T:
        answer: concurrent.futures.Future[T] = concurrent.futures.Future()

        def take() -> None:
            if not answer.set_running_or_notify_cancel():
                return
            try:
                answer.set_result(look())
            except Exception as error:  # noqa: BLE001 - raised again in the thread that asked
                answer.set_exception(error)

        loop.call_soon_threadsafe(take)
        try:
            return answer.result(_SNAPSHOT_S)
        finally:
            answer.cancel()

    return snapshot


class MetricsServer:
    """Serves what ``collector`` finds, and this process's own figures, as ``/metrics`` at ``host:port`` (port 0: any).

    It does so from `start` to `stop`; the collector is asked in the thread of the scrape. Raises OSError from the
    constructor where the address cannot be bound.
    """

    def __init__(self, host: str, port: int, collector: Collector) -> None:
        registry = CollectorRegistry(auto_describe=False)
        registry.register(collector)
        ProcessCollector(registry=registry)
        kind = _Server6 if ":" in host else _Server
        self._server = kind((host, port), _Handler)
        self._server.set_app(_only_metrics(make_wsgi_app(registry)))
        self._thread = threading.Thread(
            target=self._server.serve_forever, args=(0.1,), name="metrics", daemon=True
        )

    @property
    def address(self) -> tuple[str, int]:
        """Host and actual port."""
        found = self._server.socket.getsockname()
        return str(found[0]), int(found[1])

    def start(self) -> None:
        """Begin to answer."""
        self._thread.start()

    def stop(self) -> None:
        """Stop answering and free the port. Not to be called from the loop while a scrape waits for it: use
        `asyncio.to_thread`."""
        if self._thread.is_alive():
            self._server.shutdown()
            self._thread.join()
        self._server.server_close()


class _Server(WSGIServer):
    request_queue_size = 16

    def server_bind(self) -> None:
        """Bind without asking a name server who we are, as the library would."""
        self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        self.socket.bind(self.server_address)
        self.server_address = self.socket.getsockname()
        self.server_name, self.server_port = "localhost", self.server_address[1]
        self.setup_environ()

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A client that went away or was cut off is nobody's trouble."""


class _Server6(_Server):
    address_family = socket.AF_INET6


class _Handler(WSGIRequestHandler):
    timeout = _REQUEST_S

    def setup(self) -> None:
        super().setup()
        self._cut_off = threading.Timer(_REQUEST_S, self._cut)
        self._cut_off.daemon = True
        self._cut_off.start()

    def finish(self) -> None:
        self._cut_off.cancel()
        super().finish()

    def _cut(self) -> None:
        with suppress(OSError):
            self.connection.shutdown(socket.SHUT_RDWR)

    def log_message(self, format: str, *arguments: Any) -> None:
        """Scrapes are no news."""


Application = Callable[[WSGIEnvironment, StartResponse], Iterable[bytes]]


def _only_metrics(metrics: Application) -> Application:
    """The application at ``/metrics``, for GET; anything else is not there."""

    def answer(environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        if environ.get("PATH_INFO") != "/metrics":
            start_response("404 Not Found", [("Content-Type", "text/plain; charset=utf-8")])
            return [b"the metrics are at /metrics\n"]
        if environ.get("REQUEST_METHOD") != "GET":
            start_response("405 Method Not Allowed", [("Allow", "GET")])
            return [b""]
        return metrics(environ, start_response)

    return answer
