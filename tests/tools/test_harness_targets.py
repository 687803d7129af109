"""The fixtures for other targets than our own, as their users meet them: each test runs a pytest of its own."""

from __future__ import annotations

from pathlib import Path

import pytest

from iscsi_target.running import serve
from tests import lab_guest
from tests.tools.test_harness_plugin import artifacts, run
from tools.harness.errors import HarnessError
from tools.harness.foreign import READING, Location, parse_location
from tools.harness.pair import parse_loss

pytest_plugins = ["pytester"]
pytestmark = pytest.mark.timeout(400)  # whole processes, on a machine with other work
EXAMPLES = Path(__file__).resolve().parents[2] / "examples"
__all__ = ["run"]  # the fixture


def example(name):
    return (EXAMPLES / f"test_{name}.py").read_text()


@pytest.mark.slow
@pytest.mark.parametrize("name", ["factory", "fc_fabric", "channel", "storage_pair"])
def test_the_example_of_the_fixture_works_as_it_stands(run, name):
    run(example(name)).assert_outcomes(passed=1)


@pytest.mark.slow
def test_the_example_for_any_target_works_on_the_emulator_and_on_a_url_that_may_be_written(run):
    with serve("1MiB") as target:
        url = target.lun_url(0)
        words = ("--target=emulator", f"--target={url}")
        run(example("any_target"), *words, "--allow-writes=0").assert_outcomes(passed=2)
        result = run(example("any_target"), *words)
        result.assert_outcomes(passed=1, failed=1)
        result.stdout.fnmatch_lines(
            ["*WritesNotAllowed: WRITE would change LUN 0 of a target that was given by its URL*"]
        )


@pytest.mark.slow
def test_the_lun_that_is_written_is_named_before_anything_happens_and_the_secret_never(run):
    result = run(
        "def test_nothing(any_target): assert any_target.url() == 'iscsi://me%***@127.0.0.1:1/iqn.2003-10.example:x/3'",
        "--target=iscsi://me%open-sesame@127.0.0.1:1/iqn.2003-10.example:x/3",
        "--allow-writes=3",
    )
    result.assert_outcomes(passed=1)
    result.stdout.fnmatch_lines(["sancredit: any_target is iscsi://me%*@127.0.0.1:1/*; tests WRITE to LUN 3"])
    assert "open-sesame" not in result.stdout.str()


@pytest.mark.slow
def test_a_target_without_a_meaning_is_a_wrong_usage(run):
    result = run("def test_nothing(any_target): pass", "--target=tape")
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    result.stderr.fnmatch_lines(["*--target: a target is emulator, lio, or iscsi://*"])


@pytest.mark.slow
def test_a_failed_test_leaves_what_its_fabric_and_its_channel_were(run, tmp_path):
    text = example("fc_fabric") + "    assert False\n\ndef test_shape(channel):\n    assert False\n"
    result = run(text, f"--target-artifacts={tmp_path}")
    result.assert_outcomes(failed=2)
    found = {path.name for path in tmp_path.rglob("*") if path.is_file()}
    assert {"fabric-1.json", "fabric-2.json", "channel.json"} <= found
    result.stdout.fnmatch_lines(["*artefacts: *"])


def test_nothing_that_writes_is_taken_for_reading():
    writing = (
        0x0A,
        0x2A,
        0x2E,
        0x3B,
        0x41,
        0x42,
        0x48,
        0x55,
        0x5F,
        0x83,
        0x89,
        0x8A,
        0x8E,
        0x93,
        0x9C,
        0xA4,
        0xAA,
    )
    assert READING.isdisjoint(writing)


@pytest.mark.parametrize(
    ("text", "loss_ppm"),
    [
        ("0%", 0),
        ("0.5%", 5000),
        ("100%", 1_000_000),
        ("0.0001%", 1),
        ("1e9%", None),
        ("5", None),
        ("-1%", None),
        ("101%", None),
    ],
)
def test_a_loss_is_a_percentage(text, loss_ppm):
    if loss_ppm is None:
        with pytest.raises(HarnessError, match="a loss is a percentage, such as "):
            parse_loss(text)
    else:
        assert parse_loss(text) == loss_ppm


@pytest.mark.parametrize(
    ("text", "place"),
    [
        ("iscsi://h/iqn.x/0", Location("h", 3260, "iqn.x", 0)),
        ("iscsi://[::1]:99/iqn.x/7", Location("::1", 99, "iqn.x", 7)),
        ("iscsi://u%s%t%@h:1/iqn.x/0/0", None),
        ("iscsi://u%p%20q@h:1/iqn.x/0", Location("h", 1, "iqn.x", 0, "u", "p q")),
        ("iscsi://h:70000/iqn.x/0", None),
        ("iscsi://h/iqn.x", None),
        ("http://h/iqn.x/0", None),
    ],
)
def test_a_url_is_read_or_refused_without_its_secret(text, place):
    if place is None:
        with pytest.raises(ValueError, match="a target is emulator, lio, or iscsi://"):
            parse_location(text)
    else:
        assert parse_location(text) == place
        assert place.secret not in repr(place) or not place.secret


class TestInTheLab:
    """With a real kernel."""

    pytestmark = lab_guest.MARKS

    def test_the_examples_work_on_the_kernels_target(self, run, lab_at_hand):
        run(example("lio_target") + example("lab"), timeout_s=400).assert_outcomes(passed=2)
        run(example("any_target"), "--target=lio", "--target=emulator", timeout_s=400).assert_outcomes(
            passed=2
        )

    def test_a_failed_test_leaves_what_the_kernel_said(self, run, lab_at_hand, tmp_path):
        text = (
            "def test_user(lab, lio_target):\n"
            "    assert lio_target.machine is lab  # one lock, taken once\n"
            "    lio_target.initiator().read(0, 1)\n    assert False\n"
        )
        run(text, f"--target-artifacts={tmp_path}", timeout_s=400).assert_outcomes(failed=1)
        found = artifacts(tmp_path)
        assert '"iqn.2003-10.example.sancredit:lio"' in found["lio-saveconfig.json"].read_text()
        assert found["lio-dmesg.txt"].stat().st_size > 0


@pytest.fixture
def lab_at_hand(monkeypatch):
    """The guest runs, or the test is skipped with the reason; nobody holds it, and an inner pytest finds it."""
    monkeypatch.setenv("SANCREDIT_CACHE", lab_guest.CACHE)
    with lab_guest.guest():
        pass
