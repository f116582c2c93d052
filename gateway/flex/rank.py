"""Rank the DERs of the catalogue and take them until the need is covered.

* A DER is scored by weighted criteria, each between 0 and 1; ties are broken by ``der_id``. The ranking
  does not depend on the order of the catalogue.
* Greedy: best score first, each DER takes the window and the constant kW that cover most of what is still
  uncovered, overshoot counted against it. A DER listed under several offers is sold once.
* Every DER of the catalogue gets exactly one decision with a reason in plain words.
* Powers are whole watts inside, so that coverage adds up exactly. All instants are event time; what
  depends on wall time (validity of offers) is decided by the caller and passed in.

Source: requirements R28 to R33, R37.
"""

import math
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from datetime import datetime
from decimal import ROUND_HALF_EVEN, Decimal

import msgspec

from gateway.flex.fit import Fit, Frame, Span, fit, round_up
from gateway.flex.plan import (
    DerDecision,
    FlexPlan,
    OfferKey,
    PlannedLine,
    PlannedOrder,
    PlanPolicy,
    RankWeights,
    offer_key,
)
from gateway.flex.relief import Booking, distinct_bookings
from gateway.types import SLOT_MIN, Der, FlexNeed, Location, NeedSlot, Offer

EARTH_RADIUS_KM = 6371.0


class _Ranked(msgspec.Struct, frozen=True):
    """A DER that can serve the need, scored."""

    fit: Fit
    parts: dict[str, float]
    score: float


