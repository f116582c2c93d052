"""Feeder configuration, and what is known of a feeder at this moment."""

from datetime import datetime
from typing import Annotated, Any

import msgspec
from litestar import Request, get, put
from litestar.params import FromPath, QueryParameter

from gateway.errors import InvalidRequest, NotFound
from gateway.feeders import Assessment, Feeder, FeederConfig, ForecastSlot, parse_config
from gateway.routes.guards import caller_of
from gateway.routes.schema_notes import FEEDER_BODY
from gateway.routes.wiring import Running
from gateway.runtime import Runtime
from gateway.telemetry.reading import MAX_FEEDER_ID_CHARS
from ml.features import FEATURE_NAMES

FeederId = Annotated[str, QueryParameter(description="id of the feeder", required=True)]


class FeederView(msgspec.Struct, frozen=True, kw_only=True):
    """A feeder with its configuration and newest figures; each figure has its own time."""

    feeder_id: str
    config: FeederConfig | None
    state: int | None
    state_since: datetime | None
    state_reason: str | None
    load_kw: float | None
    load_at: datetime | None
    sampling_min: int
    history_slots: int


class Horizon(msgspec.Struct, frozen=True, kw_only=True):
    """Forecast of the next hour: 4 x 15 min, or 2 x 30 min for feeders sampled every 30 min."""

    feeder_id: str
    origin_at: datetime
    model_id: str
    slots: tuple[ForecastSlot, ...]


class FeatureVector(msgspec.Struct, frozen=True, kw_only=True):
    """The newest feature vector by name; null where the history does not reach."""

    feeder_id: str
    window_start: datetime
    window_end: datetime
    features: dict[str, float | None]


class StateView(msgspec.Struct, frozen=True, kw_only=True):
    """The newest state decision; ``state`` null is Unknown, with its reason."""

    feeder_id: str
    state: int | None
    last_state: int
    since: datetime
    at: datetime
    probabilities: tuple[float, float, float] | None
    model_id: str
    reason: str | None
    quality_flags: tuple[str, ...]


def view(feeder: Feeder) -> FeederView:
    """A feeder as the API shows it."""
    at = feeder.window.newest_at
    newest = feeder.window.known(at) if at is not None else None
    assessment = feeder.assessment
    return FeederView(
        feeder_id=feeder.feeder_id,
        config=feeder.config,
        state=assessment.state if assessment else None,
        state_since=assessment.since if assessment else None,
        state_reason=assessment.reason if assessment else "nothing has come yet",
        load_kw=newest.load_kw if newest else None,
        load_at=at,
        sampling_min=feeder.window.sampling_min,
        history_slots=feeder.window.complete_slots,
    )


def assessed(runtime: Runtime, feeder_id: str) -> tuple[Feeder, Assessment]:
    """The feeder with its newest decision.

    Raises:
        NotFound: No such feeder, or nothing decided yet.
    """
    feeder = runtime.roster[feeder_id]
    if feeder.assessment is None:
        raise NotFound(f"nothing has been decided about '{feeder_id}' yet", feeder_id=feeder_id)
    return feeder, feeder.assessment


@get("/config/feeders", tags=["configuration"], summary="List feeders", sync_to_thread=False)
def list_feeders(runtime: Running) -> list[FeederView]:
    """List every feeder."""
    return [view(feeder) for feeder in runtime.roster.values()]


@get("/config/feeders/{feeder_id:str}", tags=["configuration"], summary="One feeder", sync_to_thread=False)
def get_feeder(feeder_id: FromPath[str], runtime: Running) -> FeederView:
    """Show one feeder."""
    return view(runtime.roster[feeder_id])


@put(
    "/config/feeders/{feeder_id:str}",
    tags=["configuration"],
    summary="Configure a feeder",
    operation_class=FEEDER_BODY,
)
async def put_feeder(
    feeder_id: FromPath[str], request: Request[Any, Any, Any], runtime: Running
) -> FeederView:
    """Set a feeder's whole configuration; the change is journalled."""
    if not feeder_id.isprintable() or len(feeder_id) > MAX_FEEDER_ID_CHARS:
        raise InvalidRequest(f"feeder_id must have 1 to {MAX_FEEDER_ID_CHARS} printable characters")
    config = parse_config(await request.body())
    await runtime.roster.configure(feeder_id, config, by=caller_of(request).name)
    runtime.floor.refresh_soon()
    return view(runtime.roster[feeder_id])


@get("/prediction/horizon", tags=["insight"], summary="Forecast of the next hour", sync_to_thread=False)
def horizon(feeder_id: FeederId, runtime: Running) -> Horizon:
    """Show the newest forecast of a feeder's load without our orders."""
    _, assessment = assessed(runtime, feeder_id)
    return Horizon(
        feeder_id=feeder_id,
        origin_at=assessment.origin_at,
        model_id=assessment.model_id,
        slots=assessment.forecast,
    )


@get("/features/vector", tags=["insight"], summary="The feature vector", sync_to_thread=False)
def feature_vector(feeder_id: FeederId, runtime: Running) -> FeatureVector:
    """Show the features behind the newest forecast."""
    feeder, assessment = assessed(runtime, feeder_id)
    return FeatureVector(
        feeder_id=feeder_id,
        window_start=assessment.origin_at - feeder.window.length,
        window_end=assessment.origin_at,
        features=dict(zip(FEATURE_NAMES, assessment.features, strict=False)),
    )


@get("/classification/state", tags=["insight"], summary="State of a feeder", sync_to_thread=False)
def classification_state(feeder_id: FeederId, runtime: Running) -> StateView:
    """Show the newest state decision."""
    feeder, assessment = assessed(runtime, feeder_id)
    return StateView(
        feeder_id=feeder_id,
        state=assessment.state,
        last_state=assessment.last_state,
        since=assessment.since,
        at=assessment.origin_at,
        probabilities=assessment.probabilities,
        model_id=assessment.model_id,
        reason=assessment.reason,
        quality_flags=feeder.quality[0].flags if feeder.quality else (),
    )
