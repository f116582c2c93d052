"""What is bought when: first plans, re-plans, late offers, and what is never bought."""

import msgspec
from trading_world import (
    ALPHA,
    BRAVO,
    CHARLIE,
    FEEDER,
    HIGH_KW,
    NEED_KW,
    QUIET_KW,
    SLOT,
    delivered,
    der,
    offer,
)

from gateway.feeders import Automation
from gateway.orders.order import TERMINAL, OrderState
from gateway.types import ContractStatus, Direction


def requested_kw(order):
    return sum(line.kw for line in order.terms.lines)


def ordered_kw(orders):
    """Power ordered per quarter hour, over all orders that live."""
    total = {}
    for order in orders:
        start = order.terms.window_start
        while order.state not in TERMINAL and start < order.terms.window_end:
            total[start] = total.get(start, 0.0) + requested_kw(order)
            start += SLOT
    return total


async def test_overload__opens_one_order_per_offer_with_an_obp_id_of_its_own(world):
    answer = await world.overload(offer(ALPHA, kw=25.0), offer(BRAVO, kw=30.0))
    orders = await world.orders()
    assert {order.bpp_id for order in orders} == {ALPHA, BRAVO}
    assert sum(map(requested_kw, orders)) == NEED_KW
    assert len({order.obp_id for order in orders}) == len({order.transaction_id for order in orders}) == 2
    change = answer.states[0].state_change
    assert (change.from_state, change.to_state) == (0, 2)
    assert [len(change.plan.orders), change.plan.complete] == [2, True]
    for order in orders:
        assert order.state is OrderState.SELECTING
        assert order.state_change_id == change.id
        assert order.need_id == change.plan.need.need_id
        assert order.detected_at == world.clock.now
        assert order.decided_event_at == world.at
        assert (order.terms.window_start, order.terms.window_end) == (world.at, world.at + 4 * SLOT)


async def test_overload__the_messages_that_left_are_the_ones_stored_and_journalled(world):
    await world.overload(offer(ALPHA))
    order = await world.order()
    (sent,) = world.peers.of("select")
    (row,) = [one for one in await world.outbox() if one["action"] == "select"]
    assert (row["body"], row["signature"], row["status"]) == (sent.body, sent.authorization, "ACKED")
    assert row["message_id"] == sent.context.message_id == order.awaiting
    assert sent.context.transaction_id == order.transaction_id
    (entry,) = [one for one in await world.entries("beckn.sent") if one.body["action"] == "select"]
    assert entry.refs.obp_id == order.obp_id
    assert entry.body["headers"]["authorization"] == sent.authorization
    kinds = [one.kind for one in await world.entries() if one.refs.event_id == order.need_id]
    assert kinds[:4] == ["need.decided", "plan.made", "order.opened", "order.moved"]


async def test_overload__asks_every_seller_of_the_feeder_once_under_one_transaction(world):
    world.floor.sellers = tuple(
        msgspec.structs.replace(world.participant(name), serves=serves)
        for name, serves in ((ALPHA, ()), (BRAVO, (FEEDER,)), (CHARLIE, ("FDR_999",)))
    )
    await world.overload(offer(ALPHA))
    asked = world.peers.of("discover")
    need_id = (await world.order()).need_id
    entries = [one for one in await world.entries("beckn.sent") if one.refs.event_id == need_id]
    asked = [sent for sent in asked if sent.context.message_id in {one.body["message_id"] for one in entries}]
    assert sorted(sent.url for sent in asked) == [
        f"http://{ALPHA}/beckn/discover",
        f"http://{BRAVO}/beckn/discover",
    ]
    assert len({sent.context.message_id for sent in asked}) == 2
    assert len({sent.context.transaction_id for sent in asked}) == 1
    assert [sent.context.bpp_id for sent in asked] == [ALPHA, BRAVO]


async def test_feeder_that_is_only_watched__is_planned_for_and_never_bought_for(world):
    answer = await world.overload(offer(ALPHA), automation=Automation.OFF)
    assert answer.states[0].state_change.plan.complete
    assert await world.orders() == []
    assert [row["status"] for row in await world.needs()] == ["NOT_TRADED"]
    world.put_offers(offer(BRAVO))
    await with_supply_of(world)
    assert await world.orders() == []


async def with_supply_of(world, feeder_id=FEEDER):
    """Offers have come in at the feeder."""
    _, work = await world.ledger.commit(lambda work: world.buyer.supply(work, feeder_id))
    world.floor.after(work)
    await world.idle()
    return work


async def test_same_need_in_the_next_quarter_hour__is_not_bought_again(world):
    await world.overload(offer(ALPHA), offer(BRAVO))
    before = await world.orders()
    await world.slot(HIGH_KW)
    bought = [order for order in await world.orders() if order not in before]
    # The window moved on by one quarter hour: only that one is new.
    assert all(order.terms.window_start == world.at + 3 * SLOT for order in bought)


