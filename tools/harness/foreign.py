"""Any iSCSI target in the world as the target of tests, by its URL: read at will, written to only where it was allowed.

``--target=iscsi://[USER%SECRET@]HOST:PORT/IQN/LUN``, and ``--allow-writes=LUN`` for each LUN that may be destroyed.
"""

from __future__ import annotations

import re
from collections.abc import Awaitable, Callable, Collection, Coroutine
from concurrent.futures import Future
from dataclasses import dataclass, field
from typing import Any, TypeVar
from urllib.parse import unquote

from iscsi_target.executor import Buffer
from iscsi_target.initiator import Initiator
from iscsi_target.scsi_commands import ScsiAnswer
from iscsi_target.session.chap import Chap, Credentials
from tools.harness.errors import HarnessError
from tools.harness.initiator import BlockingInitiator
from tools.harness.loop_thread import LoopThread

T = TypeVar("T")
_URL = re.compile(
    r"iscsi://(?:([^%@/]+)%([^@/]*)@)?(\[[0-9A-Fa-f:.]+\]|[^:/@]+)(?::(\d{1,5}))?/([^/\s]+)/(\d{1,5})"
)
#: Operation codes that change nothing on the medium and nothing for other initiators (SPC-4, SBC-3).
READING = frozenset(
    (
        *(0x00, 0x03, 0x08, 0x12, 0x1A, 0x25, 0x28, 0x34, 0x37, 0x3C, 0x4D, 0x5A, 0x5E),
        *(0x84, 0x88, 0x8C, 0x90, 0x9E, 0xA0, 0xA3, 0xA8, 0xB7),
    )
)


class WritesNotAllowed(HarnessError):
    """A test wanted to change a target that was given by its URL, without leave."""


@dataclass(frozen=True, slots=True)
class Location:
    """Where a target is. The secret does not show."""

    host: str
    port: int
    iqn: str
    lun: int
    user: str = ""
    secret: str = field(default="", repr=False)

    def __str__(self) -> str:
        who = f"{self.user}%***@" if self.user else ""
        return f"iscsi://{who}{self.host}:{self.port}/{self.iqn}/{self.lun}"


def parse_location(text: str) -> Location:
    """The parts of a URL. Raises ValueError; the text has no secret in it."""
    match = _URL.fullmatch(text)
    if match is None or not 0 < int(match[4] or 3260) < 65536:
        raise ValueError("a target is emulator, lio, or iscsi://[USER%SECRET@]HOST[:PORT]/IQN/LUN")
    user, secret, host, port, iqn, lun = match.groups()
    return Location(
        host.removeprefix("[").removesuffix("]"),
        int(port or 3260),
        iqn,
        int(lun),
        unquote(user or ""),
        unquote(secret or ""),
    )


class GuardedInitiator(BlockingInitiator):
    """A session that changes nothing on LUNs other than ``writable``; see :data:`READING`."""

    writable: Collection[int] = ()

    def _check(self, lun: int, what: str) -> None:
        if lun not in self.writable:
            raise WritesNotAllowed(
                f"{what} would change LUN {lun} of a target that was given by its URL: --allow-writes={lun} lets it"
            )

    def write(self, lba: int, data: Buffer, *, lun: int = 0) -> None:
        """WRITE(16), where it is allowed."""
        self._check(lun, "WRITE")
        super().write(lba, data, lun=lun)

    def execute(self, cdb: bytes, *, lun: int = 0, **options: Any) -> ScsiAnswer:
        """Any CDB that reads; others where it is allowed."""
        if cdb[0] not in READING or options.get("data_out"):
            self._check(lun, f"operation code {cdb[0]:02X}h")
        return super().execute(cdb, lun=lun, **options)

    def synchronize_cache(self, *, lun: int = 0) -> None:
        """SYNCHRONIZE CACHE(16), where it is allowed."""
        self._check(lun, "SYNCHRONIZE CACHE")
        super().synchronize_cache(lun=lun)

    def task_management(self, function: int, *, lun: int = 0, **referenced: int) -> int:
        """A task management function, where changes are allowed: resets are for everybody."""
        self._check(lun, "task management")
        return super().task_management(function, lun=lun, **referenced)

    def call(self, work: Callable[[Initiator], Coroutine[Any, Any, T]]) -> T:
        """See :meth:`submit`."""
        self._check_any()
        return super().call(work)

    def submit(self, work: Callable[[Initiator], Coroutine[Any, Any, T]]) -> Future[T]:
        """Work with the bare session, which nobody can guard: where some LUN may be changed."""
        self._check_any()
        return super().submit(work)

    def together(self, *works: Callable[[Initiator], Awaitable[T]]) -> list[T]:
        """See :meth:`submit`."""
        self._check_any()
        return super().together(*works)

    def _check_any(self) -> None:
        if not self.writable:
            raise WritesNotAllowed(
                "the bare session of a target given by its URL is for --allow-writes=LUN only"
            )


class ForeignTarget:
    """A target that is none of ours."""

    kind = "url"

    def __init__(self, location: Location, writable: Collection[int], timeout_s: float) -> None:
        self.location = location
        self.writable = frozenset(writable)
        self.timeout_s = timeout_s
        self.host, self.port, self.iqn, self.lun = location.host, location.port, location.iqn, location.lun
        self._loop: LoopThread | None = None
        self._sessions: list[BlockingInitiator] = []

    def url(self, lun: int | None = None) -> str:
        """Its URL, without the secret."""
        return f"{str(self.location).rpartition('/')[0]}/{self.lun if lun is None else lun}"

    def initiator(self, **options: Any) -> GuardedInitiator:
        """A session with it, ended with the test."""
        if self._loop is None:
            self._loop = LoopThread("sancredit-foreign-initiators")
        if self.location.user:
            own = Credentials(self.location.user, self.location.secret.encode())
            options.setdefault("chap", Chap(own=own))
        timeout_s = options.pop("timeout_s", self.timeout_s)
        session = GuardedInitiator.login(
            self._loop, self.host, self.port, self.iqn, timeout_s=timeout_s, **options
        )
        assert isinstance(session, GuardedInitiator)
        session.writable = self.writable
        self._sessions.append(session)
        return session

    def stop(self) -> None:
        """Log out; what hangs is dropped."""
        for session in reversed(self._sessions):
            try:
                session.logout()
            except Exception:  # noqa: BLE001 - whatever is wrong there, the connection goes
                session.abort()
        if self._loop is not None:
            self._loop.stop(self.timeout_s)
