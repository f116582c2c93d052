import asyncio
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from journal_world import KEY, KEY_ID, TRUSTED, draft, sign, write_journal
from nacl.signing import SigningKey

from gateway.audit import chain
from gateway.audit.journal import append, read_head
from gateway.audit.verify import KnownHead, verify_data_dir, verify_journal
from gateway.errors import ConfigError, JournalBroken
from gateway.store.database import DATABASE_FILE, Database, open_reader
from gateway.store.driver import sqlite3


def broken(data_dir: Path, **kwargs: object) -> JournalBroken:
    with pytest.raises(JournalBroken) as caught:
        verify_data_dir(data_dir, TRUSTED, **kwargs)
    return caught.value


def stored(data_dir: Path, seq: int) -> sqlite3.Row:
    connection = sqlite3.connect(data_dir / DATABASE_FILE)
    connection.row_factory = sqlite3.Row
    row = connection.execute("SELECT * FROM journal_entry WHERE seq = ?", (seq,)).fetchone()
    connection.close()
    return row


def test_an_untouched_journal_verifies_and_says_what_was_looked_at(journal_dir):
    report = verify_data_dir(journal_dir, TRUSTED)
    assert (report.entries, report.payloads, report.appended_meanwhile) == (10, 20, 0)
    assert report.payload_bytes == sum(len(f'{{"message":{n}}}') for n in range(1, 11)) + 3 * len("shared 0")
    assert report.key_id == KEY_ID
    assert report.chain_hash == stored(journal_dir, 10)["chain_hash"].hex()


def test_a_directory_without_a_database_is_refused(tmp_path):
    with pytest.raises(ConfigError, match=DATABASE_FILE):
        verify_data_dir(tmp_path, TRUSTED)


async def test_a_database_without_a_journal_is_not_called_verified(tmp_path):
    await Database.open(tmp_path).close()
    assert "no signed head" in broken(tmp_path).detail


@pytest.mark.parametrize("seq", [1, 5, 10])
def test_one_changed_byte_of_an_entry_is_found_and_the_entry_named(journal_dir, tamper, seq):
    row = stored(journal_dir, seq)
    entry = row["entry"].replace(b"12.5", b"13.5")
    tamper("UPDATE journal_entry SET entry = ? WHERE seq = ?", entry, seq)
    fault = broken(journal_dir)
    assert (fault.seq, fault.entry_id) == (seq, row["entry_id"])
    assert "hashed" in fault.detail


@pytest.mark.parametrize("seq", [1, 5, 10])
def test_a_changed_entry_with_its_leaf_hash_mended_is_found(journal_dir, tamper, seq):
    entry = stored(journal_dir, seq)["entry"].replace(b"12.5", b"13.5")
    tamper(
        "UPDATE journal_entry SET entry = ?, leaf_hash = ? WHERE seq = ?",
        entry,
        chain.leaf_hash(entry),
        seq,
    )
    fault = broken(journal_dir)
    assert fault.seq == seq
    assert "does not follow" in fault.detail


@pytest.mark.parametrize("seq", [1, 5, 10])
def test_one_changed_byte_of_a_payload_is_found_and_the_entry_named(journal_dir, tamper, seq):
    content = f'{{"message":{seq}}}'.encode()
    tamper(
        "UPDATE payload SET content = ? WHERE digest = ?",
        content.replace(b"message", b"massage"),
        chain.payload_digest(content),
    )
    fault = broken(journal_dir)
    assert (fault.seq, fault.entry_id) == (seq, stored(journal_dir, seq)["entry_id"])
    assert "other bytes" in fault.detail


def test_a_changed_payload_names_the_first_entry_that_brought_it(journal_dir, tamper):
    tamper("UPDATE payload SET content = ? WHERE content = ?", b"shared 9", b"shared 0")
    assert broken(journal_dir).seq == 3


def test_a_missing_payload_is_found(journal_dir, tamper):
    tamper("DELETE FROM payload WHERE content = ?", b'{"message":6}')
    fault = broken(journal_dir)
    assert fault.seq == 6
    assert "is missing" in fault.detail


@pytest.mark.parametrize(
    ("column", "value"), [("media_type", "text/html"), ("size", 99), ("content", None), ("content", "text")]
)
def test_a_changed_fact_about_a_payload_is_found(journal_dir, tamper, column, value):
    if value is None:
        tamper("UPDATE payload SET content = zeroblob(0) WHERE content = ?", b'{"message":4}')
    else:
        tamper(f"UPDATE payload SET {column} = ? WHERE content = ?", value, b'{"message":4}')
    assert broken(journal_dir).seq == 4


@pytest.mark.parametrize(("seq", "named"), [(1, 1), (5, 5), (10, 10)])
def test_a_deleted_entry_is_found_and_its_number_named(journal_dir, tamper, seq, named):
    tamper("DELETE FROM journal_entry WHERE seq = ?", seq)
    fault = broken(journal_dir)
    assert fault.seq == named
    assert f"entry {named} is missing" in fault.detail


