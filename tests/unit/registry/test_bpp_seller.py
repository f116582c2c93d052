import sqlite3
from datetime import datetime, timedelta
from uuid import uuid4

import msgspec
import pytest
from bpp_samples import HOUR, START, catalogue, der_document, terms

from gateway.beckn import v2
from gateway.beckn.envelope import Context, encode
from gateway.beckn.resolver import Participant, StaticKeys
from gateway.beckn.schema import MessageSchemas
from gateway.beckn.signing import Signer, generate_private_key
from gateway.beckn.verify import verify_inbound
from gateway.errors import BecknRefusal, StoreError
from gateway.types import ContractStatus, Direction, PerformanceStatus
from registry.bpp import seller as seller_module
from registry.bpp.seller import Seller, TimeReversed
from registry.bpp.storage import Ledger

BUYER = Signer.from_private(generate_private_key(), "bap.example", "k1")
SCHEMAS = MessageSchemas.load()


class SteppingClock:
    def __init__(self, at) -> None:
        self.at = at

    def __call__(self) -> datetime:
        return self.at


@pytest.fixture
def wall():
    return SteppingClock(START)


@pytest.fixture
async def opened(tmp_path, wall):
    """Opens sellers on one folder, one after the other; closes the last."""
    ledgers = []

    async def open_seller(*ders: dict[str, object]):
        if ledgers:
            await ledgers[-1].close()
        ledgers.append(Ledger(tmp_path))
        return Seller(
            subscriber_id="bpp.example",
            uri="http://bpp/beckn",
            catalogue=catalogue(*ders),
            ledger=ledgers[-1],
            clock=wall,
            seed=1,
        )

    yield open_seller
    await ledgers[-1].close()


async def verified(action, message, transaction_id, wall, message_id=None):
    context = Context(
        action=action,
        bap_id="bap.example",
        bap_uri="http://bap/beckn",
        bpp_id="bpp.example",
        bpp_uri="http://bpp/beckn",
        transaction_id=transaction_id,
        message_id=message_id or str(uuid4()),
        timestamp=wall(),
    )
    body = encode(context, message)
    keys = StaticKeys(
        [
            Participant(
                subscriber_id="bap.example",
                key_id="k1",
                url="http://bap/beckn",
                type="BAP",
                signing_public_key=BUYER.public_key,
                status="SUBSCRIBED",
            )
        ],
        wall,
    )
    return await verify_inbound(
        action=action,
        body=body,
        headers={"Authorization": BUYER.authorization(body, now=wall())},
        resolver=keys,
        schemas=SCHEMAS,
        own_id="bpp.example",
        role="bpp",
        now=wall(),
    )


def read(callback):
    document = msgspec.json.decode(callback.body)
    assert SCHEMAS.faults(callback.action, document) == ()
    return document["message"]


def view(callback):
    return v2.parse_contract(read(callback))


class Trade:
    """One transaction with a seller, step by step."""

    def __init__(self, seller, wall, wanted=None) -> None:
        self.seller, self.wall, self.terms = seller, wall, wanted or terms()
        self.transaction_id = str(uuid4())
        self.view = None

    async def step(self, action, message_id=None):
        build = {
            "select": lambda: v2.select_message(self.terms),
            "init": lambda: v2.init_message(self.terms, self.view),
            "confirm": lambda: v2.confirm_message(self.terms, self.view),
            "status": lambda: v2.status_message(self.terms, self.view.contract_id),
            "cancel": lambda: v2.cancel_message(self.terms, self.view.contract_id, "no need"),
        }[action]
        message = await verified(action, build(), self.transaction_id, self.wall, message_id)
        callbacks = await self.seller.take(message)
        if callbacks:
            self.view = view(callbacks[0])
        return callbacks

    async def steps(self, *actions: str):
        for action in actions:
            callbacks = await self.step(action)
        return callbacks


