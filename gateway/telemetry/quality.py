"""Whether what a feeder sends can be believed.

* Dead or poisoned input never trades (contract): what is not known to be good fails closed.
* Flags are facts about the window; :func:`usable_for_trading` is the decision, with its reason.
* Silence is judged by wall time since the last arrival, never by event time, so replays are not stale.
"""

import math
from datetime import datetime

import msgspec
import numpy as np
from numpy.typing import NDArray


class QualityRules(msgspec.Struct, frozen=True, kw_only=True):
    """Bounds of the flags.

    Real 15-min feeders show 50 or more distinct values a day and are flat for 2.5 h at most; a dead or
    quantised meter shows one or two values.
    """

    min_distinct: int = 4
    """Distinct values in a day below which a meter is frozen."""
    min_distinct_warm_up: int = 3
    """The same while less than a day is known: not frozen yet, but not trusted."""
    stuck_after_h: float = 6.0
    """The newest value repeated for this long is a stuck meter."""
    dead_zero_share: float = 0.9
    max_missing_hour: float = 0.25
    max_missing_day: float = 0.10
    """Shares missing above which the window is gapped (bands widen, states hold)."""
    max_missing_hour_trading: float = 0.5
    max_missing_day_trading: float = 0.5
    min_history_h: float = 1.0
    silence_intervals: float = 4.0
    silence_grace_s: float = 30.0


DEFAULT_RULES = QualityRules()


class Quality(msgspec.Struct, frozen=True, kw_only=True):
    """Facts about a window.

    Attributes:
        dead: Nearly all exactly zero.
        frozen: Too few distinct values over a day, or the newest value repeated for hours.
        gapped: Too much missing in the last hour or day.
        short: Less than the minimum of history.
        newest_missing: The newest slot has no value.
        missing_hour, missing_day: Share of slots missing, since the first known one.
        history_h: Hours of known slots.
        distinct: Distinct values in the last day of known slots.
        zero_share: Share of exact zeros in the same.
        flat_h: Hours the newest value has been repeated.
        warming_up: Less than a day known and too few distinct values to tell a live meter.
        rated: A positive rating is configured.
    """

    dead: bool
    frozen: bool
    gapped: bool
    short: bool
    newest_missing: bool
    missing_hour: float
    missing_day: float
    history_h: float
    distinct: int
    zero_share: float
    flat_h: float
    warming_up: bool
    rated: bool

    @property
    def flags(self) -> tuple[str, ...]:
        """Names of the flags that are set, in a fixed order."""
        names = ("dead", "frozen", "gapped", "short", "newest_missing", "warming_up")
        return tuple(name for name in names if getattr(self, name))


class Usability(msgspec.Struct, frozen=True, kw_only=True):
    """Whether decisions that cost money may rest on a feeder's window."""

    usable: bool
    code: str
    reason: str


class Silence(msgspec.Struct, frozen=True, kw_only=True):
    """How long nothing has come, by wall time."""

    stale: bool
    silent_s: float
    limit_s: float


def assess_quality(
    load_kw: NDArray[np.float32],
    rating_kw: float | None,
    step_min: int,
    *,
    rules: QualityRules = DEFAULT_RULES,
) -> Quality:
    """Derive the flags of one window.

    Args:
        load_kw: MEASURED load, shape (W,), newest last, NaN where missing. Not the gross load: adding
            our own relief would make a dead meter look alive.
        rating_kw: Rating of the feeder, None where it is not configured.
        step_min: Length of a slot.
        rules: Bounds.
    """
    per_hour = 60 // step_min
    per_day = 24 * per_hour
    present = np.flatnonzero(~np.isnan(load_kw))
    total = len(load_kw)
    newest_missing = len(present) == 0 or int(present[-1]) != total - 1
    span = total - int(present[0]) if len(present) else 0
    missing_hour = _missing(load_kw, min(per_hour, span))
    missing_day = _missing(load_kw, min(per_day, span))

    # The last day of KNOWN values: gaps must not hide a stuck meter.
    last_day = load_kw[present[-per_day:]]
    known = len(last_day)
    distinct = len(np.unique(last_day))
    zero_share = float(np.count_nonzero(last_day == 0) / known) if known else 0.0
    flat = _flat_slots(load_kw[present])
    full_day = known >= per_day
    stuck = flat * step_min >= rules.stuck_after_h * 60
    return Quality(
        dead=(full_day and zero_share >= rules.dead_zero_share) or (known >= per_hour and zero_share == 1.0),
        frozen=stuck or (full_day and distinct < rules.min_distinct),
        gapped=missing_hour > rules.max_missing_hour or missing_day > rules.max_missing_day,
        short=len(present) * step_min < rules.min_history_h * 60,
        newest_missing=newest_missing,
        missing_hour=missing_hour,
        missing_day=missing_day,
        history_h=len(present) * step_min / 60,
        distinct=distinct,
        zero_share=zero_share,
        flat_h=flat * step_min / 60,
        warming_up=not full_day and distinct < rules.min_distinct_warm_up,
        rated=rating_kw is not None and math.isfinite(rating_kw) and rating_kw > 0,
    )


