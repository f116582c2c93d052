"""The order life cycle as one pure function.

``transition(order, event, policy)`` gives the order after the event and the commands that
follow. It reads no clock, does no I/O and never raises on a legal event: a message that does not
fit the state is recorded as ignored and changes nothing (docs/order-life-cycle.md has the table).

::

    PLANNED -> SELECTING -> INITIALISING -> CONFIRMING -> CONFIRMED -> DELIVERING -> COMPLETING -> COMPLETED
                   |             |              |             |            |             |
                   +- DECLINED / FAILED --------+             +-- CANCELLING -> CANCELLED / FAILED
                                                                                         +-> UNSETTLED

Rules:

* Nothing binds before CONFIRM: until then a silent, refusing or dearer seller is simply given up
  and the need is planned anew.
* From the moment a CONFIRM may have reached the seller the order is never dropped silently: it is
  confirmed, or asked again, or cancelled with an alarm.
* Completion is the seller's declaration; volumes come only from its signed meter intervals.

Source: Beckn v2.0.0 contract states and COMPLETE mapping, docs/decisions/0004-complete-verb.md.
"""

from decimal import Decimal

import msgspec

from gateway.orders.order import (
    AGREED,
    NEGOTIATING,
    TERMINAL,
    Alarm,
    Answered,
    CallbackReceived,
    CancelRequested,
    ClearTimer,
    Command,
    Event,
    LifecyclePolicy,
    Move,
    Order,
    OrderState,
    Replan,
    Resend,
    Send,
    SendFailed,
    SetTimer,
    Settle,
    Settled,
    SettlementFailed,
    Started,
    TimerFired,
    TimerKind,
    Verb,
)
from gateway.types import ContractStatus, ContractView, PerformanceStatus

_KW_TOLERANCE = 1e-6

NEXT_STEP = {
    "on_select": (OrderState.SELECTING, OrderState.INITIALISING, Verb.INIT),
    "on_init": (OrderState.INITIALISING, OrderState.CONFIRMING, Verb.CONFIRM),
}
"""callback -> (state it belongs to, state it leads to, what we ask next)"""


class Step(msgspec.Struct, frozen=True, kw_only=True):
    """Outcome of one transition.

    ``ignored`` holds the reason where the event changed nothing.
    """

    order: Order
    commands: tuple[Command, ...] = ()
    ignored: str | None = None


def transition(order: Order, event: Event, policy: LifecyclePolicy) -> Step:
    """Move an order by one event.

    Args:
        order: The order as stored.
        event: What happened; its ``at`` is wall time.
        policy: Time-outs (s) and counts.

    Returns:
        The order after the event with ``version`` raised by one where it changed, the commands to
        carry out in the same database transaction, and why the event was ignored if it was.
    """
    match event:
        case Started():
            step = _start(order, event, policy)
        case CallbackReceived():
            step = _callback(order, event, policy)
        case Answered():
            step = _answer(order, event, policy)
        case SendFailed():
            step = _undeliverable(order, event, policy)
        case TimerFired():
            step = _timer(order, event, policy)
        case CancelRequested():
            step = _cancel(order, event, policy)
        case Settled():
            step = _settled(order, event)
        case SettlementFailed():
            step = _unsettled(order, event)
    if step.ignored is None:
        return msgspec.structs.replace(
            step, order=msgspec.structs.replace(step.order, version=order.version + 1)
        )
    return step


def _move(order: Order, event: Event, state: OrderState, why: str, **changes: object) -> Order:
    """Copy the order into ``state``, with the move written down."""
    moves = (*order.moves, Move(at=event.at, state=state, why=why))
    return msgspec.structs.replace(order, state=state, moves=moves, **changes)


def _ignore(order: Order, why: str) -> Step:
    return Step(order=order, ignored=why)


def _ask(verb: Verb, policy: LifecyclePolicy) -> tuple[Command, ...]:
    """Send a request and watch the clock for its callback."""
    return (Send(verb=verb), SetTimer(kind=TimerKind.REPLY, wall_s=policy.callback_timeout_s))


def _start(order: Order, event: Started, policy: LifecyclePolicy) -> Step:
    if order.state is not OrderState.PLANNED:
        return _ignore(order, "already started")
    moved = _move(order, event, OrderState.SELECTING, "selected from the plan", attempts=1)
    return Step(order=moved, commands=_ask(Verb.SELECT, policy))


# --- callbacks --------------------------------------------------------------------------------


