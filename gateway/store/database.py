"""The database: one file, one connection, one writer thread, many jobs to a commit.

* Callers hand in *jobs*, functions of a SQLAlchemy Core connection. The writer thread takes every
  job that waits, runs each in a savepoint of one transaction, commits once, then answers all of
  them: an answer means the change is on disk.
* A job that raises is rolled back alone and its exception reaches its caller. When the commit
  itself fails nothing of the batch remains and every caller gets a :class:`StoreError`.
* Reads run on the same thread before the writes of their batch, so they see committed data only
  and everything whose write had been answered when they were asked.
* A queued write is carried out even when its caller stops waiting.
* ``synchronous=FULL``; write-ahead log where the SQLite library is free of its fault, rollback journal
  otherwise: docs/decisions/0002-sqlite-journal-mode-and-single-writer.md.
"""

import asyncio
import contextlib
import fcntl
import os
import queue
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, Self, TypeVar

from sqlalchemy import URL, Connection, Engine, create_engine, event, insert, inspect, select
from sqlalchemy.exc import IntegrityError, SQLAlchemyError
from sqlalchemy.pool import NullPool

from gateway.errors import ConfigError, StoreError
from gateway.store.driver import journal_mode
from gateway.store.tables import SCHEMA_VERSION, SCHEMA_VERSION_KEY, Stored, meta

if TYPE_CHECKING:
    import sqlite3
else:
    from gateway.store.driver import sqlite3

T = TypeVar("T")

DATABASE_FILE = "fluxeon.sqlite3"
LOCK_FILE = "fluxeon.lock"

BUSY_TIMEOUT_S = 10.0
"""How long a commit waits for readers of other processes."""
READER_PATIENCE_S = 60.0
"""How long a reader waits for a gap between commits."""
READER_RETRY_S = 0.002
"""Pause between its attempts: SQLite's own grows to 100 ms and would miss most gaps of a busy writer."""
MAX_BATCH_JOBS = 256
"""Jobs that share one commit: bounds how long the first of them waits for the last."""
JOURNAL_SIZE_LIMIT_BYTES = 4 * 1024 * 1024
"""The persistent rollback journal is cut back to this after a larger transaction."""
CACHE_KIB = 32 * 1024
"""Page cache. A transaction that outgrows it would lock readers out before its commit."""

_DATA_DIR_SETTING = "FLUXEON_DATA_DIR (--data-dir)"


class DatabaseStats(NamedTuple):
    """Counters since the database was opened.

    Attributes:
        writes: Write jobs answered with success.
        commits: Transactions that made them durable.
        failures: Jobs, of either kind, answered with an exception.
        waiting: Jobs in the queue now.
    """

    writes: int
    commits: int
    failures: int
    waiting: int


class _Job:
    """A queued job and the place its answer goes."""

    __slots__ = ("error", "future", "loop", "result", "run", "writes")

    def __init__(
        self, run: Callable[[Connection], Any], loop: asyncio.AbstractEventLoop, *, writes: bool
    ) -> None:
        self.run = run
        self.writes = writes
        self.loop = loop
        self.future: asyncio.Future[Any] = loop.create_future()
        self.result: Any = None
        self.error: BaseException | None = None


