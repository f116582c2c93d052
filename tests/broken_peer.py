"""Sellers and buyers with one named defect each, to try the conformance suite on.

Both are right where no defect says otherwise: they verify with our own checks and then forgive, or answer,
or act wrongly, as the defect has it.
"""

import asyncio
import contextlib
import json
import logging
from collections import defaultdict
from datetime import timedelta
from uuid import uuid4

import msgspec
from aiohttp import web

from gateway.beckn import v2
from gateway.beckn.client import BecknClient
from gateway.beckn.envelope import Context, ack_body, encode, nack_body, parse_context
from gateway.beckn.resolver import Participant, RegistryClient
from gateway.beckn.schema import MessageSchemas
from gateway.beckn.signing import Signer, bare_signature, digest, generate_private_key, parse_authorization
from gateway.beckn.verify import VerifiedMessage, challenge_headers, claimed_message_id, verify_inbound
from gateway.clock import utc_now
from gateway.errors import BecknRefusal, PeerUnavailable
from gateway.types import Direction, OrderLine, OrderTerms
from registry.bpp.catalogue import Catalogue
from registry.bpp.portfolio import load_portfolio
from registry.bpp.seller import Seller
from registry.bpp.storage import Ledger

DOMAIN = "demand-flexibility"
log = logging.getLogger("broken_peer")

FORGIVEN = {
    "accepts-unsigned": lambda refusal: refusal.code == "AUT_SIGNATURE_MISSING",
    "ignores-expiry": lambda refusal: "has expired" in refusal.detail,
    "accepts-the-future": lambda refusal: "in the future" in refusal.detail,
    "ignores-the-body-digest": lambda refusal: "does not fit the body" in refusal.detail,
    "trusts-unknown-subscribers": lambda refusal: refusal.code == "AUT_SUBSCRIBER_NOT_FOUND",
    "accepts-the-wrong-subscriber": lambda refusal: "signed by" in refusal.detail,
    "takes-anyone-for-a-peer": lambda refusal: "is registered as" in refusal.detail,
    "ignores-ttl": lambda refusal: refusal.code == "CTX_TTL_EXPIRED",
    "ignores-the-receiver": lambda refusal: "but this is" in refusal.detail,
    "ignores-the-path": lambda refusal: refusal.code == "CTX_ACTION_MISMATCH",
    "ignores-the-schema": lambda refusal: refusal.code.startswith("SCH_") and refusal.path is not None,
    "accepts-a-key-twice": lambda refusal: "is there twice in one object" in refusal.detail,
}
"""Defect -> which refusals it forgives."""


