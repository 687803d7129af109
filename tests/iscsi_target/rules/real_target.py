"""A real target for raw peers: the server's event loop in a thread, a disk in memory behind it, loopback TCP."""

from __future__ import annotations

import asyncio
import threading
from typing import Any, cast

from iscsi_target.executor import Deferred, LogicalUnits, ScsiCommand, ScsiResult
from iscsi_target.scsi.build import target_device
from iscsi_target.server import Portal, Target, TargetServer
from iscsi_target.session.limits import Limits
from tests.iscsi_target.rules.raw_initiator import ISID, TARGET, VERIFY_10, RawInitiator

LUN_BYTES = 1 << 20
_PATIENCE_S = 60


class HeldUnits:
    """The units of a real device; while `holding`, VERIFY(10) stays in the device server until `let_go` is set."""

    def __init__(self, units: LogicalUnits) -> None:
        self._units = units
        self.let_go = threading.Event()
        self.begun = threading.Event()
        self.holding = False

    def __getattr__(self, name: str) -> Any:
        return getattr(self._units, name)

    def _held(self, command: ScsiCommand) -> bool:
        return self.holding and command.cdb[:1] == VERIFY_10[:1]

    def blocking(self, command: ScsiCommand) -> bool:
        return self._held(command) or self._units.blocking(command)

    def execute(self, command: ScsiCommand) -> ScsiResult | Deferred:
        if self._held(command):
            self.begun.set()
            assert self.let_go.wait(_PATIENCE_S), "nobody let the held command go"
        return self._units.execute(command)


class RealTarget:
    """A served target, until `stop`. `peer` connects a raw initiator, `log_in` takes it to full-feature phase."""

    def __init__(self, *, limits: Limits | None = None, **target: Any) -> None:
        self.units = HeldUnits(target_device(TARGET, [str(LUN_BYTES)]))
        self.server = TargetServer(
            [Target(name=TARGET, logical_units=cast(LogicalUnits, self.units), **target)],
            (Portal("127.0.0.1", 0),),
            # A peer that is held up on a busy machine is waited for all the same.
            limits=limits or Limits(abort_wait_ns=_PATIENCE_S * 1_000_000_000),
        )
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="target under test")
        self._thread.start()
        self._peers: list[RawInitiator] = []
        self.run(self.server.start())

    def run(self, coroutine: Any) -> Any:
        """Run a coroutine in the target's event loop."""
        return asyncio.run_coroutine_threadsafe(coroutine, self._loop).result(_PATIENCE_S)

    def call(self, function: Any, *arguments: Any) -> Any:
        """Call a function in the target's event loop."""

        async def body() -> Any:
            return function(*arguments)

        return self.run(body())

    def peer(self, **options: Any) -> RawInitiator:
        """A raw initiator whose TCP connection is open."""
        portal = self.server.portals[0]
        peer = RawInitiator((portal.host, portal.port), **options)
        self._peers.append(peer)
        return peer

    def log_in(self, *, isid: bytes = ISID, **keys: Any) -> RawInitiator:
        """A raw initiator in full-feature phase, its unit attention taken; `keys` are offered in the login."""
        peer = self.peer(isid=isid)
        peer.log_in(**keys)
        peer.take_unit_attention()
        return peer

    def add_connection(self, first: RawInitiator, cid: int, **keys: Any) -> RawInitiator:
        """A further connection of the session of `first`."""
        peer = self.peer(isid=first.isid, cid=cid, session=first.session)
        peer.log_in(**keys)
        return peer

    def assert_serves(self) -> None:
        """Whatever became of others: a new session works."""
        peer = self.peer(isid=bytes.fromhex("8000000000ff"))
        peer.log_in()
        peer.take_unit_attention()
        peer.assert_alive()
        peer.close()

    def stop(self) -> None:
        """Close everything; raises what the server's end raises."""
        self.units.let_go.set()
        for peer in self._peers:
            peer.close()
        try:
            self.run(self.server.stop())
        finally:
            self._loop.call_soon_threadsafe(self._loop.stop)
            self._thread.join(_PATIENCE_S)
            self._loop.close()
