"""Callbacks taken in: correlated, once, from the right seller; terms that are not the agreed ones."""

import msgspec
import pytest
from trading_world import (
    ALPHA,
    BRAVO,
    CHARLIE,
    CONTRACT_ID,
    FEEDER,
    NEED_KW,
    QUIET_KW,
    delivered,
    der,
    offer,
)

from gateway.beckn import v2
from gateway.catalogue import load_catalogue
from gateway.errors import BecknRefusal
from gateway.orders.order import OrderState
from gateway.types import BaselineMethod, BaselineTerm, CommittedLine, ContractStatus, Direction, Offer


async def refused(world, code, path, call):
    """The call is refused with a code at a place, and nothing has changed."""
    before = await world.snapshot()
    with pytest.raises(BecknRefusal) as caught:
        await call
    assert (caught.value.code, caught.value.path) == (code, path)
    assert await world.snapshot() == before
    return caught.value


# --- correlation --------------------------------------------------------------------------------------


async def test_same_callback_again__is_answered_the_same_without_effect(world):
    await world.overload(offer(ALPHA))
    order = await world.order()
    first = await world.callback(order, "on_select")
    before = await world.snapshot()
    again = await world.callback(order, "on_select")
    assert again.body == first.body
    assert await world.snapshot() == before


async def test_other_content_under_a_used_message_id__cannot_move_the_order_back(world):
    await world.overload(offer(ALPHA))
    order = await world.order()
    await world.callback(order, "on_select")
    moved = await world.order()
    await world.callback(order, "on_select", kw=1.0)
    assert await world.order() == moved
    assert (await world.entries("order.ignored"))[-1].body["why"] == "on_select does not fit INITIALISING"


async def test_answer_to_nothing__is_refused(world):
    await world.overload(offer(ALPHA))
    order = await world.order()
    await refused(
        world,
        "CTX_MESSAGE_ID_UNKNOWN",
        "/context/messageId",
        world.callback(order, "on_select", message_id=world.new_id()),
    )


async def test_answer_of_another_action__is_refused(world):
    await world.overload(offer(ALPHA))
    order = await world.order()
    await refused(
        world,
        "CTX_ACTION_MISMATCH",
        "/context/action",
        world.callback(order, "on_init", message_id=order.awaiting),
    )


async def test_answer_in_another_transaction__is_refused(world):
    await world.overload(offer(ALPHA))
    order = await world.order()
    await refused(
        world,
        "CTX_TRANSACTION_ID_UNKNOWN",
        "/context/transactionId",
        world.callback(order, "on_select", transaction_id=world.new_id()),
    )


async def test_answer_of_another_seller__is_refused(world):
    await world.overload(offer(ALPHA))
    refusal = await refused(
        world,
        "AUT_UNAUTHORIZED_ACTION",
        "/context/bppId",
        world.callback(await world.order(), "on_select", sender=BRAVO),
    )
    assert refusal.http_status == 401


@pytest.mark.parametrize("action", ["on_status", "on_cancel"])
async def test_unasked_word_about_another_sellers_order__is_refused(world, action):
    order = await world.confirmed()
    await refused(
        world,
        "CTX_TRANSACTION_ID_UNKNOWN",
        "/context/transactionId",
        world.callback(order, action, sender=BRAVO, message_id=world.new_id()),
    )


async def test_unasked_word_about_another_contract__is_refused(world):
    order = await world.confirmed()
    await refused(
        world,
        "CTX_TRANSACTION_ID_UNKNOWN",
        "/context/transactionId",
        world.callback(order, "on_status", message_id=world.new_id(), contract_id=world.new_id()),
    )


async def test_unasked_word_about_a_finished_order__is_refused(world):
    order = await world.confirmed()
    await world.callback(order, "on_cancel", message_id=world.new_id())
    assert (await world.orders())[0].state is OrderState.FAILED
    await refused(
        world,
        "CTX_TRANSACTION_ID_UNKNOWN",
        "/context/transactionId",
        world.callback(order, "on_status", message_id=world.new_id()),
    )


