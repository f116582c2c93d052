"""The seller's durable memory: contracts, messages already taken, callbacks still owed, event time.

Rules:

* What a message changes is committed as one before the message is acknowledged.
* Writers that come while a commit is on its way share the next one (group commit): one fsync for all.
* One connection, exclusively locked: a second process on the same folder is refused, and the race of
  SQLite's write-ahead log between two connections cannot happen.
* A callback that was delivered is struck off with the next commit; after a crash it may go out again,
  and the receiver knows the message id.
"""

import asyncio
import sqlite3
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime
from pathlib import Path

import msgspec

from gateway.errors import StoreError
from registry.bpp.contracts import Contract

FILE_NAME = "bpp.sqlite"
_SCHEMA = """
CREATE TABLE IF NOT EXISTS contract (contract_id TEXT PRIMARY KEY, document BLOB NOT NULL) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS taken (sender_id TEXT, message_id TEXT, digest TEXT NOT NULL,
    PRIMARY KEY (sender_id, message_id)) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS owed (number INTEGER PRIMARY KEY, document BLOB NOT NULL);
CREATE TABLE IF NOT EXISTS event_clock (one INTEGER PRIMARY KEY CHECK (one = 1), at TEXT NOT NULL);
"""


class Callback(msgspec.Struct, frozen=True, kw_only=True):
    """A message owed to a buyer, encoded once."""

    number: int
    """Order of origin; also its id on disk."""
    action: str
    transaction_id: str
    message_id: str
    url: str
    body: bytes
    request_signature: str | None
    """Signature of the request it answers; None for one sent unasked."""
    void_at: datetime
    """Wall time after which a receiver would drop it for its ttl."""


class Taken(msgspec.Struct, frozen=True, kw_only=True):
    """A message that has been acted on."""

    sender_id: str
    message_id: str
    digest: str


class Change(msgspec.Struct, frozen=True, kw_only=True):
    """What one step writes, all or nothing."""

    contracts: tuple[Contract, ...] = ()
    taken: tuple[Taken, ...] = ()
    owed: tuple[Callback, ...] = ()
    event_time: datetime | None = None


class Remembered(msgspec.Struct, frozen=True, kw_only=True):
    """Everything on disk at the start."""

    contracts: tuple[Contract, ...]
    taken: tuple[Taken, ...]
    owed: tuple[Callback, ...]
    event_time: datetime | None


class Ledger:
    """The database of one seller. Open it before the loop runs; write from inside the loop."""

    def __init__(self, data_dir: Path) -> None:
        """Open or create the database.

        Raises:
            StoreError: The folder cannot be written, or another process holds the database.
        """
        self._path = data_dir / FILE_NAME
        try:
            data_dir.mkdir(parents=True, exist_ok=True)
            self._db = sqlite3.connect(self._path, timeout=1.0, isolation_level=None, check_same_thread=False)
            self._db.execute("PRAGMA locking_mode = EXCLUSIVE")
            self._db.execute("PRAGMA journal_mode = WAL")
            self._db.execute("PRAGMA synchronous = FULL")
            self._db.executescript(_SCHEMA)
        except (OSError, sqlite3.Error) as exc:
            raise StoreError(f"{self._path}: {exc}") from exc
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="ledger")
        self._waiting: list[Change] = []
        self._delivered: list[int] = []
        self._written: asyncio.Future[None] | None = None
        self._committing = False
        self._committer: asyncio.Task[None] | None = None

    def remembered(self) -> Remembered:
        """Read everything back (at the start).

        Raises:
            StoreError: The database cannot be read.
        """
        try:
            contracts = self._db.execute("SELECT document FROM contract").fetchall()
            taken = self._db.execute("SELECT sender_id, message_id, digest FROM taken").fetchall()
            owed = self._db.execute("SELECT document FROM owed ORDER BY number").fetchall()
            clock = self._db.execute("SELECT at FROM event_clock").fetchone()
            return Remembered(
                contracts=tuple(msgspec.json.decode(each, type=Contract) for (each,) in contracts),
                taken=tuple(Taken(sender_id=a, message_id=b, digest=c) for a, b, c in taken),
                owed=tuple(msgspec.json.decode(each, type=Callback) for (each,) in owed),
                event_time=None if clock is None else datetime.fromisoformat(clock[0]),
            )
        except (sqlite3.Error, msgspec.DecodeError) as exc:
            raise StoreError(f"{self._path}: {exc}") from exc

    async def write(self, change: Change) -> None:
        """Make a change durable; returns when it is on disk.

        Raises:
            StoreError: It is not on disk.
        """
        self._waiting.append(change)
        await self._next_commit()

    def strike_off(self, number: int) -> None:
        """Note that an owed callback was delivered; the next commit writes it down."""
        self._delivered.append(number)

    async def settle(self) -> None:
        """Wait until everything written so far is on disk.

        Raises:
            StoreError: Some of it is not.
        """
        if self._waiting or self._committing:
            await self._next_commit()

    async def close(self) -> None:
        """Write what is left and close the database.

        Raises:
            StoreError: Something is not on disk.
        """
        try:
            await self._next_commit()
        finally:
            self._thread.shutdown(wait=True)
            self._db.close()

    async def _next_commit(self) -> None:
        """Wait for the commit that holds all that waits now; start it where none is running."""
        loop = asyncio.get_running_loop()
        if self._written is None:
            self._written = loop.create_future()
        mine = self._written
        if not self._committing:
            self._committing = True
            self._committer = loop.create_task(self._commit_all())
        await asyncio.shield(mine)

    async def _commit_all(self) -> None:
        """Commit batch after batch until nobody waits."""
        loop = asyncio.get_running_loop()
        try:
            while (written := self._written) is not None:
                self._written = None
                changes, self._waiting = self._waiting, []
                delivered, self._delivered = self._delivered, []
                try:
                    await loop.run_in_executor(self._thread, self._commit, changes, delivered)
                except sqlite3.Error as exc:
                    written.set_exception(StoreError(f"{self._path}: {exc}"))
                else:
                    written.set_result(None)
        finally:
            self._committing = False

    def _commit(self, changes: Iterable[Change], delivered: Iterable[int]) -> None:
        """Write one batch (on the ledger's thread)."""
        encode = msgspec.json.encode
        with self._db:
            self._db.execute("BEGIN")
            for change in changes:
                self._db.executemany(
                    "INSERT OR REPLACE INTO contract VALUES (?, ?)",
                    [(each.contract_id, encode(each)) for each in change.contracts],
                )
                self._db.executemany(
                    "INSERT OR IGNORE INTO taken VALUES (?, ?, ?)",
                    [(each.sender_id, each.message_id, each.digest) for each in change.taken],
                )
                self._db.executemany(
                    "INSERT INTO owed VALUES (?, ?)", [(each.number, encode(each)) for each in change.owed]
                )
                if change.event_time is not None:
                    self._db.execute(
                        "INSERT OR REPLACE INTO event_clock VALUES (1, ?)", [change.event_time.isoformat()]
                    )
            self._db.executemany("DELETE FROM owed WHERE number = ?", [(each,) for each in delivered])
