"""Rank the DERs of the catalogue and take them until the need is covered.

* A DER is scored by weighted criteria, each between 0 and 1; ties are broken by ``der_id``. The ranking
  does not depend on the order of the catalogue.
* Greedy: best score first, each DER takes the window and the constant kW that cover most of what is still
  uncovered, overshoot counted against it.
* Every DER of the catalogue gets exactly one decision with a reason in plain words.
* Powers are whole watts inside, so that coverage adds up exactly. All instants are event time; what
  depends on wall time (validity of offers) is decided by the caller and passed in.

Source: requirements R28 to R33, R37.
"""

import math
from collections.abc import Collection, Iterable, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from decimal import ROUND_HALF_EVEN, Decimal, InvalidOperation
from enum import StrEnum
from typing import Annotated, Any, Self

import msgspec

from gateway.flex.relief import Booking, distinct_bookings
from gateway.types import (
    SLOT_MIN,
    Der,
    DerType,
    FlexNeed,
    Location,
    NeedSlot,
    Offer,
    OrderLine,
    OrderTerms,
)

EARTH_RADIUS_KM = 6371.0
SLOT_S = SLOT_MIN * 60
SLOT = timedelta(minutes=SLOT_MIN)


class Objective(StrEnum):
    """What a plan puts first (R30)."""

    BALANCED = "balanced"
    COST = "cost"
    RELIABILITY = "reliability"
    CURTAILMENT = "curtailment"
    """Spare customers: batteries before comfort and production."""


class RankWeights(msgspec.Struct, frozen=True, kw_only=True):
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
    type_preference: dict[DerType, float] = {
        DerType.BATTERY: 1.0,
        DerType.EV: 0.8,
        DerType.HVAC: 0.6,
        DerType.OTHER: 0.5,
    }

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
    """

    currency: str = "GBP"
    price_ceiling_per_kwh: str | None = None
    lot_w: int = 100
    overshoot_penalty: float = 0.5
    late_start_s: float = 0.0
    default_reliability: float = 0.8
    response_scale_s: float = 300.0
    distance_scale_km: float = 10.0


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


class _Candidate(msgspec.Struct):
    """A DER that could serve the need under one offer."""

    offer: Offer
    der: Der
    price: Decimal
    spans: list[tuple[int, int, int]]
    """Windows it can serve: first slot, slot after the last, watts available throughout."""
    min_w: int
    parts: dict[str, float] = {}
    score: float = 0.0


class _Take(msgspec.Struct, frozen=True):
    """A candidate's best use of the moment."""

    first: int
    stop: int
    watts: int
    useful: int
    """Watt-slots that cover need."""


def make_plan(
    need: FlexNeed,
    catalogue: Sequence[Offer],
    *,
    plan_id: str,
    bookings: Iterable[Booking] = (),
    weights: RankWeights | None = None,
    reliability: Mapping[str, float] | None = None,
    lapsed: Collection[OfferKey] = (),
    excluded: Mapping[str, str] | None = None,
    now_event: datetime | None = None,
    policy: PlanPolicy | None = None,
) -> FlexPlan:
    """Plan the orders that cover a need. Pure and deterministic.

    Args:
        need: Relief wanted per slot, booked relief already taken off.
        catalogue: Standing offers; their order does not matter.
        plan_id: Id the plan will have.
        bookings: What DERs are already sold for, all feeders. Also those of today that are over, where
            a limit of events per day is to be kept.
        weights: Weights of the criteria; balanced without them.
        reliability: Delivered share from 0 to 1 by ``der_id`` or else by ``aggregator_id``.
        lapsed: Offers not valid now, from :func:`lapsed_offers`.
        excluded: DERs not to be taken, with the reason in plain words.
        now_event: Event time from which response times count; the need's ``decided_at`` without it.
        policy: Limits; defaults apply without them.
    """
    planner = _Planner(
        need=need,
        bookings=bookings,
        weights=weights or RankWeights(),
        reliability=reliability or {},
        now_event=now_event or need.decided_at,
        policy=policy or PlanPolicy(),
    )
    # 1. Sort what can serve the need from what cannot, with the reason.
    refused: dict[str, tuple[OfferKey, str]] = {}
    candidates: list[_Candidate] = []
    for offer in sorted(catalogue, key=offer_key):
        for der in offer.ders:
            found = planner.examine(offer, der, lapsed, excluded or {})
            if isinstance(found, _Candidate):
                candidates.append(found)
            else:
                refused.setdefault(der.der_id, (offer_key(offer), found))
    # 2. Score and rank.
    planner.score(candidates)
    candidates.sort(
        key=lambda one: (-one.score, one.der.der_id, one.price, one.offer.offer_id, one.offer.bpp_id)
    )
    # 3. Take greedily; a DER listed under several offers is judged by the first that can be used.
    decisions: dict[str, DerDecision] = {}
    taken: list[tuple[_Candidate, _Take]] = []
    ranks: dict[str, int] = {}
    for candidate in candidates:
        der_id = candidate.der.der_id
        rank = ranks.setdefault(der_id, len(ranks) + 1)
        if der_id in decisions and decisions[der_id].taken:
            continue
        take = planner.best_use(candidate)
        if take is not None:
            planner.apply(take)
            taken.append((candidate, take))
            decisions[der_id] = planner.taken(candidate, take, rank)
        elif der_id not in decisions:
            decisions[der_id] = planner.left(candidate, rank)
    # 4. One order per offer, window and price; the rest of the answer.
    listed = list(decisions.values())
    listed += [
        DerDecision(der_id=der_id, bpp_id=key[0], offer_id=key[1], taken=False, kw=0.0, reason=reason)
        for der_id, (key, reason) in sorted(refused.items())
        if der_id not in decisions
    ]
    return planner.plan(plan_id, taken, tuple(listed))


