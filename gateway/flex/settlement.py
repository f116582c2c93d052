"""Delivered volume of an order: per DER and settlement period, in whole watt-hours. Pure.

* Net import is positive, as metered. Delivered is ``baseline - metered`` for REDUCE and
  ``metered - baseline`` for INCREASE: positive in the ordered direction.
* A settlement period is cut to the order's window; everything is about that part of it.
* Rounding: powers become whole watts first. An energy that crosses a period boundary is cut by
  rounding its running total (half up) at each boundary, so the parts add up to the whole exactly.
  A meter interval across a boundary is taken to be spread evenly over its length.
* Only complete evidence counts. A missing baseline, a gap, an overlap or an interval that
  straddles the window's ends refuses the settlement; nothing is ever counted as zero instead.
* Payable is delivered, but never below 0 nor above instructed, per DER and period. Amounts are
  exact decimals, not rounded to pence.
* The route is DSO_ONLY: a distribution operator's instruction is not by itself an event of the
  wholesale or balancing settlement.
"""

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from datetime import UTC, date, datetime, timedelta
from decimal import Context, Decimal, Inexact, InvalidOperation
from typing import TypeVar

import msgspec

from gateway.errors import SettlementRefused
from gateway.flex.periods import SettlementPeriod, periods_between
from gateway.types import (
    BaselineMethod,
    BaselineTerm,
    CommittedLine,
    DerPerformance,
    Direction,
    MeterInterval,
    OrderLine,
    OrderTerms,
    PerformanceStatus,
)

SCHEMA_VERSION = 1
SETTLEMENT_ROUTE = "DSO_ONLY"

_MICROSECOND = timedelta(microseconds=1)
_HOUR_US = 3_600_000_000
_DECIMAL = re.compile(r"-?\d{1,12}(\.\d{1,12})?")
_EXACT = Context(prec=60, traps=[Inexact, InvalidOperation])
_Item = TypeVar("_Item", BaselineTerm, CommittedLine, DerPerformance, OrderLine)
_FINAL = frozenset({PerformanceStatus.COMPLETED, PerformanceStatus.FAILED})


class SettlementRow(msgspec.Struct, frozen=True, kw_only=True):
    """Delivered volume of one DER in one settlement period of one order.

    Attributes:
        obp_id: The order's OBP id, opaque.
        settlement_date: Local calendar date.
        settlement_period: 1 to 50.
        periods_in_day: 46, 48 or 50.
        start: Where the window enters the period, UTC.
        end: Where it leaves it, UTC.
        instructed_w: Power ordered (as far as it was committed), watts.
        instructed_wh: Its energy over [start, end).
        baseline_wh: Net import that the contract's baseline gives, export negative.
        metered_wh: Net import metered, export negative.
        delivered_wh: Positive in the ordered direction; may be negative.
        deviation_sva_wh: Metered less baseline (SVA sign: import positive).
        delivered_cva_wh: Baseline less metered (CVA sign: export positive).
        delivery_ppm: Delivered per million instructed, rounded half up.
        payable_wh: Delivered, not below 0 and not above instructed.
        price_per_kwh: Decimal text.
        amount: ``payable_wh`` at that price, exact decimal text.
    """

    schema_version: int = SCHEMA_VERSION
    obp_id: str
    event_id: str
    settlement_route: str = SETTLEMENT_ROUTE
    feeder_id: str
    provider_id: str
    offer_id: str
    der_id: str
    direction: Direction
    settlement_date: date
    settlement_period: int
    periods_in_day: int
    start: datetime
    end: datetime
    instructed_w: int
    instructed_wh: int
    baseline_method: BaselineMethod
    baseline_wh: int
    metered_wh: int
    delivered_wh: int
    deviation_sva_wh: int
    delivered_cva_wh: int
    delivery_ppm: int
    payable_wh: int
    price_per_kwh: str
    amount: str
    currency: str


