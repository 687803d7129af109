"""What our target answered is what the kernel's answers: a capture of the emulator, played to LIO."""

from __future__ import annotations

import asyncio
import json
import random

import pytest
from click.testing import CliRunner

from iscsi_target.initiator import Initiator
from iscsi_target.running import serve
from tests import lab_guest
from tools.capture.replay.cli import replay

pytestmark = lab_guest.MARKS

BLOCK = 512


async def some_work(target):
    """Writes, reads of what was written and of what never was, and a command that is refused."""
    draw = random.Random(9)
    session = await Initiator.login(target.host, target.port, target.iqn)
    for number in range(12):
        await session.write(0, 256 * number, draw.randbytes(64 * BLOCK))
        assert await session.read(0, 256 * number + 128, 8) == bytes(8 * BLOCK)
    await asyncio.gather(*(session.read(0, 256 * number, 64) for number in range(12)))
    await session.test_unit_ready(0)
    no_page = bytes.fromhex("1201fe00ff00")  # INQUIRY, vital product data
    refused = await session.execute(0, no_page, data_in_length=255, check=False)
    assert refused.status == 2
    await session.logout()


@pytest.fixture
def capture(tmp_path):
    path = tmp_path / "capture.pcapng"
    with serve("16MiB", capture=path, log_limit=None) as target:
        asyncio.run(some_work(target))
    return path


def played(*words):
    done = CliRunner().invoke(replay, [*map(str, words), "-o", "json"])
    return done.exit_code, done.stdout or done.output


def test_a_capture_is_played_to_an_emptied_lun_with_the_same_verdict_and_a_second_time_refused(
    capture, lio_target
):
    to = ("--to", lio_target.url())
    status, text = played(capture, *to, "--write", "--fast")
    assert status == 0, text
    found = json.loads(text)
    assert (status, found["ok"]) == (0, True), found
    assert found["compared"] >= 24
    here_status, here = played(capture, "--write", "--fast")
    here = json.loads(here)
    same = ("commands", "compared", "mismatches", "ok")
    assert (status, {name: found[name] for name in same}) == (
        here_status,
        {name: here[name] for name in same},
    )
    # the LUN is no longer empty: the same writes are refused; and where it was empty there is something now
    assert played(capture, *to, "--write", "--fast")[0] == 2
    lio_target.initiator().write(128, b"otherwise".ljust(BLOCK))
    status, text = played(capture, *to, "--fast")
    assert status == 1
    assert not json.loads(text)["ok"]
