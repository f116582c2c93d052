"""Orders with their moves, their figures, plans and the DER catalogue."""

import statistics
from collections import Counter
from collections.abc import Iterable, Sequence
from datetime import datetime
from typing import Annotated, Any

import msgspec
from litestar import Request, get, post
from litestar.params import FromPath, FromQuery, JSONBody, QueryParameter
from sqlalchemy import Connection, select

from gateway.audit.chain import parse_entry
from gateway.errors import InvalidRequest, NotFound
from gateway.feeders import Feeder
from gateway.flex.need import ForecastRow, required_relief
from gateway.flex.plan import FlexPlan, RankWeights
from gateway.orders.order import AGREED, NEGOTIATING, TERMINAL, Move, Order, OrderState
from gateway.routes.feeders import assessed
from gateway.routes.guards import caller_of
from gateway.routes.wiring import Running
from gateway.store.tables import alarm, journal_entry
from gateway.trading.buyer import bookings_of
from gateway.trading.desk import booking_orders, load_order, orders_where
from gateway.types import Der


class OrderView(msgspec.Struct, frozen=True, kw_only=True):
    """One order. Volumes are positive in the ordered direction; null until they are known."""

    order_id: str
    obp_id: str
    feeder_id: str
    bpp_id: str
    der_ids: tuple[str, ...]
    der_types: tuple[str, ...]
    direction: str
    state: OrderState
    open: bool
    """False when nothing more will happen."""
    requested_kw: float
    requested_kwh: float
    committed_kw: float
    delivered_kwh: float | None
    window_start: datetime
    window_end: datetime
    price_per_kwh: str
    payable: str | None
    currency: str
    need_id: str
    state_change_id: str
    transaction_id: str
    contract_id: str | None
    replaces: str | None
    replan: bool
    detected_at: datetime
    confirm_sent_at: datetime | None
    detection_to_confirm_ms: float | None
    failure: str | None
    moves: tuple[Move, ...]


class Latency(msgspec.Struct, frozen=True, kw_only=True):
    """Detection-to-CONFIRM, milliseconds of wall time; null where there is no order yet."""

    count: int
    p50: float | None
    p95: float | None
    max: float | None


class OrderStats(msgspec.Struct, frozen=True, kw_only=True):
    """Figures over all orders."""

    orders: int
    negotiating: int
    """Between decision and the seller's answer to CONFIRM."""
    agreed: int
    terminal: int
    by_state: dict[str, int]
    completed_share: float | None
    """Completed orders as a share of terminal ones."""
    requested_kwh: float
    delivered_kwh: float
    detection_to_confirm_ms: Latency
    """Over first plans."""
    replan_to_confirm_ms: Latency


class CatalogueRow(msgspec.Struct, frozen=True, kw_only=True):
    """One DER candidate; ``identity`` says what is known of its proof."""

    der: Der
    offer_id: str
    bpp_id: str
    provider_name: str
    valid_until: datetime | None
    identity: str


class AlarmView(msgspec.Struct, frozen=True, kw_only=True):
    """An alarm; standing while ``cleared_at`` is null."""

    alarm_id: str
    feeder_id: str | None
    kind: str
    severity: str
    detail: str
    raised_at: datetime
    cleared_at: datetime | None


