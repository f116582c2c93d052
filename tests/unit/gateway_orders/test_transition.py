"""The order life cycle: what each event does in each state, and what never happens."""

from datetime import UTC, datetime, timedelta

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gateway.orders.order import (
    AGREED,
    NEGOTIATING,
    TERMINAL,
    Alarm,
    Answered,
    CallbackReceived,
    CancelRequested,
    LifecyclePolicy,
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
from gateway.orders.transition import Step, terms_fault, transition
from gateway.types import (
    CommittedLine,
    ContractStatus,
    ContractView,
    DerPerformance,
    DerType,
    Direction,
    OrderLine,
    OrderTerms,
    PerformanceStatus,
)

NOW = datetime(2026, 1, 5, 17, 0, tzinfo=UTC)
POLICY = LifecyclePolicy()


def make_order(state: OrderState = OrderState.PLANNED, **changes: object) -> Order:
    terms = OrderTerms(
        obp_id="OBP-1",
        event_id="need-1",
        feeder_id="F1",
        direction=Direction.REDUCE,
        offer_id="offer-1",
        provider_id="alpha",
        window_start=NOW,
        window_end=NOW + timedelta(hours=1),
        lines=(OrderLine(der_id="der:a:1", der_type=DerType.BATTERY, kw=40.0),),
        price_per_kwh="0.30",
        currency="GBP",
    )
    order = Order(
        order_id="order-1",
        obp_id="OBP-1",
        need_id="need-1",
        state_change_id="change-1",
        feeder_id="F1",
        bpp_id="bpp-alpha.example",
        bpp_uri="http://127.0.0.1:1/beckn",
        transaction_id="t-1",
        terms=terms,
        detected_at=NOW,
        decided_event_at=NOW,
        state=state,
        awaiting="m-1",
        attempts=1,
        contract=None if state in (OrderState.PLANNED, OrderState.SELECTING) else make_view(),
    )
    return msgspec.structs.replace(order, **changes)


def make_view(**changes: object) -> ContractView:
    view = ContractView(
        contract_id="c-1",
        status=ContractStatus.DRAFT,
        obp_id="OBP-1",
        lines=(CommittedLine(der_id="der:a:1", requested_kw=40.0, committed_kw=40.0),),
        window_start=NOW,
        window_end=NOW + timedelta(hours=1),
        price_per_kwh="0.30",
        currency="GBP",
    )
    return msgspec.structs.replace(view, **changes)


def callback(action: str, **changes: object) -> CallbackReceived:
    return CallbackReceived(at=NOW, action=action, message_id="m-1", view=make_view(**changes))


def verbs(step: Step) -> list[Verb]:
    return [command.verb for command in step.commands if isinstance(command, Send)]


def has(step: Step, kind: type) -> bool:
    return any(isinstance(command, kind) for command in step.commands)


def test_a_clean_run_goes_from_plan_to_settlement():
    order = make_order(awaiting=None, attempts=0)
    asked: list[Verb] = []
    for event in (
        Started(at=NOW),
        callback("on_select"),
        callback("on_init"),
        callback("on_confirm", status=ContractStatus.ACTIVE),
        callback(
            "on_status",
            status=ContractStatus.ACTIVE,
            performance=(DerPerformance(der_id="der:a:1", status=PerformanceStatus.IN_PROGRESS),),
        ),
        TimerFired(at=NOW, kind=TimerKind.END),
        callback(
            "on_status",
            status=ContractStatus.COMPLETE,
            performance=(DerPerformance(der_id="der:a:1", status=PerformanceStatus.COMPLETED),),
        ),
        Settled(at=NOW, delivered_wh=38_000, payable="11.40"),
    ):
        step = transition(order, event, POLICY)
        assert step.ignored is None
        asked += verbs(step)
        order = step.order
    assert order.state is OrderState.COMPLETED
    assert order.delivered_wh == 38_000
    assert asked == [Verb.SELECT, Verb.INIT, Verb.CONFIRM, Verb.STATUS, Verb.COMPLETE]
    assert [move.state for move in order.moves] == [
        OrderState.SELECTING,
        OrderState.INITIALISING,
        OrderState.CONFIRMING,
        OrderState.CONFIRMED,
        OrderState.DELIVERING,
        OrderState.COMPLETING,
        OrderState.COMPLETING,
        OrderState.COMPLETED,
    ]


@pytest.mark.parametrize(
    ("state", "event", "leads_to", "expected"),
    [
        pytest.param(
            OrderState.SELECTING,
            callback("on_select", lines=()),
            OrderState.DECLINED,
            Replan,
            id="nothing committed",
        ),
        pytest.param(
            OrderState.SELECTING,
            callback("on_select", price_per_kwh="0.31"),
            OrderState.DECLINED,
            Replan,
            id="dearer than offered",
        ),
        pytest.param(
            OrderState.INITIALISING,
            callback("on_init", status=ContractStatus.CANCELLED, decline_reason="sold out"),
            OrderState.DECLINED,
            Replan,
            id="declined at init",
        ),
        pytest.param(
            OrderState.SELECTING,
            Answered(at=NOW, message_id="m-1", action="select", accepted=False, sent_at=NOW, detail="no"),
            OrderState.FAILED,
            Replan,
            id="select refused",
        ),
        pytest.param(
            OrderState.CONFIRMING,
            SendFailed(at=NOW, message_id="m-1", action="confirm", detail="reset"),
            OrderState.CANCELLING,
            Alarm,
            id="confirm may have arrived",
        ),
        pytest.param(
            OrderState.CONFIRMING,
            callback("on_confirm", status=ContractStatus.DRAFT),
            OrderState.CANCELLING,
            Alarm,
            id="confirmed but not active",
        ),
        pytest.param(
            OrderState.DELIVERING,
            callback("on_status", status=ContractStatus.CANCELLED, decline_reason="fault"),
            OrderState.FAILED,
            Replan,
            id="seller drops out during delivery",
        ),
        pytest.param(
            OrderState.CONFIRMED,
            CancelRequested(at=NOW, reason="operator"),
            OrderState.CANCELLING,
            Send,
            id="operator cancels a confirmed order",
        ),
        pytest.param(
            OrderState.CANCELLING,
            callback("on_cancel", status=ContractStatus.CANCELLED),
            OrderState.CANCELLED,
            object,
            id="cancellation confirmed",
        ),
        pytest.param(
            OrderState.COMPLETING,
            SettlementFailed(at=NOW, reason="meter_gap"),
            OrderState.UNSETTLED,
            Alarm,
            id="no usable meter data",
        ),
    ],
)
def test_what_goes_wrong_leads_to(state, event, leads_to, expected):
    step = transition(make_order(state), event, POLICY)
    assert step.order.state is leads_to
    assert has(step, expected)


def test_silence_after_select_is_asked_again_then_given_up():
    order = make_order(OrderState.SELECTING)
    overdue = TimerFired(at=NOW, kind=TimerKind.REPLY)
    again = transition(order, overdue, POLICY)
    assert verbs(again) == [Verb.SELECT]
    gone = transition(again.order, overdue, POLICY)
    assert gone.order.state is OrderState.FAILED
    assert has(gone, Replan)


def test_silence_after_confirm_repeats_the_same_message_and_ends_in_a_cancel_with_an_alarm():
    order = make_order(OrderState.CONFIRMING)
    overdue = TimerFired(at=NOW, kind=TimerKind.REPLY)
    for _ in range(POLICY.max_confirm_asks - 1):
        step = transition(order, overdue, POLICY)
        assert has(step, Resend)
        assert not verbs(step)
        order = step.order
    step = transition(order, overdue, POLICY)
    assert step.order.state is OrderState.CANCELLING
    assert verbs(step) == [Verb.CANCEL]
    assert has(step, Alarm)


def test_a_late_confirmation_of_a_failed_order_is_cancelled_with_an_alarm():
    step = transition(
        make_order(OrderState.FAILED), callback("on_confirm", status=ContractStatus.ACTIVE), POLICY
    )
    assert step.order.state is OrderState.FAILED
    assert verbs(step) == [Verb.CANCEL]
    assert has(step, Alarm)


def test_the_seller_cannot_move_the_baseline_or_volume_after_confirming():
    order = make_order(OrderState.CONFIRMED)
    report = callback(
        "on_status",
        status=ContractStatus.COMPLETE,
        lines=(CommittedLine(der_id="der:a:1", requested_kw=40.0, committed_kw=5.0),),
        price_per_kwh="9.99",
        performance=(DerPerformance(der_id="der:a:1", status=PerformanceStatus.COMPLETED),),
    )
    step = transition(order, report, POLICY)
    assert has(step, Settle)
    assert step.order.contract is not None
    assert step.order.contract.lines == make_view().lines
    assert step.order.contract.price_per_kwh == "0.30"
    assert step.order.contract.performance == report.view.performance


def test_completion_with_delivery_still_open_is_ignored():
    step = transition(
        make_order(OrderState.DELIVERING),
        callback(
            "on_status",
            status=ContractStatus.COMPLETE,
            performance=(DerPerformance(der_id="der:a:1", status=PerformanceStatus.IN_PROGRESS),),
        ),
        POLICY,
    )
    assert step.ignored is not None
    assert step.order.state is OrderState.DELIVERING


def test_the_end_of_the_window_is_awaited_in_event_time():
    step = transition(
        make_order(OrderState.CONFIRMING), callback("on_confirm", status=ContractStatus.ACTIVE), POLICY
    )
    ends = [c for c in step.commands if isinstance(c, SetTimer) and c.kind is TimerKind.END]
    assert [end.event_at for end in ends] == [NOW + timedelta(hours=1)]


def test_the_first_confirm_to_leave_stops_the_detection_clock():
    order = make_order(OrderState.CONFIRMING)
    first = Answered(
        at=NOW, message_id="m-1", action="confirm", accepted=True, sent_at=NOW + timedelta(milliseconds=30)
    )
    order = transition(order, first, POLICY).order
    again = msgspec.structs.replace(first, sent_at=NOW + timedelta(seconds=3))
    order = transition(order, again, POLICY).order
    assert order.detection_to_confirm_ms == pytest.approx(30.0, abs=1e-6)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        pytest.param(
            {"lines": (CommittedLine(der_id="der:x:9", requested_kw=1.0, committed_kw=1.0),)},
            "not asked",
            id="foreign DER",
        ),
        pytest.param(
            {"lines": (CommittedLine(der_id="der:a:1", requested_kw=40.0, committed_kw=40.1),)},
            "asked were",
            id="more kW",
        ),
        pytest.param({"window_end": NOW + timedelta(hours=2)}, "window", id="other window"),
        pytest.param({"currency": "EUR"}, "currency", id="other currency"),
        pytest.param({"obp_id": "OBP-2"}, "OBP", id="other OBP id"),
    ],
)
def test_terms_that_differ_from_what_was_asked_are_named(changes, words):
    fault = terms_fault(make_order(OrderState.SELECTING), make_view(**changes))
    assert fault is not None
    assert words in fault


