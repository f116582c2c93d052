"""The forecast and the state probabilities of many feeders at once.

Rules:

* One onnxruntime session per graph, one thread, built once; a call serves a whole batch.
* A graph is loaded only if its bytes match its card (:mod:`ml.card`).
* Steps: features -> global quantiles (graph) -> each feeder's own correction, weights and widths
  (:mod:`ml.conformal`) -> probabilities (graph).
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeAlias

import numpy as np
import onnxruntime
from numpy.typing import NDArray

from ml.card import ModelCard, read_checked
from ml.conformal import LearnedState, finish, prepare
from ml.errors import ModelUnavailableError
from ml.features import (
    ALERT_LOADING,
    CRITICAL_LOADING,
    FEATURE_NAMES,
    FeederBatch,
    Float32,
    Frame,
    columns_of,
    frame,
    horizons_min,
)

Floats: TypeAlias = NDArray[np.float64]

MODELS_DIR = Path(__file__).with_name("models")
STEPS_MIN = (15, 30)
QUANTILES = (0.1, 0.5, 0.9)

RISK_INPUTS: tuple[str, ...] = (
    "peak_middle",
    "peak_outer",
    "peak_inner",
    "alert_reach",
    "critical_reach",
    "alert_reach_first",
    "critical_reach_first",
    "alert_odds",
    "critical_odds",
    "relative_width",
    "loading_now",
    "max_abs_24h",
    "max_abs_7d",
    "same_hour_max_day",
    "same_hour_max_week",
    "volatility_log",
    "roughness_1h",
    "roughness_4h",
)
"""Inputs of the state graph, scale-free: loadings, and limits in multiples of the forecast's spread."""


@dataclass(frozen=True)
class Assessment:
    """What the model says about a batch of feeders.

    Attributes:
        horizons_min: Minutes after the origin at which each forecast slot ends.
        q10_kw: float64 (n, H), lower end of the 80 % interval; NaN where the present load is unknown.
        q50_kw: float64 (n, H), the forecast.
        q90_kw: float64 (n, H), upper end.
        probabilities: float64 (n, 3), P(Normal), P(Alert), P(Critical) for the worst of the next hour;
            NaN where the present load is unknown.
        features: float32 (n, F) of the history, ordered as ``FEATURE_NAMES``.
        risk_features: float32 (n, R) of the predicted hour and its limits, ordered as ``RISK_INPUTS``.
        model_id: Ids of the graphs that decided.
    """

    horizons_min: tuple[int, ...]
    q10_kw: Floats
    q50_kw: Floats
    q90_kw: Floats
    probabilities: Floats
    features: Float32
    risk_features: Float32
    model_id: str


class Graph:
    """One ONNX graph with its card."""

    def __init__(self, path: Path) -> None:
        """Load a graph.

        Raises:
            ModelUnavailableError: It is missing, damaged, or not what its card says.
        """
        self.card, data = read_checked(path)
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = 1
        options.inter_op_num_threads = 1
        options.log_severity_level = 3
        try:
            self._session = onnxruntime.InferenceSession(data, options, providers=["CPUExecutionProvider"])
        except Exception as fault:  # onnxruntime raises a different class for every kind of bad graph
            raise ModelUnavailableError(f"{path.name}: the graph cannot be loaded ({fault})") from fault
        given = [entry.name for entry in self._session.get_inputs()]
        if given != [self.card.input_name]:
            raise ModelUnavailableError(f"{path.name}: inputs {given}, the card says {self.card.input_name}")
        self._output = self._session.get_outputs()[-1].name

    def run(self, inputs: Float32) -> Float32:
        """Last output of the graph for float32 (n, inputs)."""
        answer = self._session.run([self._output], {self.card.input_name: inputs})[0]
        return np.asarray(answer, dtype=np.float32)


@dataclass(frozen=True)
class ModelSet:
    """The graphs of one step: one per quantile, and the state graph."""

    step_min: int
    quantiles: tuple[Graph, ...]
    risk: Graph

    @property
    def model_id(self) -> str:
        """Id of the forecast and of the state graph."""
        return "+".join(graph.card.model_id for graph in (self.quantiles[1], self.risk))