class CancelRequest(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Why an order is cancelled; goes to the seller and into the journal."""

    reason: str


class PlanRequest(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A dry run: the newest forecast of a feeder, optionally with other weights."""

    feeder_id: str
    weights: RankWeights | None = None


def order_view(order: Order) -> OrderView:
    """An order as the API shows it."""
    terms = order.terms
    elapsed_ms = order.detection_to_confirm_ms
    return OrderView(
        order_id=order.order_id,
        obp_id=order.obp_id,
        feeder_id=order.feeder_id,
        bpp_id=order.bpp_id,
        der_ids=tuple(line.der_id for line in terms.lines),
        der_types=tuple(sorted({line.der_type.value for line in terms.lines})),
        direction=terms.direction.value,
        state=order.state,
        open=order.state not in TERMINAL,
        requested_kw=round(sum(line.kw for line in terms.lines), 3),
        requested_kwh=round(terms.requested_kwh, 3),
        committed_kw=round(sum(order.committed_kw.values()), 3),
        delivered_kwh=None if order.delivered_wh is None else order.delivered_wh / 1000,
        window_start=terms.window_start,
        window_end=terms.window_end,
        price_per_kwh=terms.price_per_kwh,
        payable=order.payable,
        currency=terms.currency,
        need_id=order.need_id,
        state_change_id=order.state_change_id,
        transaction_id=order.transaction_id,
        contract_id=order.contract.contract_id if order.contract else None,
        replaces=order.replaces,
        replan=order.replan,
        detected_at=order.detected_at,
        confirm_sent_at=order.confirm_sent_at,
        detection_to_confirm_ms=None if elapsed_ms is None else round(elapsed_ms, 3),
        failure=order.failure,
        moves=order.moves,
    )


def latency(values_ms: Sequence[float]) -> Latency:
    """Median, 95th percentile (nearest rank) and maximum."""
    if not values_ms:
        return Latency(count=0, p50=None, p95=None, max=None)
    ordered = sorted(values_ms)
    rank = max(0, -(-95 * len(ordered) // 100) - 1)
    return Latency(
        count=len(ordered),
        p50=round(statistics.median(ordered), 3),
        p95=round(ordered[rank], 3),
        max=round(ordered[-1], 3),
    )


def order_stats(orders: Iterable[Order]) -> OrderStats:
    """Figures over orders."""
    everything = list(orders)
    states = Counter(order.state for order in everything)
    terminal = sum(states[state] for state in TERMINAL)
    timed = [(order.replan, order.detection_to_confirm_ms) for order in everything]
    return OrderStats(
        orders=len(everything),
        negotiating=sum(states[state] for state in NEGOTIATING),
        agreed=sum(states[state] for state in AGREED),
        terminal=terminal,
        by_state={state.value: count for state, count in sorted(states.items())},
        completed_share=round(states[OrderState.COMPLETED] / terminal, 4) if terminal else None,
        requested_kwh=round(sum(order.terms.requested_kwh for order in everything), 3),
        delivered_kwh=sum(order.delivered_wh or 0 for order in everything) / 1000,
        detection_to_confirm_ms=latency([ms for replan, ms in timed if ms is not None and not replan]),
        replan_to_confirm_ms=latency([ms for replan, ms in timed if ms is not None and replan]),
    )


@get("/beckn/orders", tags=["orders"], summary="List orders, newest first")
async def list_orders(
    runtime: Running,
    order_state: Annotated[
        str | None, QueryParameter(name="state", description="for example COMPLETED")
    ] = None,
    feeder_id: FromQuery[str | None] = None,
    limit: Annotated[int, QueryParameter(ge=1, le=1000)] = 1000,
) -> list[OrderView]:
    """List orders with their moves."""
    states = None
    if order_state is not None:
        try:
            states = frozenset({OrderState(order_state)})
        except ValueError:
            known = ", ".join(state.value for state in OrderState)
            raise InvalidRequest(f"state '{order_state}' is none of {known}", code="unknown_state") from None
    orders = await runtime.ledger.read(
        lambda c: orders_where(c, states=states, feeder_id=feeder_id, limit=limit)
    )
    return [order_view(order) for order in orders]


@get("/beckn/orders/stats", tags=["orders"], summary="SLA and success figures", sync_to_thread=False)
def stats(runtime: Running) -> OrderStats:
    """Show counts, volumes and latencies over all orders."""
    return order_stats(runtime.floor.orders)


@get("/beckn/orders/{order_id:str}", tags=["orders"], summary="One order")
async def get_order(order_id: FromPath[str], runtime: Running) -> OrderView:
    """Show one order with its moves."""
    return order_view(await runtime.ledger.read(lambda c: load_order(c, order_id)))


@post("/beckn/orders/{order_id:str}/cancel", status_code=202, tags=["orders"], summary="Cancel an order")
async def cancel_order(
    order_id: FromPath[str], data: JSONBody[CancelRequest], request: Request[Any, Any, Any], runtime: Running
) -> OrderView:
    """Withdraw from an order; a confirmed one is cancelled with its seller over Beckn."""
    by = caller_of(request).name
    return order_view(await runtime.floor.cancel(order_id, reason=data.reason, by=by))


@get("/catalogue", tags=["market"], summary="DER candidates", sync_to_thread=False)
def catalogue(runtime: Running, feeder_id: FromQuery[str | None] = None) -> list[CatalogueRow]:
    """List the normalised DER flexibility catalogue as sellers last published it."""
    offers = runtime.catalogue.at(feeder_id) if feeder_id is not None else runtime.catalogue.everything()
    return [
        CatalogueRow(
            der=der,
            offer_id=offer.offer_id,
            bpp_id=offer.bpp_id,
            provider_name=offer.provider_name,
            valid_until=offer.valid_until,
            identity="no proof presented" if der.crypto_proof is None else "proof presented, not verified",
        )
        for offer in offers
        for der in offer.ders
    ]


@get("/optimization/plan", tags=["insight"], summary="The last plan of a feeder")
async def last_plan(feeder_id: FromQuery[str], runtime: Running) -> dict[str, Any]:
    """Show the last plan as journalled: every DER taken or passed over, with the reason."""
    runtime.roster[feeder_id]
    return await runtime.ledger.read(lambda c: _last_plan(c, feeder_id))


def _last_plan(connection: Connection, feeder_id: str) -> dict[str, Any]:
    row = connection.execute(
        select(journal_entry.c.entry)
        .where(journal_entry.c.feeder_id == feeder_id, journal_entry.c.kind == "plan.made")
        .order_by(journal_entry.c.seq.desc())
        .limit(1)
    ).first()
    if row is None:
        raise NotFound(f"no plan has been made for '{feeder_id}' yet", feeder_id=feeder_id)
    body: dict[str, Any] = parse_entry(row.entry).body
    return body


@post("/optimization/plan", status_code=200, tags=["insight"], summary="Plan without ordering")
async def dry_run(data: JSONBody[PlanRequest], runtime: Running) -> FlexPlan:
    """Plan for a feeder's newest forecast without ordering anything."""
    feeder, assessment = assessed(runtime, data.feeder_id)
    if feeder.config is None or not assessment.forecast:
        raise NotFound(f"there is no forecast of '{data.feeder_id}' to plan for", feeder_id=data.feeder_id)
    bookings = bookings_of(await runtime.ledger.read(lambda c: booking_orders(c, data.feeder_id)))
    rows = forecast_rows(feeder)
    policy = runtime.buyer.need_policy(feeder.config)
    need = required_relief(
        rows,
        feeder.config.rating_kw,
        need_id="dry-run",
        feeder_id=data.feeder_id,
        decided_at=assessment.origin_at,
        bookings=bookings,
        location=feeder.config.location,
        policy=policy,
    )
    if need is None:
        raise NotFound(
            f"no slot of '{data.feeder_id}' needs relief", code="no_need", feeder_id=data.feeder_id
        )
    return runtime.buyer.dry_run(need, data.weights or feeder.config.weights, bookings, runtime.clock())


def forecast_rows(feeder: Feeder) -> tuple[ForecastRow, ...]:
    """The newest forecast in the planner's terms."""
    if feeder.assessment is None:
        return ()
    return tuple(
        ForecastRow(
            start=slot.start,
            q10=slot.lower_kw,
            q50=slot.load_kw,
            q90=slot.upper_kw,
            minutes=feeder.window.step_min,
        )
        for slot in feeder.assessment.forecast
    )


@get("/alarms", tags=["orders"], summary="Alarms, newest first")
async def list_alarms(
    runtime: Running,
    standing: FromQuery[bool] = False,
    limit: Annotated[int, QueryParameter(ge=1, le=1000)] = 200,
) -> list[AlarmView]:
    """List alarms; ``standing=true`` for those not cleared."""

    def job(connection: Connection) -> list[AlarmView]:
        statement = select(alarm).order_by(alarm.c.raised_at.desc()).limit(limit)
        if standing:
            statement = statement.where(alarm.c.cleared_at.is_(None))
        return [AlarmView(**row) for row in connection.execute(statement).mappings()]

    return await runtime.ledger.read(job)
