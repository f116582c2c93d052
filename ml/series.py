"""Load series from CSV files, the planning grid, and the default rating.

Rules:

* ``load_kw`` is the average over the interval that ends at the timestamp; > 0 is import.
* Timestamps are UTC. An empty cell or an absent row is a missing reading (NaN), never zero.
* A :class:`LoadSeries` keeps what the source published; a :class:`GridSeries` is the regular
  15- or 30-min grid that features, training and evaluation share.

Source: the public contract, section ``fluxeon demo`` (long and wide form, exogenous names).
"""

import csv
import gzip
import io
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import TypeAlias

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view
from numpy.typing import NDArray

from ml.errors import SeriesError

Floats: TypeAlias = NDArray[np.float64]
Seconds: TypeAlias = NDArray[np.int64]

EXOGENOUS = (
    "temperature_c",
    "irradiance",
    "wind_speed",
    "humidity",
    "holiday_flag",
    "event_flag",
    "load_max_kw",
    "load_min_kw",
)
"""Columns that are never a feeder's load."""

GRID_STEPS_MIN = (15, 30)
RATING_QUANTILE = 0.99
HORIZON_MIN = 60

_TIME = "timestamp"
_LOAD = "load_kw"
_FEEDER = "feeder_id"
_FINE_MIN = 5
"""Common divisor of 10 and 15 min: the grid on which 10-min means become 15-min means."""
_TRUE = frozenset({"true", "yes"})
_FALSE = frozenset({"false", "no"})


@dataclass(frozen=True)
class LoadSeries:
    """One feeder's load as published.

    Attributes:
        feeder_id: Name of the feeder.
        step_min: Length of the source's interval in minutes (the commonest distance of two rows).
        end_s: int64 (rows,), unix seconds of the interval ends, strictly increasing.
        load_kw: float64 (rows,), NaN where the cell is empty.
        exogenous: The exogenous columns present, each float64 (rows,), NaN where empty.
    """

    feeder_id: str
    step_min: int
    end_s: Seconds
    load_kw: Floats
    exogenous: dict[str, Floats] = field(default_factory=dict)


@dataclass(frozen=True)
class GridSeries:
    """One feeder's load on a regular grid.

    Attributes:
        feeder_id: Name of the feeder.
        step_min: 15 or 30.
        start_s: Unix seconds of the END of slot 0; slot i ends at ``start_s + i * 60 * step_min``.
        load_kw: float64 (slots,), NaN = missing.
        temperature_c: float64 (slots,), NaN = missing.
        holiday: bool (slots,).
        event: bool (slots,).
        origin: bool (slots,): everything up to the end of the slot is known at that instant, so a
            forecast may start there (10-min sources: only at :00 and :30).
    """

    feeder_id: str
    step_min: int
    start_s: int
    load_kw: Floats
    temperature_c: Floats
    holiday: NDArray[np.bool_]
    event: NDArray[np.bool_]
    origin: NDArray[np.bool_]

    @property
    def end_s(self) -> Seconds:
        """Unix seconds of every slot's end, int64 (slots,)."""
        return self.start_s + np.arange(self.load_kw.size, dtype=np.int64) * (60 * self.step_min)


def read_series(path: Path) -> list[LoadSeries]:
    """Read every feeder of a CSV file (``.gz`` accepted) in the order of first appearance.

    Args:
        path: File with a header and a ``timestamp`` column. With a ``load_kw`` column it is the long
            form (optional ``feeder_id``, else the file's stem), otherwise one column per feeder.

    Raises:
        SeriesError: The file is unreadable or a cell is; the message names row and column.
    """
    try:
        raw = path.read_bytes()
        text = (gzip.decompress(raw) if path.suffix == ".gz" else raw).decode("utf-8-sig")
    except (OSError, EOFError, UnicodeDecodeError) as fault:
        raise SeriesError(f"{path.name}: cannot be read ({fault})") from fault
    return parse_series(text, stem=_stem(path), name=path.name)


