"""A gateway's trading without a network: real database, real signatures, a clock that stands still.

Sellers are scripts: what they answer to a request is queued per action, what they say later is said by
the test. Everything goes through the pipeline, as it does in a running gateway.
"""

import asyncio
import json
from collections import defaultdict
from collections.abc import Callable, Iterable
from datetime import UTC, datetime, timedelta
from functools import partial
from itertools import count
from pathlib import Path
from typing import Any, Self
from uuid import UUID

import msgspec
from sqlalchemy import select

from gateway.audit.chain import parse_entry
from gateway.beckn import v2
from gateway.beckn.client import HttpAnswer
from gateway.beckn.envelope import Context, ack_body, encode, parse_context
from gateway.beckn.resolver import Participant, StaticKeys
from gateway.beckn.signing import Signer, digest, generate_private_key, parse_authorization
from gateway.beckn.verify import VerifiedMessage
from gateway.catalogue import Catalogue
from gateway.clock import rfc3339
from gateway.errors import PeerUnavailable
from gateway.feeders import Automation, FeederConfig
from gateway.flex.need import NeedPolicy
from gateway.forecasting import ThresholdRule
from gateway.keyring import SignBytes
from gateway.metrics import Metrics
from gateway.orders.order import LifecyclePolicy, Order, OrderState
from gateway.pipeline import CallbackAnswer, Pipeline, TelemetryAnswer
from gateway.roster import Roster
from gateway.store.database import Database
from gateway.store.tables import alarm, flex_event, journal_entry, journal_head, outbox, timer
from gateway.telemetry.reading import AdmissionRules, BatchLimits
from gateway.trading.buyer import Buyer
from gateway.trading.courier import Courier
from gateway.trading.desk import Address, Desk, orders_where
from gateway.trading.floor import TradingFloor
from gateway.trading.work import Ledger
from gateway.types import (
    BaselineMethod,
    BaselineTerm,
    CommittedLine,
    ContractStatus,
    ContractView,
    Der,
    DerPerformance,
    DerType,
    Direction,
    MeterInterval,
    Offer,
    PerformanceStatus,
)

BAP_ID = "bap.fluxeon.example"
ALPHA, BRAVO, CHARLIE = "bpp-alpha.example", "bpp-bravo.example", "bpp-charlie.example"
FEEDER = "FDR_001"
RATING_KW = 400.0
WALL = datetime(2026, 3, 2, 9, 0, tzinfo=UTC)
EVENT = datetime(2020, 1, 6, 17, 0, tzinfo=UTC)
"""End of the last quiet quarter hour; event time is years behind wall time, as in a replay."""
SLOT = timedelta(minutes=15)
QUIET_KW, HIGH_KW = 200.0, 380.0
NEED_KW = 40.0
"""What the threshold rule asks for at HIGH_KW: 380 + 20 of half its band, down to 0.9 x 400."""
PATIENCE_S = 20.0


class SteppingClock:
    """Wall time that passes only when told to."""

    def __init__(self, now: datetime = WALL) -> None:
        self.now = now

    def __call__(self) -> datetime:
        return self.now

    def advance(self, seconds: float) -> None:
        self.now += timedelta(seconds=seconds)


class Sent(msgspec.Struct, frozen=True):
    """A request as it left."""

    url: str
    body: bytes
    authorization: str

    @property
    def action(self) -> str:
        return self.url.rpartition("/")[2]

    @property
    def context(self) -> Context:
        return parse_context(json.loads(self.body)["context"])

    @property
    def message(self) -> dict[str, Any]:
        return json.loads(self.body)["message"]


Script = HttpAnswer | PeerUnavailable | tuple[int, bytes]


