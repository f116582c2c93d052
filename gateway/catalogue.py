"""The standing catalogue: what sellers offered last, by feeder.

Kept in memory for planning and in the store for restarts; an on_discover replaces what that seller
offered before at the feeders asked about.
"""

from collections import defaultdict
from collections.abc import Iterable
from datetime import datetime

import msgspec
from sqlalchemy import Connection, delete, select, update

from gateway.store.sql import upsert
from gateway.store.tables import catalogue as table
from gateway.types import Direction, Offer


class Catalogue:
    """Offers by feeder, seller and direction; immutable snapshots out."""

    def __init__(self) -> None:
        self._offers: dict[str, dict[tuple[str, Direction], tuple[Offer, ...]]] = defaultdict(dict)

    def at(self, feeder_id: str) -> tuple[Offer, ...]:
        """Offers that serve a feeder, in a fixed order."""
        parts = self._offers.get(feeder_id, {})
        return tuple(offer for part in sorted(parts) for offer in parts[part])

    def everything(self) -> tuple[Offer, ...]:
        """All offers."""
        return tuple(offer for feeder_id in sorted(self._offers) for offer in self.at(feeder_id))

    def replace(self, feeder_id: str, bpp_id: str, direction: Direction, offers: Iterable[Offer]) -> None:
        """Take a seller's newest offers in one direction at a feeder; none clears them."""
        narrowed = sorted(narrow(offers, feeder_id, direction), key=lambda offer: offer.offer_id)
        self._offers[feeder_id][bpp_id, direction] = tuple(narrowed)


def narrow(offers: Iterable[Offer], feeder_id: str, direction: Direction) -> tuple[Offer, ...]:
    """Keep the DERs at one feeder and in one direction, each once; offers without any are left out.

    A seller may answer more than was asked (the filter of DISCOVER binds nobody), and more than once.
    """
    narrowed: dict[str, Offer] = {}
    for offer in offers:
        known = narrowed.get(offer.offer_id)
        ders = {der.der_id: der for der in (known.ders if known else ())}
        for der in offer.ders:
            if der.feeder_id == feeder_id and der.direction is direction:
                ders.setdefault(der.der_id, der)
        if ders:
            narrowed[offer.offer_id] = msgspec.structs.replace(known or offer, ders=tuple(ders.values()))
    return tuple(narrowed.values())


def store_offers(
    connection: Connection,
    *,
    feeder_id: str,
    bpp_id: str,
    direction: Direction,
    offers: Iterable[Offer],
    now: datetime,
) -> None:
    """Replace a seller's stored offers in one direction at a feeder.

    One row per DER and offer; a DER that is sold both ways under one offer has both in it.
    """
    stored = connection.execute(select(table).where(table.c.feeder_id == feeder_id, table.c.bpp_id == bpp_id))
    rest: dict[tuple[str, str], tuple[Offer, ...]] = {}
    for row in stored.all():
        parts = _parts(row.body)
        key = (row.der_id, row.offer_id)
        rest[key] = tuple(part for part in parts if part.ders[0].direction is not direction)
        if len(rest[key]) == len(parts):
            continue
        named = (table.c.bpp_id == bpp_id, table.c.der_id == row.der_id, table.c.offer_id == row.offer_id)
        if rest[key]:
            connection.execute(update(table).where(*named).values(body=_body(rest[key])))
        else:
            connection.execute(delete(table).where(*named))
    upsert(
        connection,
        table,
        [
            {
                "bpp_id": bpp_id,
                "der_id": der.der_id,
                "offer_id": offer.offer_id,
                "feeder_id": feeder_id,
                "body": _body(
                    (
                        *rest.get((der.der_id, offer.offer_id), ()),
                        msgspec.structs.replace(offer, ders=(der,)),
                    )
                ),
                "fetched_at": now,
            }
            for offer in narrow(offers, feeder_id, direction)
            for der in offer.ders
        ],
    )


def load_catalogue(connection: Connection) -> Catalogue:
    """Rebuild the catalogue from the store."""
    found: dict[tuple[str, str, Direction], list[Offer]] = defaultdict(list)
    for row in connection.execute(select(table).order_by(table.c.offer_id, table.c.der_id)):
        for part in _parts(row.body):
            found[row.feeder_id, row.bpp_id, part.ders[0].direction].append(part)
    result = Catalogue()
    for (feeder_id, bpp_id, direction), parts in found.items():
        result.replace(feeder_id, bpp_id, direction, parts)
    return result


def _parts(body: str) -> tuple[Offer, ...]:
    """The offer of a row, per direction, with the row's DER alone."""
    return msgspec.json.decode(body, type=tuple[Offer, ...])


def _body(parts: tuple[Offer, ...]) -> str:
    return msgspec.json.encode(parts).decode()
