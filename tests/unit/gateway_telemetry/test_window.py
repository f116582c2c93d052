"""The window averages exactly, forgets in time and never invents a value."""

import time
from datetime import UTC, datetime, timedelta

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gateway.telemetry.reading import Reading, minute_of
from gateway.telemetry.window import AddOutcome, FeederWindow

T0 = datetime(2026, 1, 5, 0, 0, tzinfo=UTC)


def make(minutes, load_kw, temperature_c=None):
    return Reading(
        feeder_id="F",
        timestamp=T0 + timedelta(minutes=minutes),
        load_kw=float(load_kw),
        temperature_c=temperature_c,
    )


def series(sampling_min, count, *, seed=1):
    rng = np.random.default_rng(seed)
    return [
        make(sampling_min * (n + 1), round(value, 3), round(float(value) / 10, 3))
        for n, value in enumerate(rng.uniform(-50, 150, count))
    ]


def filled(readings, **options):
    window = FeederWindow("F", **options)
    for reading in readings:
        window.add(reading)
    return window


def tail(window, count):
    return window.history().load_kw[-count:]


def test_window__starts_empty():
    window = FeederWindow("F")
    load_kw, temperature_c, origin_at = window.history()
    assert (load_kw.shape, temperature_c.shape, origin_at) == ((776,), (776,), None)
    assert load_kw.dtype == np.float32
    assert np.isnan(load_kw).all()
    assert (window.newest_at, window.complete_slots) == (None, 0)


def test_window__holds_eight_days_and_eight_slots_on_either_grid():
    assert FeederWindow("F", sampling_min=15).slots == 8 * 96 + 8
    assert FeederWindow("F", sampling_min=30).slots == 8 * 48 + 8


@pytest.mark.parametrize("sampling_min", [0, 61])
def test_window__refuses_senseless_sampling(sampling_min):
    with pytest.raises(ValueError, match="sampling_min"):
        FeederWindow("F", sampling_min=sampling_min)


