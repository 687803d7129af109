"""The pytest plugin (entry point ``pytest11``): fixtures ``target_factory``, ``target``, ``initiator``, ``faults``,
``target_log``, ``lab``, ``lio_target``, ``any_target``, ``fc_fabric``, ``storage_pair``, ``channel``.

Nothing but pytest is imported until a test asks for a target, so that nobody else's tests wait for us.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, TypeVar

import pytest

if TYPE_CHECKING:
    from iscsi_target.faults import RuleSet
    from iscsi_target.trace.pdu_log import PduLog
    from tools.harness.fabric import FabricFactory
    from tools.harness.factory import TargetFactory
    from tools.harness.foreign import ForeignTarget
    from tools.harness.initiator import BlockingInitiator
    from tools.harness.kernel_target import LioTarget
    from tools.harness.pair import ShapedChannel, StoragePair
    from tools.harness.running import RunningTarget
    from tools.lab.machine import Machine


class _Kept(Protocol):
    """What leaves something behind when its test fails, and has an end."""

    def keep_artifacts(self, directory: Path) -> list[str]: ...

    def stop(self) -> None: ...


K = TypeVar("K", bound=_Kept)
_KEPT = pytest.StashKey[list[_Kept]]()
_OWNS_GUEST = pytest.StashKey[bool]()
_FACTORY = pytest.StashKey["TargetFactory"]()
_TIMEOUT_S = 10.0
_SECTION = "sancredit target"
_EMULATOR, _LIO = "emulator", "lio"
_GUEST = "SANCREDIT_LAB_SESSION"  # as tools.lab.session has it; importing that would cost everybody's tests


def pytest_addoption(parser: pytest.Parser) -> None:
    """Options of the plugin."""
    group = parser.getgroup("sancredit", "iSCSI targets in tests (sancredit)")
    group.addoption(
        "--target-artifacts",
        metavar="DIR",
        help="Where a failed test leaves captures, PDU logs and how to replay it; pytest's base temporary directory "
        "unless told.",
    )
    group.addoption(
        "--target-seed",
        type=int,
        metavar="N",
        help="Seed of all chance in targets and their faults; a failed test says which one to give.",
    )
    group.addoption(
        "--target-timeout",
        type=float,
        default=_TIMEOUT_S,
        metavar="SECONDS",
        help=f"The longest that a target or initiator may take for anything (default: {_TIMEOUT_S:g}).",
    )
    group.addoption(
        "--target",
        dest="sancredit_targets",
        action="append",
        metavar="emulator|lio|URL",
        help="What any_target is: the emulator, the Linux kernel's target in the lab's guest, or an iSCSI URL with a "
        "LUN; repeat for more. Unless told: what this machine has.",
    )
    group.addoption(
        "--allow-writes",
        dest="sancredit_writable",
        action="append",
        type=int,
        metavar="LUN",
        help="Tests may DESTROY what is on this LUN of a target given by URL; repeat for more.",
    )


def pytest_configure(config: pytest.Config) -> None:
    """One seed for the whole run; the workers of pytest-xdist get it with the other options."""
    config.addinivalue_line(
        "markers",
        "target(**options): how the fixture `target` is made: the options of `target_factory`, "
        'such as luns=("64MiB",), rules=[...], chap=...',
    )
    if config.option.target_seed is None:
        config.option.target_seed = int.from_bytes(os.urandom(4), "big")
    config.addinivalue_line("markers", "pair(bandwidth, rtt, size): how the fixture `storage_pair` is made")
    config.addinivalue_line("markers", "shape(rate, delay, loss): how the fixture `channel` is made")
    for text in config.option.sancredit_targets or ():
        _check_target(text)
    if _GUEST not in os.environ:
        os.environ[_GUEST] = f"pytest-{os.getpid()}-{os.urandom(4).hex()}"
        config.stash[_OWNS_GUEST] = True


def pytest_unconfigure(config: pytest.Config) -> None:
    """The lab's guest ends with the session, whichever of its processes started it."""
    if not config.stash.get(_OWNS_GUEST, False):
        return
    workers = getattr(config.option, "numprocesses", None)  # of pytest-xdist: one of them may have started it
    if not workers and "tools.lab.session" not in sys.modules:
        del os.environ[_GUEST]  # nobody has asked for it: nothing to load for its end
        return
    from tools.lab import session

    session.end()


