"""The order desk: carries out the commands of the order life cycle inside one unit of work.

``transition`` decides; the desk loads the order, applies the event, and writes what follows: the
order row, its moves, timers, messages (built, signed and stored before they leave), settlement
rows. Nothing is sent from here.
"""

from collections.abc import Callable
from datetime import datetime, timedelta
from decimal import Decimal
from typing import Any

import msgspec
from sqlalchemy import Connection, RowMapping, bindparam, delete, insert, select, update

from gateway.audit.journal import Payload
from gateway.beckn.dialect import Dialect, dialect_of
from gateway.beckn.envelope import Context
from gateway.beckn.signing import Signer
from gateway.errors import NotFound, SettlementRefused
from gateway.flex.settlement import SettlementRow, settle
from gateway.orders.order import (
    BOOKING,
    Alarm,
    Answered,
    ClearTimer,
    Command,
    Event,
    LifecyclePolicy,
    Order,
    OrderState,
    Replan,
    Resend,
    Send,
    SetTimer,
    Settle,
    Settled,
    SettlementFailed,
    Started,
    Verb,
)
from gateway.orders.transition import transition
from gateway.store.sql import upsert
from gateway.store.tables import flex_order, outbox, settlement_row, timer
from gateway.trading.work import Outgoing, Work

STATUS_PAUSE_S = 0.5
"""The request that opens a seller's push stream makes way for orders still being agreed."""

# Statements of the hot path are built once: building one costs as much as running it.
_INSERT_ORDER = insert(flex_order)
_ORDER_COLUMNS = (
    "state",
    "version",
    "contract_id",
    "body",
    "confirm_sent_at",
    "updated_at",
)
_UPDATE_ORDER = (
    update(flex_order)
    .where(flex_order.c.order_id == bindparam("key"))
    .values({name: bindparam(f"new_{name}") for name in _ORDER_COLUMNS})
)
_INSERT_MESSAGE = insert(outbox)
_REPEAT_MESSAGE = (
    update(outbox)
    .where(outbox.c.message_id == bindparam("key"))
    .values(
        signature=bindparam("new_signature"),
        attempts=bindparam("new_attempts"),
        status="PENDING",
        next_attempt_at=bindparam("new_next_attempt_at"),
    )
)
_MESSAGE = select(outbox).where(outbox.c.message_id == bindparam("key"))
_CLEAR_TIMERS = delete(timer).where(timer.c.order_id == bindparam("key"))
_CLEAR_TIMER = _CLEAR_TIMERS.where(timer.c.kind == bindparam("timer_kind"))
_INSERT_SETTLEMENT = insert(settlement_row)
_ORDER_BODY = select(flex_order.c.body).where(flex_order.c.order_id == bindparam("key"))
_BOOKING_BODIES = (
    select(flex_order.c.body)
    .where(flex_order.c.feeder_id == bindparam("feeder"))
    .where(flex_order.c.state.in_(sorted(state.value for state in BOOKING)))
)


class Address(msgspec.Struct, frozen=True, kw_only=True):
    """Who we are on the wire."""

    bap_id: str
    bap_uri: str
    domain: str
    ttl_s: int
    signature_ttl_s: int
    location: dict[str, Any] | None = None
    """Country and city of our market, for generations that address by place."""


class LostRelief(msgspec.Struct, frozen=True, kw_only=True):
    """An order that will not deliver what was counted on; its need wants a new plan."""

    order: Order
    reason: str