async def test_two_needs__never_sell_one_kilowatt_twice(world):
    await world.overload(offer(ALPHA, kw=50.0))
    for _ in range(3):
        await world.slot(HIGH_KW + 10.0)
    assert max(ordered_kw(await world.orders()).values()) == 50.0


# --- re-plans ---------------------------------------------------------------------------------------


async def test_decline__is_replaced_from_offers_not_tried_yet(world):
    cheap, next_best = offer(ALPHA, 1, price="0.20"), offer(ALPHA, 2, price="0.25")
    last = offer(BRAVO, 1, price="0.40")
    await world.overload(cheap, next_best, last)
    first = await world.order()
    assert first.terms.offer_id == cheap.offer_id
    await world.callback(first, "on_select", status=ContractStatus.CANCELLED, decline_reason="sold out")
    declined, second = await world.orders()
    assert declined.state is OrderState.DECLINED
    assert second.terms.offer_id == next_best.offer_id
    assert (second.replaces, second.replan, second.need_id) == (first.obp_id, True, first.need_id)
    assert second.obp_id != first.obp_id
    assert second.detected_at == world.clock.now
    await world.callback(second, "on_select", status=ContractStatus.CANCELLED, decline_reason="sold out")
    third = (await world.orders())[-1]
    assert (third.terms.offer_id, third.replaces) == (last.offer_id, second.obp_id)
    await world.callback(third, "on_select", status=ContractStatus.CANCELLED, decline_reason="sold out")
    assert len(await world.orders()) == 3
    plan = (await world.entries("plan.made"))[-1].body
    assert plan["replan"] is True
    assert {one["reason"] for one in plan["plan"]["decisions"]} == {
        "its offer was tried for this need already"
    }


async def test_shortfall__replans_only_the_missing_kilowatts(world):
    await world.overload(offer(ALPHA, price="0.20"), offer(BRAVO, price="0.40"))
    first = await world.order()
    assert requested_kw(first) == NEED_KW
    await world.callback(first, "on_select", kw=27.5)
    first, second = await world.orders()
    assert first.state is OrderState.INITIALISING
    assert sum(first.committed_kw.values()) == 27.5
    assert (second.bpp_id, requested_kw(second)) == (BRAVO, NEED_KW - 27.5)
    # The same shortfall, repeated in on_init, is not covered twice.
    await world.callback(first, "on_init", kw=27.5)
    assert len(await world.orders()) == 2
    # A larger one is covered by what it adds.
    await world.callback((await world.orders())[1], "on_select")
    assert len(await world.orders()) == 2


async def test_lost_order__is_not_replaced_where_the_rest_covers_the_need(world):
    await world.overload(offer(ALPHA, kw=25.0), offer(BRAVO, kw=25.0))
    one, other = await world.orders()
    world.put_offers(offer(CHARLIE, kw=50.0))
    await world.callback(one, "on_select", status=ContractStatus.CANCELLED)
    replacement = (await world.orders())[-1]
    assert requested_kw(replacement) == NEED_KW - requested_kw(other)
    # Nothing is left to cover when a second loss is reported for the same order.
    await world.callback(one, "on_select", status=ContractStatus.CANCELLED, decline_reason="said again")
    assert len(await world.orders()) == 3


async def test_replan__does_not_buy_again_what_a_later_need_has_covered(world):
    await world.overload(offer(ALPHA, 1, kw=20.0))  # 20 of 40 kW: the rest is not on offer
    world.put_offers(offer(ALPHA, 1, kw=20.0), offer(BRAVO, 1, kw=60.0))
    await world.slot(HIGH_KW + 10.0)
    assert max(ordered_kw(await world.orders()).values()) == NEED_KW + 10.0
    world.put_offers(offer(CHARLIE, 1, kw=100.0))
    await world.callback((await world.orders())[0], "on_select", status=ContractStatus.CANCELLED)
    assert max(ordered_kw(await world.orders()).values()) <= NEED_KW + 10.0


async def test_replan__buys_nothing_for_quarter_hours_that_are_over(world):
    order = await world.confirmed(offer(ALPHA))
    world.put_offers(offer(BRAVO))
    for _ in range(2):
        await world.slot(HIGH_KW - NEED_KW)
    await world.callback(order, "on_cancel", message_id=world.new_id(), decline_reason="breakdown")
    replacement = (await world.orders())[-1]
    assert replacement.replaces == order.obp_id
    assert replacement.terms.window_start >= world.at
    assert replacement.terms.window_end == order.terms.window_end


async def test_replan_for_a_feeder_that_fell_silent__takes_wall_time_into_account(world):
    order = await world.confirmed(offer(ALPHA))
    world.put_offers(offer(BRAVO))
    world.clock.advance(30 * 60)
    await world.pipeline.note_silence()
    await world.callback(order, "on_cancel", message_id=world.new_id(), decline_reason="breakdown")
    replacement = (await world.orders())[-1]
    assert replacement.terms.window_start == order.terms.window_start + 2 * SLOT
    world.put_offers(offer(CHARLIE))
    world.clock.advance(60 * 60)
    await world.pipeline.note_silence()
    await world.callback(replacement, "on_select", status=ContractStatus.CANCELLED)
    assert (await world.orders())[-1].obp_id == replacement.obp_id


