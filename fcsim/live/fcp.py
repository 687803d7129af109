# SPDX-License-Identifier: Apache-2.0
"""SCSI over a live link in a few lines: a target at one end, an initiator at the other (SBC-4, FCP-4).

>>> # one process                                        # the other
>>> listener = await listen_as_target(path, executor)    # link = await connect_as_initiator(path)
>>> link = await listener.accept()                       # disk = LiveFcpInitiator(link)
>>> await link.closed                                    # await disk.write(0, bytes(65536))
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Hashable
from functools import partial
from typing import Protocol

from fcsim.errors import ExchangeLost, FibreChannelError, PeerViolation
from fcsim.fcp.executor import ScsiExecutor
from fcsim.fcp.initiator import CommandCompleted
from fcsim.fcp.target import FcpTargetLimits
from fcsim.live.live_end import Capture, EndConfig, LiveEnd, Lose
from fcsim.live.n_port import NPortConfig
from fcsim.live.shell import Address, LiveLink, LiveListener, connect, listen
from fcsim.port.login import Offer
from fcsim.speeds import MAX_PAYLOAD_BYTES, SPEEDS, Speed
from fcsim.wire.frame import Frame

__all__ = [
    "CommandFailed",
    "CommandPath",
    "LiveFcpInitiator",
    "connect_as_initiator",
    "end_config",
    "listen_as_target",
    "port_name_of",
]

_GOOD, _CHECK_CONDITION = 0x00, 0x02
_UNIT_ATTENTION, _ABORTED_COMMAND = 0x06, 0x0B
_TRIES = 6
_READ_16, _WRITE_16, _SYNCHRONIZE_CACHE_16, _SERVICE_ACTION_IN_16 = 0x88, 0x8A, 0x91, 0x9E
_READ_CAPACITY_16, _CAPACITY_BYTES = 0x10, 32
_NAA_IEEE = 0x1 << 60


def port_name_of(name: str) -> int:
    """A worldwide port name that a name always gives: NAA 1 and 48 bits of its SHA-256."""
    return _NAA_IEEE | int.from_bytes(hashlib.sha256(name.encode()).digest()[:6], "big")


def end_config(
    name: str,
    *,
    bb_credit: int = 16,
    bb_sc_n: int = 0,
    payload_bytes: int = MAX_PAYLOAD_BYTES,
    speed: Speed = SPEEDS["8G"],
    distance_m: int = 0,
    port_name: int | None = None,
    wants_targets: bool = False,
) -> EndConfig:
    """One end of a link in the words that matter most; everything else is :class:`EndConfig`'s and its parts'.

    ``bb_credit`` is what this end grants the other: its receive buffers, each for ``payload_bytes`` (256 to 2112, in
    fours). The peer checks the offer at login.
    """
    names = port_name_of(name) if port_name is None else port_name
    offer = Offer(bb_credit, payload_bytes, bb_sc_n)
    n_port = NPortConfig(names, names, offer, wants_targets=wants_targets)
    return EndConfig(name, n_port, speed, distance_m)


async def listen_as_target(
    address: Address,
    executor: ScsiExecutor,
    config: EndConfig | None = None,
    *,
    time_scale: int | None = None,
    limits: FcpTargetLimits | None = None,
    capture: Capture | None = None,
    lose: Lose | None = None,
    share_of: Callable[[Frame], Hashable] | None = None,
) -> LiveListener:
    """Listen at ``address`` as an N_Port that is an FCP target; ``executor`` runs the commands.

    ``config`` decides speed and distance of the link (:func:`end_config`). The logins, and with them the credits, are
    done when :meth:`LiveLink.wait_logged_in` of an accepted link returns. Raises what :func:`listen` does.
    """
    make_end = partial(
        LiveEnd, executor=executor, limits=limits, capture=capture, lose=lose, share_of=share_of
    )
    return await listen(address, config or end_config("target"), make_end, time_scale=time_scale)


async def connect_as_initiator(
    address: Address,
    config: EndConfig | None = None,
    *,
    capture: Capture | None = None,
    lose: Lose | None = None,
    share_of: Callable[[Frame], Hashable] | None = None,
) -> LiveLink:
    """Connect to ``address`` as an N_Port that is an FCP initiator; PLOGI and PRLI are done when this returns.

    ``share_of`` says which reserved share of the credits a frame of this end draws on (:meth:`LiveEnd.reserve`).
    Raises what :func:`connect` does, and PeerViolation when the link ends before the login does.
    """
    make_end = partial(LiveEnd, capture=capture, lose=lose, share_of=share_of)
    link = await connect(address, config or end_config("initiator", wants_targets=True), make_end)
    try:
        await link.wait_logged_in()
    except BaseException:
        await link.close()
        raise
    return link


class CommandFailed(FibreChannelError):
    """A SCSI command ended with another status than GOOD; ``completed`` has it, with the sense data."""

    def __init__(self, completed: CommandCompleted) -> None:
        super().__init__(f"status {completed.status:#04x}, sense {completed.sense.hex() or 'none'}")
        self.completed = completed


class CommandPath(Protocol):
    """What carries commands to one target: a :class:`LiveLink`, or :class:`fcsim.fcoe.commands.FcoeCommands`."""

    async def command(
        self, lun: bytes, cdb: bytes, *, data_out: bytes = b"", data_in_length: int = 0
    ) -> CommandCompleted:
        """Run a command to its response. Raises PeerViolation when it ends without one."""
        ...


class LiveFcpInitiator:
    """Reads and writes blocks of one logical unit of the target at the other end; several commands at a time.

    What a frame got lost of is done again, up to six times in all, as Linux does."""

    def __init__(self, link: CommandPath, *, lun: bytes = bytes(8), block_bytes: int = 512) -> None:
        self._link, self._lun, self._block_bytes = link, lun, block_bytes

    async def command(
        self, cdb: bytes, *, data_out: bytes = b"", data_in_length: int = 0, repeatable: bool = False
    ) -> CommandCompleted:
        """A command that has to end GOOD; told of a unit attention, or that it was aborted, it is sent again. One that
        is ``repeatable`` is sent again when no response came, too. Raises CommandFailed, or PeerViolation."""
        for remaining in reversed(range(_TRIES)):
            try:
                done = await self._link.command(
                    self._lun, cdb, data_out=data_out, data_in_length=data_in_length
                )
            except ExchangeLost:
                if not remaining or not repeatable:
                    raise
                continue
            if done.status == _GOOD:
                return done
            key = done.sense[2] & 0x0F if len(done.sense) > 2 else None
            again = done.status == _CHECK_CONDITION and key in (_UNIT_ATTENTION, _ABORTED_COMMAND)
            if not remaining or not again:
                raise CommandFailed(done)
        raise AssertionError("the last try either returned or raised")

    async def capacity(self) -> tuple[int, int]:
        """READ CAPACITY(16): blocks, and bytes of one; :meth:`read` and :meth:`write` count in these from now on."""
        cdb = (
            bytes((_SERVICE_ACTION_IN_16, _READ_CAPACITY_16))
            + bytes(8)
            + bytes((0, 0, 0, _CAPACITY_BYTES, 0, 0))
        )
        told = (await self.command(cdb, data_in_length=_CAPACITY_BYTES, repeatable=True)).data_in
        if len(told) < 12:
            raise PeerViolation(f"READ CAPACITY(16) brought {len(told)} bytes, not {_CAPACITY_BYTES}")
        last, block_bytes = int.from_bytes(told[:8], "big"), int.from_bytes(told[8:12], "big")
        if not block_bytes:
            raise PeerViolation("READ CAPACITY(16) says that a block has 0 bytes")
        self._block_bytes = block_bytes
        return last + 1, block_bytes

    async def read(self, lba: int, blocks: int) -> bytes:
        """READ(16)."""
        length = blocks * self._block_bytes
        done = await self.command(self._cdb(_READ_16, lba, blocks), data_in_length=length, repeatable=True)
        return done.data_in

    async def write(self, lba: int, data: bytes) -> None:
        """WRITE(16). Raises ValueError for data that are no whole number of blocks."""
        blocks, rest = divmod(len(data), self._block_bytes)
        if rest or not blocks:
            raise ValueError(f"{len(data)} bytes are no whole number of blocks of {self._block_bytes}")
        await self.command(self._cdb(_WRITE_16, lba, blocks), data_out=data, repeatable=True)

    async def flush(self) -> None:
        """SYNCHRONIZE CACHE(16) of the whole unit."""
        await self.command(self._cdb(_SYNCHRONIZE_CACHE_16, 0, 0), repeatable=True)

    @staticmethod
    def _cdb(operation: int, lba: int, blocks: int) -> bytes:
        return bytes((operation, 0)) + lba.to_bytes(8, "big") + blocks.to_bytes(4, "big") + bytes(2)