class Desk:
    """Applies events to stored orders."""

    def __init__(
        self,
        *,
        signer: Signer,
        address: Address,
        policy: LifecyclePolicy,
        completion_grace_s: float,
    ) -> None:
        self._signer = signer
        self._address = address
        self.policy = policy
        self._grace = timedelta(seconds=completion_grace_s)

    def open(self, work: Work, order: Order) -> list[LostRelief]:
        """Write a new order down and begin to trade it."""
        work.connection.execute(_INSERT_ORDER, _row(order, work.now) | {"created_at": work.now})
        work.note(
            "order.opened",
            {"order": order, "requested_kwh": order.terms.requested_kwh},
            **_refs(order),
        )
        return self.apply(work, order, Started(at=work.now))

    def apply(
        self, work: Work, order: Order, event: Event, *, extra: Callable[[], dict[str, Any]] | None = None
    ) -> list[LostRelief]:
        """Apply one event to an order and everything that follows from it.

        Args:
            work: The open transaction.
            order: The order as loaded in this transaction.
            event: What happened.
            extra: Further facts for the journal entry of the move.

        Returns:
            Relief that is lost and must be planned anew.
        """
        lost: list[LostRelief] = []
        queue: list[Event] = [event]
        while queue:
            step = transition(order, queue.pop(0), self.policy)
            if step.ignored is not None:
                # An acknowledgement is on record already, as the answer it came in.
                if not (isinstance(event, Answered) and event.accepted):
                    work.note("order.ignored", {"event": event, "why": step.ignored}, **_refs(order))
                continue
            self._note_move(work, order, step.order, extra)
            order = step.order
            for command in step.commands:
                order = self._carry_out(work, order, command, queue, lost)
            self._save(work, order)
        return lost

    @staticmethod
    def _note_move(
        work: Work, before: Order, after: Order, extra: Callable[[], dict[str, Any]] | None
    ) -> None:
        if after.state is before.state and after.moves == before.moves:
            return
        move = after.moves[-1]
        body: dict[str, Any] = {"from": before.state, "to": after.state, "why": move.why}
        if extra is not None:
            body |= extra()
        work.note("order.moved", body, **_refs(after))

    def _carry_out(
        self, work: Work, order: Order, command: Command, queue: list[Event], lost: list[LostRelief]
    ) -> Order:
        match command:
            case Send():
                message_id = self._send(work, order, command)
                return msgspec.structs.replace(order, awaiting=message_id) if command.awaited else order
            case Resend():
                self._resend(work, order)
            case SetTimer():
                self._arm(work, order, command)
            case ClearTimer():
                _disarm(work.connection, order, command)
            case Settle():
                queue.append(self._settle(work, order))
            case Replan():
                lost.append(LostRelief(order=order, reason=command.reason))
            case Alarm():
                work.alarm(command.kind, command.detail, feeder_id=order.feeder_id, **_order_refs(order))
        return order

    # --- messages -----------------------------------------------------------------------------

    def _send(self, work: Work, order: Order, command: Send) -> str:
        outgoing = self.compose(
            work,
            verb=command.verb.value,
            message=_message(order, command, dialect_of(order.beckn_version)),
            transaction_id=order.transaction_id,
            peer_id=order.bpp_id,
            peer_uri=order.bpp_uri,
            version=order.beckn_version,
            order=order,
            defer_s=STATUS_PAUSE_S if command.verb is Verb.STATUS else 0.0,
        )
        return outgoing.message_id

    def compose(
        self,
        work: Work,
        *,
        verb: str,
        message: dict[str, Any],
        transaction_id: str,
        peer_id: str,
        peer_uri: str,
        version: str,
        order: Order | None = None,
        feeder_id: str | None = None,
        need_id: str | None = None,
        defer_s: float = 0.0,
    ) -> Outgoing:
        """Encode, sign, store and journal one request in the peer's version; it leaves after the commit."""
        message_id = work.new_id()
        dialect = dialect_of(version)
        action = dialect.action(verb)
        context = Context(
            version=version,
            action=action,
            bap_id=self._address.bap_id,
            bap_uri=self._address.bap_uri,
            bpp_id=peer_id,
            bpp_uri=peer_uri,
            transaction_id=transaction_id,
            message_id=message_id,
            timestamp=work.now,
            ttl=f"PT{self._address.ttl_s}S",
            domain=self._address.domain,
            location=self._address.location,
        )
        body = dialect.encode(context, message)
        outgoing = Outgoing(
            message_id=message_id,
            transaction_id=transaction_id,
            action=action,
            peer_id=peer_id,
            url=f"{peer_uri.rstrip('/')}/{action}",
            body=body,
            authorization=self._sign(body, work.now),
            order_id=order.order_id if order else None,
            obp_id=order.obp_id if order else None,
            feeder_id=order.feeder_id if order else feeder_id,
            need_id=order.need_id if order else need_id,
            defer_s=defer_s,
        )
        work.connection.execute(
            _INSERT_MESSAGE,
            {
                "message_id": message_id,
                "order_id": outgoing.order_id,
                "peer_id": peer_id,
                "url": outgoing.url,
                "action": action,
                "transaction_id": transaction_id,
                "body": body,
                "signature": outgoing.authorization,
                "status": "PENDING",
                "attempts": 1,
                "next_attempt_at": work.now,
                "created_at": work.now,
            },
        )
        self._note_sent(work, outgoing, verb)
        return outgoing

    def repeat(self, work: Work, outgoing: Outgoing) -> Outgoing:
        """Sign the same bytes anew for another attempt, store and journal that."""
        again = msgspec.structs.replace(
            outgoing,
            authorization=self._sign(outgoing.body, work.now),
            attempts=outgoing.attempts + 1,
        )
        work.connection.execute(
            _REPEAT_MESSAGE,
            {
                "key": again.message_id,
                "new_signature": again.authorization,
                "new_attempts": again.attempts,
                "new_next_attempt_at": work.now,
            },
        )
        self._note_sent(work, again, None)
        return again

    def lapsed(self, created_at: datetime, now: datetime) -> bool:
        """Whether a request of ours made at an instant is past its ttl, so that no peer takes it."""
        return now > created_at + timedelta(seconds=self._address.ttl_s)

    def _resend(self, work: Work, order: Order) -> None:
        owed = work.connection.execute(_MESSAGE, {"key": order.awaiting}).mappings().one()
        self.repeat(work, outgoing_of(owed, order))

    def _note_sent(self, work: Work, outgoing: Outgoing, verb: str | None) -> None:
        work.outgoing.append(outgoing)
        work.note(
            "beckn.sent",
            {
                "action": outgoing.action,
                "verb": (verb or outgoing.action),
                "message_id": outgoing.message_id,
                "peer_id": outgoing.peer_id,
                "url": outgoing.url,
                "attempt": outgoing.attempts,
                "headers": {
                    "content-type": "application/json",
                    "authorization": outgoing.authorization,
                },
            },
            feeder_id=outgoing.feeder_id,
            transaction_id=outgoing.transaction_id,
            order_id=outgoing.order_id,
            obp_id=outgoing.obp_id,
            event_id=outgoing.need_id,
            payloads=[Payload(content=outgoing.body, media_type="application/json")],
        )

    def _sign(self, body: bytes, now: datetime) -> str:
        return self._signer.authorization(body, now=now, ttl_s=self._address.signature_ttl_s)

    # --- timers, settlement, rows ---------------------------------------------------------------

    def _arm(self, work: Work, order: Order, command: SetTimer) -> None:
        due_event = command.event_at
        if due_event is not None:
            # Event time advances with the feeder's telemetry, and never slower than wall time has
            # since the decision: a feeder that falls silent cannot keep an order open for ever.
            due_wall = order.detected_at + (due_event - order.decided_event_at) + self._grace
        else:
            due_wall = work.now + timedelta(seconds=command.wall_s or 0.0)
        upsert(
            work.connection,
            timer,
            [
                {
                    "order_id": order.order_id,
                    "kind": command.kind.value,
                    "due_wall": due_wall,
                    "due_event": due_event,
                    "feeder_id": order.feeder_id,
                }
            ],
        )

    def _settle(self, work: Work, order: Order) -> Event:
        """Compute delivered volume from the agreed baselines and the reported meter intervals."""
        contract = order.contract
        if contract is None:
            return SettlementFailed(at=work.now, reason="no contract to settle")
        try:
            terms = msgspec.structs.replace(
                order.terms, price_per_kwh=contract.price_per_kwh or order.terms.price_per_kwh
            )
            rows = settle(terms, contract.baselines, contract.performance, contract.lines)
        except SettlementRefused as refused:
            work.note("settlement.refused", {"reason": refused.detail, "code": refused.code}, **_refs(order))
            return SettlementFailed(at=work.now, reason=f"{refused.code}: {refused.detail}")
        work.connection.execute(_INSERT_SETTLEMENT, [_settlement_record(row, work.now) for row in rows])
        payable = sum((Decimal(row.amount) for row in rows), Decimal(0))
        delivered_wh = sum(row.delivered_wh for row in rows)
        work.note(
            "delivery.settled",
            {"rows": rows, "delivered_wh": delivered_wh, "payable": str(payable)},
            **_refs(order),
        )
        return Settled(at=work.now, delivered_wh=delivered_wh, payable=str(payable))

    @staticmethod
    def _save(work: Work, order: Order) -> None:
        work.orders[order.order_id] = order
        row = _row(order, work.now)
        changed = {f"new_{name}": row[name] for name in _ORDER_COLUMNS}
        work.connection.execute(_UPDATE_ORDER, changed | {"key": order.order_id})