class ScriptedPeers:
    """Stands in for the HTTP port: acknowledges everything but what a test has scripted."""

    def __init__(self, clock: SteppingClock) -> None:
        self.sent: list[Sent] = []
        self.scripts: defaultdict[str, list[Script]] = defaultdict(list)
        self.always: dict[str, Script] = {}
        self.before_answer: Callable[[Sent], Any] | None = None
        self._clock = clock

    def next(self, action: str, *answers: Script) -> None:
        """Queue answers to the next requests of an action."""
        self.scripts[action].extend(answers)

    def of(self, action: str, host: str | None = None) -> list[Sent]:
        """Requests of an action, to one seller where it is named."""
        return [one for one in self.sent if one.action == action and (host is None or host in one.url)]

    async def post(self, url: str, body: bytes, headers: dict[str, str]) -> HttpAnswer:
        sent = Sent(url, body, headers["Authorization"])
        self.sent.append(sent)
        sent_at = self._clock()
        if self.before_answer is not None:
            await self.before_answer(sent)
        queued = self.scripts[sent.action]
        script = queued.pop(0) if queued else self.always.get(sent.action)
        if isinstance(script, PeerUnavailable):
            raise script
        if isinstance(script, HttpAnswer):
            return script
        status, answer = script or (200, ack_body(sent.context.message_id))
        return HttpAnswer(status=status, headers={}, body=answer, sent_at=sent_at)


def unreachable(url: str = "http://peer", *, retryable: bool = True) -> PeerUnavailable:
    """What the HTTP port raises when nobody listens."""
    return PeerUnavailable(f"{url} broke the connection: refused", retryable=retryable, retry_after_s=None)


def nack(message_id: str | None = None, code: str = "BIZ_ITEM_UNAVAILABLE") -> bytes:
    """Body of a refusal."""
    error = {"code": code, "message": "no"}
    return json.dumps({"message": {"status": "NACK", "messageId": message_id, "error": error}}).encode()


def der(number: int, *, seller: str = ALPHA, kw: float = 50.0, **changes: Any) -> Der:
    """A battery that can run from 15 min to 2 h at once."""
    name = seller.split(".", maxsplit=1)[0]
    fields = {
        "der_id": f"der:{name}:{number}",
        "aggregator_id": name,
        "type": DerType.BATTERY,
        "feeder_id": FEEDER,
        "direction": Direction.REDUCE,
        "capacity_kw": kw,
        "response_time_s": 0.0,
        "min_duration_min": 15,
        "max_duration_min": 120,
        "price_per_kwh": "0.30",
    }
    return Der(**fields | changes)


def offer(seller: str, number: int = 1, *, kw: float = 50.0, price: str = "0.30", **changes: Any) -> Offer:
    """One offer with one DER."""
    name = seller.split(".", maxsplit=1)[0]
    fields = {
        "offer_id": f"{name}:offer:{number}",
        "bpp_id": seller,
        "bpp_uri": f"http://{seller}/beckn",
        "provider_id": name,
        "provider_name": name.title(),
        "ders": (der(number, seller=seller, kw=kw, price_per_kwh=price),),
        "price_per_kwh": price,
        "currency": "GBP",
    }
    return Offer(**fields | changes)


