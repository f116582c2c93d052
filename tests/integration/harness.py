"""Registry, sellers and gateway as real processes on loopback ports, and a seller inside the test.

Processes are those of the demo (:mod:`fluxeon.demo.world`): free ports, tokens through the environment,
ready when they say so, ended by their handles. The risk model is left out unless a test wants it: the
stated threshold rule makes every decision foreseeable.
"""

import asyncio
import json
from collections import defaultdict
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from io import BytesIO
from pathlib import Path
from typing import Any, NamedTuple
from uuid import uuid4

import aiohttp
import msgspec
from aiohttp import web
from sqlalchemy import Row, select

from fluxeon.audit import verify_folder
from fluxeon.demo.world import HOST, World, free_ports, lay_out
from gateway.beckn import v2
from gateway.beckn.client import BecknClient, HttpAnswer
from gateway.beckn.envelope import Context, ack_body, encode, nack_body
from gateway.beckn.resolver import RegistryClient
from gateway.beckn.schema import MessageSchemas
from gateway.beckn.signing import Signer, generate_private_key
from gateway.beckn.verify import VerifiedMessage, verify_inbound
from gateway.clock import rfc3339, utc_now
from gateway.config import PREFIX
from gateway.errors import BecknRefusal, PeerUnavailable
from gateway.store.database import open_reader
from gateway.store.tables import Stored
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
    OrderTerms,
    PerformanceStatus,
)
from seeds.load import ParticipantSeed

DOMAIN = "demand-flexibility"
GATEWAY_ID = "bap.fluxeon.example"
PATIENCE_S = 45.0
"""How long anything is waited for; a busy machine takes its time, a broken gateway takes for ever."""
EVENING = datetime(2020, 1, 6, 17, 0, tzinfo=UTC)
"""Event time of the tests: years behind wall time, as in a replay."""
SLOT = timedelta(minutes=15)
RATING_KW, QUIET_KW, HIGH_KW = 400.0, 200.0, 380.0
NEED_KW = 40.0
"""What the threshold rule asks for at HIGH_KW."""


class Answer(NamedTuple):
    """An HTTP answer, taken apart."""

    status: int
    headers: dict[str, str]
    body: bytes

    @property
    def json(self) -> Any:
        return json.loads(self.body)


async def eventually(found: Callable[[], Awaitable[Any]], what: str, within_s: float = PATIENCE_S) -> Any:
    """Poll until something true comes back; fail saying what was waited for."""
    deadline = asyncio.get_running_loop().time() + within_s
    while True:
        result = await found()
        if result:
            return result
        assert asyncio.get_running_loop().time() < deadline, f"not within {within_s:g} s: {what}"
        await asyncio.sleep(0.03)