def test_two_swapped_entries_are_found(journal_dir, tamper):
    tamper("UPDATE journal_entry SET seq = 99 WHERE seq = 3")
    tamper("UPDATE journal_entry SET seq = 3 WHERE seq = 7")
    tamper("UPDATE journal_entry SET seq = 7 WHERE seq = 99")
    assert broken(journal_dir).seq == 3


def test_an_inserted_entry_before_the_first_is_found(journal_dir, tamper):
    tamper(
        "INSERT INTO journal_entry (seq, entry_id, at, kind, entry, leaf_hash, chain_hash) "
        "SELECT 0, 'x', at, kind, entry, leaf_hash, chain_hash FROM journal_entry WHERE seq = 1"
    )
    assert broken(journal_dir).seq == 0


def test_an_entry_appended_behind_the_signed_head_is_found(journal_dir, tamper):
    tamper(
        "INSERT INTO journal_entry (seq, entry_id, at, kind, entry, leaf_hash, chain_hash) "
        "SELECT 11, 'x', at, kind, entry, leaf_hash, chain_hash FROM journal_entry WHERE seq = 10"
    )
    assert broken(journal_dir).seq == 11


@pytest.mark.parametrize(
    ("column", "value"),
    [
        ("entry_id", "another"),
        ("at", 1),
        ("at", "yesterday"),
        ("kind", "beckn.received"),
        ("feeder_id", "FDR_999"),
        ("feeder_id", None),
        ("transaction_id", "t9"),
        ("order_id", "o1"),
        ("obp_id", "x"),
        ("event_id", "x"),
    ],
)
def test_a_changed_search_column_is_found_and_the_entry_named(journal_dir, tamper, column, value):
    entry_id = stored(journal_dir, 5)["entry_id"]
    tamper(f"UPDATE journal_entry SET {column} = ? WHERE seq = 5", value)
    fault = broken(journal_dir)
    assert (fault.seq, fault.entry_id) == (5, entry_id)
    assert f"column {column} " in fault.detail


@pytest.mark.parametrize("column", ["leaf_hash", "chain_hash", "entry"])
@pytest.mark.parametrize("value", ["text", b"", 5])
def test_a_hash_or_entry_of_another_kind_is_reported_not_tripped_over(journal_dir, tamper, column, value):
    tamper(f"UPDATE journal_entry SET {column} = ? WHERE seq = 5", value)
    assert broken(journal_dir).seq == 5


def test_a_cut_tail_is_found(journal_dir, tamper):
    tamper("DELETE FROM journal_entry WHERE seq > 7")
    fault = broken(journal_dir)
    assert fault.seq == 8
    assert "counts 10" in fault.detail


def cut_and_rechain(data_dir: Path, tamper, size: int) -> None:
    """Shorten the journal and mend everything that can be mended without the key."""
    tamper("DELETE FROM journal_entry WHERE seq > ?", size)
    tamper("UPDATE journal_head SET size = ?, chain_hash = ?", size, stored(data_dir, size)["chain_hash"])


def test_a_cut_tail_with_the_head_mended_is_found_by_its_signature(journal_dir, tamper):
    cut_and_rechain(journal_dir, tamper, 7)
    fault = broken(journal_dir)
    assert fault.seq == 7
    assert "signature" in fault.detail


def rewrite(data_dir: Path, tamper, changed: int) -> None:
    """Change an entry and recompute every hash behind it."""
    with open_reader(data_dir) as connection:
        head = read_head(connection)
    assert head is not None
    chain_hash = chain.genesis(head.origin)
    for seq in range(1, head.size + 1):
        entry = stored(data_dir, seq)["entry"]
        if seq == changed:
            entry = entry.replace(b"12.5", b"99.5")
        leaf = chain.leaf_hash(entry)
        chain_hash = chain.link(chain_hash, leaf)
        tamper(
            "UPDATE journal_entry SET entry = ?, leaf_hash = ?, chain_hash = ? WHERE seq = ?",
            entry,
            leaf,
            chain_hash,
            seq,
        )
    tamper("UPDATE journal_head SET chain_hash = ?", chain_hash)


def test_a_rewritten_history_without_the_key_is_found(journal_dir, tamper):
    rewrite(journal_dir, tamper, 4)
    assert "signature" in broken(journal_dir).detail


def test_a_rewritten_history_signed_with_another_key_is_found(journal_dir, tamper):
    rewrite(journal_dir, tamper, 4)
    with open_reader(journal_dir) as connection:
        head = read_head(connection)
    forged = SigningKey.generate().sign(chain.head_text(head.origin, head.size, head.chain_hash)).signature
    tamper("UPDATE journal_head SET signature = ?", forged)
    assert "signature" in broken(journal_dir).detail
    tamper("UPDATE journal_head SET key_id = 'mine'")
    assert "not trusted" in broken(journal_dir).detail


