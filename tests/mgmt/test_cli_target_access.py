"""``sancredit target serve --allow``: what it takes, what it refuses, and that the target then obeys."""

from __future__ import annotations

import asyncio
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from ipaddress import ip_network
from pathlib import Path

import click
import pytest

from iscsi_target.discovery import discover
from iscsi_target.errors import CommandFailed, LoginFailed
from iscsi_target.initiator import Initiator
from iscsi_target.session.access import AccessRule
from iscsi_target.wire.opcodes import LoginStatus
from mgmt.cli.access import access_list
from mgmt.cli.failures import BadValue
from mgmt.cli.main import main
from mgmt.target.configuration import TargetConfig, load
from mgmt.target.table import ConfigurationError

IQN, HOST = "iqn.2003-10.example:t", "iqn.2003-10.example:host"


def rule(text: str) -> AccessRule:
    access = access_list([text], hidden=False, luns=range(3), users=["alice"])
    assert access is not None
    return access.rules[0]


def test_a_rule_is_read_as_it_is_said() -> None:
    assert rule(f"initiator={HOST},address=10.1.2.3/8,chap=alice,lun=0:2,lun=1,read-only") == AccessRule(
        initiators=frozenset({HOST}),
        networks=(ip_network("10.0.0.0/8"),),
        chap_names=frozenset({"alice"}),
        luns={0: 2, 1: 1},
        read_only=True,
    )
    assert rule("address=2001:db8::/32").networks == (ip_network("2001:db8::/32"),)


def test_without_rules_everybody_may_do_everything() -> None:
    assert access_list([], hidden=False, luns=range(1), users=[]) is None


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("", "--allow is"),
        ("lun=0", "says nobody"),
        ("everybody", "--allow is"),
        ("initiator=", "--allow is"),
        ("read-only=yes,chap=alice", "--allow is"),
    ],
)
def test_what_is_not_of_the_form_is_a_wrong_usage(text: str, says: str) -> None:
    with pytest.raises(click.UsageError, match=says):
        rule(text)


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("initiator=host", "no iSCSI name"),
        ("address=10.0.0.256", "does not appear to be"),
        ("chap=bob", "add --chap bob:@FILE"),
        ("chap=alice,lun=3", "there is no LUN 3: the target has 0, 1, 2"),
        ("chap=alice,lun=0,lun=0:1", "given twice"),
        ("chap=alice,lun=x", "not lun=N"),
    ],
)
def test_what_the_target_has_not_is_said_so(text: str, says: str) -> None:
    with pytest.raises(BadValue, match=says):
        rule(text)


@pytest.mark.parametrize("arguments", [["--allow", "nobody"], ["--hide"]])
def test_a_wrong_rule_ends_the_command_with_one_line(
    arguments: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["target", "serve", "--portal", "127.0.0.1:0", *arguments]) == 2
    told = capsys.readouterr()
    assert "--allow" in told.err
    assert told.out == ""


@contextmanager
def serving(*arguments: str) -> Iterator[int]:
    """A target process; yields its port."""
    process = subprocess.Popen(
        [
            *(sys.executable, "-m", "mgmt.cli", "target", "serve", "--portal", "127.0.0.1:0"),
            *("--iqn", IQN, *arguments),
        ],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        assert process.stdout is not None
        line = process.stdout.readline()
        assert line.startswith("listening iscsi://127.0.0.1:"), process.stderr and process.stderr.read()
        yield int(line.split("/")[2].rpartition(":")[2])
    finally:
        process.send_signal(signal.SIGTERM)
        process.communicate(timeout=20)


@pytest.mark.timeout(60)
@pytest.mark.slow
def test_a_target_obeys_its_rules(tmp_path: Path) -> None:
    async def body(port: int) -> None:
        async with await Initiator.login("127.0.0.1", port, IQN, initiator_iqn=HOST) as session:
            assert await session.report_luns() == [5]
            assert (await session.read_capacity(5))[0] == 4096
            with pytest.raises(CommandFailed, match="7/"):
                await session.write(5, 0, bytes(512))
        with pytest.raises(LoginFailed) as refused:
            await Initiator.login("127.0.0.1", port, IQN, initiator_iqn=HOST + "2")
        assert refused.value.status == LoginStatus.NOT_FOUND
        assert len(await discover("127.0.0.1", port, initiator_iqn=HOST)) == 1
        assert await discover("127.0.0.1", port, initiator_iqn=HOST + "2") == []

    rule = f"initiator={HOST},address=127.0.0.0/8,lun=5:1,read-only"
    with serving("--lun", "1MiB", "--lun", "2MiB", "--allow", rule, "--hide") as port:
        asyncio.run(asyncio.wait_for(body(port), 40))


# -- the same in a file -----------------------------------------------------------------------------------------


def described(tmp_path: Path, text: str) -> TargetConfig:
    file = tmp_path / "target.toml"
    file.write_text(text)
    return load(file, lambda path: b"a secret of a test").targets[0]


def test_a_file_says_the_same_as_the_command_line(tmp_path: Path) -> None:
    target = described(
        tmp_path,
        f"""
        [[target]]
        hide = true
        [[target.chap]]
        user = "alice"
        secret_file = "alice"
        [[target.access]]
        initiators = ["{HOST}"]
        addresses = ["10.0.0.0/8", "2001:db8::/32"]
        chap = ["alice"]
        luns = {{ 0 = 2, 1 = 1 }}
        read_only = [1]
        [[target.access]]
        addresses = ["192.0.2.1"]
        read_only = true
        """,
    )
    assert target.access is not None
    assert target.access.hidden
    first, second = target.access.rules
    assert first.fits(HOST, "10.1.1.1", "alice") and not first.fits(HOST, "11.1.1.1", "alice")
    assert (first.luns, first.read_only_luns, first.read_only) == ({0: 2, 1: 1}, frozenset({1}), False)
    assert (second.luns, second.read_only) == (None, True)


@pytest.mark.parametrize(
    ("lines", "says"),
    [
        ("luns = [0]", "a rule says who"),
        ('addresses = ["10.0.0"]', "does not appear to be"),
        ('chap = ["a"]\nluns = "all"', "a list of LUNs, or a table"),
        ('chap = ["a"]\nluns = [0]\nread_only = [1]', "not among those that are seen"),
        ('chap = ["a"]\nread_only = "yes"', "true, or a list of LUNs"),
        ('chap = ["a"]\nlun = 1', "there is no setting 'lun'"),
    ],
)
def test_a_wrong_rule_in_a_file_is_named(tmp_path: Path, lines: str, says: str) -> None:
    with pytest.raises(ConfigurationError, match=says):
        described(tmp_path, f"[[target]]\n[[target.access]]\n{lines}\n")
