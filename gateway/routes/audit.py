"""The auditor's window: stories by OBP id, the search, the entries themselves."""

from datetime import datetime
from typing import Annotated, Any

from litestar import get
from litestar.params import FromPath, FromQuery, QueryParameter

from gateway.audit.story import entries_from, search, story_of
from gateway.routes.wiring import Running


@get("/audit/obp/{obp_id:str}", tags=["audit"], summary="The whole story of an OBP id")
async def story(obp_id: FromPath[str], runtime: Running) -> dict[str, Any]:
    """Tell everything recorded about one OBP id, from the reading that triggered it to settlement."""
    return await runtime.ledger.read(lambda c: story_of(c, obp_id))


@get("/audit/obp", tags=["audit"], summary="Search orders")
async def search_orders(
    *,
    runtime: Running,
    feeder_id: FromQuery[str | None] = None,
    der_id: FromQuery[str | None] = None,
    aggregator_id: FromQuery[str | None] = None,
    from_at: Annotated[
        datetime | None, QueryParameter(name="from", description="RFC 3339, wall time")
    ] = None,
    to_at: Annotated[datetime | None, QueryParameter(name="to", description="RFC 3339, wall time")] = None,
    cursor: FromQuery[str | None] = None,
    limit: Annotated[int, QueryParameter(ge=1, le=1000)] = 100,
) -> dict[str, Any]:
    """Find OBP ids by feeder, DER, aggregator and time; page on with ``cursor``."""
    return await runtime.ledger.read(
        lambda c: search(
            c,
            feeder_id=feeder_id,
            der_id=der_id,
            aggregator_id=aggregator_id,
            from_at=from_at,
            to_at=to_at,
            cursor=cursor,
            limit=limit,
        )
    )


@get("/audit/entries", tags=["audit"], summary="Journal entries in order")
async def entries(
    runtime: Running,
    from_seq: Annotated[int, QueryParameter(ge=1)] = 1,
    limit: Annotated[int, QueryParameter(ge=1, le=1000)] = 100,
) -> dict[str, Any]:
    """Page through the journal."""
    return await runtime.ledger.read(lambda c: entries_from(c, from_seq, limit))
