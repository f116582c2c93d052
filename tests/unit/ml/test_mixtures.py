import gzip
from pathlib import Path

import numpy as np
import pytest

from ml import mixtures
from ml.series import read_series


def test_a_mixture_is_made_of_scaled_loads_minus_scaled_generators() -> None:
    rng = np.random.default_rng(2)
    load = np.ones((200, 8))
    generation = np.zeros((200, 3))
    generation[100:] = 1
    shares = []
    for _ in range(40):
        mixed = mixtures.mixture(load, generation, rng)
        assert mixed.shape == (200,)
        assert np.ptp(mixed[:100]) == pytest.approx(0)
        shares.append((mixed[0] - mixed[150]) / mixed[0])
    assert min(shares) == pytest.approx(0)
    assert max(shares) > 1, "some feeders export"


def test_a_written_mixture_is_a_readable_series_and_the_same_for_the_same_seed(tmp_path: Path) -> None:
    load = np.linspace(1, 2, 35_136)
    for name in ("a", "b"):
        mixtures._write(tmp_path / f"{name}.csv.gz", load, np.random.default_rng(4))
    first, second = ((tmp_path / f"{name}.csv.gz").read_bytes() for name in ("a", "b"))
    assert gzip.decompress(first) == gzip.decompress(second)
    assert first == second
    (series,) = read_series(tmp_path / "a.csv.gz")
    assert series.step_min == 15
    assert series.load_kw.size == mixtures.DAYS * 96
