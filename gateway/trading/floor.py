"""The trading floor: what runs between decisions.

Sends what has been committed, records how peers answered, fires durable timers, lists the sellers
and keeps the standing catalogue fresh. It holds no order: orders are in the store, and everything
here can be rebuilt from it (:meth:`TradingFloor.start` does, after a crash or a clean stop).
"""

import asyncio
import contextlib
import logging
from collections.abc import Awaitable, Callable, Iterable, Sequence
from datetime import datetime, timedelta

from sqlalchemy import ColumnElement, Connection, RowMapping, bindparam, delete, select, update

from gateway.audit.chain import parse_entry
from gateway.audit.journal import Payload
from gateway.beckn.envelope import AnswerKind
from gateway.beckn.resolver import KeyResolver, Participant
from gateway.beckn.signing import bare_signature, digest, parse_authorization, verify_signature
from gateway.catalogue import Catalogue
from gateway.clock import Clock
from gateway.errors import BecknError, PeerUnavailable
from gateway.flex.relief import Booking
from gateway.metrics import Metrics
from gateway.orders.order import (
    AGREED,
    NEGOTIATING,
    TERMINAL,
    Answered,
    CancelRequested,
    Order,
    OrderState,
    SendFailed,
    TimerFired,
    TimerKind,
    Verb,
)
from gateway.store.tables import alarm, flex_order, journal_entry, outbox, timer
from gateway.trading.buyer import Buyer, bookings_of
from gateway.trading.callbacks import Discovered
from gateway.trading.courier import Courier, Delivered, Undelivered
from gateway.trading.desk import Desk, LostRelief, load_order, orders_where, outgoing_of
from gateway.trading.work import Ledger, Outgoing, Work
from gateway.types import SLOT_MIN, Direction

log = logging.getLogger(__name__)

_CLOSE = (
    update(outbox)
    .where(outbox.c.message_id == bindparam("key"))
    .values(status=bindparam("new_status"), next_attempt_at=None)
)
_DUE_BY_EVENT = select(timer.c.order_id, timer.c.kind).where(
    timer.c.feeder_id == bindparam("feeder"), timer.c.due_event <= bindparam("event_now")
)
_DUE_BY_WALL = select(timer.c.order_id, timer.c.kind).where(timer.c.due_wall <= bindparam("now"))

TIMER_TICK_S = 0.05
WATCH_PAUSE_S = 5.0
RECEIPTS_PAUSE_S = 0.1
"""How long acknowledgements that move no order are gathered before they are filed."""
MARKET_PAUSE_S = 0.25
MAX_MARKET_PAUSE_S = 30.0
REGISTRY_FAILURES = 4
"""Failures in a row after which the operator is told that the registry cannot be used."""
AFTER_FAULT_S = 1.0
"""Pause of a loop after a fault."""
POSTPONE_S = 60.0
"""How long an order that cannot be handled is left alone."""
NOT_BINDING = frozenset({Verb.SELECT.value, Verb.INIT.value})
"""Requests that bind nobody: a lapsed one may be replaced by another."""
STEPS = NOT_BINDING | {Verb.CONFIRM.value}
"""Requests an order waits on one after the other: one it does not wait for any more must not arrive."""
SHOWS_IN_LOAD = AGREED | {OrderState.COMPLETED, OrderState.UNSETTLED, OrderState.CANCELLING}
"""Orders whose relief shows in the measured load of their feeder."""


