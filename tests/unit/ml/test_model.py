import shutil
from pathlib import Path

import msgspec
import numpy as np
import pytest

from ml.card import card_path
from ml.conformal import LearnedState
from ml.errors import ModelUnavailableError
from ml.features import FEATURE_NAMES, FeederBatch, frame, history_slots
from ml.model import RISK_INPUTS, Assessment, RiskModel, risk_inputs

ORIGIN = 1_767_633_300 // 900 * 900


@pytest.fixture(scope="module")
def model(tiny_models: Path) -> RiskModel:
    return RiskModel.load(tiny_models)


def _batch(step: int = 15, rows: int = 3, factor: float = 1.0) -> FeederBatch:
    width = history_slots(step)
    hours = np.arange(width) * step / 60
    rng = np.random.default_rng(5)
    load = 400 + 150 * np.sin(2 * np.pi * hours / 24) + rng.normal(0, 10, (rows, width))
    return FeederBatch(
        (factor * load).astype(np.float32), np.full(rows, abs(factor) * 600.0), np.full(rows, ORIGIN), step
    )


def _assess(model: RiskModel, batch: FeederBatch) -> Assessment:
    return model.assess(batch, [LearnedState(batch.step_min) for _ in range(batch.size)])


@pytest.mark.parametrize(("step", "horizons"), [(15, (15, 30, 45, 60)), (30, (30, 60))])
def test_an_assessment_is_complete(model: RiskModel, step: int, horizons: tuple[int, ...]) -> None:
    answer = _assess(model, _batch(step))
    assert answer.horizons_min == horizons
    assert answer.q50_kw.shape == (3, len(horizons))
    assert (answer.q10_kw < answer.q50_kw).all()
    assert (answer.q50_kw < answer.q90_kw).all()
    assert answer.probabilities.sum(axis=1) == pytest.approx(np.ones(3))
    assert answer.features.shape == (3, len(FEATURE_NAMES))
    assert answer.risk_features.shape == (3, len(RISK_INPUTS))
    assert f"load_{step}min_q50" in answer.model_id
    assert f"risk_{step}min_state" in answer.model_id


def test_other_units_give_the_same_probabilities_and_the_scaled_forecast(model: RiskModel) -> None:
    plain, large = _assess(model, _batch()), _assess(model, _batch(factor=1000.0))
    assert np.allclose(large.probabilities, plain.probabilities, atol=1e-3)
    assert np.allclose(large.q50_kw, 1000 * plain.q50_kw, rtol=1e-3)


def test_an_exporting_feeder_is_the_mirror_image(model: RiskModel) -> None:
    plain, export = _assess(model, _batch()), _assess(model, _batch(factor=-1.0))
    assert np.array_equal(export.probabilities, plain.probabilities)
    assert np.allclose(export.q50_kw, -plain.q50_kw)
    assert np.allclose(export.q10_kw, -plain.q90_kw)


def test_a_feeder_without_present_load_gets_no_answer_and_harms_no_other(model: RiskModel) -> None:
    batch = _batch()
    whole = _assess(model, batch)
    batch.load_kw[1, -6:] = np.nan
    answer = _assess(model, batch)
    assert np.isnan(answer.q50_kw[1]).all()
    assert np.isnan(answer.probabilities[1]).all()
    assert np.allclose(answer.q50_kw[[0, 2]], whole.q50_kw[[0, 2]], rtol=1e-5)


def test_an_hour_of_history_is_enough_for_an_answer(model: RiskModel) -> None:
    batch = _batch()
    short = FeederBatch(batch.load_kw[:, -4:], batch.rating_kw, batch.origin_s, 15)
    answer = _assess(model, short)
    assert np.isfinite(answer.q50_kw).all()
    assert np.isfinite(answer.probabilities).all()


def test_only_recorded_forecasts_teach(model: RiskModel) -> None:
    state = LearnedState(15)
    batch = _batch(rows=1)
    model.assess(batch, [state], record=False)
    state.observe(ORIGIN + 900, 400.0)
    assert state.observed == 0
    state = LearnedState(15)
    model.assess(batch, [state])
    model.assess(batch, [state])
    state.observe(ORIGIN + 900, 400.0)
    assert state.observed == 1


def test_lower_limits_raise_the_risk(model: RiskModel) -> None:
    batch = _batch()
    states = [LearnedState(15) for _ in range(3)]
    plain = model.assess(batch, states)
    strict = model.assess(batch, states, alert_loading=0.3, critical_loading=np.full(3, 0.4))
    assert (strict.probabilities[:, 2] > plain.probabilities[:, 2]).all()


def test_a_virtual_rating_is_the_same_as_another_threshold() -> None:
    batch = _batch()
    seen = frame(batch)
    quantiles = seen.now_kw[:, None, None] + np.zeros((3, 4, 3)) + np.array([-20.0, 5.0, 30.0])
    half = FeederBatch(batch.load_kw, batch.rating_kw / 2, batch.origin_s, 15)
    at_half = risk_inputs(frame(half), quantiles, half.rating_kw)
    by_threshold = risk_inputs(seen, quantiles, batch.rating_kw, alert_loading=0.425, critical_loading=0.5)
    assert at_half.shape == (3, len(RISK_INPUTS))
    assert np.allclose(at_half, by_threshold, rtol=1e-4, atol=1e-4)


def test_states_must_match_the_batch(model: RiskModel) -> None:
    with pytest.raises(ValueError, match="learned"):
        model.assess(_batch(), [LearnedState(15)])
    with pytest.raises(ValueError, match="learned"):
        model.assess(_batch(30), [LearnedState(15)] * 3)


@pytest.mark.parametrize("fault", ["graph", "card", "missing graph", "missing card", "swapped"])
def test_a_graph_that_does_not_match_its_card_is_not_loaded(
    tiny_models: Path, tmp_path: Path, fault: str
) -> None:
    folder = tmp_path / "models"
    shutil.copytree(tiny_models, folder)
    graph = folder / "load_15min_q50.onnx"
    if fault == "graph":
        data = bytearray(graph.read_bytes())
        data[len(data) // 2] ^= 1
        graph.write_bytes(bytes(data))
    elif fault == "card":
        card_path(graph).write_text("{}")
    elif fault == "missing graph":
        graph.unlink()
    elif fault == "missing card":
        card_path(graph).unlink()
    else:
        other = msgspec.json.decode(card_path(graph).read_bytes())
        other["inputs"] = other["inputs"][::-1]
        card_path(graph).write_bytes(msgspec.json.encode(other))
    with pytest.raises(ModelUnavailableError, match=r"load_15min_q50|load_15min_q10"):
        RiskModel.load(folder)
