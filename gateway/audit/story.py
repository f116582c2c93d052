"""What the journal tells: the story of one order, pages of entries, a search for orders.

Everything here reads through a connection of :meth:`gateway.store.database.Database.read` or
:func:`gateway.store.database.open_reader` and returns plain JSON data.
"""

import base64
import binascii
import contextlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from datetime import datetime
from typing import Any

import msgspec
from sqlalchemy import Connection, Row, and_, func, or_, select

from gateway.audit import chain
from gateway.audit.journal import read_head
from gateway.errors import InvalidRequest, JournalBroken, NotFound
from gateway.store.tables import (
    flex_event,
    flex_order,
    from_micros,
    journal_entry,
    payload,
    settlement_row,
    to_micros,
)

MAX_PAGE = 1000
"""Most entries or orders in one answer."""
SCAN_PAGE = 200
"""Orders looked at in one statement of a search."""

Document = dict[str, Any]


def story_of(connection: Connection, obp_id: str) -> Document:
    """Tell everything recorded about one OBP id.

    Found are the entries with this OBP id, those of its order and its Beckn transaction, and those
    of the need and the state change behind it, less what belongs to another order of that need.

    Returns:
        ``obp_id``; ``orders`` and ``needs`` as they stand; ``related_obp_ids`` of the same need;
        ``entries`` in time order, each with its payloads (``json`` where it is JSON, else
        ``base64``); ``settlement`` rows; ``head``, the signed head that covers the entries.

    Raises:
        NotFound: Nothing is known under this id.
    """
    orders = connection.execute(select(flex_order).where(flex_order.c.obp_id == obp_id)).all()
    own = connection.execute(
        select(journal_entry.c.order_id, journal_entry.c.transaction_id, journal_entry.c.event_id)
        .where(journal_entry.c.obp_id == obp_id)
        .distinct()
    ).all()
    if not orders and not own:
        raise NotFound(f"nothing is recorded under OBP id {obp_id!r}", obp_id=obp_id)
    needs = _needs(connection, {order.need_id for order in orders} | {row.event_id for row in own})
    order_ids = _texts([order.order_id for order in orders], [row.order_id for row in own])
    transaction_ids = _texts([order.transaction_id for order in orders], [row.transaction_id for row in own])
    event_ids = _texts(
        [need.need_id for need in needs],
        [need.state_change_id for need in needs],
        [row.event_id for row in own],
    )
    entries = _connected(connection, obp_id, order_ids, transaction_ids, event_ids)
    contents = _contents(connection, entries)
    settlement = connection.execute(
        select(settlement_row)
        .where(settlement_row.c.obp_id == obp_id)
        .order_by(
            settlement_row.c.der_id,
            settlement_row.c.settlement_date,
            settlement_row.c.settlement_period,
            settlement_row.c.row_version,
        )
    )
    return {
        "obp_id": obp_id,
        "orders": [_document(order) for order in orders],
        "needs": [_document(need) for need in needs],
        "related_obp_ids": _related(connection, obp_id, [need.need_id for need in needs]),
        "entries": [_entry(row, contents) for row in entries],
        "settlement": [_document(row) for row in settlement],
        "head": _head(connection),
    }


def entries_from(connection: Connection, from_seq: int, limit: int) -> Document:
    """Return journal entries in order, without the contents of their payloads.

    Args:
        connection: Reads the database.
        from_seq: Number of the first entry wanted, from 1.
        limit: How many at most, 1 to :data:`MAX_PAGE`.

    Returns:
        ``entries``; ``next_seq``, where to go on, None at the end; ``head``.

    Raises:
        InvalidRequest: ``limit`` is out of range.
    """
    _check_limit(limit)
    rows = connection.execute(
        select(journal_entry)
        .where(journal_entry.c.seq >= from_seq)
        .order_by(journal_entry.c.seq)
        .limit(limit + 1)
    ).all()
    return {
        "entries": [_entry(row) for row in rows[:limit]],
        "next_seq": rows[limit].seq if len(rows) > limit else None,
        "head": _head(connection),
    }


