"""Settlement periods of Great Britain: half-hours of the local day. Pure.

* A settlement day runs from local midnight to local midnight (Europe/London) and has 48 periods,
  46 on the day the clocks go forward and 50 on the day they go back.
* Period 1 is the first half-hour of the local day; in summer it starts at 23:00 UTC of the day
  before.
* Everything is reckoned in UTC: two datetimes that share a time zone subtract as wall clocks in
  Python, which would make every day 24 hours long.

Source: Elexon SVA Data Catalogue Volume 2, items "Settlement Period Id" and "Settlement Date".
"""

from datetime import UTC, date, datetime, timedelta
from zoneinfo import ZoneInfo

import msgspec

LOCAL = ZoneInfo("Europe/London")
PERIOD = timedelta(minutes=30)


class SettlementPeriod(msgspec.Struct, frozen=True, kw_only=True, order=True):
    """One half-hour of settlement: [start, end) in UTC and its name.

    Attributes:
        start: Aware UTC.
        end: Aware UTC.
        date: Local calendar date (settlement date).
        number: 1 to 50 (settlement period).
    """

    start: datetime
    end: datetime
    date: date
    number: int

    @property
    def periods_in_day(self) -> int:
        """How many periods its day has: 46, 48 or 50."""
        return periods_in_day(self.date)


def day_start(day: date) -> datetime:
    """Instant at which a settlement day begins, UTC."""
    return datetime(day.year, day.month, day.day, tzinfo=LOCAL).astimezone(UTC)


def periods_in_day(day: date) -> int:
    """Number of settlement periods of a local day: 46, 48 or 50."""
    return (day_start(day + timedelta(days=1)) - day_start(day)) // PERIOD


def period_at(instant: datetime) -> SettlementPeriod:
    """Return the period that contains an aware instant.

    Raises:
        ValueError: ``instant`` is naive.
    """
    if instant.tzinfo is None:
        raise ValueError(f"a naive datetime has no settlement period: {instant.isoformat()}")
    utc = instant.astimezone(UTC)
    day = utc.astimezone(LOCAL).date()
    midnight = day_start(day)
    index = (utc - midnight) // PERIOD
    start = midnight + index * PERIOD
    return SettlementPeriod(start=start, end=start + PERIOD, date=day, number=index + 1)


def period_start(day: date, number: int) -> datetime:
    """Start of a period by its name, UTC.

    Raises:
        ValueError: The day has no period of that number.
    """
    if not 1 <= number <= periods_in_day(day):
        raise ValueError(f"{day.isoformat()} has {periods_in_day(day)} settlement periods, not {number}")
    return day_start(day) + (number - 1) * PERIOD


def periods_between(start: datetime, end: datetime) -> tuple[SettlementPeriod, ...]:
    """Periods that overlap [start, end), in order.

    Raises:
        ValueError: An end is naive, or the span is empty.
    """
    if start.tzinfo is None or end.tzinfo is None or end.astimezone(UTC) <= start.astimezone(UTC):
        raise ValueError(f"not a span of time: {start.isoformat()} to {end.isoformat()}")
    periods = [period_at(start)]
    while periods[-1].end < end.astimezone(UTC):
        periods.append(period_at(periods[-1].end))
    return tuple(periods)
