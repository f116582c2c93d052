"""Messages on their way: retries, refusals, silence, and what a restart still owes."""

import asyncio
from typing import Any

import pytest
from trading_world import ALPHA, BRAVO, HIGH_KW, TradingWorld, nack, offer, unreachable

from gateway.beckn.client import HttpAnswer
from gateway.beckn.signing import parse_authorization
from gateway.errors import StoreError
from gateway.orders.order import OrderState


def let_wall_time_pass_with(world, action):
    async def wait(sent):
        if sent.action == action:
            world.clock.advance(1.0)

    world.peers.before_answer = wait


# --- retries ----------------------------------------------------------------------------------------


async def test_not_now__repeats_the_same_bytes_and_id_under_a_fresh_signature(world):
    world.peers.next("select", (500, b""), unreachable(), (500, nack(code="NET_INTERNAL_ERROR")))
    let_wall_time_pass_with(world, "select")
    await world.overload(offer(ALPHA))
    sent = world.peers.of("select")
    assert len(sent) == 4
    assert len({one.body for one in sent}) == 1
    signatures = [parse_authorization(one.authorization) for one in sent]
    assert [one.created - signatures[0].created for one in signatures] == [0, 1, 2, 3]
    assert len({one.signature for one in signatures}) == 4
    attempts = [
        entry.body["attempt"]
        for entry in await world.entries("beckn.sent")
        if entry.body["action"] == "select"
    ]
    assert attempts == [1, 2, 3, 4]
    (row,) = [one for one in await world.outbox() if one["action"] == "select"]
    assert (row["status"], row["attempts"], row["signature"]) == ("ACKED", 4, sent[-1].authorization)
    # A seller may chain its callback to whichever copy it took.
    message_id = sent[0].context.message_id
    assert [header for _, header in world.floor.sent_signatures(message_id)] == [
        one.authorization for one in reversed(sent)
    ]


async def test_seller_that_took_an_earlier_copy__counts_as_having_accepted(world):
    world.peers.next("select", unreachable(), (400, nack(code="CTX_MESSAGE_ID_DUPLICATE")))
    await world.overload(offer(ALPHA))
    assert (await world.order()).state is OrderState.SELECTING
    assert [one["status"] for one in await world.outbox() if one["action"] == "select"] == ["ACKED"]


async def test_refusal__is_final_and_replans_at_once(world):
    world.peers.next("select", (400, nack()))
    await world.overload(offer(ALPHA, price="0.20"), offer(BRAVO, price="0.40"))
    refused, other = await world.orders()
    assert (refused.state, refused.failure) == (
        OrderState.FAILED,
        "select: refused: BIZ_ITEM_UNAVAILABLE: no",
    )
    assert (other.bpp_id, other.replaces) == (BRAVO, refused.obp_id)
    assert len(world.peers.of("select", ALPHA)) == 1


async def test_ack_without_callback__is_not_waited_for(world):
    ack = b'{"message":{"status":"ACK"}}'
    world.peers.next("select", (202, ack), (409, ack))
    await world.overload(offer(ALPHA, price="0.20"), offer(BRAVO, price="0.40"))
    assert [order.state for order in await world.orders()] == [OrderState.FAILED, OrderState.FAILED]
    assert await world.timers() == []
    kinds = [
        entry.body["kind"]
        for entry in await world.entries("beckn.answered")
        if entry.body["action"] == "select"
    ]
    assert kinds == ["NO_CALLBACK", "NO_CALLBACK"]


async def test_unreadable_acceptance__waits_for_the_callback(world):
    world.peers.next("select", (200, b"<html>fine</html>"))
    await world.overload(offer(ALPHA))
    assert (await world.order()).state is OrderState.SELECTING
    await world.callback(await world.order(), "on_select")
    assert (await world.order()).state is OrderState.INITIALISING


async def test_seller_nobody_reaches__is_given_up_after_every_attempt_and_replaced(world):
    world.peers.next("select", *[unreachable()] * 4)
    await world.overload(offer(ALPHA, price="0.20"), offer(BRAVO, price="0.40"))
    lost, other = await world.orders()
    assert lost.state is OrderState.FAILED
    assert "not delivered" in lost.failure
    assert len(world.peers.of("select", ALPHA)) == 4
    assert other.bpp_id == BRAVO
    (ended,) = await world.entries("beckn.undelivered")
    assert (ended.body["attempts"], ended.refs.obp_id) == (4, lost.obp_id)


async def test_address_that_cannot_work__is_not_tried_again(world):
    world.peers.next("select", unreachable(retryable=False))
    await world.overload(offer(ALPHA))
    assert len(world.peers.of("select")) == 1


