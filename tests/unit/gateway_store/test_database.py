import asyncio
import contextlib
import os
import subprocess
import sys
import textwrap
import threading
from collections.abc import Callable
from datetime import UTC, datetime, timedelta, timezone
from pathlib import Path

import pytest
from sqlalchemy import Connection, func, insert, select, text, update

from gateway.errors import ConfigError, StoreError
from gateway.store import driver
from gateway.store.database import DATABASE_FILE, LOCK_FILE, MAX_BATCH_JOBS, Database, open_reader
from gateway.store.driver import journal_mode, sqlite3
from gateway.store.tables import SCHEMA_VERSION, Stored, flex_order, meta, payload, timer


@pytest.fixture
async def database(tmp_path):
    opened = Database.open(tmp_path)
    yield opened
    await opened.close()


def put(key: str, value: str = "x"):
    def job(connection: Connection) -> str:
        connection.execute(insert(meta), {"key": key, "value": value})
        return key

    return job


def keys(connection: Connection) -> set[str]:
    return set(connection.execute(select(meta.c.key).where(meta.c.key != "schema_version")).scalars())


async def until(condition: Callable[[], bool]) -> None:
    for _ in range(5000):
        if condition():
            return
        await asyncio.sleep(0.001)
    pytest.fail("the condition did not come about")


async def blocking(database: Database) -> tuple[threading.Event, "asyncio.Task[None]"]:
    """Hold the writer thread until the event is set, so that what follows shares a batch."""
    entered, gate = threading.Event(), threading.Event()

    def job(_connection: Connection) -> None:
        entered.set()
        assert gate.wait(5)

    blocker = asyncio.ensure_future(database.write(job))
    await until(entered.is_set)
    return gate, blocker


async def queued(database: Database, count: int) -> None:
    await until(lambda: database.stats().waiting >= count)


async def test_an_answered_write_is_there_for_another_process(database, tmp_path):
    assert await database.write(put("a")) == "a"
    with open_reader(tmp_path) as connection:
        assert keys(connection) == {"a"}
    assert await database.read(keys) == {"a"}


async def test_the_journal_mode_is_the_one_the_library_can_be_trusted_with(database):
    def pragmas(connection: Connection) -> list[object]:
        names = ("journal_mode", "synchronous", "foreign_keys", "trusted_schema")
        return [connection.execute(text(f"PRAGMA {name}")).scalar() for name in names]

    assert await database.read(pragmas) == [journal_mode().lower(), 2, 1, 0]


@pytest.mark.parametrize(
    ("version", "mode"),
    [
        pytest.param((3, 40, 1), "PERSIST", id="with the fault"),
        pytest.param((3, 51, 2), "PERSIST", id="the last with the fault"),
        pytest.param((3, 51, 3), "WAL", id="mended"),
    ],
)
def test_a_library_with_the_wal_fault_gets_a_rollback_journal(monkeypatch, version, mode):
    monkeypatch.setattr(driver, "WAL_SAFE", version >= driver.WAL_MENDED)
    assert journal_mode() == mode


async def test_waiting_jobs_share_one_commit(database):
    gate, blocker = await blocking(database)
    writes = [asyncio.ensure_future(database.write(put(str(number)))) for number in range(50)]
    await queued(database, 50)
    before = database.stats()
    gate.set()
    await asyncio.gather(blocker, *writes)
    after = database.stats()
    assert after.writes - before.writes == 51
    assert after.commits - before.commits == 2


async def test_a_batch_has_a_limit(database):
    gate, blocker = await blocking(database)
    writes = [asyncio.ensure_future(database.write(put(str(number)))) for number in range(MAX_BATCH_JOBS + 1)]
    await queued(database, MAX_BATCH_JOBS + 1)
    gate.set()
    await asyncio.gather(blocker, *writes)
    assert database.stats().commits == 3


