"""Figures of a back-test, as the public contract names them.

Rules:

* nMAE, pinball and width are relative to the 99.5th percentile of |load| of the series.
* A false alarm is an alarm episode (state Critical without a break) that holds no Critical label.
* The lead of an onset is the unbroken alarm before the end of the first exceeding slot, 60 min at most.
"""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from ml.dataset import Origins
from ml.features import ALERT_LOADING, CRITICAL_LOADING, columns_of, horizons_min
from ml.series import Floats, GridSeries
from ml.state import CRITICAL, StateMemory, StatePolicy, next_state

Bools = NDArray[np.bool_]
Ints = NDArray[np.intp]

SCALE_QUANTILE = 0.995
_WEEK_S = 7 * 86_400


def forecast_scores(grid: GridSeries, origins: Origins, answer: Floats, rows: Bools) -> list[dict[str, Any]]:
    """Scores per horizon over the chosen origins, as fractions.

    Args:
        grid: The series, for the scale.
        origins: Forecast origins.
        answer: (m, H, 3) kW quantiles.
        rows: (m,) which origins count; all methods are scored on the same ones.
    """
    loads = np.abs(grid.load_kw[np.isfinite(grid.load_kw)])
    scale = float(np.quantile(loads, SCALE_QUANTILE)) if loads.size else float("nan")
    scores: list[dict[str, Any]] = []
    seen = origins.frame
    for h, minutes in enumerate(horizons_min(grid.step_min)):
        actual = origins.actual_kw[:, h]
        day, week = (
            seen.features[:, columns_of((f"ramp_{back}_{minutes}min",))[0]].astype(np.float64)
            for back in ("day", "week")
        )
        ramp = np.nan_to_num(np.where(np.isnan(day), week, np.where(np.isnan(week), day, (day + week) / 2)))
        here = rows & np.isfinite(actual) & np.isfinite(seen.now_kw) & np.isfinite(answer[:, h, 1])
        y, now = actual[here], seen.now_kw[here]
        low, middle, high = answer[here, h].T
        if y.size == 0:
            continue
        persistence = float(np.abs(y - now).mean())
        ramps = float(np.abs(y - now - ramp[here] * seen.unit_kw[here]).mean())
        pinball = (
            np.maximum(0.1 * (y - low), 0.9 * (low - y)) + np.maximum(0.9 * (y - high), 0.1 * (high - y))
        ) / 2
        error = float(np.abs(y - middle).mean())
        scores.append(
            {
                "minutes": minutes,
                "mae_kw": error,
                "nmae": error / scale,
                "persistence_nmae": persistence / scale,
                "naive_nmae": min(persistence, ramps) / scale,
                "pinball": float(pinball.mean()) / scale,
                "coverage_80": coverage(y, low, high),
                "width": float((high - low).mean()) / scale,
            }
        )
    return scores


def coverage(actual: Floats, low: Floats, high: Floats) -> float:
    """Share of outcomes inside the interval, ends included."""
    return float(((actual >= low) & (actual <= high)).mean())


def risk_labels(
    actual_kw: Floats,
    rating_kw: float,
    alert_loading: float = ALERT_LOADING,
    critical_loading: float = CRITICAL_LOADING,
) -> Ints:
    """True state of each origin: the worst loading of the next hour; -1 where a slot is missing."""
    peak = np.abs(actual_kw).max(axis=1) / rating_kw
    label: Ints = (peak >= alert_loading).astype(np.intp) + (peak >= critical_loading).astype(np.intp)
    label[np.isnan(peak)] = -1
    return label


def states_of(chances: Floats, origin_s: NDArray[np.int64], policy: StatePolicy) -> Ints:
    """Run the state machine over a series; an origin without probabilities keeps the last state."""
    memory = StateMemory()
    states = np.zeros(chances.shape[0], dtype=np.intp)
    rows = zip(chances.tolist(), np.isfinite(chances[:, 0]).tolist(), origin_s.tolist(), strict=True)
    for row, (chance, known, now_s) in enumerate(rows):
        if known:
            memory = next_state(policy, memory, chance, now_s)
        states[row] = memory.state or 0
    return states