def test_a_journal_exchanged_for_another_of_the_same_gateway_is_found(journal_dir, tamper, tmp_path_factory):
    """Entries of another chain do not fit below this head, whoever signed them."""
    other = tmp_path_factory.mktemp("other")
    asyncio.run(write_journal(other, 10))
    tamper("ATTACH DATABASE ? AS other", str(other / DATABASE_FILE))
    tamper("DELETE FROM journal_entry")
    tamper("INSERT INTO journal_entry SELECT * FROM other.journal_entry")
    assert broken(journal_dir).seq == 1


@pytest.mark.parametrize("column", ["origin", "size", "chain_hash", "signature", "key_id"])
@pytest.mark.parametrize("value", ["text", b"blob", -1])
def test_any_change_of_the_head_is_found(journal_dir, tamper, column, value):
    tamper(f"UPDATE journal_head SET {column} = ?", value)
    broken(journal_dir)


def test_a_rolled_back_journal_is_found_by_a_head_kept_elsewhere(tmp_path):
    """An older copy carries an honest signature; only what was kept outside betrays it."""
    asyncio.run(write_journal(tmp_path, 6, per_job=6))
    old = (tmp_path / DATABASE_FILE).read_bytes()
    asyncio.run(write_journal(tmp_path, 4, per_job=4))
    kept = KnownHead(10, stored(tmp_path, 10)["chain_hash"])
    verify_data_dir(tmp_path, TRUSTED, [kept])
    (tmp_path / DATABASE_FILE).write_bytes(old)
    verify_data_dir(tmp_path, TRUSTED)
    assert "kept elsewhere counts 10" in broken(tmp_path, known_heads=[kept]).detail


def test_a_head_kept_elsewhere_that_this_journal_never_had_is_reported(journal_dir):
    kept = [KnownHead(4, stored(journal_dir, 4)["chain_hash"]), KnownHead(6, bytes(32))]
    fault = broken(journal_dir, known_heads=kept)
    assert (fault.seq, fault.entry_id) == (6, stored(journal_dir, 6)["entry_id"])


@given(data=st.data())
@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_any_flipped_bit_of_entries_hashes_or_payloads_is_found(journal_dir, data):
    where = data.draw(
        st.sampled_from(
            [
                ("journal_entry", "entry"),
                ("journal_entry", "leaf_hash"),
                ("journal_entry", "chain_hash"),
                ("payload", "content"),
                ("journal_head", "signature"),
                ("journal_head", "chain_hash"),
            ]
        )
    )
    table, column = where
    connection = sqlite3.connect(journal_dir / DATABASE_FILE, isolation_level=None)
    connection.execute("PRAGMA synchronous=OFF")
    rows = connection.execute(f"SELECT {column} FROM {table}").fetchall()
    value = data.draw(st.sampled_from(sorted(row[0] for row in rows)))
    bit = data.draw(st.integers(0, len(value) * 8 - 1))
    flipped = bytearray(value)
    flipped[bit // 8] ^= 1 << bit % 8
    update = f"UPDATE {table} SET {column} = ? WHERE {column} = ?"
    connection.execute(update, (bytes(flipped), value))
    try:
        broken(journal_dir)
    finally:
        connection.execute(update, (value, bytes(flipped)))
        connection.close()
    verify_data_dir(journal_dir, TRUSTED)


def test_damaged_database_pages_are_reported_with_the_last_good_entry(tmp_path):
    asyncio.run(write_journal(tmp_path, 40, per_job=40))
    path = tmp_path / DATABASE_FILE
    raw = bytearray(path.read_bytes())
    spot = raw.index(stored(tmp_path, 20)["entry"]) // 4096 * 4096
    raw[spot : spot + 4096] = b"\xff" * 4096
    path.write_bytes(raw)
    assert 1 <= broken(tmp_path).seq <= 20


async def test_verifying_while_the_gateway_writes_finds_nothing_wrong(tmp_path):
    database = Database.open(tmp_path)
    running = True

    async def write() -> int:
        count = 0
        while running:
            count += 1
            await database.write(
                lambda connection, n=count: append(connection, [draft(n)], sign=sign, key_id=KEY_ID)
            )
        return count

    writer = asyncio.create_task(write())
    await asyncio.sleep(0.05)
    reports = [await asyncio.to_thread(verify_data_dir, tmp_path, TRUSTED) for _ in range(2)]
    running = False
    written = await writer
    last = await database.read(lambda connection: verify_journal(connection, TRUSTED))
    await database.close()
    assert last.entries == written
    assert reports[0].entries < reports[-1].entries <= written
    assert all(report.entries > 0 for report in reports)
    assert bytes(KEY.verify_key) == TRUSTED[KEY_ID]
