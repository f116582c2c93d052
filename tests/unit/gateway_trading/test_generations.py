"""Trading with sellers of the older generation: the same life cycle, another wire."""

import json
from datetime import timedelta

import msgspec
import pytest
from trading_world import (
    ALPHA,
    BAP_ID,
    BRAVO,
    CONTRACT_ID,
    EVENT,
    FEEDER,
    ScriptedPeers,
    Sent,
    TradingWorld,
    delivered,
    offer,
    view_of,
)

from gateway.beckn.client import HttpAnswer
from gateway.beckn.dialect import V1, V2, claimed
from gateway.beckn.envelope import Context
from gateway.beckn.envelope_v1 import ack_body
from gateway.beckn.model import PeerError
from gateway.beckn.schema import MessageSchemas
from gateway.beckn.signing import digest, parse_authorization
from gateway.beckn.verify import VerifiedMessage
from gateway.errors import BecknRefusal
from gateway.orders.order import OrderState
from gateway.trading import buyer, courier, desk, floor
from gateway.types import Direction

OLD = "1.1.1"
SCHEMAS = MessageSchemas.load(OLD)


class OldPeers(ScriptedPeers):
    """Acknowledges as v1.1 does; what was sent must be valid there."""

    async def post(self, url, body, headers):
        sent = Sent(url, body, headers["Authorization"])
        self.sent.append(sent)
        if claimed(body).version == OLD:
            assert SCHEMAS.faults(sent.action, json.loads(body)) == ()
        return HttpAnswer(status=200, headers={}, body=ack_body(""), sent_at=self._clock())


class OldWorld(TradingWorld):
    """Alpha speaks v1.1.1; what the others speak can be set."""

    def _wire(self):
        self.versions = {ALPHA: OLD}
        self.peers = OldPeers(self.clock)
        super()._wire()

    def participant(self, name):
        return msgspec.structs.replace(super().participant(name), version=self.versions.get(name, "2.0.0"))

    def verified(self, action, message, *, sender, message_id, transaction_id, dialect=V1, error=None):
        context = Context(
            version=dialect.versions[0],
            action=action,
            bap_id=BAP_ID,
            bap_uri="http://bap.fluxeon.example/beckn",
            bpp_id=sender,
            bpp_uri=f"http://{sender}/beckn",
            transaction_id=transaction_id,
            message_id=message_id,
            timestamp=self.clock(),
        )
        body = dialect.encode(context, message)
        header = self.seller_keys[sender].authorization(body, now=self.clock())
        return VerifiedMessage(
            action=action,
            dialect=dialect,
            context=context,
            message=json.loads(body)["message"],
            error=error,
            body=body,
            headers={"authorization": header},
            sender=self.participant(sender),
            signature=parse_authorization(header).signature,
            variant="3-line",
            digest=digest(body),
        )

    async def answer(self, action, message, **changes):
        """The seller of the only order answers our newest request."""
        order = await self.order()
        row = [one for one in await self.outbox() if f"on_{one['action']}" == action][-1]
        said = self.verified(
            action,
            message,
            sender=order.bpp_id,
            message_id=changes.pop("message_id", row["message_id"]),
            transaction_id=order.transaction_id,
            **changes,
        )
        answer = await self.pipeline.handle_callback(said)
        await self.idle()
        return answer

    async def agree(self, action, **changes):
        """The seller says what an honest one would."""
        order = await self.order()
        view = view_of(order, action, **changes)
        return await self.answer(action, V1.contract_message(order.terms, view))


@pytest.fixture
async def old(tmp_path, monkeypatch):
    monkeypatch.setattr(floor, "TIMER_TICK_S", 3600.0)
    for module, pause in (
        (courier, "FIRST_PAUSE_S"),
        (floor, "RECEIPTS_PAUSE_S"),
        (desk, "STATUS_PAUSE_S"),
        (buyer, "REFRESH_PAUSE_S"),
    ):
        monkeypatch.setattr(module, pause, 0.0)
    made = await OldWorld(tmp_path).start()
    yield made
    await made.close()


def _sold(**changes):
    return offer(ALPHA, beckn_version=OLD, **changes)


async def test_order__lives_its_whole_life_in_v1(old):
    await old.overload(_sold())
    for action in ("on_select", "on_init", "on_confirm"):
        answer = await old.agree(action)
        assert (answer.body, answer.signature) == (ack_body(""), None)
    order = await old.order()
    assert (order.state, order.beckn_version) == (OrderState.CONFIRMED, OLD)
    await old.agree("on_status", **delivered(order))
    order = await old.order()
    assert order.state is OrderState.COMPLETED
    assert order.delivered_wh == round(order.terms.requested_kwh * 1000)
    sent = [one for one in old.peers.sent if ALPHA in one.url]
    assert {claimed(one.body).version for one in sent} == {OLD}
    assert [one.action for one in sent if one.action != "search"] == ["select", "init", "confirm", "status"]
    assert json.loads(sent[-1].body)["message"] == {"order_id": CONTRACT_ID}


async def test_search__goes_to_each_seller_in_its_own_words(old):
    old.versions = {ALPHA: OLD, BRAVO: "2.0.0"}
    old.floor.sellers = tuple(map(old.participant, (ALPHA, BRAVO)))
    asked, work = await old.ledger.commit(
        lambda work: old.buyer.ask_catalogues(
            work,
            feeder_id=FEEDER,
            direction=Direction.REDUCE,
            kw=40.0,
            start=EVENT,
            end=EVENT + timedelta(hours=1),
        )
    )
    assert asked == 2
    first, second = work.outgoing
    assert (first.action, first.url) == ("search", f"http://{ALPHA}/beckn/search")
    assert (second.action, second.url) == ("discover", f"http://{BRAVO}/beckn/discover")
    context = json.loads(first.body)["context"]
    assert (context["domain"], context["bap_id"], context["bpp_id"]) == ("demand-flexibility", BAP_ID, ALPHA)
    assert claimed(second.body).version == "2.0.0"