def _message(order: Order, command: Send, dialect: Dialect) -> dict[str, Any]:
    """Build the message of a verb."""
    contract = order.contract
    if command.verb is Verb.SELECT:
        return dialect.select_message(order.terms)
    if contract is None:
        raise RuntimeError(f"{command.verb} before on_select of order {order.order_id}")
    if command.verb is Verb.INIT:
        return dialect.init_message(order.terms, contract)
    if command.verb is Verb.CONFIRM:
        return dialect.confirm_message(order.terms, contract)
    contract_id = dialect.reference(order.terms, contract)
    if contract_id is None:
        raise RuntimeError(f"{command.verb} without a contract id in order {order.order_id}")
    if command.verb is Verb.CANCEL:
        return dialect.cancel_message(order.terms, contract_id, command.reason)
    return dialect.status_message(order.terms, contract_id)


def _disarm(connection: Connection, order: Order, command: ClearTimer) -> None:
    if command.kind is None:
        connection.execute(_CLEAR_TIMERS, {"key": order.order_id})
    else:
        connection.execute(_CLEAR_TIMER, {"key": order.order_id, "timer_kind": command.kind.value})


def _order_refs(order: Order) -> dict[str, str]:
    return {"order_id": order.order_id, "obp_id": order.obp_id, "event_id": order.need_id}