class Peer:
    """What both kinds share: a key, a registration, an endpoint."""

    role = "bpp"

    def __init__(self, defects=()) -> None:
        self.defects = frozenset(defects)
        self.id = f"{self.role}-broken-{uuid4().hex[:8]}.example"
        self.signer = Signer.from_private(generate_private_key(), self.id, "k1")
        self.wrong_signer = Signer.from_private(generate_private_key(), self.id, "k1")
        self.http = BecknClient(utc_now)
        self.schemas = MessageSchemas.load()
        self.sent = defaultdict(list)
        self.tasks = set()
        self.uri = ""

    def has(self, defect):
        return defect in self.defects

    @contextlib.asynccontextmanager
    async def running(self, registry_url):
        app = web.Application(client_max_size=9 * 1024 * 1024)
        app.router.add_post("/beckn/{action}", self.receive)
        runner = web.AppRunner(app, access_log=None)
        await runner.setup()
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        self.uri = f"http://127.0.0.1:{runner.addresses[0][1]}/beckn"
        types = ("BAP",) if self.role == "bpp" else ("BPP",)
        self.registry = RegistryClient(registry_url, self.http, utc_now, peer_types=types)
        self.spawn(self.live())
        try:
            yield self
        finally:
            for task in tuple(self.tasks):
                task.cancel()
            await asyncio.gather(*self.tasks, return_exceptions=True)
            await self.http.close()
            await runner.cleanup()

    def spawn(self, work):
        task = asyncio.get_running_loop().create_task(work)
        self.tasks.add(task)
        task.add_done_callback(self.tasks.discard)

    async def register(self):
        now = utc_now()
        while True:
            with contextlib.suppress(PeerUnavailable):
                return await self.registry.subscribe(
                    self.signer,
                    url=self.uri,
                    type=self.role.upper(),
                    domain=DOMAIN,
                    valid_from=now,
                    valid_until=now + timedelta(hours=1),
                )
            await asyncio.sleep(0.02)

    async def live(self):
        await self.register()

    async def receive(self, request):
        action, body = request.match_info["action"], b""
        headers = {name.lower(): ", ".join(request.headers.getall(name)) for name in request.headers}
        try:
            body = await request.read()
            message, forgiven = await self.verify(action, body, headers)
            try:
                await self.take(message)
            except BecknRefusal:
                if not forgiven:
                    raise
            except Exception:
                log.exception("what was forgiven cannot be used")
        except web.HTTPRequestEntityTooLarge:
            return web.Response(status=413)
        except BecknRefusal as refusal:
            if self.has("acts-on-what-it-refuses"):
                with contextlib.suppress(Exception):
                    await self.take(self.lenient(action, body, headers))
            return self.nack(refusal, body, headers)
        return self.ack(message)

    async def verify(self, action, body, headers):
        if self.has("encodes-json-again"):
            with contextlib.suppress(ValueError):
                body = json.dumps(json.loads(body), separators=(",", ":"), ensure_ascii=False).encode()
        if self.has("caches-signatures") and headers.get("authorization") in self.sent["seen"]:
            return self.lenient(action, body, headers), True
        try:
            message = await verify_inbound(
                action=action,
                body=body,
                headers=headers,
                resolver=self.registry,
                schemas=self.schemas,
                own_id=self.id,
                role=self.role,
                now=utc_now(),
                sent_signatures=lambda message_id: self.sent.get(message_id, ()),
            )
        except BecknRefusal as refusal:
            if any(name in FORGIVEN and FORGIVEN[name](refusal) for name in self.defects):
                return self.lenient(action, body, headers), True
            raise
        self.sent["seen"].append(headers["authorization"])
        return message, False

    def lenient(self, action, body, headers):
        """Believe what the message says of itself."""
        document = json.loads(body)
        context = parse_context(document["context"])
        sender_id = context.bap_id if self.role == "bpp" else context.bpp_id
        return VerifiedMessage(
            action=action if not self.has("ignores-the-path") else context.action,
            context=context,
            message=document.get("message", {}),
            body=body,
            headers=headers,
            sender=Participant(
                subscriber_id=sender_id, key_id="k1", url="", type="BAP", signing_public_key=""
            ),
            signature=_signature(headers) or "",
            variant="3-line",
            digest=digest(body),
        )

    def ack(self, message):
        if self.has("answers-200-without-ack"):
            return web.Response(body=b"{}", content_type="application/json")
        body = ack_body("another" if self.has("acks-another-message") else message.context.message_id)
        headers = {}
        if not self.has("does-not-sign-acks"):
            over = b"other bytes" if self.has("signs-other-ack-bytes") else body
            headers["Signature"] = self.signer.authorization(
                over, now=utc_now(), request_signature=message.signature or None
            )
        return web.Response(body=body, content_type="application/json", headers=headers)

    def nack(self, refusal, refused, headers):
        if self.has("answers-500-on-bad-json") and refusal.code == "SCH_INVALID_JSON":
            return web.Response(status=500, text="Traceback (most recent call last): ...")
        if self.has("refuses-without-reason"):
            return web.Response(
                status=refusal.http_status,
                body=b'{"message":{"status":"NACK"}}',
                content_type="application/json",
                headers=challenge_headers(refusal, self.id),
            )
        body = nack_body(
            claimed_message_id(refused), code=refusal.code, detail=refusal.detail, path=refusal.path
        )
        signature = self.signer.authorization(body, now=utc_now(), request_signature=_signature(headers))
        challenge = {} if self.has("does-not-challenge") else challenge_headers(refusal, self.id)
        status = 200 if self.has("refuses-with-200") else refusal.http_status
        return web.Response(
            status=status,
            body=body,
            content_type="application/json",
            headers={"Signature": signature, **challenge},
        )