async def test_a_raising_job_is_undone_alone_and_tells_its_own_caller(database):
    def half_done(connection: Connection) -> None:
        connection.execute(insert(meta), {"key": "half", "value": "x"})
        raise LookupError("mine")

    gate, blocker = await blocking(database)
    jobs = [put("a"), half_done, put("b"), put("a"), put("c")]
    writes = [asyncio.ensure_future(database.write(job)) for job in jobs]
    await queued(database, len(jobs))
    gate.set()
    results = await asyncio.gather(blocker, *writes, return_exceptions=True)
    assert results[1] == "a"
    assert isinstance(results[2], LookupError)
    assert results[3] == "b"
    assert isinstance(results[4], StoreError)
    assert results[4].code == "store_conflict"
    assert results[5] == "c"
    assert await database.read(keys) == {"a", "b", "c"}
    assert database.stats().commits == 2
    assert database.stats().failures == 2


async def test_jobs_of_one_caller_run_in_order(database):
    await database.write(put("counter", ""))

    def append_digit(digit: int):
        return lambda connection: (
            connection.execute(
                update(meta).where(meta.c.key == "counter").values(value=meta.c.value.concat(str(digit)))
            ).rowcount
        )

    await asyncio.gather(*(database.write(append_digit(digit)) for digit in range(10)))
    value = select(meta.c.value).where(meta.c.key == "counter")
    assert await database.read(lambda connection: connection.execute(value).scalar()) == "0123456789"


async def test_a_read_sees_committed_data_only(database):
    seen: list[set[str]] = []
    gate, blocker = await blocking(database)
    write = asyncio.ensure_future(database.write(put("a")))
    read = asyncio.ensure_future(database.read(lambda connection: seen.append(keys(connection))))
    await queued(database, 2)
    gate.set()
    await asyncio.gather(blocker, write, read)
    assert seen == [set()]


async def test_a_read_must_not_write(database):
    with pytest.raises(StoreError, match="readonly"):
        await database.read(put("a"))
    assert await database.write(put("a")) == "a"


@pytest.mark.parametrize("verb", ["commit", "rollback"])
async def test_a_job_must_not_end_the_transaction_of_all(database, verb):
    def meddle(connection: Connection) -> None:
        connection.execute(insert(meta), {"key": "meddled", "value": "x"})
        getattr(connection, verb)()

    gate, blocker = await blocking(database)
    writes = [asyncio.ensure_future(database.write(job)) for job in (put("a"), meddle, put("b"))]
    await queued(database, 3)
    gate.set()
    results = await asyncio.gather(blocker, *writes, return_exceptions=True)
    assert isinstance(results[2], RuntimeError)
    assert await database.read(keys) == {"a", "b"}


async def test_a_job_may_use_savepoints_of_its_own(database):
    def job(connection: Connection) -> None:
        connection.execute(insert(meta), {"key": "kept", "value": "x"})
        with contextlib.suppress(ZeroDivisionError), connection.begin_nested():
            connection.execute(insert(meta), {"key": "undone", "value": "x"})
            raise ZeroDivisionError

    await database.write(job)
    assert await database.read(keys) == {"kept"}


async def test_a_failing_commit_fails_every_caller_and_leaves_nothing(tmp_path, monkeypatch):
    """With a rollback journal, another process that will not stop reading makes the commit impossible."""
    monkeypatch.setattr("gateway.store.database.journal_mode", lambda: "PERSIST")
    database = Database.open(tmp_path)
    await database.write(lambda connection: connection.execute(text("PRAGMA busy_timeout=50")).scalar())
    reader = sqlite3.connect(tmp_path / DATABASE_FILE, isolation_level=None)
    reader.execute("BEGIN")
    reader.execute("SELECT * FROM meta").fetchall()
    results = await asyncio.gather(
        *(database.write(put(str(number))) for number in range(3)), return_exceptions=True
    )
    assert all(isinstance(result, StoreError) for result in results)
    assert all("durable" in str(result) for result in results)
    reader.execute("COMMIT")
    reader.close()
    assert await database.read(keys) == set()
    assert await database.write(put("after")) == "after"
    assert database.healthy
    await database.close()