@dataclass
class Network(World):
    """The processes of one test, which can be killed and started again one by one."""

    settings: dict[str, Any] = field(default_factory=dict)
    """Settings of the gateway beyond those of the demo."""
    http: aiohttp.ClientSession = field(init=False)

    @property
    def folder(self) -> Path:
        """The gateway's data folder."""
        return self.layout.folder

    @property
    def url(self) -> str:
        return self.layout.gateway.url

    def _gateway_environment(self) -> dict[str, str]:
        extra = {PREFIX + name.upper(): str(value) for name, value in self.settings.items()}
        return super()._gateway_environment() | extra

    async def start_registry(self) -> None:
        """Start the registry alone."""
        self.layout.log("registry").parent.mkdir(parents=True, exist_ok=True)
        self._launch("registry", self._registry_command(), {})
        await self._ready(self.http, self.layout.registry)

    async def start_gateway(self, **settings: Any) -> None:
        """Start the gateway (again), on the data that is there."""
        self.settings |= settings
        self._launch("gateway", self._gateway_command(), self._gateway_environment())
        await self._ready(self.http, self.layout.gateway)

    def kill_gateway(self) -> None:
        """End the gateway at once, as a power cut would."""
        child = next(one for one in self.running if one.name == "gateway")
        child.process.kill()
        child.process.wait()
        self.running.remove(child)

    async def stop_gateway(self) -> None:
        """Ask the gateway to stop, and wait until it has; its exit code must say that all is well."""
        child = next(one for one in self.running if one.name == "gateway")
        child.process.terminate()
        assert await asyncio.to_thread(child.process.wait, PATIENCE_S) in (0, -15), self.log
        self.running.remove(child)

    @property
    def log(self) -> str:
        """What the gateway has written."""
        return self.layout.log("gateway").read_text(encoding="utf-8")

    # --- HTTP ---------------------------------------------------------------------------------

    async def ask(
        self,
        method: str,
        path: str,
        body: Any = None,
        *,
        token: str | None = "",
        headers: dict[str, str] | None = None,
    ) -> Answer:
        """Call the gateway; ``body`` is bytes or becomes JSON; ``token`` None sends none."""
        sent = dict(headers or {})
        if token is not None:
            sent["Authorization"] = f"Bearer {token or self.layout.gateway.token}"
        data = body if isinstance(body, bytes) or body is None else msgspec.json.encode(body)
        if data is not None:
            sent.setdefault("Content-Type", "application/json")
            data = BytesIO(data)
        async with self.http.request(method, self.url + path, data=data, headers=sent) as answer:
            return Answer(
                answer.status, {name.lower(): v for name, v in answer.headers.items()}, await answer.read()
            )

    async def get(self, path: str) -> Any:
        """Get a JSON document that must be there."""
        answer = await self.ask("GET", path)
        assert answer.status == 200, answer
        return answer.json

    async def configure(self, feeder_id: str, **changes: Any) -> None:
        answer = await self.ask("PUT", f"/config/feeders/{feeder_id}", {"rating_kw": RATING_KW} | changes)
        assert answer.status == 200, answer

    async def post(self, *readings: dict[str, Any]) -> Answer:
        return await self.ask("POST", "/telemetry", {"readings": readings})

    async def history(self, feeder_id: str, *, until: datetime = EVENING, step_min: int = 15) -> Answer:
        """Two hours of a live meter up to an instant."""
        step = timedelta(minutes=step_min)
        count = 120 // step_min
        return await self.post(
            *(reading(feeder_id, until - n * step, QUIET_KW + n) for n in reversed(range(count)))
        )

    async def overload(self, feeder_id: str) -> datetime:
        """Bring a feeder with a live meter into an overload; returns the instant of the decision."""
        await self.configure(feeder_id)
        await self.catalogue_of(feeder_id)
        await self.history(feeder_id)
        answer = await self.post(reading(feeder_id, EVENING + SLOT, HIGH_KW))
        (state,) = answer.json["states"]
        assert state["state_change"]["plan"]["orders"], answer
        return EVENING + SLOT

    async def let_pass(self, feeder_id: str, since: datetime, until: datetime) -> None:
        """Let a feeder's event time pass with quiet load."""
        at = since
        while at < until:
            at += SLOT
            answer = await self.post(reading(feeder_id, at, QUIET_KW + at.minute / 60))
            assert answer.status == 200, answer

    async def catalogue_of(self, feeder_id: str, *, sellers: int = 1) -> list[dict[str, Any]]:
        """Wait until sellers have offered something at a feeder."""

        async def found() -> list[dict[str, Any]]:
            rows = await self.get(f"/catalogue?feeder_id={feeder_id}")
            return rows if len({row["bpp_id"] for row in rows}) >= sellers else []

        return await eventually(found, f"offers of {sellers} sellers at {feeder_id}")  # type: ignore[no-any-return]

    async def orders(self, feeder_id: str) -> list[dict[str, Any]]:
        """Orders at a feeder, oldest first."""
        found = await self.get(f"/beckn/orders?feeder_id={feeder_id}")
        return sorted(found, key=lambda order: (order["detected_at"], order["obp_id"]))

    async def order_in(self, feeder_id: str, *states: str) -> dict[str, Any]:
        """Wait until the first order at a feeder is in one of some states."""

        async def found() -> dict[str, Any] | None:
            orders = await self.orders(feeder_id)
            return orders[0] if orders and orders[0]["state"] in states else None

        try:
            return await eventually(found, f"an order at {feeder_id} in {states}")  # type: ignore[no-any-return]
        except AssertionError as late:
            raise AssertionError(f"{late}; orders: {await self.orders(feeder_id)}") from late

    async def alarms(self, kind: str) -> list[dict[str, Any]]:
        return [alarm for alarm in await self.get("/alarms") if alarm["kind"] == kind]

    # --- storage ------------------------------------------------------------------------------

    def snapshot(self) -> dict[str, Sequence[Row[Any]]]:
        """Everything the gateway has stored, by table, as it is on disk while the gateway runs."""
        with open_reader(self.folder) as connection:
            return {
                name: connection.execute(select(table)).all()
                for name, table in Stored.metadata.tables.items()
            }

    def contexts(self, action: str, transaction_id: str) -> list[dict[str, Any]]:
        """Contexts of the journalled messages of an action in a transaction, copies included."""
        contexts = [one.document["context"] for one in journalled_messages(self.folder)]
        return [
            context
            for context in contexts
            if (context["action"], context["transactionId"]) == (action, transaction_id)
        ]

    def verify(self) -> int:
        """Verify the journal from its storage; returns its length."""
        return verify_folder(self.folder).entries


