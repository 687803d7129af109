# SPDX-License-Identifier: Apache-2.0
"""One connection of the initiator's session: a task that reads into the core and one that writes out of it."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Protocol

from iscsi_target.errors import ConnectionLost, IscsiError, NegotiationError
from iscsi_target.plain_connection import Connection
from iscsi_target.session.chap import AuthenticationFailed
from iscsi_target.session.initiator_connection import InitiatorConnection

ConnectionFactory = Callable[[str, int], Awaitable[Connection]]
"""Makes a byte stream to (host, port)."""


class Owner(Protocol):
    """Who hears of what the connection brought."""

    def dispatch(self) -> None:
        """The cores have events."""
        ...

    def connection_lost(self, link: Link | None, text: str) -> None:
        """The connection is gone."""
        ...


class Link:
    """One connection's two tasks: reading into the core, writing out of it."""

    def __init__(
        self,
        owner: Owner,
        core: InitiatorConnection,
        stream: Connection,
        login: asyncio.Future[object],
    ) -> None:
        self.core = core
        self.leaving = False
        self._owner = owner
        self._stream = stream
        self._login = login
        self._work = asyncio.Event()
        self._tasks: list[asyncio.Task[None]] = []

    def start(self) -> None:
        """Begin to read and write."""
        self._work.set()
        loop = asyncio.get_running_loop()
        self._tasks = [loop.create_task(self._read()), loop.create_task(self._write())]

    def wake(self) -> None:
        """There may be something to write."""
        self._work.set()

    async def stop(self, *, abort: bool) -> None:
        """End both tasks and close the stream."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        if abort:
            self._stream.abort()
        else:
            self._stream.close()

    async def _read(self) -> None:
        try:
            while True:
                chunk = await self._stream.read()
                if not chunk:
                    raise ConnectionLost("the target closed the connection")
                self.core.receive(chunk)
                self._owner.dispatch()
        except (IscsiError, AuthenticationFailed) as error:
            self._fail(error)

    async def _write(self) -> None:
        try:
            while True:
                await self._work.wait()
                self._work.clear()
                while output := self.core.take_output():
                    await self._stream.write(output)
        except IscsiError as error:
            self._fail(error)

    def _fail(self, error: Exception) -> None:
        if not self._login.done():
            if isinstance(error, AuthenticationFailed):
                error = NegotiationError(str(error))
            self._login.set_exception(error)
            return
        self._owner.connection_lost(self, str(error))