class _Take(msgspec.Struct, frozen=True):
    """A DER's best use of the moment; ``useful`` are the watt-slots that cover need."""

    span: Span
    watts: int
    useful: int


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
        bookings: What DERs are already sold for, all feeders. Also those of the day that are over, where
            a limit of events per day is to be kept.
        weights: Weights of the criteria; balanced without them.
        reliability: Delivered share from 0 to 1 by ``der_id`` or else by ``aggregator_id``.
        lapsed: Offers not valid now, from :func:`lapsed_offers`.
        excluded: DERs not to be taken, with the reason in plain words.
        now_event: Event time from which response times count; the need's ``decided_at`` without it.
        policy: Limits; defaults apply without them.

    Raises:
        ValueError: The slots of the need are not consecutive quarter hours of finite kW.
    """
    limits = policy or PlanPolicy()
    frame = Frame(need, now_event or need.decided_at, limits)
    booked: dict[str, list[Booking]] = {}
    for booking in distinct_bookings(bookings):
        booked.setdefault(booking.der_id, []).append(booking)

    # 1. Part what can serve the need from what cannot, with the reason.
    refused: dict[str, DerDecision] = {}
    fits: list[Fit] = []
    for offer, der in _listed(catalogue):
        found = fit(frame, offer, der, booked=booked.get(der.der_id, ()), lapsed=lapsed, excluded=excluded)
        if isinstance(found, Fit):
            fits.append(found)
        elif der.der_id not in refused:
            refused[der.der_id] = _refused(offer, der.der_id, found)
    # 2. Score and rank.
    ranked = _rank(frame, fits, weights or RankWeights(), reliability or {})
    # 3. Take greedily.
    residual = list(frame.watts)
    taken, decisions = _take_greedily(frame, ranked, residual)
    # 4. One order per offer, window and price.
    orders, cost = _orders(frame, taken)
    slots = list(zip(need.slots, frame.watts, residual, strict=True))
    ordered = sum(take.watts * (take.span.stop - take.span.first) for _, take in taken)
    return FlexPlan(
        plan_id=plan_id,
        need=need,
        orders=orders,
        decisions=(
            *decisions.values(),
            *(refused[der_id] for der_id in sorted(refused) if der_id not in decisions),
        ),
        covered=tuple(NeedSlot(start=slot.start, kw=(want - left) / 1000) for slot, want, left in slots),
        uncovered=tuple(NeedSlot(start=slot.start, kw=left / 1000) for slot, _, left in slots),
        overshoot_kwh=(ordered - sum(frame.watts) + sum(residual)) * SLOT_MIN / 60_000,
        cost_estimate=str(cost.quantize(Decimal("0.01"), rounding=ROUND_HALF_EVEN)),
        currency=limits.currency,
        weights=weights or RankWeights(),
        decided_at=frame.now,
    )


def _listed(catalogue: Iterable[Offer]) -> Iterator[tuple[Offer, Der]]:
    """Every DER of every offer, in an order of its own."""
    for offer in sorted(catalogue, key=offer_key):
        for der in offer.ders:
            yield offer, der


# -- how good is it? ------------------------------------------------------------------------------


def _rank(
    frame: Frame, fits: Sequence[Fit], weights: RankWeights, reliability: Mapping[str, float]
) -> list[_Ranked]:
    """Score every fit and sort, best first.

    Only the price is judged relative to the other candidates; the other criteria have scales of their
    own, so that a DER's parts do not change with its company.
    """
    if not fits:
        return []
    policy = frame.policy
    cheapest, dearest = min(one.price for one in fits), max(one.price for one in fits)
    spread = float(dearest - cheapest)
    needed = frame.stop - frame.first
    by_criterion = weights.by_criterion()
    total = sum(by_criterion.values())
    ranked: list[_Ranked] = []
    for one in fits:
        der = one.der
        record = reliability.get(der.der_id, reliability.get(der.aggregator_id))
        trust = policy.default_reliability if record is None or math.isnan(record) else record
        parts = {
            "capacity": min(1.0, max(span.watts for span in one.spans) / frame.peak),
            "response": 1 / (1 + der.response_time_s / policy.response_scale_s),
            "duration": min(1.0, der.max_duration_min / (needed * SLOT_MIN)),
            "price": 1 - float(one.price - cheapest) / spread if spread else 1.0,
            "location": _nearness(frame.need.location, der.location, policy.distance_scale_km),
            "reliability": min(1.0, max(0.0, trust)),
            "type": weights.type_preference.get(der.type, 0.5),
        }
        parts = {name: round(part, 4) for name, part in parts.items()}
        score = sum(by_criterion[name] * part for name, part in parts.items()) / total
        ranked.append(_Ranked(one, parts, round(score, 6)))
    ranked.sort(key=_order)
    return ranked


def _order(one: _Ranked) -> tuple[float, str, Decimal, OfferKey, float]:
    """Best score first; ties by DER, then the cheaper offer."""
    return -one.score, one.fit.der.der_id, one.fit.price, offer_key(one.fit.offer), -one.fit.der.capacity_kw


def _nearness(feeder: Location | None, der: Location | None, scale_km: float) -> float:
    """1 at the feeder, halved at the scale; 0.5 where a position is not known."""
    if feeder is None or der is None:
        return 0.5
    away_km = distance_km(feeder, der)
    return 1 / (1 + away_km / scale_km) if math.isfinite(away_km) else 0.5


def distance_km(one: Location, other: Location) -> float:
    """Great-circle distance (haversine on a sphere of 6371 km); NaN where a position is not finite."""
    angles = (one.latitude, one.longitude, other.latitude, other.longitude)
    if not all(map(math.isfinite, angles)):
        return math.nan
    phi, lam, psi, mu = map(math.radians, angles)
    chord = math.sin((psi - phi) / 2) ** 2 + math.cos(phi) * math.cos(psi) * math.sin((mu - lam) / 2) ** 2
    return 2 * EARTH_RADIUS_KM * math.asin(math.sqrt(min(1.0, max(0.0, chord))))


# -- take -----------------------------------------------------------------------------------------


def _take_greedily(
    frame: Frame, ranked: Sequence[_Ranked], residual: list[int]
) -> tuple[list[tuple[_Ranked, _Take]], dict[str, DerDecision]]:
    """Go down the ranking and use each DER at most once; lowers ``residual``."""
    taken: list[tuple[_Ranked, _Take]] = []
    decisions: dict[str, DerDecision] = {}
    for one in ranked:
        der_id = one.fit.der.der_id
        held = decisions.get(der_id)
        if held is not None and held.taken:
            continue
        rank = held.rank if held is not None and held.rank is not None else len(decisions) + 1
        take = _best_use(one.fit, residual, frame.policy)
        if take is not None:
            for slot in range(take.span.first, min(take.span.stop, len(residual))):
                residual[slot] = max(0, residual[slot] - take.watts)
            taken.append((one, take))
            decisions[der_id] = _taken(frame, one, take, rank)
        elif held is None:
            decisions[der_id] = _left(one, residual, rank)
    return taken, decisions


def _best_use(one: Fit, residual: Sequence[int], policy: PlanPolicy) -> _Take | None:
    """The window and power that cover most of what is left; None where none is worth it.

    Worth is what covers need less the penalty on what does not; ties go to more cover, then to the
    shorter window, to one that starts where relief is needed (an overload tends to outlast the
    horizon), and to the earlier one.
    """
    if not any(residual):
        return None
    best: _Take | None = None
    best_worth: tuple[float, int, int, bool, int] | None = None
    for span in one.spans:
        left = residual[span.first : span.stop]
        length = span.stop - span.first
        for level in sorted({watts for watts in left if watts}):
            watts = min(span.watts, max(one.min_w, round_up(level, policy.lot_w)))
            useful = sum(min(watts, want) for want in left)
            waste = watts * length - useful
            worth = (useful - policy.overshoot_penalty * waste, useful, -length, left[0] > 0, -span.first)
            if worth[0] > 0 and (best_worth is None or worth > best_worth):
                best, best_worth = _Take(span, watts, useful), worth
    return best


def _taken(frame: Frame, one: _Ranked, take: _Take, rank: int) -> DerDecision:
    der, kw = one.fit.der, take.watts / 1000
    start, end = frame.at(take.span.first), frame.at(take.span.stop)
    reason = (
        f"taken: {kw:g} of {der.capacity_kw:g} kW from {start:%H:%M} to {end:%H:%M} UTC at "
        f"{one.fit.price:f} {der.currency}/kWh; rank {rank}, score {one.score:.3f}"
    )
    return DerDecision(
        der_id=der.der_id,
        offer_id=one.fit.offer.offer_id,
        bpp_id=one.fit.offer.bpp_id,
        taken=True,
        kw=kw,
        reason=reason,
        rank=rank,
        score=one.score,
        parts=one.parts,
        window_start=start,
        window_end=end,
    )


def _left(one: _Ranked, residual: Sequence[int], rank: int) -> DerDecision:
    """The decision on a DER that could serve but is not ordered."""
    if not any(residual):
        why = "not needed: better-ranked DERs cover the need"
    elif not (reachable := max(max(residual[span.first : span.stop]) for span in one.fit.spans)):
        why = f"not needed in its windows; the {max(residual) / 1000:g} kW still uncovered lie outside them"
    else:
        why = (
            f"not worth it: to cover up to {reachable / 1000:g} kW still open it must run for "
            f"{one.fit.der.min_duration_min} min with {one.fit.min_w / 1000:g} kW, mostly beside the need"
        )
    return DerDecision(
        der_id=one.fit.der.der_id,
        offer_id=one.fit.offer.offer_id,
        bpp_id=one.fit.offer.bpp_id,
        taken=False,
        kw=0.0,
        reason=f"{why}; rank {rank}, score {one.score:.3f}",
        rank=rank,
        score=one.score,
        parts=one.parts,
    )


def _refused(offer: Offer, der_id: str, reason: str) -> DerDecision:
    return DerDecision(
        der_id=der_id, offer_id=offer.offer_id, bpp_id=offer.bpp_id, taken=False, kw=0.0, reason=reason
    )


def _orders(frame: Frame, taken: Sequence[tuple[_Ranked, _Take]]) -> tuple[tuple[PlannedOrder, ...], Decimal]:
    """Gather what was taken into orders, best-ranked first, and price them."""
    groups: dict[tuple[OfferKey, int, int, Decimal], list[tuple[_Ranked, _Take]]] = {}
    for one, take in taken:
        key = (offer_key(one.fit.offer), take.span.first, take.span.stop, one.fit.price)
        groups.setdefault(key, []).append((one, take))
    orders: list[PlannedOrder] = []
    cost = Decimal(0)
    for number, ((_, first, stop, price), members) in enumerate(groups.items(), start=1):
        lines = tuple(PlannedLine(der=one.fit.der, kw=take.watts / 1000) for one, take in members)
        best = members[0][0].fit
        cost += price * sum(take.watts for _, take in members) * (stop - first) * SLOT_MIN / 60_000
        orders.append(
            PlannedOrder(
                offer=msgspec.structs.replace(best.offer, ders=tuple(line.der for line in lines)),
                window_start=frame.at(first),
                window_end=frame.at(stop),
                lines=lines,
                price_per_kwh=best.der.price_per_kwh,
                currency=best.der.currency,
                priority=number,
            )
        )
    return tuple(orders), cost