class RiskModel:
    """Forecasts and state probabilities from the shipped graphs."""

    def __init__(self, sets: dict[int, ModelSet]) -> None:
        self._sets = sets

    @classmethod
    def load(cls, directory: Path | None = None) -> "RiskModel":
        """Load the graphs of every step.

        Args:
            directory: Folder of graphs and cards; None = the shipped ones.

        Raises:
            ModelUnavailableError: A graph or a card is missing or they do not belong together.
        """
        folder = MODELS_DIR if directory is None else directory
        sets = {}
        for step in STEPS_MIN:
            quantiles = tuple(Graph(graph_path(folder, step, f"q{round(100 * q)}")) for q in QUANTILES)
            risk = Graph(graph_path(folder, step, "state"))
            _check_inputs(quantiles, risk, step)
            sets[step] = ModelSet(step, quantiles, risk)
        return cls(sets)

    @property
    def cards(self) -> tuple[ModelCard, ...]:
        """Cards of every graph."""
        return tuple(g.card for s in self._sets.values() for g in (*s.quantiles, s.risk))

    def assess(
        self,
        batch: FeederBatch,
        learned: Sequence[LearnedState],
        *,
        record: bool = True,
        alert_loading: float | Floats = ALERT_LOADING,
        critical_loading: float | Floats = CRITICAL_LOADING,
    ) -> Assessment:
        """Forecast the next hour and weigh its risk.

        Args:
            batch: Recent history of n feeders of one step.
            learned: One state per feeder, in the same order.
            record: Remember the forecasts in ``learned`` so that later loads teach it; False for dry
                runs.
            alert_loading: Loading at which Alert starts, one for all or (n,).
            critical_loading: Loading at which Critical starts, one for all or (n,).

        Raises:
            ValueError: ``learned`` does not fit the batch.
        """
        if len(learned) != batch.size or any(state.step_min != batch.step_min for state in learned):
            raise ValueError("learned states must match the batch: one per feeder, of the same step")
        seen = frame(batch)
        quantiles_kw, issued = finish(prepare(seen, self.global_quantiles(seen, batch.step_min)), learned)
        if record:
            for row, (state, origin_s) in enumerate(zip(learned, batch.origin_s.tolist(), strict=True)):
                state.remember(origin_s, issued, row)
        inputs = risk_inputs(
            seen,
            quantiles_kw,
            np.asarray(batch.rating_kw, dtype=np.float64),
            alert_loading=alert_loading,
            critical_loading=critical_loading,
        )
        return Assessment(
            horizons_min=horizons_min(batch.step_min),
            q10_kw=quantiles_kw[:, :, 0],
            q50_kw=quantiles_kw[:, :, 1],
            q90_kw=quantiles_kw[:, :, 2],
            probabilities=self.probabilities(inputs, batch.step_min),
            features=seen.features,
            risk_features=inputs,
            model_id=self._sets[batch.step_min].model_id,
        )

    def global_quantiles(self, seen: Frame, step_min: int) -> Floats:
        """Global q10, q50, q90 of the change from now in volatilities, float64 (n, H, 3)."""
        graphs = self._sets[step_min].quantiles
        inputs = np.ascontiguousarray(seen.features[:, columns_of(graphs[0].card.inputs)])
        return np.stack([graph.run(inputs) for graph in graphs], axis=2).astype(np.float64)

    def probabilities(self, inputs: Float32, step_min: int) -> Floats:
        """P(Normal), P(Alert), P(Critical), float64 (n, 3); NaN where an input of the forecast is.

        Args:
            inputs: What :func:`risk_inputs` made.
            step_min: Which set answers.
        """
        answer = self._sets[step_min].risk.run(inputs).astype(np.float64)
        answer /= answer.sum(axis=1, keepdims=True)
        answer[np.isnan(inputs[:, 0])] = np.nan
        return answer

    def model_id(self, step_min: int) -> str:
        """Ids of the graphs that serve a step."""
        return self._sets[step_min].model_id


