"""The shipped model, back-tested: causality, agreement with serving, robustness, and skill on real load."""

from pathlib import Path

import numpy as np
import pytest

from ml.conformal import LearnedState
from ml.errors import SeriesError
from ml.evaluate import Backtest, backtest, evaluate, plot, summary
from ml.features import FeederBatch, history_slots
from ml.model import RiskModel
from ml.series import LoadSeries, read_series

KEYS = {"minutes", "mae_kw", "nmae", "persistence_nmae", "naive_nmae", "pinball", "coverage_80", "width"}
STATE_KEYS = {
    "macro_f1",
    "critical_recall",
    "critical_precision",
    "false_alarms_per_week",
    "onsets",
    "onsets_caught",
    "mean_lead_min",
}


def _series(days: float = 12, step: int = 15, seed: int = 4) -> LoadSeries:
    rng = np.random.default_rng(seed)
    slots = int(days * 24 * 60 / step)
    hours = np.arange(1, slots + 1) * step / 60
    shape = 400 + 180 * np.sin(2 * np.pi * (hours - 9) / 24) + 40 * np.sin(2 * np.pi * hours / 12)
    noise = np.convolve(rng.normal(0, 8, slots + 3), np.ones(4) / 2, mode="valid")
    start = 1_767_571_200  # a midnight
    ends = start + np.arange(1, slots + 1, dtype=np.int64) * 60 * step
    return LoadSeries("F", step, ends, shape + noise)


def _with(series: LoadSeries, load_kw: np.ndarray) -> LoadSeries:
    return LoadSeries(series.feeder_id, series.step_min, series.end_s, load_kw)


@pytest.fixture(scope="module")
def model() -> RiskModel:
    return RiskModel.load()


@pytest.fixture(scope="module")
def run(model: RiskModel) -> Backtest:
    return backtest(_series(), model)


def test_the_report_has_the_keys_of_the_contract(run: Backtest) -> None:
    report = summary(run)
    assert report["feeder"] == "F"
    assert report["rows"] > 300
    assert [entry["minutes"] for entry in report["horizons"]] == [15, 30, 45, 60]
    assert all(set(entry) >= KEYS for entry in report["horizons"])
    assert set(report["state"]) >= STATE_KEYS


def test_half_hourly_feeders_have_two_horizons(model: RiskModel) -> None:
    report = evaluate(_series(step=30), model)
    assert [entry["minutes"] for entry in report["horizons"]] == [30, 60]


def test_the_back_test_is_what_serving_would_have_said(model: RiskModel, run: Backtest) -> None:
    grid, width = run.grid, history_slots(15)
    state = LearnedState(15)
    history = np.full(width - 1, np.nan, dtype=np.float32)
    history = np.concatenate([history, grid.load_kw.astype(np.float32)])
    for slot in range(400):
        state.observe(int(grid.end_s[slot]), float(grid.load_kw[slot]))
        batch = FeederBatch(
            history[None, slot : slot + width], np.array([run.rating_kw]), grid.end_s[slot : slot + 1], 15
        )
        answer = model.assess(batch, [state])
        served = np.stack([answer.q10_kw, answer.q50_kw, answer.q90_kw], axis=2)[0]
        assert np.allclose(served, run.quantiles_kw[slot], rtol=1e-5, atol=1e-3), slot
        assert np.allclose(answer.probabilities[0], run.chances[slot], atol=1e-4), slot


def test_nothing_after_the_origin_changes_a_forecast(model: RiskModel, run: Backtest) -> None:
    series = _series()
    load = series.load_kw.copy()
    load[900:] = -load[900:] * 3
    other = backtest(_with(series, load), model, rating_kw=run.rating_kw)
    before = run.origins.slot < 900
    assert np.array_equal(other.quantiles_kw[before], run.quantiles_kw[before], equal_nan=True)
    assert np.array_equal(other.chances[before], run.chances[before], equal_nan=True)
    assert not np.array_equal(other.quantiles_kw[~before], run.quantiles_kw[~before])


