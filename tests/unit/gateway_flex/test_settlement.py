from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from itertools import pairwise
from zoneinfo import ZoneInfo

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.errors import SettlementRefused
from gateway.flex.settlement import SettlementRow, settle
from gateway.types import (
    BaselineMethod,
    BaselineTerm,
    CommittedLine,
    DerPerformance,
    DerType,
    Direction,
    MeterInterval,
    OrderLine,
    OrderTerms,
    PerformanceStatus,
)

DER = "der:alpha:1"
START = datetime(2026, 11, 11, 17, 0, tzinfo=UTC)


def order(start: datetime = START, minutes: float = 60, kw: float = 40, **changes: object) -> OrderTerms:
    values: dict[str, object] = {
        "obp_id": "OBP-2026-000123",
        "event_id": "need-1",
        "feeder_id": "FDR_001",
        "direction": Direction.REDUCE,
        "offer_id": "offer-1",
        "provider_id": "alpha",
        "window_start": start,
        "window_end": start + timedelta(minutes=minutes),
        "lines": (OrderLine(der_id=DER, der_type=DerType.BATTERY, kw=kw),),
        "price_per_kwh": "0.40",
        "currency": "GBP",
    }
    return OrderTerms(**(values | changes))  # type: ignore[arg-type]


def baseline(kw: float, der_id: str = DER, method: BaselineMethod = BaselineMethod.NOMINATED) -> BaselineTerm:
    return BaselineTerm(der_id=der_id, method=method, kw=kw)


def metered(
    *usage_wh: int,
    start: datetime = START,
    minutes: float = 30,
    der_id: str = DER,
    status: PerformanceStatus = PerformanceStatus.COMPLETED,
) -> DerPerformance:
    step = timedelta(minutes=minutes)
    return DerPerformance(
        der_id=der_id,
        status=status,
        intervals=tuple(
            MeterInterval(start=start + index * step, end=start + (index + 1) * step, usage_wh=wh)
            for index, wh in enumerate(usage_wh)
        ),
    )


def refusal(*args: object, **kwargs: object) -> str:
    with pytest.raises(SettlementRefused) as caught:
        settle(*args, **kwargs)  # type: ignore[arg-type]
    return caught.value.code


@pytest.mark.parametrize(
    ("period", "baseline_kw", "meter_wh", "delivered_wh", "pay"),
    [
        pytest.param(35, 104, 33_000, 19_000, (950_000, "7.60"), id="17:00"),
        pytest.param(36, 108, 39_600, 14_400, (720_000, "5.76"), id="17:30"),
    ],
)
def test_the_worked_example_of_a_40_kw_turn_down_on_a_november_evening(
    period, baseline_kw, meter_wh, delivered_wh, pay
):
    """Baseline 52.0 and 54.0 kWh, metered 33.0 and 39.6: 95 % and 72 %, at 400 GBP/MWh linear, capped."""
    start = START + timedelta(minutes=30 * (period - 35))
    (row,) = settle(order(start, 30), [baseline(baseline_kw)], [metered(meter_wh, start=start)])
    assert row == SettlementRow(
        obp_id="OBP-2026-000123",
        event_id="need-1",
        feeder_id="FDR_001",
        provider_id="alpha",
        offer_id="offer-1",
        der_id=DER,
        direction=Direction.REDUCE,
        settlement_date=date(2026, 11, 11),
        settlement_period=period,
        periods_in_day=48,
        start=start,
        end=start + timedelta(minutes=30),
        instructed_w=40_000,
        instructed_wh=20_000,
        baseline_method=BaselineMethod.NOMINATED,
        baseline_wh=baseline_kw * 500,
        metered_wh=meter_wh,
        delivered_wh=delivered_wh,
        deviation_sva_wh=-delivered_wh,
        delivered_cva_wh=delivered_wh,
        delivery_ppm=pay[0],
        payable_wh=delivered_wh,
        price_per_kwh="0.40",
        amount=pay[1],
        currency="GBP",
    )
    assert row.settlement_route == "DSO_ONLY"


def test_raised_consumption_counts_as_delivered_where_more_was_ordered():
    (row,) = settle(
        order(minutes=30, direction=Direction.INCREASE),
        [baseline(-10, method=BaselineMethod.FIXED_REF)],
        [metered(9_000)],
    )
    assert (row.baseline_wh, row.metered_wh, row.delivered_wh) == (-5_000, 9_000, 14_000)
    assert (row.deviation_sva_wh, row.delivered_cva_wh) == (14_000, -14_000)


def test_more_than_ordered_is_delivered_but_not_paid():
    (row,) = settle(order(minutes=30), [baseline(100)], [metered(10_000)])
    assert (row.delivered_wh, row.payable_wh, row.amount) == (40_000, 20_000, "8.00")
    assert row.delivery_ppm == 2_000_000


