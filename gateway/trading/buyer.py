"""The buyer: need -> plan -> orders, inside one unit of work.

Everything that several decisions could fight over (what is booked, what is still uncovered) is read
and written in the same transaction, so one DER is never sold twice.

Rules (contract, "Buying"):

* Bought on an upward transition or when the uncovered need grows; a seller that falls through is
  replaced from the rest of the catalogue, and no offer is tried twice for a need.
* What is bought after the decision (a replacement, offers that came late) is for the quarter hours
  still ahead, and only while the feeder is not known to be Normal again.
* One need of a feeder waits for offers at a time: a newer one counts the older one's kW again.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from datetime import datetime, timedelta
from typing import NamedTuple

import msgspec
from sqlalchemy import bindparam, select

from gateway.beckn.dialect import spoken
from gateway.beckn.resolver import Participant
from gateway.catalogue import Catalogue
from gateway.feeders import Automation, Feeder, FeederConfig
from gateway.flex.need import ForecastRow, NeedPolicy, required_relief, should_buy
from gateway.flex.plan import FlexPlan, PlannedOrder, PlanPolicy, RankWeights, lapsed_offers
from gateway.flex.rank import make_plan
from gateway.flex.relief import Booking, relief_per_slot
from gateway.orders.order import TERMINAL, Order, OrderState
from gateway.store.sql import upsert
from gateway.store.tables import feeder_state, flex_event, reading
from gateway.trading.desk import Desk, LostRelief, booking_orders, orders_where
from gateway.trading.work import Work
from gateway.types import SLOT_MIN, Direction, FlexNeed, GridState, NeedSlot

REFRESH_PAUSE_S = 0.25
"""Where the standing catalogue has offers, its refresh makes way for the orders placed from it."""

PLAN_POLICY = PlanPolicy(late_start_s=120.0)
"""A DER may reach full output two minutes into a slot: the first slot begins at the decision itself."""


_NEWEST_READING = (
    select(reading.c.at, reading.c.received_at)
    .where(reading.c.feeder_id == bindparam("feeder"))
    .order_by(reading.c.at.desc())
    .limit(1)
)
_STATE = select(feeder_state.c.state).where(feeder_state.c.feeder_id == bindparam("feeder"))


class Decision(msgspec.Struct, frozen=True, kw_only=True):
    """What the buyer is asked to judge.

    ``detected_at`` is wall time: the detection clock of the orders starts there.
    """

    feeder_id: str
    config: FeederConfig
    rows: tuple[ForecastRow, ...]
    origin_at: datetime
    previous_state: GridState | None
    state: GridState
    state_change_id: str
    uncovered_before: Mapping[datetime, float] | None
    detected_at: datetime


class Purchase(msgspec.Struct, frozen=True, kw_only=True):
    """What was decided: with a plan, something is bought; without one, ``reason`` says why not."""

    reason: str
    need: FlexNeed | None = None
    plan: FlexPlan | None = None
    traded: bool = False

    @property
    def uncovered(self) -> dict[datetime, float] | None:
        """What the plan left uncovered, kW by slot start; None where no plan was made."""
        return {slot.start: slot.kw for slot in self.plan.uncovered} if self.plan else None


class StoredNeed(msgspec.Struct, frozen=True, kw_only=True):
    """A need as kept for re-planning."""

    need: FlexNeed
    weights: RankWeights
    reason: str


def bookings_of(orders: Iterable[Order]) -> tuple[Booking, ...]:
    """What orders hold of each DER; a finished order counts with what it delivered."""
    found = []
    for order in orders:
        shares = order.committed_kw
        total_kw = sum(shares.values())
        scale = 1.0
        if order.delivered_wh is not None and total_kw > 0:
            scale = order.delivered_wh / 1000 / (total_kw * order.terms.duration_h)
        found += [
            Booking(
                obp_id=order.obp_id,
                der_id=der_id,
                feeder_id=order.feeder_id,
                start=order.terms.window_start,
                end=order.terms.window_end,
                kw=kw * scale,
                direction=order.terms.direction,
            )
            for der_id, kw in shares.items()
            if kw > 0
        ]
    return tuple(found)


class Buyer:
    """Plans and places orders.

    Args:
        desk: Opens orders and composes messages.
        catalogue: The standing catalogue.
        sellers: The registered BPPs as last listed.
        default_need: Need policy of feeders that have none of their own.
    """

    def __init__(
        self,
        *,
        desk: Desk,
        catalogue: Catalogue,
        sellers: Callable[[], Sequence[Participant]],
        default_need: NeedPolicy,
    ) -> None:
        self._desk = desk
        self._catalogue = catalogue
        self._sellers = sellers
        self._default_need = default_need

    def decide(self, work: Work, decision: Decision) -> Purchase:
        """Judge whether a feeder needs relief now, and if so plan, order and refresh the catalogue."""
        policy = self.need_policy(decision.config)
        need = required_relief(
            decision.rows,
            decision.config.rating_kw,
            need_id=work.new_id(),
            feeder_id=decision.feeder_id,
            decided_at=decision.origin_at,
            bookings=bookings_of(booking_orders(work.connection, decision.feeder_id)),
            location=decision.config.location,
            policy=policy,
        )
        verdict = should_buy(
            need,
            previous_state=decision.previous_state,
            state=decision.state,
            uncovered_before=decision.uncovered_before,
            rating_kw=decision.config.rating_kw,
            policy=policy,
        )
        if need is None or not verdict.buy:
            return Purchase(reason=verdict.reason, need=need)
        plan = self._plan(work, need, decision.config.weights)
        trade = decision.config.automation is Automation.AUTOMATIC
        self._record(work, need, plan, decision, verdict.reason, trade=trade)
        if trade:
            for planned in plan.orders:
                self._open(
                    work,
                    planned,
                    need,
                    state_change_id=decision.state_change_id,
                    detected_at=decision.detected_at,
                )
            self.discover(work, need, defer_s=REFRESH_PAUSE_S if plan.orders else 0.0)
        if not plan.complete:
            self._alarm_uncovered(work, need, plan)
        return Purchase(reason=verdict.reason, need=need, plan=plan, traded=trade)

    def need_policy(self, config: FeederConfig) -> NeedPolicy:
        """How much to ask for at a feeder."""
        return config.need or self._default_need

    def dry_run(
        self, need: FlexNeed, weights: RankWeights, bookings: Sequence[Booking], now: datetime
    ) -> FlexPlan:
        """Plan without ordering (``POST /optimization/plan``)."""
        offers = self._catalogue.at(need.feeder_id)
        return make_plan(
            need,
            offers,
            plan_id="dry-run",
            bookings=bookings,
            weights=weights,
            lapsed=lapsed_offers(offers, now),
            policy=PLAN_POLICY,
        )

    def replan(self, work: Work, lost: LostRelief) -> Purchase:
        """Cover what a fallen order was to deliver from offers not tried for this need yet."""
        order = lost.order
        present = _present(work, order.feeder_id)
        if present.state is GridState.NORMAL:
            return Purchase(reason="the feeder is Normal again")
        stored = self._need(work, order.need_id)
        ahead = _ahead(stored.need, present)
        if ahead is None:
            return Purchase(reason="the quarter hours of the need are over")
        siblings = orders_where(work.connection, need_id=order.need_id)
        need = _remaining(ahead, (*siblings, *booking_orders(work.connection, order.feeder_id)))
        if need is None:
            return Purchase(reason="the rest of the need is covered")
        tried = {(one.bpp_id, one.terms.offer_id) for one in siblings}
        excluded = {
            der.der_id: "its offer was tried for this need already"
            for offer in self._catalogue.at(order.feeder_id)
            if (offer.bpp_id, offer.offer_id) in tried
            for der in offer.ders
        }
        plan = self._plan(work, need, stored.weights, excluded=excluded)
        work.note(
            "plan.made",
            {"plan": plan, "reason": lost.reason, "replaces": order.obp_id, "replan": True},
            feeder_id=order.feeder_id,
            event_id=order.need_id,
            obp_id=order.obp_id,
        )
        for planned in plan.orders:
            self._open(
                work,
                planned,
                need,
                state_change_id=order.state_change_id,
                detected_at=work.now,
                replaces=order,
            )
        if not plan.complete:
            self._alarm_uncovered(work, need, plan)
        return Purchase(reason=lost.reason, need=need, plan=plan, traded=True)

    def supply(self, work: Work, feeder_id: str) -> list[Purchase]:
        """New offers came in: cover a need that found no offer at all when it was decided.

        A need whose time has passed, or whose feeder is Normal again, is closed instead. While the
        state is Unknown nothing is bought.
        """
        purchases: list[Purchase] = []
        present = _present(work, feeder_id)
        if present.state is None:
            return purchases
        rows = work.connection.execute(
            select(flex_event.c.need_id, flex_event.c.state_change_id).where(
                flex_event.c.feeder_id == feeder_id, flex_event.c.status == "OPEN"
            )
        ).all()
        for row in rows:
            stored = self._need(work, row.need_id)
            need = _ahead(stored.need, present) if present.state is not GridState.NORMAL else None
            if need is None:
                self._set_status(work, row.need_id, "OVER")
                continue
            plan = self._plan(work, need, stored.weights)
            if not plan.orders:
                continue
            work.note(
                "plan.made",
                {"plan": plan, "reason": "offers arrived", "replan": True},
                feeder_id=feeder_id,
                event_id=row.need_id,
            )
            for planned in plan.orders:
                self._open(work, planned, need, state_change_id=row.state_change_id, detected_at=work.now)
            self._set_status(work, row.need_id, _status(plan))
            purchases.append(Purchase(reason="offers arrived", need=need, plan=plan, traded=True))
        return purchases

    def discover(self, work: Work, need: FlexNeed, *, defer_s: float = 0.0) -> None:
        """Ask every registered seller that serves the feeder for its offers in the need's direction."""
        self.ask_catalogues(
            work,
            feeder_id=need.feeder_id,
            direction=need.direction,
            kw=max(slot.kw for slot in need.slots),
            start=need.slots[0].start,
            end=need.slots[-1].start + timedelta(minutes=SLOT_MIN),
            need_id=need.need_id,
            defer_s=defer_s,
        )

    def ask_catalogues(
        self,
        work: Work,
        *,
        feeder_id: str,
        direction: Direction,
        kw: float,
        start: datetime,
        end: datetime,
        need_id: str | None = None,
        defer_s: float = 0.0,
    ) -> int:
        """Send one DISCOVER per seller under one transactionId; returns how many.

        A seller whose version of Beckn is not spoken here is not asked.
        """
        transaction_id = work.new_id()
        asked = 0
        for seller in self._sellers():
            dialect = spoken(seller.version)
            if dialect is None or not seller.serves_place(feeder_id):
                continue
            self._desk.compose(
                work,
                verb="discover",
                message=dialect.discover_message(feeder_id, direction, kw, start, end),
                transaction_id=transaction_id,
                peer_id=seller.subscriber_id,
                peer_uri=seller.url,
                version=seller.version,
                feeder_id=feeder_id,
                need_id=need_id,
                defer_s=defer_s,
            )
            asked += 1
        return asked

    # --- inside ---------------------------------------------------------------------------------

    def _plan(
        self,
        work: Work,
        need: FlexNeed,
        weights: RankWeights,
        *,
        excluded: Mapping[str, str] | None = None,
    ) -> FlexPlan:
        offers = self._catalogue.at(need.feeder_id)
        return make_plan(
            need,
            offers,
            plan_id=work.new_id(),
            bookings=bookings_of(booking_orders(work.connection, need.feeder_id)),
            weights=weights,
            lapsed=lapsed_offers(offers, work.now),
            excluded=excluded,
            policy=PLAN_POLICY,
        )

    def _record(
        self,
        work: Work,
        need: FlexNeed,
        plan: FlexPlan,
        decision: Decision,
        reason: str,
        *,
        trade: bool,
    ) -> None:
        """Write the need and its plan down before any order refers to them."""
        if trade:
            work.connection.execute(
                flex_event.update()
                .where(flex_event.c.feeder_id == need.feeder_id, flex_event.c.status == "OPEN")
                .values(status="SUPERSEDED")
            )
        stored = StoredNeed(need=need, weights=decision.config.weights, reason=reason)
        upsert(
            work.connection,
            flex_event,
            [
                {
                    "need_id": need.need_id,
                    "feeder_id": need.feeder_id,
                    "state_change_id": decision.state_change_id,
                    "status": _status(plan) if trade else "NOT_TRADED",
                    "decided_at": decision.detected_at,
                    "event_at": need.decided_at,
                    "body": msgspec.json.encode(stored).decode(),
                }
            ],
        )
        work.note(
            "need.decided",
            {"need": need, "reason": reason, "state_change_id": decision.state_change_id},
            feeder_id=need.feeder_id,
            event_id=need.need_id,
        )
        work.note(
            "plan.made",
            {"plan": plan, "reason": reason, "replan": False, "traded": trade},
            feeder_id=need.feeder_id,
            event_id=need.need_id,
        )

    def _open(
        self,
        work: Work,
        planned: PlannedOrder,
        need: FlexNeed,
        *,
        state_change_id: str,
        detected_at: datetime,
        replaces: Order | None = None,
    ) -> None:
        obp_id = f"OBP-{work.new_id()}"
        order = Order(
            order_id=work.new_id(),
            obp_id=obp_id,
            need_id=need.need_id,
            state_change_id=state_change_id,
            feeder_id=need.feeder_id,
            bpp_id=planned.offer.bpp_id,
            bpp_uri=planned.offer.bpp_uri,
            beckn_version=planned.offer.beckn_version,
            transaction_id=work.new_id(),
            terms=planned.terms(obp_id=obp_id, need=need),
            detected_at=detected_at,
            decided_event_at=need.decided_at,
            replaces=replaces.obp_id if replaces else None,
            replan=replaces is not None,
        )
        self._desk.open(work, order)

    @staticmethod
    def _need(work: Work, need_id: str) -> StoredNeed:
        body = work.connection.execute(
            select(flex_event.c.body).where(flex_event.c.need_id == need_id)
        ).scalar_one()
        return msgspec.json.decode(body, type=StoredNeed)

    @staticmethod
    def _set_status(work: Work, need_id: str, status: str) -> None:
        work.connection.execute(
            flex_event.update().where(flex_event.c.need_id == need_id).values(status=status)
        )

    @staticmethod
    def _alarm_uncovered(work: Work, need: FlexNeed, plan: FlexPlan) -> None:
        worst = max(plan.uncovered, key=lambda slot: slot.kw)
        where = "no offer can serve it" if not plan.orders else "the offers do not reach"
        work.alarm(
            "need_uncovered",
            f"{worst.kw:.1f} kW uncovered at {need.feeder_id} from {worst.start.isoformat()}: {where}",
            severity="critical",
            feeder_id=need.feeder_id,
            event_id=need.need_id,
        )


