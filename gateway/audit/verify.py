"""Re-derive the journal from storage and compare. Raises at the first thing that is wrong.

1. Head and extent are read in one statement, so a gateway may go on writing meanwhile.
2. Entries 1..size in order: number, no gap; bytes against leaf hash; leaf against the chain;
   every searchable column against the bytes; every payload present and equal to its digest.
3. The chain so far against heads remembered elsewhere, and at the end against the signed head.
4. The head's signature, under a key the caller trusts.

What this shows: nothing recorded was altered, removed, inserted or reordered by anyone without the
signing key. What it cannot show: that an entry was true when written, or that a whole data
directory is not an older copy of itself; for that pass heads kept elsewhere.
"""

from collections.abc import Iterator, Mapping, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any, NamedTuple

import msgspec
from nacl.exceptions import CryptoError
from nacl.signing import VerifyKey
from sqlalchemy import (
    ColumnElement,
    Connection,
    Row,
    Select,
    Table,
    bindparam,
    func,
    select,
    type_coerce,
)
from sqlalchemy.exc import DatabaseError, OperationalError
from sqlalchemy.types import NullType

from gateway.audit import chain
from gateway.audit.journal import Head
from gateway.errors import JournalBroken, StoreError
from gateway.store.database import open_reader
from gateway.store.tables import journal_entry, journal_head, payload, to_micros

PAGE_ENTRIES = 500
"""Entries read at a time: one short read transaction each."""
GROUP_BYTES = 16 * 1024 * 1024
GROUP_PAYLOADS = 400
"""Payloads read at a time: until either is reached."""
REMEMBERED_PAYLOADS = 100_000
"""Payloads remembered as good, so that one shared by many entries is hashed once."""


class KnownHead(NamedTuple):
    """A head kept elsewhere: the journal must still contain exactly this beginning."""

    size: int
    chain_hash: bytes


class VerifyReport(msgspec.Struct, frozen=True, kw_only=True):
    """What was verified.

    Attributes:
        origin: The journal's own name.
        entries: Entries covered by the signed head, all verified.
        payloads: References to payloads that were followed and verified.
        payload_bytes: Bytes hashed for them.
        chain_hash: Chain hash of the head, hex.
        key_id: Key that signed the head.
        appended_meanwhile: Entries that the gateway had added by the end, not verified here.
    """

    origin: str
    entries: int
    payloads: int
    payload_bytes: int
    chain_hash: str
    key_id: str
    appended_meanwhile: int


class _Extent(NamedTuple):
    head: Head
    first: int | None
    last: int | None


def _raw(table: Table) -> list[ColumnElement[Any]]:
    """Columns as they are stored: a value of the wrong kind must be reported, not fail to convert."""
    return [type_coerce(column, NullType()).label(column.name) for column in table.c]


_EXTENT = select(
    *_raw(journal_head),
    select(func.min(journal_entry.c.seq)).scalar_subquery().label("first"),
    select(func.max(journal_entry.c.seq)).scalar_subquery().label("last"),
)
_PAGE = (
    select(*_raw(journal_entry))
    .where(journal_entry.c.seq > bindparam("after"), journal_entry.c.seq <= bindparam("upto"))
    .order_by(journal_entry.c.seq)
    .limit(PAGE_ENTRIES)
)
_PAYLOADS = select(*_raw(payload)).where(payload.c.digest.in_(bindparam("digests", expanding=True)))


def verify_data_dir(
    data_dir: Path, public_keys: Mapping[str, bytes], known_heads: Sequence[KnownHead] = ()
) -> VerifyReport:
    """Verify the journal of a data directory; see :func:`verify_journal`.

    Raises:
        ConfigError: There is no readable database.
        JournalBroken: Something is wrong.
    """
    with open_reader(data_dir) as connection:
        return verify_journal(connection, public_keys, known_heads)


