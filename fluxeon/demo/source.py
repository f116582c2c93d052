"""What the demo replays: feeders with their load, rating and place.

Rules:

* ``bundled`` is the sample in ``seeds/``, ``simulator`` is simulated anew, ``csv:PATH`` is a file in
  the contract's long or wide form.
* A feeder that the seeds know keeps its seeded configuration. For any other the rating is the 99th
  percentile of the next hour's highest |load| over the whole source, which is said on screen.
"""

from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path

import numpy as np

from fluxeon.errors import BadUsage
from ml.errors import SeriesError
from ml.series import LoadSeries, rating_of, read_series
from seeds.load import SAMPLE_PATH, FeederSeed, load_feeders
from seeds.simulator import SimulatedFeeder, simulate

SIMULATED_FEEDERS = 6
SIMULATED_DAYS = 12
NO_LOAD_RATING_KW = 1.0
"""Rating of a feeder whose source holds no load at all: it can be watched, there is nothing to trade."""


class RatedBy(StrEnum):
    """Where a feeder's rating comes from."""

    SEED = "configured in seeds/feeders.json"
    SIMULATOR = "chosen by the simulator"
    RULE = "99th percentile of the next hour's highest |load|"
    NO_LOAD = "no load to derive it from"


@dataclass(frozen=True)
class DemoFeeder:
    """One feeder to replay; ``seed`` where the seeds know it."""

    series: LoadSeries
    rating_kw: float
    rated_by: RatedBy
    seed: FeederSeed | None = None

    @property
    def feeder_id(self) -> str:
        """The feeder's id."""
        return self.series.feeder_id


@dataclass(frozen=True)
class DemoSource:
    """Everything to replay, and what to call it."""

    title: str
    feeders: tuple[DemoFeeder, ...]


def open_source(text: str, *, feeders: int | None = None) -> DemoSource:
    """Read a source.

    Args:
        text: ``bundled``, ``simulator`` or ``csv:PATH``.
        feeders: How many feeders to take (the first), or to simulate; None: all, or the usual number.

    Raises:
        BadUsage: No such kind of source, or fewer feeders than asked for.
        SeriesError: The file cannot be read as load.
    """
    kind, _, path = text.partition(":")
    if text == "bundled":
        source = _known("bundled sample", read_series(SAMPLE_PATH))
    elif text == "simulator":
        source = _simulated(SIMULATED_FEEDERS if feeders is None else feeders)
    elif kind == "csv" and path:
        file = Path(path)
        source = _known(file.name, read_series(file))
    else:
        raise BadUsage(f"--source {text!r}: use bundled, simulator or csv:PATH")
    if feeders is not None and feeders > len(source.feeders):
        raise BadUsage(f"--feeders {feeders}: the source has {len(source.feeders)}")
    return DemoSource(source.title, source.feeders[:feeders])


def to_load_series(simulated: SimulatedFeeder) -> LoadSeries:
    """Give simulated load the form the CSV reader gives."""
    return LoadSeries(
        feeder_id=simulated.feeder_id,
        step_min=15,
        end_s=np.array([int(end.timestamp()) for end in simulated.ends], dtype=np.int64),
        load_kw=np.array(simulated.load_kw),
        exogenous={"temperature_c": np.array(simulated.temperature_c)},
    )


def _simulated(feeders: int) -> DemoSource:
    simulated = simulate(feeders=feeders, days=SIMULATED_DAYS)
    return DemoSource(
        "simulator",
        tuple(DemoFeeder(to_load_series(one), one.rating_kw, RatedBy.SIMULATOR) for one in simulated),
    )


def _known(title: str, series: list[LoadSeries]) -> DemoSource:
    """Attach what the seeds know; rate the others by rule."""
    seeds = {seed.feeder_id: seed for seed in load_feeders()}
    feeders = []
    for one in series:
        seed = seeds.get(one.feeder_id)
        if seed is not None:
            feeders.append(DemoFeeder(one, seed.rating_kw, RatedBy.SEED, seed))
        else:
            rating_kw, rated_by = _rating(one)
            feeders.append(DemoFeeder(one, rating_kw, rated_by))
    return DemoSource(title, tuple(feeders))


def _rating(series: LoadSeries) -> tuple[float, RatedBy]:
    try:
        return rating_of(series), RatedBy.RULE
    except SeriesError:
        if np.isfinite(series.load_kw).any() and np.nanmax(np.abs(series.load_kw)) > 0:
            raise
        return NO_LOAD_RATING_KW, RatedBy.NO_LOAD
