"""What one feeder has taught the forecast: local correction, expert weights and interval widths.

Rules:

* Strictly causal: a forecast is remembered when it is issued and judged when its slot's load arrives.
* Everything is relative (loads in volatilities, widths as multiples), so that the same feeder in other
  units learns the same.
* Empty state = the global model with its static calibration.
* Raw readings older than eight days are never kept; coefficients and counters may go further back.

The 80 % interval is held by an online conformal rule: after every outcome each side's width moves so
that in the long run 10 % of the outcomes fall outside it, whatever the feeder
(Gibbs and Candes, Adaptive conformal inference under distribution shift, NeurIPS 2021).
"""

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeAlias

import msgspec
import numpy as np
from numpy.typing import NDArray

from ml.errors import LearnedStateError
from ml.features import HORIZONS_MIN, Frame, columns_of, slots_per_hour

Floats: TypeAlias = NDArray[np.float64]

LOCAL_INPUTS: tuple[str, ...] = (
    *(f"back_{k}" for k in range(1, 9)),
    "back_3h",
    "back_6h",
    *(
        f"{kind}_{minutes}min"
        for kind in ("ramp_day", "ramp_week", "ramp_mean7", "ramp_alike")
        for minutes in (15, 30, 45, 60)
    ),
    "off_day",
    "off_week",
    "off_mean7",
    "above_mean_24h",
)
"""Features of the local correction: changes and ramps, all zero for a flat feeder."""

EXPERTS = ("global", "local", "ramps", "persistence")
SIDE_MISS = 0.1
"""Share of outcomes allowed outside each end of the 80 % interval."""


@dataclass(frozen=True)
class LearningRates:
    """How fast a feeder's own past counts. Chosen on sources left out of training.

    Attributes:
        memory_days: Time constant of the local correction's statistics.
        ridge: Pull of the local correction towards zero, in observations.
        warm_days: Observations (in days) before the local correction is used.
        refit_slots: Observations between two refits.
        error_days: Time constant of the experts' error.
        sharpness: Weight of an expert = error ** -sharpness.
        width_start: First step of the width per outcome, relative to the width.
        width_rate: The same once warm.
    """

    memory_days: float = 60.0
    ridge: float = 10.0
    warm_days: float = 3.0
    refit_slots: int = 48
    error_days: float = 7.0
    sharpness: float = 16.0
    width_start: float = 0.3
    width_rate: float = 0.02


RATES = LearningRates()
_FORMAT = 1
_TINY = 1e-9
_CLIP = 20.0
"""Inputs and targets beyond this many volatilities are outliers."""
_REACH = 2.0
"""The local correction moves the middle by at most this many global half widths."""
_NARROWEST = 1e-3
SEASONS_DAYS = (14.0, 42.0)
"""Memory of the usual change by time of day and by time of week."""
_ARRAYS = (
    "coefficients",
    "weights",
    "widths",
    "season_kw",
    "_daily",
    "_weekly",
    "_visits",
    "_gram",
    "_moment",
    "_error",
    "_judged",
)
_ISSUED = ("inputs", "experts", "spread", "middle", "now_kw", "unit_kw")


@dataclass(frozen=True)
class Prepared:
    """The part of a forecast that no learned state enters, in the load's own sign; n rows.

    Attributes as in :class:`Issued`, but ``experts[:, 1]`` still equals the global middle.
    """

    inputs: Floats
    experts: Floats
    spread: Floats
    now_kw: Floats
    unit_kw: Floats

    def rows(self, begin: int, end: int) -> "Prepared":
        """A view of some rows."""
        return Prepared(
            self.inputs[begin:end],
            self.experts[begin:end],
            self.spread[begin:end],
            self.now_kw[begin:end],
            self.unit_kw[begin:end],
        )


@dataclass(frozen=True)
class Issued:
    """Forecasts of one call for n feeders, in the load's own sign, kept until their slots have passed.

    Attributes:
        inputs: (n, F_local + 3 H) inputs of the local correction, in volatilities.
        experts: (n, E, H) forecast changes from now, in volatilities.
        spread: (n, 2, H) uncalibrated distance of the ends from the middle, in volatilities, > 0.
        middle: (n, H) mixed change from now, in volatilities.
        now_kw: (n,) load the changes start from, NaN where unknown.
        unit_kw: (n,) kW of one volatility, > 0.
    """

    inputs: Floats
    experts: Floats
    spread: Floats
    middle: Floats
    now_kw: Floats
    unit_kw: Floats

    def row(self, i: int) -> "Issued":
        """One feeder's part, copied out."""
        return Issued(
            self.inputs[i : i + 1].copy(),
            self.experts[i : i + 1].copy(),
            self.spread[i : i + 1].copy(),
            self.middle[i : i + 1].copy(),
            self.now_kw[i : i + 1].copy(),
            self.unit_kw[i : i + 1].copy(),
        )