def _callback(order: Order, event: CallbackReceived, policy: LifecyclePolicy) -> Step:
    if event.action == "on_cancel" and event.view.status in (ContractStatus.ACTIVE, ContractStatus.COMPLETE):
        # Not cancelled, then: our CANCEL is sent again when its reply is overdue, and in the end alarmed.
        return _ignore(order, f"on_cancel: the contract is still {event.view.status}")
    if event.action == "on_cancel" or (
        event.view.status is ContractStatus.CANCELLED and order.state not in TERMINAL
    ):
        return _cancelled_by_seller(order, event)
    if event.action in NEXT_STEP:
        return _negotiate(order, event, policy)
    if event.action == "on_confirm":
        return _confirmed(order, event, policy)
    if event.action in ("on_status", "on_update"):
        return _progress(order, event, policy)
    return _ignore(order, f"{event.action} has no meaning for an order")


def _negotiate(order: Order, event: CallbackReceived, policy: LifecyclePolicy) -> Step:
    belongs, leads_to, verb = NEXT_STEP[event.action]
    if order.state is not belongs:
        return _ignore(order, f"{event.action} does not fit {order.state}")
    fault = terms_fault(order, event.view)
    view = _with_earlier_terms(order, event.view)
    if fault is None and verb is Verb.CONFIRM and view.contract_id is None:
        fault = "no contract id was given"
    if fault is not None:
        return _give_up(order, event, OrderState.DECLINED, f"{event.action}: {fault}")
    shortfall = _shortfall_kw(order, view)
    moved = _move(
        order,
        event,
        leads_to,
        f"{event.action}: terms accepted" + (f", {shortfall:.1f} kW short" if shortfall else ""),
        contract=view,
        awaiting=None,
        attempts=1,
    )
    return Step(order=moved, commands=(*_ask(verb, policy), *_cover_shortfall(order, view)))


def _confirmed(order: Order, event: CallbackReceived, policy: LifecyclePolicy) -> Step:
    if order.state is OrderState.CANCELLING:
        return _ignore(order, "on_confirm after our cancel: the cancel stands")
    if order.state in (OrderState.FAILED, OrderState.CANCELLED):
        alarm = Alarm(
            kind="late_confirmation",
            detail=f"{order.bpp_id} confirmed order {order.order_id} after it was given up; cancelling",
        )
        return Step(order=order, commands=(Send(verb=Verb.CANCEL, awaited=False, reason="too late"), alarm))
    if order.state is not OrderState.CONFIRMING:
        return _ignore(order, f"on_confirm does not fit {order.state}")
    fault = terms_fault(order, event.view)
    view = _with_earlier_terms(order, event.view)
    if fault is None and view.status is not ContractStatus.ACTIVE:
        fault = f"contract is {view.status}, not ACTIVE"
    if fault is None:
        fault = _breach(order, view)
    if fault is not None:
        return _withdraw(order, event, policy, f"on_confirm: {fault}")
    moved = _move(
        order,
        event,
        OrderState.CONFIRMED,
        "contract is active",
        contract=view,
        confirmed_at=event.at,
        awaiting=None,
        attempts=0,
    )
    return Step(
        order=moved,
        commands=(
            ClearTimer(kind=TimerKind.REPLY),
            Send(verb=Verb.STATUS, awaited=False),
            SetTimer(kind=TimerKind.END, event_at=order.terms.window_end),
            *_cover_shortfall(order, view),
        ),
    )


def _progress(order: Order, event: CallbackReceived, policy: LifecyclePolicy) -> Step:
    if order.state not in AGREED:
        return _ignore(order, f"{event.action} does not fit {order.state}")
    view = _with_agreed_terms(order, event.view)
    if view.status is ContractStatus.COMPLETE:
        open_parts = [
            part.der_id
            for part in view.performance
            if part.status not in (PerformanceStatus.COMPLETED, PerformanceStatus.FAILED)
        ]
        if open_parts or not view.performance:
            why = f"complete, but delivery of {', '.join(open_parts) or 'every DER'} is still open"
            return _ignore(order, why)
        moved = _move(
            order, event, OrderState.COMPLETING, "seller reports completion", contract=view, awaiting=None
        )
        return Step(order=moved, commands=(ClearTimer(), Settle()))
    started = any(part.status is PerformanceStatus.IN_PROGRESS for part in view.performance)
    if order.state is OrderState.CONFIRMED and started:
        moved = _move(
            order,
            event,
            OrderState.DELIVERING,
            "seller reports delivery",
            contract=view,
            delivery_started_at=event.at,
        )
        return Step(order=moved)
    if order.state is OrderState.COMPLETING:
        return _poll_later(order, policy)
    return _ignore(order, f"{event.action}: nothing new")