def state_scores(
    grid: GridSeries,
    origins: Origins,
    chances: Floats,
    rating_kw: float,
    rows: Bools,
    *,
    policy: StatePolicy | None = None,
) -> dict[str, Any]:
    """State figures over the chosen origins (one fixed rating for the whole series).

    Args:
        grid: The series.
        origins: Forecast origins.
        chances: (m, 3) probabilities; NaN = unknown.
        rating_kw: Rating in kW.
        rows: (m,) which origins count.
        policy: Operating point; None = the default.
    """
    rule = policy or StatePolicy()
    states = states_of(chances, origins.origin_s, rule)
    labels = risk_labels(origins.actual_kw, rating_kw, rule.alert_loading, rule.critical_loading)
    judged = rows & (labels >= 0)
    truth, said = labels[judged], states[judged]
    scores = []
    for level in range(3):
        if (truth == level).any() or (said == level).any():
            hit = int(((truth == level) & (said == level)).sum())
            scores.append(2 * hit / (int((truth == level).sum()) + int((said == level).sum())))
    hit = int(((truth == CRITICAL) & (said == CRITICAL)).sum())
    alarms, critical = int((said == CRITICAL).sum()), int((truth == CRITICAL).sum())
    weeks = truth.size * _spacing_s(origins, judged) / _WEEK_S
    leads = onset_leads_min(grid, origins, states, rating_kw * rule.critical_loading, judged)
    return {
        "macro_f1": float(np.mean(scores)) if scores else 0.0,
        "critical_recall": hit / critical if critical else 0.0,
        "critical_precision": hit / alarms if alarms else 0.0,
        "false_alarms_per_week": false_alarms(truth, said) / weeks if weeks else 0.0,
        "onsets": len(leads),
        "onsets_caught": float(np.mean([lead > 0 for lead in leads])) if leads else 0.0,
        "onsets_caught_30min": float(np.mean([lead >= 30 for lead in leads])) if leads else 0.0,
        "mean_lead_min": float(np.mean(leads)) if leads else 0.0,
    }


def false_alarms(truth: Ints, said: Ints) -> int:
    """Alarm episodes in which no origin's true state is Critical."""
    alarm = said == CRITICAL
    begins = np.flatnonzero(alarm & ~np.concatenate([[False], alarm[:-1]]))
    ends = np.flatnonzero(alarm & ~np.concatenate([alarm[1:], [False]]))
    return sum(not (truth[b : e + 1] == CRITICAL).any() for b, e in zip(begins, ends, strict=True))


def onset_leads_min(
    grid: GridSeries, origins: Origins, states: Ints, limit_kw: float, rows: Bools
) -> list[float]:
    """Lead of every onset in minutes: 0 where the alarm came with or after the exceeding slot.

    An onset is a slot at or above the limit after an hour below it, whose preceding hour of origins is
    among the chosen rows.
    """
    over = np.abs(grid.load_kw) >= limit_kw
    slots = horizons_min(grid.step_min)
    per_hour = len(slots)
    row_of = np.full(grid.load_kw.size, -1, dtype=np.intp)
    row_of[origins.slot[rows]] = np.flatnonzero(rows)
    stride = max(1, round(_spacing_s(origins, rows) / (60 * grid.step_min)))
    leads: list[float] = []
    for slot in np.flatnonzero(over).tolist():
        if slot < per_hour or over[slot - per_hour : slot].any():
            continue
        before = [s for s in range(slot - 1, slot - per_hour - 1, -1) if row_of[s] >= 0]
        if len(before) < per_hour // stride:
            continue
        lead = 0.0
        for earlier in before:
            if states[row_of[earlier]] != CRITICAL:
                break
            lead = float((slot - earlier) * grid.step_min)
        leads.append(lead)
    return leads


def _spacing_s(origins: Origins, rows: Bools) -> float:
    chosen = origins.origin_s[rows]
    return float(np.median(np.diff(chosen))) if chosen.size > 1 else 0.0
