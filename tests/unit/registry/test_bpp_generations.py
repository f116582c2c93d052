"""The mock aggregator in both generations: one seller, the same story, another wire."""

from datetime import datetime
from uuid import uuid4

import msgspec
import pytest
from bpp_samples import HOUR, START, catalogue, terms

from gateway.beckn.dialect import DIALECTS, Generation, Languages
from gateway.beckn.envelope import Context
from gateway.beckn.resolver import Participant, StaticKeys
from gateway.beckn.signing import Signer, generate_private_key
from gateway.beckn.verify import verify_inbound
from gateway.errors import BecknRefusal
from gateway.types import ContractStatus, Direction
from registry.bpp.seller import Seller
from registry.bpp.storage import Ledger

BUYER = Signer.from_private(generate_private_key(), "bap.example", "k1")
LANGUAGES = Languages.load()
PLACE = {"country": {"code": "GBR"}, "city": {"code": "*"}}


class Wall:
    at = START - HOUR

    def __call__(self) -> datetime:
        return self.at


@pytest.fixture
async def seller(tmp_path):
    ledger = Ledger(tmp_path)
    yield Seller(
        subscriber_id="bpp.example",
        uri="http://bpp/beckn",
        catalogue=catalogue(),
        ledger=ledger,
        clock=Wall(),
        seed=1,
    )
    await ledger.close()


class Buyer:
    """Speaks one generation to the seller, within one transaction."""

    def __init__(self, seller, dialect) -> None:
        self.seller, self.dialect = seller, dialect
        self.transaction_id = str(uuid4())

    async def ask(self, verb, message):
        """Send a request; the seller's callbacks."""
        action = self.dialect.action(verb)
        context = Context(
            version=self.dialect.versions[-1],
            action=action,
            bap_id="bap.example",
            bap_uri="http://bap/beckn",
            bpp_id="bpp.example",
            bpp_uri="http://bpp/beckn",
            transaction_id=self.transaction_id,
            message_id=str(uuid4()),
            timestamp=START - HOUR,
            domain="demand-flexibility",
            location=PLACE,
        )
        body = self.dialect.encode(context, message)
        pin = Participant(
            subscriber_id="bap.example",
            key_id="k1",
            url="http://bap/beckn",
            type="BAP",
            signing_public_key=BUYER.public_key,
            status="SUBSCRIBED",
        )
        verified = await verify_inbound(
            action=action,
            body=body,
            headers={"Authorization": BUYER.authorization(body, now=START - HOUR)},
            resolver=StaticKeys([pin], Wall()),
            schemas=LANGUAGES,
            own_id="bpp.example",
            role="bpp",
            now=START - HOUR,
        )
        return await self.seller.take(verified)

    def read(self, callback):
        """What a callback says, once it has passed its schema."""
        document = msgspec.json.decode(callback.body)
        assert LANGUAGES.schemas(self.dialect).faults(callback.action, document) == ()
        context = self.dialect.parse_context(document["context"])
        assert context.version == self.dialect.versions[-1]
        assert (context.domain, context.bpp_id) == ("demand-flexibility", "bpp.example")
        verb = self.dialect.verb(callback.action)
        if verb == "on_discover":
            return self.dialect.parse_offers(
                document["message"], None, bpp_id="bpp.example", bpp_uri="http://bpp/beckn"
            )
        return self.dialect.parse_reply(verb, document["message"], None)

    async def view(self, verb, message):
        (callback,) = await self.ask(verb, message)
        return self.read(callback)