def settle(
    terms: OrderTerms,
    baselines: Sequence[BaselineTerm],
    performance: Sequence[DerPerformance],
    committed: Sequence[CommittedLine] = (),
) -> tuple[SettlementRow, ...]:
    """Compute the rows of an order from what was agreed and what was metered.

    Args:
        terms: The order: lines, window, direction, price.
        baselines: One per DER, as fixed in the contract. Others than the order's are ignored.
        performance: One final report per DER. Others than the order's are ignored.
        committed: What the seller committed to; where given it replaces the ordered power, and a
            DER committed with 0 kW has no rows.

    Returns:
        Rows in order of the order's lines, then of time.

    Raises:
        SettlementRefused: The evidence is not complete; ``code`` says why: ``window_invalid``,
            ``price_invalid``, ``power_invalid``, ``line_ambiguous``, ``commitment_missing``,
            ``commitment_ambiguous``, ``baseline_missing``, ``baseline_ambiguous``,
            ``baseline_inconsistent``, ``performance_missing``, ``performance_ambiguous``,
            ``performance_not_final``, ``meter_missing``, ``meter_interval_invalid``,
            ``meter_overlap``, ``meter_gap``, ``meter_straddles_window``.
    """
    start, end = _utc(terms.window_start), _utc(terms.window_end)
    if start is None or end is None or end <= start:
        raise SettlementRefused("the delivery window is not a span of time", code="window_invalid")
    terms = msgspec.structs.replace(terms, window_start=start, window_end=end)
    price = _price(terms.price_per_kwh)
    periods = periods_between(start, end)
    agreed = _by_der(baselines, "baseline")
    reported = _by_der(performance, "performance")
    powers = {der_id: line.kw for der_id, line in _by_der(terms.lines, "line").items()}
    if committed:
        powers = _committed_kw(powers, _by_der(committed, "commitment"))
    rows: list[SettlementRow] = []
    for der_id, kw in powers.items():
        power_w = _watts(kw, der_id)
        if power_w < 0:
            raise SettlementRefused(
                f"{der_id}: ordered power is negative", code="power_invalid", der_id=der_id
            )
        if power_w == 0:
            continue
        baseline = _baseline(agreed, der_id)
        intervals = _intervals(reported.get(der_id), der_id, start, end)
        rows += [
            _row(
                terms,
                period,
                der_id=der_id,
                power_w=power_w,
                baseline=baseline,
                intervals=intervals,
                price=price,
            )
            for period in periods
        ]
    if not rows:
        raise SettlementRefused("no DER of the order was committed", code="commitment_missing")
    return tuple(rows)


def energy_between(power_w: int, origin: datetime, start: datetime, end: datetime) -> int:
    """Energy in Wh of a constant power over [start, end), as a part of the energy since ``origin``.

    Parts of a span that are cut anywhere, with one origin, add up to the energy of the span.
    """
    return _ratio(power_w * _micros(end - origin), _HOUR_US) - _ratio(
        power_w * _micros(start - origin), _HOUR_US
    )


def interval_part(interval: MeterInterval, start: datetime, end: datetime) -> int:
    """Part of a meter interval's Wh that falls into [start, end); parts add up to the whole."""
    length = _micros(interval.end - interval.start)
    upper = _micros(min(end, interval.end) - interval.start)
    lower = _micros(max(start, interval.start) - interval.start)
    if upper <= lower:
        return 0
    return _ratio(interval.usage_wh * upper, length) - _ratio(interval.usage_wh * lower, length)


def _row(
    terms: OrderTerms,
    period: SettlementPeriod,
    *,
    der_id: str,
    power_w: int,
    baseline: BaselineTerm,
    intervals: Sequence[MeterInterval],
    price: Decimal,
) -> SettlementRow:
    start = max(period.start, terms.window_start)
    end = min(period.end, terms.window_end)
    instructed_wh = energy_between(power_w, terms.window_start, start, end)
    baseline_wh = energy_between(_watts(baseline.kw, der_id), terms.window_start, start, end)
    metered_wh = sum(interval_part(interval, start, end) for interval in intervals)
    saved_wh = baseline_wh - metered_wh
    delivered_wh = saved_wh if terms.direction is Direction.REDUCE else -saved_wh
    payable_wh = min(max(delivered_wh, 0), instructed_wh)
    return SettlementRow(
        obp_id=terms.obp_id,
        event_id=terms.event_id,
        feeder_id=terms.feeder_id,
        provider_id=terms.provider_id,
        offer_id=terms.offer_id,
        der_id=der_id,
        direction=terms.direction,
        settlement_date=period.date,
        settlement_period=period.number,
        periods_in_day=period.periods_in_day,
        start=start,
        end=end,
        instructed_w=power_w,
        instructed_wh=instructed_wh,
        baseline_method=baseline.method,
        baseline_wh=baseline_wh,
        metered_wh=metered_wh,
        delivered_wh=delivered_wh,
        deviation_sva_wh=-saved_wh,
        delivered_cva_wh=saved_wh,
        delivery_ppm=_ratio(delivered_wh * 1_000_000, instructed_wh) if instructed_wh else 0,
        payable_wh=payable_wh,
        price_per_kwh=terms.price_per_kwh,
        amount=_amount(payable_wh, price),
        currency=terms.currency,
    )


def _by_der(items: Sequence[_Item], what: str) -> dict[str, _Item]:
    counts = Counter(item.der_id for item in items)
    twice = [der_id for der_id, count in counts.items() if count > 1]
    if twice:
        raise SettlementRefused(
            f"{twice[0]}: more than one {what} is given", code=f"{what}_ambiguous", der_id=twice[0]
        )
    return {item.der_id: item for item in items}


