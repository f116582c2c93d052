"""The two statements whose spelling depends on the database: insert unless there, insert or update."""

from collections.abc import Mapping, Sequence
from functools import lru_cache
from typing import Any

from sqlalchemy import Connection, Table
from sqlalchemy.dialects import postgresql, sqlite

Row = Mapping[str, Any]


def insert_missing(connection: Connection, table: Table, rows: Sequence[Row]) -> None:
    """Insert rows; those whose key is there already are left as they are."""
    if rows:
        connection.execute(_insert_missing(connection.dialect.name, table), list(rows))


def insert_new(connection: Connection, table: Table, row: Row) -> bool:
    """Insert one row; False, with nothing changed, where its key is there already."""
    return connection.execute(_insert_missing(connection.dialect.name, table), dict(row)).rowcount == 1


def upsert(connection: Connection, table: Table, rows: Sequence[Row]) -> None:
    """Insert rows; where the primary key is there already, overwrite the columns given.

    All rows must name the same columns.
    """
    if rows:
        connection.execute(_upsert(connection.dialect.name, table, tuple(rows[0])), list(rows))


# Statements are kept: building one costs as much as running it. Tables are few and live for ever.


@lru_cache(maxsize=64)
def _insert_missing(dialect: str, table: Table) -> sqlite.Insert:
    return _insert(dialect, table).on_conflict_do_nothing()


@lru_cache(maxsize=64)
def _upsert(dialect: str, table: Table, columns: tuple[str, ...]) -> sqlite.Insert:
    keys = [column.name for column in table.primary_key]
    statement = _insert(dialect, table)
    changed = {name: statement.excluded[name] for name in columns if name not in keys}
    if not changed:
        return statement.on_conflict_do_nothing()
    return statement.on_conflict_do_update(index_elements=keys, set_=changed)


def _insert(dialect: str, table: Table) -> sqlite.Insert:
    # Both dialects spell it alike; the PostgreSQL one is typed apart but has the same methods.
    insert: Any = postgresql.insert if dialect == "postgresql" else sqlite.insert
    statement: sqlite.Insert = insert(table)
    return statement
