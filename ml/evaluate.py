"""Back-test of a model on a load series, as serving would have run. Strictly causal.

At every origin only the last eight days are visible; the learned state starts empty at the first row and
is taught by every outcome as it becomes known. Scores start after eight days of history.

Source: the public contract, section ``fluxeon evaluate``.
"""

from pathlib import Path
from typing import Any
from xml.sax.saxutils import escape

import numpy as np

from ml.dataset import Origins, origins_of
from ml.errors import SeriesError
from ml.features import history_slots
from ml.model import RiskModel, risk_inputs
from ml.replay import replay
from ml.scores import forecast_scores, state_scores
from ml.series import Floats, GridSeries, LoadSeries, rating_of, to_grid
from ml.state import StatePolicy


class Backtest:
    """Forecasts and probabilities at every origin of one series.

    Attributes:
        grid: The series on its grid.
        origins: Forecast origins, oldest first.
        quantiles_kw: float64 (m, H, 3).
        chances: float64 (m, 3).
        rating_kw: Rating the loadings refer to.
    """

    def __init__(
        self, grid: GridSeries, rating_kw: float, model: RiskModel, policy: StatePolicy | None = None
    ) -> None:
        rule = policy or StatePolicy()
        self.grid = grid
        self.rating_kw = rating_kw
        self.policy = rule
        self.origins: Origins = origins_of(grid, rating_kw)
        seen = self.origins.frame
        self.quantiles_kw, self.learned = replay(
            grid, self.origins, model.global_quantiles(seen, grid.step_min)
        )
        inputs = risk_inputs(
            seen,
            self.quantiles_kw,
            np.full(self.origins.slot.size, rating_kw),
            alert_loading=rule.alert_loading,
            critical_loading=rule.critical_loading,
        )
        self.chances: Floats = model.probabilities(inputs, grid.step_min)


def evaluate(
    series: LoadSeries,
    model: RiskModel,
    *,
    rating_kw: float | None = None,
    start_s: int | None = None,
    stride: int = 1,
    policy: StatePolicy | None = None,
) -> dict[str, Any]:
    """Score a model on a series; the keys are those of the public contract.

    Args:
        series: Load as published; 10-min data are resampled exactly.
        model: What is scored.
        rating_kw: Rating in kW; None = the default rule on this series.
        start_s: Score origins from this instant (unix seconds) on; earlier rows still teach.
        stride: Score every n-th origin; the ones between still teach.
        policy: Operating point of the state.

    Raises:
        SeriesError: The series is too short to score, or has no rating.
    """
    return summary(
        backtest(series, model, rating_kw=rating_kw, policy=policy), start_s=start_s, stride=stride
    )


def backtest(
    series: LoadSeries, model: RiskModel, *, rating_kw: float | None = None, policy: StatePolicy | None = None
) -> Backtest:
    """Run a model through a series.

    Raises:
        SeriesError: The series fits no grid, or has no rating.
    """
    return Backtest(to_grid(series), rating_of(series) if rating_kw is None else rating_kw, model, policy)


def summary(run: Backtest, *, start_s: int | None = None, stride: int = 1) -> dict[str, Any]:
    """Figures of a back-test; see :func:`evaluate`.

    Raises:
        SeriesError: No origin is left to score.
    """
    if stride < 1:
        raise SeriesError(f"stride {stride}: it must be at least 1")
    rows = run.origins.slot >= history_slots(run.grid.step_min) - 1
    if start_s is not None:
        rows &= run.origins.origin_s >= start_s
    chosen = np.flatnonzero(rows)
    rows[:] = False
    rows[chosen[::stride]] = True
    horizons = forecast_scores(run.grid, run.origins, run.quantiles_kw, rows)
    if not horizons:
        raise SeriesError(f"{run.grid.feeder_id}: nothing to score after eight days of history")
    return {
        "feeder": run.grid.feeder_id,
        "rows": int(rows.sum()),
        "rating_kw": run.rating_kw,
        "horizons": horizons,
        "state": state_scores(run.grid, run.origins, run.chances, run.rating_kw, rows, policy=run.policy),
    }


def plot(run: Backtest, path: Path, *, days: float = 7.0) -> None:
    """Draw the newest days as an SVG file: load, 60-min forecast with its interval, and the rating.

    Args:
        run: The back-test.
        path: File to write, ``.svg``.
        days: How much of the end to draw.

    Raises:
        SeriesError: The file name does not end in ``.svg``.
    """
    if path.suffix != ".svg":
        raise SeriesError(f"{path.name}: plots are SVG; name the file *.svg")
    width, height, edge = 1200.0, 420.0, 50.0
    grid, origins = run.grid, run.origins
    ahead = run.quantiles_kw.shape[1]
    first = max(0, grid.load_kw.size - int(days * 24 * 60 / grid.step_min))
    load = grid.load_kw[first:]
    low, middle, high = (np.full(grid.load_kw.size + ahead, np.nan) for _ in range(3))
    for target, column in ((low, 0), (middle, 1), (high, 2)):
        target[origins.slot + ahead] = run.quantiles_kw[:, -1, column]
    stop = grid.load_kw.size
    lines = [load, low[first:stop], middle[first:stop], high[first:stop]]
    values = np.concatenate(lines)
    values = values[np.isfinite(values)]
    if values.size == 0:
        raise SeriesError(f"{grid.feeder_id}: nothing to draw in the last {days:g} days")
    bottom, top = float(min(values.min(), 0)), float(max(values.max(), run.rating_kw))

    def at(index: Floats, kw: Floats) -> str:
        x = edge + index * (width - 2 * edge) / max(load.size - 1, 1)
        y = height - edge - (kw - bottom) * (height - 2 * edge) / max(top - bottom, 1e-9)
        return " ".join(f"{a:.1f},{b:.1f}" for a, b in zip(x, y, strict=True))

    def line(kw: Floats, colour: str, name: str) -> str:
        known = np.flatnonzero(np.isfinite(kw)).astype(np.float64)
        points = at(known, kw[known.astype(np.intp)])
        return (
            f'<polyline fill="none" stroke="{colour}" stroke-width="1.2" points="{points}">'
            f"<title>{escape(name)}</title></polyline>"
        )

    both = np.flatnonzero(np.isfinite(lines[1]) & np.isfinite(lines[3])).astype(np.float64)
    place = both.astype(np.intp)
    band = at(both, lines[3][place]) + " " + at(both[::-1], lines[1][place][::-1])
    rating = at(np.array([0.0, load.size - 1.0]), np.full(2, run.rating_kw))
    title = f"{grid.feeder_id}: load, 60-min forecast, 80 % interval; dashed: rating {run.rating_kw:.0f} kW"
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width:.0f} {height:.0f}">',
        "<style>text { font-family: sans-serif; font-size: 12px }</style>",
        f'<rect width="{width:.0f}" height="{height:.0f}" fill="white"/>',
        f'<text x="{edge}" y="28">{escape(title)}</text>',
        f'<text x="4" y="{edge}">{top:.0f} kW</text>',
        f'<text x="4" y="{height - edge}">{bottom:.0f} kW</text>',
        f'<polygon fill="#9ecae1" fill-opacity="0.6" points="{band}"/>',
        f'<polyline fill="none" stroke="#c0392b" stroke-dasharray="6 4" points="{rating}"/>',
        line(lines[2], "#2171b5", "60-min forecast"),
        line(load, "#222222", "load"),
        "</svg>",
    ]
    path.write_text("\n".join(parts) + "\n", encoding="utf-8")
