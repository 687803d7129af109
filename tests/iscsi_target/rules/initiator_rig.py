"""The real initiator in front of scripted targets: logins, work under way, and what has to fail."""

from __future__ import annotations

import asyncio
import functools
import inspect
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine
from contextlib import asynccontextmanager
from typing import Any

from iscsi_target.initiator import Initiator
from iscsi_target.session.parameters import Parameters
from iscsi_target.wire.requests import ScsiCommandPdu
from tests.iscsi_target.rules.raw_initiator import BLOCK, ISID, TARGET, TEST_UNIT_READY, read_10, write_10
from tests.iscsi_target.rules.raw_target import RawTarget, TargetSession

_PATIENCE_S = 60
"""For busy machines; where something has to time out, a test says when itself."""


def scripted(body: Callable[..., Coroutine[Any, Any, None]]) -> Callable[..., None]:
    """Run a test that is a coroutine function, within bounded time."""

    @functools.wraps(body)
    def run(*arguments: Any, **named: Any) -> None:
        asyncio.run(asyncio.wait_for(body(*arguments, **named), 100))

    run.__signature__ = inspect.signature(body)  # type: ignore[attr-defined]
    return run


class RawServer:
    """Listens, and hands over connections one by one."""

    def __init__(self, window: int = 32) -> None:
        self.session = TargetSession(window=window)
        self.port = 0
        self._accepted: asyncio.Queue[RawTarget] = asyncio.Queue()
        self._peers: list[RawTarget] = []
        self._server: asyncio.Server | None = None

    async def __aenter__(self) -> RawServer:
        self._server = await asyncio.start_server(self._connected, "127.0.0.1", 0)
        self.port = self._server.sockets[0].getsockname()[1]
        return self

    async def __aexit__(self, *_: object) -> None:
        assert self._server is not None
        self._server.close()
        for peer in self._peers:
            peer.close()
        await self._server.wait_closed()

    def _connected(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._peers.append(RawTarget(reader, writer, self.session))
        self._accepted.put_nowait(self._peers[-1])

    async def accept(self) -> RawTarget:
        """The next connection of the initiator."""
        async with asyncio.timeout(_PATIENCE_S):
            return await self._accepted.get()

    def login(self, **options: Any) -> asyncio.Task[Initiator]:
        """The initiator logs in, in a task of its own."""
        values: dict[str, Any] = {"isid": ISID, "timeout_s": float(_PATIENCE_S)} | options
        return asyncio.create_task(Initiator.login("127.0.0.1", self.port, TARGET, **values))


def parameters(**wishes: Any) -> Parameters:
    """Wishes of the initiator: plain ones, so that a script is short."""
    plain: dict[str, Any] = {
        "header_digest": ("None",),
        "data_digest": ("None",),
        "max_recv_data_segment_length": 8192,
        "max_burst_length": 65536,
        "first_burst_length": 8192,
        "initial_r2t": True,
        "immediate_data": False,
        "default_time2wait": 0,
    }
    return Parameters(**(plain | wishes))


@asynccontextmanager
async def logged_in(
    *,
    window: int = 32,
    answers: dict[str, str] | None = None,
    options: dict[str, Any] | None = None,
    **wishes: Any,
) -> AsyncIterator[tuple[Initiator, RawTarget]]:
    """A session of the real initiator with a scripted target; aborted in the end."""
    async with serving(window=window, answers=answers, options=options, **wishes) as (session, peer, _):
        yield session, peer


@asynccontextmanager
async def serving(
    *,
    window: int = 32,
    answers: dict[str, str] | None = None,
    options: dict[str, Any] | None = None,
    **wishes: Any,
) -> AsyncIterator[tuple[Initiator, RawTarget, RawServer]]:
    """As `logged_in`, with the server, for further connections."""
    async with RawServer(window) as server:
        login = server.login(parameters=parameters(**wishes), **(options or {}))
        peer = await server.accept()
        await peer.log_in(**(answers or {}))
        session = await login
        try:
            yield session, peer, server
        finally:
            await session.abort()


async def fails(work: Awaitable[Any], kind: type[Exception], match: str = "") -> Exception:
    """`work` raises a `kind`; returns it."""
    try:
        async with asyncio.timeout(_PATIENCE_S):
            value = await work
    except kind as error:
        assert match in str(error), f"{match!r} is not in {error!r}"
        return error
    raise AssertionError(f"no {kind.__name__} but {str(value)[:80]}")


def reading(session: Initiator, blocks: int = 1) -> asyncio.Task[bytes]:
    """A read under way; its result are the bytes."""

    async def read() -> bytes:
        return bytes((await session.execute(0, read_10(0, blocks), data_in_length=blocks * BLOCK)).data_in)

    return asyncio.create_task(read())


def writing(session: Initiator, data: bytes) -> asyncio.Task[int]:
    """A write under way; its result is the status."""

    async def write() -> int:
        return (await session.execute(0, write_10(0, len(data) // BLOCK), data_out=data)).status

    return asyncio.create_task(write())


def asking(session: Initiator, lun: int = 0, **options: Any) -> asyncio.Task[int]:
    """A command without data under way; its result is the status."""

    async def ask() -> int:
        return (await session.execute(lun, TEST_UNIT_READY, **options)).status

    return asyncio.create_task(ask())


async def command_of(peer: RawTarget) -> ScsiCommandPdu:
    """The SCSI command that comes next."""
    return await peer.expect(ScsiCommandPdu)