async def test_dead_seller__is_alarmed_once_and_cleared_when_it_answers(world):
    await world.configure()
    world.peers.always["discover"] = unreachable()
    for _ in range(2):
        await world.floor._refresh_market({})
        await world.idle()
    assert sorted(alarm["detail"] for alarm in await world.alarms("peer_unreachable")) == [
        f"{ALPHA} cannot be reached",
        f"{BRAVO} cannot be reached",
    ]
    assert len(await world.entries("beckn.undelivered")) >= 8
    del world.peers.always["discover"]
    await world.floor._refresh_market({})
    await world.idle()
    alarms = await world.alarms("peer_unreachable")
    assert len(alarms) == 2
    assert all(alarm["cleared_at"] == world.clock.now for alarm in alarms)


# --- CONFIRM: never dropped in silence ----------------------------------------------------------------


async def confirming(world: TradingWorld, *answers: Any) -> None:
    """Take an order up to its CONFIRM, which meets the scripted answers."""
    await world.overload(offer(ALPHA, price="0.20"), offer(BRAVO, price="0.40"))
    world.peers.next("confirm", *answers)
    await world.callback(await world.order(), "on_select")
    await world.callback(await world.order(), "on_init")


async def test_confirm_that_was_delivered__stamps_when_it_had_left(world):
    await confirming(world)
    order = await world.order()
    assert order.state is OrderState.CONFIRMING
    assert order.confirm_sent_at == world.clock.now
    assert order.detection_to_confirm_ms == 0


async def test_confirm_refused_outright__binds_nobody(world):
    await confirming(world, (400, nack()))
    refused, other = await world.orders()
    assert (refused.state, other.bpp_id) == (OrderState.FAILED, BRAVO)
    assert world.peers.of("cancel") == []


async def test_confirm_refused_after_a_copy_that_may_have_arrived__is_cancelled_and_alarmed(world):
    await confirming(world, unreachable(), (400, nack(code="CTX_TTL_EXPIRED")))
    doubtful, other = await world.orders()
    assert (doubtful.state, other.bpp_id) == (OrderState.CANCELLING, BRAVO)
    assert len(world.peers.of("cancel", ALPHA)) == 1
    (alarm,) = await world.alarms("confirm_in_doubt")
    assert doubtful.order_id in alarm["detail"]


async def test_confirm_nobody_answers__is_cancelled_alarmed_and_replaced(world):
    await confirming(world, *[unreachable()] * 4)
    doubtful, other = await world.orders()
    assert (doubtful.state, other.bpp_id) == (OrderState.CANCELLING, BRAVO)
    assert len(await world.alarms("confirm_in_doubt")) == 1
    assert len(world.peers.of("confirm")) == 4
    await world.callback(doubtful, "on_cancel")
    assert (await world.orders())[0].state is OrderState.CANCELLED


async def test_confirm_without_callback__is_sent_again_with_the_same_id_then_withdrawn(world):
    await confirming(world)
    for _ in range(world.policy.max_confirm_asks):
        world.clock.advance(2.0)
        await world.fire()
    sent = world.peers.of("confirm")
    assert len({one.context.message_id for one in sent}) == 1
    assert len({one.body for one in sent}) == 1
    assert len({one.authorization for one in sent}) == len(sent) == world.policy.max_confirm_asks
    assert (await world.orders())[0].state is OrderState.CANCELLING


# --- restarts -----------------------------------------------------------------------------------------


async def test_restart__sends_what_is_owed_with_the_same_id_and_leaves_the_rest(world):
    await world.overload(offer(ALPHA))
    # The answer to INIT is lost with the process: it stays owed.
    world.peers.before_answer = hang_at("init")
    await world.callback(await world.order(), "on_select", wait=False)
    await world.until(lambda: world.peers.of("init"))
    before = (await world.order(), world.peers.of("init")[0], len(world.peers.of("select")))
    world.peers.before_answer = None
    world.clock.advance(20.0)
    await world.restart()
    first, again = world.peers.of("init")
    assert again.body == first.body == before[1].body
    assert again.authorization != first.authorization
    assert len(world.peers.of("select")) == before[2]
    order = await world.order()
    assert (order.state, order.awaiting) == (OrderState.INITIALISING, first.context.message_id)
    # The seller's answer may chain to either copy.
    assert [header for _, header in world.floor.sent_signatures(first.context.message_id)] == [
        again.authorization,
        first.authorization,
    ]
    # The overdue reply gets its time again before anything is given up.
    await world.fire()
    assert len(world.peers.of("init")) == 2
    await world.callback(order, "on_init")
    assert (await world.order()).state is OrderState.CONFIRMING


def hang_at(action):
    async def hang(sent):
        if sent.action == action:
            await asyncio.Event().wait()

    return hang