class Database:
    """The open database. Made by :meth:`open`; methods may be awaited from any event loop."""

    def __init__(self, data_dir: Path, lock_fd: int) -> None:
        self.path = data_dir / DATABASE_FILE
        self._lock_fd = lock_fd
        self._queue: queue.SimpleQueue[_Job | None] = queue.SimpleQueue()
        self._gate = threading.Lock()  # no job enters the queue behind the end mark
        self._closed = False
        self._writes = self._commits = self._failures = 0
        self._opened: Future[None] = Future()
        self._thread = threading.Thread(target=self._run, name="fluxeon-writer", daemon=True)
        self._engine: Engine
        self._connection: Connection
        self._driver: sqlite3.Connection
        self._resetting = False

    @classmethod
    def open(cls, data_dir: Path) -> Self:
        """Open the database in ``data_dir``, creating directory, file and tables where missing.

        Raises:
            ConfigError: The directory cannot be used, is in use by another gateway, or holds a
                database that this version does not understand.
        """
        try:
            data_dir.mkdir(mode=0o700, parents=True, exist_ok=True)
            lock_fd = os.open(data_dir / LOCK_FILE, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        except OSError as exc:
            msg = f"{_DATA_DIR_SETTING}: the directory cannot be written ({exc.strerror})"
            raise ConfigError(msg) from exc
        try:
            fcntl.flock(lock_fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as exc:
            os.close(lock_fd)
            msg = f"{_DATA_DIR_SETTING}: another gateway is running on this data directory"
            raise ConfigError(msg) from exc
        database = cls(data_dir, lock_fd)
        database._thread.start()
        try:
            database._opened.result()
        except BaseException:
            database._thread.join()
            raise
        return database

    async def write(self, job: Callable[[Connection], T]) -> T:
        """Run ``job`` in the next transaction and return its result once that is on disk.

        The job may be run in any order relative to jobs of other callers, but jobs queued from
        one thread run in the order in which they were queued. It must not commit or roll back.

        Raises:
            StoreError: The database is closed, refused a statement of the job
                (code ``store_conflict`` for a violated constraint), or could not commit.
            Exception: Whatever the job raised.
        """
        return await self._submit(job, writes=True)

    async def read(self, job: Callable[[Connection], T]) -> T:
        """Run ``job`` on committed data; a statement that writes is refused.

        Reads share the writer's thread: keep them short, page long ones.

        Raises:
            StoreError: The database is closed or refused a statement of the job.
            Exception: Whatever the job raised.
        """
        return await self._submit(job, writes=False)

    async def close(self) -> None:
        """Carry out what is queued, then close. Later jobs are refused. May be called again."""
        with self._gate:
            if not self._closed:
                self._closed = True
                self._queue.put(None)
        await asyncio.get_running_loop().run_in_executor(None, self._thread.join)

    def stats(self) -> DatabaseStats:
        """Return the counters."""
        return DatabaseStats(self._writes, self._commits, self._failures, self._queue.qsize())

    @property
    def healthy(self) -> bool:
        """Whether jobs are still taken."""
        return not self._closed and self._thread.is_alive()

    async def _submit(self, job: Callable[[Connection], T], *, writes: bool) -> T:
        item = _Job(job, asyncio.get_running_loop(), writes=writes)
        with self._gate:
            if self._closed:
                raise StoreError("the database is closed")
            self._queue.put(item)
        result: T = await item.future
        return result

    # ---- below: the writer thread -------------------------------------------------------------

    def _run(self) -> None:
        try:
            self._connect()
        except BaseException as exc:  # noqa: BLE001 - carried to the thread that opens
            self._disconnect()
            self._opened.set_exception(exc)
            return
        self._opened.set_result(None)
        try:
            self._serve()
        finally:
            with self._gate:
                self._closed = True
            self._refuse_waiting()
            self._disconnect()

    def _connect(self) -> None:
        self._engine = _engine(URL.create("sqlite", database=str(self.path)))
        try:
            self._connection = self._engine.connect()
            event.listen(self._connection, "commit", _refuse_commit)
            event.listen(self._connection, "rollback", self._refuse_rollback)
            self._driver = _driver_of(self._connection)
            self.path.chmod(0o600)
            for pragma in (
                f"journal_mode={journal_mode()}",
                "synchronous=FULL",
                "foreign_keys=ON",
                f"cache_size=-{CACHE_KIB}",
                f"journal_size_limit={JOURNAL_SIZE_LIMIT_BYTES}",
                "trusted_schema=OFF",
                "temp_store=MEMORY",
            ):
                self._driver.execute(f"PRAGMA {pragma}")
            self._driver.execute("BEGIN IMMEDIATE")
            _prepare_schema(self._connection)
            self._driver.execute("COMMIT")
            self._reset()
        except (SQLAlchemyError, sqlite3.Error) as exc:
            msg = f"{_DATA_DIR_SETTING}: {DATABASE_FILE} cannot be opened: {exc}"
            raise ConfigError(msg) from exc

    def _disconnect(self) -> None:
        with contextlib.suppress(AttributeError):  # not reached when opening failed early
            self._resetting = True
            self._connection.close()
            self._engine.dispose()
        os.close(self._lock_fd)

    def _serve(self) -> None:
        ending = False
        while not ending:
            batch, ending = self._take()
            try:
                self._carry_out(batch)
            except BaseException as exc:
                # The connection cannot be trusted any more: end the service, but answer everyone.
                for job in batch:
                    job.error = job.error or StoreError(f"the database failed: {exc}")
                self._answer(batch)
                raise

    def _carry_out(self, batch: Sequence[_Job]) -> None:
        reads = [job for job in batch if not job.writes]
        writes = [job for job in batch if job.writes]
        if reads:
            self._read(reads)
            self._answer(reads)
        while writes:
            done = self._transaction(writes)
            self._answer(writes[:done])
            writes = writes[done:]

    def _take(self) -> tuple[list[_Job], bool]:
        """Wait for a job and take those behind it, up to the end mark."""
        item = self._queue.get()
        batch: list[_Job] = []
        while item is not None:
            batch.append(item)
            if len(batch) == MAX_BATCH_JOBS:
                return batch, False
            try:
                item = self._queue.get_nowait()
            except queue.Empty:
                return batch, False
        return batch, True

    def _read(self, jobs: Sequence[_Job]) -> None:
        self._driver.execute("PRAGMA query_only=ON")
        for job in jobs:
            self._attempt(job)
        self._driver.execute("PRAGMA query_only=OFF")

    def _transaction(self, jobs: Sequence[_Job]) -> int:
        """Run jobs in one transaction; return how many of them have their answer.

        Fewer than all when SQLite gave up the transaction in the middle (a full disk does that):
        those after the culprit have not run and get a transaction of their own.
        """
        driver = self._driver
        done = 0
        try:
            driver.execute("BEGIN IMMEDIATE")
            for job in jobs:
                driver.execute("SAVEPOINT job")
                self._attempt(job)
                done += 1
                if not driver.in_transaction:
                    raise sqlite3.OperationalError(f"the transaction was lost: {job.error}")
                if job.error is not None:
                    driver.execute("ROLLBACK TO job")
                driver.execute("RELEASE job")
            driver.execute("COMMIT")
        except sqlite3.Error as exc:
            done = done or len(jobs)
            for job in jobs[:done]:
                if job.error is None:
                    job.error = StoreError(f"the change could not be made durable: {exc}")
                    job.error.__cause__ = exc
            if driver.in_transaction:
                driver.execute("ROLLBACK")
            return done
        self._commits += 1
        return len(jobs)

    def _attempt(self, job: _Job) -> None:
        try:
            job.result = job.run(self._connection)
        except SQLAlchemyError as exc:
            violated = isinstance(exc, IntegrityError)
            job.error = StoreError(
                f"the database refused a statement: {getattr(exc, 'orig', None) or exc}",
                code="store_conflict" if violated else "store_unavailable",
            )
            job.error.__cause__ = exc
        except Exception as exc:  # noqa: BLE001 - it belongs to the caller, who gets it
            job.error = exc
        self._reset()

    def _reset(self) -> None:
        """Forget SQLAlchemy's idea of a transaction; the driver's own is not touched."""
        self._resetting = True
        self._connection.rollback()
        self._resetting = False

    def _refuse_rollback(self, connection: Connection) -> None:
        # Outside a transaction SQLAlchemy itself tidies up after a statement that failed to start.
        if connection.in_transaction() and not self._resetting:
            raise RuntimeError("a job must not roll back: it raises, and its savepoint is undone")

    def _answer(self, jobs: Sequence[_Job]) -> None:
        failed = sum(1 for job in jobs if job.error is not None)
        self._failures += failed
        if jobs and jobs[0].writes:
            self._writes += len(jobs) - failed
        by_loop: dict[asyncio.AbstractEventLoop, list[_Job]] = {}
        for job in jobs:
            by_loop.setdefault(job.loop, []).append(job)
        for loop, answered in by_loop.items():
            # A loop that has ended has nobody left to tell.
            with contextlib.suppress(RuntimeError):
                loop.call_soon_threadsafe(_deliver, answered)

    def _refuse_waiting(self) -> None:
        """Answer what is still queued after the thread has stopped serving."""
        left: list[_Job] = []
        with contextlib.suppress(queue.Empty):
            while True:
                item = self._queue.get_nowait()
                if item is not None:
                    item.error = StoreError("the database is closed")
                    left.append(item)
        self._answer(left)


@contextlib.contextmanager
def open_reader(data_dir: Path) -> Iterator[Connection]:
    """Open the database of ``data_dir`` for reading, also while a gateway serves from it.

    Every statement is its own short read transaction, ended when its rows are fetched: fetch in
    pages, a gateway's commit waits for an open one.

    Raises:
        ConfigError: There is no database, or not one this version understands.
    """
    path = data_dir / DATABASE_FILE
    if not path.is_file():
        raise ConfigError(f"{_DATA_DIR_SETTING}: there is no {DATABASE_FILE} in it")
    # Not mode=ro where it can be helped: after a crash the first to open must roll back the journal.
    mode = "rw" if os.access(path, os.W_OK) and os.access(data_dir, os.W_OK) else "ro"
    query = {"mode": mode, "uri": "true"}
    engine = _engine(URL.create("sqlite", database=path.resolve().as_uri(), query=query), timeout_s=0)
    event.listen(engine, "do_execute", _execute_patiently)
    try:
        try:
            connection = engine.connect()
            _driver_of(connection).execute("PRAGMA query_only=ON")
            _check_version(_stored_version(connection))
        except (SQLAlchemyError, sqlite3.Error) as exc:
            msg = f"{_DATA_DIR_SETTING}: {DATABASE_FILE} cannot be read: {exc}"
            raise ConfigError(msg) from exc
        with connection:
            yield connection
    finally:
        engine.dispose()


def _execute_patiently(cursor: sqlite3.Cursor, statement: str, parameters: Any, _context: Any) -> bool:
    """Execute a reader's statement in place of SQLAlchemy, again while a commit is under way."""
    deadline = time.monotonic() + READER_PATIENCE_S
    while True:
        try:
            cursor.execute(statement, parameters)
        except sqlite3.OperationalError as exc:
            busy = getattr(exc, "sqlite_errorcode", 0) & 0xFF == sqlite3.SQLITE_BUSY
            if not busy or time.monotonic() > deadline:
                raise
            time.sleep(READER_RETRY_S)
        else:
            return True


def _engine(url: URL, *, timeout_s: float = BUSY_TIMEOUT_S) -> Engine:
    # Transactions are ours: SQLAlchemy's savepoints alone would cost more than an insert.
    return create_engine(
        url,
        module=sqlite3,
        isolation_level="AUTOCOMMIT",
        skip_autocommit_rollback=True,
        poolclass=NullPool,
        connect_args={"timeout": timeout_s, "cached_statements": 512},
    )


def _driver_of(connection: Connection) -> sqlite3.Connection:
    driver = connection.connection.driver_connection
    if not isinstance(driver, sqlite3.Connection):
        raise TypeError("only SQLite is spoken here")
    return driver


def _refuse_commit(_connection: Connection) -> None:
    raise RuntimeError("a job must not commit: the writer does, for the whole batch")


def _deliver(jobs: Sequence[_Job]) -> None:
    for job in jobs:
        if not job.future.done():
            if job.error is None:
                job.future.set_result(job.result)
            else:
                job.future.set_exception(job.error)
        elif job.error is not None:  # nobody waits any more, but it must not vanish
            job.loop.call_exception_handler(
                {"message": "a database job failed after its caller had left", "exception": job.error}
            )


def _prepare_schema(connection: Connection) -> None:
    """Create the tables in an empty database, or check the version of a filled one."""
    names = inspect(connection).get_table_names()
    if not names:
        Stored.metadata.create_all(connection)
        connection.execute(insert(meta).values(key=SCHEMA_VERSION_KEY, value=str(SCHEMA_VERSION)))
    else:
        _check_version(_stored_version(connection))


def _stored_version(connection: Connection) -> str | None:
    if not inspect(connection).has_table(meta.name):
        return None
    statement = select(meta.c.value).where(meta.c.key == SCHEMA_VERSION_KEY)
    return connection.execute(statement).scalar()


def _check_version(found: str | None) -> None:
    if found is None:
        msg = f"{_DATA_DIR_SETTING}: {DATABASE_FILE} is not a FLUXEON database"
        raise ConfigError(msg)
    if found != str(SCHEMA_VERSION):
        msg = (
            f"{_DATA_DIR_SETTING}: {DATABASE_FILE} has schema version {found}, "
            f"this program understands {SCHEMA_VERSION}"
        )
        raise ConfigError(msg)