class _Planner:
    """One planning run: the need in watts and what is left of it."""

    def __init__(
        self,
        *,
        need: FlexNeed,
        bookings: Iterable[Booking],
        weights: RankWeights,
        reliability: Mapping[str, float],
        now_event: datetime,
        policy: PlanPolicy,
    ) -> None:
        if not need.slots or any(
            later.start - earlier.start != SLOT
            for earlier, later in zip(need.slots, need.slots[1:], strict=False)
        ):
            raise ValueError("the slots of a need are consecutive quarter hours")
        self.need = need
        self.weights = weights
        self.reliability = reliability
        self.now = now_event
        self.policy = policy
        self.begin = need.slots[0].start
        self.wanted = [max(0, round(slot.kw * 1000)) for slot in need.slots]
        self.residual = list(self.wanted)
        needed = [number for number, watts in enumerate(self.wanted) if watts]
        self.first_needed = needed[0] if needed else 0
        self.stop_needed = needed[-1] + 1 if needed else 0
        self.peak = max(self.wanted)
        self.over = 0
        self.ceiling = (
            Decimal(policy.price_ceiling_per_kwh) if policy.price_ceiling_per_kwh is not None else None
        )
        self.booked: dict[str, list[Booking]] = {}
        for booking in distinct_bookings(bookings):
            self.booked.setdefault(booking.der_id, []).append(booking)

    def at(self, slot: int) -> datetime:
        """Start of a slot counted from the need's first; past the horizon too."""
        return self.begin + slot * SLOT

    # -- can it serve? ------------------------------------------------------------------------

    def examine(
        self, offer: Offer, der: Der, lapsed: Collection[OfferKey], excluded: Mapping[str, str]
    ) -> "_Candidate | str":
        """A candidate, or the reason why the DER cannot serve the need."""
        if der.der_id in excluded:
            return excluded[der.der_id] or "left out by the operator"
        if der.feeder_id != self.need.feeder_id:
            return f"serves feeder {der.feeder_id}, the need is at {self.need.feeder_id}"
        if der.direction is not self.need.direction:
            return f"offers {der.direction}, the need is {self.need.direction}"
        if offer_key(offer) in lapsed:
            return f"offer {offer.offer_id} is not valid now"
        price = _price(der)
        if price is None:
            return "the price is not a decimal number"
        if der.currency != self.policy.currency:
            return f"priced in {der.currency}, the plan is in {self.policy.currency}"
        if self.ceiling is not None and price > self.ceiling:
            return f"price {price:f} {der.currency}/kWh is above the ceiling of {self.ceiling:f}"
        return self._fit(offer, der, price)

    def _fit(self, offer: Offer, der: Der, price: Decimal) -> "_Candidate | str":
        limits = _Limits.of(der)
        if isinstance(limits, str):
            return limits
        lot_w = self.policy.lot_w
        capacity_w = int(der.capacity_kw * 1000 + 1e-6) // lot_w * lot_w
        min_w = max(lot_w, -(-math.ceil(limits.min_kw * 1000 - 1e-6) // lot_w) * lot_w)
        if min_w > capacity_w:
            return f"smallest lot {min_w / 1000:g} kW exceeds its capacity of {der.capacity_kw:g} kW"
        shortest, longest = -(-der.min_duration_min // SLOT_MIN), der.max_duration_min // SLOT_MIN
        shortest = max(shortest, 1)
        if longest < shortest:
            return (
                f"no whole quarter hours between its {der.min_duration_min} min minimum "
                f"and {der.max_duration_min} min maximum"
            )
        booked = self.booked.get(der.der_id, [])
        if limits.max_events_per_day is not None:
            day = self.begin.astimezone(UTC).date()
            events = len({one.obp_id for one in booked if one.start.astimezone(UTC).date() == day})
            if events >= limits.max_events_per_day:
                return f"already used {events} times today, its limit is {limits.max_events_per_day}"
        ready_s = (self.now - self.begin).total_seconds() + limits.notice_s - self.policy.late_start_s
        earliest = max(0, math.ceil(ready_s / SLOT_S))
        if earliest >= self.stop_needed:
            return (
                f"needs {limits.notice_s:g} s of notice, the last needed slot starts in "
                f"{(self.at(self.stop_needed - 1) - self.now).total_seconds():g} s"
            )
        spans = self._spans(der, limits, booked, capacity_w, min_w, (earliest, shortest, longest))
        if not spans:
            return self._why_no_span(der, limits, booked, capacity_w, min_w)
        return _Candidate(offer=offer, der=der, price=price, spans=spans, min_w=min_w)

    def _spans(
        self,
        der: Der,
        limits: "_Limits",
        booked: Sequence[Booking],
        capacity_w: int,
        min_w: int,
        bounds: tuple[int, int, int],
    ) -> list[tuple[int, int, int]]:
        """Windows the DER can serve, with the watts it has throughout each.

        A window ends with the need, or later only where the minimum duration demands it.
        """
        earliest, shortest, longest = bounds
        lot_w = self.policy.lot_w
        slots = self.stop_needed + shortest
        if booked:
            free = [
                capacity_w
                - _booked_w(booked, self.at(number), self.at(number + 1), der.direction, capacity_w)
                for number in range(slots)
            ]
        else:
            free = [capacity_w] * slots
        for begin, end in limits.excluded:
            for number in range(slots):
                if self.at(number) < end and begin < self.at(number + 1):
                    free[number] = 0
        spans: list[tuple[int, int, int]] = []
        for first in range(earliest, self.stop_needed):
            last_stop = max(first + shortest, min(first + longest, self.stop_needed))
            stop_from = max(first + shortest, self.first_needed + 1)
            for stop in range(stop_from, last_stop + 1):
                watts = min(free[first:stop])
                if limits.ramp_kw_per_min is not None:
                    ramp_min = ((self.at(first) - self.now).total_seconds() - limits.notice_s) / 60
                    ramp_min += self.policy.late_start_s / 60
                    watts = min(watts, int(limits.ramp_kw_per_min * ramp_min * 1000))
                watts = watts // lot_w * lot_w
                if watts >= min_w:
                    spans.append((first, stop, watts))
        return spans

    def _why_no_span(
        self, der: Der, limits: "_Limits", booked: Sequence[Booking], capacity_w: int, min_w: int
    ) -> str:
        taken_w = max(
            _booked_w(booked, self.at(number), self.at(number + 1), der.direction, capacity_w)
            for number in range(self.stop_needed)
        )
        if capacity_w - taken_w < min_w:
            return f"already booked: {taken_w / 1000:g} of {der.capacity_kw:g} kW in the needed slots"
        if limits.excluded:
            return "the needed slots fall into its excluded periods"
        return (
            f"no window of {der.min_duration_min} to {der.max_duration_min} min fits its response of "
            f"{der.response_time_s:g} s, its ramp and its bookings"
        )

    # -- how good is it? ----------------------------------------------------------------------

    def score(self, candidates: Sequence[_Candidate]) -> None:
        """Fill in parts and score of every candidate."""
        if not candidates:
            return
        cheapest = min(one.price for one in candidates)
        spread = max(one.price for one in candidates) - cheapest
        weights = self.weights.by_criterion()
        total = sum(weights.values())
        needed_slots = self.stop_needed - self.first_needed
        for one in candidates:
            der = one.der
            watts = max(span[2] for span in one.spans)
            longest = der.max_duration_min // SLOT_MIN
            record = self.reliability.get(der.der_id, self.reliability.get(der.aggregator_id))
            one.parts = {
                "capacity": min(1.0, watts / self.peak) if self.peak else 0.0,
                "response": 1 / (1 + der.response_time_s / self.policy.response_scale_s),
                "duration": min(1.0, longest / needed_slots) if needed_slots else 0.0,
                "price": float(1 - (one.price - cheapest) / spread) if spread else 1.0,
                "location": self._nearness(der.location),
                "reliability": min(
                    1.0, max(0.0, self.policy.default_reliability if record is None else record)
                ),
                "type": self.weights.type_preference.get(der.type, 0.5),
            }
            one.parts = {name: round(part, 4) for name, part in one.parts.items()}
            one.score = round(sum(weights[name] * part for name, part in one.parts.items()) / total, 6)

    def _nearness(self, location: Location | None) -> float:
        """1 at the feeder, falling with distance; 0.5 where a position is not known."""
        here = self.need.location
        if here is None or location is None:
            return 0.5
        return 1 / (1 + distance_km(here, location) / self.policy.distance_scale_km)

    # -- take ---------------------------------------------------------------------------------

    def best_use(self, candidate: _Candidate) -> _Take | None:
        """The window and power that cover most of what is left; None where none is worth it."""
        if not any(self.residual):
            return None
        best: _Take | None = None
        best_key: tuple[float, int, int, int] | None = None
        horizon = len(self.residual)
        lot_w, penalty = self.policy.lot_w, self.policy.overshoot_penalty
        for first, stop, available in candidate.spans:
            left = self.residual[first : min(stop, horizon)]
            idle = stop - first - len(left)
            powers = {
                min(available, max(candidate.min_w, -(-watts // lot_w) * lot_w)) for watts in left if watts
            }
            for watts in powers:
                useful = sum([min(want, watts) for want in left])
                over = watts * (len(left) + idle) - useful
                key = (useful - penalty * over, useful, first - stop, -first)
                if key[0] > 0 and (best_key is None or key > best_key):
                    best_key = key
                    best = _Take(first, stop, watts, useful)
        return best

    def apply(self, take: _Take) -> None:
        """Take the relief off what is left."""
        for number in range(take.first, min(take.stop, len(self.residual))):
            self.residual[number] = max(0, self.residual[number] - take.watts)
        self.over += take.watts * (take.stop - take.first) - take.useful

    def taken(self, candidate: _Candidate, take: _Take, rank: int) -> DerDecision:
        """The decision on a DER that is ordered."""
        der, kw = candidate.der, take.watts / 1000
        start, end = self.at(take.first), self.at(take.stop)
        reason = (
            f"taken: {kw:g} of {der.capacity_kw:g} kW from {start:%H:%M} to {end:%H:%M} UTC at "
            f"{candidate.price:f} {der.currency}/kWh; rank {rank}, score {candidate.score:.3f}"
        )
        return DerDecision(
            der_id=der.der_id,
            offer_id=candidate.offer.offer_id,
            bpp_id=candidate.offer.bpp_id,
            taken=True,
            kw=kw,
            reason=reason,
            rank=rank,
            score=candidate.score,
            parts=candidate.parts,
            window_start=start,
            window_end=end,
        )

    def left(self, candidate: _Candidate, rank: int) -> DerDecision:
        """The decision on a DER that could serve but is not ordered."""
        if not any(self.wanted):
            reason = "no slot needs relief"
        elif not any(self.residual):
            reason = (
                f"not needed: better-ranked DERs cover the need; rank {rank}, score {candidate.score:.3f}"
            )
        else:
            remaining = max(self.residual) / 1000
            reason = (
                f"not worth it: of the {remaining:g} kW still uncovered its windows would deliver more "
                f"beside the need than for it; rank {rank}, score {candidate.score:.3f}"
            )
        return DerDecision(
            der_id=candidate.der.der_id,
            offer_id=candidate.offer.offer_id,
            bpp_id=candidate.offer.bpp_id,
            taken=False,
            kw=0.0,
            reason=reason,
            rank=rank,
            score=candidate.score,
            parts=candidate.parts,
        )

    # -- the answer ---------------------------------------------------------------------------

    def plan(
        self, plan_id: str, taken: Sequence[tuple[_Candidate, _Take]], decisions: tuple[DerDecision, ...]
    ) -> FlexPlan:
        """Gather what was taken into orders."""
        groups: dict[tuple[OfferKey, int, int, Decimal], list[tuple[_Candidate, _Take]]] = {}
        for candidate, take in taken:
            key = (offer_key(candidate.offer), take.first, take.stop, candidate.price)
            groups.setdefault(key, []).append((candidate, take))
        orders: list[PlannedOrder] = []
        cost = Decimal(0)
        for number, ((_, first, stop, price), members) in enumerate(groups.items(), start=1):
            lines = tuple(PlannedLine(der=one.der, kw=take.watts / 1000) for one, take in members)
            offer = msgspec.structs.replace(members[0][0].offer, ders=tuple(line.der for line in lines))
            watts = sum(take.watts for _, take in members)
            cost += price * watts * (stop - first) * SLOT_MIN / 60_000
            orders.append(
                PlannedOrder(
                    offer=offer,
                    window_start=self.at(first),
                    window_end=self.at(stop),
                    lines=lines,
                    price_per_kwh=members[0][0].der.price_per_kwh,
                    currency=self.policy.currency,
                    priority=number,
                )
            )
        rest = list(zip(self.need.slots, self.wanted, self.residual, strict=True))
        return FlexPlan(
            plan_id=plan_id,
            need=self.need,
            orders=tuple(orders),
            decisions=decisions,
            covered=tuple(NeedSlot(start=slot.start, kw=(want - left) / 1000) for slot, want, left in rest),
            uncovered=tuple(NeedSlot(start=slot.start, kw=left / 1000) for slot, _, left in rest),
            overshoot_kwh=self.over * SLOT_MIN / 60_000,
            cost_estimate=str(cost.quantize(Decimal("0.01"), rounding=ROUND_HALF_EVEN)),
            currency=self.policy.currency,
            weights=self.weights,
            decided_at=self.now,
        )


class _Limits(msgspec.Struct, frozen=True):
    """What a DER's own constraints allow, numbers checked."""

    notice_s: float
    min_kw: float
    ramp_kw_per_min: float | None
    max_events_per_day: int | None
    excluded: tuple[tuple[datetime, datetime], ...]

    @classmethod
    def of(cls, der: Der) -> "_Limits | str":
        """Read a DER's limits; a text says what cannot be read (such a DER is not taken)."""
        if not (math.isfinite(der.capacity_kw) and der.capacity_kw > 0):
            return f"its capacity of {der.capacity_kw:g} kW is not a positive number"
        if not (math.isfinite(der.response_time_s) and der.response_time_s >= 0):
            return "its response time is not a number of seconds"
        try:
            own = msgspec.convert(_snake(der.constraints), _Constraints)
        except msgspec.ValidationError as exc:
            return f"its constraints cannot be read: {exc}"
        ramp = der.ramp_kw_per_min if der.ramp_kw_per_min is not None else own.ramp_kw_per_min
        if ramp is not None and not (math.isfinite(ramp) and ramp > 0):
            return f"its ramp of {ramp:g} kW/min is not a positive number"
        return cls(
            notice_s=max(der.response_time_s, own.min_notice_s or 0.0),
            min_kw=max(der.min_kw, own.min_kw or 0.0, 0.0),
            ramp_kw_per_min=ramp,
            max_events_per_day=own.max_events_per_day,
            excluded=tuple((period.start, period.end) for period in own.excluded_periods),
        )


class _Period(msgspec.Struct, frozen=True):
    start: Annotated[datetime, msgspec.Meta(tz=True)]
    end: Annotated[datetime, msgspec.Meta(tz=True)]


class _Constraints(msgspec.Struct, frozen=True):
    """The constraints a planner must keep; others are information."""

    min_notice_s: float | None = None
    min_kw: float | None = None
    ramp_kw_per_min: float | None = None
    max_events_per_day: int | None = None
    excluded_periods: tuple[_Period, ...] = ()


def _snake(constraints: Mapping[str, Any]) -> dict[str, Any]:
    """Constraint names without regard to spelling: minNoticeS and min_notice_s are one."""
    return {
        "".join(f"_{letter.lower()}" if letter.isupper() else letter for letter in name): value
        for name, value in constraints.items()
    }


def _price(der: Der) -> Decimal | None:
    try:
        price = Decimal(der.price_per_kwh)
    except InvalidOperation:
        return None
    return price if price.is_finite() else None


def _booked_w(
    booked: Sequence[Booking], start: datetime, end: datetime, direction: object, capacity_w: int
) -> int:
    """Watts of a DER that are sold in [start, end); all of it where it is sold the other way."""
    watts = 0
    for one in booked:
        if one.start < end and start < one.end and one.kw > 0:
            if one.direction is not direction:
                return capacity_w
            watts += math.ceil(one.kw * 1000 - 1e-6)
    return watts


def distance_km(one: Location, other: Location) -> float:
    """Great-circle distance (haversine, sphere of 6371 km)."""
    phi, psi = math.radians(one.latitude), math.radians(other.latitude)
    half = math.radians(other.latitude - one.latitude) / 2
    turn = math.radians(other.longitude - one.longitude) / 2
    chord = math.sin(half) ** 2 + math.cos(phi) * math.cos(psi) * math.sin(turn) ** 2
    return 2 * EARTH_RADIUS_KM * math.asin(math.sqrt(min(1.0, chord)))
