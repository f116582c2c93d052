"""Open paths for those who run the gateway."""

from typing import Literal

import msgspec
from litestar import MediaType, Response, get

from gateway.routes.guards import OPEN
from gateway.routes.wiring import Running


class Readiness(msgspec.Struct, frozen=True, kw_only=True):
    """Whether the gateway can do its work: own store, model and key; never the peers."""

    ready: bool
    store: bool
    model: str
    key_id: str
    sellers: int
    """Registered sellers as last listed; for information, not part of readiness."""


@get("/health/live", opt=OPEN, tags=["health"], summary="The process answers", sync_to_thread=False)
def live() -> dict[Literal["live"], bool]:
    """Say that the process answers."""
    return {"live": True}


@get("/health/ready", opt=OPEN, tags=["health"], summary="Store, model and key are usable")
async def ready(runtime: Running) -> Response[Readiness]:
    """Say whether own store, model and key are usable; 503 where one is not.

    A missing model does not stop the gateway: the stated threshold rule stands in, alarmed.
    """
    store = runtime.database.healthy
    readiness = Readiness(
        ready=store,
        store=store,
        model=(runtime.model_fault and f"threshold rule: {runtime.model_fault}") or "loaded",
        key_id=runtime.signer.key_id,
        sellers=len(runtime.floor.sellers),
    )
    return Response(readiness, status_code=200 if readiness.ready else 503)


@get(
    "/metrics",
    opt=OPEN,
    tags=["health"],
    summary="Figures in Prometheus text",
    media_type=MediaType.TEXT,
    sync_to_thread=False,
)
def metrics(runtime: Running) -> bytes:
    """Give every figure in the Prometheus text format."""
    return runtime.metrics.render()
