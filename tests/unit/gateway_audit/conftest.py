"""A small journal on disk and a hand that tampers with it."""

import asyncio
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from journal_world import write_journal

from gateway.store.database import DATABASE_FILE
from gateway.store.driver import sqlite3

Tamper = Callable[..., None]


@pytest.fixture(scope="session")
def written_journal(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A data directory whose journal has ten entries; not to be touched."""
    path = tmp_path_factory.mktemp("journal")
    asyncio.run(write_journal(path, 10))
    return path


@pytest.fixture
def journal_dir(written_journal: Path, tmp_path: Path) -> Path:
    """A copy of it that may be tampered with."""
    shutil.copy(written_journal / DATABASE_FILE, tmp_path)
    return tmp_path


@pytest.fixture
def tamper(journal_dir: Path) -> Iterator[Tamper]:
    """Runs SQL on the database as somebody with access to the file would."""
    connection = sqlite3.connect(journal_dir / DATABASE_FILE, isolation_level=None)
    connection.execute("PRAGMA synchronous=OFF")

    def run(statement: str, *values: object) -> None:
        assert connection.execute(statement, values).rowcount != 0, "the tampering touched nothing"

    yield run
    connection.close()
