"""The replay as data: history in batches, then one instant after the other. Pure.

Rules:

* A missing cell is not posted: no reading rather than an invented one.
* A reading carries what the source has of the reading's exogenous members, under the source's names.
* Posted load = load of the source - relief the sellers physically gave over the reading's own interval.
"""

import math
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

from fluxeon.demo.source import DemoFeeder
from fluxeon.demo.window import Window
from gateway.clock import rfc3339

MEASURED = ("temperature_c", "irradiance", "wind_speed", "humidity")
FLAGS = ("holiday_flag", "event_flag")
HISTORY_BATCH = 20_000
"""Readings in one history POST."""
DRAIN = timedelta(hours=2)
"""How long after the live part the source is followed while orders are still open."""


@dataclass(frozen=True)
class Sample:
    """One reading of the source: the mean over the ``step_min`` minutes that end at the instant."""

    feeder_id: str
    step_min: int
    load_kw: float
    extras: dict[str, float | bool]


@dataclass(frozen=True)
class Instant:
    """Everything the source has for one end of interval."""

    at: datetime
    samples: tuple[Sample, ...]


def reading(sample: Sample, at: datetime, *, relief_kw: float = 0.0) -> dict[str, Any]:
    """Write a sample as a reading of ``POST /telemetry``.

    Args:
        sample: The source's reading.
        at: Its timestamp.
        relief_kw: Mean relief over its interval; > 0 lowers import.
    """
    return {
        "feeder_id": sample.feeder_id,
        "timestamp": rfc3339(at),
        "load_kw": round(sample.load_kw - relief_kw, 4),
        **sample.extras,
    }


def history_batches(
    feeders: Sequence[DemoFeeder], window: Window, *, size: int = HISTORY_BATCH
) -> Iterator[list[dict[str, Any]]]:
    """Yield the history as batches of readings, oldest first."""
    batch: list[dict[str, Any]] = []
    for instant in instants(feeders, window.history_start, window.live_start):
        batch += [reading(sample, instant.at) for sample in instant.samples]
        if len(batch) >= size:
            yield batch
            batch = []
    if batch:
        yield batch


def instants(feeders: Sequence[DemoFeeder], after: datetime, until: datetime) -> list[Instant]:
    """List the instants in (after, until] for which the source has rows, those without values included."""
    by_second: dict[int, list[Sample]] = defaultdict(list)
    for feeder in feeders:
        series = feeder.series
        inside = (series.end_s > after.timestamp()) & (series.end_s <= until.timestamp())
        columns = {
            name: series.exogenous[name][inside] for name in (*MEASURED, *FLAGS) if name in series.exogenous
        }
        loads = series.load_kw[inside]
        for row, second in enumerate(series.end_s[inside]):
            samples = by_second[int(second)]
            if math.isfinite(loads[row]):
                extras = _extras({name: float(column[row]) for name, column in columns.items()})
                samples.append(Sample(feeder.feeder_id, series.step_min, float(loads[row]), extras))
    return [
        Instant(datetime.fromtimestamp(second, UTC), tuple(by_second[second])) for second in sorted(by_second)
    ]


def _extras(row: dict[str, float]) -> dict[str, float | bool]:
    known = {name: value for name, value in row.items() if math.isfinite(value)}
    return {name: value > 0.5 if name in FLAGS else value for name, value in known.items()}
