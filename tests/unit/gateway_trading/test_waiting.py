"""Timers, the market and operators: each fires once, and no fault stops the others."""

import asyncio

import pytest
from sqlalchemy import true, update
from trading_world import (
    ALPHA,
    BRAVO,
    HIGH_KW,
    QUIET_KW,
    nack,
    offer,
    unreachable,
)

from gateway.errors import NotFound
from gateway.orders.order import OrderState
from gateway.store.tables import flex_order
from gateway.trading import floor as floor_module
from gateway.types import ContractStatus

# --- timers -------------------------------------------------------------------------------------------


async def test_silent_seller__is_asked_again_once_per_timer_then_given_up(world):
    await world.overload(offer(ALPHA, price="0.20"), offer(BRAVO, price="0.40"))
    await world.fire()
    assert len(world.peers.of("select", ALPHA)) == 1
    world.clock.advance(2.0)
    await world.fire()
    await world.fire()
    asked = world.peers.of("select", ALPHA)
    assert len(asked) == 2
    assert len({one.context.message_id for one in asked}) == 2
    assert (await world.order()).awaiting == asked[1].context.message_id
    world.clock.advance(2.0)
    await world.fire()
    given_up, other = await world.orders()
    assert (given_up.state, other.bpp_id) == (OrderState.FAILED, BRAVO)
    assert [row["order_id"] for row in await world.timers()] == [other.order_id]


async def test_timer_disarmed_since_it_was_seen_due__has_no_effect(world):
    await world.overload(offer(ALPHA))
    order = await world.order()
    world.clock.advance(2.0)
    await world.callback(order, "on_select", status=ContractStatus.CANCELLED)
    assert await world.timers() == []
    before = await world.snapshot()
    for kind in ("REPLY", "END", "POLL"):
        await world.ledger.commit(
            lambda work, kind=kind: world.floor._fire(work, order.order_id, kind, true())
        )
    assert await world.snapshot() == before


async def test_timer_set_anew_since_it_was_seen_due__waits_its_new_time(world, monkeypatch):
    await world.overload(offer(ALPHA))
    order = await world.order()
    world.clock.advance(2.0)
    commit = world.ledger.commit

    async def reply_slips_in(job):
        monkeypatch.setattr(world.ledger, "commit", commit)
        await world.callback(order, "on_select", wait=False)
        return await commit(job)

    monkeypatch.setattr(world.ledger, "commit", reply_slips_in)
    await world.fire()
    assert (await world.order()).state is OrderState.INITIALISING
    assert len(world.peers.of("init")) == 1


async def test_window_end__comes_once_by_event_time_and_not_before(world):
    order = await world.confirmed()
    for _ in range(3):
        await world.slot(QUIET_KW)
    assert (await world.order()).state is OrderState.CONFIRMED
    asked = len(world.peers.of("status"))
    await world.slot(QUIET_KW)
    assert world.at == order.terms.window_end
    assert (await world.order()).state is OrderState.COMPLETING
    assert len(world.peers.of("status")) == asked + 1
    await world.slot(QUIET_KW)
    assert len(world.peers.of("status")) == asked + 1


async def test_feeder_that_falls_silent__cannot_keep_an_order_open(world):
    order = await world.confirmed()
    length_s = (order.terms.window_end - order.decided_event_at).total_seconds()
    world.clock.advance(length_s + 119.0)
    await world.fire()
    assert (await world.order()).state is OrderState.CONFIRMED
    world.clock.advance(2.0)
    await world.fire()
    assert (await world.order()).state is OrderState.COMPLETING


async def test_refused_question_about_completion__is_asked_again_after_a_pause(world):
    await world.confirmed()
    world.peers.always["status"] = (400, nack(code="BIZ_NOT_READY"))
    before = len(world.peers.of("status"))
    for _ in range(4):
        await world.slot(QUIET_KW)
    assert len(world.peers.of("status")) == before + 1
    await world.fire()
    assert len(world.peers.of("status")) == before + 1
    world.clock.advance(world.policy.poll_interval_s + 0.1)
    await world.fire()
    assert len(world.peers.of("status")) == before + 2


async def test_completion_that_never_comes__ends_unsettled_with_an_alarm(world):
    await world.confirmed()
    world.peers.always["status"] = (400, nack(code="BIZ_NOT_READY"))
    for _ in range(4):
        await world.slot(QUIET_KW)
    for _ in range(3 * world.policy.max_polls):
        world.clock.advance(world.policy.poll_interval_s + world.policy.callback_timeout_s)
        await world.fire()
    order = await world.order()
    assert order.state is OrderState.UNSETTLED
    assert len(await world.alarms("unsettled")) == 1
    assert await world.timers() == []
    assert len(world.peers.of("status")) <= world.policy.max_polls + 2


async def test_order_that_cannot_be_handled__does_not_stop_the_timers_of_others(world, caplog):
    await world.overload(offer(ALPHA, kw=20.0), offer(BRAVO, kw=20.0))
    broken, sound = await world.orders()
    await world.ledger.commit(
        lambda work: work.connection.execute(
            update(flex_order).where(flex_order.c.order_id == broken.order_id).values(body="{}")
        )
    )
    world.clock.advance(2.0)
    await world.fire()
    asked = [one for one in world.peers.of("select") if one.context.transaction_id == sound.transaction_id]
    assert len(asked) == 2
    assert broken.order_id in caplog.text


