from datetime import UTC, date, datetime, timedelta
from itertools import pairwise
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.flex.periods import (
    PERIOD,
    day_start,
    period_at,
    period_start,
    periods_between,
    periods_in_day,
)

FORWARD = date(2026, 3, 29)
BACK = date(2026, 10, 25)
instants = st.integers(946_684_800_000_000, 2_114_380_800_000_000).map(
    lambda micros: datetime.fromtimestamp(0, UTC) + timedelta(microseconds=micros)
)


def utc(text: str) -> datetime:
    return datetime.fromisoformat(text).replace(tzinfo=UTC)


@pytest.mark.parametrize(
    ("day", "count"),
    [
        pytest.param(date(2026, 1, 5), 48, id="winter"),
        pytest.param(date(2026, 7, 1), 48, id="summer"),
        pytest.param(FORWARD, 46, id="clocks go forward"),
        pytest.param(BACK, 50, id="clocks go back"),
    ],
)
def test_a_day_has_as_many_periods_as_half_hours_really_pass(day, count):
    assert periods_in_day(day) == count


@pytest.mark.parametrize(
    ("instant", "day", "number"),
    [
        pytest.param("2026-01-05T00:00", date(2026, 1, 5), 1, id="first of a winter day"),
        pytest.param("2026-01-05T23:59:59.999999", date(2026, 1, 5), 48, id="last of a winter day"),
        pytest.param("2026-11-11T17:00", date(2026, 11, 11), 35, id="evening peak"),
        pytest.param("2026-06-30T23:00", date(2026, 7, 1), 1, id="a summer day starts the day before"),
        pytest.param("2026-03-29T00:30", FORWARD, 2, id="before the jump"),
        pytest.param("2026-03-29T01:00", FORWARD, 3, id="behind the jump"),
        pytest.param("2026-03-29T22:30", FORWARD, 46, id="last of the short day"),
        pytest.param("2026-10-24T23:00", BACK, 1, id="first of the long day"),
        pytest.param("2026-10-25T00:00", BACK, 3, id="01:00 local for the first time"),
        pytest.param("2026-10-25T01:00", BACK, 5, id="01:00 local for the second time"),
        pytest.param("2026-10-25T23:30", BACK, 50, id="last of the long day"),
    ],
)
def test_a_period_is_named_by_local_date_and_number(instant, day, number):
    period = period_at(utc(instant))
    assert (period.date, period.number) == (day, number)
    assert period.start <= utc(instant) < period.end
    assert period_start(day, number) == period.start


@given(instants)
def test_an_instant_is_in_the_period_that_its_name_leads_back_to(instant):
    period = period_at(instant)
    assert period.start <= instant < period.end
    assert period.end - period.start == PERIOD
    assert period_start(period.date, period.number) == period.start
    assert 1 <= period.number <= period.periods_in_day
    assert period.start.tzinfo is UTC


@given(st.dates(date(2000, 1, 1), date(2036, 12, 31)))
def test_periods_of_a_day_follow_one_another_to_the_next_midnight(day):
    periods = periods_between(day_start(day), day_start(day + timedelta(days=1)))
    assert [period.number for period in periods] == list(range(1, periods_in_day(day) + 1))
    assert {period.date for period in periods} == {day}


@given(instants, st.integers(1, 5 * 3600))
def test_periods_between_cover_a_span_and_no_more(start, seconds):
    end = start + timedelta(seconds=seconds)
    periods = periods_between(start, end)
    assert periods[0].start <= start < periods[0].end
    assert periods[-1].start < end <= periods[-1].end
    assert all(before.end == after.start for before, after in pairwise(periods))


def test_local_datetimes_that_share_a_zone_are_not_subtracted_as_wall_clocks():
    """On the long night 00:30 to 02:30 lasts three hours; by wall clock it would be two."""
    london = ZoneInfo("Europe/London")
    start = datetime(2026, 10, 25, 0, 30, tzinfo=london)
    end = datetime(2026, 10, 25, 2, 30, tzinfo=london)
    assert [period.number for period in periods_between(start, end)] == [2, 3, 4, 5, 6, 7]
    assert period_at(datetime(2026, 10, 25, 1, 0, tzinfo=london)).number == 3
    assert period_at(datetime(2026, 10, 25, 1, 0, fold=1, tzinfo=london)).number == 5


@pytest.mark.parametrize("number", [0, 47, -1])
def test_a_period_that_the_day_does_not_have_is_refused(number):
    with pytest.raises(ValueError, match="46 settlement periods"):
        period_start(FORWARD, number)


def test_naive_times_and_empty_spans_are_refused():
    naive = utc("2026-01-05").replace(tzinfo=None)
    with pytest.raises(ValueError, match="naive"):
        period_at(naive)
    with pytest.raises(ValueError, match="not a span"):
        periods_between(naive, utc("2026-01-06"))
    with pytest.raises(ValueError, match="not a span"):
        periods_between(utc("2026-01-06"), utc("2026-01-06"))
