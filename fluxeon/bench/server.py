"""The server part of ``protocol``: signed callbacks posted to the real gateway over loopback.

Three servers, each a process of its own with the gateway's uvicorn settings, take turns:

* ``echo``: a bare Litestar handler, a typed struct in, a typed struct out: the reference;
* ``checked``: verify, decode, check the schema, answer with a signed Ack; nothing is stored;
* ``gateway``: the whole gateway with one confirmed order; every callback is a status report of its
  own, correlated, journalled and durable before the Ack.

The client is one asyncio process with keep-alive connections and no more than a parser; requests are
bounded in number. CPU time is the server process's own, all threads.
"""

import asyncio
import statistics
import time
from collections.abc import Iterator, Mapping, Sequence
from datetime import datetime
from pathlib import Path
from typing import NamedTuple, cast

import httptools
import uvloop

from fluxeon.bench import samples
from fluxeon.bench.measure import Ratio, Row, Spread, Table, ratio
from fluxeon.bench.messages import wire
from fluxeon.bench.peers import Peer, started
from fluxeon.errors import CommandFailed
from gateway.beckn import v2
from gateway.beckn.signing import Signer, generate_private_key
from gateway.clock import utc_now
from gateway.types import ContractStatus

CONNECTIONS = 16
ACTION = "on_status"
KINDS = ("echo", "checked", "gateway")
ANSWER_WITHIN_S = 30.0


class ServerFound(NamedTuple):
    """What the server part adds to the outcome."""

    tables: tuple[Table, ...]
    ratios: tuple[Ratio, ...]


class Load(NamedTuple):
    """What one burst of requests took."""

    per_second: float
    p50_us: float
    cpu_us: float


def measure_server(*, rounds: int, requests: int) -> ServerFound:
    """Measure the three servers in turns.

    Args:
        rounds: Interleaved rounds; one more is run first and not counted.
        requests: Requests per server, round and level of concurrency.

    Raises:
        CommandFailed: A server did not start, or refused a request.
    """
    now = utc_now()
    seller = Signer.from_private(generate_private_key(), samples.SELLER_ID, "k1")
    with started(KINDS, {"now": now.isoformat(), "seller_key": seller.public_key}) as peers:
        supply = {
            kind: _requests(peer, kind, seller, now, fresh=kind == "gateway") for kind, peer in peers.items()
        }
        return uvloop.run(_measure(peers, supply, rounds, requests))


