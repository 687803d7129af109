"""Replaying a capture: what is chosen, in which order, and what a live target makes of it."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner
from hypothesis import given
from hypothesis import strategies as st

from iscsi_target.faults.actions import Drop
from iscsi_target.initiator import Initiator
from iscsi_target.running import RunningTarget, serve
from tools.capture.replay.cdbs import Effect, moved, reach_of
from tools.capture.replay.cli import replay as command
from tools.capture.replay.collect import CapturedCommand, Piece, Trace, collect
from tools.capture.replay.exact import ExactReplay, captured_connection
from tools.capture.replay.plan import Blocks, PlanConfig, PlanError, make_plan
from tools.capture.replay.play import UnderWay, depends
from tools.capture.replay.session import Destination, ReplayConfig, parse_destination, replay
from tools.capture.replay.verdict import latencies, report

BLOCK = 512


def read_cdb(lba: int, blocks: int) -> bytes:
    return bytes((0x28, 0)) + lba.to_bytes(4, "big") + bytes(1) + blocks.to_bytes(2, "big") + bytes(7)


def write_cdb(lba: int, blocks: int) -> bytes:
    return bytes((0x2A,)) + read_cdb(lba, blocks)[1:]


def captured(cdb: bytes, start: int, end: int, **values: Any) -> CapturedCommand:
    reach = reach_of(cdb)
    length = reach.blocks * BLOCK
    writes = reach.effect is Effect.WRITE
    made = CapturedCommand(
        nexus=0,
        lun="0",
        cdb=cdb,
        attr=1,
        edtl=length,
        reads=not writes,
        writes=writes,
        start_ns=start,
        packet=start,
        end_ns=end,
        status=0,
        data_in=None if writes else Piece(0, length),
        data_out=Piece(0, length) if writes else None,
    )
    return replace(made, **values)


# --- what a command does ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("cdb", "effect", "lba", "blocks"),
    [
        ("08 01 02 03 00 00", Effect.READ, 0x010203, 256),
        ("0a 01 02 03 04 00", Effect.WRITE, 0x010203, 4),
        ("28 00 00 00 10 00 00 00 08 00", Effect.READ, 0x1000, 8),
        ("88 00 00 00 00 01 00 00 00 00 00 00 00 10 00 00", Effect.READ, 1 << 32, 16),
        ("12 00 00 00 ff 00", Effect.NONE, 0, 0),
        ("9e 10 00 00 00 00 00 00 00 00 00 00 00 20 00 00", Effect.NONE, 0, 0),
        ("42 00 00 00 00 00 00 00 18 00", Effect.OTHER, 0, 0),
        ("5f 00 00 00 00 00 00 00 18 00", Effect.OTHER, 0, 0),
        ("ff 00 00 00 00 00", Effect.OTHER, 0, 0),
    ],
)
def test_what_a_command_does_is_read_from_its_cdb(cdb: str, effect: Effect, lba: int, blocks: int) -> None:
    found = reach_of(bytes.fromhex(cdb).ljust(16, b"\0"))
    assert (found.effect, found.lba, found.blocks) == (effect, lba, blocks)


def test_a_command_can_be_moved_as_far_as_its_field_reaches() -> None:
    assert reach_of(moved(read_cdb(8, 4), 1000) or b"").lba == 1008
    assert moved(read_cdb(0xFFFFFFFF, 1), 1) is None
    assert moved(bytes.fromhex("081fffff0100").ljust(16, b"\0"), 1) is None
    inquiry = bytes.fromhex("12000000ff00").ljust(16, b"\0")
    assert moved(inquiry, 5) == inquiry


@given(st.lists(st.tuples(st.integers(0, 60), st.integers(0, 20)), max_size=30))
def test_a_set_of_blocks_knows_what_is_new(ranges: list[tuple[int, int]]) -> None:
    blocks, model = Blocks(), set[int]()
    for start, length in ranges:
        wanted = set(range(start, start + length))
        assert blocks.meets(start, start + length) == bool(wanted & model)
        gaps = blocks.add(start, start + length)
        assert {block for low, high in gaps for block in range(low, high)} == wanted - model
        model |= wanted
        assert {block for low, high in blocks.ranges() for block in range(low, high)} == model


# --- the plan ---------------------------------------------------------------------------------------------------


def test_a_step_waits_for_exactly_those_that_had_ended_before_it() -> None:
    plan = make_plan(
        [
            captured(read_cdb(0, 1), 0, 50),
            captured(read_cdb(1, 1), 10, 20),
            captured(read_cdb(2, 1), 30, 40),
            captured(read_cdb(3, 1), 60, 70),
        ],
        PlanConfig(),
    )
    assert [step.after for step in plan.steps] == [0, 0, 1, 3]
    assert plan.ended == (1, 2, 0, 3)
    assert [step.due_ns for step in plan.steps] == [0, 10, 30, 60]


def test_a_step_with_a_time_waits_only_for_what_wrote_or_read_its_blocks_before() -> None:
    write, read, apart, raced = make_plan(
        [
            captured(write_cdb(0, 4), 0, 10),
            captured(read_cdb(3, 4), 20, 30),
            captured(read_cdb(9, 4), 40, 50),
            captured(write_cdb(12, 1), 45, 60),
        ],
        PlanConfig(write=True),
    ).steps
    assert depends(read, write)
    assert not depends(apart, write), "other blocks"
    assert not depends(apart, read), "neither writes"
    assert not depends(raced, apart), "they were under way together"


@given(
    st.lists(
        st.tuples(
            st.booleans(), st.integers(0, 9000), st.integers(0, 3000), st.integers(0, 99), st.integers(1, 99)
        ),
        min_size=2,
        max_size=12,
    )
)
def test_what_a_step_waits_for_is_found_among_its_neighbours(
    wanted: list[tuple[bool, int, int, int, int]],
) -> None:
    plan = make_plan(
        [
            captured((write_cdb if write else read_cdb)(lba, blocks), start, start + took)
            for write, lba, blocks, start, took in sorted(wanted, key=lambda one: one[3])
        ],
        PlanConfig(write=True),
    )
    *others, last = plan.steps
    under_way: Any = UnderWay()
    for number, step in enumerate(others):
        under_way.begin(number, step, number)
    assert sorted(under_way.before(last)) == [n for n, other in enumerate(others) if depends(last, other)]
    for number, step in enumerate(others):
        under_way.end(number, step)
    under_way.end(99, last)
    assert under_way.before(last) == []
    assert not under_way._places


def test_a_speed_shortens_the_time_between_steps() -> None:
    commands = [captured(read_cdb(0, 1), 0, 5), captured(read_cdb(1, 1), 1000, 1005)]
    assert [step.due_ns for step in make_plan(commands, PlanConfig(speed=4)).steps] == [0, 250]


def test_without_leave_nothing_is_written_and_reads_after_the_writes_are_not_compared() -> None:
    commands = [
        captured(read_cdb(0, 4), 0, 1),
        captured(write_cdb(2, 4), 2, 3),
        captured(read_cdb(0, 2), 4, 5),
        captured(read_cdb(4, 4), 6, 7),
    ]
    plan = make_plan(commands, PlanConfig())
    assert plan.skipped == {"write (give --write)": 1}
    assert plan.written == ()
    assert [step.certain for step in plan.steps] == [True, True, False]
    assert all(step.certain for step in make_plan(commands, PlanConfig(write=True)).steps)


@pytest.mark.parametrize("write_first", [True, False])
def test_a_read_and_a_write_under_way_together_tell_nothing(write_first: bool) -> None:
    pair = [captured(write_cdb(0, 4), 0, 10), captured(read_cdb(3, 4), 5, 15)]
    if not write_first:
        pair = [captured(read_cdb(3, 4), 0, 10), captured(write_cdb(0, 4), 5, 15)]
    later = [captured(read_cdb(0, 8), 20, 25)]
    steps = make_plan([*pair, *later], PlanConfig(write=True)).steps
    assert [step.certain for step in steps if step.effect is Effect.READ] == [False, True]


def test_after_two_writes_that_met_nobody_knows_what_is_there() -> None:
    commands = [
        captured(write_cdb(0, 4), 0, 10),
        captured(write_cdb(2, 4), 5, 15),
        captured(read_cdb(0, 2), 20, 21),
        captured(read_cdb(2, 1), 22, 23),
    ]
    steps = make_plan(commands, PlanConfig(write=True)).steps
    assert [step.certain for step in steps[2:]] == [True, False]


def test_what_was_read_before_it_was_written_has_to_be_there_first() -> None:
    commands = [
        captured(read_cdb(0, 4), 0, 1, data_in=Piece(1000, 4 * BLOCK)),
        captured(write_cdb(6, 2), 2, 3),
        captured(read_cdb(2, 6), 4, 5, data_in=Piece(9000, 6 * BLOCK)),
    ]
    plan = make_plan(commands, PlanConfig(write=True))
    assert [(one.lba, one.blocks, one.data) for one in plan.fill] == [
        (0, 4, Piece(1000, 4 * BLOCK)),
        (4, 2, Piece(9000 + 2 * BLOCK, 2 * BLOCK)),
    ]
    assert [(one.lba, one.blocks) for one in plan.written] == [(6, 2)]
    assert plan.blocks_needed == {0: 8}


@pytest.mark.parametrize(
    ("commands", "config", "why"),
    [
        ([], PlanConfig(), "it has no commands"),
        ([captured(write_cdb(0, 1), 0, 1)], PlanConfig(), "give --write"),
        ([captured(write_cdb(0, 1), 0, 1, data_out=None)], PlanConfig(write=True), "without their data"),
        ([captured(read_cdb(0, 1), 0, 1)], PlanConfig(luns={"7": 0}), "no --lun is given"),
        ([captured(read_cdb(0, 1), 0, 1, lun="0x4100000000000001")], PlanConfig(), "--lun is needed"),
        (
            [captured(bytes.fromhex("48").ljust(16, b"\0"), 0, 1)],
            PlanConfig(write=True),
            "neither read, write nor ask",
        ),
        ([captured(read_cdb(0, 1), 0, 1, sense_key=6)], PlanConfig(), "unit attention"),
        ([captured(read_cdb(9, 1), 0, 1)], PlanConfig(lba_offset=1 << 32), "no room for the block numbers"),
    ],
)
def test_nothing_to_play_is_said_with_the_reason(
    commands: list[CapturedCommand], config: PlanConfig, why: str
) -> None:
    with pytest.raises(PlanError, match=why):
        make_plan(commands, config)


@pytest.mark.parametrize(
    "wrong", [{"speed": 0.0}, {"speed": float("nan")}, {"queue_depth": 0}, {"lba_offset": -1}]
)
def test_a_plan_that_cannot_be_is_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(PlanError):
        PlanConfig(**wrong)


@pytest.mark.parametrize(
    "text", ["", "http://h/iqn.x:y", "iscsi://h", "iscsi://h:99999/iqn.x", "iscsi://h/iqn.x/y"]
)
def test_what_is_no_target_is_refused(text: str) -> None:
    with pytest.raises(PlanError, match="is no target"):
        parse_destination(text)


def test_a_target_is_read_as_libiscsi_spells_it() -> None:
    assert parse_destination("iscsi://[::1]:99/iqn.x:y/3") == Destination("::1", 99, "iqn.x:y", 3)
    assert parse_destination("iscsi://host/iqn.x:y") == Destination("host", 3260, "iqn.x:y")


def test_percentiles_are_by_nearest_rank() -> None:
    found = latencies(list(range(1, 101)))
    assert found == {"min": 1, "p50": 50, "p90": 90, "p99": 99, "max": 100, "mean": 50}
    assert latencies([]) is None


# --- live -------------------------------------------------------------------------------------------------------


async def some_work(target: RunningTarget, commands: int = 60) -> None:
    """Reads and writes, eight at a time, each batch on blocks of its own."""
    rng = random.Random(3)
    session = await Initiator.login(target.host, target.port, target.iqn)

    async def one(number: int, lba: int) -> None:
        blocks = 8 * (1 + number % 5)
        if number % 3:
            await session.read(0, lba, blocks)
        else:
            await session.write(0, lba, rng.randbytes(blocks * BLOCK))

    for batch in range(0, commands, 8):
        await asyncio.gather(*(one(batch + at, 64 * at + rng.randrange(2) * 8) for at in range(8)))
    await session.logout()


@pytest.fixture(scope="module")
def capture(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("replay") / "capture.pcapng"
    with serve("4MiB", capture=path, log_limit=None) as target:
        asyncio.run(some_work(target))
    return path


@contextmanager
def opened(capture: Path) -> Iterator[Trace]:
    with collect([capture]) as trace:
        yield trace


def test_commands_come_out_of_a_capture_with_their_data(capture: Path) -> None:
    with opened(capture) as trace:
        played = [one for one in trace.commands if one.sense_key == 0]
        assert len(played) == 64
        assert all(one.status == 0 and one.end_ns > one.start_ns for one in played)
        assert all((one.data_in if one.reads else one.data_out) is not None for one in played)
        assert all(
            len(trace.read(piece)) == one.edtl for one in played if (piece := one.data_in or one.data_out)
        )
        assert trace.nexuses == [
            ("iqn.2026-11.net.example.sancredit:initiator", "iqn.2003-10.example.sancredit:target")
        ]


@pytest.mark.parametrize("speed", [1.0, 20.0, None])
def test_a_replay_to_an_emptied_lun_of_its_own_reads_what_was_captured(
    capture: Path, speed: float | None
) -> None:
    config = ReplayConfig(plan=PlanConfig(write=True, speed=speed))
    with opened(capture) as trace:
        done = asyncio.run(replay(trace, config))
        found = report(done.outcomes, trace.nexuses, done.plan.skipped, paced=speed is not None)
    assert found["ok"], found["first_mismatches"]
    assert found["commands"] == 64
    assert found["compared"] == sum(step.effect is Effect.READ for step in done.plan.steps)
    assert all(outcome.start_ns >= outcome.step.due_ns for outcome in done.outcomes if speed is not None)


def test_other_data_and_another_status_are_mismatches(capture: Path) -> None:
    with opened(capture) as trace, serve("4MiB", log_limit=None) as target:
        destination = Destination(target.host, target.port, target.iqn)
        config = ReplayConfig(plan=PlanConfig(write=True, speed=None), destination=destination)
        first = asyncio.run(replay(trace, config))
        assert report(first.outcomes, trace.nexuses, {}, paced=False)["ok"], "it began with zeros there too"
        with pytest.raises(PlanError, match="LUN 0 is not empty"):
            asyncio.run(replay(trace, config))
        plan = replace(config.plan, write=False)
        again = asyncio.run(replay(trace, replace(config, plan=plan)))
        found = report(again.outcomes, trace.nexuses, again.plan.skipped, paced=False)
        assert not found["ok"]
        assert {one["what"] for one in found["first_mismatches"]} == {"other data than in the capture"}


def test_a_target_with_too_few_blocks_is_refused_before_anything_is_written(capture: Path) -> None:
    with opened(capture) as trace, serve("64KiB", log_limit=None) as target:
        destination = Destination(target.host, target.port, target.iqn)
        config = ReplayConfig(plan=PlanConfig(write=True), destination=destination)
        with pytest.raises(PlanError, match="LUN 0 has 128 blocks, the capture reaches"):
            asyncio.run(replay(trace, config))


def test_the_pdus_themselves_are_answered_as_in_the_capture(capture: Path) -> None:
    connection = captured_connection([capture])
    with serve("4MiB", log_limit=None) as target:
        done = asyncio.run(ExactReplay(connection, target.iqn).run(target.host, target.port))
    assert done.ok, (done.ended, done.differences)
    assert (done.sent, done.received) == (done.total, len(connection.answers))


def test_a_target_that_does_not_answer_as_captured_ends_an_exact_replay_with_what_is_missing(
    capture: Path,
) -> None:
    with serve("4MiB", log_limit=None) as target:
        target.faults.add(Drop(), direction="to-initiator", opcode="scsi-response", nth=4)
        player = ExactReplay(captured_connection([capture]), target.iqn, timeout_s=0.3)
        done = asyncio.run(player.run(target.host, target.port))
    assert not done.ok
    assert "answers in 0.3 s" in done.ended
    assert any("not answered" in one.what for one in done.differences)


# --- the command ------------------------------------------------------------------------------------------------


def run(*arguments: object) -> tuple[int, str]:
    done = CliRunner().invoke(command, [str(argument) for argument in arguments])
    return done.exit_code, done.output


def test_the_command_says_as_captured(capture: Path) -> None:
    code, text = run(capture, "--write", "--fast")
    assert code == 0, text
    assert "verdict: as captured" in text


@pytest.mark.parametrize(
    ("arguments", "code", "why"),
    [
        (("--overwrite",), 2, "give --write too"),
        (("--to", "nowhere"), 2, "is no target"),
        (("--to", "iscsi://127.0.0.1:1/iqn.2026-11.example:x"), 3, "cannot log in to the target"),
        (("--lun", "0"), 2, "write FROM=TO"),
        (("--speed", "0"), 2, "not above 0"),
        (("--write", "--pdu-exact"), 2, "give --to"),
        (("--chap", "user:secret"), 2, "a secret is never an argument"),
        (("--block", "4096"), 2, "reaches"),
    ],
)
def test_bad_input_gets_one_line_and_its_exit_code(
    capture: Path, arguments: tuple[str, ...], code: int, why: str
) -> None:
    if arguments[0] == "--block":
        arguments, why = ("--to", "iscsi://127.0.0.1:3260/x/1/2"), "is no target"
    found, text = run(capture, *arguments)
    assert (found, text.count("\n")) == (code, 1), text
    assert why in text


def test_what_is_no_capture_is_said(tmp_path: Path) -> None:
    (tmp_path / "x.pcap").write_bytes(b"not a capture at all")
    code, text = run(tmp_path / "x.pcap")
    assert code == 2
    assert "neither a pcapng nor a pcap file" in text
