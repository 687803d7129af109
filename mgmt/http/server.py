"""The server side: sockets, the foreground server, and a server on a thread of its own."""

from __future__ import annotations

import asyncio
import signal
import socket
import stat
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import uvicorn
import uvloop
from starlette.types import ASGIApp

from mgmt.http.address import Address, parse_address
from mgmt.http.application import Guard, end_streams, takes_forms
from mgmt.http.protocol import ConnectionCounts, bounded
from mgmt.http.tls import ServerTls

#: How long requests under way may go on after the order to stop.
GRACE_S = 3.0
#: Connections of one server, those that wait for live data included.
CONNECTION_LIMIT = 512


class ListenError(Exception):
    """The address cannot be listened on (in use, no permission, …); one line."""


@contextmanager
def listening(
    address: str | Address, *, tls: ServerTls | None = None
) -> Iterator[tuple[socket.socket, Address]]:
    """A bound, listening socket and its real address (port 0 becomes the port the system chose).

    A Unix socket has mode 0600; a socket file that nobody listens on any more is replaced, one in use is not;
    the file is removed at the end. TCP without ``tls`` is for loopback only (GAP-22).
    Raises :class:`AddressError`, :class:`ListenError`.
    """
    wanted = parse_address(address) if isinstance(address, str) else address
    if wanted.scheme == "https" and tls is None:
        raise ListenError(
            f"cannot listen on {wanted}: TLS needs a certificate: --tls-cert FILE --tls-key FILE"
        )
    if wanted.scheme != "https" and tls is not None:
        raise ListenError(f"cannot listen on {wanted} with TLS: write https://HOST:PORT")
    if wanted.username or wanted.password:
        raise ListenError(f"cannot listen on {wanted}: a server's address has no user name and no password")
    if not wanted.is_loopback and tls is None:
        raise ListenError(
            f"cannot listen on {wanted}: plain HTTP is for loopback addresses and Unix sockets; elsewhere write "
            "https:// and give --tls-cert FILE --tls-key FILE"
        )
    try:
        bound = _bind_unix(wanted) if wanted.scheme == "unix" else _bind_tcp(wanted)
    except OSError as error:
        reason = (error.strerror or str(error)).lower()
        raise ListenError(f"cannot listen on {wanted}: {reason}") from error
    with bound:
        if wanted.scheme != "unix":
            yield bound, Address(wanted.scheme, host=wanted.host, port=bound.getsockname()[1])
            return
        made = Path(wanted.path).stat().st_ino
        try:
            yield bound, wanted
        finally:
            with suppress(FileNotFoundError):
                if Path(wanted.path).stat().st_ino == made:
                    Path(wanted.path).unlink()


def _bind_tcp(address: Address) -> socket.socket:
    family = socket.AF_INET6 if ":" in address.host else socket.AF_INET
    # The protocol said: by it asyncio knows TCP and sends head and body without waiting for an acknowledgement between.
    bound = socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    try:
        bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        bound.bind((address.host, address.port))
        bound.listen(128)
    except OSError:
        bound.close()
        raise
    return bound


def _bind_unix(address: Address) -> socket.socket:
    path = Path(address.path)
    if path.is_symlink() or path.exists():
        if not stat.S_ISSOCK(path.lstat().st_mode):
            raise ListenError(f"cannot listen on {address}: {path} is there and is not a socket")
        _remove_if_stale(path, address)
    bound = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        bound.bind(address.path)
        path.chmod(0o600)  # before listen(): nobody can connect in between
        bound.listen(128)
    except OSError:
        bound.close()
        raise
    return bound


def _remove_if_stale(path: Path, address: Address) -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        probe.settimeout(1.0)
        try:
            probe.connect(str(path))
        except ConnectionRefusedError:
            path.unlink()
            return
        except FileNotFoundError:
            return
    raise ListenError(f"cannot listen on {address}: address already in use")