async def test_late_restart__asks_anew_instead_of_sending_what_has_lapsed(world):
    await world.overload(offer(ALPHA))
    world.peers.before_answer = hang_at("init")
    await world.callback(await world.order(), "on_select", wait=False)
    await world.until(lambda: world.peers.of("init"))
    world.peers.before_answer = None
    world.clock.advance(31.0)
    await world.restart()
    await world.fire()
    first, second = world.peers.of("init")
    assert first.context.message_id != second.context.message_id
    assert second.context.timestamp == world.clock.now
    order = await world.order()
    assert (order.state, order.awaiting) == (OrderState.INITIALISING, second.context.message_id)
    statuses = {one["message_id"]: one["status"] for one in await world.outbox()}
    assert statuses[first.context.message_id] == "ABANDONED"


async def test_restart__does_not_send_a_confirm_behind_its_own_cancel(world):
    await world.overload(offer(ALPHA))
    await world.callback(await world.order(), "on_select")
    world.peers.before_answer = hang_at("confirm")
    await world.callback(await world.order(), "on_init", wait=False)
    await world.until(lambda: world.peers.of("confirm"))
    await world.floor.cancel((await world.order()).order_id, reason="storm over", by="anna")
    await world.until(lambda: world.peers.of("cancel"))
    world.peers.before_answer = None
    confirms = len(world.peers.of("confirm"))
    await world.restart()
    assert len(world.peers.of("confirm")) == confirms
    assert (await world.order()).state is OrderState.CANCELLING


async def test_restart__does_not_ask_how_a_finished_order_stands(world):
    await world.overload(offer(ALPHA))
    world.peers.before_answer = hang_at("status")
    for action in ("on_select", "on_init"):
        await world.callback(await world.order(), action)
    await world.callback(await world.order(), "on_confirm", wait=False)
    await world.until(lambda: world.peers.of("status"))
    await world.callback(await world.order(), "on_cancel", message_id=world.new_id(), wait=False)
    assert (await world.order()).state is OrderState.FAILED
    world.peers.before_answer = None
    await world.restart()
    assert len(world.peers.of("status")) == 1
    assert [one["status"] for one in await world.outbox() if one["action"] == "status"] == ["ABANDONED"]


async def test_retry__does_not_send_a_confirm_behind_its_own_cancel(world):
    await world.overload(offer(ALPHA))
    await world.callback(await world.order(), "on_select")

    async def cancel_meanwhile(sent):
        if sent.action == "confirm":
            await world.floor.cancel((await world.order()).order_id, reason="storm over", by="anna")

    world.peers.before_answer = cancel_meanwhile
    world.peers.next("confirm", unreachable())
    await world.callback(await world.order(), "on_init")
    assert [one.action for one in world.peers.sent][-2:] == ["confirm", "cancel"]
    assert (await world.order()).state is OrderState.CANCELLING


async def test_two_restarts__still_know_every_signature_of_a_request_that_waits(world):
    world.peers.next("select", unreachable())
    let_wall_time_pass_with(world, "select")
    await world.overload(offer(ALPHA))
    sent = world.peers.of("select")
    assert len(sent) == 2
    await world.restart()
    await world.restart()
    message_id = sent[0].context.message_id
    assert [header for _, header in world.floor.sent_signatures(message_id)] == [
        one.authorization for one in reversed(sent)
    ]


async def test_answer_that_cannot_be_stored__leaves_the_message_owed(world, monkeypatch, caplog):
    await world.configure()
    world.put_offers(offer(ALPHA))
    await world.quiet_history()

    def refuse(*_args: Any):
        raise StoreError("disk full")

    monkeypatch.setattr(world.floor, "_answered", refuse)
    await world.slot(HIGH_KW)
    monkeypatch.undo()
    assert "disk full" in caplog.text
    assert [one["status"] for one in await world.outbox() if one["action"] == "select"] == ["PENDING"]
    await world.restart()
    assert [one["status"] for one in await world.outbox() if one["action"] == "select"] == ["ACKED"]
    assert len({one.body for one in world.peers.of("select")}) == 1


# --- what an answer proves ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("signer", "chained", "verdict"),
    [(ALPHA, True, "verified"), (ALPHA, False, "invalid"), (BRAVO, True, "untrusted")],
)
async def test_signature_of_an_ack__is_checked_and_recorded(world, signer, chained, verdict):
    async def answer_signed(sent):
        if sent.action != "select":
            return
        body = b'{"message":{"status":"ACK"}}'
        request = parse_authorization(sent.authorization).signature if chained else "QQ=="
        signature = world.seller_keys[signer].authorization(
            body, now=world.clock(), request_signature=request
        )
        answer = HttpAnswer(status=200, headers={"signature": signature}, body=body, sent_at=world.clock())
        world.peers.next("select", answer)

    world.peers.before_answer = answer_signed
    await world.overload(offer(ALPHA))
    (entry,) = [one for one in await world.entries("beckn.answered") if one.body["action"] == "select"]
    assert entry.body["signature"]["verdict"] == verdict
    # Evidence only: the order goes its way whatever the Ack's signature says.
    assert (await world.order()).state is OrderState.SELECTING
