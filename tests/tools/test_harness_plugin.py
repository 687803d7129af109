"""The pytest plugin as its users meet it: each test here runs a test of theirs in a pytest of its own."""

from __future__ import annotations

import configparser
import json
import re
import subprocess
import sys
from importlib.metadata import distributions
from pathlib import Path

import pytest

from tools.capture.pcapng import read_file

pytest_plugins = ["pytester"]
pytestmark = [pytest.mark.slow, pytest.mark.timeout(400)]

ROOT = Path(__file__).resolve().parents[2]
INSTALLED = any(
    (point.group, point.name) == ("pytest11", "sancredit")
    for distribution in distributions()  # all that pytest looks at; entry_points() stops at the first of a name
    for point in distribution.entry_points
)
PLUGIN = ("-p", "tools.harness.plugin")


@pytest.fixture
def run(pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch):
    """Runs a user's test file, given as text, in a process of its own; extra words go to its pytest.

    ``installed``: with every plugin that is installed, ours by its entry point; it costs a second of processor time.
    """
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    for name in ("PYTEST_ADDOPTS", "PYTEST_XDIST_WORKER"):
        monkeypatch.delenv(name, raising=False)

    def run_text(text: str, *words: str, timeout_s: float = 120, installed: bool = False) -> pytest.RunResult:
        if installed and INSTALLED:
            monkeypatch.delenv("PYTEST_DISABLE_PLUGIN_AUTOLOAD", raising=False)
            plugin = ()
        else:  # an editable install from before the entry point was there does not have it yet
            monkeypatch.setenv("PYTEST_DISABLE_PLUGIN_AUTOLOAD", "1")
            plugin = PLUGIN
        pytester.makeini("[pytest]")  # else the words given decide on the root directory
        pytester.makepyfile(test_user=text)
        return pytester.runpytest_subprocess(
            *plugin, "-p", "no:cacheprovider", "-W", "error", *words, timeout=timeout_s
        )

    return run_text


def artifacts(base: Path) -> dict[str, Path]:
    """The files that one failed test left, by name."""
    (directory,) = [entry for entry in base.iterdir() if entry.is_dir()]
    return {path.name: path for path in directory.iterdir()}


def test_the_entry_point_is_declared() -> None:
    config = configparser.ConfigParser()
    config.read(ROOT / "setup.cfg")
    assert "sancredit = tools.harness.plugin" in config["options.entry_points"]["pytest11"]


def test_the_first_test_of_the_readme_passes(run) -> None:
    text = (ROOT / "examples" / "test_first.py").read_text()
    assert len(text.splitlines()) == 5
    run(text, installed=True).assert_outcomes(passed=1)


def test_every_fixture_does_its_work(run) -> None:
    run(
        """
        import asyncio
        import pytest
        from iscsi_target.errors import CommandFailed
        from iscsi_target.faults import busy

        def test_blocking(initiator, target, target_log):
            assert initiator.capacity() == (16 * 2048, 512)
            initiator.write(3, bytes(range(256)) * 4)
            assert initiator.read(3, 2) == bytes(range(256)) * 4
            initiator.synchronize_cache()
            assert initiator.report_luns() == [0] and initiator.nop(b"x") == b"x"
            assert initiator.inquiry()[8:] and initiator.tsih and initiator.lost is None
            assert initiator.task_management(5) == 0  # LOGICAL UNIT RESET
            assert target.sessions()[0].tsih == initiator.tsih
            assert target.statistics().targets[0].traffic.written_bytes >= 1024
            assert target.url() == f"iscsi://127.0.0.1:{target.port}/{target.iqn}/0"
            target_log.expect(command="write-16", at_least=1)
            initiator.logout()
            assert target.sessions() == []

        def test_at_the_same_time(initiator):
            initiator.test_unit_ready()
            blocks = initiator.together(*[lambda session, lba=lba: session.read(0, lba, 1) for lba in range(50)])
            assert [len(block) for block in blocks] == [512] * 50
            assert len(initiator.submit(lambda session: session.read(0, 0, 8)).result(5)) == 4096

        def test_with_a_loop_of_its_own(target):
            async def body():
                async with await target.login() as session:
                    assert len(await session.read(0, 0, 8)) == 4096
            asyncio.run(body())

        @pytest.mark.target(luns=("1MiB", "2MiB"), iqn="iqn.2026-11.example:two")
        def test_marked(target, initiator):
            assert target.iqn == "iqn.2026-11.example:two"
            assert initiator.report_luns() == [0, 1]
            assert initiator.capacity(lun=1) == (4096, 512)

        def test_two_targets(target_factory):
            one, two = target_factory(), target_factory(luns=["1MiB"])
            assert one.port != two.port
            assert (one.seed, two.seed) == (target_factory.seed, target_factory.seed + 1)
            one.initiator().write(0, b"1" * 512)
            assert two.initiator().read(0) == bytes(512)

        def test_faults(initiator, faults):
            initiator.test_unit_ready()
            with faults.add(busy(), command="read-16"):
                with pytest.raises(CommandFailed):
                    initiator.read(0)
            assert initiator.read(0) == bytes(512)

        @pytest.mark.target(rules=[{"name": "r", "action": "busy", "command": "read-16", "count": 1}])
        def test_rules_from_the_start(initiator, faults):
            with pytest.raises(CommandFailed):
                for _ in range(2):
                    initiator.read(0)
            assert faults.status("r").fired == 1
        """
    ).assert_outcomes(passed=7)


