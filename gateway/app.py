"""The web application: routes, errors, the OpenAPI document; started and stopped with its runtime."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from litestar import Litestar
from litestar.datastructures import State
from litestar.di import Provide
from litestar.exceptions import HTTPException
from litestar.openapi import OpenAPIConfig
from litestar.openapi.spec import Components, License, SecurityScheme, Tag

from gateway import runtime as running
from gateway.clock import Clock, utc_now
from gateway.config import Settings
from gateway.errors import GatewayError
from gateway.routes import audit, beckn, feeders, health, orders, telemetry
from gateway.routes.guards import require_token
from gateway.routes.problems import on_gateway_error, on_http_error, on_unexpected
from gateway.routes.schema_page import schema_assets, schema_page
from gateway.runtime import Runtime

TAGS = (
    Tag(name="telemetry", description="readings in, states and forecasts out"),
    Tag(name="insight", description="forecast, features, state and plan of a feeder"),
    Tag(name="orders", description="flexibility orders and alarms"),
    Tag(name="market", description="the DER catalogue"),
    Tag(name="beckn", description="callbacks of sellers, signed"),
    Tag(name="audit", description="the tamper-evident journal"),
    Tag(name="configuration", description="feeders"),
    Tag(name="health", description="liveness, readiness, figures; open"),
)


def create_app(settings: Settings, *, public_url: str, clock: Clock = utc_now) -> Litestar:
    """Build the application; stores and clients are opened when it starts.

    Args:
        settings: Checked settings.
        public_url: Base URL under which peers reach us.
        clock: Wall time.
    """

    @asynccontextmanager
    async def lifespan(app: Litestar) -> AsyncIterator[None]:
        app.state.runtime = await running.start(settings, clock=clock, public_url=public_url)
        try:
            yield
        finally:
            await app.state.runtime.stop()

    def provide_runtime(state: State) -> Runtime:
        started: Runtime = state.runtime
        return started

    return Litestar(
        route_handlers=[
            health.live,
            health.ready,
            health.metrics,
            telemetry.post_telemetry,
            feeders.list_feeders,
            feeders.get_feeder,
            feeders.put_feeder,
            feeders.horizon,
            feeders.feature_vector,
            feeders.classification_state,
            orders.last_plan,
            orders.dry_run,
            orders.list_orders,
            orders.stats,
            orders.get_order,
            orders.cancel_order,
            orders.catalogue,
            orders.list_alarms,
            audit.story,
            audit.search_orders,
            audit.entries,
            beckn.receive_callback,
            schema_assets(),
        ],
        dependencies={"runtime": Provide(provide_runtime, sync_to_thread=False)},
        guards=[require_token],
        exception_handlers={
            GatewayError: on_gateway_error,
            HTTPException: on_http_error,
            Exception: on_unexpected,
        },
        lifespan=[lifespan],
        request_max_body_size=settings.max_body_bytes,
        openapi_config=OpenAPIConfig(
            title="FLUXEON",
            version="0.1.0",
            description=(
                "Sees feeder overloads coming, buys demand flexibility over the Beckn protocol, and leaves "
                "evidence a regulator can check."
            ),
            license=License(name="MIT", identifier="MIT"),
            tags=list(TAGS),
            path="/schema",
            render_plugins=[schema_page()],
            components=Components(security_schemes={"bearer": SecurityScheme(type="http", scheme="bearer")}),
            security=[{"bearer": []}],
        ),
        logging_config=None,
        debug=False,
    )