def parse_series(text: str, *, stem: str, name: str) -> list[LoadSeries]:
    """Parse the text of a load CSV; see :func:`read_series`.

    Args:
        text: The whole file.
        stem: Feeder id of a long-form file without ``feeder_id``.
        name: What the error messages call the file.

    Raises:
        SeriesError: The message names row (the header is row 1) and column.
    """
    rows = csv.reader(io.StringIO(text))
    header = [cell.strip() for cell in next(rows, [])]
    loads = _load_columns(header, name)
    long_form = loads == [_LOAD]
    wanted = loads + [c for c in EXOGENOUS if c in header]
    places = [(column, header.index(column)) for column in wanted]
    time_place = header.index(_TIME)
    feeder_place = header.index(_FEEDER) if long_form and _FEEDER in header else None

    times: dict[str, list[int]] = {}
    values: dict[str, list[list[float]]] = {}
    for number, row in enumerate(rows, start=2):
        if not row:
            continue
        if len(row) != len(header):
            raise SeriesError(f"{name}: row {number} has {len(row)} cells, the header has {len(header)}")
        feeder = row[feeder_place].strip() if feeder_place is not None else stem
        if not feeder:
            raise SeriesError(f"{name}: row {number}, column '{_FEEDER}': empty")
        if feeder not in times:
            times[feeder], values[feeder] = [], []
        times[feeder].append(_seconds(row[time_place], name, number))
        values[feeder].append([_number(row[place], name, number, column) for column, place in places])
    if not times:
        raise SeriesError(f"{name}: no rows after the header")

    series: list[LoadSeries] = []
    for feeder, ends in times.items():
        end_s, table = _ordered(np.array(ends, dtype=np.int64), np.array(values[feeder]), feeder, name)
        step_min = _step_min(end_s, feeder, name)
        exogenous = {c: table[:, i] for i, c in enumerate(wanted) if c in EXOGENOUS}
        series += [
            LoadSeries(feeder if long_form else column, step_min, end_s, table[:, i], exogenous)
            for i, column in enumerate(loads)
        ]
    return series