def _with_agreed_terms(order: Order, view: ContractView) -> ContractView:
    """Keep what was agreed at on_confirm; take only progress from a later report.

    A seller cannot move the baseline, the volume or the price after the fact.
    """
    agreed = order.contract
    if agreed is None:
        return view
    return msgspec.structs.replace(agreed, status=view.status, performance=view.performance)


def _cancelled_by_seller(order: Order, event: CallbackReceived) -> Step:
    reason = event.view.decline_reason or "no reason given"
    if order.state in TERMINAL:
        return _ignore(order, f"{event.action}: already {order.state}")
    if order.state is OrderState.CANCELLING:
        moved = _move(order, event, OrderState.CANCELLED, "seller confirms the cancellation", awaiting=None)
        return Step(order=moved, commands=(ClearTimer(),))
    if order.state in NEGOTIATING:
        return _give_up(order, event, OrderState.DECLINED, f"{event.action}: seller declines: {reason}")
    moved = _move(order, event, OrderState.FAILED, f"seller cancels: {reason}", failure=reason, awaiting=None)
    alarm = Alarm(kind="order_cancelled_by_seller", detail=f"{order.bpp_id}: {reason} ({order.order_id})")
    return Step(order=moved, commands=(ClearTimer(), alarm, Replan(reason=f"{order.bpp_id} cancelled")))


def _with_earlier_terms(order: Order, view: ContractView) -> ContractView:
    """Complete a callback by what the seller said in an earlier one: saying less takes nothing back."""
    earlier = order.contract
    if earlier is None:
        return view
    return msgspec.structs.replace(
        view,
        contract_id=view.contract_id or earlier.contract_id,
        price_per_kwh=view.price_per_kwh or earlier.price_per_kwh,
        baselines=view.baselines or earlier.baselines,
    )


def _breach(order: Order, view: ContractView) -> str | None:
    """Say where an on_confirm departs from the on_init that our CONFIRM accepted, or None."""
    agreed = order.contract
    if agreed is None:
        return None
    if (
        agreed.price_per_kwh is not None
        and view.price_per_kwh is not None
        and Decimal(view.price_per_kwh) > Decimal(agreed.price_per_kwh)
    ):
        return f"price {view.price_per_kwh} per kWh, agreed was {agreed.price_per_kwh}"
    accepted = {term.der_id: term for term in agreed.baselines}
    moved = sorted(term.der_id for term in view.baselines if accepted.get(term.der_id, term) != term)
    if moved:
        return f"the agreed baseline of {', '.join(moved)} was changed"
    return None


def terms_fault(order: Order, view: ContractView) -> str | None:
    """Say why a seller's terms are not acceptable, or None.

    Acceptable: only DERs we asked for, no more kW than asked, something committed, the window and
    currency unchanged, the price not above the offer's, the same contract id as before.
    """
    terms = order.terms
    volume_fault = _volume_fault(order, view)
    if volume_fault is not None:
        return volume_fault
    if (view.window_start or terms.window_start) != terms.window_start or (
        view.window_end or terms.window_end
    ) != terms.window_end:
        return "the delivery window was changed"
    if (view.currency or terms.currency) != terms.currency:
        return f"currency {view.currency}, offered was {terms.currency}"
    if view.price_per_kwh is not None and Decimal(view.price_per_kwh) > Decimal(terms.price_per_kwh):
        return f"price {view.price_per_kwh} per kWh, offered was {terms.price_per_kwh}"
    known = order.contract.contract_id if order.contract is not None else None
    # A contract may go under our own number until its seller gives it one.
    if known not in (None, terms.obp_id) and view.contract_id not in (None, known):
        return f"contract id changed from {known} to {view.contract_id}"
    if view.obp_id not in (None, terms.obp_id):
        return f"OBP id {view.obp_id} is not ours"
    return None


def _volume_fault(order: Order, view: ContractView) -> str | None:
    asked = {line.der_id: line.kw for line in order.terms.lines}
    foreign = sorted({line.der_id for line in view.lines} - set(asked))
    if foreign:
        return f"offers DERs that were not asked for: {', '.join(foreign)}"
    if len({line.der_id for line in view.lines}) < len(view.lines):
        return "commits to a DER twice"
    for line in view.lines:
        if not 0 <= line.committed_kw <= asked[line.der_id] + _KW_TOLERANCE:
            return f"commits {line.committed_kw} kW of {line.der_id}, asked were {asked[line.der_id]}"
    if sum(line.committed_kw for line in view.lines) <= _KW_TOLERANCE:
        return "nothing is committed"
    return None