async def test_search__skips_a_seller_whose_version_nobody_here_speaks(old):
    old.versions = {ALPHA: "0.9.4"}
    old.floor.sellers = (old.participant(ALPHA),)
    asked, work = await old.ledger.commit(
        lambda work: old.buyer.ask_catalogues(
            work, feeder_id=FEEDER, direction=Direction.REDUCE, kw=1.0, start=EVENT, end=EVENT
        )
    )
    assert (asked, work.outgoing) == (0, [])


async def _asked(old):
    """A search under way."""
    old.floor.sellers = (old.participant(ALPHA),)
    _, work = await old.ledger.commit(
        lambda work: old.buyer.ask_catalogues(
            work,
            feeder_id=FEEDER,
            direction=Direction.REDUCE,
            kw=1.0,
            start=EVENT,
            end=EVENT + timedelta(hours=1),
        )
    )
    return work.outgoing[0]


async def test_on_search__offers_remember_how_their_seller_is_spoken_to(old):
    search = await _asked(old)
    message = V1.on_discover_message([offer(ALPHA)])
    said = old.verified(
        "on_search",
        message,
        sender=ALPHA,
        message_id=search.message_id,
        transaction_id=search.transaction_id,
    )
    await old.pipeline.handle_callback(said)
    (found,) = old.catalogue.at(FEEDER)
    assert (found.offer_id, found.beckn_version) == (offer(ALPHA).offer_id, OLD)


async def test_on_search__that_only_reports_an_error_leaves_the_catalogue(old):
    search = await _asked(old)
    old.put_offers(_sold())
    said = old.verified(
        "on_search",
        {},
        sender=ALPHA,
        message_id=search.message_id,
        transaction_id=search.transaction_id,
        error=PeerError(code="30008", detail="no such feeder"),
    )
    answer = await old.pipeline.handle_callback(said)
    assert answer.body == ack_body("")
    assert len(old.catalogue.at(FEEDER)) == 1


async def test_error_instead_of_terms__is_a_refusal_and_the_need_is_planned_anew(old):
    await old.overload(_sold(), offer(BRAVO, price="0.9"))
    (first, *_) = await old.orders()
    row = [one for one in await old.outbox() if one["order_id"] == first.order_id][-1]
    said = old.verified(
        "on_select",
        {},
        sender=ALPHA,
        message_id=row["message_id"],
        transaction_id=first.transaction_id,
        error=PeerError(code="40002", detail="sold out"),
    )
    await old.pipeline.handle_callback(said)
    await old.idle()
    orders = await old.orders()
    assert orders[0].state is OrderState.DECLINED
    assert "40002: sold out" in (orders[0].failure or "")
    assert [one.bpp_id for one in orders[1:]] == [BRAVO]


async def test_error_about_a_running_order__changes_nothing(old):
    await old.overload(_sold())
    for action in ("on_select", "on_init", "on_confirm"):
        await old.agree(action)
    before = await old.order()
    await old.answer("on_status", {}, error=PeerError(code="40000", detail="try later"))
    assert await old.order() == before
    assert len(await old.entries("beckn.received")) == 4


async def test_callback__in_another_generation_than_its_request_is_refused(old):
    await old.overload(_sold())
    order = await old.order()
    before = await old.snapshot()
    message = V2.contract_message(order.terms, view_of(order, "on_select"))
    with pytest.raises(BecknRefusal) as refused:
        await old.answer("on_select", message, dialect=V2)
    assert (refused.value.code, refused.value.path) == ("CTX_VERSION_UNSUPPORTED", "/context/version")
    assert await old.snapshot() == before


async def test_refusals__name_members_as_the_sender_spells_them(old):
    await old.overload(_sold())
    order = await old.order()
    message = V1.contract_message(order.terms, view_of(order, "on_select"))
    with pytest.raises(BecknRefusal) as refused:
        await old.answer("on_select", message, message_id="unknown")
    assert refused.value.path == "/context/message_id"


async def test_seller_that_gives_its_id_late__is_spoken_to_of_ours_until_then(old):
    await old.overload(_sold())
    await old.agree("on_select")
    await old.agree("on_init", contract_id=None)
    await old.agree("on_confirm", contract_id="their-own-7")
    order = await old.order()
    assert order.state is OrderState.CONFIRMED
    assert order.contract.contract_id == "their-own-7"
    assert json.loads(old.peers.of("status")[-1].body)["message"]["order_id"] == "their-own-7"


async def test_seller_that_gives_no_id__is_cancelled_under_ours(old):
    await old.overload(_sold())
    await old.agree("on_select")
    await old.agree("on_init", contract_id=None)
    confirm = json.loads(old.peers.of("confirm")[-1].body)
    order = await old.order()
    assert confirm["message"]["order"]["id"] == order.obp_id
    await old.floor.cancel(order.order_id, reason="no need", by="test")
    await old.idle()
    assert json.loads(old.peers.of("cancel")[-1].body)["message"]["order_id"] == order.obp_id


async def test_restart__goes_on_in_the_version_an_order_began_in(old):
    await old.overload(_sold())
    await old.agree("on_select")
    await old.restart()
    await old.agree("on_init")
    assert {claimed(one.body).version for one in old.peers.of("confirm")} == {OLD}