async def test_loss_after_the_window__is_not_replaced(world):
    order = await world.confirmed(offer(ALPHA))
    world.put_offers(offer(BRAVO))
    await world.slot(HIGH_KW - NEED_KW)
    for _ in range(4):
        await world.slot(QUIET_KW)
    before = len(await world.orders())
    await world.callback(order, "on_cancel", message_id=world.new_id(), decline_reason="breakdown")
    assert len(await world.orders()) == before


# --- offers that come late --------------------------------------------------------------------------


async def test_need_without_offers__waits_and_is_covered_once_when_offers_arrive(world):
    await world.overload()
    assert await world.orders() == []
    assert [row["status"] for row in await world.needs()] == ["OPEN"]
    world.put_offers(offer(ALPHA))
    await with_supply_of(world)
    order = await world.order()
    assert requested_kw(order) == NEED_KW
    assert [row["status"] for row in await world.needs()] == ["PLANNED"]
    await with_supply_of(world)
    assert len(await world.orders()) == 1


async def test_needs_that_grew_while_nothing_was_on_offer__are_bought_for_once(world):
    await world.overload()
    await world.slot(HIGH_KW + 20.0)
    assert [row["status"] for row in await world.needs()].count("OPEN") == 1
    world.put_offers(offer(ALPHA, kw=300.0))
    await with_supply_of(world)
    assert max(ordered_kw(await world.orders()).values()) == NEED_KW + 20.0


async def test_offers_while_the_state_is_unknown__buy_nothing(world):
    await world.overload()
    for _ in range(30):
        await world.slot(HIGH_KW)
    answer = await world.slot(HIGH_KW)
    assert (answer.states[0].state, answer.states[0].reason.split(":")[0]) == (None, "frozen")
    world.put_offers(offer(ALPHA))
    await with_supply_of(world)
    assert await world.orders() == []


async def test_offers_that_arrive_late__buy_only_what_is_still_ahead(world):
    await world.overload()
    await world.slot(HIGH_KW)
    await world.slot(HIGH_KW)
    world.put_offers(offer(ALPHA))
    await with_supply_of(world)
    starts = [order.terms.window_start for order in await world.orders()]
    assert starts
    assert min(starts) >= world.at


async def test_need_that_has_passed__is_not_bought_for_when_offers_arrive(world):
    await world.overload()
    await world.slot(QUIET_KW)
    assert (await world.slot(QUIET_KW)).states[0].state == 0
    world.put_offers(offer(ALPHA))
    await with_supply_of(world)
    assert await world.orders() == []
    assert "OPEN" not in [row["status"] for row in await world.needs()]


# --- alarms -----------------------------------------------------------------------------------------


async def test_uncovered_need__is_alarmed_once_until_the_feeder_is_normal_again(world):
    await world.overload(offer(ALPHA, kw=10.0))
    (alarm,) = await world.alarms("need_uncovered")
    assert "30.0 kW uncovered" in alarm["detail"]
    for _ in range(3):
        await world.slot(HIGH_KW + 5.0)
    assert len(await world.alarms("need_uncovered")) == 1
    await world.slot(QUIET_KW)
    assert (await world.alarms("need_uncovered"))[0]["cleared_at"] is not None
    await world.slot(HIGH_KW)
    assert len(await world.alarms("need_uncovered")) == 2


# --- the other direction, and what is counted ------------------------------------------------------


async def test_export_overload__asks_for_more_consumption(world):
    await world.configure()
    world.put_offers(
        offer(ALPHA, ders=(der(1, direction=Direction.INCREASE),)),
        offer(BRAVO, ders=(der(1, seller=BRAVO),)),
    )
    await world.quiet_history()
    await world.slot(-HIGH_KW)
    order = await world.order()
    assert (order.bpp_id, order.terms.direction) == (ALPHA, Direction.INCREASE)
    assert requested_kw(order) == NEED_KW


async def test_relief_bought__is_not_asked_for_again_when_it_shows_in_the_load(world):
    order = await world.confirmed(offer(ALPHA))
    for _ in range(3):
        await world.slot(HIGH_KW - NEED_KW)
    later = [one for one in await world.orders() if one.obp_id != order.obp_id]
    # Only the quarter hours after the first order's window are new.
    assert all(one.terms.window_start >= order.terms.window_end for one in later)


async def test_completion__settles_what_the_meters_say(world):
    order = await world.confirmed(offer(ALPHA))
    while world.at < order.terms.window_end:
        await world.slot(QUIET_KW)
    asked = await world.order()
    assert asked.state is OrderState.COMPLETING
    await world.callback(asked, "on_status", **delivered(asked, share=0.9))
    done = await world.order()
    assert done.state is OrderState.COMPLETED
    assert done.delivered_wh == round(NEED_KW * 0.9 * 1000)
    assert done.payable == "10.80"
    assert await world.timers() == []