def pytest_report_header(config: pytest.Config) -> list[str]:
    """What any_target is, and which LUN is written to, before anything is."""
    said = []
    for text in config.option.sancredit_targets or ():
        if text.startswith("iscsi:"):
            from tools.harness.foreign import parse_location

            place = parse_location(text)
            writable = config.option.sancredit_writable or []
            luns = ", ".join(str(lun) for lun in writable)
            does = f"tests WRITE to LUN {luns}" if writable else "tests only read it"
            said.append(f"sancredit: any_target is {place}; {does}")
    return said


def _check_target(text: str) -> None:
    if text in (_EMULATOR, _LIO):
        return
    from tools.harness.foreign import parse_location

    try:
        parse_location(text)
    except ValueError as error:
        raise pytest.UsageError(f"--target: {error}") from None


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """A test with any_target runs once for each target."""
    if "any_target" in metafunc.fixturenames:
        targets = metafunc.config.option.sancredit_targets or _of_this_machine()
        ids = [text if text in (_EMULATOR, _LIO) else "url" for text in targets]
        metafunc.parametrize("any_target", targets, ids=ids, indirect=True)


def _of_this_machine() -> list[str]:
    """The emulator, and the kernel's target where the lab is at hand: nothing is downloaded without being asked."""
    if shutil.which("qemu-system-x86_64") is None:
        return [_EMULATOR]
    from tools.lab.image import ready_image

    return [_EMULATOR] if ready_image() is None else [_EMULATOR, _LIO]


def _seed(config: pytest.Config, node_id: str) -> int:
    """The seed of one test: the same in every run with the same ``--target-seed``, whatever else runs."""
    text = f"{config.option.target_seed}/{node_id}"
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:6], "big")


