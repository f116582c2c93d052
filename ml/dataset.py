"""Forecast origins of one feeder: what the model sees and what then happened.

Training and evaluation build their rows here, through the same :func:`ml.features.frame` as serving.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view
from numpy.typing import NDArray

from ml.features import FeederBatch, Frame, frame, history_slots, slots_per_hour
from ml.series import Floats, GridSeries

_CHUNK = 1024
"""Origins per call of the feature code: a few MB of windows."""

Mask = Callable[[NDArray[np.float32], NDArray[np.intp]], NDArray[np.float32]]


@dataclass(frozen=True)
class Origins:
    """Every forecast origin of one feeder, oldest first.

    Attributes:
        slot: (m,) index of the newest slot in the grid.
        origin_s: int64 (m,) unix seconds of that slot's end.
        frame: Features and units, m rows.
        actual_kw: float64 (m, H), the load of the following slots, NaN where missing.
        rating_kw: Rating the features were scaled by.
    """

    slot: NDArray[np.intp]
    origin_s: NDArray[np.int64]
    frame: Frame
    actual_kw: Floats
    rating_kw: float


def origins_of(
    grid: GridSeries,
    rating_kw: float,
    *,
    slots: NDArray[np.intp] | None = None,
    mask: Mask | None = None,
    utc_offset_s: int = 0,
) -> Origins:
    """Build the origins of a feeder.

    Args:
        grid: The load on its grid.
        rating_kw: Rating in kW, > 0.
        slots: Newest slot of each wanted origin; None = every slot at which a forecast may start.
        mask: Changes a chunk of windows (rows, W) of the given slots before the features are computed,
            for example to hide old history.
        utc_offset_s: Local time minus UTC.
    """
    if slots is None:
        slots = np.flatnonzero(grid.origin)
    parts = [frame(batch) for batch in _batches(grid, rating_kw, slots, mask, utc_offset_s)]
    joined = Frame(
        features=np.concatenate([part.features for part in parts]),
        now_kw=np.concatenate([part.now_kw for part in parts]),
        unit_kw=np.concatenate([part.unit_kw for part in parts]),
    )
    horizon = slots_per_hour(grid.step_min)
    ahead = np.concatenate([grid.load_kw, np.full(horizon, np.nan)])
    actual = ahead[slots[:, None] + np.arange(1, horizon + 1)]
    return Origins(slots, grid.end_s[slots], joined, actual, rating_kw)


def _batches(
    grid: GridSeries, rating_kw: float, slots: NDArray[np.intp], mask: Mask | None, utc_offset_s: int
) -> Iterator[FeederBatch]:
    width = history_slots(grid.step_min)
    padding = np.full(width - 1, np.nan, dtype=np.float32)
    loads = sliding_window_view(np.concatenate([padding, grid.load_kw.astype(np.float32)]), width)
    warmth = sliding_window_view(np.concatenate([padding, grid.temperature_c.astype(np.float32)]), width)
    thermometer = bool(np.isfinite(grid.temperature_c).any())
    for begin in range(0, slots.size, _CHUNK):
        part = slots[begin : begin + _CHUNK]
        windows = loads[part]
        if mask is not None:
            windows = mask(windows, part)
        # Flags belong to the hour that follows: known in advance, hence the next slot's.
        following = np.minimum(part + 1, grid.load_kw.size - 1)
        yield FeederBatch(
            load_kw=windows,
            rating_kw=np.full(part.size, rating_kw),
            origin_s=grid.end_s[part],
            step_min=grid.step_min,
            temperature_c=warmth[part] if thermometer else None,
            utc_offset_s=np.full(part.size, utc_offset_s, dtype=np.int64),
            holiday=grid.holiday[following],
            event=grid.event[following],
        )