def _server(app: ASGIApp, on_ready: Callable[[], None], tls: ServerTls | None) -> Any:
    context = tls.context() if tls is not None else None

    class Server(uvicorn.Server):
        async def startup(self, sockets: list[socket.socket] | None = None) -> None:
            await super().startup(sockets)
            if self.started:
                on_ready()

        async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
            bound = asyncio.create_task(self._give_up())
            end_streams(app)
            try:
                await super().shutdown(sockets)
            finally:
                bound.cancel()

        async def _give_up(self) -> None:
            """Requests still under way are ended (the guard answers 503), then clients that do not read."""
            await asyncio.sleep(GRACE_S)
            for task in list(self.server_state.tasks):
                task.cancel()
            await asyncio.sleep(1.0)
            self.force_exit = True

        @contextmanager
        def capture_signals(self) -> Iterator[None]:
            # Signals are the caller's; uvicorn's own way ends by raising them again, as exit code -15.
            yield

    return Server(
        uvicorn.Config(
            Guard(app, forms=takes_forms(app), any_host=tls is not None),
            log_config=None,
            access_log=False,
            ws="none",
            http=bounded(ConnectionCounts()),
            ssl_context_factory=(lambda _config, _default: context) if context is not None else None,
            server_header=False,
            limit_concurrency=CONNECTION_LIMIT,
            timeout_keep_alive=30,
            proxy_headers=False,
        )
    )


def serve(
    app: ASGIApp,
    address: str | Address,
    on_ready: Callable[[Address], None] | None = None,
    *,
    tls: ServerTls | None = None,
) -> None:
    """Serve ``app`` in this thread until SIGTERM or SIGINT; ``on_ready`` gets the real address.

    Raises :class:`AddressError`, :class:`ListenError`, :class:`mgmt.http.tls.TlsError`.
    """

    async def run() -> None:
        server = _server(app, lambda: on_ready(real) if on_ready else None, tls)

        def stop() -> None:
            server.should_exit = True

        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, stop)
        await server.serve(sockets=[bound])
        if not server.started:
            raise ListenError(f"the server on {real} did not start")

    with listening(address, tls=tls) as (bound, real):
        uvloop.run(run())


class ServerThread:
    """Serve ``app`` on a thread with its own event loop: the control plane beside a data loop.

    ``start()`` returns when requests are answered and raises :class:`AddressError`, :class:`ListenError` or
    :class:`mgmt.http.tls.TlsError`; ``stop()`` lets the requests under way end (3 s at most) and joins the thread.
    Also a context manager.
    """

    def __init__(
        self,
        app: ASGIApp,
        address: str | Address,
        *,
        tls: ServerTls | None = None,
    ) -> None:
        self._app = app
        self._tls = tls
        self.address = parse_address(address) if isinstance(address, str) else address
        self._ready = threading.Event()
        self._server: Any = None
        self._thread: threading.Thread | None = None
        self._listening = listening(self.address, tls=tls)

    def __enter__(self) -> ServerThread:
        return self.start()

    def __exit__(self, *_: object) -> None:
        self.stop()

    def start(self) -> ServerThread:
        """Listen, serve, and wait until ready; afterwards :attr:`address` is the real one."""
        if self._thread is not None:
            raise RuntimeError("the server has been started already")
        self._listening = listening(self.address, tls=self._tls)
        bound, self.address = self._listening.__enter__()
        try:
            self._server = _server(self._app, self._ready.set, self._tls)
        except BaseException:
            self._listening.__exit__(None, None, None)
            raise
        self._thread = threading.Thread(
            target=self._run, args=(bound,), name=f"http {self.address}", daemon=True
        )
        self._thread.start()
        self._ready.wait()
        if not self._server.started:
            self.stop()
            raise ListenError(f"the server on {self.address} did not start")
        return self

    def _run(self, bound: socket.socket) -> None:
        try:
            uvloop.run(self._server.serve(sockets=[bound]))
        finally:
            self._ready.set()

    def stop(self) -> None:
        """Stop serving; nothing happens when not started."""
        if self._thread is None:
            return
        self._server.should_exit = True
        self._thread.join()
        self._thread = None
        self._listening.__exit__(None, None, None)
