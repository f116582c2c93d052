"""Which SQLite library the store uses, and whether its write-ahead log can be trusted.

Versions 3.7.0 to 3.51.2 can lose committed writes in WAL mode when a second connection resets the
log. Interpreters carry such versions; ``pysqlite3`` bundles a mended one where it is installed
(x86-64 Linux). Whatever is found decides the journal mode (docs/decisions/0002).
"""

import importlib
import sqlite3 as interpreters_own
from types import ModuleType

WAL_MENDED = (3, 51, 3)
"""First version without the WAL-reset fault."""


def _newest() -> ModuleType:
    """The newer of the interpreter's own library and the bundled one."""
    try:
        bundled = importlib.import_module("pysqlite3.dbapi2")
    except ImportError:
        return interpreters_own
    newer = bundled.sqlite_version_info > interpreters_own.sqlite_version_info
    return bundled if newer else interpreters_own


sqlite3 = _newest()
"""The DB-API module in use; it has the names of the interpreter's :mod:`sqlite3`.

One process must not open a database through two SQLite libraries: closing a file in one would drop
the locks of the other.
"""

WAL_SAFE: bool = sqlite3.sqlite_version_info >= WAL_MENDED


def journal_mode() -> str:
    """WAL where it loses nothing, else the rollback journal (five syncs a commit instead of one)."""
    return "WAL" if WAL_SAFE else "PERSIST"