def _status(plan: FlexPlan) -> str:
    """OPEN waits for offers (until OVER or SUPERSEDED); PLANNED has orders, covered or not."""
    return "PLANNED" if plan.orders else "OPEN"


class _Present(NamedTuple):
    """A feeder as it is now: event time, as far as it is known, and state; None is Unknown."""

    event_now: datetime | None
    state: GridState | None


def _present(work: Work, feeder_id: str) -> _Present:
    """Where a feeder's event time stands.

    It is that of the newest reading, and goes on no slower than wall time has since: a feeder that has
    fallen silent must not make the past look like the future.
    """
    newest = work.connection.execute(_NEWEST_READING, {"feeder": feeder_id}).first()
    state = work.connection.execute(_STATE, {"feeder": feeder_id}).scalar_one_or_none()
    return _Present(
        None if newest is None else newest.at + max(timedelta(0), work.now - newest.received_at),
        None if state is None else GridState(state),
    )


def _ahead(need: FlexNeed, present: _Present) -> FlexNeed | None:
    """The part of a need that is not over yet, as of now; None when all of it is."""
    now = present.event_now
    if now is None:
        return need
    slots = tuple(slot for slot in need.slots if slot.start + timedelta(minutes=SLOT_MIN) > now)
    if not any(slot.kw for slot in slots):
        return None
    return msgspec.structs.replace(need, slots=slots, decided_at=max(need.decided_at, now))


