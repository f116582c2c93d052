import numpy as np
import pytest

from ml.dataset import Origins, origins_of
from ml.scores import false_alarms, forecast_scores, risk_labels, state_scores
from ml.series import GridSeries

RATING = 100.0


def _grid(load: np.ndarray) -> GridSeries:
    return GridSeries(
        feeder_id="F",
        step_min=15,
        start_s=900,
        load_kw=load,
        temperature_c=np.full(load.size, np.nan),
        holiday=np.zeros(load.size, dtype=bool),
        event=np.zeros(load.size, dtype=bool),
        origin=np.ones(load.size, dtype=bool),
    )


def _chances(states: np.ndarray) -> np.ndarray:
    return np.eye(3)[states]


def _day(peaks: list[int], slots: int = 96) -> tuple[GridSeries, Origins]:
    load = np.full(slots, 50.0)
    load[peaks] = 120.0
    grid = _grid(load)
    return grid, origins_of(grid, RATING)


def test_labels_are_the_worst_magnitude_of_the_following_hour() -> None:
    _, origins = _day([40])
    labels = risk_labels(origins.actual_kw, RATING)
    assert np.flatnonzero(labels == 2).tolist() == [36, 37, 38, 39]
    assert labels[-4:].tolist() == [-1, -1, -1, -1]
    assert np.array_equal(risk_labels(-origins.actual_kw, RATING), labels)
    assert risk_labels(np.full((1, 4), 85.0), RATING).tolist() == [1]


def test_a_perfect_alarm_scores_one_and_leads_by_an_hour() -> None:
    grid, origins = _day([40, 70])
    labels = risk_labels(origins.actual_kw, RATING)
    scores = state_scores(grid, origins, _chances(np.maximum(labels, 0)), RATING, np.ones(96, dtype=bool))
    assert scores["macro_f1"] == scores["critical_recall"] == scores["critical_precision"] == 1.0
    assert (scores["onsets"], scores["onsets_caught"], scores["mean_lead_min"]) == (2, 1.0, 60.0)
    assert scores["false_alarms_per_week"] == 0.0


def test_lead_counts_only_the_unbroken_alarm_before_the_onset() -> None:
    grid, origins = _day([40])
    states = np.zeros(96, dtype=int)
    states[[36, 38, 39]] = 2  # broken at 37
    scores = state_scores(grid, origins, _chances(states), RATING, np.ones(96, dtype=bool))
    assert scores["mean_lead_min"] == 30.0
    states[39] = 0
    late = state_scores(grid, origins, _chances(states), RATING, np.ones(96, dtype=bool))
    assert (late["onsets"], late["onsets_caught"]) == (1, 0.0)


def test_an_episode_without_a_critical_label_is_one_false_alarm() -> None:
    truth = np.array([0, 0, 0, 2, 2, 0, 0])
    assert false_alarms(truth, np.array([2, 2, 0, 2, 0, 0, 0])) == 1
    assert false_alarms(truth, np.array([0, 2, 2, 2, 2, 2, 0])) == 0
    assert false_alarms(truth, np.array([2, 0, 2, 0, 0, 0, 2])) == 3


def test_forecast_scores_are_relative_to_the_high_quantile_of_the_magnitude() -> None:
    load = 50.0 + 10.0 * np.sin(np.arange(96) / 4)
    grid = _grid(load)
    origins = origins_of(grid, RATING)
    now = origins.frame.now_kw
    answer = np.repeat((now[:, None] + np.array([-5.0, 1.0, 5.0]))[:, None, :], 4, axis=1)
    scale = np.quantile(np.abs(load), 0.995)
    first = forecast_scores(grid, origins, answer, np.ones(96, dtype=bool))[0]
    actual, start = load[1:], load[:-1]
    assert first["minutes"] == 15
    assert first["mae_kw"] == pytest.approx(np.abs(actual - start - 1).mean(), rel=1e-5)
    assert first["nmae"] == pytest.approx(first["mae_kw"] / scale)
    assert first["persistence_nmae"] == pytest.approx(np.abs(actual - start).mean() / scale, rel=1e-5)
    assert first["width"] == pytest.approx(10 / scale, rel=1e-5)
    low, high = start - 5, start + 5
    loss = np.maximum(0.1 * (actual - low), 0.9 * (low - actual))
    loss += np.maximum(0.9 * (actual - high), 0.1 * (high - actual))
    assert first["pinball"] == pytest.approx(loss.mean() / 2 / scale, rel=1e-4)
    assert first["coverage_80"] == pytest.approx(((actual >= low) & (actual <= high)).mean())