def search(
    connection: Connection,
    *,
    feeder_id: str | None = None,
    der_id: str | None = None,
    aggregator_id: str | None = None,
    from_at: datetime | None = None,
    to_at: datetime | None = None,
    cursor: str | None = None,
    limit: int = 100,
) -> Document:
    """Find orders, newest decision first.

    Args:
        connection: Reads the database.
        feeder_id: Feeder the relief was for.
        der_id: DER among the order's lines.
        aggregator_id: Seller's subscriber id, provider id, or the aggregator within a DER id
            (``der:{aggregator}:{number}``).
        from_at: Earliest event time of the decision, aware; included.
        to_at: Latest event time of the decision, aware; excluded.
        cursor: ``next_cursor`` of the page before.
        limit: How many at most, 1 to :data:`MAX_PAGE`.

    Returns:
        ``items``, one summary per order, and ``next_cursor``, None at the end.

    Raises:
        InvalidRequest: ``cursor`` or ``limit`` is not usable.
    """
    _check_limit(limit)
    conditions = []
    if feeder_id is not None:
        conditions.append(flex_order.c.feeder_id == feeder_id)
    if from_at is not None:
        conditions.append(flex_event.c.event_at >= from_at)
    if to_at is not None:
        conditions.append(flex_event.c.event_at < to_at)
    # A first sieve over the stored JSON; what passes is looked at properly below.
    if der_id is not None:
        conditions.append(flex_order.c.body.contains(_json_text(der_id), autoescape=True))
    if aggregator_id is not None:
        mentioned = flex_order.c.body.contains(_json_text(aggregator_id), autoescape=True)
        conditions.append(or_(flex_order.c.bpp_id == aggregator_id, mentioned))
    found: list[tuple[Row[Any], _Parties]] = []
    position = None if cursor is None else _read_cursor(cursor)
    for row in _orders(connection, conditions, position):
        parties = _Parties.of(row)
        if der_id is not None and der_id not in parties.der_ids:
            continue
        if aggregator_id is not None and aggregator_id not in parties.aggregators:
            continue
        found.append((row, parties))
        if len(found) > limit:
            break
    page = found[:limit]
    delivered = _delivered(connection, [row.obp_id for row, _ in page])
    last = page[-1][0] if len(found) > limit else None
    return {
        "items": [_summary(row, parties, delivered.get(row.obp_id)) for row, parties in page],
        "next_cursor": None if last is None else _write_cursor(last),
    }


# ---- the story -------------------------------------------------------------------------------


def _texts(*groups: Iterable[str | None]) -> list[str]:
    return sorted({text for group in groups for text in group if text is not None})


def _needs(connection: Connection, ids: Iterable[str | None]) -> Sequence[Row[Any]]:
    """Needs by their own id or by the state change that caused them."""
    wanted = _texts(ids)
    return connection.execute(
        select(flex_event)
        .where(or_(flex_event.c.need_id.in_(wanted), flex_event.c.state_change_id.in_(wanted)))
        .order_by(flex_event.c.decided_at, flex_event.c.need_id)
    ).all()


def _connected(
    connection: Connection,
    obp_id: str,
    order_ids: Sequence[str],
    transaction_ids: Sequence[str],
    event_ids: Sequence[str],
) -> Sequence[Row[Any]]:
    column = journal_entry.c
    linked = or_(
        column.order_id.in_(order_ids),
        column.transaction_id.in_(transaction_ids),
        column.event_id.in_(event_ids),
    )
    nobody_elses = and_(
        column.obp_id.is_(None), or_(column.order_id.is_(None), column.order_id.in_(order_ids))
    )
    return connection.execute(
        select(journal_entry)
        .where(or_(column.obp_id == obp_id, and_(linked, nobody_elses)))
        .order_by(column.at, column.seq)
    ).all()


def _related(connection: Connection, obp_id: str, need_ids: Sequence[str]) -> list[str]:
    statement = (
        select(flex_order.c.obp_id)
        .where(flex_order.c.need_id.in_(need_ids), flex_order.c.obp_id != obp_id)
        .order_by(flex_order.c.created_at, flex_order.c.obp_id)
    )
    return list(connection.execute(statement).scalars())


def _contents(connection: Connection, rows: Sequence[Row[Any]]) -> dict[tuple[str, str], bytes]:
    digests = sorted({ref.digest for row in rows for ref in _parse(row).payloads})
    found: dict[tuple[str, str], bytes] = {}
    for first in range(0, len(digests), SCAN_PAGE):
        part = digests[first : first + SCAN_PAGE]
        for row in connection.execute(select(payload).where(payload.c.digest.in_(part))):
            found[row.digest, row.media_type] = row.content
    return found


def _entry(row: Row[Any], contents: Mapping[tuple[str, str], bytes] | None = None) -> Document:
    entry = _parse(row)
    document: Document = msgspec.to_builtins(entry)
    document["payloads"] = list(document["payloads"])
    if contents is not None:
        for ref, shown in zip(entry.payloads, document["payloads"], strict=True):
            shown.update(_content(ref.media_type, contents.get((ref.digest, ref.media_type))))
    document["leaf_hash"] = row.leaf_hash.hex()
    document["chain_hash"] = row.chain_hash.hex()
    return document


def _parse(row: Row[Any]) -> chain.Entry:
    try:
        return chain.parse_entry(row.entry)
    except ValueError as exc:
        raise JournalBroken(row.seq, row.entry_id, f"entry {row.seq} ({row.entry_id}): {exc}") from exc


def _content(media_type: str, content: bytes | None) -> Document:
    if content is None:
        return {"missing": True}
    kind = media_type.partition(";")[0].strip().lower()
    if kind == "application/json" or kind.endswith("+json"):
        with contextlib.suppress(msgspec.DecodeError, UnicodeDecodeError):  # then shown as the bytes it is
            return {"json": msgspec.json.decode(content)}
    return {"base64": base64.b64encode(content).decode()}


def _head(connection: Connection) -> Document | None:
    head = read_head(connection)
    if head is None:
        return None
    return {
        "origin": head.origin,
        "size": head.size,
        "chain_hash": head.chain_hash.hex(),
        "key_id": head.key_id,
        "signature": base64.b64encode(head.signature).decode(),
    }


