"""The standing catalogue: what sellers offered last, by feeder.

Kept in memory for planning and in the store for restarts; an on_discover replaces what that seller
offered before at the feeders asked about.
"""

from collections import defaultdict
from collections.abc import Iterable
from datetime import datetime

import msgspec
from sqlalchemy import Connection, delete, insert, select

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

    def of_seller(self, feeder_id: str, bpp_id: str) -> tuple[Offer, ...]:
        """One seller's offers at a feeder."""
        return tuple(offer for offer in self.at(feeder_id) if offer.bpp_id == bpp_id)

    def replace(self, feeder_id: str, bpp_id: str, direction: Direction, offers: Iterable[Offer]) -> None:
        """Take a seller's newest offers in one direction at a feeder; none clears them."""
        narrowed = sorted(narrow(offers, feeder_id, direction), key=lambda offer: offer.offer_id)
        self._offers[feeder_id][bpp_id, direction] = tuple(narrowed)


def narrow(offers: Iterable[Offer], feeder_id: str, direction: Direction) -> tuple[Offer, ...]:
    """Keep the DERs at one feeder and in one direction; offers without any are left out.

    A seller may answer more than was asked (the filter of DISCOVER binds nobody).
    """
    narrowed = []
    for offer in offers:
        ders = tuple(d for d in offer.ders if d.feeder_id == feeder_id and d.direction is direction)
        if ders:
            narrowed.append(msgspec.structs.replace(offer, ders=ders))
    return tuple(narrowed)


def store_offers(
    connection: Connection,
    *,
    feeder_id: str,
    bpp_id: str,
    direction: Direction,
    offers: Iterable[Offer],
    now: datetime,
) -> None:
    """Replace a seller's stored offers in one direction at a feeder; one row per DER and offer."""
    stored = select(table).where(table.c.feeder_id == feeder_id, table.c.bpp_id == bpp_id)
    for row in connection.execute(stored).all():
        if msgspec.json.decode(row.body, type=Offer).ders[0].direction is direction:
            connection.execute(
                delete(table).where(
                    table.c.bpp_id == bpp_id, table.c.der_id == row.der_id, table.c.offer_id == row.offer_id
                )
            )
    rows = [
        {
            "bpp_id": bpp_id,
            "der_id": der.der_id,
            "offer_id": offer.offer_id,
            "feeder_id": feeder_id,
            "body": msgspec.json.encode(msgspec.structs.replace(offer, ders=(der,))).decode(),
            "fetched_at": now,
        }
        for offer in narrow(offers, feeder_id, direction)
        for der in offer.ders
    ]
    if rows:
        connection.execute(insert(table), rows)


def load_catalogue(connection: Connection) -> Catalogue:
    """Rebuild the catalogue from the store."""
    found: dict[tuple[str, str, Direction], dict[str, Offer]] = defaultdict(dict)
    for row in connection.execute(select(table).order_by(table.c.offer_id, table.c.der_id)):
        part = msgspec.json.decode(row.body, type=Offer)
        offers = found[row.feeder_id, row.bpp_id, part.ders[0].direction]
        known = offers.get(part.offer_id)
        offers[part.offer_id] = (
            msgspec.structs.replace(known, ders=(*known.ders, *part.ders)) if known else part
        )
    result = Catalogue()
    for (feeder_id, bpp_id, direction), offers in found.items():
        result.replace(feeder_id, bpp_id, direction, offers.values())
    return result
