"""Timing by interleaved rounds, and what comes of it as data.

* A machine that is busy with other things slows the reference as much as ours: only what was measured
  in turns, in one run, is compared, round by round.
* Every figure is a median over the rounds with its 10th and 90th percentile.
* Garbage collection stays on: it is part of what a running gateway pays.
"""

import time
from collections.abc import Callable, Coroutine, Mapping, Sequence
from typing import Any, Self, TypeVar

import msgspec
import numpy as np

T = TypeVar("T")

Sample = Callable[[], float]
"""Measures once; returns a figure such as microseconds per call."""

SAMPLE_S = 0.01
"""How long one sample of a short job lasts."""


class Spread(msgspec.Struct, frozen=True, kw_only=True):
    """A figure over the rounds."""

    median: float
    p10: float
    p90: float
    rounds: int

    @classmethod
    def of(cls, values: Sequence[float]) -> Self:
        """Sum up at least one value."""
        p10, median, p90 = (float(value) for value in np.percentile(values, (10, 50, 90)))
        return cls(median=median, p10=p10, p90=p90, rounds=len(values))


Cell = Spread | float | int | str | None


class Row(msgspec.Struct, frozen=True, kw_only=True):
    """One line of a table."""

    label: str
    cells: tuple[Cell, ...]


class Table(msgspec.Struct, frozen=True, kw_only=True):
    """Figures with their units in the column names; ``note`` says how to read them."""

    title: str
    columns: tuple[str, ...]
    rows: tuple[Row, ...]
    note: str = ""


class Ratio(msgspec.Struct, frozen=True, kw_only=True):
    """Ours against a reference, per round; ``goal`` with whether the median reaches it."""

    name: str
    value: Spread
    goal: str | None = None
    reached: bool | None = None


class Outcome(msgspec.Struct, frozen=True, kw_only=True):
    """What one benchmark found."""

    name: str
    tables: tuple[Table, ...]
    ratios: tuple[Ratio, ...]
    took_s: float = 0.0


def interleave(cases: Mapping[str, Sample], rounds: int) -> dict[str, list[float]]:
    """Sample every case once per round, in turns; one round before the first is not counted."""
    for sample in cases.values():
        sample()
    taken: dict[str, list[float]] = {name: [] for name in cases}
    for _ in range(rounds):
        for name, sample in cases.items():
            taken[name].append(sample())
    return taken


def per_call_us(job: Callable[[], object], *, sample_s: float = SAMPLE_S) -> Sample:
    """Make a sample of a job: microseconds per call, repeated for about ``sample_s``."""
    started = time.perf_counter_ns()
    job()
    once_s = (time.perf_counter_ns() - started) / 1e9
    repeats = max(1, min(10_000, round(sample_s / max(once_s, 1e-7))))

    def sample() -> float:
        begin = time.perf_counter_ns()
        for _ in range(repeats):
            job()
        return (time.perf_counter_ns() - begin) / repeats / 1000

    return sample


def ratio(
    name: str,
    ours: Sequence[float],
    reference: Sequence[float],
    *,
    at_least: float | None = None,
    at_most: float | None = None,
) -> Ratio:
    """Compare two series of the same rounds; goals bound the median of ours / reference."""
    value = Spread.of([one / other for one, other in zip(ours, reference, strict=True)])
    return judged(name, value, at_least=at_least, at_most=at_most)


def judged(name: str, value: Spread, *, at_least: float | None = None, at_most: float | None = None) -> Ratio:
    """Hold a figure against its goal, where it has one."""
    if at_least is not None:
        return Ratio(name=name, value=value, goal=f">= {at_least:g}", reached=value.median >= at_least)
    if at_most is not None:
        return Ratio(name=name, value=value, goal=f"<= {at_most:g}", reached=value.median <= at_most)
    return Ratio(name=name, value=value)


def run_through(coroutine: Coroutine[Any, Any, T]) -> T:
    """Run a coroutine that never has to wait, without an event loop.

    Raises:
        RuntimeError: It wanted to wait.
    """
    try:
        coroutine.send(None)
    except StopIteration as ended:
        result: T = ended.value
        return result
    coroutine.close()
    raise RuntimeError("the job under measurement wanted to wait")
