"""A small seeded simulator of feeder load: pure, the same bytes for the same arguments.

Rules:

* Load = base + morning peak + evening peak (weaker at the weekend) + heating below 15 degC + noise that
  remembers itself, plus injected spikes that build up over 45 min: so they can be seen coming.
* Every second feeder gets spikes above its rating, one or two in the days after the warm-up; every fourth
  also exports at noon. The others stay below their ratings.
* Values are rounded to 10 W, so that they do not depend on the last bit of a sine.
* ``load_kw`` is the mean of the interval that ends at the timestamp; > 0 is import.
"""

import math
import random
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta

import msgspec

STEP_MIN = 15
WARM_UP_DAYS = 8
DEFAULT_START = datetime(2025, 1, 6, tzinfo=UTC)
"""A Monday."""
RATINGS_KW = (600.0, 250.0, 1500.0, 400.0, 3000.0, 900.0)
COMFORT_C = 15.0
SPIKE_BUILD_UP_STEPS = 3


class SimulatedFeeder(msgspec.Struct, frozen=True, kw_only=True):
    """One simulated feeder.

    Attributes:
        feeder_id: Its name.
        rating_kw: Its rating.
        ends: Interval ends, UTC, 15 min apart.
        load_kw: Mean load of each interval.
        temperature_c: Mean outdoor temperature of each interval.
    """

    feeder_id: str
    rating_kw: float
    ends: tuple[datetime, ...]
    load_kw: tuple[float, ...]
    temperature_c: tuple[float, ...]


class Spike(msgspec.Struct, frozen=True, kw_only=True):
    """An injected event: full height from ``at`` for ``steps`` intervals."""

    at: int
    steps: int
    height: float
    """In parts of the rating."""


def simulate(
    *, feeders: int = 4, days: int = 12, seed: int = 1, start: datetime = DEFAULT_START
) -> tuple[SimulatedFeeder, ...]:
    """Simulate feeders over whole days.

    Args:
        feeders: How many, 1 or more.
        days: How many days; spikes fall into those after the eighth, or anywhere in a shorter run.
        seed: Same seed, same bytes.
        start: Start of the first interval, aware.

    Raises:
        ValueError: An argument out of range.
    """
    if feeders < 1 or days < 1:
        raise ValueError("at least one feeder and one day")
    if start.tzinfo is None:
        raise ValueError("the start must be aware")
    steps = days * 24 * 60 // STEP_MIN
    ends = tuple(start + timedelta(minutes=STEP_MIN * (step + 1)) for step in range(steps))
    weather = random.Random(f"{seed}/weather")
    temperature = _temperature(ends, weather)
    return tuple(_feeder(number, ends, temperature, seed) for number in range(feeders))


def wide_csv(feeders: Sequence[SimulatedFeeder]) -> str:
    """Write simulated feeders as wide CSV: ``timestamp``, ``temperature_c``, one column of kW per feeder."""
    lines = [",".join(["timestamp", "temperature_c", *(one.feeder_id for one in feeders)])]
    first = feeders[0]
    for step, end in enumerate(first.ends):
        cells = [f"{one.load_kw[step]:.2f}" for one in feeders]
        lines.append(
            ",".join([end.strftime("%Y-%m-%dT%H:%M:%SZ"), f"{first.temperature_c[step]:.1f}", *cells])
        )
    return "\n".join(lines) + "\n"


def spikes_of(number: int, steps: int, dice: random.Random) -> tuple[Spike, ...]:
    """Choose a feeder's injected events: none for odd feeders, else one or two after the warm-up.

    Each starts between 16:30 and 18:30 UTC, on top of the evening peak, and lasts 45 to 90 min.
    """
    if number % 2:
        return ()
    per_day = 24 * 60 // STEP_MIN
    days = steps // per_day
    first_day = min(WARM_UP_DAYS + 1, days - 1)
    chosen = sorted(dice.sample(range(first_day, days), k=min(1 + number // 2 % 2, days - first_day)))
    return tuple(
        Spike(
            at=day * per_day + dice.randrange(66, 75),
            steps=dice.randrange(3, 7),
            height=dice.uniform(0.30, 0.36),
        )
        for day in chosen
    )


def _feeder(
    number: int, ends: Sequence[datetime], temperature: Sequence[float], seed: int
) -> SimulatedFeeder:
    """Simulate one feeder."""
    dice = random.Random(f"{seed}/feeder/{number}")
    rating = RATINGS_KW[number % len(RATINGS_KW)]
    morning, evening = dice.uniform(0.16, 0.24), dice.uniform(0.36, 0.41)
    shift_h = dice.uniform(-0.5, 0.5)
    solar = 0.9 if number % 4 == 3 else 0.0
    spikes = spikes_of(number, len(ends), dice)
    noise = 0.0
    load: list[float] = []
    for step, (end, degrees) in enumerate(zip(ends, temperature, strict=True)):
        hour = (end.hour + end.minute / 60 - STEP_MIN / 120 - shift_h) % 24
        working = 1.0 if end.weekday() < 5 else 0.75
        noise = 0.8 * noise + dice.gauss(0.0, 0.008)
        share = (
            0.28
            + working * morning * _bump(hour, 7.5, 1.3)
            + (0.6 + 0.4 * working) * evening * _bump(hour, 18.0, 2.0)
            + 0.006 * max(0.0, COMFORT_C - degrees)
            - solar * _bump(hour, 12.0, 1.8)
            + sum(_spike_share(spike, step) for spike in spikes)
            + noise
        )
        load.append(round(share * rating, 2))
    return SimulatedFeeder(
        feeder_id=f"SIM_{number + 1:03d}",
        rating_kw=rating,
        ends=tuple(ends),
        load_kw=tuple(load),
        temperature_c=tuple(temperature),
    )


def _temperature(ends: Sequence[datetime], dice: random.Random) -> tuple[float, ...]:
    """Outdoor temperature: a daily swing around a mean that wanders."""
    mean = 4.0
    degrees: list[float] = []
    for end in ends:
        mean += 0.02 * (4.0 - mean) + dice.gauss(0.0, 0.12)
        hour = end.hour + end.minute / 60
        degrees.append(round(mean + 3.0 * math.cos((hour - 14.5) / 24 * 2 * math.pi), 1))
    return tuple(degrees)


def _bump(hour: float, centre: float, width: float) -> float:
    """Bell of height 1 around an hour of the day, across midnight."""
    distance = min(abs(hour - centre), 24 - abs(hour - centre))
    return math.exp(-0.5 * (distance / width) ** 2)


def _spike_share(spike: Spike, step: int) -> float:
    """Share of the rating a spike adds in a step: built up evenly before, faded in one step after."""
    if spike.at <= step < spike.at + spike.steps:
        return spike.height
    before = spike.at - step
    if 0 < before <= SPIKE_BUILD_UP_STEPS:
        return spike.height * (1 - before / (SPIKE_BUILD_UP_STEPS + 1))
    return spike.height / 2 if step == spike.at + spike.steps else 0.0
