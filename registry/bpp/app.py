"""The mock aggregator over HTTP.

``POST /beckn/{action}`` takes signed Beckn requests; ``/control/*`` drives event time and shows state
(bearer token, no part of Beckn); ``GET /health/ready`` is open.

* Received -> verified -> decided -> durable -> signed Ack; callbacks leave after the Ack.
* One line per message in the log: ids and sizes, no content.
"""

import asyncio
import hmac
import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Annotated, Any

import msgspec
from litestar import Litestar, Request, Response, get, post
from litestar.background_tasks import BackgroundTask
from litestar.exceptions import HTTPException

from gateway.beckn.client import BecknClient
from gateway.beckn.dialect import DIALECTS, Generation, Languages, claimed_dialect
from gateway.beckn.intake import check_media, joined_headers, read_body
from gateway.beckn.resolver import RegistryClient
from gateway.beckn.signing import Signer, parse_authorization
from gateway.beckn.verify import (
    DEFAULT_LIMITS,
    VerifiedMessage,
    challenge_headers,
    claimed_message_id,
    verify_inbound,
)
from gateway.clock import Clock, rfc3339
from gateway.errors import BecknRefusal, GatewayError, InvalidRequest, PeerUnavailable, StoreError
from registry.bpp.catalogue import Catalogue
from registry.bpp.keys import load_or_create_signer
from registry.bpp.portfolio import load_portfolio
from registry.bpp.seller import Seller
from registry.bpp.sender import Sender
from registry.bpp.storage import Callback, Ledger
from registry.problem import gateway_error, http_error, problem, unforeseen

DEFAULT_DOMAIN = "demand-flexibility"
"""Beckn domain it registers in."""
RECORD_LIFE = timedelta(days=365)
WALL_TICK_S = 1.0
"""How often wall time is looked at where event time is not driven."""
REGISTER_PAUSES_S = (0.1, 0.2, 0.4, 0.8, 1.6, *([3.0] * 60))
"""Pauses between tries to register: some three minutes altogether."""
_log = logging.getLogger("bpp")


class NotAllowed(GatewayError):  # noqa: N818 - reads as what it is
    """The control token is missing or wrong."""

    code = "unauthorized"
    http_status = 401


