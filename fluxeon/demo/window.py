"""Which days of a source the demo replays: pure.

Rules:

* Eight days before the live part are loaded as history, as far as the source has them.
* A short source is replayed whole. Of a long one the days around its highest loading are taken: the
  highest loading any feeder holds for an hour, so that a single wild reading does not decide.
* ``--from`` and ``--days`` override the choice.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view

from fluxeon.demo.source import DemoFeeder
from fluxeon.errors import BadUsage

HISTORY = timedelta(days=8)
LIVE = timedelta(days=4)
SHORT = timedelta(days=16)
"""A source up to this long is replayed whole."""
SHORT_HISTORY_PART = 2 / 3
"""Part of a source shorter than the history that serves as history."""


@dataclass(frozen=True)
class Window:
    """The part of a source to replay.

    Attributes:
        history_start: Readings that end after this, up to ``live_start``, are loaded as history.
        live_start: Readings that end after this, up to ``live_end``, are replayed one instant at a time.
        live_end: End of the live part.
        reason: Why these days, for the screen.
    """

    history_start: datetime
    live_start: datetime
    live_end: datetime
    reason: str


def choose_window(
    feeders: Sequence[DemoFeeder], *, start: datetime | None = None, days: float | None = None
) -> Window:
    """Choose the days to replay.

    Args:
        feeders: The source's feeders; at least one.
        start: Start of the live part, as asked for.
        days: Length of the live part, as asked for.

    Raises:
        BadUsage: What was asked for lies outside the source.
    """
    first = min(_instant(one.series.end_s[0]) - _step(one) for one in feeders)
    last = max(_instant(one.series.end_s[-1]) for one in feeders)
    length = LIVE if days is None else timedelta(days=days)
    if length <= timedelta(0):
        raise BadUsage("--days must be above 0")
    if start is not None:
        if not first <= start < last:
            raise BadUsage(f"--from {_day(start)}: the source goes from {_day(first)} to {_day(last)}")
        live_start, reason = start, "as asked for"
    elif last - first <= SHORT:
        live_start = first + min(HISTORY, (last - first) * SHORT_HISTORY_PART)
        length = last - live_start if days is None else length
        reason = "the whole source" if days is None else "the first days after the history"
    else:
        peak_at, loading = highest_loading(feeders, not_before=first + HISTORY)
        # Half of the live days, in whole days, come before the day of the peak.
        wanted = peak_at.replace(hour=0, minute=0, second=0, microsecond=0) - timedelta(days=length.days // 2)
        live_start = max(first + HISTORY, min(wanted, last - length))
        reason = f"around the source's highest loading, {loading:.0%} of rating on {_day(peak_at)}"
    return Window(
        history_start=max(first, live_start - HISTORY),
        live_start=live_start,
        live_end=min(last, live_start + length),
        reason=reason,
    )


def highest_loading(feeders: Sequence[DemoFeeder], *, not_before: datetime) -> tuple[datetime, float]:
    """Find the highest loading (|load| / rating) that any feeder holds for an hour.

    Returns:
        The end of that hour and the loading; the start of the search and 0 where nothing is known.
    """
    best_at, best = not_before, 0.0
    for feeder in feeders:
        series = feeder.series
        count = max(1, 60 // series.step_min)
        late = series.end_s > not_before.timestamp()
        loading = np.abs(series.load_kw[late]) / feeder.rating_kw
        if loading.size < count:
            continue
        held = np.nan_to_num(sliding_window_view(loading, count).min(axis=1), nan=0.0)
        place = int(np.argmax(held))
        if held[place] > best:
            best = float(held[place])
            best_at = _instant(series.end_s[late][place + count - 1])
    return best_at, best


def _step(feeder: DemoFeeder) -> timedelta:
    return timedelta(minutes=feeder.series.step_min)


def _instant(seconds: np.int64) -> datetime:
    return datetime.fromtimestamp(int(seconds), UTC)


def _day(instant: datetime) -> str:
    return instant.strftime("%Y-%m-%d")
