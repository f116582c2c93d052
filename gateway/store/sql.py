"""The two statements whose spelling depends on the database: insert unless there, insert or update."""

from collections.abc import Mapping, Sequence
from typing import Any

from sqlalchemy import Connection, Table
from sqlalchemy.dialects import postgresql, sqlite

Row = Mapping[str, Any]


def insert_missing(connection: Connection, table: Table, rows: Sequence[Row]) -> None:
    """Insert rows; those whose key is there already are left as they are."""
    if rows:
        statement = _insert(connection, table).on_conflict_do_nothing()
        connection.execute(statement, list(rows))


def upsert(connection: Connection, table: Table, rows: Sequence[Row]) -> None:
    """Insert rows; where the primary key is there already, overwrite the columns given.

    All rows must name the same columns.
    """
    if not rows:
        return
    keys = [column.name for column in table.primary_key]
    statement = _insert(connection, table)
    changed = {name: statement.excluded[name] for name in rows[0] if name not in keys}
    if changed:
        statement = statement.on_conflict_do_update(index_elements=keys, set_=changed)
    else:
        statement = statement.on_conflict_do_nothing()
    connection.execute(statement, list(rows))


def _insert(connection: Connection, table: Table) -> sqlite.Insert:
    # Both dialects spell it alike; the PostgreSQL one is typed apart but has the same methods.
    insert: Any = postgresql.insert if connection.dialect.name == "postgresql" else sqlite.insert
    statement: sqlite.Insert = insert(table)
    return statement