class TradingWorld:
    """Everything of a gateway but its web server, its loops and the network."""

    def __init__(self, folder: Path, *, policy: LifecyclePolicy | None = None) -> None:
        self.folder = folder
        self.clock = SteppingClock()
        self.peers = ScriptedPeers(self.clock)
        self.policy = policy or LifecyclePolicy()
        self.attempts = 4
        numbers = count(1)
        self.new_id = lambda: str(UUID(int=next(numbers), version=4))
        self.signer = Signer.from_private(generate_private_key(), BAP_ID, "k1")
        self.seller_keys = {
            name: Signer.from_private(generate_private_key(), name, "k1") for name in (ALPHA, BRAVO, CHARLIE)
        }
        self.listed: list[str] | PeerUnavailable = [ALPHA, BRAVO]
        self.at = EVENT
        self.load_kw = QUIET_KW
        self._wire()

    def _wire(self) -> None:
        self.database = Database.open(self.folder)
        self.ledger = Ledger(
            self.database,
            clock=self.clock,
            new_id=self.new_id,
            sign_head=SignBytes(self.signer),
            key_id=self.signer.key_id,
        )
        self.desk = Desk(
            signer=self.signer,
            address=Address(
                bap_id=BAP_ID,
                bap_uri="http://bap.fluxeon.example/beckn",
                domain="demand-flexibility",
                ttl_s=30,
                signature_ttl_s=300,
            ),
            policy=self.policy,
            completion_grace_s=120.0,
        )
        self.roster = Roster(self.ledger)
        self.catalogue = Catalogue()
        self.metrics = Metrics()
        self.floor = TradingFloor(
            ledger=self.ledger,
            desk=self.desk,
            resolver=StaticKeys(map(self.participant, self.seller_keys), self.clock),
            list_sellers=self._list_sellers,
            catalogue=self.catalogue,
            metrics=self.metrics,
            clock=self.clock,
            courier=partial(Courier, self.peers, attempts=self.attempts),
            participants_refresh_s=3600.0,
            catalogue_refresh_s=3600.0,
        )
        self.buyer = Buyer(
            desk=self.desk,
            catalogue=self.catalogue,
            sellers=lambda: self.floor.sellers,
            default_need=NeedPolicy(),
        )
        self.pipeline = Pipeline(
            ledger=self.ledger,
            roster=self.roster,
            forecaster=ThresholdRule(),
            buyer=self.buyer,
            floor=self.floor,
            signer=self.signer,
            metrics=self.metrics,
            clock=self.clock,
            rules=AdmissionRules(),
            limits=BatchLimits(),
        )

    async def start(self) -> Self:
        """Load what is stored and open the floor, as a starting gateway does."""
        await self.roster.load()
        await self.floor.start(
            self.buyer, lambda: tuple(one.feeder_id for one in self.roster.values() if one.config)
        )
        await self.idle()
        return self

    async def close(self) -> None:
        await self.floor.stop()
        await self.database.close()

    async def restart(self) -> None:
        """End as a crash would (nothing is tidied up) and start again on the same folder."""
        await self.close()
        self.floor.sellers = ()
        self._wire()
        await self.start()

    def participant(self, name: str) -> Participant:
        signer = self.seller_keys[name]
        return Participant(
            subscriber_id=name,
            key_id="k1",
            url=f"http://{name}/beckn",
            type="BPP",
            domain="demand-flexibility",
            signing_public_key=signer.public_key,
            status="SUBSCRIBED",
        )

    async def _list_sellers(self) -> tuple[Participant, ...]:
        if isinstance(self.listed, PeerUnavailable):
            raise self.listed
        return tuple(map(self.participant, self.listed))

    async def idle(self) -> None:
        """Wait until no message is under way and no job is queued."""
        deadline = asyncio.get_running_loop().time() + PATIENCE_S
        calm = 0
        while calm < 3:
            assert asyncio.get_running_loop().time() < deadline, "the floor does not come to rest"
            await self.ledger.read(lambda _: None)
            await asyncio.sleep(0)
            filing = self.floor._filing
            busy = self.floor._courier.in_flight or (filing is not None and not filing.done())
            calm = 0 if busy else calm + 1

    async def until(self, condition: Callable[[], Any]) -> None:
        """Let others run until something holds."""
        deadline = asyncio.get_running_loop().time() + PATIENCE_S
        while not condition():
            assert asyncio.get_running_loop().time() < deadline, "it does not come about"
            await asyncio.sleep(0)

    # --- feeders and readings -----------------------------------------------------------------

    async def configure(self, feeder_id: str = FEEDER, **changes: Any) -> None:
        await self.roster.configure(feeder_id, FeederConfig(rating_kw=RATING_KW, **changes), by="test")

    async def post(self, *readings: tuple[datetime, float], feeder_id: str = FEEDER) -> TelemetryAnswer:
        documents = [
            {"feeder_id": feeder_id, "timestamp": rfc3339(at), "load_kw": load} for at, load in readings
        ]
        answer = await self.pipeline.handle_telemetry(json.dumps(documents).encode())
        await self.idle()
        return answer

    async def quiet_history(self, feeder_id: str = FEEDER) -> None:
        """Two hours of a live meter up to EVENT."""
        steps = [(EVENT - number * SLOT, QUIET_KW + number) for number in range(8)]
        await self.post(*reversed(steps), feeder_id=feeder_id)
        self.at = EVENT

    async def slot(self, load_kw: float, feeder_id: str = FEEDER) -> TelemetryAnswer:
        """The next quarter hour."""
        self.at += SLOT
        return await self.post((self.at, load_kw), feeder_id=feeder_id)

    async def overload(
        self, *offers: Offer, automation: Automation = Automation.AUTOMATIC
    ) -> TelemetryAnswer:
        """A configured feeder with a catalogue runs into an overload: NEED_KW are wanted for an hour."""
        await self.configure(automation=automation)
        self.put_offers(*offers)
        await self.quiet_history()
        return await self.slot(HIGH_KW)

    def put_offers(self, *offers: Offer, feeder_id: str = FEEDER) -> None:
        by_seller: defaultdict[tuple[str, Direction], list[Offer]] = defaultdict(list)
        for one in offers:
            by_seller[one.bpp_id, one.ders[0].direction].append(one)
        for (seller, direction), part in by_seller.items():
            self.catalogue.replace(feeder_id, seller, direction, part)

    # --- what is stored -----------------------------------------------------------------------

    async def orders(self) -> list[Order]:
        """Orders, oldest first."""
        found = await self.ledger.read(orders_where)
        return sorted(found, key=lambda order: UUID(order.order_id).int)

    async def order(self) -> Order:
        """The only order."""
        (only,) = await self.orders()
        return only

    async def rows(self, table: Any) -> list[dict[str, Any]]:
        return await self.ledger.read(
            lambda c: [dict(row) for row in c.execute(select(table)).mappings().all()]
        )

    async def outbox(self) -> list[dict[str, Any]]:
        return await self.rows(outbox)

    async def timers(self) -> list[dict[str, Any]]:
        return await self.rows(timer)

    async def needs(self) -> list[dict[str, Any]]:
        return await self.rows(flex_event)

    async def alarms(self, kind: str | None = None) -> list[dict[str, Any]]:
        return [row for row in await self.rows(alarm) if kind in (None, row["kind"])]

    async def entries(self, kind: str | None = None) -> list[Any]:
        rows = await self.ledger.read(
            lambda c: c.execute(select(journal_entry.c.entry).order_by(journal_entry.c.seq)).scalars().all()
        )
        entries = [parse_entry(row) for row in rows]
        return [entry for entry in entries if kind in (None, entry.kind)]

    async def journal_size(self) -> int:
        return (await self.rows(journal_head))[0]["size"]

    async def snapshot(self) -> dict[str, Any]:
        """Everything a refused message must leave as it was."""
        return {
            "orders": await self.orders(),
            "journal": await self.journal_size(),
            "outbox": await self.outbox(),
            "timers": await self.timers(),
            "needs": await self.needs(),
            "alarms": await self.alarms(),
        }

    # --- sellers speak ------------------------------------------------------------------------

    async def callback(
        self,
        order: Order,
        action: str,
        *,
        message_id: str | None = None,
        transaction_id: str | None = None,
        sender: str | None = None,
        message: dict[str, Any] | None = None,
        wait: bool = True,
        **changes: Any,
    ) -> CallbackAnswer:
        """A seller answers the newest request of that kind (or speaks unasked: ``message_id``)."""
        if message_id is None:
            row = [
                one
                for one in await self.outbox()
                if one["order_id"] == order.order_id and f"on_{one['action']}" == action
            ][-1]
            message_id = row["message_id"]
        spoken = message or v2.contract_message(order.terms, view_of(order, action, **changes))
        return await self.say(
            action,
            spoken,
            sender=sender or order.bpp_id,
            message_id=message_id,
            transaction_id=transaction_id or order.transaction_id,
            wait=wait,
        )

    async def say(
        self,
        action: str,
        message: dict[str, Any],
        *,
        sender: str,
        message_id: str,
        transaction_id: str,
        wait: bool = True,
    ) -> CallbackAnswer:
        answer = await self.pipeline.handle_callback(
            self.verified(
                action, message, sender=sender, message_id=message_id, transaction_id=transaction_id
            )
        )
        if wait:
            await self.idle()
        return answer

    def verified(
        self, action: str, message: dict[str, Any], *, sender: str, message_id: str, transaction_id: str
    ) -> VerifiedMessage:
        """A message as verification leaves it."""
        context = Context(
            action=action,
            bap_id=BAP_ID,
            bap_uri="http://bap.fluxeon.example/beckn",
            bpp_id=sender,
            bpp_uri=f"http://{sender}/beckn",
            transaction_id=transaction_id,
            message_id=message_id,
            timestamp=self.clock(),
        )
        body = encode(context, message)
        header = self.seller_keys[sender].authorization(body, now=self.clock())
        return VerifiedMessage(
            action=action,
            context=context,
            message=json.loads(body)["message"],
            body=body,
            headers={"authorization": header},
            sender=self.participant(sender),
            signature=parse_authorization(header).signature,
            variant="3-line",
            digest=digest(body),
        )

    async def confirmed(self, *offers: Offer) -> Order:
        """One order as far as on_confirm."""
        await self.overload(*(offers or (offer(ALPHA),)))
        order = await self.order()
        for action in ("on_select", "on_init", "on_confirm"):
            await self.callback(await self.order(), action)
        order = await self.order()
        assert order.state is OrderState.CONFIRMED, order
        return order

    async def fire(self) -> None:
        """Look at the wall-time timers once, as the floor does all the time."""
        await self.floor._fire_due()
        await self.idle()


