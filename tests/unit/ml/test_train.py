import hashlib
from pathlib import Path

import pytest

from ml.card import read_checked
from ml.errors import SeriesError, TrainingError
from ml.model import RISK_INPUTS
from ml.train import PARITY, Budget, forecast_inputs, train


def test_every_graph_has_a_card_that_describes_it(tiny_models: Path, tiny_sources: tuple[Path, ...]) -> None:
    graphs = sorted(path.name for path in tiny_models.glob("*.onnx"))
    assert graphs == [
        f"{kind}_{step}min_{role}.onnx"
        for kind, roles in (("load", ("q10", "q50", "q90")), ("risk", ("state",)))
        for step in (15, 30)
        for role in roles
    ]
    for name in graphs:
        card, data = read_checked(tiny_models / name)
        assert card.onnx_sha256 == hashlib.sha256(data).hexdigest()
        assert card.inputs == (RISK_INPUTS if "state" in name else forecast_inputs(card.step_min))
        digests = {hashlib.sha256(path.read_bytes()).hexdigest() for path in tiny_sources}
        assert {source.sha256 for source in card.trained_on} <= digests
        assert card.packages["scikit-learn"]
    card, _ = read_checked(tiny_models / "load_15min_q50.onnx")
    assert card.training["parity_ratings"] <= PARITY
    for part in ("time_split", "source_left_out"):
        assert set(card.metrics[part]) == {"a_1", "b_1"}
        assert set(card.metrics[part]["a_1"]) == {"15min", "30min", "45min", "60min"}


def test_the_same_seed_gives_the_same_graphs(
    tiny_models: Path, tiny_sources: tuple[Path, ...], tmp_path: Path, tiny_budget: Budget
) -> None:
    again = train(tiny_sources[2:], tmp_path, seed=3, budget=tiny_budget, progress=lambda _: None)
    assert len(again) == 4
    for path in again:
        assert path.read_bytes() == (tiny_models / path.name).read_bytes(), path.name


def test_extra_series_widen_the_graphs_and_are_not_judged(
    tiny_sources: tuple[Path, ...], tmp_path: Path, tiny_budget: Budget
) -> None:
    train(
        tiny_sources[:1],
        tmp_path,
        seed=3,
        budget=tiny_budget,
        extra=tiny_sources[1:2],
        progress=lambda _: None,
    )
    card, _ = read_checked(tmp_path / "load_15min_q50.onnx")
    assert [source.name for source in card.trained_on] == [path.name for path in tiny_sources[:2]]
    assert set(card.metrics["source_left_out"]) == {"a_1"}
    risk, _ = read_checked(tmp_path / "risk_15min_state.onnx")
    assert [source.name for source in risk.trained_on] == [tiny_sources[0].name]


def test_a_dead_meter_is_left_out_and_alone_is_an_error(tmp_path: Path, tiny_budget: Budget) -> None:
    rows = "\n".join(
        f"2026-01-{1 + i // 96:02d}T{i // 4 % 24:02d}:{i % 4 * 15:02d}:00Z,0" for i in range(960)
    )
    (tmp_path / "dead.csv").write_text(f"timestamp,load_kw\n{rows}\n")
    said: list[str] = []
    with pytest.raises(TrainingError):
        train([tmp_path / "dead.csv"], tmp_path / "out", budget=tiny_budget, progress=said.append)
    assert any("dead" in line for line in said)


def test_an_unreadable_source_is_named(tmp_path: Path) -> None:
    (tmp_path / "bad.csv").write_text("timestamp,load_kw\nnow,1\n")
    with pytest.raises(SeriesError, match=r"bad\.csv: row 2"):
        train([tmp_path / "bad.csv"], tmp_path / "out", progress=lambda _: None)


def test_forecast_inputs_hold_no_level_that_ties_a_graph_to_one_feeder() -> None:
    assert not {"mean_24h", "max_abs_7d", "to_alert"} & set(forecast_inputs(15))
    assert {"ramp_day_60min", "ramp_week_15min", "off_mean7"} <= set(forecast_inputs(15))
    assert not {name for name in forecast_inputs(30) if name.endswith(("_15min", "_45min"))}