def test_the_wrong_direction_is_recorded_as_negative_and_paid_nothing():
    (row,) = settle(order(minutes=30), [baseline(10)], [metered(9_000)])
    assert (row.delivered_wh, row.payable_wh, row.amount) == (-4_000, 0, "0.00")


def test_excess_in_one_period_does_not_pay_for_a_shortfall_in_another():
    rows = settle(order(), [baseline(40)], [metered(-20_000, 20_000)])
    assert [row.delivered_wh for row in rows] == [40_000, 0]
    assert [row.payable_wh for row in rows] == [20_000, 0]


def test_each_der_of_an_order_gets_its_own_rows_with_its_own_baseline():
    lines = (
        OrderLine(der_id=DER, der_type=DerType.BATTERY, kw=40),
        OrderLine(der_id="der:alpha:2", der_type=DerType.EV, kw=7),
    )
    rows = settle(
        order(lines=lines),
        [baseline(0, method=BaselineMethod.ZERO), baseline(7, "der:alpha:2", BaselineMethod.FIXED_REF)],
        [metered(0, 0, der_id="der:alpha:2"), metered(-20_000, -19_000)],
    )
    assert [(row.der_id, row.settlement_period, row.delivered_wh, row.baseline_method) for row in rows] == [
        (DER, 35, 20_000, BaselineMethod.ZERO),
        (DER, 36, 19_000, BaselineMethod.ZERO),
        ("der:alpha:2", 35, 3_500, BaselineMethod.FIXED_REF),
        ("der:alpha:2", 36, 3_500, BaselineMethod.FIXED_REF),
    ]


def test_a_window_off_the_half_hours_is_cut_at_them():
    start = START + timedelta(minutes=15)
    rows = settle(order(start), [baseline(40)], [metered(0, 0, start=start)])
    assert [(row.settlement_period, row.instructed_wh) for row in rows] == [
        (35, 10_000),
        (36, 20_000),
        (37, 10_000),
    ]
    assert (rows[0].start, rows[-1].end) == (start, start + timedelta(hours=1))


def test_an_interval_across_a_half_hour_is_spread_evenly_and_no_watt_hour_is_lost():
    """15 of 30 minutes each side of 17:30; 5001 Wh are cut into 2501 (half up) and 2500."""
    start = START + timedelta(minutes=15)
    rows = settle(order(start, 30), [baseline(40)], [metered(5_001, start=start)])
    assert [row.metered_wh for row in rows] == [2_501, 2_500]


def test_meter_data_outside_the_window_are_left_out():
    day = metered(*range(1_000, 25_000, 1_000), start=START.replace(hour=6), minutes=60)
    (first, second) = settle(order(), [baseline(40)], [day])
    assert first.metered_wh + second.metered_wh == 12_000


def test_less_committed_means_less_instructed():
    committed = [CommittedLine(der_id=DER, requested_kw=40, committed_kw=25)]
    (row,) = settle(order(minutes=30), [baseline(40)], [metered(0)], committed)
    assert (row.instructed_wh, row.payable_wh, row.delivered_wh) == (12_500, 12_500, 20_000)


def test_a_der_that_was_not_committed_has_no_rows():
    lines = tuple(OrderLine(der_id=name, der_type=DerType.EV, kw=7) for name in (DER, "der:alpha:2"))
    committed = [
        CommittedLine(der_id=DER, requested_kw=7, committed_kw=0),
        CommittedLine(der_id="der:alpha:2", requested_kw=7, committed_kw=7),
    ]
    evidence = [baseline(7, "der:alpha:2")], [metered(0, 0, der_id="der:alpha:2")]
    assert {row.der_id for row in settle(order(lines=lines), *evidence, committed)} == {"der:alpha:2"}


@pytest.mark.parametrize(
    ("start", "hours", "periods", "in_day"),
    [
        pytest.param(
            datetime(2026, 3, 29, 0, 0, tzinfo=UTC), 2, [(29, 1), (29, 2), (29, 3), (29, 4)], 46, id="short"
        ),
        pytest.param(
            datetime(2026, 10, 24, 23, 30, tzinfo=UTC), 2, [(25, 2), (25, 3), (25, 4), (25, 5)], 50, id="long"
        ),
    ],
)
def test_clock_changes_lose_and_double_no_period(start, hours, periods, in_day):
    rows = settle(order(start, hours * 60), [baseline(40)], [metered(*[1_000] * 4, start=start)])
    assert [(row.settlement_date.day, row.settlement_period) for row in rows] == periods
    assert [row.instructed_wh for row in rows] == [20_000] * 4
    assert {row.periods_in_day for row in rows} == {in_day}