async def test_a_full_disk_in_one_job_loses_no_answered_write(database):
    """SQLite gives the whole transaction up then: nobody of it may be told otherwise."""

    def limit(connection: Connection) -> None:
        pages = connection.execute(text("PRAGMA page_count")).scalar()
        connection.execute(text(f"PRAGMA max_page_count={pages + 20}")).scalar()

    await database.write(limit)
    big = {"digest": "d", "media_type": "x", "size": 1, "content": b"x" * 1_000_000}
    gate, blocker = await blocking(database)
    jobs = [put("a"), lambda connection: connection.execute(insert(payload), big).rowcount, put("b")]
    writes = [asyncio.ensure_future(database.write(job)) for job in jobs]
    await queued(database, 3)
    gate.set()
    results = await asyncio.gather(blocker, *writes, return_exceptions=True)
    assert isinstance(results[2], StoreError)
    answered = {result for result in (results[1], results[3]) if isinstance(result, str)}
    assert await database.read(keys) == answered
    assert "b" in answered


async def test_a_lost_transaction_fails_those_already_run_and_no_others(database):
    """A statement that ends the transaction behind our back, as SQLite itself may on an I/O error."""

    def lose(connection: Connection) -> None:
        connection.connection.driver_connection.execute("ROLLBACK")
        raise OSError("disk on fire")

    gate, blocker = await blocking(database)
    writes = [asyncio.ensure_future(database.write(job)) for job in (put("a"), lose, put("b"))]
    await queued(database, 3)
    gate.set()
    results = await asyncio.gather(blocker, *writes, return_exceptions=True)
    assert isinstance(results[1], StoreError)
    assert isinstance(results[2], OSError)
    assert results[3] == "b"
    assert await database.read(keys) == {"b"}


async def test_foreign_keys_hold_at_the_statement_that_breaks_them(database):
    lonely = {
        "order_id": "none",
        "kind": "REPLY",
        "due_wall": datetime(2026, 1, 1, tzinfo=UTC),
        "feeder_id": "F",
    }
    with pytest.raises(StoreError) as caught:
        await database.write(lambda connection: connection.execute(insert(timer), lonely).rowcount)
    assert caught.value.code == "store_conflict"


async def test_a_write_is_carried_out_although_its_caller_left(database):
    gate, blocker = await blocking(database)
    write = asyncio.ensure_future(database.write(put("a")))
    await queued(database, 1)
    write.cancel()
    gate.set()
    await blocker
    await database.write(put("later"))
    assert await database.read(keys) == {"a", "later"}


async def test_a_failure_nobody_waits_for_is_reported_not_lost(database):
    reported: list[dict[str, object]] = []
    asyncio.get_running_loop().set_exception_handler(lambda _loop, context: reported.append(context))

    def fail(_connection: Connection) -> None:
        raise LookupError("unseen")

    gate, blocker = await blocking(database)
    write = asyncio.ensure_future(database.write(fail))
    await queued(database, 1)
    write.cancel()
    gate.set()
    await blocker
    await database.write(put("later"))
    assert [str(context["exception"]) for context in reported] == ["unseen"]


async def test_close_carries_out_what_is_queued_and_then_refuses(tmp_path):
    database = Database.open(tmp_path)
    writes = [asyncio.ensure_future(database.write(put(str(number)))) for number in range(20)]
    await asyncio.sleep(0)
    await database.close()
    assert len(await asyncio.gather(*writes)) == 20
    with pytest.raises(StoreError, match="closed"):
        await database.write(put("late"))
    await database.close()
    assert not database.healthy
    with open_reader(tmp_path) as connection:
        assert len(keys(connection)) == 20


async def test_loops_in_several_threads_may_write(database):
    def elsewhere(number: int) -> str:
        return asyncio.run(database.write(put(str(number))))

    results = await asyncio.gather(*(asyncio.to_thread(elsewhere, number) for number in range(8)))
    assert set(results) == await database.read(keys)