class Journalled(NamedTuple):
    """A message as the journal has it."""

    sent: bool
    facts: dict[str, Any]
    """Body of the journal entry: headers, ids, what was verified."""
    content: bytes

    @property
    def document(self) -> dict[str, Any]:
        return json.loads(self.content)  # type: ignore[no-any-return]


def journalled_messages(folder: Path) -> list[Journalled]:
    """Every message of ours and of peers, in the order of the journal."""
    tables = Stored.metadata.tables
    entry, payload = tables["journal_entry"], tables["payload"]
    with open_reader(folder) as connection:
        rows = connection.execute(
            select(entry.c.kind, entry.c.entry)
            .where(entry.c.kind.in_(["beckn.sent", "beckn.received"]))
            .order_by(entry.c.seq)
        ).all()
        contents = {row.digest: row.content for row in connection.execute(select(payload)).all()}
    found = []
    for row in rows:
        document = json.loads(row.entry)
        (reference,) = document["payloads"]
        found.append(Journalled(row.kind == "beckn.sent", document["body"], contents[reference["digest"]]))
    return found


def reading(feeder_id: str, at: datetime, load_kw: float, **more: Any) -> dict[str, Any]:
    return {"feeder_id": feeder_id, "timestamp": rfc3339(at), "load_kw": load_kw, **more}


@asynccontextmanager
async def network(
    folder: Path, sellers: Sequence[ParticipantSeed] = (), *, gateway: bool = True, **settings: Any
) -> AsyncIterator[Network]:
    """Run a registry, mock sellers and a gateway; whatever happens, they are ended again.

    Args:
        folder: Everything is kept here; the gateway's data at its top.
        sellers: Mock sellers; their portfolios must be in place.
        gateway: False leaves mock sellers and gateway to be started once somebody is registered.
        settings: Of the gateway.
    """
    defaults = {
        "model_dir": folder / "no-model",
        "catalogue_refresh_s": 3600,
        "participants_refresh_s": 3600,
    }
    running = Network(
        lay_out(folder, sellers), domain=DOMAIN, gateway_id=GATEWAY_ID, settings=defaults | settings
    )
    async with aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=PATIENCE_S)) as http:
        running.http = http
        try:
            if gateway:
                await running.start(http, lambda _line: None)
            else:
                await running.start_registry()
            yield running
        finally:
            await asyncio.to_thread(running.stop)


class Bystander:
    """A participant with a key in the registry and nothing to say."""

    def __init__(
        self, subscriber_id: str, registry_url: str, *, uri: str = "http://127.0.0.1:9/beckn"
    ) -> None:
        self.subscriber_id = subscriber_id
        self.uri = uri
        self.signer = Signer.from_private(generate_private_key(), subscriber_id, str(uuid4()))
        self.http = BecknClient(utc_now)
        self.registry = RegistryClient(registry_url, self.http, utc_now, peer_types=("BAP",))

    async def register(self, kind: str = "BPP", *, serves: Sequence[str] = ()) -> None:
        now = utc_now()
        status = await self.registry.subscribe(
            self.signer,
            url=self.uri,
            type=kind,
            domain=DOMAIN,
            valid_from=now - timedelta(hours=1),
            valid_until=now + timedelta(hours=1),
            serves=serves,
        )
        assert status == "SUBSCRIBED"

    async def close(self) -> None:
        await self.http.close()


