"""The only feature code: training, serving and evaluation call :func:`feature_matrix`.

Rules:

* Every feature is causal: nothing after the end of the newest slot enters.
* Loads are divided by the feeder's rating, and changes by the feeder's own recent volatility, so that
  load and rating in other units give the same features and a model transfers between feeders.
* A feeder that mostly exports is mirrored (``sign`` -1) before anything else, so that a feeder and its
  mirror image have the same features. Forecasts are mirrored back.
* What cannot be computed from the history at hand is NaN; the trees were trained with that.
* One call for all feeders; no Python loop over them.

Source: requirements R16 to R19 (window statistics, exogenous variables, normalisation).
"""

from dataclasses import dataclass
from functools import cache
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

Float32: TypeAlias = NDArray[np.float32]
Int64: TypeAlias = NDArray[np.int64]

HISTORY_DAYS = 8
HORIZONS_MIN = (15, 30, 45, 60)
ALERT_LOADING = 0.85
CRITICAL_LOADING = 1.0

_DAYS_BACK = 7
_LAGS = 8
_PATTERN = 8
"""Slots of the newest pattern that is compared with the same time on earlier days."""
_PATTERN_WIDTH = 0.5
"""Distance (in volatilities) at which an earlier day counts 1/e as much."""
_FILL_SLOTS = 4
"""A gap is bridged by its last known value for at most this many slots."""
_VOLATILITY_FLOOR = 1e-3
_VOLATILITY_UNKNOWN = 0.03
_CREST_CAP = 10.0
_WINDOWS_H = (1, 4, 24)
_DAY_S = 86_400
_STATISTICS = ("mean", "variance", "min", "max", "rms", "kurtosis", "crest_factor")


@dataclass(frozen=True)
class FeederBatch:
    """Recent history of ``n`` feeders of one step.

    Attributes:
        load_kw: float32 (n, W), regular grid, oldest first; the newest column is the slot that ended at
            the origin. NaN = missing. W = :func:`history_slots` (older columns are ignored, a shorter
            history is padded with NaN by the caller or by :func:`feature_matrix`).
        rating_kw: (n,), > 0.
        origin_s: int64 (n,), unix seconds of the END of the newest slot.
        step_min: 15 or 30.
        temperature_c: float32 (n, W), NaN = missing; None = no thermometer at any of them.
        utc_offset_s: (n,), local time minus UTC; None = UTC.
        holiday: (n,) bool, whether the local day of the first forecast slot is a holiday; None = no.
        event: (n,) bool, a special event is announced for the next hour; None = no.
    """

    load_kw: Float32
    rating_kw: NDArray[np.floating]
    origin_s: Int64
    step_min: int
    temperature_c: Float32 | None = None
    utc_offset_s: NDArray[np.integer] | None = None
    holiday: NDArray[np.bool_] | None = None
    event: NDArray[np.bool_] | None = None

    @property
    def size(self) -> int:
        """Number of feeders."""
        return int(self.load_kw.shape[0])


@dataclass(frozen=True)
class Frame:
    """Features and what turns forecasts in feature units back into kW.

    Attributes:
        features: float32 (n, F), ordered as :data:`FEATURE_NAMES`.
        now_kw: float64 (n,), the newest known load (at most four slots old), NaN if none.
        unit_kw: float64 (n,), kW of one volatility, signed: negative where the feeder was mirrored.
    """

    features: Float32
    now_kw: NDArray[np.float64]
    unit_kw: NDArray[np.float64]


def slots_per_hour(step_min: int) -> int:
    """Number of forecast slots: 4 at 15 min, 2 at 30 min."""
    return 60 // step_min


def history_slots(step_min: int) -> int:
    """Columns of :class:`FeederBatch`: eight days and one hour (772 at 15 min)."""
    return HISTORY_DAYS * 24 * slots_per_hour(step_min) + slots_per_hour(step_min)


def horizons_min(step_min: int) -> tuple[int, ...]:
    """Forecast horizons in minutes: every step up to 60."""
    return tuple(range(step_min, 61, step_min))


