"""One database, and one thread that writes to it: changes that come together are committed together.

What :meth:`Database.write` has returned from is durable. A change is a function of a :class:`Transaction`; each is done
wholly or not at all, whatever happens to the others of its batch.
"""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field
from typing import Any, TypeVar

from sqlalchemy import Connection, Engine, event
from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.sql import Executable

T = TypeVar("T")

#: Changes committed together at most; the more wait, the more share one commit.
_BATCH_LIMIT = 256
#: Changes that wait at most; whoever comes then is refused, instead of filling the memory.
_WAITING_LIMIT = 4096
#: Things that changes know of the store at most.
_MEMORY_LIMIT = 4096
#: How long a change waits for its commit.
_COMMIT_TIMEOUT_S = 30.0


class StationStoreError(Exception):
    """The station's state cannot be read or written; one line with what to do."""


@dataclass(slots=True)
class Transaction:
    """What a change works on; ``afterwards`` is done by the writing thread when it is durable: it may not block."""

    connection: Connection
    afterwards: list[Callable[[], None]] = field(default_factory=list)
    memory: dict[Any, Any] = field(default_factory=dict)
    """What earlier changes know of the store as it is now; emptied whenever a change is not made."""

    def remember(self, key: Any, value: Any) -> None:
        """Know ``key`` from now on; where there is too much to know, all of it is read again."""
        if len(self.memory) >= _MEMORY_LIMIT:
            self.memory.clear()
        self.memory[key] = value

    def known(self, key: Any, find: Callable[[], T]) -> T:
        """What is remembered by ``key``, or else found and remembered."""
        if key not in self.memory:
            self.remember(key, find())
        value: T = self.memory[key]
        return value

    def execute(self, statement: Executable, values: Any = None) -> Any:
        """Run one statement."""
        return self.connection.execute(statement, values)


@dataclass(slots=True)
class _Waiting:
    change: Callable[[Transaction], Any]
    done: Future[Any]
    afterwards: list[Callable[[], None]] = field(default_factory=list)


#: A change, what it returned, and what it raised instead.
_Outcome = tuple[_Waiting, Any, BaseException | None]