async def test_unreadable_contract__is_refused_naming_the_member(world):
    await world.overload(offer(ALPHA))
    order = await world.order()
    message = v2.select_message(order.terms)
    del message["contract"]["commitments"][0]["offer"]["id"]
    await refused(
        world,
        "SCH_REQUIRED_FIELD_MISSING",
        "/message/contract/commitments/0/offer/id",
        world.callback(order, "on_select", message=message),
    )


# --- terms --------------------------------------------------------------------------------------------


async def test_offer_without_a_contract_id__is_not_confirmed(world):
    await world.overload(offer(ALPHA, price="0.20"), offer(BRAVO, price="0.40"))
    await world.callback(await world.order(), "on_select")
    await world.callback(await world.order(), "on_init", contract_id=None)
    declined, other = await world.orders()
    assert (declined.state, other.bpp_id) == (OrderState.DECLINED, BRAVO)
    assert "no contract id" in declined.failure
    assert world.peers.of("confirm") == []


async def test_confirmation_that_says_less__takes_nothing_back(world):
    await world.overload(offer(ALPHA))
    await world.callback(await world.order(), "on_select")
    await world.callback(await world.order(), "on_init", price_per_kwh="0.25")
    await world.callback(
        await world.order(), "on_confirm", contract_id=None, price_per_kwh="0.25", baselines=()
    )
    order = await world.order()
    assert order.state is OrderState.CONFIRMED
    assert (order.contract.contract_id, order.contract.price_per_kwh) == (CONTRACT_ID, "0.25")
    assert [term.kw for term in order.contract.baselines] == [5.0]
    while world.at < order.terms.window_end:
        await world.slot(QUIET_KW)
    await world.callback(await world.order(), "on_status", **delivered(order))
    assert (await world.order()).payable == "10.00"


@pytest.mark.parametrize(
    ("changes", "why"),
    [
        ({"price_per_kwh": "0.30"}, "agreed was 0.25"),
        (
            {
                "baselines": (
                    BaselineTerm(der_id="der:bpp-alpha:1", method=BaselineMethod.NOMINATED, kw=50.0),
                )
            },
            "the agreed baseline of der:bpp-alpha:1 was changed",
        ),
        ({"status": ContractStatus.DRAFT}, "contract is DRAFT, not ACTIVE"),
    ],
)
async def test_confirmation_that_departs_from_what_was_agreed__is_cancelled_and_replaced(world, changes, why):
    await world.overload(offer(ALPHA), offer(BRAVO, price="0.40"))
    await world.callback(await world.order(), "on_select")
    await world.callback(await world.order(), "on_init", price_per_kwh="0.25")
    await world.callback(await world.order(), "on_confirm", **{"price_per_kwh": "0.25", **changes})
    withdrawn, other = await world.orders()
    assert (withdrawn.state, other.bpp_id) == (OrderState.CANCELLING, BRAVO)
    assert why in withdrawn.failure
    assert len(await world.alarms("confirm_in_doubt")) == 1


async def test_shortfall_that_shows_at_the_confirmation_only__is_covered(world):
    await world.overload(offer(ALPHA, price="0.20"), offer(BRAVO, price="0.40"))
    await world.callback(await world.order(), "on_select")
    await world.callback(await world.order(), "on_init")
    await world.callback(await world.order(), "on_confirm", kw=25.0)
    first, second = await world.orders()
    assert (first.state, sum(first.committed_kw.values())) == (OrderState.CONFIRMED, 25.0)
    assert sum(line.kw for line in second.terms.lines) == NEED_KW - 25.0


async def test_der_that_was_not_asked_for__is_not_accepted(world):
    await world.overload(offer(ALPHA))
    order = await world.order()
    foreign = CommittedLine(der_id="der:other:1", requested_kw=40.0, committed_kw=40.0)
    terms = msgspec.structs.replace(
        order.terms, lines=(msgspec.structs.replace(order.terms.lines[0], der_id="der:other:1"),)
    )
    spoken = msgspec.structs.replace(order, terms=terms)
    await world.callback(spoken, "on_select", lines=(foreign,))
    assert (await world.order()).state is OrderState.DECLINED