class ScriptedSeller(Bystander):
    """A seller inside the test: registered, serving real HTTP, doing exactly what it is told.

    It sells one battery of ``capacity_kw`` at every feeder it serves and answers every request as an
    honest seller would, unless:

    * ``hold(action)`` keeps callbacks of an action back until ``release(action)``;
    * ``on_request[action]`` runs when a request has been verified, before the Ack;
    * ``finished`` makes ``on_status`` report a completed delivery.
    """

    def __init__(
        self,
        subscriber_id: str,
        registry_url: str,
        *,
        capacity_kw: float = 100.0,
        price: str = "0.30",
        serves: Sequence[str] = (),
    ) -> None:
        (self.port,) = free_ports(1)
        super().__init__(subscriber_id, registry_url, uri=f"http://{HOST}:{self.port}/beckn")
        self.name = subscriber_id.partition(".")[0]
        self.capacity_kw = capacity_kw
        self.price = price
        self.serves = serves
        self.schemas = MessageSchemas.load()
        self.requests: list[VerifiedMessage] = []
        self.refusals: list[BecknRefusal] = []
        self.on_request: dict[str, Callable[[VerifiedMessage], Awaitable[None]]] = {}
        self.finished = False
        self._gates: dict[str, asyncio.Event] = {}
        self._contracts: dict[str, str] = defaultdict(lambda: str(uuid4()))
        self._tasks: set[asyncio.Task[None]] = set()
        self._runner: web.AppRunner | None = None

    async def open(self) -> None:
        """Listen and register."""
        application = web.Application()
        application.router.add_post("/beckn/{action}", self._receive)
        self._runner = web.AppRunner(application)
        await self._runner.setup()
        await web.TCPSite(self._runner, HOST, self.port).start()
        await self.register(serves=self.serves)

    async def close(self) -> None:
        for task in tuple(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        if self._runner is not None:
            await self._runner.cleanup()
        await super().close()

    def hold(self, action: str) -> None:
        self._gates[action] = asyncio.Event()

    def release(self, action: str) -> None:
        self._gates.pop(action).set()

    def of(self, action: str, transaction_id: str | None = None) -> list[VerifiedMessage]:
        """Requests of an action, copies included."""
        return [
            one
            for one in self.requests
            if one.action == action and transaction_id in (None, one.context.transaction_id)
        ]

    async def request(self, action: str, transaction_id: str | None = None) -> VerifiedMessage:
        """Wait for the newest request of an action."""

        async def found() -> list[VerifiedMessage]:
            return self.of(action, transaction_id)

        return (await eventually(found, f"a {action} at {self.subscriber_id}"))[-1]  # type: ignore[no-any-return]

    # --- requests -----------------------------------------------------------------------------

    async def _receive(self, request: web.Request) -> web.Response:
        body = await request.read()
        try:
            message = await verify_inbound(
                action=request.match_info["action"],
                body=body,
                headers=request.headers,
                resolver=self.registry,
                schemas=self.schemas,
                own_id=self.subscriber_id,
                role="bpp",
                now=utc_now(),
            )
        except BecknRefusal as refusal:
            self.refusals.append(refusal)
            refused = nack_body(None, code=refusal.code, detail=refusal.detail, path=refusal.path)
            return web.Response(body=refused, status=refusal.http_status, content_type="application/json")
        known = any(one.context.message_id == message.context.message_id for one in self.requests)
        self.requests.append(message)
        if message.action in self.on_request:
            await self.on_request[message.action](message)
        if not known:
            task = asyncio.create_task(self._reply(message))
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)
        answer = ack_body(message.context.message_id)
        signature = self.signer.authorization(answer, now=utc_now(), request_signature=message.signature)
        return web.Response(body=answer, content_type="application/json", headers={"Signature": signature})

    async def _reply(self, message: VerifiedMessage) -> None:
        gate = self._gates.get(message.action)
        if gate is not None:
            await gate.wait()
        body = self.answer(message)
        for pause_s in [0.05, 0.1, 0.2, 0.4, *[0.5] * 80]:
            try:
                answer = await self.send(f"on_{message.action}", body, chained_to=message.signature)
            except PeerUnavailable:
                await asyncio.sleep(pause_s)  # the gateway is down: that is what some tests are about
                continue
            if answer.status != 503:
                return
            await asyncio.sleep(pause_s)

    # --- callbacks ----------------------------------------------------------------------------

    def answer(
        self, request: VerifiedMessage, message: dict[str, Any] | None = None, **context: Any
    ) -> bytes:
        """Body of the callback to a request."""
        members = {"message_id": request.context.message_id} | context
        action = members.pop("action", f"on_{request.action}")
        return self.body(action, message or self.speak(request), request=request, **members)

    def body(
        self, action: str, message: dict[str, Any], *, request: VerifiedMessage, **context: Any
    ) -> bytes:
        """A message of ours in a request's transaction; unasked unless it has the request's messageId."""
        members = {
            "action": action,
            "bap_id": request.context.bap_id,
            "bap_uri": request.context.bap_uri,
            "bpp_id": self.subscriber_id,
            "bpp_uri": self.uri,
            "transaction_id": request.context.transaction_id,
            "message_id": str(uuid4()),
            "timestamp": utc_now(),
            "ttl": "PT10M",
        } | context
        return encode(Context(**members), message)

    async def send(
        self,
        action: str,
        body: bytes,
        *,
        chained_to: str | None = None,
        header: str | None = None,
        base: str | None = None,
    ) -> HttpAnswer:
        """Post a message, signed now unless a header is given."""
        signed = header or self.signer.authorization(body, now=utc_now(), request_signature=chained_to)
        target = base or self.requests[0].context.bap_uri
        return await self.http.post(f"{target}/{action}", body, {"Authorization": signed})

    def speak(self, request: VerifiedMessage) -> dict[str, Any]:
        """What an honest seller says to a request."""
        if request.action == "discover":
            ask = v2.parse_discover(request.message)
            assert ask.feeder_id is not None
            return v2.on_discover_message(self._offers(ask.feeder_id, ask.direction or Direction.REDUCE))
        terms, _ = v2.parse_order(request.message)
        return v2.contract_message(
            terms, self.view(terms, request.action, transaction_id=request.context.transaction_id)
        )

    def _offers(self, feeder_id: str, direction: Direction) -> tuple[Offer, ...]:
        battery = Der(
            der_id=f"der:{self.name}:{feeder_id}",
            aggregator_id=self.name,
            type=DerType.BATTERY,
            feeder_id=feeder_id,
            direction=direction,
            capacity_kw=self.capacity_kw,
            response_time_s=0.0,
            min_duration_min=15,
            max_duration_min=120,
            price_per_kwh=self.price,
        )
        offer = Offer(
            offer_id=f"{self.name}:{feeder_id}:{direction.value}",
            bpp_id=self.subscriber_id,
            bpp_uri=self.uri,
            provider_id=self.name,
            provider_name=self.name.title(),
            ders=(battery,),
            price_per_kwh=self.price,
            currency="GBP",
        )
        return (offer,)

    def view(self, terms: OrderTerms, action: str, *, transaction_id: str) -> ContractView:
        """The contract as an honest seller sees it after an action."""
        status = {
            "confirm": ContractStatus.ACTIVE,
            "status": ContractStatus.COMPLETE if self.finished else ContractStatus.ACTIVE,
            "cancel": ContractStatus.CANCELLED,
        }.get(action, ContractStatus.DRAFT)
        return ContractView(
            contract_id=None if action == "select" else self._contracts[transaction_id],
            status=status,
            obp_id=terms.obp_id,
            lines=tuple(
                CommittedLine(der_id=line.der_id, requested_kw=line.kw, committed_kw=line.kw)
                for line in terms.lines
            ),
            window_start=terms.window_start,
            window_end=terms.window_end,
            price_per_kwh=terms.price_per_kwh,
            currency=terms.currency,
            baselines=tuple(
                BaselineTerm(der_id=line.der_id, method=BaselineMethod.NOMINATED, kw=0.0)
                for line in terms.lines
            ),
            performance=tuple(
                DerPerformance(
                    der_id=line.der_id,
                    status=(
                        PerformanceStatus.COMPLETED
                        if status is ContractStatus.COMPLETE
                        else PerformanceStatus.SCHEDULED
                    ),
                    intervals=(tuple(_metered(terms, line.kw)) if status is ContractStatus.COMPLETE else ()),
                )
                for line in terms.lines
            )
            if status in (ContractStatus.ACTIVE, ContractStatus.COMPLETE)
            else (),
        )


def _metered(terms: OrderTerms, kw: float) -> Iterable[MeterInterval]:
    """Meter intervals of a delivery in full, against a baseline of 0 kW."""
    sign = -1 if terms.direction is Direction.REDUCE else 1
    start = terms.window_start
    while start < terms.window_end:
        yield MeterInterval(start=start, end=start + SLOT, usage_wh=sign * round(kw * 250))
        start += SLOT


@asynccontextmanager
async def scripted_seller(
    running: Network, subscriber_id: str, **options: Any
) -> AsyncIterator[ScriptedSeller]:
    """A scripted seller at a network's registry; opened before the gateway looks for sellers."""
    seller = ScriptedSeller(subscriber_id, running.layout.registry.url, **options)
    await seller.open()
    try:
        yield seller
    finally:
        await seller.close()
