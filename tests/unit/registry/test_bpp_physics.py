from datetime import UTC, datetime, timedelta
from itertools import pairwise

import pytest
from bpp_samples import HOUR, START, der
from hypothesis import given, settings
from hypothesis import strategies as st

from gateway.types import Direction
from registry.bpp.physics import (
    Dispatch,
    grid_energy_kwh,
    is_present,
    is_present_throughout,
    meter,
    quarter_hours,
    simulate,
    stored_change_kwh,
)

EXACT = {"delivery_mean": 1.0, "delivery_sd": 0.0, "response_time_s": 0}


def dispatch(**changes):
    return Dispatch(
        **{
            "stream": "c-1",
            "direction": Direction.REDUCE,
            "kw": 40.0,
            "ceiling_kw": 42.0,
            "window_start": START,
            "window_end": START + HOUR,
            "confirmed_at": START,
        }
        | changes
    )


def delivered_kwh(trace, start=START, end=START + HOUR):
    return trace.energy_kwh(start, end)


dispatches = st.builds(
    dispatch,
    stream=st.uuids().map(str),
    direction=st.sampled_from(Direction),
    kw=st.floats(0.5, 50),
    window_end=st.integers(1, 240).map(lambda minutes: START + timedelta(minutes=minutes)),
    confirmed_at=st.integers(-600, 4000).map(lambda seconds: START + timedelta(seconds=seconds)),
    energy_kwh=st.none() | st.floats(0, 30),
)
machines = st.one_of(
    st.builds(
        lambda mean, sd, ramp: der(delivery_mean=mean, delivery_sd=sd, ramp_kw_per_min=ramp),
        st.floats(0, 1.2),
        st.floats(0, 0.5),
        st.none() | st.floats(0.1, 500),
    ),
    st.builds(
        lambda kw: der(type="EV", min_kw=0, baseline={"method": "NOMINATED", "kw": kw}), st.floats(0, 50)
    ),
    st.builds(
        lambda comfort, part: der(type="HVAC", hvac={"comfort_min": comfort, "rebound_fraction": part}),
        st.integers(1, 240),
        st.floats(0, 1),
    ),
)


@given(machine=machines, told=dispatches, seed=st.integers(0, 2**32))
@settings(max_examples=150, deadline=None)
def test_simulate__stays_within_every_limit(machine, told, seed):
    trace = simulate(machine, told, seed=seed)
    window = [
        kw
        for at, kw in zip(trace.edges_s, trace.kw, strict=False)
        if at < (told.window_end - START).total_seconds()
    ]
    limit = min(told.ceiling_kw, machine.rated_kw(told.direction))
    assert all(0 <= kw <= limit + 1e-9 for kw in window)
    assert all(kw <= 0 for kw in trace.kw[len(window) :])
    if told.energy_kwh is not None:
        assert trace.energy_kwh(START, told.window_end) <= told.energy_kwh + 1e-9
    assert list(trace.edges_s) == sorted(set(trace.edges_s))
    assert len(trace.kw) == len(trace.edges_s) - 1


@given(told=dispatches, seed=st.integers(0, 2**32))
@settings(max_examples=50, deadline=None)
def test_simulate__is_deterministic(told, seed):
    assert simulate(der(), told, seed=seed) == simulate(der(), told, seed=seed)


@given(minute=st.integers(0, 59), seed=st.integers(0, 100))
@settings(max_examples=50, deadline=None)
def test_simulate__a_cancellation_does_not_change_what_was_before(minute, seed):
    stopped_at = START + timedelta(minutes=minute)
    whole = simulate(der(), dispatch(), seed=seed)
    cut = simulate(der(), dispatch(stopped_at=stopped_at), seed=seed)
    assert cut.kw == whole.kw[: len(cut.kw)]
    assert cut.ends_at == stopped_at


def test_simulate__differs_by_seed_contract_and_der():
    traces = {
        simulate(der(), dispatch(), seed=1).kw,
        simulate(der(), dispatch(), seed=2).kw,
        simulate(der(), dispatch(stream="c-2"), seed=1).kw,
        simulate(der(der_id="other"), dispatch(), seed=1).kw,
    }
    assert len(traces) == 4


def test_simulate__delivers_about_its_mean():
    delivered = [
        delivered_kwh(simulate(der(), dispatch(stream=f"c-{n}", confirmed_at=START - HOUR), seed=7))
        for n in range(200)
    ]
    assert sum(delivered) / len(delivered) / 40 == pytest.approx(0.97, abs=0.005)
    assert max(delivered) - min(delivered) > 1


def test_simulate__ramps_up_after_the_response_time():
    machine = der(**EXACT | {"response_time_s": 120, "ramp_kw_per_min": 10.0})
    trace = simulate(machine, dispatch(), seed=0)
    assert trace.kw[:7] == pytest.approx((0, 0, 5, 15, 25, 35, 40))


def test_simulate__notice_shortens_the_response():
    machine = der(**EXACT | {"response_time_s": 600})
    early = simulate(machine, dispatch(confirmed_at=START - timedelta(minutes=10)), seed=0)
    late = simulate(machine, dispatch(confirmed_at=START + timedelta(minutes=5)), seed=0)
    assert delivered_kwh(early) == pytest.approx(40)
    assert delivered_kwh(late) == pytest.approx(30)


