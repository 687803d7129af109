# SPDX-License-Identifier: Apache-2.0
"""SCSI commands over an FCoE endpoint, one awaitable each: for :class:`fcsim.live.fcp.LiveFcpInitiator`."""

from __future__ import annotations

import asyncio
from typing import Any

from fcsim.errors import ExchangeLost, PeerViolation
from fcsim.fcoe.shell import FcoeEndpoint
from fcsim.fcp.initiator import CommandCompleted, ExchangeFailed, FcpInitiator
from fcsim.live.n_port import NPort, PortLoggedOut

__all__ = ["FcoeCommands"]


class FcoeCommands:
    """Commands of ``n_port``, the endpoint's core's, to the first target that it is logged in with.

    Reads wait for each other where their data together would not fit into the endpoint's buffer: nothing else holds a
    target back."""

    def __init__(self, endpoint: FcoeEndpoint, n_port: NPort) -> None:
        self._endpoint, self._n_port = endpoint, n_port
        self._reading_bytes = 0
        self._room = asyncio.Condition()
        self._answers: dict[int, asyncio.Future[CommandCompleted]] = {}
        endpoint.on_event = self._happened

    async def wait_for_target(self) -> FcpInitiator:
        """Until a target is logged in."""
        while not self._n_port.initiators:
            self._endpoint.changed.clear()
            await self._endpoint.changed.wait()
        return next(iter(self._n_port.initiators.values()))

    async def command(
        self, lun: bytes, cdb: bytes, *, data_out: bytes = b"", data_in_length: int = 0
    ) -> CommandCompleted:
        """A command to its response. Raises PeerViolation when it ends without one, ExchangeLost where it may be
        sent again."""
        room_bytes = self._endpoint.room_bytes
        async with self._room:
            await self._room.wait_for(
                lambda: (
                    not (self._reading_bytes and data_in_length)
                    or self._reading_bytes + data_in_length <= room_bytes
                )
            )
            self._reading_bytes += data_in_length
        try:
            return await self._run(lun, cdb, data_out, data_in_length)
        finally:
            async with self._room:
                self._reading_bytes -= data_in_length
                self._room.notify_all()

    async def _run(self, lun: bytes, cdb: bytes, data_out: bytes, data_in_length: int) -> CommandCompleted:
        initiator = await self.wait_for_target()
        now_ps = self._endpoint.now_ps()
        ox_id = initiator.command(lun, cdb, now_ps, data_out=data_out, data_in_length=data_in_length)
        answer = self._answers[ox_id] = asyncio.get_running_loop().create_future()
        self._endpoint.core.handle_timer(now_ps)
        self._endpoint.pump()
        try:
            completed: CommandCompleted = await answer
            return completed
        finally:
            self._answers.pop(ox_id, None)

    def _happened(self, event: Any) -> None:
        if isinstance(event, CommandCompleted | ExchangeFailed):
            answer = self._answers.get(event.ox_id)
            if answer is None or answer.done():
                return
            if isinstance(event, CommandCompleted):
                answer.set_result(event)
            else:
                answer.set_exception(ExchangeLost(event.reason))
        elif isinstance(event, PortLoggedOut):
            for answer in self._answers.values():
                if not answer.done():
                    answer.set_exception(PeerViolation(f"the target is gone: {event.reason}"))
