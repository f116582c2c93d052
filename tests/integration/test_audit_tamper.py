"""``fluxeon audit verify`` on the journal of a real run: whole as it is, and broken where it was touched."""

import json
import shutil
import sqlite3
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import pytest
from short_run import ShortRun

from gateway.keyring import KEY_FILE
from gateway.store.database import DATABASE_FILE

pytestmark = pytest.mark.slow


class Verdict(NamedTuple):
    code: int
    out: str
    err: str


def verify(folder: Path, *words: str) -> Verdict:
    done = subprocess.run(
        [sys.executable, "-m", "fluxeon", "audit", "verify", "--data-dir", str(folder), *words],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    return Verdict(done.returncode, done.stdout, done.stderr)


@pytest.fixture
def copy(short_run: ShortRun, tmp_path: Path) -> Path:
    """The gateway's folder, to be tampered with: database and key."""
    folder = tmp_path / "data"
    folder.mkdir()
    for name in (DATABASE_FILE, KEY_FILE):
        shutil.copy2(short_run.folder / name, folder / name)
    return folder


def entry_at(connection: sqlite3.Connection, seq: int) -> str:
    (entry_id,) = connection.execute("SELECT entry_id FROM journal_entry WHERE seq = ?", (seq,)).fetchone()
    return str(entry_id)


def size_of(connection: sqlite3.Connection) -> int:
    return int(connection.execute("SELECT max(seq) FROM journal_entry").fetchone()[0])


def tampered(folder: Path, hand: Callable[[sqlite3.Connection], int]) -> tuple[int, str | None]:
    """Let a hand change the database; gives the number it names and that entry's id, if it is still there."""
    connection = sqlite3.connect(folder / DATABASE_FILE)
    try:
        seq = hand(connection)
        connection.commit()
        row = connection.execute("SELECT entry_id FROM journal_entry WHERE seq = ?", (seq,)).fetchone()
        return seq, None if row is None else str(row[0])
    finally:
        connection.close()


def assert_named(verdict: Verdict, seq: int, entry_id: str | None) -> None:
    assert verdict.code == 1, verdict
    assert f"entry {seq} " in verdict.err
    if entry_id is not None:
        assert entry_id in verdict.err
    assert len(verdict.err.strip().splitlines()) == 1
    assert "Traceback" not in verdict.err


def test_clean_journal__verifies(short_run: ShortRun, copy: Path):
    verdict = verify(copy)
    assert verdict.code == 0, verdict.err
    assert verdict.out.startswith("verified:")
    connection = sqlite3.connect(short_run.folder / DATABASE_FILE)
    entries = size_of(connection)
    connection.close()
    told = json.loads(verify(copy, "--json").out)
    assert (told["verified"], told["entries"]) == (True, entries)
    assert told["payloads"] > 50


# --- one byte -----------------------------------------------------------------------------------------


def change_payload(kind: str, *, share: float) -> Callable[[sqlite3.Connection], int]:
    """Change one byte in the payload of the entry of a kind that lies at a share of the way through."""

    def hand(connection: sqlite3.Connection) -> int:
        entries = connection.execute(
            "SELECT seq, entry FROM journal_entry WHERE kind = ? ORDER BY seq", (kind,)
        ).fetchall()
        seq, entry = entries[int(share * (len(entries) - 1))]
        digest = json.loads(entry)["payloads"][0]["digest"]
        (content,) = connection.execute("SELECT content FROM payload WHERE digest = ?", (digest,)).fetchone()
        at = int(share * (len(content) - 1))
        changed = content[:at] + bytes([content[at] ^ 1]) + content[at + 1 :]
        connection.execute("UPDATE payload SET content = ? WHERE digest = ?", (changed, digest))
        first = next(
            number
            for number, each in connection.execute("SELECT seq, entry FROM journal_entry ORDER BY seq")
            if digest in each.decode()
        )
        assert first <= seq
        return int(first)

    return hand


@pytest.mark.parametrize("share", [0.0, 0.5, 1.0], ids=["first", "middle", "last"])
@pytest.mark.parametrize("kind", ["beckn.received", "state.changed"])
def test_one_byte_of_a_payload__is_found(copy: Path, kind: str, share: float):
    seq, entry_id = tampered(copy, change_payload(kind, share=share))
    assert_named(verify(copy), seq, entry_id)


def test_one_byte_of_an_entry__is_found(copy: Path):
    def hand(connection: sqlite3.Connection) -> int:
        seq = size_of(connection) // 2
        (entry,) = connection.execute("SELECT entry FROM journal_entry WHERE seq = ?", (seq,)).fetchone()
        at = len(entry) // 2
        changed = entry[:at] + bytes([entry[at] ^ 1]) + entry[at + 1 :]
        connection.execute("UPDATE journal_entry SET entry = ? WHERE seq = ?", (changed, seq))
        return seq

    seq, entry_id = tampered(copy, hand)
    assert_named(verify(copy), seq, entry_id)


# --- rows ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("share", [0.0, 0.5, 1.0], ids=["first", "middle", "last"])
def test_deleted_entry__is_found(copy: Path, share: float):
    def hand(connection: sqlite3.Connection) -> int:
        seq = 1 + int(share * (size_of(connection) - 1))
        connection.execute("DELETE FROM journal_entry WHERE seq = ?", (seq,))
        return seq

    seq, _ = tampered(copy, hand)
    verdict = verify(copy)
    assert_named(verdict, seq, None)
    assert f"entry {seq} is missing" in verdict.err


def test_deleted_payload__is_found(copy: Path):
    def hand(connection: sqlite3.Connection) -> int:
        seq, entry = connection.execute(
            "SELECT seq, entry FROM journal_entry WHERE kind = 'beckn.received' ORDER BY seq LIMIT 1"
        ).fetchone()
        digest = json.loads(entry)["payloads"][0]["digest"]
        connection.execute("DELETE FROM payload WHERE digest = ?", (digest,))
        return int(seq)

    seq, entry_id = tampered(copy, hand)
    verdict = verify(copy)
    assert_named(verdict, seq, entry_id)
    assert "is missing" in verdict.err


@pytest.mark.parametrize("apart", [1, 7])
def test_swapped_entries__are_found(copy: Path, apart: int):
    def hand(connection: sqlite3.Connection) -> int:
        first = size_of(connection) // 2
        for old, new in ((first, -1), (first + apart, first), (-1, first + apart)):
            connection.execute("UPDATE journal_entry SET seq = ? WHERE seq = ?", (new, old))
        return first

    seq, entry_id = tampered(copy, hand)
    assert_named(verify(copy), seq, entry_id)


def test_whole_tail_cut_off__is_found(copy: Path):
    def hand(connection: sqlite3.Connection) -> int:
        seq = size_of(connection) - 5
        connection.execute("DELETE FROM journal_entry WHERE seq >= ?", (seq,))
        return seq

    seq, _ = tampered(copy, hand)
    assert_named(verify(copy), seq, None)


def test_foreign_head__is_found(copy: Path):
    def hand(connection: sqlite3.Connection) -> int:
        (size, signature) = connection.execute("SELECT size, signature FROM journal_head").fetchone()
        changed = signature[:-1] + bytes([signature[-1] ^ 1])
        connection.execute("UPDATE journal_head SET signature = ?", (changed,))
        return int(size)

    seq, entry_id = tampered(copy, hand)
    assert_named(verify(copy), seq, entry_id)


def test_machine_readable_verdict__names_the_entry(copy: Path):
    seq, entry_id = tampered(copy, change_payload("beckn.sent", share=0.5))
    verdict = verify(copy, "--json")
    told = json.loads(verdict.out)
    assert verdict.code == 1
    assert (told["verified"], told["seq"], told["entry_id"]) == (False, seq, entry_id)
    assert told["detail"]
