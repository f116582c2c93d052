"""Train the graphs and write them with their cards.

Plan of :func:`train`, per step (15 and 30 min):

1. Read the sources; refuse dead meters; build every origin through the serving feature code, plus copies
   with history cut short or rows missing, so that the graphs know what a young feeder looks like.
2. Leave one source out at a time: global quantiles for its feeders from the others, then the replay with
   an empty learned state. This gives the honest figures and the inputs of the state graph.
3. The state graph is fitted on those, at several virtual ratings.
4. A time split (last quarter of every feeder unseen) for the card.
5. The shipped quantile graphs are fitted on all rows, exported, and compared with their source.

scikit-learn and skl2onnx are imported here only.
"""

import hashlib
import re
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from ml.card import ModelCard, TrainingSource, sha256_of, write_card
from ml.dataset import Origins, origins_of
from ml.errors import TrainingError
from ml.features import (
    ALERT_LOADING,
    FEATURE_NAMES,
    HORIZONS_MIN,
    Float32,
    columns_of,
    history_slots,
    horizons_min,
    slots_per_hour,
)
from ml.model import QUANTILES, RISK_INPUTS, STEPS_MIN, graph_path, risk_inputs
from ml.replay import replay
from ml.scores import forecast_scores, risk_labels, state_scores
from ml.series import Floats, GridSeries, LoadSeries, hour_ahead_peak_kw, rating_of, read_series, to_grid

Progress: TypeAlias = Callable[[str], None]
Ints: TypeAlias = NDArray[np.intp]


def forecast_inputs(step_min: int) -> tuple[str, ...]:
    """What the quantile graphs of a step see: changes and shapes rather than levels.

    Levels tie a graph to the feeders it was trained on; a column that is never known at the step (15 and
    45 min on the half-hourly grid) cannot be binned.
    """
    levels = r"(mean|variance|min|max|rms|kurtosis|crest_factor|max_abs)_\d+[hd]$|same_hour|to_|temperature"
    never = tuple(f"_{minutes}min" for minutes in HORIZONS_MIN if minutes % step_min)
    return tuple(
        name for name in FEATURE_NAMES if not re.match(levels, name) and not (never and name.endswith(never))
    )


OPSET = {"": 18, "ai.onnx.ml": 3}
PARITY = 1e-5
"""Largest allowed difference between a graph and its scikit-learn source, in ratings."""
VIRTUAL_QUANTILES = (0.97, 0.98, 0.99, 0.995)
DEAD_SHARE = 0.5
TEST_SHARE = 0.25


@dataclass(frozen=True)
class Budget:
    """Size of the fit.

    Attributes:
        rows_per_feeder: Origins drawn from each feeder.
        extra_rows_per_feeder: The same from each extra series.
        cut_rows_per_feeder: Of these again with shortened or thinned history.
        middle_trees: Trees per horizon of the q50 graph.
        outer_trees: Trees per horizon of the q10 and q90 graphs.
        leaves: Leaves per tree.
        learning_rate: Shrinkage.
        min_leaf: Smallest leaf, rows.
        risk_trees: Trees per class of the state graph.
        risk_rows_per_feeder: Origins of each feeder the state graph sees, at every virtual rating.
    """

    rows_per_feeder: int = 4000
    extra_rows_per_feeder: int = 1500
    cut_rows_per_feeder: int = 2000
    middle_trees: int = 80
    outer_trees: int = 50
    leaves: int = 15
    learning_rate: float = 0.13
    min_leaf: int = 40
    risk_trees: int = 60
    risk_rows_per_feeder: int = 3000


@dataclass(frozen=True)
class Feeder:
    """One training series, ready.

    Attributes:
        name: Feeder id.
        group: Feeders of one group share a source and are left out together (start of the file's name).
        extra: Only widens the quantile graphs.
        grid: Load on its grid.
        rating_kw: Default rating.
        full: Every origin.
        cut: Some origins with shortened or thinned history.
        source: For the card.
    """

    name: str
    group: str
    extra: bool
    grid: GridSeries
    rating_kw: float
    full: Origins
    cut: Origins
    source: TrainingSource