def test_simulate__a_battery_runs_empty():
    trace = simulate(der(**EXACT), dispatch(energy_kwh=10.0), seed=0)
    assert delivered_kwh(trace) == pytest.approx(10)
    assert trace.kw[0] == pytest.approx(40)
    assert trace.kw[-1] == 0


def test_simulate__a_battery_returns_to_rest():
    battery = {"energy_kwh": 100, "soc_kwh": 60, "efficiency": 0.9, "recovery_kw": 20}
    machine = der(**EXACT, battery=battery)
    for direction in Direction:
        trace = simulate(machine, dispatch(direction=direction, energy_kwh=50.0), seed=0)
        change = stored_change_kwh(
            machine.battery,
            direction,
            given=trace.energy_kwh(START, trace.ends_at, taken=False),
            taken=trace.energy_kwh(START, trace.ends_at, given=False),
        )
        assert change == pytest.approx(0, abs=1e-9)
        assert trace.kw[-1] == pytest.approx(-20)


def test_grid_energy__losses_count_once_on_the_way():
    battery = der(battery={"energy_kwh": 100, "soc_kwh": 60, "soc_min_kwh": 10, "efficiency": 0.8}).battery
    assert grid_energy_kwh(battery, Direction.REDUCE, 60) == pytest.approx(40)
    assert grid_energy_kwh(battery, Direction.INCREASE, 60) == pytest.approx(50)


def test_simulate__comfort_ends_the_relief_of_heating_and_some_comes_back():
    machine = der(**EXACT, type="HVAC", hvac={"comfort_min": 30, "rebound_fraction": 0.5, "rebound_min": 60})
    trace = simulate(machine, dispatch(), seed=0)
    assert trace.kw[29] == pytest.approx(40)
    assert 0 < trace.kw[45] < 25
    assert trace.kw[59] < 1
    given = delivered_kwh(trace)
    back = trace.energy_kwh(START + HOUR, START + 2 * HOUR)
    assert given == pytest.approx(30, rel=0.01)
    assert back == pytest.approx(-given / 2)
    assert trace.ends_at == START + 2 * HOUR


def test_simulate__an_ev_defers_what_it_draws_while_it_is_there():
    machine = der(
        **EXACT,
        type="EV",
        min_kw=0,
        baseline={"method": "NOMINATED", "kw": 7},
        ev={"plugged_in": [{"start": "17:00", "end": "17:30"}], "catch_up_min": 60},
    )
    trace = simulate(machine, dispatch(), seed=0)
    assert delivered_kwh(trace) == pytest.approx(3.5)
    assert trace.energy_kwh(START + HOUR, START + 2 * HOUR) == pytest.approx(-3.5)


@pytest.mark.parametrize(
    ("start", "end", "hour", "there"),
    [
        ("18:00", "07:00", 23, True),
        ("18:00", "07:00", 6, True),
        ("18:00", "07:00", 12, False),
        ("08:00", "17:00", 17, False),
        ("00:00", "00:00", 3, True),
    ],
)
def test_is_present__spans_may_pass_midnight(start, end, hour, there):
    machine = der(type="EV", ev={"plugged_in": [{"start": start, "end": end}]})
    at = datetime(2026, 1, 5, hour, 0, tzinfo=UTC)
    assert is_present(machine, at) is there


def test_is_present_throughout__one_minute_away_is_away():
    machine = der(type="EV", ev={"plugged_in": [{"start": "17:00", "end": "17:59"}]})
    assert is_present_throughout(machine, START, START + timedelta(minutes=59))
    assert not is_present_throughout(machine, START, START + HOUR)


def test_quarter_hours__are_those_of_the_clock_clipped_to_the_span():
    start = START + timedelta(minutes=5)
    spans = quarter_hours(start, START + timedelta(minutes=37, seconds=30))
    minutes = [(left - START).total_seconds() / 60 for left, _ in spans]
    assert minutes == [5, 15, 30]
    assert spans[0][0] == start
    assert spans[-1][1] == START + timedelta(minutes=37, seconds=30)
    assert all(a[1] == b[0] for a, b in pairwise(spans))


def test_meter__reads_baseline_less_relief():
    trace = simulate(der(**EXACT), dispatch(), seed=0)
    readings = meter(trace, direction=Direction.REDUCE, baseline_kw=10.0, start=START, end=START + HOUR)
    assert [reading.usage_wh for reading in readings] == [-7500] * 4


def test_meter__reads_baseline_plus_what_is_consumed_more():
    trace = simulate(der(**EXACT), dispatch(direction=Direction.INCREASE), seed=0)
    readings = meter(trace, direction=Direction.INCREASE, baseline_kw=10.0, start=START, end=START + HOUR)
    assert [reading.usage_wh for reading in readings] == [12500] * 4


@given(seed=st.integers(0, 1000), direction=st.sampled_from(Direction), baseline_kw=st.floats(-50, 50))
@settings(max_examples=50, deadline=None)
def test_meter__whole_watt_hours_add_up_to_the_energy(seed, direction, baseline_kw):
    trace = simulate(der(), dispatch(direction=direction), seed=seed)
    readings = meter(trace, direction=direction, baseline_kw=baseline_kw, start=START, end=START + HOUR)
    sign = -1 if direction is Direction.REDUCE else 1
    true_wh = 1000 * (baseline_kw + sign * delivered_kwh(trace))
    assert all(isinstance(reading.usage_wh, int) for reading in readings)
    assert sum(reading.usage_wh for reading in readings) == pytest.approx(true_wh, abs=0.5 * len(readings))