views = st.builds(
    make_view,
    status=st.sampled_from(ContractStatus),
    contract_id=st.sampled_from(["c-1", "c-2", None]),
    price_per_kwh=st.sampled_from(["0.30", "0.29", "0.31"]),
    lines=st.lists(
        st.builds(
            CommittedLine,
            der_id=st.sampled_from(["der:a:1", "der:x:9"]),
            requested_kw=st.just(40.0),
            committed_kw=st.floats(0, 50),
        ),
        max_size=2,
    ).map(tuple),
    performance=st.lists(
        st.builds(DerPerformance, der_id=st.just("der:a:1"), status=st.sampled_from(PerformanceStatus)),
        max_size=1,
    ).map(tuple),
)
requests = st.sampled_from(["select", "init", "confirm", "status", "cancel"])
messages = st.sampled_from(["m-1", "m-2"])
events = st.one_of(
    st.builds(Started, at=st.just(NOW)),
    st.builds(
        CallbackReceived,
        at=st.just(NOW),
        action=st.sampled_from(
            ["on_select", "on_init", "on_confirm", "on_status", "on_update", "on_cancel", "on_track"]
        ),
        message_id=messages,
        view=views,
    ),
    st.builds(
        Answered,
        at=st.just(NOW),
        message_id=messages,
        action=requests,
        accepted=st.booleans(),
        sent_at=st.just(NOW),
    ),
    st.builds(SendFailed, at=st.just(NOW), message_id=messages, action=requests, detail=st.just("x")),
    st.builds(TimerFired, at=st.just(NOW), kind=st.sampled_from(TimerKind)),
    st.builds(CancelRequested, at=st.just(NOW), reason=st.just("x")),
    st.builds(Settled, at=st.just(NOW), delivered_wh=st.integers(0, 99), payable=st.just("1")),
    st.builds(SettlementFailed, at=st.just(NOW), reason=st.just("x")),
)


@settings(max_examples=400, deadline=None)
@given(st.lists(events, max_size=25))
def test_no_sequence_of_events_breaks_the_rules(sequence):
    order = make_order(awaiting=None, attempts=0)
    confirms = 0
    for event in sequence:
        step = transition(order, event, POLICY)
        after = step.order
        assert after.version == order.version + (step.ignored is None)
        if step.ignored is not None:
            assert after == order
        if order.state in TERMINAL:
            assert after.state is order.state
        if after.state is OrderState.COMPLETED and order.state is not OrderState.COMPLETED:
            assert isinstance(event, Settled)
            assert order.state is OrderState.COMPLETING
        if after.state in AGREED and order.state in NEGOTIATING:
            assert isinstance(event, CallbackReceived)
            assert event.action == "on_confirm"
            assert event.view.status is ContractStatus.ACTIVE
        assert sum(after.committed_kw.values()) <= 40.0 + 1e-6
        confirms += verbs(step).count(Verb.CONFIRM)
        awaited = [c for c in step.commands if isinstance(c, Send) and c.awaited]
        if awaited:
            after = msgspec.structs.replace(after, awaiting="m-1")
        assert len(awaited) <= 1
        order = after
    assert confirms <= 1