async def test_state_survives_reopening(tmp_path):
    first = Database.open(tmp_path)
    await first.write(put("a"))
    await first.close()
    second = Database.open(tmp_path)
    assert await second.read(keys) == {"a"}
    await second.close()


async def test_a_second_gateway_on_the_same_directory_is_refused(database, tmp_path):
    with pytest.raises(ConfigError, match="another gateway"):
        Database.open(tmp_path)
    assert await database.write(put("a")) == "a"


def test_a_killed_gateway_leaves_every_answered_write_and_no_half_of_one_and_frees_the_directory(tmp_path):
    """Killed in the middle of its commits; each job writes two rows that belong together."""
    program = textwrap.dedent(f"""
        import asyncio, pathlib
        from sqlalchemy import insert
        from gateway.store.database import Database
        from gateway.store.tables import meta
        database = Database.open(pathlib.Path({str(tmp_path)!r}))

        async def caller(name):
            for number in range(10_000):
                key = f"{{name}}-{{number}}"
                def job(connection):
                    connection.execute(insert(meta), {{"key": key + "-left", "value": "x" * 3000}})
                    connection.execute(insert(meta), {{"key": key + "-right", "value": "x" * 3000}})
                await database.write(job)
                print(key, flush=True)

        async def main():
            await asyncio.gather(*(caller(name) for name in "abcdefgh"))

        asyncio.run(main())
    """)
    root = Path(__file__).resolve().parents[3]
    child = subprocess.Popen(
        [sys.executable, "-c", program],
        stdout=subprocess.PIPE,
        cwd=root,
        env=os.environ | {"PYTHONPATH": str(root)},
    )
    assert child.stdout is not None
    try:
        answered = [child.stdout.readline() for _ in range(100)]
        with pytest.raises(ConfigError, match="another gateway"):
            Database.open(tmp_path)
    finally:
        child.kill()
        answered += child.communicate()[0].splitlines(keepends=True)
    names = {line.decode().strip() for line in answered if line.endswith(b"\n")}
    with open_reader(tmp_path) as connection:
        found = keys(connection)
        assert connection.execute(text("PRAGMA integrity_check")).scalar() == "ok"
    lefts = {key.removesuffix("-left") for key in found if key.endswith("-left")}
    rights = {key.removesuffix("-right") for key in found if key.endswith("-right")}
    asyncio.run(Database.open(tmp_path).close())
    assert len(names) >= 100
    assert lefts == rights
    assert names <= lefts


async def test_reading_from_outside_does_not_stop_the_writer(database, tmp_path):
    stop = threading.Event()
    reads: list[int] = []

    def reader() -> None:
        with open_reader(tmp_path) as connection:
            while not stop.is_set():
                reads.append(connection.execute(select(func.count()).select_from(meta)).scalar_one())

    reading = asyncio.create_task(asyncio.to_thread(reader))
    await until(lambda: bool(reads))
    for number in range(30):
        await database.write(put(str(number)))
    stop.set()
    await reading
    assert reads == sorted(reads)


def test_a_reader_cannot_write(tmp_path):
    asyncio.run(Database.open(tmp_path).close())
    with open_reader(tmp_path) as connection, pytest.raises(Exception, match="readonly"):
        put("a")(connection)


def test_a_reader_without_the_right_to_write_can_read(tmp_path, monkeypatch):
    asyncio.run(Database.open(tmp_path).close())
    monkeypatch.setattr("gateway.store.database.os.access", lambda *_args: False)
    with open_reader(tmp_path) as connection:
        assert keys(connection) == set()


def test_a_reader_of_an_empty_directory_is_refused_and_leaves_it_empty(tmp_path):
    with pytest.raises(ConfigError, match=DATABASE_FILE), open_reader(tmp_path):
        pass
    assert list(tmp_path.iterdir()) == []