def train(
    sources: Sequence[Path],
    out_dir: Path,
    *,
    seed: int = 7,
    budget: Budget | None = None,
    facts: dict[str, dict[str, str]] | None = None,
    extra: Sequence[Path] = (),
    progress: Progress = print,
) -> tuple[Path, ...]:
    """Train and export every graph for which the sources have data.

    Args:
        sources: CSV files of load.
        out_dir: Where graphs and cards go.
        seed: Seed of every random choice.
        budget: Size of the fit.
        facts: Per file stem, ``licence`` and ``source`` for the cards.
        extra: More CSV files that only widen the quantile graphs, never judged and never in the state
            graph; they are left out together with the sources of their group.
        progress: Called with one line per step of the work.

    Returns:
        The graphs written.

    Raises:
        TrainingError: Too little data for a step, or an export that disagrees with its source.
    """
    size = budget or Budget()
    known = facts or {}
    feeders: list[Feeder] = []
    for path, widening in [(p, False) for p in sorted(sources)] + [(p, True) for p in sorted(extra)]:
        for series in read_series(path):
            grid = to_grid(series)
            loads = grid.load_kw[np.isfinite(grid.load_kw)]
            if loads.size == 0 or (loads == 0).mean() > DEAD_SHARE:
                progress(f"{series.feeder_id}: left out, a dead meter")
                continue
            feeders.append(_feeder(series, grid, _source(path, grid, known), size, seed, extra=widening))
            progress(f"{series.feeder_id}: {loads.size} slots of {grid.step_min} min")
    out_dir.mkdir(parents=True, exist_ok=True)
    written: list[Path] = []
    for step in STEPS_MIN:
        chosen = [feeder for feeder in feeders if feeder.grid.step_min == step]
        if any(not feeder.extra for feeder in chosen):
            written += _train_step(chosen, step, out_dir, seed=seed, size=size, progress=progress)
    if not written:
        raise TrainingError("no source has usable load")
    return tuple(written)


def _source(path: Path, grid: GridSeries, facts: dict[str, dict[str, str]]) -> TrainingSource:
    about = facts.get(_stem(path), {})
    return TrainingSource(
        name=path.name,
        sha256=sha256_of(path.read_bytes()),
        rows=int(np.isfinite(grid.load_kw).sum()),
        step_min=grid.step_min,
        licence=about.get("licence", "not stated"),
        origin=about.get("source", "not stated"),
    )


def _stem(path: Path) -> str:
    return path.name.split(".")[0]