def test_only_the_last_eight_days_and_the_learned_state_are_seen(model: RiskModel, run: Backtest) -> None:
    series = _series()
    load = series.load_kw.copy()
    load[:100] = 5_000.0
    other = backtest(_with(series, load), model, rating_kw=run.rating_kw)
    late = run.origins.slot >= 100 + history_slots(15)
    assert np.array_equal(
        other.origins.frame.features[late], run.origins.frame.features[late], equal_nan=True
    )


def test_other_units_and_the_opposite_sign_give_the_same_states(model: RiskModel, run: Backtest) -> None:
    plain = summary(run)["state"]
    for factor in (1000.0, -1.0):
        other = summary(backtest(_with(_series(), factor * _series().load_kw), model))
        assert other["state"]["macro_f1"] == pytest.approx(plain["macro_f1"], abs=0.01)
        assert other["state"]["critical_recall"] == pytest.approx(plain["critical_recall"], abs=0.02)


@pytest.mark.parametrize("days", [1 / 24, 1.0, 3.0])
def test_a_young_feeder_is_forecast_no_worse_than_by_the_best_naive(
    model: RiskModel, run: Backtest, days: float
) -> None:
    """The last days again, each origin with its history cut to ``days`` and an empty learned state."""
    width, grid = int(days * 96), run.grid
    slots = np.arange(grid.load_kw.size - 300, grid.load_kw.size - 4)
    windows = np.stack([grid.load_kw[slot - width + 1 : slot + 1] for slot in slots]).astype(np.float32)
    batch = FeederBatch(windows, np.full(slots.size, run.rating_kw), grid.end_s[slots], 15)
    answer = model.assess(batch, [LearnedState(15) for _ in slots], record=False)
    actual = grid.load_kw[slots[:, None] + np.arange(1, 5)]
    error = np.abs(answer.q50_kw - actual).mean()
    persistence = np.abs(grid.load_kw[slots][:, None] - actual).mean()
    assert error < persistence


def test_missing_rows_are_tolerated(model: RiskModel, run: Backtest) -> None:
    series = _series()
    load = series.load_kw.copy()
    load[np.random.default_rng(1).random(load.size) < 0.05] = np.nan
    load[1000:1024] = np.nan
    report = evaluate(_with(series, load), model, rating_kw=run.rating_kw)
    whole = summary(run)
    for holed, full in zip(report["horizons"], whole["horizons"], strict=True):
        assert holed["nmae"] < 1.5 * full["nmae"]
        assert 0.65 < holed["coverage_80"] < 0.92


def test_start_and_stride_choose_what_is_scored_and_nothing_else(run: Backtest) -> None:
    rows = summary(run)["rows"]
    assert summary(run, stride=4)["rows"] == pytest.approx(rows / 4, abs=1)
    start = int(run.origins.origin_s[-100])
    assert summary(run, start_s=start)["rows"] == 100


def test_what_cannot_be_scored_is_an_error(model: RiskModel, run: Backtest) -> None:
    with pytest.raises(SeriesError, match="eight days"):
        evaluate(_series(days=5), model)
    with pytest.raises(SeriesError, match="stride"):
        summary(run, stride=0)


def test_a_plot_is_an_svg_of_the_last_days(run: Backtest, tmp_path: Path) -> None:
    plot(run, tmp_path / "f.svg")
    text = (tmp_path / "f.svg").read_text()
    assert text.startswith("<svg")
    assert text.count("<polyline") == 3
    assert "nan" not in text
    with pytest.raises(SeriesError, match="SVG"):
        plot(run, tmp_path / "f.png")


@pytest.mark.slow
@pytest.mark.parametrize("name", ["NL_OWD", "UK_Geevor", "MA_tet1"])
def test_real_feeders_are_forecast_better_than_by_the_best_naive(
    model: RiskModel, reference_dir: Path, name: str
) -> None:
    (series,) = read_series(reference_dir / "data" / f"{name}.csv.gz")
    report = evaluate(series, model)
    for entry in report["horizons"]:
        assert entry["nmae"] < entry["naive_nmae"], entry["minutes"]
        assert 0.78 <= entry["coverage_80"] <= 0.82, entry["minutes"]