FAILING = """
    import pytest

    @pytest.mark.target(rules=[{{"name": "slow reads", "action": "delay", "delay": "1ms", "opcode": "data-in"}}])
    def test_{name}(initiator, target):
        initiator.write(5, b"y" * 512)
        initiator.read(5, 1)
        print("seed of this test:", target.seed)
        assert {holds}
"""


def test_a_failed_test_leaves_everything_there_is_to_see(run, tmp_path: Path) -> None:
    kept = tmp_path / "kept"
    result = run(
        FAILING.format(name="user", holds="0 == 1"), f"--target-artifacts={kept}", "--target-seed", "77"
    )
    result.assert_outcomes(failed=1)
    files = artifacts(kept)
    report = files["report-call.txt"].read_text()

    # the event log, line by line
    records = [json.loads(line) for line in files["target-1.jsonl"].read_text().splitlines()]
    assert [record["number"] for record in records] == list(range(1, len(records) + 1))
    delayed = [record for record in records if record["rules"] == ["slow reads"]]
    assert len(delayed) == 1 and delayed[0]["pdu"] == "data-in" and delayed[0]["data_bytes"] == 512

    # the last PDUs of the session, with the rule that fired
    last = files["target-1.last-pdus.txt"].read_text()
    assert last.splitlines()[0].startswith("connection 1, session 1, iqn.")
    assert re.search(r"data-in .*\[slow reads: .*1.*ms\]", last)
    assert 4 < len(last.splitlines()) <= 21
    assert json.loads(files["target-1.rules.json"].read_text())[0]["fired"] == 1

    # the capture holds the same PDUs
    captured = b"".join(packet.data for packet in read_file(files["target-1.pcapng"]))
    assert b"y" * 512 in captured

    # the report says where everything is, the seed, and how to run it again
    said = result.stdout.str()
    assert "- sancredit target -" in said
    for text in (
        f"captures and PDU logs: {kept}",
        "seed 77",
        "rule slow reads: fired 1 of 1 times",
        "[slow reads: ",
    ):
        assert text in said
        assert text in report or text.startswith("captures")
    assert "test_user.py::test_user --target-seed=77" in said


def test_the_command_that_replays_runs_the_test_with_the_same_seed(run) -> None:
    text = FAILING.format(name="user", holds="0 == 1")
    first = run(text)
    said = first.stdout.str()
    command = re.search(r"cd (\S+) && python -m pytest (.*)", said)
    assert command is not None
    replayed = subprocess.run(
        [sys.executable, "-m", "pytest", *PLUGIN, *command[2].split()],
        cwd=command[1],
        capture_output=True,
        text=True,
        timeout=120,
    )
    seeds = [re.findall(r"seed of this test: (\d+)", text) for text in (said, replayed.stdout)]
    assert seeds[0] == seeds[1] and len(set(seeds[0])) == 1
    other = run(text, "--target-seed=1")
    assert re.findall(r"seed of this test: (\d+)", other.stdout.str()) != seeds[0]


def test_without_a_directory_artefacts_are_under_pytests_own_and_the_path_is_said(run) -> None:
    result = run(FAILING.format(name="user", holds="0 == 1"))
    found = re.search(r"captures and PDU logs: (\S+)", result.stdout.str())
    assert found is not None
    assert (Path(found[1]) / "target-1.pcapng").stat().st_size > 1000


