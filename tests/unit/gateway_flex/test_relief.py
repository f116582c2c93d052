"""Relief counts once per order and DER, in the right slots, with the right sign."""

from datetime import UTC, datetime, timedelta

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gateway.flex.relief import Booking, distinct_bookings, gross_adjustment, relief_per_slot
from gateway.types import Direction

T0 = datetime(2026, 1, 5, 17, 0, tzinfo=UTC)


def book(start_min, end_min, kw, *, obp_id="o1", der_id="d1", feeder_id="F", direction=Direction.REDUCE):
    return Booking(
        obp_id=obp_id,
        der_id=der_id,
        feeder_id=feeder_id,
        start=T0 + timedelta(minutes=start_min),
        end=T0 + timedelta(minutes=end_min),
        kw=kw,
        direction=direction,
    )


def relief(*bookings: Booking, slots=4, step_min=15):
    return relief_per_slot(bookings, feeder_id="F", first_start=T0, slots=slots, step_min=step_min).tolist()


@pytest.mark.parametrize(
    ("bookings", "expected"),
    [
        pytest.param((), [0, 0, 0, 0], id="nothing booked"),
        pytest.param((book(0, 60, 8),), [8, 8, 8, 8], id="the whole hour"),
        pytest.param((book(15, 30, 8),), [0, 8, 0, 0], id="one slot"),
        pytest.param((book(20, 35, 9),), [0, 6, 3, 0], id="parts of two slots"),
        pytest.param((book(-30, 15, 8),), [8, 0, 0, 0], id="begun before"),
        pytest.param((book(45, 120, 8),), [0, 0, 0, 8], id="ends after"),
        pytest.param((book(-30, 0, 8), book(60, 90, 8, der_id="d2")), [0, 0, 0, 0], id="beside the hour"),
        pytest.param((book(0, 15, 8), book(0, 15, 2, der_id="d2")), [10, 0, 0, 0], id="two DERs"),
        pytest.param((book(0, 15, 8, direction=Direction.INCREASE),), [-8, 0, 0, 0], id="raises import"),
        pytest.param((book(0, 15, 8, feeder_id="other"),), [0, 0, 0, 0], id="another feeder"),
        pytest.param((book(30, 30, 8),), [0, 0, 0, 0], id="no duration"),
    ],
)
def test_relief_per_slot__is_the_mean_over_each_slot(bookings, expected):
    assert relief(*bookings) == pytest.approx(expected)


def test_relief_per_slot__counts_a_booking_read_twice_once_and_the_last_word_holds():
    assert relief(book(0, 15, 8), book(0, 15, 8)) == [8, 0, 0, 0]
    assert relief(book(0, 15, 8), book(0, 15, 5)) == [5, 0, 0, 0]
    assert len(distinct_bookings([book(0, 15, 8), book(0, 15, 8, obp_id="o2")])) == 2


def test_relief_per_slot__slots_of_thirty_minutes_hold_the_mean_of_their_halves():
    assert relief(book(15, 45, 8), slots=2, step_min=30) == [4, 4]


def test_gross_adjustment__ends_with_the_slot_that_ends_at_the_origin():
    adjust = gross_adjustment(
        [book(30, 60, 8)], feeder_id="F", origin_at=T0 + timedelta(hours=1), slots=776, step_min=15
    )
    assert (adjust.dtype, adjust.shape) == (np.float32, (776,))
    assert adjust[-2:].tolist() == [8, 8]
    assert not adjust[:-2].any()


@settings(deadline=None)
@given(st.integers(-100, 200), st.integers(0, 150), st.floats(-500, 500), st.sampled_from([15, 30]))
def test_relief_per_slot__conserves_the_energy_that_falls_into_the_slots(start_min, length_min, kw, step_min):
    slots = 120 // step_min
    found = sum(relief(book(start_min, start_min + length_min, kw), slots=slots, step_min=step_min))
    inside_min = max(0, min(start_min + length_min, 120) - max(start_min, 0))
    assert found * step_min == pytest.approx(kw * inside_min, abs=1e-6)