def _feeder(
    series: LoadSeries, grid: GridSeries, source: TrainingSource, size: Budget, seed: int, *, extra: bool
) -> Feeder:
    rng = _generator(seed, series.feeder_id)
    rating_kw = rating_of(series)
    slots = np.flatnonzero(grid.origin)
    drawn = np.sort(rng.choice(slots, min(size.cut_rows_per_feeder, slots.size), replace=False))
    if extra:
        slots = np.sort(rng.choice(slots, min(size.extra_rows_per_feeder, slots.size), replace=False))
        drawn = drawn[:: max(1, size.rows_per_feeder // size.extra_rows_per_feeder)]
    width = history_slots(grid.step_min)
    per_hour = slots_per_hour(grid.step_min)

    def mask(windows: Float32, part: Ints) -> Float32:
        """Most rows keep only their newest hours or days, the others lose single slots."""
        windows = windows.copy()
        short = rng.random(part.size) < 0.8
        hours = np.exp(rng.uniform(np.log(per_hour), np.log(24 * per_hour), part.size))
        days = np.exp(rng.uniform(np.log(24 * per_hour), np.log(width), part.size))
        keep = np.where(rng.random(part.size) < 0.35, hours, days).astype(int) + 1
        age = np.arange(width)[::-1]
        windows[(age >= keep[:, None]) & short[:, None]] = np.nan
        holes = rng.random(windows.shape) < rng.uniform(0, 0.15, part.size)[:, None]
        holes[:, -1] = False
        windows[holes & ~short[:, None]] = np.nan
        return windows

    return Feeder(
        name=series.feeder_id,
        group=_stem(Path(source.name)).split("_")[0],
        extra=extra,
        grid=grid,
        rating_kw=rating_kw,
        full=origins_of(grid, rating_kw, slots=slots),
        cut=origins_of(grid, rating_kw, slots=drawn, mask=mask),
        source=source,
    )


def _generator(seed: int, name: str) -> np.random.Generator:
    return np.random.default_rng([seed, int.from_bytes(hashlib.sha256(name.encode()).digest()[:4])])


def _train_step(
    everyone: Sequence[Feeder], step: int, out_dir: Path, *, seed: int, size: Budget, progress: Progress
) -> list[Path]:
    feeders = [feeder for feeder in everyone if not feeder.extra]
    groups = sorted({feeder.group for feeder in feeders})
    honest: dict[str, Floats] = {}
    metrics: dict[str, Any] = {"source_left_out": {}, "time_split": {}}
    for group in groups:
        others = [f for f in everyone if f.group != group] or feeders
        models = _fit_quantiles(others, step, seed, size)
        for feeder in feeders:
            if feeder.group == group:
                honest[feeder.name] = replay(feeder.grid, feeder.full, _predict(models, feeder.full, step))[0]
                scores = _scores(feeder, honest[feeder.name], _warm(feeder))
                metrics["source_left_out"][feeder.name] = scores
                progress(f"{step} min, {feeder.name} left out: {_line(scores)}")
    risk, thresholds = _fit_risk(feeders, honest, seed, size)
    metrics["state"] = thresholds
    progress(f"{step} min, state: {thresholds}")

    early = _fit_quantiles(everyone, step, seed, size, share=1 - TEST_SHARE)
    for feeder in feeders:
        answer = replay(feeder.grid, feeder.full, _predict(early, feeder.full, step))[0]
        late = feeder.full.slot >= int((1 - TEST_SHARE) * feeder.grid.load_kw.size)
        metrics["time_split"][feeder.name] = _scores(feeder, answer, late & _warm(feeder))
        progress(f"{step} min, {feeder.name} last quarter: {_line(metrics['time_split'][feeder.name])}")

    final = _fit_quantiles(everyone, step, seed, size)
    sample = np.concatenate([f.full.frame.features[::29] for f in feeders])
    units = np.concatenate([np.abs(f.full.frame.unit_kw[::29]) / f.rating_kw for f in feeders])
    training = _training_facts(feeders, seed, size)
    written = []
    for quantile, model in zip(QUANTILES, final, strict=True):
        path = graph_path(out_dir, step, f"q{round(100 * quantile)}")
        inputs = sample[:, columns_of(forecast_inputs(step))]
        graph = _export(model, inputs, classifier=False)
        gap = _gap(graph, inputs, model.predict(inputs), units[:, None])
        card = ModelCard(
            model_id=f"{path.stem}-{sha256_of(graph)[:8]}",
            purpose=f"{round(100 * quantile)} % quantile of the load of the next hour",
            step_min=step,
            horizons_min=horizons_min(step),
            input_name="X",
            inputs=forecast_inputs(step),
            units=(
                "inputs: loadings (load / rating) and changes in volatilities (mean absolute 1-h change of "
                "the last 7 days); output: change from the present load in volatilities"
            ),
            outputs=tuple(f"change_{minutes}min" for minutes in horizons_min(step)),
            trained_on=tuple(f.source for f in everyone),
            training=training | {"estimator": _describe(quantile, size), "parity_ratings": gap},
            packages=_packages(),
            metrics=metrics,
            calibration={
                "interval": "widths start at 1 and are held per feeder and horizon outside the graph"
            },
            limits=_LIMITS,
            onnx_sha256=sha256_of(graph),
        )
        written.append(_write(path, graph, card))
    path = graph_path(out_dir, step, "state")
    inputs = _risk_rows(feeders, honest, size)[0][::7]
    graph = _export(risk, inputs, classifier=True)
    gap = _gap(graph, inputs, risk.predict_proba(inputs), np.ones((1, 1)))
    card = ModelCard(
        model_id=f"{path.stem}-{sha256_of(graph)[:8]}",
        purpose="probabilities of Normal, Alert and Critical for the worst of the next hour",
        step_min=step,
        horizons_min=(),
        input_name="X",
        inputs=RISK_INPUTS,
        units="inputs relative to the load at which Critical starts; outputs: probabilities",
        outputs=("normal", "alert", "critical"),
        trained_on=tuple(f.source for f in feeders),
        training=training
        | {"estimator": f"HistGradientBoostingClassifier, {size.risk_trees} x 15 leaves"}
        | {"parity": gap, "virtual_rating_quantiles": VIRTUAL_QUANTILES},
        packages=_packages(),
        metrics=metrics["state"],
        calibration={"alert_share_of_critical": ALERT_LOADING},
        limits=_LIMITS,
        onnx_sha256=sha256_of(graph),
    )
    written.append(_write(path, graph, card))
    progress(f"{step} min: {sum(p.stat().st_size for p in written) / 1e6:.2f} MB of graphs")
    return written


_LIMITS = (
    "No weather forecast enters: wind and solar feeders keep the errors the card shows.",
    "Beyond 60 minutes and at other steps than its own the graph says nothing.",
    "Ratings in training are the 99th percentile of the hourly peak, not nameplates.",
    "Holiday and event flags were never set in training and have no influence.",
)


def _warm(feeder: Feeder) -> NDArray[np.bool_]:
    return feeder.full.slot >= history_slots(feeder.grid.step_min)


def _rows(feeder: Feeder, size: Budget, seed: int, share: float) -> tuple[Float32, Floats]:
    """Features and targets (in volatilities) of one feeder's training rows."""
    last = int(share * feeder.grid.load_kw.size) - slots_per_hour(feeder.grid.step_min)
    rng = _generator(seed, feeder.name)
    parts: list[tuple[Float32, Floats]] = []
    for origins, warm_only, limit in (
        (feeder.full, True, size.rows_per_feeder),
        (feeder.cut, False, size.cut_rows_per_feeder),
    ):
        target = (origins.actual_kw - origins.frame.now_kw[:, None]) / origins.frame.unit_kw[:, None]
        usable = np.isfinite(target).all(axis=1) & (origins.slot < last)
        if warm_only:
            usable &= origins.slot >= history_slots(feeder.grid.step_min)
        chosen = np.flatnonzero(usable)
        if chosen.size > limit:
            chosen = np.sort(rng.choice(chosen, limit, replace=False))
        parts.append((origins.frame.features[chosen], target[chosen]))
    return np.concatenate([p[0] for p in parts]), np.concatenate([p[1] for p in parts])


def _fit_quantiles(
    feeders: Sequence[Feeder], step: int, seed: int, size: Budget, share: float = 1.0
) -> tuple[Any, ...]:
    """One multi-horizon regressor per quantile, in the order of ``QUANTILES``."""
    from sklearn.ensemble import HistGradientBoostingRegressor
    from sklearn.multioutput import MultiOutputRegressor

    parts = [_rows(feeder, size, seed, share) for feeder in feeders]
    inputs = np.concatenate([part[0] for part in parts])[:, columns_of(forecast_inputs(step))]
    target = np.concatenate([part[1] for part in parts]).astype(np.float32)
    if inputs.shape[0] < 4 * size.min_leaf:
        raise TrainingError(f"{inputs.shape[0]} usable rows at {step} min are too few")
    models = []
    for quantile in QUANTILES:
        middle = quantile == 0.5
        model = MultiOutputRegressor(
            HistGradientBoostingRegressor(
                loss="absolute_error" if middle else "quantile",
                quantile=None if middle else quantile,
                max_iter=size.middle_trees if middle else size.outer_trees,
                max_leaf_nodes=size.leaves,
                learning_rate=size.learning_rate,
                min_samples_leaf=size.min_leaf,
                early_stopping=False,
                random_state=seed,
            )
        )
        models.append(model.fit(inputs, target))
    return tuple(models)


def _predict(models: Sequence[Any], origins: Origins, step: int) -> Floats:
    inputs = origins.frame.features[:, columns_of(forecast_inputs(step))]
    return np.stack([model.predict(inputs) for model in models], axis=2)


def _risk_rows(
    feeders: Sequence[Feeder], honest: dict[str, Floats], size: Budget
) -> tuple[Float32, Ints, Ints]:
    """Inputs, labels and feeder number of the state graph's rows, at every virtual rating."""
    inputs, labels, owner = [], [], []
    for number, feeder in enumerate(feeders):
        peak = hour_ahead_peak_kw(feeder.grid.load_kw, feeder.grid.step_min)
        known = peak[np.isfinite(peak)]
        warm = _warm(feeder)
        thin = max(1, int(warm.sum()) // size.risk_rows_per_feeder)
        for shift, quantile in enumerate(VIRTUAL_QUANTILES):
            factor = float(np.quantile(known, quantile)) / feeder.rating_kw
            rows = risk_inputs(
                feeder.full.frame,
                honest[feeder.name],
                np.full(warm.size, feeder.rating_kw),
                alert_loading=ALERT_LOADING * factor,
                critical_loading=factor,
            )
            label = risk_labels(feeder.full.actual_kw, feeder.rating_kw * factor)
            usable = np.flatnonzero(warm & (label >= 0) & np.isfinite(rows[:, 0]))[shift % thin :: thin]
            inputs.append(rows[usable])
            labels.append(label[usable])
            owner.append(np.full(usable.size, number))
    return np.concatenate(inputs), np.concatenate(labels), np.concatenate(owner)


def _fit_risk(
    feeders: Sequence[Feeder], honest: dict[str, Floats], seed: int, size: Budget
) -> tuple[Any, dict[str, Any]]:
    """Fit the state graph; figures come from copies that never saw the feeder's source."""
    from sklearn.ensemble import HistGradientBoostingClassifier

    inputs, labels, owner = _risk_rows(feeders, honest, size)
    if set(np.unique(labels)) != {0, 1, 2}:
        raise TrainingError("the sources do not show all of Normal, Alert and Critical")

    def fitted(rows: NDArray[np.bool_]) -> Any:
        # Every feeder counts alike, however long its series.
        weight = (1 / np.bincount(owner))[owner] * owner.size / (owner.max() + 1)
        return HistGradientBoostingClassifier(
            max_iter=size.risk_trees,
            max_leaf_nodes=size.leaves,
            learning_rate=0.08,
            min_samples_leaf=size.min_leaf,
            early_stopping=False,
            random_state=seed,
        ).fit(inputs[rows], labels[rows], sample_weight=weight[rows])

    group_of = np.array([feeder.group for feeder in feeders])[owner]
    figures: dict[str, Any] = {}
    for group in sorted(set(group_of.tolist())):
        rest = group_of != group
        judge = fitted(rest if set(np.unique(labels[rest])) == {0, 1, 2} else np.ones_like(rest))
        for feeder in (f for f in feeders if f.group == group):
            rows = risk_inputs(
                feeder.full.frame, honest[feeder.name], np.full(feeder.full.slot.size, feeder.rating_kw)
            )
            warm = _warm(feeder) & np.isfinite(rows[:, 0])
            chances = np.full((warm.size, 3), np.nan)
            chances[warm] = judge.predict_proba(rows[warm])
            figures[feeder.name] = state_scores(feeder.grid, feeder.full, chances, feeder.rating_kw, warm)
    return fitted(np.ones(owner.size, dtype=bool)), figures


def _scores(feeder: Feeder, answer: Floats, rows: NDArray[np.bool_]) -> dict[str, Any]:
    scores = forecast_scores(feeder.grid, feeder.full, answer, rows)
    return {f"{entry['minutes']}min": {k: v for k, v in entry.items() if k != "minutes"} for entry in scores}


def _line(scores: dict[str, Any]) -> str:
    return ", ".join(
        f"{name} {100 * s['nmae']:.2f} % (naive {100 * s['naive_nmae']:.2f}, cov {s['coverage_80']:.2f})"
        for name, s in scores.items()
    )


def _export(model: Any, sample: Float32, *, classifier: bool) -> bytes:
    from skl2onnx import convert_sklearn
    from skl2onnx.common.data_types import FloatTensorType

    options = {id(model): {"zipmap": False}} if classifier else None
    with warnings.catch_warnings():
        # The converter hands NumPy scalars to protobuf, which warns; with warnings as errors it fails.
        warnings.simplefilter("ignore", DeprecationWarning)
        proto = convert_sklearn(
            model,
            name="fluxeon",
            initial_types=[("X", FloatTensorType([None, sample.shape[1]]))],
            target_opset=OPSET,
            options=options,
        )
    data: bytes = proto.SerializeToString(deterministic=True)
    return data


def _gap(graph: bytes, inputs: Float32, expected: Floats, scale: Floats) -> float:
    """Largest difference between the graph and its source.

    Raises:
        TrainingError: It exceeds the gate.
    """
    import onnxruntime

    session = onnxruntime.InferenceSession(graph, providers=["CPUExecutionProvider"])
    answer = session.run([session.get_outputs()[-1].name], {"X": np.ascontiguousarray(inputs)})[0]
    gap = float((np.abs(answer - expected) * scale).max())
    if not gap <= PARITY:
        raise TrainingError(f"the exported graph differs from its source by {gap:.2g}, allowed {PARITY:.0e}")
    return gap


def _write(path: Path, graph: bytes, card: ModelCard) -> Path:
    path.write_bytes(graph)
    write_card(card, path)
    return path


def _describe(quantile: float, size: Budget) -> str:
    middle = quantile == 0.5
    loss = "absolute_error" if middle else f"quantile {quantile}"
    trees = size.middle_trees if middle else size.outer_trees
    return f"MultiOutputRegressor(HistGradientBoostingRegressor, {loss}, {trees} x {size.leaves} leaves)"


def _training_facts(feeders: Sequence[Feeder], seed: int, size: Budget) -> dict[str, Any]:
    return {
        "seed": seed,
        "feeders": [feeder.name for feeder in feeders],
        "rows": "sampled from all rows; figures under time_split come from a fit on the first 75 %",
        "rows_per_feeder": size.rows_per_feeder,
        "cut_rows_per_feeder": size.cut_rows_per_feeder,
        "target": "(load at horizon - load now) / volatility",
    }


def _packages() -> dict[str, str]:
    return {name: version(name) for name in ("scikit-learn", "skl2onnx", "onnx", "onnxruntime", "numpy")}
