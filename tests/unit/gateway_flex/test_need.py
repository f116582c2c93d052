"""The need is what exceeds the target on the overload's side, less what is booked, and no more."""

from datetime import UTC, datetime, timedelta

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gateway.errors import ModelError
from gateway.flex.need import ForecastRow, NeedPolicy, required_relief, should_buy
from gateway.flex.relief import Booking
from gateway.types import Direction, FlexNeed, GridState, Location, NeedSlot

T0 = datetime(2026, 1, 5, 17, 0, tzinfo=UTC)
MEDIAN = NeedPolicy(quantile_weight=0.0)


def rows(*medians: float, spread=0.0, minutes=15, start=T0):
    return [
        ForecastRow(
            start=start + n * timedelta(minutes=minutes),
            q10=kw - spread,
            q50=kw,
            q90=kw + spread,
            minutes=minutes,
        )
        for n, kw in enumerate(medians)
    ]


def relief(forecast, rating_kw=100.0, **options):
    return required_relief(
        forecast, rating_kw, need_id="n1", feeder_id="F", decided_at=T0, **({"policy": MEDIAN} | options)
    )


def kws(need):
    return [slot.kw for slot in need.slots]


def book(start_min, end_min, kw, direction=Direction.REDUCE, feeder_id="F"):
    return Booking(
        obp_id="o",
        der_id="d",
        feeder_id=feeder_id,
        start=T0 + timedelta(minutes=start_min),
        end=T0 + timedelta(minutes=end_min),
        kw=kw,
        direction=direction,
    )


# -- required_relief -----------------------------------------------------------------------------


def test_required_relief__is_what_exceeds_the_target_loading():
    need = relief(rows(80, 90, 95, 110), location=Location(latitude=51.0, longitude=4.0))
    assert need.direction is Direction.REDUCE
    assert kws(need) == [0, 0, 5, 20]
    assert [slot.start for slot in need.slots] == [T0 + n * timedelta(minutes=15) for n in range(4)]
    assert (need.need_id, need.feeder_id, need.decided_at) == ("n1", "F", T0)
    assert need.location == Location(latitude=51.0, longitude=4.0)


def test_required_relief__an_export_overload_asks_for_more_consumption():
    need = relief(rows(-80, -90, -95, -110))
    assert (need.direction, kws(need)) == (Direction.INCREASE, [0, 0, 5, 20])


@pytest.mark.parametrize("sign", [1, -1])
def test_required_relief__plans_between_median_and_outer_quantile(sign):
    forecast = rows(sign * 80, spread=30)
    assert relief(forecast) is None
    assert kws(relief(forecast, policy=NeedPolicy(quantile_weight=1.0))) == [20]
    assert kws(relief(forecast, policy=NeedPolicy(quantile_weight=0.5))) == [5]


def test_required_relief__takes_booked_relief_off_once():
    forecast = rows(100, 100, 100, 100)
    assert kws(relief(forecast, bookings=[book(15, 45, 6)])) == [10, 4, 4, 10]
    assert kws(relief(forecast, bookings=[book(15, 45, 6), book(15, 45, 6)])) == [10, 4, 4, 10]
    assert relief(forecast, bookings=[book(0, 60, 10)]) is None
    assert kws(relief(forecast, bookings=[book(0, 60, 10, feeder_id="other")])) == [10, 10, 10, 10]


def test_required_relief__relief_booked_the_other_way_makes_the_need_larger():
    assert kws(relief(rows(100), bookings=[book(0, 15, 4, Direction.INCREASE)])) == [14]
    assert kws(relief(rows(-100), bookings=[book(0, 15, 4, Direction.REDUCE)])) == [14]


def test_required_relief__answers_the_side_that_lacks_more_energy():
    assert relief(rows(100, -95, 80, 80)).direction is Direction.REDUCE
    assert relief(rows(95, -100, 80, 80)).direction is Direction.INCREASE
    assert relief(rows(100, -100)).direction is Direction.REDUCE


def test_required_relief__two_horizons_of_thirty_minutes_fill_four_slots():
    need = relief(rows(95, 110, minutes=30))
    assert kws(need) == [5, 5, 20, 20]
    assert [slot.start for slot in need.slots] == [T0 + n * timedelta(minutes=15) for n in range(4)]


def test_required_relief__leaves_trifles_alone_and_rounds_up():
    assert relief(rows(90.9)) is None
    assert kws(relief(rows(91))) == [1]
    assert kws(relief(rows(91.01))) == [1.1]
    assert kws(relief(rows(90.2), policy=NeedPolicy(quantile_weight=0, min_lot_kw=0.1))) == [0.2]


@pytest.mark.parametrize(
    "row",
    [
        ForecastRow(start=T0, q10=90, q50=float("nan"), q90=120),
        ForecastRow(start=T0, q10=90, q50=100, q90=float("inf")),
        ForecastRow(start=T0, q10=101, q50=100, q90=120),
        ForecastRow(start=T0, q10=90, q50=100, q90=99),
    ],
)
def test_required_relief__buys_nothing_on_a_forecast_that_makes_no_sense(row):
    with pytest.raises(ModelError):
        relief([row])


@pytest.mark.parametrize("rating_kw", [0.0, -5.0, float("nan"), float("inf")])
def test_required_relief__needs_a_rating(rating_kw):
    with pytest.raises(ValueError, match="rating"):
        relief(rows(100), rating_kw)


@pytest.mark.parametrize(
    "forecast",
    [
        [],
        rows(100) + rows(100),
        rows(100) + rows(100, start=T0 + timedelta(minutes=30)),
        rows(100, minutes=20),
        rows(100, minutes=0),
    ],
)
def test_required_relief__refuses_rows_that_are_not_consecutive_slots(forecast):
    with pytest.raises(ValueError, match="forecast"):
        relief(forecast)