async def _story(seller, dialect):
    """What a buyer hears from discover to completion; ids that differ from run to run are left out."""
    buyer, wanted = Buyer(seller, dialect), terms()
    heard = []
    (discovered,) = await buyer.ask(
        "discover",
        dialect.discover_message("FDR_001", Direction.REDUCE, 20.0, wanted.window_start, wanted.window_end),
    )
    assert discovered.action == dialect.action("on_discover")
    heard.append(buyer.read(discovered))
    view = await buyer.view("select", dialect.select_message(wanted))
    heard.append(view)
    view = await buyer.view("init", dialect.init_message(wanted, view))
    heard.append(view)
    view = await buyer.view("confirm", dialect.confirm_message(wanted, view))
    assert view.status is ContractStatus.ACTIVE
    heard.append(view)
    _, pushes = await seller.set_event_time(wanted.window_end)
    heard += [buyer.read(push) for push in pushes if push.transaction_id == buyer.transaction_id]
    heard.append(await buyer.view("status", dialect.status_message(wanted, view.contract_id)))
    assert heard[-1].status is ContractStatus.COMPLETE
    return [
        msgspec.structs.replace(each, contract_id=None) if hasattr(each, "contract_id") else each
        for each in heard
    ]


@pytest.fixture
async def twin(tmp_path):
    ledger = Ledger(tmp_path / "twin")
    yield Seller(
        subscriber_id="bpp.example",
        uri="http://bpp/beckn",
        catalogue=catalogue(),
        ledger=ledger,
        clock=Wall(),
        seed=1,
    )
    await ledger.close()


async def test_story__is_the_same_in_both_generations(seller, twin):
    new = await _story(seller, DIALECTS[Generation.V2])
    old = await _story(twin, DIALECTS[Generation.V1])
    assert len(new) == len(old) == 7
    assert new == old
    assert new[-1].performance[0].intervals


async def test_callbacks__are_chained_only_where_the_generation_has_that(seller):
    for dialect in DIALECTS.values():
        (callback,) = await Buyer(seller, dialect).ask("select", dialect.select_message(terms()))
        assert (callback.request_signature is not None) == dialect.chains_callbacks


async def test_pushes__are_in_the_generation_of_their_contract(seller):
    sent = {}
    for kw, dialect in zip((10.0, 20.0), DIALECTS.values(), strict=True):
        buyer, wanted = Buyer(seller, dialect), terms(("der:alpha:000001", kw))
        view = await buyer.view("init", dialect.init_message(wanted, _quoted(wanted)))
        await buyer.ask("confirm", dialect.confirm_message(wanted, view))
        sent[buyer.transaction_id] = buyer
    _, pushes = await seller.set_event_time(START)
    assert len(pushes) == 2
    for push in pushes:
        assert sent[push.transaction_id].read(push).status is ContractStatus.ACTIVE


def _quoted(wanted):
    """A view that says nothing yet."""
    dialect = DIALECTS[Generation.V1]
    return dialect.parse_reply("on_select", dialect.select_message(wanted), None)


async def test_status__in_v1_of_an_order_nobody_knows_is_refused_by_its_place(seller):
    dialect = DIALECTS[Generation.V1]
    buyer, wanted = Buyer(seller, dialect), terms()
    view = await buyer.view("init", dialect.init_message(wanted, _quoted(wanted)))
    assert view.contract_id is not None
    with pytest.raises(BecknRefusal) as refused:
        await buyer.ask("status", dialect.status_message(wanted, "another"))
    assert (refused.value.code, refused.value.path) == ("BIZ_CONTRACT_NOT_FOUND", "/message/order_id")
    with pytest.raises(BecknRefusal) as refused:
        await Buyer(seller, dialect).ask("cancel", dialect.cancel_message(wanted, view.contract_id, "no"))
    assert refused.value.path == "/context/transaction_id"


async def test_confirm__of_other_terms_is_refused_by_its_place(seller):
    for dialect, path in (
        (DIALECTS[Generation.V2], "/message/contract/commitments"),
        (DIALECTS[Generation.V1], "/message/order/items"),
    ):
        buyer, wanted = Buyer(seller, dialect), terms()
        view = await buyer.view("init", dialect.init_message(wanted, _quoted(wanted)))
        other = msgspec.structs.replace(wanted, window_end=wanted.window_end + HOUR)
        view = msgspec.structs.replace(view, window_end=None)
        with pytest.raises(BecknRefusal) as refused:
            await buyer.ask("confirm", dialect.confirm_message(other, view))
        assert (refused.value.code, refused.value.path) == ("BIZ_CONTRACT_MISMATCH", path)