def _remaining(need: FlexNeed, orders: Iterable[Order]) -> FlexNeed | None:
    """What of a need the living ones of its feeder's orders do not cover; None when that is nothing."""
    gone = TERMINAL - {OrderState.COMPLETED, OrderState.UNSETTLED} | {OrderState.CANCELLING}
    living = [order for order in orders if order.state not in gone]
    covered_kw = relief_per_slot(
        bookings_of(living),
        feeder_id=need.feeder_id,
        first_start=need.slots[0].start,
        slots=len(need.slots),
        step_min=SLOT_MIN,
    )
    sign = 1 if need.direction is Direction.REDUCE else -1
    slots = tuple(
        NeedSlot(start=slot.start, kw=max(0.0, round(slot.kw - sign * float(kw), 1)))
        for slot, kw in zip(need.slots, covered_kw, strict=True)
    )
    if not any(slot.kw for slot in slots):
        return None
    return msgspec.structs.replace(need, slots=slots)


def feeder_decision(
    feeder: Feeder,
    rows: tuple[ForecastRow, ...],
    *,
    origin_at: datetime,
    previous_state: GridState | None,
    state: GridState,
    state_change_id: str,
    detected_at: datetime,
) -> Decision:
    """Gather what the buyer needs to know of a feeder.

    Raises:
        RuntimeError: The feeder is not configured; such a feeder is never assessed.
    """
    if feeder.config is None:
        raise RuntimeError(f"{feeder.feeder_id} is not configured")
    return Decision(
        feeder_id=feeder.feeder_id,
        config=feeder.config,
        rows=rows,
        origin_at=origin_at,
        previous_state=previous_state,
        state=state,
        state_change_id=state_change_id,
        uncovered_before=feeder.uncovered,
        detected_at=detected_at,
    )