def foreign(path: Path, *statements: str) -> None:
    connection = sqlite3.connect(path / DATABASE_FILE)
    for statement in statements:
        connection.execute(statement)
    connection.commit()
    connection.close()


@pytest.mark.parametrize(
    ("statements", "match"),
    [
        pytest.param(["UPDATE meta SET value = '999'"], f"999.*understands {SCHEMA_VERSION}", id="newer"),
        pytest.param(["DELETE FROM meta"], "not a FLUXEON", id="no version"),
        pytest.param(["DROP TABLE meta"], "not a FLUXEON", id="another program's"),
    ],
)
def test_a_database_of_an_unknown_version_is_refused_untouched(tmp_path, statements, match):
    asyncio.run(Database.open(tmp_path).close())
    foreign(tmp_path, *statements)
    before = (tmp_path / DATABASE_FILE).read_bytes()
    with pytest.raises(ConfigError, match=match):
        Database.open(tmp_path)
    with pytest.raises(ConfigError, match=match), open_reader(tmp_path):
        pass
    assert (tmp_path / DATABASE_FILE).read_bytes() == before
    with pytest.raises(ConfigError, match=match):  # the lock was given back
        Database.open(tmp_path)


def test_a_file_that_is_no_database_is_refused(tmp_path):
    (tmp_path / DATABASE_FILE).write_bytes(b"not a database at all" * 100)
    with pytest.raises(ConfigError, match=DATABASE_FILE):
        Database.open(tmp_path)
    with pytest.raises(ConfigError, match=DATABASE_FILE), open_reader(tmp_path):
        pass


def test_a_data_directory_that_is_a_file_is_refused(tmp_path):
    (tmp_path / "data").write_text("")
    with pytest.raises(ConfigError, match="FLUXEON_DATA_DIR"):
        Database.open(tmp_path / "data")


def test_others_on_the_machine_cannot_read_what_is_stored(tmp_path):
    asyncio.run(Database.open(tmp_path / "data").close())
    assert (tmp_path / "data").stat().st_mode & 0o077 == 0
    found = {path.name: path.stat().st_mode for path in (tmp_path / "data").iterdir()}
    assert {DATABASE_FILE, LOCK_FILE} <= set(found)
    assert [name for name, mode in found.items() if mode & 0o077] == []


def test_a_path_with_characters_that_mean_something_in_urls_works(tmp_path):
    odd = tmp_path / "50% of ?this #one"
    asyncio.run(Database.open(odd).close())
    with open_reader(odd) as connection:
        assert keys(connection) == set()
    assert (odd / DATABASE_FILE).is_file()


async def test_every_table_takes_instants_of_any_zone_and_gives_utc_back(database):
    instant = datetime(2026, 1, 5, 18, 15, 0, 123456, tzinfo=timezone(timedelta(hours=1)))
    names = {table.name for table in Stored.metadata.sorted_tables}
    assert flex_order.name in names

    def round_trip(connection: Connection) -> object:
        connection.execute(text("INSERT INTO flex_event VALUES ('n', 'F', 's', 'OPEN', 0, 0, '{}')"))
        row = {column.name: "x" for column in flex_order.c}
        row |= {"need_id": "n", "version": 1, "confirm_sent_at": None}
        row |= dict.fromkeys(("detected_at", "created_at", "updated_at"), instant)
        connection.execute(insert(flex_order), row)
        return connection.execute(select(flex_order)).one()

    stored = await database.write(round_trip)
    assert stored.detected_at == instant
    assert stored.detected_at.tzinfo is UTC
    assert stored.confirm_sent_at is None


async def test_a_naive_instant_is_refused(database):
    naive = datetime(2026, 1, 5, tzinfo=UTC).replace(tzinfo=None)
    row = {"order_id": "o", "kind": "k", "due_wall": naive, "feeder_id": "F"}
    with pytest.raises(StoreError, match="naive"):
        await database.write(lambda connection: connection.execute(insert(timer), row).rowcount)
