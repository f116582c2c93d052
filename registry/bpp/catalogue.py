"""The standing offers made from a portfolio."""

from collections import defaultdict
from collections.abc import Callable
from datetime import datetime, timedelta
from decimal import Decimal

import msgspec

from gateway.types import Der, Direction, Offer
from registry.bpp.portfolio import Portfolio, PortfolioDer

OFFER_LIFE = timedelta(hours=24)
"""How long a catalogue may be relied on, wall time."""


class StandingOffer(msgspec.Struct, frozen=True, kw_only=True):
    """DERs of one type at one feeder, sold in one direction at one price."""

    offer_id: str
    feeder_id: str
    direction: Direction
    price_per_kwh: str
    ders: tuple[PortfolioDer, ...]


class Catalogue:
    """A portfolio arranged for sale: offers by id and by feeder.

    An offer's id is made of what it is, so that it stays the same from start to start.
    """

    def __init__(self, portfolio: Portfolio) -> None:
        self.provider_id = portfolio.provider_id
        self.provider_name = portfolio.provider_name
        self.currency = portfolio.currency
        self.feeder_ids = portfolio.feeder_ids
        self._ders = {der.der_id: der for der in portfolio.ders}
        self._offers: dict[str, StandingOffer] = {}
        self._at: defaultdict[tuple[str, Direction], list[StandingOffer]] = defaultdict(list)
        groups: defaultdict[tuple[str, Direction, str, Decimal], list[PortfolioDer]] = defaultdict(list)
        for der in portfolio.ders:
            for direction in Direction:
                if der.rated_kw(direction) > 0:
                    price = Decimal(der.price_per_kwh)
                    groups[der.feeder_id, direction, der.type.value, price].append(der)
        for (feeder_id, direction, kind, _price), ders in sorted(groups.items()):
            offer_id = f"{self.provider_id}:{feeder_id}:{kind}:{direction.value}:{ders[0].price_per_kwh}"
            offer = StandingOffer(
                offer_id=offer_id,
                feeder_id=feeder_id,
                direction=direction,
                price_per_kwh=ders[0].price_per_kwh,
                ders=tuple(ders),
            )
            self._offers[offer_id] = offer
            self._at[feeder_id, direction].append(offer)

    def offer(self, offer_id: str) -> StandingOffer | None:
        """Find an offer."""
        return self._offers.get(offer_id)

    def der(self, der_id: str) -> PortfolioDer | None:
        """Find a DER."""
        return self._ders.get(der_id)

    def ders_at(self, feeder_id: str) -> tuple[PortfolioDer, ...]:
        """List the DERs at a feeder."""
        return tuple(der for der in self._ders.values() if der.feeder_id == feeder_id)

    def offers(
        self,
        feeder_id: str | None,
        direction: Direction | None,
        *,
        bpp_id: str,
        bpp_uri: str,
        wall_now: datetime,
        free_kw: Callable[[PortfolioDer, Direction], float],
    ) -> tuple[Offer, ...]:
        """Make the catalogue's answer to a discover.

        Args:
            feeder_id: Only DERs at this feeder; all where it is None.
            direction: Only this direction; both where it is None.
            bpp_id: Seller's subscriber id.
            bpp_uri: Where it takes orders.
            wall_now: Start of the offers' validity.
            free_kw: What is free of a DER in a direction; DERs with nothing free are left out.
        """
        feeders = self.feeder_ids if feeder_id is None else (feeder_id,)
        directions = tuple(Direction) if direction is None else (direction,)
        found = []
        for standing in (each for f in feeders for d in directions for each in self._at.get((f, d), ())):
            ders = [(der, free_kw(der, standing.direction)) for der in standing.ders]
            candidates = tuple(self._candidate(der, standing, kw) for der, kw in ders if kw > 0)
            if candidates:
                found.append(
                    Offer(
                        offer_id=standing.offer_id,
                        bpp_id=bpp_id,
                        bpp_uri=bpp_uri,
                        provider_id=self.provider_id,
                        provider_name=self.provider_name,
                        ders=candidates,
                        price_per_kwh=standing.price_per_kwh,
                        currency=self.currency,
                        valid_from=wall_now,
                        valid_until=wall_now + OFFER_LIFE,
                    )
                )
        return tuple(found)

    def _candidate(self, der: PortfolioDer, standing: StandingOffer, kw: float) -> Der:
        return Der(
            der_id=der.der_id,
            aggregator_id=self.provider_id,
            type=der.type,
            feeder_id=der.feeder_id,
            direction=standing.direction,
            capacity_kw=kw,
            response_time_s=der.response_time_s,
            min_duration_min=der.min_duration_min,
            max_duration_min=der.max_duration_min,
            price_per_kwh=standing.price_per_kwh,
            currency=self.currency,
            min_kw=der.min_kw,
            ramp_kw_per_min=der.ramp_kw_per_min,
            location=der.location,
            meter_ids=der.meter_ids,
            crypto_proof=der.crypto_proof,
        )