def to_grid(series: LoadSeries) -> GridSeries:
    """Put a series on the 15- or 30-min grid by exact means.

    A source finer than 15 min that divides it is averaged; a slot needs all of its parts. A 10-min
    source is repeated to 5 min and averaged by 3, with origins at :00 and :30 only, because the slots
    that end at :15 and :45 use half of a reading that ends 5 min later.

    Raises:
        SeriesError: The source's interval fits neither grid, or a row is off its own grid.
    """
    step = series.step_min
    if step in GRID_STEPS_MIN:
        target, parts, fine = step, 1, step
    elif step < 15 and 15 % step == 0:
        target, parts, fine = 15, 15 // step, step
    elif step == 10:
        target, parts, fine = 15, 15 // _FINE_MIN, _FINE_MIN
    else:
        raise SeriesError(f"{series.feeder_id}: an interval of {step} min fits no 15- or 30-min grid")
    repeat = step // fine
    step_s, target_s, fine_s = step * 60, target * 60, fine * 60
    off = np.flatnonzero(series.end_s % step_s)
    if off.size:
        at = datetime.fromtimestamp(int(series.end_s[off[0]]), UTC).isoformat()
        raise SeriesError(f"{series.feeder_id}: {at} is not on the {step}-min grid of the other rows")

    first_start = int(series.end_s[0]) - step_s
    begin = -(-first_start // target_s) * target_s  # first slot boundary with complete data
    finish = int(series.end_s[-1]) // target_s * target_s
    slots = (finish - begin) // target_s
    if slots < 1:
        raise SeriesError(f"{series.feeder_id}: shorter than one {target}-min slot")
    place = (series.end_s - begin) // fine_s - repeat
    index = (place[:, None] + np.arange(repeat)).ravel()
    inside = (index >= 0) & (index < slots * parts)

    def means(column: Floats) -> Floats:
        cells = np.full(slots * parts, np.nan)
        cells[index[inside]] = np.repeat(column, repeat)[inside]
        return np.asarray(cells.reshape(slots, parts).mean(axis=1))

    nothing = np.full(series.end_s.size, np.nan)
    ends = begin + target_s * np.arange(1, slots + 1, dtype=np.int64)
    return GridSeries(
        feeder_id=series.feeder_id,
        step_min=target,
        start_s=begin + target_s,
        load_kw=means(series.load_kw),
        temperature_c=means(series.exogenous.get("temperature_c", nothing)),
        holiday=means(series.exogenous.get("holiday_flag", nothing)) > 0.5,
        event=means(series.exogenous.get("event_flag", nothing)) > 0.5,
        origin=(ends % step_s == 0),
    )


def hour_ahead_peak_kw(load_kw: Floats, step_min: int) -> Floats:
    """Highest |load| over the 60 min after each slot, float64 (slots,).

    NaN where any of the following slots is missing or beyond the end.
    """
    slots = HORIZON_MIN // step_min
    peak = np.full(load_kw.size, np.nan)
    if load_kw.size > slots:
        peak[:-slots] = sliding_window_view(np.abs(load_kw[1:]), slots).max(axis=1)
    return peak


def rating_of(series: LoadSeries | GridSeries) -> float:
    """Default rating in kW: the 99th percentile of the next hour's highest |load|.

    Critical (100 % of the rating) then holds for about 1 % of the time. A configuration constant
    derived from data, not a nameplate.

    Raises:
        SeriesError: No full hour of load, or a rating of zero.
    """
    load_kw = _on_own_steps(series) if isinstance(series, LoadSeries) else series.load_kw
    peak = hour_ahead_peak_kw(load_kw, series.step_min)
    known = peak[np.isfinite(peak)]
    rating = float(np.quantile(known, RATING_QUANTILE)) if known.size else 0.0
    if rating <= 0:
        raise SeriesError(f"{series.feeder_id}: no load to derive a rating from; configure one")
    return rating


def _on_own_steps(series: LoadSeries) -> Floats:
    """The published values on the source's own regular steps, absent rows as NaN."""
    place = (series.end_s - series.end_s[0]) // (series.step_min * 60)
    load_kw = np.full(int(place[-1]) + 1, np.nan)
    load_kw[place] = series.load_kw
    return load_kw


def _load_columns(header: list[str], name: str) -> list[str]:
    """Columns of load: ``load_kw`` alone in the long form, every feeder's in the wide form."""
    if _TIME not in header:
        raise SeriesError(f"{name}: no '{_TIME}' column in the header (row 1)")
    if len(set(header)) != len(header):
        raise SeriesError(f"{name}: a column name appears twice in the header (row 1)")
    if _LOAD in header:
        return [_LOAD]
    loads = [column for column in header if column not in (_TIME, _FEEDER, *EXOGENOUS) and column]
    if not loads:
        raise SeriesError(f"{name}: no column of load in the header (row 1)")
    return loads


def _stem(path: Path) -> str:
    name = path.name
    for suffix in (".gz", ".csv"):
        name = name.removesuffix(suffix)
    return name


def _seconds(cell: str, name: str, number: int) -> int:
    try:
        at = datetime.fromisoformat(cell.strip())
    except ValueError as fault:
        raise SeriesError(f"{name}: row {number}, column '{_TIME}': '{cell}' is not ISO 8601") from fault
    if at.tzinfo is None:
        at = at.replace(tzinfo=UTC)
    return int(at.timestamp())


def _number(cell: str, name: str, number: int, column: str) -> float:
    text = cell.strip()
    if not text:
        return math.nan
    try:
        value = float(text)
    except ValueError as fault:
        word = text.lower()
        if word in _TRUE or word in _FALSE:
            return float(word in _TRUE)
        raise SeriesError(f"{name}: row {number}, column '{column}': '{cell}' is not a number") from fault
    if not math.isfinite(value):
        raise SeriesError(f"{name}: row {number}, column '{column}': '{cell}' is not finite")
    return value


def _ordered(end_s: Seconds, table: Floats, feeder: str, name: str) -> tuple[Seconds, Floats]:
    """Sort by time; drop rows repeated word for word, refuse contradicting ones."""
    order = np.argsort(end_s, kind="stable")
    end_s, table = end_s[order], table[order]
    again = np.flatnonzero(np.diff(end_s) == 0) + 1
    if again.size:
        same = np.all(
            (table[again] == table[again - 1]) | (np.isnan(table[again]) & np.isnan(table[again - 1])), axis=1
        )
        if not same.all():
            at = datetime.fromtimestamp(int(end_s[again[~same][0]]), UTC).isoformat()
            raise SeriesError(f"{name}: feeder '{feeder}' has two different rows for {at}, column '{_TIME}'")
        keep = np.ones(end_s.size, dtype=bool)
        keep[again] = False
        end_s, table = end_s[keep], table[keep]
    return end_s, table


def _step_min(end_s: Seconds, feeder: str, name: str) -> int:
    if end_s.size < 2:
        raise SeriesError(f"{name}: feeder '{feeder}' has one row; its interval cannot be told")
    distances, counts = np.unique(np.diff(end_s), return_counts=True)
    step_s = int(distances[np.argmax(counts)])
    if step_s % 60:
        raise SeriesError(f"{name}: feeder '{feeder}' has an interval of {step_s} s, not whole minutes")
    return step_s // 60


def find(series: Iterable[LoadSeries], feeder_id: str) -> LoadSeries:
    """The series of one feeder.

    Raises:
        SeriesError: It is not there; the message lists what is.
    """
    known: Sequence[LoadSeries] = list(series)
    for one in known:
        if one.feeder_id == feeder_id:
            return one
    raise SeriesError(f"no feeder '{feeder_id}'; there are {', '.join(s.feeder_id for s in known)}")