@settings(deadline=None)
@given(
    st.lists(st.floats(-300, 300), min_size=1, max_size=8),
    st.floats(0, 80),
    st.floats(0, 1),
    st.lists(st.tuples(st.integers(0, 100), st.integers(1, 60), st.floats(0, 50)), max_size=3),
)
def test_required_relief__brings_every_slot_of_its_side_to_the_target(medians, spread, weight, booked):
    policy = NeedPolicy(quantile_weight=weight, min_lot_kw=0.5)
    bookings = [
        msgspec.structs.replace(book(start, start + length, kw), der_id=str(n))
        for n, (start, length, kw) in enumerate(booked)
    ]
    need = relief(rows(*medians, spread=spread), policy=policy, bookings=bookings)
    relieved = [0.0] * len(medians)
    for one in bookings:
        for n in range(len(medians)):
            low, high = n * 15, n * 15 + 15
            start, end = ((at - T0).total_seconds() / 60 for at in (one.start, one.end))
            relieved[n] += one.kw * max(0, min(end, high) - max(start, low)) / 15
    for n, median in enumerate(medians):
        high = median + weight * spread - relieved[n]
        low = median - weight * spread - relieved[n]
        if need is None:
            assert high < 90.5 + 1e-6
            assert low > -90.5 - 1e-6
        else:
            kw = need.slots[n].kw
            over = high - 90 if need.direction is Direction.REDUCE else -low - 90
            assert kw == 0 or kw >= 0.5
            assert over - 0.5 <= kw + 1e-6
            assert kw <= max(0, over) + 0.1 + 1e-6


def test_need__encodes_to_json_and_back():
    need = relief(rows(95, 110))
    assert msgspec.json.decode(msgspec.json.encode(need), type=FlexNeed) == need


# -- should_buy ----------------------------------------------------------------------------------


def wanted(*slots_kw: float, start=T0):
    return FlexNeed(
        need_id="n",
        feeder_id="F",
        direction=Direction.REDUCE,
        slots=tuple(
            NeedSlot(start=start + n * timedelta(minutes=15), kw=kw) for n, kw in enumerate(slots_kw)
        ),
        decided_at=start,
    )


N, A, C = GridState.NORMAL, GridState.ALERT, GridState.CRITICAL


@pytest.mark.parametrize(
    ("before", "now", "buy"),
    [
        (N, A, True),
        (N, C, True),
        (A, C, True),
        (None, A, True),
        (None, C, True),
        (N, N, False),
        (A, N, False),
        (C, N, False),
        (None, N, False),
        (N, None, False),
        (C, None, False),
        (A, A, False),
        (C, C, False),
        (C, A, False),
    ],
)
def test_should_buy__buys_on_upward_transitions_only(before, now, buy):
    decision = should_buy(
        wanted(10, 10),
        previous_state=before,
        state=now,
        uncovered_before={slot.start: slot.kw for slot in wanted(10, 10).slots},
        rating_kw=100,
    )
    assert decision.buy is buy
    assert decision.reason


def test_should_buy__buys_nothing_without_a_need():
    assert not should_buy(None, previous_state=N, state=C, uncovered_before=None, rating_kw=100).buy


@pytest.mark.parametrize(
    ("uncovered", "growth_share", "buy"),
    [
        pytest.param({T0: 10.0}, 0.05, False, id="a need nobody could cover is not asked for again"),
        pytest.param({T0: 5.0}, 0.05, False, id="grown by the threshold"),
        pytest.param({T0: 4.9}, 0.05, True, id="grown by more"),
        pytest.param({}, 0.05, True, id="a slot the last plan did not reach"),
        pytest.param(None, 0.05, True, id="no plan so far"),
        pytest.param({T0: 9.5}, 0.0, False, id="less than the smallest lot"),
        pytest.param({T0: 12.0}, 0.05, False, id="shrunk"),
    ],
)
def test_should_buy__buys_again_when_the_uncovered_need_grew(uncovered, growth_share, buy):
    decision = should_buy(
        wanted(10),
        previous_state=C,
        state=C,
        uncovered_before=uncovered,
        rating_kw=100,
        policy=NeedPolicy(growth_share=growth_share),
    )
    assert decision.buy is buy


def test_should_buy__growth_is_measured_per_slot_as_the_horizon_moves_on():
    uncovered = {T0: 30.0, T0 + timedelta(minutes=15): 10.0}
    later = wanted(10, 0, start=T0 + timedelta(minutes=15))
    assert not should_buy(later, previous_state=A, state=A, uncovered_before=uncovered, rating_kw=100).buy
    assert should_buy(
        wanted(10, 20, start=T0 + timedelta(minutes=15)),
        previous_state=A,
        state=A,
        uncovered_before=uncovered,
        rating_kw=100,
    ).buy


def test_growth_in_a_distant_slot_waits_and_in_an_urgent_one_buys():
    def bought(slot: int) -> bool:
        kws = [0.0, 0.0, 0.0, 0.0]
        kws[slot] = 50.0
        need = FlexNeed(
            need_id="n",
            feeder_id="F1",
            direction=Direction.REDUCE,
            slots=tuple(
                NeedSlot(start=T0 + timedelta(minutes=15 * place), kw=kw) for place, kw in enumerate(kws)
            ),
            decided_at=T0,
        )
        return should_buy(
            need,
            previous_state=GridState.ALERT,
            state=GridState.ALERT,
            uncovered_before={},
            rating_kw=1000.0,
        ).buy

    assert [bought(slot) for slot in range(4)] == [True, True, False, False]
