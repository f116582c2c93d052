"""``python -m fluxeon.bench.serve KIND FACTS``: one server of the benchmarks, until it is told to end.

Prints its port when it listens. All kinds run on the gateway's own uvicorn settings.
"""

import dataclasses
import json
import logging
import socket
import sys
from collections.abc import Awaitable, Callable, Mapping
from datetime import datetime, timedelta
from typing import Any

import aiohttp
import msgspec
import uvicorn
from litestar import Litestar, Request, Response, post

from fluxeon.bench import samples
from gateway.app import create_app
from gateway.beckn.envelope import ack_body
from gateway.beckn.guard import GuardedProtocol
from gateway.beckn.intake import check_media, joined_headers, read_body
from gateway.beckn.resolver import SUBSCRIBED, Participant, StaticKeys
from gateway.beckn.schema import MessageSchemas
from gateway.beckn.signing import Signer, generate_private_key
from gateway.beckn.verify import DEFAULT_LIMITS, verify_inbound
from gateway.clock import utc_now
from gateway.config import Settings
from gateway.orders.order import CallbackReceived, Order
from gateway.runtime import Runtime
from gateway.store.tables import flex_event
from gateway.trading.desk import load_order
from gateway.trading.work import Work
from gateway.types import ContractStatus

SWITCH_INTERVAL_S = 0.0005
"""As the gateway sets it."""

Started = Callable[[], Awaitable[None]]


class EchoIn(msgspec.Struct):
    """A message as a typed handler takes it."""

    context: dict[str, Any]
    message: dict[str, Any]


class EchoOut(msgspec.Struct):
    """An answer of an Ack's size."""

    message: dict[str, str]


def echo_app() -> Litestar:
    """A bare Litestar app: typed struct in, typed struct out."""

    @post("/echo", status_code=200)
    async def echo(data: EchoIn) -> EchoOut:
        return EchoOut(message={"status": "ACK", "messageId": data.context["messageId"]})

    return Litestar([echo], logging_config=None, openapi_config=None)


def checked_app(seller: Participant) -> Litestar:
    """A Litestar app that checks a callback and acknowledges it; nothing is stored."""
    keys = StaticKeys((seller,), utc_now)
    schemas = MessageSchemas.load()
    signer = Signer.from_private(generate_private_key(), samples.BUYER_ID, "k1")

    @post("/beckn/{action:str}", status_code=200, request_max_body_size=None)
    async def receive(action: str, request: Request[Any, Any, Any]) -> Response[bytes]:
        headers = joined_headers(request.headers.multi_items())
        check_media(headers)
        body = await read_body(
            request.stream(), declared=headers.get("content-length"), limit=DEFAULT_LIMITS.max_bytes(action)
        )
        message = await verify_inbound(
            action=action,
            body=body,
            headers=headers,
            resolver=keys,
            schemas=schemas,
            own_id=samples.BUYER_ID,
            role="bap",
            now=utc_now(),
        )
        answer = ack_body(message.context.message_id)
        signature = signer.authorization(answer, now=utc_now(), request_signature=message.signature)
        return Response(answer, media_type="application/json", headers={"Signature": signature})

    return Litestar([receive], logging_config=None, openapi_config=None)


def gateway_app(facts: Mapping[str, str], seller: Participant) -> tuple[Litestar, Started]:
    """The gateway itself; once it runs, the seller's key is pinned and an order of it is confirmed."""
    app = create_app(
        Settings(data_dir=facts["folder"], subscriber_id=samples.BUYER_ID, admin_token="x" * 32),
        public_url="http://127.0.0.1",
    )

    async def prepare() -> None:
        runtime: Runtime = app.state.runtime
        app.state.runtime = dataclasses.replace(runtime, resolver=StaticKeys((seller,), utc_now))
        begin = datetime.fromisoformat(facts["now"])
        await runtime.ledger.commit(lambda work: confirm_order(work, runtime, begin))

    return app, prepare