_JSON_COLUMNS = ("body", "row")


def _document(row: Row[Any]) -> Document:
    """A row as JSON data: instants as text, columns that hold JSON decoded."""
    document: Document = {}
    for name, value in row._asdict().items():
        if isinstance(value, datetime):
            document[name] = chain.instant_text(value)
        elif name in _JSON_COLUMNS:
            document[name] = msgspec.json.decode(value)
        else:
            document[name] = value
    return document


# ---- the search ------------------------------------------------------------------------------


class _Parties(msgspec.Struct, frozen=True):
    """Who takes part in an order: DERs in the order of its lines, and names of the aggregator."""

    der_ids: tuple[str, ...]
    aggregators: frozenset[str]

    @classmethod
    def of(cls, row: Row[Any]) -> "_Parties":
        der_ids: dict[str, None] = {}
        aggregators = {row.bpp_id}
        for name, value in _members(msgspec.json.decode(row.body)):
            if name == "der_id":
                der_ids[value] = None
                scheme, _, rest = value.partition(":")
                if scheme == "der":
                    aggregators.add(rest.partition(":")[0])
            elif name in ("provider_id", "aggregator_id"):
                aggregators.add(value)
        return cls(tuple(der_ids), frozenset(aggregators))


def _members(value: Any) -> Iterator[tuple[str, str]]:
    """Walk all text members of a JSON document, wherever they are."""
    if isinstance(value, dict):
        for name, member in value.items():
            if isinstance(member, str):
                yield name, member
            else:
                yield from _members(member)
    elif isinstance(value, list):
        for item in value:
            yield from _members(item)


def _orders(
    connection: Connection, conditions: Sequence[Any], position: tuple[datetime, str] | None
) -> Iterator[Row[Any]]:
    """All orders that pass the sieve, behind ``position``, read a page at a time."""
    when, name = flex_event.c.event_at, flex_order.c.order_id
    statement = (
        select(flex_order, when)
        .join(flex_event, flex_event.c.need_id == flex_order.c.need_id)
        .where(*conditions)
        .order_by(when.desc(), name)
        .limit(SCAN_PAGE)
    )
    while True:
        page = statement
        if position is not None:
            page = statement.where(or_(when < position[0], and_(when == position[0], name > position[1])))
        rows = connection.execute(page).all()
        yield from rows
        if len(rows) < SCAN_PAGE:
            return
        position = rows[-1].event_at, rows[-1].order_id


def _delivered(connection: Connection, obp_ids: Sequence[str]) -> dict[str, int]:
    """Delivered Wh by OBP id, of the newest version of each settlement row."""
    newest = (
        select(
            settlement_row.c.obp_id,
            settlement_row.c.der_id,
            settlement_row.c.settlement_date,
            settlement_row.c.settlement_period,
            func.max(settlement_row.c.row_version).label("row_version"),
        )
        .where(settlement_row.c.obp_id.in_(obp_ids))
        .group_by(
            settlement_row.c.obp_id,
            settlement_row.c.der_id,
            settlement_row.c.settlement_date,
            settlement_row.c.settlement_period,
        )
        .subquery()
    )
    statement = (
        select(settlement_row.c.obp_id, func.sum(settlement_row.c.delivered_wh))
        .join(newest, and_(*(settlement_row.c[column.name] == column for column in newest.c)))
        .group_by(settlement_row.c.obp_id)
    )
    return {obp_id: int(total) for obp_id, total in connection.execute(statement)}


def _summary(row: Row[Any], parties: _Parties, delivered_wh: int | None) -> Document:
    return {
        "obp_id": row.obp_id,
        "order_id": row.order_id,
        "feeder_id": row.feeder_id,
        "bpp_id": row.bpp_id,
        "need_id": row.need_id,
        "transaction_id": row.transaction_id,
        "state": row.state,
        "der_ids": list(parties.der_ids),
        "delivered_wh": delivered_wh,
        "event_at": chain.instant_text(row.event_at),
        "detected_at": chain.instant_text(row.detected_at),
        "created_at": chain.instant_text(row.created_at),
    }


def _check_limit(limit: int) -> None:
    if not 1 <= limit <= MAX_PAGE:
        raise InvalidRequest(f"limit must lie between 1 and {MAX_PAGE}", limit=limit)


def _json_text(text: str) -> str:
    """Text as it stands inside stored JSON."""
    return msgspec.json.encode(text).decode()[1:-1]


def _write_cursor(row: Row[Any]) -> str:
    plain = f"{to_micros(row.event_at)} {row.order_id}"
    return base64.urlsafe_b64encode(plain.encode()).decode().rstrip("=")


def _read_cursor(cursor: str) -> tuple[datetime, str]:
    try:
        plain = base64.b64decode(cursor + "=" * (-len(cursor) % 4), altchars=b"-_", validate=True).decode()
        micros, _, order_id = plain.partition(" ")
        return from_micros(int(micros)), order_id
    except (binascii.Error, ValueError, OverflowError) as exc:
        raise InvalidRequest("cursor is not one that a search has given", cursor=cursor) from exc
