"""Whether a DER can serve a need, in which windows and with how much power.

* The answer is a :class:`Fit` or the reason against it, in plain words with numbers.
* Windows are whole quarter hours of the need. A DER must be ready, ramp included, when its window
  starts; it runs between its minimum and maximum duration; the window ends with the need, or later only
  where the minimum duration demands it.
* What is sold already is not offered again: per slot, all bookings that touch it count in full, and a
  DER sold in one direction has nothing left for the other.
* Sellers' numbers are not trusted: what is not a sensible number is a reason, never an error.

Source: requirements R28, R31.
"""

import math
from collections.abc import Collection, Iterator, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from decimal import Decimal, InvalidOperation
from typing import Annotated, Any, NamedTuple

import msgspec

from gateway.flex.plan import OfferKey, PlanPolicy, offer_key
from gateway.flex.relief import Booking
from gateway.types import SLOT_MIN, Der, Direction, FlexNeed, Offer

SLOT_S = SLOT_MIN * 60
SLOT = timedelta(minutes=SLOT_MIN)
MAX_RUN_MIN = 24 * 60
"""A DER that cannot run for less than this is not a matter of quarter hours."""
MAX_CAPACITY_KW = 1e7
_PRICE_CHARS = 32
_PRICE_DIGITS = 6


class Frame:
    """A need as whole watts per slot, seen from an instant of event time.

    Raises:
        ValueError: The need has no slots, they are not consecutive quarter hours, or a kW is not finite.
    """

    def __init__(self, need: FlexNeed, now: datetime, policy: PlanPolicy) -> None:
        if not need.slots or any(
            later.start - earlier.start != SLOT
            for earlier, later in zip(need.slots, need.slots[1:], strict=False)
        ):
            raise ValueError("the slots of a need are consecutive quarter hours")
        if not all(math.isfinite(slot.kw) for slot in need.slots):
            raise ValueError("a need is a finite number of kW")
        self.need = need
        self.now = now
        self.policy = policy
        self.begin = need.slots[0].start
        self.watts = [max(0, round(slot.kw * 1000)) for slot in need.slots]
        self.peak = max(self.watts)
        needed = [number for number, watts in enumerate(self.watts) if watts]
        self.first = needed[0] if needed else 0
        self.stop = needed[-1] + 1 if needed else 0
        """Slot after the last that needs relief."""
        self.ceiling = policy.ceiling
        self._lead_s = (self.begin - now).total_seconds()

    def at(self, slot: int) -> datetime:
        """Start of a slot counted from the need's first, past its end too."""
        return self.begin + slot * SLOT

    def seconds_to(self, slot: int) -> float:
        """Time from now until a slot starts."""
        return self._lead_s + slot * SLOT_S

    def windows(self, earliest: int, shortest: int, longest: int) -> Iterator[tuple[int, int]]:
        """Windows [first, stop) that touch the need and keep to a DER's durations, in slots."""
        for first in range(earliest, self.stop):
            latest = max(first + shortest, min(first + longest, self.stop))
            for stop in range(max(first + shortest, self.first + 1), latest + 1):
                yield first, stop


class Span(NamedTuple):
    """A window a DER can serve: [first, stop) in slots, and the watts it has throughout."""

    first: int
    stop: int
    watts: int


class Fit(msgspec.Struct, frozen=True):
    """A DER that can serve the need under one offer; ``spans`` is never empty."""

    offer: Offer
    der: Der
    price: Decimal
    min_w: int
    spans: tuple[Span, ...]


def fit(
    frame: Frame,
    offer: Offer,
    der: Der,
    *,
    booked: Sequence[Booking] = (),
    lapsed: Collection[OfferKey] = (),
    excluded: Mapping[str, str] | None = None,
) -> Fit | str:
    """Find the windows in which a DER can serve a need.

    Args:
        frame: The need.
        offer: The offer the DER is listed under.
        der: The DER.
        booked: Its bookings, on any feeder.
        lapsed: Offers not valid now.
        excluded: DERs not to be taken, with the reason.

    Returns:
        The fit, or the first reason against it.
    """
    mismatch = _mismatch(frame, der)
    if mismatch is not None:
        return mismatch
    if excluded and der.der_id in excluded:
        return excluded[der.der_id] or "left out by the operator"
    if offer_key(offer) in lapsed:
        return f"offer {offer.offer_id} is not valid now"
    price = _acceptable_price(frame, der)
    if isinstance(price, str):
        return price
    limits = _limits(der, frame.policy.lot_w)
    if isinstance(limits, str):
        return limits
    spans = _spans(frame, der, limits, booked)
    if isinstance(spans, str):
        return spans
    return Fit(offer=offer, der=der, price=price, min_w=limits.min_w, spans=spans)


