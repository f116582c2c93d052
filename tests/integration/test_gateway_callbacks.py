"""Callbacks over HTTP: what is refused, with which words, and that a refusal changes nothing at all.

An order waits for its on_select, which the seller holds back. The true callback is changed in one respect
at a time; at the end it is accepted as it is, so nothing else was wrong with it.
"""

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from dataclasses import dataclass
from datetime import timedelta
from itertools import count
from typing import Any
from uuid import uuid4

import pytest
import pytest_asyncio
from harness import (
    EVENING,
    GATEWAY_ID,
    SLOT,
    Answer,
    Bystander,
    Network,
    ScriptedSeller,
    eventually,
    network,
    scripted_seller,
)

from gateway.beckn import v2
from gateway.beckn.signing import (
    Signer,
    bare_signature,
    digest,
    generate_private_key,
    parse_authorization,
    verify_signature,
)
from gateway.beckn.verify import VerifiedMessage
from gateway.clock import utc_now
from gateway.types import ContractStatus

pytestmark = [pytest.mark.slow, pytest.mark.asyncio(loop_scope="module")]

_numbers = count(1)


@dataclass
class Market:
    """A gateway that waits patiently, the seller it trades with, and others."""

    net: Network
    seller: ScriptedSeller
    other: Bystander
    buyer: Bystander
    stranger: Bystander

    async def snapshot(self) -> dict[str, Any]:
        return await asyncio.to_thread(self.net.snapshot)

    async def settled(self) -> dict[str, Any]:
        """What is stored, once nothing is under way any more."""

        async def same() -> dict[str, Any] | None:
            before = await self.snapshot()
            await asyncio.sleep(0.3)
            return before if await self.snapshot() == before else None

        return await eventually(same, "the gateway comes to rest")

    async def post(self, action: str, body: bytes, headers: dict[str, str]) -> Answer:
        return await self.net.ask("POST", f"/beckn/{action}", body, token=None, headers=headers)

    async def waiting_order(self) -> "Waiting":
        """An order whose SELECT has been acknowledged and whose on_select is held back."""
        feeder_id = f"FDR_{next(_numbers):03d}"
        self.seller.hold("select")
        await self.net.overload(feeder_id)
        order = await self.net.order_in(feeder_id, "SELECTING")
        request = await self.seller.request("select", order["transaction_id"])
        return Waiting(self, feeder_id, order, request)


@dataclass
class Waiting:
    """An order that waits, and the means to answer it in many ways."""

    market: Market
    feeder_id: str
    order: dict[str, Any]
    request: VerifiedMessage

    @property
    def seller(self) -> ScriptedSeller:
        return self.market.seller

    def body(self, **context: Any) -> bytes:
        """The true callback, with other members in its context."""
        return self.seller.answer(self.request, **context)

    def header(self, body: bytes, *, signer: Signer | None = None, **times: Any) -> str:
        """The true signature, or another's, or of another time."""
        return (signer or self.seller.signer).authorization(
            body, **{"now": utc_now(), "request_signature": self.request.signature, **times}
        )

    async def post(self, body: bytes, header: str | None, *, action: str = "on_select") -> Answer:
        headers = {} if header is None else {"Authorization": header}
        return await self.market.post(action, body, headers)


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def market(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Market]:
    async with AsyncExitStack() as stack:
        net = await stack.enter_async_context(
            network(tmp_path_factory.mktemp("callbacks") / "data", gateway=False, callback_timeout_s=600)
        )
        seller = await stack.enter_async_context(scripted_seller(net, "bpp-alpha.example"))
        others = [
            Bystander(name, net.layout.registry.url)
            for name in ("bpp-bravo.example", "bap-other.example", "bpp-stranger.example")
        ]
        for one in others:
            stack.push_async_callback(one.close)
        other, buyer, stranger = others
        # It serves a feeder nobody asks about, so that it is never traded with.
        await other.register(serves=["FDR_999"])
        await buyer.register("BAP")
        await net.start_gateway()
        yield Market(net, seller, other, buyer, stranger)


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def waiting(market: Market) -> Waiting:
    """The order that every refused callback is about; nothing ever moves it."""
    found = await market.waiting_order()
    await market.settled()
    return found