def test_local_times_of_the_long_night_are_taken_as_the_instants_they_are():
    """00:30 to 02:30 by the clock on the wall are three hours when the clocks go back."""
    london = ZoneInfo("Europe/London")
    terms = order(
        window_start=datetime(2026, 10, 25, 0, 30, tzinfo=london),
        window_end=datetime(2026, 10, 25, 2, 30, tzinfo=london),
    )
    meter = metered(*[0] * 6, start=datetime(2026, 10, 24, 23, 30, tzinfo=UTC))
    assert sum(row.instructed_wh for row in settle(terms, [baseline(40)], [meter])) == 120_000


# ---- evidence that is not complete -------------------------------------------------------------


def test_a_missing_baseline_refuses():
    assert refusal(order(), [], [metered(1, 1)]) == "baseline_missing"
    assert refusal(order(), [baseline(1, "der:other")], [metered(1, 1)]) == "baseline_missing"


def test_two_baselines_for_a_der_refuse():
    assert refusal(order(), [baseline(1), baseline(2)], [metered(1, 1)]) == "baseline_ambiguous"


def test_a_zero_baseline_that_is_not_zero_refuses():
    evidence = [baseline(1, method=BaselineMethod.ZERO)], [metered(1, 1)]
    assert refusal(order(), *evidence) == "baseline_inconsistent"


@pytest.mark.parametrize(
    ("performance", "code"),
    [
        pytest.param([], "performance_missing", id="no report"),
        pytest.param([metered(0, 0, der_id="x")], "performance_missing", id="report of another DER"),
        pytest.param([metered(0, 0), metered(0, 0)], "performance_ambiguous", id="two reports"),
        pytest.param(
            [metered(0, 0, status=PerformanceStatus.IN_PROGRESS)], "performance_not_final", id="under way"
        ),
        pytest.param([metered()], "meter_missing", id="no intervals"),
        pytest.param(
            [metered(status=PerformanceStatus.FAILED)], "meter_missing", id="failed without intervals"
        ),
        pytest.param([metered(0, 0, start=START - timedelta(hours=1))], "meter_missing", id="before"),
        pytest.param([metered(0)], "meter_gap", id="second half missing"),
        pytest.param([metered(0, start=START + timedelta(minutes=30))], "meter_gap", id="first half missing"),
        pytest.param([metered(0, minutes=90)], "meter_straddles_window", id="beyond the end"),
        pytest.param(
            [metered(0, 0, start=START - timedelta(minutes=15))], "meter_straddles_window", id="from before"
        ),
    ],
)
def test_incomplete_meter_data_refuse(performance, code):
    assert refusal(order(), [baseline(40)], performance) == code


def intervals(*spans: tuple[float, float]) -> list[DerPerformance]:
    return [
        DerPerformance(
            der_id=DER,
            status=PerformanceStatus.COMPLETED,
            intervals=tuple(
                MeterInterval(
                    start=START + timedelta(minutes=first), end=START + timedelta(minutes=last), usage_wh=1
                )
                for first, last in spans
            ),
        )
    ]


@pytest.mark.parametrize(
    ("spans", "code"),
    [
        pytest.param([(0, 20), (25, 60)], "meter_gap", id="hole in the middle"),
        pytest.param([(0, 30), (29, 60)], "meter_overlap", id="one minute twice"),
        pytest.param([(0, 30), (0, 30), (30, 60)], "meter_overlap", id="the same twice"),
        pytest.param([(0, 60), (10, 20)], "meter_overlap", id="one inside another"),
        pytest.param([(0, 60), (30, 30)], "meter_interval_invalid", id="no length"),
        pytest.param([(0, 60), (90, 80)], "meter_interval_invalid", id="backwards, even outside"),
    ],
)
def test_meter_data_that_do_not_tile_the_window_refuse(spans, code):
    assert refusal(order(), [baseline(40)], intervals(*spans)) == code


def test_intervals_may_come_in_any_order_and_any_lengths():
    rows = settle(order(), [baseline(40)], intervals((45, 60), (0, 1), (1, 30), (30, 45)))
    assert [row.metered_wh for row in rows] == [2, 2]


@pytest.mark.parametrize("price", ["", "free", "NaN", "Infinity", "1e3", " 1", "0,40", "1" * 13])
def test_a_price_that_is_not_a_decimal_refuses(price):
    assert refusal(order(price_per_kwh=price), [baseline(40)], [metered(0, 0)]) == "price_invalid"


