"""A feeder's recent past on a regular grid.

* Readings are kept raw (float32, by the minute of their interval's end) for the whole window, so that a
  repeated reading is told from a conflicting one, and averaged onto slots of 15 min (30 min where the
  feeder is sampled more slowly than every 15 min).
* A slot is the time-weighted mean of the intervals that overlap it. 10-min data thus give the exact
  15-min mean: slot :15 takes 10 min of the reading at :10 and 5 min of the one at :20, and is known
  only when the latter has come.
* A slot is closed once a reading at or after its end is there. Less than ``min_cover`` of it measured:
  NaN. Nothing is interpolated.
* What the slots hold is a function of the readings alone, not of the order they came in, so a window
  rebuilt after a restart equals the one that was lost.
* Stores measured load; the relief of our own orders is added by the caller (gateway.flex.relief).
"""

import math
from collections.abc import Iterable
from datetime import UTC, datetime, timedelta
from enum import StrEnum
from statistics import median_low
from typing import NamedTuple

import msgspec
import numpy as np
from numpy.typing import NDArray

from gateway.telemetry.reading import KnownReading, Reading, minute_of

DAYS = 8
SPARE_SLOTS = 8
DEFAULT_SAMPLING_MIN = 15
MAX_SAMPLING_MIN = 60
NEIGHBOURS = 4
"""Gaps on either side that say how long the interval before a reading was."""
RECENT_GAPS = 32
"""Gaps whose median is the sampling interval."""
ENOUGH_GAPS = 3
"""Gaps it takes to believe in sampling slower than every 15 min."""
_SPAN_MIN = (DAYS * 24 + 12) * 60  # the longest grid (392 slots of 30 min) and neighbours to spare

Float32 = NDArray[np.float32]
Int64 = NDArray[np.int64]


class AddOutcome(StrEnum):
    """What a reading did to the window."""

    NEWEST = "newest"
    FILLED = "filled"
    DUPLICATE = "duplicate"
    CONFLICT = "conflict"
    ANCIENT = "ancient"


class AddResult(msgspec.Struct, frozen=True, kw_only=True):
    """Effect of one reading.

    Attributes:
        outcome: NEWEST advanced the window, FILLED a gap behind the newest; the others had no effect.
        completed_at: End of the newest slot closed by this reading, None when it closed none.
        closed_slots: How many slots it closed (those of a gap included, which hold NaN).
    """

    outcome: AddOutcome
    completed_at: datetime | None = None
    closed_slots: int = 0


class History(NamedTuple):
    """The window, oldest slot first.

    Attributes:
        load_kw: float32, shape (W,), mean over each slot, NaN where missing.
        temperature_c: float32, shape (W,), NaN where missing.
        origin_at: End of the last slot: the instant forecasts start from; None before the first slot.
    """

    load_kw: Float32
    temperature_c: Float32
    origin_at: datetime | None


def instant_of(minute: int) -> datetime:
    """Aware UTC instant of a minute since 1970."""
    return datetime.fromtimestamp(minute * 60, UTC)