def _names() -> tuple[str, ...]:
    names = ["loading", "volatility_log"]
    names += [f"back_{k}" for k in range(1, _LAGS + 1)]
    names += [f"back_{h}h" for h in (3, 4, 6)]
    for kind in (
        "ramp_day",
        "ramp_week",
        "ramp_mean7",
        "ramp_std7",
        "ramp_alike",
        "gap_day",
        "gap_week",
        "gap_mean7",
    ):
        names += [f"{kind}_{minutes}min" for minutes in HORIZONS_MIN]
    names += [
        "off_day",
        "off_week",
        "off_mean7",
        "turn_day_1",
        "turn_day_1h",
        "turn_mean7_1",
        "turn_mean7_1h",
        "likeness",
    ]
    for hours in _WINDOWS_H:
        names += [f"{statistic}_{hours}h" for statistic in _STATISTICS]
    for hours in _WINDOWS_H:
        names += [f"above_mean_{hours}h", f"below_max_{hours}h", f"above_min_{hours}h", f"roughness_{hours}h"]
    names += ["max_abs_24h", "max_abs_7d", "same_hour_max_day", "same_hour_max_week"]
    names += ["to_alert", "to_critical"]
    names += [f"{wave}_day_{k}" for k in (1, 2, 3) for wave in ("sin", "cos")]
    names += ["sin_week", "cos_week", "weekend", "holiday", "event"]
    names += ["temperature", "temperature_change_1h", "temperature_change_day"]
    names += ["known_24h", "known_7d"]
    return tuple(names)


FEATURE_NAMES: tuple[str, ...] = _names()
"""Names of the feature columns, in order. ``*_15min`` and ``*_45min`` are NaN at a 30-min step."""


def feature_matrix(batch: FeederBatch) -> Float32:
    """Features of every feeder, float32 (n, F), ordered as :data:`FEATURE_NAMES`."""
    return frame(batch).features


def frame(batch: FeederBatch) -> Frame:
    """Features of every feeder together with the units of their forecasts.

    Raises:
        ValueError: ``step_min`` is neither 15 nor 30, or a rating is not positive.
    """
    if batch.step_min not in (15, 30):
        raise ValueError(f"step_min {batch.step_min}: features exist for 15 and 30")
    rating = np.asarray(batch.rating_kw, dtype=np.float64)
    if not np.all(rating > 0):
        raise ValueError("every rating_kw must be positive")
    per_hour = slots_per_hour(batch.step_min)
    per_day = 24 * per_hour
    load = _padded(batch.load_kw, history_slots(batch.step_min))
    known = np.isfinite(load)
    complete = bool(known.all())
    load = load if complete else _bridged(load, known)
    p: Float32 = np.divide(load, rating[:, None], dtype=np.float32)

    level = _mean(p[:, -_DAYS_BACK * per_day :], complete=complete)
    sign = np.asarray(np.where(level < 0, -1, 1), dtype=np.float32)
    p *= sign[:, None]
    now = p[:, -1]
    unit = _volatility(p, per_hour, per_day, complete=complete)

    columns: list[Float32] = [now, np.log(unit)]
    columns += _recent(p, now, unit, per_hour)
    columns += _earlier_days(p, now, unit, per_hour, per_day)
    columns += _statistics(p, now, unit, per_hour, complete=complete)
    columns += _loading(p, now, per_hour, per_day)
    columns += _calendar(batch)
    columns += _temperature(batch, per_hour, per_day)
    columns += [
        known[:, -per_day:].mean(axis=1, dtype=np.float32),
        known[:, -_DAYS_BACK * per_day :].mean(axis=1, dtype=np.float32),
    ]
    signed = sign.astype(np.float64)
    return Frame(
        features=np.stack(columns, axis=1).astype(np.float32, copy=False),
        now_kw=load[:, -1].astype(np.float64),
        unit_kw=unit.astype(np.float64) * rating * signed,
    )


def _padded(load_kw: Float32, width: int) -> Float32:
    load = np.asarray(load_kw, dtype=np.float32)
    if load.shape[1] >= width:
        return load[:, load.shape[1] - width :]
    padding = np.full((load.shape[0], width - load.shape[1]), np.nan, dtype=np.float32)
    return np.concatenate([padding, load], axis=1)


def _bridged(load: Float32, known: NDArray[np.bool_]) -> Float32:
    """Carry the last known value over gaps of up to four slots (causal)."""
    place = np.arange(load.shape[1], dtype=np.int32)
    last = np.maximum.accumulate(np.where(known, place, np.int32(-1)), axis=1)
    near = (last >= 0) & (place - last <= _FILL_SLOTS)
    filled = np.take_along_axis(load, np.maximum(last, 0), axis=1)
    return np.where(near, filled, np.float32(np.nan))


def _mean(values: Float32, *, complete: bool) -> Float32:
    """Mean over the last axis without the NaNs; NaN where nothing is known."""
    if complete:
        return np.asarray(values.mean(axis=-1), dtype=np.float32)
    here = np.isfinite(values)
    count = here.sum(axis=-1).astype(np.float32)
    total = np.where(here, values, np.float32(0)).sum(axis=-1, dtype=np.float32)
    return np.asarray(np.where(count > 0, total / np.maximum(count, 1), np.float32(np.nan)), dtype=np.float32)