async def test_loop__goes_on_after_any_fault(world, monkeypatch, caplog):
    monkeypatch.setattr(floor_module, "AFTER_FAULT_S", 0.0)
    calls = []

    async def step():
        calls.append(1)
        if len(calls) < 3:
            raise RuntimeError("a fault of ours")

    loop = asyncio.create_task(world.floor._every(0.0, step))
    await world.until(lambda: len(calls) >= 3)
    loop.cancel()
    assert "a fault of ours" in caplog.text


# --- the market ---------------------------------------------------------------------------------------


async def test_feeder__has_every_sellers_catalogue_asked_for_once_until_it_is_old(world):
    await world.configure()
    asked_at = {}
    for _ in range(2):
        await world.floor._refresh_market(asked_at)
        await world.idle()
    asked = world.peers.of("discover")
    assert sorted({one.url for one in asked}) == [f"http://{name}/beckn/discover" for name in (ALPHA, BRAVO)]
    assert len(asked) == 4  # both directions
    world.clock.advance(3601.0)
    await world.floor._refresh_market(asked_at)
    await world.idle()
    assert len(world.peers.of("discover")) == 8


async def test_registry_that_is_down__leaves_the_sellers_as_they_were(world):
    await world.configure()
    await world.floor._refresh_market({})
    world.listed = unreachable("http://registry")
    with pytest.raises(type(world.listed)):
        await world.floor._refresh_market({})
    assert [one.subscriber_id for one in world.floor.sellers] == [ALPHA, BRAVO]


async def test_registry_that_stays_down__is_alarmed_once_and_cleared_when_it_answers(world, monkeypatch):
    monkeypatch.setattr(floor_module, "MARKET_PAUSE_S", 0.0)
    asked = []

    async def down():
        asked.append(1)
        if len(asked) < 3 * floor_module.REGISTRY_FAILURES:
            raise unreachable("http://registry")
        return ()

    world.floor._list_sellers = down
    world.floor.refresh_soon()
    await world.until(lambda: len(asked) == 3 * floor_module.REGISTRY_FAILURES)
    for _ in range(1000):
        (alarm,) = await world.alarms("registry_unreachable")
        if alarm["cleared_at"] is not None:
            break
    assert "http://registry" in alarm["detail"]
    assert alarm["cleared_at"] == world.clock.now


# --- operators ----------------------------------------------------------------------------------------


async def test_cancel_before_confirm__binds_nobody_and_is_not_replaced(world):
    await world.overload(offer(ALPHA), offer(BRAVO))
    order = await world.order()
    done = await world.floor.cancel(order.order_id, reason="storm over", by="anna")
    assert done.state is OrderState.CANCELLED
    assert len(await world.orders()) == 1
    assert world.peers.of("cancel") == []
    (entry,) = await world.entries("operator.cancelled")
    assert (entry.body["by"], entry.refs.obp_id) == ("anna", order.obp_id)


async def test_cancel_of_a_confirmed_order__is_asked_of_its_seller(world):
    order = await world.confirmed()
    done = await world.floor.cancel(order.order_id, reason="storm over", by="anna")
    await world.idle()
    assert done.state is OrderState.CANCELLING
    (sent,) = world.peers.of("cancel")
    assert sent.message["contract"]["contractAttributes"]["cancelReason"] == "anna: storm over"
    await world.callback(await world.order(), "on_cancel")
    assert (await world.order()).state is OrderState.CANCELLED


async def test_seller_that_answers_a_cancel_with_an_active_contract__has_not_cancelled(world):
    order = await world.confirmed()
    await world.floor.cancel(order.order_id, reason="storm over", by="anna")
    await world.idle()
    for _ in range(world.policy.max_cancel_asks):
        await world.callback(await world.order(), "on_cancel", status=ContractStatus.ACTIVE)
        assert (await world.order()).state is OrderState.CANCELLING
        world.clock.advance(2.0)
        await world.fire()
    assert len(world.peers.of("cancel")) == world.policy.max_cancel_asks
    assert (await world.order()).state is OrderState.FAILED
    assert len(await world.alarms("cancel_unanswered")) == 1


async def test_refused_cancel__is_sent_again_only_when_its_time_has_come(world):
    order = await world.confirmed()
    world.peers.next("cancel", (400, nack()))
    await world.floor.cancel(order.order_id, reason="storm over", by="anna")
    await world.idle()
    assert len(world.peers.of("cancel")) == 1
    world.clock.advance(2.0)
    await world.fire()
    assert len(world.peers.of("cancel")) == 2
    await world.callback(await world.order(), "on_cancel")
    assert (await world.order()).state is OrderState.CANCELLED


async def test_cancel_of_an_unknown_order__is_not_found(world):
    with pytest.raises(NotFound):
        await world.floor.cancel("nothing", reason="", by="anna")


async def test_view_of_orders__follows_what_is_stored(world):
    await world.overload(offer(ALPHA))
    assert world.floor.negotiating == 1
    assert list(world.floor.orders) == await world.orders()
    await world.slot(HIGH_KW)
    await world.restart()
    assert sorted(world.floor.orders, key=str) == sorted(await world.orders(), key=str)
