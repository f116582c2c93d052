"""Relief that our own orders deliver, per slot, counted exactly once.

* Signed relief lowers net import: REDUCE counts positive, INCREASE negative.
* ``gross = measured + relief``: the load as it would be without us, which is what is forecast.
* The same relief is then taken off the need once (gateway.flex.need). It never enters elsewhere.
* A booking named twice (an order read from two places) counts once: the last one given holds.
"""

from collections.abc import Iterable
from datetime import datetime, timedelta

import msgspec
import numpy as np
from numpy.typing import NDArray

from gateway.types import Direction


class Booking(msgspec.Struct, frozen=True, kw_only=True):
    """kW of one DER that an order holds over [start, end), event time.

    ``kw`` is what to count on, positive in the ordered direction: ordered before the answer,
    committed after it, delivered once metered.
    """

    obp_id: str
    der_id: str
    feeder_id: str
    start: datetime
    end: datetime
    kw: float
    direction: Direction

    @property
    def signed_kw(self) -> float:
        """Relief as a lowering of net import."""
        return self.kw if self.direction is Direction.REDUCE else -self.kw


def distinct_bookings(bookings: Iterable[Booking]) -> tuple[Booking, ...]:
    """One booking per order and DER, the last one given, in a fixed order."""
    latest = {(booking.obp_id, booking.der_id): booking for booking in bookings}
    return tuple(latest[key] for key in sorted(latest))


def relief_per_slot(
    bookings: Iterable[Booking], *, feeder_id: str, first_start: datetime, slots: int, step_min: int
) -> NDArray[np.float64]:
    """Mean signed relief of a feeder in each slot.

    Args:
        bookings: Of any feeders; those of others are left out.
        feeder_id: Whose relief is wanted.
        first_start: Start of the first slot, event time.
        slots: How many slots (n).
        step_min: Their length in minutes.

    Returns:
        kW, float64, shape (n,); a booking that covers part of a slot counts by its share of it.
    """
    relief_kw = np.zeros(slots)
    step_s = step_min * 60
    for booking in distinct_bookings(bookings):
        if booking.feeder_id != feeder_id:
            continue
        begin = max((booking.start - first_start).total_seconds(), 0.0)
        finish = min((booking.end - first_start).total_seconds(), float(slots * step_s))
        if finish <= begin:
            continue
        first, last = int(begin // step_s), min(int(finish // step_s), slots - 1)
        edges = np.arange(first, last + 1) * step_s
        covered_s = np.minimum(edges + step_s, finish) - np.maximum(edges, begin)
        relief_kw[first : last + 1] += booking.signed_kw * covered_s / step_s
    return relief_kw


def gross_adjustment(
    bookings: Iterable[Booking], *, feeder_id: str, origin_at: datetime, slots: int, step_min: int
) -> NDArray[np.float32]:
    """What to add to a window's measured load to get the load without us.

    Args:
        bookings: Bookings whose relief shows in the measurements: active or delivered ones.
        feeder_id: The window's feeder.
        origin_at: End of the window's newest slot.
        slots: Slots of the window (W).
        step_min: Their length.

    Returns:
        kW, float32, shape (W,), newest slot last.
    """
    first_start = origin_at - timedelta(minutes=slots * step_min)
    relief_kw = relief_per_slot(
        bookings, feeder_id=feeder_id, first_start=first_start, slots=slots, step_min=step_min
    )
    return relief_kw.astype(np.float32)