def _refs(order: Order) -> dict[str, Any]:
    return {
        **_order_refs(order),
        "feeder_id": order.feeder_id,
        "transaction_id": order.transaction_id,
    }


def _row(order: Order, now: datetime) -> dict[str, Any]:
    return {
        "order_id": order.order_id,
        "obp_id": order.obp_id,
        "need_id": order.need_id,
        "feeder_id": order.feeder_id,
        "bpp_id": order.bpp_id,
        "state": order.state.value,
        "version": order.version,
        "transaction_id": order.transaction_id,
        "contract_id": order.contract.contract_id if order.contract else None,
        "body": msgspec.json.encode(order).decode(),
        "detected_at": order.detected_at,
        "confirm_sent_at": order.confirm_sent_at,
        "updated_at": now,
    }


def _settlement_record(row: SettlementRow, now: datetime) -> dict[str, Any]:
    return {
        "obp_id": row.obp_id,
        "der_id": row.der_id,
        "settlement_date": row.settlement_date.isoformat(),
        "settlement_period": row.settlement_period,
        "row_version": 1,
        "row": msgspec.json.encode(row).decode(),
        "instructed_wh": row.instructed_wh,
        "baseline_wh": row.baseline_wh,
        "metered_wh": row.metered_wh,
        "delivered_wh": row.delivered_wh,
        "method": row.baseline_method.value,
        "computed_at": now,
    }


def outgoing_of(row: RowMapping, order: Order | None) -> Outgoing:
    """Rebuild a message from its outbox row, for another attempt."""
    return Outgoing(
        message_id=row["message_id"],
        transaction_id=row["transaction_id"],
        action=row["action"],
        peer_id=row["peer_id"],
        url=row["url"],
        body=row["body"],
        authorization=row["signature"],
        order_id=row["order_id"],
        obp_id=order.obp_id if order else None,
        feeder_id=order.feeder_id if order else None,
        need_id=order.need_id if order else None,
        attempts=row["attempts"],
    )


def load_order(connection: Connection, order_id: str) -> Order:
    """Read one order.

    Raises:
        NotFound: No such order.
    """
    body = connection.execute(_ORDER_BODY, {"key": order_id}).scalar_one_or_none()
    if body is None:
        raise NotFound(f"no order {order_id}", order_id=order_id)
    return msgspec.json.decode(body, type=Order)


def orders_where(
    connection: Connection,
    *,
    states: frozenset[OrderState] | None = None,
    feeder_id: str | None = None,
    transaction_id: str | None = None,
    need_id: str | None = None,
    limit: int | None = None,
) -> tuple[Order, ...]:
    """Read orders, newest first; arguments narrow."""
    statement = select(flex_order.c.body).order_by(flex_order.c.created_at.desc(), flex_order.c.order_id)
    if states is not None:
        statement = statement.where(flex_order.c.state.in_([state.value for state in states]))
    if feeder_id is not None:
        statement = statement.where(flex_order.c.feeder_id == feeder_id)
    if transaction_id is not None:
        statement = statement.where(flex_order.c.transaction_id == transaction_id)
    if need_id is not None:
        statement = statement.where(flex_order.c.need_id == need_id)
    if limit is not None:
        statement = statement.limit(limit)
    return tuple(msgspec.json.decode(body, type=Order) for body in connection.execute(statement).scalars())


def booking_orders(connection: Connection, feeder_id: str) -> tuple[Order, ...]:
    """Orders whose DERs count as taken at a feeder."""
    bodies = connection.execute(_BOOKING_BODIES, {"feeder": feeder_id}).scalars()
    return tuple(msgspec.json.decode(body, type=Order) for body in bodies)