def _mismatch(frame: Frame, der: Der) -> str | None:
    need = frame.need
    if not frame.peak:
        return "no slot needs relief"
    if der.feeder_id != need.feeder_id:
        return f"serves feeder {der.feeder_id}, the need is at {need.feeder_id}"
    if der.direction is not need.direction:
        return f"offers {der.direction}, the need is {need.direction}"
    return None


def _acceptable_price(frame: Frame, der: Der) -> Decimal | str:
    price = read_price(der.price_per_kwh)
    if price is None:
        return "its price is not a sensible decimal number"
    if der.currency != frame.policy.currency:
        return f"priced in {der.currency}, the plan is in {frame.policy.currency}"
    if frame.ceiling is not None and price > frame.ceiling:
        return f"price {price:f} {der.currency}/kWh is above the ceiling of {frame.ceiling:f}"
    return price


def read_price(text: str) -> Decimal | None:
    """A seller's decimal text as a number; None where it is no price anybody could mean."""
    if len(text) > _PRICE_CHARS:
        return None
    try:
        price = Decimal(text)
    except InvalidOperation:
        return None
    return price if price.is_finite() and abs(price.adjusted()) <= _PRICE_DIGITS else None


class _Limits(msgspec.Struct, frozen=True, kw_only=True):
    """What a DER can do at all; durations in slots."""

    capacity_w: int
    min_w: int
    notice_s: float
    shortest: int
    longest: int
    ramp_kw_per_min: float | None
    max_events_per_day: int | None
    excluded: tuple["_Period", ...]


class _Period(msgspec.Struct, frozen=True):
    start: Annotated[datetime, msgspec.Meta(tz=True)]
    end: Annotated[datetime, msgspec.Meta(tz=True)]


class _Constraints(msgspec.Struct, frozen=True):
    """The free-form constraints a plan must keep; others are information."""

    min_notice_s: float = 0.0
    min_kw: float = 0.0
    ramp_kw_per_min: float | None = None
    max_events_per_day: int | None = None
    excluded_periods: tuple[_Period, ...] = ()


_UNCONSTRAINED = _Constraints()