class _Stored(msgspec.Struct, array_like=True):
    """Serialised form of a learned state; arrays are little-endian float64."""

    version: int
    step_min: int
    observed: int
    fitted: int
    last_s: int
    arrays: dict[str, bytes]
    pending: list[tuple[int, dict[str, bytes]]]
    recent: list[tuple[int, float]]


class LearnedState:
    """Online state of one feeder; one instance per feeder, never shared.

    Attributes:
        step_min: Grid of the feeder, 15 or 30.
        observed: Forecasts judged so far (over all horizons).
        coefficients: (F_local + 3 H, H) local correction of the global middle.
        weights: (E, H) weights of the experts, each column sums to 1.
        widths: (2, H) multiples of the global half widths, lower end first.
        season_kw: (2, H) usual change from the last observed slot, by time of day and by time of week.
    """

    def __init__(self, step_min: int, rates: LearningRates = RATES) -> None:
        horizon = slots_per_hour(step_min)
        size = len(LOCAL_INPUTS) + (1 + len(SEASONS_DAYS)) * horizon
        per_day = 24 * 60 // step_min
        self.step_min = step_min
        self.observed = 0
        self.coefficients: Floats = np.zeros((size, horizon))
        self.weights: Floats = np.zeros((len(EXPERTS), horizon))
        self.weights[0] = 1.0
        self.widths: Floats = np.ones((2, horizon))
        self.season_kw: Floats = np.zeros((len(SEASONS_DAYS), horizon))
        self._daily: Floats = np.zeros(per_day)
        self._weekly: Floats = np.zeros(7 * per_day)
        self._visits: Floats = np.zeros(7 * per_day)
        self._rates = rates
        self._last_s = 0
        self._fitted = 0
        self._gram: Floats = np.zeros((size, size))
        self._moment: Floats = np.zeros((size, horizon))
        self._error: Floats = np.zeros((len(EXPERTS), horizon))
        self._judged: Floats = np.zeros(horizon)
        self._pending: deque[tuple[int, Issued, int]] = deque(maxlen=horizon + 1)
        self._recent: deque[tuple[int, float]] = deque(maxlen=horizon + 1)

    def remember(self, origin_s: int, issued: Issued, row: int) -> None:
        """Keep a forecast until its slots have passed; a later one for the same origin replaces it."""
        if not np.isfinite(issued.now_kw[row]):
            return
        if self._pending and self._pending[-1][0] >= origin_s:
            if self._pending[-1][0] > origin_s:
                return
            self._pending.pop()
        self._pending.append((int(origin_s), issued, row))

    def observe(self, slot_end_s: int, actual_kw: float) -> None:
        """Learn from the load of the slot that ended at ``slot_end_s``.

        Slots are taken in order: an older one than the last is ignored, a NaN is a missing reading.
        """
        if slot_end_s <= self._last_s:
            return
        self._last_s = int(slot_end_s)
        if not np.isfinite(actual_kw):
            return
        step_s = 60 * self.step_min
        before = self._recent[-1] if self._recent else None
        self._recent.append((int(slot_end_s), float(actual_kw)))
        if before is not None:
            self._usual(
                slot_end_s // step_s, actual_kw - before[1], adjacent=before[0] == slot_end_s - step_s
            )
        horizon = self.widths.shape[1]
        due: list[tuple[int, Issued, int]] = []
        for origin_s, issued, row in self._pending:
            ahead, rest = divmod(slot_end_s - origin_s, step_s)
            if rest == 0 and 1 <= ahead <= horizon:
                due.append((ahead - 1, issued, row))
                if ahead == horizon:
                    self._learn(origin_s, issued, row)
        if due:
            self._judge(due, actual_kw)

    def _usual(self, slot: int, change_kw: float, *, adjacent: bool) -> None:
        """Keep the usual change into each slot of the day and of the week; look up the next hour's."""
        per_day, per_week = self._daily.size, self._weekly.size
        at = slot % per_week
        if adjacent:
            self._visits[at] += 1
            day = at % per_day
            days_seen = self._visits[day::per_day].sum()
            self._daily[day] += (change_kw - self._daily[day]) / min(days_seen, SEASONS_DAYS[0])
            self._weekly[at] += (change_kw - self._weekly[at]) / min(self._visits[at], SEASONS_DAYS[1] / 7)
        ahead = np.arange(at + 1, at + 1 + self.widths.shape[1]) % per_week
        daily = self._daily[ahead % per_day]
        self.season_kw[0] = daily.cumsum()
        self.season_kw[1] = np.where(self._visits[ahead] > 0, self._weekly[ahead], daily).cumsum()

    def _judge(self, due: list[tuple[int, Issued, int]], actual_kw: float) -> None:
        """Score every forecast of this slot, one per horizon: experts' errors, weights, widths."""
        rates = self._rates
        per_day = 24 * 60 / self.step_min
        h = np.array([place for place, _, _ in due])
        outcome = np.array([(actual_kw - part.now_kw[row]) / part.unit_kw[row] for _, part, row in due])
        forecast = np.array([part.experts[row, :, place] for place, part, row in due]).T
        middle = np.array([part.middle[row, place] for place, part, row in due])
        spread = np.array([part.spread[row, :, place] for place, part, row in due]).T
        self.observed += len(due)
        seen = self._judged[h] + 1
        self._judged[h] = seen

        error = self._error[:, h]
        error += np.maximum(1 / seen, 1 / (rates.error_days * per_day)) * (np.abs(forecast - outcome) - error)
        self._error[:, h] = error
        merit = ((error + _TINY) / (error.min(axis=0) + _TINY)) ** -rates.sharpness
        merit /= merit.sum(axis=0)
        warm = seen >= per_day
        self.weights[:, h[warm]] = merit[:, warm]

        rate = np.maximum(rates.width_rate, rates.width_start / (1 + seen / per_day))
        off = outcome - middle
        width = self.widths[:, h]
        missed = np.stack([off < -width[0] * spread[0], off > width[1] * spread[1]])
        self.widths[:, h] = width * np.exp(rate * (missed - SIDE_MISS))

    def _learn(self, origin_s: int, issued: Issued, row: int) -> None:
        """Add one complete hour to the local correction's statistics; refit now and then."""
        rates = self._rates
        horizon = self.widths.shape[1]
        known = dict(self._recent)
        outcomes = [known.get(origin_s + 60 * self.step_min * (h + 1), np.nan) for h in range(horizon)]
        target = (np.array(outcomes) - issued.now_kw[row]) / issued.unit_kw[row] - issued.experts[row, 0]
        if not np.isfinite(target).all():
            return
        inputs = issued.inputs[row]
        per_day = 24 * 60 / self.step_min
        keep = 1 - 1 / (rates.memory_days * per_day)
        # Large errors count less than their square, as the forecast is judged by its absolute error.
        weighted = inputs[:, None] / max(1.0, float(np.abs(target).sum()) / horizon)
        self._gram *= keep
        self._moment *= keep
        self._gram += weighted * inputs
        self._moment += weighted * np.clip(target, -_CLIP, _CLIP)
        self._fitted += 1
        if self._fitted >= rates.warm_days * per_day and self._fitted % rates.refit_slots == 0:
            pull = rates.ridge * (np.diag(self._gram) / max(self._effective(keep), 1.0) + _TINY)
            solved = np.linalg.solve(self._gram + np.diag(pull), self._moment)
            self.coefficients = np.asarray(solved, dtype=np.float64)

    def _effective(self, keep: float) -> float:
        """Observations the decayed statistics stand for."""
        return float((1 - keep**self._fitted) / (1 - keep))

    def to_bytes(self) -> bytes:
        """Serialise everything, forecasts awaiting their outcome included."""
        return msgspec.msgpack.encode(
            _Stored(
                _FORMAT,
                self.step_min,
                self.observed,
                self._fitted,
                self._last_s,
                {name: _pack(value) for name, value in self._arrays().items()},
                [
                    (origin_s, {name: _pack(getattr(part, name)) for name in _ISSUED})
                    for origin_s, issued, row in self._pending
                    for part in (issued.row(row),)
                ],
                list(self._recent),
            )
        )

    @classmethod
    def from_bytes(cls, data: bytes, rates: LearningRates = RATES) -> "LearnedState":
        """Restore a state written by :meth:`to_bytes`.

        Raises:
            LearnedStateError: The bytes are damaged or of another version.
        """
        try:
            stored = msgspec.msgpack.decode(data, type=_Stored)
        except msgspec.DecodeError as fault:
            raise LearnedStateError(f"learned state cannot be read ({fault})") from fault
        if stored.version != _FORMAT:
            raise LearnedStateError(
                f"learned state has format {stored.version}, this version reads {_FORMAT}"
            )
        state = cls(stored.step_min, rates)
        try:
            for name, like in state._arrays().items():
                setattr(state, name, np.frombuffer(stored.arrays[name], "<f8").reshape(like.shape).copy())
            horizon = state.widths.shape[1]
            shapes = {
                "inputs": (1, state.coefficients.shape[0]),
                "experts": (1, len(EXPERTS), horizon),
                "spread": (1, 2, horizon),
                "middle": (1, horizon),
                "now_kw": (1,),
                "unit_kw": (1,),
            }
            for origin_s, parts in stored.pending:
                issued = Issued(
                    **{name: np.frombuffer(parts[name], "<f8").reshape(shapes[name]) for name in _ISSUED}
                )
                state._pending.append((origin_s, issued, 0))
        except (KeyError, ValueError) as fault:
            raise LearnedStateError(f"learned state does not fit this version ({fault})") from fault
        state.observed, state._fitted, state._last_s = stored.observed, stored.fitted, stored.last_s
        state._recent.extend(stored.recent)
        return state

    def _arrays(self) -> dict[str, Floats]:
        return {name: getattr(self, name) for name in _ARRAYS}