class _ClockBody(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    event_time: Annotated[datetime, msgspec.Meta(tz=True)]


class BppSettings(msgspec.Struct, frozen=True, kw_only=True):
    """What one mock aggregator runs with."""

    subscriber_id: str
    public_url: str
    """Where others reach it; its Beckn endpoints are below ``{public_url}/beckn``."""
    registry_url: str
    portfolio: Path
    data_dir: Path
    control_token: str | None = None
    """Bearer token of /control; None closes it."""
    seed: int = 0
    domain: str = DEFAULT_DOMAIN
    generation: Generation = Generation.V2
    """Generation of Beckn it takes requests in; its registry record says so."""

    @property
    def uri(self) -> str:
        """Base of its Beckn endpoints."""
        return f"{self.public_url.rstrip('/')}/beckn"


class Aggregator:
    """One running aggregator: its parts, and what ties them to the loop.

    Raises:
        ConfigError: Portfolio or key cannot be used.
        StoreError: The data folder cannot be used.
    """

    def __init__(self, settings: BppSettings, *, clock: Clock) -> None:
        self.settings = settings
        self.clock = clock
        self.catalogue = Catalogue(load_portfolio(settings.portfolio))
        self.signer: Signer = load_or_create_signer(settings.data_dir, settings.subscriber_id)
        self.ledger = Ledger(settings.data_dir)
        self.seller = Seller(
            subscriber_id=settings.subscriber_id,
            uri=settings.uri,
            catalogue=self.catalogue,
            ledger=self.ledger,
            clock=clock,
            seed=settings.seed,
        )
        self.http = BecknClient(clock)
        self.registry = RegistryClient(settings.registry_url, self.http, clock, peer_types=("BAP",))
        self.languages = Languages.load([settings.generation])
        self.sender = Sender(self.http, self.signer, clock, done=self._delivered)
        self.registered = False

    @asynccontextmanager
    async def running(self, _app: Litestar) -> AsyncIterator[None]:
        """Send what is owed, register, follow the clock; undo it all at the end."""
        for callback in self.seller.owed:
            self.sender.enqueue(callback)
        tasks = [
            asyncio.create_task(self._register(), name="register"),
            asyncio.create_task(self._follow_wall_time(), name="follow wall time"),
        ]
        try:
            yield
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
            await self.sender.close()
            await self.http.close()
            await self.ledger.close()

    async def receive(self, action: str, request: Request[Any, Any, Any]) -> Response[bytes]:
        """Take one Beckn request: Ack with its callbacks to follow, or Nack."""
        headers = joined_headers(request.headers.multi_items())
        body = b""
        try:
            check_media(headers)
            body = await read_body(
                request.stream(),
                declared=headers.get("content-length"),
                limit=DEFAULT_LIMITS.max_bytes(action),
            )
            if self.languages.verb(action) not in self.seller.verbs:
                raise _not_supported(action)
            message = await verify_inbound(
                action=action,
                body=body,
                headers=headers,
                resolver=self.registry,
                schemas=self.languages,
                own_id=self.settings.subscriber_id,
                role="bpp",
                now=self.clock(),
            )
            callbacks = await self.seller.take(message)
        except BecknRefusal as refusal:
            return self._nack(action, refusal, headers, body)
        except StoreError as error:
            fault = BecknRefusal("NET_INTERNAL_ERROR", error.detail, http_status=500)
            return self._nack(action, fault, headers, body)
        return self._ack(message, callbacks)

    def send(self, callbacks: tuple[Callback, ...]) -> None:
        """Hand callbacks to the sender."""
        for callback in callbacks:
            self.sender.enqueue(callback)

    def _ack(self, message: VerifiedMessage, callbacks: tuple[Callback, ...]) -> Response[bytes]:
        body = message.dialect.ack_body(message.context.message_id)
        headers = {}
        if message.dialect.signs_answers:
            headers["Signature"] = self.signer.authorization(
                body, now=self.clock(), request_signature=message.signature
            )
        _log.info(
            "taken action=%s from=%s transaction_id=%s message_id=%s bytes=%d repeated=%s",
            message.action,
            message.sender.subscriber_id,
            message.context.transaction_id,
            message.context.message_id,
            len(message.body),
            not callbacks,
        )
        # Callbacks leave once the Ack has been written out.
        return Response(
            body,
            status_code=200,
            media_type="application/json",
            headers=headers,
            background=_Send(self, callbacks),
        )

    def _nack(
        self, action: str, refusal: BecknRefusal, headers: dict[str, str], refused: bytes
    ) -> Response[bytes]:
        message_id = claimed_message_id(refused)
        dialect = claimed_dialect(refused, default=self.languages.default)
        body = dialect.nack_body(
            message_id,
            code=refusal.code,
            detail=refusal.detail,
            path=refusal.path,
            cause=refusal.facts.get("rule"),
        )
        answered = challenge_headers(refusal, self.settings.subscriber_id)
        if dialect.signs_answers:
            answered["Signature"] = self.signer.authorization(
                body, now=self.clock(), request_signature=_request_signature(headers)
            )
        _log.info("refused action=%.40s message_id=%s code=%s", action, message_id, refusal.code)
        return Response(
            body,
            status_code=refusal.http_status,
            media_type="application/json",
            headers=answered,
        )

    def _delivered(self, callback: Callback) -> None:
        self.ledger.strike_off(callback.number)

    async def _register(self) -> None:
        """Publish our key and address at the registry, which may start after us."""
        now = self.clock()
        for pause_s in REGISTER_PAUSES_S:
            try:
                status = await self.registry.subscribe(
                    self.signer,
                    url=self.settings.uri,
                    type="BPP",
                    domain=self.settings.domain,
                    valid_from=now,
                    valid_until=now + RECORD_LIFE,
                    serves=self.catalogue.feeder_ids,
                    version=DIALECTS[self.settings.generation].versions[0],
                )
            except PeerUnavailable as exc:
                if not exc.facts.get("retryable"):
                    _log.error("registration_refused %s", exc.detail)
                    return
                await asyncio.sleep(pause_s)
            else:
                self.registered = True
                _log.info("registered status=%s key_id=%s", status, self.signer.key_id)
                return
        _log.error("registration_given_up registry=%s", self.settings.registry_url)

    async def _follow_wall_time(self) -> None:
        """Tell buyers of starts and ends while nobody drives event time."""
        while True:
            await asyncio.sleep(WALL_TICK_S)
            self.send(await self.seller.follow_wall_time())


def create_bpp(settings: BppSettings, *, clock: Clock) -> Litestar:
    """Build one mock aggregator.

    Raises:
        ConfigError: Portfolio or key cannot be used.
        StoreError: The data folder cannot be used.
    """
    aggregator = Aggregator(settings, clock=clock)
    seller = aggregator.seller

    @post("/beckn/{action:str}", status_code=200, request_max_body_size=None)
    async def beckn(action: str, request: Request[Any, Any, Any]) -> Response[bytes]:
        """Take a Beckn request."""
        return await aggregator.receive(action, request)

    @post("/control/clock", status_code=200)
    async def set_clock(request: Request[Any, Any, Any]) -> Response[bytes]:
        """Set event time; answer the relief delivered since the time set before."""
        _check_token(request, settings.control_token)
        at = _read_event_time(await request.body())
        relief, callbacks = await seller.set_event_time(at)
        aggregator.send(callbacks)
        document = {"event_time": rfc3339(at), "relief": relief, "callbacks": len(callbacks)}
        return Response(msgspec.json.encode(document), media_type="application/json")

    @get("/control/state")
    async def show_state(request: Request[Any, Any, Any]) -> Response[bytes]:
        """Show contracts and DERs."""
        _check_token(request, settings.control_token)
        document = {**seller.state(), "callbacks_waiting": aggregator.sender.waiting}
        return Response(msgspec.json.encode(document), media_type="application/json")

    @get("/control/waiting")
    async def show_waiting(request: Request[Any, Any, Any]) -> Response[bytes]:
        """Count the callbacks that have not been delivered yet."""
        _check_token(request, settings.control_token)
        document = {"callbacks_waiting": aggregator.sender.waiting}
        return Response(msgspec.json.encode(document), media_type="application/json")

    @get("/health/ready")
    async def ready() -> Response[bytes]:
        """Say whether requests can be taken; whether the registry knows us stands beside it."""
        if seller.broken is not None:
            return problem(503, "not_ready", f"memory failed: {seller.broken}")
        document = {"status": "ready", "registered": aggregator.registered}
        return Response(msgspec.json.encode(document), media_type="application/json")

    return Litestar(
        [beckn, set_clock, show_state, show_waiting, ready],
        lifespan=[aggregator.running],
        openapi_config=None,
        logging_config=None,
        request_max_body_size=DEFAULT_LIMITS.max_body_bytes,
        exception_handlers={
            GatewayError: gateway_error,
            HTTPException: http_error,
            Exception: unforeseen,
        },
    )


class _Send(BackgroundTask):
    """Hands callbacks over after the response."""

    def __init__(self, aggregator: Aggregator, callbacks: tuple[Callback, ...]) -> None:
        super().__init__(self._run)
        self._aggregator = aggregator
        self._callbacks = callbacks

    async def _run(self) -> None:
        self._aggregator.send(self._callbacks)


def _not_supported(action: str) -> BecknRefusal:
    return BecknRefusal("NET_NOT_IMPLEMENTED", f"{action} is not supported by this BPP")


def _read_event_time(body: bytes) -> datetime:
    try:
        return msgspec.json.decode(body, type=_ClockBody).event_time.astimezone(UTC)
    except (msgspec.DecodeError, UnicodeDecodeError, OverflowError) as exc:
        raise InvalidRequest(f"event_time must be an RFC 3339 instant: {exc}", field="event_time") from exc


def _check_token(request: Request[Any, Any, Any], token: str | None) -> None:
    """Refuse who may not drive the clock.

    Raises:
        NotAllowed: No token is set here, or another one was sent.
    """
    sent = request.headers.get("authorization", "")
    if not token or not hmac.compare_digest(sent.encode(), f"Bearer {token}".encode()):
        raise NotAllowed("the control endpoint needs its bearer token")


def _request_signature(headers: dict[str, str]) -> str | None:
    """Bare signature of a request, for the Nack's chain; None where it has none that can be read."""
    try:
        return parse_authorization(headers.get("authorization", "")).signature
    except BecknRefusal:
        return None