def graph_path(folder: Path, step_min: int, role: str) -> Path:
    """File of one graph: ``load_15min_q50.onnx``, ``risk_15min_state.onnx``."""
    kind = "risk" if role == "state" else "load"
    return folder / f"{kind}_{step_min}min_{role}.onnx"


def risk_inputs(
    seen: Frame,
    quantiles_kw: Floats,
    rating_kw: Floats,
    *,
    alert_loading: float | Floats = ALERT_LOADING,
    critical_loading: float | Floats = CRITICAL_LOADING,
) -> Float32:
    """Inputs of the state graph, float32 (n, len(RISK_INPUTS)).

    Everything is relative to the load at which Critical starts, so that one graph serves every rating
    and threshold. Both ends of the interval count: an overload by export is seen like one by import.

    Args:
        seen: Features, whose loadings are relative to ``rating_kw``.
        quantiles_kw: (n, H, 3) calibrated forecast.
        rating_kw: (n,).
        alert_loading: Loading at which Alert starts, one for all or (n,).
        critical_loading: Loading at which Critical starts, one for all or (n,).
    """
    limit = np.broadcast_to(np.asarray(critical_loading, dtype=np.float64), rating_kw.shape)
    share = np.broadcast_to(np.asarray(alert_loading, dtype=np.float64), rating_kw.shape) / limit
    loading = quantiles_kw / (rating_kw * limit)[:, None, None]
    low, middle, high = loading[:, :, 0], loading[:, :, 1], loading[:, :, 2]
    size = np.abs(middle)
    outer = np.maximum(np.abs(low), np.abs(high))
    inner = np.where(low * high <= 0, 0.0, np.minimum(np.abs(low), np.abs(high)))
    reach = np.maximum(outer - size, 1e-4)
    alert = (share[:, None] - size) / reach
    critical = (1 - size) / reach

    def feature(name: str) -> Float32:
        return np.asarray(seen.features[:, columns_of((name,))[0]], dtype=np.float32)

    columns = [
        size.max(axis=1),
        outer.max(axis=1),
        inner.max(axis=1),
        alert.min(axis=1),
        critical.min(axis=1),
        alert[:, 0],
        critical[:, 0],
        _odds(alert).sum(axis=1),
        _odds(critical).sum(axis=1),
        reach.mean(axis=1),
        np.abs(feature("loading")) / limit,
        feature("max_abs_24h") / limit,
        feature("max_abs_7d") / limit,
        feature("same_hour_max_day") / limit,
        feature("same_hour_max_week") / limit,
        feature("volatility_log") - np.log(limit),
        feature("roughness_1h"),
        feature("roughness_4h"),
    ]
    return np.asarray(np.clip(np.stack(columns, axis=1), -50, 50), dtype=np.float32)


def _odds(distance: Floats) -> Floats:
    """Smooth count of the slots that reach a limit at ``distance`` outer half widths."""
    return np.asarray(1 / (1 + np.exp(np.clip(2.2 * distance, -40, 40))))


def _check_inputs(quantiles: Sequence[Graph], risk: Graph, step_min: int) -> None:
    first = quantiles[0].card
    for graph in (*quantiles, risk):
        card = graph.card
        if card.step_min != step_min:
            raise ModelUnavailableError(f"{card.model_id}: serves {card.step_min} min, not {step_min}")
    if any(graph.card.inputs != first.inputs for graph in quantiles):
        raise ModelUnavailableError(f"{first.model_id}: the quantile graphs want different inputs")
    if unknown := sorted(set(first.inputs) - set(FEATURE_NAMES)):
        raise ModelUnavailableError(f"{first.model_id}: wants unknown features {', '.join(unknown)}")
    if risk.card.inputs != RISK_INPUTS:
        raise ModelUnavailableError(f"{risk.card.model_id}: wants other inputs than this version computes")
