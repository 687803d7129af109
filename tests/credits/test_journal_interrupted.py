"""Ctrl-C while a commit is under way: the answer is lost, the reservation and its target are not."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

INTERRUPTED = """
import os, signal, sqlite3, sys, threading
from pathlib import Path
from credits import DurablePool, PoolConfig, UnitKind, port_pair
from credits.journal import connect_journal

at_commit, go_on = threading.Event(), threading.Event()

class Held:
    def __init__(self, path):
        self.real = connect_journal(path)
    def __getattr__(self, name):
        return getattr(self.real, name)
    def execute(self, statement, *rest):
        if statement == "COMMIT" and armed.is_set():
            at_commit.set()
            assert go_on.wait(30)
        return self.real.execute(statement, *rest)

def interrupt():
    assert at_commit.wait(30)
    for _ in range(3):
        os.kill(os.getpid(), signal.SIGINT)
    go_on.set()

armed = threading.Event()
config = PoolConfig(name="p", kind=UnitKind.TCP, unit_bytes=100, total_units=1000)
target = port_pair("l", "r")
with DurablePool.open(Path(sys.argv[1]), config, connect=Held) as pool:
    armed.set()
    threading.Thread(target=interrupt).start()
    try:
        pool.reserve(target, 500, request_id="a", now_ns=0)
    except KeyboardInterrupt:
        print("interrupted")
    print(pool.reserve(target, 500, request_id="a", now_ns=0).reserved_units)
    pool.release(target, request_id="b", now_ns=0)
    pool.audit()
    print(pool.statistics().free_units)
"""


def test_an_interrupted_reservation_stands_and_its_target_can_be_used(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-c", INTERRUPTED, str(tmp_path)],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.stdout.split() == ["interrupted", "5", "1000"], done.stderr