class TradingFloor:
    """Between the store and the network.

    Args:
        ledger: Runs units of work.
        desk: Applies events to orders.
        resolver: Finds keys, for the signatures of Acks.
        list_sellers: Asks the registry for the BPPs of our domain; None without a registry.
        catalogue: The standing catalogue, refreshed from here.
        metrics: Counts.
        clock: Wall time.
        courier: Makes the courier, given how to report and how to repeat.
        participants_refresh_s: Age at which sellers are listed anew.
        catalogue_refresh_s: Age at which catalogues are asked for anew.
    """

    def __init__(
        self,
        *,
        ledger: Ledger,
        desk: Desk,
        resolver: KeyResolver,
        list_sellers: Callable[[], Awaitable[tuple[Participant, ...]]] | None,
        catalogue: Catalogue,
        metrics: Metrics,
        clock: Clock,
        courier: Callable[..., Courier],
        participants_refresh_s: float,
        catalogue_refresh_s: float,
    ) -> None:
        self.desk = desk
        self.sellers: tuple[Participant, ...] = ()
        self._ledger = ledger
        self._resolver = resolver
        self._list_sellers = list_sellers
        self._catalogue = catalogue
        self._metrics = metrics
        self._clock = clock
        self._courier = courier(report=self._report, repeat=self._repeat)
        self._participants_refresh_s = participants_refresh_s
        self._catalogue_refresh_s = catalogue_refresh_s
        self._orders: dict[str, Order] = {}
        self._signatures: dict[str, list[str]] = {}
        self._loops: list[asyncio.Task[None]] = []
        self._buyer: Buyer | None = None
        self._wanted: Callable[[], Sequence[str]] = tuple
        self._refresh = asyncio.Event()
        self._receipts: list[Delivered] = []
        self._filing: asyncio.Task[None] | None = None
        self._unreachable: set[str] = set()

    # --- life -----------------------------------------------------------------------------------

    async def start(
        self,
        buyer: Buyer,
        feeder_ids: Callable[[], Sequence[str]],
        *,
        watch: Callable[[], Awaitable[None]] | None = None,
    ) -> None:
        """Take up what the store says is owed, then begin the loops.

        Args:
            buyer: Plans anew where relief is lost.
            feeder_ids: Feeders whose catalogue is to be kept.
            watch: Looked after every few seconds (feeders that have fallen silent).
        """
        self._buyer = buyer
        self._wanted = feeder_ids
        await self._resume()
        self._loops = [
            asyncio.create_task(self._every(TIMER_TICK_S, self._fire_due), name="timers"),
            asyncio.create_task(self._keep_market(), name="market"),
        ]
        if watch is not None:
            self._loops.append(asyncio.create_task(self._every(WATCH_PAUSE_S, watch), name="watch"))

    async def stop(self) -> None:
        """Stop loops and deliveries; what is owed stays in the store."""
        for loop in self._loops:
            loop.cancel()
        await asyncio.gather(*self._loops, return_exceptions=True)
        await self._courier.close()
        if self._filing is not None:
            self._filing.cancel()
            await asyncio.gather(self._filing, return_exceptions=True)
        await self._file_receipts(0.0)

    async def _resume(self) -> None:
        """Rebuild the view of orders and send what was committed but never answered."""
        orders = await self._ledger.read(orders_where)
        self._orders = {order.order_id: order for order in orders}
        owed = await self._ledger.read(
            lambda c: c.execute(select(outbox).where(outbox.c.status == "PENDING")).mappings().all()
        )
        for message_id, signature in await self._ledger.read(_signatures_sent):
            self._signatures.setdefault(message_id, []).append(signature)

        _, work = await self._ledger.commit(lambda work: self._take_up(work, owed))
        self._unreachable = await self._ledger.read(_peers_alarmed)
        self.after(work)
        if owed:
            log.info("resumed: %d of %d owed messages are sent again", len(work.outgoing), len(owed))

    def _take_up(self, work: Work, owed: Sequence[RowMapping]) -> None:
        """Send again what an order still waits for; what nobody waits for is let go."""
        # A reply that came while we were down is being retried by the seller: give it time.
        grace = timedelta(seconds=self.desk.policy.callback_timeout_s)
        work.connection.execute(
            update(timer)
            .where(timer.c.kind == TimerKind.REPLY.value, timer.c.due_wall < work.now + grace)
            .values(due_wall=work.now + grace)
        )
        for row in owed:
            order = self._orders.get(row["order_id"]) if row["order_id"] else None
            outgoing = outgoing_of(row, order)
            if order is None or not _wanted(outgoing, order):
                _close(work, outgoing, "ABANDONED")  # catalogues are asked for anew after a start
            elif self.desk.lapsed(row["created_at"], work.now) and outgoing.action in NOT_BINDING:
                # Its ttl is over: the step is asked again in a message of its own.
                _close(work, outgoing, "ABANDONED")
                work.connection.execute(
                    update(timer)
                    .where(timer.c.order_id == order.order_id, timer.c.kind == TimerKind.REPLY.value)
                    .values(due_wall=work.now)
                )
            else:
                self.desk.repeat(work, outgoing)

    async def _every(self, pause_s: float, step: Callable[[], Awaitable[None]]) -> None:
        while True:
            try:
                await step()
            except Exception:  # whatever it is, orders must not wait for a person to restart the loop
                log.exception("%s failed; it is tried again", getattr(step, "__name__", "loop"))
                await asyncio.sleep(AFTER_FAULT_S)
            await asyncio.sleep(pause_s)

    # --- after a commit -------------------------------------------------------------------------

    def after(self, work: Work) -> None:
        """Let memory and the world follow what has been committed."""
        for order in work.orders.values():
            known = self._orders.get(order.order_id)
            if known is None or order.version >= known.version:
                self._orders[order.order_id] = order
        self._metrics.orders(work.orders.values())
        for raised in work.alarms:
            self._metrics.alarm(raised.kind)
            log.warning("alarm %s: %s", raised.kind, raised.detail)
        for message in work.outgoing:
            self._signatures.setdefault(message.message_id, []).append(message.authorization)
        self._courier.send(work.outgoing)

    def bookings(self, feeder_id: str) -> tuple[Booking, ...]:
        """Relief of our orders that shows in a feeder's measured load."""
        return bookings_of(
            order
            for order in self._orders.values()
            if order.feeder_id == feeder_id and order.state in SHOWS_IN_LOAD
        )

    def sent_signatures(self, message_id: str) -> list[tuple[str, str]]:
        """What we signed under a messageId, newest first: (bare signature, whole header)."""
        return [(bare_signature(header), header) for header in reversed(self._signatures.get(message_id, []))]

    @property
    def negotiating(self) -> int:
        """Orders between decision and the seller's answer to CONFIRM."""
        return sum(order.state in NEGOTIATING for order in self._orders.values())

    @property
    def orders(self) -> tuple[Order, ...]:
        """Every order known, as last committed."""
        return tuple(self._orders.values())

    # --- answers --------------------------------------------------------------------------------

    async def _repeat(self, outgoing: Outgoing) -> Outgoing | None:
        def job(work: Work) -> Outgoing | None:
            if outgoing.order_id is None or _wanted(outgoing, load_order(work.connection, outgoing.order_id)):
                return self.desk.repeat(work, outgoing)
            _close(work, outgoing, "ABANDONED")
            return None

        again, work = await self._ledger.commit(job)
        if again is None:
            return None
        # The courier is sending it already: only the new signature is to be remembered.
        self._signatures.setdefault(again.message_id, []).append(again.authorization)
        work.outgoing.clear()
        self.after(work)
        return again

    async def _report(self, ended: Delivered | Undelivered) -> None:
        if isinstance(ended, Delivered):
            self._metrics.sent(ended.outgoing.action, ended.answer.kind.value)
            if _accepted(ended) and ended.outgoing.action != Verb.CONFIRM:
                self._keep_receipt(ended)
                return
            evidence = await self._ack_evidence(ended)
            _, work = await self._ledger.commit(lambda work: self._answered(work, ended, evidence))
        else:
            self._metrics.sent(ended.outgoing.action, "none")
            _, work = await self._ledger.commit(lambda work: self._undelivered(work, ended))
        self.after(work)
        for order in work.orders.values():
            if ended.outgoing.action == "confirm" and order.confirm_sent_at is not None:
                self._metrics.confirm_sent(order)

    def _keep_receipt(self, delivered: Delivered) -> None:
        """Put an acknowledgement that moves no order aside; several are filed in one transaction.

        Until then its message counts as unanswered: after a crash it is sent again, and the peer,
        who has it, acknowledges it again.
        """
        self._receipts.append(delivered)
        if self._filing is None or self._filing.done():
            self._filing = asyncio.create_task(self._file_receipts(RECEIPTS_PAUSE_S), name="receipts")

    async def _file_receipts(self, pause_s: float) -> None:
        await asyncio.sleep(pause_s)
        while self._receipts:
            batch, self._receipts = self._receipts, []
            proven = [(one, await self._ack_evidence(one)) for one in batch]

            def file(work: Work, proven: Sequence[tuple[Delivered, dict[str, str]]] = proven) -> None:
                for delivered, evidence in proven:
                    self._answered(work, delivered, evidence)

            try:
                _, work = await self._ledger.commit(file)
            except Exception:  # their messages stay owed: after a restart they are sent again
                log.exception("%d acknowledgements could not be filed", len(batch))
            else:
                self.after(work)

    async def _ack_evidence(self, delivered: Delivered) -> dict[str, str]:
        """Check the Ack's counter-signature, if there is one. Its absence fails nothing."""
        header = delivered.headers.get("signature")
        if header is None:
            return {"verdict": "absent"}
        try:
            parsed = parse_authorization(header, scheme_optional=True)
            sender = await self._resolver.key(parsed.subscriber_id, parsed.key_id)
            if sender is None or parsed.subscriber_id != delivered.outgoing.peer_id:
                return {"verdict": "untrusted", "key_id": parsed.key_id}
            request = delivered.outgoing.authorization
            variant = verify_signature(
                parsed, digest(delivered.body), sender.public_key, [(bare_signature(request), request)]
            )
        except BecknError as exc:
            return {"verdict": "invalid", "why": exc.detail}
        return {"verdict": "verified", "variant": variant, "key_id": parsed.key_id}

    def _answered(self, work: Work, delivered: Delivered, evidence: dict[str, str]) -> None:
        outgoing, answer = delivered.outgoing, delivered.answer
        accepted = _accepted(delivered)
        work.note(
            "beckn.answered",
            {
                "action": outgoing.action,
                "message_id": outgoing.message_id,
                "peer_id": outgoing.peer_id,
                "http_status": delivered.status,
                "kind": answer.kind,
                "code": answer.code,
                "detail": answer.detail,
                "sent_at": delivered.sent_at,
                "headers": delivered.headers,
                "signature": evidence,
            },
            feeder_id=outgoing.feeder_id,
            transaction_id=outgoing.transaction_id,
            order_id=outgoing.order_id,
            obp_id=outgoing.obp_id,
            event_id=outgoing.need_id,
            payloads=[Payload(content=delivered.body, media_type="application/json")],
        )
        _close(work, outgoing, "ACKED" if accepted else "REFUSED")
        if outgoing.peer_id in self._unreachable:
            work.clear_alarm("peer_unreachable", detail=_unreachable(outgoing.peer_id))
            self._unreachable.discard(outgoing.peer_id)
        if outgoing.order_id is None or (accepted and outgoing.action != Verb.CONFIRM):
            return  # only a refusal, or the CONFIRM having left, moves an order
        order = load_order(work.connection, outgoing.order_id)
        lost = self.desk.apply(
            work,
            order,
            Answered(
                at=work.now,
                message_id=outgoing.message_id,
                action=outgoing.action,
                accepted=accepted,
                sent_at=delivered.sent_at,
                detail=f"{answer.code or delivered.status}: {answer.detail or 'no detail'}",
                copies=outgoing.attempts,
            ),
        )
        self._replan(work, lost)

    def _undelivered(self, work: Work, ended: Undelivered) -> None:
        outgoing = ended.outgoing
        work.note(
            "beckn.undelivered",
            {
                "action": outgoing.action,
                "message_id": outgoing.message_id,
                "peer_id": outgoing.peer_id,
                "detail": ended.detail,
                "attempts": outgoing.attempts,
            },
            feeder_id=outgoing.feeder_id,
            transaction_id=outgoing.transaction_id,
            order_id=outgoing.order_id,
            obp_id=outgoing.obp_id,
            event_id=outgoing.need_id,
        )
        _close(work, outgoing, "FAILED")
        work.alarm("peer_unreachable", _unreachable(outgoing.peer_id))
        self._unreachable.add(outgoing.peer_id)
        if outgoing.order_id is None:
            return
        order = load_order(work.connection, outgoing.order_id)
        lost = self.desk.apply(
            work,
            order,
            SendFailed(
                at=work.now, message_id=outgoing.message_id, action=outgoing.action, detail=ended.detail
            ),
        )
        self._replan(work, lost)

    def _replan(self, work: Work, losses: Iterable[LostRelief]) -> None:
        if self._buyer is None:
            raise RuntimeError("the floor has not been started")
        for lost in losses:
            self._buyer.replan(work, lost)

    # --- timers ---------------------------------------------------------------------------------

    def event_time_passed(self, work: Work, feeder_id: str, event_now: datetime) -> None:
        """Fire the event-time timers of a feeder whose telemetry has reached them."""
        due = work.connection.execute(_DUE_BY_EVENT, {"feeder": feeder_id, "event_now": event_now}).all()
        for row in due:
            self._fire(work, row.order_id, row.kind, timer.c.due_event <= event_now)

    async def _fire_due(self) -> None:
        """Fire what is due by wall time: each order in a job of its own, all of them in one commit."""
        now = self._clock()
        due = await self._ledger.read(lambda c: c.execute(_DUE_BY_WALL, {"now": now}).all())
        await asyncio.gather(*(self._fire_one(row.order_id, row.kind, now) for row in due))

    async def _fire_one(self, order_id: str, kind: str, now: datetime) -> None:
        """Fire one timer; where that fails, no other is stopped."""
        try:
            _, work = await self._ledger.commit(
                lambda work: self._fire(work, order_id, kind, timer.c.due_wall <= now)
            )
        except Exception as exc:
            log.exception("timer %s of order %s", kind, order_id)
            work = await self._postpone(order_id, kind, f"{type(exc).__name__}: {exc}")
        self.after(work)

    def _fire(self, work: Work, order_id: str, kind: str, due: ColumnElement[bool]) -> None:
        """Fire a timer that was seen to be due, unless it has been disarmed or set anew since."""
        fired = work.connection.execute(
            delete(timer).where(timer.c.order_id == order_id, timer.c.kind == kind, due)
        )
        if fired.rowcount == 0:
            return
        order = load_order(work.connection, order_id)
        lost = self.desk.apply(work, order, TimerFired(at=work.now, kind=TimerKind(kind)))
        self._replan(work, lost)

    async def _postpone(self, order_id: str, kind: str, why: str) -> Work:
        """Leave an order that cannot be handled alone for a while, and tell the operator."""

        def job(work: Work) -> None:
            work.connection.execute(
                update(timer)
                .where(timer.c.order_id == order_id, timer.c.kind == kind)
                .values(due_wall=work.now + timedelta(seconds=POSTPONE_S))
            )
            work.alarm(
                "order_fault",
                f"order {order_id} cannot be handled: {why}",
                severity="critical",
                order_id=order_id,
            )

        _, work = await self._ledger.commit(job)
        return work

    # --- operators ------------------------------------------------------------------------------

    async def cancel(self, order_id: str, *, reason: str, by: str) -> Order:
        """Withdraw from an order; a confirmed one is cancelled with its seller.

        Raises:
            NotFound: No such order.
        """

        def job(work: Work) -> Order:
            order = load_order(work.connection, order_id)
            work.note(
                "operator.cancelled", {"reason": reason, "by": by}, order_id=order_id, obp_id=order.obp_id
            )
            self.desk.apply(work, order, CancelRequested(at=work.now, reason=f"{by}: {reason}"))
            return load_order(work.connection, order_id)

        order, work = await self._ledger.commit(job)
        self.after(work)
        return order

    # --- market ---------------------------------------------------------------------------------

    def refresh_soon(self) -> None:
        """Refresh sellers and catalogues without waiting for their age (a feeder was configured)."""
        self._refresh.set()

    async def take_offers(self, found: Discovered) -> None:
        """A seller has answered a DISCOVER: offers replace its old ones and may serve open needs."""
        self._catalogue.replace(found.feeder_id, found.bpp_id, found.direction, found.offers)
        buyer = self._buyer
        if buyer is None:
            raise RuntimeError("the floor has not been started")
        _, work = await self._ledger.commit(lambda work: buyer.supply(work, found.feeder_id))
        self.after(work)

    async def _keep_market(self) -> None:
        """List sellers and ask for catalogues whenever they are old or a feeder is new."""
        asked: dict[tuple[str, str], datetime] = {}
        failures = -1  # not looked yet: an alarm may stand from before
        while True:
            self._refresh.clear()
            try:
                await self._refresh_market(asked)
                if failures != 0:
                    await self._registry_answers()
                failures = 0
            except PeerUnavailable as exc:
                failures = max(0, failures) + 1
                log.warning("registry: %s", exc.detail)
                if failures == REGISTRY_FAILURES:
                    await self._registry_is_down(exc.detail)
                await asyncio.sleep(min(MARKET_PAUSE_S * 2**failures, MAX_MARKET_PAUSE_S))
                continue
            except Exception:  # whatever it is, the next look at the market may go well
                log.exception("the market could not be looked at; it is tried again")
                await asyncio.sleep(AFTER_FAULT_S)
            # Not wait_for: it can swallow the cancellation that ends this loop.
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(self._participants_refresh_s):
                    await self._refresh.wait()

    async def _registry_is_down(self, detail: str) -> None:
        def job(work: Work) -> None:
            work.clear_alarm("registry_unreachable")  # of an outage before the last restart
            work.alarm("registry_unreachable", detail, severity="critical")

        _, work = await self._ledger.commit(job)
        self.after(work)

    async def _registry_answers(self) -> None:
        _, work = await self._ledger.commit(lambda work: work.clear_alarm("registry_unreachable"))
        self.after(work)

    async def _refresh_market(self, asked: dict[tuple[str, str], datetime]) -> None:
        if self._list_sellers is None:
            return
        self.sellers = await self._list_sellers()
        now = self._clock()
        oldest = now - timedelta(seconds=self._catalogue_refresh_s)
        due = [
            feeder_id
            for feeder_id in self._wanted()
            if any(
                asked.get((feeder_id, seller.subscriber_id), oldest) <= oldest
                for seller in self.sellers
                if seller.serves_place(feeder_id)
            )
        ]
        if not due:
            return
        buyer = self._buyer
        if buyer is None:
            raise RuntimeError("the floor has not been started")

        def ask(work: Work) -> None:
            for feeder_id in due:
                for direction in Direction:
                    buyer.ask_catalogues(
                        work,
                        feeder_id=feeder_id,
                        direction=direction,
                        kw=0.0,
                        start=now,
                        end=now + timedelta(minutes=4 * SLOT_MIN),
                    )

        _, work = await self._ledger.commit(ask)
        self.after(work)
        for feeder_id in due:
            for seller in self.sellers:
                asked[feeder_id, seller.subscriber_id] = now