class BrokenSeller(Peer):
    """A seller over the mock aggregator's own order book."""

    role = "bpp"

    def __init__(self, folder, portfolio, defects=()) -> None:
        super().__init__(defects)
        self._folder, self._portfolio = folder, portfolio
        self._answers = {}
        self._owners = {}

    @contextlib.asynccontextmanager
    async def running(self, registry_url):
        ledger = Ledger(self._folder)
        try:
            async with super().running(registry_url):
                self.seller = Seller(
                    subscriber_id=self.id,
                    uri=self.uri,
                    catalogue=Catalogue(load_portfolio(self._portfolio)),
                    ledger=ledger,
                    clock=utc_now,
                    seed=1,
                )
                yield self
        finally:
            await ledger.close()

    async def take(self, message):
        if message.verb not in self.seller.verbs:
            raise BecknRefusal("NET_NOT_IMPLEMENTED", f"{message.action} is not served")
        if self.has("serves-any-buyer"):
            owner = self._owners.setdefault(message.context.transaction_id, message.sender)
            message = msgspec.structs.replace(message, sender=owner)
        key = (message.context.message_id, message.digest)
        if self.has("confirms-without-init") and message.action == "confirm":
            try:
                callbacks = await self.seller.take(message)
            except BecknRefusal:
                callbacks = (await self._made_up(message),)
        else:
            callbacks = await self.seller.take(message)
        if self.has("acts-twice-on-duplicates") and not callbacks:
            callbacks = self._answers.get(key, ())
        self._answers[key] = callbacks
        for callback in callbacks:
            self.spawn(self.call_back(callback))

    async def _made_up(self, message):
        """An on_confirm that says ACTIVE, whatever was asked."""
        terms, _ = v2.parse_order(message.message)
        wire = v2.confirm_message(terms, v2.parse_contract(message.message))
        wire["contract"] |= {"id": str(uuid4()), "status": {"code": "ACTIVE"}}
        return self.seller._answer(message, wire)

    async def call_back(self, callback):
        if self.has("never-calls-back"):
            return
        body, chain = callback.body, callback.request_signature
        if self.has("calls-back-under-another-id"):
            body = body.replace(callback.message_id.encode(), str(uuid4()).encode())
            chain = None
        if self.has("calls-back-in-another-transaction"):
            body = body.replace(callback.transaction_id.encode(), str(uuid4()).encode())
        signer = self.wrong_signer if self.has("signs-callbacks-with-another-key") else self.signer
        headers = {"Authorization": signer.authorization(body, now=utc_now(), request_signature=chain)}
        if self.has("does-not-sign-callbacks"):
            headers = {}
        if self.has("changes-callbacks-after-signing"):
            body += b"\n"
        for pause_s in (0.05, 0.1, 0.2):
            try:
                await self.http.post(callback.url, body, headers)
            except PeerUnavailable:
                if self.has("never-tries-again"):
                    return
                await asyncio.sleep(pause_s)
            else:
                return


