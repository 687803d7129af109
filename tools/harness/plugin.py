"""The pytest plugin (entry point ``pytest11``): fixtures ``target_factory``, ``target``, ``initiator``, ``faults``,
``target_log``.

Nothing but pytest is imported until a test asks for a target, so that nobody else's tests wait for us.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from iscsi_target.faults import RuleSet
    from iscsi_target.trace.pdu_log import PduLog
    from tools.harness.factory import TargetFactory
    from tools.harness.initiator import BlockingInitiator
    from tools.harness.running import RunningTarget

_FACTORY = pytest.StashKey["TargetFactory"]()
_TIMEOUT_S = 10.0
_SECTION = "sancredit target"


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


def pytest_configure(config: pytest.Config) -> None:
    """One seed for the whole run; the workers of pytest-xdist get it with the other options."""
    config.addinivalue_line(
        "markers",
        "target(**options): how the fixture `target` is made: the options of `target_factory`, "
        'such as luns=("64MiB",), rules=[...], chap=...',
    )
    if config.option.target_seed is None:
        config.option.target_seed = int.from_bytes(os.urandom(4), "big")


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


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item, call: pytest.CallInfo[None]) -> Iterator[None]:
    """Keep what there is to see of a failed test's targets."""
    report = yield
    factory = item.stash.get(_FACTORY, None)
    if factory is not None and report.failed:  # type: ignore[attr-defined]
        report.sections.append((_SECTION, factory.keep_artifacts(call.when)))  # type: ignore[attr-defined]
    return report
