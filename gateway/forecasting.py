"""From windows to forecasts and probabilities, for many feeders in one batch.

The model sees the GROSS load: measured load plus the relief our own orders deliver. What it
forecasts is therefore the load without us, and the relief already bought is taken off the need
exactly once (gateway.flex.need).
"""

from collections import defaultdict
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from typing import NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from gateway.feeders import Feeder, ForecastSlot
from gateway.flex.need import ForecastRow
from gateway.flex.relief import Booking, gross_adjustment
from ml.conformal import LearnedState
from ml.features import FeederBatch, feature_matrix, history_slots, horizons_min
from ml.model import Assessment


class Forecaster(Protocol):
    """What forecasts: the risk model, or the threshold rule where no model can be trusted."""

    def assess(
        self,
        batch: FeederBatch,
        learned: Sequence[LearnedState],
        *,
        alert_loading: NDArray[np.float64],
        critical_loading: NDArray[np.float64],
    ) -> Assessment:
        """Forecast the next hour of n feeders and weigh its risk."""
        ...


class ThresholdRule:
    """The stated fallback: persistence, a fixed band, and limits on the outer end of the band.

    Used when the model or its card is missing or damaged (alarmed and recorded as ``threshold-rule``).
    The band is 10 % of the rating to either side: wide enough that an outage of the model buys
    early rather than late.
    """

    band = 0.10

    def assess(
        self,
        batch: FeederBatch,
        learned: Sequence[LearnedState],  # noqa: ARG002 - the rule learns nothing
        *,
        alert_loading: NDArray[np.float64],
        critical_loading: NDArray[np.float64],
    ) -> Assessment:
        """Forecast the present load for every slot."""
        horizons = horizons_min(batch.step_min)
        now_kw = batch.load_kw[:, -1].astype(np.float64)
        middle = np.repeat(now_kw[:, None], len(horizons), axis=1)
        half = self.band * np.asarray(batch.rating_kw, dtype=np.float64)
        outer = (np.abs(now_kw) + half) / batch.rating_kw
        critical = outer >= critical_loading
        alert = (outer >= alert_loading) & ~critical
        probabilities = np.stack([~(alert | critical), alert, critical], axis=1).astype(np.float64)
        probabilities[np.isnan(now_kw)] = np.nan
        return Assessment(
            horizons_min=horizons,
            q10_kw=middle - half[:, None],
            q50_kw=middle,
            q90_kw=middle + half[:, None],
            probabilities=probabilities,
            features=feature_matrix(batch),
            risk_features=np.empty((len(now_kw), 0), dtype=np.float32),
            model_id="threshold-rule",
        )


class Outlook(NamedTuple):
    """What the model says about one feeder.

    Attributes:
        origin_at: End of the newest slot (event time).
        rows: Forecast of the gross load per slot.
        probabilities: P(Normal), P(Alert), P(Critical) for now and the next hour.
        features: Feature vector, ordered as ``ml.features.FEATURE_NAMES``.
        model_id: What forecast it.
        window_kw: float32 gross history the features were made of, oldest first.
    """

    origin_at: datetime
    rows: tuple[ForecastRow, ...]
    probabilities: tuple[float, float, float]
    features: NDArray[np.float32]
    model_id: str
    window_kw: NDArray[np.float32]

    @property
    def slots(self) -> tuple[ForecastSlot, ...]:
        """The forecast as the API shows it."""
        return tuple(
            ForecastSlot(
                start=row.start,
                load_kw=round(row.q50, 3),
                lower_kw=round(row.q10, 3),
                upper_kw=round(row.q90, 3),
            )
            for row in self.rows
        )


class Advance(NamedTuple):
    """A feeder whose grid has moved on since the last look."""

    feeder: Feeder
    origin_before: datetime | None
    bookings: Sequence[Booking]
    holiday: bool
    event: bool


def outlooks(model: Forecaster, advances: Sequence[Advance]) -> dict[str, Outlook]:
    """Learn from the slots that have closed, then forecast, batched by grid step.

    Args:
        model: The risk model or its fallback.
        advances: Rated feeders with at least one closed slot.

    Returns:
        One outlook per feeder id.
    """
    by_step: dict[int, list[Advance]] = defaultdict(list)
    for advance in advances:
        by_step[advance.feeder.window.step_min].append(advance)
    found: dict[str, Outlook] = {}
    for step_min, group in by_step.items():
        found |= _outlooks_of_step(model, step_min, group)
    return found


