"""The threads that carry out commands which may wait."""

from __future__ import annotations

import logging
import threading

import pytest

from iscsi_target.command_threads import CommandThreads

ANSWER_S = 60.0


def test_a_thread_is_made_for_each_call_under_way_and_not_more_than_the_limit() -> None:
    threads, gate, began = CommandThreads(2, "io"), threading.Event(), threading.Semaphore(0)
    seen: list[str] = []

    def call() -> None:
        seen.append(threading.current_thread().name)
        began.release()
        assert gate.wait(ANSWER_S)

    for under_way in (1, 2, 3):
        threads.submit(call, under_way)
    assert began.acquire(timeout=ANSWER_S) and began.acquire(timeout=ANSWER_S)
    assert sorted(seen) == ["io_0", "io_1"], "the third waits for one of the two threads"
    gate.set()
    threads.stop()
    assert len(seen) == 3 and set(seen) == {"io_0", "io_1"}


def test_calls_one_after_the_other_share_a_thread() -> None:
    threads, seen = CommandThreads(16, "io"), list[str]()
    for _ in range(5):
        ended = threading.Event()

        def call(ended: threading.Event = ended) -> None:
            seen.append(threading.current_thread().name)
            ended.set()

        threads.submit(call, 1)
        assert ended.wait(ANSWER_S)
    threads.stop()
    assert seen == ["io_0"] * 5


def test_stopping_waits_for_every_call_and_ends_the_threads() -> None:
    before = threading.active_count()
    threads, made = CommandThreads(3, "io"), list[int]()
    for number in range(50):
        threads.submit(lambda number=number: made.append(number), number + 1)  # type: ignore[misc]
    threads.stop()
    assert sorted(made) == list(range(50))
    assert threading.active_count() == before


def test_a_defect_in_one_command_is_logged_and_costs_the_others_nothing(
    caplog: pytest.LogCaptureFixture,
) -> None:
    threads, made = CommandThreads(1, "io"), list[int]()

    def fail() -> None:
        raise RuntimeError("a defect")

    with caplog.at_level(logging.ERROR):
        threads.submit(fail, 1)
        threads.submit(lambda: made.append(1), 2)
        threads.stop()
    assert made == [1]
    assert [
        record.exc_info[1].args for record in caplog.records if record.exc_info and record.exc_info[1]
    ] == [("a defect",)]