def _limits(der: Der, lot_w: int) -> "_Limits | str":
    """Read a DER's limits; a text says what cannot be read or met."""
    try:
        own = msgspec.convert(_snake(der.constraints), _Constraints) if der.constraints else _UNCONSTRAINED
    except msgspec.ValidationError as exc:
        return f"its constraints cannot be read: {exc}"
    ramp = der.ramp_kw_per_min if der.ramp_kw_per_min is not None else own.ramp_kw_per_min
    if not 0 < der.capacity_kw <= MAX_CAPACITY_KW:
        return f"its capacity of {der.capacity_kw:g} kW is not a sensible positive number"
    numbers = (der.response_time_s, own.min_notice_s, der.min_kw, own.min_kw, ramp or 0.0)
    if not all(0 <= number < math.inf for number in numbers):
        return "its response time, notice, smallest lot or ramp is not a positive number"
    shortest = max(1, -(-der.min_duration_min // SLOT_MIN))
    longest = der.max_duration_min // SLOT_MIN
    if longest < shortest:
        return (
            f"no whole quarter hours between its minimum of {der.min_duration_min} min "
            f"and its maximum of {der.max_duration_min} min"
        )
    if der.min_duration_min > MAX_RUN_MIN:
        return f"must run for {der.min_duration_min} min at least, more than a day"
    capacity_w = int(der.capacity_kw * 1000 + 1e-6) // lot_w * lot_w
    min_kw = max(der.min_kw, own.min_kw)
    if min_kw > MAX_CAPACITY_KW or round_up(math.ceil(min_kw * 1000 - 1e-6), lot_w) > capacity_w:
        return f"its smallest lot of {min_kw:g} kW is more than its capacity of {der.capacity_kw:g} kW"
    if capacity_w < lot_w:
        return f"its capacity of {der.capacity_kw:g} kW is less than the lot of {lot_w / 1000:g} kW"
    return _Limits(
        capacity_w=capacity_w,
        min_w=max(lot_w, round_up(math.ceil(min_kw * 1000 - 1e-6), lot_w)),
        notice_s=max(der.response_time_s, own.min_notice_s),
        shortest=shortest,
        longest=longest,
        ramp_kw_per_min=ramp,
        max_events_per_day=own.max_events_per_day,
        excluded=own.excluded_periods,
    )


def round_up(watts: int, lot_w: int) -> int:
    """Next multiple of the lot."""
    return -(-watts // lot_w) * lot_w


def _snake(constraints: Mapping[str, Any]) -> dict[str, Any]:
    """Constraint names whatever their spelling: minNoticeS and min_notice_s are one."""
    return {
        "".join(f"_{letter.lower()}" if letter.isupper() else letter for letter in name): value
        for name, value in constraints.items()
    }


def _spans(frame: Frame, der: Der, limits: _Limits, booked: Sequence[Booking]) -> tuple[Span, ...] | str:
    used_up = _used_up(frame, limits, booked)
    if used_up is not None:
        return used_up
    ready_s = limits.notice_s - frame.policy.late_start_s
    earliest = max(0, math.ceil((ready_s - frame.seconds_to(0)) / SLOT_S))
    if earliest >= frame.stop:
        return (
            f"needs {limits.notice_s:g} s of notice, the last needed slot starts in "
            f"{frame.seconds_to(frame.stop - 1):g} s"
        )
    lot_w = frame.policy.lot_w
    windows = frame.windows(earliest, limits.shortest, limits.longest)
    if not booked and not limits.excluded and limits.ramp_kw_per_min is None:
        watts = limits.capacity_w // lot_w * lot_w
        return tuple([Span(first, stop, watts) for first, stop in windows])
    # A window may run past the need by its minimum duration, so bookings there count too.
    horizon = range(frame.stop + limits.shortest)
    sold = [_sold_w(booked, frame.at(slot), der.direction, limits.capacity_w) for slot in horizon]
    blocked = [_overlaps(limits.excluded, frame.at(slot)) for slot in horizon]
    free = [0 if shut else limits.capacity_w - watts for watts, shut in zip(sold, blocked, strict=True)]
    spans: list[Span] = []
    for first, stop in windows:
        watts = min(_ramped_w(frame, limits, first), *free[first:stop]) // lot_w * lot_w
        if watts >= limits.min_w:
            spans.append(Span(first, stop, watts))
    if spans:
        return tuple(spans)
    if any(blocked[earliest : frame.stop]):
        return "the needed slots fall into its excluded periods"
    most_w = max(sold[earliest:])
    if limits.capacity_w - most_w < limits.min_w:
        return f"already sold: {most_w / 1000:g} of {der.capacity_kw:g} kW in the needed slots"
    return (
        f"cannot reach its smallest lot of {limits.min_w / 1000:g} kW in time: notice "
        f"{limits.notice_s:g} s, ramp {limits.ramp_kw_per_min} kW/min"
    )


def _used_up(frame: Frame, limits: _Limits, booked: Sequence[Booking]) -> str | None:
    if limits.max_events_per_day is None:
        return None
    day = frame.begin.astimezone(UTC).date()
    events = len({one.obp_id for one in booked if one.start.astimezone(UTC).date() == day})
    if events < limits.max_events_per_day:
        return None
    return f"already ordered {events} times that day, its limit is {limits.max_events_per_day}"


def _sold_w(booked: Sequence[Booking], start: datetime, direction: Direction, capacity_w: int) -> int:
    """Watts sold in the slot from ``start``; all of them where the DER is sold the other way."""
    end = start + SLOT
    watts = 0
    for one in booked:
        if one.start < end and start < one.end and one.kw > 0:
            if one.direction is not direction:
                return capacity_w
            watts += math.ceil(one.kw * 1000 - 1e-6)
    return min(watts, capacity_w)


def _overlaps(periods: Sequence[_Period], start: datetime) -> bool:
    return any(period.start < start + SLOT and start < period.end for period in periods)


def _ramped_w(frame: Frame, limits: _Limits, first: int) -> int:
    """Watts reached by the start of a slot at the DER's ramp, begun after its notice."""
    if limits.ramp_kw_per_min is None:
        return limits.capacity_w
    ramp_s = frame.seconds_to(first) - limits.notice_s + frame.policy.late_start_s
    return min(limits.capacity_w, int(limits.ramp_kw_per_min * ramp_s / 60 * 1000))