def verify_journal(
    connection: Connection, public_keys: Mapping[str, bytes], known_heads: Sequence[KnownHead] = ()
) -> VerifyReport:
    """Verify the whole journal. Safe while a gateway writes to it.

    Args:
        connection: Reads the database, each statement in a transaction of its own.
        public_keys: Trusted Ed25519 keys, 32 bytes each, by key id.
        known_heads: Heads kept elsewhere that the journal must continue.

    Raises:
        JournalBroken: At the first thing that is wrong, with the number and id of the entry.
    """
    extent = _read_extent(connection)
    head = extent.head
    if extent.first is not None and extent.first < 1:
        raise JournalBroken(extent.first, None, f"entry {extent.first} stands before the first")
    expected: dict[int, set[bytes]] = {}
    for known in known_heads:
        expected.setdefault(known.size, set()).add(known.chain_hash)
    chain_hash = chain.genesis(head.origin)
    _check_known(expected, 0, None, chain_hash)
    walk = _Walk(connection, chain_hash, expected)
    for page in _pages(connection, head.size):
        walk.verify_page(page)
    seq, entry_id, chain_hash = walk.seq, walk.entry_id, walk.chain_hash
    if seq < head.size:
        raise JournalBroken(seq + 1, None, f"entry {seq + 1} is missing: the signed head counts {head.size}")
    if extent.last is not None and extent.last > head.size:
        detail = f"entry {head.size + 1} and those after it are not covered by the signed head"
        raise JournalBroken(head.size + 1, None, detail)
    _verify_head(head, entry_id, chain_hash, public_keys)
    if expected:
        lost = min(expected)
        raise JournalBroken(
            head.size + 1,
            None,
            f"entry {head.size + 1} is missing: a head kept elsewhere counts {lost} entries",
        )
    return VerifyReport(
        origin=head.origin,
        entries=head.size,
        payloads=walk.payloads,
        payload_bytes=walk.payload_bytes,
        chain_hash=chain_hash.hex(),
        key_id=head.key_id,
        appended_meanwhile=_read_extent(connection).head.size - head.size,
    )


def _read_extent(connection: Connection) -> _Extent:
    row = _fetch(connection, _EXTENT, {}, after=0)
    if not row:
        raise JournalBroken(1, None, "the journal has no signed head")
    stored = row[0]._asdict()
    head = Head(**{name: stored[name] for name in Head._fields})
    for name, value in head._asdict().items():
        if type(value) is not Head.__annotations__[name]:
            raise JournalBroken(1, None, f"the head's {name} is not a value of its kind: {value!r}")
    return _Extent(head, stored["first"], stored["last"])


def _pages(connection: Connection, size: int) -> Iterator[Sequence[Row[Any]]]:
    after = 0
    while after < size:
        page = _fetch(connection, _PAGE, {"after": after, "upto": size}, after=after)
        if not page:
            return
        yield page
        after = page[-1].seq


def _fetch(
    connection: Connection, statement: Select[Any], values: Mapping[str, Any], *, after: int
) -> Sequence[Row[Any]]:
    """Fetch all rows of a statement; ``after`` is the last entry known to be good."""
    try:
        return connection.execute(statement, values).all()
    except OperationalError as exc:
        raise StoreError(f"the journal cannot be read after entry {after}: {exc.orig}") from exc
    except DatabaseError as exc:  # damaged pages
        raise JournalBroken(
            after + 1, None, f"entry {after + 1} or one soon after it cannot be read: {exc.orig}"
        ) from exc


def _verify_row(row: Row[Any], previous: bytes) -> chain.Entry:
    """Check one row on its own and against the chain hash before it."""
    entry_id = row.entry_id

    def broken(what: str) -> JournalBroken:
        return JournalBroken(row.seq, entry_id, f"entry {row.seq} ({entry_id}): {what}")

    if not isinstance(row.entry, bytes):
        raise broken("its bytes are gone")
    leaf = chain.leaf_hash(row.entry)
    if row.leaf_hash != leaf:
        raise broken("its bytes are not those that were hashed")
    if row.chain_hash != chain.link(previous, leaf):
        raise broken("it does not follow from the entries before it")
    try:
        entry = chain.parse_entry(row.entry)
        at = to_micros(datetime.fromisoformat(entry.at))
    except ValueError as exc:
        raise broken(str(exc)) from exc
    entry_id = entry.id
    recorded = {
        "seq": entry.seq,
        "entry_id": entry.id,
        "at": at,
        "kind": entry.kind,
        **msgspec.structs.asdict(entry.refs),
    }
    stored = row._asdict()
    for column, value in recorded.items():
        if stored[column] != value:
            raise broken(f"column {column} says {stored[column]!r}, its bytes say {value!r}")
    return entry