def _shortfall_kw(order: Order, view: ContractView) -> float:
    asked = sum(line.kw for line in order.terms.lines)
    return max(0.0, asked - sum(line.committed_kw for line in view.lines))


def _cover_shortfall(order: Order, view: ContractView) -> tuple[Command, ...]:
    """Plan anew for what is short now and was not before."""
    shortfall = _shortfall_kw(order, view)
    if shortfall <= max(_KW_TOLERANCE, _shortfall_now(order)):
        return ()
    return (Replan(reason=f"{order.bpp_id} commits {shortfall:.1f} kW less than asked"),)


def _shortfall_now(order: Order) -> float:
    """Shortfall already known from an earlier callback (it was planned for then)."""
    return _shortfall_kw(order, order.contract) + _KW_TOLERANCE if order.contract is not None else 0.0


# --- answers, silence, cancellation -----------------------------------------------------------


def _answer(order: Order, event: Answered, policy: LifecyclePolicy) -> Step:
    if event.action == Verb.CONFIRM and order.confirm_sent_at is None:
        stamped = msgspec.structs.replace(order, confirm_sent_at=event.sent_at)
        step = _refused(stamped, event, policy) if not event.accepted else Step(order=stamped)
        return msgspec.structs.replace(step, ignored=None)
    if event.accepted:
        return _ignore(order, f"{event.action}: acknowledged")
    return _refused(order, event, policy)


def _refused(order: Order, event: Answered, policy: LifecyclePolicy) -> Step:
    """A peer's NACK, or an Ack that says no callback will come."""
    if event.message_id != order.awaiting:
        return _ignore(order, f"{event.action}: refused, but nothing waits for it")
    why = f"{event.action}: refused: {event.detail}"
    if order.state is OrderState.CONFIRMING and event.copies > 1:
        return _withdraw(order, event, policy, f"{why}; an earlier copy may have been taken")
    if order.state in NEGOTIATING:
        return _give_up(order, event, OrderState.FAILED, why)
    if order.state is OrderState.COMPLETING:
        return _poll_later(order, policy)
    return _ignore(order, why)  # a refused CANCEL is sent again when its reply is overdue


def _undeliverable(order: Order, event: SendFailed, policy: LifecyclePolicy) -> Step:
    if event.message_id != order.awaiting:
        return _ignore(order, f"{event.action}: not delivered, but nothing waits for it")
    why = f"{event.action}: not delivered: {event.detail}"
    if order.state is OrderState.CONFIRMING:
        return _withdraw(order, event, policy, why)
    if order.state in NEGOTIATING:
        return _give_up(order, event, OrderState.FAILED, why)
    if order.state is OrderState.COMPLETING:
        return _poll_later(order, policy)
    return _ignore(order, why)  # a CANCEL that did not arrive is sent again when its reply is overdue


def _timer(order: Order, event: TimerFired, policy: LifecyclePolicy) -> Step:
    if event.kind is TimerKind.END:
        if order.state not in (OrderState.CONFIRMED, OrderState.DELIVERING):
            return _ignore(order, "window ended in another state")
        moved = _move(order, event, OrderState.COMPLETING, "delivery window ended", attempts=1)
        return Step(order=moved, commands=_ask(Verb.COMPLETE, policy))
    if order.state is OrderState.COMPLETING:
        return _poll_again(order, event, policy, "completion report is overdue")
    if event.kind is TimerKind.POLL:
        return _ignore(order, "poll in another state")
    why = f"no callback within {policy.callback_timeout_s:g} s"
    if order.state in (OrderState.SELECTING, OrderState.INITIALISING):
        verb = Verb.SELECT if order.state is OrderState.SELECTING else Verb.INIT
        if order.attempts < policy.max_asks:
            again = _move(
                order, event, order.state, f"{verb}: {why}, asked again", attempts=order.attempts + 1
            )
            return Step(order=again, commands=_ask(verb, policy))
        return _give_up(order, event, OrderState.FAILED, f"{verb}: {why}")
    if order.state is OrderState.CONFIRMING:
        if order.attempts < policy.max_confirm_asks:
            again = _move(
                order, event, order.state, f"confirm: {why}, sent again", attempts=order.attempts + 1
            )
            wait = SetTimer(kind=TimerKind.REPLY, wall_s=policy.callback_timeout_s)
            return Step(order=again, commands=(Resend(), wait))
        return _withdraw(order, event, policy, f"confirm: {why}")
    if order.state is OrderState.CANCELLING:
        return _cancel_unanswered(order, event, policy, f"cancel: {why}")
    return _ignore(order, "nothing was awaited")


