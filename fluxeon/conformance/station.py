"""The suite's own side: identities with keys, an endpoint that hears everything, a registry.

Every identity is made anew for each run and filed at the registry that the target asks. Whatever reaches
the endpoint is verified as strictly as our own gateway does it, kept, and acknowledged.
"""

import asyncio
import contextlib
import tempfile
import time
from collections import defaultdict
from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from datetime import timedelta
from pathlib import Path
from types import TracebackType
from typing import Any, Self
from urllib.parse import urlsplit
from uuid import uuid4

import msgspec
import uvicorn
from aiohttp import web

from fluxeon.conformance.draft import Identity
from fluxeon.conformance.speech import Speech
from fluxeon.conformance.transport import Transport
from fluxeon.errors import CommandFailed
from gateway.beckn.client import BecknClient
from gateway.beckn.resolver import Participant, RegistryClient
from gateway.beckn.signing import Signer, bare_signature, generate_private_key, parse_authorization
from gateway.beckn.verify import Role, VerifiedMessage, verify_inbound
from gateway.clock import Clock
from gateway.errors import BecknRefusal, PeerUnavailable
from registry.app import create_registry

LIFE = timedelta(days=1)
BRIEF_S = 3.0
"""Validity of the key that is to expire while the suite runs."""
REGISTRY_START_S = 10.0


class Arrival(msgspec.Struct, frozen=True, kw_only=True):
    """One message of the target, as it came."""

    action: str
    identity: str
    """Which of our identities it was sent to."""
    body: bytes
    headers: dict[str, str]
    document: dict[str, Any]
    """Empty where the body is not a JSON object."""
    verified: VerifiedMessage | None
    refusal: str | None
    """Why it does not verify."""
    at: float
    """Monotonic seconds."""

    @property
    def message(self) -> Any:
        """Its ``message`` member."""
        return self.document.get("message")

    def context(self, wire_name: str) -> Any:
        """Read a member of its context by its wire name."""
        context = self.document.get("context")
        return context.get(wire_name) if isinstance(context, dict) else None