class _Walk:
    """Goes through the journal page by page and keeps what the next page needs."""

    def __init__(self, connection: Connection, chain_hash: bytes, expected: dict[int, set[bytes]]) -> None:
        self._connection = connection
        self._expected = expected
        self._good: set[chain.PayloadRef] = set()
        self.chain_hash = chain_hash
        self.seq = 0
        self.entry_id: str | None = None
        self.payloads = 0
        self.payload_bytes = 0

    def verify_page(self, page: Sequence[Row[Any]]) -> None:
        """Verify entries, then the payloads of those before the first fault; raise what comes first."""
        entries: list[chain.Entry] = []
        fault: JournalBroken | None = None
        try:
            for row in page:
                entries.append(self._verify_next(row))  # noqa: PERF401 - those before a fault count
        except JournalBroken as exc:
            fault = exc
        for group in _groups(entries):
            self._verify_payloads(group)
        if fault is not None:
            raise fault

    def _verify_next(self, row: Row[Any]) -> chain.Entry:
        due = self.seq + 1
        if row.seq != due:
            raise JournalBroken(due, None, f"entry {due} is missing: {row.seq} follows {self.seq}")
        entry = _verify_row(row, self.chain_hash)
        self.seq, self.entry_id, self.chain_hash = due, entry.id, row.chain_hash
        _check_known(self._expected, due, entry.id, self.chain_hash)
        return entry

    def _verify_payloads(self, entries: Sequence[chain.Entry]) -> None:
        wanted = {ref.digest for entry in entries for ref in entry.payloads if ref not in self._good}
        after = entries[0].seq - 1
        found = (
            _fetch(self._connection, _PAYLOADS, {"digests": sorted(wanted)}, after=after) if wanted else ()
        )
        stored = {(row.digest, row.media_type): row for row in found}
        for entry in entries:
            for ref in entry.payloads:
                self.payloads += 1
                if ref not in self._good:
                    self._verify_payload(entry, ref, stored.get((ref.digest, ref.media_type)))

    def _verify_payload(self, entry: chain.Entry, ref: chain.PayloadRef, row: Row[Any] | None) -> None:
        if row is None:
            fault = "is missing"
        elif not isinstance(row.content, bytes) or chain.payload_digest(row.content) != ref.digest:
            fault = "has other bytes than were recorded"
        elif not len(row.content) == row.size == ref.size:
            fault = f"has {len(row.content)} bytes, {row.size} by its row, {ref.size} by the entry"
        else:
            self.payload_bytes += ref.size
            if len(self._good) >= REMEMBERED_PAYLOADS:
                self._good.clear()
            self._good.add(ref)
            return
        raise JournalBroken(
            entry.seq, entry.id, f"entry {entry.seq} ({entry.id}): payload {ref.digest} {fault}"
        )


def _groups(entries: Sequence[chain.Entry]) -> Iterator[Sequence[chain.Entry]]:
    """Cut entries into runs whose payloads are read together."""
    group: list[chain.Entry] = []
    size = count = 0
    for entry in entries:
        group.append(entry)
        size += sum(ref.size for ref in entry.payloads)
        count += len(entry.payloads)
        if size >= GROUP_BYTES or count >= GROUP_PAYLOADS:
            yield group
            group, size, count = [], 0, 0
    if group:
        yield group


def _check_known(expected: dict[int, set[bytes]], seq: int, entry_id: str | None, chain_hash: bytes) -> None:
    if expected.pop(seq, {chain_hash}) != {chain_hash}:
        detail = f"the first {seq} entries are not those of a head kept elsewhere"
        raise JournalBroken(seq, entry_id, detail)


def _verify_head(
    head: Head, entry_id: str | None, chain_hash: bytes, public_keys: Mapping[str, bytes]
) -> None:
    if head.chain_hash != chain_hash:
        detail = f"the head does not belong to entry {head.size}: it has another chain hash"
        raise JournalBroken(head.size, entry_id, detail)
    key = public_keys.get(head.key_id)
    if key is None:
        detail = f"the head is signed with key {head.key_id!r}, which is not trusted"
        raise JournalBroken(head.size, entry_id, detail)
    try:
        VerifyKey(key).verify(chain.head_text(head.origin, head.size, head.chain_hash), head.signature)
    except CryptoError as exc:
        detail = (
            f"the signature over the head of {head.size} entries does not verify: entries were "
            "changed, removed or added without the signing key"
        )
        raise JournalBroken(head.size, entry_id, detail) from exc