@pytest.mark.parametrize(
    ("changes", "code"),
    [
        pytest.param({"window_end": START}, "window_invalid", id="empty window"),
        pytest.param({"window_start": START.replace(tzinfo=None)}, "window_invalid", id="naive window"),
        pytest.param({"kw": -1}, "power_invalid", id="negative power"),
        pytest.param({"kw": float("nan")}, "power_invalid", id="no power"),
        pytest.param({"kw": 0}, "commitment_missing", id="nothing ordered"),
        pytest.param(
            {"lines": (OrderLine(der_id=DER, der_type=DerType.EV, kw=1),) * 2},
            "line_ambiguous",
            id="DER twice",
        ),
    ],
)
def test_terms_that_make_no_sense_refuse(changes, code):
    assert refusal(order(**changes), [baseline(40)], [metered(0, 0)]) == code


def test_a_line_without_an_answer_refuses_where_commitments_are_given():
    committed = [CommittedLine(der_id="x", requested_kw=1, committed_kw=1)]
    assert refusal(order(), [baseline(40)], [metered(0, 0)], committed) == "commitment_missing"


# ---- properties --------------------------------------------------------------------------------


@st.composite
def deliveries(draw: st.DrawFn) -> tuple[OrderTerms, BaselineTerm, DerPerformance]:
    """An order over any window of whole seconds and meter intervals that tile it anyhow."""
    start = datetime(2026, 3, 28, tzinfo=UTC) + timedelta(seconds=draw(st.integers(0, 220 * 86_400)))
    cuts = sorted(draw(st.sets(st.integers(1, 4 * 3600), min_size=1, max_size=12)))
    edges = [start, *(start + timedelta(seconds=cut) for cut in cuts)]
    terms = order(
        kw=draw(st.floats(0.001, 500)),
        window_start=edges[0],
        window_end=edges[-1],
        direction=draw(st.sampled_from(Direction)),
        price_per_kwh=draw(st.decimals(-5, 500, places=6).map(str)),
    )
    spans = pairwise(edges)
    parts = [
        MeterInterval(start=first, end=last, usage_wh=draw(st.integers(-(10**6), 10**6)))
        for first, last in spans
    ]
    report = DerPerformance(der_id=DER, status=PerformanceStatus.COMPLETED, intervals=tuple(parts))
    return terms, baseline(draw(st.floats(-500, 500))), report


@given(deliveries())
def test_whole_watt_hours_are_conserved_however_they_are_cut(delivery):
    terms, base, report = delivery
    rows = settle(terms, [base], [report])
    assert sum(row.metered_wh for row in rows) == sum(part.usage_wh for part in report.intervals)
    hours = (terms.window_end - terms.window_start) / timedelta(hours=1)
    assert sum(row.instructed_wh for row in rows) == pytest.approx(
        rows[0].instructed_w * hours, abs=0.5 + 1e-6
    )
    assert rows[0].instructed_w == pytest.approx(terms.lines[0].kw * 1000, abs=0.5)
    # Half a watt over the window, and half a watt-hour.
    assert sum(row.baseline_wh for row in rows) == pytest.approx(
        base.kw * 1000 * hours, abs=0.5 * hours + 0.5 + 1e-6
    )
    if terms.direction is Direction.REDUCE:
        assert all(row.delivered_wh == row.baseline_wh - row.metered_wh for row in rows)
    else:
        assert all(row.delivered_wh == row.metered_wh - row.baseline_wh for row in rows)


@given(deliveries())
def test_rows_cover_the_window_once_and_pay_between_nothing_and_what_was_ordered(delivery):
    terms, base, report = delivery
    rows = settle(terms, [base], [report])
    assert rows[0].start == terms.window_start
    assert rows[-1].end == terms.window_end
    assert all(before.end == after.start for before, after in pairwise(rows))
    assert len({(row.settlement_date, row.settlement_period) for row in rows}) == len(rows)
    for row in rows:
        assert 0 <= row.payable_wh <= row.instructed_wh
        assert row.payable_wh in {0, row.instructed_wh, row.delivered_wh}
        assert Decimal(row.amount) == Decimal(row.payable_wh) * Decimal(terms.price_per_kwh) / 1000
        assert row.delivered_cva_wh == -row.deviation_sva_wh
    assert msgspec.json.decode(msgspec.json.encode(rows), type=tuple[SettlementRow, ...]) == rows


@given(deliveries(), st.data())
def test_cutting_a_meter_interval_at_a_half_hour_changes_nothing(delivery, data):
    """Finer data that agree with the even spread give the same rows: the cut is where it was anyway."""
    terms, base, report = delivery
    rows = settle(terms, [base], [report])
    halves = [
        MeterInterval(
            start=row.start,
            end=row.end,
            usage_wh=row.metered_wh,
        )
        for row in rows
    ]
    again = DerPerformance(der_id=DER, status=PerformanceStatus.COMPLETED, intervals=tuple(halves))
    assert settle(terms, [base], [again]) == rows