async def test_late_confirmation_of_an_order_given_up__is_cancelled_with_one_alarm(world):
    await world.overload(offer(ALPHA))
    await world.callback(await world.order(), "on_select")
    world.peers.next("confirm", (400, b"{}"))
    await world.callback(await world.order(), "on_init")
    given_up = await world.order()
    assert given_up.state is OrderState.FAILED
    await world.callback(given_up, "on_confirm")
    assert len(world.peers.of("cancel")) == 1
    world.clock.advance(1.0)
    await world.callback(given_up, "on_confirm")
    assert len(await world.alarms("late_confirmation")) == 1
    assert (await world.order()).state is OrderState.FAILED


# --- catalogues ---------------------------------------------------------------------------------------


async def discovered(world, *offers: Offer, sender=ALPHA, direction=Direction.REDUCE):
    """A seller answers the newest DISCOVER it got in a direction."""
    if not world.peers.of("discover"):
        await world.configure()
        await world.floor._refresh_market({})
        await world.idle()
    sent = [
        one
        for one in world.peers.of("discover", sender)
        if v2.parse_discover(one.message).direction is direction
    ][-1]
    return await world.say(
        "on_discover",
        v2.on_discover_message(offers),
        sender=sender,
        message_id=sent.context.message_id,
        transaction_id=sent.context.transaction_id,
    )


async def test_catalogue__replaces_what_the_seller_offered_and_survives_a_restart(world):
    await discovered(world, offer(ALPHA, 1), offer(ALPHA, 2))
    assert [one.offer_id for one in world.catalogue.at(FEEDER)] == ["bpp-alpha:offer:1", "bpp-alpha:offer:2"]
    world.clock.advance(1.0)
    await discovered(world, offer(ALPHA, 2))
    assert [one.offer_id for one in world.catalogue.at(FEEDER)] == ["bpp-alpha:offer:2"]
    # Orders go where the registry says, whatever the catalogue claims.
    elsewhere = offer(BRAVO, bpp_uri="http://thief.example")
    await discovered(world, elsewhere, sender=BRAVO)
    assert {one.bpp_uri for one in world.catalogue.at(FEEDER)} == {
        f"http://{ALPHA}/beckn",
        f"http://{BRAVO}/beckn",
    }
    assert (await world.ledger.read(load_catalogue)).at(FEEDER) == world.catalogue.at(FEEDER)


async def test_catalogue_of_other_sellers__is_refused(world):
    await world.configure()
    await world.floor._refresh_market({})
    await world.idle()
    await refused(world, "AUT_UNAUTHORIZED_ACTION", "/message/catalogs", discovered(world, offer(CHARLIE)))
    assert world.catalogue.at(FEEDER) == ()


async def test_catalogue_for_another_feeder_or_direction__offers_nothing_here(world):
    other = offer(ALPHA, ders=(der(1, feeder_id="FDR_999"), der(2, direction=Direction.INCREASE)))
    await discovered(world, other)
    assert world.catalogue.at(FEEDER) == ()


async def test_one_offer_in_both_directions__is_kept_for_both(world):
    for direction in Direction:
        both = offer(ALPHA, ders=(der(1, direction=direction),))
        await discovered(world, both, direction=direction)
    kept = world.catalogue.at(FEEDER)
    assert {one.ders[0].direction for one in kept} == set(Direction)
    assert (await world.ledger.read(load_catalogue)).at(FEEDER) == kept
    world.clock.advance(1.0)
    await discovered(world, direction=Direction.REDUCE)
    (left,) = world.catalogue.at(FEEDER)
    assert left.ders[0].direction is Direction.INCREASE
    assert (await world.ledger.read(load_catalogue)).at(FEEDER) == (left,)


async def test_der_listed_twice_in_an_offer__is_taken_once(world):
    await discovered(world, offer(ALPHA, ders=(der(1), der(1))))
    (kept,) = world.catalogue.at(FEEDER)
    assert [one.der_id for one in kept.ders] == [der(1).der_id]
    assert (await world.ledger.read(load_catalogue)).at(FEEDER) == (kept,)


async def test_offers_for_a_need_that_waits__are_bought_at_once(world):
    await world.overload()
    await world.floor._refresh_market({})
    await world.idle()
    await discovered(world, offer(ALPHA))
    order = await world.order()
    assert (order.bpp_id, sum(line.kw for line in order.terms.lines)) == (ALPHA, NEED_KW)
    assert len(world.peers.of("select")) == 1