class Station:
    """Endpoint, identities and registry of one run. An async context manager.

    Args:
        role: The role the suite plays: the other one than the target's.
        speech: Generation spoken.
        clock: Wall time.
        listen: Host and port of the endpoint; port 0 picks a free one.
        public_url: Base URL under which the target reaches it; default from ``listen``.
        registries: Registries to file our keys at; the first is asked for the target's.
        own_registry: Host and port to run a registry on.
        domain: Beckn domain.
    """

    def __init__(
        self,
        *,
        role: Role,
        speech: Speech,
        clock: Clock,
        listen: tuple[str, int] = ("127.0.0.1", 0),
        public_url: str | None = None,
        registries: Sequence[str] = (),
        own_registry: tuple[str, int] | None = None,
        domain: str = "demand-flexibility",
    ) -> None:
        self.role: Role = role
        self.speech = speech
        self.clock = clock
        self.domain = domain
        self.transport = Transport()
        self.languages = speech.languages()
        self.arrivals: list[Arrival] = []
        self.busy: defaultdict[str, int] = defaultdict(int)
        """Action -> how many of its next messages are answered 503."""
        self.hearers: list[Callable[[Arrival], Awaitable[None]]] = []
        """Told each arrival that verified, once it has been acknowledged."""
        self._listen = listen
        self._public_url = public_url
        self._registry_urls = list(registries)
        self._own_registry = own_registry
        self._http = BecknClient(clock)
        self._sent: defaultdict[str, list[tuple[str, str]]] = defaultdict(list)
        self._news = asyncio.Condition()
        self._stack = contextlib.AsyncExitStack()
        self._tasks: set[asyncio.Task[None]] = set()
        self._identities: dict[str, Identity] = {}
        self.brief_until = 0.0

    async def __aenter__(self) -> Self:
        await self._stack.__aenter__()
        try:
            await self._open()
        except BaseException:
            await self._stack.aclose()
            raise
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for task in tuple(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await self._stack.aclose()

    # --- who we are --------------------------------------------------------------------------

    @property
    def me(self) -> Identity:
        """The counterparty."""
        return self._identities["me"]

    @property
    def other(self) -> Identity:
        """Another registered participant of the same kind."""
        return self._identities["other"]

    @property
    def miscast(self) -> Identity:
        """A participant registered in the target's own role."""
        return self._identities["miscast"]

    @property
    def brief(self) -> Identity:
        """A participant whose key is valid for some seconds only."""
        return self._identities["brief"]

    @property
    def stranger(self) -> Identity:
        """Somebody no registry knows."""
        return self._identities["stranger"]

    @property
    def thief(self) -> Identity:
        """Somebody who signs under our key id with a key of their own."""
        return self._identities["thief"]

    @property
    def registry(self) -> RegistryClient:
        """The registry that is asked for the target's key."""
        return self._registries[0]

    def remember(self, message_id: str, header: str) -> None:
        """Note a request of ours, so that callbacks that chain to it can be verified."""
        self._sent[message_id].append((bare_signature(header), header))

    # --- what comes --------------------------------------------------------------------------

    async def wait(
        self, wanted: Callable[[Arrival], bool], within_s: float, *, since: int = 0
    ) -> Arrival | None:
        """Wait for a message; None where none came in time.

        Args:
            wanted: Says whether it is the one.
            within_s: Longest wait.
            since: Pass over so many arrivals.
        """

        def find() -> Arrival | None:
            return next((each for each in self.arrivals[since:] if wanted(each)), None)

        deadline = time.monotonic() + within_s
        async with self._news:
            while (found := find()) is None:
                left = deadline - time.monotonic()
                if left <= 0:
                    return None
                with contextlib.suppress(TimeoutError):
                    await asyncio.wait_for(self._news.wait(), left)
            return found

    async def _receive(self, request: web.Request) -> web.Response:
        name, action = request.match_info["identity"], request.match_info["action"]
        body = await request.read()
        headers = {key.lower(): ", ".join(request.headers.getall(key)) for key in request.headers}
        verified, refusal = None, None
        identity = self._identities.get(name)
        if identity is None:
            return web.Response(status=404)
        try:
            verified = await self._verify(identity, action, body, headers)
        except (BecknRefusal, PeerUnavailable) as exc:
            refusal = f"{exc.code}: {exc.detail}"
        arrival = Arrival(
            action=action,
            identity=name,
            body=body,
            headers=headers,
            document=_document(body),
            verified=verified,
            refusal=refusal,
            at=time.monotonic(),
        )
        async with self._news:
            self.arrivals.append(arrival)
            self._news.notify_all()
        if self.busy[action] > 0:
            self.busy[action] -= 1
            return web.Response(status=503, headers={"Retry-After": "0"})
        if verified is not None:
            for hearer in self.hearers:
                self._spawn(hearer(arrival))
        return self._acknowledge(identity, arrival)

    async def _verify(
        self, identity: Identity, action: str, body: bytes, headers: Mapping[str, str]
    ) -> VerifiedMessage:
        return await verify_inbound(
            action=action,
            body=body,
            headers=headers,
            resolver=self.registry,
            schemas=self.languages,
            own_id=identity.id,
            role=self.role,
            now=self.clock(),
            sent_signatures=lambda message_id: self._sent.get(message_id, ()),
        )

    def _acknowledge(self, identity: Identity, arrival: Arrival) -> web.Response:
        message_id = arrival.context(self.speech.member("message_id"))
        body = self.speech.dialect.ack_body(message_id if isinstance(message_id, str) else "")
        try:
            chain = parse_authorization(arrival.headers.get("authorization", "")).signature
        except BecknRefusal:
            chain = None
        if not self.speech.dialect.signs_answers:
            return web.Response(body=body, content_type="application/json")
        signature = identity.signer.authorization(body, now=self.clock(), request_signature=chain)
        return web.Response(body=body, content_type="application/json", headers={"Signature": signature})

    def _spawn(self, work: Awaitable[None]) -> None:
        async def run() -> None:
            await work

        task = asyncio.get_running_loop().create_task(run())
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    # --- setting up --------------------------------------------------------------------------

    async def _open(self) -> None:
        self._stack.push_async_callback(self._http.close)
        self._stack.push_async_callback(self.transport.close)
        if self._own_registry is not None:
            self._registry_urls.insert(0, await self._run_registry(*self._own_registry))
        if not self._registry_urls:
            raise CommandFailed("name a registry that the target asks: --registry URL, or --serve-registry")
        types = ("BPP",) if self.role == "bap" else ("BAP",)
        self._registries = [
            RegistryClient(url, self._http, self.clock, peer_types=types) for url in self._registry_urls
        ]
        base = await self._run_endpoint()
        self._make_identities(base)
        await self._file_identities()

    async def _run_registry(self, host: str, port: int) -> str:
        folder = self._stack.enter_context(tempfile.TemporaryDirectory(prefix="fluxeon-conformance-"))
        app = create_registry(Path(folder), clock=self.clock)
        server = _Server(
            uvicorn.Config(
                app, host=host, port=port, log_config=None, access_log=False, lifespan="on", ws="none"
            )
        )
        serving = asyncio.create_task(server.serve())

        async def stop() -> None:
            server.should_exit = True
            await asyncio.gather(serving, return_exceptions=True)

        self._stack.push_async_callback(stop)
        deadline = time.monotonic() + REGISTRY_START_S
        while not server.started:
            if serving.done() or time.monotonic() > deadline:
                raise CommandFailed(f"the suite's registry cannot listen on {host}:{port}")
            await asyncio.sleep(0.02)
        return f"http://{host}:{port}"

    async def _run_endpoint(self) -> str:
        app = web.Application(client_max_size=16 * 1024 * 1024)
        app.router.add_post("/{identity}/{action}", self._receive)
        runner = web.AppRunner(app, access_log=None)
        await runner.setup()
        self._stack.push_async_callback(runner.cleanup)
        host, port = self._listen
        site = web.TCPSite(runner, host, port)
        try:
            await site.start()
        except OSError as exc:
            raise CommandFailed(f"--listen {host}:{port}: {exc.strerror}") from exc
        bound = runner.addresses[0][1]
        return (self._public_url or f"http://{host}:{bound}").rstrip("/")

    def _make_identities(self, base: str) -> None:
        run = uuid4().hex[:8]

        def identity(name: str, *, as_: Identity | None = None) -> Identity:
            subscriber_id = as_.id if as_ else f"{self.role}-{name}-{run}.conformance.example"
            signer = Signer.from_private(generate_private_key(), subscriber_id, "k1")
            return Identity(signer=signer, uri=f"{base}/{name}")

        for name in ("me", "other", "miscast", "brief", "stranger"):
            self._identities[name] = identity(name)
        self._identities["thief"] = identity("thief", as_=self.me)

    async def _file_identities(self) -> None:
        own = self.role.upper()
        types = {"me": own, "other": own, "brief": own, "miscast": "BAP" if own == "BPP" else "BPP"}
        now = self.clock()
        for name, type_ in types.items():
            life = timedelta(seconds=BRIEF_S) if name == "brief" else LIFE
            for registry in self._registries:
                try:
                    await registry.subscribe(
                        self._identities[name].signer,
                        url=self._identities[name].uri,
                        type=type_,
                        domain=self.domain if name == "me" else f"{self.domain}:conformance",
                        valid_from=now,
                        valid_until=now + life,
                        version=self.speech.version,
                    )
                except PeerUnavailable as exc:
                    raise CommandFailed(f"cannot register at the registry: {exc.detail}") from exc
        self.brief_until = time.monotonic() + BRIEF_S

    async def find_target(self, uri: str, target_id: str | None, type_: str, within_s: float) -> Participant:
        """Find the target in the registry, by its id or its address.

        Raises:
            CommandFailed: It is not there, or not alone.
        """
        deadline = time.monotonic() + within_s
        while True:
            found = [
                each
                for each in await self._participants(type_)
                if (each.subscriber_id == target_id if target_id else _same_address(each.url, uri))
            ]
            if len(found) == 1:
                return found[0]
            if len(found) > 1:
                names = ", ".join(each.subscriber_id for each in found)
                raise CommandFailed(f"several participants are registered at {uri}: {names}; use --target-id")
            if time.monotonic() > deadline:
                who = target_id or f"a {type_} at {uri}"
                raise CommandFailed(f"{who} is not in the registry; register it, or name it by --target-id")
            await asyncio.sleep(0.2)

    async def _participants(self, type_: str) -> tuple[Participant, ...]:
        try:
            return await self.registry.participants(type_)
        except PeerUnavailable as exc:
            raise CommandFailed(f"the registry does not answer: {exc.detail}") from exc


class _Server(uvicorn.Server):
    """A server inside somebody else's loop: signals are none of its business."""

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield


def _document(body: bytes) -> dict[str, Any]:
    try:
        document = msgspec.json.decode(body)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return {}
    return document if isinstance(document, dict) else {}


def _same_address(one: str, other: str) -> bool:
    return urlsplit(one.rstrip("/"))[:3] == urlsplit(other.rstrip("/"))[:3]
