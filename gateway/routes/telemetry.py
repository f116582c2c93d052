"""Telemetry in, decisions out."""

from typing import Any

from litestar import Request, post

from gateway.pipeline import TelemetryAnswer
from gateway.routes.bodies import json_body
from gateway.routes.schema_notes import TELEMETRY_BODY
from gateway.routes.wiring import Running


@post(
    ["/telemetry", "/ingest/load"],
    status_code=200,
    tags=["telemetry"],
    summary="Post one reading or a batch",
    description=(
        'One reading, an array of readings, or `{"readings": [...]}`. Values are averages over the interval '
        "that ends at `timestamp`; `load_kw` > 0 is import. The answer holds each feeder's state, "
        "probabilities and forecast, and on a transition the state change with its plan. Bad readings are "
        "listed under `rejected` with a code; the good ones of the same batch count. 422 when none was "
        "acceptable."
    ),
    operation_class=TELEMETRY_BODY,
)
async def post_telemetry(request: Request[Any, Any, Any], runtime: Running) -> TelemetryAnswer:
    """Take a batch of readings in."""
    return await runtime.pipeline.handle_telemetry(await json_body(request))
