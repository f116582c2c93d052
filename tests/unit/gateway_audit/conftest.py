"""A small journal on disk and a hand that tampers with it."""

import sqlite3
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from journal_world import write_journal

from gateway.store.database import DATABASE_FILE

Tamper = Callable[..., None]


@pytest.fixture
async def journal_dir(tmp_path: Path) -> Path:
    """A data directory whose journal has ten entries."""
    await write_journal(tmp_path, 10)
    return tmp_path


@pytest.fixture
def tamper(journal_dir: Path) -> Iterator[Tamper]:
    """Runs SQL on the database as somebody with access to the file would."""
    connection = sqlite3.connect(journal_dir / DATABASE_FILE, isolation_level=None)

    def run(statement: str, *values: object) -> None:
        assert connection.execute(statement, values).rowcount != 0, "the tampering touched nothing"

    yield run
    connection.close()