def _accepted(delivered: Delivered) -> bool:
    """Whether a callback is to be awaited: an Ack, or a success whose body says nothing readable."""
    kind = delivered.answer.kind
    return kind is AnswerKind.ACK or (kind is AnswerKind.UNKNOWN and 200 <= delivered.status < 300)


def _close(work: Work, outgoing: Outgoing, status: str) -> None:
    work.connection.execute(_CLOSE, {"key": outgoing.message_id, "new_status": status})


def _wanted(outgoing: Outgoing, order: Order) -> bool:
    """Whether a request may still go out: a late CONFIRM must not follow its own CANCEL."""
    if outgoing.action in STEPS:
        return order.awaiting == outgoing.message_id
    return outgoing.action == Verb.CANCEL or order.state not in TERMINAL


def _unreachable(peer_id: str) -> str:
    return f"{peer_id} cannot be reached"


def _peers_alarmed(connection: Connection) -> set[str]:
    standing = select(alarm.c.detail).where(
        alarm.c.kind == "peer_unreachable", alarm.c.feeder_id.is_(None), alarm.c.cleared_at.is_(None)
    )
    return {detail.split(" ", 1)[0] for detail in connection.execute(standing).scalars()}


def _signatures_sent(connection: Connection) -> list[tuple[str, str]]:
    """What we signed, oldest first: of orders that live every copy, of the rest the newest.

    A seller may answer the first copy of a request long after we have sent a second.
    """
    copies = connection.execute(
        select(journal_entry.c.entry)
        .join(flex_order, flex_order.c.order_id == journal_entry.c.order_id)
        .where(journal_entry.c.kind == "beckn.sent")
        .where(flex_order.c.state.not_in(sorted(state.value for state in TERMINAL)))
        .order_by(journal_entry.c.seq)
    ).scalars()
    bodies = [parse_entry(entry).body for entry in copies]
    found = [(str(body["message_id"]), str(body["headers"]["authorization"])) for body in bodies]
    known = {message_id for message_id, _ in found}
    newest = connection.execute(select(outbox.c.message_id, outbox.c.signature))
    return found + [(row.message_id, row.signature) for row in newest if row.message_id not in known]