async def test_a_confirmed_contract_survives_with_what_is_owed(opened, wall):
    trade = Trade(await opened(), wall)
    await trade.seller.set_event_time(START)
    callbacks = await trade.steps("select", "init", "confirm")
    assert [each.action for each in callbacks] == ["on_confirm", "on_status"]
    assert callbacks[0].request_signature is not None
    assert callbacks[1].request_signature is None

    trade.seller = await opened()
    assert trade.seller.owed == callbacks
    assert trade.seller.event_now() == START
    confirmed = trade.view
    await trade.step("status")
    assert trade.view.contract_id == confirmed.contract_id
    assert [each.status for each in trade.view.performance] == [PerformanceStatus.IN_PROGRESS]
    relief, told = await trade.seller.set_event_time(START + HOUR)
    assert relief["FDR_001"] == pytest.approx(20, rel=0.1)
    assert view(told[0]).status is ContractStatus.COMPLETE


async def test_a_draft_of_a_former_life_can_be_confirmed(opened, wall):
    trade = Trade(await opened(), wall)
    await trade.steps("select", "init")
    drafted = trade.view
    trade.seller = await opened()
    await trade.step("confirm")
    assert trade.view.status is ContractStatus.ACTIVE
    assert trade.view.contract_id == drafted.contract_id


async def test_a_message_taken_in_a_former_life_has_no_second_effect(opened, wall):
    trade = Trade(await opened(), wall)
    await trade.steps("select", "init")
    message_id = str(uuid4())
    assert await trade.step("confirm", message_id)
    confirmed = trade.view
    trade.view = msgspec.structs.replace(confirmed, status=ContractStatus.DRAFT)
    trade.seller = await opened()
    with pytest.raises(BecknRefusal) as caught:
        await trade.step("cancel", message_id)
    assert caught.value.code == "CTX_MESSAGE_ID_DUPLICATE"
    await trade.step("status")
    assert trade.view.status is ContractStatus.ACTIVE


async def test_confirm__without_an_init_is_refused(opened, wall):
    trade = Trade(await opened(), wall)
    await trade.step("select")
    with pytest.raises(BecknRefusal) as caught:
        await trade.step("confirm")
    assert caught.value.code == "CTX_TRANSACTION_ID_UNKNOWN"
    trade.view = msgspec.structs.replace(trade.view, contract_id=str(uuid4()))
    with pytest.raises(BecknRefusal):
        await trade.step("confirm")


async def test_status__of_another_contract_is_refused(opened, wall):
    trade = Trade(await opened(), wall)
    await trade.steps("select", "init")
    trade.view = msgspec.structs.replace(trade.view, contract_id=str(uuid4()))
    with pytest.raises(BecknRefusal) as caught:
        await trade.step("status")
    assert (caught.value.code, caught.value.path) == ("BIZ_CONTRACT_NOT_FOUND", "/message/contract/id")


async def test_init__may_be_repeated_with_other_terms_until_confirmed(opened, wall):
    trade = Trade(await opened(), wall)
    await trade.steps("select", "init")
    first = trade.view
    trade.terms = msgspec.structs.replace(trade.terms, lines=terms(("der:alpha:000001", 10.0)).lines)
    await trade.step("init")
    assert (trade.view.contract_id, trade.view.lines[0].committed_kw) == (first.contract_id, 10.0)
    await trade.step("confirm")
    await trade.step("init")
    assert trade.view.status is ContractStatus.ACTIVE


async def test_discover__without_a_direction_lists_both_ways(opened, wall):
    seller = await opened(der_document(), der_document(der_id="d2", direction="REDUCE"))
    message = await verified("discover", {"intent": {"textSearch": "flexibility"}}, str(uuid4()), wall)
    (callback,) = await seller.take(message)
    offers = v2.parse_on_discover(read(callback))
    assert [(each.ders[0].direction, len(each.ders)) for each in offers] == [
        (Direction.REDUCE, 2),
        (Direction.INCREASE, 1),
    ]


async def test_discover__of_a_feeder_without_ders_is_answered_with_nothing(opened, wall):
    seller = await opened()
    ask = v2.discover_message("FDR_999", Direction.REDUCE, 5.0, START, START + HOUR)
    (callback,) = await seller.take(await verified("discover", ask, str(uuid4()), wall))
    assert read(callback) == {"catalogs": []}