class Database:
    """An engine and its writer. Thread-safe; close it. Its methods raise :class:`StationStoreError`.

    ``where`` names it in errors; ``release`` is called at the end. With ``single`` there is one connection, which
    readers and the writer take in turns (SQLite in memory). ``check`` is asked before each batch of changes.
    """

    def __init__(
        self,
        engine: Engine,
        where: str,
        *,
        release: Callable[[], None] = lambda: None,
        single: bool = False,
        check: Callable[[Connection], None] | None = None,
    ) -> None:
        self.engine = engine
        self._check = check
        self.where = where
        self._release = release
        self._turn: Any = threading.RLock() if single else nullcontext()
        self._waiting: queue.Queue[_Waiting | None] = queue.Queue(_WAITING_LIMIT)
        self._closed = False
        self._memory: dict[Any, Any] = {}
        self._writer = threading.Thread(target=self._run, name="station-writer", daemon=True)
        self._writer.start()

    def close(self) -> None:
        """Commit what waits, close the database and give it to others."""
        if self._closed:
            return
        self._closed = True
        self._waiting.put(None)
        self._writer.join()
        self.engine.dispose()
        self._release()

    @contextmanager
    def read(self) -> Iterator[Connection]:
        """A connection that sees what has been committed; for reading."""
        try:
            with self._turn, self.engine.connect() as connection:
                yield connection
        except SQLAlchemyError as error:
            raise self.failure(error) from error

    def write(self, change: Callable[[Transaction], T]) -> T:
        """Make a change and wait until it is durable; what it returned, or what it raised (then it is not made)."""
        try:
            return self.submit(change).result(_COMMIT_TIMEOUT_S)
        except TimeoutError:
            raise StationStoreError(
                f"cannot write the station's state in {self.where}: no commit within {_COMMIT_TIMEOUT_S:g} s"
            ) from None

    def submit(self, change: Callable[[Transaction], T]) -> Future[T]:
        """Have a change made; its result comes once it is durable."""
        if threading.current_thread() is self._writer:
            raise RuntimeError("a change cannot wait for another one")
        if self._closed:
            raise StationStoreError(f"the station's state in {self.where} is closed")
        waiting = _Waiting(change, Future())
        try:
            self._waiting.put_nowait(waiting)
        except queue.Full:
            raise StationStoreError(
                f"cannot write the station's state in {self.where}: too many changes are waiting"
            ) from None
        return waiting.done

    def failure(self, error: SQLAlchemyError) -> StationStoreError:
        """``error`` in one line."""
        cause = " ".join(str(getattr(error, "orig", None) or error).split())
        return StationStoreError(f"cannot use the station's state in {self.where}: {cause}")

    # -- the writing thread -------------------------------------------------------------------------------------

    def _run(self) -> None:
        while True:
            batch, ending = self._batch()
            if batch:
                self._commit(batch)
            if ending:
                return

    def _batch(self) -> tuple[list[_Waiting], bool]:
        batch: list[_Waiting] = []
        waiting = self._waiting.get()
        while True:
            if waiting is None:
                return batch, True
            batch.append(waiting)
            if len(batch) == _BATCH_LIMIT:
                return batch, False
            try:
                waiting = self._waiting.get_nowait()
            except queue.Empty:
                return batch, False

    def _commit(self, batch: list[_Waiting]) -> None:
        """All in one transaction. Where one of them fails, all again, each within a savepoint of its own.

        Failures are few, and savepoints cost two statements for each change.
        """
        try:
            outcomes = self._together(batch)
            if outcomes is None:
                self._memory.clear()
                for waiting in batch:
                    waiting.afterwards.clear()
                outcomes = self._apart(batch)
        except SQLAlchemyError as error:
            outcomes = [(waiting, None, self.failure(error)) for waiting in batch]
        except StationStoreError as error:
            outcomes = [(waiting, None, error) for waiting in batch]
        if any(refusal is not None for _, _, refusal in outcomes):
            self._memory.clear()
        for waiting, result, refusal in outcomes:
            if refusal is not None:
                waiting.done.set_exception(refusal)
                continue
            for do in waiting.afterwards:
                do()
            waiting.done.set_result(result)

    def _together(self, batch: list[_Waiting]) -> list[_Outcome] | None:
        """What each change came to; ``None`` where one of several failed, and then nothing is made."""
        outcomes: list[_Outcome] = []
        with self._begun() as connection:
            for waiting in batch:
                try:
                    outcomes.append((waiting, waiting.change(self._transaction(connection, waiting)), None))
                except BaseException as error:  # noqa: BLE001 - the change's own refusal goes to who asked
                    connection.rollback()
                    if len(batch) > 1:
                        return None
                    refusal = self.failure(error) if isinstance(error, SQLAlchemyError) else error
                    return [(waiting, None, refusal)]
        return outcomes

    def _apart(self, batch: list[_Waiting]) -> list[_Outcome]:
        """The same, with none of them in the way of the others."""
        outcomes: list[_Outcome] = []
        with self._begun() as connection:
            for waiting in batch:
                try:
                    with connection.begin_nested():
                        made = waiting.change(self._transaction(connection, waiting))
                    outcomes.append((waiting, made, None))
                except SQLAlchemyError as error:
                    if connection.invalidated:
                        raise
                    self._memory.clear()
                    outcomes.append((waiting, None, self.failure(error)))
                except BaseException as error:  # noqa: BLE001 - as above
                    self._memory.clear()
                    outcomes.append((waiting, None, error))
        return outcomes

    @contextmanager
    def _begun(self) -> Iterator[Connection]:
        with self._turn, self.engine.begin() as connection:
            if self._check is not None:
                self._check(connection)
            yield connection

    def _transaction(self, connection: Connection, waiting: _Waiting) -> Transaction:
        return Transaction(connection, waiting.afterwards, self._memory)


def make_sqlite_transactional(engine: Engine, *, on_disk: bool) -> None:
    """Let SQLAlchemy begin transactions (the driver's own way knows no savepoints), and commits reach the disk."""

    def connected(connection: Any, _record: Any) -> None:
        connection.isolation_level = None
        if on_disk:
            connection.execute("PRAGMA journal_mode=WAL")
            connection.execute("PRAGMA synchronous=FULL")
        connection.execute("PRAGMA busy_timeout=5000")

    event.listen(engine, "connect", connected)
    event.listen(engine, "begin", lambda connection: connection.exec_driver_sql("BEGIN"))
