"""Semi-real feeders for training, mixed from the profiles of the ``simbench`` package.

A mixture is a random set of a SimBench net's loads minus some of its generators, each scaled by a random
factor: measured shapes, invented sums. They widen what the quantile graphs have seen (feeders with more
or less solar and wind power) and are never used to judge a model.

Needs ``simbench`` (not installed with FLUXEON). Licence of what is written: ODbL 1.0 / DbCL 1.0,
attribution "SimBench".
"""

import gzip
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np

NETS = (
    "1-MV-rural--2-sw",
    "1-MV-semiurb--2-sw",
    "1-MV-comm--2-sw",
    "1-LV-rural2--2-sw",
    "1-LV-semiurb5--2-sw",
    "1-LV-urban6--2-sw",
)
PER_NET = 3
STEP_MIN = 15
DAYS = 183
START = datetime(2015, 12, 31, 23, 15, tzinfo=UTC)
"""End of the first interval: SimBench's profiles start at midnight of 2016-01-01, CET."""
_SCALE_SPREAD = 0.5
_GENERATION_SHARES = (0.0, 0.5, 1.0, 2.0)
"""Mean generation as a share of the mean load."""


def write_mixtures(
    out_dir: Path, *, seed: int = 11, per_net: int = PER_NET, progress: Callable[[str], None] = print
) -> tuple[Path, ...]:
    """Write ``SB_mix*.csv.gz`` files in the long form, half a year of 15-min means each.

    Args:
        out_dir: Folder to write to.
        seed: Seed of every choice; the same seed and package version give the same bytes.
        per_net: Mixtures of each net.
        progress: Called with one line per net.
    """
    import simbench

    out_dir.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(seed)
    written: list[Path] = []
    for code in NETS:
        net = simbench.get_simbench_net(code)
        profiles = simbench.get_absolute_values(net, profiles_instead_of_study_cases=True)
        load_kw = np.asarray(profiles["load", "p_mw"], dtype=np.float64) * 1000
        generation_kw = np.asarray(profiles["sgen", "p_mw"], dtype=np.float64) * 1000
        for _ in range(per_net):
            path = out_dir / f"SB_mix{len(written):02d}.csv.gz"
            _write(path, mixture(load_kw, generation_kw, rng), rng)
            written.append(path)
        progress(f"{code}: {load_kw.shape[1]} loads, {generation_kw.shape[1]} generators")
    return tuple(written)


def mixture(load_kw: Any, generation_kw: Any, rng: np.random.Generator) -> Any:
    """One feeder: scaled loads minus scaled generators, kW, float64 (slots,)."""
    loads = _some(load_kw, rng, 4, 60)
    generation = _some(generation_kw, rng, 0, 20)
    share = rng.choice(_GENERATION_SHARES) * rng.uniform(0.5, 1.5)
    if generation.mean() <= 0:
        return loads
    return loads - share * loads.mean() / generation.mean() * generation


def _some(columns: Any, rng: np.random.Generator, least: int, most: int) -> Any:
    count = int(min(rng.integers(least, most + 1), columns.shape[1]))
    chosen = rng.choice(columns.shape[1], count, replace=False)
    return columns[:, chosen] @ rng.lognormal(0, _SCALE_SPREAD, count)


def _write(path: Path, load_kw: Any, rng: np.random.Generator) -> None:
    slots = DAYS * 24 * 60 // STEP_MIN
    first = int(rng.integers(0, load_kw.size - slots + 1))
    begin = START + timedelta(minutes=STEP_MIN * first)
    rows = [
        f"{begin + timedelta(minutes=STEP_MIN * i):%Y-%m-%dT%H:%M:%SZ},{value:.6g}"
        for i, value in enumerate(load_kw[first : first + slots].tolist())
    ]
    text = "timestamp,load_kw\n" + "\n".join(rows) + "\n"
    path.write_bytes(gzip.compress(text.encode(), mtime=0))
