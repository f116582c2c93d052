"""From a forecast to the relief wanted, and whether to buy it now.

* Loading is |load| / rating. An import overload asks for REDUCE, an export overload for INCREASE.
* The planning load lies between the median and the outer quantile on the overload's side; the need is
  what of it exceeds the target loading, less the relief already booked in that slot.
* The forecast is of the gross load (without our orders), so booked relief is taken off here, once.
* A feeder sampled every 30 min has two horizons of 30 min; each fills two slots.
"""

import math
from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime, timedelta
from typing import Annotated

import msgspec
from msgspec import Meta

from gateway.errors import ModelError
from gateway.flex.relief import Booking, relief_per_slot
from gateway.types import SLOT_MIN, Direction, FlexNeed, GridState, Location, NeedSlot


class ForecastRow(msgspec.Struct, frozen=True, kw_only=True):
    """Forecast mean gross load over [start, start + minutes): kW, import positive."""

    start: datetime
    q10: float
    q50: float
    q90: float
    minutes: int = SLOT_MIN


class NeedPolicy(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """How much to ask for.

    Attributes:
        target_loading: Loading that relief is bought down to.
        quantile_weight: 0 plans for the median, 1 for the outer quantile (q90 of import, q10 of export).
        min_lot_kw: A slot that needs less is left alone.
        growth_share: Growth of the uncovered need, as share of the rating, that buys again.
        urgent_slots: Growth is judged over so many next slots; later ones can wait for a surer
            forecast, and are bought with the urgent ones once those grow.
    """

    target_loading: Annotated[float, Meta(gt=0, le=1)] = 0.90
    quantile_weight: Annotated[float, Meta(ge=0, le=1)] = 0.5
    min_lot_kw: Annotated[float, Meta(ge=0)] = 1.0
    growth_share: Annotated[float, Meta(ge=0)] = 0.01
    urgent_slots: Annotated[int, Meta(ge=1)] = 2


DEFAULT_POLICY = NeedPolicy()


def required_relief(
    forecast: Sequence[ForecastRow],
    rating_kw: float,
    *,
    need_id: str,
    feeder_id: str,
    decided_at: datetime,
    bookings: Iterable[Booking] = (),
    location: Location | None = None,
    policy: NeedPolicy = DEFAULT_POLICY,
) -> FlexNeed | None:
    """Compute the uncovered relief per 15-min slot (R27).

    Args:
        forecast: Consecutive rows of the GROSS load, each 15 or 30 min long.
        rating_kw: Rating of the feeder.
        need_id: Id the need will have.
        feeder_id: The feeder.
        decided_at: Event time of the reading behind the forecast.
        bookings: Orders already placed; those of other feeders are left out.
        location: Where the feeder is.
        policy: How much to ask for.

    Returns:
        The need, in the one direction that lacks more energy where both occur; None when no slot needs
        the smallest lot.

    Raises:
        ModelError: A quantile is not finite or they cross; nothing is bought on such a forecast.
        ValueError: No rows, a gap between rows, or a rating that is not positive.
    """
    if not (math.isfinite(rating_kw) and rating_kw > 0):
        raise ValueError(f"rating_kw {rating_kw} is not positive")
    slots = _slots(forecast)
    first_start = slots[0].start
    booked_kw = relief_per_slot(
        bookings, feeder_id=feeder_id, first_start=first_start, slots=len(slots), step_min=SLOT_MIN
    )
    target_kw = policy.target_loading * rating_kw
    lacking: dict[Direction, list[float]] = {Direction.REDUCE: [], Direction.INCREASE: []}
    for row, relief_kw in zip(slots, booked_kw.tolist(), strict=True):
        high_kw = row.q50 + policy.quantile_weight * (row.q90 - row.q50) - relief_kw
        low_kw = row.q50 - policy.quantile_weight * (row.q50 - row.q10) - relief_kw
        lacking[Direction.REDUCE].append(_lot(high_kw - target_kw, policy.min_lot_kw))
        lacking[Direction.INCREASE].append(_lot(-low_kw - target_kw, policy.min_lot_kw))
    direction = max(Direction, key=lambda side: sum(lacking[side]))  # a tie goes to REDUCE, the first
    if not any(lacking[direction]):
        return None
    return FlexNeed(
        need_id=need_id,
        feeder_id=feeder_id,
        direction=direction,
        slots=tuple(
            NeedSlot(start=row.start, kw=kw) for row, kw in zip(slots, lacking[direction], strict=True)
        ),
        decided_at=decided_at,
        location=location,
    )


def _slots(forecast: Sequence[ForecastRow]) -> list[ForecastRow]:
    """Split rows into 15-min slots; each keeps its row's mean."""
    if not forecast:
        raise ValueError("a forecast without rows has no need")
    slots: list[ForecastRow] = []
    due = forecast[0].start
    for row in forecast:
        if row.start != due or row.minutes <= 0 or row.minutes % SLOT_MIN:
            raise ValueError(f"forecast rows are not consecutive slots at {row.start.isoformat()}")
        if not all(map(math.isfinite, (row.q10, row.q50, row.q90))):
            raise ModelError(f"the forecast for {row.start.isoformat()} is not finite")
        if not row.q10 <= row.q50 <= row.q90:
            raise ModelError(f"the quantiles for {row.start.isoformat()} cross")
        for _ in range(row.minutes // SLOT_MIN):
            slots.append(msgspec.structs.replace(row, start=due, minutes=SLOT_MIN))
            due += timedelta(minutes=SLOT_MIN)
    return slots


def _lot(kw: float, min_lot_kw: float) -> float:
    """Round a need up to 0.1 kW; nothing below the smallest lot."""
    if kw <= 0 or kw < min_lot_kw:
        return 0.0
    return math.ceil(round(kw * 10, 6)) / 10


class BuyDecision(msgspec.Struct, frozen=True, kw_only=True):
    """Whether to make a plan now, and why."""

    buy: bool
    reason: str


def should_buy(
    need: FlexNeed | None,
    *,
    previous_state: GridState | None,
    state: GridState | None,
    uncovered_before: Mapping[datetime, float] | None,
    rating_kw: float,
    policy: NeedPolicy = DEFAULT_POLICY,
) -> BuyDecision:
    """Decide whether a need is bought for now.

    Bought on an upward transition, or when the uncovered need grew by more than the threshold since
    the last plan in at least one urgent slot; a slot the last plan did not reach counts from zero. A need
    that stayed uncovered for want of offers is not asked for again and again.

    Args:
        need: The uncovered need (bookings already taken off); None when there is none.
        previous_state: Last KNOWN state, held through unknown; None when none was ever known.
        state: Present state; None is unknown.
        uncovered_before: kW left uncovered by the last plan, by slot start; None when there was none
            since the feeder was last Normal.
        rating_kw: Rating of the feeder.
        policy: Threshold.
    """
    if need is None:
        return BuyDecision(buy=False, reason="no slot needs relief")
    if state is None:
        return BuyDecision(buy=False, reason="the state is unknown")
    if state is GridState.NORMAL:
        return BuyDecision(buy=False, reason="the state is Normal")
    before = previous_state if previous_state is not None else GridState.NORMAL
    if state > before:
        return BuyDecision(buy=True, reason=f"the state rose from {before.name} to {state.name}")
    known = uncovered_before or {}
    urgent = need.slots[: policy.urgent_slots]
    growth_kw = max(slot.kw - known.get(slot.start, 0.0) for slot in urgent)
    threshold_kw = max(policy.growth_share * rating_kw, policy.min_lot_kw)
    if growth_kw > threshold_kw:
        return BuyDecision(
            buy=True,
            reason=f"the uncovered need grew by {growth_kw:.1f} kW (threshold {threshold_kw:.1f} kW)",
        )
    return BuyDecision(
        buy=False,
        reason=f"the uncovered need grew by no more than {threshold_kw:.1f} kW since the last plan",
    )
