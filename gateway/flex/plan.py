"""What a flexibility plan is made of: weights and limits in, orders and decisions out.

Everything here is frozen and encodes to JSON as it stands, for the journal and the API.

Source: requirements R29 (plan), R30 (objectives and weights), R31 (constraints).
"""

import math
from collections.abc import Iterable
from datetime import datetime
from decimal import Decimal, InvalidOperation
from enum import StrEnum
from typing import Self

import msgspec

from gateway.types import Der, DerType, FlexNeed, NeedSlot, Offer, OrderLine, OrderTerms


class Objective(StrEnum):
    """What a plan puts first (R30)."""

    BALANCED = "balanced"
    COST = "cost"
    RELIABILITY = "reliability"
    CURTAILMENT = "curtailment"
    """Spare customers: batteries before comfort and production."""


class RankWeights(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Weights of the criteria; only their proportions matter.

    ``type_preference`` gives each kind of DER its own 0 to 1; kinds not named get 0.5.

    Raises:
        ValueError: A weight is negative or not finite, all are 0, or a preference is outside 0 to 1.
    """

    capacity: float = 1.0
    response: float = 1.0
    duration: float = 1.0
    price: float = 2.0
    location: float = 0.5
    reliability: float = 2.0
    type: float = 0.5
    type_preference: dict[DerType, float] = msgspec.field(
        default_factory=lambda: {
            DerType.BATTERY: 1.0,
            DerType.EV: 0.8,
            DerType.HVAC: 0.6,
            DerType.OTHER: 0.5,
        }
    )

    def __post_init__(self) -> None:
        weights = self.by_criterion()
        if any(not math.isfinite(weight) or weight < 0 for weight in weights.values()):
            raise ValueError("a weight is negative or not finite")
        if sum(weights.values()) <= 0:
            raise ValueError("all weights are 0")
        if any(not 0 <= preference <= 1 for preference in self.type_preference.values()):
            raise ValueError("a type preference is outside 0 to 1")

    def by_criterion(self) -> dict[str, float]:
        """Weight of each criterion by name."""
        return {
            "capacity": self.capacity,
            "response": self.response,
            "duration": self.duration,
            "price": self.price,
            "location": self.location,
            "reliability": self.reliability,
            "type": self.type,
        }

    @classmethod
    def for_objective(cls, objective: Objective) -> Self:
        """Weights that put one objective first."""
        match objective:
            case Objective.COST:
                return cls(price=8.0)
            case Objective.RELIABILITY:
                return cls(reliability=8.0, response=2.0)
            case Objective.CURTAILMENT:
                return cls(
                    type=8.0,
                    type_preference={
                        DerType.BATTERY: 1.0,
                        DerType.EV: 0.7,
                        DerType.HVAC: 0.2,
                        DerType.OTHER: 0.0,
                    },
                )
            case Objective.BALANCED:
                return cls()


class PlanPolicy(msgspec.Struct, frozen=True, kw_only=True):
    """Limits of a plan.

    Attributes:
        currency: Offers in another currency are passed over.
        price_ceiling_per_kwh: Decimal text; None for no ceiling.
        lot_w: Powers are asked for in multiples of this.
        overshoot_penalty: What a kWh delivered beyond the need weighs against a kWh that covers it.
        late_start_s: How much later than a slot's start full output may be reached.
        default_reliability: For DERs and aggregators without a record, 0 to 1.
        response_scale_s, distance_scale_km: Response time and distance that halve their criterion.

    Raises:
        ValueError: A limit that makes no sense.
    """

    currency: str = "GBP"
    price_ceiling_per_kwh: str | None = None
    lot_w: int = 100
    overshoot_penalty: float = 0.5
    late_start_s: float = 0.0
    default_reliability: float = 0.8
    response_scale_s: float = 300.0
    distance_scale_km: float = 10.0

    def __post_init__(self) -> None:
        if self.lot_w < 1 or self.response_scale_s <= 0 or self.distance_scale_km <= 0:
            raise ValueError("the lot and the scales of a plan are positive")
        if self.overshoot_penalty < 0 or self.late_start_s < 0:
            raise ValueError("the overshoot penalty and the late start of a plan are not negative")
        try:
            finite = self.ceiling is None or self.ceiling.is_finite()
        except InvalidOperation:
            finite = False
        if not finite:
            raise ValueError("the price ceiling is not a decimal number")

    @property
    def ceiling(self) -> Decimal | None:
        """The price ceiling as a number."""
        return None if self.price_ceiling_per_kwh is None else Decimal(self.price_ceiling_per_kwh)


class PlannedLine(msgspec.Struct, frozen=True, kw_only=True):
    """One DER of an order: constant kW over the order's window."""

    der: Der
    kw: float


class PlannedOrder(msgspec.Struct, frozen=True, kw_only=True):
    """What to ask of one seller: DERs of one offer, at one price, over one window (event time).

    ``offer`` is trimmed to the DERs ordered; ``priority`` counts from 1.
    """

    offer: Offer
    window_start: datetime
    window_end: datetime
    lines: tuple[PlannedLine, ...]
    price_per_kwh: str
    currency: str
    priority: int

    def terms(self, *, obp_id: str, need: FlexNeed) -> OrderTerms:
        """The order's terms under an OBP id."""
        return OrderTerms(
            obp_id=obp_id,
            event_id=need.need_id,
            feeder_id=need.feeder_id,
            direction=need.direction,
            offer_id=self.offer.offer_id,
            provider_id=self.offer.provider_id,
            window_start=self.window_start,
            window_end=self.window_end,
            lines=tuple(
                OrderLine(der_id=line.der.der_id, der_type=line.der.type, kw=line.kw) for line in self.lines
            ),
            price_per_kwh=self.price_per_kwh,
            currency=self.currency,
        )


class DerDecision(msgspec.Struct, frozen=True, kw_only=True):
    """What became of one DER of the catalogue, and why.

    ``rank`` counts from 1 among the DERs that could serve the need; ``score`` and ``parts`` (each
    criterion, 0 to 1) are given for those. ``kw`` is 0 where the DER was not taken.
    """

    der_id: str
    offer_id: str
    bpp_id: str
    taken: bool
    kw: float
    reason: str
    rank: int | None = None
    score: float | None = None
    parts: dict[str, float] = {}
    window_start: datetime | None = None
    window_end: datetime | None = None


class FlexPlan(msgspec.Struct, frozen=True, kw_only=True):
    """Which DERs to order for a need, and what stays uncovered.

    Attributes:
        covered: Per slot of the need, at most what it needs.
        uncovered: The rest.
        overshoot_kwh: Energy ordered beyond the need (lots, minimum durations).
        cost_estimate: Decimal text in ``currency``, all orders delivered in full.
    """

    plan_id: str
    need: FlexNeed
    orders: tuple[PlannedOrder, ...]
    decisions: tuple[DerDecision, ...]
    covered: tuple[NeedSlot, ...]
    uncovered: tuple[NeedSlot, ...]
    overshoot_kwh: float
    cost_estimate: str
    currency: str
    weights: RankWeights
    decided_at: datetime

    @property
    def complete(self) -> bool:
        """Whether the whole need is covered."""
        return not any(slot.kw for slot in self.uncovered)


OfferKey = tuple[str, str]


def offer_key(offer: Offer) -> OfferKey:
    """What tells offers apart: ids are unique within one seller only."""
    return offer.bpp_id, offer.offer_id


def lapsed_offers(catalogue: Iterable[Offer], now: datetime) -> frozenset[OfferKey]:
    """Offers not valid at ``now`` (wall time)."""
    return frozenset(
        offer_key(offer)
        for offer in catalogue
        if (offer.valid_from is not None and now < offer.valid_from)
        or (offer.valid_until is not None and now >= offer.valid_until)
    )