CONTRACT_ID = "550e8400-e29b-41d4-a716-446655440000"
STATUS_OF = {
    "on_select": ContractStatus.DRAFT,
    "on_init": ContractStatus.DRAFT,
    "on_confirm": ContractStatus.ACTIVE,
    "on_status": ContractStatus.ACTIVE,
    "on_cancel": ContractStatus.CANCELLED,
}


def view_of(order: Order, action: str, *, kw: float | None = None, **changes: Any) -> ContractView:
    """What an honest seller says in a callback; ``kw`` is what it commits of each DER."""
    terms = order.terms
    view = ContractView(
        contract_id=None if action == "on_select" else CONTRACT_ID,
        status=STATUS_OF[action],
        obp_id=terms.obp_id,
        lines=tuple(
            CommittedLine(
                der_id=line.der_id, requested_kw=line.kw, committed_kw=line.kw if kw is None else kw
            )
            for line in terms.lines
        ),
        window_start=terms.window_start,
        window_end=terms.window_end,
        price_per_kwh=terms.price_per_kwh,
        currency=terms.currency,
        baselines=tuple(
            BaselineTerm(der_id=line.der_id, method=BaselineMethod.NOMINATED, kw=5.0) for line in terms.lines
        ),
    )
    return msgspec.structs.replace(view, **changes)


def delivered(order: Order, *, share: float = 1.0) -> dict[str, Any]:
    """Changes of a view that report completion with ``share`` of what was committed."""
    committed = order.committed_kw
    return {
        "status": ContractStatus.COMPLETE,
        "performance": tuple(
            DerPerformance(
                der_id=line.der_id,
                status=PerformanceStatus.COMPLETED,
                intervals=tuple(_intervals(order, 5.0 - share * committed[line.der_id])),
            )
            for line in order.terms.lines
        ),
    }


def _intervals(order: Order, kw: float) -> Iterable[MeterInterval]:
    start = order.terms.window_start
    while start < order.terms.window_end:
        yield MeterInterval(start=start, end=start + SLOT, usage_wh=round(kw * 250))
        start += SLOT