def _outlooks_of_step(model: Forecaster, step_min: int, group: Sequence[Advance]) -> dict[str, Outlook]:
    width = history_slots(step_min)
    count = len(group)
    load_kw = np.full((count, width), np.nan, dtype=np.float32)
    temperature_c = np.full((count, width), np.nan, dtype=np.float32)
    origins: list[datetime] = []
    learned: list[LearnedState] = []
    for place, advance in enumerate(group):
        origin_at = advance.feeder.window.origin_at
        if origin_at is None:
            raise RuntimeError(f"{advance.feeder.feeder_id} has no closed slot")
        load_kw[place], temperature_c[place] = _gross_history(advance, origin_at, width)
        origins.append(origin_at)
        learned.append(_learn(advance, load_kw[place], origin_at, step_min))
    first_slot = [origin + timedelta(minutes=step_min) for origin in origins]
    batch = FeederBatch(
        load_kw=load_kw,
        rating_kw=np.array([advance.feeder.rating_kw for advance in group], dtype=np.float64),
        origin_s=np.array([int(origin.timestamp()) for origin in origins], dtype=np.int64),
        step_min=step_min,
        temperature_c=temperature_c,
        utc_offset_s=np.array(
            [a.feeder.utc_offset_s(at) for a, at in zip(group, first_slot, strict=True)], dtype=np.int64
        ),
        holiday=np.array(
            [a.holiday or a.feeder.is_holiday(at) for a, at in zip(group, first_slot, strict=True)]
        ),
        event=np.array([advance.event for advance in group]),
    )
    policies = [advance.feeder.policy for advance in group]
    assessment = model.assess(
        batch,
        learned,
        alert_loading=np.array([policy.alert_loading for policy in policies]),
        critical_loading=np.array([policy.critical_loading for policy in policies]),
    )
    found = {}
    for place, (advance, origin_at) in enumerate(zip(group, origins, strict=True)):
        rows = tuple(
            ForecastRow(
                start=origin_at + timedelta(minutes=minutes - step_min),
                q10=float(assessment.q10_kw[place, slot]),
                q50=float(assessment.q50_kw[place, slot]),
                q90=float(assessment.q90_kw[place, slot]),
                minutes=step_min,
            )
            for slot, minutes in enumerate(horizons_min(step_min))
        )
        normal, alert, critical = (float(p) for p in assessment.probabilities[place])
        found[advance.feeder.feeder_id] = Outlook(
            origin_at=origin_at,
            rows=rows,
            probabilities=(normal, alert, critical),
            features=assessment.features[place],
            model_id=assessment.model_id,
            window_kw=load_kw[place],
        )
    return found


def _gross_history(
    advance: Advance, origin_at: datetime, width: int
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    window = advance.feeder.window
    adjust = gross_adjustment(
        advance.bookings,
        feeder_id=advance.feeder.feeder_id,
        origin_at=origin_at,
        slots=window.slots,
        step_min=window.step_min,
    )
    history = window.history(adjust if adjust.any() else None)
    return history.load_kw[-width:], history.temperature_c[-width:]


def _learn(
    advance: Advance, gross_kw: NDArray[np.float32], origin_at: datetime, step_min: int
) -> LearnedState:
    """Show the feeder's learned state every slot that has closed since the last look."""
    feeder = advance.feeder
    if feeder.learned is None or feeder.learned.step_min != step_min:
        feeder.learned = LearnedState(step_min)
        feeder.unsaved_slots = 1
        return feeder.learned
    feeder.unsaved_slots += 1
    if advance.origin_before is not None:
        closed = int((origin_at - advance.origin_before).total_seconds()) // (step_min * 60)
        for back in range(min(closed, len(gross_kw)) - 1, -1, -1):
            slot_end = origin_at - timedelta(minutes=back * step_min)
            feeder.learned.observe(
                int(slot_end.astimezone(UTC).timestamp()), float(gross_kw[len(gross_kw) - 1 - back])
            )
    return feeder.learned