@pytest.fixture
def target_factory(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[TargetFactory]:
    """Makes targets: ``target_factory(luns=("64MiB",), rules=[...])``; they end with the test."""
    from tools.harness.factory import TargetFactory

    config = request.config
    factory = TargetFactory(
        node_id=request.node.nodeid,
        seed=_seed(config, request.node.nodeid),
        run_seed=config.option.target_seed,
        timeout_s=config.option.target_timeout,
        artifacts=config.option.target_artifacts,
        temporary=tmp_path_factory.getbasetemp,
        root=config.rootpath,
    )
    request.node.stash[_FACTORY] = factory
    try:
        yield factory
    finally:
        factory.stop()


@pytest.fixture
def target(request: pytest.FixtureRequest, target_factory: TargetFactory) -> RunningTarget:
    """A running target with one LUN of 16 MiB of memory; ``@pytest.mark.target(...)`` says otherwise."""
    options: dict[str, Any] = {}
    for marker in reversed(list(request.node.iter_markers("target"))):
        if marker.args:
            raise pytest.UsageError("the marker target takes keywords only")
        options |= marker.kwargs
    return target_factory(**options)


@pytest.fixture
def initiator(target: RunningTarget) -> BlockingInitiator:
    """A session with ``target``, with calls that block."""
    return target.initiator()


@pytest.fixture
def faults(target: RunningTarget) -> RuleSet:
    """The fault rules of ``target``."""
    return target.faults


@pytest.fixture
def target_log(target: RunningTarget) -> PduLog:
    """The PDUs that ``target`` received and sent."""
    return target.log


@contextmanager
def _kept(request: pytest.FixtureRequest, thing: K) -> Iterator[K]:
    """Its artefacts are kept when the test fails; it ends with the test."""
    request.node.stash.setdefault(_KEPT, []).append(thing)
    try:
        yield thing
    finally:
        thing.stop()


@pytest.fixture
def lab() -> Iterator[Machine]:
    """The lab's guest, for this test alone; skipped, with the fix, where there can be none."""
    from tools.lab.errors import LabUnavailable
    from tools.lab.session import guest

    with ExitStack() as stack:
        try:
            machine = stack.enter_context(guest())
        except LabUnavailable as unavailable:
            pytest.skip(f"no lab here: {unavailable.reason}; to fix it: {unavailable.fix}")
        yield machine


@pytest.fixture
def lio_target(request: pytest.FixtureRequest, lab: Machine) -> Iterator[LioTarget]:
    """The Linux kernel's target, in the lab's guest; skipped, with the fix, where there can be none."""
    from tools.harness.kernel_target import LioTarget

    luns = ("16MiB",)
    for marker in request.node.iter_markers("target"):
        luns = marker.kwargs.get("luns", luns)
    target = LioTarget(lab, luns, max(30.0, request.config.option.target_timeout))
    with _kept(request, target):
        yield target


@pytest.fixture
def any_target(request: pytest.FixtureRequest) -> Iterator[RunningTarget | LioTarget | ForeignTarget]:
    """The emulator, the kernel's target, or what ``--target`` names: the same test on each of them."""
    text = request.param
    if text == _EMULATOR:
        yield request.getfixturevalue("target")
    elif text == _LIO:
        yield request.getfixturevalue("lio_target")
    else:
        from tools.harness.foreign import ForeignTarget, parse_location

        option = request.config.option
        foreign = ForeignTarget(parse_location(text), option.sancredit_writable or (), option.target_timeout)
        try:
            yield foreign
        finally:
            foreign.stop()


@pytest.fixture
def fc_fabric(request: pytest.FixtureRequest) -> Iterator[FabricFactory]:
    """Runs Fibre Channel scenarios: ``fc_fabric(Path("fabric.toml")).port("a:b")["credit_zero_time_ps"]``."""
    from tools.harness.fabric import FabricFactory

    with _kept(request, FabricFactory(_seed(request.config, request.node.nodeid))) as factory:
        yield factory


@pytest.fixture
def storage_pair(request: pytest.FixtureRequest) -> Iterator[StoragePair]:
    """Two arrays, a channel and a station, as processes; ``@pytest.mark.pair(rtt="80ms")`` says otherwise."""
    from tools.harness.pair import StoragePair

    with _kept(request, StoragePair(**_options(request, "pair"))) as pair:
        yield pair


@pytest.fixture
def channel(request: pytest.FixtureRequest) -> Iterator[ShapedChannel]:
    """Two sites and what lies between them; ``@pytest.mark.shape(rate="1Gbit", loss="0.1%")`` says otherwise."""
    from tools.harness.pair import ShapedChannel

    seed = _seed(request.config, request.node.nodeid)
    with _kept(request, ShapedChannel(**{"seed": seed, **_options(request, "shape")})) as shaped:
        yield shaped


def _options(request: pytest.FixtureRequest, name: str) -> dict[str, Any]:
    options: dict[str, Any] = {}
    for marker in reversed(list(request.node.iter_markers(name))):
        if marker.args:
            raise pytest.UsageError(f"the marker {name} takes keywords only")
        options |= marker.kwargs
    return options


def _keep(item: pytest.Item, kept: list[_Kept]) -> str:
    """Their artefacts, in the directory of the test; what the report is to say."""
    from tools.harness.factory import artifact_directory

    temporary = item.config._tmp_path_factory.getbasetemp  # type: ignore[attr-defined]
    directory = artifact_directory(item.nodeid, item.config.option.target_artifacts, temporary)
    said = []
    try:
        directory.mkdir(parents=True, exist_ok=True, mode=0o700)
        for thing in kept:
            said += thing.keep_artifacts(directory)
    except Exception as error:  # noqa: BLE001 - the test's own failure must not be hidden by this one
        said.append(f"the artefacts could not be had: {error}")
    return "\n".join([*said, f"artefacts: {directory}"])


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item, call: pytest.CallInfo[None]) -> Iterator[None]:
    """Keep what there is to see of a failed test's targets."""
    report = yield
    factory = item.stash.get(_FACTORY, None)
    if factory is not None and report.failed:  # type: ignore[attr-defined]
        report.sections.append((_SECTION, factory.keep_artifacts(call.when)))  # type: ignore[attr-defined]
    kept = item.stash.get(_KEPT, [])
    if kept and report.failed and call.when != "teardown":  # type: ignore[attr-defined]
        report.sections.append((_SECTION, _keep(item, kept)))  # type: ignore[attr-defined]
    return report