@pytest.mark.parametrize("configured", [True, False], ids=["configured", "inferred"])
@pytest.mark.parametrize(("sampling_min", "step_min"), [(1, 15), (5, 15), (10, 15), (15, 15), (30, 30)])
def test_window__slots_are_the_exact_time_weighted_means(sampling_min, step_min, configured):
    readings = series(sampling_min, 14 * 60 // sampling_min)
    window = filled(readings, sampling_min=sampling_min if configured else None)
    by_minute = np.repeat([reading.load_kw for reading in readings], sampling_min)
    expected = by_minute.reshape(-1, step_min).mean(axis=1)
    assert (window.sampling_min, window.step_min) == (sampling_min, step_min)
    assert window.origin_at == readings[-1].timestamp
    assert window.complete_slots == len(expected)
    np.testing.assert_allclose(tail(window, len(expected)), expected, rtol=1e-6)
    temperatures = window.history().temperature_c[-len(expected) :]
    np.testing.assert_allclose(temperatures, expected / 10, atol=1e-3)


def test_window__ten_minute_slots_wait_for_the_reading_that_overlaps_them():
    window = filled(series(10, 60))
    at = 600
    first = window.add(make(at + 10, 30.0))
    assert (first.completed_at, first.closed_slots) == (None, 0)
    second = window.add(make(at + 20, 60.0))
    assert (second.completed_at, second.closed_slots) == (T0 + timedelta(minutes=at + 15), 1)
    assert tail(window, 1)[0] == pytest.approx((10 * 30 + 5 * 60) / 15)
    third = window.add(make(at + 30, 90.0))
    assert third.completed_at == T0 + timedelta(minutes=at + 30)
    assert tail(window, 1)[0] == pytest.approx((5 * 60 + 10 * 90) / 15)


def test_window__readings_off_the_quarter_hours_are_shared_between_slots():
    window = filled([make(15 * n + 5, 10.0 * n) for n in range(1, 25)])
    # Slot :00 to :15 takes five minutes of the reading at :05 and ten of the one at :20.
    expected = [(5 * 10 * n + 10 * 10 * (n + 1)) / 15 for n in range(20, 24)]
    np.testing.assert_allclose(tail(window, 4), expected, rtol=1e-6)


def test_window__every_reading_says_what_it_did():
    window = FeederWindow("F")
    assert window.add(make(15, 1)).outcome is AddOutcome.NEWEST
    assert window.add(make(60, 4)).closed_slots == 3
    assert window.add(make(30, 2)).outcome is AddOutcome.FILLED
    assert window.add(make(30, 2)).outcome is AddOutcome.DUPLICATE
    assert window.add(make(30, 3)).outcome is AddOutcome.CONFLICT
    assert window.add(make(60 - 776 * 15, 3)).outcome is AddOutcome.ANCIENT
    np.testing.assert_array_equal(tail(window, 4), np.float32([1, 2, np.nan, 4]))
    known = window.known(T0 + timedelta(minutes=30))
    assert known is not None
    assert known.load_kw == 2
    assert window.known(T0 + timedelta(minutes=45)) is None
    assert window.known(T0 + timedelta(minutes=31)) is None
    assert window.known(T0 + timedelta(days=9)) is None


def test_window__gaps_are_missing_and_not_filled_in():
    window = filled([make(15 * n, n) for n in range(1, 30)] + [make(15 * n, n) for n in range(35, 37)])
    np.testing.assert_array_equal(
        tail(window, 9), np.float32([28, 29, np.nan, np.nan, np.nan, np.nan, np.nan, 35, 36])
    )


def test_window__a_slot_needs_most_of_itself_measured():
    readings = [make(n, 10.0) for n in range(1, 121)]
    nine = filled([*readings, *(make(n, 20.0) for n in range(121, 130)), make(135, 20.0)])
    assert tail(nine, 1)[0] == pytest.approx(20.0)
    eight = filled([*readings, *(make(n, 20.0) for n in range(121, 128)), make(135, 20.0)])
    assert np.isnan(tail(eight, 1)[0])


def test_window__infers_the_sampling_in_spite_of_gaps():
    holes = {5, 11, 12, 20, 21, 22}
    window = filled([make(15 * (n + 1), n) for n in range(40) if n not in holes])
    assert (window.sampling_min, window.step_min) == (15, 15)
    assert window.complete_slots == 40 - len(holes)


def test_window__a_thirty_minute_feeder_is_known_by_its_fourth_reading():
    window = filled([make(30 * n, n) for n in range(1, 4)])
    assert window.step_min == 15
    window.add(make(120, 4))
    assert (window.step_min, window.complete_slots) == (30, 4)
    np.testing.assert_array_equal(tail(window, 4), np.float32([1, 2, 3, 4]))


def test_window__a_lost_second_reading_does_not_make_it_a_thirty_minute_feeder():
    window = filled([make(15, 1), make(45, 3)])
    assert window.step_min == 15
    np.testing.assert_array_equal(tail(window, 3), np.float32([1, np.nan, 3]))


@pytest.mark.parametrize(("before_min", "after_min"), [(5, 15), (15, 5), (15, 30), (30, 10), (1, 30)])
def test_window__keeps_its_history_when_the_sampling_changes(before_min, after_min):
    turn = 48 * 60
    readings = [make(m, m) for m in range(before_min, turn + 1, before_min)]
    readings += [make(m, m) for m in range(turn + after_min, 2 * turn + 1, after_min)]
    window = filled(readings)
    assert window.sampling_min == after_min
    assert window.complete_slots == 4 * 24 * 60 // window.step_min


def test_window__forgets_what_is_older_than_it_holds():
    readings = series(15, 2000)
    window = filled(readings)
    assert window.complete_slots == window.slots
    expected = np.float32([reading.load_kw for reading in readings[-776:]])
    np.testing.assert_array_equal(window.history().load_kw, expected)


@pytest.mark.parametrize("days", [1, 7, 8, 9, 400])
def test_window__an_outage_leaves_nothing_old_in_the_wrong_place(days):
    readings = [make(15 * (n + 1), 7.0) for n in range(1000)]
    window = filled(readings)
    window.add(make(15 * 1000 + days * 1440, 9.0))
    load_kw = window.history().load_kw
    assert load_kw[-1] == 9.0
    assert np.isnan(load_kw[-min(776, days * 96) : -1]).all()
    assert np.count_nonzero(load_kw == 7.0) == max(0, 776 - days * 96)


def test_window__adds_relief_back_without_touching_the_measurements():
    window = filled([make(15, 10), make(30, 20)])
    adjust = np.zeros(776, dtype=np.float32)
    adjust[-1] = 5.0
    np.testing.assert_array_equal(window.history(adjust).load_kw[-2:], np.float32([10, 25]))
    np.testing.assert_array_equal(tail(window, 2), np.float32([10, 20]))


def test_window__hands_out_copies():
    window = filled([make(15, 10)])
    window.history().load_kw[:] = 0
    assert tail(window, 1)[0] == 10


irregular = st.lists(
    st.tuples(st.sampled_from([1, 5, 10, 15, 15, 15, 15, 30, 45, 200]), st.integers(-99, 99)),
    min_size=1,
    max_size=70,
)


@settings(deadline=None)
@given(irregular, st.randoms(use_true_random=False), st.integers(0, 70))
def test_window__depends_on_the_readings_and_not_on_how_they_came(rows, random, split):
    minute, readings = 0, []
    for gap, load_kw in rows:
        minute += gap
        readings.append(make(minute, load_kw, load_kw / 10))
    in_order = filled(readings)
    bulk = FeederWindow("F")
    bulk.load(readings)
    mixed = FeederWindow("F")
    mixed.load(readings[:split])
    rest = readings[split:]
    random.shuffle(rest)
    for reading in rest:
        mixed.add(reading)
    for other in (bulk, mixed):
        assert (other.step_min, other.sampling_min) == (in_order.step_min, in_order.sampling_min)
        for mine, theirs in zip(in_order.history(), other.history(), strict=True):
            np.testing.assert_array_equal(mine, theirs)


@pytest.mark.parametrize("sampling_min", [1, 10, 15, 30])
def test_window__a_rebuilt_window_goes_on_like_the_one_it_replaces(sampling_min):
    readings = series(sampling_min, 12 * 1440 // sampling_min)
    readings = [reading for n, reading in enumerate(readings) if n % 97]
    cut = len(readings) - 50
    first = FeederWindow("F")
    first.load(readings[: cut - 3000])
    second = FeederWindow("F")
    second.load(readings[:cut])
    for reading in readings[cut - 3000 : cut]:
        first.add(reading)
    for reading in readings[cut:]:
        assert first.add(reading) == second.add(reading)
        np.testing.assert_array_equal(first.history().load_kw[-600:], second.history().load_kw[-600:])


def test_window__loads_a_year_in_half_a_second():
    readings = series(15, 35_000)
    window = FeederWindow("F")
    began = time.process_time()
    window.load(readings)
    assert time.process_time() - began < 0.5
    np.testing.assert_array_equal(
        window.history().load_kw, np.float32([reading.load_kw for reading in readings[-776:]])
    )


def test_window__load_arrays_leaves_missing_values_out():
    window = FeederWindow("F")
    minutes = np.arange(1, 9, dtype=np.int64) * 15 + minute_of(T0)
    load_kw = np.float32([1, 2, np.nan, 4, 5, 6, 7, np.nan])
    window.load_arrays(minutes, load_kw, np.full(8, np.nan, dtype=np.float32))
    assert window.newest_at == T0 + timedelta(minutes=105)
    np.testing.assert_array_equal(tail(window, 7), np.float32([1, 2, np.nan, 4, 5, 6, 7]))
    window.load_arrays(minutes[:0], load_kw[:0], load_kw[:0])
    assert window.complete_slots == 6