async def refused(
    market: Market, answer: Answer, before: Any, status: int, code: str, *, path: str | None = None
) -> str:
    """A Nack with a reason and our signature came back, and the store is as it was; gives the reason."""
    assert (answer.status, answer.json["message"]["status"]) == (status, "NACK"), answer
    error = answer.json["message"]["error"]
    assert error["code"] == code, error
    assert error.get("details", {}).get("path") == path, error
    assert ("www-authenticate" in answer.headers) == (status == 401)
    signature = parse_authorization(answer.headers["signature"])
    key = await market.seller.registry.key(signature.subscriber_id, signature.key_id)
    assert key is not None
    assert key.subscriber_id == GATEWAY_ID
    assert await market.snapshot() == before
    reason: str = error["message"]
    assert reason
    return reason


# --- who says it ----------------------------------------------------------------------------------------


async def test_unsigned(waiting):
    before = await waiting.market.snapshot()
    answer = await waiting.post(waiting.body(), None)
    reason = await refused(waiting.market, answer, before, 401, "AUT_SIGNATURE_MISSING")
    assert "Authorization" in reason
    assert answer.json["message"]["messageId"] == waiting.request.context.message_id


@pytest.mark.parametrize(
    ("header", "code"),
    [
        ("Bearer abc", "AUT_SIGNATURE_MISSING"),
        ("Signature", "AUT_SIGNATURE_MISSING"),
        ('Signature keyId="a|b|ed25519"', "AUT_SIGNATURE_INVALID"),
    ],
)
async def test_header_that_is_no_signature(waiting, header, code):
    before = await waiting.market.snapshot()
    await refused(waiting.market, await waiting.post(waiting.body(), header), before, 401, code)


async def test_signed_with_another_key_under_the_sellers_name(waiting):
    before = await waiting.market.snapshot()
    forger = Signer.from_private(
        generate_private_key(), waiting.seller.subscriber_id, waiting.seller.signer.key_id
    )
    body = waiting.body()
    answer = await waiting.post(body, waiting.header(body, signer=forger))
    await refused(waiting.market, answer, before, 401, "AUT_SIGNATURE_INVALID")