def _missing(load_kw: NDArray[np.float32], slots: int) -> float:
    """Share of NaN in the newest ``slots``; 1 when there are none."""
    return float(np.isnan(load_kw[-slots:]).mean()) if slots else 1.0


def _flat_slots(known: NDArray[np.float32]) -> int:
    """How many of the newest known values equal the newest."""
    if len(known) == 0:
        return 0
    other = np.flatnonzero(known != known[-1])
    return len(known) - (int(other[-1]) + 1 if len(other) else 0)


def assess_silence(
    last_arrival_at: datetime | None,
    now: datetime,
    sampling_min: int,
    *,
    rules: QualityRules = DEFAULT_RULES,
) -> Silence:
    """Judge silence by wall time.

    Args:
        last_arrival_at: Wall time at which the last reading came; None when none has since the start.
        now: Wall time.
        sampling_min: The feeder's sampling interval.
        rules: Bounds.

    Returns:
        ``stale`` when nothing came for several intervals. A feeder never heard of is stale.
    """
    limit_s = rules.silence_intervals * sampling_min * 60 + rules.silence_grace_s
    if last_arrival_at is None:
        return Silence(stale=True, silent_s=float("inf"), limit_s=limit_s)
    silent_s = max(0.0, (now - last_arrival_at).total_seconds())
    return Silence(stale=silent_s > limit_s, silent_s=silent_s, limit_s=limit_s)


def usable_for_trading(
    quality: Quality, silence: Silence | None = None, *, rules: QualityRules = DEFAULT_RULES
) -> Usability:
    """Decide whether a feeder may buy on this window. Unknown fails closed.

    Args:
        quality: From :func:`assess_quality`.
        silence: From :func:`assess_silence`; None where a reading has just come.
        rules: The rules the quality was assessed with.

    Returns:
        The first reason against it, the gravest first; code ``ok`` when there is none.
    """
    checks: tuple[tuple[bool, str, str], ...] = (
        (quality.dead, "dead", f"{quality.zero_share:.0%} of the last day is exactly zero: a dead meter"),
        (
            quality.frozen,
            "frozen",
            (
                f"{quality.distinct} distinct values in the last day, the newest repeated for "
                f"{quality.flat_h:.1f} h: a stuck meter"
            ),
        ),
        (
            silence is not None and silence.stale,
            "stale",
            f"nothing came for {silence.silent_s:.0f} s (limit {silence.limit_s:.0f} s)" if silence else "",
        ),
        (quality.newest_missing, "newest_missing", "the newest slot was not measured"),
        (quality.short, "short", f"{quality.history_h:.2f} h of history, {rules.min_history_h:g} h needed"),
        (
            quality.warming_up,
            "warming_up",
            (
                f"{quality.distinct} distinct values in {quality.history_h:.1f} h: too few to tell a live "
                "meter from a stuck one"
            ),
        ),
        (
            quality.missing_hour > rules.max_missing_hour_trading,
            "gapped",
            f"{quality.missing_hour:.0%} of the last hour is missing",
        ),
        (
            quality.missing_day > rules.max_missing_day_trading,
            "gapped",
            f"{quality.missing_day:.0%} of the last day is missing",
        ),
        (not quality.rated, "unrated", "no rating is configured"),
    )
    for fails, code, reason in checks:
        if fails:
            return Usability(usable=False, code=code, reason=reason)
    return Usability(usable=True, code="ok", reason="the window is complete enough and alive")