def _committed_kw(ordered: Mapping[str, float], committed: Mapping[str, CommittedLine]) -> dict[str, float]:
    for der_id in ordered:
        if der_id not in committed:
            raise SettlementRefused(
                f"{der_id}: nothing was committed for it", code="commitment_missing", der_id=der_id
            )
    return {der_id: committed[der_id].committed_kw for der_id in ordered}


def _baseline(agreed: Mapping[str, BaselineTerm], der_id: str) -> BaselineTerm:
    baseline = agreed.get(der_id)
    if baseline is None:
        raise SettlementRefused(f"{der_id}: no baseline was agreed", code="baseline_missing", der_id=der_id)
    if baseline.method is BaselineMethod.ZERO and baseline.kw != 0:
        raise SettlementRefused(
            f"{der_id}: a ZERO baseline of {baseline.kw} kW", code="baseline_inconsistent", der_id=der_id
        )
    return baseline


def _intervals(
    report: DerPerformance | None, der_id: str, start: datetime, end: datetime
) -> list[MeterInterval]:
    """Meter intervals of a DER that tile [start, end) exactly, in order of time."""
    if report is None:
        raise _no_meter("performance_missing", der_id, "its delivery was not reported")
    if report.status not in _FINAL:
        raise _no_meter("performance_not_final", der_id, f"its report is {report.status}, not final")
    inside = sorted(
        (
            interval
            for interval in (_checked(interval, der_id) for interval in report.intervals)
            if interval.end > start and interval.start < end
        ),
        key=lambda interval: interval.start,
    )
    if not inside:
        raise _no_meter("meter_missing", der_id, f"no meter data in {_span(start, end)}")
    if inside[0].start < start or inside[-1].end > end:
        detail = f"a meter interval reaches beyond {_span(start, end)}"
        raise _no_meter("meter_straddles_window", der_id, detail)
    reached = start
    for interval in inside:
        if interval.start < reached:
            detail = f"meter data overlap in {_span(interval.start, reached)}"
            raise _no_meter("meter_overlap", der_id, detail)
        _check_reached(der_id, reached, interval.start)
        reached = interval.end
    _check_reached(der_id, reached, end)
    return inside


def _checked(interval: MeterInterval, der_id: str) -> MeterInterval:
    start, end = _utc(interval.start), _utc(interval.end)
    if start is None or end is None or end <= start:
        detail = f"not a span of time: {_span(interval.start, interval.end)}"
        raise _no_meter("meter_interval_invalid", der_id, detail)
    return MeterInterval(start=start, end=end, usage_wh=interval.usage_wh)


def _check_reached(der_id: str, reached: datetime, due: datetime) -> None:
    if reached < due:
        raise _no_meter("meter_gap", der_id, f"meter data are missing in {_span(reached, due)}")


def _no_meter(code: str, der_id: str, detail: str) -> SettlementRefused:
    return SettlementRefused(f"{der_id}: {detail}", code=code, der_id=der_id)


def _price(text: str) -> Decimal:
    if _DECIMAL.fullmatch(text) is None:
        raise SettlementRefused(f"the agreed price {text!r} is not a decimal number", code="price_invalid")
    return Decimal(text)


def _amount(payable_wh: int, price: Decimal) -> str:
    """Price of an energy: exact, with at least two decimals."""
    exact = _EXACT.multiply(Decimal(payable_wh).scaleb(-3), price).normalize(_EXACT)
    decimals = -int(exact.as_tuple().exponent)
    return f"{exact:.{max(2, decimals)}f}"


def _watts(kw: float, der_id: str) -> int:
    """Whole watts, half up in the value as it is written: 2.0005 kW is 2001 W whatever its bits."""
    power = Decimal(str(kw))
    if not power.is_finite():
        raise SettlementRefused(f"{der_id}: a power of {kw} kW", code="power_invalid", der_id=der_id)
    return _ratio(*(power * 1000).as_integer_ratio())


def _ratio(numerator: int, denominator: int) -> int:
    """Divide whole numbers, rounding halves up (towards plus infinity)."""
    return (2 * numerator + denominator) // (2 * denominator)


def _utc(instant: datetime) -> datetime | None:
    """An aware instant in UTC, where differences and comparisons are true; None for a naive one."""
    return None if instant.tzinfo is None else instant.astimezone(UTC)


def _micros(span: timedelta) -> int:
    return span // _MICROSECOND


def _span(start: datetime, end: datetime) -> str:
    return f"{start.isoformat()} to {end.isoformat()}"
