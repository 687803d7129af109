"""Python hooks: what they see, what they may return, and what their mistakes cost."""

from __future__ import annotations

import logging
from pathlib import Path

import pytest

from iscsi_target.faults import Drop, FaultError, Truncate, queue_full
from iscsi_target.faults.hook import HookContext, load_hook
from iscsi_target.faults.matching import Direction
from iscsi_target.faults.wire_pdu import WirePdu
from iscsi_target.running import serve
from iscsi_target.wire.responses import NopIn, ScsiResponse
from tests.iscsi_target.faults.raw_initiator import INITIATOR, RawInitiator


def test_a_hook_sees_every_pdu_and_its_actions_are_done(tmp_path: Path) -> None:
    seen: list[HookContext] = []

    def hook(pdu: WirePdu, context: HookContext) -> object:
        seen.append(context)
        if pdu.opcode == 0x20 and pdu.data == b"cut me":
            return [Truncate(3)]
        if pdu.opcode == 0x00 and pdu.data == b"drop me":
            return Drop()
        return None

    with (
        serve("4MiB", hooks=[("my-hook", hook)], log_limit=None) as target,  # type: ignore[list-item]
        RawInitiator(target.host, target.port, target.iqn) as raw,
    ):
        raw.ping(b"cut me")
        assert raw.receive().data == b"cut"
        raw.ping(b"drop me", immediate=True)
        raw.ping(b"whole", immediate=True)
        assert raw.receive().data == b"whole"
        raw.read(blocks=1)
        raw.receive()
    assert [context.direction for context in seen[:2]] == [Direction.TO_TARGET, Direction.TO_INITIATOR]
    assert [context.number for context in seen] == list(range(1, len(seen) + 1))
    assert {context.initiator_name for context in seen} == {INITIATOR}
    answer = seen[-1]
    assert (answer.lun, answer.cdb[0], answer.tsih, answer.connection) == (0, 0x28, 1, 1)


def test_a_hook_may_answer_for_the_logical_unit() -> None:
    def hook(pdu: WirePdu, context: HookContext) -> object:
        return queue_full() if pdu.opcode == 0x01 and context.cdb[0] == 0x28 else None

    with serve("4MiB", hooks=[("full", hook)]) as target:  # type: ignore[list-item]
        with RawInitiator(target.host, target.port, target.iqn) as raw:
            raw.clear_attention()
            raw.read(blocks=1)
            pdu = raw.receive()
            assert isinstance(pdu, ScsiResponse)
            assert pdu.status == 0x28
            raw.write(bytes(512))
            assert raw.receive().status == 0  # type: ignore[union-attr]
        assert not target.instruments.promised
        assert target.log.count(rule="full") == 1


@pytest.mark.parametrize("mistake", ["raises", "returns what is no action"])
def test_a_hooks_mistake_costs_a_line_in_the_log_and_nothing_else(
    mistake: str, caplog: pytest.LogCaptureFixture
) -> None:
    def hook(pdu: WirePdu, context: HookContext) -> object:
        if mistake == "raises":
            raise RuntimeError("I am wrong")
        return "drop"

    with (
        serve("4MiB", hooks=[("bad", hook)]) as target,  # type: ignore[list-item]
        RawInitiator(target.host, target.port, target.iqn) as raw,
    ):
        raw.ping(b"fine")
        assert isinstance(raw.receive(), NopIn)
    said = [record.getMessage() for record in caplog.get_records("call") if record.levelno == logging.ERROR]
    assert said == ["the hook bad failed on a PDU of connection 1"]


def test_a_hooks_chance_replays_with_the_seed() -> None:
    def hook(pdu: WirePdu, context: HookContext) -> object:
        return Drop() if pdu.opcode == 0x20 and pdu.data and context.random.random() < 0.5 else None

    def run(seed: int) -> list[bytes]:
        with (
            serve("4MiB", hooks=[("chance", hook)], seed=seed) as target,  # type: ignore[list-item]
            RawInitiator(target.host, target.port, target.iqn) as raw,
        ):
            for number in range(32):
                raw.ping(bytes([number]), immediate=True)
            raw.ping(b"", immediate=True)
            got = []
            while data := raw.receive().data:
                got.append(data)
            return got

    assert run(3) == run(3) != run(4)


def test_a_hook_is_loaded_from_a_file(tmp_path: Path) -> None:
    file = tmp_path / "my_hook.py"
    file.write_text("from iscsi_target.faults import Drop\ndef hook(pdu, context):\n    return Drop()\n")
    assert load_hook(file)(WirePdu(bytes(48)), None) == Drop()  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("text", "says"),
    [
        (None, "is no Python file"),
        ("x = 1", r"defines no function hook\(pdu, context\)"),
        ("1 / 0", "ZeroDivisionError: division by zero"),
        ("def hook(", "SyntaxError"),
    ],
)
def test_a_file_without_a_hook_is_refused_in_one_line(tmp_path: Path, text: str | None, says: str) -> None:
    file = tmp_path / "bad_hook.py"
    if text is not None:
        file.write_text(text)
    with pytest.raises(FaultError, match=says) as refused:
        load_hook(file)
    assert "bad_hook.py" in str(refused.value)
    assert "\n" not in str(refused.value)


def test_the_example_hook_answers_the_first_read_of_every_session_with_busy() -> None:
    example = Path(__file__).resolve().parents[3] / "examples" / "hook.py"
    with serve("4MiB", hooks=[("example", load_hook(example))]) as target:
        for _ in range(2):
            with RawInitiator(target.host, target.port, target.iqn) as raw:
                raw.clear_attention()
                statuses = []
                for _ in range(3):
                    raw.read(blocks=1)
                    statuses.append(raw.receive().status)  # type: ignore[union-attr]
                assert statuses == [8, 0, 0]
