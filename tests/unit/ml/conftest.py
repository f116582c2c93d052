"""A tiny trained model, made once: real graphs and cards, too small to be good."""

import gzip
from datetime import UTC, datetime, timedelta
from pathlib import Path

import numpy as np
import pytest

from ml.train import Budget, train

TINY = Budget(
    rows_per_feeder=300,
    extra_rows_per_feeder=200,
    cut_rows_per_feeder=100,
    middle_trees=6,
    outer_trees=4,
    leaves=6,
    learning_rate=0.3,
    min_leaf=10,
    risk_trees=5,
)


@pytest.fixture(scope="session")
def tiny_budget() -> Budget:
    """The effort spent on the tiny model."""
    return TINY


def write_feeder(path: Path, *, days: int, step_min: int, seed: int, scale: float = 500.0) -> None:
    """A feeder with a daily and a weekly shape and noise."""
    rng = np.random.default_rng(seed)
    slots = days * 24 * 60 // step_min
    hours = np.arange(1, slots + 1) * step_min / 60
    shape = 0.6 - 0.3 * np.cos(2 * np.pi * (hours - 4) / 24) + 0.1 * (((hours // 24) % 7) < 5)
    noise = np.convolve(rng.normal(0, 0.02, slots + 3), np.ones(4) / 2, mode="valid")
    start = datetime(2026, 1, 5, tzinfo=UTC)
    rows = [
        f"{(start + timedelta(hours=hour)).isoformat()},{load:.3f}"
        for hour, load in zip(hours.tolist(), (scale * (shape + noise)).tolist(), strict=True)
    ]
    path.write_bytes(gzip.compress(("timestamp,load_kw\n" + "\n".join(rows) + "\n").encode()))


@pytest.fixture(scope="session")
def tiny_sources(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, ...]:
    folder = tmp_path_factory.mktemp("sources")
    paths = []
    for number, (name, step) in enumerate((("a_1", 15), ("b_1", 15), ("c_1", 30))):
        path = folder / f"{name}.csv.gz"
        write_feeder(path, days=11, step_min=step, seed=number)
        paths.append(path)
    return tuple(paths)


@pytest.fixture(scope="session")
def tiny_models(tmp_path_factory: pytest.TempPathFactory, tiny_sources: tuple[Path, ...]) -> Path:
    folder = tmp_path_factory.mktemp("models")
    train(tiny_sources, folder, seed=3, budget=TINY, progress=lambda _: None)
    return folder
