"""Hosts that write numbered, checksummed blocks, and the judge of what is found afterwards at either end."""

from __future__ import annotations

import asyncio
import contextlib
import random
import struct
import threading
import time
import zlib
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from iscsi_target.errors import IscsiError
from iscsi_target.initiator import Initiator

BLOCK = 4096
_HEAD = struct.Struct("<8sQQI")
_MAGIC = b"HOSTDATA"


def block_of(slot: int, number: int) -> bytes:
    """4096 bytes that say where they belong and which write they are."""
    body = struct.pack("<Q", number) * ((BLOCK - _HEAD.size) // 8)
    body = body.ljust(BLOCK - _HEAD.size, b"\0")
    return _HEAD.pack(_MAGIC, slot, number, zlib.crc32(body)) + body


def number_of(slot: int, data: bytes) -> int:
    """The write that a block is from; 0 for zeros. AssertionError for anything torn, misplaced or made up."""
    if not data.strip(b"\0"):
        return 0
    magic, found, number, crc = _HEAD.unpack(data[: _HEAD.size])
    assert magic == _MAGIC and found == slot, f"slot {slot} has something of slot {found}"
    assert zlib.crc32(data[_HEAD.size :]) == crc, f"the block of slot {slot} is torn: write {number}"
    return int(number)


@dataclass
class Write:
    """One write: when it was given to the array, and when it was acknowledged (None: never)."""

    slot: int
    number: int
    issued: float
    acknowledged: float | None = None


@dataclass
class Ledger:
    """Every write of every host."""

    slots: int
    writes: dict[int, Write] = field(default_factory=dict)
    by_slot: dict[int, list[int]] = field(default_factory=dict)
    lock: threading.Lock = field(default_factory=threading.Lock)

    def issue(self, slot: int) -> Write:
        with self.lock:
            write = Write(slot, len(self.writes) + 1, time.monotonic())
            self.writes[write.number] = write
            self.by_slot.setdefault(slot, []).append(write.number)
            return write

    @property
    def acknowledged(self) -> int:
        return sum(write.acknowledged is not None for write in self.writes.values())

    def numbers(self, image: bytes) -> list[int]:
        """The write that each slot of an image has."""
        return [number_of(slot, image[slot * BLOCK : (slot + 1) * BLOCK]) for slot in range(self.slots)]

    def check_complete(self, image: bytes, until: float) -> None:
        """Every write that was acknowledged before ``until`` is there, or a later one in its place."""
        found = self.numbers(image)
        for slot, numbers in self.by_slot.items():
            promised = [n for n in numbers if (a := self.writes[n].acknowledged) is not None and a < until]
            assert found[slot] in (0, *numbers), f"slot {slot} has write {found[slot]}, which is not its own"
            if promised:
                assert found[slot] >= promised[-1], (
                    f"slot {slot} has write {found[slot]}; write {promised[-1]} was acknowledged and is lost"
                )

    def check_order(self, image: bytes) -> int:
        """The image is a point in time: with a write it has every write acknowledged before that one was issued.

        The number of acknowledged writes that it does not have yet.
        """
        found = self.numbers(image)
        missing = [
            write
            for slot, numbers in self.by_slot.items()
            for n in numbers
            if n > found[slot] and (write := self.writes[n]).acknowledged is not None
        ]
        first = min((write.acknowledged for write in missing if write.acknowledged is not None), default=None)
        if first is not None:
            for slot, number in enumerate(found):
                if number:
                    write = self.writes[number]
                    assert write.issued <= first, (
                        f"write {number} (slot {slot}) is there, and a write acknowledged "
                        f"{write.issued - first:.6f} s before it was issued is not"
                    )
        return len(missing)


class Hosts(threading.Thread):
    """Several hosts, each with slots of its own, writing until :meth:`end`; thrown out, they log in again."""

    def __init__(self, place: tuple[str, int, str], ledger: Ledger, *, hosts: int = 3, seed: int = 1) -> None:
        super().__init__(name="hosts", daemon=True)
        self._place = place
        self.ledger = ledger
        self._hosts = hosts
        self._seed = seed
        self._ending = threading.Event()
        self.failure: BaseException | None = None

    def __enter__(self) -> Hosts:
        self.start()
        return self

    def __exit__(self, *_: Any) -> None:
        self.end()

    def end(self) -> None:
        """Stop writing, and wait for what is under way."""
        self._ending.set()
        self.join(120)
        assert not self.is_alive()
        if self.failure is not None:
            raise self.failure

    def run(self) -> None:
        try:
            asyncio.run(self._run())
        except (Exception, ExceptionGroup) as error:  # noqa: BLE001 - handed to whoever ends it
            self.failure = error

    async def _run(self) -> None:
        async with asyncio.TaskGroup() as group:
            for number in range(self._hosts):
                group.create_task(self._host(number))

    async def _host(self, number: int) -> None:
        rng = random.Random(self._seed * 1000 + number)
        mine = range(number, self.ledger.slots, self._hosts)
        while not self._ending.is_set():
            session = None
            with contextlib.suppress(IscsiError, OSError, TimeoutError):
                session = await Initiator.login(*self._place, timeout_s=10.0)
                while not self._ending.is_set():
                    await self._write(session, rng.choice(mine))
                    await asyncio.sleep(0.002)
            if session is not None:
                await session.abort()
            await asyncio.sleep(0.02)

    async def _write(self, session: Initiator, slot: int) -> None:
        write = self.ledger.issue(slot)
        answer = await session.execute(
            0,
            bytes((0x8A, 0))
            + (slot * BLOCK // 512).to_bytes(8, "big")
            + (BLOCK // 512).to_bytes(4, "big")
            + bytes(2),
            data_out=block_of(slot, write.number),
            check=False,
        )
        if answer.status == 0:
            write.acknowledged = time.monotonic()
        else:
            await asyncio.sleep(0.01)


async def relay(listen: tuple[str, int], towards: tuple[str, int], ready: Callable[[], None]) -> None:
    """The channel to a remote array, for a process of its own: it is broken by killing that."""

    async def accept(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writers = [writer]
        try:
            there_reader, there = await asyncio.open_connection(*towards)
            writers.append(there)
            async with asyncio.TaskGroup() as group:
                group.create_task(_pump(reader, there))
                group.create_task(_pump(there_reader, writer))
        except* (OSError, EOFError):
            pass  # one end is gone, and so is the other
        finally:
            for one in writers:
                one.transport.abort()

    async with await asyncio.start_server(accept, *listen) as server:
        ready()
        await server.serve_forever()


async def _pump(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    while data := await reader.read(65536):
        writer.write(data)
        await writer.drain()
    raise EOFError


class Channel(threading.Thread):
    """The channel to a remote array as a proxy on loopback that can be cut, and can flip a bit."""

    def __init__(self, listen: tuple[str, int], towards: tuple[str, int]) -> None:
        super().__init__(name="channel", daemon=True)
        self._listen = listen
        self._towards = towards
        self._up = threading.Event()
        self._ended = threading.Event()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._tasks: set[asyncio.Task[None]] = set()
        self._open = True
        self.flip_at: int | None = None
        self.passed = 0

    def __enter__(self) -> Channel:
        self.start()
        assert self._up.wait(60)
        return self

    def __exit__(self, *_: Any) -> None:
        assert self._loop is not None
        self._loop.call_soon_threadsafe(self._ended_async.set)
        self.join(60)
        assert not self.is_alive()

    def cut(self, *, stays: bool = False) -> None:
        """Break every connection; with ``stays`` take no new ones until :meth:`mend`."""
        self._open = not stays

        def cancel() -> None:
            for task in list(self._tasks):
                task.cancel()

        assert self._loop is not None
        self._loop.call_soon_threadsafe(cancel)

    def mend(self) -> None:
        self._open = True

    def run(self) -> None:
        asyncio.run(self._serve())

    async def _serve(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._ended_async = asyncio.Event()
        server = await asyncio.start_server(self._accept, *self._listen)
        self._up.set()
        await self._ended_async.wait()
        server.close()
        for task in list(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        writers = [writer]
        try:
            if not self._open:
                return
            there_reader, there = await asyncio.open_connection(*self._towards)
            writers.append(there)
            async with asyncio.TaskGroup() as group:
                group.create_task(self._pass(reader, there, counts=True))
                group.create_task(self._pass(there_reader, writer, counts=False))
        except* (OSError, asyncio.CancelledError, EOFError):
            pass  # a cut channel is what this is for
        finally:
            self._tasks.discard(task)
            for one in writers:
                one.transport.abort()

    async def _pass(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, *, counts: bool
    ) -> None:
        while data := await reader.read(65536):
            if counts:
                if self.flip_at is not None and self.passed <= self.flip_at < self.passed + len(data):
                    changed = bytearray(data)
                    changed[self.flip_at - self.passed] ^= 0x10
                    data, self.flip_at = bytes(changed), None
                self.passed += len(data)
            writer.write(data)
            await writer.drain()
        raise EOFError