class BrokenBuyer(Peer):
    """A buyer that orders from every seller it finds, as soon as it has a catalogue."""

    role = "bap"

    def __init__(self, defects=()) -> None:
        super().__init__(defects)
        self._asked = {}
        self._seen = set()
        self._orders = {}

    async def live(self):
        await self.register()
        while True:
            sellers = await self.registry.participants("BPP", DOMAIN)
            if sellers:
                break
            await asyncio.sleep(0.05)
        for seller in sellers:
            now = utc_now()
            message = v2.discover_message("FDR_1", Direction.REDUCE, 10.0, now, now + timedelta(hours=1))
            await self.ask(seller, "discover", message, str(uuid4()), None)

    async def ask(self, seller, action, message, transaction_id, terms):
        message_id = str(uuid4())
        if self.has("repeats-message-ids"):
            message_id = self._orders.setdefault(("id", transaction_id), message_id)
        if self.has("changes-transactions"):
            transaction_id = str(uuid4())
        context = Context(
            action=action,
            bap_id=self.id,
            bap_uri=self.uri,
            bpp_id=seller.subscriber_id,
            bpp_uri=seller.url,
            transaction_id=transaction_id,
            message_id=message_id,
            timestamp=utc_now(),
        )
        body = encode(context, message)
        signer = self.wrong_signer if self.has("signs-with-another-key") else self.signer
        self._asked[message_id] = (action, transaction_id, seller, terms)
        for _ in range(4):
            header = signer.authorization(body, now=utc_now())
            self.sent[message_id].append((bare_signature(header), header))
            try:
                await self.http.post(f"{seller.url}/{action}", body, {"Authorization": header})
            except PeerUnavailable:
                await asyncio.sleep(0.05)
            else:
                return

    async def take(self, message):
        context = message.context
        asked = self._asked.get(context.message_id)
        live = self._orders.get(context.transaction_id)
        key = (message.sender.subscriber_id, message.action, context.message_id)
        if asked is None:
            self._unasked(message, live)
            return
        action, transaction_id, seller, terms = asked
        if message.action != f"on_{action}":
            raise BecknRefusal("CTX_ACTION_MISMATCH", "answers another request", path="/context/action")
        if context.transaction_id != transaction_id:
            raise BecknRefusal("CTX_TRANSACTION_ID_UNKNOWN", "another transaction")
        if message.sender.subscriber_id != seller.subscriber_id and not self.has("takes-any-sellers-answer"):
            raise BecknRefusal("AUT_UNAUTHORIZED_ACTION", "another seller", http_status=401)
        if key in self._seen and not self.has("acts-twice-on-duplicates"):
            return
        self._seen.add(key)
        step = getattr(self, f"_{message.action}", None)
        if step is not None:
            step(message, seller, terms)

    def _unasked(self, message, live):
        if message.action != "on_status" and not self.has("takes-what-nobody-asked"):
            raise BecknRefusal("CTX_MESSAGE_ID_UNKNOWN", "no request of ours", path="/context/messageId")
        if self.has("takes-what-nobody-asked"):
            return
        if live is None or live[0].subscriber_id != message.sender.subscriber_id:
            raise BecknRefusal("CTX_TRANSACTION_ID_UNKNOWN", "no live order")
        if v2.parse_contract(message.message).contract_id != live[1]:
            raise BecknRefusal("CTX_TRANSACTION_ID_UNKNOWN", "another contract")

    def _on_discover(self, message, seller, _terms):
        offers = v2.parse_on_discover(message.message, bpp_id=seller.subscriber_id, bpp_uri=seller.url)
        if any(offer.bpp_id != seller.subscriber_id for offer in offers):
            raise BecknRefusal("AUT_UNAUTHORIZED_ACTION", "foreign offers", http_status=401)
        offer = offers[0]
        start = utc_now().replace(minute=0, second=0, microsecond=0)
        terms = OrderTerms(
            obp_id=f"OBP-{uuid4()}",
            event_id="need-1",
            feeder_id="FDR_1",
            direction=Direction.REDUCE,
            offer_id=offer.offer_id,
            provider_id=offer.provider_id,
            window_start=start,
            window_end=start.replace(minute=15),
            lines=(OrderLine(der_id=offer.ders[0].der_id, der_type=offer.ders[0].type, kw=10.0),),
            price_per_kwh=offer.price_per_kwh,
            currency=offer.currency,
        )
        self.spawn(self.ask(seller, "select", v2.select_message(terms), str(uuid4()), terms))

    def _on_select(self, message, seller, terms):
        view = v2.parse_contract(message.message)
        wire = v2.init_message(terms, view)
        self.spawn(self.ask(seller, "init", wire, message.context.transaction_id, terms))

    def _on_init(self, message, seller, terms):
        view = v2.parse_contract(message.message)
        if self.has("forgets-the-contract-id"):
            view = msgspec.structs.replace(view, contract_id=str(uuid4()))
        wire = v2.confirm_message(terms, view)
        self.spawn(self.ask(seller, "confirm", wire, message.context.transaction_id, terms))

    def _on_confirm(self, message, seller, _terms):
        view = v2.parse_contract(message.message)
        self._orders[message.context.transaction_id] = (seller, view.contract_id)


def _signature(headers):
    try:
        return parse_authorization(headers.get("authorization", "")).signature
    except BecknRefusal:
        return None