async def _measure(
    peers: Mapping[str, Peer], supply: Mapping[str, Iterator[bytes]], rounds: int, requests: int
) -> ServerFound:
    alone: dict[str, list[Load]] = {kind: [] for kind in peers}
    together: dict[str, list[Load]] = {kind: [] for kind in peers}
    for number in range(rounds + 1):
        for kind, peer in peers.items():
            # Signed ahead: the client's own work must not be measured.
            singles = [next(supply[kind]) for _ in range(requests // 2)]
            many = [next(supply[kind]) for _ in range(requests)]
            one = await burst(peer, singles, connections=1)
            sixteen = await burst(peer, many, connections=CONNECTIONS)
            if number:
                alone[kind].append(one)
                together[kind].append(sixteen)
    size = len(next(supply["echo"]))
    rows = tuple(
        Row(
            label=label,
            cells=(
                Spread.of([load.per_second for load in together[kind]]),
                Spread.of([load.cpu_us for load in together[kind]]),
                Spread.of([load.p50_us for load in alone[kind]]),
            ),
        )
        for kind, label in (
            ("echo", "bare Litestar typed echo (reference)"),
            ("checked", "verify, decode, schema, signed Ack"),
            ("gateway", "the gateway: also correlate, journal durably"),
        )
    )
    ratios = []
    for kind, label in (("checked", "without the journal"), ("gateway", "with the durable journal")):
        ratios += [
            ratio(
                f"full inbound {label} / echo, requests per second at {CONNECTIONS}",
                [load.per_second for load in together[kind]],
                [load.per_second for load in together["echo"]],
                at_least=0.70 if kind == "checked" else None,
            ),
            ratio(
                f"full inbound {label} / echo, CPU per request",
                [load.cpu_us for load in together[kind]],
                [load.cpu_us for load in together["echo"]],
            ),
        ]
    table = Table(
        title=f"Server: {ACTION} of {size} bytes with headers over loopback",
        columns=(f"requests/s at {CONNECTIONS}", "server CPU us/request", "p50 us, one at a time"),
        rows=rows,
        note="the client shares the machine; CPU time is the steadier figure",
    )
    return ServerFound((table,), tuple(ratios))


def _requests(peer: Peer, kind: str, seller: Signer, now: datetime, *, fresh: bool) -> Iterator[bytes]:
    """Write requests: the same again and again, or each a message of its own."""
    terms = samples.terms(start=now)
    message = v2.contract_message(terms, samples.view(terms, status=ContractStatus.ACTIVE, delivering=True))
    path = "/echo" if kind == "echo" else f"/beckn/{ACTION}"
    number = 0
    while True:
        number += 1
        body = wire(ACTION, message, samples.uuid_text(1000 + number), utc_now())
        request = (
            f"POST {path} HTTP/1.1\r\nHost: 127.0.0.1:{peer.port}\r\nContent-Type: application/json\r\n"
            f"Authorization: {seller.authorization(body, now=utc_now())}\r\n"
            f"Content-Length: {len(body)}\r\n\r\n"
        ).encode() + body
        yield request
        while not fresh:
            yield request


async def burst(peer: Peer, requests: Sequence[bytes], *, connections: int) -> Load:
    """Send requests over some connections, each with one request under way.

    Raises:
        CommandFailed: An answer was not 200, or did not come.
    """
    loop = asyncio.get_running_loop()
    lines = [(await loop.create_connection(_Line, "127.0.0.1", peer.port))[1] for _ in range(connections)]
    left = iter(requests)
    took: list[float] = []

    async def drive(line: "_Line") -> None:
        for request in left:
            begin = time.perf_counter_ns()
            await asyncio.wait_for(line.ask(request), ANSWER_WITHIN_S)
            took.append((time.perf_counter_ns() - begin) / 1000)

    cpu_before = cpu_ns(peer.pid)
    begin = time.perf_counter_ns()
    try:
        await asyncio.gather(*map(drive, lines))
    finally:
        for line in lines:
            line.close()
    elapsed_s = (time.perf_counter_ns() - begin) / 1e9
    cpu_us = (cpu_ns(peer.pid) - cpu_before) / 1000 / len(requests)
    return Load(len(requests) / elapsed_s, statistics.median(took), cpu_us)


def cpu_ns(pid: int) -> int:
    """CPU time a process has used so far, all its threads (Linux)."""
    return sum(
        int(path.read_text(encoding="ascii").split()[0])
        for path in Path(f"/proc/{pid}/task").glob("*/schedstat")
    )


class _Line(asyncio.Protocol):
    """One keep-alive connection with at most one request under way."""

    def __init__(self) -> None:
        self._transport: asyncio.Transport | None = None
        self._answered: asyncio.Future[None] | None = None
        self._parser = httptools.HttpResponseParser(self)
        self._body = b""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)  # uvloop's is not derived from it

    def data_received(self, data: bytes) -> None:
        self._parser.feed_data(data)

    def connection_lost(self, exc: Exception | None) -> None:
        if self._answered is not None and not self._answered.done():
            self._answered.set_exception(CommandFailed(f"a server closed the connection: {exc}"))

    def ask(self, request: bytes) -> asyncio.Future[None]:
        """Send a request; the future is done when its answer has come."""
        if self._transport is None:
            raise CommandFailed("there is no connection")
        self._body = b""
        self._parser = httptools.HttpResponseParser(self)
        self._answered = asyncio.get_running_loop().create_future()
        self._transport.write(request)
        return self._answered

    def close(self) -> None:
        """Hang up."""
        if self._transport is not None:
            self._transport.close()

    # Called by the parser.

    def on_body(self, body: bytes) -> None:
        """Keep what a refusal says."""
        self._body += body

    def on_message_complete(self) -> None:
        """Answer the one who waits."""
        if self._answered is None or self._answered.done():
            return
        status = self._parser.get_status_code()
        if status == 200:
            self._answered.set_result(None)
        else:
            shown = self._body[:300].decode(errors="replace")
            self._answered.set_exception(CommandFailed(f"a server answered {status}: {shown}"))