def _volatility(p: Float32, per_hour: int, per_day: int, *, complete: bool) -> Float32:
    """Mean absolute 1-h change over the last week, in ratings: the unit of every change."""
    recent = p[:, -_DAYS_BACK * per_day :]
    unit = _mean(np.abs(recent[:, per_hour:] - recent[:, :-per_hour]), complete=complete)
    unit = np.where(np.isfinite(unit), unit, np.float32(_VOLATILITY_UNKNOWN))
    return np.asarray(np.maximum(unit, np.float32(_VOLATILITY_FLOOR)), dtype=np.float32)


def _recent(p: Float32, now: Float32, unit: Float32, per_hour: int) -> list[Float32]:
    backs = [p[:, -1 - k] for k in range(1, _LAGS + 1)] + [p[:, -1 - h * per_hour] for h in (3, 4, 6)]
    return [(back - now) / unit for back in backs]


def _earlier_days(p: Float32, now: Float32, unit: Float32, per_hour: int, per_day: int) -> list[Float32]:
    """Ramps and gaps: what the same time of the last seven days says about the next hour."""
    newest = p.shape[1] - 1
    pattern = _PATTERN * per_hour // 4
    places = newest - per_day * np.arange(1, _DAYS_BACK + 1)[:, None] + np.arange(-pattern, per_hour + 1)
    days = p[:, places]  # (n, 7, pattern + 1 + horizons)
    then = days[:, :, pattern]
    ramps = (days[:, :, pattern + 1 :] - then[:, :, None]) / unit[:, None, None]  # (n, 7, H)
    off = (now[:, None] - then) / unit[:, None]

    shapes = days[:, :, :pattern] - then[:, :, None]
    shape_now = p[:, newest - pattern : newest] - now[:, None]
    distance = np.abs(shapes - shape_now[:, None, :]).mean(axis=2) / unit[:, None]
    usable = np.isfinite(distance) & np.isfinite(ramps[:, :, -1])
    weight = np.where(
        usable, np.exp(-np.minimum(np.nan_to_num(distance, nan=50.0), 50.0) / _PATTERN_WIDTH), 0.0
    )
    total = weight.sum(axis=1)
    safe = np.where(total > 0, total, 1.0)
    alike = np.where(
        total[:, None] > 0,
        (weight[:, :, None] * np.where(usable[:, :, None], np.nan_to_num(ramps), 0.0)).sum(axis=1)
        / safe[:, None],
        np.nan,
    ).astype(np.float32)

    complete = bool(np.isfinite(ramps).all())
    mean_ramp = _mean(ramps.transpose(0, 2, 1), complete=complete)
    spread = np.sqrt(
        np.maximum(_mean((ramps * ramps).transpose(0, 2, 1), complete=complete) - mean_ramp * mean_ramp, 0)
    )
    mean_off = _mean(off, complete=complete)
    columns: list[Float32] = []
    for block in (
        ramps[:, 0],
        ramps[:, _DAYS_BACK - 1],
        mean_ramp,
        spread,
        alike,
        ramps[:, 0] - off[:, :1],
        ramps[:, _DAYS_BACK - 1] - off[:, _DAYS_BACK - 1 :],
        mean_ramp - mean_off[:, None],
    ):
        columns += _by_minutes(np.asarray(block, dtype=np.float32), per_hour)
    back_1, back_1h = p[:, -2], p[:, -1 - per_hour]
    day_1 = (then[:, 0] - days[:, 0, pattern - 1]) / unit
    day_1h = (then[:, 0] - p[:, newest - per_day - per_hour]) / unit
    week_mean_1 = _mean(then - days[:, :, pattern - 1], complete=complete) / unit
    earlier = p[:, newest - per_day * np.arange(1, _DAYS_BACK + 1) - per_hour]
    week_mean_1h = _mean(then - earlier, complete=complete) / unit
    change_1, change_1h = (now - back_1) / unit, (now - back_1h) / unit
    columns += [off[:, 0], off[:, _DAYS_BACK - 1], mean_off]
    columns += [change_1 - day_1, change_1h - day_1h, change_1 - week_mean_1, change_1h - week_mean_1h]
    columns.append(total.astype(np.float32))
    return columns