async def test_body_changed_by_one_byte_after_signing(waiting):
    before = await waiting.market.snapshot()
    body = waiting.body()
    header = waiting.header(body)
    for at in (0, body.index(b'"0.30"') + 1, len(body) // 2, len(body) - 1):
        changed = bytearray(body)
        changed[at] ^= 1
        answer = await waiting.post(bytes(changed), header)
        await refused(waiting.market, answer, before, 401, "AUT_SIGNATURE_INVALID")


@pytest.mark.parametrize(
    ("age_s", "words"), [(600, "has expired"), (-60, "was created in the future"), (301, "has expired")]
)
async def test_signature_of_another_time(waiting, age_s, words):
    before = await waiting.market.snapshot()
    body = waiting.body()
    answer = await waiting.post(body, waiting.header(body, now=utc_now() - timedelta(seconds=age_s)))
    reason = await refused(waiting.market, answer, before, 401, "AUT_SIGNATURE_INVALID")
    assert words in reason


async def test_signature_that_lives_for_days(waiting):
    before = await waiting.market.snapshot()
    body = waiting.body()
    answer = await waiting.post(body, waiting.header(body, ttl_s=86_400))
    await refused(waiting.market, answer, before, 401, "AUT_SIGNATURE_INVALID")


async def test_message_past_its_ttl_under_a_fresh_signature(waiting):
    before = await waiting.market.snapshot()
    body = waiting.body(timestamp=utc_now() - timedelta(minutes=2), ttl="PT30S")
    answer = await waiting.post(body, waiting.header(body))
    await refused(waiting.market, answer, before, 400, "CTX_TTL_EXPIRED", path="/context/ttl")


async def test_other_seller_answers_in_its_own_name(waiting):
    before = await waiting.market.snapshot()
    other = waiting.market.other
    body = waiting.body(bpp_id=other.subscriber_id, bpp_uri=other.uri)
    answer = await waiting.post(body, waiting.header(body, signer=other.signer))
    reason = await refused(
        waiting.market, answer, before, 401, "AUT_UNAUTHORIZED_ACTION", path="/context/bppId"
    )
    assert "the request went to bpp-alpha.example" in reason


async def test_other_seller_answers_in_the_sellers_name(waiting):
    before = await waiting.market.snapshot()
    body = waiting.body()
    answer = await waiting.post(body, waiting.header(body, signer=waiting.market.other.signer))
    reason = await refused(
        waiting.market, answer, before, 401, "AUT_UNAUTHORIZED_ACTION", path="/context/bppId"
    )
    assert "signed by bpp-bravo.example" in reason


async def test_buyer_answers_as_if_it_were_a_seller(waiting):
    before = await waiting.market.snapshot()
    buyer = waiting.market.buyer
    body = waiting.body(bpp_id=buyer.subscriber_id)
    answer = await waiting.post(body, waiting.header(body, signer=buyer.signer))
    await refused(waiting.market, answer, before, 401, "AUT_UNAUTHORIZED_ACTION", path="/context/bppId")


async def test_signer_no_registry_knows(waiting):
    before = await waiting.market.snapshot()
    stranger = waiting.market.stranger
    body = waiting.body(bpp_id=stranger.subscriber_id)
    answer = await waiting.post(body, waiting.header(body, signer=stranger.signer))
    await refused(waiting.market, answer, before, 401, "AUT_SUBSCRIBER_NOT_FOUND")


async def test_chained_to_a_request_we_did_not_make(waiting):
    before = await waiting.market.snapshot()
    body = waiting.body()
    answer = await waiting.post(body, waiting.header(body, request_signature="QUJD"))
    await refused(waiting.market, answer, before, 401, "AUT_SIGNATURE_INVALID")


async def test_second_signature_behind_the_first(waiting):
    before = await waiting.market.snapshot()
    body = waiting.body()
    url = f"{waiting.market.net.url}/beckn/on_select"
    signatures = [waiting.header(body), 'Signature keyId="x"']
    for pair in (signatures, signatures[::-1]):
        headers = [("Content-Type", "application/json"), *(("Authorization", one) for one in pair)]
        async with waiting.market.net.http.post(url, data=body, headers=headers) as response:
            answer = Answer(
                response.status,
                {name.lower(): value for name, value in response.headers.items()},
                await response.read(),
            )
        await refused(waiting.market, answer, before, 401, "AUT_SIGNATURE_INVALID")


# --- what it says ---------------------------------------------------------------------------------------


async def test_not_json(waiting):
    before = await waiting.market.snapshot()
    for body in (b"", b"{", b"[]", b'{"context": {}, "context": {}, "message": {}}', b"\xff"):
        answer = await waiting.post(body, waiting.header(body, request_signature=None))
        assert (answer.status, answer.json["message"]["status"]) == (400, "NACK"), (body, answer)
        assert await waiting.market.snapshot() == before


async def test_invalid_against_the_schema__names_the_place(waiting):
    before = await waiting.market.snapshot()
    document = json.loads(waiting.body())
    document["message"]["contract"]["status"]["code"] = "MAYBE"
    document["message"]["contract"]["commitments"][0]["resources"] = "none"
    body = json.dumps(document).encode()
    answer = await waiting.post(body, waiting.header(body))
    error = answer.json["message"]["error"]
    assert (answer.status, error["code"][:4]) == (400, "SCH_")
    assert set(error["details"]["path"].split(";")) == {
        "/message/contract/status/code",
        "/message/contract/commitments/0/resources",
    }
    assert await waiting.market.snapshot() == before


async def test_posted_to_another_path_than_it_says(waiting):
    before = await waiting.market.snapshot()
    body = waiting.body()
    answer = await waiting.post(body, waiting.header(body), action="on_init")
    await refused(waiting.market, answer, before, 400, "CTX_ACTION_MISMATCH", path="/context/action")


@pytest.mark.parametrize("action", ["select", "on_everything"])
async def test_action_that_is_not_served_here(waiting, action):
    before = await waiting.market.snapshot()
    body = waiting.body(action=action)
    answer = await waiting.post(body, waiting.header(body), action=action)
    await refused(waiting.market, answer, before, 400, "NET_NOT_IMPLEMENTED", path="/context/action")


async def test_answer_to_a_request_of_another_action(waiting):
    before = await waiting.market.snapshot()
    body = waiting.body(action="on_init")
    answer = await waiting.post(body, waiting.header(body), action="on_init")
    await refused(waiting.market, answer, before, 400, "CTX_ACTION_MISMATCH", path="/context/action")


async def test_answer_to_no_request_of_ours(waiting):
    before = await waiting.market.snapshot()
    body = waiting.body(message_id=str(uuid4()))
    answer = await waiting.post(body, waiting.header(body, request_signature=None))
    await refused(waiting.market, answer, before, 400, "CTX_MESSAGE_ID_UNKNOWN", path="/context/messageId")


async def test_answer_in_another_transaction(waiting):
    before = await waiting.market.snapshot()
    body = waiting.body(transaction_id=str(uuid4()))
    answer = await waiting.post(body, waiting.header(body))
    await refused(
        waiting.market, answer, before, 400, "CTX_TRANSACTION_ID_UNKNOWN", path="/context/transactionId"
    )


async def test_meant_for_another_buyer(waiting):
    before = await waiting.market.snapshot()
    body = waiting.body(bap_id=waiting.market.buyer.subscriber_id)
    answer = await waiting.post(body, waiting.header(body))
    await refused(waiting.market, answer, before, 400, "CTX_INVALID_FIELD", path="/context/bapId")


async def test_in_a_version_we_did_not_ask_in(waiting):
    before = await waiting.market.snapshot()
    body = waiting.body().replace(b'"version":"2.0.0"', b'"version":"3.0.0"')
    answer = await waiting.post(body, waiting.header(body))
    await refused(waiting.market, answer, before, 400, "CTX_VERSION_UNSUPPORTED", path="/context/version")


async def test_larger_than_is_read(waiting):
    before = await waiting.market.snapshot()
    body = waiting.body() + b" " * (1024 * 1024)
    answer = await waiting.post(body, waiting.header(body))
    await refused(waiting.market, answer, before, 413, "SCH_SCHEMA_VALIDATION_FAILED")


async def test_catalogue_of_other_sellers_offers(waiting):
    seller, market = waiting.seller, waiting.market
    request = seller.of("discover")[-1]
    before = await market.snapshot()
    message = seller.speak(request)
    message["catalogs"][0]["bppId"] = market.other.subscriber_id
    body = seller.answer(request, message, timestamp=utc_now() + timedelta(seconds=1))
    answer = await market.post(
        "on_discover",
        body,
        {"Authorization": seller.signer.authorization(body, now=utc_now())},
    )
    await refused(market, answer, before, 401, "AUT_UNAUTHORIZED_ACTION", path="/message/catalogs")


# --- what is taken --------------------------------------------------------------------------------------


async def test_true_callback__is_acknowledged_with_a_chained_signature_and_moves_the_order(market):
    order = await market.waiting_order()
    body = order.body()
    header = order.header(body)
    answer = await order.post(body, header)
    message_id = order.request.context.message_id
    assert (answer.status, answer.json) == (200, {"message": {"status": "ACK", "messageId": message_id}})
    key = await market.seller.registry.key(*_signer_of(answer))
    assert key is not None
    variant = verify_signature(
        parse_authorization(answer.headers["signature"]),
        digest(answer.body),
        key.public_key,
        [(bare_signature(header), header)],
    )
    assert (key.subscriber_id, variant) == (GATEWAY_ID, "4-line-bare")
    confirmed = await market.net.order_in(order.feeder_id, "CONFIRMED")
    assert confirmed["detection_to_confirm_ms"] > 0


@pytest.mark.parametrize("chained", [True, False], ids=["four lines", "three lines"])
async def test_same_bytes_again__are_acknowledged_again_without_effect(market, chained):
    order = await market.waiting_order()
    body = order.body()
    header = order.header(body, **({} if chained else {"request_signature": None}))
    first = await order.post(body, header)
    await market.net.order_in(order.feeder_id, "CONFIRMED")
    before = await market.settled()
    for again in (header, order.header(body)):
        answer = await order.post(body, again)
        assert (answer.status, answer.body) == (200, first.body)
    assert await market.snapshot() == before


async def test_same_bytes_at_the_same_time__have_one_effect(market):
    order = await market.waiting_order()
    body = order.body()
    answers = await asyncio.gather(*(order.post(body, order.header(body)) for _ in range(5)))
    assert {(answer.status, answer.body) for answer in answers} == {(200, answers[0].body)}
    await market.net.order_in(order.feeder_id, "CONFIRMED")
    transaction_id = order.order["transaction_id"]
    for action in ("on_select", "init"):
        assert len(await asyncio.to_thread(market.net.contexts, action, transaction_id)) == 1


async def finished_order(market: Market) -> Waiting:
    """An order that has been delivered and settled."""
    order = await market.waiting_order()
    market.seller.release("select")
    shown = await market.net.order_in(order.feeder_id, "CONFIRMED")
    market.seller.finished = True
    try:
        await market.net.let_pass(order.feeder_id, EVENING + SLOT, EVENING + 5 * SLOT)
        order.order = await market.net.order_in(order.feeder_id, "COMPLETED")
    finally:
        market.seller.finished = False
    assert order.order["delivered_kwh"] == shown["requested_kwh"]
    return order


async def test_late_on_select__cannot_move_a_finished_order(market):
    order = await finished_order(market)
    before = await market.settled()
    body = order.body(timestamp=utc_now() + timedelta(seconds=1))
    answer = await order.post(body, order.header(body))
    # It is a true answer to a request of ours: kept as evidence, without effect.
    assert answer.status == 200
    after = await market.settled()
    unchanged = {name: rows for name, rows in after.items() if rows == before[name]}
    assert set(before) - set(unchanged) == {"inbox", "journal_entry", "journal_head", "payload"}
    kinds = [row.kind for row in after["journal_entry"][len(before["journal_entry"]) :]]
    assert kinds == ["beckn.received", "order.ignored"]


@pytest.mark.parametrize("action", ["on_status", "on_update", "on_cancel"])
async def test_unasked_word_of_another_seller_about_an_order(market, action):
    order = await market.waiting_order()
    market.seller.release("select")
    await market.net.order_in(order.feeder_id, "CONFIRMED")
    before = await market.settled()
    terms, _ = v2.parse_order(order.request.message)
    view = market.seller.view(terms, "status", transaction_id=order.order["transaction_id"])
    message = v2.contract_message(terms, view)
    other = market.other
    body = market.seller.body(
        action, message, request=order.request, bpp_id=other.subscriber_id, bpp_uri=other.uri
    )
    answer = await order.post(
        body, order.header(body, signer=other.signer, request_signature=None), action=action
    )
    await refused(market, answer, before, 400, "CTX_TRANSACTION_ID_UNKNOWN", path="/context/transactionId")


async def test_unasked_word_about_a_finished_order(market):
    order = await finished_order(market)
    before = await market.settled()
    terms, _ = v2.parse_order(order.request.message)
    view = market.seller.view(terms, "status", transaction_id=order.order["transaction_id"])
    body = market.seller.body("on_status", v2.contract_message(terms, view), request=order.request)
    answer = await order.post(body, order.header(body, request_signature=None), action="on_status")
    await refused(market, answer, before, 400, "CTX_TRANSACTION_ID_UNKNOWN", path="/context/transactionId")


async def test_unasked_cancellation_by_the_seller__ends_the_order_with_an_alarm(market):
    order = await market.waiting_order()
    market.seller.release("select")
    await market.net.order_in(order.feeder_id, "CONFIRMED")
    terms, _ = v2.parse_order(order.request.message)
    view = market.seller.view(terms, "cancel", transaction_id=order.order["transaction_id"])
    assert view.status is ContractStatus.CANCELLED
    body = market.seller.body("on_cancel", v2.contract_message(terms, view), request=order.request)
    answer = await order.post(body, order.header(body, request_signature=None), action="on_cancel")
    assert answer.status == 200
    assert (await market.net.order_in(order.feeder_id, "FAILED"))["open"] is False
    alarms = [
        one
        for one in await market.net.alarms("order_cancelled_by_seller")
        if one["feeder_id"] == order.feeder_id
    ]
    assert len(alarms) == 1


async def test_after_all_refusals__the_true_callback_is_taken_and_the_journal_verifies(waiting):
    shown = (await waiting.market.net.orders(waiting.feeder_id))[0]
    assert (shown["state"], len(shown["moves"])) == ("SELECTING", 1)
    body = waiting.body()
    assert (await waiting.post(body, waiting.header(body))).status == 200
    await waiting.market.net.order_in(waiting.feeder_id, "CONFIRMED")
    assert await asyncio.to_thread(waiting.market.net.verify) > 0
    metrics = (await waiting.market.net.ask("GET", "/metrics", token=None)).body.decode()
    assert 'fluxeon_beckn_refused_total{action="on_select",code="AUT_SIGNATURE_INVALID"}' in metrics


def _signer_of(answer: Answer) -> tuple[str, str]:
    parsed = parse_authorization(answer.headers["signature"])
    return parsed.subscriber_id, parsed.key_id