async def test_memory__after_a_failure_nothing_more_is_taken(opened, wall, monkeypatch):
    trade = Trade(await opened(), wall)
    await trade.steps("select", "init")

    def fail(*_args: object) -> None:
        raise sqlite3.OperationalError("disk I/O error")

    monkeypatch.setattr(trade.seller._ledger, "_commit", fail)
    with pytest.raises(StoreError, match="disk I/O error"):
        await trade.step("confirm")
    monkeypatch.undo()
    assert trade.seller.broken is not None
    with pytest.raises(StoreError, match="memory failed"):
        await trade.step("select")
    with pytest.raises(StoreError):
        await trade.seller.set_event_time(START)


async def test_drafts_nobody_confirms_are_forgotten(opened, wall, monkeypatch):
    monkeypatch.setattr(seller_module, "MAX_DRAFTS", 2)
    seller = await opened()
    trades = [Trade(seller, wall) for _ in range(4)]
    for trade in trades:
        await trade.steps("select", "init")
    kept = {each["contract_id"] for each in seller.state()["contracts"]}
    assert kept == {trade.view.contract_id for trade in trades[2:]}


async def test_event_time__is_wall_time_until_it_is_driven(opened, wall):
    trade = Trade(await opened(), wall)
    wall.at = START - HOUR
    await trade.steps("select", "init", "confirm")
    assert await trade.seller.follow_wall_time() == ()
    wall.at = START + timedelta(minutes=1)
    (started,) = await trade.seller.follow_wall_time()
    assert view(started).performance[0].status is PerformanceStatus.IN_PROGRESS
    assert await trade.seller.follow_wall_time() == ()
    wall.at = START + HOUR
    (done,) = await trade.seller.follow_wall_time()
    assert view(done).status is ContractStatus.COMPLETE
    assert len({started.message_id, done.message_id, trade.transaction_id}) == 3


async def test_event_time__once_driven_is_no_longer_the_walls(opened, wall):
    seller = await opened()
    long_ago = START - timedelta(days=2000)
    relief, _ = await seller.set_event_time(long_ago)
    assert relief == {"FDR_001": 0.0}
    wall.at = START + HOUR
    assert seller.event_now() == long_ago
    assert await seller.follow_wall_time() == ()
    with pytest.raises(TimeReversed):
        await seller.set_event_time(long_ago - HOUR)


async def test_relief__adds_up_to_what_the_meter_reads(opened, wall):
    hvac = {"comfort_min": 30, "rebound_fraction": 0.5, "rebound_min": 30}
    der = der_document(type="HVAC", hvac=hvac, response_time_s=300, ramp_kw_per_min=4.0)
    wanted = terms(offer_id="alpha:FDR_001:HVAC:REDUCE:0.31")
    trade = Trade(await opened(der), wall, wanted)
    await trade.seller.set_event_time(START)
    await trade.steps("select", "init", "confirm")
    kwh = []
    for quarter in range(1, 9):
        relief, told = await trade.seller.set_event_time(START + quarter * timedelta(minutes=15))
        kwh.append(relief["FDR_001"] / 4)
        if told:
            trade.view = view(told[-1])
    metered_wh = [each.usage_wh for each in trade.view.performance[0].intervals]
    assert [round(-1000 * each) for each in kwh[:4]] == metered_wh
    assert kwh[4] < 0
    assert sum(kwh[4:]) == pytest.approx(-0.5 * sum(kwh[:4]))
    assert kwh[6:] == [0, 0]


async def test_relief__is_the_same_for_the_same_instant_told_twice(opened, wall):
    trade = Trade(await opened(), wall)
    await trade.seller.set_event_time(START)
    await trade.steps("select", "init", "confirm")
    first = await trade.seller.set_event_time(START + HOUR)
    assert first[0]["FDR_001"] > 10
    assert len(first[1]) == 1
    assert await trade.seller.set_event_time(START + HOUR) == (first[0], ())