def prepare(frame: Frame, quantiles: Floats) -> Prepared:
    """Everything about the next hour that no learned state enters.

    Args:
        frame: Features and units, n rows.
        quantiles: (n, H, 3) global q10, q50, q90 of the change from now, in the frame's (possibly
            mirrored) volatilities.
    """
    horizon = quantiles.shape[1]
    sign = np.sign(frame.unit_kw)[:, None]
    ordered = np.sort(quantiles, axis=2)
    middle = ordered[:, :, 1]
    below = np.maximum(middle - ordered[:, :, 0], _NARROWEST)
    above = np.maximum(ordered[:, :, 2] - middle, _NARROWEST)
    mirrored = sign < 0
    spread = np.stack([np.where(mirrored, above, below), np.where(mirrored, below, above)], axis=1)
    middle = middle * sign

    features = frame.features.astype(np.float64)
    local_inputs = np.nan_to_num(features[:, columns_of(LOCAL_INPUTS)]) * sign
    minutes = HORIZONS_MIN if horizon == len(HORIZONS_MIN) else HORIZONS_MIN[1::2]
    day = features[:, columns_of(tuple(f"ramp_day_{m}min" for m in minutes))] * sign
    week = features[:, columns_of(tuple(f"ramp_week_{m}min" for m in minutes))] * sign
    week = np.where(np.isfinite(week), week, day)
    ramps = np.nan_to_num((np.where(np.isfinite(day), day, week) + week) / 2)
    return Prepared(
        inputs=np.concatenate([np.clip(local_inputs, -_CLIP, _CLIP), middle], axis=1),
        experts=np.stack([middle, middle, ramps, np.zeros_like(middle)], axis=1),
        spread=spread,
        now_kw=frame.now_kw,
        unit_kw=np.abs(frame.unit_kw),
    )