def test_a_passing_test_leaves_nothing(run, tmp_path: Path) -> None:
    kept, base = tmp_path / "kept", tmp_path / "base"
    words = (f"--target-artifacts={kept}", "--basetemp", str(base))
    run(FAILING.format(name="user", holds="1 == 1"), *words).assert_outcomes(passed=1)
    assert not kept.exists()
    assert list(base.rglob("*.pcapng")) == []


def test_a_login_that_fails_in_set_up_leaves_its_artefacts(run, tmp_path: Path) -> None:
    result = run(
        """
        import pytest
        @pytest.mark.target(rules=[{"name": "mute", "action": "drop", "opcode": "login-response"}])
        def test_user(initiator):
            raise AssertionError("not reached")
        """,
        *(f"--target-artifacts={tmp_path / 'kept'}", "--target-timeout", "3"),
    )
    result.assert_outcomes(errors=1)
    files = artifacts(tmp_path / "kept")
    assert "failed in setup" in files["report-setup.txt"].read_text()
    assert "[mute: dropped]" in files["target-1.last-pdus.txt"].read_text()


def test_under_xdist_every_worker_has_targets_of_its_own_and_the_same_seed(run, tmp_path: Path) -> None:
    text = """
        import pytest
        @pytest.mark.parametrize("number", range(12))
        def test_user(initiator, target, number, worker_id):
            assert worker_id.startswith("WHERE")
            initiator.write(number, bytes((number,)) * 512)
            assert initiator.read(0, 12)[number * 512 : number * 512 + 512] == bytes((number,)) * 512
            assert sum(initiator.read(0, 12)) == number * 512  # nobody else writes here
            assert number % 5, target.seed
    """
    words = ("-n2", f"--target-artifacts={tmp_path / 'kept'}", "--target-seed", "5")
    result = run(text.replace("WHERE", "gw"), *words, installed=True)
    result.assert_outcomes(passed=9, failed=3)
    assert len([path for path in (tmp_path / "kept").iterdir() if path.is_dir()]) == 3
    said = result.stdout.str()
    assert said.count("--target-seed=5") == 3
    alone = run(text.replace("WHERE", "master"), *words[1:], installed=True)
    seeds = [set(re.findall(r"of this test: (\d+)", run.stdout.str())) for run in (result, alone)]
    assert seeds[0] == seeds[1] and len(seeds[0]) == 3


def test_a_target_that_hangs_ends_the_test_and_not_the_run(run, tmp_path: Path) -> None:
    result = run(
        """
        import threading
        import pytest

        def hook(pdu, context):
            if pdu.opcode == 0x01 and context.number > 2:
                threading.Event().wait()  # for ever

        @pytest.mark.target(hooks=[hook])
        def test_hung(initiator):
            read = bytes.fromhex("8800 0000000000000000 00000001 0000")
            initiator.execute(read, data_in_length=512, timeout_s=0.5)

        def test_next(initiator):
            assert initiator.read(0) == bytes(512)
        """,
        *("--target-timeout", "4", f"--target-artifacts={tmp_path / 'kept'}"),
    )
    result.assert_outcomes(passed=1, failed=1, errors=1)
    said = result.stdout.str()
    assert "Hung: the target did not end in 4 s; its thread is at" in said
    assert "in hook" in said
    files = artifacts(tmp_path / "kept")
    assert {"report-call.txt", "report-teardown.txt", "target-1.jsonl", "target-1.pcapng"} <= set(files)


def test_loading_the_plugin_imports_nothing_of_ours_and_nothing_heavy() -> None:
    code = (
        "import sys, pytest; before = set(sys.modules); import tools.harness.plugin; "
        "print(*sorted(set(sys.modules) - before))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT)
    assert set(done.stdout.split()) <= {"tools", "tools.harness", "tools.harness.plugin"}


def test_tests_that_want_no_target_see_nothing_of_the_plugin(run) -> None:
    result = run(
        """
        import sys
        def test_theirs():
            assert not {"iscsi_target", "construct", "uvloop"} & set(sys.modules)
            assert 0
        """,
        installed=True,
    )
    result.assert_outcomes(failed=1)
    assert "sancredit" not in result.stdout.str().replace("sancredit-0", "")


def test_a_users_own_fixtures_come_first(run) -> None:
    run(
        """
        import pytest
        @pytest.fixture
        def target():
            return "mine"
        def test_theirs(target):
            assert target == "mine"
        """
    ).assert_outcomes(passed=1)