class FeederWindow:
    """Rolling window of one feeder: at least 8 days of slots, newest last.

    Args:
        feeder_id: Whose readings these are.
        sampling_min: Sampling interval where it is configured; inferred from the readings otherwise.
        min_cover: Share of a slot that must have been measured for it to have a value.

    Raises:
        ValueError: A sampling interval outside 1 to 60 minutes.
    """

    def __init__(self, feeder_id: str, *, sampling_min: int | None = None, min_cover: float = 0.6) -> None:
        if sampling_min is not None and not 1 <= sampling_min <= MAX_SAMPLING_MIN:
            raise ValueError(f"sampling_min {sampling_min} is outside 1 to {MAX_SAMPLING_MIN}")
        self.feeder_id = feeder_id
        self.min_cover = min_cover
        self._configured_min = sampling_min
        self._sampling_min = sampling_min or DEFAULT_SAMPLING_MIN
        self._newest: int | None = None
        # Length of the newest gaps, and how many of them in a row are that long.
        self._gap, self._run = 0, 0
        # Raw cells: one per _cell_min minutes, a divisor of 60 fine enough for every instant seen.
        self._cell_min = math.gcd(60, sampling_min) if sampling_min else DEFAULT_SAMPLING_MIN
        self._raw_load = self._blank(_SPAN_MIN // self._cell_min)
        self._raw_temperature = self._blank(_SPAN_MIN // self._cell_min)
        self._step_min = self._step_for(self._sampling_min)
        self._slot_load = self._blank(self.slots)
        self._slot_temperature = self._blank(self.slots)

    @staticmethod
    def _blank(size: int) -> Float32:
        return np.full(size, np.nan, dtype=np.float32)

    @staticmethod
    def _step_for(sampling_min: int) -> int:
        return 15 if sampling_min <= 15 else 30

    # -- what it knows ------------------------------------------------------------------------

    @property
    def newest_at(self) -> datetime | None:
        """Event time of the newest reading (to the minute)."""
        return None if self._newest is None else instant_of(self._newest)

    @property
    def origin_at(self) -> datetime | None:
        """End of the newest closed slot."""
        return None if self._newest is None else instant_of(self._newest // self._step_min * self._step_min)

    @property
    def step_min(self) -> int:
        """Length of a slot in minutes: 15 or 30."""
        return self._step_min

    @property
    def sampling_min(self) -> int:
        """Sampling interval, configured or inferred."""
        return self._sampling_min

    @property
    def slots(self) -> int:
        """Slots in the window (W): 8 days and 8 slots."""
        return DAYS * 24 * 60 // self._step_min + SPARE_SLOTS

    @property
    def length(self) -> timedelta:
        """How far back from the newest reading the window goes."""
        return timedelta(minutes=self.slots * self._step_min)

    @property
    def complete_slots(self) -> int:
        """Slots that have a value."""
        return int(np.count_nonzero(~np.isnan(self._slot_load)))

    def known(self, instant: datetime) -> KnownReading | None:
        """The reading held for the minute of ``instant``, or None."""
        minute = minute_of(instant)
        if not self._holds(minute) or minute % self._cell_min:
            return None
        cell = minute // self._cell_min % len(self._raw_load)
        load_kw = float(self._raw_load[cell])
        if math.isnan(load_kw):
            return None
        temperature_c = float(self._raw_temperature[cell])
        return KnownReading(
            load_kw=load_kw, temperature_c=None if math.isnan(temperature_c) else temperature_c
        )

    def history(self, gross_adjust: Float32 | None = None) -> History:
        """Copy the window out, newest slot last.

        Args:
            gross_adjust: kW to add per slot, shape (W,): relief our own orders delivered, so that the
                result is the load as it would have been without them.
        """
        if self._newest is None:
            return History(self._slot_load.copy(), self._slot_temperature.copy(), None)
        shift = -(self._newest // self._step_min + 1) % self.slots
        load_kw = np.roll(self._slot_load, shift)
        if gross_adjust is not None:
            load_kw = load_kw + gross_adjust.astype(np.float32, copy=False)
        return History(load_kw, np.roll(self._slot_temperature, shift), self.origin_at)

    # -- what comes in ------------------------------------------------------------------------

    def add(self, reading: Reading) -> AddResult:
        """Take one reading in; an identical or conflicting one has no effect."""
        minute = minute_of(reading.timestamp)
        if self._newest is not None and minute <= self._newest:
            if not self._holds(minute):
                return AddResult(outcome=AddOutcome.ANCIENT)
            held = self.known(reading.timestamp)
            if held is not None:
                same = held.load_kw == float(np.float32(reading.load_kw))
                return AddResult(outcome=AddOutcome.DUPLICATE if same else AddOutcome.CONFLICT)
        if minute % self._cell_min:
            self._refine(math.gcd(self._cell_min, minute))

        before = self._newest
        if before is None:
            self._newest = minute
        elif minute > before:
            self._advance(minute)
        cell = minute // self._cell_min % len(self._raw_load)
        self._raw_load[cell] = reading.load_kw
        self._raw_temperature[cell] = np.nan if reading.temperature_c is None else reading.temperature_c

        if before is not None and minute < before:
            self._run = 0
            if not self._resample():
                self._rebuild()
            return AddResult(outcome=AddOutcome.FILLED)
        self._extend(before, minute)
        if before is None:
            closed = int(minute % self._step_min == 0)
        else:
            closed = minute // self._step_min - before // self._step_min
        return AddResult(
            outcome=AddOutcome.NEWEST,
            completed_at=self.origin_at if closed else None,
            closed_slots=closed,
        )

    def load(self, readings: Iterable[Reading]) -> None:
        """Take many readings in at once, in any order; the first of an instant counts.

        For start-up: an empty window is filled without a step per reading.
        """
        items = list(readings)
        minutes = np.fromiter((minute_of(item.timestamp) for item in items), dtype=np.int64, count=len(items))
        loads = np.fromiter((item.load_kw for item in items), dtype=np.float32, count=len(items))
        temperatures = np.fromiter(
            (np.nan if item.temperature_c is None else item.temperature_c for item in items),
            dtype=np.float32,
            count=len(items),
        )
        self.load_arrays(minutes, loads, temperatures)

    def load_arrays(self, minutes: Int64, load_kw: Float32, temperature_c: Float32) -> None:
        """Take arrays in: minutes since 1970, kW and degrees Celsius (NaN where missing), shape (n,)."""
        held = ~np.isnan(load_kw)
        minutes, load_kw, temperature_c = minutes[held], load_kw[held], temperature_c[held]
        if len(minutes) == 0:
            return
        if self._newest is not None:  # what is held came first
            old, old_load, old_temperature = self._raw(self._newest - _SPAN_MIN + 1, self._newest)
            minutes = np.concatenate([old, minutes])
            load_kw = np.concatenate([old_load, load_kw])
            temperature_c = np.concatenate([old_temperature, temperature_c])
        newest = int(minutes.max())
        recent = minutes > newest - _SPAN_MIN
        minutes, first = np.unique(minutes[recent], return_index=True)
        self._cell_min = math.gcd(self._cell_min, int(np.gcd.reduce(minutes)))
        self._newest = newest
        self._raw_load = self._blank(_SPAN_MIN // self._cell_min)
        self._raw_temperature = self._blank(_SPAN_MIN // self._cell_min)
        cells = minutes // self._cell_min % len(self._raw_load)
        self._raw_load[cells] = load_kw[recent][first]
        self._raw_temperature[cells] = temperature_c[recent][first]
        gaps = np.diff(minutes[-RECENT_GAPS:])
        if len(gaps):
            other = np.flatnonzero(gaps != gaps[-1])
            self._gap, self._run = int(gaps[-1]), len(gaps) - (int(other[-1]) + 1 if len(other) else 0)
        if not self._resample():
            self._rebuild()

    # -- inside -------------------------------------------------------------------------------

    def _holds(self, minute: int) -> bool:
        """Whether a minute lies inside the window."""
        if self._newest is None:
            return False
        return self._newest - self.slots * self._step_min < minute <= self._newest

    def _refine(self, cell_min: int) -> None:
        """Lay the raw cells out on a finer grid."""
        if self._newest is None:
            minutes, loads, temperatures = np.zeros(0, np.int64), self._blank(0), self._blank(0)
        else:
            minutes, loads, temperatures = self._raw(self._newest - _SPAN_MIN + 1, self._newest)
        self._cell_min = cell_min
        self._raw_load = self._blank(_SPAN_MIN // cell_min)
        self._raw_temperature = self._blank(_SPAN_MIN // cell_min)
        cells = minutes // cell_min % len(self._raw_load)
        self._raw_load[cells] = loads
        self._raw_temperature[cells] = temperatures

    def _advance(self, minute: int) -> None:
        """Make room up to ``minute``: forget what falls out of the rings."""
        before = self._newest
        if before is None:
            raise RuntimeError("an empty window cannot advance")
        cell_min, step = self._cell_min, self._step_min
        _clear(self._raw_load, before // cell_min + 1, minute // cell_min)
        _clear(self._raw_temperature, before // cell_min + 1, minute // cell_min)
        _clear(self._slot_load, before // step + 1, minute // step)
        _clear(self._slot_temperature, before // step + 1, minute // step)
        self._newest = minute

    def _extend(self, before: int | None, minute: int) -> None:
        """Bring the slots up to date with a new newest reading."""
        if before is None:
            self._rebuild()
            return
        gap = minute - before
        self._gap, self._run = gap, self._run + 1 if gap == self._gap else 1
        settled = self._configured_min is not None or (
            gap == self._sampling_min and self._run > RECENT_GAPS // 2
        )
        if settled:
            # A regular reading tells nothing about the intervals before it: only new slots change.
            self._average(before // self._step_min + 1, minute // self._step_min)
        elif not self._resample():
            # It may change how long the intervals of its neighbours were.
            minutes, _, _ = self._raw_around(minute, minute)
            first = int(minutes[-NEIGHBOURS - 2 :][0]) - MAX_SAMPLING_MIN
            self._average(first // self._step_min, minute // self._step_min)

    def _raw(self, first: int, last: int) -> tuple[Int64, Float32, Float32]:
        """Readings held with first <= minute <= last, oldest first."""
        if self._newest is None:
            return np.zeros(0, np.int64), self._blank(0), self._blank(0)
        first = max(first, self._newest - _SPAN_MIN + 1)
        last = min(last, self._newest)
        cells = np.arange(-(-first // self._cell_min), last // self._cell_min + 1, dtype=np.int64)
        places = cells % len(self._raw_load)
        load_kw = self._raw_load[places]
        held = ~np.isnan(load_kw)
        return cells[held] * self._cell_min, load_kw[held], self._raw_temperature[places[held]]

    def _raw_around(self, begin: int, end: int) -> tuple[Int64, Float32, Float32]:
        """Readings from begin to end with the neighbours that say how long their intervals are."""
        reach = (NEIGHBOURS + 1) * self._sampling_min
        while True:
            minutes, load_kw, temperature_c = self._raw(begin - reach, end + reach)
            before = np.count_nonzero(minutes <= begin)
            after = np.count_nonzero(minutes >= end)
            newest = self._newest if self._newest is not None else end
            if (before > NEIGHBOURS + 1 or begin - reach <= newest - _SPAN_MIN) and (
                after > NEIGHBOURS or end + reach >= newest
            ):
                return minutes, load_kw, temperature_c
            reach *= 2

    def _resample(self) -> bool:
        """Infer the sampling interval; True when that has recomputed every slot."""
        if self._configured_min is not None or self._newest is None:
            return False
        minutes, _, _ = self._raw(self._newest - RECENT_GAPS * MAX_SAMPLING_MIN, self._newest)
        gaps = np.diff(minutes[-RECENT_GAPS - 1 :])
        before = self._sampling_min
        if len(gaps):
            usual = int(median_low(gaps.tolist()))
            # Few gaps may be holes; a short one is proof of fast sampling all the same.
            most = MAX_SAMPLING_MIN if len(gaps) >= ENOUGH_GAPS else DEFAULT_SAMPLING_MIN
            self._sampling_min = min(usual, most)
            self._step_min = self._step_for(self._sampling_min)
        # With few readings, the length of every interval hangs on the sampling (see _lengths).
        if self._sampling_min == before and len(gaps) > NEIGHBOURS + 1:
            return False
        self._rebuild()
        return True

    def _rebuild(self) -> None:
        self._slot_load = self._blank(self.slots)
        self._slot_temperature = self._blank(self.slots)
        if self._newest is not None:
            newest_slot = self._newest // self._step_min
            self._average(newest_slot - self.slots + 1, newest_slot)

    def _average(self, first_slot: int, last_slot: int) -> None:
        """Recompute closed slots (by end / step), both ends included."""
        if self._newest is None:
            return
        step = self._step_min
        last_slot = min(last_slot, self._newest // step)
        first_slot = max(first_slot, self._newest // step - self.slots + 1)
        if first_slot > last_slot:
            return
        if first_slot == last_slot and self._average_plain(first_slot):
            return
        begin, end = (first_slot - 1) * step, last_slot * step
        minutes, load_kw, temperature_c = self._raw_around(begin, end + MAX_SAMPLING_MIN)
        lengths = self._lengths(minutes)
        near = (minutes > begin) & (minutes - lengths < end)
        places = np.arange(first_slot, last_slot + 1) % self.slots
        shape = (last_slot - first_slot + 1, step)
        spread = _spread(minutes[near], lengths[near], begin, end)
        self._slot_load[places] = _means(spread, load_kw[near], shape, self.min_cover)
        self._slot_temperature[places] = _means(spread, temperature_c[near], shape, self.min_cover)

    def _average_plain(self, slot: int) -> bool:
        """The usual case: the newest slot is exactly one reading, one sampling interval long."""
        step = self._step_min
        known = self._configured_min is not None or self._run > NEIGHBOURS
        plain = known and self._newest == slot * step and self._gap == self._sampling_min == step
        if plain:
            cell = slot * step // self._cell_min % len(self._raw_load)
            self._slot_load[slot % self.slots] = self._raw_load[cell]
            self._slot_temperature[slot % self.slots] = self._raw_temperature[cell]
        return plain

    def _lengths(self, minutes: Int64) -> Int64:
        """Length of the interval before each reading: the usual gap near it, or less."""
        usual = np.full(len(minutes), self._sampling_min, dtype=np.int64)
        gaps = np.diff(minutes)
        if self._configured_min is None and len(gaps) > NEIGHBOURS:
            usual[1:] = _running_median_low(gaps, NEIGHBOURS)
            usual[0] = usual[1]
        usual = np.minimum(usual, MAX_SAMPLING_MIN)
        usual[1:] = np.minimum(usual[1:], gaps)
        return usual


def _clear(ring: Float32, first: int, last: int) -> None:
    """Blank the places of first..last (absolute numbers, both included)."""
    size = len(ring)
    if last - first + 1 >= size:
        ring[:] = np.nan
    elif last >= first:
        start, stop = first % size, last % size
        if start <= stop:
            ring[start : stop + 1] = np.nan
        else:
            ring[start:] = np.nan
            ring[: stop + 1] = np.nan


def _running_median_low(values: Int64, reach: int) -> Int64:
    """Lower median of each value and up to ``reach`` neighbours on either side; shape (n,)."""
    far = np.iinfo(np.int64).max
    padded = np.concatenate([np.full(reach, far), values, np.full(reach, far)])
    ordered = np.sort(np.lib.stride_tricks.sliding_window_view(padded, 2 * reach + 1), axis=1)
    present = np.count_nonzero(ordered != far, axis=1)
    result: Int64 = ordered[np.arange(len(values)), (present - 1) // 2]
    return result


def _spread(minutes: Int64, lengths: Int64, begin: int, end: int) -> tuple[Int64, Int64]:
    """Which reading covers which minute of (begin, end]: positions and reading numbers."""
    numbers = np.repeat(np.arange(len(minutes)), lengths)
    starts = np.repeat(minutes - lengths - begin, lengths)
    within = np.arange(len(numbers)) - np.repeat(np.cumsum(lengths) - lengths, lengths)
    positions = starts + within
    inside = (positions >= 0) & (positions < end - begin)
    return positions[inside], numbers[inside]


def _means(spread: tuple[Int64, Int64], values: Float32, shape: tuple[int, int], min_cover: float) -> Float32:
    """Mean per slot over its measured minutes; NaN below the cover. float32, shape (slots,)."""
    positions, numbers = spread
    by_minute = np.full(shape[0] * shape[1], np.nan)
    by_minute[positions] = values[numbers]
    grid = by_minute.reshape(shape)
    measured = ~np.isnan(grid)
    count = np.count_nonzero(measured, axis=1)
    total = np.where(measured, grid, 0.0).sum(axis=1)
    means = np.full(shape[0], np.nan, dtype=np.float32)
    enough = count >= max(1, min_cover * shape[1])
    means[enough] = total[enough] / count[enough]
    return means