def _by_minutes(block: Float32, per_hour: int) -> list[Float32]:
    """Spread (n, H) over the columns of 15, 30, 45 and 60 min."""
    if per_hour == 4:
        return [block[:, h] for h in range(4)]
    nothing = np.full(block.shape[0], np.nan, dtype=np.float32)
    return [nothing, block[:, 0], nothing, block[:, 1]]


def _statistics(p: Float32, now: Float32, unit: Float32, per_hour: int, *, complete: bool) -> list[Float32]:
    """R16 over 1, 4 and 24 h, then the same windows seen from now in volatilities."""
    plain: list[Float32] = []
    relative: list[Float32] = []
    for hours in _WINDOWS_H:
        window = p[:, -hours * per_hour :]
        mean = _mean(window, complete=complete)
        centred = window - mean[:, None]
        square = centred * centred
        variance = _mean(square, complete=complete)
        fourth = _mean(square * square, complete=complete)
        rms = np.sqrt(_mean(window * window, complete=complete))
        low, high = np.fmin.reduce(window, axis=1), np.fmax.reduce(window, axis=1)
        top = np.maximum(np.abs(low), np.abs(high))
        with np.errstate(divide="ignore", invalid="ignore"):
            kurtosis = np.where(
                variance < 1e-9, np.float32(0), fourth / (variance * variance) - np.float32(3)
            )
            crest = np.where(rms < 1e-6, np.float32(1), np.minimum(top / rms, np.float32(_CREST_CAP)))
        kurtosis = np.where(np.isfinite(mean), kurtosis, np.float32(np.nan))
        crest = np.where(np.isfinite(mean), crest, np.float32(np.nan))
        plain += [mean, variance, low, high, rms, kurtosis, crest]
        steps = np.abs(p[:, -hours * per_hour :] - p[:, -hours * per_hour - 1 : -1])
        rough = _mean(steps, complete=complete)
        relative += [(now - mean) / unit, (high - now) / unit, (now - low) / unit, rough / unit]
    return [np.asarray(column, dtype=np.float32) for column in plain + relative]


def _loading(p: Float32, now: Float32, per_hour: int, per_day: int) -> list[Float32]:
    size = np.abs(p)
    newest = p.shape[1] - 1
    day = np.fmax.reduce(size[:, -per_day:], axis=1)
    week = np.fmax.reduce(size[:, -_DAYS_BACK * per_day :], axis=1)
    columns = [day, week]
    columns += [
        np.fmax.reduce(size[:, newest - back + 1 : newest - back + per_hour + 1], axis=1)
        for back in (per_day, _DAYS_BACK * per_day)
    ]
    here = np.abs(now)
    columns += [np.float32(ALERT_LOADING) - here, np.float32(CRITICAL_LOADING) - here]
    return columns


def _calendar(batch: FeederBatch) -> list[Float32]:
    local = np.asarray(batch.origin_s, dtype=np.int64)
    if batch.utc_offset_s is not None:
        local = local + np.asarray(batch.utc_offset_s, dtype=np.int64)
    turn = (2 * np.pi / _DAY_S) * (local % _DAY_S)
    columns = [wave(k * turn).astype(np.float32) for k in (1, 2, 3) for wave in (np.sin, np.cos)]
    weekday = (local // _DAY_S + 4) % 7  # 1970-01-01 was a Thursday; 0 = Sunday
    week = (2 * np.pi / 7) * weekday
    columns += [np.sin(week).astype(np.float32), np.cos(week).astype(np.float32)]
    columns.append(np.isin(weekday, (0, 6)).astype(np.float32))
    for flag in (batch.holiday, batch.event):
        columns.append(
            np.zeros(batch.size, np.float32) if flag is None else np.asarray(flag).astype(np.float32)
        )
    return columns


def _temperature(batch: FeederBatch, per_hour: int, per_day: int) -> list[Float32]:
    """Degrees / 20, so that every input of a graph is of the order of one."""
    if batch.temperature_c is None:
        return [np.full(batch.size, np.nan, dtype=np.float32)] * 3
    scaled = _padded(batch.temperature_c, history_slots(batch.step_min)) / np.float32(20)
    now = scaled[:, -1]
    return [now, now - scaled[:, -1 - per_hour], now - scaled[:, -1 - per_day]]


@cache
def columns_of(names: tuple[str, ...]) -> NDArray[np.intp]:
    """Places of the named features in :data:`FEATURE_NAMES`.

    Raises:
        ValueError: A name is unknown.
    """
    place = {name: i for i, name in enumerate(FEATURE_NAMES)}
    unknown = [name for name in names if name not in place]
    if unknown:
        raise ValueError(f"unknown features: {', '.join(unknown)}")
    return np.array([place[name] for name in names], dtype=np.intp)