def confirm_order(work: Work, runtime: Runtime, begin: datetime) -> None:
    """Take an order through to CONFIRMED by the gateway's own moves; nothing leaves."""
    agreed = samples.terms(start=begin)
    order = Order(
        order_id=samples.uuid_text(3),
        obp_id=agreed.obp_id,
        need_id=agreed.event_id,
        state_change_id=samples.uuid_text(4),
        feeder_id=agreed.feeder_id,
        bpp_id=samples.SELLER_ID,
        bpp_uri=samples.SELLER_URI,
        transaction_id=samples.TRANSACTION_ID,
        terms=agreed,
        detected_at=work.now,
        # The window ends only long after the benchmark, by any clock.
        decided_event_at=begin - timedelta(days=1),
    )
    work.connection.execute(
        flex_event.insert().values(
            need_id=order.need_id,
            feeder_id=order.feeder_id,
            state_change_id=order.state_change_id,
            status="PLANNED",
            decided_at=work.now,
            event_at=order.decided_event_at,
            body="{}",
        )
    )
    desk = runtime.floor.desk
    desk.open(work, order)
    for action, status in (
        ("on_select", ContractStatus.DRAFT),
        ("on_init", ContractStatus.DRAFT),
        ("on_confirm", ContractStatus.ACTIVE),
    ):
        known = load_order(work.connection, order.order_id)
        view = samples.view(
            agreed, contract_id=None if action == "on_select" else samples.CONTRACT_ID, status=status
        )
        event = CallbackReceived(at=work.now, action=action, message_id=known.awaiting or "", view=view)
        desk.apply(work, known, event)


class CallbackPeer:
    """A trivial peer: answers at once, then posts the body back to where the query says."""

    def __init__(self) -> None:
        self._http: aiohttp.ClientSession | None = None

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        """Serve one request (ASGI)."""
        if scope["type"] != "http":
            return
        body, more = b"", True
        while more:
            event = await receive()
            body += event.get("body", b"")
            more = event.get("more_body", False)
        await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"2")]})
        await send({"type": "http.response.body", "body": b"{}"})
        if self._http is None:
            self._http = aiohttp.ClientSession()
        async with self._http.post(scope["query_string"].decode(), data=body) as answer:
            await answer.read()


class _Server(uvicorn.Server):
    """Prepares once it has started, then prints its port."""

    def __init__(self, config: uvicorn.Config, prepare: Started | None) -> None:
        super().__init__(config)
        self._prepare = prepare

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Start, prepare, announce."""
        await super().startup(sockets=sockets)
        if not self.started or not sockets:
            return
        if self._prepare is not None:
            await self._prepare()
        sys.stdout.write(f"{sockets[0].getsockname()[1]}\n")
        sys.stdout.flush()


def main() -> None:
    """Serve what the command line says."""
    kind, told = sys.argv[1:]
    facts: dict[str, str] = json.loads(told)
    logging.basicConfig(level=logging.WARNING, stream=sys.stderr)
    sys.setswitchinterval(SWITCH_INTERVAL_S)
    prepare: Started | None = None
    app: Any
    if kind == "callback":
        app = CallbackPeer()
    elif kind == "echo":
        app = echo_app()
    else:
        seller = Participant(
            subscriber_id=samples.SELLER_ID,
            key_id="k1",
            url=samples.SELLER_URI,
            type="BPP",
            signing_public_key=facts["seller_key"],
            status=SUBSCRIBED,
        )
        if kind == "checked":
            app = checked_app(seller)
        else:
            app, prepare = gateway_app(facts, seller)
    listener = socket.socket()
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    listener.bind(("127.0.0.1", 0))
    config = uvicorn.Config(
        app,
        loop="uvloop",
        http=GuardedProtocol,
        lifespan="off" if kind == "callback" else "on",
        log_config=None,
        access_log=False,
        server_header=False,
        proxy_headers=False,
        timeout_graceful_shutdown=2,
    )
    _Server(config, prepare).run(sockets=[listener])


if __name__ == "__main__":
    main()