def finish(ready: Prepared, learned: Sequence[LearnedState]) -> tuple[Floats, Issued]:
    """Turn the global forecast into each feeder's own.

    Args:
        ready: What :func:`prepare` made, n rows.
        learned: One state per row.

    Returns:
        kW quantiles (n, H, 3), NaN where the present load is unknown, and what was issued.
    """
    coefficients = np.array([state.coefficients for state in learned])
    weights = np.array([state.weights for state in learned])
    widths = np.array([state.widths for state in learned])
    season = np.array([state.season_kw for state in learned]) / ready.unit_kw[:, None, None]
    season = np.minimum(np.maximum(season, -_CLIP), _CLIP).reshape(len(learned), -1)
    inputs = np.concatenate([ready.inputs, season], axis=1)
    correction = np.matmul(inputs[:, None, :], coefficients)[:, 0]
    correction = np.minimum(np.maximum(correction, -_REACH * ready.spread[:, 0]), _REACH * ready.spread[:, 1])
    experts = ready.experts.copy()
    experts[:, 1] += correction
    middle = (experts * weights).sum(axis=1)
    half = widths * ready.spread
    steps = np.stack([middle - half[:, 0], middle, middle + half[:, 1]], axis=2)
    result = ready.now_kw[:, None, None] + ready.unit_kw[:, None, None] * steps
    return result, Issued(inputs, experts, ready.spread, middle, ready.now_kw, ready.unit_kw)


def _pack(values: Floats) -> bytes:
    return np.ascontiguousarray(values, dtype="<f8").tobytes()