def _poll_later(order: Order, policy: LifecyclePolicy) -> Step:
    """Not complete yet, or not said: pause before the question is put again."""
    return Step(
        order=msgspec.structs.replace(order, awaiting=None),
        commands=(
            ClearTimer(kind=TimerKind.REPLY),
            SetTimer(kind=TimerKind.POLL, wall_s=policy.poll_interval_s),
        ),
    )


def _poll_again(order: Order, event: Event, policy: LifecyclePolicy, why: str) -> Step:
    """Ask for the completion report once more, or end without one."""
    if order.attempts < policy.max_polls:
        again = msgspec.structs.replace(order, attempts=order.attempts + 1)
        return Step(order=again, commands=_ask(Verb.COMPLETE, policy))
    return _end_unsettled(order, event, f"{why}; asked {order.attempts} times")


def _cancel_unanswered(order: Order, event: Event, policy: LifecyclePolicy, why: str) -> Step:
    if order.attempts < policy.max_cancel_asks:
        again = msgspec.structs.replace(order, attempts=order.attempts + 1)
        return Step(
            order=again,
            commands=(
                Send(verb=Verb.CANCEL, reason="cancellation unanswered"),
                SetTimer(kind=TimerKind.REPLY, wall_s=policy.callback_timeout_s),
            ),
        )
    moved = _move(order, event, OrderState.FAILED, why, failure=why, awaiting=None)
    alarm = Alarm(
        kind="cancel_unanswered",
        detail=f"{order.bpp_id} never answered the cancellation of {order.order_id}; call them",
    )
    return Step(order=moved, commands=(ClearTimer(), alarm))


def _cancel(order: Order, event: CancelRequested, policy: LifecyclePolicy) -> Step:
    if order.state in TERMINAL or order.state is OrderState.CANCELLING:
        return _ignore(order, f"already {order.state}")
    if order.state in NEGOTIATING and order.state is not OrderState.CONFIRMING:
        moved = _move(
            order, event, OrderState.CANCELLED, f"cancelled before CONFIRM: {event.reason}", awaiting=None
        )
        return Step(order=moved, commands=(ClearTimer(),))
    moved = _move(order, event, OrderState.CANCELLING, event.reason, awaiting=None, attempts=1)
    return Step(
        order=moved,
        commands=(
            ClearTimer(),
            Send(verb=Verb.CANCEL, reason=event.reason),
            SetTimer(kind=TimerKind.REPLY, wall_s=policy.callback_timeout_s),
        ),
    )


def _give_up(order: Order, event: Event, state: OrderState, why: str) -> Step:
    """End an order nobody is bound by and plan its relief anew."""
    moved = _move(order, event, state, why, failure=why, awaiting=None)
    return Step(order=moved, commands=(ClearTimer(), Replan(reason=f"{order.bpp_id}: {why}")))


def _withdraw(order: Order, event: Event, policy: LifecyclePolicy, why: str) -> Step:
    """A CONFIRM may have bound the seller, yet we cannot rely on it: cancel, alarm, plan anew."""
    moved = _move(order, event, OrderState.CANCELLING, why, failure=why, awaiting=None, attempts=1)
    return Step(
        order=moved,
        commands=(
            ClearTimer(),
            Send(verb=Verb.CANCEL, reason=why),
            SetTimer(kind=TimerKind.REPLY, wall_s=policy.callback_timeout_s),
            Alarm(kind="confirm_in_doubt", detail=f"{order.bpp_id}: {why} ({order.order_id})"),
            Replan(reason=f"{order.bpp_id}: {why}"),
        ),
    )


# --- settlement -------------------------------------------------------------------------------


def _settled(order: Order, event: Settled) -> Step:
    if order.state is not OrderState.COMPLETING:
        return _ignore(order, f"settled in {order.state}")
    moved = _move(
        order,
        event,
        OrderState.COMPLETED,
        f"settled: {event.delivered_wh / 1000:.3f} kWh delivered",
        completed_at=event.at,
        delivered_wh=event.delivered_wh,
        payable=event.payable,
    )
    return Step(order=moved, commands=(ClearTimer(),))


def _unsettled(order: Order, event: SettlementFailed) -> Step:
    if order.state is not OrderState.COMPLETING:
        return _ignore(order, f"settlement failed in {order.state}")
    return _end_unsettled(order, event, event.reason)


def _end_unsettled(order: Order, event: Event, why: str) -> Step:
    moved = _move(order, event, OrderState.UNSETTLED, why, failure=why, awaiting=None)
    alarm = Alarm(kind="unsettled", detail=f"order {order.order_id} of {order.bpp_id}: {why}")
    return Step(order=moved, commands=(ClearTimer(), alarm))
