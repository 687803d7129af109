"""Where a replay goes: a target somewhere, or one in this process with an emptied LUN that is made for it."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Iterator, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager, nullcontext
from dataclasses import dataclass
from urllib.parse import unquote, urlsplit

from iscsi_target.errors import CommandFailed, ConnectionLost, LoginFailed, NegotiationError
from iscsi_target.initiator import DEFAULT_INITIATOR_IQN, Initiator
from iscsi_target.running import LunSpec
from iscsi_target.running import serve as serve_in_thread
from iscsi_target.scsi.logical_unit import LogicalUnitConfig
from iscsi_target.session.chap import Chap
from tools.capture.replay.collect import Trace
from tools.capture.replay.pace import undisturbed
from tools.capture.replay.plan import Plan, PlanConfig, PlanError, make_plan
from tools.capture.replay.play import Outcome, ReplayFailed, fill, find_data, play

DEFAULT_PORT = 3260
_SPARE_BLOCKS = 2048
_OWN_LUNS = 64


@dataclass(frozen=True, slots=True)
class Destination:
    """A target; ``lun`` None: that of each command."""

    host: str
    port: int
    iqn: str
    lun: int | None = None


def parse_destination(text: str) -> Destination:
    """``iscsi://HOST[:PORT]/IQN[/LUN]``. Raises :class:`PlanError`."""
    refused = PlanError(
        f"{text!r:.120} is no target: write iscsi://HOST:PORT/IQN or iscsi://HOST:PORT/IQN/LUN"
    )
    try:
        parts = urlsplit(text)
        port = parts.port or DEFAULT_PORT
    except ValueError:
        raise refused from None
    words = [unquote(word) for word in parts.path.split("/") if word]
    if parts.scheme != "iscsi" or not parts.hostname or not 1 <= len(words) <= 2 or parts.username:
        raise refused
    if len(words) == 2 and not (words[1].isdigit() and len(words[1]) <= 5):
        raise refused
    return Destination(parts.hostname, port, words[0], int(words[1]) if len(words) == 2 else None)


@dataclass(frozen=True, slots=True, kw_only=True)
class ReplayConfig:
    """``destination`` None: a target of this process. ``overwrite``: write where something is. ``fill``: put there
    before what the capture's reads found."""

    plan: PlanConfig
    destination: Destination | None = None
    chap: Chap | None = None
    initiator_iqn: str = DEFAULT_INITIATOR_IQN
    overwrite: bool = False
    fill: bool = False
    verify: bool = True
    block_bytes: int = 512
    timeout_s: float = 30.0


@dataclass(frozen=True, slots=True)
class Replayed:
    """What was planned and what became of it; ``priority``: what the system granted ("": nothing was asked for)."""

    plan: Plan
    outcomes: list[Outcome]
    priority: str


async def replay(
    trace: Trace, config: ReplayConfig, progress: Callable[[int, int], None] = lambda *_: None
) -> Replayed:
    """Play ``trace``. Raises :class:`PlanError` before anything is changed, :class:`ReplayFailed`,
    ConnectionLost and LoginFailed."""
    plan = make_plan(trace.commands, config.plan, config.block_bytes)
    numbers = sorted({step.command.nexus for step in plan.steps})
    with _somewhere(plan, config) as destination:
        async with _sessions(numbers, destination, config) as sessions:
            first = sessions[numbers[0]]
            await _prepare(first, plan, trace, config)
            paced = config.plan.speed is not None
            with undisturbed() if paced else nullcontext("") as priority:
                outcomes = await play(
                    plan,
                    trace,
                    sessions,
                    paced=paced,
                    queue_depth=config.plan.queue_depth,
                    verify=config.verify,
                    progress=lambda ended: progress(ended, len(plan.steps)),
                )
    return Replayed(plan, outcomes, priority)


async def _prepare(session: Initiator, plan: Plan, trace: Trace, config: ReplayConfig) -> None:
    """See that the LUNs are there and long enough, and that nothing of value is written over; then fill."""
    for lun, blocks in plan.blocks_needed.items():
        if not blocks:
            continue
        try:
            capacity, block_bytes = await session.read_capacity(lun)
        except CommandFailed as error:
            raise PlanError(f"LUN {lun} of the target cannot be used: {error}; see --lun FROM=TO") from error
        if block_bytes != config.block_bytes:
            raise PlanError(
                f"LUN {lun} has blocks of {block_bytes} bytes, the capture's have {config.block_bytes}: --block"
            )
        if capacity < blocks:
            raise PlanError(f"LUN {lun} has {capacity} blocks, the capture reaches {blocks}")
    own = config.destination is None
    touched = (*plan.written, *(plan.fill if config.fill else ()))
    if touched and not own and not config.overwrite:
        found = await find_data(session, touched, config.block_bytes)
        if found is not None:
            raise PlanError(
                f"LUN {found.lun} is not empty (block {found.lba} and after): play to an emptied LUN or a snapshot, "
                "or give --overwrite"
            )
    if own or config.fill:
        await fill(session, plan.fill, trace, config.block_bytes)


@asynccontextmanager
async def _sessions(
    numbers: Sequence[int], destination: Destination, config: ReplayConfig
) -> AsyncIterator[Mapping[int, Initiator]]:
    """A session for each nexus of the capture."""
    async with AsyncExitStack() as stack:
        made: dict[int, Initiator] = {}
        for number in numbers:
            session = await Initiator.login(
                destination.host,
                destination.port,
                destination.iqn,
                initiator_iqn=config.initiator_iqn,
                chap=config.chap,
                timeout_s=config.timeout_s,
            )
            made[number] = await stack.enter_async_context(session)
        yield made


@contextmanager
def _somewhere(plan: Plan, config: ReplayConfig) -> Iterator[Destination]:
    if config.destination is not None:
        yield config.destination
        return
    needed = plan.blocks_needed
    if max(needed) >= _OWN_LUNS:
        raise PlanError(f"LUN {max(needed)} is more than a target of this process has: give --lun FROM=TO")
    sizes = [str((needed.get(lun, 0) + _SPARE_BLOCKS) * config.block_bytes) for lun in range(max(needed) + 1)]
    units = [LunSpec(size, LogicalUnitConfig(block_length=config.block_bytes)) for size in sizes]
    with serve_in_thread(*units, log_limit=None) as target:
        yield Destination(target.host, target.port, target.iqn)


__all__ = [
    "ConnectionLost",
    "Destination",
    "LoginFailed",
    "NegotiationError",
    "ReplayConfig",
    "ReplayFailed",
    "Replayed",
    "parse_destination",
    "replay",
]
