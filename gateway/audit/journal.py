"""The journal: what is not in it did not happen.

Entries are appended inside a write job of :class:`gateway.store.database.Database`, together with
the change of state that they record: both are on disk or neither is. The head is signed anew with
each append, so a removed tail and an exchanged journal are found.

An old head with its own signature still verifies: who can roll the whole data directory back can
hide what came later. Against that, keep a head elsewhere (:class:`gateway.audit.verify.KnownHead`).
"""

from collections.abc import Callable, Sequence
from datetime import datetime
from typing import Any, NamedTuple
from uuid import uuid4

import msgspec
from sqlalchemy import Connection, bindparam, func, insert, select, update

from gateway.audit import chain
from gateway.errors import JournalBroken
from gateway.store.sql import insert_missing
from gateway.store.tables import journal_entry, journal_head
from gateway.store.tables import payload as payload_table

JSON = "application/json"


class Payload(msgspec.Struct, frozen=True):
    """Bytes that an entry brings along, kept once per content."""

    content: bytes
    media_type: str = JSON


class JournalDraft(msgspec.Struct, frozen=True, kw_only=True):
    """An entry to append.

    Attributes:
        kind: What happened, one word such as ``message_sent``.
        at: Wall time, aware.
        event_id: Id of the need or, for the entry of a state change, of that change.
        body: JSON data. Headers of a message go in here, its bytes into ``payloads``.
    """

    kind: str
    at: datetime
    feeder_id: str | None = None
    transaction_id: str | None = None
    order_id: str | None = None
    obp_id: str | None = None
    event_id: str | None = None
    body: dict[str, Any]
    payloads: tuple[Payload, ...] = ()


class AppendedEntry(NamedTuple):
    """Where an entry went."""

    seq: int
    entry_id: str
    leaf_hash: bytes
    chain_hash: bytes


Sign = Callable[[bytes], bytes]
"""Signs a text with Ed25519: 64 bytes."""


class Head(NamedTuple):
    """The signed state of the whole journal."""

    origin: str
    size: int
    chain_hash: bytes
    signature: bytes
    key_id: str


_HEAD_ROW = 1
_SELECT_HEAD = select(
    journal_head.c.origin,
    journal_head.c.size,
    journal_head.c.chain_hash,
    journal_head.c.signature,
    journal_head.c.key_id,
).where(journal_head.c.id == _HEAD_ROW)
_UPDATE_HEAD = (
    update(journal_head)
    .where(journal_head.c.id == _HEAD_ROW)
    .values(
        size=bindparam("new_size"),
        chain_hash=bindparam("new_chain"),
        signature=bindparam("new_signature"),
        key_id=bindparam("new_key_id"),
    )
)
_INSERT_ENTRY = insert(journal_entry)


def read_head(connection: Connection) -> Head | None:
    """Return the head as stored, unchecked; None before the first append."""
    row = connection.execute(_SELECT_HEAD).first()
    return None if row is None else Head(*row)


def append(
    connection: Connection, drafts: Sequence[JournalDraft], *, sign: Sign, key_id: str
) -> list[AppendedEntry]:
    """Append entries in order and sign the new head. Only inside a write job.

    The first append of an empty database starts a journal with a random origin.

    Args:
        connection: The job's connection.
        drafts: What happened, oldest first.
        sign: Signs the head.
        key_id: Id of the key that ``sign`` uses.

    Raises:
        ValueError: A draft has no canonical spelling or a naive instant.
        JournalBroken: There are entries but no head.
    """
    if not drafts:
        return []
    head = read_head(connection) or _start(connection, sign, key_id)
    size, chain_hash = head.size, head.chain_hash
    appended: list[AppendedEntry] = []
    rows: list[dict[str, Any]] = []
    payloads: list[dict[str, Any]] = []
    for draft in drafts:
        size += 1
        contents = [
            {
                "digest": chain.payload_digest(item.content),
                "media_type": item.media_type,
                "size": len(item.content),
                "content": item.content,
            }
            for item in draft.payloads
        ]
        payloads += contents
        row = _row(size, draft, contents)
        chain_hash = row["chain_hash"] = chain.link(chain_hash, row["leaf_hash"])
        rows.append(row)
        appended.append(AppendedEntry(size, row["entry_id"], row["leaf_hash"], chain_hash))
    insert_missing(connection, payload_table, payloads)
    connection.execute(_INSERT_ENTRY, rows)
    connection.execute(
        _UPDATE_HEAD,
        {
            "new_size": size,
            "new_chain": chain_hash,
            "new_signature": sign(chain.head_text(head.origin, size, chain_hash)),
            "new_key_id": key_id,
        },
    )
    return appended


def _row(seq: int, draft: JournalDraft, payloads: Sequence[dict[str, Any]]) -> dict[str, Any]:
    refs = chain.Refs(
        feeder_id=draft.feeder_id,
        transaction_id=draft.transaction_id,
        order_id=draft.order_id,
        obp_id=draft.obp_id,
        event_id=draft.event_id,
    )
    entry_id = str(uuid4())
    entry = chain.entry_bytes(
        seq=seq,
        entry_id=entry_id,
        at=draft.at,
        kind=draft.kind,
        refs=refs,
        payloads=[
            chain.PayloadRef(digest=item["digest"], media_type=item["media_type"], size=item["size"])
            for item in payloads
        ],
        body=draft.body,
    )
    return {
        "seq": seq,
        "entry_id": entry_id,
        "at": draft.at,
        "kind": draft.kind,
        **msgspec.structs.asdict(refs),
        "entry": entry,
        "leaf_hash": chain.leaf_hash(entry),
    }


def _start(connection: Connection, sign: Sign, key_id: str) -> Head:
    entries = connection.execute(select(func.count()).select_from(journal_entry)).scalar_one()
    if entries:
        raise JournalBroken(1, None, f"the journal has {entries} entries but no head")
    origin = f"fluxeon/{uuid4()}"
    chain_hash = chain.genesis(origin)
    head = Head(origin, 0, chain_hash, sign(chain.head_text(origin, 0, chain_hash)), key_id)
    connection.execute(insert(journal_head).values(id=_HEAD_ROW, **head._asdict()))
    return head
